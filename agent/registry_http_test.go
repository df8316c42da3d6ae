package agent

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"

	"github.com/musterhq/muster/api"
	"github.com/musterhq/muster/api/consul"
	"github.com/musterhq/muster/test/conformance/consulreplay"
)

// fakeNode is an agent's rest: members, verbs and description.
type fakeNode struct {
	calls  []string
	reload error
}

func (f *fakeNode) Members(wan bool) []consul.AgentMember {
	m := consul.AgentMember{Name: "n1", Addr: "127.0.0.1", Port: 8301, Tags: map[string]string{"role": "consul"}, Status: 1, ProtocolMin: 1, ProtocolMax: 5, ProtocolCur: 2, DelegateMin: 2, DelegateMax: 5, DelegateCur: 4}
	if wan {
		m.Name = "n1.dc1"
	}
	return []consul.AgentMember{m}
}

func (f *fakeNode) Join(_ context.Context, addr string, wan bool) error {
	f.calls = append(f.calls, fmt.Sprintf("join %s %t", addr, wan))
	return nil
}
func (f *fakeNode) Leave(context.Context, bool) error { f.calls = append(f.calls, "leave"); return nil }
func (f *fakeNode) ForceLeave(_ context.Context, node string, prune, wan bool) error {
	if node == "none" {
		return consul.ErrNoSuchMember
	}
	f.calls = append(f.calls, fmt.Sprintf("force-leave %s %t", node, prune))
	return nil
}
func (f *fakeNode) Reload(context.Context) error { return f.reload }
func (f *fakeNode) Self(context.Context) consul.AgentSelf {
	return consul.AgentSelf{Config: consul.AgentSelfConfig{NodeName: "n1", Datacenter: "dc1", Server: true}}
}

// serveAgent serves a registry's endpoints.
func serveAgent(t testing.TB, r *localRig, n *fakeNode, change ...func(*consul.AgentConfig)) *httptest.Server {
	t.Helper()
	c := consul.AgentConfig{Datacenter: "dc1", Registry: r.Registry, Members: n, Control: n, Info: n, Version: consul.AgentVersion{HumanVersion: "0.1.0"}}
	for _, f := range change {
		f(&c)
	}
	router, err := api.NewRouter(api.RouterConfig{Routes: consul.NewAgentAPI(c).Routes(), NotFound: consul.NotFound()})
	must(t, err)
	s := httptest.NewServer(router)
	t.Cleanup(s.Close)
	return s
}

// ask makes one request and gives the status and body.
func ask(t testing.TB, s *httptest.Server, method, path, body string) (int, string) {
	t.Helper()
	req, err := http.NewRequest(method, s.URL+path, strings.NewReader(body))
	must(t, err)
	res, err := s.Client().Do(req)
	must(t, err)
	defer res.Body.Close()
	b, err := io.ReadAll(res.Body)
	must(t, err)
	return res.StatusCode, string(b)
}

func TestAgentEndpointsAsRecorded(t *testing.T) {
	s := serveAgent(t, openRig(t, "", newFakeCluster()), &fakeNode{})
	consulreplay.Run(t, s.URL, "../test/conformance/consul/agent.jsonl", consulreplay.Options{
		Only: []string{"agent-service-multiple-checks", "agent-service-bad-input", "agent-check-update-nonttl",
			"agent-health-service", "agent-check-status-kept", "agent-misc"}, // the others ask the catalog too
		Vars: map[string]string{"NODE": "n1", "NODEID": "", "DC": "dc1", "ADDR": "127.0.0.1"},
	})
}

