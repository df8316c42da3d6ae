package cluster_test

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/miekg/dns"

	"github.com/musterhq/muster/internal/testcluster"
)

// lookup gives the SRV answers of a name as a host's DNS has them, -1 when there is no answer.
func lookup(h *testcluster.Host, name string) int {
	m := new(dns.Msg)
	m.SetQuestion(name, dns.TypeSRV)
	c := dns.Client{Timeout: 10 * time.Second}
	in, _, err := c.Exchange(m, h.DNS())
	if err != nil {
		return -1
	}
	return len(in.Answer)
}

// TestServiceWithTTLAppearsAndLeaves registers on a proxy, beats, falls silent, beats again and deregisters, and
// looks by HTTP and DNS of every agent.
func TestServiceWithTTLAppearsAndLeaves(t *testing.T) {
	t.Parallel()
	c := testcluster.Start(t, 1, 2)
	p := c.Proxies[0]
	everywhere := func(what string, n int) {
		t.Helper()
		for _, h := range c.All() {
			testcluster.Eventually(t, h.Name+" by HTTP: "+what, func() bool { return healthy(h, "web") == n })
			testcluster.Eventually(t, h.Name+" by DNS: "+what, func() bool { return lookup(h, "web.service.consul.") == n })
		}
	}
	p.Put(t, "/v1/agent/service/register", `{"Name":"web","Port":80,"Check":{"TTL":"500ms"}}`)
	everywhere("critical before its first beat", 0)
	p.Put(t, "/v1/agent/check/pass/service:web", "")
	testcluster.Eventually(t, "it is healthy", func() bool {
		p.Put(t, "/v1/agent/check/pass/service:web", "")
		return healthy(c.Servers[0], "web") == 1 && lookup(c.Servers[0], "web.service.consul.") == 1
	})
	everywhere("silent for longer than its TTL", 0)
	p.Put(t, "/v1/agent/service/register", `{"Name":"web","Port":80,"Check":{"TTL":"60s"}}`)
	p.Put(t, "/v1/agent/check/pass/service:web", "")
	everywhere("registered anew with a longer TTL", 1)
	p.Put(t, "/v1/agent/service/deregister/web", "")
	everywhere("deregistered", 0)
	var list []any
	if !c.Servers[0].Get("/v1/catalog/service/web", &list) || len(list) != 0 {
		t.Errorf("after deregistering the catalog still lists %v", list)
	}
}

// liveness is the status of a node's liveness check.
func liveness(h *testcluster.Host, node string) string {
	var list []struct{ CheckID, Status string }
	h.Get("/v1/health/node/"+node, &list)
	for _, c := range list {
		if c.CheckID == "serfHealth" {
			return c.Status
		}
	}
	return ""
}

// TestDeadNodeIsMarkedAndComesBack crashes a proxy and a server. The leader's open connection tells it at once; gossip
// alone would need several seconds longer.
func TestDeadNodeIsMarkedAndComesBack(t *testing.T) {
	t.Parallel()
	c := testcluster.Start(t, 3, 1)
	p := c.Proxies[0]
	leader := c.WaitLeader(t)
	victim := c.Servers[0]
	if victim == leader {
		victim = c.Servers[1]
	}
	p.Put(t, "/v1/agent/service/register", `{"Name":"web","Port":80}`)
	testcluster.Eventually(t, "the service is there", func() bool { return healthy(leader, "web") == 1 })
	for _, h := range []*testcluster.Host{p, victim} {
		h.Crash(t)
		testcluster.Eventually(t, h.Name+" is marked critical", func() bool { return liveness(leader, h.Name) == "critical" })
		if h == p && healthy(leader, "web") != 0 {
			t.Error("the service of a dead node counts as healthy")
		}
		h.Start(t)
		h.WaitReady(t)
		testcluster.Eventually(t, h.Name+" is alive again", func() bool { return liveness(leader, h.Name) == "passing" })
	}
	testcluster.Eventually(t, "the service is back", func() bool { return healthy(leader, "web") == 1 })
	c.WaitSame(t)
}

