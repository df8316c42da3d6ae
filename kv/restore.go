package kv

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"math"
	"strings"
)

// SnapshotError says why a snapshot cannot be used. Nothing has been changed then.
type SnapshotError struct {
	Offset int64 // bytes read so far
	Text   string
	Err    error // of the reader or the Deriver, if that was it
}

func (e *SnapshotError) Error() string {
	if e.Err != nil {
		return fmt.Sprintf("kv: snapshot, near byte %d: %s: %v", e.Offset, e.Text, e.Err)
	}
	return fmt.Sprintf("kv: snapshot, near byte %d: %s", e.Offset, e.Text)
}

// Unwrap gives the underlying error, if any.
func (e *SnapshotError) Unwrap() error { return e.Err }

// Header is what a snapshot says about itself.
type Header struct {
	Format  uint64
	Cluster string // value of m/cluster, "" before it is set
	Index   uint64
	Version string // of the program that wrote it
	Now     int64  // largest Txn.Now applied
}

// ReadHeader reads the header at the beginning of a snapshot without checking the rest. It may read ahead.
func ReadHeader(r io.Reader) (h Header, err error) {
	sr := newSnapReader(r)
	err = sr.run(func() { h = sr.header() })
	return h, err
}

type snapReader struct {
	src   io.Reader
	buf   []byte
	pos   int    // of the next byte in buf
	sumAt int    // up to here buf is in sum
	sum   uint32 // of all before
	n     int64  // bytes before buf
	index uint64
	count uint64
	below uint64 // index of the top
	t     *Tree  // being built
	owned []ownedEntry
	path  []byte
	kids  []*Entry // stack of the children of the directories being read
}

type ownedEntry struct{ path, owner string }

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

func newSnapReader(r io.Reader) *snapReader {
	return &snapReader{src: r, buf: make([]byte, 0, snapBuffer)}
}

// need makes at least n bytes, n being at most half the buffer, available from pos.
func (r *snapReader) need(n int) {
	if !r.have(n) {
		r.refuse(io.ErrUnexpectedEOF, "cannot read on")
	}
}

func (r *snapReader) have(n int) bool {
	if len(r.buf)-r.pos >= n {
		return true
	}
	r.addSum()
	r.n += int64(r.pos)
	r.buf = r.buf[:copy(r.buf[:cap(r.buf)], r.buf[r.pos:])]
	r.pos, r.sumAt = 0, 0
	got, err := io.ReadAtLeast(r.src, r.buf[len(r.buf):cap(r.buf)], n-len(r.buf))
	r.buf = r.buf[:len(r.buf)+got]
	if err != nil && !errors.Is(err, io.EOF) && !errors.Is(err, io.ErrUnexpectedEOF) {
		r.refuse(err, "cannot read on")
	}
	return len(r.buf) >= n
}

// addSum sums up to pos.
func (r *snapReader) addSum() {
	r.sum = crc32.Update(r.sum, castagnoli, r.buf[r.sumAt:r.pos])
	r.sumAt = r.pos
}

// run turns the failures raised by refuse into an error.
func (r *snapReader) run(f func()) (err error) {
	defer func() {
		if p := recover(); p != nil {
			e, ok := p.(*SnapshotError)
			if !ok {
				panic(p)
			}
			err = e
		}
	}()
	f()
	return nil
}

func (r *snapReader) refuse(err error, format string, args ...any) {
	panic(&SnapshotError{Offset: r.n + int64(r.pos), Text: fmt.Sprintf(format, args...), Err: err})
}

func (r *snapReader) want(ok bool, format string, args ...any) {
	if !ok {
		r.refuse(nil, format, args...)
	}
}

func (r *snapReader) byte() byte {
	r.need(1)
	r.pos++
	return r.buf[r.pos-1]
}

func (r *snapReader) uint() uint64 {
	r.have(binary.MaxVarintLen64)
	v, n := binary.Uvarint(r.buf[r.pos:])
	if n == 0 {
		r.refuse(io.ErrUnexpectedEOF, "cannot read on")
	}
	r.want(n > 0, "number too large")
	r.pos += n
	return v
}

// text reads a text of at most limit bytes; a wrong length costs no more memory than the stream has bytes.
func (r *snapReader) text(limit int) string {
	n := r.uint()
	r.want(n <= uint64(limit), "text of %d bytes, at most %d are possible", n, limit)
	const piece = snapBuffer / 2
	if n <= piece {
		r.need(int(n))
		r.pos += int(n)
		return string(r.buf[r.pos-int(n) : r.pos])
	}
	var b []byte
	for left := int(n); left > 0; {
		part := min(left, piece)
		r.need(part)
		r.pos += part
		b = append(b, r.buf[r.pos-part:r.pos]...)
		left -= part
	}
	return string(b)
}

func (r *snapReader) indexNumber() uint64 {
	v := r.uint()
	if v > r.index {
		r.refuse(nil, "index %d is above that of the snapshot, %d", v, r.index)
	}
	return v
}

