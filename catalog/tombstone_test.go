package catalog_test

import (
	"errors"
	"testing"

	"github.com/musterhq/muster/catalog"
	"github.com/musterhq/muster/kv"
)

func TestTombstones(t *testing.T) {
	tree := kv.New(kv.Options{Deriver: catalog.Views{}})
	apply := func(txn kv.Txn, err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		if len(txn.Ops) > 0 {
			if res := tree.Apply(txn)[0]; res.Code != kv.OK {
				t.Fatalf("code %v", res.Code)
			}
		}
	}
	node := catalog.Node{Name: "N1", Address: "10.0.0.1"}
	reg := func(known bool) catalog.Registration {
		return catalog.Registration{Node: node, Service: &catalog.Service{ID: "web", Name: "web"}, Known: known,
			Checks: []*catalog.Check{{ID: "up", Name: "up", ServiceID: "web", Status: catalog.Passing}}}
	}
	register := func(known bool) { t.Helper(); apply(catalog.Register(tree.Snap(), reg(known))) }
	remove := func() { t.Helper(); apply(catalog.Deregister(tree.Snap(), "n1", "web", "")) }
	alive := func(yes bool) { t.Helper(); apply(catalog.SetLiveness(tree.Snap(), "n1", yes), nil) }
	count := func(want int) {
		t.Helper()
		if got := catalog.Tombstones(tree.Snap(), "n1"); len(got) != want {
			t.Fatalf("tombstones %+v, want %d", got, want)
		}
	}
	refused := func() {
		t.Helper()
		_, err := catalog.Register(tree.Snap(), reg(true))
		var gone *catalog.GoneError
		if !errors.As(err, &gone) || gone.ServiceID != "web" {
			t.Fatalf("a repair of what was removed: %v", err)
		}
	}

	register(false) // a node without liveness: nobody comes back
	remove()
	count(0)

	register(false)
	alive(true)
	remove() // its agent lives and is the authority
	count(0)
	register(true)

	alive(false)
	remove()
	count(1)
	if got := catalog.Tombstones(tree.Snap(), "n1")[0]; got.ID != "web" || got.Name != "web" || got.Index == 0 {
		t.Errorf("tombstone %+v", got)
	}
	refused()
	remove() // said twice is not taken back
	count(1)
	refused()
	if _, err := catalog.Register(tree.Snap(), catalog.Registration{Node: node, Known: true}); err != nil {
		t.Errorf("the node itself: %v", err)
	}
	register(false) // somebody wants it again
	count(0)
	register(true)

	remove()
	alive(true)
	refused()
	remove() // the owner's confirmation
	count(0)

	register(false)
	alive(false)
	remove()
	count(1)
	apply(catalog.Deregister(tree.Snap(), "n1", "", "")) // goes with its node
	count(0)
	register(true)
}

// A repair that was built before the removal must not land after it.
func TestTombstoneFencesARepairUnderWay(t *testing.T) {
	tree := kv.New(kv.Options{Deriver: catalog.Views{}})
	must := func(txn kv.Txn, err error) kv.Txn {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return txn
	}
	r := catalog.Registration{Node: catalog.Node{Name: "n1", Address: "10.0.0.1"}, Service: &catalog.Service{ID: "web", Name: "web"}}
	tree.Apply(must(catalog.Register(tree.Snap(), r)))
	tree.Apply(catalog.SetLiveness(tree.Snap(), "n1", false))
	r.Known = true
	repair := must(catalog.Register(tree.Snap(), r))
	tree.Apply(must(catalog.Deregister(tree.Snap(), "n1", "web", "")))
	if res := tree.Apply(repair)[0]; !catalog.Stale(res.Code) {
		t.Errorf("the repair had code %v", res.Code)
	}
	// And a removal built while the agent was away does not bury once it is back.
	r.Known = false
	tree.Apply(must(catalog.Register(tree.Snap(), r)))
	removal := must(catalog.Deregister(tree.Snap(), "n1", "web", ""))
	tree.Apply(catalog.SetLiveness(tree.Snap(), "n1", true))
	if res := tree.Apply(removal)[0]; !catalog.Stale(res.Code) {
		t.Errorf("the removal had code %v", res.Code)
	}
}
