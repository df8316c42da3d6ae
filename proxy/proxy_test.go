package proxy

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

const patience = time.Minute

// refused is IsRefused for the plain transport of these tests.
func refused(err error) bool {
	var op *net.OpError
	return errors.As(err, &op) && op.Op == "dial"
}

// backend is one server of the cluster.
type backend struct {
	*httptest.Server
	hits atomic.Int64
}

func (b *backend) addr() string { return b.Listener.Addr().String() }

func serve(t *testing.T, h http.HandlerFunc) *backend {
	t.Helper()
	b := &backend{}
	b.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		b.hits.Add(1)
		h(w, r)
	}))
	t.Cleanup(func() { b.CloseClientConnections(); b.Close() })
	return b
}

// deadAddr is an address that refuses connections.
func deadAddr(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.44.1:0") // from where nobody dials, so that the port stays free
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

func servers(addrs ...string) func() []Server {
	var list []Server
	for i, a := range addrs {
		list = append(list, Server{ID: fmt.Sprint(i), Name: fmt.Sprint("s", i), Addr: a, Healthy: true})
	}
	return func() []Server { return list }
}

func newProxy(t *testing.T, change func(*Config), addrs ...string) *Proxy {
	t.Helper()
	tr := &http.Transport{DisableCompression: true}
	t.Cleanup(tr.CloseIdleConnections)
	c := Config{Servers: servers(addrs...), Transport: tr, IsRefused: refused, Hold: 2 * time.Second, DownHold: 120 * time.Millisecond}
	if change != nil {
		change(&c)
	}
	p, err := New(c)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// front serves p as an agent would.
func front(t *testing.T, p *Proxy, target Target) *httptest.Server {
	t.Helper()
	f := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { p.Relay(w, r, target, nil) }))
	t.Cleanup(func() { f.CloseClientConnections(); f.Close() })
	return f
}

func call(t *testing.T, method, url, body string) (int, string, http.Header) {
	t.Helper()
	req, err := http.NewRequest(method, url, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, string(b), resp.Header
}

func echo(w http.ResponseWriter, r *http.Request) {
	b, _ := io.ReadAll(r.Body)
	fmt.Fprintf(w, "%s %s %s", r.Method, r.RequestURI, b)
}

func notLeading(hint string) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set(NotLeaderHeader, "1")
		if hint != "" {
			w.Header().Set(LeaderHeader, hint)
		}
		w.WriteHeader(http.StatusServiceUnavailable)
	}
}

