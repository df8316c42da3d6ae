package kv_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sort"
	"strings"
	"testing"

	"github.com/musterhq/muster/kv"
)

var segments = []string{"", "a", "b", "a!", "ab", "c/d", "_h"}

func randomPath(r *rand.Rand) string {
	switch r.IntN(12) {
	case 0:
		return "n/w" + fmt.Sprint(1+r.IntN(2))
	case 1, 2:
		return fmt.Sprintf("n/w%d/l/s%d", 1+r.IntN(2), r.IntN(2))
	case 3:
		return fmt.Sprintf("n/w%d/s/%d", 1+r.IntN(2), r.IntN(3))
	case 4:
		return []string{"k", "n", "n/w1/l", "q/x", "m/cluster"}[r.IntN(5)]
	}
	p := "k"
	for range 1 + r.IntN(3) {
		p += "/" + segments[r.IntN(len(segments))]
	}
	return p
}

func randomOp(r *rand.Rand) kv.Op {
	kinds := []kv.OpKind{kv.OpSet, kv.OpSet, kv.OpSet, kv.OpSet, kv.OpSet, kv.OpDelete, kv.OpDelete, kv.OpDeleteTree, kv.OpDeletePrefix,
		kv.OpCreateInOrder, kv.OpRefresh, kv.OpAcquire, kv.OpAcquire, kv.OpAcquire, kv.OpRelease, kv.OpExpire, kv.OpExtendExpiry,
		kv.OpSnap, kv.OpSnap}
	o := kv.Op{Kind: kinds[r.IntN(len(kinds))], Action: kv.Action(r.IntN(10)), Path: randomPath(r)}
	o.Value = []string{"", "1", "2"}[r.IntN(3)]
	o.UserFlags = uint64(r.IntN(3))
	if r.IntN(4) == 0 {
		o.Expires = int64(100 + r.IntN(100))
	}
	switch r.IntN(3) {
	case 0:
		o.Flags = kv.OpFlags(r.IntN(128))
	case 1:
		o.Flags = kv.Flat | kv.KeepCreated | kv.KeepLock | kv.SkipSame
	}
	switch o.Kind {
	case kv.OpAcquire, kv.OpRelease:
		o.Owner = fmt.Sprintf("s%d", r.IntN(2))
		o.OwnerPath = fmt.Sprintf("n/w%d/l/%s", 1+r.IntN(2), o.Owner)
	case kv.OpExpire:
		o.Cutoff = int64(90 + r.IntN(40))
	case kv.OpExtendExpiry:
		o.Extend = int64(r.IntN(20))
	case kv.OpDeletePrefix:
		if !strings.Contains(o.Path, "/") {
			o.Path += "/"
		}
		o.Path = o.Path[:min(len(o.Path), 2+r.IntN(6))]
		if len(o.Path) < 3 {
			o.Path += "a"
		}
	}
	return o
}

func randomTxn(r *rand.Rand, index uint64) kv.Txn {
	x := kv.Txn{Now: int64(r.IntN(1000))}
	for range r.IntN(4) / 3 {
		x.Conds = append(x.Conds, kv.Cond{Kind: kv.CondKind(1 + r.IntN(10)), Path: randomPath(r), Value: "1",
			Index: max(1, index) - uint64(r.IntN(int(min(index+1, 5)))), Owner: []string{"", "s0"}[r.IntN(2)], Flat: r.IntN(2) == 0})
	}
	for range []int{1, 1, 1, 2, 3}[r.IntN(5)] {
		x.Ops = append(x.Ops, randomOp(r))
	}
	return x
}

// services derives v/s/<value>/<node>/<id> from n/<node>/s/<id>.
type services struct{}

func (services) Decode(path, value string) (any, error) {
	if value == "bad" {
		return nil, errors.New("bad record")
	}
	return "r" + value, nil
}

