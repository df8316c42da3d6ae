// Package kv is the replicated, hierarchical key-value tree that every other part of Muster stands on: one
// tree, one index, one way to change it (Txn) and two ways to wait for a change (Watch and Wait).
//
// It is a pure, deterministic state machine: it imports no network, no operating system, no randomness and
// never reads a clock. The same Txns in the same order give the same tree, byte for byte, on every replica.
//
//	t := kv.New(kv.Options{})
//	res := t.Apply(kv.Txn{Ops: []kv.Op{{Kind: kv.OpSet, Path: "k/a/b", Value: "v"}}})[0]
//	s := t.Snap()
//	e, _ := s.Get("k/a/b")       // e.Value() == "v", e.Modified() == res.Index
//	w, _ := t.Watch("k/a", res.Index, true)
//	ev, err := w.Next(ctx)       // the next change at or below k/a
//
// A path is a list of segments joined by "/", without a leading slash. The first segment names the root (see
// roots.go); segments may be empty, so the flat key "a//b/" and the directory key "/a/b" share one tree without
// ever being cleaned into each other.
package kv

import (
	"errors"
	"fmt"
)

// Code is the numeric outcome of a Txn. The numbers are stable: they cross the wire.
type Code uint8

// Outcomes. Everything but OK means that the Txn changed nothing at all.
const (
	OK         Code = iota
	NotFound        // a path, or a part of it, does not exist; Failure.Path is the first missing path
	Exists          // the path exists already
	NotDir          // an entry with a value and no children stands in the path; Failure.Path is that entry
	NotFile         // the path is a directory where a value is needed
	NotEmpty        // the directory has children
	Mismatch        // value or index differ from what the condition wants; Failure.Entry is the current entry
	NotOwner        // the entry is owned by somebody else, or by nobody where an owner is wanted
	NoSession       // the session named by Acquire does not exist
	RootOnly        // the operation would change a root itself
	BadTxn          // malformed: unknown kind, bad path, too large
	BadVersion      // Txn written by a newer format than this binary understands
)

// Action names what happened to an entry; it is a label chosen by the builder of the Txn and carried in Events.
type Action uint8

// Actions.
const (
	ActSet Action = iota
	ActCreate
	ActUpdate
	ActCompareAndSwap
	ActDelete
	ActCompareAndDelete
	ActExpire
	ActRefresh // label of old logs; OpRefresh is silent whatever its label
	ActAcquire
	ActRelease

	actions = iota // how many there are
)

// CondKind says what a Cond demands.
type CondKind uint8

// Conditions, checked in the order given, before any Op runs, against the tree as it is before the Txn.
const (
	CondExists   CondKind = iota + 1 // something is at Path (entry or directory). Else NotDir or NotFound with the first missing path
	CondAbsent                       // nothing is at Path, or only a structural directory when Flat. Else Exists
	CondHasValue                     // an entry with a value is at Path (flat view). Else NotFound
	CondValue                        // value at Path equals Value. Else Mismatch
	CondIndex                        // Modified at Path equals Index; Index 0 means: no value there. Else Mismatch
	CondOwner                        // owner of Path equals Owner ("" = unowned). Else NotOwner
	CondOpen                         // no entry that has a value and no children stands above Path. Else NotDir
	CondNotDir                       // Path is absent or an entry that is no directory. Else NotFile
	CondEmpty                        // Path has no children. Else NotEmpty
	CondBelow                        // nothing at or below Path changed after Index (directory index <= Index). Else Mismatch
)

// Cond is one condition of a Txn. The zero values of unused fields are ignored.
type Cond struct {
	Kind  CondKind
	Path  string
	Value string // CondValue
	Index uint64 // CondIndex, CondBelow
	Owner string // CondOwner
	Flat  bool   // CondAbsent: ignore structural directories
}

// OpKind says what an Op does.
type OpKind uint8

// Operations.
const (
	OpSet           OpKind = iota + 1 // write an entry or a directory
	OpDelete                          // remove the entry at Path; children stay (flat). Absent: no change
	OpDeleteTree                      // remove Path and everything below it, as one Event
	OpDeletePrefix                    // remove every entry whose path begins with the string Path, one Event each
	OpCreateInOrder                   // create <Path>/<20-digit index>, or one above the highest such name there is; the Event carries the name
	OpRefresh                         // change Expires only, keep the value, wake nobody
	OpAcquire                         // write value and flags and make Owner the owner (session entry at OwnerPath must exist). Held by other: NotOwner
	OpRelease                         // write value and flags and clear the owner. Held by other or nobody: NotOwner
	OpExpire                          // remove everything whose deadline is <= Cutoff, in order of deadline then path
	OpExtendExpiry                    // add Extend nanoseconds to every deadline (the outage seen by a new leader)
	OpSnap                            // change nothing: OpResult.Snap is the tree as the operations before this one left it
)

