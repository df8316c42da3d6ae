package kv

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// applyTxn applies one Txn to the working tree, whole or not at all.
func (t *Tree) applyTxn(x *Txn, ops []OpResult, res *Result) {
	t.tryTxn(x, ops, res)
	if res.Code != OK && len(x.Ops) > 0 {
		t.count(&t.refused, x.Ops[0].Path, x.Ops[0].Action)
	}
}

func (t *Tree) tryTxn(x *Txn, ops []OpResult, res *Result) {
	t.now = max(t.now, x.Now)
	if !t.draft {
		t.together = 0
	}
	if err := x.check(); err != nil {
		*res = Result{Code: err.Code, Index: t.index, Fail: &Failure{Cond: err.Cond, Op: err.Op, Path: err.Path}}
		return
	}
	for i := range x.Conds {
		if code, path := t.holds(&x.Conds[i]); code != OK {
			e := t.capture(t.root.find(x.Conds[i].Path))
			if code == NotDir {
				e = t.capture(t.root.find(path))
			}
			*res = Result{Code: code, Index: t.index, Fail: &Failure{Cond: i, Op: -1, Path: path, Entry: e}}
			return
		}
	}
	// A single operation on plain keys fails before it changes anything; all others need the old root intact,
	// to go back to or to show to the Deriver.
	if len(x.Ops) > 1 || len(x.Ops) == 1 && (roots[max(rootOf(x.Ops[0].Path), 0)].records || x.Ops[0].Kind == OpExpire) {
		t.gen++
	}
	save := savepoint{root: t.root, index: t.index, together: t.together, events: len(t.events), viewed: len(t.viewed)}
	t.before = t.root
	t.exp.begin()
	for i := range x.Ops {
		if fail := t.op(&x.Ops[i], &ops[i]); fail != nil {
			t.rollback(save)
			fail.f.Cond, fail.f.Op = -1, i
			*res = Result{Code: fail.code, Index: t.index, Fail: &fail.f}
			return
		}
	}
	t.derive()
	*res = Result{Code: OK, Index: t.index, Ops: ops}
}

type savepoint struct {
	root           *Entry
	index          uint64
	together       uint64
	events, viewed int
}

func (t *Tree) rollback(s savepoint) {
	t.root, t.index, t.together = s.root, s.index, s.together
	t.events, t.viewed, t.changed = t.events[:s.events], t.viewed[:s.viewed], t.changed[:0]
	t.exp.rollback()
	t.gen++
}

// failed is why an Op stopped its Txn.
type failed struct {
	code Code
	f    Failure
}

func (t *Tree) fail(code Code, path string) *failed {
	return &failed{code: code, f: Failure{Path: path, Entry: t.capture(t.root.find(path))}}
}

// holds evaluates one condition. On failure path is the path that decided.
func (t *Tree) holds(c *Cond) (code Code, path string) {
	e := t.root.find(c.Path)
	verdict := func(ok bool, code Code) (Code, string) {
		if ok {
			return OK, ""
		}
		return code, c.Path
	}
	switch c.Kind {
	case CondExists:
		_, code, path := resolve(t.root, c.Path)
		return code, path
	case CondAbsent:
		return verdict(e == nil || c.Flat && e.Structural(), Exists)
	case CondHasValue:
		return verdict(e != nil && e.HasValue(), NotFound)
	case CondValue:
		return verdict(e != nil && e.HasValue() && e.value == c.Value, Mismatch)
	case CondIndex:
		if c.Index == 0 {
			return verdict(e == nil || !e.HasValue(), Mismatch)
		}
		return verdict(e != nil && !e.Structural() && e.modified == c.Index, Mismatch)
	case CondOwner:
		return verdict(e == nil && c.Owner == "" || e != nil && e.Owner() == c.Owner, NotOwner)
	case CondOpen:
		if i := strings.LastIndexByte(c.Path, '/'); i >= 0 {
			if p, code, at := resolve(t.root, c.Path[:i]); code == NotDir || code == OK && p.HasValue() && p.kids == nil {
				return NotDir, at
			}
		}
		return OK, ""
	case CondNotDir:
		return verdict(e == nil || !e.IsDir(), NotFile)
	case CondEmpty:
		return verdict(e == nil || e.kids == nil, NotEmpty)
	case CondBelow:
		return verdict(indexOf(t.root, c.Path) <= c.Index, Mismatch)
	}
	return BadTxn, c.Path
}

