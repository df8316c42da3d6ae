package agent_test

import (
	"errors"
	"net/http"
	"sync"
	"testing"

	"github.com/musterhq/muster/api/consul"
	"github.com/musterhq/muster/internal/testcluster"
)

// doorman knows one token that may do nothing, and remembers what was asked with another.
type doorman struct {
	mu    sync.Mutex
	asked map[consul.Access]int
}

func (d *doorman) Authorize(token string, a consul.Access) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	switch token {
	case "stranger":
		return errors.New("Permission denied")
	case "friend":
		d.asked[a]++
	}
	return nil
}

// The token of a request decides at the agent that was asked and, where that asks the servers, there, too.
func TestTokensDecideEverywhere(t *testing.T) {
	d := &doorman{asked: map[consul.Access]int{}}
	c := testcluster.Start(t, 0, 0)
	s := c.PlanServer(t, "s1", "-bootstrap-expect=1", "-hcl=enable_debug = true")
	s.Authorizer = d
	s.Start(t)
	p := c.AddProxy(t, "p1") // asks nobody itself: what it relays is decided at the server
	c.WaitReady(t)
	for _, path := range []string{"/v1/agent/self", "/v1/agent/metrics", "/metrics", "/debug/pprof/", "/v1/agent/why/node/s1", "/v1/agent/why/any/s1", "/v1/agent/why/check/serfHealth", "/v1/kv/a", "/v1/operator/raft/configuration"} {
		if a := s.Do(http.MethodGet, path+"?token=stranger", ""); a.Status != http.StatusForbidden || a.Body != "Permission denied" && a.Body != "Permission denied\n" {
			t.Errorf("%s for a stranger: %d %s", path, a.Status, a.Body)
		}
	}
	for _, h := range []*testcluster.Host{s, p} {
		if a := h.Do(http.MethodGet, "/v1/agent/why/service/web?token=friend", ""); a.Status != http.StatusOK {
			t.Errorf("%s: %d %s", h.Name, a.Status, a.Body)
		}
	}
	if a := p.Do(http.MethodGet, "/v1/agent/why/service/web?token=stranger", ""); a.Status != http.StatusForbidden {
		t.Errorf("a stranger at the proxy: %d %s", a.Status, a.Body)
	}
	if n := d.asked[consul.Access{Resource: "service", Name: "web"}]; n != 2 {
		t.Errorf("asked %d times, want once for each of the agents, by the leader", n)
	}
}
