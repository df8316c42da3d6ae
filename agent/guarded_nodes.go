package agent

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/musterhq/muster/api"
	"github.com/musterhq/muster/api/consul"
	"github.com/musterhq/muster/catalog"
	"github.com/musterhq/muster/guard"
	"github.com/musterhq/muster/kv"
	"github.com/musterhq/muster/membership"
)

// nodeGuard is what a server remembers of nodes that are neither known to be alive nor known to be dead: those that
// went silent with too many others, and those whose agents said that they restart. The leader's job works with it.
type nodeGuard struct {
	mu         sync.Mutex
	rules      guard.Rules
	leading    bool
	set        *guard.Set[string]    // of all nodes, by name in lower case
	silent     map[string]time.Time  // held nodes, since when
	restarting map[string]restarting // by name in lower case
}

// restarting is a node whose agent announced that it will be back.
type restarting struct {
	name  string
	since time.Time
	until time.Time
	away  bool // its agent does not answer now
}

func newNodeGuard(r guard.Rules) *nodeGuard {
	g := &nodeGuard{rules: r, restarting: map[string]restarting{}}
	g.lead(false)
	return g
}

// lead begins or ends a leadership: each judges silence anew. What agents announced is kept, it was told to all servers.
func (g *nodeGuard) lead(leading bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.leading, g.set, g.silent = leading, guard.NewSet[string](g.rules), map[string]time.Time{}
}

// nodeSeen is how the leader sees one node.
type nodeSeen struct {
	name  string
	alive bool
	proof bool // it has been proven dead, or is away for a known reason
}

// see takes all nodes as they are now. It returns those whose silence is not believed, and whether that is news.
func (g *nodeGuard) see(nodes []nodeSeen, now time.Time) (held []string, began bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	list := make([]guard.Member[string], len(nodes))
	for i, n := range nodes {
		list[i] = guard.Member[string]{Key: strings.ToLower(n.name), Value: n.name, Asked: n.proof}
		if n.alive {
			list[i].Rank = 1
		}
	}
	_, _, was := g.set.Held()
	g.set.Expire(now)
	g.set.See(list, now)
	_, _, is := g.set.Held()
	silent := map[string]time.Time{}
	for _, m := range list {
		if _, ok := g.set.Kept(m.Key); !ok {
			continue
		}
		held = append(held, m.Value)
		if silent[m.Value] = now; !g.silent[m.Value].IsZero() {
			silent[m.Value] = g.silent[m.Value]
		}
	}
	g.silent = silent
	return held, is && !was
}

// due says whether the time of something is over: of a hold, or of a restart.
func (g *nodeGuard) due(now time.Time) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	_, until, held := g.set.Held()
	over := held && !now.Before(until)
	for key, r := range g.restarting {
		if !now.Before(r.until) {
			over = over || r.away
			delete(g.restarting, key)
		}
	}
	return over
}

// release believes all silence.
func (g *nodeGuard) release(now time.Time) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.set.Release(now)
	g.silent = map[string]time.Time{}
}

// announce notes that the agent of a node restarts.
func (g *nodeGuard) announce(name string, now time.Time, grace time.Duration) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.restarting[strings.ToLower(name)] = restarting{name: name, since: now, until: now.Add(grace)}
}

// back ends the restart of a node and says whether there was one.
func (g *nodeGuard) back(name string) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	_, was := g.restarting[strings.ToLower(name)]
	delete(g.restarting, strings.ToLower(name))
	return was
}

// returned is back for a node that is seen alive: one that has announced its stop and still answers is not back.
func (g *nodeGuard) returned(name string) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if key := strings.ToLower(name); g.restarting[key].away {
		delete(g.restarting, key)
	}
}

// away notes that the agent of a node does not answer, and says whether it restarts.
func (g *nodeGuard) away(name string, now time.Time) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	key := strings.ToLower(name)
	r, ok := g.restarting[key]
	if !ok || !now.Before(r.until) {
		return false
	}
	r.away = true
	g.restarting[key] = r
	return true
}

// hold is the present hold.
func (g *nodeGuard) hold() (h guard.Hold, ok bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.holdLocked()
}

func (g *nodeGuard) holdLocked() (h guard.Hold, ok bool) {
	h = guard.Hold{Service: "nodes"}
	h.Since, h.Until, ok = g.set.Held()
	h.Lost, h.Of = g.set.Count()
	return h, ok
}

