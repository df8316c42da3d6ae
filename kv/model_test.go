package kv_test

import (
	"fmt"
	"maps"
	"sort"
	"strconv"
	"strings"

	"github.com/musterhq/muster/kv"
)

// The model is the documented meaning of the tree written down as simply as possible: a map from path to node,
// copied whole for every Txn. It shares no code with the package.

type mnode struct {
	has, real         bool
	value             string
	created, modified uint64
	below             uint64
	flags             uint64
	expires           int64
	owner             string
	lock              uint64
}

type mevent struct {
	index  uint64
	action kv.Action
	path   string
	silent bool
	tree   map[string]bool // paths that went with a removed directory
	gone   bool
	prev   dump // the old state with its subtree, nil if there was none
	dir    bool // IsDir of the removed
}

type model struct {
	nodes    map[string]mnode
	index    uint64
	together uint64 // the index that the records of the running Txn share
	now      int64
	events   []mevent
	marks    []dump // by OpSnap, of the last Txn that was applied
}

var rootNames = []string{"k", "n", "q", "a", "g", "m"}

func newModel() *model {
	m := &model{nodes: map[string]mnode{"": {real: true}}}
	for _, r := range rootNames {
		m.nodes[r] = mnode{real: true}
	}
	return m
}

func (m *model) clone() *model {
	c := *m
	c.nodes = maps.Clone(m.nodes)
	c.events = m.events[:len(m.events):len(m.events)]
	return &c
}

func parent(p string) string {
	if i := strings.LastIndexByte(p, '/'); i >= 0 {
		return p[:i]
	}
	return ""
}

func base(p string) string { return p[strings.LastIndexByte(p, '/')+1:] }

func (m *model) kids(p string) bool {
	for q := range m.nodes {
		if strings.HasPrefix(q, p+"/") {
			return true
		}
	}
	return false
}

func (m *model) isDir(p string) bool { return !m.nodes[p].has || m.kids(p) }

func (m *model) ancestors(p string) (up []string) { // nearest first, down to ""
	for p != "" {
		p = parent(p)
		up = append(up, p)
	}
	return up
}

// resolve mirrors Snap.Resolve.
func (m *model) resolve(p string) (kv.Code, string) {
	parts := strings.Split(p, "/")
	for i := range parts {
		at := strings.Join(parts[:i+1], "/")
		n, ok := m.nodes[at]
		if !ok {
			return kv.NotFound, at
		}
		if i+1 < len(parts) && n.has && !m.kids(at) {
			return kv.NotDir, at
		}
	}
	return kv.OK, p
}

func (m *model) indexOf(p string) uint64 {
	for {
		if n, ok := m.nodes[p]; ok {
			return n.below
		}
		p = parent(p)
	}
}

func (m *model) touch(p string, idx uint64) {
	for _, a := range append(m.ancestors(p), p) {
		if n, ok := m.nodes[a]; ok {
			n.below = max(n.below, idx)
			m.nodes[a] = n
		}
	}
}

// isRecord: all roots but those of user keys and of the cluster itself.
func isRecord(p string) bool { return len(p) > 1 && strings.Contains("nqag", p[:1]) && p[1] == '/' }

// next is the index of a change at p: records that one Txn changes share theirs.
func (m *model) next(p string) uint64 {
	if m.together != 0 && m.together == m.index && isRecord(p) {
		return m.index
	}
	return m.index + 1
}

func (m *model) share(p string) {
	if isRecord(p) {
		m.together = m.index
	}
}

// add stores a node as one change.
func (m *model) add(p string, n mnode, hier bool, e mevent) {
	idx := m.next(p)
	for _, a := range m.ancestors(p) {
		if a == "" {
			continue
		}
		d, ok := m.nodes[a]
		if !ok {
			d = mnode{created: idx, modified: idx}
		}
		if hier && !d.has {
			d.real = true
		}
		m.nodes[a] = d
	}
	old, existed := m.nodes[p]
	e.prev = m.dumpAt(p)
	n.below = idx
	m.nodes[p] = n
	m.index = idx
	m.share(p)
	m.touch(p, idx)
	e.index, e.path = idx, p
	m.events = append(m.events, e)
	if existed && old.has && !n.has {
		m.endSessions(map[string]mnode{p: old})
	}
}

