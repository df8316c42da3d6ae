package cluster_test

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/miekg/dns"

	"github.com/musterhq/muster/internal/testcluster"
)

// fleet registers n instances of a service on nodes of their own, each with one check, in the catalog.
func fleet(t *testing.T, h *testcluster.Host, service string, n int) {
	t.Helper()
	for i := range n {
		report(t, h, service, i, "passing")
	}
}

// report says how an instance of a fleet is.
func report(t *testing.T, h *testcluster.Host, service string, i int, status string) {
	t.Helper()
	h.Put(t, "/v1/catalog/register", fmt.Sprintf(`{"Node":"%[1]s-%[2]d","Address":"10.9.0.%[2]d","SkipNodeUpdate":true,
		"Service":{"Service":"%[1]s","Port":80},"Check":{"CheckID":"c","Name":"c","Status":"%[3]s","ServiceID":"%[1]s"}}`, service, i, status))
}

// passing is how many instances a host's HTTP interface shows as passing, and what it says of the guard.
func passing(h *testcluster.Host, service string) (n int, guard string) {
	resp, err := http.Get(h.URL("/v1/health/service/" + service + "?passing"))
	if err != nil {
		return -1, ""
	}
	defer resp.Body.Close()
	var list []struct{ Checks []struct{ Status string } }
	if json.NewDecoder(resp.Body).Decode(&list) != nil {
		return -1, ""
	}
	for _, in := range list {
		for _, c := range in.Checks {
			if c.Status != "passing" {
				return -2, "" // clients filter once more
			}
		}
	}
	return len(list), resp.Header.Get("X-Muster-Guard")
}

func TestMassFailureIsHeldUntilReleased(t *testing.T) {
	t.Parallel()
	c := testcluster.Start(t, 1, 1)
	s, p := c.Servers[0], c.Proxies[0]
	fleet(t, s, "web", 15)
	fleet(t, s, "few", 4)
	shown := func(what string, service string, n int) {
		t.Helper()
		for _, h := range c.All() {
			testcluster.Eventually(t, h.Name+" by HTTP: "+what, func() bool { got, _ := passing(h, service); return got == n })
			testcluster.Eventually(t, h.Name+" by DNS: "+what, func() bool { return lookupAll(h, service+".service.consul.") == n })
		}
	}
	shown("all are there", "web", 15)
	shown("all are there", "few", 4)
	watched(t, s, 1)
	watched(t, p, 1)

	var index string
	for _, h := range []*testcluster.Host{s} {
		resp, err := http.Get(h.URL("/v1/health/service/web?passing"))
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		index = resp.Header.Get("X-Consul-Index")
	}
	type woken struct {
		n   int
		err error
	}
	waiter := make(chan woken, 1)
	go func() {
		resp, err := http.Get(s.URL("/v1/health/service/web?passing&wait=60s&index=" + index))
		if err != nil {
			waiter <- woken{err: err}
			return
		}
		defer resp.Body.Close()
		b, err := io.ReadAll(resp.Body)
		waiter <- woken{strings.Count(string(b), `"ServiceName":"web"`), err}
	}()

	for i := range 4 {
		report(t, s, "few", i, "critical")
	}
	shown("small services are believed", "few", 0)
	for i := range 7 { // they go one after the other
		report(t, s, "web", i, "critical")
	}
	shown("less than half is believed", "web", 8)
	if w := <-waiter; w.err != nil || w.n >= 15 {
		t.Fatalf("a watcher was woken with %d instances: %v", w.n, w.err)
	}
	for i := range 5 {
		report(t, s, "web", 7+i, "critical")
	}
	shown("most of them is not", "web", 15)
	for _, h := range c.All() {
		if _, g := passing(h, "web"); !strings.HasPrefix(g, "web held 12 of 15 until ") {
			t.Errorf("%s: the header says %q", h.Name, g)
		}
		var self struct {
			Guard struct{ Held []struct{ Lost, Of int } }
		}
		if !h.Get("/v1/agent/self", &self) || len(self.Guard.Held) != 1 || self.Guard.Held[0].Lost != 12 || self.Guard.Held[0].Of != 15 {
			t.Errorf("%s: agent/self says %+v", h.Name, self.Guard)
		}
	}
	var all []any
	if !s.Get("/v1/health/service/web", &all) || len(all) != 15 {
		t.Errorf("without passing the truth is %d instances", len(all))
	}
	if got, g := passing(s, "few"); got != 0 || g != "" {
		t.Errorf("another service: %d, %q", got, g)
	}

	// What is asked for passes at once, from what is held as well.
	s.Put(t, "/v1/catalog/deregister", `{"Node":"web-0"}`)
	report(t, s, "web", 14, "passing")
	s.Put(t, "/v1/catalog/register", `{"Node":"web-1","Address":"10.9.0.1","SkipNodeUpdate":true,
		"Check":{"CheckID":"_node_maintenance","Name":"m","Status":"critical"}}`)
	shown("without the one that was removed and the one in maintenance", "web", 13)

	p.Put(t, "/v1/agent/guard/release?service=web", "")
	shown("an operator has said that it is true", "web", 3)
	if got, g := passing(s, "web"); got != 3 || g != "" {
		t.Errorf("after the release: %d, %q", got, g)
	}
}

