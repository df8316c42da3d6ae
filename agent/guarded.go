package agent

import (
	"context"
	"encoding/json"
	"fmt"
	"math"
	"net/http"
	"strings"
	"sync"
	"time"

	"github.com/hashicorp/go-metrics"

	"github.com/musterhq/muster/api/consul"
	"github.com/musterhq/muster/catalog"
	"github.com/musterhq/muster/guard"
	"github.com/musterhq/muster/kv"
	"github.com/musterhq/muster/membership"
	"github.com/musterhq/muster/proxy"
)

// GuardConfig: the mass-removal guard. When within Window more than MaxPercent of at least MinInstances instances of a
// service stop being healthy, or that share of all nodes falls silent, without being deregistered, leaving, or being in
// maintenance, the last good ones are shown for at most Hold. Defaults: true, 5, 50, 1m, 5m.
type GuardConfig struct {
	Enabled      bool          `key:"enabled"`
	MinInstances int           `key:"min_instances"`
	MaxPercent   int           `key:"max_percent"`
	Window       time.Duration `key:"window"`
	Hold         time.Duration `key:"hold"`
}

// defaultGuard is guard.DefaultRules as configuration.
func defaultGuard() GuardConfig {
	r := guard.DefaultRules()
	return GuardConfig{Enabled: true, MinInstances: r.MinInstances, MaxPercent: int(100 * r.MaxShare), Window: r.Window, Hold: r.Hold}
}

func (c GuardConfig) rules() guard.Rules {
	return guard.Rules{MinInstances: c.MinInstances, MaxShare: float64(c.MaxPercent) / 100, Window: c.Window, Hold: c.Hold}
}

// releaseEventName is the user event by which an operator's word reaches all agents. Its payload is the key of the
// service, empty for everything.
const releaseEventName = "guard-release"

// openGuard makes the guard, unless it is turned off.
func (a *Agent) openGuard() error {
	rules := a.cfg.Guard.rules()
	if !a.cfg.Guard.Enabled {
		rules.MinInstances = math.MaxInt
	}
	a.nodes = newNodeGuard(rules)
	if !a.cfg.Guard.Enabled {
		return nil
	}
	a.guard = guard.New(guard.Config{Rules: a.cfg.Guard.rules(), OnEvent: a.guardEvent})
	a.restoreGuard()
	if !a.cfg.Server {
		a.guard.Begin() // what a proxy knew before is what its clients were told
	}
	return nil
}

// guardEvent says loudly, once, that something is held or is not any more.
func (a *Agent) guardEvent(ev guard.Event) {
	what := []any{"service", ev.Service, "lost", ev.Lost, "of", ev.Of}
	label := []metrics.Label{{Name: "service", Value: ev.Service}}
	if ev.Ended {
		a.log.Warn("the mass-removal guard lets go: instances are shown as they are again", append(what, "reason", string(ev.Reason), "after", time.Since(ev.Since).Round(time.Millisecond))...)
		a.metrics.SetGaugeWithLabels([]string{"guard", "held"}, 0, label)
		return
	}
	a.log.Error("an unlikely share of a service would vanish at once: the last good instances are shown until it recovers, the time is over, or `muster guard release` says that it is true",
		append(what, "until", ev.Until.UTC().Format(time.RFC3339))...)
	a.metrics.IncrCounterWithLabels([]string{"guard", "holds"}, 1, label)
}

// guardGauges tells the present figures once in a while, so that they do not age out of the metrics.
func (a *Agent) guardGauges() {
	holds := a.guard.Holds()
	for _, h := range holds {
		a.metrics.SetGaugeWithLabels([]string{"guard", "held"}, float32(h.Lost), []metrics.Label{{Name: "service", Value: h.Service}})
	}
	a.metrics.SetGauge([]string{"guard", "services"}, float32(len(holds)))
}

const (
	guardTick     = time.Second            // between looks whether a hold is over
	guardPause    = 100 * time.Millisecond // between looks at what has changed in the tree
	guardCaughtUp = time.Second            // a server that has had all of the log for that long is not reading its past
)

// runGuard ends holds in time, and on a server shows the guard every change of the tree, asked for or not.
func (a *Agent) runGuard() {
	if a.guard == nil {
		return
	}
	a.keepGuard()
	go a.learnHolds()
	go func() {
		for rest(a.ctx, guardTick) {
			a.guard.Expire()
			a.believeStrangers(a.cfg.Guard.Hold)
			a.guardGauges()
		}
	}()
	if a.tree != nil {
		go func() {
			if a.awaitCaughtUp() {
				a.guard.Begin()
				a.feedGuard()
			}
		}()
	}
}

// awaitCaughtUp waits until this server has all that the leader has, and says whether the agent still runs.
func (a *Agent) awaitCaughtUp() bool {
	var since time.Time
	for {
		st := a.raft.Status()
		switch {
		case st.Ready:
			return a.ctx.Err() == nil
		case st.LeaderID == "" || st.CommitIndex == 0 || st.AppliedIndex < st.CommitIndex:
			since = time.Time{}
		case since.IsZero():
			since = time.Now()
		case time.Since(since) >= guardCaughtUp:
			return a.ctx.Err() == nil
		}
		if !rest(a.ctx, guardPause) {
			return false
		}
	}
}

