package consul_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	client "github.com/hashicorp/consul/api"

	"github.com/musterhq/muster/api"
	"github.com/musterhq/muster/api/consul"
	"github.com/musterhq/muster/catalog"
	"github.com/musterhq/muster/kv"
)

// ask sends one request and returns status, headers and body.
func ask(t testing.TB, srv *httptest.Server, method, target, body string) (int, http.Header, string) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, srv.URL+target, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	res, err := srv.Client().Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = res.Body.Close() }()
	b, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatal(err)
	}
	return res.StatusCode, res.Header, string(b)
}

func want(t testing.TB, srv *httptest.Server, method, target, body string, status int, text string) {
	t.Helper()
	if s, _, b := ask(t, srv, method, target, body); s != status || b != text {
		t.Errorf("%s %s: %d %.300q, want %d %.300q", method, target, s, b, status, text)
	}
}

func TestKeysAreFlat(t *testing.T) {
	_, srv := newServer(t)
	keys := []string{"a", "a/b", "a//b", "dir/", "%2Flead", "a/b/../c", "k%20e%3Fy", "ünï", "a.b"}
	for i, k := range keys {
		want(t, srv, "PUT", "/v1/kv/"+k, fmt.Sprint(i), 200, "true")
	}
	for i, k := range keys {
		want(t, srv, "GET", "/v1/kv/"+k+"?raw", "", 200, fmt.Sprint(i))
	}
	want(t, srv, "GET", "/v1/kv/?keys", "", 200, `["/lead","a","a.b","a//b","a/b","a/b/../c","dir/","k e?y","ünï"]`)
	want(t, srv, "GET", "/v1/kv/a/?keys&separator=/", "", 200, `["a//","a/b","a/b/"]`)
	want(t, srv, "GET", "/v1/kv/dir", "", 404, "")
	want(t, srv, "DELETE", "/v1/kv/a", "", 200, "true")
	want(t, srv, "GET", "/v1/kv/a/b?raw", "", 200, "1")
	want(t, srv, "DELETE", "/v1/kv/a/?recurse", "", 200, "true")
	want(t, srv, "GET", "/v1/kv?keys", "", 200, `["/lead","a.b","dir/","k e?y","ünï"]`)
	want(t, srv, "DELETE", "/v1/kv/?recurse", "", 200, "true")
	want(t, srv, "GET", "/v1/kv/?keys", "", 200, `[]`)
	want(t, srv, "GET", "/v1/kv/?recurse", "", 404, ``)
}

func TestBadRequestsChangeNothing(t *testing.T) {
	store, srv := newServer(t)
	before := store.Tree.Snap().Index()
	for _, c := range []struct {
		method, target, body string
		status               int
	}{
		{"PUT", "/v1/kv/%01", "x", 400},
		{"PUT", "/v1/kv/a?cas=x", "x", 500},
		{"PUT", "/v1/kv/a?cas=", "x", 500},
		{"PUT", "/v1/kv/a?flags=%zz", "x", 500},
		{"PUT", "/v1/kv/" + strings.Repeat("long", 5000), "x", 400},
		{"DELETE", "/v1/kv/a?cas=-1", "", 500},
		{"PUT", "/v1/kv/a?acquire=", "x", 500},
		{"GET", "/v1/kv/a?wait=5", "", 400},
		{"PUT", "/v1/catalog/register", "", 400},
		{"PUT", "/v1/catalog/register", `{"Node":"x","Address":"1.2.3.4","Service":{"Service":"s","Nope":1}}`, 400},
		{"PUT", "/v1/catalog/register", `{"Node":"x","Address":"1.2.3.4","Service":{"Service":"s","Port":"80"}}`, 400},
		{"PUT", "/v1/catalog/register", `{"Node":"x","Address":"1.2.3.4","Namespace":"default"}`, 400},
		{"PUT", "/v1/catalog/register", `{"Node":"x","Address":"1.2.3.4","Check":{"Name":"c","Definition":{"Interval":"soon"}}}`, 400},
		{"PUT", "/v1/catalog/register?dc=other", `{"Node":"x","Address":"1.2.3.4"}`, 500},
		{"PUT", "/v1/catalog/register?partition=default", `{"Node":"x","Address":"1.2.3.4"}`, 400},
		{"PUT", "/v1/session/create", `{"LockDelay":-5}`, 400},
		{"PUT", "/v1/session/create", `{"LockDelay":"soon"}`, 400},
		{"GET", "/v1/health/service/web?filter=a%20b", "", 500},
		{"GET", "/v1/health/service/web?passing=maybe", "", 400},
		{"GET", "/v1/session/nope", "", 404},
	} {
		status, _, body := ask(t, srv, c.method, c.target, c.body)
		if status != c.status {
			t.Errorf("%s %.60s: %d %q, want %d", c.method, c.target, status, body, c.status)
		}
	}
	if after := store.Tree.Snap().Index(); after != before {
		t.Errorf("the index moved from %d to %d", before, after)
	}
}

