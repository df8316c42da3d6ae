package proxy

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// data is a cluster behind a Transport without a network: one value, its index, blocking queries, and trouble at will.
type data struct {
	mu      sync.Mutex
	index   uint64
	body    string
	status  int
	cluster string
	changed chan struct{}
	down    bool
	behind  map[string]*http.Response // answers of single servers that have not caught up, by host
	late    time.Duration             // between what a server sees and its answer's arrival
	asked   int
	waiting int
	targets []string // hosts asked
}

func newData() *data {
	return &data{index: 10, body: `["a"]`, status: 200, cluster: "c1", changed: make(chan struct{})}
}

func (d *data) do(f func()) {
	d.mu.Lock()
	defer d.mu.Unlock()
	f()
	close(d.changed)
	d.changed = make(chan struct{})
}

func (d *data) set(body string) { d.do(func() { d.index++; d.body = body }) }

// counts are the requests so far, and those that wait.
func (d *data) counts() (asked, waiting int) {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.asked, d.waiting
}

var errRefused = &net.OpError{Op: "dial", Err: errors.New("connection refused")}

// RoundTrip implements http.RoundTripper.
func (d *data) RoundTrip(r *http.Request) (*http.Response, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.asked++
	d.targets = append(d.targets, r.URL.Host)
	q := r.URL.Query()
	after, _ := strconv.ParseUint(q.Get("index"), 10, 64)
	wait, _ := time.ParseDuration(q.Get("wait"))
	timer := time.NewTimer(wait)
	defer timer.Stop()
	for over := after == 0; ; {
		if d.down {
			return nil, errRefused
		}
		if resp := d.behind[r.URL.Host]; resp != nil {
			c := *resp
			c.Body = io.NopCloser(strings.NewReader("[]"))
			return &c, nil
		}
		if over || d.index > after {
			break
		}
		changed := d.changed
		d.waiting++
		d.mu.Unlock()
		select {
		case <-changed:
		case <-timer.C:
			over = true
		case <-r.Context().Done():
		}
		d.mu.Lock()
		d.waiting--
		if err := r.Context().Err(); err != nil {
			return nil, err
		}
	}
	body := d.body
	h := http.Header{"X-Consul-Index": {fmt.Sprint(d.index)}, "X-Consul-Knownleader": {"true"}, "Content-Type": {"application/json"}, ClusterHeader: {d.cluster}}
	if token := r.Header.Get("X-Consul-Token"); token != "" {
		body += token
	}
	resp := &http.Response{StatusCode: d.status, Header: h, Body: io.NopCloser(strings.NewReader(body)), ContentLength: int64(len(body)), Request: r}
	if late := d.late; late > 0 {
		d.mu.Unlock()
		time.Sleep(late)
		d.mu.Lock()
	}
	return resp, nil
}

func newViews(t *testing.T, d *data, change func(*ViewsConfig)) *Views {
	t.Helper()
	p := newProxy(t, func(c *Config) { c.Transport = d }, "s1:8300", "s2:8300")
	c := ViewsConfig{Proxy: p, Known: OpenKnown(KnownConfig{})}
	if change != nil {
		change(&c)
	}
	v, err := NewViews(c)
	if err != nil {
		t.Fatal(err)
	}
	return v
}

// question is what the tests ask.
func question(index uint64, wait time.Duration) Question {
	return Question{Name: "/v1/x", Index: index, Wait: wait, IndexHeader: "X-Consul-Index", Keep: true, Ask: func(index uint64, wait time.Duration) string {
		if index == 0 {
			return ""
		}
		return url.Values{"index": {fmt.Sprint(index)}, "wait": {wait.String()}}.Encode()
	}}
}

type reply struct {
	code  int
	body  string
	index uint64
	stale bool
	took  time.Duration
}