func (m *model) remove(p string, action kv.Action, tree bool) {
	idx := m.next(p)
	m.index = idx
	m.share(p)
	e := mevent{index: idx, action: action, path: p, gone: true, prev: m.dumpAt(p), dir: m.isDir(p)}
	n := m.nodes[p]
	lost := map[string]mnode{p: n}
	switch {
	case tree:
		e.tree = map[string]bool{}
		for q, x := range m.nodes {
			if strings.HasPrefix(q, p+"/") {
				e.tree[q] = true
				lost[q] = x
				delete(m.nodes, q)
			}
		}
		delete(m.nodes, p)
	case m.kids(p):
		m.nodes[p] = mnode{real: n.real, created: n.created, modified: n.modified, below: idx}
	default:
		delete(m.nodes, p)
	}
	m.touch(p, idx)
	m.events = append(m.events, e)
	for _, a := range m.ancestors(p) {
		if d, ok := m.nodes[a]; ok && !d.has && !d.real && !m.kids(a) {
			delete(m.nodes, a)
		}
	}
	m.endSessions(lost)
}

func (m *model) endSessions(lost map[string]mnode) {
	var ended []string
	for p, n := range lost {
		if s := strings.Split(p, "/"); len(s) == 4 && s[0] == "n" && s[2] == "l" && n.has {
			ended = append(ended, p)
		}
	}
	sort.Strings(ended)
	for _, p := range ended {
		id := base(p)
		var held []string
		for q, n := range m.nodes {
			if n.owner == id {
				held = append(held, q)
			}
		}
		sort.Slice(held, func(i, j int) bool { return kv.Escape(held[i]) < kv.Escape(held[j]) })
		for _, q := range held {
			n, ok := m.nodes[q]
			if !ok || n.owner != id {
				continue
			}
			if lost[p].flags&1 != 0 {
				m.remove(q, kv.ActDelete, false)
			} else {
				n.owner = ""
				n.modified = m.next(q)
				m.add(q, n, false, mevent{action: kv.ActRelease})
			}
		}
	}
}

func (m *model) cond(c kv.Cond) (kv.Code, string) {
	n, ok := m.nodes[c.Path]
	bad := func(fail bool, code kv.Code) (kv.Code, string) {
		if fail {
			return code, c.Path
		}
		return kv.OK, ""
	}
	switch c.Kind {
	case kv.CondExists:
		if code, at := m.resolve(c.Path); code != kv.OK {
			return code, at
		}
	case kv.CondAbsent:
		return bad(ok && !(c.Flat && !n.has && !n.real), kv.Exists)
	case kv.CondHasValue:
		return bad(!n.has, kv.NotFound)
	case kv.CondValue:
		return bad(!n.has || n.value != c.Value, kv.Mismatch)
	case kv.CondIndex:
		if c.Index == 0 {
			return bad(n.has, kv.Mismatch)
		}
		return bad(!ok || !n.has && !n.real || n.modified != c.Index, kv.Mismatch)
	case kv.CondOwner:
		return bad(n.owner != c.Owner, kv.NotOwner)
	case kv.CondOpen:
		up := m.ancestors(c.Path)
		for i := len(up) - 1; i >= 0; i-- {
			if a := m.nodes[up[i]]; a.has && !m.kids(up[i]) {
				return kv.NotDir, up[i]
			}
		}
	case kv.CondNotDir:
		return bad(ok && m.isDir(c.Path), kv.NotFile)
	case kv.CondEmpty:
		return bad(m.kids(c.Path), kv.NotEmpty)
	case kv.CondBelow:
		return bad(m.indexOf(c.Path) > c.Index, kv.Mismatch)
	}
	return kv.OK, ""
}

