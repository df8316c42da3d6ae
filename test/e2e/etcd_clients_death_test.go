//go:build e2e

package e2e

import (
	"net/http"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/musterhq/muster/test/drill"
)

func (h *host) etcd() string { return "http://" + h.ip + ":2379" }

// holder is the server that holds the watches of the proxy: the one on which somebody watches.
func (c *cluster) holder(t *testing.T) *host {
	t.Helper()
	var found *host
	eventually(t, 30*time.Second, "one server holds the watches", func() bool {
		for _, s := range c.servers {
			var stats struct{ Watchers int }
			if s.get("/v2/stats/store", &stats) && stats.Watchers > 0 {
				found = s
				return true
			}
		}
		return false
	})
	return found
}

// TestWatchesOnAProxyOutliveTheirServer kills the server that holds the proxy's watches, three times over, during
// 5,000 events. Eight watchers of all kinds must each see exactly the sequence, in answers that do not break.
func TestWatchesOnAProxyOutliveTheirServer(t *testing.T) {
	c := newCluster(t, 3, 1)
	p := c.proxies[0]
	p.must(http.MethodPut, "/v2/keys/seen/other", "value=x")
	var from struct {
		Node struct{ ModifiedIndex uint64 }
	}
	if !p.get("/v2/keys/seen/other", &from) {
		t.Fatal("the first key cannot be read")
	}
	watchers := drill.Watch(t, p.etcd(), "seen", "key", from.Node.ModifiedIndex+1)
	w := drill.Write(p.etcd(), "seen/key")
	w.More(t, 500, "writes flow")
	for range 3 {
		victim := c.holder(t)
		victim.kill()
		w.More(t, 1000, "writes go on without "+victim.name)
		victim.start()
		c.ready(victim)
		w.More(t, 250, "writes go on with it")
	}
	if n := w.Written(); n < 5000 {
		w.More(t, 5000-n, "5,000 events")
	}
	watchers.Verify(t, w.Stop())
	t.Logf("8 watchers saw %d events each, through 3 kills", w.Written())
	if strings.Contains(p.log.String(), "panic") {
		t.Error("the proxy panicked")
	}
}

// TestOrderOutlivesEveryRole runs 32 clients through three servers and a proxy while each role is stopped and killed.
func TestOrderOutlivesEveryRole(t *testing.T) {
	c := newCluster(t, 3, 1)
	var bases []string
	for _, h := range c.all() {
		bases = append(bases, h.etcd())
	}
	d := drill.Run(t, 32, bases...)
	d.More(t, 500, "writes flow")
	for _, fall := range []struct {
		name   string
		leader bool
		how    func(*host)
	}{
		{"a follower is killed", false, (*host).kill},
		{"the leader is killed", true, (*host).kill},
		{"a follower is stopped", false, func(h *host) { h.signal(syscall.SIGTERM); h.wait(40 * time.Second) }},
		{"the leader is stopped", true, func(h *host) { h.signal(syscall.SIGTERM); h.wait(40 * time.Second) }},
	} {
		victim := c.leader()
		if !fall.leader {
			for _, s := range c.servers {
				if s != victim {
					victim = s
					break
				}
			}
		}
		fall.how(victim)
		d.More(t, 300, "writes go on when "+fall.name)
		victim.start()
		c.ready(victim)
		d.More(t, 200, "writes go on with it")
	}
	d.Verify(t, c.proxies[0].etcd())
}