// get asks like a client.
func get(ctx context.Context, v *Views, q Question, header ...string) (re reply) {
	r := httptest.NewRequestWithContext(ctx, "GET", "/v1/x", nil)
	for i := 0; i+1 < len(header); i += 2 {
		r.Header.Set(header[i], header[i+1])
	}
	w := httptest.NewRecorder()
	began := time.Now()
	defer func() {
		if recover() != nil {
			re.code = 499
		}
	}()
	v.Serve(w, r, Leader, nil, q)
	re = reply{code: w.Code, body: w.Body.String(), stale: w.Header().Get(StaleHeader) == "true", took: time.Since(began)}
	re.index, _ = strconv.ParseUint(w.Header().Get("X-Consul-Index"), 10, 64)
	return re
}

func TestManyClientsOneQuestion(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newData()
		v := newViews(t, d, nil)
		defer v.Close()
		const clients = 1000
		ctx, cancel := context.WithCancel(t.Context())
		var all sync.WaitGroup
		var mu sync.Mutex
		seen := map[uint64]int{}
		for range clients {
			all.Go(func() {
				index := uint64(10)
				for ctx.Err() == nil {
					re := get(ctx, v, question(index, time.Minute))
					if ctx.Err() != nil {
						return
					}
					if re.code != 200 || re.index < index || re.body != fmt.Sprintf(`["%d"]`, re.index) && re.index > 10 {
						t.Errorf("%+v after index %d", re, index)
						return
					}
					if re.index > index {
						mu.Lock()
						seen[re.index]++
						mu.Unlock()
					}
					index = re.index
				}
			})
		}
		synctest.Wait()
		if asked, waiting := d.counts(); asked != 2 || waiting != 1 {
			t.Errorf("%d clients: %d questions, %d waiting; want one to begin with and one that waits", clients, asked, waiting)
		}
		for i := range uint64(5) {
			time.Sleep(2 * time.Second)
			before, _ := d.counts()
			d.set(fmt.Sprintf(`["%d"]`, 11+i))
			synctest.Wait()
			if asked, waiting := d.counts(); asked != before+1 || waiting != 1 {
				t.Errorf("a change: %d more questions, %d waiting; want 1 and 1", asked-before, waiting)
			}
			mu.Lock()
			if seen[11+i] != clients {
				t.Errorf("change %d woke %d of %d", 11+i, seen[11+i], clients)
			}
			mu.Unlock()
		}
		// Changes one after the other, faster than clients come back: each is told the newest in the end.
		before, _ := d.counts()
		for i := range 20 {
			time.Sleep(time.Millisecond)
			d.set(fmt.Sprintf(`["%d"]`, 16+i))
		}
		synctest.Wait()
		mu.Lock()
		if seen[35] != clients {
			t.Errorf("the last change woke %d of %d", seen[35], clients)
		}
		mu.Unlock()
		if asked, _ := d.counts(); asked-before > 3*20 {
			t.Errorf("20 changes cost %d questions", asked-before)
		}
		cancel()
		all.Wait()
		time.Sleep(DefaultLinger + time.Second)
		if _, waiting := d.counts(); waiting != 0 || held(v) != [2]int64{} || v.stats.waiters.Load() != 0 {
			t.Errorf("left behind: %d questions, views and bytes %d, %d waiters", waiting, held(v), v.stats.waiters.Load())
		}
	})
}

// TestAnswersAreNoOlderThanTheQuestion: an answer that was on its way when a client came is not for it, because the client may know
// of what happened since.
func TestAnswersAreNoOlderThanTheQuestion(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newData()
		v := newViews(t, d, nil)
		defer v.Close()
		go get(t.Context(), v, question(10, time.Minute))
		synctest.Wait()
		d.mu.Lock()
		d.late = 100 * time.Millisecond
		d.mu.Unlock()
		d.set(`["b"]`)
		time.Sleep(50 * time.Millisecond)
		d.set(`["c"]`) // this client's own write, through another agent
		if re := get(t.Context(), v, question(10, time.Minute)); re.body != `["c"]` || re.index != 12 {
			t.Errorf("%+v, want what was there when it asked", re)
		}
		// The same with an answer that is known already.
		d.set(`["d"]`)
		if re := get(t.Context(), v, question(11, time.Minute)); re.body != `["d"]` {
			t.Errorf("%+v", re)
		}
		// Who takes any answer gets the known one, at once.
		q := question(11, time.Minute)
		q.Loose = true
		get(t.Context(), v, q)
		time.Sleep(time.Second)
		if re := get(t.Context(), v, q); re.body != `["d"]` || re.took != 0 {
			t.Errorf("%+v", re)
		}
	})
}

