package agent

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"time"

	"github.com/musterhq/muster/consensus"
	"github.com/musterhq/muster/membership"
)

// admitEvery is how soon a server that could not be added to the consensus is tried again.
const admitEvery = 10 * time.Second

// admit is the leader's job that brings live servers into the consensus, without a vote at first (autopilot gives
// it), and keeps their addresses true. It stands apart from reconcile because it waits for machines that may not
// answer, and the death of a node must not wait with it.
func (a *Agent) admit(ctx context.Context) {
	for {
		again := reconcileEvery
		if a.admitAll(ctx) != nil {
			again = admitEvery
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

// admitAll looks at every server once. Each failure is logged; the result is the last.
func (a *Agent) admitAll(ctx context.Context) (last error) {
	failed := func(what, node string, err error) {
		if err != nil && ctx.Err() == nil {
			a.log.Warn(what, "node", node, "error", err)
			last = err
		}
	}
	records := readMembers(a.tree.Snap())
	for _, m := range a.pool.Members() {
		if isServer(m) && m.Status == membership.StatusAlive && !records.removedServer(m.ID(), a.raft.ClusterID()) {
			failed("server could not be added to the consensus", m.Name, a.admitServer(ctx, m, records))
		}
	}
	servers, err := a.raft.Servers()
	if err != nil {
		return err
	}
	for _, s := range servers {
		if records.removedServer(s.ID, a.raft.ClusterID()) {
			failed("server that was removed for good could not be taken out of the consensus", s.ID, a.raft.RemoveServer(ctx, s.ID, false))
			continue
		}
		failed("keeping the id that was announced for a server", s.ID, a.claim(ctx, s))
	}
	return last
}

// admitServer adds a server that gossip has found to the consensus, or moves it when its address changed.
func (a *Agent) admitServer(ctx context.Context, m membership.Member, records memberRecords) error {
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
	addr := a.published(ctx, m, records)
	if slices.ContainsFunc(servers, func(s consensus.Server) bool { return s.ID == m.ID() && s.Addr == addr }) {
		return nil
	}
	// A server that cannot be reached would cost the cluster a part of its majority. Gossip proves nothing about the
	// other port: a firewall or a certificate may be in the way, or another machine.
	if err := a.answersAs(ctx, addr, m.ID()); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, changeTimeout)
	defer cancel()
	a.log.Info("adding a server to the consensus", "node", m.Name, "address", addr)
	return a.raft.AddNonvoter(ctx, m.ID(), addr) // a voter that moved stays one
}

// published is the address at which the consensus should reach a server: the one it gives itself, unless a client has
// published another one and the server answers there.
func (a *Agent) published(ctx context.Context, m membership.Member, records memberRecords) string {
	for _, rec := range records.known {
		if rec.Node != m.ID() || rec.names(m.ServerAddr()) {
			continue
		}
		for _, u := range rec.PeerURLs {
			// A name is only listed: each server would look it up by itself, and some might find another machine.
			addr, err := netip.ParseAddrPort(hostOf(u))
			if err == nil && addr.String() != rec.Addr && a.answersAs(ctx, addr.String(), m.ID()) == nil {
				return addr.String()
			}
		}
	}
	return m.ServerAddr()
}

// answersAs makes sure that the agent with that UUID, and no other, answers at a server's port: the connection works,
// and under TLS either side has accepted the other's certificate.
func (a *Agent) answersAs(ctx context.Context, addr, id string) error {
	var self struct {
		Config struct{ NodeID string }
	}
	if err := a.askServer(ctx, addr, "/v1/agent/self", &self); err != nil {
		return fmt.Errorf("its server port %s gives no answer: %w", addr, err)
	}
	if got := self.Config.NodeID; got != id {
		return fmt.Errorf("at its server port %s another agent answers, %s", addr, got)
	}
	return nil
}
