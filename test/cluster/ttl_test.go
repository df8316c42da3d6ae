package cluster_test

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/musterhq/muster/internal/testcluster"
)

// mortal is a key with a time to live: when its write began, when a watcher was told that it ran out.
type mortal struct {
	began   time.Time
	ttl     time.Duration
	expired time.Time
	unsure  bool // whether the write came to anything is unknown
}

// life is how long the key lived by the clock of its client, from before it was written to after it was seen to go.
func (m mortal) life() time.Duration { return m.expired.Sub(m.began) }

// graves follows the expiries below /ttl at a host.
type graves struct {
	mu   sync.Mutex
	keys map[string]*mortal
	ends context.CancelFunc
	err  error
}

// follow begins with the event since. keys are those written before; nil: none.
func follow(t testing.TB, h *testcluster.Host, since uint64, keys map[string]*mortal) *graves {
	t.Helper()
	if keys == nil {
		keys = map[string]*mortal{}
	}
	ctx, cancel := context.WithCancel(context.Background())
	t.Cleanup(cancel)
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, h.EtcdURL()+"/v2/keys/ttl?wait=true&stream=true&recursive=true&waitIndex="+strconv.FormatUint(since, 10), nil)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	g := &graves{keys: keys, ends: cancel}
	go func() {
		defer resp.Body.Close()
		for lines := bufio.NewScanner(resp.Body); lines.Scan(); {
			now := time.Now()
			var ev struct {
				Action string
				Node   struct{ Key string }
			}
			if err := json.Unmarshal(lines.Bytes(), &ev); err != nil || ev.Action != "expire" {
				continue
			}
			g.mu.Lock()
			if m := g.keys[ev.Node.Key]; m == nil || !m.expired.IsZero() {
				g.err = fmt.Errorf("%s expired though it was not there", ev.Node.Key)
			} else {
				m.expired = now
			}
			g.mu.Unlock()
		}
	}()
	return g
}

// write makes n keys that live from one second to longest, by eight clients of the given hosts.
func (g *graves) write(t testing.TB, prefix string, n, longest int, hosts ...*testcluster.Host) {
	var wg sync.WaitGroup
	var unsure atomic.Int64
	for w := range 8 {
		wg.Go(func() {
			for i := w; i < n; i += 8 {
				secs := 1 + i%longest
				key := fmt.Sprintf("/ttl/%s%d", prefix, i)
				m := &mortal{began: time.Now(), ttl: time.Duration(secs) * time.Second}
				g.mu.Lock()
				g.keys[key] = m
				g.mu.Unlock()
				a := hosts[i%len(hosts)].Do(http.MethodPut, "/v2/keys"+key+"?prevExist=false", fmt.Sprintf("value=1&ttl=%d", secs))
				switch {
				case a.Status == http.StatusInternalServerError: // on a busy machine a leader may fall by itself
					t.Logf("%s: %d %s", key, a.Status, a.Body)
					unsure.Add(1)
					g.mu.Lock()
					m.unsure = true
					g.mu.Unlock()
				case !a.OK():
					t.Errorf("%s: %d %s", key, a.Status, a.Body)
				}
			}
		})
	}
	wg.Wait()
	if int(unsure.Load()) > n/2 {
		t.Errorf("%d of %d writes have an unknown outcome", unsure.Load(), n)
	}
}

// wait returns the keys in order of their end, once all have gone.
func (g *graves) wait(t testing.TB) (all []mortal) {
	t.Helper()
	testcluster.Eventually(t, "every key expires", func() bool {
		g.mu.Lock()
		defer g.mu.Unlock()
		all = all[:0]
		sure := 0
		for _, m := range g.keys {
			if m.unsure {
				continue
			}
			sure++
			if !m.expired.IsZero() {
				all = append(all, *m)
			}
		}
		return len(all) == sure
	})
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.err != nil {
		t.Error(g.err)
	}
	for name, m := range g.keys {
		if !m.expired.IsZero() && m.life() < m.ttl {
			t.Errorf("%s lived %v of %v", name, m.life(), m.ttl)
		}
	}
	slices.SortFunc(all, func(a, b mortal) int { return a.expired.Compare(b.expired) })
	return all
}

