package kv_test

import (
	"bytes"
	"fmt"
	"slices"
	"testing"

	"github.com/musterhq/muster/kv"
)

func due(path string, at int64, flags kv.OpFlags) kv.Txn {
	return kv.Txn{Ops: []kv.Op{{Kind: kv.OpSet, Path: path, Value: "v", Expires: at, Flags: flags}}}
}

func sweep(tr *kv.Tree, cutoff int64) kv.Result {
	return tr.Apply(kv.Txn{Ops: []kv.Op{{Kind: kv.OpExpire, Action: kv.ActExpire, Cutoff: cutoff}}})[0]
}

// seen lists the paths of the Events after index, in order.
func seen(t *testing.T, tr *kv.Tree, after uint64) (paths []string) {
	t.Helper()
	w := mustWatch(t, tr, "k", after, true)
	for len(paths) < int(tr.Snap().Index()-after) {
		ev, err := w.Next(soon(t))
		if err != nil || ev.Action != kv.ActExpire || ev.Prev.Expires() == 0 {
			t.Fatalf("%+v, %v", ev, err)
		}
		paths = append(paths, ev.Path)
	}
	return paths
}

// A directory takes all that is in it along, as one Event; what ran out in it before had its own. All go in order of
// their deadlines, in one sweep as in many.
func TestDirectoryExpiry(t *testing.T) {
	for name, cutoffs := range map[string][]int64{"one sweep": {20}, "many": {1, 5, 9, 10, 12, 20}} {
		t.Run(name, func(t *testing.T) {
			tr := kv.New(kv.Options{})
			tr.Apply(due("k/d", 10, kv.Dir), due("k/d/later", 15, 0), due("k/d/sooner", 5, 0), due("k/d/same", 10, 0), put("k/d/never", "v"),
				due("k/d/sub", 12, kv.Dir), due("k/z", 12, 0), due("k/a", 12, 0), due("k/now", 0, 0), due("k/stays", 21, 0))
			at := tr.Snap().Index()
			for _, c := range cutoffs {
				sweep(tr, c)
			}
			if got, want := seen(t, tr, at), []string{"k/d/sooner", "k/d", "k/a", "k/z"}; !slices.Equal(got, want) {
				t.Errorf("%q, want %q", got, want)
			}
			if tr.NextExpiry() != 21 {
				t.Errorf("the next to go is at %d", tr.NextExpiry())
			}
			if index := sweep(tr, 20).Index; index != at+4 {
				t.Errorf("a sweep with nothing due moved the index to %d", index)
			}
		})
	}
}

// A directory lives as its last update or refresh says, whatever its children do.
func TestDirectoryLifetimeIsChanged(t *testing.T) {
	tr := kv.New(kv.Options{})
	tr.Apply(due("k/d", 10, kv.Dir), put("k/d/x", "v"))
	tr.Apply(kv.Txn{Ops: []kv.Op{{Kind: kv.OpRefresh, Path: "k/d", Expires: 30, Flags: kv.KeepCreated | kv.KeepModified}}})
	sweep(tr, 10)
	tr.Apply(put("k/d/x", "w"))
	if e, ok := tr.Snap().Get("k/d"); !ok || e.Expires() != 30 || tr.NextExpiry() != 30 {
		t.Fatalf("after a refresh: %v %+v, next %d", ok, e, tr.NextExpiry())
	}
	tr.Apply(due("k/d", 0, kv.Dir|kv.KeepValue|kv.KeepCreated|kv.KeepModified))
	sweep(tr, 100)
	if e, ok := tr.Snap().Get("k/d"); !ok || e.Expires() != 0 || tr.NextExpiry() != 0 {
		t.Fatalf("made permanent: %v %+v", ok, e)
	}
}

// All deadlines move by an outage, each once, and back when the Txn fails; the order in which they were met before
// does not matter.
func TestExtendExpiry(t *testing.T) {
	tr := kv.New(kv.Options{})
	for i := range 200 { // each second one is changed, so that its first deadline is stale
		tr.Apply(due(fmt.Sprintf("k/%03d", i*37%200), int64(1000+i*53%200), 0))
		if i%2 == 0 {
			tr.Apply(due(fmt.Sprintf("k/%03d", i*37%200), int64(1100+i*53%200), 0))
		}
	}
	before := map[string]int64{}
	tr.Snap().Walk("k/", func(p string, e *kv.Entry) bool { before[p] = e.Expires(); return true })
	index, hash, next := tr.Snap().Index(), tr.Snap().Hash(), tr.NextExpiry()
	extend := kv.Op{Kind: kv.OpExtendExpiry, Extend: 50}
	failed := tr.Apply(kv.Txn{Ops: []kv.Op{extend, {Kind: kv.OpRelease, Path: "k/none"}}})[0]
	if failed.Code == kv.OK || tr.Snap().Hash() != hash || tr.NextExpiry() != next {
		t.Fatalf("a failed Txn: %v, next %d, was %d", failed.Code, tr.NextExpiry(), next)
	}
	res := tr.Apply(kv.Txn{Ops: []kv.Op{extend}})[0]
	if res.Ops[0].Count != 200 || res.Index != index || tr.NextExpiry() != next+50 {
		t.Fatalf("%d moved, index %d, next %d", res.Ops[0].Count, res.Index, tr.NextExpiry())
	}
	for cutoff := int64(1000); cutoff <= 1400; cutoff += 7 {
		sweep(tr, cutoff)
		left := 0
		tr.Snap().Walk("k/", func(p string, e *kv.Entry) bool {
			left++
			if e.Expires() != before[p]+50 || e.Expires() <= cutoff {
				t.Errorf("at %d: %s is due at %d, was %d", cutoff, p, e.Expires(), before[p])
			}
			return true
		})
		for _, at := range before {
			if at+50 > cutoff {
				left--
			}
		}
		if left != 0 {
			t.Fatalf("at %d: %d too few have gone", cutoff, left)
		}
	}
}

// A history that was kept under wider bounds keeps the newest of it under narrower ones.
func TestRestoreIntoNarrowerHistory(t *testing.T) {
	wide := kv.New(kv.Options{})
	for i := range 100 {
		wide.Apply(put("k/a", fmt.Sprint(i)))
	}
	narrow := kv.New(kv.Options{HistoryEvents: 10})
	if err := narrow.Restore(bytes.NewReader(snapshot(t, wide))); err != nil {
		t.Fatal(err)
	}
	if got := narrow.OldestIndex("k"); got != 91 {
		t.Errorf("the history begins at %d, want 91", got)
	}
	if ev, err := mustWatch(t, narrow, "k/a", 90, false).Next(soon(t)); err != nil || ev.Index != 91 || ev.Prev.Value() != "89" {
		t.Errorf("%+v, %v", ev, err)
	}
}