func TestRelayPassesRequestAndAnswerThrough(t *testing.T) {
	var got http.Header
	b := serve(t, func(w http.ResponseWriter, r *http.Request) {
		got = r.Header.Clone()
		w.Header().Set("X-Etcd-Index", "7")
		w.Header().Set("Connection", "X-Private")
		w.Header().Set("X-Private", "hop")
		w.Header().Set(LeaderHeader, "10.0.0.1:8300")
		w.WriteHeader(http.StatusCreated)
		echo(w, r)
	})
	f := front(t, newProxy(t, nil, b.addr()), Leader)
	req, _ := http.NewRequest("PUT", f.URL+"/v2/keys/a?ttl=5", strings.NewReader("value=1"))
	req.Header = http.Header{
		"Connection": {"close, X-Secret"}, "X-Secret": {"hop"}, "Keep-Alive": {"5"}, "Upgrade": {"websocket"},
		"Idempotency-Key": {"1"}, "X-Forwarded-For": {"192.0.2.7"}, "X-Consul-Token": {"t"}, "User-Agent": {},
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, _ := io.ReadAll(resp.Body)
	if resp.StatusCode != 201 || string(body) != "PUT /v2/keys/a?ttl=5 value=1" {
		t.Fatalf("answer %d %q", resp.StatusCode, body)
	}
	if resp.Header.Get("X-Etcd-Index") != "7" || resp.Header.Get("X-Private") != "" || resp.Header.Get(LeaderHeader) != "" {
		t.Errorf("answer header %v", resp.Header)
	}
	for _, name := range []string{"X-Secret", "Keep-Alive", "Upgrade", "Idempotency-Key"} {
		if got.Get(name) != "" {
			t.Errorf("%s went upstream", name)
		}
	}
	if got.Get("X-Consul-Token") != "t" || got.Get(HopsHeader) != "1" || got.Get("X-Forwarded-For") != "192.0.2.7, 127.0.0.1" {
		t.Errorf("request header %v", got)
	}
}

func TestPathTravelsByteForByte(t *testing.T) {
	b := serve(t, echo)
	f := front(t, newProxy(t, nil, b.addr()), Any)
	for _, path := range []string{
		"/v1/kv/a%2Fb", "/v1/kv/a%2fb//c/", "/v1/kv/%C3%A4?x=%20&y", `/v1/kv/"quoted"|{}`, "/v1/kv/ä", "//v1//kv", "/v1/kv/a%20b?",
		"/v1/kv/a;b=c", "/v1/kv/a#b?q=a#b", "/v1/kv/%25",
	} {
		c, err := net.Dial("tcp", f.Listener.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		fmt.Fprintf(c, "GET %s HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n", path)
		resp, err := http.ReadResponse(bufio.NewReader(c), nil)
		if err != nil {
			t.Fatal(err)
		}
		body, _ := io.ReadAll(resp.Body)
		c.Close()
		if got := string(body); got != "GET "+path+" " {
			t.Errorf("sent %q, server saw %q", path, got)
		}
	}
}

func TestRefusedConnectionFailsOver(t *testing.T) {
	b := serve(t, echo)
	for _, target := range []Target{Leader, Any} {
		f := front(t, newProxy(t, nil, deadAddr(t), deadAddr(t), b.addr()), target)
		for i := range 5 {
			code, body, _ := call(t, "PUT", f.URL+"/k", "v")
			if code != 200 || body != "PUT /k v" {
				t.Fatalf("target %d, try %d: %d %q", target, i, code, body)
			}
		}
	}
	if n := b.hits.Load(); n != 10 {
		t.Errorf("server saw %d requests, want 10", n)
	}
}

// hangUp takes the request and closes the connection without an answer.
func hangUp(w http.ResponseWriter, r *http.Request) {
	_, _ = io.ReadAll(r.Body)
	panic(http.ErrAbortHandler)
}

func TestWriteTakenByAServerIsNeverRepeated(t *testing.T) {
	for _, method := range []string{"POST", "PUT", "DELETE", "PATCH"} {
		bad1, bad2 := serve(t, hangUp), serve(t, hangUp)
		f := front(t, newProxy(t, nil, bad1.addr(), bad2.addr()), Leader)
		code, body, _ := call(t, method, f.URL+"/k", "v")
		if code != http.StatusBadGateway || !strings.Contains(body, "unknown") {
			t.Errorf("%s: %d %q", method, code, body)
		}
		if n := bad1.hits.Load() + bad2.hits.Load(); n != 1 {
			t.Errorf("%s ran %d times", method, n)
		}
	}
}

func TestReadIsRepeatedElsewhere(t *testing.T) {
	bad, good := serve(t, hangUp), serve(t, echo)
	for range 10 {
		f := front(t, newProxy(t, nil, bad.addr(), good.addr()), Any)
		if code, body, _ := call(t, "GET", f.URL+"/k", ""); code != 200 || body != "GET /k " {
			t.Fatalf("%d %q", code, body)
		}
	}
	if bad.hits.Load() == 0 {
		t.Fatal("the broken server was never asked, nothing was tested")
	}
}

func TestReadThatBreaksServersStops(t *testing.T) {
	var list []string
	var all []*backend
	for range 6 {
		b := serve(t, hangUp)
		all, list = append(all, b), append(list, b.addr())
	}
	f := front(t, newProxy(t, nil, list...), Any)
	if code, body, _ := call(t, "GET", f.URL+"/k", ""); code != http.StatusBadGateway {
		t.Errorf("%d %q", code, body)
	}
	n := int64(0)
	for _, b := range all {
		n += b.hits.Load()
	}
	if n != maxBreaks {
		t.Errorf("asked %d times", n)
	}
}

func TestNotLeaderIsFollowedToTheLeader(t *testing.T) {
	leader := serve(t, echo)
	follower := serve(t, notLeading(leader.addr()))
	told := follower.addr()
	p := newProxy(t, func(c *Config) { c.Leader = func() string { return told } }, follower.addr(), leader.addr())
	f := front(t, p, Leader)
	for range 3 {
		if code, body, _ := call(t, "POST", f.URL+"/k", "body"); code != 200 || body != "POST /k body" {
			t.Fatalf("%d %q", code, body)
		}
	}
	// The first answer taught who leads, better than what we are told.
	if follower.hits.Load() != 1 || leader.hits.Load() != 3 {
		t.Errorf("follower asked %d times, leader %d", follower.hits.Load(), leader.hits.Load())
	}
}

func TestHintOutsideTheClusterIsIgnored(t *testing.T) {
	outside := serve(t, echo)
	follower := serve(t, notLeading(outside.addr()))
	p := newProxy(t, func(c *Config) { c.Hold = 150 * time.Millisecond }, follower.addr())
	f := front(t, p, Leader)
	if code, body, _ := call(t, "PUT", f.URL+"/k", "v"); code != 500 || body != "No cluster leader" {
		t.Errorf("%d %q", code, body)
	}
	if outside.hits.Load() != 0 {
		t.Error("a stranger was asked")
	}
}

func TestStatus503OfTheApplicationIsAnAnswer(t *testing.T) {
	b := serve(t, func(w http.ResponseWriter, r *http.Request) { http.Error(w, "busy", http.StatusServiceUnavailable) })
	f := front(t, newProxy(t, nil, b.addr()), Leader)
	if code, body, _ := call(t, "PUT", f.URL+"/k", "v"); code != 503 || body != "busy\n" || b.hits.Load() != 1 {
		t.Errorf("%d %q after %d requests", code, body, b.hits.Load())
	}
}

func TestElectionIsInvisible(t *testing.T) {
	var elected atomic.Bool
	h := func(w http.ResponseWriter, r *http.Request) {
		if !elected.Load() {
			notLeading("")(w, r)
			return
		}
		echo(w, r)
	}
	a, b := serve(t, h), serve(t, h)
	f := front(t, newProxy(t, func(c *Config) { c.Hold = patience }, a.addr(), b.addr(), deadAddr(t)), Leader)
	done := make(chan string, 1)
	go func() {
		resp, err := http.Post(f.URL+"/k", "text/plain", strings.NewReader("body"))
		if err != nil {
			done <- err.Error()
			return
		}
		defer resp.Body.Close()
		body, _ := io.ReadAll(resp.Body)
		done <- fmt.Sprint(resp.StatusCode, " ", string(body))
	}()
	waitFor(t, "several rounds", func() bool { return a.hits.Load() >= 3 && b.hits.Load() >= 3 })
	elected.Store(true)
	select {
	case got := <-done:
		if got != "200 POST /k body" {
			t.Errorf("got %q", got)
		}
	case <-time.After(patience):
		t.Fatal("no answer")
	}
}

func TestEverybodyDownFailsFast(t *testing.T) {
	p := newProxy(t, func(c *Config) { c.Hold = time.Hour }, deadAddr(t), deadAddr(t))
	for target, want := range map[Target]string{Leader: "No cluster leader: no server of the cluster could be reached for PUT /k (tried ", Any: "no server of the cluster could be reached for PUT /k (tried "} {
		f := front(t, p, target)
		if code, body, _ := call(t, "PUT", f.URL+"/k", "v"); code != 500 || !strings.HasPrefix(body, want) || !strings.Contains(body, "; none has answered since 20") {
			t.Errorf("target %d: %d %q", target, code, body)
		}
		_, err := p.RoundTrip(httptest.NewRequest("GET", "/k", nil), target)
		if !errors.Is(err, ErrNoServer) || errors.Is(err, ErrNoLeader) != (target == Leader) {
			t.Errorf("target %d: %v", target, err)
		}
	}
	p = newProxy(t, nil)
	if _, err := p.RoundTrip(httptest.NewRequest("GET", "/k", nil), Any); !errors.Is(err, ErrNoServer) {
		t.Errorf("no servers at all: %v", err)
	}
}

func TestHopLimit(t *testing.T) {
	b := serve(t, echo)
	f := front(t, newProxy(t, nil, b.addr()), Leader)
	for hops, want := range map[string]int{"0": 200, "1": 200, "2": 508, "200": 508, "-1": 400, "x": 400, "999": 400} {
		req, _ := http.NewRequest("PUT", f.URL+"/k", nil)
		req.Header.Set(HopsHeader, hops)
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		if resp.StatusCode != want {
			t.Errorf("hops %s: status %d, want %d", hops, resp.StatusCode, want)
		}
		if (resp.Header.Get(NotLeaderHeader) != "") != (want == 508) {
			t.Errorf("hops %s: header %v", hops, resp.Header)
		}
	}
}

// Two followers, each of which believes that the other leads.
func TestLoopOfServersEnds(t *testing.T) {
	var pa, pb *Proxy
	a := serve(t, func(w http.ResponseWriter, r *http.Request) { pa.Relay(w, r, Leader, nil) })
	b := serve(t, func(w http.ResponseWriter, r *http.Request) { pb.Relay(w, r, Leader, nil) })
	short := func(self, leader string) func(*Config) {
		return func(c *Config) {
			c.Self, c.Hold = self, 200*time.Millisecond
			c.Leader = func() string { return leader }
		}
	}
	pa = newProxy(t, short(a.addr(), b.addr()), a.addr(), b.addr())
	pb = newProxy(t, short(b.addr(), a.addr()), a.addr(), b.addr())
	code, body, _ := call(t, "PUT", a.URL+"/k", "v")
	if code != 500 || body != "No cluster leader" {
		t.Errorf("%d %q", code, body)
	}
}

func TestServerThatBecomesLeaderRunsTheRequestItself(t *testing.T) {
	var asked atomic.Int64
	p := newProxy(t, func(c *Config) {
		c.Self = "127.0.0.1:1"
		c.Hold = patience
		c.Leader = func() string {
			if asked.Add(1) < 4 {
				return "" // the election takes a few rounds
			}
			return "127.0.0.1:1"
		}
		c.Local = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("X-Here", r.Header.Get(HopsHeader))
			echo(w, r)
		})
	}, "127.0.0.1:1")
	f := front(t, p, Leader)
	if code, body, h := call(t, "PUT", f.URL+"/k", "v"); code != 200 || body != "PUT /k v" || h.Get("X-Here") != "1" {
		t.Errorf("%d %q %v", code, body, h)
	}
	resp, err := p.RoundTrip(httptest.NewRequest("PUT", "/x?y", strings.NewReader("v")), Leader)
	if err != nil {
		t.Fatal(err)
	}
	if b, _ := io.ReadAll(resp.Body); resp.StatusCode != 200 || string(b) != "PUT /x?y v" {
		t.Errorf("%d %q", resp.StatusCode, b)
	}
}