// TestWatchesThroughProxy holds a long poll, a stream and two blocking queries open at a proxy.
func TestWatchesThroughProxy(t *testing.T) {
	t.Parallel()
	c := testcluster.Start(t, 3, 1)
	p, s := c.Proxies[0], c.Servers[0]
	s.Put(t, "/v2/keys/w/a", "value=0")
	c.WaitSame(t) // any server may serve a watch, and one from now begins at what that server knows

	poll := inBackground(func() testcluster.Answer { return p.Do(http.MethodGet, "/v2/keys/w?wait=true&recursive=true", "") })
	ctx, cancel := context.WithTimeout(t.Context(), testcluster.Patience)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, p.URL("/v2/keys/w?wait=true&recursive=true&stream=true"), nil)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	stream := bufio.NewScanner(resp.Body)
	for i := 1; i <= 3; i++ {
		// The head of the stream has come, so its watch stands; what follows arrives before the answer ends.
		s.Put(t, "/v2/keys/w/a", fmt.Sprintf("value=%d", i))
		if !stream.Scan() || !strings.Contains(stream.Text(), fmt.Sprintf(`"value":"%d"`, i)) {
			t.Fatalf("event %d of the stream is %q, %v", i, stream.Text(), stream.Err())
		}
	}
	// The long poll may have begun after the first writes: write until it has been woken.
	n := 3
	var got testcluster.Answer
	testcluster.Eventually(t, "the long poll is answered", func() bool {
		n++
		s.Put(t, "/v2/keys/w/a", fmt.Sprintf("value=%d", n))
		return taken(poll, &got)
	})
	if !strings.Contains(got.Body, `"action":"set"`) || !strings.Contains(got.Body, `"key":"/w/a"`) {
		t.Errorf("the long poll answers %d %q", got.Status, got.Body)
	}

	p.Put(t, "/v1/kv/b", "0")
	first := p.Do(http.MethodGet, "/v1/kv/b", "")
	key := inBackground(func() testcluster.Answer {
		return p.Do(http.MethodGet, fmt.Sprintf("/v1/kv/b?wait=50s&index=%d", first.Index()), "")
	})
	p.Put(t, "/v1/agent/service/register", `{"Name":"web","Port":80,"Check":{"TTL":"60s","Status":"passing"}}`)
	testcluster.Eventually(t, "the service is in the catalog", func() bool { return healthy(p, "web") == 1 })
	all := p.Do(http.MethodGet, "/v1/health/service/web", "")
	check := inBackground(func() testcluster.Answer {
		return p.Do(http.MethodGet, fmt.Sprintf("/v1/health/service/web?wait=50s&index=%d", all.Index()), "")
	})
	s.Put(t, "/v1/kv/unrelated", "x")
	select {
	case a := <-key:
		t.Fatalf("a write elsewhere woke the query: %d %q", a.Status, a.Body)
	case a := <-check:
		t.Fatalf("a write elsewhere woke the query: %d %q", a.Status, a.Body)
	case <-time.After(300 * time.Millisecond): // nothing is to happen: there is no condition to wait for
	}
	s.Put(t, "/v1/kv/b", "1")
	if a := <-key; a.Index() <= first.Index() || !strings.Contains(a.Body, `"Value":"MQ=="`) {
		t.Errorf("the woken query answers %d %q at index %d, asked after %d", a.Status, a.Body, a.Index(), first.Index())
	}
	p.Put(t, "/v1/agent/check/fail/service:web", "")
	if a := <-check; a.Index() <= all.Index() || !strings.Contains(a.Body, `"Status":"critical"`) {
		t.Errorf("the woken query answers %d %q at index %d, asked after %d", a.Status, a.Body, a.Index(), all.Index())
	}
}

func inBackground(f func() testcluster.Answer) <-chan testcluster.Answer {
	c := make(chan testcluster.Answer, 1)
	go func() { c <- f() }()
	return c
}

func taken(c <-chan testcluster.Answer, a *testcluster.Answer) bool {
	select {
	case *a = <-c:
		return true
	default:
		return false
	}
}