func TestOutage(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newData()
		v := newViews(t, d, nil)
		defer v.Close()
		if re := get(t.Context(), v, question(0, 0)); re.code != 200 || re.stale {
			t.Fatalf("%+v", re)
		}
		fleeting := question(10, 10*time.Minute)
		fleeting.Name, fleeting.Keep = "/v1/fleeting", false
		lost := make(chan reply, 1)
		go func() { lost <- get(t.Context(), v, fleeting) }()
		waits := make(chan reply, 2)
		go func() { waits <- get(t.Context(), v, question(10, 20*time.Second)) }()
		go func() { waits <- get(t.Context(), v, question(10, 10*time.Minute)) }()
		synctest.Wait()
		time.Sleep(5 * time.Second)
		d.do(func() { d.down = true })
		if re := <-lost; re.code != 500 || re.took > 10*time.Second {
			t.Errorf("a blocking query for what is not kept: %+v, want the error", re)
		}
		if re := <-waits; re.code != 200 || !re.stale || re.index != 10 || re.body != `["a"]` || re.took < 20*time.Second || re.took > 22*time.Second {
			t.Errorf("a blocking query: %+v, want what was known when its time is over", re)
		}
		for i := range 5 {
			re := get(t.Context(), v, question(0, 0))
			if re.code != 200 || !re.stale || re.body != `["a"]` || re.took > 500*time.Millisecond {
				t.Errorf("read %d: %+v", i, re)
			}
			time.Sleep(700 * time.Millisecond)
		}
		if re := get(t.Context(), v, question(3, time.Minute)); re.code != 200 || !re.stale || re.took > time.Second {
			t.Errorf("a blocking query with an old index: %+v, want what is known at once", re)
		}
		other := question(0, 0)
		other.Name = "/v1/other"
		if re := get(t.Context(), v, other); re.code != 500 || !strings.Contains(re.body, "none has answered since") {
			t.Errorf("what is not known: %+v", re)
		}
		if _, _, err := v.Fetch(httptest.NewRequest("GET", "/v1/x", nil), Leader, question(10, time.Minute)); !errors.Is(err, ErrNoServer) {
			t.Errorf("a part of the agent that waits: %v", err)
		}
		if a, since, err := v.Fetch(httptest.NewRequest("GET", "/v1/x", nil), Leader, question(0, 0)); err != nil || since.IsZero() || a.Index != 10 {
			t.Errorf("a part of the agent: %+v %v %v", a, since, err)
		}
		d.do(func() { d.down, d.index, d.body = false, 11, `["b"]` })
		if re := <-waits; re.code != 200 || re.stale || re.body != `["b"]` {
			t.Errorf("the query that still waits: %+v", re)
		}
		if re := get(t.Context(), v, question(0, 0)); re.stale || re.body != `["b"]` {
			t.Errorf("a read when the servers are back: %+v", re)
		}
	})
}

