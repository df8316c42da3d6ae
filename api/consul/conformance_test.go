package consul_test

import (
	"context"
	"net/http/httptest"
	"testing"

	"github.com/musterhq/muster/api"
	"github.com/musterhq/muster/api/apitest"
	"github.com/musterhq/muster/api/consul"
	"github.com/musterhq/muster/catalog"
	"github.com/musterhq/muster/test/conformance/consulreplay"
)

const (
	nodeName = "n1"
	nodeID   = "22222222-2222-4222-8222-222222222222"
	nodeAddr = "127.0.0.1"
)

// newServer serves the API over a store in memory that has the node of one agent, as a leader would.
func newServer(t testing.TB, change ...func(*consul.Config)) (*apitest.Store, *httptest.Server) {
	t.Helper()
	store := apitest.New()
	cfg := consul.Config{Store: store, Datacenter: "dc1", NodeName: nodeName}
	for _, f := range change {
		f(&cfg)
	}
	a := consul.New(cfg)
	rt, err := api.NewRouter(api.RouterConfig{Routes: a.Routes(), NotFound: consul.NotFound()})
	if err != nil {
		t.Fatal(err)
	}
	addresses := map[string]string{"lan": nodeAddr, "lan_ipv4": nodeAddr, "wan": nodeAddr, "wan_ipv4": nodeAddr}
	store.Register(t, catalog.Registration{
		Node: catalog.Node{
			ID: nodeID, Name: nodeName, Address: nodeAddr, Datacenter: "dc1", TaggedAddresses: addresses,
			Meta: map[string]string{"consul-network-segment": "", "consul-version": "1.21.4"},
		},
		Checks: []*catalog.Check{{
			ID: catalog.LivenessCheck, Name: "Serf Health Status", Status: catalog.Passing, Output: "Agent alive and reachable",
		}},
	})
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		_ = a.Sessions().Run(ctx)
	}()
	updated := make(chan struct{})
	go func() {
		defer close(updated)
		_ = a.CoordinateUpdates().Run(ctx)
	}()
	srv := httptest.NewServer(rt)
	t.Cleanup(func() {
		srv.CloseClientConnections()
		srv.Close()
		cancel()
		<-ended
		<-updated
		store.Close()
	})
	return store, srv
}

func TestRecordedExchanges(t *testing.T) {
	const local = "needs the endpoints of the local agent"
	_, srv := newServer(t)
	for _, family := range []string{"catalog", "health", "kv", "session", "status", "errors", "txn", "query"} {
		consulreplay.Run(t, srv.URL, "../../test/conformance/consul/"+family+".jsonl", consulreplay.Options{
			Vars: map[string]string{"NODE": nodeName, "NODEID": nodeID, "DC": "dc1", "ADDR": nodeAddr},
			Skip: map[string]string{
				"session-invalidated-by-ttl-check": local,
				"health-blocking-check-change":     local,
				"health-filter-errors":             local,
				"health-tag-and-near":              local,
				"catalog-unknown-fields":           local,
				"errors-paths-and-methods":         local,
				"query-execute":                    local,
				"coordinate":                       "needs coordinates",
			},
		})
	}
}
