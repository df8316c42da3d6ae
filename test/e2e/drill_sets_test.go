//go:build e2e

package e2e

import (
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
)

// setWatch follows one service through one agent by blocking queries and by DNS, and counts answers that lack an instance.
type setWatch struct {
	answers, failed  atomic.Int64
	mu               sync.Mutex
	missing, emptied []string
}

// watchSet starts to follow a service of so many healthy instances at each host, until quit is closed.
func watchSet(t *testing.T, service string, want int, quit <-chan struct{}, hosts ...*host) (w *setWatch, wait func()) {
	w = &setWatch{}
	var wg sync.WaitGroup
	begin := time.Now()
	saw := func(h *host, how string, n, enough int) {
		w.answers.Add(1)
		if n >= enough {
			return
		}
		w.mu.Lock()
		defer w.mu.Unlock()
		line := fmt.Sprintf("%v: %s by %s: %d of %d", time.Since(begin).Round(time.Millisecond), h.name, how, n, want)
		if n == 0 {
			w.emptied = append(w.emptied, line)
		} else {
			w.missing = append(w.missing, line)
		}
	}
	follow := func(f func()) {
		wg.Go(func() {
			for {
				select {
				case <-quit:
					return
				default:
					f()
				}
			}
		})
	}
	for _, h := range hosts {
		for _, how := range []string{"", "&stale"} {
			index := "0"
			follow(func() {
				resp, err := http.Get(h.url("/v1/health/service/" + service + "?passing&wait=1s&index=" + index + how))
				if err != nil {
					w.failed.Add(1)
					last(50 * time.Millisecond)
					return
				}
				defer resp.Body.Close()
				var list []any
				if resp.StatusCode != http.StatusOK || json.NewDecoder(resp.Body).Decode(&list) != nil {
					w.failed.Add(1)
					last(50 * time.Millisecond)
					return
				}
				index = resp.Header.Get("X-Consul-Index")
				saw(h, "blocking query"+how, len(list), want)
			})
		}
		follow(func() {
			out, _, code := sh(t, nil, "", "dig", "@"+h.ip, "-p", "8600", "+noall", "+comments", "+answer", "+tries=1", "+time=1", service+".service.consul", "SRV")
			if code != 0 || !strings.Contains(out, "status: NOERROR") && !strings.Contains(out, "status: NXDOMAIN") {
				w.failed.Add(1) // a server that says it cannot tell leaves the resolver to ask another
			} else {
				saw(h, "DNS", strings.Count(out, "\tSRV\t"), 1) // over UDP a part of a set is an answer
			}
			last(150 * time.Millisecond)
		})
	}
	return w, wg.Wait
}

// TestDrillNoEmptySet restarts every server, once politely and once not, and lets old writers come late: a leader and an agent that were
// paused in the middle of writing. No watcher may see the set of a service without an instance that is well.
func TestDrillNoEmptySet(t *testing.T) {
	tool(t, "dig")
	c := newCluster(t, 3, 2)
	for i, p := range c.proxies {
		for n := range 3 {
			p.must(http.MethodPut, "/v1/agent/service/register", fmt.Sprintf(`{"Name":"set","ID":"set%d-%d","Port":%d}`, i, n, 8000+n))
		}
	}
	for _, h := range c.all() {
		eventually(t, 30*time.Second, h.name+" shows all instances", func() bool {
			return httpCount(h, "set") == 6 && digCount(t, h, "set.service.consul") > 0
		})
	}
	quit := make(chan struct{})
	w, wait := watchSet(t, "set", 6, quit, c.all()...)
	begin := time.Now()
	for _, s := range c.servers {
		s.signal(syscall.SIGTERM)
		s.wait(40 * time.Second)
		s.start()
		c.ready(s)
		s.kill()
		s.start()
		c.ready(s)
	}
	// A leader that was paused with writes in hand comes back after others have gone on.
	old := c.leader()
	var late sync.WaitGroup
	for i := range 8 {
		late.Go(func() {
			old.do(http.MethodPut, "/v1/catalog/register", fmt.Sprintf(`{"Node":"late%d","Address":"10.0.0.1","Service":{"Service":"late","Port":80}}`, i))
		})
	}
	old.signal(syscall.SIGSTOP)
	next := c.newLeader(old)
	next.must(http.MethodPut, "/v1/kv/beside", "x")
	old.signal(syscall.SIGCONT)
	late.Wait()
	c.ready(old)
	// So does an agent: it wakes with what it knew, compares, and must not write what is out of date.
	p := c.proxies[0]
	for i := range 20 {
		late.Go(func() {
			p.do(http.MethodPut, "/v1/agent/service/register", fmt.Sprintf(`{"Name":"set","ID":"set0-0","Port":8000,"Tags":["v%d"]}`, i))
		})
	}
	p.signal(syscall.SIGSTOP)
	last(time.Second)
	p.signal(syscall.SIGCONT)
	late.Wait()
	c.ready(c.all()...)
	close(quit)
	wait()
	t.Logf("%d answers in %v, %d without an answer", w.answers.Load(), time.Since(begin).Round(time.Second), w.failed.Load())
	for _, line := range w.emptied {
		t.Errorf("an empty set: %s", line)
	}
	for _, line := range w.missing {
		t.Errorf("a set that is not whole: %s", line)
	}
	if w.answers.Load() < 30 {
		t.Error("too few answers to tell anything")
	}
}
