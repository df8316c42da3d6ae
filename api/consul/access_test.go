package consul_test

import (
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"

	"github.com/musterhq/muster/api"
	"github.com/musterhq/muster/api/consul"
	"github.com/musterhq/muster/catalog"
)

// rules allow everything but what is denied, and remember the questions in the words of the rules: "node:write n1".
type rules struct {
	denied func(consul.Access) bool
	asked  []string
}

func (z *rules) Authorize(_ string, a consul.Access) error {
	level := "read"
	if a.Write {
		level = "write"
	}
	z.asked = append(z.asked, strings.TrimSpace(fmt.Sprintf("%s:%s %s", a.Resource, level, a.Name)))
	if z.denied != nil && z.denied(a) {
		return errors.New("Permission denied")
	}
	return nil
}

func routerOf(t *testing.T, routes []api.Route) http.Handler {
	t.Helper()
	rt, err := api.NewRouter(api.RouterConfig{Routes: routes})
	if err != nil {
		t.Fatal(err)
	}
	return rt
}

// Each route asks for the right that the contract names (consul-agent 5.3), and for no other.
func TestWhatEachRouteAsksFor(t *testing.T) {
	z := &rules{}
	store, _ := newServer(t)
	wants := requests(t, store)
	rt := routerOf(t, consul.New(consul.Config{Store: store, Datacenter: "dc1", NodeName: nodeName, Authorizer: z}).Routes())
	session := wants["PUT /v1/session/renew/"].rest
	for _, c := range []struct{ request, body, asked string }{
		{"GET /v1/kv/a", "", "key:read a"},
		{"PUT /v1/kv/a", "1", "key:write a"},
		{"DELETE /v1/kv/a?recurse", "", "key-prefix:write a"},
		{"PUT /v1/catalog/register", `{"Node":"x","Address":"10.0.0.1","Service":{"ID":"db1","Service":"db"}}`, "node:write x,service:write db"},
		{"PUT /v1/catalog/deregister", `{"Node":"x"}`, "node:write x"},
		{"GET /v1/catalog/nodes", "", "node:read " + nodeName + ",node:read node-0000"},
		{"GET /v1/catalog/service/web", "", "service:read web,node:read node-0000"},
		{"GET /v1/health/service/web", "", "service:read web,node:read node-0000"},
		{"GET /v1/health/service/web?passing", "", "service:read web,node:read node-0000"},
		{"GET /v1/health/checks/web", "", "node:read node-0000,service:read web"},
		{"GET /v1/health/node/node-0000", "", "node:read node-0000,node:read node-0000,service:read web"},
		{"PUT /v1/session/renew/" + session, "", "session:write " + nodeName},
		{"GET /v1/session/list", "", "session:read " + nodeName},
		{"PUT /v1/txn", `[{"Session":{"Verb":"delete","Session":{"ID":"` + session + `"}}}]`, "session:write " + nodeName},
		{"PUT /v1/session/destroy/" + session, "", "session:write"}, // it is gone
		{"PUT /v1/session/create", "", "session:write " + nodeName},
		{"PUT /v1/txn", `[{"KV":{"Verb":"get","Key":"a"}},{"Node":{"Verb":"get","Node":{"Node":"node-0000"}}}]`, "key:read a,node:read node-0000"},
	} {
		z.asked = nil
		method, target, _ := strings.Cut(c.request, " ")
		rec := httptest.NewRecorder()
		rt.ServeHTTP(rec, httptest.NewRequest(method, target, strings.NewReader(c.body)))
		if got := strings.Join(z.asked, ","); got != c.asked || rec.Code == http.StatusForbidden {
			t.Errorf("%s asks for %q, want %q; answer %d %s", c.request, got, c.asked, rec.Code, rec.Body)
		}
	}
}

// Answers leave out what is on nodes, or belongs to services, that the token may not read, whether or not somebody else
// has just been shown it.
func TestAnswersLeaveOutWhatMayNotBeRead(t *testing.T) {
	z := &rules{}
	store, _ := newServer(t)
	addInstances(t, store, "web", 2)
	store.Register(t, catalog.Registration{
		Node: catalog.Node{Name: "node-0000"}, SkipNodeUpdate: true, Service: &catalog.Service{ID: "db-1", Name: "db", Port: 1},
		Checks: []*catalog.Check{{ID: "service:db", Name: "hidden check", Status: catalog.Passing, ServiceID: "db-1"}},
	})
	rt := routerOf(t, consul.New(consul.Config{Store: store, Datacenter: "dc1", NodeName: nodeName, Authorizer: z}).Routes())
	get := func(path string) string {
		rec := httptest.NewRecorder()
		rt.ServeHTTP(rec, httptest.NewRequest(http.MethodGet, path, http.NoBody))
		if rec.Code != http.StatusOK {
			t.Fatalf("%s: %d %s", path, rec.Code, rec.Body)
		}
		return rec.Body.String()
	}
	save := httptest.NewRecorder()
	rt.ServeHTTP(save, httptest.NewRequest(http.MethodPost, "/v1/query", strings.NewReader(`{"Name":"find","Service":{"Service":"web"}}`)))
	few := func(a consul.Access) bool {
		return a.Resource == "node" && a.Name == "node-0001" || a.Resource == "service" && a.Name == "db"
	}
	for _, path := range []string{
		"/v1/catalog/nodes", "/v1/catalog/service/web", "/v1/catalog/service/web?near=node-0000", "/v1/health/service/web", "/v1/health/service/web?passing",
		"/v1/health/service/web?near=node-0000", "/v1/health/checks/web", "/v1/health/state/any", "/v1/query/find/execute",
		"/v1/internal/ui/nodes", "/v1/internal/ui/catalog-overview", "/v1/catalog/services", "/v1/catalog/node/node-0000", "/v1/health/node/node-0000",
	} {
		hidden := []string{"node-0001", "db", "hidden check"}
		z.denied = nil
		all := get(path)
		if !slices.ContainsFunc(hidden, func(s string) bool { return strings.Contains(all, s) }) {
			t.Errorf("%s shows nothing that could be hidden: %s", path, all)
		}
		z.denied = few
		if some := get(path); slices.ContainsFunc(hidden, func(s string) bool { return strings.Contains(some, s) }) || len(some) < 3 {
			t.Errorf("%s with few rights: %s", path, some)
		}
		z.denied = nil
		if again := get(path); len(again) != len(all) {
			t.Errorf("%s: %s, and after somebody with few rights %s", path, all, again)
		}
	}
}