func TestStreamIsPassedOnAtOnce(t *testing.T) {
	next := make(chan string)
	b := serve(t, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("X-Head", "now")
		w.(http.Flusher).Flush()
		for {
			var s string
			var ok bool
			select {
			case s, ok = <-next:
			case <-r.Context().Done(): // so that a failure of this test is no deadlock
			}
			if !ok {
				return
			}
			io.WriteString(w, s)
			w.(http.Flusher).Flush()
		}
	})
	f := front(t, newProxy(t, nil, b.addr()), Any)
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	req, _ := http.NewRequestWithContext(ctx, "GET", f.URL+"/v2/keys/a?wait=true&stream=true", nil)
	resp, err := http.DefaultClient.Do(req) // returns with the head, before any data
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if resp.Header.Get("X-Head") != "now" {
		t.Errorf("header %v", resp.Header)
	}
	for _, s := range []string{"one\n", "two\n", "three\n"} {
		select {
		case next <- s:
		case <-ctx.Done():
			t.Fatal("the stream does not flow")
		}
		buf := make([]byte, len(s))
		if _, err := io.ReadFull(resp.Body, buf); err != nil || string(buf) != s {
			t.Fatalf("read %q, %v", buf, err)
		}
	}
	close(next)
	if rest, err := io.ReadAll(resp.Body); err != nil || len(rest) > 0 {
		t.Errorf("end: %q %v", rest, err)
	}
}

