package kv

import "sort"

// history is the ring of the last Events of one root, guarded by the lock of the hub. Each Event has a sequence
// number, counted without gaps within the root, by which a watcher finds it again in one step.
type history struct {
	ring      []kept // length a power of two, or 0
	first     uint64 // sequence number of the oldest Event kept
	next      uint64 // sequence number the next Event will get
	lost      uint64 // index of the newest Event no longer kept
	bytes     int
	maxBytes  int
	maxEvents int
}

type kept struct {
	ev   *Event
	size int // what it adds to memory, roughly
}

func (h *history) len() int             { return int(h.next - h.first) }
func (h *history) at(seq uint64) *Event { return h.ring[seq&uint64(len(h.ring)-1)].ev }

// oldest is the smallest index from which a watch misses nothing.
func (h *history) oldest() uint64 { return h.lost + 1 }

// append adds an Event and drops the oldest ones beyond the bounds, but never the new one.
func (h *history) append(ev *Event) (seq uint64) {
	if h.len() == len(h.ring) {
		ring := make([]kept, max(64, 2*len(h.ring)))
		for s := h.first; s < h.next; s++ {
			ring[s&uint64(len(ring)-1)] = h.ring[s&uint64(len(h.ring)-1)]
		}
		h.ring = ring
	}
	seq = h.next
	k := kept{ev, ev.size()}
	h.ring[seq&uint64(len(h.ring)-1)] = k
	h.next++
	h.bytes += k.size
	for (h.bytes > h.maxBytes || h.len() > h.maxEvents) && h.len() > 1 {
		old := &h.ring[h.first&uint64(len(h.ring)-1)]
		h.bytes -= old.size
		h.lost = old.ev.Index
		*old = kept{}
		h.first++
	}
	return seq
}

// after is the sequence number of the first Event with an index above that one.
func (h *history) after(index uint64) uint64 {
	return h.first + uint64(sort.Search(h.len(), func(i int) bool { return h.at(h.first+uint64(i)).Index > index }))
}

const (
	eventSize = 48 + 16 // an Event and its place in the ring
	entrySize = 96
)

// size estimates the memory that an Event keeps alive beyond the tree: the old state, and for the removal of a
// directory the whole old subtree.
func (ev *Event) size() int {
	n := eventSize + len(ev.Path)
	if ev.Entry.has(gone) {
		n += entrySize
	}
	if ev.Prev != nil {
		n += entrySize + len(ev.Prev.value)
		if ev.Entry.has(goneTree) {
			n += ev.Prev.sizeBelow()
		}
	}
	return n
}

func (e *Entry) sizeBelow() (n int) {
	e.Each(func(c *Entry) bool {
		n += entrySize + 16 + len(c.name) + len(c.value) + c.sizeBelow()
		return true
	})
	return n
}

// Whole says of the Event of a removal that nothing is left at Path: the entry went with all that was below it, or had
// nothing below. False: only a value went, and the directory it stood on is still there, as for every other Event.
func (ev *Event) Whole() bool {
	switch {
	case !ev.Entry.has(gone):
		return false
	case ev.Entry.has(goneTree):
		return true
	}
	return ev.Prev.kids == nil && !ev.Prev.has(shownAsDir)
}

// meets says whether a watcher of path wants the Event: it is at path, below it when recursive, or it removed a
// directory above path in which path existed.
func (ev *Event) meets(path string, recursive bool) bool {
	if ev.silent {
		return false
	}
	if len(ev.Path) >= len(path) {
		return ev.Path[:len(path)] == path && (len(ev.Path) == len(path) || recursive && ev.Path[len(path)] == '/')
	}
	if !ev.Entry.has(goneTree) || path[:len(ev.Path)] != ev.Path || path[len(ev.Path)] != '/' {
		return false
	}
	return ev.Prev.find(path[len(ev.Path)+1:]) != nil
}
