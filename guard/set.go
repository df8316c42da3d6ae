// Package guard holds back belief: when an unlikely share of a set (the instances of a service, the nodes of a
// cluster) would vanish at once without anybody having asked for it, the last good set is kept until the set
// recovers, a time is over, or an operator says that it is true.
//
//	g := guard.New(guard.Config{Rules: guard.DefaultRules()})
//	g.Begin()
//	j := g.Judge("web", index, catalog.Instances(snap, "web")) // j.Instances is what to show
//
// Set is the rule itself, pure: it is given what is seen and the time. Services applies it to the catalog.
package guard

import "time"

// Rules say what is unlikely and how long it is not believed.
type Rules struct {
	MinInstances int           // sets of fewer are never guarded
	MaxShare     float64       // of the set, between 0 and 1: a loss of more than that is not believed
	Window       time.Duration // losses within it are counted together
	Hold         time.Duration // longest time that the last good set is kept
}

// DefaultRules: more than half of at least five. Half of a set dies with its rack or its switch, and then the other
// half carries on; that more than half die within a minute is far less likely than that whoever reports it is cut off
// or that the check itself is wrong. Five minutes are enough for a link to heal or for somebody who is called to look, and
// not much longer than a caller's own patience with dead addresses.
func DefaultRules() Rules {
	return Rules{MinInstances: 5, MaxShare: 0.5, Window: time.Minute, Hold: 5 * time.Minute}
}

// Member is one element of a set as it is seen now. Asked says that a person wants it to be as it is: a loss that
// was asked for is believed at once. Elements that are no longer seen at all were removed, which is asked for too.
type Member[V any] struct {
	Key   string
	Rank  int // 0 serves nobody; higher is better
	Asked bool
	Value V
}

// Reason why a hold ended.
type Reason string

// Reasons.
const (
	Recovered Reason = "recovered"  // so much came back that the rest is a likely loss
	Expired   Reason = "time limit" // nobody decided
	Released  Reason = "operator"   // an operator said that the loss is true
)

// Set watches one set. The zero Set is not usable; see NewSet. It is not safe for concurrent use.
type Set[V any] struct {
	rules   Rules
	members map[string]*element[V]
	round   uint64
	held    bool
	since   time.Time
	until   time.Time
	quiet   time.Time // no hold begins before: what happens is known to be true
}

// element is a member with what is remembered of it. It is lost from the moment its rank fell until it is back at the
// rank it had, the window is over, or the loss has been believed.
type element[V any] struct {
	rank  int
	value V
	round uint64

	lost     bool
	at       time.Time // of the last fall
	good     V         // as it was before the first
	goodRank int
}

// NewSet makes a Set that knows nothing yet: what it sees first is believed.
func NewSet[V any](r Rules) *Set[V] {
	return &Set[V]{rules: r, members: map[string]*element[V]{}}
}

// See takes the whole set as it is now.
func (s *Set[V]) See(list []Member[V], now time.Time) {
	s.round++
	if !s.held {
		for _, e := range s.members {
			if e.lost && now.Sub(e.at) >= s.rules.Window {
				e.recover() // too few went with it: it is believed
			}
		}
	}
	for _, m := range list {
		e := s.members[m.Key]
		switch {
		case e == nil:
			e = &element[V]{}
			s.members[m.Key] = e
		case m.Asked || e.lost && m.Rank >= e.goodRank:
			e.recover()
		case m.Rank < e.rank:
			if !e.lost {
				e.good, e.goodRank = e.value, e.rank
			}
			e.lost, e.at = true, now
		}
		e.rank, e.value, e.round = m.Rank, m.Value, s.round
	}
	if len(s.members) > len(list) {
		for key, e := range s.members {
			if e.round != s.round {
				delete(s.members, key)
			}
		}
	}
	s.decide(now)
}

func (e *element[V]) recover() {
	var none V
	e.lost, e.good = false, none
}

// decide begins a hold, or ends one that has no reason any more.
func (s *Set[V]) decide(now time.Time) {
	lost, of := s.Count()
	unlikely := float64(lost) > s.rules.MaxShare*float64(of)
	switch {
	case !s.held && unlikely && of >= s.rules.MinInstances && !now.Before(s.quiet):
		s.held, s.since, s.until = true, now, now.Add(s.rules.Hold)
	case s.held && !unlikely:
		s.held = false
	}
}

// Count is how many are lost, and of how many: those that serve and those that are lost.
func (s *Set[V]) Count() (lost, of int) {
	for _, e := range s.members {
		if e.lost {
			lost++
			of++
		} else if e.rank > 0 {
			of++
		}
	}
	return lost, of
}

// Held says whether the last good set is being kept, since when and at most until when.
func (s *Set[V]) Held() (since, until time.Time, ok bool) { return s.since, s.until, s.held }

// Kept is what a member was before it was lost; ok is false when it is to be believed as it is.
func (s *Set[V]) Kept(key string) (good V, ok bool) {
	if !s.held {
		return good, false
	}
	e := s.members[key]
	if e == nil || !e.lost {
		return good, false
	}
	return e.good, true
}

// Expire gives way if the time of the hold is over.
func (s *Set[V]) Expire(now time.Time) bool {
	if !s.held || now.Before(s.until) {
		return false
	}
	s.Release(now)
	return true
}

// Release believes every loss so far, and those of the next window: whoever says that a loss is true means the rest of
// it as well.
func (s *Set[V]) Release(now time.Time) {
	for _, e := range s.members {
		e.recover()
	}
	s.held, s.quiet = false, now.Add(s.rules.Window)
}
