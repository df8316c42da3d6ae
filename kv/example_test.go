package kv_test

import (
	"context"
	"fmt"

	"github.com/musterhq/muster/kv"
)

func Example() {
	t := kv.New(kv.Options{})
	res := t.Apply(kv.Txn{Ops: []kv.Op{{Kind: kv.OpSet, Path: "k/a/b", Value: "v"}}})
	e, _ := t.Snap().Get("k/a/b")
	fmt.Println(e.Value(), e.Modified() == res[0].Index)

	w, err := t.Watch("k/a", res[0].Index, true)
	if err != nil {
		panic(err)
	}
	defer w.Stop()
	t.Apply(kv.Txn{
		Conds: []kv.Cond{{Kind: kv.CondValue, Path: "k/a/b", Value: "v"}},
		Ops:   []kv.Op{{Kind: kv.OpSet, Action: kv.ActCompareAndSwap, Path: "k/a/b", Value: "w"}},
	})
	ev, err := w.Next(context.Background())
	fmt.Println(ev.Path, ev.Prev.Value(), "->", ev.Entry.Value(), err)
	// Output:
	// v true
	// k/a/b v -> w <nil>
}
