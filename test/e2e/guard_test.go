//go:build e2e

package e2e

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/musterhq/muster/internal/testcluster"
)

// indexes are the indexes of what watchers of the catalog follow, as a server has them now.
func indexes(t *testing.T, h *host) map[string]string {
	t.Helper()
	out := map[string]string{}
	for _, path := range []string{"/v1/health/service/web", "/v1/health/state/any", "/v1/catalog/nodes", "/v1/catalog/services", "/v1/catalog/service/web"} {
		resp, err := http.Get(h.url(path))
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		out[path] = resp.Header.Get("X-Consul-Index")
	}
	return out
}

// TestDrillRollingRestart restarts a quarter of the proxies, one after the other: whoever watches the catalog sees nothing.
func TestDrillRollingRestart(t *testing.T) {
	c := newCluster(t, 3, 8)
	s := c.servers[0]
	for _, p := range c.proxies {
		p.must(http.MethodPut, "/v1/agent/service/register", `{"Name":"web","Port":80,"Check":{"TTL":"120s","Status":"passing"}}`)
	}
	eventually(t, 30*time.Second, "all instances are healthy everywhere", func() bool { return httpCount(s, "web") == 8 && digCount(t, c.proxies[7], "web.service.consul") == 8 })
	before := indexes(t, s)
	woken := make(chan string, 2)
	ctx, cancel := context.WithCancel(t.Context())
	var watchers sync.WaitGroup
	for _, path := range []string{"/v1/health/service/web", "/v1/health/state/any"} {
		watchers.Go(func() { // the catalog's difference as a watcher sees it
			req, err := http.NewRequestWithContext(ctx, http.MethodGet, c.proxies[7].url(path+"?wait=120s&index="+before[path]), nil)
			if err != nil {
				return
			}
			resp, err := http.DefaultClient.Do(req)
			if err != nil {
				return
			}
			resp.Body.Close()
			woken <- path
		})
	}
	for _, p := range c.proxies[:2] {
		p.signal(syscall.SIGTERM)
		p.wait(40 * time.Second)
		p.start()
		c.ready(p)
		eventually(t, 30*time.Second, p.name+" is back", func() bool {
			var st struct {
				NodesError string
				Unknown    []struct{ Node string }
			}
			return p.get("/v1/agent/guard", &st) && st.NodesError == "" && len(st.Unknown) == 0
		})
	}
	cancel()
	watchers.Wait()
	select {
	case path := <-woken:
		t.Errorf("a watcher of %s was woken", path)
	default:
	}
	for path, now := range indexes(t, s) {
		if now != before[path] {
			t.Errorf("%s went from index %s to %s", path, before[path], now)
		}
	}
}

// guardHeader is what an agent says about the guard with a service.
func guardHeader(t *testing.T, h *host, service string) string {
	t.Helper()
	resp, err := http.Get(h.url("/v1/health/service/" + service + "?passing"))
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	return resp.Header.Get("X-Muster-Guard")
}

// TestDrillMassFailure fails the checks of 12 of 15 instances at once, gives way by an operator's word, and removes
// all instances, which is believed at once.
func TestDrillMassFailure(t *testing.T) {
	c := newCluster(t, 3, 2)
	p := c.proxies[0]
	for i := range 15 {
		p.must(http.MethodPut, "/v1/agent/service/register", fmt.Sprintf(`{"Name":"web","ID":"web%d","Port":%d,"Check":{"TTL":"120s","Status":"passing"}}`, i, 8000+i))
	}
	everywhere := func(what string, n int) {
		t.Helper()
		for _, h := range c.all() {
			eventually(t, 30*time.Second, h.name+": "+what, func() bool { return httpCount(h, "web") == n && digCount(t, h, "web.service.consul") == n })
		}
	}
	everywhere("all are there", 15)
	for _, h := range c.all() {
		eventually(t, 30*time.Second, h.name+" guards", func() bool {
			var self struct{ Guard struct{ Watched int } }
			return h.get("/v1/agent/self", &self) && self.Guard.Watched == 1
		})
	}
	var fails sync.WaitGroup
	for i := range 12 {
		fails.Go(func() { p.do(http.MethodPut, fmt.Sprintf("/v1/agent/check/fail/service:web%d", i), "") })
	}
	fails.Wait()
	eventually(t, 30*time.Second, "the checks are critical in the catalog", func() bool {
		var list []any
		return c.servers[0].get("/v1/health/state/critical", &list) && len(list) == 12
	})
	everywhere("the last good set is kept", 15)
	for _, h := range c.all() {
		if got := guardHeader(t, h, "web"); !strings.HasPrefix(got, "web held 12 of 15 until ") {
			t.Errorf("%s: the header is %q", h.name, got)
		}
		said := func() int { return strings.Count(h.log.String(), "an unlikely share of a service") }
		eventually(t, 30*time.Second, h.name+" says it in its log", func() bool { return said() > 0 }) // the answer may be faster than the log
		if n := said(); n != 1 {
			t.Errorf("%s said it %d times in its log", h.name, n)
		}
		eventually(t, 30*time.Second, h.name+" has the metric", func() bool {
			_, text := h.do(http.MethodGet, "/metrics", "")
			return strings.Contains(text, `consul_guard_held{service="web"} 12`) && strings.Contains(text, `consul_guard_holds{service="web"} 1`)
		})
	}
	out, errs, code := sh(t, nil, "", binary, "guard", "-http-addr="+c.proxies[1].ip+":8500")
	if code != 0 || !strings.Contains(out, "web") || !strings.Contains(out, "12") {
		t.Errorf("muster guard: %d %s%s", code, out, errs)
	}
	if out, errs, code := sh(t, nil, "", binary, "guard", "release", "-http-addr="+c.proxies[1].ip+":8500", "web"); code != 0 {
		t.Errorf("muster guard release: %d %s%s", code, out, errs)
	}
	everywhere("an operator has said that it is true", 3)
	if got := guardHeader(t, p, "web"); got != "" {
		t.Errorf("after the release the header is %q", got)
	}

	for i := range 12 {
		p.must(http.MethodPut, fmt.Sprintf("/v1/agent/check/pass/service:web%d", i), "")
	}
	everywhere("all are back", 15)
	for i := range 15 {
		p.must(http.MethodPut, fmt.Sprintf("/v1/agent/service/deregister/web%d", i), "")
	}
	everywhere("what was removed is gone", 0)
}

