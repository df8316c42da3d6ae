package cluster_test

import (
	"io"
	"net/http"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/miekg/dns"

	"github.com/musterhq/muster/internal/testcluster"
)

// register puts a service of a node without an agent into the catalog.
func registerWeb(t *testing.T, h *testcluster.Host, port int) {
	t.Helper()
	h.Put(t, "/v1/catalog/register", `{"Node":"web1","Address":"10.0.0.1","Service":{"Service":"web","Port":`+strconv.Itoa(port)+`}}`)
}

// wantKept expects an answer that no server confirms.
func wantKept(t *testing.T, a testcluster.Answer, body string, index uint64) {
	t.Helper()
	h := a.Header
	ms, err := strconv.Atoi(h.Get("X-Consul-LastContact"))
	if a.Status != http.StatusOK || a.Body != body || a.Index() != index || h.Get("X-Muster-Stale") != "true" ||
		h.Get("X-Consul-KnownLeader") != "false" || err != nil || ms < 1 || !strings.HasPrefix(h.Get("Warning"), "110 ") {
		t.Errorf("%d %v %.200s\nwant what was known last, index %d: %.200s", a.Status, h, a.Body, index, body)
	}
}

// webAddr asks for the address of web, which must be one, and returns the extended error that comes with it, if any.
func webAddr(t *testing.T, h *testcluster.Host) (addr string, ede *dns.EDNS0_EDE) {
	t.Helper()
	m := new(dns.Msg).SetQuestion("web.service.consul.", dns.TypeA)
	m.SetEdns0(1232, false)
	client := &dns.Client{Timeout: testcluster.Patience}
	r, _, err := client.Exchange(m, h.DNS())
	if err != nil || len(r.Answer) != 1 {
		t.Fatalf("DNS: %v %v", r, err)
	}
	a, ok := r.Answer[0].(*dns.A)
	if !ok {
		t.Fatalf("DNS: %v", r)
	}
	if opt := r.IsEdns0(); opt != nil {
		for _, o := range opt.Option {
			if e, ok := o.(*dns.EDNS0_EDE); ok {
				ede = e
			}
		}
	}
	return a.A.String(), ede
}

