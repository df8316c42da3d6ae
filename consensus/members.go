package consensus

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/hashicorp/raft"
)

// members is the raft configuration in a form that reads can use without asking raft.
type members struct {
	others []string // voters besides this server
	self   bool     // this server is a voter
}

// refreshMembers copies the newest configuration raft has.
func (n *Node) refreshMembers() {
	m := &members{}
	for _, s := range n.raft.GetConfiguration().Configuration().Servers {
		switch {
		case s.Suffrage != raft.Voter:
		case string(s.ID) == n.cfg.ID:
			m.self = true
		default:
			m.others = append(m.others, string(s.ID))
		}
	}
	n.members.Store(m)
}

func (n *Node) otherVoters() ([]string, bool) {
	m := n.members.Load()
	return m.others, m.self
}

func (n *Node) soleVoter() bool {
	m := n.members.Load()
	return m.self && len(m.others) == 0
}

// AddVoter makes a server a voter, or changes its address. A server that is far behind should be added by
// AddNonvoter first and promoted when Servers shows that it has caught up: until then a new voter only makes a
// quorum harder to reach.
func (n *Node) AddVoter(ctx context.Context, id, addr string) error {
	return n.reconfigure(ctx, id, func() raft.IndexFuture {
		return n.raft.AddVoter(raft.ServerID(id), raft.ServerAddress(addr), 0, 0)
	})
}

// AddNonvoter adds a server that receives the log and does not vote. A voter of that id stays one.
func (n *Node) AddNonvoter(ctx context.Context, id, addr string) error {
	return n.reconfigure(ctx, "", func() raft.IndexFuture {
		return n.raft.AddNonvoter(raft.ServerID(id), raft.ServerAddress(addr), 0, 0)
	})
}

// DemoteVoter takes a server's vote. Like RemoveServer it refuses to lose the quorum unless forced.
func (n *Node) DemoteVoter(ctx context.Context, id string, force bool) error {
	if err := n.MayRemove(id); err != nil && !force {
		return err
	}
	return n.reconfigure(ctx, "", func() raft.IndexFuture { return n.raft.DemoteVoter(raft.ServerID(id), 0, 0) })
}

// RemoveServer takes a server out of the cluster; an unknown id is no error. Unless forced it fails with ErrQuorum
// when those that remain, as far as they have answered lately, are too few to commit anything.
func (n *Node) RemoveServer(ctx context.Context, id string, force bool) error {
	if err := n.MayRemove(id); err != nil && !force {
		return err
	}
	return n.reconfigure(ctx, "", func() raft.IndexFuture { return n.raft.RemoveServer(raft.ServerID(id), 0, 0) })
}

// MayRemove says whether the cluster keeps a live quorum without the vote of id: nil, or ErrQuorum with the figures.
// Alive is who answers a request sent after the call began, so it waits for answers, for two heartbeat timeouts at most.
// Only the leader knows (ErrNotLeader elsewhere, unless id has no vote).
func (n *Node) MayRemove(id string) error {
	begin := time.Now()
	patience := 2 * n.cfg.Timing.Heartbeat
	asked := false
	for {
		others, err := n.mayLose(id, begin)
		if !errors.Is(err, ErrQuorum) || others == 0 || time.Since(begin) > patience {
			return err
		}
		if !asked {
			n.raft.VerifyLeader() // heartbeats go out at once; who answers is counted here
			asked = true
		}
		select {
		case <-time.After(5 * time.Millisecond):
		case <-n.closing:
			return ErrClosed
		}
	}
}

// mayLose counts those that have answered a request sent since. It also gives the number of voters besides id.
func (n *Node) mayLose(id string, since time.Time) (voters int, err error) {
	servers, err := n.Servers()
	if err != nil {
		return 0, err
	}
	if !slices.ContainsFunc(servers, func(s Server) bool { return s.ID == id && s.Voter }) {
		return 0, nil
	}
	if !n.IsLeader() {
		return 0, n.notLeader()
	}
	live := 0
	for _, s := range servers {
		if !s.Voter || s.ID == id {
			continue
		}
		voters++
		if s.ID == n.cfg.ID || !s.LastContact.Before(since) {
			live++
		}
	}
	if need := voters/2 + 1; live < need {
		return voters, fmt.Errorf("%w: without the vote of %s, %d of %d voters are alive and %d are needed", ErrQuorum, id, live, voters, need)
	}
	return voters, nil
}

// reconfigure makes one change of the configuration at a time. Reads go by n.members, so a voter to be added counts
// there before raft knows it, and the true configuration is copied as soon as raft has answered, even when the
// caller no longer waits.
func (n *Node) reconfigure(ctx context.Context, adds string, change func() raft.IndexFuture) error {
	if !n.IsLeader() {
		return n.notLeader()
	}
	err := n.raftCall(ctx, func() error {
		n.configuring.Lock()
		defer n.configuring.Unlock()
		if old := n.members.Load(); adds != "" && adds != n.cfg.ID && !slices.Contains(old.others, adds) {
			n.members.Store(&members{others: append(slices.Clone(old.others), adds), self: old.self})
		}
		defer n.refreshMembers()
		return change().Error()
	})
	switch {
	case err == nil:
		return nil
	case errors.Is(err, raft.ErrNotLeader), errors.Is(err, raft.ErrLeadershipTransferInProgress):
		return n.notLeader()
	case errors.Is(err, raft.ErrLeadershipLost), errors.Is(err, raft.ErrRaftShutdown), ctx.Err() != nil, errors.Is(err, ErrClosed):
		return fmt.Errorf("%w: %w", ErrUnknownOutcome, err)
	}
	return fmt.Errorf("consensus: change of the configuration: %w", err)
}

// Servers lists the members of the newest configuration this server knows. What only the leader can know
// (LastContact, Match) is zero elsewhere.
func (n *Node) Servers() ([]Server, error) {
	f := n.raft.GetConfiguration()
	if err := f.Error(); err != nil {
		return nil, fmt.Errorf("consensus: configuration: %w", err)
	}
	leader, _ := n.Leader()
	term, leading := n.raft.CurrentTerm(), n.IsLeader()
	var out []Server
	for _, s := range f.Configuration().Servers {
		m := Server{ID: string(s.ID), Addr: string(s.Address), Voter: s.Suffrage == raft.Voter, Leader: string(s.ID) == leader}
		switch {
		case !leading:
		case m.ID == n.cfg.ID:
			m.LastContact, m.Match = time.Now(), n.raft.LastIndex()
		default:
			if a, ok := n.acks.of(term, m.ID); ok {
				m.LastContact, m.Match = processStart.Add(time.Duration(a.sent)), a.match
			}
		}
		out = append(out, m)
	}
	return out, nil
}

// TransferLeadership hands leadership to the voter id, or to the one most up to date when id is "". It returns when
// this server no longer leads, or with an error when it still does.
func (n *Node) TransferLeadership(ctx context.Context, id string) error {
	if !n.IsLeader() {
		return n.notLeader()
	}
	err := n.raftCall(ctx, func() error {
		if id == "" {
			return n.raft.LeadershipTransfer().Error()
		}
		servers, err := n.Servers()
		if err != nil {
			return err
		}
		i := slices.IndexFunc(servers, func(s Server) bool { return s.ID == id && s.Voter })
		if i < 0 {
			return fmt.Errorf("%s is no voter of this cluster", id)
		}
		return n.raft.LeadershipTransferToServer(raft.ServerID(id), raft.ServerAddress(servers[i].Addr)).Error()
	})
	if err != nil {
		return fmt.Errorf("consensus: hand over leadership: %w", err)
	}
	return nil
}
