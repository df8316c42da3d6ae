package kv

import (
	"context"
	"sync"
)

// hub brings changes to those who wait for them. One lock guards the histories and a tree of the paths on which
// somebody waits, so that a change costs one step per segment of its path, and nothing when nobody waits there.
type hub struct {
	tree   *Tree
	mu     sync.Mutex
	err    error // after Close
	top    *spot // the empty path
	hist   [len(roots)]history
	closed chan struct{} // a channel that is closed already
	count  int           // watchers not stopped
}

// spot is a path on which somebody waits, or a part of one.
type spot struct {
	up     *spot
	name   string
	kids   map[string]*spot
	wait   *bell
	topics [2]*topic // plain, recursive
}

// bell is the channel shared by all waiters of one spot until the next change.
type bell struct {
	c    chan struct{}
	spot *spot // nil once rung
	refs int
}

// topic is what all watchers of one path and mode share. It knows only where the last few Events for it stand in
// the history, so it costs the same however slow its watchers are; a watcher that needs an older one searches the
// history itself.
type topic struct {
	spot    *spot
	refs    int
	c       chan struct{} // closed at the next Event; nil while nobody waits
	err     error
	recent  []place // at most maxRecent, ascending
	dropped uint64  // Events below this sequence number may be missing from recent
}

type place struct{ index, seq uint64 }

const (
	maxRecent = 64
	scanChunk = 512 // Events searched under one hold of the lock
)

func (h *hub) init(t *Tree) {
	h.tree, h.top = t, &spot{}
	h.closed = make(chan struct{})
	close(h.closed)
	for i := range h.hist {
		h.hist[i].maxBytes, h.hist[i].maxEvents = roots[i].history, historyEvents
	}
	user := &h.hist[userRoot]
	if t.o.HistoryBytes > 0 {
		user.maxBytes = t.o.HistoryBytes
	}
	if t.o.HistoryEvents > 0 {
		user.maxEvents = t.o.HistoryEvents
	}
}

// publish appends the Events of a batch to the histories and wakes all concerned. The new root must be live.
func (h *hub) publish(evs []*Event, views []viewed) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, ev := range evs {
		seq := h.hist[rootOf(ev.Path)].append(ev)
		if ev.silent {
			continue
		}
		var tree *Entry
		if ev.Entry.has(goneTree) {
			tree = ev.Prev
		}
		h.notify(ev.Path, tree, &place{ev.Index, seq})
	}
	for _, v := range views {
		h.notify(v.path, v.removed, nil)
	}
}

// notify wakes whoever waits for a change at path. removed is the subtree that went, if one did; at is the place
// of the Event, nil for views.
func (h *hub) notify(path string, removed *Entry, at *place) {
	s := h.top
	s.ring()
	for more := true; more; {
		var seg string
		seg, path, more = cut(path)
		next := s.kids[seg]
		if next == nil {
			s.prune()
			return
		}
		s = next
		s.ring()
		s.topics[1].add(at)
	}
	s.topics[0].add(at)
	if removed != nil && len(s.kids) > 0 {
		s.notifyBelow(removed, at)
	}
	s.prune()
}

// notifyBelow wakes everybody below s whose path existed in e.
func (s *spot) notifyBelow(e *Entry, at *place) {
	for name, c := range s.kids {
		if was, ok := e.Child(name); ok {
			c.ring()
			c.topics[0].add(at)
			c.topics[1].add(at)
			c.notifyBelow(was, at)
			c.prune()
		}
	}
}

func (s *spot) ring() {
	if b := s.wait; b != nil {
		close(b.c)
		b.spot, s.wait = nil, nil
	}
}

func (t *topic) add(at *place) {
	if t == nil || at == nil {
		return
	}
	if len(t.recent) == maxRecent {
		t.dropped = t.recent[maxRecent/2-1].seq + 1
		t.recent = append(t.recent[:0], t.recent[maxRecent/2:]...)
	}
	t.recent = append(t.recent, *at)
	t.wake()
}

func (t *topic) wake() {
	if t.c != nil {
		close(t.c)
		t.c = nil
	}
}

