package consul_test

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/musterhq/muster/catalog"
)

func TestUserInterfaceReads(t *testing.T) {
	store, srv := newServer(t)
	for _, n := range []string{"a", "b"} {
		store.Register(t, catalog.Registration{
			Node: catalog.Node{Name: n, Address: "10.0.0.1", Datacenter: "dc1"}, Service: &catalog.Service{ID: "w", Name: "web", Port: 80, Meta: map[string]string{"external-source": "nomad"}},
			Checks: []*catalog.Check{{ID: "host", Name: "host", Status: catalog.Passing}, {ID: "up", Name: "up", Status: map[string]string{"a": catalog.Passing, "b": catalog.Critical}[n], ServiceID: "w"}},
		})
	}
	store.Register(t, catalog.Registration{Node: catalog.Node{Name: "a", Address: "10.0.0.1", Datacenter: "dc1"}, Service: &catalog.Service{ID: "w2", Name: "web", Port: 81}})
	get := func(path string, v any) {
		t.Helper()
		status, h, body := ask(t, srv, "GET", path, "")
		if status != 200 || h.Get("X-Consul-Index") == "" || json.Unmarshal([]byte(body), v) != nil {
			t.Fatalf("%s: %d %s", path, status, body)
		}
	}
	var services []struct {
		Name                                                        string
		Tags, Nodes, ExternalSources                                []string
		InstanceCount, ChecksPassing, ChecksWarning, ChecksCritical int
	}
	get("/v1/internal/ui/services?dc=dc1", &services)
	if len(services) != 1 || services[0].InstanceCount != 3 || len(services[0].Nodes) != 2 || services[0].ChecksPassing != 3 || services[0].ChecksCritical != 1 ||
		services[0].Tags != nil || len(services[0].ExternalSources) != 1 {
		t.Errorf("%+v", services)
	}
	get(`/v1/internal/ui/services?filter=Service.Port==81`, &services)
	if len(services) != 1 || services[0].InstanceCount != 1 {
		t.Errorf("%+v", services)
	}
	var nodes []struct {
		Node             string
		Services, Checks []any
	}
	get("/v1/internal/ui/nodes", &nodes)
	if len(nodes) != 3 || nodes[0].Node != "a" || len(nodes[0].Services) != 2 || len(nodes[0].Checks) != 2 || nodes[2].Services == nil {
		t.Errorf("%+v", nodes)
	}
	var node struct{ Node string }
	if get("/v1/internal/ui/node/b", &node); node.Node != "b" {
		t.Error(node)
	}
	want(t, srv, "GET", "/v1/internal/ui/node/none", "", 404, "")
	var all struct {
		Nodes, Services, Checks []struct {
			Name                              string
			Total, Passing, Warning, Critical int
		}
	}
	get("/v1/internal/ui/catalog-overview", &all)
	if len(all.Nodes) != 1 || all.Nodes[0].Total != 3 || all.Nodes[0].Passing != 3 || len(all.Services) != 1 || all.Services[0].Critical != 1 || len(all.Checks) != 3 {
		t.Errorf("%+v", all)
	}
}

// TestNoMesh: what tools read of the mesh is empty, with the headers of a read.
func TestNoMesh(t *testing.T) {
	_, srv := newServer(t)
	for _, path := range []string{
		"config/service-defaults", "config/proxy-defaults/", "peerings", "exported-services", "connect/intentions", "internal/ui/exported-services",
		"health/connect/web", "health/ingress/web", "catalog/connect/web", "catalog/gateway-services/gw",
	} {
		status, h, body := ask(t, srv, "GET", "/v1/"+path, "")
		if status != 200 || body != "[]" || h.Get("X-Consul-Index") == "" {
			t.Errorf("%s: %d %s", path, status, body)
		}
	}
	want(t, srv, "GET", "/v1/config/proxy-defaults/global", "", 404, `Config entry not found for "proxy-defaults" / "global"`)
	want(t, srv, "POST", "/v1/internal/acl/authorize", "[]", 401, "ACL support disabled")
	if status, _, body := ask(t, srv, "PUT", "/v1/discovery-chain/web", ""); status != 404 || !strings.HasPrefix(body, "Invalid URL path") {
		t.Errorf("%d %s", status, body)
	}
}