func (m *model) op(o kv.Op) (kv.Code, string) {
	p := o.Path
	switch o.Kind {
	case kv.OpExpire:
		for {
			best, at := "", int64(0)
			for q, n := range m.nodes {
				if n.expires != 0 && n.expires <= o.Cutoff && (best == "" || n.expires < at || n.expires == at && q < best) {
					best, at = q, n.expires
				}
			}
			if best == "" {
				return kv.OK, ""
			}
			m.remove(best, o.Action, !m.nodes[best].has)
		}
	case kv.OpExtendExpiry:
		for q, n := range m.nodes {
			if n.expires != 0 {
				n.expires += o.Extend
				m.nodes[q] = n
			}
		}
		return kv.OK, ""
	case kv.OpSnap:
		m.marks = append(m.marks, m.dump())
		return kv.OK, ""
	case kv.OpCreateInOrder:
		if code, at := m.resolve(p); code == kv.NotDir || code == kv.OK && m.nodes[p].has && !m.kids(p) {
			return kv.NotDir, at
		}
		number, last := m.index+1, ""
		for q := range m.nodes {
			if name, ok := strings.CutPrefix(q, p+"/"); ok && !strings.Contains(name, "/") && name < "1" {
				last = max(last, name)
			}
		}
		if n, err := strconv.ParseUint(last, 10, 64); err == nil && len(last) == 20 {
			number = max(number, n+1)
		}
		p = fmt.Sprintf("%s/%020d", p, number)
		if _, ok := m.nodes[p]; ok {
			return kv.Exists, p
		}
	}
	if !strings.Contains(p, "/") {
		return kv.RootOnly, p
	}
	old, ok := m.nodes[p]
	has := func(f kv.OpFlags) bool { return o.Flags&f != 0 }
	idx := m.next(p)
	switch o.Kind {
	case kv.OpSet, kv.OpCreateInOrder:
		n := mnode{has: true, value: o.Value, flags: o.UserFlags, created: idx, modified: idx}
		keep := has(kv.KeepValue) && ok
		if keep {
			n = old
			n.created, n.modified = idx, idx
		} else if has(kv.Dir) {
			n.has, n.value = false, ""
		}
		n.expires = o.Expires
		n.real = ok && m.kids(p) && old.real || keep && old.real || !n.has && (has(kv.Dir) || !has(kv.Flat))
		if has(kv.KeepLock) && !keep {
			n.owner = old.owner
		}
		if has(kv.KeepCreated) && ok && (old.has || has(kv.Dir) || keep) {
			n.created = old.created
		}
		same := old
		same.created, same.modified, same.below = n.created, n.modified, n.below
		if has(kv.SkipSame) && ok && same == n {
			return kv.OK, ""
		}
		if has(kv.KeepModified) && ok {
			n.modified = old.modified
		}
		m.add(p, n, !has(kv.Flat), mevent{action: o.Action})
	case kv.OpDelete:
		if ok && (old.has || !m.kids(p)) {
			m.remove(p, o.Action, false)
		}
	case kv.OpDeleteTree:
		if ok {
			m.remove(p, o.Action, true)
		}
	case kv.OpDeletePrefix:
		for _, q := range m.walk(p) {
			if m.nodes[q].has {
				m.remove(q, o.Action, false)
			}
		}
	case kv.OpRefresh:
		if code, at := m.resolve(p); code != kv.OK {
			return code, at
		}
		n := old
		n.expires, n.modified = o.Expires, idx
		n.real = n.real || !n.has
		if !has(kv.KeepCreated) {
			n.created = idx
		}
		if has(kv.KeepModified) {
			n.modified = old.modified
		}
		m.add(p, n, false, mevent{action: o.Action, silent: true})
	case kv.OpAcquire, kv.OpRelease:
		n := mnode{has: true, value: o.Value, flags: o.UserFlags, expires: o.Expires, created: idx, modified: idx,
			owner: o.Owner, lock: old.lock, real: old.real && m.kids(p)}
		if o.Kind == kv.OpAcquire {
			if !m.nodes[o.OwnerPath].has {
				return kv.NoSession, o.OwnerPath
			}
			if old.owner != "" && old.owner != o.Owner {
				return kv.NotOwner, p
			}
			if old.owner == "" {
				n.lock++
			}
		} else {
			if old.owner != o.Owner {
				return kv.NotOwner, p
			}
			n.owner = ""
		}
		if old.has {
			n.created = old.created
		}
		same := old
		same.created, same.modified, same.below, same.real = n.created, n.modified, n.below, n.real
		if has(kv.SkipSame) && same == n {
			return kv.OK, ""
		}
		m.add(p, n, false, mevent{action: o.Action})
	}
	return kv.OK, ""
}

// walk lists the paths with values that begin with prefix, in byte order.
func (m *model) walk(prefix string) (paths []string) {
	for p, n := range m.nodes {
		if n.has && strings.HasPrefix(p, prefix) {
			paths = append(paths, p)
		}
	}
	sort.Strings(paths)
	return paths
}

// apply runs a Txn and returns the code and deciding path.
func (m *model) apply(x kv.Txn) (kv.Code, string) {
	m.now = max(m.now, x.Now)
	for _, c := range x.Conds {
		if code, at := m.cond(c); code != kv.OK {
			return code, at
		}
	}
	work := m.clone()
	work.marks, work.together = nil, 0
	for _, o := range x.Ops {
		if code, at := work.op(o); code != kv.OK {
			return code, at
		}
	}
	*m = *work
	return kv.OK, ""
}

// expect lists the Events with index > after that a watcher of path gets.
func (m *model) expect(path string, after uint64, recursive bool) (evs []mevent) {
	for _, e := range m.events {
		if e.index > after && !e.silent &&
			(e.path == path || recursive && strings.HasPrefix(e.path, path+"/") || e.tree[path]) {
			evs = append(evs, e)
		}
	}
	return evs
}
