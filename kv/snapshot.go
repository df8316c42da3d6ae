package kv

import (
	"encoding/binary"
	"hash"
	"hash/crc32"
	"hash/crc64"
	"io"
	"slices"
)

// A snapshot is one stream; numbers are varints, a text is its length and its bytes:
//
//	magic, format, cluster id, index, writer's version, last Now
//	the tree: index of the top, number of roots, roots; each entry in order: bits, name, [value], created,
//	  modified, below, [user flags, expires, lock index, owner], [number of children, children]
//	the indexes of the views (the views themselves are derived again): name, created, modified, below, children
//	the history of each root: newest index lost, number of Events, Events
//	number of entries in the tree
//	CRC-32C of all of the above, 4 bytes, little endian
const (
	snapMagic  = "MUSTERKV"
	snapFormat = 1
)

// Bits beside hasValue and realDir in the first byte of an entry.
const (
	bitExtra = 1 << 6
	bitKids  = 1 << 7
)

// Where an Event's entry is found.
const (
	refNone   = iota
	refInline // here
	refTree   // it is the entry at the path of the Event
	refEvent  // it is the Entry of an earlier Event of the same root
)

// snapWriter gathers output and hands it on, summed, in large pieces.
type snapWriter struct {
	w     io.Writer
	sum   hash.Hash
	buf   []byte
	n     int64
	count uint64
	err   error // the first of w; nothing more is written after it
}

const snapBuffer = 64 << 10

func newSnapWriter(w io.Writer, sum hash.Hash) *snapWriter {
	return &snapWriter{w: w, sum: sum, buf: make([]byte, 0, snapBuffer)}
}

func (w *snapWriter) flush() {
	w.sum.Write(w.buf)
	w.raw(w.buf)
	w.buf = w.buf[:0]
}

func (w *snapWriter) raw(b []byte) {
	if w.err == nil {
		var n int
		n, w.err = w.w.Write(b)
		w.n += int64(n)
	}
}

func (w *snapWriter) uint(v uint64) { w.buf = binary.AppendUvarint(w.buf, v) }

func (w *snapWriter) text(s string) {
	w.uint(uint64(len(s)))
	w.buf = append(w.buf, s...)
	if len(w.buf) > snapBuffer-256 { // every entry has a text
		w.flush()
	}
}

// WriteTo writes a snapshot: header, sorted records, count, checksum. It may run beside Apply; it is as old as s.
func (s *Snap) WriteTo(w io.Writer) (int64, error) { return s.write(w, true) }

// WriteBare is WriteTo without the history, for a backup: it writes the same bytes each time.
func (s *Snap) WriteBare(w io.Writer) error {
	_, err := s.write(w, false)
	return err
}

func (s *Snap) write(w io.Writer, history bool) (int64, error) {
	sum := crc32.New(castagnoli)
	sw := newSnapWriter(w, sum)
	sw.buf = append(sw.buf, snapMagic...)
	sw.uint(snapFormat)
	cluster := ""
	if e, ok := s.Get(clusterPath); ok {
		cluster = e.value
	}
	sw.text(cluster)
	sw.uint(s.index)
	sw.text(s.tree.o.Version)
	sw.uint(zig(s.now))
	sw.tree(s.root)
	views, _ := s.Get(viewRoot)
	sw.indexes(views)
	sw.histories(s, history)
	sw.uint(sw.count)
	sw.flush()
	sw.raw(binary.LittleEndian.AppendUint32(nil, sum.Sum32()))
	return sw.n, sw.err
}

// Hash is a digest of all non-view state; equal on equal replicas.
func (s *Snap) Hash() uint64 {
	h := crc64.New(crc64.MakeTable(crc64.ECMA))
	sw := newSnapWriter(io.Discard, h)
	sw.uint(s.index)
	sw.uint(zig(s.now))
	sw.tree(s.root)
	sw.flush()
	return h.Sum64()
}

func (w *snapWriter) tree(top *Entry) {
	w.uint(top.below)
	w.uint(uint64(top.Len() - 1))
	top.Each(func(e *Entry) bool {
		if e.name != viewRoot {
			w.entry(e, true)
		}
		return true
	})
}

func (w *snapWriter) entry(e *Entry, deep bool) {
	w.count++
	bits := byte(e.bits())
	if e.ext != nil {
		bits |= bitExtra
	}
	if e.kids != nil {
		if deep {
			bits |= bitKids
		} else {
			bits |= shownAsDir
		}
	}
	w.buf = append(w.buf, bits)
	w.text(e.name)
	if e.HasValue() {
		w.text(e.value)
	}
	w.uint(e.created)
	w.uint(e.modified)
	w.uint(e.below)
	if x := e.ext; x != nil {
		w.uint(x.flags)
		w.uint(zig(x.expires))
		w.uint(x.lock)
		w.text(x.owner)
	}
	if bits&bitKids != 0 {
		w.uint(uint64(e.Len()))
		e.Each(func(c *Entry) bool {
			w.entry(c, true)
			return true
		})
	}
}

func (w *snapWriter) indexes(e *Entry) {
	w.text(e.name)
	w.uint(e.created)
	w.uint(e.modified)
	w.uint(e.below)
	w.uint(uint64(e.Len()))
	e.Each(func(c *Entry) bool {
		w.indexes(c)
		return true
	})
}

func (w *snapWriter) histories(s *Snap, keep bool) {
	count := w.count
	for i := range roots {
		if !roots[i].view {
			lost, evs := s.index, []*Event(nil)
			if keep {
				lost, evs = s.tree.hub.history(i, s)
			}
			w.uint(lost)
			w.uint(uint64(len(evs)))
			for n, ev := range evs {
				w.event(s, ev, evs[:n])
			}
		}
	}
	w.count = count // entries of Events are not of the tree
}

func (w *snapWriter) event(s *Snap, ev *Event, before []*Event) {
	w.uint(ev.Index)
	silent := uint64(0)
	if ev.silent {
		silent = 1
	}
	w.uint(uint64(ev.Action)<<1 | silent)
	w.text(ev.Path)
	w.ref(s, ev, ev.Entry, before, false)
	w.ref(s, ev, ev.Prev, before, ev.Entry.has(goneTree))
}

// ref writes an entry of an Event; what the tree or an earlier Event holds anyway is only named, so that it is
// shared again after a restore.
func (w *snapWriter) ref(s *Snap, ev *Event, e *Entry, before []*Event, deep bool) {
	if e == nil {
		w.uint(refNone)
		return
	}
	if s.root.find(ev.Path) == e {
		w.uint(refTree)
		return
	}
	i, ok := slices.BinarySearchFunc(before, e.modified, func(b *Event, index uint64) int {
		return int(int64(b.Index - index))
	})
	if ok && before[i].Entry == e && (!deep || e.kids == nil) { // an Entry is written without its children
		w.uint(refEvent)
		w.uint(uint64(i))
		return
	}
	w.uint(refInline)
	w.entry(e, deep)
}

// history returns the Events of a root that s has seen, and the newest index before them.
func (h *hub) history(root int, s *Snap) (lost uint64, evs []*Event) {
	h.mu.Lock()
	defer h.mu.Unlock()
	hist := &h.hist[root]
	if h.err != nil || s.epoch != h.tree.Snap().epoch || hist.lost > s.index {
		return s.index, nil
	}
	evs = make([]*Event, 0, hist.len())
	for seq := hist.first; seq < hist.next && hist.at(seq).Index <= s.index; seq++ {
		evs = append(evs, hist.at(seq))
	}
	return hist.lost, evs
}
