package catalog_test

import (
	"errors"
	"reflect"
	"strings"
	"testing"

	"github.com/musterhq/muster/catalog"
	"github.com/musterhq/muster/kv"
)

func TestRegisterRefusesBadInput(t *testing.T) {
	w := newWorld(t)
	w.register(catalog.Registration{
		Node:   catalog.Node{ID: uuid(1), Name: "n1", Address: "127.0.0.1"},
		Checks: []*catalog.Check{{ID: catalog.LivenessCheck, Status: catalog.Passing}},
	})
	w.register(catalog.Registration{Node: catalog.Node{ID: uuid(2), Name: "n2", Address: "127.0.0.2"}})
	ok := node("web1")
	service := func(s catalog.Service) catalog.Registration { return catalog.Registration{Node: ok, Service: &s} }
	check := func(c catalog.Check) catalog.Registration {
		return catalog.Registration{Node: ok, Checks: []*catalog.Check{&c}}
	}
	reserved := `Node name n1 is reserved by node ` + uuid(1) + ` with name n1 (127.0.0.1)`
	for _, c := range []struct {
		name string
		r    catalog.Registration
		want string
	}{
		{"no node", catalog.Registration{}, "Must provide node"},
		{"no address", catalog.Registration{Node: catalog.Node{Name: "a"}}, "Must provide address if SkipNodeUpdate is not set"},
		{"short ID", catalog.Registration{Node: catalog.Node{Name: "a", Address: "b", ID: "x"}}, "Bad node ID: uuid string is wrong length"},
		{"shapeless ID", catalog.Registration{Node: catalog.Node{Name: "a", Address: "b", ID: strings.Repeat("0", 36)}}, "Bad node ID: uuid is improperly formatted"},
		{"service without name", service(catalog.Service{ID: "x"}), "Must provide service name (Service.Service) when service ID is provided"},
		{"any address", service(catalog.Service{Name: "x", Address: "0.0.0.0"}), "Invalid service address"},
		{"any address 6", service(catalog.Service{Name: "x", Address: "::"}), "Invalid service address"},
		{"any address 6 in brackets", service(catalog.Service{Name: "x", Address: "[::]"}), "Invalid service address"},
		{"check of unknown service", check(catalog.Check{ID: "n", ServiceID: "none"}), "Unknown service ID 'none' for check ID 'n'"},
		{"check without id", check(catalog.Check{}), "Must provide a check ID or a check name"},
		{"check of another node", check(catalog.Check{ID: "n", Node: "web2"}), `check node "web2" does not match node "web1"`},
		{"name taken", catalog.Registration{Node: catalog.Node{Name: "N1", Address: "127.0.0.9", ID: uuid(9)}},
			`failed inserting node: Error while renaming Node ID: "` + uuid(9) + `": ` + strings.Replace(reserved, "Node name n1", "Node name N1", 1)},
		{"rename to a name taken", catalog.Registration{Node: catalog.Node{Name: "n1", Address: "127.0.0.9", ID: uuid(2)}},
			`failed inserting node: Error while renaming Node ID: "` + uuid(2) + `" (127.0.0.9): ` + reserved},
	} {
		txn, err := catalog.Register(w.snap(), c.r)
		var input *catalog.InputError
		if !errors.As(err, &input) || input.Text != c.want || err.Error() != c.want {
			t.Errorf("%s: error %v, want %s", c.name, err, c.want)
		}
		if len(txn.Ops) > 0 {
			t.Errorf("%s: a Txn came with the error", c.name)
		}
	}
	long := strings.Repeat("x", kv.MaxPath)
	for _, r := range []catalog.Registration{{Node: node(long)}, service(catalog.Service{Name: "s", ID: long}), check(catalog.Check{ID: long})} {
		if _, err := catalog.Register(w.snap(), r); !errors.As(err, new(*catalog.InputError)) {
			t.Errorf("a name of %d bytes: %v", len(long), err)
		}
	}
}

