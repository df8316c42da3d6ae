package agent_test

import (
	"net/http"
	"strings"
	"testing"

	"github.com/musterhq/muster/internal/testcluster"
)

// refused asks until it is refused and gives that answer; a limit that refuses nothing of a thousand is none.
func refused(h *testcluster.Host, method, path, body string) testcluster.Answer {
	var a testcluster.Answer
	for range 1000 {
		if a = h.Do(method, path, body); !a.OK() {
			break
		}
	}
	return a
}

func reload(t *testing.T, h *testcluster.Host, args ...string) {
	t.Helper()
	h.ExtraArgs = args
	if err := h.Agent().Reload(); err != nil {
		t.Fatal(err)
	}
}

// A server works on no more requests than its limits allow, says so in the words of each dialect, and goes on telling who
// leads; a reload takes the limits away.
func TestServerLimitsRequests(t *testing.T) {
	c := testcluster.Start(t, 1, 1)
	c.WaitReady(t)
	s, p := c.Servers[0], c.Proxies[0]
	reload(t, s, "-hcl=limits { request_limits { mode = \"enforcing\" read_rate = 1 write_rate = 1 } }")
	for _, h := range c.All() { // the proxy passes on what the server says
		for _, x := range []struct {
			method, path string
			status       int
			text         string
		}{
			{"PUT", "/v1/kv/a", http.StatusServiceUnavailable, "rate limit exceeded: the leader takes no more write requests"},
			{"GET", "/v1/kv/a?stale", http.StatusTooManyRequests, "rate limit exceeded: this server takes no more read requests"},
			{"GET", "/v1/kv/a", http.StatusServiceUnavailable, "rate limit exceeded: the leader takes no more read requests"},
			{"PUT", "/v2/keys/a?value=1", http.StatusInternalServerError, `{"errorCode":300,"message":"Raft Internal Error","cause":"etcdserver: too many requests"`},
		} {
			a := refused(h, x.method, x.path, "v")
			if a.Status != x.status || !strings.HasPrefix(a.Body, x.text) || a.Header.Get("Retry-After") != "1" {
				t.Errorf("%s: %s %s: %d %s (Retry-After %q), want %d %s", h.Name, x.method, x.path, a.Status, a.Body, a.Header.Get("Retry-After"), x.status, x.text)
			}
		}
		if a := refused(h, "GET", "/v1/status/leader", ""); !a.OK() {
			t.Errorf("%s: the leader's name: %d %s", h.Name, a.Status, a.Body)
		}
	}
	if a := s.Do("GET", "/metrics", ""); !strings.Contains(a.Body, "http_over_limit_write") || !strings.Contains(a.Body, "http_over_limit_read") {
		t.Error("what is above the limits is not counted")
	}
	reload(t, s, "-hcl=limits { request_limits { mode = \"permissive\" read_rate = 1 write_rate = 1 } }")
	if a := refused(p, "GET", "/v1/kv/a", ""); !a.OK() {
		t.Errorf("permissive: %d %s", a.Status, a.Body)
	}
}

// A proxy relays no more requests of its clients than it may; what concerns its own machine has no such limit.
func TestProxyLimitsWhatItRelays(t *testing.T) {
	c := testcluster.Start(t, 1, 1)
	c.WaitReady(t)
	p := c.Proxies[0]
	reload(t, p, "-hcl=limits { rpc_rate = 1 rpc_max_burst = 5 }")
	if a := refused(p, "PUT", "/v1/kv/a", "v"); a.Status != http.StatusTooManyRequests || !strings.Contains(a.Body, "limits.rpc_rate") {
		t.Errorf("%d %s", a.Status, a.Body)
	}
	if a := refused(p, "GET", "/v1/agent/services", ""); !a.OK() {
		t.Errorf("its own services: %d %s", a.Status, a.Body)
	}
	if a := refused(c.Servers[0], "GET", "/v1/kv/a", ""); !a.OK() {
		t.Errorf("at the server: %d %s", a.Status, a.Body)
	}
}
