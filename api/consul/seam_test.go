package consul_test

import (
	"context"
	"encoding/json"
	"errors"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/hashicorp/serf/coordinate"

	"github.com/musterhq/muster/api"
	"github.com/musterhq/muster/api/apitest"
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

// guardless is a guard that holds nothing.
type guardless struct{}

func (guardless) Guard(context.Context) consul.GuardState { return consul.GuardState{} }
func (guardless) Release(context.Context, string) error   { return nil }
func (guardless) GuardNodes() (none consul.GuardNodes)    { return none }

// free are the routes that ask nobody: they tell nothing that a token could protect.
var free = map[string]string{
	"/v1/status/leader":                       "who leads is no secret",
	"/v1/status/peers":                        "who the servers are is no secret",
	"/v1/catalog/datacenters":                 "there is one",
	"/v1/coordinate/datacenters":              "there is one",
	"/v1/acl/":                                "answers that there is no access control",
	"/v1/internal/acl/authorize":              "answers that there is no access control",
	"/v1/agent/connect/ca/roots":              "a public certificate",
	"/v1/connect/ca/roots":                    "a public certificate",
	"/v1/config/":                             "empty: no mesh",
	"/v1/connect/intentions":                  "empty: no mesh",
	"/v1/catalog/connect/":                    "empty: no mesh",
	"/v1/catalog/gateway-services/":           "empty: no mesh",
	"/v1/health/connect/":                     "empty: no mesh",
	"/v1/health/ingress/":                     "empty: no mesh",
	"/v1/exported-services":                   "empty: no mesh",
	"/v1/peerings":                            "empty: no mesh",
	"/v1/internal/ui/exported-services":       "empty: no mesh",
	"/v1/internal/ui/gateway-services-nodes/": "empty: no mesh",
}

// request is what a route wants before it asks: the rest of the path, and a body.
type request struct{ rest, body string }

// requests makes something that each route could show or change, and says how to ask for it.
func requests(t *testing.T, store *apitest.Store) map[string]request {
	t.Helper()
	addInstances(t, store, "web", 1)
	rt, err := api.NewRouter(api.RouterConfig{Routes: consul.New(consul.Config{Store: store, Datacenter: "dc1", NodeName: nodeName}).Routes()})
	if err != nil {
		t.Fatal(err)
	}
	made := func(method, path, body string) string {
		rec := httptest.NewRecorder()
		rt.ServeHTTP(rec, httptest.NewRequest(method, path, strings.NewReader(body)))
		var x struct{ ID string }
		if err := json.Unmarshal(rec.Body.Bytes(), &x); err != nil || x.ID == "" {
			t.Fatalf("%s: %d %s", path, rec.Code, rec.Body)
		}
		return x.ID
	}
	session := made("PUT", "/v1/session/create", "")
	const find = `{"Name":"find","Service":{"Service":"web"}}`
	query := made("POST", "/v1/query", find)
	return map[string]request{
		"PUT /v1/catalog/register":   {"", `{"Node":"x","Address":"10.0.0.1"}`},
		"PUT /v1/catalog/deregister": {"", `{"Node":"` + nodeName + `"}`},
		"GET /v1/health/checks/":     {"web", ""},
		"GET /v1/health/node/":       {nodeName, ""},
		"GET /v1/health/state/":      {"any", ""},
		"PUT /v1/txn":                {"", `[{"KV":{"Verb":"set","Key":"a","Value":""}}]`},
		"POST /v1/query":             {"", find},
		"GET /v1/query/":             {query, ""},
		"PUT /v1/query/":             {query, find},
		"DELETE /v1/query/":          {query, ""},
		"PUT /v1/coordinate/update":  {"", `{"Node":"` + nodeName + `","Coord":{"Vec":[0,0,0,0,0,0,0,0],"Error":1.5,"Adjustment":0,"Height":0.00001}}`},
		"GET /v1/coordinate/node/":   {nodeName, ""},
		"GET /v1/session/info/":      {session, ""},
		"GET /v1/session/node/":      {nodeName, ""},
		"PUT /v1/session/destroy/":   {session, ""},
		"PUT /v1/session/renew/":     {session, ""},
	}
}

// Every route asks the Authorizer, with the token of the request, before it shows or changes anything.
func TestEveryRouteAsksTheAuthorizer(t *testing.T) {
	d := &denier{}
	store, _ := newServer(t)
	wants := requests(t, store)
	a := consul.New(consul.Config{Store: store, Datacenter: "dc1", NodeName: nodeName, Authorizer: d, GuardControl: guardless{}, Upstreams: func() any { return nil }, Doctor: func(context.Context) any { return nil }, Coordinate: func(string) (*coordinate.Coordinate, bool) {
		return coordinate.NewCoordinate(coordinate.DefaultConfig()), true
	}})
	known := map[string]bool{}
	before := store.Tree.Snap().Index()
	for _, route := range a.Routes() {
		known[route.Pattern] = true
		rt, err := api.NewRouter(api.RouterConfig{Routes: []api.Route{route}})
		if err != nil {
			t.Fatal(err)
		}
		for _, method := range route.Methods {
			x := wants[method+" "+route.Pattern]
			target := route.Pattern + x.rest
			if strings.HasSuffix(target, "/") {
				target += "x"
			}
			was := d.asked.Load()
			r := httptest.NewRequest(method, target, strings.NewReader(x.body))
			r.Header.Set("X-Consul-Token", "secret")
			rec := httptest.NewRecorder()
			rt.ServeHTTP(rec, r)
			asked := d.asked.Load() > was
			if asked == (free[route.Pattern] != "") {
				t.Errorf("%s %s: asked %v, answer %d %s", method, target, asked, rec.Code, rec.Body)
			}
		}
	}
	if n := d.wrongToken.Load(); n > 0 {
		t.Errorf("%d questions had another token than the request", n)
	}
	if now := store.Tree.Snap().Index(); now != before {
		t.Errorf("refused requests moved the index from %d to %d", before, now)
	}
	for pattern, why := range free {
		if !known[pattern] || why == "" {
			t.Errorf("%s (%s) is no route", pattern, why)
		}
	}
}