func TestServerThatIsNotTheLeader(t *testing.T) {
	store, srv := newServer(t)
	index := store.Tree.Snap().Index()
	for _, c := range []struct {
		err    error
		status int
		text   string
	}{{api.ErrNotLeader, 503, "This server is not the leader"}, {api.ErrNoLeader, 500, "No cluster leader"}} {
		store.Fail(c.err)
		for _, r := range [][2]string{
			{"GET", "/v1/kv/a"}, {"PUT", "/v1/kv/a"}, {"DELETE", "/v1/kv/a"}, {"GET", "/v1/kv/?keys"}, {"PUT", "/v1/kv/a?acquire=x"},
			{"GET", "/v1/health/service/web"}, {"GET", "/v1/catalog/nodes?consistent"}, {"PUT", "/v1/session/create"},
			{"PUT", "/v1/session/destroy/x"}, {"PUT", "/v1/session/renew/x"}, {"GET", "/v1/session/list"},
		} {
			status, h, body := ask(t, srv, r[0], r[1], "")
			if status != c.status || body != c.text || (h.Get(api.NotLeaderHeader) != "") != errors.Is(c.err, api.ErrNotLeader) {
				t.Errorf("%s %s: %d %q %v", r[0], r[1], status, body, h)
			}
		}
		if status, h, _ := ask(t, srv, "GET", "/v1/health/service/web?stale", ""); status != 200 || h.Get("X-Consul-Knownleader") != "false" {
			t.Errorf("stale read: %d %v", status, h)
		}
		want(t, srv, "GET", "/v1/status/leader", "", 200, `"127.0.0.1:8300"`)
		want(t, srv, "GET", "/v1/catalog/datacenters", "", 200, `["dc1"]`)
	}
	if now := store.Tree.Snap().Index(); now != index {
		t.Errorf("the index moved from %d to %d", index, now)
	}
}

func TestRoutesSayWhereTheyGo(t *testing.T) {
	_, rt := newRouter(t)
	for target, want := range map[string]api.Target{
		"/v1/kv/a": api.Leader, "/v1/kv/a?stale": api.Any, "/v1/kv/a?max_stale=5s": api.Any, "/v1/kv/a?consistent": api.Leader,
		"/v1/health/service/stale": api.Leader, "/v1/health/service/x?tag=stale": api.Leader, "/v1/kv/a?stale&leader": api.Leader,
		"/v1/status/leader": api.Any, "/v1/status/peers": api.Any,
	} {
		r := httptest.NewRequest("GET", target, nil)
		route := rt.Lookup(r.URL.Path)
		if route == nil || route.Where != api.Cluster || route.TargetOf(r) != want {
			t.Errorf("GET %s: %+v", target, route)
		}
	}
	if r := rt.Lookup("/v1/kv/a"); r.TargetOf(httptest.NewRequest("PUT", "/v1/kv/a?stale", nil)) != api.Leader {
		t.Error("a write may go anywhere")
	}
	for _, path := range []string{"/v1/catalog/datacenters", "/v1/acl/tokens"} {
		if r := rt.Lookup(path); r == nil || r.Where != api.Local {
			t.Errorf("%s: %+v", path, r)
		}
	}
}

