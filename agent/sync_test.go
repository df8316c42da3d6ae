package agent

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/musterhq/muster/api"
	"github.com/musterhq/muster/api/consul"
	"github.com/musterhq/muster/catalog"
	"github.com/musterhq/muster/kv"
)

var errDown = errors.New("no cluster leader")

func copyFile(t testing.TB, from, to string) {
	t.Helper()
	b, err := os.ReadFile(from)
	must(t, err)
	must(t, os.WriteFile(to, b, 0o600))
}

func TestFullSyncRepairsBothWays(t *testing.T) {
	f := newFakeCluster()
	r := openRig(t, "", f)
	register(t, r, consul.ServiceDefinition{Name: "web", Port: 80, Check: &consul.CheckDefinition{ID: "up", TTL: time.Hour, Status: "passing"}})
	register(t, r, consul.ServiceDefinition{Name: "lost"})
	register(t, r, consul.ServiceDefinition{Name: "tags", Tags: []string{"mine"}, EnableTagOverride: true})
	must(t, r.RegisterCheck(context.Background(), consul.CheckDefinition{Name: "disk", TTL: time.Hour}))
	// What is still being sent may not be compared: a registration is answered before its unit has come to rest.
	waitFor(t, "nothing is being sent", func() bool {
		r.sync.mu.Lock()
		defer r.sync.mu.Unlock()
		return len(r.sync.units) == 0
	})
	f.set(func(f *fakeCluster) {
		f.node.Address = "192.0.2.9"
		f.services["web"].Port = 81
		f.services["web"].Tags = []string{"alien"}
		f.services["tags"].Tags = []string{"theirs"}
		delete(f.services, "lost")
		f.services["alien"] = &catalog.Service{ID: "alien", Name: "alien"}
		f.services["consul"] = &catalog.Service{ID: "consul", Name: "consul", Port: 8300}
		f.checks["up"].Status = "critical"
		delete(f.checks, "disk")
		f.checks["serfHealth"] = &catalog.Check{ID: "serfHealth", Status: "passing"}
		f.checks["alien-check"] = &catalog.Check{ID: "alien-check", ServiceID: "alien"}
		f.checks["node-alien"] = &catalog.Check{ID: "node-alien"}
		f.checks["web-alien"] = &catalog.Check{ID: "web-alien", ServiceID: "web"}
		f.checks["server"] = &catalog.Check{ID: "server", ServiceID: "consul"}
	})
	must(t, r.sync.Full(context.Background()))
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.node.Address != "10.0.0.1" || f.services["web"].Port != 80 || len(f.services["web"].Tags) != 0 || f.services["lost"] == nil {
		t.Errorf("not repaired: %+v %+v", f.node, f.services)
	}
	if !slices.Equal(f.services["tags"].Tags, []string{"theirs"}) {
		t.Errorf("tags that may be overridden were reverted: %v", f.services["tags"].Tags)
	}
	if s, _, _ := r.Service("tags"); !slices.Equal(s.Tags, []string{"theirs"}) {
		t.Errorf("the registry has the tags %v", s.Tags)
	}
	for _, id := range []string{"alien-check", "node-alien", "web-alien"} {
		if f.checks[id] != nil {
			t.Errorf("check %s is still there", id)
		}
	}
	if f.services["alien"] != nil || f.services["consul"] == nil || f.checks["serfHealth"] == nil || f.checks["server"] == nil {
		t.Errorf("services %v, checks %v", f.services, f.checks)
	}
	if f.checks["up"].Status != "passing" || f.checks["disk"] == nil {
		t.Errorf("checks %+v", f.checks)
	}
}

func TestSecondFullSyncWritesNothing(t *testing.T) {
	f := newFakeCluster()
	r := openRig(t, "", f)
	for i := range 10 {
		register(t, r, consul.ServiceDefinition{Name: fmt.Sprint("s", i), Tags: []string{"x"}, Address: "10.0.0.2", Check: &consul.CheckDefinition{TTL: time.Hour}})
	}
	must(t, r.sync.Full(context.Background()))
	writes := f.writeCount()
	must(t, r.sync.Full(context.Background()))
	if got := f.writeCount(); got != writes {
		t.Errorf("%d writes with nothing to repair", got-writes)
	}
}

func TestServersAway(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFakeCluster()
		r := openRig(t, "", f)
		f.set(func(f *fakeCluster) { f.down = errDown })
		// Local registrations and heartbeats are accepted.
		register(t, r, consul.ServiceDefinition{Name: "web", Check: &consul.CheckDefinition{ID: "up", TTL: time.Hour}})
		must(t, r.Beat("up", "passing", ""))
		register(t, r, consul.ServiceDefinition{Name: "short"})
		must(t, r.DeregisterService(context.Background(), "short"))
		synctest.Wait()
		f.set(func(f *fakeCluster) { f.down = nil })
		time.Sleep(30 * time.Second) // the retry after 15 s, and its jitter
		synctest.Wait()
		if f.status("up") != "passing" || f.has("short") {
			t.Errorf("services %v, checks %v", f.services, f.checks)
		}
		r.stop()
	})
}

