package guard

import (
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/musterhq/muster/catalog"
)

// Config of a Services. Now and OnEvent may be nil.
type Config struct {
	Rules   Rules
	Now     func() time.Time
	OnEvent func(Event) // called once when a hold begins and once when it ends, with no lock held
}

// Event is the beginning or the end of a hold.
type Event struct {
	Hold
	Ended  bool
	Reason Reason // of the end
}

// Hold is one service whose last good set is kept.
type Hold struct {
	Service string
	Lost    int       // instances shown as they were, not as they are said to be
	Of      int       // those and the ones that serve
	Since   time.Time // when it began
	Until   time.Time // when it gives way by itself
}

// String is the form of the header and of the log.
func (h Hold) String() string {
	return fmt.Sprintf("%s held %d of %d until %s", h.Service, h.Lost, h.Of, h.Until.UTC().Format(time.RFC3339))
}

// Judgement is what to show of a service.
type Judgement struct {
	Instances []*catalog.Instance // in the order they were given; the list itself while nothing is held
	// Index moves when Instances does. While something is held it stays behind the index of the catalog, so that it can
	// move when the hold ends although the catalog has not changed.
	Index uint64
	Hold  *Hold  // nil: everything is shown as it is
	Turn  uint64 // tells apart what was shown at one Index, 0 while nothing is held
}

// Services guards the instances of all services. Its methods are safe for concurrent use.
//
// Two states of a service that follow each other must both reach it, or the fall between them is not seen: call Judge
// for each change, also when nobody asks.
type Services struct {
	cfg     Config
	begun   atomic.Bool
	holding atomic.Int64
	epoch   atomic.Uint64
	told    atomic.Int64 // unix nanoseconds when an operator said last that everything is true

	mu      sync.RWMutex
	sets    map[string]*service
	changed chan struct{}
}

// service is one guarded service.
type service struct {
	name  string // as its first instance spelt it
	set   *Set[*catalog.Instance]
	raw   []*catalog.Instance // as last given
	seen  []Member[*catalog.Instance]
	index uint64
	shown Judgement
}

// New makes a Services that believes everything until Begin.
func New(c Config) *Services {
	if c.Now == nil {
		c.Now = time.Now
	}
	return &Services{cfg: c, sets: map[string]*service{}, changed: make(chan struct{})}
}

// Begin begins to guard. Before it an agent that reads its own past would take that for a mass death.
func (g *Services) Begin() { g.begun.Store(true) }

// Begun says whether Begin was called.
func (g *Services) Begun() bool { return g.begun.Load() }

// Epoch changes whenever what is shown of any service changes although its instances do not, and with Believe. One atomic load.
func (g *Services) Epoch() uint64 { return g.epoch.Load() }

// Holding says whether anything is held. One atomic load.
func (g *Services) Holding() bool { return g.holding.Load() != 0 }

// Changed returns a channel that is closed when Epoch changes next.
func (g *Services) Changed() <-chan struct{} {
	g.mu.RLock()
	defer g.mu.RUnlock()
	return g.changed
}

// Judge takes all instances of a service, healthy or not, as they are at an index, and says what to show of them. The
// key is catalog.InstancesPath of the service. An index that is not newer than the last one changes nothing.
func (g *Services) Judge(key string, index uint64, list []*catalog.Instance) Judgement {
	if !g.begun.Load() {
		return g.early(key, index, list)
	}
	g.mu.RLock()
	j, ok := g.settled(key, index, list)
	g.mu.RUnlock()
	if ok {
		return j
	}
	g.mu.Lock()
	if j, ok := g.settled(key, index, list); ok { // somebody was quicker
		g.mu.Unlock()
		return j
	}
	s := g.sets[key]
	if s == nil {
		s = &service{name: strings.Clone(list[0].Service.Name), set: NewSet[*catalog.Instance](g.cfg.Rules)}
		g.sets[strings.Clone(key)] = s
	}
	now := g.cfg.Now()
	seen := members(list, s.raw, s.seen)
	s.raw, s.seen, s.index = list, seen, index
	reason := Recovered
	if s.set.Expire(now) {
		reason = Expired
	}
	s.set.See(seen, now)
	ev := g.show(s, reason)
	shown := s.shown
	if lost, _ := s.set.Count(); len(list) < g.cfg.Rules.MinInstances && lost == 0 {
		delete(g.sets, key)
	}
	g.mu.Unlock()
	g.tell(ev)
	return shown
}

// settled answers for what needs no judgement: services too small to be watched, and states that were judged already. The
// caller holds mu.
func (g *Services) settled(key string, index uint64, list []*catalog.Instance) (Judgement, bool) {
	s := g.sets[key]
	switch {
	case s == nil:
		return Judgement{Instances: list, Index: index}, len(list) < g.cfg.Rules.MinInstances
	case index > s.index:
		return Judgement{}, false
	case index < s.index && s.shown.Hold == nil:
		return Judgement{Instances: list, Index: index}, true // the reader's own, older state
	}
	return s.shown, true
}