// op runs one operation. It either fails before it changes anything or succeeds.
func (t *Tree) op(op *Op, r *OpResult) *failed {
	switch op.Kind {
	case OpExpire:
		t.expire(op, r)
		return nil
	case OpExtendExpiry:
		r.Count = t.extendExpiry(op.Extend)
		return nil
	case OpCreateInOrder:
		return t.opCreateInOrder(op, r)
	case OpSnap:
		r.Snap = &Snap{root: t.capture(t.root), tree: t, index: t.index, epoch: t.epoch, now: t.now}
		return nil
	}
	if isRoot(op.Path) {
		return t.fail(RootOnly, op.Path)
	}
	switch op.Kind {
	case OpSet:
		return t.opSet(op, op.Path, r)
	case OpDelete:
		t.opDelete(op.Path, op.Action, r)
	case OpDeleteTree:
		if e := t.root.find(op.Path); e != nil {
			t.remove(op.Path, e, op.Action, true, r)
		}
	case OpDeletePrefix:
		t.opDeletePrefix(op, r)
	case OpRefresh:
		return t.opRefresh(op, r)
	case OpAcquire, OpRelease:
		return t.opLock(op, r)
	}
	return nil
}

// opSet writes an entry or a directory at path.
func (t *Tree) opSet(op *Op, path string, r *OpResult) *failed {
	old := t.root.find(path)
	was := old.extra()
	idx := t.nextIndex(path)
	e := &Entry{name: keepName(path), created: idx, modified: idx, below: idx}
	x := ext{flags: op.UserFlags, expires: op.Expires}
	dir, keep := op.Flags&Dir != 0, op.Flags&KeepValue != 0 && old != nil
	if old != nil && old.kids != nil {
		e.kids = old.kids
		e.meta |= old.meta & realDir
	}
	switch {
	case keep:
		e.value = old.value
		e.meta |= old.meta & (hasValue | realDir)
		e.record, x = old.record, was
		x.expires = op.Expires
	case !dir:
		e.value = op.Value
		e.meta |= hasValue
	}
	if !e.HasValue() && (dir || op.Flags&Flat == 0) {
		e.meta |= realDir
	}
	if op.Flags&KeepLock != 0 && !keep {
		x.owner = was.owner
	}
	if op.Flags&KeepCreated != 0 && old != nil && (old.HasValue() || dir || keep) {
		e.created = old.created
	}
	if op.Flags&SkipSame != 0 && old != nil && old.bits()&(hasValue|realDir) == e.bits() && old.value == e.value &&
		was.flags == x.flags && was.expires == x.expires && was.owner == x.owner && was.lock == x.lock {
		r.Entry = t.capture(old)
		return nil
	}
	if !keep {
		if f := t.decode(path, e); f != nil {
			return f
		}
	}
	e.setExtra(x)
	shown := e
	if op.Flags&KeepModified != 0 && old != nil {
		c := *e
		c.modified = old.modified
		e = &c
	}
	t.store(path, old, e, shown, op, r)
	return nil
}

// decode sets the record of an entry in a record root.
func (t *Tree) decode(path string, e *Entry) *failed {
	if t.o.Deriver == nil || !e.HasValue() || !roots[rootOf(path)].records {
		return nil
	}
	rec, err := t.o.Deriver.Decode(path, e.value)
	if err != nil {
		return t.fail(BadTxn, path)
	}
	e.record = rec
	return nil
}

// store puts e, made from old, into the tree as one change.
func (t *Tree) store(path string, old, e, shown *Entry, op *Op, r *OpResult) {
	ev := &Event{Index: e.below, Action: op.Action, Path: path, Entry: shown, Prev: t.capture(old), silent: op.Kind == OpRefresh}
	hier := op.Flags&Flat == 0 && (op.Kind == OpSet || op.Kind == OpCreateInOrder)
	t.root = t.put(t.root, path, e, hier)
	t.capture(e)
	t.emit(ev)
	if d := e.Expires(); d != 0 && d != old.extra().expires {
		t.exp.add(d, path)
	}
	t.owned(path, old.extra().owner, e.Owner())
	if old != nil && old.HasValue() && !e.HasValue() {
		t.endSessions(path, old, false)
	}
	r.Entry, r.Event, r.Count = shown, ev, r.Count+1
}