func TestServerUpSyncsSoon(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFakeCluster()
		r := openRig(t, "", f)
		synctest.Wait()
		f.set(func(f *fakeCluster) { f.services["alien"] = &catalog.Service{ID: "alien", Name: "alien"} })
		r.sync.ServerUp()
		time.Sleep(3*time.Second + time.Millisecond)
		synctest.Wait()
		if f.has("alien") {
			t.Error("no comparison within three seconds")
		}
		f.set(func(f *fakeCluster) { f.services["alien"] = &catalog.Service{ID: "alien", Name: "alien"} })
		time.Sleep(2*time.Minute + time.Second)
		synctest.Wait()
		if f.has("alien") {
			t.Error("no comparison after the interval and its stagger")
		}
		r.stop()
	})
}

// While a request is under way, further changes of the same service wait and go together.
func TestChangesAreCoalesced(t *testing.T) {
	f := newFakeCluster()
	r := openRig(t, "", f, func(rc *RegistryConfig, _ *SyncConfig) { rc.PushWait = time.Millisecond })
	register(t, r, consul.ServiceDefinition{Name: "web", Check: &consul.CheckDefinition{ID: "up", TTL: time.Hour}})
	waitFor(t, "the service", func() bool { return f.has("web") })
	writes, gate := f.writeCount(), make(chan struct{})
	f.set(func(f *fakeCluster) { f.gate = gate })
	must(t, r.Beat("up", "passing", ""))
	for i := range 50 {
		must(t, r.Beat("up", []string{"warning", "critical"}[i%2], ""))
		register(t, r, consul.ServiceDefinition{Name: "web", Port: i})
	}
	must(t, r.Beat("up", "passing", "last"))
	f.set(func(f *fakeCluster) { f.gate = nil })
	close(gate)
	waitFor(t, "the last state", func() bool {
		f.mu.Lock()
		defer f.mu.Unlock()
		return f.services["web"].Port == 49 && f.checks["up"].Status == "passing" && f.checks["up"].Output == "last"
	})
	if got := f.writeCount() - writes; got > 3 {
		t.Errorf("102 changes of one service made %d writes", got)
	}
}

// What is removed while a comparison is under way must not be brought back by it.
func TestGhostNeverReturns(t *testing.T) {
	f := newFakeCluster()
	r := openRig(t, "", f)
	register(t, r, consul.ServiceDefinition{Name: "web"})
	f.set(func(f *fakeCluster) {
		f.before = func() {
			f.set(func(f *fakeCluster) { f.before = nil; delete(f.services, "web") })
			must(t, r.DeregisterService(context.Background(), "web"))
		}
	})
	must(t, r.sync.Full(context.Background()))
	if f.has("web") {
		t.Error("the ghost returned")
	}
	// And the other way round: registered while the catalog was read without it.
	f.set(func(f *fakeCluster) {
		f.before = func() {
			f.set(func(f *fakeCluster) { f.before = nil })
			register(t, r, consul.ServiceDefinition{Name: "new"})
		}
	})
	must(t, r.sync.Full(context.Background()))
	if !f.has("new") {
		t.Error("a new service was removed")
	}
}

func TestSyncScale(t *testing.T) {
	for nodes, want := range map[int]int{0: 1, 3: 1, 128: 1, 129: 2, 256: 2, 512: 3, 1024: 4} {
		if got := syncScale(nodes); got != want {
			t.Errorf("%d nodes: %d, want %d", nodes, got, want)
		}
	}
}

