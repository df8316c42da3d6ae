package consensus

import (
	"context"
	"time"

	"github.com/hashicorp/raft"

	"github.com/musterhq/muster/kv"
)

// Read returns a root to read from, fit for the wanted consistency. Errors: ErrNotLeader, ErrNoLeader, ErrClosed or
// the context's; Stale never fails.
func (n *Node) Read(ctx context.Context, c Consistency) (*kv.Snap, ReadMeta, error) {
	if c == Stale {
		id, _ := n.Leader()
		return n.tree.Snap(), ReadMeta{KnownLeader: id != "", LastContact: n.LastContact()}, nil
	}
	l, err := n.leading(ctx)
	if err != nil {
		return nil, ReadMeta{}, err
	}
	if m := n.members.Load(); len(m.others) == 0 && m.self {
		// No other server can be elected without our vote.
	} else if c == Default && n.acks.lease.Load()+int64(n.cfg.Timing.Lease) > mono() {
		// Nobody who answered within the lease votes for another before it has passed.
	} else if err := n.verify(ctx, l); err != nil {
		return nil, ReadMeta{}, err
	}
	return n.tree.Snap(), ReadMeta{KnownLeader: true}, nil
}

// leading returns the present leadership of this server once it is ready to serve reads.
func (n *Node) leading(ctx context.Context) (*leadership, error) {
	for {
		l := n.lead.Load()
		if l == nil {
			if !n.IsLeader() {
				return nil, n.notLeader()
			}
			// Elected a moment ago; followLeadership is on its way.
			changed := n.LeaderChanged()
			if n.lead.Load() == nil {
				select {
				case <-changed:
				case <-ctx.Done():
					return nil, ctx.Err()
				case <-n.closing:
					return nil, ErrClosed
				}
			}
			continue
		}
		select {
		case <-l.ready:
		default:
			select {
			case <-l.ready:
			case <-l.ctx.Done():
				return nil, n.notLeader()
			case <-ctx.Done():
				return nil, ctx.Err()
			case <-n.closing:
				return nil, ErrClosed
			}
		}
		if !n.stillLeads(l) {
			return nil, n.notLeader()
		}
		return l, nil
	}
}

// stillLeads says whether raft is leader in l's term. State is asked before the term: terms only grow, so a state
// of an earlier term cannot be taken for one of this.
func (n *Node) stillLeads(l *leadership) bool {
	return n.raft.State() == raft.Leader && n.raft.CurrentTerm() == l.term && !n.gaveUp()
}

// verifyWaiter is a Consistent read that waits for its round.
type verifyWaiter struct {
	l    *leadership
	done chan error
}

// verify returns nil when a quorum has confirmed, by an answer to a request sent after this call, that l leads.
func (n *Node) verify(ctx context.Context, l *leadership) error {
	w := &verifyWaiter{l: l, done: make(chan error, 1)}
	select {
	case n.reads <- w:
	case <-ctx.Done():
		return ctx.Err()
	case <-n.closing:
		return ErrClosed
	}
	select {
	case err := <-w.done:
		return err
	case <-ctx.Done():
		return ctx.Err()
	case <-n.closed:
		return ErrClosed
	}
}

// verifyReads serves rounds: all reads that wait when a round begins share it, and only those.
func (n *Node) verifyReads() {
	var batch []*verifyWaiter
	for {
		select {
		case w := <-n.reads:
			batch = append(batch[:0], w)
		case <-n.closed:
			return
		}
		for more := true; more; {
			select {
			case w := <-n.reads:
				batch = append(batch, w)
			default:
				more = false
			}
		}
		// Reads of an earlier leadership of this server can only fail, and the newest is last.
		l := batch[len(batch)-1].l
		err := n.round(l)
		for _, w := range batch {
			if w.l != l {
				w.done <- n.notLeader()
				continue
			}
			w.done <- err
		}
	}
}

// round asks the followers and waits until a quorum has answered requests sent from now on.
func (n *Node) round(l *leadership) error {
	from := mono()
	for {
		// raft's verification sends a heartbeat to everyone at once and returns when a quorum of answers came
		// in. Those may belong to earlier requests: then it is simply done again.
		err := n.raftCall(l.ctx, func() error { return n.raft.VerifyLeader().Error() })
		if err != nil || !n.stillLeads(l) {
			return n.notLeader()
		}
		if n.acks.quorumSince(l.term) > from {
			return nil
		}
		select {
		case <-l.ctx.Done():
			return n.notLeader()
		case <-n.closed:
			return ErrClosed
		case <-time.After(50 * time.Microsecond): // a lone, busy loop would starve the answers
		}
	}
}
