package upstream

import (
	"math/rand/v2"
	"net"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/musterhq/muster/catalog"
)

// target is one instance at one address.
type target struct {
	key      string
	node, id string
	addr     string
	weight   int
	far      uint8

	open          map[*link]struct{}
	total, failed uint64
	failures      int       // to connect, since the last success
	until         time.Time // not before this, unless there is nothing else
	gone          time.Time // since when it is not to be used; zero: it is
}

// pool is the instances of one port and who is connected to which.
type pool struct {
	here catalog.Place

	mu        sync.Mutex
	version   any
	targets   map[string]*target
	usable    []*target // nearest first
	open      int
	ejections uint64
}

// ejectFirst is how long an instance is left alone after its first failure; each further one doubles it. It is short, for
// a refused connection may be a restart, and costs little, for the client is given to another one at once.
const ejectFirst = time.Second

// update takes a new state of the instances.
func (p *pool) update(list []*catalog.Instance, version any, now time.Time) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if version != nil && version == p.version {
		return
	}
	p.version = version
	if p.targets == nil {
		p.targets = make(map[string]*target)
	}
	usable := make([]*target, 0, len(list))
	seen := make(map[*target]bool, len(list))
	for _, in := range list {
		addr := net.JoinHostPort(in.Address(), strconv.Itoa(in.Service.Port))
		key := in.Node.Name + "\x00" + in.Service.ID + "\x00" + addr
		t := p.targets[key]
		if t == nil {
			t = &target{key: key, node: in.Node.Name, id: in.Service.ID, addr: addr, open: make(map[*link]struct{})}
			p.targets[key] = t
		}
		t.weight, t.far, t.gone = int(in.Weight()), p.here.Distance(in.Place()), time.Time{}
		usable, seen[t] = append(usable, t), true
	}
	slices.SortStableFunc(usable, func(a, b *target) int { return int(a.far) - int(b.far) })
	p.usable = usable
	for key, t := range p.targets {
		if seen[t] {
			continue
		}
		if t.gone.IsZero() {
			t.gone = now
		}
		if len(t.open) == 0 {
			delete(p.targets, key)
		}
	}
}

// pick chooses an instance that was not tried yet and counts the link to it: the nearest ones first, of these the less loaded of
// two drawn by weight. Ejected ones come last, the one whose time ends first at the front. Nil: there is none left.
func (p *pool) pick(l *link, tried []*target, now time.Time) *target {
	p.mu.Lock()
	defer p.mu.Unlock()
	var near, spare []*target
	for _, t := range p.usable {
		switch {
		case slices.Contains(tried, t):
		case t.until.After(now):
			spare = append(spare, t)
		case len(near) == 0 || near[0].far == t.far:
			near = append(near, t)
		}
	}
	var t *target
	switch {
	case len(near) > 0:
		t = lighter(draw(near), draw(near))
	case len(spare) > 0:
		t = slices.MinFunc(spare, func(a, b *target) int { return a.until.Compare(b.until) })
	default:
		return nil
	}
	t.open[l] = struct{}{}
	p.open++
	return t
}

// draw draws by weight; those of weight 0 only when there are no others.
func draw(list []*target) *target {
	sum := 0
	for _, t := range list {
		sum += t.weight
	}
	if sum == 0 {
		return list[rand.IntN(len(list))]
	}
	n := rand.IntN(sum)
	for _, t := range list {
		if n -= t.weight; n < 0 {
			return t
		}
	}
	return list[len(list)-1]
}

// lighter is the one that has fewer connections for its weight.
func lighter(a, b *target) *target {
	if (len(b.open)+1)*max(a.weight, 1) < (len(a.open)+1)*max(b.weight, 1) {
		return b
	}
	return a
}

// release ends the counting of a link.
func (p *pool) release(t *target, l *link) {
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(t.open, l)
	p.open--
	if !t.gone.IsZero() && len(t.open) == 0 && p.targets[t.key] == t {
		delete(p.targets, t.key)
	}
}

// connected notes a success.
func (p *pool) connected(t *target) {
	p.mu.Lock()
	defer p.mu.Unlock()
	t.total++
	t.failures, t.until = 0, time.Time{}
}

// failed notes that an instance could not be connected to, and says for how long it is left alone.
func (p *pool) failed(t *target, most time.Duration, now time.Time) time.Duration {
	p.mu.Lock()
	defer p.mu.Unlock()
	t.failed++
	if t.until.After(now) { // several clients may have met the same failure
		return t.until.Sub(now)
	}
	d := most
	if t.failures < 16 {
		d = min(ejectFirst<<t.failures, most)
	}
	t.failures++
	t.until = now.Add(d)
	p.ejections++
	return d
}

// overdue are the links to instances that have not been usable for as long as drain.
func (p *pool) overdue(drain time.Duration, now time.Time) []*link {
	p.mu.Lock()
	defer p.mu.Unlock()
	var out []*link
	for _, t := range p.targets {
		if !t.gone.IsZero() && now.Sub(t.gone) >= drain {
			for l := range t.open {
				out = append(out, l)
			}
		}
	}
	return out
}

// links are all of them.
func (p *pool) links() []*link {
	p.mu.Lock()
	defer p.mu.Unlock()
	var out []*link
	for _, t := range p.targets {
		for l := range t.open {
			out = append(out, l)
		}
	}
	return out
}

// state fills in what the pool knows.
func (p *pool) state(s *State, now time.Time) {
	p.mu.Lock()
	defer p.mu.Unlock()
	s.Open, s.Ejections = p.open, p.ejections
	s.Instances = make([]InstanceState, 0, len(p.targets))
	for _, t := range p.targets {
		i := InstanceState{
			Node: t.node, ID: t.id, Address: t.addr, Weight: t.weight, Distance: int(t.far),
			Open: len(t.open), Total: t.total, Failed: t.failed, Draining: !t.gone.IsZero(),
		}
		if t.until.After(now) {
			until := t.until.UTC()
			i.EjectedUntil = &until
		}
		s.Instances = append(s.Instances, i)
	}
	slices.SortFunc(s.Instances, func(a, b InstanceState) int {
		switch {
		case a.Distance != b.Distance:
			return a.Distance - b.Distance
		case a.Node != b.Node:
			return compare(a.Node, b.Node)
		}
		return compare(a.ID+a.Address, b.ID+b.Address)
	})
}

func compare(a, b string) int {
	if a < b {
		return -1
	}
	return 1
}