func TestHTTPCluster(t *testing.T) {
	var asked []string
	answers := map[string]string{
		"GET /v1/catalog/node-services/n%2F1?consistent": `{"Node":{"ID":"i","Node":"n/1","Address":"a","Datacenter":"dc1","TaggedAddresses":{"lan":"a"},"Meta":{"k":"v"},"CreateIndex":1,"ModifyIndex":2},
			"Services":[{"ID":"w1","Service":"web","Tags":["t"],"Address":"","TaggedAddresses":{"lan":{"Address":"x","Port":1}},"Meta":null,"Port":80,"Weights":{"Passing":1,"Warning":1},"EnableTagOverride":false,"Proxy":{},"Connect":{},"PeerName":"","CreateIndex":1,"ModifyIndex":2}]}`,
		"GET /v1/health/node/n%2F1?consistent":             `[{"Node":"n/1","CheckID":"c","Name":"c","Status":"passing","ServiceID":"w1","ServiceName":"web","ServiceTags":["t"],"Type":"ttl","Interval":"","Timeout":"","Definition":{}}]`,
		"GET /v1/catalog/node-services/unknown?consistent": `{"Node":null,"Services":null}`,
		"PUT /v1/catalog/register":                         `true`,
		"PUT /v1/catalog/deregister":                       `true`,
	}
	h := &HTTPCluster{Do: func(r *http.Request) (*http.Response, error) {
		key := r.Method + " " + r.URL.RequestURI()
		body := ""
		if r.Body != nil {
			b, _ := io.ReadAll(r.Body)
			body = string(b)
		}
		asked = append(asked, key+" "+body)
		answer, ok := answers[key]
		if !ok {
			return &http.Response{StatusCode: 500, Body: io.NopCloser(strings.NewReader("No cluster leader"))}, nil
		}
		return &http.Response{StatusCode: 200, Body: io.NopCloser(strings.NewReader(answer))}, nil
	}}
	ctx := context.Background()
	services, checks, node, err := h.NodeServices(ctx, "n/1")
	if err != nil || node.Name != "n/1" || node.Meta["k"] != "v" || len(services) != 1 || len(checks) != 1 {
		t.Fatalf("%v %v %v %v", services, checks, node, err)
	}
	want := &catalog.Service{ID: "w1", Name: "web", Tags: []string{"t"}, Port: 80, Weights: catalog.Weights{Passing: 1, Warning: 1}, TaggedAddresses: map[string]catalog.Address{"lan": {Address: "x", Port: 1}}}
	if !sameService(services[0], want) || checks[0].ServiceID != "w1" || checks[0].Type != "ttl" {
		t.Errorf("service %+v check %+v", services[0], checks[0])
	}
	if _, _, node, err := h.NodeServices(ctx, "unknown"); err != nil || node != nil {
		t.Errorf("unknown node: %v %v", node, err)
	}
	asked = nil
	must(t, h.Register(ctx, catalog.Registration{Node: catalog.Node{Name: "n1", Address: "a"}, Service: want, Checks: checks}))
	must(t, h.Deregister(ctx, "n1", "w1", ""))
	if wantAsked := []string{
		`PUT /v1/catalog/register {"Node":"n1","Address":"a","Service":{"ID":"w1","Service":"web","Tags":["t"],"Port":80,"TaggedAddresses":{"lan":{"Address":"x","Port":1}},"Weights":{"Passing":1,"Warning":1}},"Checks":[{"Node":"n/1","CheckID":"c","Name":"c","Status":"passing","ServiceID":"w1","ServiceName":"web","ServiceTags":["t"],"Type":"ttl"}]}`,
		`PUT /v1/catalog/deregister {"Node":"n1","ServiceID":"w1"}`,
	}; !slices.Equal(asked, wantAsked) {
		t.Errorf("asked %q", asked)
	}
	if err := h.Deregister(ctx, "n1", "", ""); err == nil {
		t.Error("a whole node may never be deregistered")
	}
	delete(answers, "PUT /v1/catalog/register")
	if err := h.Register(ctx, catalog.Registration{}); err == nil || !strings.Contains(err.Error(), "No cluster leader") {
		t.Errorf("error %v", err)
	}
}

// treeAPI is a Store over a tree in memory; leads false refuses as a follower does.
type treeAPI struct {
	api.Store
	tree  *kv.Tree
	leads bool
}

func (s *treeAPI) Propose(_ context.Context, t kv.Txn) (kv.Result, error) {
	if !s.leads {
		return kv.Result{}, api.ErrNotLeader
	}
	return s.tree.Apply(t)[0], nil
}

func (s *treeAPI) Read(context.Context, api.Consistency) (*kv.Snap, api.ReadMeta, error) {
	if !s.leads {
		return nil, api.ReadMeta{}, api.ErrNotLeader
	}
	return s.tree.Snap(), api.ReadMeta{KnownLeader: true}, nil
}

func TestStoreCluster(t *testing.T) {
	ctx, remote := context.Background(), newFakeCluster()
	store := &treeAPI{tree: kv.New(kv.Options{Deriver: catalog.Views{}}), leads: true}
	c := &StoreCluster{Store: store, Remote: remote}
	reg := catalog.Registration{Node: catalog.Node{Name: "n1", Address: "10.0.0.1"}, Service: &catalog.Service{ID: "web", Name: "web"},
		Checks: []*catalog.Check{{Node: "n1", ID: "up", Name: "up", ServiceID: "web", Status: "passing"}}}
	must(t, c.Register(ctx, reg))
	if got := catalog.Instances(store.tree.Snap(), "web"); len(got) != 1 || got[0].Status != "passing" {
		t.Errorf("instances %v", got)
	}
	index := store.tree.Snap().Index()
	must(t, c.Register(ctx, reg))
	if store.tree.Snap().Index() != index {
		t.Error("the same registration changed the tree")
	}
	must(t, c.Deregister(ctx, "n1", "web", ""))
	if got := catalog.Instances(store.tree.Snap(), "web"); len(got) != 0 || remote.writeCount() != 0 {
		t.Errorf("instances %v, %d writes elsewhere", got, remote.writeCount())
	}
	if err := c.Deregister(ctx, "n1", "", ""); err == nil {
		t.Error("a whole node may never be deregistered")
	}
	store.leads = false
	must(t, c.Register(ctx, reg))
	if !remote.has("web") {
		t.Error("a follower's change did not go to the leader")
	}
	must(t, c.Deregister(ctx, "n1", "web", ""))
	if remote.has("web") || c.Size() != 3 {
		t.Error("a follower's removal did not go to the leader")
	}
}