func (services) Derive(tx kv.ViewTx, changed []string) {
	each := func(get func(string) (*kv.Entry, bool), path string, f func(view string, e *kv.Entry)) {
		s := strings.Split(path, "/")
		if s[0] != "n" || len(s) < 2 {
			return
		}
		dir, ok := get(s[0] + "/" + s[1] + "/s")
		if !ok {
			return
		}
		dir.Each(func(e *kv.Entry) bool {
			if e.HasValue() {
				f("v/s/"+e.Value()+"/"+s[1]+"/"+e.Name(), e)
			}
			return true
		})
	}
	for _, p := range changed {
		keep := map[string]bool{}
		each(tx.Get, p, func(v string, e *kv.Entry) {
			keep[v] = true
			if was, ok := tx.Get(v); !ok || was.Record() != e.Record() {
				tx.SetView(v, e.Record())
			}
		})
		each(tx.Prev, p, func(v string, _ *kv.Entry) {
			if !keep[v] {
				tx.DeleteView(v)
			}
		})
	}
}

type dump map[string]string

func dumpTree(s *kv.Snap, root string, d dump) {
	if e, ok := s.Get(root); ok {
		dumpEntry(e, root, d)
	}
}

func dumpEntry(e *kv.Entry, root string, d dump) {
	var rec func(p string, e *kv.Entry)
	rec = func(p string, e *kv.Entry) {
		kind := ""
		if e.IsDir() {
			kind = "dir"
		}
		if e.Structural() {
			kind += "~"
		}
		d[p] = fmt.Sprint(kind, e.HasValue(), e.Value(), " ", e.Created(), e.Modified(), e.Index(), " ", e.UserFlags(), e.Expires(), e.Owner(), e.LockIndex())
		last, n := "", 0
		e.Each(func(c *kv.Entry) bool {
			if n > 0 && c.Name() <= last {
				panic("children out of order below " + p)
			}
			last = c.Name()
			n++
			rec(p+"/"+c.Name(), c)
			return true
		})
		if n != e.Len() {
			panic("Len is wrong at " + p)
		}
	}
	rec(root, e)
}

func (m *model) dump() dump { return m.dumpBelow("") }

// dumpAt is the state of what is at path and below, nil if nothing is.
func (m *model) dumpAt(path string) dump {
	if _, ok := m.nodes[path]; !ok {
		return nil
	}
	return m.dumpBelow(path)
}

func (m *model) dumpBelow(path string) dump {
	d := dump{}
	for p, n := range m.nodes {
		if p == "" || path != "" && p != path && !strings.HasPrefix(p, path+"/") {
			continue
		}
		kind := ""
		if m.isDir(p) {
			kind = "dir"
		}
		if !n.has && !n.real {
			kind += "~"
		}
		d[p] = fmt.Sprint(kind, n.has, n.value, " ", n.created, n.modified, n.below, " ", n.flags, n.expires, n.owner, n.lock)
	}
	return d
}

func diff(a, b dump) string {
	var out []string
	for p, x := range a {
		if b[p] != x {
			out = append(out, fmt.Sprintf("%q: tree %q model %q", p, x, b[p]))
		}
	}
	for p, x := range b {
		if _, ok := a[p]; !ok {
			out = append(out, fmt.Sprintf("%q: tree has nothing, model %q", p, x))
		}
	}
	sort.Strings(out)
	return strings.Join(out, "\n")
}

// compare holds a state of the tree against the model, and the views against what they are derived from.
func compare(t *testing.T, s *kv.Snap, m *model, r *rand.Rand) {
	t.Helper()
	d := dump{}
	for _, root := range rootNames {
		dumpTree(s, root, d)
	}
	if x := diff(d, m.dump()); x != "" {
		t.Fatalf("index %d:\n%s", s.Index(), x)
	}
	if s.Index() != m.index {
		t.Fatalf("index %d, model %d", s.Index(), m.index)
	}
	for range 5 {
		p := randomPath(r)
		if got, want := s.IndexOf(p), m.indexOf(p); got != want {
			t.Fatalf("IndexOf(%q) = %d, want %d", p, got, want)
		}
		e, code, at := s.Resolve(p)
		if wc, wa := m.resolve(p); code != wc || at != wa || (code == kv.NotFound) != (e == nil) {
			t.Fatalf("Resolve(%q) = %v %q, want %v %q", p, code, at, wc, wa)
		}
		p = p[:r.IntN(len(p)+1)]
		var got []string
		s.Walk(p, func(q string, e *kv.Entry) bool {
			if !strings.HasPrefix(q, "v/") {
				got = append(got, q)
			}
			if e.Name() != base(q) {
				t.Fatalf("Walk gives %q as %q", e.Name(), q)
			}
			return true
		})
		if want := m.walk(p); fmt.Sprintf("%q", got) != fmt.Sprintf("%q", want) {
			t.Fatalf("Walk(%q) = %q, want %q", p, got, want)
		}
	}
	want := map[string]bool{}
	for p, n := range m.nodes {
		if n.owner != "" {
			want["v/l/"+n.owner+"/"+kv.Escape(p)] = true
		}
		if q := strings.Split(p, "/"); len(q) == 4 && q[0] == "n" && q[2] == "s" && n.has {
			want["v/s/"+n.value+"/"+q[1]+"/"+q[3]] = true
		}
	}
	s.Walk("v/", func(p string, e *kv.Entry) bool {
		if !want[p] {
			t.Fatalf("view %q should not be there", p)
		}
		delete(want, p)
		return true
	})
	if len(want) > 0 {
		t.Fatalf("views %v are missing", want)
	}
}