// spot returns the spot of path, making it if need be.
func (h *hub) spot(path string) *spot {
	s := h.top
	for more := path != ""; more; {
		var seg string
		seg, path, more = cut(path)
		next := s.kids[seg]
		if next == nil {
			next = &spot{up: s, name: seg}
			if s.kids == nil {
				s.kids = make(map[string]*spot)
			}
			s.kids[seg] = next
		}
		s = next
	}
	return s
}

// prune removes s and the spots above it as far as nobody waits there any more.
func (s *spot) prune() {
	for s.up != nil && len(s.kids) == 0 && s.wait == nil && s.topics == [2]*topic{} {
		delete(s.up.kids, s.name)
		s = s.up
	}
}

// reset wakes everybody: waiters because their state is no more, watchers with err. With hist it also replaces
// the histories and goes on; without, the hub is closed for good.
func (h *hub) reset(err error, hist *[len(roots)]history) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.top.end(err)
	h.top = &spot{}
	if hist != nil {
		h.hist = *hist
	} else {
		h.err = err
	}
}

func (s *spot) end(err error) {
	s.ring()
	for i, t := range s.topics {
		if t != nil {
			t.err, t.spot, s.topics[i] = err, nil, nil
			t.wake()
		}
	}
	for _, c := range s.kids {
		c.end(err)
	}
}

// Waiter is a level-triggered wait: C closes once, at the change. Stop frees it; always call Stop.
type Waiter struct {
	C    <-chan struct{}
	hub  *hub
	bell *bell
}

func (h *hub) wait(s *Snap, path string) *Waiter {
	h.mu.Lock()
	defer h.mu.Unlock()
	// The live root is read under the lock that the writer takes after it has changed the root: either the change
	// is seen here, or the writer will find the bell.
	if h.err != nil || s.changed(path, h.tree.Snap()) {
		return &Waiter{C: h.closed}
	}
	p := h.spot(path)
	if p.wait == nil {
		p.wait = &bell{c: make(chan struct{}), spot: p}
	}
	p.wait.refs++
	return &Waiter{C: p.wait.c, hub: h, bell: p.wait}
}

// Stop frees the waiter. It may be called more than once, by one goroutine at a time.
func (w *Waiter) Stop() {
	b := w.bell
	if b == nil {
		return
	}
	w.bell = nil
	w.hub.mu.Lock()
	defer w.hub.mu.Unlock()
	if b.refs--; b.refs == 0 && b.spot != nil {
		b.spot.wait = nil
		b.spot.prune()
	}
}

// Watcher is one subscription. Next is called by one goroutine at a time; Stop by any.
type Watcher struct {
	hub       *hub
	topic     *topic
	path      string
	recursive bool
	root      int
	after     uint64 // Events up to this index are not wanted; it may be in the future
	next      uint64 // sequence number of the first Event that has not been given
	pos       uint64 // index of the last one that has
	start     uint64
	stopped   bool // guarded by hub.mu
	done      chan struct{}
}

// Watch streams the Events at path (and below when recursive), and the removals of directories that contained
// path, with index > after; after 0 = from now. The error is a *HistoryError when Events after that index may no
// longer be kept, ErrClosed after Close, a *TxnError for a path that no Event can have.
func (t *Tree) Watch(path string, after uint64, recursive bool) (*Watcher, error) {
	if err := checkPath(path); err != "" {
		return nil, &TxnError{Code: BadTxn, Cond: -1, Op: -1, Path: path, Text: err}
	}
	root := rootOf(path)
	h := &t.hub
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.err != nil {
		return nil, h.err
	}
	w := &Watcher{hub: h, path: path, recursive: recursive, root: root, done: make(chan struct{}), start: t.Snap().index}
	switch hist := &h.hist[root]; {
	case after == 0:
		w.after, w.next = w.start, hist.next
	case after < hist.lost:
		return nil, &HistoryError{Oldest: hist.oldest(), Wanted: after + 1}
	default:
		w.after, w.next = after, hist.after(after)
	}
	mode := 0
	if recursive {
		mode = 1
	}
	s := h.spot(path)
	if s.topics[mode] == nil {
		s.topics[mode] = &topic{spot: s}
		s.topics[mode].dropped = h.hist[root].next
	}
	w.topic = s.topics[mode]
	w.topic.refs++
	h.count++
	return w, nil
}

