package catalog_test

import (
	"fmt"
	"reflect"
	"strings"
	"sync"
	"testing"

	"github.com/musterhq/muster/catalog"
	"github.com/musterhq/muster/kv"
)

func TestAggregate(t *testing.T) {
	for _, c := range []struct {
		checks string // id=status
		want   catalog.Status
	}{
		{"", catalog.Passing},
		{"a=passing b=passing", catalog.Passing},
		{"a=passing b=warning", catalog.Warning},
		{"a=odd b=passing", catalog.Warning},
		{"a=warning b=critical c=passing", catalog.Critical},
		{"a=critical _node_maintenance=critical", catalog.Maintenance},
		{"_service_maintenance:web=critical a=passing", catalog.Maintenance},
		{"_service_maintenance=critical", catalog.Critical},
	} {
		var checks []*catalog.Check
		for _, f := range strings.Fields(c.checks) {
			id, status, _ := strings.Cut(f, "=")
			checks = append(checks, &catalog.Check{ID: id, Status: status})
		}
		if got := catalog.Aggregate(checks); got != c.want {
			t.Errorf("Aggregate(%s) = %s, want %s", c.checks, got, c.want)
		}
	}
}

func TestInstances(t *testing.T) {
	w := newWorld(t)
	for _, n := range []string{"web-2", "web", "Web-10"} {
		w.register(reg(n, "Api", "b", "Primary"))
		w.register(reg(n, "api", "a", "primary", "eu"))
	}
	w.register(nodeCheck("web", "disk", catalog.Warning))
	bad := reg("web-2", "api", "a", "primary", "eu")
	bad.Checks[0].Status = catalog.Critical
	w.register(bad)

	list := catalog.Instances(w.snap(), "aPI")
	var got []string
	for _, i := range list {
		ids := ""
		for _, c := range i.Checks {
			ids += " " + c.ID
		}
		got = append(got, i.Node.Name+"/"+i.Service.ID+" "+i.Status+ids)
	}
	want := []string{
		"web/a warning disk service:a", "web/b warning disk service:b",
		"Web-10/a passing service:a", "Web-10/b passing service:b",
		"web-2/a critical service:a", "web-2/b passing service:b",
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("instances\n got %q\nwant %q", got, want)
	}
	if got := catalog.Services(w.snap()); !reflect.DeepEqual(got, map[string][]string{"api": {"Primary", "eu", "primary"}}) {
		t.Errorf("services %v", got)
	}
	if got := catalog.ServiceChecks(w.snap(), "api"); len(got) != 6 || got[0].ID != "service:a" {
		t.Errorf("service checks %+v", deref(got))
	}
	count := func(list []*catalog.Instance) (ids string) {
		for _, i := range list {
			ids += i.Service.ID
		}
		return ids
	}
	if got := count(catalog.PassingOnly(list)); got != "abb" {
		t.Errorf("passing %q", got)
	}
	if got := count(catalog.Tagged(list, "PRIMARY", "Eu")); got != "aaa" {
		t.Errorf("tagged %q", got)
	}
	if got := catalog.Tagged(list, "primary"); &got[0] != &list[0] || len(got) != len(list) {
		t.Error("a filter that keeps everything copies")
	}
	if got := count(list); got != "ababab" {
		t.Errorf("a filter changed its input to %q", got)
	}
	if got := catalog.ChecksInState(w.snap(), "any"); len(got) != 7 {
		t.Errorf("%d checks", len(got))
	}
	if got := catalog.ChecksInState(w.snap(), catalog.Warning); len(got) != 1 || got[0].ID != "disk" {
		t.Errorf("warning: %+v", deref(got))
	}
}

