package proxy

import (
	"bufio"
	"context"
	"errors"
	"io"
	"net/http"
	"strconv"
	"sync"
	"time"

	"github.com/musterhq/muster/peer"
)

// Watch makes a Question one for a stream of events, each a line, in the order of their indexes.
type Watch struct {
	From   uint64 // index of the first event wanted; 0 = what happens from now on
	Stream bool   // all events; else the first one
	Now    uint64 // the newest index that the client may know of
	// Event reads a line. hidden says that only those see the event who look for it in the past.
	Event func(line []byte) (index uint64, hidden bool)
}

// What a feed remembers for clients that come back after each event, or are slow.
const (
	feedEvents  = 1024
	feedBytes   = 1 << 20
	feedMaxLine = 32 << 20
)

// feed follows one stream of events for all clients that watch the same. The last events stay in a ring, in which each
// client has a place of its own. Whoever needs older ones, or falls behind, asks for himself (resume.go).
type feed struct {
	vs     *Views
	id     string
	q      Question
	path   *http.Request
	ctx    context.Context
	cancel context.CancelFunc

	refs  int         // guarded by vs.mu
	timer *time.Timer // guarded by vs.mu

	mu      sync.Mutex
	changed chan struct{} // closed when anything below changes
	head    http.Header   // nil: nothing has been answered yet
	over    bool          // nothing more comes
	since   uint64        // index at which the answer began
	from    uint64        // every event from this index on is, or was, in the ring
	last    uint64        // the newest index known
	base    uint64        // number of the first event in the ring
	ring    []feedEvent
	bytes   int
}

type feedEvent struct {
	index  uint64
	hidden bool
	line   []byte
}

// watch answers a watch from a feed. False: it must be relayed for itself, and nothing has been written.
func (v *Views) watch(w http.ResponseWriter, r *http.Request, res Resumer, q *Question) bool {
	f := v.joinFeed(r, q)
	if f == nil {
		return false
	}
	defer v.leaveFeed(f)
	seat, header, ok := f.enter(r.Context(), q.Watch)
	if !ok || !res.Begin(header) {
		return false
	}
	v.stats.hits.Add(1)
	h := w.Header()
	for name, values := range header {
		h[name] = values
	}
	w.WriteHeader(http.StatusOK)
	s := &segments{w: w, rc: http.NewResponseController(w), res: res}
	defer s.close()
	if s.rc.Flush() != nil {
		return true
	}
	for {
		events, next, behind, err := f.next(r.Context(), &seat)
		for i := range events {
			if s.pass(events[i].line); s.err != nil || res.Done() {
				return true
			}
		}
		seat.at = next
		switch {
		case behind:
			v.stats.relayed.Add(1)
			ask := &asking{in: r, header: outHeader(r, 0), target: Any, res: res}
			v.p.follow(w, ask, &http.Response{Body: http.NoBody}, "")
			return true
		case err != nil:
			return true
		}
	}
}

// joinFeed finds or begins a feed.
func (v *Views) joinFeed(r *http.Request, q *Question) *feed {
	id := q.key()
	v.mu.Lock()
	defer v.mu.Unlock()
	f := v.feeds[id]
	if f == nil {
		if v.ctx.Err() != nil || len(v.views)+len(v.feeds) >= v.cfg.MaxViews {
			return nil
		}
		f = &feed{vs: v, id: id, q: *q, path: followable(r), changed: make(chan struct{}), from: q.Watch.From}
		f.path.Header[SharedHeader] = []string{"1"}
		f.ctx, f.cancel = context.WithCancel(v.ctx)
		v.feeds[id] = f
		v.runs.Go(f.run)
	}
	f.refs++
	if f.timer != nil {
		f.timer.Stop()
		f.timer = nil
	}
	v.stats.waiters.Add(1)
	return f
}

func (v *Views) leaveFeed(f *feed) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.stats.waiters.Add(-1)
	if f.refs--; f.refs > 0 {
		return
	}
	f.timer = time.AfterFunc(v.cfg.Linger, func() {
		v.mu.Lock()
		defer v.mu.Unlock()
		if f.refs == 0 {
			v.dropFeed(f)
		}
	})
}

// dropFeed ends a feed. Called with v.mu held.
func (v *Views) dropFeed(f *feed) {
	if v.feeds[f.id] == f {
		delete(v.feeds, f.id)
	}
	f.cancel()
}

// place is where a client stands in a feed.
type place struct {
	at     uint64 // number of the next event
	from   uint64 // events before this index are not wanted
	past   uint64 // events up to this index are history
	stream bool
}

// enter waits for the beginning of the feed and finds the place of a client, and the head of its answer. False: what it
// wants is not here.
func (f *feed) enter(ctx context.Context, want *Watch) (seat place, h http.Header, ok bool) {
	f.mu.Lock()
	for f.head == nil && !f.over {
		changed := f.changed
		f.mu.Unlock()
		select {
		case <-changed:
		case <-ctx.Done():
			return seat, nil, false
		}
		f.mu.Lock()
	}
	defer f.mu.Unlock()
	if f.over || want.From > 0 && want.From < f.from {
		return seat, nil, false
	}
	now := max(f.last, f.since, want.Now)
	seat = place{at: f.base, from: want.From, past: now, stream: want.Stream}
	if want.From == 0 {
		seat.at, seat.from = f.base+uint64(len(f.ring)), now+1
	}
	h = f.head.Clone()
	h[http.CanonicalHeaderKey(f.q.IndexHeader)] = []string{strconv.FormatUint(now, 10)}
	return seat, h, true
}

