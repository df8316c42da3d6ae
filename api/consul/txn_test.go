package consul_test

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"

	client "github.com/hashicorp/consul/api"

	"github.com/musterhq/muster/api/consul"
)

func newClient(t testing.TB, url string) *client.Client {
	t.Helper()
	c, err := client.NewClient(&client.Config{Address: strings.TrimPrefix(url, "http://")})
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// TestTxnOfTheCatalog writes a node, its service and their checks by one transaction of the official client, each on
// what the ones before it made.
func TestTxnOfTheCatalog(t *testing.T) {
	store, srv := newServer(t)
	c := newClient(t, srv.URL)
	node := client.Node{Node: "tx1", Address: "192.0.2.9", Meta: map[string]string{"a": "b"}}
	svc := client.AgentService{ID: "db-1", Service: "db", Port: 5432}
	check := client.HealthCheck{Node: "tx1", CheckID: "service:db-1", Name: "up", Status: "passing", ServiceID: "db-1"}
	ok, res, _, err := c.Txn().Txn(client.TxnOps{
		{Node: &client.NodeTxnOp{Verb: client.NodeSet, Node: node}},
		{Service: &client.ServiceTxnOp{Verb: client.ServiceSet, Node: "tx1", Service: svc}},
		{Check: &client.CheckTxnOp{Verb: client.CheckSet, Check: check}},
		{Check: &client.CheckTxnOp{Verb: client.CheckGet, Check: check}},
		{KV: &client.KVTxnOp{Verb: client.KVSet, Key: "tx/done", Value: []byte("yes")}},
	}, nil)
	if err != nil || !ok || len(res.Results) != 5 {
		t.Fatalf("%v %+v %v", ok, res, err)
	}
	last := store.Tree.Snap().Index()
	for i, index := range []uint64{
		res.Results[0].Node.ModifyIndex, res.Results[1].Service.ModifyIndex, res.Results[2].Check.ModifyIndex,
		res.Results[3].Check.ModifyIndex, res.Results[4].KV.ModifyIndex,
	} {
		if want := last - []uint64{1, 1, 1, 1, 0}[i]; index != want {
			t.Errorf("result %d has index %d, want %d", i, index, want)
		}
	}
	if got := res.Results[2].Check; got.ServiceName != "db" || got.Status != "passing" {
		t.Errorf("%+v", got)
	}
	ok, res, _, err = c.Txn().Txn(client.TxnOps{{Service: &client.ServiceTxnOp{Verb: client.ServiceGet, Node: "tx1", Service: client.AgentService{ID: "db-1"}}}}, nil)
	if err != nil || !ok || len(res.Results) != 1 || res.Results[0].Service.ID != "db-1" {
		t.Fatalf("%v %+v %v", ok, res, err)
	}
	found, _, err := c.Health().Service("db", "", true, nil)
	if err != nil || len(found) != 1 || found[0].Service.Port != 5432 {
		t.Fatalf("%v %v", found, err)
	}

	// Everything that does not hold is listed, and nothing is done.
	node.ModifyIndex, svc.ModifyIndex = 1, 1
	ok, res, _, err = c.Txn().Txn(client.TxnOps{
		{KV: &client.KVTxnOp{Verb: client.KVDeleteTree, Key: "tx/"}},
		{Node: &client.NodeTxnOp{Verb: client.NodeCAS, Node: node}},
		{Service: &client.ServiceTxnOp{Verb: client.ServiceDeleteCAS, Node: "tx1", Service: svc}},
		{Service: &client.ServiceTxnOp{Verb: client.ServiceSet, Node: "nowhere", Service: svc}},
		{Check: &client.CheckTxnOp{Verb: client.CheckGet, Check: client.HealthCheck{Node: "tx1", CheckID: "none"}}},
		{KV: &client.KVTxnOp{Verb: client.KVCheckNotExists, Key: "tx/done"}}, // deleted above
	}, nil)
	if err != nil || ok || len(res.Errors) != 4 {
		t.Fatalf("%v %+v %v", ok, res, err)
	}
	for i, e := range res.Errors {
		if e.OpIndex != i+1 {
			t.Errorf("error %d is about operation %d: %s", i, e.OpIndex, e.What)
		}
	}
	if now := store.Tree.Snap().Index(); now != last {
		t.Fatalf("a refused transaction moved the index from %d to %d", last, now)
	}

	// Reading needs no more than the id.
	ok, res, _, err = c.Txn().Txn(client.TxnOps{
		{Service: &client.ServiceTxnOp{Verb: client.ServiceGet, Node: "tx1", Service: client.AgentService{ID: svc.ID}}},
	}, nil)
	if err != nil || !ok || len(res.Results) != 1 || res.Results[0].Service.Service != svc.Service {
		t.Fatalf("%v %+v %v", ok, res, err)
	}

	// A node goes with all it has; what is read after that is gone.
	ok, res, _, err = c.Txn().Txn(client.TxnOps{
		{Node: &client.NodeTxnOp{Verb: client.NodeDelete, Node: client.Node{Node: "tx1"}}},
		{KV: &client.KVTxnOp{Verb: client.KVGet, Key: "tx/done"}},
	}, nil)
	if err != nil || !ok || len(res.Results) != 1 {
		t.Fatalf("%v %+v %v", ok, res, err)
	}
	if found, _, _ := c.Health().Service("db", "", false, nil); len(found) != 0 {
		t.Error("the service outlived its node")
	}
}

// TestTxnCompareAndSwap lets writers count with transactions of a read key and a compare-and-swap: no step is lost.
func TestTxnCompareAndSwap(t *testing.T) {
	_, srv := newServer(t)
	c := newClient(t, srv.URL)
	const writers, steps = 4, 15
	var wg sync.WaitGroup
	for range writers {
		wg.Go(func() {
			for done := 0; done < steps; {
				pair, _, err := c.KV().Get("count", nil)
				if err != nil {
					t.Error(err)
					return
				}
				n, index := 0, uint64(0)
				if pair != nil {
					_, _ = fmt.Sscan(string(pair.Value), &n)
					index = pair.ModifyIndex
				}
				ok, res, _, err := c.Txn().Txn(client.TxnOps{
					{KV: &client.KVTxnOp{Verb: client.KVCAS, Key: "count", Value: []byte(fmt.Sprint(n + 1)), Index: index}},
					{KV: &client.KVTxnOp{Verb: client.KVSet, Key: "copy", Value: []byte(fmt.Sprint(n + 1))}},
					{KV: &client.KVTxnOp{Verb: client.KVGet, Key: "copy"}},
				}, nil)
				if err != nil {
					t.Error(err)
					return
				}
				if ok {
					done++
					if got := string(res.Results[2].KV.Value); got != fmt.Sprint(n+1) {
						t.Errorf("read %q after writing %d", got, n+1)
					}
				}
			}
		})
	}
	wg.Wait()
	want(t, srv, "GET", "/v1/kv/count?raw", "", 200, fmt.Sprint(writers*steps))
	want(t, srv, "GET", "/v1/kv/copy?raw", "", 200, fmt.Sprint(writers*steps))
}

func TestTxnLockDelay(t *testing.T) {
	_, srv := newServer(t)
	c := newClient(t, srv.URL)
	first, _, err := c.Session().Create(&client.SessionEntry{LockDelay: 15e9}, nil)
	if err != nil {
		t.Fatal(err)
	}
	lock := func(session string) (bool, *client.TxnResponse) {
		ok, res, _, err := c.Txn().Txn(client.TxnOps{{KV: &client.KVTxnOp{Verb: client.KVLock, Key: "l", Session: session}}}, nil)
		if err != nil {
			t.Fatal(err)
		}
		return ok, res
	}
	if ok, res := lock(first); !ok || res.Results[0].KV.LockIndex != 1 || res.Results[0].KV.Session != first {
		t.Fatalf("%v %+v", ok, res)
	}
	second, _, err := c.Session().Create(&client.SessionEntry{}, nil)
	if err != nil {
		t.Fatal(err)
	}
	if ok, _ := lock(second); ok {
		t.Fatal("two sessions hold one lock")
	}
	// The session ends in the same transaction that locks: the delay begins with its end.
	want(t, srv, "PUT", "/v1/txn", `[{"Session":{"Verb":"delete","Session":{"ID":"`+first+`"}}}]`, 200, `{"Results":[],"Errors":null}`)
	if ok, _ := lock(second); ok {
		t.Fatal("the lock delay was not kept")
	}
	if ok, _ := lock("5f000000-0000-4000-8000-000000000000"); ok {
		t.Fatal("a session that does not exist holds a lock")
	}
}

func TestTxnLimits(t *testing.T) {
	store, srv := newServer(t, func(c *consul.Config) { c.TxnMaxOps, c.TxnMaxBody, c.KVMaxValue = 2, 400, 100 })
	before := store.Tree.Snap().Index()
	for _, c := range []struct {
		body, text string
		status     int
	}{
		{`[{"KV":{"Verb":"get","Key":"a"}},{},{}]`, "Transaction contains too many operations (3 > 2)", 413},
		{`[{"KV":{"Verb":"set","Key":"a","Value":"` + strings.Repeat("AAAA", 40) + `"}}]`, `Value for key "a" is too large (120 > 100 bytes)`, 413},
		{strings.Repeat(" ", 500), "Request body(500 bytes) too large, max size: 400 bytes. See https://developer.hashicorp.com/docs/agent/config/config-files#txn_max_req_len.", 413},
		{`[{"KV":{"Verb":"set","Key":"a","Namespace":"default"}}]`, `Failed to parse body: json: unknown field "Namespace"`, 400},
		{`[{"Node":{"Verb":"touch","Node":{"Node":"a"}}}]`, `{"Results":null,"Errors":[{"OpIndex":0,"What":"unknown node operation: touch"}]}`, 409},
		{`[{"Service":{"Verb":"delete","Node":"n1","Service":{"ID":"a"}}}]`,
			`{"Results":null,"Errors":[{"OpIndex":0,"What":"Must provide service name (Service.Service) when service ID is provided"}]}`, 409},
		{`[{"Check":{"Verb":"set","Check":{"CheckID":"a"}}}]`, `{"Results":null,"Errors":[{"OpIndex":0,"What":"Must provide node"}]}`, 409},
		{`[{"KV":{"Verb":"set","Key":"` + strings.Repeat("k", 350) + `"}},`, "", 400},
	} {
		if status, _, body := ask(t, srv, "PUT", "/v1/txn", c.body); status != c.status || c.text != "" && body != c.text {
			t.Errorf("%.60s: %d %s", c.body, status, body)
		}
	}
	if now := store.Tree.Snap().Index(); now != before {
		t.Errorf("the index moved from %d to %d", before, now)
	}
}

// BenchmarkTxn is the cost of a transaction beside that of the log: evaluating it on a draft, applying it, rendering.
func BenchmarkTxn(b *testing.B) {
	_, rt := newRouter(b)
	for _, n := range []int{1, 8, 64} {
		var ops []string
		for i := range n {
			ops = append(ops, fmt.Sprintf(`{"KV":{"Verb":"set","Key":"bench/%d","Value":"%s"}}`, i, strings.Repeat("AAAA", 25)))
		}
		body := "[" + strings.Join(ops, ",") + "]"
		for _, c := range []struct{ name, body string }{
			{"write", body}, {"read", strings.ReplaceAll(strings.ReplaceAll(body, `"set"`, `"get"`), `,"Value":"`+strings.Repeat("AAAA", 25)+`"`, "")},
		} {
			b.Run(fmt.Sprintf("%s/%d", c.name, n), func(b *testing.B) {
				b.ReportAllocs()
				for b.Loop() {
					w := &sink{h: http.Header{}}
					rt.ServeHTTP(w, httptest.NewRequest("PUT", "/v1/txn", strings.NewReader(c.body)))
					if w.status != 200 {
						b.Fatal(w.status)
					}
				}
			})
		}
	}
}
