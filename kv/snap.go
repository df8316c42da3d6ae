package kv

import "strings"

// Snap is an immutable state of the whole tree. Any goroutine may read it, without locks, for as long as it likes.
type Snap struct {
	root  *Entry
	tree  *Tree
	index uint64
	epoch uint64 // counts restores
	now   int64
	term  uint64
	gen   uint64 // no node of this state is of a later edit generation

	restored uint64
}

// Index is the index of the last change in the tree.
func (s *Snap) Index() uint64 { return s.index }

// Restored is the index at which the whole state was last replaced by a backup, 0 if it never was. Entries have kept
// the older indexes they had in the backup; whoever waits for an entry with an index from before takes this one.
func (s *Snap) Restored() uint64 { return s.restored }

// Term is what WithTerm set, else 0; this package knows no terms.
func (s *Snap) Term() uint64 { return s.term }

// WithTerm returns the same state labelled with the consensus term it was read in.
func (s *Snap) WithTerm(term uint64) *Snap {
	c := *s
	c.term = term
	return &c
}

// Get returns the entry (or directory, also structural) at path.
func (s *Snap) Get(path string) (*Entry, bool) {
	e := s.root.find(path)
	return e, e != nil
}

// Resolve is Get that says why: NotFound with the first missing path, NotDir with the path of the entry (and the
// entry) that has a value and no children and stands in the way.
func (s *Snap) Resolve(path string) (*Entry, Code, string) { return resolve(s.root, path) }

func resolve(e *Entry, path string) (*Entry, Code, string) {
	rest, at := path, 0
	for {
		seg, tail, more := cut(rest)
		c := e.kids.get(seg)
		at += len(seg)
		if c == nil {
			return nil, NotFound, path[:at]
		}
		if !more {
			return c, OK, path
		}
		if c.HasValue() && c.kids == nil {
			return c, NotDir, path[:at]
		}
		e, rest, at = c, tail, at+1
	}
}

// IndexOf is the index of the last change at or below path; for a missing path that of its nearest ancestor.
func (s *Snap) IndexOf(path string) uint64 { return indexOf(s.root, path) }

// indexAt is the modified index of the entry at path, 0 if there is none.
func indexAt(root *Entry, path string) uint64 {
	if e := root.find(path); e != nil {
		return e.modified
	}
	return 0
}

func indexOf(e *Entry, path string) uint64 {
	for more := true; more; {
		var seg string
		seg, path, more = cut(path)
		c := e.kids.get(seg)
		if c == nil {
			break
		}
		e = c
	}
	return e.below
}

// Walk visits every entry that has a value and whose full path begins with the string prefix, in byte order of
// the full path, until f returns false.
func (s *Snap) Walk(prefix string, f func(path string, e *Entry) bool) { walk(s.root, prefix, f) }

func walk(root *Entry, prefix string, f func(path string, e *Entry) bool) {
	e, dir, part := root, "", prefix
	if i := strings.LastIndexByte(prefix, '/'); i >= 0 {
		dir, part = prefix[:i+1], prefix[i+1:]
		if e = root.find(prefix[:i]); e == nil {
			return
		}
	}
	w := walker{f: f, buf: []byte(dir)}
	w.children(e, part)
}

type walker struct {
	f   func(string, *Entry) bool
	buf []byte // path of the directory being walked, with its slash
}

// children walks the children of e whose names begin with part. The children come in order of their names, but
// "a!b" precedes "a/b" in the order of full paths: so the subtree of a child waits on a stack until the siblings
// that sort before name+"/" are through.
func (w *walker) children(e *Entry, part string) bool {
	var waiting []*Entry
	release := func(next string, all bool) bool {
		for n := len(waiting); n > 0; n-- {
			top := waiting[n-1]
			if !all && len(next) > len(top.name) && next[:len(top.name)] == top.name && next[len(top.name)] < '/' {
				return true
			}
			waiting = waiting[:n-1]
			at := len(w.buf)
			w.buf = append(append(w.buf, top.name...), '/')
			ok := w.children(top, "")
			w.buf = w.buf[:at]
			if !ok {
				return false
			}
		}
		return true
	}
	e.kids.ascend(part, func(c *Entry) bool {
		if !strings.HasPrefix(c.name, part) {
			return false
		}
		if !release(c.name, false) {
			w.f = nil
			return false
		}
		if c.HasValue() && !w.f(string(append(w.buf, c.name...)), c) {
			w.f = nil
			return false
		}
		if c.kids != nil {
			waiting = append(waiting, c)
		}
		return true
	})
	return w.f != nil && release("", true)
}

// Wait returns a waiter whose channel closes at the first change at, below, or removing path after this Snap: at
// once if that has happened. The empty path stands for the whole tree. A restore closes it too.
func (s *Snap) Wait(path string) *Waiter { return s.tree.hub.wait(s, path) }

// changed says whether something at, below or removing path differs between s and the later state live.
func (s *Snap) changed(path string, live *Snap) bool {
	switch {
	case s.epoch != live.epoch:
		return true
	case s.index == live.index:
		return false
	case path == "":
		return true
	}
	was, is := s.root.find(path), live.root.find(path)
	if was == is {
		return false
	}
	return was == nil || is == nil || is.below > s.index
}