func TestRegistrationBodies(t *testing.T) {
	r := openRig(t, "", newFakeCluster())
	s := serveAgent(t, r, &fakeNode{})
	long := strings.Repeat("/", 1025) // three bytes each in a path
	for body, want := range map[string]int{
		`{"name":"lower","ID":"x1","TAGS":["a"],"enable_tag_override":true,"tagged_addresses":{"lan":{"address":"a","port":1}}}`:                          200,
		`{"Name":"aliases","Check":{"CheckID":"a1","http":"http://x","interval":"10s","tls_skip_verify":true,"deregister_critical_service_after":"90s"}}`: 200,
		`{"Name":"nanoseconds","Check":{"TTL":30000000000}}`:                                                 200,
		`{"Name":"nulls","Check":null,"Checks":null,"Proxy":null,"Connect":{},"Ports":null,"Locality":null}`: 200,
		`{"Name":"zero","Check":{}}`:                                                                200,
		`{"Name":"bad","Check":{"check_id":"x","TTL":"1s"}}`:                                        400,
		`{"Name":"bad","Check":{"ID":"x","TTL":"1s"}}`:                                              400,
		`{"Name":"bad","Check":{"TTL":"1s","success_before_passing":1}}`:                            400,
		`{"Name":"bad","Namespace":"default"}`:                                                      400,
		`{"Name":"bad","Connect":{"SidecarService":{}}}`:                                            400,
		`{"Name":"grpc","Check":{"GRPC":"a:1","Interval":"1h","grpc_use_tls":true}}`:                200,
		`{"Name":"h2","Check":{"H2PING":"a:1","Interval":"1h"}}`:                                    200,
		`{"Name":"alias","Check":{"AliasService":"grpc"}}`:                                          200,
		`{"Name":"bad","Check":{"AliasService":"grpc","Interval":"1s"}}`:                            400,
		`{"Name":"bad","Check":{"GRPC":"a:1"}}`:                                                     400,
		`{"Name":"bad","Check":{"Args":["true"],"Interval":"1s"}}`:                                  500,
		`{"Name":"bad","Check":{"script_args":["true"],"docker_container_id":"c","Interval":"1s"}}`: 500,
		`{"Name":"gate","Kind":"mesh-gateway"}`:                                                     200,
		`{"Name":"bad","Checks":[null]}`:                                                            400,
		`{"Name":"bad","Port":70000}`:                                                               400,
		`{"Name":"bad","Kind":"sidecar"}`:                                                           400,
		`{"Name":"bad","Check":{"TTL":"10s","FailuresBeforeWarning":3,"FailuresBeforeCritical":2}}`: 400,
		`{"Name":"bad","ID":"` + long + `"}`:                                                        400,
		`{"Name":"` + long + `","ID":"bad"}`:                                                        400,
		`{"Name":"bad","Check":{"CheckID":"` + long + `","TTL":"1s"}}`:                              400,
		`[]`: 400,
	} {
		if got, text := ask(t, s, "PUT", "/v1/agent/service/register", body); got != want {
			t.Errorf("%s: status %d %s, want %d", body, got, text, want)
		}
	}
	if got, text := ask(t, s, "PUT", "/v1/agent/service/register", `{"Name":"`+long[1:]+`","Check":{"TTL":"1h"}}`); got != 200 {
		t.Errorf("1024 bytes: status %d %s", got, text)
	}
	if _, _, ok := r.Service("bad"); ok {
		t.Error("a refused registration left something")
	}
	if x, _, _ := r.Service("x1"); x == nil || !x.EnableTagOverride || x.TaggedAddresses["lan"].Port != 1 || x.Tags[0] != "a" {
		t.Errorf("aliases: %+v", x)
	}
	r.mu.RLock()
	a1, ns := r.checks["a1"].def, r.checks["service:nanoseconds"].def
	r.mu.RUnlock()
	if a1.DeregisterCriticalServiceAfter != 90*time.Second || !a1.TLSSkipVerify || ns.TTL != 30*time.Second {
		t.Errorf("checks %+v %+v", a1, ns)
	}
	for body, want := range map[string]string{
		`{"ID":"x","TTL":"1s"}`:                         "Missing check name",
		`{"Name":"x","TTL":"1s","Status":"odd"}`:        "Bad check status",
		`{"Name":"x"}`:                                  "Invalid check: TTL must be > 0 for TTL checks",
		`{"Name":"x","TCP":"a:1"}`:                      "Invalid check: Interval must be > 0 for Script, HTTP, H2PING, TCP, UDP or OSService checks",
		`{"Name":"x","CheckID":"y","TTL":"1s"}`:         "Request decode failed:",
		`{"Name":"` + long + `","TTL":"1s"}`:            "Invalid check ID: 1025 bytes, at most 1024",
		`{"Name":"serfHealth","TTL":"1s"}`:              "kept for the cluster",
		`{"Name":"x","TTL":"1s","OutputMaxSize":-1}`:    "Invalid check: MaxOutputMaxSize must be positive",
		`{"Name":"x","TTL":"1s","ServiceID":"nowhere"}`: `ServiceID "nowhere" does not exist`,
	} {
		if status, text := ask(t, s, "PUT", "/v1/agent/check/register", body); status < 400 || !strings.Contains(text, want) {
			t.Errorf("%s: %d %q, want %q", body, status, text, want)
		}
	}
	if status, _ := ask(t, s, "PUT", "/v1/agent/check/register", `{"Name":"up","service_id":"lower","disable_redirects":true,"TTL":"1h"}`); status != 404 {
		t.Errorf("a service is known by its id, not its name: %d", status)
	}
	if status, text := ask(t, s, "PUT", "/v1/agent/check/register", `{"Name":"up","service_id":"x1","disable_redirects":true,"TTL":"1h"}`); status != 200 {
		t.Errorf("%d %s", status, text)
	}
}

