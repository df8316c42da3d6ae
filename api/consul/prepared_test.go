package consul_test

import (
	"fmt"
	"testing"
	"time"

	client "github.com/hashicorp/consul/api"
	"github.com/hashicorp/serf/coordinate"

	"github.com/musterhq/muster/api/consul"
	"github.com/musterhq/muster/catalog"
)

// onALine puts the nodes at the given places of a line, in milliseconds.
func onALine(places map[string]float64) func(*consul.Config) {
	return func(c *consul.Config) {
		c.Coordinate = func(node string) (*coordinate.Coordinate, bool) {
			at, ok := places[node]
			if !ok {
				return nil, false
			}
			x := coordinate.NewCoordinate(coordinate.DefaultConfig())
			x.Vec[0] = at / 1000
			return x, true
		}
	}
}

// TestNear asks every route that sorts by distance, from three nodes. Nodes whose place is unknown come last.
func TestNear(t *testing.T) {
	store, srv := newServer(t, onALine(map[string]float64{nodeName: 0, "a": 30, "b": 10, "c": 20}))
	for _, n := range []string{"a", "b", "c", "d"} {
		store.Register(t, catalog.Registration{
			Node: catalog.Node{Name: n, Address: "10.0.0." + n, Datacenter: "dc1"}, Service: &catalog.Service{Name: "web", Port: 80},
			Checks: []*catalog.Check{{ID: "up", Status: catalog.Passing, ServiceID: "web"}},
		})
	}
	c := newClient(t, srv.URL)
	id, _, err := c.PreparedQuery().Create(&client.PreparedQueryDefinition{Name: "near", Service: client.ServiceQuery{Service: "web", Near: "_agent"}}, nil)
	if err != nil {
		t.Fatal(err)
	}
	for from, want := range map[string]string{"_agent": "[b c a d]", "a": "[a c b d]", "c": "[c a b d]", "no-such-node": "[a b c d]"} {
		q := &client.QueryOptions{Near: from}
		var health, service, nodes, checks, state []string
		h, _, err1 := c.Health().Service("web", "", false, q)
		for _, e := range h {
			health = append(health, e.Node.Node)
		}
		s, _, err2 := c.Catalog().Service("web", "", q)
		for _, e := range s {
			service = append(service, e.Node)
		}
		n, _, err3 := c.Catalog().Nodes(q)
		for _, e := range n {
			if e.Node != nodeName {
				nodes = append(nodes, e.Node)
			}
		}
		k, _, err4 := c.Health().Checks("web", q)
		for _, e := range k {
			checks = append(checks, e.Node)
		}
		st, _, err5 := c.Health().State("passing", q)
		for _, e := range st {
			if e.Node != nodeName {
				state = append(state, e.Node)
			}
		}
		for what, got := range map[string][]string{"health": health, "service": service, "nodes": nodes, "checks": checks, "state": state} {
			if fmt.Sprint(got) != want {
				t.Errorf("%s near %s: %v, want %s", what, from, got, want)
			}
		}
		if err := fmt.Sprint(err1, err2, err3, err4, err5); err != "<nil> <nil> <nil> <nil> <nil>" {
			t.Error(err)
		}
		if from == "no-such-node" {
			continue
		}
		x, _, err := c.PreparedQuery().Execute(id, q)
		var found []string
		for _, e := range x.Nodes {
			found = append(found, e.Node.Node)
		}
		if err != nil || fmt.Sprint(found) != want {
			t.Errorf("query near %s: %v, %v, want %s", from, found, err, want)
		}
	}
}

