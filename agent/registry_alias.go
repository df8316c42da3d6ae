package agent

import (
	"context"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"

	"github.com/musterhq/muster/catalog"
	"github.com/musterhq/muster/health"
)

// NodeWatcher gives what the catalog holds of another node, for alias checks that follow one.
type NodeWatcher interface {
	// WatchNode waits until the checks of the node are newer than index, at most some minutes, and gives its
	// services and checks with their index; index 0 does not wait. A nil Node: it is unknown.
	WatchNode(ctx context.Context, node string, index uint64) ([]*catalog.Service, []*catalog.Check, *catalog.Node, uint64, error)
}

// aliasWatches tells alias checks that what they follow may have changed. Without alias checks a change costs one
// atomic load.
type aliasWatches struct {
	n  atomic.Int32
	mu sync.Mutex
	m  map[string]map[chan struct{}]struct{} // by id of the service that is followed
}

func (w *aliasWatches) add(service string) chan struct{} {
	c := make(chan struct{}, 1)
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.m == nil {
		w.m = map[string]map[chan struct{}]struct{}{}
	}
	if w.m[service] == nil {
		w.m[service] = map[chan struct{}]struct{}{}
	}
	w.m[service][c] = struct{}{}
	w.n.Add(1)
	return c
}

func (w *aliasWatches) remove(service string, c chan struct{}) {
	w.mu.Lock()
	defer w.mu.Unlock()
	delete(w.m[service], c)
	if len(w.m[service]) == 0 {
		delete(w.m, service)
	}
	w.n.Add(-1)
}

// wake says that a service, one of its checks, or with service "" a check of the node has changed. It never blocks.
func (w *aliasWatches) wake(service string) {
	if w.n.Load() == 0 {
		return
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	for id, watchers := range w.m {
		if service != "" && service != id {
			continue
		}
		for c := range watchers {
			select {
			case c <- struct{}{}:
			default:
			}
		}
	}
}

// localAlias follows a service of this machine. It does not look at the alias check itself: a check of the node that
// names a service would otherwise hold itself critical for ever.
type localAlias struct {
	reg           *Registry
	self, service string
}

// Follow implements health.Aliased.
func (a localAlias) Follow(ctx context.Context, report func(health.Status, string)) {
	changed := a.reg.aliases.add(a.service)
	defer a.reg.aliases.remove(a.service, changed)
	for {
		_, _, found := a.reg.Service(a.service)
		report(health.JudgeAlias(a.service, "", found, aliased(a.reg.ServiceChecks(a.service), a.self)))
		select {
		case <-changed:
		case <-ctx.Done():
			return
		}
	}
}

// remoteAlias follows a node in the catalog, or a service on it when one is named.
type remoteAlias struct {
	nodes         NodeWatcher
	node, service string
	self          string // the alias check itself, when the node is this one
}

// Pauses between attempts to reach the cluster, and how many of them may fail before an alias says so: the statuses
// of a cluster that elects a leader are better old than critical.
const (
	aliasRetryMin    = time.Second
	aliasRetryMax    = time.Minute
	aliasMayFail     = 4
	aliasLeastPeriod = 100 * time.Millisecond // between two questions, however often the node changes
)

// Follow implements health.Aliased.
func (a remoteAlias) Follow(ctx context.Context, report func(health.Status, string)) {
	var index uint64
	for failed := 0; ctx.Err() == nil; {
		services, checks, node, next, err := a.nodes.WatchNode(ctx, a.node, index)
		pause := aliasLeastPeriod
		if err != nil {
			index = 0
			if failed++; failed >= aliasMayFail && ctx.Err() == nil {
				report(health.Critical, "Failure checking aliased node or service: "+err.Error())
			}
			pause = min(aliasRetryMin<<min(failed-1, 10), aliasRetryMax)
			pause = pause/2 + rand.N(pause/2+1)
		} else {
			failed = 0
			if next < index {
				next = 0 // the cluster began anew
			}
			index = next
			report(a.judge(services, checks, node))
		}
		select {
		case <-time.After(pause):
		case <-ctx.Done():
		}
	}
}

func (a remoteAlias) judge(services []*catalog.Service, checks []*catalog.Check, node *catalog.Node) (health.Status, string) {
	if node == nil && a.service == "" {
		return health.Critical, "Node " + a.node + " could not be found"
	}
	found := node != nil && a.service == ""
	for _, s := range services {
		found = found || s.ID == a.service
	}
	var relevant []*catalog.Check
	for _, c := range checks {
		if c.ServiceID == "" || c.ServiceID == a.service {
			relevant = append(relevant, c)
		}
	}
	return health.JudgeAlias(a.service, a.node, found, aliased(relevant, a.self))
}

func aliased(checks []*catalog.Check, self string) []health.AliasedCheck {
	out := make([]health.AliasedCheck, 0, len(checks))
	for _, c := range checks {
		if c.ID != self {
			out = append(out, health.AliasedCheck{Name: c.Name, Status: c.Status, Output: c.Output})
		}
	}
	return out
}

// noNodes stands where a registry was opened without a cluster.
type noNodes struct{}

func (noNodes) WatchNode(context.Context, string, uint64) ([]*catalog.Service, []*catalog.Check, *catalog.Node, uint64, error) {
	return nil, nil, nil, 0, errNoCluster
}
