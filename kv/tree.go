package kv

import (
	"strings"
	"sync/atomic"
)

// Options of a Tree. The zero value is usable.
type Options struct {
	Deriver       Deriver
	HistoryBytes  int    // bound of the history of user keys (root k); 0 = 16 MiB. Every other root keeps 1 MiB of its own
	HistoryEvents int    // likewise in Events; 0 = 200,000, which also bounds every other root
	Version       string // of this program, written into snapshots for people to read
}

// Deriver contributes views: it is called inside Apply for the record roots (see roots.go), and only there. It
// must be deterministic and must not keep the ViewTx or an Entry of it.
type Deriver interface {
	// Decode turns the raw value of a record root into what Entry.Record returns; called once per write, and at
	// restore. An error refuses the Txn with BadTxn.
	Decode(path string, value string) (any, error)
	// Derive brings the views up to date after the paths in changed (roots of changed subtrees, in order of
	// change, each once) have changed.
	Derive(tx ViewTx, changed []string)
}

// ViewTx is what a Deriver may do. It is valid only during the call of Derive.
type ViewTx interface {
	Get(path string) (*Entry, bool)  // the tree with the changes of this Txn
	Prev(path string) (*Entry, bool) // the tree before this Txn
	SetView(path string, record any) // under v/ only; index is that of the Txn's last change; wakes waiters
	DeleteView(path string)          // absent: no change
}

// Tree is the replicated state machine. Apply, Restore and Close belong to one goroutine at a time (the writer);
// everything else may be called from any.
type Tree struct {
	o    Options
	live atomic.Pointer[Snap]
	hub  hub

	nextExpiry atomic.Int64

	// Of the writer:
	root     *Entry
	index    uint64
	together uint64 // the index that the records changed by the running Txn share, 0 before the first
	draft    bool   // all Txns are steps of one
	gen      uint64 // nodes of this edit generation are known to nobody else and are changed in place
	epoch    uint64
	restored uint64 // see Snap.Restored
	now      int64
	events   []*Event // of the running batch
	viewed   []viewed // view paths changed in the running batch
	changed  []string // paths in record roots changed by the running Txn
	before   *Entry   // root before the running Txn, intact where applyTxn began a new generation
	exp      expiry

	done, refused [actions]atomic.Uint64 // changes of user keys, and Txns on them that failed, by Action
}

// New makes an empty tree at index 0.
func New(o Options) *Tree {
	t := &Tree{o: o, root: emptyRoot()}
	t.hub.init(t)
	t.live.Store(&Snap{root: t.root, tree: t})
	return t
}

func emptyRoot() *Entry {
	e := &Entry{meta: realDir}
	for i := range roots {
		e.kids = e.kids.put(0, &Entry{name: roots[i].name, meta: realDir})
	}
	return e
}

// Snap is the state after the last Apply or Restore. It takes no lock.
func (t *Tree) Snap() *Snap { return t.live.Load() }

// NextExpiry is the earliest deadline in unix nanoseconds, 0 if there is none.
func (t *Tree) NextExpiry() int64 { return t.nextExpiry.Load() }

// LastNow is the largest Txn.Now applied.
func (t *Tree) LastNow() int64 { return t.Snap().now }

// Close wakes every waiter and ends every watcher with ErrClosed. Snaps stay readable.
func (t *Tree) Close() { t.hub.reset(ErrClosed, nil) }

// Apply applies a batch of Txns in order and publishes once. One caller at a time. The tree keeps the strings of
// the Txns: they must not be parts of much larger strings.
func (t *Tree) Apply(txns ...Txn) []Result {
	t.gen++
	n := 0
	for i := range txns {
		n += len(txns[i].Ops)
	}
	ops := make([]OpResult, n)
	out := make([]Result, len(txns))
	for i := range txns {
		x := &txns[i]
		n := len(x.Ops)
		t.applyTxn(x, ops[:n:n], &out[i])
		ops = ops[n:]
	}
	t.publish()
	return out
}