// watched waits until the guard of a host has seen that many services.
func watched(t *testing.T, h *testcluster.Host, n int) {
	t.Helper()
	testcluster.Eventually(t, h.Name+" watches", func() bool {
		var self struct{ Guard struct{ Watched int } }
		return h.Get("/v1/agent/self", &self) && self.Guard.Watched >= n
	})
}

// lookupAll is lookup without a limit of size.
func lookupAll(h *testcluster.Host, name string) int {
	m := new(dns.Msg)
	m.SetQuestion(name, dns.TypeSRV)
	c := dns.Client{Net: "tcp", Timeout: 10 * time.Second}
	in, _, err := c.Exchange(m, h.DNS())
	if err != nil {
		return -1
	}
	return len(in.Answer)
}

func TestGuardReleaseWakesWatchers(t *testing.T) {
	t.Parallel()
	c := testcluster.Start(t, 1, 0)
	s := c.Servers[0]
	fleet(t, s, "db", 6)
	watched(t, s, 1)
	for i := range 6 {
		report(t, s, "db", i, "critical")
	}
	testcluster.Eventually(t, "they are held", func() bool { n, g := passing(s, "db"); return n == 6 && g != "" })
	resp, err := http.Get(s.URL("/v1/health/service/db?passing"))
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	done := make(chan string, 1)
	go func() {
		resp, err := http.Get(s.URL("/v1/health/service/db?passing&wait=60s&index=" + resp.Header.Get("X-Consul-Index")))
		if err != nil {
			done <- err.Error()
			return
		}
		defer resp.Body.Close()
		b, _ := io.ReadAll(resp.Body)
		done <- string(b)
	}()
	select {
	case got := <-done:
		t.Fatalf("nothing has changed, and the watcher got %s", got)
	case <-time.After(300 * time.Millisecond):
	}
	s.Put(t, "/v1/agent/guard/release", "")
	select {
	case got := <-done:
		if strings.TrimSpace(got) != "[]" {
			t.Fatalf("the watcher got %s", got)
		}
	case <-time.After(testcluster.Patience):
		t.Fatal("the watcher slept through the release")
	}
}

func TestRemovalPassesTheGuard(t *testing.T) {
	t.Parallel()
	c := testcluster.Start(t, 1, 1)
	s := c.Servers[0]
	fleet(t, s, "web", 12)
	for _, h := range c.All() {
		testcluster.Eventually(t, "they are there", func() bool { return lookupAll(h, "web.service.consul.") == 12 })
	}
	watched(t, s, 1)
	for i := range 12 {
		s.Put(t, "/v1/catalog/deregister", fmt.Sprintf(`{"Node":"web-%d"}`, i))
	}
	for _, h := range c.All() {
		testcluster.Eventually(t, "they are gone", func() bool {
			n, g := passing(h, "web")
			return n == 0 && g == "" && lookupAll(h, "web.service.consul.") == 0
		})
	}
}

// TestWipedServersAreNotBelieved: the servers come back without their data, as a new cluster. A proxy keeps what it knew
// until an operator says that it is true.
func TestWipedServersAreNotBelieved(t *testing.T) {
	t.Parallel()
	c := testcluster.Start(t, 1, 1)
	s, p := c.Servers[0], c.Proxies[0]
	fleet(t, s, "web", 3)
	known := func() bool {
		n, _ := passing(p, "web")
		return n == 3 && lookupAll(p, "web.service.consul.") == 3
	}
	testcluster.Eventually(t, "the proxy knows it", known)
	s.Crash(t)
	if err := os.RemoveAll(s.DataDir); err != nil {
		t.Fatal(err)
	}
	s.Start(t)
	s.WaitReady(t)
	testcluster.Eventually(t, "the proxy uses the new cluster", func() bool {
		return p.Do(http.MethodPut, "/v1/kv/a", "1").OK()
	})
	var list []any
	if !s.Get("/v1/health/service/web", &list) || len(list) != 0 {
		t.Fatalf("the server has its data still: %v", list)
	}
	for range 20 {
		if !known() {
			n, _ := passing(p, "web")
			t.Fatalf("the proxy has forgotten: %d by HTTP, %d by DNS", n, lookupAll(p, "web.service.consul."))
		}
	}
	p.Put(t, "/v1/agent/guard/release", "")
	testcluster.Eventually(t, "an operator has said that it is true", func() bool {
		n, _ := passing(p, "web")
		return n == 0 && lookupAll(p, "web.service.consul.") == 0
	})
}
