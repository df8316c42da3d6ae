package cluster_test

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/musterhq/muster/internal/testcluster"
)

// watched is an event as a client of the hierarchical dialect reads it.
type watched struct {
	Action string
	Node   struct {
		Key, Value    string
		ModifiedIndex uint64
	}
}

// watcher collects the events of one way to watch.
type watcher struct {
	name string
	mu   sync.Mutex
	got  []watched
	err  error
}

func (w *watcher) add(ev watched) int {
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
		w.err = err
		return
	}
	defer resp.Body.Close()
	lines := bufio.NewScanner(resp.Body)
	for lines.Scan() {
		var ev watched
		if err := json.Unmarshal(lines.Bytes(), &ev); err != nil {
			w.err = fmt.Errorf("%q: %w", lines.Text(), err)
			return
		}
		w.add(ev)
	}
	if ctx.Err() == nil {
		w.err = fmt.Errorf("the stream ended after %d events: %v", w.count(), lines.Err())
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
			w.err = err
			return
		}
		var ev watched
		err = json.NewDecoder(resp.Body).Decode(&ev)
		resp.Body.Close()
		if err != nil {
			if ctx.Err() == nil {
				w.err = fmt.Errorf("after %d events: %w", w.count(), err)
			}
			return
		}
		w.add(ev)
		from = ev.Node.ModifiedIndex + 1
	}
}

// watchAll starts watchers of every kind at h, and returns when those from now on have begun.
func watchAll(ctx context.Context, t *testing.T, h *testcluster.Host, dir string, from uint64) (all []*watcher, wg *sync.WaitGroup) {
	t.Helper()
	wg = &sync.WaitGroup{}
	var begun sync.WaitGroup
	start := func(name string, run func(*watcher, func())) {
		w := &watcher{name: h.Name + " " + name}
		all = append(all, w)
		begun.Add(1)
		wg.Go(func() { run(w, sync.OnceFunc(begun.Done)) })
	}
	url := h.EtcdURL() + "/v2/keys/" + dir + "?wait=true&recursive=true"
	start("stream from now", func(w *watcher, ready func()) { w.stream(ctx, url+"&stream=true", ready) })
	start("stream from an index", func(w *watcher, ready func()) {
		w.stream(ctx, fmt.Sprintf("%s&stream=true&waitIndex=%d", url, from), ready)
	})
	start("stream of one key", func(w *watcher, ready func()) {
		w.stream(ctx, h.EtcdURL()+"/v2/keys/"+dir+"/key?wait=true&stream=true", ready)
	})
	start("long polls", func(w *watcher, ready func()) { ready(); w.poll(ctx, url, from) })
	begun.Wait()
	return all, wg
}

// wantSequence expects exactly the values 0 to n-1, each once, in order.
func wantSequence(t *testing.T, w *watcher, n int) {
	t.Helper()
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.err != nil {
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

// TestWatchOutlivesItsServers stops, crashes and cuts off one server after the other under watches on a proxy and on
// a follower that had to relay some. None of them may lose, repeat or break an event.
func TestWatchOutlivesItsServers(t *testing.T) {
	t.Parallel()
	c := testcluster.Start(t, 3, 1)
	p := c.Proxies[0]
	first := p.Put(t, "/v2/keys/seen/other", "value=x")
	var from uint64
	if _, err := fmt.Sscan(first.Header.Get("X-Etcd-Index"), &from); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	all, ended := watchAll(ctx, t, p, "seen", from+1)

	var written atomic.Int64
	quit, done := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(done)
		for {
			select {
			case <-quit:
				return
			default:
			}
			// One writer, and each value is written until it is there: a write whose outcome is unknown is looked at.
			v := fmt.Sprint(written.Load())
			a := p.Do(http.MethodPut, "/v2/keys/seen/key", "value="+v)
			if !a.OK() {
				var now struct{ Node struct{ Value string } }
				if !p.Get("/v2/keys/seen/key?quorum=true", &now) || now.Node.Value != v {
					continue
				}
			}
			written.Add(1)
		}
	}()
	more := func(what string) {
		n := written.Load() + 50
		testcluster.Eventually(t, what, func() bool { return written.Load() >= n })
	}
	more("writes flow")
	for i, fell := range []func(*testcluster.Host) (back func()){
		func(h *testcluster.Host) func() { h.Stop(t); return func() { h.Start(t); h.WaitReady(t) } },
		func(h *testcluster.Host) func() { h.Crash(t); return func() { h.Start(t); h.WaitReady(t) } },
		func(h *testcluster.Host) func() { return c.Partition(h) },
	} {
		back := fell(c.Servers[i])
		more("writes go on without " + c.Servers[i].Name)
		back()
		more("writes go on with " + c.Servers[i].Name)
	}
	close(quit)
	<-done
	n := int(written.Load())
	for _, w := range all {
		testcluster.Eventually(t, w.name+" has all events", func() bool { return w.count() >= n })
	}
	cancel()
	ended.Wait()
	for _, w := range all {
		wantSequence(t, w, n)
	}
}

// TestBlockingQueryOutlivesItsServer: a query that waits on a proxy is asked again elsewhere when its server dies.
func TestBlockingQueryOutlivesItsServer(t *testing.T) {
	t.Parallel()
	c := testcluster.Start(t, 3, 1)
	p := c.Proxies[0]
	p.Put(t, "/v1/kv/waited", "old")
	index := p.Do(http.MethodGet, "/v1/kv/waited", "").Index()
	answers := make(chan testcluster.Answer, 2)
	for _, how := range []string{"", "&stale"} {
		go func() {
			answers <- p.Do(http.MethodGet, fmt.Sprintf("/v1/kv/waited?raw&index=%d&wait=20s%s", index, how), "")
		}()
	}
	short := make(chan time.Duration, 1)
	go func() {
		begin := time.Now()
		p.Do(http.MethodGet, fmt.Sprintf("/v1/kv/waited?raw&index=%d&wait=4s", index), "")
		short <- time.Since(begin)
	}()
	timer := time.NewTimer(500 * time.Millisecond) // the queries wait at their servers by then, or find the next ones
	<-timer.C
	c.WaitLeader(t).Crash(t)
	p.Put(t, "/v1/kv/waited-not", "x")
	if took := <-short; took > 15*time.Second {
		t.Errorf("a query of 4s ended after %v", took)
	}
	p.Put(t, "/v1/kv/waited", "new")
	for range 2 {
		if a := <-answers; a.Status != http.StatusOK || a.Body != "new" {
			t.Errorf("the query that lost its server got %d %q, want the new value", a.Status, a.Body)
		}
	}
}
