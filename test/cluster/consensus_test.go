package cluster_test

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/musterhq/muster/internal/testcluster"
)

// TestWriteThroughProxyIsReadEverywhere is the shape of every installation: clients ask the agent on their machine.
func TestWriteThroughProxyIsReadEverywhere(t *testing.T) {
	t.Parallel()
	c := testcluster.Start(t, 3, 1)
	p := c.Proxies[0]
	p.Put(t, "/v1/kv/flat/a", "one")
	p.Put(t, "/v2/keys/deep/a", "value=two")
	for _, h := range c.All() {
		for _, how := range []string{"", "&consistent"} {
			if a := h.Do(http.MethodGet, "/v1/kv/flat/a?raw"+how, ""); a.Body != "one" {
				t.Errorf("%s reads %d %q of the flat key%s, want one", h.Name, a.Status, a.Body, how)
			}
		}
		if a := h.Do(http.MethodGet, "/v2/keys/deep/a?quorum=true", ""); !strings.Contains(a.Body, `"value":"two"`) {
			t.Errorf("%s reads %d %q of the hierarchical key, want two", h.Name, a.Status, a.Body)
		}
		testcluster.Eventually(t, h.Name+" has it without asking the leader", func() bool {
			return h.Do(http.MethodGet, "/v1/kv/flat/a?raw&stale", "").Body == "one"
		})
	}
	c.WaitSame(t)
}

// writers write keys below prefix through hosts until stop, and remember what was acknowledged.
type writers struct {
	mu    sync.Mutex
	acked map[string]bool
	quit  chan struct{}
	wg    sync.WaitGroup
}

func write(prefix string, each int, hosts ...*testcluster.Host) *writers {
	w := &writers{acked: map[string]bool{}, quit: make(chan struct{})}
	for _, h := range hosts {
		for n := range each {
			w.wg.Add(1)
			go func() {
				defer w.wg.Done()
				for i := 0; ; i++ {
					select {
					case <-w.quit:
						return
					default:
					}
					key := fmt.Sprintf("%s/%s-%d-%d", prefix, h.Name, n, i)
					if h.Do(http.MethodPut, "/v1/kv/"+key, "v").Status == http.StatusOK {
						w.mu.Lock()
						w.acked[key] = true
						w.mu.Unlock()
					}
				}
			}()
		}
	}
	return w
}

func (w *writers) count() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return len(w.acked)
}

// more waits for n more acknowledged writes.
func (w *writers) more(t *testing.T, n int, what string) {
	t.Helper()
	begin := w.count()
	testcluster.Eventually(t, what, func() bool { return w.count() >= begin+n })
}

func (w *writers) stop() map[string]bool {
	close(w.quit)
	w.wg.Wait()
	return w.acked
}

// wantKeys waits until a host's own copy holds all keys.
func wantKeys(t *testing.T, h *testcluster.Host, prefix string, keys map[string]bool) {
	t.Helper()
	missing := ""
	testcluster.Eventually(t, fmt.Sprintf("%s holds all %d acknowledged keys", h.Name, len(keys)), func() bool {
		var have []string
		if !h.Get("/v1/kv/"+prefix+"/?keys&stale", &have) {
			return false
		}
		set := make(map[string]bool, len(have))
		for _, k := range have {
			set[k] = true
		}
		for k := range keys {
			if !set[k] {
				missing = k
				return false
			}
		}
		return true
	})
	if t.Failed() {
		t.Log("for example", missing)
	}
}

// TestNothingAcknowledgedIsLost crashes the leader under writes, cuts the next one off, and looks for every key that
// a client was told is safe.
func TestNothingAcknowledgedIsLost(t *testing.T) {
	t.Parallel()
	c := testcluster.Start(t, 3, 1)
	w := write("lost", 2, c.Proxies[0])
	w.more(t, 20, "writes flow")

	first := c.WaitLeader(t)
	first.Crash(t)
	w.more(t, 20, "writes go on after the leader's crash")
	first.Start(t)
	first.WaitReady(t)

	second := c.WaitLeader(t)
	heal := c.Partition(second)
	c.WaitLeader(t, second)
	w.more(t, 20, "writes go on after the leader was cut off")
	heal()
	w.more(t, 20, "writes go on after the network is whole again")

	acked := w.stop()
	for _, s := range c.Servers {
		wantKeys(t, s, "lost", acked)
	}
	c.WaitSame(t)
}

