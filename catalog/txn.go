package catalog

import (
	"strings"

	"github.com/musterhq/muster/kv"
)

// recordFlags is how every record is written: the structural directories around it appear and vanish by
// themselves, and writing what is already there changes nothing and wakes nobody.
const recordFlags = kv.Flat | kv.KeepCreated | kv.SkipSame

// InputError is a refusal of bad input; Text is for the client.
type InputError struct{ Text string }

func (e *InputError) Error() string { return e.Text }

// Stale reports whether a Txn of this package that ended with c was built from a Snap that is out of date: a
// record that decided about its operations has changed meanwhile. The caller reads again and builds again.
func Stale(c kv.Code) bool { return c == kv.Mismatch || c == kv.NotFound || c == kv.Exists }

// fold is the path segment of a name in which letter case carries no meaning (nodes and services).
func fold(name string) string { return kv.Escape(strings.ToLower(name)) }

// recordAt is the record of type T at path, with its entry. The record is T's zero value when there is none.
func recordAt[T any](s *kv.Snap, path string) (rec T, e *kv.Entry) {
	e, ok := s.Get(path)
	if !ok {
		return rec, nil
	}
	rec, _ = e.Record().(T)
	return rec, e
}

// builder collects a Txn from what it reads in one Snap.
type builder struct {
	snap *kv.Snap
	txn  kv.Txn
	node string   // path of the node the Txn is about
	lost []string // ids of checks on that node that are critical or gone after the Txn
}

func (b *builder) cond(c kv.Cond) { b.txn.Conds = append(b.txn.Conds, c) }

func (b *builder) set(path, value string) {
	b.txn.Ops = append(b.txn.Ops, kv.Op{Kind: kv.OpSet, Action: kv.ActSet, Flags: recordFlags, Path: path, Value: value})
}

func (b *builder) removeTree(path string) {
	b.txn.Ops = append(b.txn.Ops, kv.Op{Kind: kv.OpDeleteTree, Action: kv.ActDelete, Flags: kv.Flat, Path: path})
}

// accepted is the Txn, unless a name in it makes a path that kv refuses.
func (b *builder) accepted() (kv.Txn, error) {
	if err := b.txn.Check(); err != nil {
		return kv.Txn{}, &InputError{err.Error()}
	}
	return b.txn, nil
}

// unchanged makes the Txn depend on the value at path being the one in e, or on there being none when e is nil.
func (b *builder) unchanged(path string, e *kv.Entry) {
	c := kv.Cond{Kind: kv.CondIndex, Path: path}
	if e != nil && e.HasValue() {
		c.Index = e.Modified()
	}
	b.cond(c)
}
