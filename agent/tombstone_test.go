package agent

import (
	"context"
	"net/http"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/musterhq/muster/api"
	"github.com/musterhq/muster/api/consul"
	"github.com/musterhq/muster/catalog"
	"github.com/musterhq/muster/kv"
)

// treeCluster is a whole catalog in memory. cut makes it unreachable.
type treeCluster struct {
	StoreCluster
	tree *kv.Tree
	mu   sync.Mutex
	cut  bool
}

func newTreeCluster() *treeCluster {
	c := &treeCluster{tree: kv.New(kv.Options{Deriver: catalog.Views{}})}
	c.Store = &lockedTree{treeAPI: treeAPI{tree: c.tree, leads: true}}
	return c
}

// lockedTree lets many write at once.
type lockedTree struct {
	mu sync.Mutex
	treeAPI
}

func (s *lockedTree) Propose(ctx context.Context, t kv.Txn) (kv.Result, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.treeAPI.Propose(ctx, t)
}

func (c *treeCluster) away() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.cut {
		return api.ErrNotLeader
	}
	return nil
}

func (c *treeCluster) Register(ctx context.Context, r catalog.Registration) error {
	if err := c.away(); err != nil {
		return err
	}
	return c.StoreCluster.Register(ctx, r)
}

func (c *treeCluster) Deregister(ctx context.Context, node, service, check string) error {
	if err := c.away(); err != nil {
		return err
	}
	return c.StoreCluster.Deregister(ctx, node, service, check)
}

func (c *treeCluster) NodeServices(_ context.Context, node string) ([]*catalog.Service, []*catalog.Check, *catalog.Node, error) {
	if err := c.away(); err != nil {
		return nil, nil, nil, err
	}
	s := c.tree.Snap()
	n, _ := catalog.GetNode(s, node)
	return catalog.ServicesOf(s, node), catalog.NodeChecks(s, node), n, nil
}

func (c *treeCluster) Size() int { return 3 }

func (c *treeCluster) has(id string) bool {
	_, ok := catalog.GetService(c.tree.Snap(), "n1", id)
	return ok
}

// lose makes the node's agent dead in the eyes of the cluster, or alive again; operator removes a service of it.
func (c *treeCluster) lose(t *testing.T, dead bool) {
	t.Helper()
	must(t, commit(context.Background(), c.Store, func(s *kv.Snap) (kv.Txn, error) { return catalog.SetLiveness(s, "n1", !dead), nil }))
}

func (c *treeCluster) operator(t *testing.T, service string) {
	t.Helper()
	must(t, c.StoreCluster.Deregister(context.Background(), "n1", service, ""))
}

func openTreeRig(t *testing.T, dir string, c *treeCluster, files ...consul.ServiceDefinition) *localRig {
	t.Helper()
	return openRig(t, dir, newFakeCluster(), func(rc *RegistryConfig, sc *SyncConfig) {
		rc.Services, sc.Cluster = files, c
	})
}

// sentSaved waits until the acknowledgement of a service is noted, on disk too when the store rests.
func sentSaved(t *testing.T, r *localRig, id string) {
	t.Helper()
	waitFor(t, "acknowledgement of "+id, func() bool {
		r.mu.RLock()
		defer r.mu.RUnlock()
		return r.services[id].sent.Load()
	})
}

func TestRemovedWhileTheAgentWasDown(t *testing.T) {
	dir, c := t.TempDir(), newTreeCluster()
	file := consul.ServiceDefinition{Name: "file"}
	r := openTreeRig(t, dir, c, file)
	for _, name := range []string{"ghost", "stays", "again"} {
		register(t, r, consul.ServiceDefinition{Name: name, Check: &consul.CheckDefinition{TTL: time.Hour}})
		sentSaved(t, r, name)
	}
	waitFor(t, "all", func() bool { return c.has("file") && c.has("stays") })
	r.stop()

	c.lose(t, true)
	for _, name := range []string{"ghost", "again", "file"} {
		c.operator(t, name)
	}
	r = openTreeRig(t, dir, c, file)
	register(t, r, consul.ServiceDefinition{Name: "again"}) // its program lives and says so
	waitFor(t, "the comparison", func() bool { _, _, ok := r.Service("ghost"); return !ok && c.has("again") && c.has("file") })
	must(t, r.sync.Full(context.Background()))
	if c.has("ghost") || !c.has("stays") || !c.has("again") || !c.has("file") {
		t.Errorf("catalog: %v", catalog.Services(c.tree.Snap()))
	}
	if checkOf(r.Registry, "service:ghost") != nil {
		t.Error("its check is still there")
	}
	r.stop()

	// It is gone for good, here too.
	c.lose(t, false)
	r = openTreeRig(t, dir, c, file)
	must(t, r.sync.Full(context.Background()))
	if _, _, ok := r.Service("ghost"); ok || c.has("ghost") {
		t.Error("the ghost returned after another restart")
	}
	register(t, r, consul.ServiceDefinition{Name: "ghost"})
	waitFor(t, "a new registration", func() bool { return c.has("ghost") })
}