func TestQueriesOfAnEmptyCatalog(t *testing.T) {
	s := newWorld(t).snap()
	if catalog.Nodes(s) != nil || len(catalog.Services(s)) != 0 || catalog.Instances(s, "x") != nil || catalog.NodeChecks(s, "x") != nil ||
		catalog.ServicesOf(s, "x") != nil || catalog.ChecksInState(s, "any") != nil || catalog.Sessions(s) != nil || catalog.NodeSessions(s, "x") != nil {
		t.Error("there is something")
	}
	if _, ok := catalog.GetService(s, "x", "y"); ok {
		t.Error("there is a service")
	}
}

// TestWhoWakes spells out for one flip of each kind who wakes; TestModel checks the rule on random histories.
func TestWhoWakes(t *testing.T) {
	w := newWorld(t)
	for _, n := range []string{"a", "b"} {
		w.register(reg(n, "web", "web", "v1"))
		w.register(reg(n, "db", "db"))
	}
	w.register(reg("b", "solo", "solo"))
	flip := reg("a", "web", "web", "v1")
	flip.Checks[0].Status = catalog.Critical
	moved := node("a")
	moved.Address = "10.9.9.9"
	retag := catalog.Registration{Node: moved, Service: &catalog.Service{ID: "web", Name: "web", Tags: []string{"v2"}, Port: 80}}
	names := []string{"web", "db", "solo", "none", "services", "nodes", "node-a", "node-b", "sessions"}
	paths := []string{catalog.InstancesPath("web"), catalog.InstancesPath("db"), catalog.InstancesPath("solo"), catalog.InstancesPath("none"),
		catalog.ServicesPath(), catalog.NodesPath(), catalog.NodePath("a"), catalog.NodePath("b"), catalog.SessionsPath()}
	for _, c := range []struct {
		what string
		do   func()
		want string
	}{
		{"own check", func() { w.register(flip) }, "web node-a"},
		{"node check", func() { w.apply(catalog.SetLiveness(w.snap(), "a", false)) }, "web db node-a"},
		{"node record", func() { w.register(catalog.Registration{Node: moved}) }, "web db nodes node-a"},
		{"new tag", func() { w.register(retag) }, "web services node-a"},
		{"session", func() { w.do(catalog.CreateSession(w.snap(), catalog.Session{ID: "x", Node: "b"})) }, "node-b sessions"},
		{"end of the last instance", func() { w.deregister("b", "solo", "") }, "solo services node-b"},
		{"a check that comes and goes in one Txn", func() {
			w.apply(kv.Txn{Ops: []kv.Op{
				{Kind: kv.OpSet, Flags: kv.Flat, Path: catalog.CheckPath("a", "", "x"), Value: "{}"},
				{Kind: kv.OpDeleteTree, Path: catalog.CheckPath("a", "", "x")},
			}})
		}, "node-a"},
		{"first instance", func() { w.register(reg("b", "none", "none")) }, "none services node-b"},
		{"end of a node", func() { w.deregister("b", "", "") }, "web db none services nodes node-b sessions"},
	} {
		var woken []string
		for i, yes := range w.waits(c.do, paths...) {
			if yes {
				woken = append(woken, names[i])
			}
		}
		if got := strings.Join(woken, " "); got != c.want {
			t.Errorf("%s: woke %q, want %q", c.what, got, c.want)
		}
	}
}