// opDelete removes the value at path, or an empty directory; children stay.
func (t *Tree) opDelete(path string, action Action, r *OpResult) {
	e := t.root.find(path)
	if e == nil || !e.HasValue() && e.kids != nil {
		return
	}
	t.remove(path, e, action, false, r)
}

func (t *Tree) opDeletePrefix(op *Op, r *OpResult) {
	var paths []string
	walk(t.root, op.Path, func(path string, _ *Entry) bool {
		paths = append(paths, path)
		return true
	})
	for _, p := range paths { // a session among them may have taken later ones with it
		if e := t.root.find(p); e != nil && e.HasValue() {
			t.remove(p, e, op.Action, false, r)
		}
	}
}

// remove takes the entry e at path out of the tree as one change, with all below it when tree is set.
func (t *Tree) remove(path string, e *Entry, action Action, tree bool, r *OpResult) {
	idx := t.nextIndex(path)
	ev := &Event{Index: idx, Action: action, Path: path, Entry: tomb(e, idx, tree), Prev: t.capture(e)}
	if e.kids == nil || tree {
		t.root = t.del(t.root, path, idx)
	} else {
		left := &Entry{name: e.name, created: e.created, modified: e.modified, below: idx, kids: e.kids, meta: e.meta & realDir}
		t.root = t.put(t.root, path, left, false)
	}
	t.emit(ev)
	t.disown(path, e, tree)
	t.endSessions(path, e, tree)
	r.Entry, r.Event, r.Count = nil, ev, r.Count+1
}

// tomb is how the Event of a removal shows what was removed.
func tomb(e *Entry, index uint64, tree bool) *Entry {
	d := &Entry{name: e.name, created: e.created, modified: index, below: index, meta: gone}
	if !e.IsDir() {
		d.meta |= shownAsFile
	}
	if tree {
		d.meta |= goneTree
	}
	return d
}

func (t *Tree) opRefresh(op *Op, r *OpResult) *failed {
	old, code, at := resolve(t.root, op.Path)
	if code != OK {
		return t.fail(code, at)
	}
	e := *old
	idx := t.nextIndex(op.Path)
	e.modified, e.below, e.meta = idx, idx, old.bits()
	if op.Flags&KeepCreated == 0 {
		e.created = idx
	}
	if !e.HasValue() {
		e.meta |= realDir
	}
	x := old.extra()
	x.expires = op.Expires
	e.setExtra(x)
	shown := &e
	stored := shown
	if op.Flags&KeepModified != 0 {
		c := e
		c.modified = old.modified
		stored = &c
	}
	t.store(op.Path, old, stored, shown, op, r)
	return nil
}

// opCreateInOrder makes <Path>/<20 digits of the new index>.
func (t *Tree) opCreateInOrder(op *Op, r *OpResult) *failed {
	p, code, at := resolve(t.root, op.Path)
	if code == NotDir || code == OK && p.HasValue() && p.kids == nil {
		return t.fail(NotDir, at)
	}
	number := t.index + 1
	if code == OK {
		number = max(number, lastInOrder(p)+1)
	}
	path := fmt.Sprintf("%s/%020d", op.Path, number)
	if t.root.find(path) != nil {
		return t.fail(Exists, path)
	}
	return t.opSet(op, path, r)
}

// lastInOrder is the highest number among the children of e that are named like keys created in order. It is above the
// index of the tree when they were copied from another one; new ones must come after them nevertheless.
func lastInOrder(e *Entry) uint64 {
	last := e.kids.last("1") // no index has 20 digits with anything but a zero in front
	if last == nil || len(last.name) != 20 {
		return 0
	}
	n, err := strconv.ParseUint(last.name, 10, 64)
	if err != nil {
		return 0
	}
	return n
}

// derive lets the Deriver follow the changes of the Txn.
func (t *Tree) derive() {
	if len(t.changed) == 0 {
		return
	}
	if t.o.Deriver != nil {
		t.o.Deriver.Derive(viewTx{t}, unique(t.changed))
	}
	t.changed = nil // the Deriver may have kept it
}

// unique removes repetitions, keeping the first of each.
func unique(paths []string) []string {
	if len(paths) < 16 {
		out := paths[:0]
		for _, p := range paths {
			if !slices.Contains(out, p) {
				out = append(out, p)
			}
		}
		return out
	}
	seen := make(map[string]bool, len(paths))
	return slices.DeleteFunc(paths, func(p string) bool {
		dup := seen[p]
		seen[p] = true
		return dup
	})
}