func TestBlockingHealthQueriesShareOneAnswer(t *testing.T) {
	store, srv := newServer(t)
	addInstances(t, store, "web", 3)
	addInstances(t, store, "other", 1)
	_, h, first := ask(t, srv, "GET", "/v1/health/service/web", "")
	index := h.Get("X-Consul-Index")
	const waiters = 100
	answers := make(chan string, waiters)
	for range waiters {
		go func() {
			_, _, body := ask(t, srv, "GET", "/v1/health/service/WEB?wait=30s&index="+index, "")
			answers <- body
		}()
	}
	// A change elsewhere wakes nobody, one of the service wakes all.
	want(t, srv, "PUT", "/v1/catalog/register", `{"Node":"node-0002","SkipNodeUpdate":true,"Service":{"Service":"third"}}`, 200, "true")
	want(t, srv, "PUT", "/v1/catalog/register", `{"Node":"node-0001","SkipNodeUpdate":true,"Check":{"CheckID":"disk","Status":"critical"}}`, 200, "true")
	var seen string
	for range waiters {
		select {
		case body := <-answers:
			if seen == "" {
				seen = body
			}
			if body != seen || body == first || !strings.Contains(body, `"disk"`) {
				t.Fatalf("answers differ: %.200s", body)
			}
		case <-time.After(time.Minute):
			t.Fatal("a waiter was forgotten")
		}
	}
	_, _, passing := ask(t, srv, "GET", "/v1/health/service/web?passing&tag=V1", "")
	var list []consul.ServiceEntry
	if err := json.Unmarshal([]byte(passing), &list); err != nil || len(list) != 2 {
		t.Errorf("%d passing, %v", len(list), err)
	}
	// Another spelling, and pretty, come from the same data.
	_, _, pretty := ask(t, srv, "GET", "/v1/health/service/web?pretty", "")
	var b bytes.Buffer
	if err := json.Compact(&b, []byte(pretty)); err != nil || b.String() != seen || !strings.HasSuffix(pretty, "\n") {
		t.Errorf("pretty differs: %v", err)
	}
}

func TestRecursiveQueryIgnoresNeighbours(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLeader(t)
		defer l.close()
		l.want("PUT", "/v1/kv/cfg/app1", "1", 200, "true")
		got := make(chan string, 1)
		go func() {
			index := l.store.Tree.Snap().IndexOf("k/cfg")
			_, body := l.ask("GET", fmt.Sprintf("/v1/kv/cfg/app?recurse&wait=30s&index=%d", index), "")
			got <- body
		}()
		synctest.Wait()
		for i := range 20 {
			l.want("PUT", "/v1/kv/cfg/zzz", fmt.Sprint(i), 200, "true")
			synctest.Wait()
		}
		select {
		case body := <-got:
			t.Fatalf("a neighbour ended the wait: %s", body)
		default:
		}
		l.want("DELETE", "/v1/kv/cfg/app1", "", 200, "true")
		synctest.Wait()
		select {
		case body := <-got:
			if body != "" {
				t.Errorf("after the deletion: %s", body)
			}
		default:
			t.Error("the deletion was not seen")
		}
	})
}

func TestConcurrentRegistrationsAllCount(t *testing.T) {
	store, srv := newServer(t)
	var wg sync.WaitGroup
	for i := range 8 {
		wg.Go(func() {
			for j := range 10 {
				body := fmt.Sprintf(`{"Node":"shared","Address":"10.0.0.1","Service":{"ID":"s%d-%d","Service":"web"},"Check":{"Name":"c%d","Status":"passing"}}`, i, j, i)
				want(t, srv, "PUT", "/v1/catalog/register", body, 200, "true")
			}
		})
	}
	wg.Wait()
	if n := len(catalog.Instances(store.Tree.Snap(), "web")); n != 80 {
		t.Errorf("%d instances, want 80", n)
	}
}

type denyAll struct{}

func (denyAll) Authorize(token string, a consul.Access) error {
	if token == "root" {
		return nil
	}
	return fmt.Errorf("Permission denied: token lacks permission on %q", a.Name) //nolint:staticcheck // text of the contract
}

func TestEveryEndpointAsksTheAuthorizer(t *testing.T) {
	store, srv := newServer(t, func(c *consul.Config) { c.Authorizer = denyAll{} })
	addInstances(t, store, "web", 2)
	want(t, srv, "PUT", "/v1/kv/a?token=root", "secret", 200, "true")
	before := store.Tree.Snap().Index()
	for _, r := range [][3]string{
		{"PUT", "/v1/kv/a", "x"}, {"DELETE", "/v1/kv/a"}, {"DELETE", "/v1/kv/?recurse"}, {"GET", "/v1/kv/a"},
		{"PUT", "/v1/catalog/register", `{"Node":"x","Address":"1.1.1.1"}`}, {"PUT", "/v1/catalog/deregister", `{"Node":"node-0000"}`},
		{"PUT", "/v1/session/create", ""}, {"PUT", "/v1/session/destroy/x", ""}, {"PUT", "/v1/session/renew/x", ""},
	} {
		if status, _, body := ask(t, srv, r[0], r[1], r[2]); status != 403 || !strings.HasPrefix(body, "Permission denied") {
			t.Errorf("%s %s: %d %s", r[0], r[1], status, body)
		}
	}
	for _, path := range []string{"/v1/catalog/nodes", "/v1/catalog/service/web", "/v1/health/service/web", "/v1/health/state/any", "/v1/health/node/n1", "/v1/session/list"} {
		want(t, srv, "GET", path, "", 200, "[]")
	}
	want(t, srv, "GET", "/v1/catalog/services", "", 200, "{}")
	want(t, srv, "GET", "/v1/catalog/node/n1", "", 200, "null")
	want(t, srv, "GET", "/v1/kv/?recurse", "", 404, "")
	if after := store.Tree.Snap().Index(); after != before {
		t.Errorf("the index moved from %d to %d", before, after)
	}
	if status, _, _ := ask(t, srv, "GET", "/v1/kv/a?token=root", ""); status != 200 {
		t.Errorf("with a token: %d", status)
	}
}

