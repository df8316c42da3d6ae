package kv_test

import (
	"bytes"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/musterhq/muster/kv"
)

// removals changes a tree so that entries go in every way there is. The paths named in seen are those on which a plain
// watch sees the removal at that path; all others in watched must not see it.
var removals = []struct {
	name    string
	prepare []kv.Txn
	remove  kv.Txn
	at      string   // path of the Event
	whole   bool     // nothing is left there
	seen    []string // besides at itself
	blind   []string
}{
	{
		name:    "a directory with all below it",
		prepare: []kv.Txn{put("k/d/x/y", "1"), put("k/d/z", "2"), put("k/dd/x", "3"), {Ops: []kv.Op{{Kind: kv.OpSet, Path: "k/d/flat//f", Value: "4", Flags: kv.Flat}}}},
		remove:  kv.Txn{Ops: []kv.Op{{Kind: kv.OpDeleteTree, Path: "k/d", Action: kv.ActDelete}}},
		at:      "k/d", whole: true,
		seen:  []string{"k/d/x", "k/d/x/y", "k/d/z", "k/d/flat", "k/d/flat/", "k/d/flat//f"},
		blind: []string{"k/d/none", "k/d/x/y/z", "k/dd", "k/dd/x", "k/d/flat/f"},
	},
	{
		name:    "a directory whose time is over",
		prepare: []kv.Txn{put("k/d/x", "1"), {Ops: []kv.Op{{Kind: kv.OpSet, Path: "k/d", Flags: kv.Dir | kv.KeepValue | kv.KeepCreated | kv.KeepModified, Expires: 5}}}},
		remove:  kv.Txn{Ops: []kv.Op{{Kind: kv.OpExpire, Action: kv.ActExpire, Cutoff: 5}}},
		at:      "k/d", whole: true, seen: []string{"k/d/x"}, blind: []string{"k/d/y"},
	},
	{
		name:    "a child that had gone before",
		prepare: []kv.Txn{put("k/d/x", "1"), put("k/d/y", "1"), {Ops: []kv.Op{{Kind: kv.OpDeleteTree, Path: "k/d/x"}}}},
		remove:  kv.Txn{Ops: []kv.Op{{Kind: kv.OpDeleteTree, Path: "k/d"}}},
		at:      "k/d", whole: true, seen: []string{"k/d/y"}, blind: []string{"k/d/x"},
	},
	{
		name:    "a key",
		prepare: []kv.Txn{put("k/d/x", "1")},
		remove:  kv.Txn{Ops: []kv.Op{{Kind: kv.OpDelete, Path: "k/d/x"}}},
		at:      "k/d/x", whole: true, blind: []string{"k/d", "k/d/x/y"},
	},
	{
		name:    "an empty directory",
		prepare: []kv.Txn{{Ops: []kv.Op{{Kind: kv.OpSet, Path: "k/d", Flags: kv.Dir}}}},
		remove:  kv.Txn{Ops: []kv.Op{{Kind: kv.OpDelete, Path: "k/d"}}},
		at:      "k/d", whole: true, blind: []string{"k/d/x"},
	},
	{
		name:    "the value of a key that has others below it",
		prepare: []kv.Txn{{Ops: []kv.Op{{Kind: kv.OpSet, Path: "k/d", Value: "v", Flags: kv.Flat}, {Kind: kv.OpSet, Path: "k/d/x", Value: "1", Flags: kv.Flat}}}},
		remove:  kv.Txn{Ops: []kv.Op{{Kind: kv.OpDelete, Path: "k/d", Flags: kv.Flat}}},
		at:      "k/d", whole: false, blind: []string{"k/d/x"},
	},
	{
		name:    "the value of such a key whose time is over",
		prepare: []kv.Txn{{Ops: []kv.Op{{Kind: kv.OpSet, Path: "k/d", Value: "v", Flags: kv.Flat, Expires: 5}, {Kind: kv.OpSet, Path: "k/d/x", Value: "1", Flags: kv.Flat}}}},
		remove:  kv.Txn{Ops: []kv.Op{{Kind: kv.OpExpire, Cutoff: 5}}},
		at:      "k/d", whole: false, blind: []string{"k/d/x"},
	},
}

// A removal is seen at its path and, when a whole subtree went, wherever something was in it; the same live, from the
// history, and from the history that a snapshot carries, whatever has been put there since.
func TestRemovalsAreSeenWhereSomethingWas(t *testing.T) {
	for _, c := range removals {
		t.Run(c.name, func(t *testing.T) {
			tr := kv.New(kv.Options{})
			tr.Apply(c.prepare...)
			before := tr.Snap().Index()
			live := map[string]*kv.Watcher{}
			watched := append(append([]string{c.at}, c.seen...), c.blind...)
			for _, p := range watched {
				live[p] = mustWatch(t, tr, p, 0, false)
			}
			gone := tr.Apply(c.remove)[0].Index
			for _, p := range watched { // all of it is there again, and so are the names that were not
				tr.Apply(put(p+"/again", "1"), put("k/end", p))
			}
			restored := kv.New(kv.Options{})
			if err := restored.Restore(bytes.NewReader(snapshot(t, tr))); err != nil {
				t.Fatal(err)
			}
			twice := kv.New(kv.Options{}) // a snapshot of what came from a snapshot
			if err := twice.Restore(bytes.NewReader(snapshot(t, restored))); err != nil {
				t.Fatal(err)
			}
			for i, p := range watched {
				for how, w := range map[string]*kv.Watcher{
					"live": live[p], "from the history": mustWatch(t, tr, p, before, false),
					"after a restore": mustWatch(t, restored, p, before, false), "after two": mustWatch(t, twice, p, before, false),
				} {
					ev := first(t, w, gone)
					if want := i <= len(c.seen); (ev != nil) != want {
						t.Errorf("%s %s: removal seen: %v, want %v", how, p, ev != nil, want)
					} else if want && (ev.Path != c.at || ev.Whole() != c.whole || !ev.Entry.Removed() || ev.Prev == nil) {
						t.Errorf("%s %s: %+v, whole %v", how, p, ev, ev.Whole())
					}
				}
			}
		})
	}
}