// publish makes the batch visible: first the root, then the events, so that whoever hears of an event reads a
// state at least as new.
func (t *Tree) publish() {
	t.before = nil // it may be all that keeps a removed subtree
	t.nextExpiry.Store(t.exp.next(t.root))
	for _, ev := range t.events {
		t.count(&t.done, ev.Path, ev.Action)
	}
	t.live.Store(&Snap{root: t.root, tree: t, index: t.index, epoch: t.epoch, now: t.now, gen: t.gen, restored: t.restored})
	if len(t.events) > 0 || len(t.viewed) > 0 {
		t.hub.publish(t.events, t.viewed)
		clear(t.events)
		clear(t.viewed)
		t.events, t.viewed = t.events[:0], t.viewed[:0]
	}
}

// Counts are the changes of user keys that this replica has applied, by Action, and the Txns on user keys that
// failed, by the Action of their first operation. They begin at zero with the process; what it replays of its log
// counts too. They are no part of the state.
type Counts struct{ Done, Refused [actions]uint64 }

// Counts returns the figures so far. They are read one after the other while the tree may go on.
func (t *Tree) Counts() (c Counts) {
	for a := range actions {
		c.Done[a], c.Refused[a] = t.done[a].Load(), t.refused[a].Load()
	}
	return c
}

func (t *Tree) count(to *[actions]atomic.Uint64, path string, a Action) {
	if rootOf(path) == userRoot && a < actions {
		to[a].Add(1)
	}
}

// put returns e, of this edit, with the leaf at the relative path in it. Missing directories on the way are made;
// hier makes them and the structural ones on the way directories of their own right.
func (t *Tree) put(e *Entry, path string, leaf *Entry, hier bool) *Entry {
	e = e.own(t.gen)
	e.below = leaf.below
	seg, rest, more := cut(path)
	if !more {
		e.kids = e.kids.put(t.gen, leaf)
		return e
	}
	if p := slot(&e.kids, t.gen, seg); p != nil {
		if hier && !(*p).HasValue() {
			*p = (*p).own(t.gen)
			(*p).meta |= realDir
		}
		*p = t.put(*p, rest, leaf, hier)
		return e
	}
	c := &Entry{name: strings.Clone(seg), created: leaf.below, modified: leaf.below, meta: t.gen << metaBits}
	if hier {
		c.meta |= realDir
	}
	e.kids = e.kids.put(t.gen, t.put(c, rest, leaf, hier))
	return e
}

// del returns e, of this edit, without the existing child at the relative path and without the structural
// directories left empty by that.
func (t *Tree) del(e *Entry, path string, index uint64) *Entry {
	e = e.own(t.gen)
	e.below = index
	seg, rest, more := cut(path)
	if more {
		p := slot(&e.kids, t.gen, seg)
		*p = t.del(*p, rest, index)
		if (*p).kids != nil || !(*p).Structural() {
			return e
		}
	}
	e.kids = e.kids.remove(t.gen, seg)
	return e
}

// capture must be called with every entry of the tree that leaves the writer before the batch is published. If the
// running edit could still change it in place, a new edit generation begins.
func (t *Tree) capture(e *Entry) *Entry {
	if e != nil && (e.kids != nil || e.gen() == t.gen) {
		t.gen++
	}
	return e
}

// nextIndex is the index of a change at path that is about to be made: every change has its own, but the records that
// one Txn changes have one in common, as they are one change to whoever waits for them.
func (t *Tree) nextIndex(path string) uint64 {
	if t.together != 0 && t.together == t.index && roots[rootOf(path)].records {
		return t.index
	}
	return t.index + 1
}

// emit records a change that is already in the tree.
func (t *Tree) emit(ev *Event) *Event {
	t.index = ev.Index
	t.events = append(t.events, ev)
	if roots[rootOf(ev.Path)].records {
		t.together = ev.Index
		t.changed = append(t.changed, ev.Path)
	}
	return ev
}