// TestCutOffLeaderServesNoOldData: a leader that was cut off must not answer a default read with what others have
// overwritten meanwhile, and must refuse writes.
func TestCutOffLeaderServesNoOldData(t *testing.T) {
	t.Parallel()
	c := testcluster.Start(t, 3, 0, `-hcl=performance { rpc_hold_timeout = "300ms" }`)
	old := c.WaitLeader(t)
	old.Put(t, "/v1/kv/x", "old")
	heal := c.Partition(old)
	next := c.WaitLeader(t, old)
	testcluster.Eventually(t, "the next leader takes writes", func() bool { return next.Do(http.MethodPut, "/v1/kv/x", "new").OK() })
	for _, how := range []string{"", "&consistent"} {
		if a := old.Do(http.MethodGet, "/v1/kv/x?raw"+how, ""); a.OK() {
			t.Errorf("a leader that was cut off answers %d %q to a read %s", a.Status, a.Body, how)
		}
	}
	if a := old.Do(http.MethodPut, "/v1/kv/x", "lost"); a.OK() {
		t.Errorf("a leader that was cut off acknowledges a write: %d %q", a.Status, a.Body)
	}
	if a := old.Do(http.MethodGet, "/v1/kv/x?raw&stale", ""); a.Body != "old" {
		t.Errorf("a stale read of a server that was cut off gives %d %q, want what it had", a.Status, a.Body)
	}
	heal()
	testcluster.Eventually(t, "the old leader follows the new one", func() bool {
		return old.Do(http.MethodGet, "/v1/kv/x?raw", "").Body == "new"
	})
	c.WaitSame(t)
}

// counter reads the counter at key by h.
func counter(h *testcluster.Host, key string) (value int, index uint64, ok bool) {
	var list []struct {
		Value       string
		ModifyIndex uint64
	}
	if !h.Get("/v1/kv/"+key, &list) || len(list) != 1 {
		return 0, 0, false
	}
	raw, err := base64.StdEncoding.DecodeString(list[0].Value)
	if err != nil {
		return 0, 0, false
	}
	value, err = strconv.Atoi(string(raw))
	return value, list[0].ModifyIndex, err == nil
}

// TestNoUpdateIsLost lets clients of all agents count one key up by check-and-set, in both dialects, while the leader
// crashes: every acknowledged step must be in the result, and nothing but those of unknown outcome beyond.
func TestNoUpdateIsLost(t *testing.T) {
	t.Parallel()
	c := testcluster.Start(t, 3, 1)
	c.Proxies[0].Put(t, "/v1/kv/n", "0")
	c.Proxies[0].Put(t, "/v2/keys/m", "value=0")
	leader := c.WaitLeader(t)
	var flat, deep tally
	quit := make(chan struct{})
	var wg sync.WaitGroup
	loop := func(f func()) {
		wg.Add(1)
		go func() {
			defer wg.Done()
			for {
				select {
				case <-quit:
					return
				default:
					f()
				}
			}
		}()
	}
	for _, h := range c.All() {
		if h == leader {
			continue
		}
		loop(func() {
			if v, at, ok := counter(h, "n"); ok {
				a := h.Do(http.MethodPut, fmt.Sprintf("/v1/kv/n?cas=%d", at), strconv.Itoa(v+1))
				flat.count(strings.TrimSpace(a.Body) == "true", a.Status == http.StatusOK)
			}
		})
		loop(func() {
			if v, ok := deepCounter(h); ok {
				a := h.Do(http.MethodPut, fmt.Sprintf("/v2/keys/m?prevValue=%d", v), url.Values{"value": {strconv.Itoa(v + 1)}}.Encode())
				deep.count(a.OK(), a.Status == http.StatusPreconditionFailed)
			}
		})
	}
	enough := func(n int64) func() bool {
		return func() bool { return flat.acked.Load() >= n && deep.acked.Load() >= n }
	}
	testcluster.Eventually(t, "counting goes on", enough(10))
	leader.Crash(t)
	was := max(flat.acked.Load(), deep.acked.Load())
	testcluster.Eventually(t, "counting goes on after the crash", enough(was+10))
	close(quit)
	wg.Wait()
	leader.Start(t)
	leader.WaitReady(t)
	for _, h := range c.All() {
		v, _, ok := counter(h, "n")
		flat.check(t, h.Name+", flat", v, ok)
		v, ok = deepCounter(h)
		deep.check(t, h.Name+", hierarchical", v, ok)
	}
	c.WaitSame(t)
}

func deepCounter(h *testcluster.Host) (int, bool) {
	var ev struct{ Node struct{ Value string } }
	if !h.Get("/v2/keys/m?quorum=true", &ev) {
		return 0, false
	}
	v, err := strconv.Atoi(ev.Node.Value)
	return v, err == nil
}

// tally counts steps by their outcome.
type tally struct{ acked, unknown atomic.Int64 }

// count takes one step: made, or surely not made, or of unknown outcome.
func (n *tally) count(made, answered bool) {
	switch {
	case made:
		n.acked.Add(1)
	case !answered:
		n.unknown.Add(1)
	}
}

func (n *tally) check(t *testing.T, where string, value int, ok bool) {
	t.Helper()
	acked, unknown := int(n.acked.Load()), int(n.unknown.Load())
	if !ok || value < acked || value > acked+unknown {
		t.Errorf("%s: the counter shows %d (read: %v), with %d acknowledged steps and %d of unknown outcome", where, value, ok, acked, unknown)
	}
}