type watch struct {
	w         *kv.Watcher
	path      string
	after     uint64
	recursive bool
	restored  bool // Prev may lack its children
}

// drain reads all Events a watcher has now and holds them against the model.
func (w *watch) drain(t *testing.T, m *model) {
	t.Helper()
	for _, want := range m.expect(w.path, w.after, w.recursive) {
		ctx, cancel := context.WithCancel(context.Background())
		ev, err := w.w.Next(ctx)
		cancel()
		if err != nil || ev.Index != want.index || ev.Path != want.path || ev.Action != want.action || ev.Entry.Removed() != want.gone || ev.Entry.Modified() != ev.Index {
			t.Fatalf("watch %q (recursive %v) after %d: got %+v, %v; want %+v", w.path, w.recursive, w.after, ev, err, want)
		}
		w.after = want.index
		prev := dump{}
		if ev.Prev != nil {
			dumpEntry(ev.Prev, ev.Path, prev)
		}
		if x := diff(prev, want.prev); x != "" && !w.restored {
			t.Fatalf("Prev of %d differs:\n%s", ev.Index, x)
		}
		if want.gone && (ev.Entry.IsDir() != want.dir || ev.Entry.HasValue()) {
			t.Fatalf("removal %d: %+v", ev.Index, ev.Entry)
		}
	}
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if ev, err := w.w.Next(ctx); !errors.Is(err, context.Canceled) {
		t.Fatalf("watch %q (recursive %v): unexpected %+v, %v", w.path, w.recursive, ev, err)
	}
	w.after = m.index
}

func snapshot(t *testing.T, tr *kv.Tree) []byte {
	t.Helper()
	var b bytes.Buffer
	n, err := tr.Snap().WriteTo(&b)
	if err != nil || n != int64(b.Len()) {
		t.Fatal(n, b.Len(), err)
	}
	return b.Bytes()
}

func viewIndexes(s *kv.Snap) dump {
	d := dump{}
	dumpTree(s, "v", d)
	return d
}

// TestModel runs random programs on two replicas, one of which is fed in other batches, through the codec, and
// replaced by its own snapshot now and then, and compares both with the model after every batch.
func TestModel(t *testing.T) {
	seeds, steps := 40, 40
	if testing.Short() {
		seeds = 20
	}
	for seed := range seeds {
		t.Run(fmt.Sprint(seed), func(t *testing.T) { runModel(t, uint64(seed), steps) })
	}
}

