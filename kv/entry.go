package kv

// Entry is one immutable node of the tree. All its methods may be called from any goroutine; it shares its
// subtree with the Snap it came from and keeps that subtree alive.
//
// The struct is 96 bytes; name and value share the memory of the Txn that wrote them. What few entries have
// stands in ext.
type Entry struct {
	name     string
	value    string
	created  uint64
	modified uint64
	below    uint64 // index of the last change at or below
	kids     *dir   // nil when there are none
	ext      *ext   // nil when all of it is zero
	record   any    // what Deriver.Decode made of the value, or the payload of a view entry
	meta     uint64 // edit generation << metaBits | bits
}

// ext holds the rare fields of an Entry. It is never changed once an Entry points to it.
type ext struct {
	flags   uint64
	expires int64
	lock    uint64
	owner   string
}

const (
	hasValue    = 1 << iota // a value is here, perhaps ""
	realDir                 // a directory of its own right: it stays when its last child goes
	gone                    // stands in the Event of a removal, never in the tree
	goneTree                // ... and everything below went with it
	shownAsFile             // only with gone: it was no directory
	shownAsDir              // had children, which were left out (Event read back from a snapshot)
	metaBits    = 8
)

func (e *Entry) has(bit uint64) bool { return e.meta&bit != 0 }
func (e *Entry) gen() uint64         { return e.meta >> metaBits }
func (e *Entry) bits() uint64        { return e.meta & (1<<metaBits - 1) }

// own returns an Entry of this generation with the same content: e itself or a copy.
func (e *Entry) own(gen uint64) *Entry {
	if e.gen() == gen {
		return e
	}
	c := *e
	c.meta = gen<<metaBits | e.bits()
	return &c
}

func (e *Entry) extra() ext {
	if e == nil || e.ext == nil {
		return ext{}
	}
	return *e.ext
}

func (e *Entry) setExtra(x ext) {
	if x.flags == 0 && x.expires == 0 && x.lock == 0 && x.owner == "" {
		e.ext = nil
		return
	}
	e.ext = &x
}

// Name is the last segment of the path.
func (e *Entry) Name() string { return e.name }

// Value is the value, "" for directories.
func (e *Entry) Value() string { return e.value }

// HasValue says whether a value, perhaps "", is stored here: what a flat reader calls a key.
func (e *Entry) HasValue() bool { return e.has(hasValue) }

// IsDir says whether there is no value, or there are children: what a hierarchical reader calls a directory.
// In the Event of a removal it tells what the removed entry was.
func (e *Entry) IsDir() bool {
	return e.kids != nil || e.meta&(hasValue|shownAsFile) == 0 || e.has(shownAsDir)
}

// Structural says whether this directory exists only because of entries below it.
func (e *Entry) Structural() bool { return e.meta&(hasValue|realDir|gone) == 0 }

// Removed says whether this is the Entry of the Event of a removal.
func (e *Entry) Removed() bool { return e.has(gone) }

// UserFlags is the opaque number kept beside the value.
func (e *Entry) UserFlags() uint64 {
	if e.ext == nil {
		return 0
	}
	return e.ext.flags
}

// Created is the index of the change that created the entry.
func (e *Entry) Created() uint64 { return e.created }

// Modified is the index of the last change of the entry itself.
func (e *Entry) Modified() uint64 { return e.modified }

// Expires is the deadline in unix nanoseconds by the leader's clock, 0 for never.
func (e *Entry) Expires() int64 {
	if e.ext == nil {
		return 0
	}
	return e.ext.expires
}

// Owner is the session that holds the entry, "" for none.
func (e *Entry) Owner() string {
	if e.ext == nil {
		return ""
	}
	return e.ext.owner
}

// LockIndex counts the fresh acquires since the last plain write.
func (e *Entry) LockIndex() uint64 {
	if e.ext == nil {
		return 0
	}
	return e.ext.lock
}

// Record is what Deriver.Decode made of the value, or the payload of a view entry.
func (e *Entry) Record() any {
	return e.record
}

// Index is the index of the last change at or below this entry, removals included.
func (e *Entry) Index() uint64 { return e.below }

// Len is the number of direct children.
func (e *Entry) Len() int {
	if e == nil || e.kids == nil {
		return 0
	}
	return e.kids.n
}

// Each calls f for each direct child in ascending byte order of names until f returns false.
func (e *Entry) Each(f func(*Entry) bool) {
	if e != nil {
		e.kids.ascend("", f)
	}
}

// Child returns the direct child of that name.
func (e *Entry) Child(name string) (*Entry, bool) {
	if e == nil {
		return nil, false
	}
	c := e.kids.get(name)
	return c, c != nil
}

// Lookup walks the relative path rel ("a/b") below e.
func (e *Entry) Lookup(rel string) (*Entry, bool) {
	c := e.find(rel)
	return c, c != nil
}

func (e *Entry) find(rel string) *Entry {
	for more := true; more && e != nil; {
		var seg string
		seg, rel, more = cut(rel)
		e = e.kids.get(seg)
	}
	return e
}
