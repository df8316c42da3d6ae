//go:build e2e

package e2e

import (
	"fmt"
	"net/http"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// instances counts the healthy instances of a service that dig sees at h.
func digCount(t *testing.T, h *host, name string) int {
	t.Helper()
	out, _, _ := sh(t, nil, "", tool(t, "dig"), "@"+h.ip, "-p", "8600", "+short", "+tries=1", "+time=2", name, "SRV")
	n := 0
	for _, line := range strings.Split(strings.TrimSpace(out), "\n") {
		if len(strings.Fields(line)) == 4 {
			n++
		}
	}
	return n
}

func httpCount(h *host, service string) int {
	var list []any
	if !h.get("/v1/health/service/"+service+"?passing", &list) {
		return -1
	}
	return len(list)
}

// heartbeat passes a TTL check every 300 ms until stop is called.
func heartbeat(h *host, check string) (stop func()) {
	quit, done := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(done)
		tick := time.NewTicker(300 * time.Millisecond)
		defer tick.Stop()
		for {
			h.do(http.MethodPut, "/v1/agent/check/pass/"+check, "")
			select {
			case <-tick.C:
			case <-quit:
				return
			}
		}
	}()
	var once sync.Once
	return func() { once.Do(func() { close(quit); <-done }) }
}

func TestServiceOnProxyIsSeenEverywhereAndLeavesWhenItDies(t *testing.T) {
	c := newCluster(t, 3, 2)
	p1, p2 := c.proxies[0], c.proxies[1]
	for _, p := range c.proxies {
		p.must(http.MethodPut, "/v1/agent/service/register", `{"Name":"web","Port":8080,"Check":{"TTL":"2s"}}`)
		defer heartbeat(p, "service:web")()
	}
	stop := heartbeat(p1, "service:web")
	defer stop()
	for _, h := range c.all() {
		eventually(t, 30*time.Second, h.name+" shows both instances by HTTP", func() bool { return httpCount(h, "web") == 2 })
		eventually(t, 30*time.Second, h.name+" shows both instances by DNS", func() bool { return digCount(t, h, "web.service.consul") == 2 })
	}

	p2.kill()
	begin := time.Now()
	for _, h := range append(c.servers, p1) {
		eventually(t, 30*time.Second, h.name+" drops the killed agent's service from DNS", func() bool { return digCount(t, h, "web.service.consul") == 1 })
	}
	t.Logf("agent killed to its service out of every agent's DNS: %v", time.Since(begin).Round(time.Millisecond))
}

func TestServiceLeavesDNSWhenHeartbeatsStop(t *testing.T) {
	c := newCluster(t, 1, 1)
	p := c.proxies[0]
	p.must(http.MethodPut, "/v1/agent/service/register", `{"Name":"beat","Port":1,"Check":{"TTL":"2s"}}`)
	stop := heartbeat(p, "service:beat")
	defer stop()
	for _, h := range c.all() {
		eventually(t, 30*time.Second, h.name+" shows the instance", func() bool { return digCount(t, h, "beat.service.consul") == 1 })
	}
	stop()
	last := time.Now()
	eventually(t, 30*time.Second, "the service leaves DNS", func() bool { return digCount(t, c.servers[0], "beat.service.consul") == 0 })
	took := time.Since(last)
	t.Logf("last heartbeat to out of DNS: %v", took.Round(time.Millisecond))
	if took < 1500*time.Millisecond {
		t.Errorf("with a TTL of 2s the service left DNS after %v", took)
	}
	eventually(t, 30*time.Second, "it leaves the proxy's DNS too", func() bool { return digCount(t, p, "beat.service.consul") == 0 })
}

func TestNothingAcknowledgedIsLostWhenTheLeaderDies(t *testing.T) {
	c := newCluster(t, 3, 1)
	p := c.proxies[0]
	acked := make(map[string]bool)
	var mu sync.Mutex
	quit := make(chan struct{})
	var wg sync.WaitGroup
	var lastAck, longest time.Duration
	begin := time.Now()
	for w := range 4 {
		wg.Add(1)
		go func() {
			defer wg.Done()
			for i := 0; ; i++ {
				select {
				case <-quit:
					return
				default:
				}
				key := fmt.Sprintf("lost/%d-%d", w, i)
				if status, _ := p.do(http.MethodPut, "/v1/kv/"+key, "v"); status == http.StatusOK {
					mu.Lock()
					acked[key] = true
					now := time.Since(begin)
					longest = max(longest, now-lastAck)
					lastAck = now
					mu.Unlock()
				}
			}
		}()
	}
	count := func() int {
		mu.Lock()
		defer mu.Unlock()
		return len(acked)
	}
	eventually(t, 30*time.Second, "writes flow", func() bool { return count() > 50 })
	leader := c.leader()
	mu.Lock()
	longest = 0
	mu.Unlock()
	leader.kill()
	before := count()
	eventually(t, 30*time.Second, "writes resume after the leader was killed", func() bool { return count() > before+50 })
	mu.Lock()
	t.Logf("longest pause between acknowledged writes around the leader's death: %v", longest.Round(time.Millisecond))
	mu.Unlock()
	close(quit)
	wg.Wait()

	check := func(h *host) {
		t.Helper()
		eventually(t, 30*time.Second, fmt.Sprintf("%s holds all %d acknowledged keys", h.name, len(acked)), func() bool {
			var keys []string
			if !h.get("/v1/kv/lost/?keys&stale", &keys) {
				return false
			}
			have := make(map[string]bool, len(keys))
			for _, k := range keys {
				have[k] = true
			}
			for k := range acked {
				if !have[k] {
					return false
				}
			}
			return true
		})
	}
	for _, s := range c.servers {
		if s != leader {
			check(s)
		}
	}
	leader.start()
	c.ready(leader)
	check(leader)
}

