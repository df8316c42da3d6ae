package kv_test

import (
	"math/rand/v2"
	"testing"

	"github.com/musterhq/muster/kv"
)

// TestDraft holds random drafts against what applying their Txn does: the same as each step did in its turn, and
// nothing when a path that a step depends on has changed meanwhile.
func TestDraft(t *testing.T) {
	for seed := range uint64(60) {
		r := rand.New(rand.NewPCG(seed, 11))
		tr := kv.New(kv.Options{Deriver: services{}})
		for range 30 {
			tr.Apply(randomTxn(r, tr.Snap().Index()))
		}
		base := tr.Snap()
		before := base.Hash()
		d := base.Draft()
		now := int64(0)
		for range 1 + r.IntN(8) {
			x := randomTxn(r, d.Snap().Index())
			now = max(now, x.Now)
			first, res := d.Step(x)
			if res.Code == kv.OK && first+len(res.Ops) != len(d.Txn().Ops) {
				t.Fatalf("step at %d with %d operations makes %d", first, len(res.Ops), len(d.Txn().Ops))
			}
		}
		if base.Hash() != before || tr.Snap() != base {
			t.Fatal("a draft changed the tree")
		}
		txn, want := d.Txn(), d.Snap().Hash()
		for i := range txn.Ops {
			if txn.Ops[i].Kind == kv.OpExpire || txn.Ops[i].Kind == kv.OpExtendExpiry {
				txn.Ops = nil // a draft knows no deadlines of before
				break
			}
		}
		if txn.Ops == nil {
			continue
		}
		txn.Now = now
		res := tr.Apply(txn)[0]
		if res.Code != kv.OK {
			// Only a condition about what stands above a path may be read differently.
			if k := txn.Conds[res.Fail.Cond].Kind; k != kv.CondOpen && k != kv.CondExists && k != kv.CondAbsent {
				t.Fatalf("seed %d: %v %+v of %+v", seed, res.Code, res.Fail, txn)
			}
			continue
		}
		if tr.Snap().Hash() != want {
			t.Fatalf("seed %d: the Txn does something else than its steps", seed)
		}
	}
}

func TestDraftDependsOnItsBase(t *testing.T) {
	set := func(path, value string) kv.Op {
		return kv.Op{Kind: kv.OpSet, Flags: kv.Flat | kv.KeepCreated, Path: path, Value: value}
	}
	build := func(s *kv.Snap) kv.Txn {
		d := s.Draft()
		d.Step(kv.Txn{Ops: []kv.Op{set("k/a", "new")}})
		e, _ := d.Snap().Get("k/a")
		// Demands the index that the first step gave: holds whenever k/a is what it was.
		if _, res := d.Step(kv.Txn{Conds: []kv.Cond{{Kind: kv.CondIndex, Path: "k/a", Index: e.Modified()}}, Ops: []kv.Op{set("k/b", "2")}}); res.Code != kv.OK {
			t.Fatal(res.Code)
		}
		if _, res := d.Step(kv.Txn{Conds: []kv.Cond{{Kind: kv.CondAbsent, Path: "k/a", Flat: true}}, Ops: []kv.Op{set("k/c", "3")}}); res.Code != kv.Exists {
			t.Fatal(res.Code)
		}
		return d.Txn()
	}
	tr := kv.New(kv.Options{})
	tr.Apply(put("k/a", "old"))
	txn := build(tr.Snap())
	tr.Apply(put("k/other", "x"))
	if res := tr.Apply(txn)[0]; res.Code != kv.OK || len(res.Ops) != 2 {
		t.Fatalf("%+v", res)
	}
	txn = build(tr.Snap())
	tr.Apply(put("k/a", "changed"))
	if res := tr.Apply(txn)[0]; res.Code != kv.Mismatch {
		t.Fatalf("%+v", res)
	}
}