func TestCoordinates(t *testing.T) {
	store, srv := newServer(t, onALine(map[string]float64{nodeName: 5}))
	for _, n := range []string{"ext", "unknown"} {
		store.Register(t, catalog.Registration{Node: catalog.Node{Name: n, Address: "192.0.2.1", Datacenter: "dc1"}})
	}
	c := newClient(t, srv.URL)
	place := coordinate.NewCoordinate(coordinate.DefaultConfig())
	place.Vec[0] = 0.25
	for range 3 {
		for _, n := range []string{"ext", "not-in-the-catalog"} {
			if _, err := c.Coordinate().Update(&client.CoordinateEntry{Node: n, Coord: place}, nil); err != nil {
				t.Fatal(err)
			}
		}
	}
	deadline := time.Now().Add(time.Minute)
	for {
		list, _, err := c.Coordinate().Node("ext", nil)
		if err == nil && len(list) == 1 && list[0].Coord.Vec[0] == 0.25 {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("%v %v", list, err)
		}
		time.Sleep(10 * time.Millisecond)
	}
	_, writes := store.Counts()
	all, _, err := c.Coordinate().Nodes(nil)
	if err != nil || len(all) != 2 || all[0].Node != "ext" || all[1].Node != nodeName {
		t.Errorf("%v %v", all, err)
	}
	want(t, srv, "GET", "/v1/coordinate/node/unknown", "", 404, "")
	// What has not moved is not written again.
	place.Vec[0] += 1e-5
	if _, err := c.Coordinate().Update(&client.CoordinateEntry{Node: "ext", Coord: place}, nil); err != nil {
		t.Fatal(err)
	}
	place = place.Clone()
	place.Vec[0] = 0.5
	if _, err := c.Coordinate().Update(&client.CoordinateEntry{Node: "ext", Coord: place}, nil); err != nil {
		t.Fatal(err)
	}
	for {
		if list, _, _ := c.Coordinate().Node("ext", nil); len(list) == 1 && list[0].Coord.Vec[0] == 0.5 {
			break
		}
		if time.Now().After(deadline) {
			t.Fatal("the coordinate that moved was not written")
		}
		time.Sleep(10 * time.Millisecond)
	}
	if _, now := store.Counts(); now > writes+2 {
		t.Errorf("%d writes for one move", now-writes)
	}
	want(t, srv, "PUT", "/v1/coordinate/update", `{"Node":"ext","Coord":null}`, 500, "incompatible coordinate")
}

func TestCoordinatesAreOff(t *testing.T) {
	_, srv := newServer(t)
	for _, path := range []string{"datacenters", "nodes", "node/n1"} {
		want(t, srv, "GET", "/v1/coordinate/"+path, "", 401, "Coordinate support disabled")
	}
	want(t, srv, "PUT", "/v1/coordinate/update", "{}", 401, "Coordinate support disabled")
}

// TestQueryOfASession is a query that ends with its session, through the official client.
func TestQueryOfASession(t *testing.T) {
	_, srv := newServer(t)
	c := newClient(t, srv.URL)
	session, _, err := c.Session().Create(nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	def := &client.PreparedQueryDefinition{Session: session, Service: client.ServiceQuery{Service: "web"}}
	if def.ID, _, err = c.PreparedQuery().Create(def, nil); err != nil {
		t.Fatal(err)
	}
	def.DNS.TTL, def.Service.Failover.NearestN = "5s", 3
	if _, err := c.PreparedQuery().Update(def, nil); err != nil {
		t.Fatal(err)
	}
	list, meta, err := c.PreparedQuery().List(nil)
	if err != nil || len(list) != 1 || list[0].DNS.TTL != "5s" || list[0].Service.Failover.NearestN != 3 {
		t.Fatalf("%+v %v", list, err)
	}
	gone := make(chan int, 1)
	go func() {
		list, _, err := c.PreparedQuery().List(&client.QueryOptions{WaitIndex: meta.LastIndex, WaitTime: time.Minute})
		if err != nil {
			t.Error(err)
		}
		gone <- len(list)
	}()
	if _, err := c.Session().Destroy(session, nil); err != nil {
		t.Fatal(err)
	}
	if n := <-gone; n != 0 {
		t.Errorf("%d queries outlive their session", n)
	}
	if _, _, err := c.PreparedQuery().Execute(def.ID, nil); err == nil {
		t.Error("a query that is gone was executed")
	}
}
