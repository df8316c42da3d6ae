package agent

import (
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/musterhq/muster/api/consul"
	"github.com/musterhq/muster/guard"
)

// nodeGuard is what the leader remembers of nodes that are neither known to be alive nor known to be dead: those that
// went silent with too many others, and those that said that they restart. The leader's job writes it, requests read it.
type nodeGuard struct {
	mu         sync.Mutex
	rules      guard.Rules
	set        *guard.Set[string]   // of all nodes that gossip knows, by name in lower case
	silent     map[string]time.Time // held nodes, since when
	restarting map[string]restarting
}

// restarting is a node whose agent announced that it will be back.
type restarting struct {
	name  string
	since time.Time
	until time.Time
}

func newNodeGuard(r guard.Rules) *nodeGuard {
	g := &nodeGuard{rules: r}
	g.reset()
	return g
}

// reset forgets everything: a new leader judges anew.
func (g *nodeGuard) reset() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.set, g.silent, g.restarting = guard.NewSet[string](g.rules), map[string]time.Time{}, map[string]restarting{}
}

// nodeSeen is how the leader sees one node.
type nodeSeen struct {
	name  string
	alive bool
	proof bool // a node that is not alive has been proven dead, or is away for a known reason
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
		if _, ok := g.set.Kept(m.Key); ok {
			held = append(held, m.Value)
			if silent[m.Value] = now; !g.silent[m.Value].IsZero() {
				silent[m.Value] = g.silent[m.Value]
			}
		}
	}
	g.silent = silent
	return held, is && !was
}

// until is when the present hold gives way; zero when there is none.
func (g *nodeGuard) until() time.Time {
	g.mu.Lock()
	defer g.mu.Unlock()
	if _, until, ok := g.set.Held(); ok {
		return until
	}
	return time.Time{}
}

func (g *nodeGuard) release() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.set.Release(time.Now())
	g.silent = map[string]time.Time{}
}

// hold gives the counts of the present hold.
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
	if h, ok := g.holdLocked(); ok {
		out.NodesHeld = &h
	}
	for name, since := range g.silent {
		out.Unknown = append(out.Unknown, consul.UnknownNode{Node: name, Why: "silent", Since: since, Until: out.NodesHeld.Until})
	}
	for _, r := range g.restarting {
		out.Unknown = append(out.Unknown, consul.UnknownNode{Node: r.name, Why: "restarting", Since: r.since, Until: r.until})
	}
	slices.SortFunc(out.Unknown, func(a, b consul.UnknownNode) int { return strings.Compare(a.Node, b.Node) })
	return out
}