// TestDrillSilence pulls the cables of most machines at once: the leader does not believe that they died.
func TestDrillSilence(t *testing.T) {
	l := newLab(t, 7)
	var proxies []*host
	for i := 1; i <= 3; i++ {
		l.agent(i, "-server", "-bootstrap-expect=3")
	}
	for i := 4; i <= 7; i++ {
		proxies = append(proxies, l.agent(i))
	}
	status := func(node string) (status, output string) {
		out, _ := l.muster(1, "health", "-format=json", "web")
		var list []struct {
			Node   struct{ Node string }
			Checks []struct{ CheckID, Status, Output string }
		}
		if json.Unmarshal([]byte(out), &list) != nil {
			return "", out
		}
		for _, in := range list {
			for _, c := range in.Checks {
				if in.Node.Node == node && c.CheckID == "serfHealth" {
					return c.Status, c.Output
				}
			}
		}
		return "", ""
	}
	for i, h := range proxies {
		eventually(t, 40*time.Second, h.name+" registers", func() bool {
			_, code := l.muster(4+i, "services", "register", "-name=web")
			return code == 0
		})
	}
	for _, h := range proxies {
		eventually(t, 40*time.Second, h.name+" is alive", func() bool { s, _ := status(h.name); return s == "passing" })
	}
	for i := 4; i <= 7; i++ {
		l.unplug(i)
	}
	for _, h := range proxies {
		eventually(t, 60*time.Second, h.name+" is unknown", func() bool {
			s, out := status(h.name)
			return s == "passing" && strings.HasPrefix(out, "Agent liveness unknown: ")
		})
	}
	if out, _ := l.muster(1, "guard"); strings.Count(out, "silent") != 4 {
		t.Errorf("muster guard: %s", out)
	}
	for i := 4; i <= 7; i++ {
		l.plug(i)
	}
	for _, h := range proxies {
		eventually(t, 60*time.Second, h.name+" is alive again", func() bool {
			s, out := status(h.name)
			return s == "passing" && !strings.HasPrefix(out, "Agent liveness unknown: ")
		})
	}
	l.unplug(7)
	eventually(t, 60*time.Second, "a single silent machine is believed", func() bool { s, _ := status(proxies[3].name); return s == "critical" })
}

// TestDrillReplacement replaces 5 of 50 agents, a tenth within half a minute: no healthy instance is marked down.
func TestDrillReplacement(t *testing.T) {
	c := testcluster.Start(t, 1, 50, "-log-level=warn")
	s := c.Servers[0]
	register := func(h *testcluster.Host) {
		h.Put(t, "/v1/agent/service/register", `{"Name":"web","Port":80,"Check":{"TTL":"120s","Status":"passing"}}`)
	}
	var mu sync.Mutex
	alive := map[string]bool{} // nodes whose instance has to be there
	for _, p := range c.Proxies {
		register(p)
		alive[p.Name] = true
	}
	seen := func() map[string]bool {
		var list []struct{ Node struct{ Node string } }
		if !s.Get("/v1/health/service/web?passing", &list) {
			return nil
		}
		out := map[string]bool{}
		for _, in := range list {
			out[in.Node.Node] = true
		}
		return out
	}
	testcluster.Eventually(t, "all are healthy", func() bool { return len(seen()) == len(alive) })

	var looks, down atomic.Int64
	quit := make(chan struct{})
	var watcher sync.WaitGroup
	watcher.Go(func() {
		tick := time.NewTicker(50 * time.Millisecond)
		defer tick.Stop()
		for {
			select {
			case <-quit:
				return
			case <-tick.C:
			}
			mu.Lock()
			now := seen()
			for name := range alive {
				if now != nil && !now[name] {
					down.Add(1)
					t.Errorf("the healthy instance on %s is not shown", name)
				}
			}
			looks.Add(1)
			mu.Unlock()
		}
	})
	for i := range 5 {
		old := c.Proxies[i]
		mu.Lock()
		delete(alive, old.Name)
		mu.Unlock()
		if i%2 == 0 {
			old.Leave(t)
		} else {
			old.Crash(t)
		}
		fresh := c.AddProxy(t, fmt.Sprintf("new%d", i))
		fresh.WaitReady(t)
		register(fresh)
		testcluster.Eventually(t, "the replacement is healthy", func() bool { return seen()[fresh.Name] && !seen()[old.Name] })
		mu.Lock()
		alive[fresh.Name] = true
		mu.Unlock()
	}
	close(quit)
	watcher.Wait()
	if looks.Load() < 10 || down.Load() > 0 {
		t.Errorf("%d looks, %d times a healthy instance was missing", looks.Load(), down.Load())
	}
}