// TestAServerThatIsBehind: what one server says does not take the place of what is known to be newer, of the same cluster.
func TestAServerThatIsBehind(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newData()
		v := newViews(t, d, nil)
		defer v.Close()
		q := question(0, 0)
		q.Loose = true
		ask := func() (*Answer, bool) {
			a, since, err := v.Fetch(httptest.NewRequest("GET", "/v1/x?stale", nil), Any, q)
			if err != nil {
				t.Fatal(err)
			}
			return a, !since.IsZero()
		}
		ask()
		old := func(cluster string) *http.Response {
			return &http.Response{StatusCode: 200, Header: http.Header{"X-Consul-Index": {"2"}, ClusterHeader: {cluster}}, ContentLength: 2}
		}
		// The preferred one has lost its memory; the other one leads.
		d.do(func() { d.behind = map[string]*http.Response{d.targets[0]: old("c1")} })
		other := map[string]string{"s1:8300": "s2:8300", "s2:8300": "s1:8300"}[d.targets[0]]
		v.p.picker.leader.Store(&other)
		if a, stale := ask(); stale || a.Index != 10 || string(a.Body) != `["a"]` {
			t.Errorf("%+v %v", a, stale)
		}
		// Nobody else is there.
		d.do(func() { d.behind = map[string]*http.Response{"s1:8300": old("c1"), "s2:8300": old("c1")} })
		if a, stale := ask(); !stale || a.Index != 10 || string(a.Body) != `["a"]` {
			t.Errorf("%+v", a)
		}
		// Another cluster is another matter.
		d.do(func() { d.behind = map[string]*http.Response{"s1:8300": old("c2"), "s2:8300": old("c2")} })
		if a, stale := ask(); stale || a.Index != 2 || string(a.Body) != "[]" {
			t.Errorf("%+v %v", a, stale)
		}
	})
}

func TestJudge(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newData()
		hold := true
		var judged []string
		v := newViews(t, d, func(c *ViewsConfig) {
			c.Judge = func(name string, previous, next *Answer) *Answer {
				judged = append(judged, name)
				if hold && next.Empty() && !previous.Empty() {
					return previous
				}
				return next
			}
		})
		defer v.Close()
		get(t.Context(), v, question(0, 0))
		out := make(chan reply, 1)
		go func() { out <- get(t.Context(), v, question(10, time.Hour)) }()
		synctest.Wait()
		d.set("[]")
		synctest.Wait()
		if re := get(t.Context(), v, question(0, 0)); re.body != `["a"]` || re.index != 10 {
			t.Errorf("held back: %+v", re)
		}
		before, _ := d.counts()
		time.Sleep(time.Minute)
		if asked, _ := d.counts(); asked > before+2 || len(out) > 0 {
			t.Errorf("%d questions in a quiet minute, %d answers", asked-before, len(out))
		}
		hold = false
		v.Rejudge()
		if re := <-out; re.body != "[]" || re.index != 11 {
			t.Errorf("let through: %+v", re)
		}
		for _, name := range judged {
			if name != "/v1/x" {
				t.Errorf("judged %q", name)
			}
		}
	})
}

// What is believed at last may have a lower index than what was kept: whoever waits knows the old data's.
func TestWaitersLearnOfAnotherClustersData(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newData()
		var believe atomic.Bool
		v := newViews(t, d, func(c *ViewsConfig) {
			c.Judge = func(name string, previous, next *Answer) *Answer {
				if !believe.Load() && next.Empty() {
					return previous
				}
				return next
			}
		})
		defer v.Close()
		out := make(chan reply, 3)
		for _, loose := range []bool{true, true, false} {
			q := question(10, time.Hour)
			q.Loose = loose
			get(t.Context(), v, question(0, 0))
			go func() { out <- get(t.Context(), v, q) }()
		}
		synctest.Wait()
		d.do(func() { d.cluster, d.index, d.body = "c2", 3, "[]" })
		v.Rejudge() // as a broken connection would: the new cluster's servers know nothing of those who wait
		time.Sleep(time.Minute)
		if len(out) > 0 {
			t.Fatalf("woken by what is held back: %+v", <-out)
		}
		believe.Store(true)
		began := time.Now()
		v.Rejudge()
		for range cap(out) {
			if re := <-out; re.body != "[]" || re.index != 3 || time.Since(began) > time.Second {
				t.Errorf("after %v: %+v", time.Since(began), re)
			}
		}
	})
}

