package dnsserver

import (
	"context"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/musterhq/muster/catalog"
	"github.com/musterhq/muster/guard"
	"github.com/musterhq/muster/kv"
)

// serverService is the service whose instances are the servers.
const serverService = "consul"

// maxKnown is how many services a TreeSource keeps ready.
const maxKnown = 16384

// TreeSource answers from the tree of this server.
type TreeSource struct {
	snap  func() *kv.Snap
	guard *guard.Services                                         // nil: everything is as it is
	near  func(s *kv.Snap, node string, list []*catalog.Instance) // nil: distances are not known

	mu       sync.RWMutex
	services map[string]*known

	places    atomic.Pointer[placeIndex]
	reverse   atomic.Pointer[reverseIndex]
	reverseMu sync.Mutex
}

// known is a service that was asked for and exists.
type known struct {
	path   string
	answer *Answer
	epoch  uint64 // of the guard when it was made
}

var _ Source = (*TreeSource)(nil)

// NewTreeSource returns a Source over snap, which must return the newest state and be quick.
func NewTreeSource(snap func() *kv.Snap) *TreeSource {
	return &TreeSource{snap: snap, services: make(map[string]*known)}
}

// Service implements Source. When nothing has changed it costs one look at the index of the service's directory.
func (t *TreeSource) Service(_ context.Context, name string) (*Answer, error) {
	s := t.snap()
	if s == nil {
		return nil, ErrUnreachable
	}
	t.mu.RLock()
	k := t.services[name]
	t.mu.RUnlock()
	var epoch uint64
	if t.guard != nil {
		epoch = t.guard.Epoch()
	}
	if k != nil && s.IndexOf(k.path) == k.answer.Index && k.epoch == epoch {
		return k.answer, nil
	}
	path := catalog.InstancesPath(name)
	a := &Answer{Instances: catalog.Instances(s, name), Index: s.IndexOf(path)}
	if t.guard != nil {
		a.Instances = t.guard.Judge(path, a.Index, a.Instances).Instances
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	switch {
	case len(a.Instances) == 0:
		delete(t.services, name) // names nobody registered are not worth memory
	case k != nil && t.services[name] != k && t.services[name] != nil && t.services[name].answer.Index == a.Index && t.services[name].epoch == epoch:
		return t.services[name].answer, nil // somebody else was quicker
	default:
		if len(t.services) >= maxKnown {
			clear(t.services)
		}
		t.services[name] = &known{path, a, epoch}
	}
	return a, nil
}

// Peek implements Source.
func (t *TreeSource) Peek(name string) *Answer {
	a, err := t.Service(context.Background(), name)
	if err != nil {
		return nil
	}
	return a
}

// Node implements Source.
func (t *TreeSource) Node(_ context.Context, name string) (*catalog.Node, bool, error) {
	s := t.snap()
	if s == nil {
		return nil, false, ErrUnreachable
	}
	n, ok := catalog.GetNode(s, name)
	if !ok {
		return nil, false, nil
	}
	return n, false, nil
}

// Guard sets who says what to show of a service. Call it before the first question.
func (t *TreeSource) Guard(g *guard.Services) { t.guard = g }

// SortNear tells how to order instances by their distance from a node, for prepared queries that want it. Call it before
// the first question.
func (t *TreeSource) SortNear(f func(s *kv.Snap, node string, list []*catalog.Instance)) { t.near = f }

// Query implements Source. "Near the client" is near the node that has its address.
func (t *TreeSource) Query(_ context.Context, name string, client netip.Addr) (*QueryAnswer, error) {
	s := t.snap()
	if s == nil {
		return nil, ErrUnreachable
	}
	q, ok := catalog.FindQuery(s, name)
	if !ok {
		return nil, nil
	}
	list := catalog.Instances(s, q.Service.Service)
	if t.guard != nil {
		path := catalog.InstancesPath(q.Service.Service)
		list = t.guard.Judge(path, s.IndexOf(path), list).Instances
	}
	a := &QueryAnswer{Answer: Answer{Instances: q.SelectFrom(list), Index: s.Index()}, Service: strings.ToLower(q.Service.Service)}
	if ttl, ok := q.QueryTTL(); ok {
		a.TTL = &ttl
	}
	near := q.Service.Near
	if near == "_ip" {
		near = t.reverseOf(s).owners[client.Unmap()].Node
	}
	if near != "" && t.near != nil {
		a.Instances, a.Ordered = slices.Clone(a.Instances), true
		t.near(s, near, a.Instances)
	}
	return a, nil
}

// Servers implements Source.
func (t *TreeSource) Servers(ctx context.Context) ([]*catalog.Node, error) {
	a, err := t.Service(ctx, serverService)
	if err != nil {
		return nil, err
	}
	return nodesOf(a), nil
}

// nodesOf are the nodes of the instances that are not critical, each once.
func nodesOf(a *Answer) []*catalog.Node {
	var nodes []*catalog.Node
	for _, in := range catalog.Choose(a.Instances, "", false) {
		if n := len(nodes); n == 0 || nodes[n-1].Name != in.Node.Name {
			nodes = append(nodes, in.Node)
		}
	}
	return nodes
}

// reverseIndex is every address of a snapshot.
type reverseIndex struct {
	index  uint64 // of the catalog it was made of
	fresh  time.Time
	owners map[netip.Addr]Owner
}

// reversePause times the time it took: how long an index is used although the catalog has changed since. Making it
// reads the whole catalog, so it must not be made as often as somebody asks.
const reversePause = 10

// Reverse implements Source. It may be behind by ten times the time one reading of the catalog takes.
func (t *TreeSource) Reverse(_ context.Context, addr netip.Addr) (Owner, error) {
	s := t.snap()
	if s == nil {
		return Owner{}, ErrUnreachable
	}
	return t.reverseOf(s).owners[addr.Unmap()], nil
}

func (t *TreeSource) reverseOf(s *kv.Snap) *reverseIndex {
	index := s.IndexOf(catalog.ChecksPath()) // moves with everything in the catalog
	good := func(r *reverseIndex) bool {
		return r != nil && (r.index == index || time.Now().Before(r.fresh))
	}
	if r := t.reverse.Load(); good(r) {
		return r
	}
	t.reverseMu.Lock()
	defer t.reverseMu.Unlock()
	if r := t.reverse.Load(); good(r) {
		return r
	}
	began := time.Now()
	r := &reverseIndex{index: index, owners: make(map[netip.Addr]Owner)}
	note := func(text string, o Owner) {
		if a, err := netip.ParseAddr(text); err == nil {
			if _, taken := r.owners[a.Unmap()]; !taken {
				r.owners[a.Unmap()] = o
			}
		}
	}
	all := catalog.Nodes(s)
	for _, n := range all {
		note(n.Address, Owner{Node: n.Name})
	}
	for _, n := range all {
		for _, svc := range catalog.ServicesOf(s, n.Name) {
			note(svc.Address, Owner{Service: svc.Name})
		}
	}
	r.fresh = time.Now().Add(reversePause * time.Since(began))
	t.reverse.Store(r)
	return r
}

// placeIndex says where the nodes stand that say so.
type placeIndex struct {
	made  time.Time
	of    map[netip.Addr]catalog.Locality
	aging atomic.Bool // somebody makes the next
}

// placesFresh is how long a placeIndex is used: machines do not move, and making it reads all nodes.
const placesFresh = 10 * time.Second

// Place says where the node with an address stands, in lower case. It may be behind by placesFresh.
func (t *TreeSource) Place(addr netip.Addr) (catalog.Locality, bool) {
	p := t.places.Load()
	if p == nil || time.Since(p.made) > placesFresh && p.aging.CompareAndSwap(false, true) {
		s := t.snap()
		if s == nil {
			return catalog.Locality{}, false
		}
		p = &placeIndex{made: time.Now(), of: map[netip.Addr]catalog.Locality{}}
		for _, n := range catalog.Nodes(s) {
			at := catalog.PlaceOf(n.Locality, n.Meta)
			if a, err := netip.ParseAddr(n.Address); err == nil && at != (catalog.Place{}) {
				p.of[a.Unmap()] = catalog.Locality(at)
			}
		}
		t.places.Store(p)
	}
	l, ok := p.of[addr]
	return l, ok
}