// The official client decodes what is served and is understood in what it sends.
func TestOfficialClient(t *testing.T) {
	_, srv := newServer(t)
	c, err := client.NewClient(&client.Config{Address: strings.TrimPrefix(srv.URL, "http://")})
	if err != nil {
		t.Fatal(err)
	}
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	_, err = c.Catalog().Register(&client.CatalogRegistration{
		Node: "ext", Address: "192.0.2.1", NodeMeta: map[string]string{"a": "b"},
		Service: &client.AgentService{ID: "db-1", Service: "db", Tags: []string{"primary"}, Port: 5432, Weights: client.AgentWeights{Passing: 2, Warning: 1}},
		Checks: client.HealthChecks{{CheckID: "db-check", Name: "db", Status: "passing", ServiceID: "db-1", Definition: client.HealthCheckDefinition{
			TCP: "192.0.2.1:5432", IntervalDuration: 90 * time.Second,
		}}},
	}, nil)
	must(err)
	entries, meta, err := c.Health().Service("db", "primary", true, &client.QueryOptions{Filter: `Service.Port == 5432`})
	must(err)
	if len(entries) != 1 || entries[0].Service.Weights.Passing != 2 || entries[0].Checks[0].Definition.IntervalDuration != 90*time.Second || meta.LastIndex == 0 || !meta.KnownLeader {
		t.Errorf("health: %+v, %+v", entries, meta)
	}
	services, _, err := c.Catalog().Services(nil)
	must(err)
	if len(services["db"]) != 1 {
		t.Errorf("services: %v", services)
	}
	node, _, err := c.Catalog().Node("ext", nil)
	must(err)
	if node.Services["db-1"].Port != 5432 {
		t.Errorf("node: %+v", node)
	}
	_, err = c.KV().Put(&client.KVPair{Key: "app/x", Value: []byte("1"), Flags: 7}, nil)
	must(err)
	pair, _, err := c.KV().Get("app/x", &client.QueryOptions{RequireConsistent: true})
	must(err)
	if string(pair.Value) != "1" || pair.Flags != 7 {
		t.Errorf("kv: %+v", pair)
	}
	lock, err := c.LockOpts(&client.LockOptions{Key: "app/lock", SessionTTL: "10s", LockWaitTime: time.Second})
	must(err)
	lost, err := lock.Lock(nil)
	must(err)
	second, err := c.LockOpts(&client.LockOptions{Key: "app/lock", LockTryOnce: true, LockWaitTime: 50 * time.Millisecond})
	must(err)
	if ch, err := second.Lock(nil); err != nil || ch != nil {
		t.Errorf("a held lock was given out: %v", err)
	}
	select {
	case <-lost:
		t.Error("the lock was lost")
	default:
	}
	must(lock.Unlock())
	must(lock.Destroy())
	_, err = c.Catalog().Deregister(&client.CatalogDeregistration{Node: "ext"}, nil)
	must(err)
	if n, _, err := c.Catalog().Node("ext", nil); err != nil || n != nil {
		t.Errorf("after deregistration: %+v, %v", n, err)
	}
}

func TestStructuralDirectoriesAreNoKeys(t *testing.T) {
	store, srv := newServer(t)
	store.Must(t, kv.Txn{Ops: []kv.Op{{Kind: kv.OpSet, Flags: kv.Dir, Path: "k/made"}}}, nil)
	want(t, srv, "GET", "/v1/kv/made", "", 404, "")
	want(t, srv, "GET", "/v1/kv/made?recurse", "", 404, "")
	want(t, srv, "PUT", "/v1/kv/made/below?cas=0", "1", 200, "true")
	want(t, srv, "GET", "/v1/kv/made?keys", "", 200, `["made/below"]`)
}
