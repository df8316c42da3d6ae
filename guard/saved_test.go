package guard_test

import (
	"encoding/json"
	"testing"
	"testing/synctest"
	"time"

	"github.com/musterhq/muster/catalog"
	"github.com/musterhq/muster/guard"
)

// restarted is a guard that goes on with what another held, by way of a file.
func restarted(t *testing.T, g *guard.Services, events *[]guard.Event) *guard.Services {
	t.Helper()
	text, err := json.Marshal(g.Save())
	if err != nil {
		t.Fatal(err)
	}
	var saved []guard.SavedHold
	if err := json.Unmarshal(text, &saved); err != nil {
		t.Fatal(err)
	}
	next := guard.New(guard.Config{Rules: guard.DefaultRules(), OnEvent: func(e guard.Event) { *events = append(*events, e) }})
	if got, want := len(next.Restore(saved)), len(g.Holds()); got != want {
		t.Fatalf("%d holds were restored, want %d", got, want)
	}
	return next
}

func TestHoldsOutliveARestart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var events []guard.Event
		g, f := newServices(&events), newFleet(10)
		f.list[9].Checks[0].Modified = 7
		g.Judge(webKey, f.index, f.list)
		for i := range 8 {
			f.turn(i, catalog.Critical)
		}
		f.turn(9, catalog.Critical)
		before := g.Judge(webKey, f.index, f.list)
		if healthy(before) != 10 || len(events) != 1 {
			t.Fatalf("%d are shown, events %v", healthy(before), events)
		}
		time.Sleep(time.Minute)
		g = restarted(t, g, &events)

		// Before it begins nothing is concluded: the agent may read its own past.
		young := newFleet(10)
		if j := g.Judge(webKey, young.index, young.list); healthy(j) != 10 {
			t.Errorf("of the past %d are shown", healthy(j))
		}
		early := g.Judge(webKey, f.index, f.list)
		if healthy(early) != 10 || early.Hold == nil || early.Index >= f.index || early.Instances[9].Checks[0].Modified != 7 {
			t.Errorf("before it begins: %d are shown, %+v", healthy(early), early)
		}
		if other := g.Judge("v/s/other", f.index, f.list); healthy(other) != 1 || other.Hold != nil {
			t.Errorf("another service: %+v", other)
		}
		g.Begin()
		after := g.Judge(webKey, f.index, f.list)
		if healthy(after) != 10 || after.Hold == nil || after.Hold.String() != before.Hold.String() || !after.Hold.Since.Equal(before.Hold.Since) || after.Turn == early.Turn && after.Index == early.Index {
			t.Errorf("after it has begun: %d are shown, hold %+v, want %+v", healthy(after), after.Hold, before.Hold)
		}
		f.list, f.index = f.list[1:], f.index+1 // one is removed: asked for
		if j := g.Judge(webKey, f.index, f.list); healthy(j) != 9 || j.Hold.Lost != 8 {
			t.Errorf("after a removal %d are shown, %+v", healthy(j), j.Hold)
		}
		g = restarted(t, g, &events)
		g.Begin()
		time.Sleep(3 * time.Minute)
		if next := g.Expire(); healthy(g.Judge(webKey, f.index, f.list)) != 9 || !next.Equal(before.Hold.Until) {
			t.Errorf("the time is not over: next at %s, want %s", next, before.Hold.Until)
		}
		if len(events) != 1 {
			t.Errorf("a restart is no news: %v", events)
		}
		time.Sleep(time.Minute)
		g.Expire()
		if j := g.Judge(webKey, f.index, f.list); healthy(j) != 1 || j.Hold != nil || g.Holding() {
			t.Errorf("the time is over: %d are shown, %+v", healthy(j), j.Hold)
		}
		if len(events) != 2 || events[1].Reason != guard.Expired {
			t.Errorf("events %v", events)
		}
	})
}

// TestHoldsAreLearnt: a guard that missed the losses takes what another holds, but for what it knows better.
func TestHoldsAreLearnt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var events []guard.Event
		g, f := newServices(&events), newFleet(10)
		g.Judge(webKey, f.index, f.list)
		for i := range 10 {
			f.turn(i, catalog.Critical)
		}
		g.Judge(webKey, f.index, f.list)
		saved := g.Save()

		missed := newServices(&events)
		f.turn(0, catalog.Passing)     // has come back
		f.turn(1, catalog.Maintenance) // is asked for
		f.list = f.list[:9]            // one was removed
		if j := missed.Judge(webKey, f.index, f.list); healthy(j) != 1 {
			t.Fatalf("what is seen first is believed, not %d", healthy(j))
		}
		epoch := missed.Epoch()
		if held := missed.Restore(saved); len(held) != 1 || held[0].Lost != 7 || held[0].Of != 8 {
			t.Errorf("learnt: %v", held)
		}
		if j := missed.Judge(webKey, f.index, f.list); healthy(j) != 8 || j.Hold == nil || missed.Epoch() == epoch {
			t.Errorf("%d are shown, %+v", healthy(j), j.Hold)
		}
		if held := missed.Restore(saved); len(held) != 0 {
			t.Errorf("learnt twice: %v", held)
		}
		missed.Release(webKey)
		if held := missed.Restore(saved); len(held) != 0 || healthy(missed.Judge(webKey, f.index, f.list)) != 1 {
			t.Errorf("learnt against an operator's word: %v", held)
		}

		well := newServices(&events) // it sees that all is well
		ok := newFleet(10)
		well.Judge(webKey, ok.index, ok.list)
		if held := well.Restore(saved); len(held) != 0 || well.Holding() {
			t.Errorf("learnt although all are well: %v", held)
		}
	})
}

func TestRestoredHoldsEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var events []guard.Event
		begin := func() (*guard.Services, *fleet) {
			g, f := newServices(&events), newFleet(6)
			g.Judge(webKey, f.index, f.list)
			for i := range 6 {
				f.turn(i, catalog.Critical)
				g.Judge(webKey, f.index, f.list)
			}
			events = nil
			g = restarted(t, g, &events)
			g.Begin()
			return g, f
		}
		g, f := begin()
		for i := range 6 { // they had come back when it looked first
			f.turn(i, catalog.Passing)
		}
		if j := g.Judge(webKey, f.index, f.list); healthy(j) != 6 || j.Hold != nil || len(events) != 1 || events[0].Reason != guard.Recovered {
			t.Errorf("recovered: %+v, events %v", j, events)
		}
		g, f = begin()
		if n := g.Release(webKey); n != 1 || healthy(g.Judge(webKey, f.index, f.list)) != 0 || len(events) != 1 || events[0].Reason != guard.Released {
			t.Errorf("released %d, events %v", n, events)
		}
		g, _ = begin() // nobody ever asks
		time.Sleep(5 * time.Minute)
		if g.Expire(); len(events) != 1 || g.Holding() || g.Watched() != 0 {
			t.Errorf("never seen: events %v, %d watched", events, g.Watched())
		}
		g, f = begin() // long after
		saved := g.Save()
		time.Sleep(10 * time.Minute)
		late := guard.New(guard.Config{Rules: guard.DefaultRules()})
		if held := late.Restore(saved); len(held) != 0 || healthy(late.Judge(webKey, f.index, f.list)) != 0 {
			t.Errorf("what was over is held: %v", held)
		}
		saved[0].Until = time.Now().Add(24 * time.Hour) // a clock that was turned back
		if held := late.Restore(saved); len(held) != 1 || held[0].Until.After(time.Now().Add(5*time.Minute)) {
			t.Errorf("held beyond the limit: %v", held)
		}
	})
}