// state is what operators see.
func (g *nodeGuard) state() consul.GuardNodes {
	g.mu.Lock()
	defer g.mu.Unlock()
	out := consul.GuardNodes{Unknown: []consul.UnknownNode{}}
	if !g.leading {
		return out
	}
	if h, ok := g.holdLocked(); ok {
		out.NodesHeld = &h
		for name, since := range g.silent {
			out.Unknown = append(out.Unknown, consul.UnknownNode{Node: name, Why: "silent", Since: since, Until: h.Until})
		}
	}
	for _, r := range g.restarting {
		if r.away {
			out.Unknown = append(out.Unknown, consul.UnknownNode{Node: r.name, Why: "restarting", Since: r.since, Until: r.until})
		}
	}
	slices.SortFunc(out.Unknown, func(a, b consul.UnknownNode) int { return strings.Compare(a.Node, b.Node) })
	return out
}

// upkeepEvery is how often the leader looks whether a hold or a restart has taken too long.
const upkeepEvery = time.Second

// away says whether the agent of a member is away because it restarts.
func (r *reconciler) away(m membership.Member) bool { return r.nodes.away(m.Name, time.Now()) }

// seed tells the guard once who was alive before this leadership: a new leader that sees only silence is to doubt it.
func (r *reconciler) seed(ctx context.Context) error {
	if r.seeded {
		return nil
	}
	snap, _, err := r.store.Read(ctx, api.Default)
	if err != nil {
		return err
	}
	var alive []nodeSeen
	for _, c := range catalog.ChecksInState(snap, catalog.Passing) {
		if c.ID == catalog.LivenessCheck {
			alive = append(alive, nodeSeen{name: c.Node, alive: true})
			r.strays = append(r.strays, c.Node)
		}
	}
	r.nodes.see(alive, time.Now())
	r.seeded = true
	return nil
}

// view is how all nodes with an agent look now.
func (r *reconciler) view() []nodeSeen {
	members := r.pool.Members()
	list := make([]nodeSeen, 0, len(members)+len(r.strays))
	known := make(map[string]bool, len(members))
	for _, m := range members {
		key := strings.ToLower(m.Name)
		known[key] = true
		if m.Status != membership.StatusAlive && m.Status != membership.StatusFailed {
			continue // it leaves
		}
		v := r.vigils[key]
		refuses := v != nil && v.dead
		n := nodeSeen{name: m.Name, alive: m.Status == membership.StatusAlive && !refuses && !r.proven[key], proof: r.proven[key]}
		if !n.alive && !n.proof {
			if n.proof = r.away(m); refuses && !n.proof { // it did not come back in time
				r.proven[key], n.proof = true, true
			}
		}
		list = append(list, n)
	}
	early := time.Since(r.began) < reconcileEvery
	for _, name := range r.strays {
		if !known[strings.ToLower(name)] {
			list = append(list, nodeSeen{name: name, alive: early})
		}
	}
	return list
}

// weigh decides about the nodes that do not answer: those that restart stay as they are, too many at once are unknown,
// all others are dead.
func (r *reconciler) weigh(ctx context.Context) error {
	list := r.view()
	held, began := r.nodes.see(list, time.Now())
	h, holding := r.nodes.hold()
	if began {
		r.log.Error("an unlikely share of all nodes has fallen silent: they keep their health as unknown until they are back, the time is over, or `muster guard release` says that it is true",
			"silent", h.Lost, "of", h.Of, "until", h.Until.UTC().Format(time.RFC3339))
		r.metrics.IncrCounter([]string{"guard", "node_holds"}, 1)
	}
	r.metrics.SetGauge([]string{"guard", "nodes"}, float32(len(held)))
	unknown := make(map[string]bool, len(held))
	for _, name := range held {
		unknown[name] = true
	}
	why := ""
	if holding {
		why = fmt.Sprintf("silent together with too many others, held as it was until %s", h.Until.UTC().Format(time.RFC3339))
	}
	for _, n := range list {
		var err error
		switch {
		case n.alive:
		case unknown[n.name]:
			err = commit(ctx, r.store, func(s *kv.Snap) (kv.Txn, error) { return catalog.SetLivenessUnknown(s, n.name, why), nil })
		case n.proof && !r.proven[strings.ToLower(n.name)]: // it restarts
		default:
			err = r.setLiveness(ctx, n.name, false)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// weighSoon weighs if there is a reason, and arranges for another comparison if that fails.
func (r *reconciler) weighSoon(ctx context.Context, reason bool, again *time.Timer) {
	if !reason {
		return
	}
	if err := r.weigh(ctx); err != nil && ctx.Err() == nil {
		r.log.Warn("judging silent nodes failed, the next comparison repairs it", "error", err)
		again.Reset(time.Second)
	}
}
