package kv

import "strings"

// viewed is a view path changed in a batch; removed is what stood there if it was removed.
type viewed struct {
	path    string
	removed *Entry
}

// viewTx is the Deriver's hand on the tree.
type viewTx struct{ t *Tree }

func (v viewTx) Get(path string) (*Entry, bool) {
	e := v.t.root.find(path)
	return e, e != nil
}

func (v viewTx) Prev(path string) (*Entry, bool) {
	e := v.t.before.find(path)
	return e, e != nil
}

func (v viewTx) SetView(path string, record any) {
	mustView(path)
	v.t.setView(path, "", record)
}

func (v viewTx) DeleteView(path string) {
	mustView(path)
	v.t.deleteView(path)
}

// mustView guards against a mistake of the programmer of a Deriver; the prefix never comes from outside.
func mustView(path string) {
	if !strings.HasPrefix(path, viewRoot+"/") || strings.HasPrefix(path, ownedView) {
		panic("kv: a Deriver may not write " + path)
	}
}

// setView writes a view entry with the index of the last change so far.
func (t *Tree) setView(path, value string, record any) {
	e := &Entry{name: keepName(path), value: value, created: t.index, modified: t.index, below: t.index, meta: hasValue, record: record}
	if old := t.root.find(path); old != nil {
		e.kids = old.kids
		if old.HasValue() {
			e.created = old.created
		}
		t.capture(old)
	}
	t.root = t.put(t.root, path, e, false)
	t.capture(e)
	t.viewed = append(t.viewed, viewed{path: path})
}

// deleteView removes a view entry and everything below it.
func (t *Tree) deleteView(path string) {
	if old := t.root.find(path); old != nil {
		t.viewed = append(t.viewed, viewed{path: path, removed: t.capture(old)})
		t.root = t.del(t.root, path, t.index)
	}
}
