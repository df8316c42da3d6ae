package kv

import "io"

// Replacement reads a backup (what WriteBare or WriteTo wrote) and makes of it the state that shall follow live: the
// records of the backup, what belongs to the cluster itself (root m) as it is in live, and no history. The index of
// the new state, and of every path in it, is skip above those of both, so that no client of live sees an index go
// back, and whoever waits is woken; entries keep the indexes they have, see Restored. An error is that of Restore.
//
// The state is a tree of its own, for WriteBare: restore that on every replica.
func (s *Snap) Replacement(backup io.Reader, skip uint64) (*Snap, error) {
	t := New(s.tree.o)
	if err := t.Restore(backup); err != nil {
		return nil, err
	}
	t.index = max(t.index, s.index) + skip
	t.now = max(t.now, s.now)
	t.gen = max(t.gen, s.gen) + 1
	t.restored = t.index
	own, _ := s.Get("m")
	t.root = t.root.own(t.gen)
	t.root.kids = t.root.kids.put(t.gen, own)
	at := &Entry{name: keepName(restoredPath), created: t.index, modified: t.index, below: t.index, meta: hasValue}
	t.root = t.put(t.root, restoredPath, at, false)
	t.root = t.raise(t.root)
	t.hub.reset(ErrRestored, nil)
	t.publish()
	return t.Snap(), nil
}

// raise gives e and everything below it the index of the tree. Restore has just made all of it but what live shares.
func (t *Tree) raise(e *Entry) *Entry {
	e = e.own(t.gen)
	e.below = t.index
	var kids []*Entry
	e.Each(func(c *Entry) bool {
		kids = append(kids, t.raise(c))
		return true
	})
	e.kids = nil
	if len(kids) > 0 {
		e.kids = newDir(t.gen, kids)
	}
	return e
}
