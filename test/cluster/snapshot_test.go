package cluster_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/musterhq/muster/internal/testcluster"
)

// clusterID is the id by which etcd clients tell clusters apart.
func clusterID(h *testcluster.Host) string {
	return h.Do("GET", "/v2/keys/", "").Header.Get("X-Etcd-Cluster-Id")
}

// TestSnapshotGoesBackInTime saves at a proxy, goes on, restores at the proxy, and looks at everything that must hold
// then: all replicas have the state that was saved, no index went back, whoever waited is woken, the cluster stays
// itself and goes on writing, also after its servers were restarted.
func TestSnapshotGoesBackInTime(t *testing.T) {
	t.Parallel()
	c := testcluster.Start(t, 3, 1)
	p := c.Proxies[0]
	for i := range 200 {
		p.Put(t, fmt.Sprintf("/v1/kv/old/%d", i), strings.Repeat("v", 100))
	}
	p.Put(t, "/v1/kv/changed", "before")
	p.Put(t, "/v1/catalog/register", `{"Node":"ext","Address":"192.0.2.1","Service":{"Service":"legacy","Port":1}}`)
	saved := p.Do("GET", "/v1/snapshot", "")
	if !saved.OK() || saved.Header.Get("Content-Type") != "application/x-gzip" || saved.Index() == 0 {
		t.Fatalf("save: %d %v", saved.Status, saved.Header)
	}
	id := clusterID(c.Servers[0])
	p.Put(t, "/v1/kv/changed", "after")
	p.Put(t, "/v1/kv/new", "x")
	p.Put(t, "/v1/agent/service/register", `{"Name":"later"}`)
	testcluster.Eventually(t, "the later service is there", func() bool { return healthy(p, "later") == 1 })
	if a := p.Do("DELETE", "/v1/kv/old/?recurse", ""); !a.OK() {
		t.Fatal(a)
	}
	p.Put(t, "/v1/catalog/deregister", `{"Node":"ext"}`)
	type waiter struct {
		path  string
		index uint64
		done  chan testcluster.Answer
	}
	var waiters []waiter
	for _, path := range []string{"/v1/kv/changed", "/v1/kv/new", "/v1/kv/old/?recurse", "/v1/health/service/legacy", "/v1/catalog/nodes"} {
		w := waiter{path, p.Do("GET", path, "").Index(), make(chan testcluster.Answer, 1)}
		waiters = append(waiters, w)
		go func() {
			sep := map[bool]string{true: "&", false: "?"}[strings.Contains(path, "?")]
			w.done <- c.Servers[1].Do("GET", path+sep+"stale&wait=60s&index="+fmt.Sprint(w.index), "")
		}()
	}

	before := c.WaitSame(t)
	cut := p.Do("PUT", "/v1/snapshot", saved.Body[:len(saved.Body)-20])
	changed := p.Do("PUT", "/v1/snapshot", saved.Body[:500]+"damage"+saved.Body[506:])
	foreign := c.Servers[0].Do("PUT", "/v1/snapshot", "no archive at all")
	for _, a := range []testcluster.Answer{cut, changed, foreign} {
		if a.Status != 500 || !strings.HasPrefix(a.Body, "failed to decompress snapshot: ") {
			t.Errorf("a damaged archive: %d %s", a.Status, a.Body)
		}
	}
	if after := c.WaitSame(t); after != before {
		t.Fatal("a refused archive changed something")
	}

	if a := p.Put(t, "/v1/snapshot", saved.Body); a.Body != "" {
		t.Fatalf("restore: %d %s", a.Status, a.Body)
	}
	for _, w := range waiters {
		if a := <-w.done; a.Index() <= w.index {
			t.Errorf("%s: the index went from %d to %d", w.path, w.index, a.Index())
		}
	}
	testcluster.Eventually(t, "the agent has registered again what the backup does not know", func() bool { return healthy(p, "later") == 1 })
	c.WaitSame(t)
	check := func() {
		t.Helper()
		for _, h := range c.All() {
			var keys []string
			if !h.Get("/v1/kv/old/?keys", &keys) || len(keys) != 200 {
				t.Errorf("%s: %d old keys", h.Name, len(keys))
			}
			if a := h.Do("GET", "/v1/kv/changed?raw", ""); a.Body != "before" {
				t.Errorf("%s: the changed key is %q", h.Name, a.Body)
			}
			if a := h.Do("GET", "/v1/kv/new", ""); a.Status != 404 {
				t.Errorf("%s: the new key is still there", h.Name)
			}
			if n := healthy(h, "legacy"); n != 1 {
				t.Errorf("%s: %d instances of what was deregistered later", h.Name, n)
			}
			if a := h.Do("GET", "/v2/keys/changed?wait=true&waitIndex=2", ""); a.Status != 400 || !strings.Contains(a.Body, "401") {
				t.Errorf("%s: a watch into the lost history: %d %s", h.Name, a.Status, a.Body)
			}
		}
	}
	check()
	if got := clusterID(c.Servers[0]); got != id {
		t.Errorf("the cluster id changed from %s to %s", id, got)
	}
	p.Put(t, "/v1/kv/again", "1")
	for _, h := range c.Servers {
		h.Crash(t)
		h.Start(t)
	}
	c.WaitReady(t)
	c.WaitSame(t)
	check()
	p.Put(t, "/v1/kv/again", "2")
	c.WaitSame(t)
}

// TestSnapshotOfAnotherCluster moves the state into a fresh cluster, whose own nodes come back by themselves.
func TestSnapshotOfAnotherCluster(t *testing.T) {
	t.Parallel()
	from, to := testcluster.Start(t, 1, 0), testcluster.Start(t, 1, 0)
	from.Servers[0].Put(t, "/v1/kv/moved", "house")
	saved := from.Servers[0].Do("GET", "/v1/snapshot?stale", "")
	s := to.Servers[0]
	id := clusterID(s)
	s.Put(t, "/v1/snapshot", saved.Body)
	if a := s.Do("GET", "/v1/kv/moved?raw", ""); a.Body != "house" || clusterID(s) != id {
		t.Errorf("%q in cluster %s", a.Body, clusterID(s))
	}
	testcluster.Eventually(t, "the server is in its catalog", func() bool {
		var list []struct{ Address string }
		return s.Get("/v1/catalog/service/consul", &list) && len(list) == 1 && list[0].Address == s.IP
	})
}