// TestLastKnownGood: what a proxy has served it goes on serving, marked, without any server, and after a restart; what
// must be true now it refuses, and what it does not know too; and the truth comes back with the servers.
func TestLastKnownGood(t *testing.T) {
	t.Parallel()
	c := testcluster.Start(t, 1, 1, `-hcl=last_known_good { kv_prefixes = ["config/"] }`)
	s, p := c.Servers[0], c.Proxies[0]
	registerWeb(t, s, 80)
	p.Put(t, "/v1/kv/config/a", "1")
	p.Put(t, "/v1/kv/other", "1")
	paths := []string{"/v1/health/service/web?passing", "/v1/catalog/services", "/v1/catalog/nodes", "/v1/kv/config/a", "/v1/kv/config/?recurse"}
	known := map[string]testcluster.Answer{}
	for _, path := range paths {
		a := p.Do(http.MethodGet, path, "")
		if a.Status != http.StatusOK || a.Header.Get("X-Muster-Stale") != "" || a.Header.Get("X-Muster-Cluster") != "" {
			t.Fatalf("%s: %d %v", path, a.Status, a.Header)
		}
		known[path] = a
	}
	p.Do(http.MethodGet, "/v1/kv/other", "")
	p.Do(http.MethodGet, "/v2/keys/config?recursive=true", "")
	if addr, code := webAddr(t, p); addr != "10.0.0.1" || code != nil {
		t.Fatalf("DNS: %s %v", addr, code)
	}
	s.Stop(t)
	check := func() {
		t.Helper()
		for _, path := range paths {
			wantKept(t, p.Do(http.MethodGet, path, ""), known[path].Body, known[path].Index())
		}
		wantKept(t, p.Do(http.MethodGet, "/v1/health/service/web?stale&passing", ""), known[paths[0]].Body, known[paths[0]].Index())
		if a := p.Do(http.MethodGet, "/v2/keys/config/?recursive=true&sorted=true", ""); a.Status != http.StatusOK || a.Header.Get("X-Muster-Stale") != "true" || !strings.Contains(a.Body, `"/config/a"`) || a.Header.Get("X-Etcd-Index") == "" {
			t.Errorf("keys of the other dialect: %d %v %s", a.Status, a.Header, a.Body)
		}
		if a := p.Do(http.MethodGet, "/v2/keys/config?recursive=true&quorum=true", ""); a.Status < 500 {
			t.Errorf("what a quorum must confirm: %d %s", a.Status, a.Body)
		}
		testcluster.Eventually(t, "DNS says that it is stale", func() bool {
			addr, ede := webAddr(t, p)
			if addr != "10.0.0.1" {
				t.Fatalf("DNS: %q", addr)
			}
			return ede != nil && ede.InfoCode == dns.ExtendedErrorCodeStaleAnswer
		})
		for _, path := range []string{"/v1/kv/other", "/v1/health/service/web?passing&consistent", "/v1/health/service/other", "/v1/health/service/web?passing&token=other"} {
			if a := p.Do(http.MethodGet, path, ""); a.Status != http.StatusInternalServerError || !strings.HasPrefix(a.Body, "No cluster leader: no server of the cluster could be reached for GET ") {
				t.Errorf("%s: %d %s, want a refusal", path, a.Status, a.Body)
			}
		}
		if a := p.Do(http.MethodPut, "/v1/kv/config/a", "2"); a.Status != http.StatusInternalServerError || !strings.Contains(a.Body, s.ServerAddr()) && !strings.Contains(a.Body, "no server is known") {
			t.Errorf("a write: %d %s", a.Status, a.Body)
		}
	}
	check()
	first, err := strconv.Atoi(p.Do(http.MethodGet, paths[0], "").Header.Get("X-Consul-LastContact"))
	if err != nil {
		t.Fatal(err)
	}
	testcluster.Eventually(t, "the age of the last contact grows", func() bool {
		n, err := strconv.Atoi(p.Do(http.MethodGet, paths[0], "").Header.Get("X-Consul-LastContact"))
		return err == nil && n > first
	})
	p.Stop(t)
	p.Start(t)
	check()
	// A blocking query waits, and then says that there is nothing newer.
	began := time.Now()
	a := p.Do(http.MethodGet, paths[0]+"&wait=700ms&index="+strconv.FormatUint(known[paths[0]].Index(), 10), "")
	wantKept(t, a, known[paths[0]].Body, known[paths[0]].Index())
	if d := time.Since(began); d < 700*time.Millisecond {
		t.Errorf("a blocking query came back after %v", d)
	}
	// One that is still waiting when the servers return is told of what has changed.
	woken := make(chan testcluster.Answer, 1)
	go func() {
		woken <- p.Do(http.MethodGet, paths[0]+"&wait=5m&index="+strconv.FormatUint(known[paths[0]].Index(), 10), "")
	}()
	s.Start(t)
	testcluster.Eventually(t, "the server takes writes again", func() bool {
		return s.Do(http.MethodPut, "/v1/catalog/register", `{"Node":"web1","Address":"10.0.0.1","Service":{"Service":"web","Port":81}}`).OK()
	})
	if a := <-woken; a.Status != http.StatusOK || !strings.Contains(a.Body, `"Port":81`) || a.Header.Get("X-Muster-Stale") != "" || a.Index() <= known[paths[0]].Index() {
		t.Errorf("the waiting query: %d %v %s", a.Status, a.Header, a.Body)
	}
	testcluster.Eventually(t, "the proxy tells the truth again", func() bool {
		a := p.Do(http.MethodGet, paths[0], "")
		return a.Header.Get("X-Muster-Stale") == "" && strings.Contains(a.Body, `"Port":81`)
	})
}

// asked is how many requests of a route a server has been sent.
func asked(t *testing.T, s *testcluster.Host, route string) (n float64) {
	t.Helper()
	for line := range strings.Lines(s.Do(http.MethodGet, "/metrics", "").Body) {
		if strings.HasPrefix(line, "consul_http_requests") && strings.Contains(line, `"`+route+`"`) {
			v, err := strconv.ParseFloat(strings.TrimSpace(line[strings.LastIndexByte(line, ' ')+1:]), 64)
			if err != nil {
				t.Fatal(err)
			}
			n += v
		}
	}
	return n
}

