package kv

import (
	"fmt"
)

// Limits of a Txn. They bound what one log entry can hold.
const (
	MaxPath  = 8 << 10  // bytes of a path, root included
	MaxValue = 10 << 20 // bytes of a value
	MaxOps   = 8192     // operations, and as many conditions
	MaxTxn   = 64 << 20 // bytes of all paths and values
)

// TxnError says why a Txn (or a path) is refused before anything is done.
type TxnError struct {
	Code Code // BadTxn, BadVersion or RootOnly
	Cond int  // index into Conds, or -1
	Op   int  // index into Ops, or -1
	Path string
	Text string
}

func (e *TxnError) Error() string {
	switch {
	case e.Cond >= 0:
		return fmt.Sprintf("kv: condition %d on %.80q: %s", e.Cond, e.Path, e.Text)
	case e.Op >= 0:
		return fmt.Sprintf("kv: operation %d on %.80q: %s", e.Op, e.Path, e.Text)
	case e.Path != "":
		return fmt.Sprintf("kv: path %.80q: %s", e.Path, e.Text)
	}
	return "kv: " + e.Text
}

// Check says whether a Txn is acceptable before it is proposed (paths, sizes, kinds, roots); the same rules hold at
// Apply. The error is a *TxnError.
func (t Txn) Check() error {
	if err := t.check(); err != nil {
		return err
	}
	return nil
}

// checkPath returns what is wrong with a path, "" if nothing is.
func checkPath(path string) string {
	switch r := rootOf(path); {
	case r < 0:
		return "unknown root"
	case roots[r].view:
		return "views are derived and cannot be used here"
	case len(path) > MaxPath:
		return fmt.Sprintf("longer than %d bytes", MaxPath)
	}
	return ""
}

const allFlags = Dir | KeepCreated | KeepValue | SkipSame | Flat | KeepModified | KeepLock

func (t *Txn) check() *TxnError {
	if len(t.Ops) > MaxOps || len(t.Conds) > MaxOps {
		return &TxnError{Code: BadTxn, Cond: -1, Op: -1, Text: fmt.Sprintf("more than %d operations or conditions", MaxOps)}
	}
	size := 0
	for i := range t.Conds {
		c := &t.Conds[i]
		text := ""
		switch {
		case c.Kind < CondExists || c.Kind > CondBelow:
			text = "unknown kind"
		case c.Kind == CondBelow && rootOf(c.Path) == len(roots)-1: // views may be compared
		default:
			text = checkPath(c.Path)
		}
		if text != "" {
			return &TxnError{Code: BadTxn, Cond: i, Op: -1, Path: c.Path, Text: text}
		}
		size += len(c.Path) + len(c.Value)
	}
	for i := range t.Ops {
		o := &t.Ops[i]
		if text := o.check(); text != "" {
			return &TxnError{Code: BadTxn, Cond: -1, Op: i, Path: o.Path, Text: text}
		}
		size += len(o.Path) + len(o.Value)
	}
	if size > MaxTxn {
		return &TxnError{Code: BadTxn, Cond: -1, Op: -1, Text: fmt.Sprintf("larger than %d bytes", MaxTxn)}
	}
	return nil
}

func (o *Op) check() string {
	switch {
	case o.Kind < OpSet || o.Kind > OpSnap:
		return "unknown kind"
	case o.Flags&^allFlags != 0:
		return "unknown flag"
	case o.Kind == OpExtendExpiry && o.Extend < 0:
		return "deadlines are never moved back"
	case o.Expires < 0:
		return "negative deadline"
	case len(o.Value) > MaxValue:
		return fmt.Sprintf("value of %d bytes, at most %d are allowed", len(o.Value), MaxValue)
	case len(o.Owner) > MaxPath || len(o.OwnerPath) > MaxPath:
		return "session id or path too long"
	case o.Kind == OpExpire || o.Kind == OpExtendExpiry || o.Kind == OpSnap:
		return ""
	case o.Kind == OpCreateInOrder && len(o.Path) > MaxPath-21:
		return fmt.Sprintf("longer than %d bytes", MaxPath-21)
	}
	return checkPath(o.Path)
}