func TestClientGoneCancelsUpstream(t *testing.T) {
	arrived, ended := make(chan struct{}), make(chan struct{})
	b := serve(t, func(w http.ResponseWriter, r *http.Request) {
		close(arrived)
		<-r.Context().Done()
		close(ended)
	})
	f := front(t, newProxy(t, nil, b.addr()), Any)
	ctx, cancel := context.WithCancel(t.Context())
	req, _ := http.NewRequestWithContext(ctx, "GET", f.URL+"/?wait=true", nil)
	go func() {
		resp, err := http.DefaultClient.Do(req)
		if err == nil {
			resp.Body.Close()
		}
	}()
	await(t, "request upstream", arrived)
	cancel()
	await(t, "end upstream", ended)
	if n := b.hits.Load(); n != 1 {
		t.Errorf("asked %d times", n)
	}
}

func TestAnswerThatBreaksOffIsSeenToBreakOff(t *testing.T) {
	b := serve(t, func(w http.ResponseWriter, r *http.Request) {
		io.WriteString(w, "half")
		w.(http.Flusher).Flush()
		panic(http.ErrAbortHandler)
	})
	f := front(t, newProxy(t, nil, b.addr()), Any)
	resp, err := http.Get(f.URL)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if body, err := io.ReadAll(resp.Body); err == nil {
		t.Errorf("a cut answer %q looks whole", body)
	}
	if n := b.hits.Load(); n != 1 {
		t.Errorf("asked %d times after the head was out", n)
	}
}

