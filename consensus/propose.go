package consensus

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/hashicorp/raft"

	"github.com/musterhq/muster/kv"
)

// proposal is one Txn on its way through the log.
type proposal struct {
	future raft.ApplyFuture
	done   chan struct{} // closed when the fields below are set
	res    kv.Result
	err    error
}

// Propose replicates txn and returns what applying it gave; the result is on a quorum of disks and in the tree. It
// stamps Txn.Now from this server's clock, and refuses malformed Txns before they reach the log. A result with a
// Code other than OK is no error. Errors: ErrNotLeader and ErrNoLeader (nothing ran), ErrClosed (nothing ran),
// ErrDiskFull (nothing ran), ErrUnknownOutcome, what Txn.Check says, or the context's own when it ended before raft had the Txn (nothing ran).
func (n *Node) Propose(ctx context.Context, txn kv.Txn) (kv.Result, error) {
	if err := txn.Check(); err != nil {
		return kv.Result{}, err
	}
	if l := n.lead.Load(); l == nil || !l.isReady() {
		if err := n.admitted(ctx); err != nil {
			return kv.Result{}, err
		}
	}
	if n.full.Load() {
		return kv.Result{}, n.refuseFull()
	}
	res, err := n.propose(ctx, txn)
	if err != nil && errors.Is(err, ErrUnknownOutcome) {
		n.figures.failed.Add(1)
	}
	return res, err
}

// admitted waits until this server may take proposals: once it has made good the outage before its leadership, so
// that nothing written now has its deadline moved by it.
func (n *Node) admitted(ctx context.Context) error {
	for {
		changed := n.LeaderChanged()
		l := n.lead.Load()
		switch {
		case l != nil && l.isReady():
			return nil
		case !n.IsLeader():
			return n.notLeader()
		case l != nil:
			changed = l.ready
		}
		var lost <-chan struct{}
		if l != nil {
			lost = l.ctx.Done()
		}
		select {
		case <-changed:
		case <-lost:
			return n.notLeader()
		case <-ctx.Done():
			return ctx.Err()
		case <-n.closing:
			return ErrClosed
		}
	}
}

// propose is Propose without waiting for admission.
func (n *Node) propose(ctx context.Context, txn kv.Txn) (kv.Result, error) {
	if !n.IsLeader() {
		return kv.Result{}, n.notLeader()
	}
	// One clock for all replicas: a leader whose clock is behind that of its predecessor does not turn time back.
	txn.Now = max(time.Now().UnixNano(), n.tree.LastNow())
	data := txn.Marshal()
	if len(data) > largeEntry {
		if len(data) > maxEntry {
			return kv.Result{}, &kv.TxnError{Code: kv.BadTxn, Cond: -1, Op: -1, Text: fmt.Sprintf("%d bytes, a log entry holds at most %d", len(data), maxEntry)}
		}
		select {
		case n.large <- struct{}{}:
			defer func() { <-n.large }()
		case <-ctx.Done():
			return kv.Result{}, ctx.Err()
		case <-n.closing:
			return kv.Result{}, ErrClosed
		}
	}
	select {
	case n.slots <- struct{}{}:
	case <-ctx.Done():
		return kv.Result{}, ctx.Err()
	case <-n.closing:
		return kv.Result{}, ErrClosed
	}
	select {
	case <-n.closing: // drain may have counted the slots already
		<-n.slots
		return kv.Result{}, ErrClosed
	default:
	}
	var gaveUp <-chan struct{}
	if l := n.lead.Load(); l != nil {
		gaveUp = l.gaveUp
	} else if !n.IsLeader() {
		<-n.slots
		return kv.Result{}, n.notLeader()
	}
	p := &proposal{done: make(chan struct{})}
	p.future = n.raft.ApplyLog(raft.Log{Data: data}, 0)
	n.underway <- p // never blocks: there are as many places as slots
	select {
	case <-p.done:
		return p.res, p.err
	case <-ctx.Done():
		return kv.Result{}, fmt.Errorf("%w: %w", ErrUnknownOutcome, ctx.Err())
	case <-gaveUp: // raft answers when the disk does
		return kv.Result{}, fmt.Errorf("%w: the leader gave up, because its disk stalls", ErrUnknownOutcome)
	case <-n.closed:
		return kv.Result{}, fmt.Errorf("%w: %w", ErrUnknownOutcome, ErrClosed)
	}
}

// collect waits for proposals in the order in which raft has them, so that a caller can give up waiting without
// a goroutine for each.
func (n *Node) collect() {
	for {
		select {
		case p := <-n.underway:
			n.await(p)
		case <-n.closed:
			return
		}
	}
}

// await finishes p.
func (n *Node) await(p *proposal) {
	err := p.future.Error()
	if res, ok := p.future.Response().(*kv.Result); err == nil && ok {
		p.res = *res
	} else {
		p.err = n.proposalError(err)
	}
	<-n.slots
	close(p.done)
}

// proposalError translates raft's refusals. The ones that come before an entry is written mean that nothing ran.
func (n *Node) proposalError(err error) error {
	switch {
	case errors.Is(err, raft.ErrNotLeader), errors.Is(err, raft.ErrLeadershipTransferInProgress):
		return n.notLeader()
	case err == nil:
		err = errors.New("no result")
	}
	return fmt.Errorf("%w: %w", ErrUnknownOutcome, err)
}

// notLeader says who leads. While this server is about to hand over it may still be named as leader; then nobody is.
func (n *Node) notLeader() error {
	select {
	case <-n.closing:
		return ErrClosed
	default:
	}
	id, addr := n.Leader()
	if id == n.cfg.ID {
		id, addr = "", ""
	}
	return &NotLeaderError{LeaderID: id, LeaderAddr: addr}
}

// drain waits until no proposal is under way.
func (n *Node) drain(ctx context.Context) {
	for range cap(n.slots) {
		select {
		case n.slots <- struct{}{}:
		case <-ctx.Done():
			return
		}
	}
}
