// Package drill holds loads whose outcome can be checked to the last event, for tests that kill servers under them,
// inside one process (test/cluster) and with the real binary (test/e2e):
//
//	w := drill.Watch(t, "http://127.0.0.1:2379", "dir", from) // watchers of every kind
//	…kill, stop, cut off…
//	w.Verify(t, n)                                            // each saw exactly the values 0 to n-1
//
// Everything goes over HTTP in the hierarchical dialect. A base is the URL of an agent, such as http://10.0.0.1:8500.
package drill

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// patience is how long anything promised may take.
const patience = 60 * time.Second

// eventually polls until ok says so, and fails the test after patience.
func eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	deadline := time.Now().Add(patience)
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for !ok() {
		if time.Now().After(deadline) {
			t.Fatalf("not within %v: %s", patience, what)
		}
		<-tick.C
	}
}

// answer is one whole answer; status 0: there was none.
type answer struct {
	status int
	header http.Header
	body   []byte
}

// node is a key of the hierarchical dialect.
type node struct {
	Key, Value    string
	ModifiedIndex uint64
	Nodes         []node
}

type event struct {
	Action string
	Node   node
}

// do makes one request; form is the body of a write.
func do(method, url string, form url.Values) answer {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, method, url, strings.NewReader(form.Encode()))
	if err != nil {
		return answer{body: []byte(err.Error())}
	}
	if form != nil {
		req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return answer{body: []byte(err.Error())}
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		return answer{body: []byte(err.Error())}
	}
	return answer{resp.StatusCode, resp.Header, b}
}

func (a answer) event() (ev event, ok bool) {
	return ev, a.status/100 == 2 && json.Unmarshal(a.body, &ev) == nil
}

// Writer writes the values 0, 1, 2 … to one key, each until it is known to be there.
type Writer struct {
	written atomic.Int64
	quit    chan struct{}
	wg      sync.WaitGroup
}

// Write starts a Writer of the key through base.
func Write(base, key string) *Writer {
	w := &Writer{quit: make(chan struct{})}
	w.wg.Go(func() {
		at := base + "/v2/keys/" + key
		for {
			select {
			case <-w.quit:
				return
			default:
			}
			n := w.written.Load()
			v, to := fmt.Sprint(n), at
			if n > 0 {
				to += "?prevValue=" + fmt.Sprint(n-1) // so that no value comes twice, whatever became of a write of unknown outcome
			}
			if _, ok := do(http.MethodPut, to, url.Values{"value": {v}}).event(); !ok {
				if now, ok := do(http.MethodGet, at+"?quorum=true", nil).event(); !ok || now.Node.Value != v {
					continue
				}
			}
			w.written.Add(1)
		}
	})
	return w
}

// Written is how many values are there.
func (w *Writer) Written() int { return int(w.written.Load()) }

// More waits for n more values.
func (w *Writer) More(t testing.TB, n int, what string) {
	t.Helper()
	n += w.Written()
	eventually(t, what, func() bool { return w.Written() >= n })
}

// Stop ends the Writer and says how many values it has written.
func (w *Writer) Stop() int {
	close(w.quit)
	w.wg.Wait()
	return w.Written()
}

// Watchers are clients that watch one directory in different ways.
type Watchers struct {
	all    []*watcher
	cancel context.CancelFunc
	wg     sync.WaitGroup
}

// watcher collects the events of one way to watch.
type watcher struct {
	name string
	mu   sync.Mutex
	got  []event
	err  error // set before over is
	done atomic.Bool
}

// over says whether the watcher has failed.
func (w *watcher) over() bool { return w.done.Load() }

func (w *watcher) fail(err error) {
	w.err = err
	w.done.Store(true)
}

func (w *watcher) add(ev event) int {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.got = append(w.got, ev)
	return len(w.got)
}

func (w *watcher) count() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return len(w.got)
}

// open begins a request that has no time limit.
func open(ctx context.Context, url string) (*http.Response, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return nil, err
	}
	resp, err := http.DefaultClient.Do(req)
	if err == nil && resp.StatusCode != http.StatusOK {
		b, _ := io.ReadAll(resp.Body)
		resp.Body.Close()
		return nil, fmt.Errorf("status %d: %s", resp.StatusCode, b)
	}
	return resp, err
}

