package etcd

import (
	"context"
	"math"
	"net/http"
	"time"

	"github.com/musterhq/muster/api"
	"github.com/musterhq/muster/kv"
)

// operation is a write: what it is called, what it counts as, and its Txn. Conditions and operation live in one
// allocation.
type operation struct {
	action string
	count  counter
	nconds int
	conds  [4]kv.Cond
	ops    [1]kv.Op
}

func (o *operation) when(c ...kv.Cond) {
	o.nconds += copy(o.conds[o.nconds:], c)
}

func (o *operation) txn() kv.Txn { return kv.Txn{Conds: o.conds[:o.nconds], Ops: o.ops[:]} }

// write runs a PUT, POST or DELETE.
func (d *Dialect) write(w http.ResponseWriter, r *http.Request, key string, p *params) {
	var o operation
	tree := treePath(key)
	if r.Method == http.MethodDelete {
		o.remove(tree, p)
	} else {
		o.put(r.Method == http.MethodPost, tree, p, d.deadline(p))
	}
	if key == "/" && r.Method != http.MethodPost {
		d.count.refused[o.count].Add(1)
		d.refuseRoot(w, r, &o)
		return
	}
	ctx, cancel := context.WithTimeout(r.Context(), d.cfg.Timeout)
	defer cancel()
	res, err := d.commit(ctx, &o, tree, p)
	if err != nil {
		d.count.refused[o.count].Add(1)
		d.failStore(w, err)
		return
	}
	if res.Code != kv.OK || len(res.Ops) == 0 || res.Ops[0].Event == nil {
		d.failResult(w, &res, key, p)
		return
	}
	ev := res.Ops[0].Event
	status := http.StatusOK
	if o.action == "create" || o.action == "set" && ev.Prev == nil {
		status = http.StatusCreated
	}
	st := d.store.Status()
	d.setIndexes(w.Header(), ev.Index, &st)
	buf := d.body()
	b := (*buf)[:0]
	if p.noValue && r.Method != http.MethodDelete {
		b = append(append(append(b, `{"action":"`...), o.action...), '"', '}', '\n')
	} else {
		var now int64
		if expiring(ev.Entry) || expiring(ev.Prev) {
			now = d.store.Now().UnixNano()
		}
		b = appendEvent(b, o.action, ev, now)
	}
	send(w, status, b)
	d.release(buf, b)
}

func expiring(e *kv.Entry) bool { return e != nil && e.Expires() != 0 }

// deadline is the moment at which the key of a write runs out, 0 for never. A time to live that reaches beyond
// what a clock in nanoseconds can say (the year 2262) ends there.
func (d *Dialect) deadline(p *params) int64 {
	if !p.hasTTL {
		return 0
	}
	now := d.store.Now().UnixNano()
	if p.ttl > uint64(math.MaxInt64-now)/uint64(time.Second) {
		return math.MaxInt64
	}
	return now + int64(p.ttl)*int64(time.Second)
}

// refuseRoot answers a write on the root. A compare and delete has an answer of its own there.
func (d *Dialect) refuseRoot(w http.ResponseWriter, r *http.Request, o *operation) {
	snap, _, err := d.store.Read(r.Context(), api.Stale)
	if err != nil {
		d.failStore(w, err)
		return
	}
	f := failure{code: codeRootReadOnly, cause: "/", index: snap.Index()}
	if o.count == cCompareDelete {
		f.code, f.cause = codeNotFile, ""
	}
	d.fail(w, f)
}

