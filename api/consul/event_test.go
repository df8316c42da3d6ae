package consul_test

import (
	"context"
	"fmt"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	client "github.com/hashicorp/consul/api"

	"github.com/musterhq/muster/api"
	"github.com/musterhq/muster/api/consul"
)

// eventsHere are events that never leave this agent.
type eventsHere struct {
	mu      sync.Mutex
	list    []*consul.UserEvent
	changed chan struct{}
}

func (h *eventsHere) Fire(_ context.Context, e *consul.UserEvent) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	got := *e
	got.LTime = uint64(len(h.list) + 1)
	h.list = append(h.list, &got)
	close(h.changed)
	h.changed = make(chan struct{})
	return nil
}

func (h *eventsHere) Events() ([]*consul.UserEvent, <-chan struct{}) {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.list, h.changed
}

func eventServer(t *testing.T) *httptest.Server {
	t.Helper()
	a := consul.NewAgentAPI(consul.AgentConfig{Datacenter: "dc1", Events: &eventsHere{changed: make(chan struct{})}})
	rt, err := api.NewRouter(api.RouterConfig{Routes: a.Routes(), NotFound: consul.NotFound()})
	if err != nil {
		t.Fatal(err)
	}
	srv := httptest.NewServer(rt)
	t.Cleanup(srv.Close)
	return srv
}

func TestEvents(t *testing.T) {
	srv := eventServer(t)
	c := newClient(t, srv.URL)
	if list, meta, err := c.Event().List("", nil); err != nil || len(list) != 0 || meta.LastIndex != 1 {
		t.Fatalf("%v %+v %v", list, meta, err)
	}
	id, _, err := c.Event().Fire(&client.UserEvent{Name: "deploy", Payload: []byte("v1"), ServiceFilter: "web"}, nil)
	if err != nil {
		t.Fatal(err)
	}
	list, meta, err := c.Event().List("deploy", nil)
	if err != nil || len(list) != 1 || list[0].ID != id || string(list[0].Payload) != "v1" || list[0].ServiceFilter != "web" || meta.LastIndex != c.Event().IDToIndex(id) {
		t.Fatalf("%v %+v %v", list, meta, err)
	}
	// A waiter for the name sleeps through other events and is woken by its own.
	woken := make(chan int, 1)
	go func() {
		list, _, err := c.Event().List("deploy", &client.QueryOptions{WaitIndex: meta.LastIndex, WaitTime: 30 * time.Second})
		if err != nil {
			t.Error(err)
		}
		woken <- len(list)
	}()
	for _, name := range []string{"other", "deploy"} {
		if _, _, err := c.Event().Fire(&client.UserEvent{Name: name}, nil); err != nil {
			t.Fatal(err)
		}
	}
	if n := <-woken; n != 2 {
		t.Errorf("%d events", n)
	}
	list, _, _ = c.Event().List("deploy", &client.QueryOptions{WaitIndex: c.Event().IDToIndex(id), WaitTime: time.Millisecond})
	if len(list) != 2 {
		t.Errorf("a waiter with an old index got %v", list)
	}
}

func TestBadEvents(t *testing.T) {
	srv := eventServer(t)
	for _, c := range []struct {
		target, body, text string
		status             int
	}{
		{"/v1/event/fire/", "", "Missing name", 400},
		{"/v1/event/fire/a?tag=x", "", "Cannot provide tag filter without service filter", 500},
		{"/v1/event/fire/a?node=(", "", "Invalid node filter: error parsing regexp: missing closing ): `(`", 500},
		{"/v1/event/fire/a", strings.Repeat("x", 512), "error broadcasting event: user event exceeds configured limit of 512 bytes before encoding", 500},
		{"/v1/event/fire/a", strings.Repeat("x", 20<<10), "Request body(20480 bytes) too large, max size: 16384 bytes.\n", 413},
		{"/v1/event/fire/a?dc=dc2", "", "No path to datacenter", 500},
	} {
		if status, _, body := ask(t, srv, "PUT", c.target, c.body); status != c.status || body != c.text {
			t.Errorf("%s: %d %q", c.target, status, body)
		}
	}
	want(t, srv, "GET", "/v1/event/list?index=x", "", 400, "Invalid index")
	want(t, srv, "GET", "/v1/event/list", "", 200, "[]")
}

func TestEventsFindTheirAgents(t *testing.T) {
	services := func(yield func(string, []string) bool) {
		_ = yield("web", []string{"v1"}) && yield("db-primary", nil)
	}
	for _, c := range []struct {
		e    consul.UserEvent
		want bool
	}{
		{consul.UserEvent{}, true},
		{consul.UserEvent{NodeFilter: "^n[12]$"}, true},
		{consul.UserEvent{NodeFilter: "n2"}, false},
		{consul.UserEvent{ServiceFilter: "db"}, true},
		{consul.UserEvent{ServiceFilter: "^db$"}, false},
		{consul.UserEvent{ServiceFilter: "web", TagFilter: "v[0-9]"}, true},
		{consul.UserEvent{ServiceFilter: "db", TagFilter: "v1"}, false},
		{consul.UserEvent{TagFilter: "v1"}, false},
		{consul.UserEvent{ServiceFilter: "("}, false},
		{consul.UserEvent{Version: 2}, false},
	} {
		if got := c.e.ForAgent("n1", services); got != c.want {
			t.Errorf("%s: %v", fmt.Sprintf("%+v", c.e), got)
		}
	}
}
