package agent

import (
	"fmt"
	"testing"
	"time"

	"github.com/musterhq/muster/guard"
)

// nodesOf makes n nodes of which the first silent do not answer.
func nodesOf(n, silent int, proof bool) []nodeSeen {
	list := make([]nodeSeen, n)
	for i := range list {
		list[i] = nodeSeen{name: fmt.Sprint("N", i), alive: i >= silent, proof: proof && i < silent}
	}
	return list
}

func TestNodeGuardHoldsSilenceButNotProof(t *testing.T) {
	now := time.Unix(1000, 0)
	for _, c := range []struct {
		what   string
		silent int
		proof  bool
		held   int
	}{
		{"half is believed", 4, false, 0},
		{"more is not", 5, false, 5},
		{"proof is", 8, true, 0},
	} {
		g := newNodeGuard(guard.DefaultRules())
		g.lead(true)
		g.see(nodesOf(8, 0, false), now)
		held, began := g.see(nodesOf(8, c.silent, c.proof), now.Add(time.Second))
		if len(held) != c.held || began != (c.held > 0) || len(g.state().Unknown) != c.held {
			t.Errorf("%s: held %v, state %+v", c.what, held, g.state())
		}
		if c.held == 0 {
			continue
		}
		if late := now.Add(2 * guard.DefaultRules().Hold); !g.due(late) {
			t.Error("the time is not over")
		} else if held, _ := g.see(nodesOf(8, c.silent, c.proof), late); len(held) != 0 {
			t.Errorf("after the time %v are held", held)
		}
	}
}

func TestNodeGuardRestarts(t *testing.T) {
	now := time.Unix(1000, 0)
	g := newNodeGuard(guard.DefaultRules())
	g.announce("Web1", now, 30*time.Second) // told before this server leads
	g.lead(true)
	if g.away("web2", now) {
		t.Error("one that announced nothing restarts")
	}
	g.returned("web1") // it still answers: that is no return
	if !g.away("web1", now.Add(time.Second)) {
		t.Fatal("the announcement is forgotten")
	}
	if u := g.state().Unknown; len(u) != 1 || u[0].Node != "Web1" || u[0].Why != "restarting" {
		t.Fatalf("state %+v", u)
	}
	g.returned("web1")
	if g.away("web1", now.Add(2*time.Second)) {
		t.Error("a death after the return is taken for the restart")
	}
	g.announce("web1", now, 30*time.Second)
	g.away("web1", now)
	if g.due(now.Add(29*time.Second)) || !g.due(now.Add(30*time.Second)) || g.away("web1", now.Add(30*time.Second)) {
		t.Error("the grace does not end in time")
	}
}
