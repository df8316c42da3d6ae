//go:build e2e

package e2e

import (
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// inParallel runs f(0) … f(n-1), 16 at a time, and stops at the first false.
func inParallel(n int, f func(i int) bool) {
	var wg sync.WaitGroup
	var next atomic.Int64
	var ended atomic.Bool
	for range 16 {
		wg.Go(func() {
			for i := int(next.Add(1)) - 1; i < n && !ended.Load(); i = int(next.Add(1)) - 1 {
				if !f(i) {
					ended.Store(true)
				}
			}
		})
	}
	wg.Wait()
}

// registered is what an agent's registry and the catalog say of a node: "service port status-of-its-check" by id.
func registered(h *host) (registry, catalog map[string]string) {
	registry, catalog = map[string]string{}, map[string]string{}
	var services map[string]struct {
		Service string
		Port    int
	}
	var checks map[string]struct{ ServiceID, Status string }
	var node struct {
		Services []struct {
			ID, Service string
			Port        int
		}
	}
	var nodeChecks []struct{ CheckID, ServiceID, Status string }
	if !h.get("/v1/agent/services", &services) || !h.get("/v1/agent/checks", &checks) ||
		!h.get("/v1/catalog/node-services/"+h.name+"?consistent", &node) || !h.get("/v1/health/node/"+h.name+"?consistent", &nodeChecks) {
		return nil, nil
	}
	for id, s := range services {
		registry[id] = fmt.Sprint(s.Service, " ", s.Port)
	}
	for id, c := range checks {
		registry[c.ServiceID] += " " + id + "=" + c.Status
	}
	for _, s := range node.Services {
		if s.ID != "consul" {
			catalog[s.ID] = fmt.Sprint(s.Service, " ", s.Port)
		}
	}
	for _, c := range nodeChecks {
		if c.CheckID != "serfHealth" {
			catalog[c.ServiceID] += " " + c.CheckID + "=" + c.Status
		}
	}
	return registry, catalog
}

func TestKillNineAmidRegistrations(t *testing.T) {
	for _, where := range []string{"server", "proxy"} {
		t.Run(where, func(t *testing.T) {
			c := newCluster(t, 1, 1)
			h := map[string]*host{"server": c.servers[0], "proxy": c.proxies[0]}[where]
			var mu sync.Mutex
			acked := map[string]bool{}
			register := func(i int) bool {
				id := fmt.Sprintf("svc-%04d", i)
				body := fmt.Sprintf(`{"ID":%q,"Name":"svc-%d","Port":%d,"Check":{"TTL":"1h","Status":"passing"}}`, id, i%50, 1000+i)
				if status, _ := h.do(http.MethodPut, "/v1/agent/service/register", body); status != http.StatusOK {
					return false
				}
				mu.Lock()
				defer mu.Unlock()
				acked[id] = true
				return true
			}
			const n = 1000
			killed := make(chan struct{})
			go func() {
				defer close(killed)
				for { // in the middle: after 400 answers, with 16 requests under way
					mu.Lock()
					done := len(acked) >= 400
					mu.Unlock()
					if done {
						h.signal(9)
						<-h.done
						return
					}
					time.Sleep(time.Millisecond)
				}
			}()
			inParallel(n, register)
			<-killed
			if len(acked) == n {
				t.Fatal("the agent was killed too late to prove anything")
			}
			h.start()
			c.ready(h)
			eventually(t, 60*time.Second, "the catalog equals the registry", func() bool {
				registry, catalog := registered(h)
				if registry == nil || len(registry) != len(catalog) {
					return false
				}
				for id, s := range registry {
					if catalog[id] != s {
						return false
					}
				}
				return true
			})
			registry, _ := registered(h)
			for id := range acked {
				if !strings.HasSuffix(registry[id], " service:"+id+"=passing") {
					t.Errorf("acknowledged service %s is %q after the restart", id, registry[id])
				}
			}
			t.Logf("%d acknowledged before the kill, %d there after it", len(acked), len(registry))
		})
	}
}

// A service that is removed from the catalog while its agent is dead stays removed when the agent returns.
func TestGhostDoesNotReturn(t *testing.T) {
	c := newCluster(t, 1, 1)
	s, p := c.servers[0], c.proxies[0]
	for _, name := range []string{"ghost", "stays"} {
		p.must(http.MethodPut, "/v1/agent/service/register", `{"Name":"`+name+`","Check":{"TTL":"1h","Status":"passing"}}`)
	}
	eventually(t, 30*time.Second, "both are known", func() bool { return httpCount(s, "ghost") == 1 && httpCount(s, "stays") == 1 })
	eventually(t, 30*time.Second, "the acknowledgement is on disk", func() bool {
		saved, err := os.ReadFile(filepath.Join(p.dir, "registry.log"))
		return err == nil && strings.Contains(string(saved), "sent\x05ghost\x01")
	})
	p.kill()
	eventually(t, 30*time.Second, "the death is noticed", func() bool {
		var checks []struct{ CheckID, Status string }
		if !s.get("/v1/health/node/"+p.name, &checks) {
			return false
		}
		for _, c := range checks {
			if c.CheckID == "serfHealth" && c.Status == "critical" {
				return true
			}
		}
		return false
	})
	s.must(http.MethodPut, "/v1/catalog/deregister", `{"Node":"`+p.name+`","ServiceID":"ghost"}`)
	p.start()
	eventually(t, 30*time.Second, "the agent has given the service up", func() bool {
		var services map[string]any
		return p.get("/v1/agent/services", &services) && len(services) == 1 && services["stays"] != nil
	})
	eventually(t, 30*time.Second, "the other is passing again", func() bool { return httpCount(s, "stays") == 1 })
	if httpCount(s, "ghost") != 0 {
		t.Error("the ghost returned")
	}
	p.must(http.MethodPut, "/v1/agent/service/register", `{"Name":"ghost","Check":{"TTL":"1h","Status":"passing"}}`)
	eventually(t, 30*time.Second, "a new registration counts", func() bool { return httpCount(s, "ghost") == 1 })
}

// logIndex is the index of the last entry of the replicated log.
func logIndex(t *testing.T, h *host) string {
	t.Helper()
	var self struct{ Stats map[string]map[string]string }
	if !h.get("/v1/agent/self", &self) || self.Stats["raft"]["last_log_index"] == "" {
		t.Fatal("the agent does not tell its log's index")
	}
	return self.Stats["raft"]["last_log_index"]
}

// TestHeartbeatsWriteNothing: 5,000 services, every heartbeat of theirs several times faster than once in 10 seconds. As
// long as no status changes, nothing goes into the replicated log.
func TestHeartbeatsWriteNothing(t *testing.T) {
	const n = 5000
	c := newCluster(t, 1, 0)
	s := c.servers[0]
	http.DefaultTransport.(*http.Transport).MaxIdleConnsPerHost = 16
	inParallel(n, func(i int) bool {
		body := fmt.Sprintf(`{"ID":"svc-%d","Name":"svc-%d","Check":{"TTL":"30s","Status":"passing"}}`, i, i%100)
		status, text := s.do(http.MethodPut, "/v1/agent/service/register", body)
		if status != http.StatusOK {
			t.Errorf("register %d: %d %s", i, status, text)
		}
		return status == http.StatusOK
	})
	beat := func(verb string, i int) bool {
		status, text := s.do(http.MethodPut, fmt.Sprintf("/v1/agent/check/%s/service:svc-%d", verb, i), "")
		if status != http.StatusOK {
			t.Errorf("beat %d: %d %s", i, status, text)
		}
		return status == http.StatusOK
	}
	inParallel(n, func(i int) bool { return beat("pass", i) })
	before := logIndex(t, s)
	began := time.Now()
	rounds := 0
	for ; time.Since(began) < 3*time.Second || rounds < 2; rounds++ {
		inParallel(n, func(i int) bool { return beat("pass", i) })
	}
	if after := logIndex(t, s); after != before {
		t.Errorf("%d heartbeats moved the log from %s to %s", rounds*n, before, after)
	}
	t.Logf("%d heartbeats in %v and no write", rounds*n, time.Since(began).Round(time.Millisecond))
	beat("fail", 7) // that the index can move at all
	if after := logIndex(t, s); after == before {
		t.Error("a change of status was not written")
	}
	t.Logf("memory: %s", residentMemory(s))
}

func residentMemory(h *host) string {
	text, err := os.ReadFile(filepath.Join("/proc", fmt.Sprint(h.cmd.Process.Pid), "status"))
	if err != nil {
		return err.Error()
	}
	for line := range strings.Lines(string(text)) {
		if rest, ok := strings.CutPrefix(line, "VmRSS:"); ok {
			return strings.TrimSpace(rest)
		}
	}
	return "unknown"
}
