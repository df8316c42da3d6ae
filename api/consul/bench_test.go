package consul_test

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/musterhq/muster/api"
	"github.com/musterhq/muster/api/apitest"
	"github.com/musterhq/muster/api/consul"
	"github.com/musterhq/muster/catalog"
)

// sink is a ResponseWriter that keeps nothing, so that a benchmark sees the handler alone.
type sink struct {
	h      http.Header
	status int
	n      int
}

func (s *sink) Header() http.Header         { return s.h }
func (s *sink) WriteHeader(status int)      { s.status = status }
func (s *sink) Write(b []byte) (int, error) { s.n += len(b); return len(b), nil }
func (s *sink) WriteString(b string) (int, error) {
	s.n += len(b)
	return len(b), nil
}

func newRouter(t testing.TB) (*apitest.Store, *api.Router) {
	t.Helper()
	store := apitest.New()
	t.Cleanup(store.Close)
	a := consul.New(consul.Config{Store: store, Datacenter: "dc1", NodeName: nodeName})
	rt, err := api.NewRouter(api.RouterConfig{Routes: a.Routes(), NotFound: consul.NotFound()})
	if err != nil {
		t.Fatal(err)
	}
	return store, rt
}

// addInstances registers n instances of a service, each on its own node with two checks.
func addInstances(t testing.TB, store *apitest.Store, service string, n int) {
	t.Helper()
	for i := range n {
		node := fmt.Sprintf("node-%04d", i)
		store.Register(t, catalog.Registration{
			Node:    catalog.Node{Name: node, Address: fmt.Sprintf("10.0.%d.%d", i/250, i%250), Datacenter: "dc1", Meta: map[string]string{"rack": "r1"}},
			Service: &catalog.Service{ID: service + "-1", Name: service, Tags: []string{"v1", "primary"}, Port: 8080, Meta: map[string]string{"version": "1.2.3"}},
			Checks: []*catalog.Check{
				{ID: catalog.LivenessCheck, Name: "Serf Health Status", Status: catalog.Passing, Output: "Agent alive and reachable"},
				{ID: "service:" + service, Name: "Service check", Status: catalog.Passing, ServiceID: service + "-1", Type: "ttl"},
			},
		})
	}
}

func benchHandler(b *testing.B, h http.Handler, method, target, body string) {
	w := &sink{h: make(http.Header)}
	r := httptest.NewRequest(method, target, nil)
	b.ReportAllocs()
	for b.Loop() {
		if body != "" {
			r.Body, r.ContentLength = io.NopCloser(strings.NewReader(body)), int64(len(body))
		}
		clear(w.h)
		h.ServeHTTP(w, r)
	}
	if w.status >= 400 {
		b.Fatalf("status %d", w.status)
	}
	b.SetBytes(int64(w.n / b.N))
}

func BenchmarkKVGet(b *testing.B) {
	_, rt := newRouter(b)
	put := httptest.NewRequest("PUT", "/v1/kv/bench/key", strings.NewReader(strings.Repeat("v", 100)))
	rt.ServeHTTP(httptest.NewRecorder(), put)
	benchHandler(b, rt, "GET", "/v1/kv/bench/key", "")
}

func BenchmarkKVPut(b *testing.B) {
	_, rt := newRouter(b)
	benchHandler(b, rt, "PUT", "/v1/kv/bench/key", strings.Repeat("v", 100))
}

func BenchmarkHealthService(b *testing.B) {
	for _, n := range []int{10, 200} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			store, rt := newRouter(b)
			addInstances(b, store, "web", n)
			benchHandler(b, rt, "GET", "/v1/health/service/web?passing", "")
		})
	}
}

// BenchmarkEncodeHealth is what one change of a service costs, however many ask.
func BenchmarkEncodeHealth(b *testing.B) {
	store, rt := newRouter(b)
	addInstances(b, store, "web", 200)
	w := &sink{h: make(http.Header)}
	b.ReportAllocs()
	for i := 0; b.Loop(); i++ {
		r := httptest.NewRequest("GET", fmt.Sprintf("/v1/health/service/web?tag=v1&node-meta=rack:r1&passing=%d", 1), nil)
		r.URL.RawQuery += strings.Repeat("&tag=v1", i%2)
		store.Register(b, catalog.Registration{
			Node: catalog.Node{Name: "node-0000", Address: fmt.Sprintf("10.1.0.%d", i%250), Datacenter: "dc1"},
		})
		rt.ServeHTTP(w, r)
	}
}

