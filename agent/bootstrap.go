package agent

import (
	"context"
	"encoding/json"
	"io"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/musterhq/muster/consensus"
	"github.com/musterhq/muster/membership"
)

// form brings a server without data into a cluster: at once when it may elect itself, else by waiting until
// gossip has shown bootstrap_expect servers of which none has data yet. All of them then start from the same
// list, so it does not matter who is first. A server that finds a formed cluster waits for its leader to add it.
func (a *Agent) form(ctx context.Context) error {
	if a.raft.HasState() {
		return nil
	}
	self := consensus.Server{ID: a.id, Addr: a.cfg.Advertised(), Voter: true}
	if a.cfg.Bootstrap || a.cfg.BootstrapExpect == 1 {
		return a.raft.Bootstrap([]consensus.Server{self})
	}
	if a.cfg.BootstrapExpect == 0 {
		a.log.Info("waiting for the leader of an existing cluster to add this server")
		return nil
	}
	go a.awaitServers(ctx)
	return nil
}

// formTick is how often a server without data looks whether enough others have come.
const formTick = 250 * time.Millisecond

func (a *Agent) awaitServers(ctx context.Context) {
	tick := time.NewTicker(formTick)
	defer tick.Stop()
	said := 0
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		if a.raft.HasState() {
			return // a leader has added us
		}
		peers := a.expectedServers()
		if len(peers) != said {
			said = len(peers)
			a.log.Info("waiting for servers to form the cluster", "have", said, "expect", a.cfg.BootstrapExpect)
		}
		if len(peers) < a.cfg.BootstrapExpect {
			continue
		}
		if a.alreadyFormed(ctx, peers) {
			a.log.Info("a cluster exists already, waiting for its leader to add this server")
			return
		}
		if err := a.raft.Bootstrap(peers); err != nil {
			a.log.Error("forming the cluster failed", "error", err)
			return
		}
		a.log.Info("formed the cluster", "servers", len(peers))
		return
	}
}

// expectedServers are the live servers that expect the same number as we do, ordered by id.
func (a *Agent) expectedServers() []consensus.Server {
	var out []consensus.Server
	for _, m := range a.pool.Members() {
		if m.Status == membership.StatusAlive && isServer(m) && m.BootstrapExpect() == a.cfg.BootstrapExpect && m.ID() != "" {
			out = append(out, consensus.Server{ID: m.ID(), Addr: m.ServerAddr(), Voter: true})
		}
	}
	slices.SortFunc(out, func(x, y consensus.Server) int { return strings.Compare(x.ID, y.ID) })
	return out
}

// alreadyFormed asks the other servers whether they are part of a cluster that we are not in. A server that
// gives no answer has no say: it cannot be running a cluster with a leader that would add us.
func (a *Agent) alreadyFormed(ctx context.Context, servers []consensus.Server) bool {
	for _, s := range servers {
		if s.ID == a.id {
			continue
		}
		var peers []string
		if a.askServer(ctx, s.Addr, "/v1/status/peers?stale", &peers) == nil && len(peers) > 0 && !slices.Contains(peers, a.cfg.Advertised()) {
			return true
		}
	}
	return false
}

// askServer makes one GET on the port between agents and decodes its JSON.
func (a *Agent) askServer(ctx context.Context, addr, path string, v any) error {
	b, err := a.getFrom(ctx, addr, path)
	if err != nil {
		return err
	}
	return json.Unmarshal(b, v)
}

func (a *Agent) getFrom(ctx context.Context, addr, path string) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, a.scheme()+"://"+addr+path, nil)
	if err != nil {
		return nil, err
	}
	resp, err := a.dialer.Transport().RoundTrip(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	return io.ReadAll(io.LimitReader(resp.Body, 1<<20))
}