// Start is the index of the tree when the watch began.
func (w *Watcher) Start() uint64 { return w.start }

// Next waits for the next Event. Errors: that of ctx, ErrClosed after Stop or Close, ErrRestored after a restore,
// a *HistoryError when the watcher fell behind what the history keeps. All but the first are final.
func (w *Watcher) Next(ctx context.Context) (Event, error) {
	for {
		ev, wake, err := w.step()
		switch {
		case err != nil:
			return Event{}, err
		case ev != nil:
			return *ev, nil
		case wake == nil: // a long search goes on
			if err := ctx.Err(); err != nil {
				return Event{}, err
			}
			continue
		}
		select {
		case <-wake:
		case <-w.done:
			return Event{}, ErrClosed
		case <-ctx.Done():
			return Event{}, ctx.Err()
		}
	}
}

// step finds the next Event, or the channel to wait on before the next step, or neither when it only got nearer.
func (w *Watcher) step() (*Event, <-chan struct{}, error) {
	h, t := w.hub, w.topic
	h.mu.Lock()
	defer h.mu.Unlock()
	switch {
	case w.stopped:
		return nil, nil, ErrClosed
	case t.err != nil:
		return nil, nil, t.err
	}
	hist := &h.hist[w.root]
	if w.next < t.dropped {
		return w.search(hist)
	}
	for i := len(t.recent); i > 0; i-- { // nearly always the newest is the wanted one
		if i > 1 && w.wants(t.recent[i-2]) {
			continue
		}
		p := t.recent[i-1]
		if !w.wants(p) {
			break
		}
		if p.seq < hist.first {
			return nil, nil, w.lagged(hist)
		}
		w.pos, w.next = p.index, p.seq+1
		return hist.at(p.seq), nil, nil
	}
	if t.c == nil {
		t.c = make(chan struct{})
	}
	return nil, t.c, nil
}

// wants says whether the Event at p is still to be given.
func (w *Watcher) wants(p place) bool { return p.seq >= w.next && p.index > w.after }

func (w *Watcher) lagged(hist *history) error {
	return &HistoryError{Oldest: hist.oldest(), Wanted: max(w.after, w.pos) + 1}
}

// search looks for the next Event in the history, a part of it at a time.
func (w *Watcher) search(hist *history) (*Event, <-chan struct{}, error) {
	if w.next < hist.first {
		return nil, nil, w.lagged(hist)
	}
	for end := min(w.next+scanChunk, hist.next); w.next < end; {
		ev := hist.at(w.next)
		w.next++
		if ev.Index > w.after && ev.meets(w.path, w.recursive) {
			w.pos = ev.Index
			return ev, nil, nil
		}
	}
	return nil, nil, nil
}

// Stop ends the watch and frees it; a waiting Next returns ErrClosed. It may be called more than once.
func (w *Watcher) Stop() {
	w.hub.mu.Lock()
	defer w.hub.mu.Unlock()
	if w.stopped {
		return
	}
	w.stopped = true
	w.hub.count--
	close(w.done)
	t := w.topic
	if t.refs--; t.refs == 0 && t.spot != nil {
		mode := 0
		if w.recursive {
			mode = 1
		}
		t.spot.topics[mode] = nil
		t.spot.prune()
	}
}

// Watchers is the number of watchers that have not been stopped, for statistics.
func (t *Tree) Watchers() int {
	t.hub.mu.Lock()
	defer t.hub.mu.Unlock()
	return t.hub.count
}

// OldestIndex is the oldest index that Watch can begin with (after = that - 1) in a root; 0 for an unknown root or
// one without history.
func (t *Tree) OldestIndex(root string) uint64 {
	i := rootOf(root)
	if i < 0 || !isRoot(root) || roots[i].view {
		return 0
	}
	t.hub.mu.Lock()
	defer t.hub.mu.Unlock()
	return t.hub.hist[i].oldest()
}
