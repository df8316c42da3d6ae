package kv

import (
	"bytes"
	"context"
	"testing"
	"time"
)

func TestBasics(t *testing.T) {
	tr := New(Options{})
	res := tr.Apply(Txn{Ops: []Op{{Kind: OpSet, Path: "k/a/b", Value: "v"}}})
	if res[0].Code != OK || res[0].Index != 1 {
		t.Fatalf("%+v", res[0])
	}
	s := tr.Snap()
	if e, ok := s.Get("k/a/b"); !ok || e.Value() != "v" || e.Modified() != 1 {
		t.Fatal("not stored")
	}
	w, err := tr.Watch("k/a", 0, true)
	if err != nil {
		t.Fatal(err)
	}
	defer w.Stop()
	wt := s.Wait("k/a/b")
	defer wt.Stop()
	tr.Apply(Txn{Ops: []Op{{Kind: OpSet, Path: "k/a/b", Value: "v2"}, {Kind: OpDeleteTree, Path: "k/a"}}})
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	for want := uint64(2); want <= 3; want++ {
		ev, err := w.Next(ctx)
		if err != nil || ev.Index != want {
			t.Fatal(ev, err)
		}
	}
	<-wt.C
	tr.Apply(Txn{Ops: []Op{{Kind: OpSet, Path: "k/x", Value: "v2"}, {Kind: OpSet, Path: "k/y/z", Value: "v2"}}})
	var b bytes.Buffer
	if _, err := tr.Snap().WriteTo(&b); err != nil {
		t.Fatal(err)
	}
	t2 := New(Options{})
	if err := t2.Restore(&b); err != nil {
		t.Fatal(err)
	}
	if t2.Snap().Hash() != tr.Snap().Hash() {
		t.Fatal("hash differs")
	}
}