// Who follows a name inside the agent and gives it up leaves nothing behind, not even for the time that clients are given to come back.
func TestAbandonedFetchEndsItsView(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newData()
		v := newViews(t, d, func(c *ViewsConfig) { c.MaxViews = 1 })
		defer v.Close()
		for range 3 {
			ctx, cancel := context.WithCancel(t.Context())
			done := make(chan error, 1)
			go func() {
				_, _, err := v.Fetch(httptest.NewRequest("GET", "/v1/x", nil).WithContext(ctx), Any, question(10, time.Hour))
				done <- err
			}()
			synctest.Wait()
			if n := v.Stats().Views; n != 1 {
				t.Errorf("%d views", n)
			}
			cancel()
			if err := <-done; !errors.Is(err, context.Canceled) {
				t.Error(err)
			}
			synctest.Wait()
			if _, waiting := d.counts(); waiting != 0 || v.Stats().Views != 0 {
				t.Errorf("%d questions wait, %d views", waiting, v.Stats().Views)
			}
		}
	})
}

func TestAnswersAreOfOneTokenAlone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newData()
		v := newViews(t, d, nil)
		defer v.Close()
		for _, token := range []string{"one", "two"} {
			if re := get(t.Context(), v, question(0, 0), "X-Consul-Token", token); re.body != `["a"]`+token {
				t.Errorf("%+v", re)
			}
		}
		for _, token := range []string{"one", "two"} {
			go get(t.Context(), v, question(10, time.Minute), "X-Consul-Token", token)
		}
		synctest.Wait()
		if _, waiting := d.counts(); waiting != 2 {
			t.Errorf("%d questions wait, want one for each token", waiting)
		}
		d.do(func() { d.down = true })
		time.Sleep(time.Second)
		for token, want := range map[string]string{"one": `["a"]one`, "two": `["a"]two`, "three": ""} {
			for _, header := range [][]string{{"X-Consul-Token", token}, {"Authorization", "Bearer " + token}} {
				re := get(t.Context(), v, question(0, 0), header...)
				if header[0] == "Authorization" || want == "" {
					if re.code != 500 {
						t.Errorf("%v: %+v", header, re)
					}
				} else if re.body != want || !re.stale {
					t.Errorf("%s: %+v", token, re)
				}
			}
		}
	})
}

func TestWhatIsNotKept(t *testing.T) {
	for name, c := range map[string]struct {
		status int
		absent bool
		want   int // status with the servers gone
		body   string
	}{
		"refused": {403, false, 500, ""}, "gone": {404, false, 500, ""}, "absent": {404, true, 404, "x"}, "trouble": {503, false, 200, `["a"]`}, "too many": {429, false, 200, `["a"]`},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				d := newData()
				v := newViews(t, d, nil)
				defer v.Close()
				q := question(0, 0)
				q.Absent = c.absent
				get(t.Context(), v, q)
				d.do(func() { d.status, d.body, d.index = c.status, "x", 11 })
				re := get(t.Context(), v, q)
				if failing := c.status == 503 || c.status == 429; failing && (re.code != 200 || !re.stale) || !failing && re.code != c.status {
					t.Errorf("%+v", re)
				}
				d.do(func() { d.down = true })
				if re := get(t.Context(), v, q); re.code != c.want || c.body != "" && (re.body != c.body || !re.stale) {
					t.Errorf("with the servers gone: %+v", re)
				}
			})
		})
	}
}