// TestManyClientsCostTheServersAsOne: a thousand blocking queries and two hundred watches through one proxy are one question
// and one stream to the server, and each change reaches them all.
func TestManyClientsCostTheServersAsOne(t *testing.T) {
	t.Parallel()
	c := testcluster.Start(t, 1, 1, `-hcl=limits { http_max_conns_per_client = 0 }`)
	s, p := c.Servers[0], c.Proxies[0]
	registerWeb(t, s, 80)
	const path = "/v1/health/service/web"
	index := p.Do(http.MethodGet, path, "").Index()
	client := &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 2000}, Timeout: testcluster.Patience}
	defer client.CloseIdleConnections()
	get := func(path string) string {
		resp, err := client.Get(p.URL(path))
		if err != nil {
			return err.Error()
		}
		defer resp.Body.Close()
		b, err := io.ReadAll(resp.Body)
		if err != nil {
			return err.Error()
		}
		return string(b)
	}
	waiting := func(n string) {
		t.Helper()
		testcluster.Eventually(t, n+" clients wait", func() bool {
			var self struct{ Stats map[string]map[string]string }
			return p.Get("/v1/agent/self", &self) && self.Stats["proxy"]["waiters"] == n
		})
	}
	const clients, watchers = 1000, 200
	before, beforeKeys := asked(t, s, "/v1/health/service/"), asked(t, s, "/v2/keys/")
	answers := make(chan string, clients+watchers)
	for range clients {
		go func() { answers <- get(path + "?wait=5m&index=" + strconv.FormatUint(index, 10)) }()
	}
	for range watchers {
		go func() { answers <- get("/v2/keys/a?wait=true&recursive=true") }()
	}
	waiting(strconv.Itoa(clients + watchers))
	registerWeb(t, s, 81)
	for range clients {
		if a := <-answers; !strings.Contains(a, `"Port":81`) {
			t.Fatalf("a client of %d got %.300s", clients, a)
		}
	}
	s.Put(t, "/v2/keys/a/b", "value=1")
	for range watchers {
		if a := <-answers; !strings.Contains(a, `"key":"/a/b"`) {
			t.Fatalf("a watcher of %d got %.300s", watchers, a)
		}
	}
	waiting("0")
	// The server brings all counts up to date at once, now and then: when this one is there, all before it are.
	mark := asked(t, s, "/v1/catalog/datacenters")
	s.Do(http.MethodGet, "/v1/catalog/datacenters", "")
	testcluster.Eventually(t, "the server has counted", func() bool { return asked(t, s, "/v1/catalog/datacenters") > mark })
	n := asked(t, s, "/v1/health/service/") - before
	t.Logf("%d clients cost the server %v questions", clients, n)
	if n > 10 {
		t.Errorf("%d clients cost the server %v questions", clients, n)
	}
	if n := asked(t, s, "/v2/keys/") - beforeKeys; n > 3 { // the write is one, and a stream counts when it ends
		t.Errorf("%d watchers cost the server %v requests", watchers, n)
	}
}

// TestLookupsBehindAServerWithoutALeader: the server that a proxy asks answers, and nobody stands behind what it says.
func TestLookupsBehindAServerWithoutALeader(t *testing.T) {
	t.Parallel()
	c := testcluster.Start(t, 3, 1)
	p := c.Proxies[0]
	registerWeb(t, c.Servers[0], 80)
	testcluster.Eventually(t, "the name is confirmed", func() bool {
		var list []any
		if !p.Get("/v1/health/service/web", &list) || len(list) == 0 {
			return false
		}
		addr, ede := webAddr(t, p)
		return addr == "10.0.0.1" && ede == nil
	})
	for _, s := range c.Servers[1:] {
		s.Crash(t)
	}
	testcluster.Eventually(t, "DNS says that it is stale", func() bool {
		addr, ede := webAddr(t, p)
		return addr == "10.0.0.1" && ede != nil && ede.InfoCode == dns.ExtendedErrorCodeStaleAnswer
	})
	if a := p.Do(http.MethodGet, "/v1/health/service/web?stale", ""); a.Header.Get("X-Consul-KnownLeader") != "false" {
		t.Errorf("there is no leader: %d %v", a.Status, a.Header)
	}
	for _, s := range c.Servers[1:] {
		s.Start(t)
	}
	testcluster.Eventually(t, "it is confirmed again", func() bool {
		addr, ede := webAddr(t, p)
		return addr == "10.0.0.1" && ede == nil
	})
}
