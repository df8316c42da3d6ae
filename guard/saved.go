package guard

import (
	"slices"
	"strings"
	"time"

	"github.com/musterhq/muster/catalog"
)

// SavedHold is a hold as it is kept over a restart of its holder.
type SavedHold struct {
	Key     string // see Services.Judge
	Service string
	Since   time.Time
	Until   time.Time
	Lost    []SavedInstance
}

// SavedInstance is a lost instance as it was when it was good.
type SavedInstance struct {
	Node, ID string // of the node and of the service
	Status   catalog.Status
	Checks   []SavedCheck
}

// SavedCheck is a check with the indexes that its own form leaves out.
type SavedCheck struct {
	catalog.Check
	Created, Modified uint64
}

// Save gives what is held, by key, for Restore. It is a copy.
func (g *Services) Save() []SavedHold {
	g.mu.RLock()
	defer g.mu.RUnlock()
	var out []SavedHold
	for key, s := range g.sets {
		h := s.shown.Hold
		if h == nil {
			continue
		}
		saved := SavedHold{Key: key, Service: h.Service, Since: h.Since, Until: h.Until}
		for _, good := range s.set.lost() {
			in := SavedInstance{Node: good.Node.Name, ID: good.Service.ID, Status: good.Status}
			for _, c := range good.Checks {
				in.Checks = append(in.Checks, SavedCheck{*c, c.Created, c.Modified})
			}
			saved.Lost = append(saved.Lost, in)
		}
		slices.SortFunc(saved.Lost, func(a, b SavedInstance) int { return strings.Compare(a.Node+"\x00"+a.ID, b.Node+"\x00"+b.ID) })
		out = append(out, saved)
	}
	slices.SortFunc(out, func(a, b SavedHold) int { return strings.Compare(a.Key, b.Key) })
	return out
}

// Restore goes on with holds that are not this guard's yet: its own of before a restart, or those of another agent that saw what this one
// missed. It returns those it took. What is over by now, held here already or known to be true is left out. What these services
// lost is held in whatever is seen of them, before Begin already.
func (g *Services) Restore(list []SavedHold) []Hold {
	now := g.cfg.Now()
	var out []Hold
	g.mu.Lock()
	defer g.mu.Unlock()
	for _, saved := range list {
		until := saved.Until
		if most := now.Add(g.cfg.Rules.Hold); until.After(most) { // another clock, or other rules
			until = most
		}
		if saved.Key == "" || len(saved.Lost) == 0 || !now.Before(until) {
			continue
		}
		s := g.sets[saved.Key]
		if s == nil {
			s = &service{name: saved.Service, set: NewSet[*catalog.Instance](g.cfg.Rules)}
		}
		if s.set.held || now.Before(s.set.quiet) {
			continue
		}
		for _, in := range saved.Lost {
			good := in.instance()
			s.set.restore(keyOf(good), rank(good.Status), good, saved.Since, s.index > 0)
		}
		lost, of := s.set.Count()
		if lost == 0 {
			continue
		}
		g.sets[saved.Key] = s
		s.set.held, s.set.since, s.set.until = true, saved.Since, until
		if s.index == 0 { // nothing was seen of it yet
			g.holding.Add(1)
			g.turn()
			s.shown = Judgement{Hold: &Hold{Service: saved.Service, Since: saved.Since, Until: until, Lost: lost, Of: of}, Turn: g.epoch.Load()}
		} else {
			s.set.See(s.seen, now) // what is in maintenance, or has come back, is not held
			g.show(s, Recovered)
		}
		if s.shown.Hold != nil {
			out = append(out, *s.shown.Hold)
		}
	}
	return out
}

// instance is what was saved, as good as it was.
func (in SavedInstance) instance() *catalog.Instance {
	good := &catalog.Instance{Node: &catalog.Node{Name: in.Node}, Service: &catalog.Service{ID: in.ID}, Status: in.Status}
	for _, c := range in.Checks {
		check := c.Check
		check.Created, check.Modified = c.Created, c.Modified
		good.Checks = append(good.Checks, &check)
	}
	return good
}

// early answers before Begin: everything is as it is said to be, but for what was restored. Nothing is concluded from what is seen, for
// it may be the agent's own past.
func (g *Services) early(key string, index uint64, list []*catalog.Instance) Judgement {
	j := Judgement{Instances: list, Index: index}
	if !g.Holding() {
		return j
	}
	g.mu.RLock()
	defer g.mu.RUnlock()
	s := g.sets[key]
	if s == nil || s.shown.Hold == nil || !g.cfg.Now().Before(s.shown.Hold.Until) {
		return j
	}
	j.Instances = slices.Clone(list)
	for i, m := range members(list, nil, nil) {
		if good, ok := s.set.Kept(m.Key); ok && !m.Asked && m.Rank < rank(good.Status) {
			j.Instances[i] = asBefore(m.Value, good)
		}
	}
	j.Index, j.Hold, j.Turn = max(index, 1)-1, s.shown.Hold, s.shown.Turn
	return j
}

// lost are the lost members as they were.
func (s *Set[V]) lost() []V {
	var out []V
	for _, e := range s.members {
		if e.lost {
			out = append(out, e.good)
		}
	}
	return out
}

// restore makes a member one that was lost at some time, if it is not as good as it was. Of a set that was seen, only members count.
func (s *Set[V]) restore(key string, goodRank int, good V, at time.Time, seen bool) {
	e := s.members[key]
	switch {
	case e == nil && seen, e != nil && e.rank >= goodRank:
		return
	case e == nil:
		e = &element[V]{}
		s.members[key] = e
	}
	e.lost, e.at, e.good, e.goodRank = true, at, good, goodRank
}