// TestViewsFollowAnyTxn applies Txns that no builder makes: records that move the other way round, services without a
// node, and the end of everything.
func TestViewsFollowAnyTxn(t *testing.T) {
	w := newWorld(t)
	put := func(path, value string) kv.Op {
		return kv.Op{Kind: kv.OpSet, Flags: kv.Flat, Path: path, Value: value}
	}
	remove := func(path string) kv.Op { return kv.Op{Kind: kv.OpDeleteTree, Path: path} }
	w.apply(kv.Txn{Ops: []kv.Op{put("n/a", `{"ID":"i","Name":"a"}`), put("n/a/l/s", `{"ID":"s","Node":"a"}`),
		put("n/a/s/x", `{"ID":"x","Name":"web"}`), put("n/a/s/x/c/c", `{"ID":"c","ServiceID":"x"}`)}})
	w.apply(kv.Txn{Ops: []kv.Op{put("n/b", `{"ID":"i","Name":"b"}`), put("n/b/l/s", `{"ID":"s","Node":"b"}`),
		put("n/b/s/y", `{"ID":"y","Name":"web"}`), put("n/b/s/y/c/c", `{"ID":"c","ServiceID":"y"}`), remove("n/a")}})
	if n, ok := catalog.NodeByID(w.snap(), "i"); !ok || n.Name != "b" {
		t.Errorf("node by ID: %+v", n)
	}
	if x, ok := catalog.GetSession(w.snap(), "s"); !ok || x.Node != "b" {
		t.Errorf("session: %+v", x)
	}
	if _, path, ok := catalog.GetCheck(w.snap(), "b", "c"); !ok || path != "n/b/s/y/c/c" {
		t.Errorf("check at %q", path)
	}
	if i := catalog.Instances(w.snap(), "web"); len(i) != 1 || i[0].Node.Name != "b" {
		t.Errorf("instances %+v", deref(i))
	}
	// The record of the node goes, its service stays behind and shows nowhere until the node is back.
	w.apply(kv.Txn{Ops: []kv.Op{{Kind: kv.OpDelete, Path: "n/b"}}})
	if s := w.snap(); len(catalog.Instances(s, "web")) != 0 || len(catalog.Services(s)) != 0 || len(catalog.Nodes(s)) != 0 {
		t.Error("a service without a node shows")
	}
	w.apply(kv.Txn{Ops: []kv.Op{put("n/b", `{"Name":"b"}`)}})
	if s := w.snap(); len(catalog.Instances(s, "web")) != 1 || len(catalog.Services(s)) != 1 {
		t.Error("the service did not come back with its node")
	}
	for _, bad := range []string{"n/b/zzz", "n/b/s/x/y", "n/b/c/x"} {
		value := "{}"
		if bad == "n/b/c/x" {
			value = "{"
		}
		if res := w.tree.Apply(kv.Txn{Ops: []kv.Op{put(bad, value)}})[0]; res.Code != kv.BadTxn {
			t.Errorf("%s: code %d", bad, res.Code)
		}
	}
	w.apply(kv.Txn{Ops: []kv.Op{{Kind: kv.OpDeletePrefix, Path: "n/"}}})
	if v, ok := w.snap().Get("v"); ok {
		v.Each(func(e *kv.Entry) bool {
			t.Errorf("the view v/%s is left", e.Name())
			return true
		})
	}
}

// TestReadersBesideApply reads records while others are written; the race detector judges.
func TestReadersBesideApply(t *testing.T) {
	w := newWorld(t)
	w.register(reg("n", "api", "api"))
	stop := make(chan struct{})
	var wg sync.WaitGroup
	for range 2 {
		wg.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				s := w.snap()
				for _, i := range catalog.Instances(s, "api") {
					if i.Node.Modified == 0 || i.Service.Modified == 0 || i.Service.Modified > s.Index() {
						t.Errorf("indexes %d %d at %d", i.Node.Modified, i.Service.Modified, s.Index())
					}
					for _, c := range i.Checks {
						if c.Modified == 0 {
							t.Error("a check without index")
						}
					}
				}
				for _, c := range catalog.NodeChecks(s, "n") {
					if c.Created == 0 {
						t.Error("a check without index")
					}
				}
			}
		})
	}
	for i := range 300 {
		r := reg("n", "api", fmt.Sprint("api", i%3), fmt.Sprint(i))
		r.Node.Meta = map[string]string{"i": fmt.Sprint(i / 10)}
		w.register(r)
		w.apply(catalog.SetLiveness(w.snap(), "n", i%2 == 0))
		if i%7 == 0 {
			w.deregister("n", "api1", "")
		}
	}
	close(stop)
	wg.Wait()
}