func TestBodyIsReplayedWhole(t *testing.T) {
	big := strings.Repeat("0123456789", 50000)
	leader := serve(t, func(w http.ResponseWriter, r *http.Request) {
		b, err := io.ReadAll(r.Body)
		fmt.Fprint(w, len(b), err, string(b) == big)
	})
	reading := serve(t, func(w http.ResponseWriter, r *http.Request) {
		io.Copy(io.Discard, r.Body)
		notLeading(leader.addr())(w, r)
	})
	early := serve(t, notLeading(leader.addr())) // answers without reading
	for _, first := range []*backend{reading, early} {
		p := newProxy(t, func(c *Config) { c.Leader = first.addr }, first.addr(), leader.addr())
		f := front(t, p, Leader)
		if code, body, _ := call(t, "PUT", f.URL+"/k", big); code != 200 || body != "500000<nil>true" && body != "500000 <nil> true" {
			t.Errorf("%d %q", code, body)
		}
	}
}

func TestBodyTooLarge(t *testing.T) {
	b := serve(t, echo)
	f := front(t, newProxy(t, func(c *Config) { c.MaxBody = 10 }, b.addr()), Leader)
	if code, _, _ := call(t, "PUT", f.URL, "0123456789"); code != 200 {
		t.Errorf("10 bytes: %d", code)
	}
	if code, body, _ := call(t, "PUT", f.URL, "0123456789x"); code != 413 || !strings.Contains(body, "limit 10") {
		t.Errorf("11 bytes: %d %q", code, body)
	}
	req, _ := http.NewRequest("PUT", f.URL, io.MultiReader(bytes.NewReader(make([]byte, 11)))) // length unknown
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	if resp.StatusCode != 413 {
		t.Errorf("11 bytes in chunks: %d", resp.StatusCode)
	}
	if n := b.hits.Load(); n != 1 {
		t.Errorf("server saw %d requests", n)
	}
}

func TestPreferredServerIsKeptAndFailedOnesRest(t *testing.T) {
	a, b := serve(t, echo), serve(t, echo)
	p := newProxy(t, nil, a.addr(), b.addr())
	f := front(t, p, Any)
	for range 20 {
		call(t, "GET", f.URL, "")
	}
	if a.hits.Load() != 20 && b.hits.Load() != 20 {
		t.Errorf("requests went to both: %d, %d", a.hits.Load(), b.hits.Load())
	}
	kept, other := a, b
	if b.hits.Load() > 0 {
		kept, other = b, a
	}
	kept.CloseClientConnections()
	kept.Listener.Close()
	for range 5 {
		if code, _, _ := call(t, "GET", f.URL, ""); code != 200 {
			t.Fatalf("status %d", code)
		}
	}
	if other.hits.Load() != 5 {
		t.Errorf("the other server saw %d of 5", other.hits.Load())
	}
}

func TestPickerChoosesEvenlyAndForgivesFailures(t *testing.T) {
	now := time.Unix(0, 0)
	cfg := &Config{Servers: servers("a", "b", "c"), Leader: func() string { return "" }}
	seq := 0.0
	var k picker
	k.init(cfg, func() time.Time { return now }, func() float64 { seq += 0.37; seq -= float64(int(seq)); return seq })
	pick := func() string {
		var ro round
		ro.reset()
		addr, _ := k.pick(Any, &ro)
		return addr
	}
	count := map[string]int{}
	for range 300 {
		count[pick()]++
	}
	for _, s := range []string{"a", "b", "c"} {
		if count[s] < 50 {
			t.Errorf("%s was chosen %d of 300 times: %v", s, count[s], count)
		}
	}
	k.bad("a")
	k.bad("b")
	for range 50 {
		if got := pick(); got != "c" {
			t.Fatalf("picked %s while it rests", got)
		}
	}
	k.good("c", Any, "")
	now = now.Add(2 * asideFirst)
	k.good("a", Any, "") // a is preferred now and has no failures
	if got := pick(); got != "a" {
		t.Errorf("preferred is a, picked %s", got)
	}
	for range 12 { // the pause grows, but not without end
		k.bad("a")
		if f := k.aside["a"]; f.until.Sub(now) > asideMost*5/4 {
			t.Fatalf("rests %s", f.until.Sub(now))
		}
		now = k.aside["a"].until
	}
}