// show makes what is shown of s anew and returns the event in it, if any. The caller holds mu.
func (g *Services) show(s *service, reason Reason) *Event {
	was := s.shown.Hold
	since, until, held := s.set.Held()
	if !held {
		s.shown = Judgement{Instances: s.raw, Index: s.index}
		if was == nil {
			return nil
		}
		g.holding.Add(-1)
		g.turn()
		return &Event{Hold: *was, Ended: true, Reason: reason}
	}
	h := &Hold{Service: s.name, Since: since, Until: until}
	h.Lost, h.Of = s.set.Count()
	list := make([]*catalog.Instance, len(s.raw))
	for i, in := range s.raw {
		list[i] = in
		if good, ok := s.set.Kept(keyOf(in)); ok {
			list[i] = asBefore(in, good)
		}
	}
	prev := s.shown
	s.shown = Judgement{Instances: list, Index: prev.Index, Hold: h, Turn: prev.Turn}
	if !slices.EqualFunc(list, prev.Instances, sameShown) {
		s.shown.Index = max(prev.Index, s.index-1)
	}
	if was == nil || s.shown.Index != prev.Index || *was != *h {
		g.turn()
		s.shown.Turn = g.epoch.Load()
	}
	if was == nil {
		g.holding.Add(1)
		return &Event{Hold: *h}
	}
	return nil
}

// turn wakes whoever waits for a change. The caller holds mu.
func (g *Services) turn() {
	g.epoch.Add(1)
	close(g.changed)
	g.changed = make(chan struct{})
}

func (g *Services) tell(ev *Event) {
	if ev != nil && g.cfg.OnEvent != nil {
		g.cfg.OnEvent(*ev)
	}
}

// Expire gives way where the time is over, and returns when to call it again; the zero time means that nothing is held.
func (g *Services) Expire() (next time.Time) {
	now := g.cfg.Now()
	g.each("", func(s *service) *Event {
		was := s.shown.Hold
		if !s.set.Expire(now) {
			if was != nil && (next.IsZero() || was.Until.Before(next)) {
				next = was.Until
			}
			return nil
		}
		return g.show(s, Expired)
	})
	return next
}

// Release believes the losses of the service with a key, or of all when that is empty, and says of how many services.
func (g *Services) Release(key string) (n int) {
	now := g.cfg.Now()
	if key == "" {
		g.Believe()
	}
	g.each(key, func(s *service) *Event {
		if s.shown.Hold == nil {
			return nil
		}
		n++
		s.set.Release(now)
		return g.show(s, Released)
	})
	return n
}

// Believe notes that what was kept in place of older or emptier data is to be given up, whoever kept it, and wakes
// them: see Changed.
func (g *Services) Believe() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.told.Store(g.cfg.Now().UnixNano())
	g.turn()
}

// ReleasedSince says whether Believe was called, or everything released, after t.
func (g *Services) ReleasedSince(t time.Time) bool { return g.told.Load() > t.UnixNano() }

// each runs f on one service, or on all, and tells the events.
func (g *Services) each(key string, f func(*service) *Event) {
	var events []*Event
	g.mu.Lock()
	for k, s := range g.sets {
		if key == "" || k == key {
			events = append(events, f(s))
		}
		if s.index == 0 && s.shown.Hold == nil {
			delete(g.sets, k) // restored, and never seen since
		}
	}
	g.mu.Unlock()
	for _, ev := range events {
		g.tell(ev)
	}
}

// Holds lists what is held, by service.
func (g *Services) Holds() []Hold {
	var out []Hold
	g.each("", func(s *service) *Event {
		if s.shown.Hold != nil {
			out = append(out, *s.shown.Hold)
		}
		return nil
	})
	slices.SortFunc(out, func(a, b Hold) int { return strings.Compare(a.Service, b.Service) })
	return out
}

// Watched is how many services have enough instances to be guarded.
func (g *Services) Watched() int {
	g.mu.Lock()
	defer g.mu.Unlock()
	return len(g.sets)
}

// Guarded gives the keys of the services that are watched, with the index each was seen at: whoever feeds Judge looks here for those that the
// catalog no longer has.
func (g *Services) Guarded() map[string]uint64 {
	g.mu.Lock()
	defer g.mu.Unlock()
	out := make(map[string]uint64, len(g.sets))
	for n, s := range g.sets {
		out[n] = s.index
	}
	return out
}

func keyOf(in *catalog.Instance) string { return in.Node.Name + "\x00" + in.Service.ID }

// members turns instances into members: passing is better than warning, critical serves nobody. Maintenance is asked for.
// before are the members of prev, from which those are taken that are the same.
func members(list, prev []*catalog.Instance, before []Member[*catalog.Instance]) []Member[*catalog.Instance] {
	out := make([]Member[*catalog.Instance], len(list))
	for i, in := range list {
		if i < len(prev) && prev[i] == in {
			out[i] = before[i]
			continue
		}
		out[i] = Member[*catalog.Instance]{Key: keyOf(in), Rank: rank(in.Status), Value: in}
		if out[i].Rank == 0 {
			out[i].Asked = in.Status == catalog.Maintenance || catalog.Aggregate(in.Checks) == catalog.Maintenance
		}
	}
	return out
}

func rank(status catalog.Status) int {
	switch status {
	case catalog.Passing:
		return 2
	case catalog.Warning:
		return 1
	}
	return 0
}

// asBefore is the instance as it is registered now, with the health it had.
func asBefore(now, good *catalog.Instance) *catalog.Instance {
	if now.Node == good.Node && now.Service == good.Service {
		return good
	}
	return &catalog.Instance{Node: now.Node, Service: now.Service, Checks: good.Checks, Status: good.Status}
}

// sameShown says whether two instances look the same to clients.
func sameShown(a, b *catalog.Instance) bool {
	return a == b || a.Node == b.Node && a.Service == b.Service && a.Status == b.Status && slices.Equal(a.Checks, b.Checks)
}
