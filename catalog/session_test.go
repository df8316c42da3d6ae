package catalog_test

import (
	"errors"
	"fmt"
	"testing"

	"github.com/musterhq/muster/catalog"
	"github.com/musterhq/muster/kv"
)

func TestCreateSessionRefuses(t *testing.T) {
	w := newWorld(t)
	w.register(nodeCheck("n", "x", catalog.Critical))
	w.do(catalog.CreateSession(w.snap(), catalog.Session{ID: "taken", Node: "n"}))
	for _, c := range []struct {
		x    catalog.Session
		want string
	}{
		{catalog.Session{ID: "a"}, "Missing node registration"},
		{catalog.Session{ID: "a", Node: "m"}, "Missing node registration"},
		{catalog.Session{ID: "a", Node: "n", NodeChecks: []string{"nope"}}, "Missing check 'nope' registration"},
		{catalog.Session{ID: "a", Node: "n", NodeChecks: []string{"x"}}, "Check 'x' is in critical state"},
		{catalog.Session{ID: "a", Node: "n", ServiceChecks: []catalog.ServiceCheckRef{{ID: "nope"}}}, "Missing check 'nope' registration"},
		{catalog.Session{ID: "a", Node: "n", Behavior: "zap"}, "Invalid Behavior setting 'zap'"},
		{catalog.Session{Node: "n"}, "Missing session ID"},
		{catalog.Session{ID: "taken", Node: "n"}, "Session 'taken' exists already"},
	} {
		var input *catalog.InputError
		if txn, err := catalog.CreateSession(w.snap(), c.x); !errors.As(err, &input) || input.Text != c.want || len(txn.Ops) > 0 {
			t.Errorf("CreateSession(%+v): %v, want %s", c.x, err, c.want)
		}
	}
}

func TestSessionQueries(t *testing.T) {
	w := newWorld(t)
	w.register(catalog.Registration{Node: node("B")})
	w.register(catalog.Registration{Node: node("a")})
	x := catalog.Session{ID: "2", Node: "b", Name: "lock", LockDelay: 15e9, TTL: "10s", NodeChecks: []string{}}
	w.do(catalog.CreateSession(w.snap(), x))
	w.do(catalog.CreateSession(w.snap(), catalog.Session{ID: "1", Node: "B"}))
	w.do(catalog.CreateSession(w.snap(), catalog.Session{ID: "3", Node: "A"}))
	s := w.snap()
	got, ok := catalog.GetSession(s, "2")
	if !ok || got.Name != "lock" || got.LockDelay != 15e9 || got.TTL != "10s" || got.Behavior != catalog.BehaviorRelease ||
		got.NodeChecks == nil || got.ServiceChecks != nil || got.Created == 0 {
		t.Errorf("session %+v", got)
	}
	var order string
	for _, x := range catalog.Sessions(s) {
		order += x.ID
	}
	for _, x := range catalog.NodeSessions(s, "b") {
		order += x.ID
	}
	if order != "31212" {
		t.Errorf("order %s", order)
	}
	if path, ok := catalog.SessionPath(s, "3"); !ok || path != "n/a/l/3" {
		t.Errorf("path %q", path)
	}
	if txn := catalog.DestroySession(s, "none"); len(txn.Ops) != 0 {
		t.Error("destroying nothing does something")
	}
	if _, ok := catalog.SessionPath(s, "none"); ok {
		t.Error("an unknown session has a path")
	}
	w.apply(catalog.DestroySession(s, "2"))
	if _, ok := catalog.GetSession(w.snap(), "2"); ok {
		t.Error("the session is still there")
	}
}