func TestConcurrentRelaysOverAFailure(t *testing.T) {
	var down atomic.Bool
	a := serve(t, func(w http.ResponseWriter, r *http.Request) {
		if down.Load() {
			notLeading("")(w, r)
			return
		}
		echo(w, r)
	})
	b := serve(t, func(w http.ResponseWriter, r *http.Request) {
		if !down.Load() {
			notLeading(a.addr())(w, r)
			return
		}
		echo(w, r)
	})
	f := front(t, newProxy(t, func(c *Config) { c.Hold = patience }, a.addr(), b.addr()), Leader)
	var wg sync.WaitGroup
	for i := range 8 {
		wg.Go(func() {
			for j := range 25 {
				if i == 0 && j == 10 {
					down.Store(true)
				}
				body := fmt.Sprint(i, ".", j)
				resp, err := http.Post(f.URL+"/k", "", strings.NewReader(body))
				if err != nil {
					t.Error(err)
					return
				}
				got, _ := io.ReadAll(resp.Body)
				resp.Body.Close()
				if resp.StatusCode != 200 || string(got) != "POST /k "+body {
					t.Errorf("%d %q", resp.StatusCode, got)
				}
			}
		})
	}
	wg.Wait()
}

func TestConfigIsChecked(t *testing.T) {
	ok := Config{Servers: servers(), Transport: http.DefaultTransport, IsRefused: refused}
	for name, change := range map[string]func(*Config){
		"servers":   func(c *Config) { c.Servers = nil },
		"transport": func(c *Config) { c.Transport = nil },
		"refused":   func(c *Config) { c.IsRefused = nil },
		"hold":      func(c *Config) { c.Hold = -1 },
	} {
		c := ok
		change(&c)
		if _, err := New(c); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
}

func waitFor(t *testing.T, what string, f func() bool) {
	t.Helper()
	deadline := time.Now().Add(patience)
	for !f() {
		if time.Now().After(deadline) {
			t.Fatalf("no %s within %s", what, patience)
		}
		time.Sleep(5 * time.Millisecond)
	}
}

func await(t *testing.T, what string, ch <-chan struct{}) {
	t.Helper()
	select {
	case <-ch:
	case <-time.After(patience):
		t.Fatalf("no %s within %s", what, patience)
	}
}

// A leader that hangs is not asked again and again: neither once it is suspected, nor once a client has waited for it in vain.
func TestServerThatHangsIsLeftAlone(t *testing.T) {
	var hang atomic.Bool
	release := make(chan struct{})
	leader := serve(t, func(w http.ResponseWriter, r *http.Request) {
		if hang.Load() {
			<-release
		}
		echo(w, r)
	})
	t.Cleanup(func() { close(release) })
	next := serve(t, echo)
	told := leader.addr()
	p := newProxy(t, func(c *Config) { c.Leader = func() string { return told } }, leader.addr(), next.addr())
	f := front(t, p, Leader)
	if code, body, _ := call(t, "PUT", f.URL+"/k", "1"); code != 200 || leader.hits.Load() != 1 {
		t.Fatalf("%d %q", code, body)
	}
	hang.Store(true)
	ctx, cancel := context.WithTimeout(t.Context(), silent+200*time.Millisecond)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodPut, f.URL+"/k", strings.NewReader("2"))
	if err != nil {
		t.Fatal(err)
	}
	if resp, err := http.DefaultClient.Do(req); err == nil {
		resp.Body.Close()
		t.Fatal("the server that hangs answered")
	}
	deadline := time.Now().Add(patience) // the relay notices a moment after the client has gone
	for !p.picker.isAside(leader.addr()) {
		if time.Now().After(deadline) {
			t.Fatal("the server that hangs is not left alone after a client gave it up")
		}
		time.Sleep(time.Millisecond)
	}
	if code, body, _ := call(t, "PUT", f.URL+"/k", "3"); code != 200 || next.hits.Load() != 1 {
		t.Errorf("the next request: %d %q", code, body)
	}

	p.Suspect(next.addr())
	hang.Store(false)
	p.picker.good(leader.addr(), Leader, "")
	if code, body, _ := call(t, "PUT", f.URL+"/k", "4"); code != 200 || next.hits.Load() != 1 {
		t.Errorf("with %s suspected: %d %q, asked %d times", next.addr(), code, body, next.hits.Load())
	}
}