func runModel(t *testing.T, seed uint64, steps int) {
	r := rand.New(rand.NewPCG(seed, 7))
	opt := kv.Options{Deriver: services{}}
	a, b, m := kv.New(opt), kv.New(opt), newModel()
	var watches []*watch
	for range steps {
		before := a.Snap()
		type waiting struct {
			path string
			w    *kv.Waiter
		}
		var waits []waiting
		for range 4 {
			p := randomPath(r)
			waits = append(waits, waiting{p, before.Wait(p)})
		}
		var batch []kv.Txn
		old := m.clone()
		var codes []kv.Code
		var paths []string
		var marks [][]dump
		for range 1 + r.IntN(10) {
			x := randomTxn(r, m.index)
			if err := x.Check(); err != nil {
				t.Fatal(err)
			}
			batch = append(batch, x)
			code, path := m.apply(x)
			codes, paths, marks = append(codes, code), append(paths, path), append(marks, m.marks)
		}
		oldDump := dump{}
		dumpTree(before, "k", oldDump)
		for i, res := range a.Apply(batch...) {
			if res.Code != codes[i] || res.Code != kv.OK && res.Fail.Path != paths[i] {
				t.Fatalf("%+v:\ngot code %v %+v, want %v %q", batch[i], res.Code, res.Fail, codes[i], paths[i])
			}
			for _, o := range res.Ops {
				if o.Snap == nil {
					continue
				}
				d := dump{}
				for _, root := range rootNames {
					dumpTree(o.Snap, root, d)
				}
				if x := diff(d, marks[i][0]); x != "" {
					t.Fatalf("%+v: state in the middle:\n%s", batch[i], x)
				}
				marks[i] = marks[i][1:]
			}
		}
		nowDump := dump{}
		dumpTree(before, "k", nowDump)
		if x := diff(nowDump, oldDump); x != "" {
			t.Fatalf("a published state has changed:\n%s", x)
		}
		compare(t, a.Snap(), m, r)
		for _, w := range waits {
			changed, sure := false, len(m.expect(w.path, old.index, true)) > 0
			for _, e := range m.events[len(old.events):] {
				changed = changed || e.path == w.path || strings.HasPrefix(e.path, w.path+"/") || strings.HasPrefix(w.path, e.path+"/") && e.gone
			}
			select {
			case <-w.w.C:
				if !changed {
					t.Fatalf("wait on %q woke for nothing", w.path)
				}
			default:
				if sure {
					t.Fatalf("wait on %q did not wake", w.path)
				}
			}
			w.w.Stop()
		}
		beforeB := b.Snap()
		oldDump = dump{}
		dumpTree(beforeB, "k", oldDump)
		dumpTree(beforeB, "v", oldDump)
		for _, x := range batch {
			y, err := kv.UnmarshalTxn(x.Marshal())
			if err != nil {
				t.Fatal(err)
			}
			b.Apply(y)
		}
		nowDump = dump{}
		dumpTree(beforeB, "k", nowDump)
		dumpTree(beforeB, "v", nowDump)
		if x := diff(nowDump, oldDump); x != "" {
			t.Fatalf("a published state of the second replica has changed:\n%s", x)
		}
		if a.Snap().Hash() != b.Snap().Hash() {
			t.Fatal("replicas differ")
		}
		if x := diff(viewIndexes(a.Snap()), viewIndexes(b.Snap())); x != "" {
			t.Fatal("views differ\n", x)
		}
		if a.NextExpiry() != b.NextExpiry() || a.NextExpiry() != m.nextExpiry() || a.LastNow() != m.now || b.LastNow() != m.now {
			t.Fatal("expiry or time differ", a.NextExpiry(), b.NextExpiry(), m.nextExpiry())
		}
		if r.IntN(4) == 0 {
			w := &watch{path: randomPath(r), recursive: r.IntN(2) == 0}
			tr := a
			if r.IntN(2) == 0 {
				tr = b
				w.restored = true
			}
			if w.after = uint64(r.IntN(int(m.index) + 1)); w.after == 0 {
				w.after = m.index
				w.w, _ = tr.Watch(w.path, 0, w.recursive)
			} else {
				w.w, _ = tr.Watch(w.path, w.after, w.recursive)
			}
			w.drain(t, m)
			if tr == a {
				watches = append(watches, w)
			} else {
				w.w.Stop()
			}
		}
		if r.IntN(3) == 0 {
			for _, w := range watches {
				w.drain(t, m)
			}
		}
		if r.IntN(6) == 0 {
			data := snapshot(t, b)
			if r.IntN(2) == 0 {
				b = kv.New(opt)
			}
			if err := b.Restore(bytes.NewReader(data)); err != nil {
				t.Fatal(err)
			}
			compare(t, b.Snap(), m, r)
			if x := diff(viewIndexes(a.Snap()), viewIndexes(b.Snap())); x != "" {
				t.Fatal("views differ after restore\n", x)
			}
			if !bytes.Equal(snapshot(t, b), data) {
				t.Fatal("a restored tree writes another snapshot")
			}
		}
	}
	for _, w := range watches {
		w.w.Stop()
	}
	if n := kv.Waiting(a); n != 0 {
		t.Fatalf("%d places are still waited on", n)
	}
}

func (m *model) nextExpiry() (at int64) {
	for _, n := range m.nodes {
		if n.expires != 0 && (at == 0 || n.expires < at) {
			at = n.expires
		}
	}
	return at
}
