package kv

import (
	"container/heap"
	"math"
)

// deadline says that the entry at path may expire then. It counts only while the entry still has that deadline:
// changed and removed entries leave theirs behind, to be skipped when met.
type deadline struct {
	at   int64
	path string
}

// expiry is the writer's index of deadlines: a heap ordered by deadline, then path.
type expiry struct {
	heap    deadlines
	popped  []deadline // by the running Txn, to be put back if it fails
	saved   deadlines  // the heap before the running Txn moved all deadlines, if it did
	compact int        // length at which stale deadlines are thrown out
}

type deadlines []deadline

func (h deadlines) Len() int      { return len(h) }
func (h deadlines) Swap(i, j int) { h[i], h[j] = h[j], h[i] }
func (h deadlines) Less(i, j int) bool {
	return h[i].at < h[j].at || h[i].at == h[j].at && h[i].path < h[j].path
}
func (h *deadlines) Push(x any) { *h = append(*h, x.(deadline)) }
func (h *deadlines) Pop() any {
	old := *h
	d := old[len(old)-1]
	old[len(old)-1] = deadline{}
	*h = old[:len(old)-1]
	return d
}

func (x *expiry) begin() { x.popped, x.saved = x.popped[:0], nil }

func (x *expiry) rollback() {
	if x.saved != nil {
		x.heap, x.saved = x.saved, nil
	}
	for _, d := range x.popped {
		heap.Push(&x.heap, d)
	}
	x.popped = x.popped[:0]
}

func (x *expiry) add(at int64, path string) { heap.Push(&x.heap, deadline{at, path}) }

func (d deadline) counts(root *Entry) bool {
	e := root.find(d.path)
	return e != nil && e.Expires() == d.at
}

// next drops stale deadlines from the front and returns the earliest that counts, 0 if none. It is called between
// Txns only.
func (x *expiry) next(root *Entry) int64 {
	if len(x.heap) > x.compact {
		kept := x.heap[:0]
		for _, d := range x.heap {
			if d.counts(root) {
				kept = append(kept, d)
			}
		}
		clear(x.heap[len(kept):])
		x.heap = kept
		heap.Init(&x.heap)
		x.compact = 2*len(kept) + 1024
	}
	for len(x.heap) > 0 {
		if x.heap[0].counts(root) {
			return x.heap[0].at
		}
		heap.Pop(&x.heap)
	}
	return 0
}

// expire removes everything due by op.Cutoff in order of deadline, then path. A directory goes with all below it
// as one change; an entry that has a value leaves its children.
func (t *Tree) expire(op *Op, r *OpResult) {
	x := &t.exp
	for len(x.heap) > 0 && x.heap[0].at <= op.Cutoff {
		d := heap.Pop(&x.heap).(deadline)
		x.popped = append(x.popped, d)
		if e := t.root.find(d.path); e != nil && e.Expires() == d.at {
			t.remove(d.path, e, op.Action, !e.HasValue(), r)
		}
	}
}

// extendExpiry moves every deadline by add nanoseconds. It is no change of any entry: no index, no Event. All move
// alike, so what counts of the heap is in order again as it is.
func (t *Tree) extendExpiry(add int64) (n int) {
	if add == 0 {
		return 0
	}
	t.gen++
	was := t.root // a stale deadline may equal a new one: it must count before the shift, too
	moved := make(deadlines, 0, len(t.exp.heap))
	for _, d := range t.exp.heap {
		e := t.root.find(d.path)
		if e == nil || e.Expires() != d.at || !d.counts(was) {
			continue
		}
		if d.at < math.MaxInt64 {
			c := *e
			c.meta = e.bits()
			x := e.extra()
			if x.expires += add; x.expires < 0 { // overflow
				x.expires = math.MaxInt64
			}
			c.setExtra(x)
			t.root = t.replace(t.root, d.path, &c)
			d.at = x.expires
			n++
		}
		moved = append(moved, d)
	}
	if t.exp.saved == nil {
		t.exp.saved = t.exp.heap
	}
	t.exp.heap = moved
	heap.Init(&t.exp.heap) // without what was stale, the rest has other places
	return n
}

// replace swaps an existing entry for one with the same name without touching any index.
func (t *Tree) replace(e *Entry, path string, leaf *Entry) *Entry {
	e = e.own(t.gen)
	seg, rest, more := cut(path)
	p := slot(&e.kids, t.gen, seg)
	if more {
		leaf = t.replace(*p, rest, leaf)
	}
	*p = leaf
	return e
}