func (r *snapReader) header() (h Header) {
	r.need(len(snapMagic))
	r.pos += len(snapMagic)
	r.want(string(r.buf[:r.pos]) == snapMagic, "this is no snapshot: it begins with %q", r.buf[:r.pos])
	h.Format = r.uint()
	r.want(h.Format == snapFormat, "format %d is unknown, this program reads format %d", h.Format, snapFormat)
	h.Cluster = r.text(MaxValue)
	h.Index = r.uint()
	h.Version = r.text(1 << 10)
	h.Now = unzig(r.uint())
	return h
}

// Restore replaces the whole tree by a snapshot, wakes every waiter, and ends every watcher with ErrRestored. It
// validates everything first: after an error (a *SnapshotError) nothing has changed.
func (t *Tree) Restore(src io.Reader) error {
	n := &Tree{o: t.o, root: emptyRoot(), gen: 1}
	n.hub.init(n)
	r := newSnapReader(src)
	r.t = n
	if err := r.run(r.restore); err != nil {
		return err
	}
	t.root, t.index, t.now, t.exp, t.restored = n.root, n.index, n.now, n.exp, n.restored
	t.gen = max(t.gen, n.gen) + 1 // no node of the new tree may pass for one of a later edit
	t.epoch++
	t.publish()
	t.hub.reset(ErrRestored, &n.hub.hist)
	return nil
}

func (r *snapReader) restore() {
	t := r.t
	h := r.header()
	t.index, t.now, r.index = h.Index, h.Now, h.Index
	r.tree()
	views := r.indexes(0)
	r.histories()
	count := r.uint()
	r.want(count == r.count, "%d entries are announced, %d found", count, r.count)
	r.addSum()
	sum := r.sum // need may sum what follows
	r.need(4)
	r.want(binary.LittleEndian.Uint32(r.buf[r.pos:]) == sum, "checksum mismatch: the snapshot is damaged")
	r.pos += 4
	r.want(!r.have(1), "something follows the checksum")
	r.derive()
	stamp(t.root.kids.get(viewRoot), views)
	t.root.below = max(r.below, t.root.kids.get(viewRoot).below)
	t.restored = indexAt(t.root, restoredPath)
}

func (r *snapReader) tree() {
	top := r.t.root
	below := r.indexNumber()
	n := r.uint()
	r.want(n == uint64(len(roots)-1), "%d roots, want %d", n, len(roots)-1)
	last := ""
	for range n {
		e := r.entry(0)
		i := rootOf(e.name)
		r.want(i >= 0 && isRoot(e.name) && !roots[i].view && e.name > last, "root %q is unknown or out of order", e.name)
		r.want(e.bits() == realDir, "root %q is no directory", e.name)
		r.want(e.below <= below, "index of the tree is below that of root %q", e.name)
		last = e.name
		top.kids = top.kids.put(r.t.gen, e)
	}
	r.below = below
}

// entry reads an entry of the tree with all below it. at is the length of the path of its parent in r.path.
func (r *snapReader) entry(at int) *Entry {
	e, kids := r.single()
	r.want(e.meta&^(hasValue|realDir) == 0, "entry with unknown bits %#x", e.meta)
	r.path = append(r.path[:at], e.name...)
	r.want(len(r.path) <= MaxPath, "path longer than %d bytes", MaxPath)
	r.want(kids > 0 || !e.Structural(), "structural directory without children at %.80q", r.path)
	if e.HasValue() && at > 0 && r.t.o.Deriver != nil || e.ext != nil {
		r.fill(e, string(r.path))
	}
	r.children(e, kids, r.entry)
	return e
}

// fill gives an entry of the tree what belongs to it elsewhere: its record, its deadline, its place in the view of
// held entries.
func (r *snapReader) fill(e *Entry, path string) {
	x := e.extra()
	if x.expires != 0 {
		r.t.exp.heap = append(r.t.exp.heap, deadline{x.expires, path})
	}
	if x.owner != "" {
		r.owned = append(r.owned, ownedEntry{path, x.owner})
	}
	r.record(e, path)
}

func (r *snapReader) record(e *Entry, path string) {
	i := rootOf(path)
	r.want(i >= 0, "unknown root in %.80q", path)
	if r.t.o.Deriver == nil || !e.HasValue() || !roots[i].records {
		return
	}
	rec, err := r.t.o.Deriver.Decode(path, e.value)
	if err != nil {
		r.refuse(err, "record at %.80q", path)
	}
	e.record = rec
}

func (r *snapReader) children(e *Entry, kids uint64, read func(at int) *Entry) {
	if kids == 0 {
		return
	}
	r.path = append(r.path, '/')
	at, base := len(r.path), len(r.kids)
	for i := range kids {
		c := read(at)
		r.want(i == 0 || c.name > r.kids[len(r.kids)-1].name, "%.80q is out of order", r.path)
		r.want(c.below <= e.below, "%.80q has a higher index than its directory", r.path)
		r.kids = append(r.kids, c)
	}
	e.kids = newDir(r.t.gen, r.kids[base:])
	clear(r.kids[base:])
	r.kids = r.kids[:base]
	r.path = r.path[:at-1]
}

