package proxy

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// events is a cluster behind a Transport without a network: a stream of numbered lines, kept for ever.
type events struct {
	mu      sync.Mutex
	index   uint64
	oldest  uint64
	changed chan struct{}
	down    bool
	cut     chan struct{} // closed: all streams break
	open    int
	asked   int
}

func newEvents() *events {
	return &events{index: 10, changed: make(chan struct{}), cut: make(chan struct{})}
}

// line is event n. Every 7th is hidden.
func eventLine(n uint64) string { return fmt.Sprintf("%d %s\n", n, strings.Repeat("x", int(n%5)*100)) }

func eventOf(line []byte) (uint64, bool) {
	s, _, _ := strings.Cut(string(line), " ")
	n, _ := strconv.ParseUint(s, 10, 64)
	return n, n%7 == 0
}

func (e *events) add(n int) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.index += uint64(n)
	close(e.changed)
	e.changed = make(chan struct{})
}

func (e *events) breakAll() {
	e.mu.Lock()
	defer e.mu.Unlock()
	close(e.cut)
	e.cut = make(chan struct{})
}

func (e *events) counts() (asked, open int) {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.asked, e.open
}

// RoundTrip implements http.RoundTripper. from= is the first event wanted, all= shows hidden ones.
func (e *events) RoundTrip(r *http.Request) (*http.Response, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.asked++
	if e.down {
		return nil, errRefused
	}
	q := r.URL.Query()
	next, _ := strconv.ParseUint(q.Get("from"), 10, 64)
	if next > 0 && next < e.oldest {
		return &http.Response{StatusCode: 400, Header: http.Header{}, Body: io.NopCloser(strings.NewReader("history cleared")), ContentLength: 15}, nil
	}
	start := e.index
	if next == 0 {
		next = e.index + 1
	}
	all := r.Header.Get(SharedHeader) != ""
	pr, pw := io.Pipe()
	e.open++
	cut := e.cut
	go func() {
		defer func() {
			e.mu.Lock()
			e.open--
			e.mu.Unlock()
		}()
		for {
			e.mu.Lock()
			index, changed := e.index, e.changed
			e.mu.Unlock()
			for ; next <= index; next++ {
				if next%7 == 0 && !all {
					continue
				}
				if _, err := io.WriteString(pw, eventLine(next)); err != nil {
					return
				}
			}
			select {
			case <-changed:
			case <-cut:
				_, _ = io.WriteString(pw, "99999") // a part of a line
				pw.CloseWithError(errors.New("connection reset"))
				return
			case <-r.Context().Done():
				pw.CloseWithError(r.Context().Err())
				return
			}
		}
	}()
	return &http.Response{StatusCode: 200, Header: http.Header{"X-Etcd-Index": {fmt.Sprint(start)}}, Body: pr, ContentLength: -1, Request: r}, nil
}

// follower is the Resumer of a watch of numbered lines.
type follower struct {
	next, last uint64
	stream     bool
	done       bool
}

func (f *follower) Again(r *http.Request) { r.URL.RawQuery = fmt.Sprint("from=", f.next) }
func (f *follower) Begin(h http.Header) bool {
	n, err := strconv.ParseUint(h.Get("X-Etcd-Index"), 10, 64)
	if f.next == 0 {
		f.next = n + 1
	}
	return err == nil
}
func (f *follower) Take(b []byte) int {
	n := 0
	for !f.done {
		end := bytes.IndexByte(b[n:], '\n')
		if end < 0 {
			break
		}
		f.last, _ = eventOf(b[n:])
		f.next = f.last + 1
		n += end + 1
		f.done = !f.stream
	}
	return n
}
func (f *follower) Done() bool { return f.done }

// sink collects what a client is sent; while it is blocked, a write does not return.
type sink struct {
	header http.Header
	mu     sync.Mutex
	b      bytes.Buffer
	code   int
	block  chan struct{} // not nil: holds up writes until it is closed
}