// TestNoKeyExpiresEarly: not while all is well, not when the leader is killed while keys run out, not when the whole
// cluster was down; then the time it was down is added.
func TestNoKeyExpiresEarly(t *testing.T) {
	t.Parallel()
	c := testcluster.Start(t, 3, 0)
	leader := c.WaitLeader(t)
	var stay []*testcluster.Host
	for _, s := range c.Servers {
		if s != leader {
			stay = append(stay, s)
		}
	}
	at := index(t, leader.Put(t, "/v2/keys/ttl", "dir=true")) + 1
	g := follow(t, stay[0], at, nil)
	g.write(t, "a", 60, 2, stay...)
	began := time.Now()
	testcluster.Eventually(t, "some keys to have gone", func() bool { return time.Since(began) > 1100*time.Millisecond })
	leader.Crash(t)
	c.WaitLeader(t, leader)
	g.write(t, "b", 30, 2, stay...)
	g.wait(t)
	g.ends()

	leader.Start(t)
	c.WaitReady(t)
	at = index(t, stay[0].Put(t, "/v2/keys/ttl/end", "value=1")) + 1
	g = &graves{keys: map[string]*mortal{}}
	g.write(t, "c", 30, 2, c.Servers...)
	c.WaitSame(t)
	for _, s := range c.Servers {
		s.Crash(t)
	}
	down := time.Now()
	testcluster.Eventually(t, "the keys to be overdue", func() bool { return time.Since(down) > 2200*time.Millisecond })
	outage := time.Since(down)
	for _, s := range c.Servers {
		s.Start(t)
	}
	c.WaitReady(t)
	after := follow(t, c.Servers[0], at, g.keys)
	for _, m := range after.wait(t) {
		if m.life() < m.ttl+outage {
			t.Errorf("a key with %v lived %v, though for %v of it nobody could prolong it", m.ttl, m.life(), outage)
		}
	}
}

// BenchmarkExpiry reports how late 1,000 keys with one to three seconds to live go, as a watcher at a follower sees
// it: in quiet times, and when the leader is killed in the middle.
//
//	go test -run xxx -bench Expiry -benchtime 1x ./test/cluster
func BenchmarkExpiry(b *testing.B) {
	for _, kill := range []bool{false, true} {
		b.Run(map[bool]string{false: "quiet", true: "leader-killed"}[kill], func(b *testing.B) {
			var late []time.Duration
			for range b.N {
				c := testcluster.Start(b, 3, 0, "-log-level=error")
				leader := c.WaitLeader(b)
				var stay []*testcluster.Host
				for _, s := range c.Servers {
					if s != leader {
						stay = append(stay, s)
					}
				}
				a := stay[0].Do(http.MethodPut, "/v2/keys/ttl", "dir=true")
				at, err := strconv.ParseUint(a.Header.Get("X-Etcd-Index"), 10, 64)
				if err != nil {
					b.Fatal(a)
				}
				g := follow(b, stay[0], at+1, nil)
				began := time.Now()
				g.write(b, "k", 1000, 3, stay...)
				if kill {
					testcluster.Eventually(b, "some keys to have gone", func() bool { return time.Since(began) > 1200*time.Millisecond })
					killed := time.Now()
					leader.Crash(b)
					for !stay[0].Do(http.MethodPut, "/v2/keys/after", "value=1").OK() {
					}
					b.ReportMetric(float64(time.Since(killed).Milliseconds()), "ms-without-leader")
				}
				for _, m := range g.wait(b) {
					late = append(late, m.life()-m.ttl)
				}
				_, text, _ := strings.Cut(stay[0].Do(http.MethodGet, "/metrics", "").Body, "\netcd_server_leader_changes_seen_total ")
				text, _, _ = strings.Cut(text, "\n")
				if leaders, err := strconv.ParseFloat(text, 64); err == nil {
					b.ReportMetric(leaders, "leaders")
				}
			}
			slices.Sort(late)
			for _, p := range []struct {
				name string
				at   float64
			}{{"min", 0}, {"p50", 0.5}, {"p90", 0.9}, {"p99", 0.99}, {"max", 1}} {
				b.ReportMetric(float64(late[min(int(p.at*float64(len(late))), len(late)-1)].Microseconds())/1000, p.name+"-ms-late")
			}
		})
	}
}