// single reads an entry without its children and returns their number.
func (r *snapReader) single() (e *Entry, kids uint64) {
	r.count++
	bits := r.byte()
	e = &Entry{meta: uint64(bits &^ (bitExtra | bitKids))}
	e.name = r.text(MaxPath)
	r.want(strings.IndexByte(e.name, '/') < 0, "name %.80q holds a slash", e.name)
	if e.HasValue() {
		e.value = r.text(MaxValue)
	}
	e.created, e.modified, e.below = r.indexNumber(), r.indexNumber(), r.indexNumber()
	r.want(e.modified <= e.below, "%.80q was modified after the last change at or below it", e.name)
	if bits&bitExtra != 0 {
		x := ext{flags: r.uint(), expires: unzig(r.uint()), lock: r.uint(), owner: r.text(MaxPath)}
		r.want(x.expires >= 0, "negative deadline of %.80q", e.name)
		e.setExtra(x)
	}
	if bits&bitKids != 0 {
		kids = r.uint()
		r.want(kids > 0 && kids < math.MaxInt32, "directory of %d children", kids)
	}
	return e, kids
}

// indexes reads the indexes of the views into a tree of entries that have nothing else.
func (r *snapReader) indexes(depth int) *Entry {
	r.want(depth <= MaxPath, "views too deep")
	e := &Entry{name: r.text(4 * MaxPath)}
	e.created, e.modified, e.below = r.indexNumber(), r.indexNumber(), r.indexNumber()
	last := ""
	for i := range r.uint() {
		c := r.indexes(depth + 1)
		r.want(i == 0 || c.name > last, "view %.80q is out of order", c.name)
		last = c.name
		e.kids = e.kids.put(1, c)
	}
	return e
}

// derive computes the views of the tree just read.
func (r *snapReader) derive() {
	t := r.t
	for _, o := range r.owned {
		t.owned(o.path, "", o.owner)
	}
	t.before = emptyRoot()
	for i := range roots {
		if roots[i].records {
			walk(t.root, roots[i].name+"/", func(path string, _ *Entry) bool {
				t.changed = append(t.changed, path)
				return true
			})
		}
	}
	t.derive()
}

// stamp gives the views the indexes they had where the snapshot was written; e is known to nobody yet. What was not
// there then has the index of the snapshot.
func stamp(e, saved *Entry) {
	if saved != nil {
		e.created, e.modified, e.below = saved.created, saved.modified, saved.below
	}
	e.Each(func(c *Entry) bool {
		s, _ := saved.Child(c.name)
		stamp(c, s)
		e.below = max(e.below, c.below)
		return true
	})
}

func (r *snapReader) histories() {
	count := r.count
	for i := range roots {
		if !roots[i].view {
			r.history(i, &r.t.hub.hist[i])
		}
	}
	r.count = count
}

func (r *snapReader) history(root int, h *history) {
	h.lost = r.indexNumber()
	last := h.lost
	var evs []*Event
	for range r.uint() {
		ev := &Event{Index: r.indexNumber()}
		r.want(ev.Index >= last, "history is out of order at index %d", ev.Index)
		last = ev.Index
		a := r.uint()
		r.want(a < 512, "unknown action %d", a>>1)
		ev.Action, ev.silent = Action(a>>1), a&1 == 1
		ev.Path = r.text(MaxPath)
		r.want(rootOf(ev.Path) == root && !isRoot(ev.Path), "history of %q holds the path %.80q", roots[root].name, ev.Path)
		ev.Entry, ev.Prev = r.ref(ev.Path, evs), r.ref(ev.Path, evs)
		r.want(ev.Entry != nil && (ev.Prev != nil || !ev.Entry.has(gone)), "incomplete Event %d", ev.Index)
		evs = append(evs, ev)
		h.append(ev)
	}
}

func (r *snapReader) ref(path string, evs []*Event) *Entry {
	switch kind := r.uint(); kind {
	case refNone:
		return nil
	case refTree:
		e := r.t.root.find(path)
		r.want(e != nil, "an Event refers to %.80q, which is not there", path)
		return e
	case refEvent:
		i := r.uint()
		r.want(i < uint64(len(evs)), "an Event refers to one after it")
		return evs[i].Entry
	case refInline:
		r.path = append(r.path[:0], path...)
		return r.past(len(path) - len(lastSegment(path)))
	default:
		r.refuse(nil, "unknown kind %d of entry in an Event", kind)
		return nil
	}
}

// past reads an entry that is no longer in the tree.
func (r *snapReader) past(at int) *Entry {
	e, kids := r.single()
	r.path = append(r.path[:at], e.name...)
	r.want(len(r.path) <= MaxPath, "path longer than %d bytes", MaxPath)
	r.record(e, string(r.path))
	r.children(e, kids, r.past)
	return e
}
