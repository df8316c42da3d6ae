package kv

// Draft builds one Txn out of steps that depend on each other: every step is built on the state that the steps
// before it would leave, and what it demands of the tree is translated into conditions on the state the whole Txn
// will meet.
//
//	d := snap.Draft()
//	first, res := d.Step(kv.Txn{Ops: []kv.Op{{Kind: kv.OpSet, Path: "k/a", Value: "1"}}})
//	e, _ := d.Snap().Get("k/a") // "1"
//	... propose d.Txn(); the results of the step begin at Result.Ops[first]
//
// A Draft belongs to one goroutine. It works on a copy of the state that shares all that is not changed, so it costs
// what its operations cost. Indexes seen in it are not those the entries will have.
type Draft struct {
	base *Snap
	tree *Tree
	txn  Txn
}

// Draft begins a Txn on this state.
func (s *Snap) Draft() *Draft {
	t := &Tree{o: Options{Deriver: s.tree.o.Deriver, HistoryEvents: 1}, root: s.root, index: s.index, gen: s.gen, now: s.now, draft: true}
	t.hub.init(t)
	t.live.Store(&Snap{root: t.root, tree: t, index: t.index, now: t.now, gen: t.gen})
	return &Draft{base: s, tree: t}
}

// Snap is the state after the steps so far.
func (d *Draft) Snap() *Snap { return d.tree.Snap() }

// Txn is what has been collected.
func (d *Draft) Txn() Txn { return d.txn }

// Step adds the operations of t, which must be acceptable, and what its conditions, that is those of kinds about a
// path itself and not about what stands above it, mean for the beginning. first is the place of its first operation
// in the Txn. When res.Code is not OK the step has no effect and is not added.
func (d *Draft) Step(t Txn) (first int, res Result) {
	first = len(d.txn.Ops)
	was := d.Snap()
	if res = d.tree.Apply(t)[0]; res.Code != OK {
		return first, res
	}
	for _, c := range t.Conds {
		d.txn.Conds = append(d.txn.Conds, d.rebase(c, was))
	}
	d.txn.Ops = append(d.txn.Ops, t.Ops...)
	return first, res
}

// rebase gives the condition that must hold before the first step for c to hold in the state was. For a path that an
// earlier step has changed that is: it was, before the first step, what it is in the base.
func (d *Draft) rebase(c Cond, was *Snap) Cond {
	if !d.base.changed(c.Path, was) {
		return c
	}
	e, ok := d.base.Get(c.Path)
	switch {
	case !ok:
		return Cond{Kind: CondAbsent, Path: c.Path}
	case c.Kind == CondBelow || !e.HasValue():
		return Cond{Kind: CondBelow, Path: c.Path, Index: e.below}
	}
	return Cond{Kind: CondIndex, Path: c.Path, Index: e.modified}
}