func TestServiceHashBlocks(t *testing.T) {
	r := openRig(t, "", newFakeCluster())
	s := serveAgent(t, r, &fakeNode{})
	register(t, r, consul.ServiceDefinition{Name: "web", Port: 1})
	var svc struct {
		ContentHash string
		Port        int
	}
	_, text := ask(t, s, "GET", "/v1/agent/service/web", "")
	must(t, json.Unmarshal([]byte(text), &svc))
	first := svc.ContentHash
	if status, _ := ask(t, s, "GET", "/v1/agent/service/web?wait=x&hash="+first, ""); status != 400 {
		t.Errorf("a bad wait: %d", status)
	}
	if _, text = ask(t, s, "GET", "/v1/agent/service/web?wait=20ms&hash="+first, ""); !strings.Contains(text, first) {
		t.Errorf("after the wait: %s", text)
	}
	answer := make(chan string, 1)
	go func() {
		_, text := ask(t, s, "GET", "/v1/agent/service/web?wait=30s&hash="+first, "")
		answer <- text
	}()
	register(t, r, consul.ServiceDefinition{Name: "web", Port: 2})
	select {
	case text := <-answer:
		must(t, json.Unmarshal([]byte(text), &svc))
		if svc.Port != 2 || svc.ContentHash == first {
			t.Errorf("woken with %s", text)
		}
	case <-time.After(time.Minute):
		t.Fatal("a change wakes nobody")
	}
}

func TestAgentVerbs(t *testing.T) {
	n := &fakeNode{}
	s := serveAgent(t, openRig(t, "", newFakeCluster()), n, func(c *consul.AgentConfig) {
		c.Metrics = func(http.ResponseWriter, *http.Request) (any, error) { return map[string]int{"Gauges": 1}, nil }
	})
	for _, c := range []struct {
		method, path string
		status       int
		body         string
	}{
		{"PUT", "/v1/agent/join/10.0.0.9?wan=1", 200, ""},
		{"PUT", "/v1/agent/join/", 400, "Missing address"},
		{"PUT", "/v1/agent/force-leave/n2?prune", 200, ""},
		{"PUT", "/v1/agent/leave", 200, ""},
		{"PUT", "/v1/agent/reload", 200, ""},
		{"GET", "/v1/agent/leave", 405, "method GET not allowed"},
		{"GET", "/v1/agent/members?wan=1", 200, `"n1.dc1"`},
		{"GET", `/v1/agent/members?filter=Name=="x"`, 200, "[]"},
		{"GET", "/v1/agent/self", 200, `"NodeName":"n1"`},
		{"GET", "/v1/agent/version", 200, `"HumanVersion":"0.1.0"`},
		{"GET", "/v1/agent/host", 200, `"hostname"`},
		{"GET", "/v1/agent/metrics", 200, `{"Gauges":1}`},
		{"GET", "/v1/agent/metrics?format=prometheus", 200, ""},
		{"PUT", "/v1/agent/service/maintenance/", 400, "Missing service ID"},
		{"PUT", "/v1/agent/service/maintenance/none?enable=true", 404, "Unknown service ID"},
		{"GET", "/v1/agent/checks?filter=Nope==1", 500, "Failed to create boolean expression evaluator"},
		{"GET", "/v1/agent/services?ns=default", 400, "Namespaces are a Consul Enterprise feature"},
	} {
		if status, text := ask(t, s, c.method, c.path, ""); status != c.status || !strings.Contains(text, c.body) {
			t.Errorf("%s %s: %d %q", c.method, c.path, status, text)
		}
	}
	if want := "join 10.0.0.9 true,force-leave n2 true,leave"; strings.Join(n.calls, ",") != want {
		t.Errorf("calls %v", n.calls)
	}
	n.reload = errors.New("failed to parse x.json")
	if status, text := ask(t, s, "PUT", "/v1/agent/reload", ""); status != 500 || text != "failed to parse x.json" {
		t.Errorf("a bad reload: %d %s", status, text)
	}
}