// OpFlags modify an OpSet (and OpDelete for Prune).
type OpFlags uint16

// Flags of operations.
const (
	Dir          OpFlags = 1 << iota // make (or update) a directory; Value is ignored
	KeepCreated                      // an existing entry keeps its created index (update, compare-and-swap, flat writes)
	KeepValue                        // an existing entry keeps its value and flags (directory update)
	SkipSame                         // same value, flags and expiry already there: change nothing, no index, no event
	Flat                             // parents made on the way are structural: invisible to flat reads, pruned when empty
	KeepModified                     // the stored modified index stays, only the Event shows the new one (directory update)
	KeepLock                         // keep owner (flat put on a locked key); the lock index is reset to 0 as the contract has it
)

// Op is one operation of a Txn.
type Op struct {
	Kind      OpKind
	Action    Action // label for the Event
	Flags     OpFlags
	Path      string
	Value     string
	UserFlags uint64 // opaque number kept beside the value
	Expires   int64  // absolute deadline, unix nanoseconds by the leader's clock; 0 = never
	Owner     string // OpAcquire, OpRelease: session id
	OwnerPath string // OpAcquire: path of the session entry
	Cutoff    int64  // OpExpire, unix nanoseconds
	Extend    int64  // OpExtendExpiry, nanoseconds
}

// Txn is the only thing ever written to the raft log: conditions, operations and the leader's time. It is
// applied whole or not at all.
type Txn struct {
	Conds []Cond
	Ops   []Op
	Now   int64 // the leader's clock when it proposed, unix nanoseconds
}

// Failure tells which condition or operation stopped a Txn.
type Failure struct {
	Cond  int    // index into Conds, -1 when an Op failed
	Op    int    // index into Ops, -1 when a Cond failed
	Path  string // the path that decided
	Entry *Entry // the current entry at the path of the condition, nil if none
}

// OpResult is what one Op did. When the Op changed nothing, Event is nil and Entry is the present entry, if any.
type OpResult struct {
	Entry *Entry // the entry after the Op; nil after a removal
	Event *Event // the (last) Event it made
	Count int    // how many entries it changed
	Snap  *Snap  // OpSnap: the tree at this point of the Txn. Its views are those of before the Txn, and it cannot be waited on
}

// Result is the answer to a Txn, the same on every replica.
type Result struct {
	Code  Code
	Index uint64 // index of the tree after the Txn
	Ops   []OpResult
	Fail  *Failure // set when Code is not OK
}

// Event is one change. Events of one tree are ordered by Index, dense and immutable. Only records that one Txn changes
// share an Index; Watch gives them one after the other.
type Event struct {
	Index  uint64
	Action Action
	Path   string
	Entry  *Entry // the new state as an answer shows it; for a removal Entry.Created is the old one and it has no value
	Prev   *Entry // the old state with its old subtree; nil if there was none
	silent bool   // made by OpRefresh: kept in history, delivered to nobody
}

// Errors of reads and watches.
var (
	// ErrHistoryLost: the wanted index is older than the oldest Event kept (see HistoryError for the numbers).
	ErrHistoryLost = errors.New("kv: the requested history is no longer kept")
	// ErrClosed: the tree was closed or the watcher stopped.
	ErrClosed = errors.New("kv: closed")
	// ErrRestored: the tree was replaced by a snapshot; watchers must read again.
	ErrRestored = errors.New("kv: tree was restored from a snapshot")
)

// HistoryError wraps ErrHistoryLost with the oldest index still kept and the index asked for.
type HistoryError struct{ Oldest, Wanted uint64 }

// Error names both indexes.
func (e *HistoryError) Error() string {
	return fmt.Sprintf("%v: index %d is wanted, the oldest kept is %d", ErrHistoryLost, e.Wanted, e.Oldest)
}

// Unwrap makes errors.Is(err, ErrHistoryLost) hold.
func (e *HistoryError) Unwrap() error { return ErrHistoryLost }
