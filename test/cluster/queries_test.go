package cluster_test

import (
	"testing"

	"github.com/musterhq/muster/internal/testcluster"
)

// TestQueryFindsTheNearestByDNS registers a service on every agent and looks it up by a prepared query that sorts by
// distance from the agent that is asked: each agent has itself first. Coordinates come by gossip and cost no write, and
// a proxy goes on answering when the servers are gone.
func TestQueryFindsTheNearestByDNS(t *testing.T) {
	t.Parallel()
	c := testcluster.Start(t, 1, 1)
	s, p := c.Servers[0], c.Proxies[0]
	for _, h := range c.All() {
		h.Put(t, "/v1/agent/service/register", `{"Name":"web","Port":80}`)
		testcluster.Eventually(t, h.Name+" is in the catalog", func() bool { return healthy(s, "web") >= 1 })
	}
	testcluster.Eventually(t, "both are in the catalog", func() bool { return healthy(s, "web") == 2 })
	if a := p.Do("POST", "/v1/query", `{"Name":"nearest","Service":{"Service":"web","Near":"_agent"},"DNS":{"TTL":"1s"}}`); !a.OK() {
		t.Fatal(a)
	}
	for _, h := range c.All() {
		for _, path := range []string{"/v1/query/nearest/execute?limit=1", "/v1/query/nearest/execute?limit=1&stale"} {
			var found struct {
				Nodes []struct{ Node struct{ Node string } }
			}
			if !h.Get(path, &found) || len(found.Nodes) != 1 || found.Nodes[0].Node.Node != h.Name {
				t.Errorf("%s at %s: %+v", path, h.Name, found)
			}
		}
		if n := lookup(h, "nearest.query.consul."); n != 2 {
			t.Errorf("%s: %d answers by DNS", h.Name, n)
		}
		if n := lookup(h, "nope.query.consul."); n != 0 {
			t.Errorf("%s: %d answers to a query that is not there", h.Name, n)
		}
	}
	before, _, _ := s.Agent().StateHash()
	testcluster.Eventually(t, "the server knows where both stand", func() bool {
		var list []struct{ Node string }
		return p.Get("/v1/coordinate/nodes", &list) && len(list) == 2
	})
	if after, _, _ := s.Agent().StateHash(); after != before {
		t.Errorf("coordinates moved the index from %d to %d", before, after)
	}
	var self struct{ Coord struct{ Vec []float64 } }
	if !p.Get("/v1/agent/self", &self) || len(self.Coord.Vec) != 8 {
		t.Errorf("%+v", self)
	}
	s.Crash(t)
	testcluster.Eventually(t, "the proxy answers alone", func() bool { return lookup(p, "nearest.query.consul.") == 2 })
}