// put makes the Txn of a PUT or POST. The conditions make the whole decision when the Txn is applied: nothing that
// this server has read before takes part in it.
func (o *operation) put(post bool, tree string, p *params, expires int64) {
	op := &o.ops[0]
	*op = kv.Op{Kind: kv.OpSet, Path: tree, Value: p.value, Expires: expires}
	compare := p.prevValue != "" || p.prevIndex != 0
	if p.dir && (post || p.prevExist != yes && !(compare && p.prevExist == unset)) {
		op.Flags, op.Value = kv.Dir, ""
	}
	switch {
	case post:
		o.action, o.count = "create", cCreate
		op.Kind, op.Action = kv.OpCreateInOrder, kv.ActCreate
		o.when(kv.Cond{Kind: kv.CondOpen, Path: tree + "/0"}) // the directory itself must not be a key
		return
	case p.prevExist == no:
		o.action, o.count = "create", cCreate
		op.Action = kv.ActCreate
		o.when(kv.Cond{Kind: kv.CondOpen, Path: tree}, kv.Cond{Kind: kv.CondAbsent, Path: tree})
		return
	case compare:
		o.action, o.count = "compareAndSwap", cCompareSwap
		op.Action = kv.ActCompareAndSwap
		op.Flags |= kv.KeepCreated
		o.whenEqual(tree, p)
	case p.prevExist == yes:
		o.action, o.count = "update", cUpdate
		op.Action = kv.ActUpdate
		op.Flags |= kv.KeepCreated
		o.when(kv.Cond{Kind: kv.CondExists, Path: tree}, kv.Cond{Kind: kv.CondNotDir, Path: tree})
	case p.refresh:
		o.action, o.count = "set", cSet
		o.when(kv.Cond{Kind: kv.CondExists, Path: tree}, kv.Cond{Kind: kv.CondNotDir, Path: tree})
	default:
		o.action, o.count = "set", cSet
		op.Action = kv.ActSet
		o.when(kv.Cond{Kind: kv.CondOpen, Path: tree}, kv.Cond{Kind: kv.CondNotDir, Path: tree})
	}
	if p.refresh {
		o.refresh()
	}
}

// refresh turns a write of an existing node into one that moves its deadline and index and wakes nobody. It keeps the
// label, which is what it is counted as.
func (o *operation) refresh() {
	op := &o.ops[0]
	op.Kind = kv.OpRefresh
	op.Flags &= kv.KeepCreated | kv.KeepModified
	op.Value = ""
}

// whenEqual adds the conditions of compare and swap, and compare and delete.
func (o *operation) whenEqual(tree string, p *params) {
	o.when(kv.Cond{Kind: kv.CondExists, Path: tree}, kv.Cond{Kind: kv.CondNotDir, Path: tree})
	if p.prevValue != "" {
		o.when(kv.Cond{Kind: kv.CondValue, Path: tree, Value: p.prevValue})
	}
	if p.prevIndex != 0 {
		o.when(kv.Cond{Kind: kv.CondIndex, Path: tree, Index: p.prevIndex})
	}
}

// remove makes the Txn of a DELETE.
func (o *operation) remove(tree string, p *params) {
	op := &o.ops[0]
	*op = kv.Op{Kind: kv.OpDeleteTree, Path: tree, Action: kv.ActDelete}
	o.action, o.count = "delete", cDelete
	if p.prevValue != "" || p.prevIndex != 0 {
		o.action, o.count = "compareAndDelete", cCompareDelete
		op.Action = kv.ActCompareAndDelete
		o.whenEqual(tree, p)
		return
	}
	o.when(kv.Cond{Kind: kv.CondExists, Path: tree})
	switch {
	case p.recursive:
	case p.dir:
		o.when(kv.Cond{Kind: kv.CondEmpty, Path: tree})
	default:
		o.when(kv.Cond{Kind: kv.CondNotDir, Path: tree})
	}
}

// commit proposes the Txn of o. An update without a value is the one write whose Txn depends on what is there: on
// a key it empties the value, on a directory it changes the time to live alone. The tree as this server knows it
// only chooses which to try; the conditions of both make a wrong guess harmless, and then the other is tried.
func (d *Dialect) commit(ctx context.Context, o *operation, tree string, p *params) (kv.Result, error) {
	if o.count != cUpdate || p.value != "" {
		return d.store.Propose(ctx, o.txn())
	}
	for try := 0; ; try++ {
		snap, _, err := d.store.Read(ctx, api.Stale)
		if err != nil {
			return kv.Result{}, err
		}
		turn := *o
		e, ok := snap.Get(tree)
		if ok && e.IsDir() {
			turn.updateDir(tree, e)
		}
		res, err := d.store.Propose(ctx, turn.txn())
		if err != nil || res.Code != kv.NotFile && res.Code != kv.Mismatch || try == 2 {
			return res, err
		}
	}
}

// updateDir turns the update of a key into that of the directory e. Index 0 demands that no value is there; a flat
// key with others below it is a directory here too, and has to be the same one.
func (o *operation) updateDir(tree string, e *kv.Entry) {
	same := kv.Cond{Kind: kv.CondIndex, Path: tree}
	if e.HasValue() {
		same.Index = e.Modified()
	}
	o.nconds = 0
	o.when(kv.Cond{Kind: kv.CondExists, Path: tree}, same)
	op := &o.ops[0]
	op.Flags |= kv.KeepCreated | kv.KeepModified
	if op.Kind == kv.OpSet {
		op.Flags |= kv.Dir | kv.KeepValue
	}
}