func TestRegisterFillsInDefaults(t *testing.T) {
	w := newWorld(t)
	r := catalog.Registration{
		Node:    node("Web1"),
		Service: &catalog.Service{Name: "api", Tags: []string{"b", "a"}},
		Checks:  []*catalog.Check{{Name: "ping"}, {Name: "own", ServiceID: "api", ServiceName: "wrong", Status: catalog.Warning}},
	}
	w.register(r)
	if r.Service.ID != "" || r.Checks[0].Status != "" {
		t.Error("Register changed the registration it was given")
	}
	s := w.snap()
	svc, ok := catalog.GetService(s, "wEB1", "api")
	if !ok || svc.Weights != (catalog.Weights{Passing: 1, Warning: 1}) {
		t.Errorf("service %+v", svc)
	}
	ping, path, _ := catalog.GetCheck(s, "web1", "ping")
	if ping == nil || ping.Status != catalog.Critical || ping.Node != "Web1" || path != catalog.CheckPath("WEB1", "", "ping") {
		t.Errorf("check %+v at %q", ping, path)
	}
	own, path, _ := catalog.GetCheck(s, "web1", "own")
	if own == nil || own.ServiceName != "api" || !reflect.DeepEqual(own.ServiceTags, []string{"b", "a"}) || path != catalog.CheckPath("web1", "api", "own") {
		t.Errorf("check %+v at %q", own, path)
	}
	// A check that comes later finds its service in the catalog, and moves between services.
	w.register(reg("web1", "db", "db"))
	w.register(catalog.Registration{Node: node("Web1"), Checks: []*catalog.Check{{ID: "own", ServiceID: "db"}}})
	if c, path, _ := catalog.GetCheck(w.snap(), "web1", "own"); c.ServiceName != "db" || path != catalog.CheckPath("web1", "db", "own") {
		t.Errorf("moved check %+v at %q", c, path)
	}
	if n := len(catalog.ServiceChecks(w.snap(), "api")); n != 0 {
		t.Errorf("api still has %d checks", n)
	}
	w.deregister("web1", "", "own")
	if _, _, ok := catalog.GetCheck(w.snap(), "web1", "own"); ok {
		t.Error("a deregistered check is still found")
	}
	// Of several checks with one id the last counts.
	w.register(catalog.Registration{Node: node("Web1"), Checks: []*catalog.Check{{ID: "x", ServiceID: "db"}, {ID: "x", Status: "passing"}}})
	if c, _, _ := catalog.GetCheck(w.snap(), "web1", "x"); c.ServiceID != "" || len(catalog.NodeChecks(w.snap(), "web1")) != 3 {
		t.Errorf("check %+v, checks %+v", c, deref(catalog.NodeChecks(w.snap(), "web1")))
	}
}

func TestSameRegistrationChangesNothing(t *testing.T) {
	w := newWorld(t)
	r := reg("web1", "api", "api-1", "a")
	r.Node.ID, r.Node.Meta = uuid(1), map[string]string{"z": "1", "a": "2", "k": "3"}
	r.Checks = append(r.Checks, &catalog.Check{ID: "mem", Status: catalog.Passing, Definition: map[string]any{"HTTP": "x", "Header": map[string]any{"b": 1.0, "a": 2.0}}})
	first := w.register(r)
	woken := w.waits(func() {
		if again := w.register(r); again.Index != first.Index {
			t.Errorf("index went from %d to %d", first.Index, again.Index)
		}
	}, "")
	if woken[0] {
		t.Error("somebody woke")
	}
	// What is left out stays, except the parts of the node record.
	w.register(catalog.Registration{Node: node("web1")})
	n, _ := catalog.GetNode(w.snap(), "web1")
	if n.Meta != nil || len(catalog.ServicesOf(w.snap(), "web1")) != 1 || len(catalog.NodeChecks(w.snap(), "web1")) != 2 {
		t.Errorf("after a bare registration: %+v", n)
	}
	w.register(catalog.Registration{Node: catalog.Node{Name: "WEB1", Address: "ignored"}, SkipNodeUpdate: true})
	if again, _ := catalog.GetNode(w.snap(), "web1"); again != n {
		t.Error("SkipNodeUpdate updated the node")
	}
	w.register(catalog.Registration{Node: node("WEB1")})
	if n, _ := catalog.GetNode(w.snap(), "web1"); n.Name != "WEB1" || len(catalog.Nodes(w.snap())) != 1 {
		t.Errorf("another spelling did not rename: %+v", n)
	}
}

