package agent_test

import (
	"errors"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/musterhq/muster/api/consul"
	"github.com/musterhq/muster/internal/testcluster"
)

// doorman knows one token that may do nothing, and remembers what was asked with another.
type doorman struct {
	mu        sync.Mutex
	asked     map[consul.Access]int
	strangers atomic.Int64 // questions for them
}

func (d *doorman) Authorize(token string, a consul.Access) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	switch token {
	case "stranger":
		d.strangers.Add(1)
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

// openRoutes tell nothing that a token could protect, or take no orders.
var openRoutes = map[string]string{
	"/v1/agent/version": "the version is no secret", "/version": "the version is no secret",
	"/v1/agent/token/": "answers that there is no access control", "/v1/acl/": "answers that there is no access control",
	"/v1/internal/acl/authorize": "answers that there is no access control", "/v2/auth/": "answers that there is no access control",
	"/v1/status/leader": "who leads is no secret", "/v1/status/peers": "who the servers are is no secret",
	"/v2/machines": "who the servers are is no secret", "/v2/members/": "to read; changes are tested with the dialect",
	"/health": "whether all is well is no secret", "/v2/stats/self": "open in etcd, too", "/v2/stats/leader": "open in etcd, too", "/v2/stats/store": "open in etcd, too",
	"/v1/catalog/datacenters": "there is one", "/v1/coordinate/datacenters": "there is one",
	"/v1/agent/connect/ca/roots": "a public certificate", "/v1/connect/ca/roots": "a public certificate",
	"/v1/config/": "empty: no mesh", "/v1/connect/intentions": "empty: no mesh", "/v1/catalog/connect/": "empty: no mesh", "/v1/catalog/gateway-services/": "empty: no mesh",
	"/v1/health/connect/": "empty: no mesh", "/v1/health/ingress/": "empty: no mesh", "/v1/exported-services": "empty: no mesh", "/v1/peerings": "empty: no mesh",
	"/v1/internal/ui/exported-services": "empty: no mesh", "/v1/internal/ui/gateway-services-nodes/": "empty: no mesh",
	"/v1/internal/removed/": "agents ask whether they were removed", "/dns-query": "names are told to whoever asks, as by DNS",
}

// Whatever an agent shows it shows after asking the Authorizer, or it is known to need nobody's leave. That what is empty here,
// or wants a body, asks when there is something is tested with each dialect.
func TestEveryRouteOfAnAgentAsks(t *testing.T) {
	d := &doorman{asked: map[consul.Access]int{}}
	c := testcluster.Start(t, 0, 0)
	s := c.PlanServer(t, "s1", "-bootstrap-expect=1", "-hcl=enable_debug = true")
	s.Authorizer = d
	s.Start(t)
	c.WaitReady(t)
	known := map[string]bool{}
	for _, route := range s.Agent().Table() {
		known[route.Pattern] = true
		method, path := http.MethodGet, route.Pattern
		if len(route.Methods) > 0 {
			method = route.Methods[0]
		}
		if strings.HasSuffix(path, "/") {
			path += "s1"
		}
		was := d.strangers.Load()
		a := s.Do(method, path+"?enable=true&seconds=1&token=stranger", "")
		asked, empty := d.strangers.Load() > was, strings.Trim(a.Body, "[]{}\n") == ""
		switch open := openRoutes[route.Pattern] != ""; {
		case open && asked:
			t.Errorf("%s %s asks after all", method, path)
		case !open && !asked && a.OK() && !empty:
			t.Errorf("%s %s tells anybody %d %s", method, path, a.Status, a.Body)
		}
	}
	for pattern, why := range openRoutes {
		if !known[pattern] {
			t.Errorf("%s (%s) is no route", pattern, why)
		}
	}
}