// TestReload changes the file of an agent and reloads: services follow the file; a bad file changes nothing.
func TestReload(t *testing.T) {
	t.Parallel()
	c := testcluster.Start(t, 1, 0)
	file := filepath.Join(t.TempDir(), "services.hcl")
	config := func(text string) {
		t.Helper()
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	config(`service { name = "a" port = 1 }`)
	p := c.AddProxy(t, "p1", "-config-file="+file)
	p.WaitReady(t)
	p.Put(t, "/v1/agent/service/register", `{"Name":"by-api","Port":3}`)
	services := func() string {
		var local map[string]struct{ Port int }
		if !p.Get("/v1/agent/services", &local) {
			return "none"
		}
		b, err := json.Marshal(local)
		if err != nil {
			t.Fatal(err)
		}
		return string(b)
	}
	catalog := func(want ...string) func() bool {
		return func() bool {
			var all map[string]any
			if !c.Servers[0].Get("/v1/catalog/services", &all) || len(all) != len(want)+1 {
				return false
			}
			for _, w := range want {
				if all[w] == nil {
					return false
				}
			}
			return true
		}
	}
	testcluster.Eventually(t, "the catalog has the service of the file", catalog("a", "by-api"))

	config(`service { name = "a" port = 11 }
service { name = "b" port = 2 }`)
	if err := p.Agent().Reload(); err != nil {
		t.Fatal(err)
	}
	if got, want := services(), `{"a":{"Port":11},"b":{"Port":2},"by-api":{"Port":3}}`; got != want {
		t.Errorf("after a reload the agent has %s, want %s", got, want)
	}
	testcluster.Eventually(t, "the catalog follows", catalog("a", "b", "by-api"))

	before := services()
	for _, bad := range []string{`service { name = "a" `, `service { name = "a" port = 99999 }`, `no_such_key = 1`, `service { port = 1 }`} {
		config(bad)
		if err := p.Agent().Reload(); err == nil {
			t.Errorf("reload accepts %q", bad)
		} else if !strings.Contains(err.Error(), "services.hcl") {
			t.Errorf("the error does not name the file: %v", err)
		}
		if got := services(); got != before {
			t.Errorf("a bad file changed the services to %s", got)
		}
		if a := p.Do(http.MethodPut, "/v1/agent/reload", ""); a.OK() {
			t.Errorf("reload by HTTP accepts %q: %d", bad, a.Status)
		}
	}
	config(`service { name = "b" port = 2 }`)
	p.Put(t, "/v1/agent/reload", "")
	testcluster.Eventually(t, "what left the file leaves the catalog", catalog("b", "by-api"))
}

// TestProxyWithoutServers: with every server gone a proxy says so soon, and goes on with what is its own.
func TestProxyWithoutServers(t *testing.T) {
	t.Parallel()
	c := testcluster.Start(t, 1, 1)
	s, p := c.Servers[0], c.Proxies[0]
	p.Put(t, "/v1/agent/service/register", `{"Name":"early","Port":1,"Check":{"TTL":"60s"}}`)
	p.Put(t, "/v1/agent/check/pass/service:early", "")
	testcluster.Eventually(t, "DNS knows the service", func() bool { return lookup(p, "early.service.consul.") == 1 })
	s.Stop(t)

	for _, want := range []struct {
		path   string
		status int
		text   string
	}{
		{"/v1/kv/x", http.StatusInternalServerError, "no server of the cluster could be reached"},
		{"/v2/keys/x?value=1", http.StatusBadGateway, "httpproxy: unable to get response from 1 endpoint(s)"},
		{"/v2/keys/x?value=1", http.StatusServiceUnavailable, "httpproxy: zero endpoints currently available"},
	} {
		path, begin := want.path, time.Now()
		a := p.Do(http.MethodPut, path, "")
		if a.Status != want.status || !strings.Contains(a.Body, want.text) {
			t.Errorf("PUT %s without servers answers %d %q", path, a.Status, a.Body)
		}
		if took := time.Since(begin); took > testcluster.Patience/3 {
			t.Errorf("PUT %s without servers is answered after %v", path, took)
		}
	}
	p.Put(t, "/v1/agent/service/register", `{"Name":"late","Port":2,"Check":{"TTL":"60s"}}`)
	p.Put(t, "/v1/agent/check/pass/service:late", "")
	p.Put(t, "/v1/agent/check/warn/service:early", "")
	p.Put(t, "/v1/agent/check/pass/service:early", "")
	var local map[string]any
	if !p.Get("/v1/agent/services", &local) || local["late"] == nil || local["early"] == nil {
		t.Errorf("without servers the agent lists %v", local)
	}
	if n := lookup(p, "early.service.consul."); n != 1 {
		t.Errorf("without servers DNS gives %d answers, want the last known one", n)
	}

	s.Start(t)
	c.WaitReady(t)
	testcluster.Eventually(t, "what was registered meanwhile is in the catalog", func() bool {
		return healthy(s, "late") == 1 && healthy(s, "early") == 1
	})
	p.Put(t, "/v1/kv/x", "1")
}

// TestServerStopsUnderWatches: clients that only wait must not hold up the end of a server.
func TestServerStopsUnderWatches(t *testing.T) {
	t.Parallel()
	c := testcluster.Start(t, 1, 1)
	s, p := c.Servers[0], c.Proxies[0]
	s.Put(t, "/v1/kv/b", "0")
	index := s.Do(http.MethodGet, "/v1/kv/b", "").Index()
	for _, h := range []*testcluster.Host{s, p} {
		query := inBackground(func() testcluster.Answer {
			return h.Do(http.MethodGet, fmt.Sprintf("/v1/kv/b?wait=10m&index=%d", index), "")
		})
		defer func() { <-query }() // it ends, too
		req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, h.URL("/v2/keys/w?wait=true&stream=true"), nil)
		if err != nil {
			t.Fatal(err)
		}
		resp, err := http.DefaultClient.Do(req) // the head says that the watch stands
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
	}
	begin := time.Now()
	s.Stop(t)
	if took := time.Since(begin); took > 14*time.Second { // of 15
		t.Errorf("stopping took %v: it waited for the watches until its time was over", took)
	}
}
