package cluster_test

import (
	"fmt"
	"net/http"
	"testing"
	"time"

	"github.com/musterhq/muster/internal/testcluster"
	"github.com/musterhq/muster/test/drill"
)

// TestWatchOutlivesItsServers stops, crashes and cuts off one server after the other under watches of every kind on
// a proxy. None of them may lose, repeat or break an event.
func TestWatchOutlivesItsServers(t *testing.T) {
	t.Parallel()
	c := testcluster.Start(t, 3, 1)
	p := c.Proxies[0]
	first := p.Put(t, "/v2/keys/seen/other", "value=x")
	var from uint64
	if _, err := fmt.Sscan(first.Header.Get("X-Etcd-Index"), &from); err != nil {
		t.Fatal(err)
	}
	watchers := drill.Watch(t, p.EtcdURL(), "seen", "key", from+1)
	w := drill.Write(p.EtcdURL(), "seen/key")
	more := func(what string) { t.Helper(); w.More(t, 50, what) }
	more("writes flow")
	for i, fell := range []func(*testcluster.Host) (back func()){
		func(h *testcluster.Host) func() { h.Stop(t); return func() { h.Start(t); h.WaitReady(t) } },
		func(h *testcluster.Host) func() { h.Crash(t); return func() { h.Start(t); h.WaitReady(t) } },
		func(h *testcluster.Host) func() { return c.Partition(h) },
	} {
		back := fell(c.Servers[i])
		more("writes go on without " + c.Servers[i].Name)
		back()
		more("writes go on with " + c.Servers[i].Name)
	}
	watchers.Verify(t, w.Stop())
}

// TestBlockingQueryOutlivesItsServer: a query that waits on a proxy is asked again elsewhere when its server dies.
func TestBlockingQueryOutlivesItsServer(t *testing.T) {
	t.Parallel()
	c := testcluster.Start(t, 3, 1, `-hcl=performance { rpc_hold_timeout = "40s" }`) // for elections that are tried again
	p := c.Proxies[0]
	p.Put(t, "/v1/kv/waited", "old")
	index := p.Do(http.MethodGet, "/v1/kv/waited", "").Index()
	answers := make(chan testcluster.Answer, 2)
	for _, how := range []string{"", "&stale"} {
		go func() {
			answers <- p.Do(http.MethodGet, fmt.Sprintf("/v1/kv/waited?raw&index=%d&wait=50s%s", index, how), "")
		}()
	}
	short := make(chan time.Duration, 1)
	go func() {
		begin := time.Now()
		p.Do(http.MethodGet, fmt.Sprintf("/v1/kv/waited?raw&index=%d&wait=4s", index), "")
		short <- time.Since(begin)
	}()
	timer := time.NewTimer(500 * time.Millisecond) // the queries wait at their servers by then, or find the next ones
	<-timer.C
	c.WaitLeader(t).Crash(t)
	p.Put(t, "/v1/kv/waited-not", "x")
	if took := <-short; took > 48*time.Second {
		t.Errorf("a query of 4s ended after %v", took)
	}
	p.Put(t, "/v1/kv/waited", "new")
	for range 2 {
		if a := <-answers; a.Status != http.StatusOK || a.Body != "new" {
			t.Errorf("the query that lost its server got %d %q, want the new value", a.Status, a.Body)
		}
	}
}
