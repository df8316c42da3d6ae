package kv

// Waiting counts the places in the tree of waiting parties.
func Waiting(t *Tree) int {
	t.hub.mu.Lock()
	defer t.hub.mu.Unlock()
	return t.hub.top.count() - 1
}

func (s *spot) count() int {
	n := 1
	for _, c := range s.kids {
		n += c.count()
	}
	return n
}

// Deadlines counts the deadlines remembered, stale ones included.
func Deadlines(t *Tree) int { return len(t.exp.heap) }
