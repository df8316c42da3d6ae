package agent

import (
	"context"
	"errors"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"

	"github.com/musterhq/muster/api"
	"github.com/musterhq/muster/api/consul"
)

// denier refuses everything and counts who asked.
type denier struct{ asked, wrongToken atomic.Int64 }

func (d *denier) Authorize(token string, _ consul.Access) error {
	d.asked.Add(1)
	if token != "secret" {
		d.wrongToken.Add(1)
	}
	return errors.New("Permission denied")
}

// clerk allows everything and writes down what he was asked.
type clerk struct{ asked []string }

func (c *clerk) Authorize(_ string, a consul.Access) error {
	level := ":read "
	if a.Write {
		level = ":write "
	}
	c.asked = append(c.asked, strings.TrimSpace(a.Resource+level+a.Name))
	return nil
}

// Each route of the agent itself asks for the right that the contract names (consul-agent 5.3).
func TestWhatEachAgentRouteAsksFor(t *testing.T) {
	rig := openRig(t, "", newFakeCluster())
	c, node := &clerk{}, &fakeNode{}
	rt, err := api.NewRouter(api.RouterConfig{Routes: consul.NewAgentAPI(consul.AgentConfig{
		Datacenter: "dc1", NodeName: "n1", Registry: rig.Registry, Members: node, Control: node, Info: node, Authorizer: c,
	}).Routes()})
	must(t, err)
	for _, x := range []struct{ request, body, asked string }{
		{"PUT /v1/agent/service/register", `{"ID":"a","Name":"web","Check":{"TTL":"1h"}}`, "service:write web"},
		{"PUT /v1/agent/service/register", `{"ID":"a","Name":"db","Check":{"TTL":"1h"}}`, "service:write db,service:write web"}, // takes the name away
		{"PUT /v1/agent/check/register", `{"Name":"disk","TTL":"1h"}`, "node:write n1"},
		{"PUT /v1/agent/check/register", `{"Name":"more","TTL":"1h","ServiceID":"a"}`, "service:write db"},
		{"PUT /v1/agent/check/pass/disk", "", "node:write n1"},
		{"PUT /v1/agent/check/pass/service:a", "", "service:write db"},
		{"GET /v1/agent/services", "", "service:read db"},
		{"GET /v1/agent/service/a", "", "service:read db"},
		{"GET /v1/agent/checks", "", "node:read n1,node:read n1,service:read db,node:read n1,service:read db"},
		{"PUT /v1/agent/maintenance?enable=true", "", "node:write n1"},
		{"PUT /v1/agent/service/deregister/a", "", "service:write db"},
		{"GET /v1/agent/self", "", "agent:read n1"},
		{"PUT /v1/agent/reload", "", "agent:write n1"},
		{"PUT /v1/agent/force-leave/x", "", "operator:write"},
	} {
		c.asked = nil
		method, target, _ := strings.Cut(x.request, " ")
		rec := httptest.NewRecorder()
		rt.ServeHTTP(rec, httptest.NewRequest(method, target, strings.NewReader(x.body)))
		if got := strings.Join(c.asked, ","); got != x.asked || rec.Code >= http.StatusInternalServerError {
			t.Errorf("%s asks for %q, want %q; answer %d %s", x.request, got, x.asked, rec.Code, rec.Body)
		}
	}
}

// oneEvent is a source of user events.
type oneEvent struct{}

func (oneEvent) Fire(context.Context, *consul.UserEvent) error { return errors.New("fired") }
func (oneEvent) Events() ([]*consul.UserEvent, <-chan struct{}) {
	return []*consul.UserEvent{{ID: "b54fe110-7af5-cafc-d1fb-afc8ba432b1c", Name: "deploy"}}, nil
}

// Every route of the agent itself asks the Authorizer, with the token of the request, before it shows or changes anything, and
// answers the same about what is there and what is not.
func TestEveryAgentRouteAsksTheAuthorizer(t *testing.T) {
	rig := openRig(t, "", newFakeCluster())
	register(t, rig, consul.ServiceDefinition{Name: "web", Port: 1, Check: &consul.CheckDefinition{TTL: time.Hour}})
	d, node := &denier{}, &fakeNode{}
	a := consul.NewAgentAPI(consul.AgentConfig{
		Datacenter: "dc1", Registry: rig.Registry, Members: node, Control: node, Info: node, Events: oneEvent{}, Logs: hclog.NewInterceptLogger(nil),
		Metrics: func(http.ResponseWriter, *http.Request) (any, error) { return nil, nil }, Authorizer: d,
	})
	free := map[string]string{
		"/v1/agent/version": "the version is no secret",
		"/v1/agent/token/":  "answers that there is no access control",
	}
	bodies := map[string]string{
		"/v1/agent/service/register": `{"Name":"new"}`,
		"/v1/agent/check/register":   `{"Name":"new","TTL":"1h"}`,
		"/v1/agent/check/update/":    `{"Status":"passing"}`,
	}
	for _, route := range a.Routes() {
		rt, err := api.NewRouter(api.RouterConfig{Routes: []api.Route{route}})
		must(t, err)
		targets := []string{route.Pattern}
		if strings.HasSuffix(route.Pattern, "/") {
			targets = []string{route.Pattern + "web", route.Pattern + "service:web", route.Pattern + "none"}
		}
		for _, method := range route.Methods {
			for _, target := range targets {
				if strings.Contains(target, "maintenance") {
					target += "?enable=true"
				}
				was := d.asked.Load()
				r := httptest.NewRequest(method, target, strings.NewReader(bodies[route.Pattern]))
				r.Header.Set("X-Consul-Token", "secret")
				rec := httptest.NewRecorder()
				rt.ServeHTTP(rec, r)
				if asked := d.asked.Load() > was; asked == (free[route.Pattern] != "") {
					t.Errorf("%s %s: asked %v, answer %d %s", method, target, asked, rec.Code, rec.Body)
				}
				if free[route.Pattern] == "" && rec.Code != http.StatusForbidden && strings.Trim(rec.Body.String(), "[]{}\n") != "" {
					t.Errorf("%s %s answers %d %s", method, target, rec.Code, rec.Body)
				}
			}
		}
	}
	if n := d.wrongToken.Load(); n > 0 {
		t.Errorf("%d questions had another token than the request", n)
	}
	services, checks := rig.Services(), rig.Checks()
	if len(services) != 1 || len(checks) != 1 || checks[0].Status != "critical" || len(node.calls) != 0 {
		t.Errorf("refused requests changed something: %d services, %d checks, %v", len(services), len(checks), node.calls)
	}
}