// feedGuard shows the guard each state of each service until the agent ends. States that follow each other faster than
// guardPause may be seen as one.
func (a *Agent) feedGuard() {
	const all = "v/s"
	for {
		snap := a.tree.Snap()
		seen := a.guard.Guarded()
		if dir, ok := snap.Get(all); ok {
			dir.Each(func(e *kv.Entry) bool {
				path := all + "/" + e.Name()
				index, known := seen[path]
				delete(seen, path)
				if (known || e.Len() >= a.cfg.Guard.MinInstances) && e.Index() > index {
					a.guard.Judge(path, e.Index(), catalog.InstancesAt(snap, path))
				}
				return true
			})
		}
		for path := range seen { // services that are gone
			a.guard.Judge(path, snap.IndexOf(path), nil)
		}
		w := snap.Wait(all)
		select {
		case <-w.C:
		case <-a.ctx.Done():
		}
		w.Stop()
		if !rest(a.ctx, guardPause) {
			return
		}
	}
}

// released takes an operator's word from the gossip.
func (a *Agent) released(payload []byte) {
	key := string(payload)
	n := 0
	if a.guard != nil {
		n = a.guard.Release(key)
	}
	a.log.Warn("an operator says that losses are true", "key", key, "services released here", n)
	if key == "" {
		a.believeStrangers(0)
		a.nodes.release(time.Now())
		nudge(a.compareSoon)
	}
}

// guardControl is the guard as the operator's endpoints see it.
type guardControl struct{ *Agent }

var _ consul.GuardControl = guardControl{}

// leaderSays bounds the question to the leader about nodes.
const leaderSays = 2 * time.Second

// Guard implements consul.GuardControl.
func (g guardControl) Guard(ctx context.Context) consul.GuardState {
	st := consul.GuardState{Enabled: g.guard != nil, Services: []guard.Hold{}}
	if g.guard != nil {
		st.Services = append(st.Services, g.guard.Holds()...)
	}
	ctx, cancel := context.WithTimeout(ctx, leaderSays)
	defer cancel()
	if err := g.askLeader(ctx, "/v1/operator/guard", &st.GuardNodes); err != nil {
		st.NodesError = err.Error()
	}
	return st
}

// askLeader reads a JSON document of the leader.
func (a *Agent) askLeader(ctx context.Context, path string, into any) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, path, nil)
	if err != nil {
		return err
	}
	resp, err := a.call(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("GET %s: status %d", path, resp.StatusCode)
	}
	return json.NewDecoder(http.MaxBytesReader(nil, resp.Body, maxBody)).Decode(into)
}

// Release implements consul.GuardControl. This agent obeys even when the gossip reaches nobody.
func (g guardControl) Release(_ context.Context, key string) error {
	g.released([]byte(key))
	return g.pool.Fire(releaseEventName, []byte(key))
}

// GuardNodes implements consul.GuardControl.
func (g guardControl) GuardNodes() consul.GuardNodes { return g.nodes.state() }

// guardSelf is the field of agent/self.
func (a *Agent) guardSelf() *consul.AgentGuard {
	if a.guard == nil {
		return &consul.AgentGuard{}
	}
	return &consul.AgentGuard{Enabled: true, Watched: a.guard.Watched(), Held: a.guard.Holds()}
}

// heldService is the hold on a service, nil when there is none.
func (a *Agent) heldService(name string) *guard.Hold {
	if a.guard == nil {
		return nil
	}
	for _, h := range a.guard.Holds() {
		if strings.EqualFold(h.Service, name) {
			return &h
		}
	}
	return nil
}

// guardUser takes the user events that are the guard's.
func (a *Agent) guardUser(ev membership.Event) bool {
	if ev.Name != releaseEventName {
		return false
	}
	a.released(ev.Payload)
	return true
}

// strangers are clusters other than the one that a proxy knew, and since when each has answered.
type strangers struct {
	mu    sync.Mutex
	since map[string]time.Time
}

// new says whether a cluster has answered for less than limit. first is true once for each.
func (s *strangers) new(cluster string, now time.Time, limit time.Duration) (recent, first bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	at, known := s.since[cluster]
	if !known {
		if len(s.since) >= maxStrangers {
			clear(s.since)
		}
		if s.since == nil {
			s.since = map[string]time.Time{}
		}
		at = now
		s.since[cluster] = at
	}
	return now.Sub(at) < limit, !known
}

// age makes those that have answered for at least limit old acquaintances, and says whether there were any.
func (s *strangers) age(now time.Time, limit time.Duration) (any bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for c, at := range s.since {
		if !at.IsZero() && now.Sub(at) >= limit {
			s.since[c], any = time.Time{}, true
		}
	}
	return any
}

const maxStrangers = 16

// believeStrangers believes clusters that have answered for so long.
func (a *Agent) believeStrangers(limit time.Duration) {
	if a.guard != nil && a.strangers.age(time.Now(), limit) && a.views != nil {
		a.log.Warn("what another cluster's servers say is believed now")
		a.guard.Believe()
		a.views.Rejudge()
	}
}

// judgeView is the proxy.Judge: servers that were wiped form a new cluster that knows nothing, and for the time of a
// hold that is no reason to forget what the old one knew. Whatever the new one does know is believed.
func (a *Agent) judgeView(name string, previous, next *proxy.Answer) *proxy.Answer {
	if previous == nil || previous.Cluster == next.Cluster || previous.Cluster == "" || next.Cluster == "" || previous.Empty() || !next.Empty() {
		return next
	}
	recent, first := a.strangers.new(next.Cluster, time.Now(), a.cfg.Guard.Hold)
	if first {
		a.log.Error("the servers hold another cluster's data than before, and it is empty: what was known last is kept until they know more, the time is over, or `muster guard release` says that it is true",
			"cluster", next.Cluster, "before", previous.Cluster, "first asked", name)
		a.metrics.IncrCounter([]string{"guard", "strange_clusters"}, 1)
	}
	if recent {
		return previous
	}
	return next
}
