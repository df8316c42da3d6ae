package consensus

import (
	"errors"
	"syscall"
	"time"

	"github.com/hashicorp/raft"
)

// Silence is only suspicion, and takes a whole heartbeat timeout to act upon. A refused connection is proof: the
// machine is there and no process listens at the leader's address. The streams of a killed process break at once,
// so its followers ask, and stand for election without waiting for the timeout.
const (
	probeTimeout = 100 * time.Millisecond
	// turn is how much later each further follower stands for election, so that they do not split the votes.
	turn = 40 * time.Millisecond
	// calm is the least time between two such elections by one server, should proof ever be mistaken.
	calm = 3 * time.Second
)

// watchLeader passes on changes of the leader, and looks into broken streams.
func (n *Node) watchLeader() {
	seen := make(chan raft.Observation, 16)
	o := raft.NewObserver(seen, false, func(o *raft.Observation) bool {
		_, ok := o.Data.(raft.LeaderObservation)
		return ok
	})
	n.raft.RegisterObserver(o)
	defer n.raft.DeregisterObserver(o)
	id, _ := n.Leader()
	n.figures.knows(id)
	var last time.Time
	for {
		select {
		case o := <-seen:
			if l, ok := o.Data.(raft.LeaderObservation); ok {
				n.figures.knows(string(l.LeaderID))
			}
			n.change.wake()
		case <-n.suspect:
			if time.Since(last) >= calm && n.succeed() {
				last = time.Now()
			}
		case <-n.closed:
			return
		}
	}
}

// succeed stands for election if the leader is proven dead and nobody else has been faster.
func (n *Node) succeed() bool {
	term := n.raft.CurrentTerm()
	id, addr := n.Leader()
	if n.raft.State() != raft.Follower || id == "" || id == n.cfg.ID {
		return false
	}
	n.refreshMembers()
	members := n.members.Load()
	if !members.self {
		return false
	}
	c, err := n.cfg.Layer.Dial(addr, probeTimeout)
	if err == nil {
		_ = c.Close()
		return false
	}
	if !errors.Is(err, syscall.ECONNREFUSED) {
		return false
	}
	// The others see the same; each takes its turn by the order of the ids.
	rank := 0
	for _, other := range members.others {
		if other != id && other < n.cfg.ID {
			rank++
		}
	}
	changed := n.LeaderChanged()
	wait := time.NewTimer(time.Duration(rank) * turn)
	defer wait.Stop()
	select {
	case <-wait.C:
	case <-changed:
		return false
	case <-n.closing:
		return false
	}
	if now, _ := n.Leader(); now != id || n.raft.CurrentTerm() != term || n.raft.State() != raft.Follower {
		return false
	}
	n.log.Info("the leader's process is gone, standing for election", "leader", id, "address", addr)
	n.trans.campaign()
	return true
}
