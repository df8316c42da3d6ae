package agent

import (
	"context"
	"fmt"
	"time"

	"github.com/musterhq/muster/membership"
)

// admitEvery is how soon a server that could not be added to the consensus is tried again.
const admitEvery = 10 * time.Second

// admit is the leader's job that gives live servers their vote. It stands apart from reconcile because it waits
// for machines that may not answer, and the death of a node must not wait with it.
func (a *Agent) admit(ctx context.Context) {
	for {
		again := reconcileEvery
		for _, m := range a.pool.Members() {
			if !isServer(m) || m.Status != membership.StatusAlive {
				continue
			}
			if err := a.admitServer(ctx, m); err != nil && ctx.Err() == nil {
				a.log.Warn("server could not be added to the consensus", "node", m.Name, "error", err)
				again = admitEvery
			}
		}
		t := time.NewTimer(again)
		select {
		case <-t.C:
		case <-a.admitSoon:
			t.Stop()
		case <-ctx.Done():
			t.Stop()
			return
		}
	}
}

// nudge wakes whoever waits on c, without waiting itself; nudges that come together are one.
func nudge(c chan<- struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// admitServer adds a server that gossip has found to the consensus, or moves it when its address changed.
func (a *Agent) admitServer(ctx context.Context, m membership.Member) error {
	if m.ID() == "" || m.ServerAddr() == "" {
		return fmt.Errorf("server %s does not say its id and address", m.Name)
	}
	if own := a.raft.ClusterID(); own != "" && m.Cluster() != "" && m.Cluster() != own {
		return fmt.Errorf("server %s holds data of cluster %s, this is cluster %s", m.Name, m.Cluster(), own)
	}
	servers, err := a.raft.Servers()
	if err != nil {
		return err
	}
	for _, s := range servers {
		if s.ID == m.ID() && s.Addr == m.ServerAddr() {
			return nil
		}
	}
	// A voter that cannot be reached costs the cluster a part of its majority. Gossip proves nothing about the other
	// port: a firewall or a certificate may be in the way.
	if err := a.answers(ctx, m.ServerAddr()); err != nil {
		return fmt.Errorf("its server port gives no answer: %w", err)
	}
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	a.log.Info("adding a server to the consensus", "node", m.Name, "address", m.ServerAddr())
	return a.raft.AddVoter(ctx, m.ID(), m.ServerAddr())
}
