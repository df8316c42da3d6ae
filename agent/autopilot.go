package agent

import (
	"context"
	"sync"
	"time"

	"github.com/musterhq/muster/api"
	"github.com/musterhq/muster/api/consul"
	"github.com/musterhq/muster/consensus"
	"github.com/musterhq/muster/kv"
	"github.com/musterhq/muster/membership"
)

const (
	// autopilotTick is how often the leader looks at its servers. It asks nobody: all it needs is in memory.
	autopilotTick = 250 * time.Millisecond

	// safeVoters is how many voters a removal of the dead leaves when min_quorum does not say: the fewest that go on
	// after the loss of one. A cluster of three therefore replaces a dead server, and never shrinks.
	safeVoters = 3
)

// autopilot is the leader's job that follows the health of the servers, gives new ones their vote, and removes dead ones.
type autopilot struct {
	*Agent
	mu      sync.Mutex
	leading bool // run is at work: what follows is true
	health  map[string]serverHealth
}

// serverHealth is the present verdict about one server, and since when it holds.
type serverHealth struct {
	healthy bool
	since   time.Time
	gone    time.Time // since when gossip says that it is dead; zero while it does not
	status  membership.Status
	member  membership.Member // zero when gossip does not know the server
}

func newAutopilot(a *Agent) *autopilot { return &autopilot{Agent: a} }

// settings are those of the tree, or of the configuration until the tree has some.
func (p *autopilot) settings() consul.AutopilotConfig {
	if c, ok := consul.ReadAutopilot(p.tree.Snap()); ok {
		return c
	}
	return p.cfg.Autopilot.settings()
}

// settings gives the block of the configuration in the form that operators see.
func (c Autopilot) settings() consul.AutopilotConfig {
	s := consul.DefaultAutopilot()
	s.CleanupDeadServers, s.LastContactThreshold, s.ServerStabilizationTime = c.CleanupDeadServers, consul.Duration(c.LastContactThreshold), consul.Duration(c.ServerStabilizationTime)
	s.MaxTrailingLogs, s.MinQuorum = uint64(max(c.MaxTrailingLogs, 0)), uint(max(c.MinQuorum, 0))
	return s
}

// seed writes the settings of the configuration into a tree without any, so that all servers follow the same from
// then on.
func (p *autopilot) seed(ctx context.Context) error {
	return commit(ctx, p.store, func(s *kv.Snap) (kv.Txn, error) {
		if _, ok := consul.ReadAutopilot(s); ok {
			return kv.Txn{}, nil
		}
		return consul.WriteAutopilot(p.cfg.Autopilot.settings(), !exists(s, consul.AutopilotPath), false)
	})
}

