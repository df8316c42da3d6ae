package guard

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"testing"
	"time"
)

// seen is one observation, or a release when all is nil.
type seen struct {
	at   time.Time
	all  map[string]Member[string]
	held bool // a hold was on when it came
}

// oracle is the rule told once more, as slowly as possible: it keeps all that was ever seen and works out the losses
// from the beginning each time.
type oracle struct {
	rules   Rules
	history []seen
	since   time.Time // of the hold, zero when there is none
	quiet   time.Time
}

// losses gives what each lost member was.
func (o *oracle) losses() map[string]string {
	lost := map[string]string{}
	last := o.history[len(o.history)-1]
	for key := range last.all {
		var best Member[string] // what it was before it fell, Key "" when it did not fall
		var fell time.Time
		var prev *Member[string]
		for _, s := range o.history {
			m, ok := s.all[key]
			switch {
			case s.all == nil: // released: believed
				best.Key = ""
				continue
			case !ok:
				best.Key, prev = "", nil
				continue
			}
			if best.Key != "" && !s.held && s.at.Sub(fell) >= o.rules.Window {
				best.Key = ""
			}
			switch {
			case prev == nil, m.Asked, best.Key != "" && m.Rank >= best.Rank:
				best.Key = ""
			case m.Rank < prev.Rank:
				if best.Key == "" {
					best = *prev
				}
				fell = s.at
			}
			prev = &m
		}
		if best.Key != "" {
			lost[key] = best.Value
		}
	}
	return lost
}

func (o *oracle) see(at time.Time, all map[string]Member[string]) {
	o.history = append(o.history, seen{at, all, !o.since.IsZero()})
	lost := o.losses()
	of := len(lost)
	for key, m := range all {
		if _, is := lost[key]; !is && m.Rank > 0 {
			of++
		}
	}
	unlikely := float64(len(lost)) > o.rules.MaxShare*float64(of)
	if o.since.IsZero() && unlikely && of >= o.rules.MinInstances && !at.Before(o.quiet) {
		o.since = at
	} else if !unlikely {
		o.since = time.Time{}
	}
}

func (o *oracle) release(at time.Time) {
	o.history = append(o.history, seen{at: at})
	o.since, o.quiet = time.Time{}, at.Add(o.rules.Window)
}

func TestSetAgainstOracle(t *testing.T) {
	rules := Rules{MinInstances: 4, MaxShare: 0.5, Window: 10 * time.Second, Hold: 40 * time.Second}
	holds := 0
	for seed := range uint64(150) {
		r := rand.New(rand.NewPCG(seed, 1))
		set, o := NewSet[string](rules), &oracle{rules: rules}
		now := time.Unix(1_000_000, 0)
		all := map[string]Member[string]{}
		for step := range 60 {
			now = now.Add(time.Duration(r.IntN(6)) * time.Second)
			all = mutate(r, all, step)
			what := fmt.Sprintf("seed %d step %d", seed, step)
			switch _, until, held := set.Held(); {
			case held && r.IntN(25) == 0:
				set.Release(now)
				o.release(now)
			case held && !now.Before(until):
				if !set.Expire(now) {
					t.Fatalf("%s: a hold outlived its time", what)
				}
				o.release(now)
			default:
				if set.Expire(now) {
					t.Fatalf("%s: gave way before its time", what)
				}
			}
			list := make([]Member[string], 0, len(all))
			for _, m := range all {
				list = append(list, m)
			}
			set.See(list, now)
			o.see(now, maps.Clone(all))

			since, until, held := set.Held()
			if held != !o.since.IsZero() || held && (!since.Equal(o.since) || until.Sub(since) != rules.Hold) {
				t.Fatalf("%s: held %v since %v, the oracle since %v", what, held, since, o.since)
			}
			if !held {
				for key := range all {
					if v, ok := set.Kept(key); ok {
						t.Fatalf("%s: %s is kept as %s while nothing is held", what, key, v)
					}
				}
				continue
			}
			holds++
			want := o.losses()
			for key, m := range all {
				v, ok := set.Kept(key)
				if w, is := want[key]; is != ok || v != w {
					t.Fatalf("%s: %s (%+v) is kept as %q %v, the oracle says %q %v", what, key, m, v, ok, w, is)
				}
				if ok && m.Asked {
					t.Fatalf("%s: %s was asked to go and is kept", what, key)
				}
			}
		}
	}
	if holds < 200 {
		t.Fatalf("only %d steps were held: the test does not test", holds)
	}
}

// mutate gives the next state: single changes, and now and then many at once.
func mutate(r *rand.Rand, all map[string]Member[string], step int) map[string]Member[string] {
	next := maps.Clone(all)
	set := func(key string, rank int, asked bool) {
		next[key] = Member[string]{Key: key, Rank: rank, Asked: asked && rank == 0, Value: fmt.Sprintf("%s@%d/%d", key, step, rank)}
	}
	if len(next) == 0 {
		for i := range 3 + r.IntN(10) {
			set(fmt.Sprint("i", i), 2, false)
		}
		return next
	}
	share := []int{0, 0, 10, 10, 30, 80}[r.IntN(6)]
	to := r.IntN(3)
	for key := range all {
		switch {
		case r.IntN(100) >= share:
		case r.IntN(12) == 0:
			delete(next, key)
		default:
			set(key, to, r.IntN(10) == 0)
		}
	}
	if r.IntN(4) == 0 {
		set(fmt.Sprint("n", step), 2, false)
	}
	return next
}