func TestWholeClusterSurvivesKillAndRestart(t *testing.T) {
	c := newCluster(t, 3, 0)
	for i := range 50 {
		c.servers[i%3].must(http.MethodPut, fmt.Sprintf("/v1/kv/all/%d", i), "v")
	}
	for _, s := range c.servers {
		s.kill()
	}
	for _, s := range c.servers {
		s.start()
	}
	c.ready(c.servers...)
	for _, s := range c.servers {
		eventually(t, 30*time.Second, s.name+" has every key again", func() bool {
			var keys []string
			return s.get("/v1/kv/all/?keys&stale", &keys) && len(keys) == 50
		})
	}
}

func TestGracefulLeaveTakesTheNodeOut(t *testing.T) {
	c := newCluster(t, 1, 1)
	p := c.proxies[0]
	p.must(http.MethodPut, "/v1/agent/service/register", `{"Name":"gone","Port":1}`)
	eventually(t, 30*time.Second, "the service is there", func() bool { return httpCount(c.servers[0], "gone") == 1 })
	out, errs, code := sh(t, []string{"MUSTER_HTTP_ADDR=" + p.url("")}, "", binary, "leave")
	if code != 0 {
		t.Fatalf("leave: exit %d: %s%s", code, out, errs)
	}
	if code := p.wait(40 * time.Second); code != 0 {
		t.Errorf("the agent ended with code %d after a leave, want 0", code)
	}
	eventually(t, 30*time.Second, "node and service are gone", func() bool {
		var nodes []struct{ Node string }
		return c.servers[0].get("/v1/catalog/nodes", &nodes) && len(nodes) == 1 && httpCount(c.servers[0], "gone") == 0
	})
}

func TestRestartOfAnAgentKeepsItsServices(t *testing.T) {
	c := newCluster(t, 1, 1)
	s, p := c.servers[0], c.proxies[0]
	p.must(http.MethodPut, "/v1/agent/service/register", `{"Name":"kept","Port":1,"Check":{"TTL":"60s"}}`)
	p.must(http.MethodPut, "/v1/agent/check/pass/service:kept", "")
	eventually(t, 30*time.Second, "the service is there", func() bool { return httpCount(s, "kept") == 1 })
	p.kill()
	p.start()
	c.ready(p)
	eventually(t, 30*time.Second, "the service is healthy again after a restart", func() bool { return httpCount(s, "kept") == 1 })
	var svcs map[string]any
	if !p.get("/v1/agent/services", &svcs) || svcs["kept"] == nil {
		t.Errorf("the agent forgot its service: %v", svcs)
	}
}

func TestStopSignalEndsQuickly(t *testing.T) {
	c := newCluster(t, 1, 0)
	c.servers[0].signal(syscall.SIGTERM)
	if code := c.servers[0].wait(40 * time.Second); code != 0 {
		t.Errorf("exit code %d after SIGTERM, want 0", code)
	}
}

func TestProxyAnswersDNSWhenEveryServerIsDown(t *testing.T) {
	c := newCluster(t, 1, 1)
	s, p := c.servers[0], c.proxies[0]
	s.must(http.MethodPut, "/v1/catalog/register", `{"Node":"ext","Address":"10.1.2.3","Service":{"Service":"known","Port":80}}`)
	eventually(t, 30*time.Second, "the proxy knows the service", func() bool { return digCount(t, p, "known.service.consul") == 1 })
	s.kill()
	if n := digCount(t, p, "known.service.consul"); n != 1 {
		t.Errorf("%d instances with the server down, want the one known last", n)
	}
	begin := time.Now()
	if status, body := p.do(http.MethodPut, "/v1/kv/a", "v"); status != http.StatusInternalServerError || !strings.Contains(body, "No cluster leader") {
		t.Errorf("a write with the server down: status %d, %q", status, body)
	}
	t.Logf("a write with every server down fails after %v", time.Since(begin).Round(time.Millisecond))
	p.signal(syscall.SIGTERM)
	p.wait(40 * time.Second)
	p.start()
	begin = time.Now()
	eventually(t, 30*time.Second, "the restarted proxy answers", func() bool { return digCount(t, p, "known.service.consul") == 1 })
	t.Logf("proxy started with every server down to its first DNS answer: %v", time.Since(begin).Round(time.Millisecond))
}
