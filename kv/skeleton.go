package kv

import (
	"context"
	"io"
)

func (e *HistoryError) Error() string { return ErrHistoryLost.Error() }
func (e *HistoryError) Unwrap() error { return ErrHistoryLost }

// Entry is one immutable node of the tree.
type Entry struct{}

func (e *Entry) Name() string      { panic("x") } // last segment
func (e *Entry) Value() string     { panic("x") } // "" for directories
func (e *Entry) HasValue() bool    { panic("x") }
func (e *Entry) IsDir() bool       { panic("x") } // no value, or has children: what a hierarchical reader calls a directory
func (e *Entry) Structural() bool  { panic("x") } // only exists because of entries below it
func (e *Entry) UserFlags() uint64 { panic("x") }
func (e *Entry) Created() uint64   { panic("x") }
func (e *Entry) Modified() uint64  { panic("x") }
func (e *Entry) Expires() int64    { panic("x") }
func (e *Entry) Owner() string     { panic("x") }
func (e *Entry) LockIndex() uint64 { panic("x") }
func (e *Entry) Record() any       { panic("x") } // decoded record, set by the codec of its root, or the payload of a view entry
func (e *Entry) Index() uint64     { panic("x") } // last change at or below this entry
func (e *Entry) Len() int          { panic("x") } // number of direct children
// Each calls f for each direct child in ascending byte order of names until f returns false.
func (e *Entry) Each(f func(*Entry) bool) { panic("x") }

// Child returns the direct child of that name.
func (e *Entry) Child(name string) (*Entry, bool) { panic("x") }

// Lookup walks rel ("a/b") below e.
func (e *Entry) Lookup(rel string) (*Entry, bool) { panic("x") }

// Snap is an immutable root.
type Snap struct{}

func (s *Snap) Index() uint64 { panic("x") }
func (s *Snap) Term() uint64  { panic("x") } // not owned by kv: 0 unless set by the caller of Read

// Get returns the entry (or directory, also structural) at path.
func (s *Snap) Get(path string) (*Entry, bool) { panic("x") }

// Resolve is Get that says why: NotFound with the first missing path, NotDir with the entry in the way.
func (s *Snap) Resolve(path string) (*Entry, Code, string) { panic("x") }

// IndexOf is the index of the last change at or below path; for a missing path that of its nearest ancestor.
func (s *Snap) IndexOf(path string) uint64 { panic("x") }

// Walk visits every entry that has a value and whose full path begins with the string prefix, in byte order of the full path.
func (s *Snap) Walk(prefix string, f func(path string, e *Entry) bool) { panic("x") }

// Wait returns a waiter whose channel closes at the first change at, below, or removing path after this Snap (at once if that has happened).
func (s *Snap) Wait(path string) *Waiter { panic("x") }

// Waiter is a level-triggered wait. Stop frees it; always call Stop.
type Waiter struct{ C <-chan struct{} }

func (w *Waiter) Stop() {}

// Deriver contributes views: it is called inside Apply for each changed entry outside the view roots.
type Deriver interface {
	// Decode turns the raw value of a record root into what Entry.Record returns; called once per write, and at restore.
	Decode(path string, value string) (any, error)
	// Derive brings the views up to date after the paths in changed (roots of changed subtrees) have changed.
	Derive(tx ViewTx, changed []string)
}

// ViewTx is what a Deriver may do.
type ViewTx interface {
	Get(path string) (*Entry, bool)  // the tree with the changes of this Txn
	Prev(path string) (*Entry, bool) // the tree before this Txn
	SetView(path string, record any) // under v/ only; index is that of the Txn's last change; wakes waiters
	DeleteView(path string)
}

// Options of a Tree.
type Options struct {
	Deriver      Deriver
	HistoryBytes int // per root; 0 = 16 MiB for k, 1 MiB for others
}

type Tree struct{}

func New(o Options) *Tree { panic("x") }

// Apply applies a batch of Txns in order and publishes once. One caller at a time.
func (t *Tree) Apply(txns ...Txn) []Result { panic("x") }
func (t *Tree) Snap() *Snap                { panic("x") } // any goroutine, no lock
// Watch streams the Events at path (and below when recursive) with index > after; after 0 = from now.
func (t *Tree) Watch(path string, after uint64, recursive bool) (*Watcher, error) { panic("x") }
func (t *Tree) OldestIndex(root string) uint64                                    { panic("x") }
func (t *Tree) NextExpiry() int64                                                 { panic("x") } // earliest deadline, 0 if none; any goroutine
func (t *Tree) LastNow() int64                                                    { panic("x") } // largest Txn.Now applied
func (t *Tree) Restore(r io.Reader) error                                         { panic("x") } // replaces all, wakes every waiter, watchers get ErrRestored
func (t *Tree) Close()                                                            {}

// WriteTo writes a snapshot: header, sorted records, count, checksum.
func (s *Snap) WriteTo(w io.Writer) (int64, error) { panic("x") }

// Hash is a digest of all non-view state; equal on equal replicas.
func (s *Snap) Hash() uint64 { panic("x") }

// Watcher is one subscription. Next is called by one goroutine at a time.
type Watcher struct{}

func (w *Watcher) Next(ctx context.Context) (Event, error) { panic("x") }
func (w *Watcher) Start() uint64                           { panic("x") } // tree index when the watch began
func (w *Watcher) Stop()                                   {}

// Marshal and Unmarshal: binary envelope with numbered fields.
func (t Txn) Marshal() []byte            { panic("x") }
func UnmarshalTxn(b []byte) (Txn, error) { panic("x") }

// Escape makes any string one path segment; Unescape is its inverse.
func Escape(s string) string            { panic("x") }
func Unescape(s string) (string, error) { panic("x") }

// Check says whether a Txn is acceptable before it is proposed (paths, sizes, kinds, roots); the same rules hold at Apply.
func (t Txn) Check() error { panic("x") }