func (s *sink) Header() http.Header { return s.header }
func (s *sink) WriteHeader(code int) {
	s.code = code
}
func (s *sink) Flush() {}
func (s *sink) Write(b []byte) (int, error) {
	s.mu.Lock()
	block := s.block
	s.mu.Unlock()
	if block != nil {
		<-block
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.Write(b)
}

// numbers are the events that came.
func (s *sink) numbers() (list []uint64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for line := range strings.Lines(s.b.String()) {
		n, _ := eventOf([]byte(line))
		if line != eventLine(n) {
			return nil
		}
		list = append(list, n)
	}
	return list
}

// expect wants the events from first to last, without the hidden ones.
func (s *sink) expect(t *testing.T, who string, first, last uint64) {
	t.Helper()
	want := []uint64{}
	for n := first; n <= last; n++ {
		if n%7 != 0 {
			want = append(want, n)
		}
	}
	if got := s.numbers(); fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("%s: %d events %.100v, want %d, from %d to %d", who, len(got), got, len(want), first, last)
	}
}

func watchQuestion(from uint64, stream bool) Question {
	return Question{
		Name: "watch /v2/keys/x", Loose: true, IndexHeader: "X-Etcd-Index",
		Ask:   func(from uint64, _ time.Duration) string { return fmt.Sprint("from=", from) },
		Watch: &Watch{From: from, Stream: stream, Event: eventOf},
	}
}

// watch begins a watch of a client and returns what it is sent.
func watchAs(ctx context.Context, v *Views, from uint64, stream bool) *sink {
	s := &sink{header: http.Header{}}
	r := httptest.NewRequestWithContext(ctx, "GET", fmt.Sprint("/v2/keys/x?from=", from), nil)
	go func() {
		defer func() { _ = recover() }() // a broken connection
		v.Serve(s, r, Any, &follower{next: from, stream: stream}, watchQuestion(from, stream))
	}()
	return s
}

func newFeeds(t *testing.T, e *events) *Views {
	t.Helper()
	p := newProxy(t, func(c *Config) { c.Transport = e }, "s1:8300", "s2:8300")
	v, err := NewViews(ViewsConfig{Proxy: p})
	if err != nil {
		t.Fatal(err)
	}
	return v
}

func TestManyWatchersOneStream(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := newEvents()
		v := newFeeds(t, e)
		defer v.Close()
		ctx, cancel := context.WithCancel(t.Context())
		var all []*sink
		for range 500 {
			all = append(all, watchAs(ctx, v, 0, true))
		}
		synctest.Wait()
		if asked, open := e.counts(); asked != 1 || open != 1 {
			t.Fatalf("500 watchers: %d streams, %d asked for", open, asked)
		}
		for range 20 {
			e.add(3)
			synctest.Wait()
		}
		late := watchAs(ctx, v, 0, true)
		old := watchAs(ctx, v, 20, true)
		synctest.Wait()
		e.breakAll() // the server dies, and another one goes on
		e.add(5)
		time.Sleep(5 * time.Second)
		for i, s := range all {
			s.expect(t, fmt.Sprint("watcher ", i), 11, 75)
		}
		late.expect(t, "one that came late", 71, 75)
		old.expect(t, "one that wants the past", 20, 75)
		if _, open := e.counts(); open != 1 {
			t.Errorf("%d streams", open)
		}
		if h := old.header.Get("X-Etcd-Index"); h != "70" {
			t.Errorf("index %s, want 70", h)
		}
		cancel()
		time.Sleep(DefaultLinger + time.Second)
		if _, open := e.counts(); open != 0 || feeds(v) != 0 || v.stats.waiters.Load() != 0 {
			t.Errorf("left behind: %d streams, %d feeds, %d waiters", open, feeds(v), v.stats.waiters.Load())
		}
	})
}