// TestSessionsEnd ends a session in every way there is and wants its keys released or deleted in the same Txn.
func TestSessionsEnd(t *testing.T) {
	ends := map[string]func(*world) (kv.Txn, error){
		"destroyed":    func(w *world) (kv.Txn, error) { return catalog.DestroySession(w.snap(), "s"), nil },
		"node removed": func(w *world) (kv.Txn, error) { return catalog.Deregister(w.snap(), "n", "", "") },
		"agent failed": func(w *world) (kv.Txn, error) { return catalog.SetLiveness(w.snap(), "N", false), nil },
		"node check critical": func(w *world) (kv.Txn, error) {
			return catalog.Register(w.snap(), nodeCheck("n", "mem", catalog.Critical))
		},
		"node check removed": func(w *world) (kv.Txn, error) { return catalog.Deregister(w.snap(), "n", "", "mem") },
		"own check critical": func(w *world) (kv.Txn, error) {
			r := reg("n", "api", "api")
			r.Checks[0].Status = catalog.Critical
			return catalog.Register(w.snap(), r)
		},
		"service removed": func(w *world) (kv.Txn, error) { return catalog.Deregister(w.snap(), "n", "api", "") },
		"node renamed": func(w *world) (kv.Txn, error) {
			return catalog.Register(w.snap(), catalog.Registration{Node: catalog.Node{ID: uuid(1), Name: "m", Address: "x"}})
		},
	}
	for name, end := range ends {
		for _, behavior := range []string{catalog.BehaviorRelease, catalog.BehaviorDelete} {
			for _, others := range []int{0, 2} {
				t.Run(fmt.Sprintf("%s/%s/%d", name, behavior, others), func(t *testing.T) {
					w := newWorld(t)
					r := reg("n", "api", "api")
					r.Node.ID = uuid(1)
					w.register(r)
					w.register(nodeCheck("n", "mem", catalog.Passing))
					w.register(catalog.Registration{Node: r.Node})
					w.apply(catalog.SetLiveness(w.snap(), "n", true))
					for i := range others { // independent of all checks
						w.do(catalog.CreateSession(w.snap(), catalog.Session{ID: fmt.Sprint("other", i), Node: "n"}))
					}
					w.do(catalog.CreateSession(w.snap(), catalog.Session{ID: "s", Node: "n", Behavior: behavior,
						NodeChecks: []string{catalog.LivenessCheck, "mem"}, ServiceChecks: []catalog.ServiceCheckRef{{ID: "service:api"}}}))
					path, _ := catalog.SessionPath(w.snap(), "s")
					w.apply(kv.Txn{Ops: []kv.Op{{Kind: kv.OpAcquire, Path: "k/lock", Value: "v", Owner: "s", OwnerPath: path}}})

					txn, err := end(w)
					w.do(txn, err)
					s := w.snap()
					if _, ok := catalog.GetSession(s, "s"); ok {
						t.Fatal("the session is still there")
					}
					e, ok := s.Get("k/lock")
					if behavior == catalog.BehaviorDelete && ok {
						t.Error("its key is still there")
					}
					if behavior == catalog.BehaviorRelease && (!ok || e.Owner() != "" || e.Value() != "v") {
						t.Error("its key is not released")
					}
					want := others
					if name == "node removed" || name == "node renamed" {
						want = 0
					}
					if got := len(catalog.Sessions(s)); got != want {
						t.Errorf("%d other sessions, want %d", got, want)
					}
				})
			}
		}
	}
}

// TestManySessionsEndAtOnce: the failure of a node ends more sessions than a Txn may have operations.
func TestManySessionsEndAtOnce(t *testing.T) {
	w := newWorld(t)
	w.register(catalog.Registration{Node: node("n")})
	w.apply(catalog.SetLiveness(w.snap(), "n", true))
	for i := range kv.MaxOps + 10 {
		w.do(catalog.CreateSession(w.snap(), catalog.Session{ID: uuid(i), Node: "n", NodeChecks: []string{catalog.LivenessCheck}}))
	}
	w.apply(catalog.SetLiveness(w.snap(), "n", false))
	if left := len(catalog.Sessions(w.snap())); left != 0 {
		t.Errorf("%d sessions are left", left)
	}
}

func TestSetLiveness(t *testing.T) {
	w := newWorld(t)
	if txn := catalog.SetLiveness(w.snap(), "n", true); len(txn.Ops) != 0 {
		t.Error("an unknown node comes to life")
	}
	w.register(reg("N", "api", "api"))
	for _, alive := range []bool{true, false, true} {
		w.apply(catalog.SetLiveness(w.snap(), "n", alive))
		c, path, ok := catalog.GetCheck(w.snap(), "n", catalog.LivenessCheck)
		want, output := catalog.Passing, "Agent alive and reachable"
		if !alive {
			want, output = catalog.Critical, "Agent not live or unreachable"
		}
		if !ok || c.Name != "Serf Health Status" || c.Status != want || c.Output != output || c.Node != "N" || path != "n/n/c/serfHealth" {
			t.Errorf("alive %v: check %+v at %q", alive, c, path)
		}
		if i := catalog.Instances(w.snap(), "api"); i[0].Status != want {
			t.Errorf("alive %v: instance is %s", alive, i[0].Status)
		}
		if txn := catalog.SetLiveness(w.snap(), "n", alive); len(txn.Ops)+len(txn.Conds) != 0 {
			t.Error("the same liveness changes something")
		}
	}
}