func TestRemovedWhileTheAgentWasCutOff(t *testing.T) {
	c := newTreeCluster()
	r := openTreeRig(t, "", c)
	register(t, r, consul.ServiceDefinition{Name: "web", Check: &consul.CheckDefinition{ID: "up", TTL: time.Hour}})
	sentSaved(t, r, "web")
	c.lose(t, true)
	c.mu.Lock()
	c.cut = true
	c.mu.Unlock()
	must(t, r.Beat("up", "passing", "")) // waits to be sent, and fails
	c.operator(t, "web")
	c.mu.Lock()
	c.cut = false
	c.mu.Unlock()
	c.lose(t, false)
	_ = r.Beat("up", "warning", "") // unknown when the tombstone was met first
	waitFor(t, "the tombstone to be honoured", func() bool {
		_ = r.sync.Full(context.Background())
		_, _, ok := r.Service("web")
		return !ok
	})
	waitFor(t, "the removal to be confirmed", func() bool { return len(catalog.Tombstones(c.tree.Snap(), "n1")) == 0 })
	if c.has("web") {
		t.Error("the ghost returned")
	}
}

// The owner is the authority while it lives: what is removed behind its back comes back, as recorded.
func TestRemovedBehindALivingAgent(t *testing.T) {
	c := newTreeCluster()
	r := openTreeRig(t, "", c)
	register(t, r, consul.ServiceDefinition{Name: "web"})
	sentSaved(t, r, "web")
	c.lose(t, false)
	c.operator(t, "web")
	must(t, r.sync.Full(context.Background()))
	if !c.has("web") {
		t.Error("the registration was not repaired")
	}
}

func TestGoneOverHTTP(t *testing.T) {
	h := &HTTPCluster{Do: func(r *http.Request) (*http.Response, error) {
		if r.URL.RawQuery != "known" {
			t.Errorf("query %q", r.URL.RawQuery)
		}
		return &http.Response{StatusCode: http.StatusConflict, Body: http.NoBody}, nil
	}}
	err := h.Register(context.Background(), catalog.Registration{Node: catalog.Node{Name: "n1"}, Service: &catalog.Service{ID: "web"}, Known: true})
	if gone, ok := err.(*catalog.GoneError); !ok || gone.ServiceID != "web" {
		t.Errorf("got %v", err)
	}
}

// A restart must not give a service that is critical for too long an endless life.
func TestCriticalServicesAreReapedAfterARestart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dir := t.TempDir()
		r := openRig(t, dir, newFakeCluster())
		register(t, r, consul.ServiceDefinition{Name: "failed", Check: &consul.CheckDefinition{ID: "failed", TTL: time.Hour, DeregisterCriticalServiceAfter: time.Minute}})
		register(t, r, consul.ServiceDefinition{Name: "never-heard", Check: &consul.CheckDefinition{ID: "quiet", TTL: time.Hour, DeregisterCriticalServiceAfter: time.Minute}})
		must(t, r.Beat("failed", "passing", ""))
		must(t, r.Beat("failed", "critical", ""))
		r.stop()
		r = openRig(t, dir, newFakeCluster())
		// What registers itself anew does not become young by that either.
		time.Sleep(30 * time.Second)
		register(t, r, consul.ServiceDefinition{Name: "failed", Port: 1, Check: &consul.CheckDefinition{ID: "failed", TTL: time.Hour, DeregisterCriticalServiceAfter: time.Minute}})
		time.Sleep(65 * time.Second)
		synctest.Wait()
		if _, _, ok := r.Service("failed"); ok {
			t.Error("the critical service is still there")
		}
		if _, _, ok := r.Service("never-heard"); !ok {
			t.Error("a service that never had a result was removed")
		}
		r.stop()
	})
}