func TestErrorsReachWhoWaits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newData()
		v := newViews(t, d, func(c *ViewsConfig) { c.Known = nil })
		defer v.Close()
		d.do(func() { d.status, d.body = 403, "Permission denied" })
		if re := get(t.Context(), v, question(10, time.Minute)); re.code != 403 || re.body != "Permission denied" {
			t.Errorf("%+v", re)
		}
		d.do(func() { d.status, d.body = 500, "no" })
		time.Sleep(time.Minute)
		if re := get(t.Context(), v, question(10, time.Minute)); re.code != 500 || re.body != "no" {
			t.Errorf("%+v", re)
		}
		time.Sleep(time.Minute)
		d.do(func() { d.down = true })
		if re := get(t.Context(), v, question(10, time.Minute)); re.code != 500 || !strings.HasPrefix(re.body, "No cluster leader: ") {
			t.Errorf("%+v", re)
		}
	})
}

func TestBeyondTheLimitsEachAsksForItself(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newData()
		v := newViews(t, d, func(c *ViewsConfig) { c.MaxViews = 1 })
		defer v.Close()
		for i := range 3 {
			q := question(10, time.Minute)
			q.Name = fmt.Sprint("/v1/", i)
			go func() {
				r := httptest.NewRequestWithContext(t.Context(), "GET", q.Name+"?index=10&wait=1m", nil)
				w := httptest.NewRecorder()
				v.Serve(w, r, Leader, nil, q)
				if w.Body.String() != `["b"]` {
					t.Errorf("%s", w.Body)
				}
			}()
		}
		synctest.Wait()
		if _, waiting := d.counts(); waiting != 3 || held(v)[0] != 1 {
			t.Errorf("%d questions, %d views", waiting, held(v)[0])
		}
		d.set(`["b"]`)
		synctest.Wait()
		big := strings.Repeat("x", maxAnswer+1)
		d.set(big)
		time.Sleep(time.Minute)
		if re := get(t.Context(), v, question(0, 0)); re.body != big {
			t.Errorf("an answer that is too long to hold: %d bytes", len(re.body))
		}
		q := question(1, time.Minute)
		q.Name = "/v1/0"
		if re := get(t.Context(), v, q); re.body != big {
			t.Errorf("a question that waits for one: %d %d bytes", re.code, len(re.body))
		}
	})
}

func BenchmarkWakeShared(b *testing.B) {
	d := newData()
	p, err := New(Config{Servers: servers("s1:8300"), Transport: d, IsRefused: refused})
	if err != nil {
		b.Fatal(err)
	}
	v, err := NewViews(ViewsConfig{Proxy: p})
	if err != nil {
		b.Fatal(err)
	}
	defer v.Close()
	benchmarkWake(b, d, func(index uint64) uint64 { return get(b.Context(), v, question(index, time.Minute)).index })
}

func BenchmarkWakeRelayed(b *testing.B) {
	d := newData()
	p, err := New(Config{Servers: servers("s1:8300"), Transport: d, IsRefused: refused})
	if err != nil {
		b.Fatal(err)
	}
	benchmarkWake(b, d, func(index uint64) uint64 {
		r := httptest.NewRequestWithContext(b.Context(), "GET", fmt.Sprintf("/v1/x?index=%d&wait=1m", index), nil)
		w := httptest.NewRecorder()
		p.Relay(w, r, Leader, nil)
		n, _ := strconv.ParseUint(w.Header().Get("X-Consul-Index"), 10, 64)
		return n
	})
}

// benchmarkWake measures from a change to the moment when the last of 100 clients has it.
func benchmarkWake(b *testing.B, d *data, ask func(index uint64) uint64) {
	const clients = 100
	b.StopTimer()
	for range b.N {
		d.mu.Lock()
		from := d.index
		d.mu.Unlock()
		var all sync.WaitGroup
		for range clients {
			all.Go(func() {
				for ask(from) <= from {
				}
			})
		}
		time.Sleep(20 * time.Millisecond) // they wait, and no catch-up is due
		b.StartTimer()
		d.set(`["x"]`)
		all.Wait()
		b.StopTimer()
	}
}

// held is how many views there are, and the bytes of their answers.
func held(v *Views) [2]int64 {
	v.mu.Lock()
	defer v.mu.Unlock()
	return [2]int64{int64(len(v.views)), int64(v.bytes)}
}