// next waits for events that a client wants. behind says that some have left the ring before it had them.
func (f *feed) next(ctx context.Context, seat *place) (events []feedEvent, next uint64, behind bool, err error) {
	f.mu.Lock()
	for {
		if seat.at < f.base {
			f.mu.Unlock()
			return nil, seat.at, true, nil
		}
		for _, ev := range f.ring[seat.at-f.base:] {
			// As the dialect has it: a search of the history finds hidden events, a wait does not.
			if ev.index >= seat.from && (!ev.hidden || !seat.stream && ev.index <= seat.past) {
				events = append(events, ev)
			}
		}
		next = f.base + uint64(len(f.ring))
		seat.at = next
		if f.over && err == nil {
			err = io.EOF
		}
		changed := f.changed
		f.mu.Unlock()
		if len(events) > 0 || err != nil {
			return events, next, false, err
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return nil, next, false, ctx.Err()
		}
		f.mu.Lock()
	}
}

// tell wakes everybody. Called with mu held.
func (f *feed) tell() {
	close(f.changed)
	f.changed = make(chan struct{})
}

// run follows the stream until nobody watches, or until no server continues it for as long as a single watch would wait.
func (f *feed) run() {
	p := f.vs.p
	defer func() {
		f.vs.mu.Lock()
		f.vs.dropFeed(f) // whoever comes now begins another
		f.vs.mu.Unlock()
		f.mu.Lock()
		defer f.mu.Unlock()
		f.over = true
		f.tell()
	}()
	lost := p.picker.now()
	for tries := 0; f.ctx.Err() == nil; tries++ {
		began := p.picker.now()
		brought, err := f.follow()
		if err != nil {
			return
		}
		if now := p.picker.now(); brought || now.Sub(began) > settled {
			lost, tries = now, 0
		}
		if p.picker.now().Sub(lost) > p.cfg.ResumeHold || p.rest(f.ctx, tries) != nil {
			return
		}
	}
}

// follow asks one server for what has not been seen, and takes events until that ends. An error says that there is no
// use in going on.
func (f *feed) follow() (brought bool, err error) {
	p := f.vs.p
	f.vs.stats.asked.Add(1)
	f.mu.Lock()
	next, since := f.q.Watch.From, f.since
	if f.head != nil {
		next = max(f.last+1, f.from)
	}
	f.mu.Unlock()
	req := f.path.WithContext(peer.Long(f.ctx))
	u := *f.path.URL
	u.RawQuery = f.q.Ask(next, 0)
	req.URL = &u
	resp, from, err := p.do(&asking{in: req, header: outHeader(req, 0), target: Any})
	if err != nil {
		if since == 0 {
			return false, err // nobody has seen anything yet: each shall be told for himself
		}
		return false, nil
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		if since > 0 && failing(resp.StatusCode) {
			return false, nil
		}
		return false, errStop
	}
	ahead, err := f.begin(resp)
	if err != nil {
		return false, err
	}
	if ahead {
		_ = resp.Body.Close()
		return f.follow()
	}
	br := bufio.NewReaderSize(resp.Body, resumeBuffer)
	for {
		line, err := readLine(br)
		if err != nil {
			if f.ctx.Err() == nil {
				p.picker.bad(from)
			}
			return brought, nil
		}
		f.add(line)
		brought = true
	}
}

var errLongLine = errors.New("an event is too long")

// readLine reads a whole line; one that is broken off is an error.
func readLine(br *bufio.Reader) ([]byte, error) {
	var line []byte
	for {
		part, err := br.ReadSlice('\n')
		line = append(line, part...)
		switch {
		case err == nil:
			return line, nil
		case !errors.Is(err, bufio.ErrBufferFull):
			return nil, err
		case len(line) > feedMaxLine:
			return nil, errLongLine
		}
	}
}

// begin takes the head of an answer. ahead says that the stream begins later than now, because whoever began the feed
// wants only what is still to come; others want what happens before, so it must be asked for again.
func (f *feed) begin(resp *http.Response) (ahead bool, err error) {
	n, err := strconv.ParseUint(resp.Header.Get(f.q.IndexHeader), 10, 64)
	if err != nil || n == 0 {
		return false, errStop
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.head == nil {
		f.since = n
		if ahead = f.from > n+1; ahead || f.from == 0 {
			f.from = n + 1
			f.last = n
		}
	}
	f.head = answerHeader(resp.Header)
	f.tell()
	return ahead, nil
}

// add takes an event, and lets go of the oldest where there are too many.
func (f *feed) add(line []byte) {
	index, hidden := f.q.Watch.Event(line)
	f.mu.Lock()
	defer f.mu.Unlock()
	if index == 0 || index < f.from || index <= f.last && len(f.ring) > 0 && index <= f.ring[len(f.ring)-1].index {
		return // it is there already
	}
	f.ring = append(f.ring, feedEvent{index, hidden, line})
	f.bytes += len(line)
	f.last = max(f.last, index)
	drop := 0
	for len(f.ring)-drop > feedEvents || f.bytes > feedBytes && len(f.ring)-drop > 1 {
		f.bytes -= len(f.ring[drop].line)
		f.from = f.ring[drop].index + 1
		drop++
	}
	if drop > 0 {
		clear(f.ring[:drop])
		f.ring = f.ring[drop:]
		f.base += uint64(drop)
	}
	f.tell()
}