// run is the job. Each leadership judges anew: what another leader saw proves nothing about the connections of this one.
func (p *autopilot) run(ctx context.Context) {
	p.mu.Lock()
	p.leading, p.health = true, map[string]serverHealth{}
	p.mu.Unlock()
	defer func() {
		p.mu.Lock()
		defer p.mu.Unlock()
		p.leading = false
	}()
	seeded := false
	tick := time.NewTicker(autopilotTick)
	defer tick.Stop()
	for {
		if !seeded {
			seeded = p.seed(ctx) == nil
		}
		c := p.settings()
		if servers, err := p.raft.Servers(); err == nil {
			p.examine(c, servers)
			p.promote(ctx, c, servers)
			p.cleanUp(ctx, c, servers)
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

// patience is how long a server may be silent and healthy: what is set, but never less than the silence that the
// consensus itself takes for nothing.
func (p *autopilot) patience(c consul.AutopilotConfig) time.Duration {
	return max(time.Duration(c.LastContactThreshold), p.timing().Heartbeat)
}

// examine brings the verdicts up to date.
func (p *autopilot) examine(c consul.AutopilotConfig, servers []consensus.Server) {
	now := time.Now()
	gossip := map[string]membership.Member{}
	for _, m := range p.pool.Members() {
		if isServer(m) {
			gossip[m.ID()] = m
		}
	}
	last := p.raft.Status().LastIndex
	p.mu.Lock()
	defer p.mu.Unlock()
	defer p.gauges(servers)
	old := p.health
	p.health = make(map[string]serverHealth, len(servers))
	for _, s := range servers {
		m, known := gossip[s.ID]
		h := old[s.ID]
		healthy := s.ID == p.id || known && m.Status == membership.StatusAlive && now.Sub(s.LastContact) <= p.patience(c) && s.Match+c.MaxTrailingLogs >= last
		if h.since.IsZero() || healthy != h.healthy {
			h.healthy, h.since = healthy, now
		}
		h.member, h.status = m, m.Status
		switch {
		case !known || m.Status != membership.StatusFailed:
			h.gone = time.Time{}
		case h.gone.IsZero():
			h.gone = now
		}
		p.health[s.ID] = h
	}
}

// gauges shows the health of the cluster as metrics; p.mu is held.
func (p *autopilot) gauges(servers []consensus.Server) {
	all, healthyVoters := float32(1), 0
	for _, s := range servers {
		switch {
		case !p.health[s.ID].healthy:
			all = 0
		case s.Voter:
			healthyVoters++
		}
	}
	p.metrics.SetGauge([]string{"autopilot", "healthy"}, all)
	p.metrics.SetGauge([]string{"autopilot", "failure_tolerance"}, float32(max(0, healthyVoters-voters(servers)/2-1)))
}

func voters(servers []consensus.Server) (n int) {
	for _, s := range servers {
		if s.Voter {
			n++
		}
	}
	return n
}

// promote gives a vote to one server that is healthy, and so has caught up: at once while the cluster would not
// survive the loss of a voter, else when it has been healthy for some time. A vote too early makes every quorum wait
// for a server that may not last.
func (p *autopilot) promote(ctx context.Context, c consul.AutopilotConfig, servers []consensus.Server) {
	few := voters(servers) < safeVoters
	for _, s := range servers {
		h := p.verdict(s.ID)
		if s.Voter || !h.healthy || !few && time.Since(h.since) < time.Duration(c.ServerStabilizationTime) {
			continue
		}
		ctx, cancel := context.WithTimeout(ctx, changeTimeout)
		defer cancel()
		if err := p.raft.AddVoter(ctx, s.ID, s.Addr); err != nil {
			p.log.Warn("server could not be given its vote", "node", h.member.Name, "error", err)
			return
		}
		p.log.Info("a new server has caught up and votes from now on", "node", h.member.Name, "id", s.ID)
		return
	}
}

// cleanUp removes one server whose death gossip has found out and that has not come back for a while. A voter goes
// only while enough others remain: the quorum of those that remain must be alive, which the consensus makes sure of,
// and their number must not fall below the safe one.
func (p *autopilot) cleanUp(ctx context.Context, c consul.AutopilotConfig, servers []consensus.Server) {
	if !c.CleanupDeadServers {
		return
	}
	least := int(c.MinQuorum)
	if least == 0 {
		least = safeVoters
	}
	for _, s := range servers {
		h := p.verdict(s.ID)
		wait := max(time.Duration(c.ServerStabilizationTime), p.patience(c))
		if s.ID == p.id || h.gone.IsZero() || time.Since(h.gone) < wait || time.Since(s.LastContact) < wait || s.Voter && voters(servers)-1 < least {
			continue
		}
		ctx, cancel := context.WithTimeout(ctx, changeTimeout)
		defer cancel()
		if err := p.raft.RemoveServer(ctx, s.ID, false); err != nil {
			p.log.Debug("dead server stays in the consensus", "node", h.member.Name, "error", err)
			continue
		}
		p.log.Warn("a dead server was removed from the consensus", "node", h.member.Name, "id", s.ID, "dead for", time.Since(h.gone).Round(time.Second))
		return
	}
}

func (p *autopilot) verdict(id string) serverHealth {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.health[id]
}

// judged gives the verdicts to those who ask about the cluster's health. Only the leader knows.
func (p *autopilot) judged(servers []consensus.Server) (map[string]serverHealth, error) {
	p.mu.Lock()
	leading, fresh := p.leading, len(p.health) > 0
	p.mu.Unlock()
	if !leading {
		return nil, api.ErrNotLeader
	}
	if !fresh { // a leadership this young has not looked yet
		p.examine(p.settings(), servers)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.health, nil
}