func TestNodeIdentity(t *testing.T) {
	w := newWorld(t)
	first := reg("old", "api", "api")
	first.Node.ID = strings.ToUpper("abcdef00-0000-4000-8000-000000000001")
	w.register(first)
	w.do(catalog.CreateSession(w.snap(), catalog.Session{ID: "s", Node: "old"}))
	renamed := catalog.Node{ID: strings.ToLower(first.Node.ID), Name: "new", Address: "10.0.0.2"}
	w.register(catalog.Registration{Node: renamed})
	s := w.snap()
	if n, ok := catalog.NodeByID(s, first.Node.ID); !ok || n.Name != "new" {
		t.Errorf("by ID: %+v", n)
	}
	if _, ok := catalog.GetNode(s, "old"); ok || len(catalog.Instances(s, "api")) != 0 || len(catalog.Sessions(s)) != 0 {
		t.Error("the old name still has something")
	}
	// A name whose agent is not known to live is taken over, and what is under it stays.
	w.register(reg("new", "api", "api"))
	w.register(catalog.Registration{Node: renamed})
	w.apply(catalog.SetLiveness(w.snap(), "new", false))
	taker := renamed
	taker.ID = uuid(5)
	w.register(catalog.Registration{Node: taker})
	s = w.snap()
	if n, _ := catalog.GetNode(s, "new"); n.ID != uuid(5) || len(catalog.Instances(s, "api")) != 1 {
		t.Errorf("taken over: %+v", n)
	}
	if _, ok := catalog.NodeByID(s, renamed.ID); ok {
		t.Error("the ID that lost its name is still known")
	}
	if _, ok := catalog.NodeByID(s, ""); ok {
		t.Error("a node without ID is found by the empty ID")
	}
	// A node without an ID gives its name to one with an ID.
	w.register(nodeCheck("plain", catalog.LivenessCheck, catalog.Passing))
	w.register(catalog.Registration{Node: catalog.Node{ID: uuid(6), Name: "plain", Address: "x"}})
}

// TestStaleTxns builds Txns from one Snap, changes what they rely on, and wants them to fail.
func TestStaleTxns(t *testing.T) {
	base := func(w *world) {
		r := reg("n", "api", "api")
		r.Node.ID = uuid(1)
		w.register(r)
		w.apply(catalog.SetLiveness(w.snap(), "n", true))
		w.register(catalog.Registration{Node: catalog.Node{ID: uuid(2), Name: "dead", Address: "x"}})
		w.register(catalog.Registration{Node: node("plain")})
		w.register(nodeCheck("locker", "mem", catalog.Passing))
		w.do(catalog.CreateSession(w.snap(), catalog.Session{ID: "first", Node: "locker"}))
	}
	session := catalog.Session{ID: "s", Node: "n", NodeChecks: []string{catalog.LivenessCheck}}
	skip := catalog.Registration{Node: catalog.Node{Name: "n"}, SkipNodeUpdate: true, Service: &catalog.Service{Name: "x"}}
	same := catalog.Registration{Node: catalog.Node{ID: uuid(1), Name: "n", Address: "10.0.0.1"}, Service: &catalog.Service{Name: "x"}}
	plain := catalog.Registration{Node: node("plain"), Service: &catalog.Service{Name: "x"}}
	fresh := catalog.Registration{Node: catalog.Node{ID: uuid(7), Name: "fresh", Address: "x"}}
	build := func(r catalog.Registration) func(s *kv.Snap) (kv.Txn, error) {
		return func(s *kv.Snap) (kv.Txn, error) { return catalog.Register(s, r) }
	}
	removeNode := func(w *world) { w.deregister("n", "", "") }
	createSession := func(w *world) { w.do(catalog.CreateSession(w.snap(), session)) }
	fail := func(s *kv.Snap) (kv.Txn, error) { return catalog.SetLiveness(s, "n", false), nil }
	other := catalog.Session{ID: "other", Node: "locker", NodeChecks: []string{"mem"}}
	for _, c := range []struct {
		name   string
		build  func(*kv.Snap) (kv.Txn, error)
		change func(*world)
	}{
		{"skip the update of a node that goes", build(skip), removeNode},
		{"keep the record of a node that goes", build(same), removeNode},
		{"keep the record of a node without ID that goes", build(plain), func(w *world) { w.deregister("plain", "", "") }},
		{"a new node whose name is taken meanwhile", build(fresh), func(w *world) {
			w.register(catalog.Registration{Node: catalog.Node{ID: uuid(8), Name: "fresh", Address: "x"}})
		}},
		{"take a name whose holder comes to life", build(catalog.Registration{Node: catalog.Node{ID: uuid(9), Name: "dead", Address: "x"}}),
			func(w *world) { w.apply(catalog.SetLiveness(w.snap(), "dead", true)) }},
		{"rename a node that changes", build(catalog.Registration{Node: catalog.Node{ID: uuid(2), Name: "alive", Address: "x"}}),
			func(w *world) {
				w.register(catalog.Registration{Node: catalog.Node{ID: uuid(3), Name: "dead", Address: "x"}})
			}},
		{"a check of a service that goes", build(catalog.Registration{Node: node("n"), Checks: []*catalog.Check{{ID: "c", ServiceID: "api"}}}),
			func(w *world) { w.deregister("n", "api", "") }},
		{"liveness of a node that goes", fail, removeNode},
		{"a failure, and a session that begins", fail, createSession},
		{"a check that goes, and a session that begins", func(s *kv.Snap) (kv.Txn, error) { return catalog.Deregister(s, "n", "", catalog.LivenessCheck) }, createSession},
		{"a failure, and one more session that begins", build(nodeCheck("locker", "mem", catalog.Critical)),
			func(w *world) { w.do(catalog.CreateSession(w.snap(), other)) }},
		{"a session, and a check that fails", func(s *kv.Snap) (kv.Txn, error) { return catalog.CreateSession(s, session) },
			func(w *world) { w.apply(catalog.SetLiveness(w.snap(), "n", false)) }},
		{"a session, and a check that goes", func(s *kv.Snap) (kv.Txn, error) { return catalog.CreateSession(s, session) },
			func(w *world) { w.deregister("n", "", catalog.LivenessCheck) }},
		{"a session on a node that goes", func(s *kv.Snap) (kv.Txn, error) {
			return catalog.CreateSession(s, catalog.Session{ID: "s", Node: "n"})
		}, removeNode},
		{"two sessions of one id", func(s *kv.Snap) (kv.Txn, error) { return catalog.CreateSession(s, session) }, createSession},
	} {
		w := newWorld(t)
		base(w)
		txn, err := c.build(w.snap())
		if err != nil {
			t.Fatalf("%s: %v", c.name, err)
		}
		c.change(w)
		before := w.snap().Hash()
		if code := w.tree.Apply(txn)[0].Code; !catalog.Stale(code) {
			t.Errorf("%s: code %d", c.name, code)
		}
		if w.snap().Hash() != before {
			t.Errorf("%s: the stale Txn changed something", c.name)
		}
	}
}