// members lists name and status as a host's gossip sees them.
func members(h *testcluster.Host) map[string]int {
	var list []struct {
		Name   string
		Status int
	}
	out := map[string]int{}
	if h.Get("/v1/agent/members", &list) {
		for _, m := range list {
			out[m.Name] = m.Status
		}
	}
	return out
}

func peers(h *testcluster.Host) []string {
	var list []string
	h.Get("/v1/status/peers", &list)
	return list
}

// TestServerJoinsAndLeavesARunningCluster adds a server to a cluster with data and takes another one out.
func TestServerJoinsAndLeavesARunningCluster(t *testing.T) {
	t.Parallel()
	c := testcluster.Start(t, 3, 0)
	for i := range 30 {
		c.Servers[i%3].Put(t, "/v1/kv/early/"+strconv.Itoa(i), "v")
	}
	s4 := c.AddServer(t, "s4")
	s4.WaitReady(t)
	for _, s := range c.Servers {
		testcluster.Eventually(t, s.Name+" counts four voters", func() bool { return len(peers(s)) == 4 })
	}
	var keys []string
	testcluster.Eventually(t, "the new server has the data", func() bool {
		return s4.Get("/v1/kv/early/?keys&stale", &keys) && len(keys) == 30
	})
	c.WaitSame(t)

	gone := c.WaitLeader(t)
	gone.Leave(t)
	c.WaitLeader(t)
	for _, s := range c.Servers {
		if s == gone {
			continue
		}
		testcluster.Eventually(t, s.Name+" counts three voters after the leader left", func() bool { return len(peers(s)) == 3 })
		testcluster.Eventually(t, s.Name+" has the server out of its catalog", func() bool {
			var nodes []struct{ Node string }
			if !s.Get("/v1/catalog/nodes", &nodes) {
				return false
			}
			for _, n := range nodes {
				if n.Node == gone.Name {
					return false
				}
			}
			return len(nodes) == 3
		})
		s.Put(t, "/v1/kv/late/"+s.Name, "v")
	}
	c.WaitSame(t)
}

// TestRestartKeepsEverything stops every agent of a cluster, starts all again, and finds keys, registrations and
// indexes where they were.
func TestRestartKeepsEverything(t *testing.T) {
	t.Parallel()
	c := testcluster.Start(t, 1, 1)
	s, p := c.Servers[0], c.Proxies[0]
	p.Put(t, "/v1/agent/service/register", `{"Name":"kept","ID":"kept-1","Port":7,"Tags":["x"],"Meta":{"k":"v"},"Check":{"TTL":"60s"}}`)
	p.Put(t, "/v1/agent/check/pass/service:kept-1", "")
	s.Put(t, "/v1/kv/kept", "v")
	before := s.Put(t, "/v2/keys/kept", "value=v")
	var ev struct {
		Node struct{ ModifiedIndex uint64 }
	}
	if err := json.Unmarshal([]byte(before.Body), &ev); err != nil || ev.Node.ModifiedIndex == 0 {
		t.Fatalf("PUT answers %q", before.Body)
	}
	testcluster.Eventually(t, "the service is healthy", func() bool { return healthy(s, "kept") == 1 })
	index, _, _ := s.Agent().StateHash()

	for _, end := range []func(*testcluster.Host){func(h *testcluster.Host) { h.Stop(t) }, func(h *testcluster.Host) { h.Crash(t) }} {
		end(p)
		end(s)
		s.Start(t)
		p.Start(t)
		c.WaitReady(t)
		now, _, _ := s.Agent().StateHash()
		if now < index {
			t.Errorf("the index went back from %d to %d by a restart", index, now)
		}
		index = now
		if a := p.Do(http.MethodGet, "/v1/kv/kept?raw", ""); a.Body != "v" {
			t.Errorf("after a restart the key reads %d %q", a.Status, a.Body)
		}
		var again struct {
			Node struct{ ModifiedIndex uint64 }
		}
		if !p.Get("/v2/keys/kept", &again) || again.Node.ModifiedIndex != ev.Node.ModifiedIndex {
			t.Errorf("after a restart the key was modified at %d, want %d as before", again.Node.ModifiedIndex, ev.Node.ModifiedIndex)
		}
		testcluster.Eventually(t, "the service is healthy again", func() bool { return healthy(s, "kept") == 1 })
		var local map[string]struct {
			Port int
			Tags []string
			Meta map[string]string
		}
		if !p.Get("/v1/agent/services", &local) || local["kept-1"].Port != 7 || local["kept-1"].Meta["k"] != "v" || len(local["kept-1"].Tags) != 1 {
			t.Errorf("after a restart the agent knows %+v", local)
		}
		s.Put(t, "/v1/kv/after", "v")
	}
}

// healthy counts the passing instances of a service as a host answers, -1 when it does not.
func healthy(h *testcluster.Host, service string) int {
	var list []any
	if !h.Get("/v1/health/service/"+service+"?passing", &list) {
		return -1
	}
	return len(list)
}