// stream reads events of one answer until ctx ends; ready is called once the answer has begun. An answer that ends
// by itself, or breaks, is an error: whoever kills servers, the client must not see it.
func (w *watcher) stream(ctx context.Context, url string, ready func()) {
	resp, err := open(ctx, url)
	ready()
	if err != nil {
		w.fail(err)
		return
	}
	defer resp.Body.Close()
	lines := bufio.NewScanner(resp.Body)
	for lines.Scan() {
		var ev event
		if err := json.Unmarshal(lines.Bytes(), &ev); err != nil {
			w.fail(fmt.Errorf("%q: %w", lines.Text(), err))
			return
		}
		w.add(ev)
	}
	if ctx.Err() == nil {
		w.fail(fmt.Errorf("the stream ended after %d events: %v", w.count(), lines.Err()))
	}
}

// poll takes one event per request, from the index after the one before.
func (w *watcher) poll(ctx context.Context, url string, from uint64) {
	for ctx.Err() == nil {
		resp, err := open(ctx, fmt.Sprintf("%s&waitIndex=%d", url, from))
		if ctx.Err() != nil {
			return
		}
		if err != nil {
			w.fail(err)
			return
		}
		var ev event
		err = json.NewDecoder(resp.Body).Decode(&ev)
		resp.Body.Close()
		if err != nil {
			if ctx.Err() == nil {
				w.fail(fmt.Errorf("after %d events: %w", w.count(), err))
			}
			return
		}
		w.add(ev)
		from = ev.Node.ModifiedIndex + 1
	}
}

// Watch starts watchers of every kind on the directory dir and its key named key: streams and long polls, from now
// and from the index from. It returns when all of them have begun. Any answer that breaks, or ends by itself, is a
// failure: whoever dies, a client must not see it.
func Watch(t testing.TB, base, dir, key string, from uint64) *Watchers {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	ws := &Watchers{cancel: cancel}
	t.Cleanup(cancel)
	var begun sync.WaitGroup
	start := func(name string, run func(*watcher, func())) {
		w := &watcher{name: base + " " + name}
		ws.all = append(ws.all, w)
		begun.Add(1)
		ws.wg.Go(func() { run(w, sync.OnceFunc(begun.Done)) })
	}
	below, at := base+"/v2/keys/"+dir+"?wait=true&recursive=true", base+"/v2/keys/"+dir+"/"+key+"?wait=true"
	for name, url := range map[string]string{"recursive": below, "of one key": at} {
		start("stream from now, "+name, func(w *watcher, ready func()) { w.stream(ctx, url+"&stream=true", ready) })
		start("stream from an index, "+name, func(w *watcher, ready func()) {
			w.stream(ctx, fmt.Sprintf("%s&stream=true&waitIndex=%d", url, from), ready)
		})
		start("long polls, "+name, func(w *watcher, ready func()) { ready(); w.poll(ctx, url, from) })
		start("long poll from now, then stream, "+name, func(w *watcher, ready func()) { w.pollThenStream(ctx, url, ready) })
	}
	begun.Wait()
	return ws
}

// pollThenStream waits for the first event without an index, and streams from there.
func (w *watcher) pollThenStream(ctx context.Context, url string, ready func()) {
	resp, err := open(ctx, url)
	ready()
	if err != nil {
		w.fail(err)
		return
	}
	var ev event
	err = json.NewDecoder(resp.Body).Decode(&ev)
	resp.Body.Close()
	if err != nil {
		w.fail(err)
		return
	}
	w.add(ev)
	w.stream(ctx, fmt.Sprintf("%s&stream=true&waitIndex=%d", url, ev.Node.ModifiedIndex+1), func() {})
}

// Verify waits until each watcher has n events, ends them, and expects exactly the values 0 to n-1, each once, in
// order.
func (ws *Watchers) Verify(t testing.TB, n int) {
	t.Helper()
	for _, w := range ws.all {
		eventually(t, fmt.Sprintf("%s has all %d events", w.name, n), func() bool { return w.over() || w.count() >= n })
	}
	ws.cancel()
	ws.wg.Wait()
	for _, w := range ws.all {
		w.verify(t, n)
	}
}

func (w *watcher) verify(t testing.TB, n int) {
	t.Helper()
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.over() {
		t.Errorf("%s: %v", w.name, w.err)
	}
	var last uint64
	for i, ev := range w.got {
		if ev.Node.Value != fmt.Sprint(i) || ev.Node.ModifiedIndex <= last {
			t.Errorf("%s: event %d has value %q at index %d after %d; want the values in order without gap or repetition", w.name, i, ev.Node.Value, ev.Node.ModifiedIndex, last)
			return
		}
		last = ev.Node.ModifiedIndex
	}
	if len(w.got) != n {
		t.Errorf("%s: %d events, want %d", w.name, len(w.got), n)
	}
}