// TestRegistrationsDoNotDisturbEachOther applies Txns that were all built from one Snap.
func TestRegistrationsDoNotDisturbEachOther(t *testing.T) {
	w := newWorld(t)
	r := reg("n", "api", "api-0")
	r.Node.ID = uuid(1)
	w.register(r)
	s := w.snap()
	var txns []kv.Txn
	for _, id := range []string{"api-1", "api-2", "db-1"} {
		r := reg("n", id[:len(id)-2], id)
		r.Node.ID = uuid(1)
		r.Checks[0].Status = catalog.Critical
		txn, err := catalog.Register(s, r)
		if err != nil {
			t.Fatal(err)
		}
		txns = append(txns, txn)
	}
	for i, res := range w.tree.Apply(txns...) {
		if res.Code != kv.OK {
			t.Errorf("registration %d: code %d", i, res.Code)
		}
	}
	if n := len(catalog.Instances(w.snap(), "api")); n != 3 {
		t.Errorf("%d instances", n)
	}
}

func TestDeregister(t *testing.T) {
	w := newWorld(t)
	w.register(reg("n", "api", "api-1"))
	w.register(reg("n", "api", "api-2"))
	w.register(nodeCheck("n", "mem", catalog.Passing))
	for _, unknown := range [][3]string{{"x", "", ""}, {"n", "x", ""}, {"n", "", "x"}, {"n", "api-1", "x"}, {"n", "", "service:x:1"}, {"n", "", "_service_maintenance:x"}} {
		txn, err := catalog.Deregister(w.snap(), unknown[0], unknown[1], unknown[2])
		if err != nil || len(txn.Ops) != 0 {
			t.Errorf("Deregister(%q): %+v, %v", unknown, txn, err)
		}
	}
	if _, err := catalog.Deregister(w.snap(), "", "", "x"); !errors.As(err, new(*catalog.InputError)) || err.Error() != "Must provide node" {
		t.Errorf("no node: %v", err)
	}
	w.deregister("N", "api-2", "service:api-1") // the check wins
	if got := catalog.Instances(w.snap(), "API"); len(got) != 2 || len(got[0].OwnChecks()) != 0 || len(got[1].OwnChecks()) != 1 {
		t.Errorf("instances %+v", deref(got))
	}
	w.deregister("n", "api-2", "")
	if got := catalog.NodeChecks(w.snap(), "n"); len(got) != 1 || got[0].ID != "mem" {
		t.Errorf("checks %+v", deref(got))
	}
	w.deregister("n", "api-1", "")
	if got := catalog.Services(w.snap()); len(got) != 0 {
		t.Errorf("services %v", got)
	}
	w.deregister("n", "", "")
	if s := w.snap(); len(catalog.Nodes(s)) != 0 {
		t.Error("the node is still there")
	} else if e, _ := s.Get("n"); e.Len() != 0 {
		t.Error("something is left below n")
	}
}
