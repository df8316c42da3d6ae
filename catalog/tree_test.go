package catalog_test

import (
	"bytes"
	"fmt"
	"testing"

	"github.com/musterhq/muster/catalog"
	"github.com/musterhq/muster/kv"
)

// world is a tree with the catalog's views, and verbs on it.
type world struct {
	testing.TB
	tree *kv.Tree
}

func newWorld(t testing.TB) *world {
	return &world{t, kv.New(kv.Options{Deriver: catalog.Views{}})}
}

func (w *world) snap() *kv.Snap { return w.tree.Snap() }

// apply applies a Txn that must succeed.
func (w *world) apply(txn kv.Txn) kv.Result {
	w.Helper()
	if err := txn.Check(); err != nil {
		w.Fatal(err)
	}
	res := w.tree.Apply(txn)[0]
	if res.Code != kv.OK {
		w.Fatalf("Txn ended with code %d, %+v", res.Code, res.Fail)
	}
	return res
}

// do applies the Txn of a builder.
func (w *world) do(txn kv.Txn, err error) kv.Result {
	w.Helper()
	if err != nil {
		w.Fatal(err)
	}
	return w.apply(txn)
}

func (w *world) register(r catalog.Registration) kv.Result {
	w.Helper()
	return w.do(catalog.Register(w.snap(), r))
}

func (w *world) deregister(node, service, check string) {
	w.Helper()
	w.do(catalog.Deregister(w.snap(), node, service, check))
}

// restored is a new world with the state of w, by way of a snapshot.
func (w *world) restored() *world {
	w.Helper()
	var b bytes.Buffer
	if _, err := w.snap().WriteTo(&b); err != nil {
		w.Fatal(err)
	}
	n := newWorld(w.TB)
	if err := n.tree.Restore(&b); err != nil {
		w.Fatal(err)
	}
	return n
}

// waits reports for each path whether it wakes when f runs.
func (w *world) waits(f func(), paths ...string) []bool {
	s := w.snap()
	var waiters []*kv.Waiter
	for _, p := range paths {
		waiter := s.Wait(p)
		defer waiter.Stop()
		waiters = append(waiters, waiter)
	}
	f()
	woken := make([]bool, len(paths))
	for i, waiter := range waiters {
		select {
		case <-waiter.C:
			woken[i] = true
		default:
		}
	}
	return woken
}

func uuid(n int) string { return fmt.Sprintf("00000000-0000-4000-8000-%012d", n) }

func node(name string) catalog.Node { return catalog.Node{Name: name, Address: "10.0.0.1"} }

// reg is a registration of a service with one check of the same status on a node.
func reg(nodeName, service, id string, tags ...string) catalog.Registration {
	return catalog.Registration{
		Node:    node(nodeName),
		Service: &catalog.Service{ID: id, Name: service, Tags: tags, Port: 80},
		Checks:  []*catalog.Check{{ID: "service:" + id, Name: "c", ServiceID: id, Status: catalog.Passing}},
	}
}

func nodeCheck(nodeName, id, status string) catalog.Registration {
	return catalog.Registration{Node: node(nodeName), Checks: []*catalog.Check{{ID: id, Name: id, Status: status}}}
}