// BenchmarkHTTP compares with a bare handler that writes the same body, over real connections.
func BenchmarkHTTP(b *testing.B) {
	store, rt := newRouter(b)
	addInstances(b, store, "web10", 10)
	addInstances(b, store, "web200", 200)
	put := httptest.NewRequest("PUT", "/v1/kv/bench/key", strings.NewReader(strings.Repeat("v", 100)))
	rt.ServeHTTP(httptest.NewRecorder(), put)
	for _, path := range []string{"/v1/kv/bench/key", "/v1/health/service/web10?passing", "/v1/health/service/web200?passing"} {
		rec := httptest.NewRecorder()
		rt.ServeHTTP(rec, httptest.NewRequest("GET", path, nil))
		body := rec.Body.Bytes()
		bare := http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", "application/json")
			_, _ = w.Write(body)
		})
		name := strings.NewReplacer("/v1/", "", "?passing", "").Replace(path)
		b.Run(name+"/bare", func(b *testing.B) { benchHTTP(b, bare, path, 64) })
		b.Run(name+"/muster", func(b *testing.B) { benchHTTP(b, rt, path, 64) })
	}
}

// benchHTTP drives keep-alive connections with as little client as possible.
func benchHTTP(b *testing.B, h http.Handler, path string, clients int) {
	s := api.NewServer(api.ServerConfig{Addr: "127.0.0.1:0", Handler: h})
	addr, err := s.Listen()
	if err != nil {
		b.Fatal(err)
	}
	go func() { _ = s.Serve() }()
	defer func() { _ = s.Close(b.Context()) }()
	req := "GET " + path + " HTTP/1.1\r\nHost: x\r\n\r\n"
	var wg sync.WaitGroup
	work := make(chan struct{}, clients)
	cpu := cpuTime(b)
	b.ResetTimer()
	for range clients {
		wg.Go(func() {
			c, err := net.Dial("tcp", addr.String())
			if err != nil {
				b.Error(err)
				return
			}
			defer func() { _ = c.Close() }()
			in := bufio.NewReaderSize(c, 64<<10)
			for range work {
				if _, err := io.WriteString(c, req); err != nil {
					b.Error(err)
					return
				}
				if err := skipResponse(in); err != nil {
					b.Error(err)
					return
				}
			}
		})
	}
	for range b.N {
		work <- struct{}{}
	}
	close(work)
	wg.Wait()
	b.StopTimer()
	b.ReportMetric(float64((cpuTime(b)-cpu).Microseconds())/float64(b.N), "cpu-µs/op")
}

// cpuTime is what this process has used: on a busy machine it says more than the time that passed.
func cpuTime(b *testing.B) time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		b.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

func skipResponse(in *bufio.Reader) error {
	n, chunked := -1, false
	for {
		line, err := in.ReadSlice('\n')
		if err != nil {
			return err
		}
		s := string(line)
		if s == "\r\n" {
			break
		}
		if v, ok := strings.CutPrefix(s, "Content-Length: "); ok {
			_, _ = fmt.Sscan(v, &n)
		}
		chunked = chunked || strings.HasPrefix(s, "Transfer-Encoding: chunked")
	}
	if !chunked {
		_, err := in.Discard(max(n, 0))
		return err
	}
	for {
		line, err := in.ReadString('\n')
		if err != nil {
			return err
		}
		var size int
		if _, err := fmt.Sscanf(line, "%x", &size); err != nil {
			return err
		}
		if _, err := in.Discard(size + 2); err != nil || size == 0 {
			return err
		}
	}
}

// BenchmarkWake is one change of a service with 5,000 blocking queries on it, to the last answer.
func BenchmarkWake(b *testing.B) {
	const waiters = 5000
	store, rt := newRouter(b)
	addInstances(b, store, "web", 10)
	for b.Loop() {
		b.StopTimer()
		index := store.Tree.Snap().IndexOf(catalog.InstancesPath("web"))
		target := fmt.Sprintf("/v1/health/service/web?index=%d&wait=60s", index)
		var wg, started sync.WaitGroup
		started.Add(waiters)
		for range waiters {
			wg.Go(func() {
				r := httptest.NewRequest("GET", target, nil)
				started.Done()
				rt.ServeHTTP(&sink{h: make(http.Header)}, r)
			})
		}
		started.Wait()
		for rt.Stats()[0].InFlight < waiters {
			time.Sleep(time.Millisecond)
		}
		time.Sleep(20 * time.Millisecond) // let the last of them reach their wait
		b.StartTimer()
		store.Register(b, catalog.Registration{
			Node: catalog.Node{Name: "node-0000", Address: fmt.Sprintf("10.2.%d.%d", index/250%250, index%250), Datacenter: "dc1"},
		})
		wg.Wait()
	}
	b.ReportMetric(float64(b.Elapsed().Microseconds())/float64(b.N)/waiters, "µs/waiter")
}