// TestWatcherOfTheFuture: one that wants only what is still to come keeps nothing from the others, and gets nothing
// before its time.
func TestWatcherOfTheFuture(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := newEvents()
		v := newFeeds(t, e)
		defer v.Close()
		future := watchAs(t.Context(), v, 20, true)
		synctest.Wait()
		now, soon := watchAs(t.Context(), v, 0, true), watchAs(t.Context(), v, 13, true)
		synctest.Wait()
		for range 15 {
			e.add(1)
			synctest.Wait()
		}
		e.breakAll()
		e.add(5)
		time.Sleep(5 * time.Second)
		future.expect(t, "one that wants the future", 20, 30)
		now.expect(t, "one that watches from now on", 11, 30)
		soon.expect(t, "one that wants a nearer future", 13, 30)
		if _, open := e.counts(); open != 1 {
			t.Errorf("%d streams", open)
		}
		if h := future.header.Get("X-Etcd-Index"); h != "10" {
			t.Errorf("index %s, want 10", h)
		}
	})
}

// TestWatchersThatComeBack: clients that watch for one event after the other miss none, and cost the servers one stream.
func TestWatchersThatComeBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := newEvents()
		v := newFeeds(t, e)
		defer v.Close()
		ctx, cancel := context.WithCancel(t.Context())
		var all sync.WaitGroup
		got := make([][]uint64, 50)
		for i := range got {
			all.Go(func() {
				for next := uint64(11); ctx.Err() == nil; {
					s := watchAs(ctx, v, next, false)
					for len(s.numbers()) == 0 && ctx.Err() == nil {
						time.Sleep(time.Millisecond)
					}
					if ctx.Err() != nil {
						return
					}
					next = s.numbers()[0]
					got[i] = append(got[i], next)
					next++
				}
			})
		}
		for range 100 {
			time.Sleep(500 * time.Microsecond)
			e.add(1)
		}
		time.Sleep(2 * time.Second)
		if asked, _ := e.counts(); asked > 1+len(got) {
			t.Errorf("%d streams were asked for", asked)
		}
		cancel()
		all.Wait()
		for i, list := range got {
			last := uint64(10)
			for _, n := range list {
				if n <= last || n > last+1 && n != last+2 { // a hidden event may be left out, by chance
					t.Fatalf("watcher %d: %d after %d", i, n, last)
				}
				last = n
			}
			if last != 110 {
				t.Errorf("watcher %d: %d at last, want 110", i, last)
			}
		}
	})
}

// TestSlowWatcherDelaysNobody: it leaves the ring, goes on by itself, and misses nothing.
func TestSlowWatcherDelaysNobody(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := newEvents()
		v := newFeeds(t, e)
		defer v.Close()
		quick, slow := watchAs(t.Context(), v, 0, true), watchAs(t.Context(), v, 0, true)
		synctest.Wait()
		block := make(chan struct{})
		slow.mu.Lock()
		slow.block = block
		slow.mu.Unlock()
		for range 3 * feedEvents / 10 {
			e.add(10)
			time.Sleep(time.Millisecond)
		}
		time.Sleep(time.Second)
		last := uint64(10 + 3*feedEvents/10*10)
		quick.expect(t, "the quick one", 11, last)
		close(block)
		time.Sleep(5 * time.Second)
		slow.expect(t, "the slow one", 11, last)
		if _, open := e.counts(); open != 2 {
			t.Errorf("%d streams, want one for the slow one", open)
		}
	})
}

// TestWatchOfALostPast: who wants what no server remembers is told so; the others watch on.
func TestWatchOfALostPast(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := newEvents()
		e.oldest = 8
		v := newFeeds(t, e)
		defer v.Close()
		first := watchAs(t.Context(), v, 3, true)
		synctest.Wait()
		now := watchAs(t.Context(), v, 0, true)
		again := watchAs(t.Context(), v, 3, true)
		time.Sleep(time.Second)
		e.add(3)
		synctest.Wait()
		for _, s := range []*sink{first, again} {
			if s.code != 400 || s.b.String() != "history cleared" {
				t.Errorf("%d %q", s.code, s.b.String())
			}
		}
		now.expect(t, "one that watches from now on", 11, 13)
		e.mu.Lock()
		e.down = true
		e.mu.Unlock()
		e.breakAll()
		time.Sleep(DefaultResumeHold + 10*time.Second)
		if feeds(v) != 0 {
			t.Error("a feed without servers goes on for ever")
		}
	})
}

func feeds(v *Views) int {
	v.mu.Lock()
	defer v.mu.Unlock()
	return len(v.feeds)
}