// first returns the Event of that index if the watcher sees it.
func first(t *testing.T, w *kv.Watcher, index uint64) *kv.Event {
	t.Helper()
	done, cancel := canceled()
	defer cancel()
	for {
		ev, err := w.Next(done)
		switch {
		case err != nil:
			return nil // nothing is there yet
		case ev.Index == index:
			return &ev
		case ev.Index > index:
			return nil
		}
	}
}

// The bounds of the history of user keys move nothing else, and what happens elsewhere takes none of its places.
func TestHistoryIsKeptByRoot(t *testing.T) {
	tr := kv.New(kv.Options{HistoryEvents: 10, HistoryBytes: 1 << 20})
	tr.Apply(put("k/a", "first"))
	for i := range 1000 {
		tr.Apply(put("n/w/s/api", fmt.Sprint(i)), put("m/x", "1"))
	}
	if ev := first(t, mustWatch(t, tr, "k/a", 0, false), 1); ev != nil {
		t.Fatalf("from now on there came %+v", ev)
	}
	w, err := tr.Watch("n/w", 1, true)
	if err != nil || tr.OldestIndex("k") != 1 || tr.OldestIndex("n") != 1 {
		t.Fatalf("%v; oldest %d and %d", err, tr.OldestIndex("k"), tr.OldestIndex("n"))
	}
	w.Stop()
	for i := range 20 {
		tr.Apply(put("k/a", fmt.Sprint(i)))
	}
	var lost *kv.HistoryError
	if _, err := tr.Watch("k/a", 1, false); !errors.As(err, &lost) || lost.Oldest != 2012 {
		t.Fatalf("%v", err)
	}
}

// Events of large values leave sooner: the bound in bytes holds whatever the number of Events.
func TestHistoryIsBoundedInBytes(t *testing.T) {
	tr := kv.New(kv.Options{HistoryBytes: 1 << 20})
	for i := range 100 {
		tr.Apply(put("k/a", strings.Repeat(fmt.Sprint(i%10), 100_000)))
	}
	if n := tr.Snap().Index() - tr.OldestIndex("k") + 1; n < 9 || n > 11 {
		t.Fatalf("%d Events of 100 kB are kept in 1 MiB", n)
	}
	// The removal of a directory keeps all that was in it: alone it may be larger than the bound, but only the newest.
	for i := range 50 {
		tr.Apply(put(fmt.Sprintf("k/d/%d", i), strings.Repeat("x", 100_000)))
	}
	tr.Apply(kv.Txn{Ops: []kv.Op{{Kind: kv.OpDeleteTree, Path: "k/d"}}})
	if now, old := tr.Snap().Index(), tr.OldestIndex("k"); old != now {
		t.Fatalf("after a huge Event at %d the history begins at %d", now, old)
	}
	tr.Apply(put("k/b", "1"))
	if now, old := tr.Snap().Index(), tr.OldestIndex("k"); old != now {
		t.Fatalf("the huge Event is still kept at %d: %d", now, old)
	}
}

func TestCounts(t *testing.T) {
	tr := kv.New(kv.Options{})
	tr.Apply(put("k/a", "1"), put("k/a", "2"), put("n/w", "not a user's"),
		kv.Txn{Conds: []kv.Cond{{Kind: kv.CondValue, Path: "k/a", Value: "3"}}, Ops: []kv.Op{{Kind: kv.OpSet, Action: kv.ActCompareAndSwap, Path: "k/a"}}},
		kv.Txn{Ops: []kv.Op{{Kind: kv.OpSet, Path: "k/b"}, {Kind: kv.OpRelease, Path: "k/c"}}}, // fails as a whole
		kv.Txn{Ops: []kv.Op{{Kind: kv.OpDeleteTree, Action: kv.ActDelete, Path: "k/a"}}},
		kv.Txn{Ops: []kv.Op{{Kind: kv.OpSet, Action: 200, Path: "k/z"}}}, // a label of a later version
	)
	var want kv.Counts
	want.Done[kv.ActSet], want.Done[kv.ActDelete] = 2, 1
	want.Refused[kv.ActCompareAndSwap], want.Refused[kv.ActSet] = 1, 1
	if got := tr.Counts(); got != want {
		t.Fatalf("%+v, want %+v", got, want)
	}
}
