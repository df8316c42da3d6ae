package guard_test

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/musterhq/muster/catalog"
	"github.com/musterhq/muster/guard"
)

// fleet is a service as the catalog has it.
type fleet struct {
	index uint64
	list  []*catalog.Instance
}

func newFleet(n int) *fleet {
	f := &fleet{index: 10}
	for i := range n {
		f.add(fmt.Sprint("n", i), catalog.Passing)
	}
	return f
}

func instance(node string, status catalog.Status) *catalog.Instance {
	return &catalog.Instance{
		Node: &catalog.Node{Name: node}, Service: &catalog.Service{ID: "web", Name: "Web"}, Status: status,
		Checks: []*catalog.Check{{Node: node, ID: "c", Status: status}},
	}
}

func (f *fleet) add(node string, status catalog.Status) {
	f.index++
	f.list = append(slices.Clone(f.list), instance(node, status))
}

func (f *fleet) turn(i int, status catalog.Status) {
	f.index++
	f.list = slices.Clone(f.list)
	f.list[i] = instance(f.list[i].Node.Name, status)
}

func healthy(j guard.Judgement) int { return len(catalog.PassingOnly(j.Instances)) }

const webKey = "v/s/web"

func newServices(events *[]guard.Event) *guard.Services {
	g := guard.New(guard.Config{Rules: guard.DefaultRules(), OnEvent: func(e guard.Event) { *events = append(*events, e) }})
	g.Begin()
	return g
}

func TestServicesGiveWayInTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var events []guard.Event
		g, f := newServices(&events), newFleet(10)
		g.Judge(webKey, f.index, f.list)
		for i := range 8 {
			f.turn(i, catalog.Critical)
		}
		before := g.Epoch()
		j := g.Judge(webKey, f.index, f.list)
		if healthy(j) != 10 || j.Hold == nil || j.Hold.Lost != 8 || j.Hold.Of != 10 || j.Hold.Service != "Web" || !g.Holding() || g.Epoch() == before {
			t.Fatalf("%d of 10 are shown, %+v", healthy(j), j.Hold)
		}
		if j.Index >= f.index {
			t.Errorf("the index %d of what is shown leaves no room below %d", j.Index, f.index)
		}
		if next := g.Expire(); time.Until(next) != guard.DefaultRules().Hold {
			t.Errorf("it gives way in %v", time.Until(next))
		}
		changed := g.Changed()
		time.Sleep(guard.DefaultRules().Hold)
		g.Expire()
		select {
		case <-changed:
		default:
			t.Error("nobody is woken")
		}
		if j = g.Judge(webKey, f.index, f.list); healthy(j) != 2 || j.Hold != nil || j.Index != f.index || g.Holding() {
			t.Fatalf("after the time %d are shown, %+v", healthy(j), j.Hold)
		}
		if len(events) != 2 || events[0].Ended || !events[1].Ended || events[1].Reason != guard.Expired {
			t.Fatalf("events %+v", events)
		}
	})
}

func TestServicesRecover(t *testing.T) {
	var events []guard.Event
	g, f := newServices(&events), newFleet(6)
	g.Judge(webKey, f.index, f.list)
	for i := range 6 {
		f.turn(i, catalog.Warning)
	}
	if j := g.Judge(webKey, f.index, f.list); healthy(j) != 6 {
		t.Fatalf("six with a warning: %d passing are shown", healthy(j))
	}
	for i := range 4 {
		f.turn(i, catalog.Passing)
	}
	if j := g.Judge(webKey, f.index, f.list); healthy(j) != 4 || j.Hold != nil {
		t.Fatalf("four are back: %d, %+v", healthy(j), j.Hold)
	}
	if len(events) != 2 || events[1].Reason != guard.Recovered {
		t.Fatalf("events %+v", events)
	}
}

func TestServicesBelieveBeforeBegin(t *testing.T) {
	g, f := guard.New(guard.Config{Rules: guard.DefaultRules()}), newFleet(6)
	g.Judge(webKey, f.index, f.list)
	for i := range 6 {
		f.turn(i, catalog.Critical)
	}
	if j := g.Judge(webKey, f.index, f.list); healthy(j) != 0 {
		t.Fatal("something is held before Begin")
	}
}

func TestServicesFollowAnInstanceThatMoves(t *testing.T) {
	var events []guard.Event
	g, f := newServices(&events), newFleet(6)
	g.Judge(webKey, f.index, f.list)
	for i := range 6 {
		f.turn(i, catalog.Critical)
	}
	f.list[2].Service.Port = 99
	if j := g.Judge(webKey, f.index, f.list); j.Instances[2].Service.Port != 99 || j.Instances[2].Status != catalog.Passing {
		t.Fatalf("shown %+v", j.Instances[2])
	}
}

// TestIndexMovesWithWhatIsShown: a client that waits for an index beyond the one it has misses no change of what is
// shown, but for those that Turn tells apart, and indexes never go back.
func TestIndexMovesWithWhatIsShown(t *testing.T) {
	for seed := range uint64(60) {
		synctest.Test(t, func(t *testing.T) {
			var events []guard.Event
			r := rand.New(rand.NewPCG(seed, 7))
			g, f := newServices(&events), newFleet(5+r.IntN(8))
			last := g.Judge(webKey, f.index, f.list)
			for step := range 60 {
				time.Sleep(time.Duration(r.IntN(20)) * time.Second)
				switch r.IntN(12) {
				case 0:
					g.Release(webKey)
				case 1:
					f.add(fmt.Sprint("x", step), catalog.Passing)
				case 2:
					if len(f.list) > 0 {
						f.index++
						f.list = f.list[1:]
					}
				case 3:
					g.Expire()
				default:
					for range 1 + r.IntN(len(f.list)+1) {
						if len(f.list) > 0 {
							f.turn(r.IntN(len(f.list)), []string{catalog.Passing, catalog.Critical, catalog.Critical}[r.IntN(3)])
						}
					}
				}
				j := g.Judge(webKey, f.index, f.list)
				if j.Index < last.Index {
					t.Fatalf("seed %d step %d: the index went from %d to %d", seed, step, last.Index, j.Index)
				}
				same := slices.EqualFunc(j.Instances, last.Instances, func(a, b *catalog.Instance) bool {
					return a.Node.Name == b.Node.Name && a.Status == b.Status
				})
				if !same && j.Index == last.Index && j.Turn == last.Turn {
					t.Fatalf("seed %d step %d: at index %d two things are shown", seed, step, j.Index)
				}
				if len(j.Instances) != len(f.list) {
					t.Fatalf("seed %d step %d: %d are shown of %d registered", seed, step, len(j.Instances), len(f.list))
				}
				last = j
			}
			held := 0
			for _, e := range events {
				if e.Ended {
					held--
				} else {
					held++
				}
			}
			if want := len(g.Holds()); held != want || g.Holding() != (want == 1) {
				t.Fatalf("seed %d: events say %d holds, there are %d", seed, held, want)
			}
		})
	}
}

func BenchmarkJudgeSettled(b *testing.B) {
	var events []guard.Event
	g, f := newServices(&events), newFleet(50)
	g.Judge(webKey, f.index, f.list)
	b.ReportAllocs()
	for b.Loop() {
		g.Judge(webKey, f.index, f.list)
	}
}

func BenchmarkJudgeChange(b *testing.B) {
	var events []guard.Event
	g, f := newServices(&events), newFleet(1000)
	b.ReportAllocs()
	for b.Loop() {
		f.index++
		g.Judge(webKey, f.index, f.list)
	}
}
