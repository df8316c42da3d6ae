package cluster_test

import (
	"net/http"
	"testing"
	"time"

	"github.com/musterhq/muster/internal/testcluster"
)

// indexOf is the index of a path as one server has it.
func indexOf(t *testing.T, h *testcluster.Host, path string) string {
	t.Helper()
	resp, err := http.Get(h.URL(path))
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	return resp.Header.Get("X-Consul-Index")
}

// TestRestartOfAgentsIsInvisible stops proxies one after the other and starts them again: whoever watches the catalog
// sees nothing.
func TestRestartOfAgentsIsInvisible(t *testing.T) {
	t.Parallel()
	c := testcluster.Start(t, 1, 3)
	s := c.Servers[0]
	for _, p := range c.Proxies {
		p.Put(t, "/v1/agent/service/register", `{"Name":"web","Port":80,"Check":{"TTL":"60s","Status":"passing"}}`)
		p.Put(t, "/v1/agent/check/pass/service:web", "")
	}
	testcluster.Eventually(t, "all are healthy", func() bool { return healthy(s, "web") == 3 })
	paths := []string{"/v1/health/service/web", "/v1/health/state/any", "/v1/catalog/nodes", "/v1/catalog/services", "/v1/catalog/node/p1", "/v1/catalog/node/p2"}
	before := map[string]string{}
	for _, path := range paths {
		before[path] = indexOf(t, s, path)
	}
	for _, p := range c.Proxies[:2] {
		p.Stop(t)
		testcluster.Eventually(t, "the leader knows that it is away", func() bool {
			var st struct{ Unknown []struct{ Node, Why string } }
			return s.Get("/v1/operator/guard", &st) && len(st.Unknown) == 1 && st.Unknown[0].Node == p.Name && st.Unknown[0].Why == "restarting"
		})
		if status := liveness(s, p.Name); status != "passing" {
			t.Errorf("%s is %s while it restarts", p.Name, status)
		}
		p.Start(t)
		p.WaitReady(t)
		testcluster.Eventually(t, "the leader knows that it is back", func() bool {
			var st struct{ Unknown []struct{ Node string } }
			return s.Get("/v1/operator/guard", &st) && len(st.Unknown) == 0
		})
		// The comparison of what is registered here with the catalog has run, and had nothing to write.
		testcluster.Eventually(t, p.Name+" has its service", func() bool {
			var all map[string]any
			return p.Get("/v1/agent/services", &all) && len(all) == 1
		})
	}
	for _, path := range paths {
		if now := indexOf(t, s, path); now != before[path] {
			t.Errorf("%s went from %s to %s", path, before[path], now)
		}
	}
}

// TestRestartThatTakesTooLong is a stop: after the grace the node is critical.
func TestRestartThatTakesTooLong(t *testing.T) {
	t.Parallel()
	c := testcluster.Start(t, 1, 1, `-hcl=restart_grace = "2s"`)
	s, p := c.Servers[0], c.Proxies[0]
	testcluster.Eventually(t, "the node is there", func() bool { status := liveness(s, p.Name); return status == "passing" })
	began := time.Now()
	p.Stop(t)
	testcluster.Eventually(t, "the node is critical", func() bool { status := liveness(s, p.Name); return status == "critical" })
	if d := time.Since(began); d < time.Second {
		t.Errorf("it was critical after %v, within the grace", d)
	}
	p.Start(t)
	testcluster.Eventually(t, "the node is back", func() bool { status := liveness(s, p.Name); return status == "passing" })
	p.Crash(t) // no announcement, and that of before is spent
	testcluster.Eventually(t, "the node is critical again", func() bool { status := liveness(s, p.Name); return status == "critical" })
}

// TestLeaveIsNoRestart: the node goes at once.
func TestLeaveIsNoRestart(t *testing.T) {
	t.Parallel()
	c := testcluster.Start(t, 1, 1)
	c.Proxies[0].Leave(t)
	testcluster.Eventually(t, "the node is gone", func() bool { status := liveness(c.Servers[0], "p1"); return status == "" })
}