func TestMonitor(t *testing.T) {
	logs := hclog.NewInterceptLogger(&hclog.LoggerOptions{Output: io.Discard, Level: hclog.Info})
	s := serveAgent(t, openRig(t, "", newFakeCluster()), &fakeNode{}, func(c *consul.AgentConfig) { c.Logs = logs })
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, "GET", s.URL+"/v1/agent/monitor?loglevel=debug", nil)
	must(t, err)
	res, err := s.Client().Do(req)
	must(t, err)
	defer res.Body.Close()
	logs.Debug("hello monitor")
	line, err := bufio.NewReader(res.Body).ReadString('\n')
	if err != nil || !strings.Contains(line, "hello monitor") {
		t.Errorf("line %q, error %v", line, err)
	}
}

// beatWriter is an http.ResponseWriter that allocates nothing.
type beatWriter struct{ h http.Header }

func (w *beatWriter) Header() http.Header         { return w.h }
func (w *beatWriter) Write(b []byte) (int, error) { return len(b), nil }
func (w *beatWriter) WriteHeader(int)             {}

func TestHeartbeatAllocatesNothing(t *testing.T) {
	h, req := heartbeat(t)
	w := &beatWriter{http.Header{}}
	h.ServeHTTP(w, req)
	if n := testing.AllocsPerRun(200, func() { h.ServeHTTP(w, req) }); n != 0 {
		t.Errorf("%v allocations in a heartbeat", n)
	}
}

// heartbeat gives the handler of a heartbeat and a request for it.
func heartbeat(t testing.TB) (http.Handler, *http.Request) {
	r := openRig(t, "", newFakeCluster())
	register(t, r, consul.ServiceDefinition{Name: "web", Check: &consul.CheckDefinition{ID: "up", TTL: time.Hour}})
	router, err := api.NewRouter(api.RouterConfig{Routes: consul.NewAgentAPI(consul.AgentConfig{Datacenter: "dc1", Registry: r.Registry}).Routes()})
	must(t, err)
	req := httptest.NewRequest("PUT", "/v1/agent/check/pass/up?note=fine", http.NoBody)
	return router.Lookup(req.URL.Path).Handler, req
}

// BenchmarkHeartbeat is the handler alone.
func BenchmarkHeartbeat(b *testing.B) {
	h, req := heartbeat(b)
	b.ReportAllocs()
	b.RunParallel(func(pb *testing.PB) {
		w := &beatWriter{http.Header{}}
		for pb.Next() {
			h.ServeHTTP(w, req)
		}
	})
}

// BenchmarkRegister is 16 clients that register by HTTP, saved to disk, with 10 and with 5,000 services present.
func BenchmarkRegister(b *testing.B) {
	for _, present := range []int{10, 5000} {
		b.Run(fmt.Sprint(present), func(b *testing.B) {
			r := openRig(b, b.TempDir(), newFakeCluster())
			var defs []consul.ServiceDefinition
			for i := range present {
				defs = append(defs, consul.ServiceDefinition{Name: fmt.Sprintf("s%05d", i), Check: &consul.CheckDefinition{TTL: time.Hour}})
			}
			must(b, r.Reload(context.Background(), defs, nil))
			s := serveAgent(b, r, &fakeNode{})
			transport := &http.Transport{MaxIdleConnsPerHost: 16}
			defer transport.CloseIdleConnections()
			client := &http.Client{Transport: transport}
			var n atomic.Int64
			b.SetParallelism(8) // of two processors: 16
			b.ResetTimer()
			b.RunParallel(func(pb *testing.PB) {
				for pb.Next() {
					body := fmt.Sprintf(`{"Name":"web","ID":"web-%d","Port":80,"Check":{"TTL":"1h"}}`, n.Add(1)%20000)
					req, _ := http.NewRequest("PUT", s.URL+"/v1/agent/service/register", strings.NewReader(body))
					res, err := client.Do(req)
					if err != nil {
						b.Error(err)
						return
					}
					_, _ = io.Copy(io.Discard, res.Body)
					res.Body.Close()
					if res.StatusCode != 200 {
						b.Errorf("status %d", res.StatusCode)
					}
				}
			})
			b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "registrations/s")
		})
	}
}
