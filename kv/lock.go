package kv

// opLock writes value and flags and takes or gives up the ownership of an entry. Locks belong to the flat view of
// the tree: parents made on the way are structural and the created index is kept, whatever the flags say.
func (t *Tree) opLock(op *Op, r *OpResult) *failed {
	old := t.root.find(op.Path)
	x := old.extra()
	if op.Kind == OpAcquire {
		if s := t.root.find(op.OwnerPath); op.Owner == "" || !isSession(op.OwnerPath, op.Owner) || s == nil || !s.HasValue() {
			return t.fail(NoSession, op.OwnerPath)
		}
		switch x.owner {
		case "":
			x.owner, x.lock = op.Owner, x.lock+1
		case op.Owner:
		default:
			return t.fail(NotOwner, op.Path)
		}
	} else {
		if op.Owner == "" || x.owner != op.Owner {
			return t.fail(NotOwner, op.Path)
		}
		x.owner = ""
	}
	x.flags, x.expires = op.UserFlags, op.Expires
	if was := old.extra(); op.Flags&SkipSame != 0 && old != nil && old.HasValue() && old.value == op.Value && was.owner == x.owner &&
		was.flags == x.flags && was.expires == x.expires {
		r.Entry = t.capture(old)
		return nil
	}
	idx := t.nextIndex(op.Path)
	e := &Entry{name: keepName(op.Path), value: op.Value, created: idx, modified: idx, below: idx, meta: hasValue}
	if old != nil {
		e.kids = old.kids
		if old.kids != nil {
			e.meta |= old.meta & realDir
		}
		if old.HasValue() {
			e.created = old.created
		}
	}
	if f := t.decode(op.Path, e); f != nil {
		return f
	}
	e.setExtra(x)
	t.store(op.Path, old, e, e, op, r)
	return nil
}

func ownedPath(session, path string) string { return ownedView + Escape(session) + "/" + Escape(path) }

// owned keeps the view of held entries when the owner of path changes.
func (t *Tree) owned(path, was, is string) {
	if was == is {
		return
	}
	if was != "" {
		t.deleteView(ownedPath(was, path))
	}
	if is != "" {
		t.setView(ownedPath(is, path), path, nil)
	}
}

// disown keeps the view of held entries when e, with everything below when tree is set, is gone from path.
func (t *Tree) disown(path string, e *Entry, tree bool) {
	if o := e.Owner(); o != "" {
		t.owned(path, o, "")
	}
	if tree && e.kids != nil && t.root.find(ownedView[:len(ownedView)-1]) != nil {
		t.disownBelow(append([]byte(path), '/'), e)
	}
}

func (t *Tree) disownBelow(dir []byte, e *Entry) {
	e.Each(func(c *Entry) bool {
		if o := c.Owner(); o != "" {
			t.owned(string(append(dir, c.name...)), o, "")
		}
		if c.kids != nil {
			t.disownBelow(append(append(dir, c.name...), '/'), c)
		}
		return true
	})
}

// endSessions frees what the sessions at or below path held; e is what stood there. The entries go in order of
// sessions, then of their escaped paths: the same on every replica.
func (t *Tree) endSessions(path string, e *Entry, tree bool) {
	sessionsAt(path, e, tree, func(session string, s *Entry) {
		held, ok := t.root.find(viewRoot).Lookup("l/" + session)
		if !ok {
			return
		}
		var paths []string
		held.Each(func(v *Entry) bool {
			paths = append(paths, v.value)
			return true
		})
		for _, p := range paths {
			e := t.root.find(p)
			if e == nil || Escape(e.Owner()) != session {
				continue // gone with a session that this one held
			}
			if s.UserFlags()&SessionDeletes != 0 {
				t.remove(p, e, ActDelete, false, new(OpResult))
			} else {
				t.release(p)
			}
		}
	})
}

// SessionDeletes, as a user flag of a session entry, makes the end of the session delete the entries it holds;
// without it they are released.
const SessionDeletes uint64 = 1

func (t *Tree) release(path string) {
	old := t.root.find(path)
	e := *old
	x := old.extra()
	x.owner = ""
	idx := t.nextIndex(path)
	e.modified, e.below, e.meta = idx, idx, old.bits()
	e.setExtra(x)
	t.store(path, old, &e, &e, &Op{Kind: OpRelease, Action: ActRelease}, new(OpResult))
}
