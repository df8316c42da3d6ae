//go:build e2e

package e2e

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/musterhq/muster/test/drill"
)

// The drills of docs/drills.md: what has to hold while machines die, pause, stall and lose one another.

// agentsOf are hosts as drill loads know them.
func agentsOf(hosts ...*host) []drill.Agent {
	var out []drill.Agent
	for _, h := range hosts {
		out = append(out, drill.Agent{Base: h.url("")})
	}
	return out
}

// last waits for a duration that is part of a drill, such as how long a pause is.
func last(d time.Duration) { <-time.After(d) }

func (c *cluster) others(than *host) []*host {
	var out []*host
	for _, s := range c.servers {
		if s != than {
			out = append(out, s)
		}
	}
	return out
}

// newLeader waits until somebody else leads, in the eyes of those who are left.
func (c *cluster) newLeader(than *host) *host {
	c.t.Helper()
	var found *host
	eventually(c.t, 30*time.Second, "somebody other than "+than.name+" leads", func() bool {
		for _, s := range c.others(than) {
			var addr string
			if s.get("/v1/status/leader", &addr) {
				for _, h := range c.others(than) {
					if strings.HasPrefix(addr, h.ip+":") {
						found = h
						return true
					}
				}
			}
		}
		return false
	})
	return found
}

// TestDrillLinearizable kills, pauses and deposes servers under clients of every agent; the answers to all of them must be those of
// one machine that does one thing after the other.
func TestDrillLinearizable(t *testing.T) {
	c := newCluster(t, 3, 1)
	load := drill.RunRegisters(3, agentsOf(c.all()...)...)
	proxy := len(c.servers)
	load.More(t, proxy, 50, "requests flow")
	for round := range 2 {
		for name, fault := range map[string]func(leader, other *host){
			"kill the leader": func(leader, _ *host) {
				leader.kill()
				c.newLeader(leader)
				leader.start()
			},
			"kill a follower": func(_, other *host) {
				other.kill()
				load.More(t, proxy, 50, "requests flow beside a dead follower")
				other.start()
			},
			"pause the leader": func(leader, _ *host) {
				leader.signal(syscall.SIGSTOP)
				defer leader.signal(syscall.SIGCONT)
				c.newLeader(leader)
				load.More(t, proxy, 50, "requests flow beside a paused leader")
			},
			"pause the leader for a moment": func(leader, _ *host) {
				leader.signal(syscall.SIGSTOP)
				last(time.Duration(250+rand.IntN(400)) * time.Millisecond)
				leader.signal(syscall.SIGCONT)
			},
			"pause a follower": func(_, other *host) {
				other.signal(syscall.SIGSTOP)
				last(800 * time.Millisecond)
				other.signal(syscall.SIGCONT)
			},
			"hand over": func(leader, _ *host) {
				leader.do(http.MethodPut, "/v1/operator/raft/transfer-leader", "")
			},
		} {
			leader := c.leader()
			other := c.others(leader)[rand.IntN(2)]
			begin := time.Now()
			fault(leader, other)
			load.More(t, proxy, 50, fmt.Sprintf("requests flow after %q, round %d", name, round))
			c.ready(c.all()...)
			t.Logf("%s: everybody answers again after %v", name, time.Since(begin).Round(time.Millisecond))
		}
	}
	load.Verify(t)
}

// TestDrillPausedLeader stops the leader past its lease, in the middle of handing over, with reads waiting at it. When it runs again it
// must not answer one of them with less than had been acknowledged before that read was made.
func TestDrillPausedLeader(t *testing.T) {
	c := newCluster(t, 3, 0)
	read := map[string]func(h *host) (int, bool){
		"consistent": func(h *host) (int, bool) { return value(h.do(http.MethodGet, "/v1/kv/paused?raw&consistent", "")) },
		"default":    func(h *host) (int, bool) { return value(h.do(http.MethodGet, "/v1/kv/paused?raw", "")) },
	}
	var answered atomic.Int64
	counter := 0
	for round := range 4 {
		old := c.leader()
		counter++
		old.must(http.MethodPut, "/v1/kv/paused", fmt.Sprint(counter))
		var wg sync.WaitGroup
		if round%2 == 0 {
			wg.Go(func() { old.do(http.MethodPut, "/v1/operator/raft/transfer-leader", "") })
			last(time.Duration(rand.IntN(8)) * time.Millisecond)
		}
		old.signal(syscall.SIGSTOP)
		next := c.newLeader(old)
		// Each read knows what was acknowledged before it was made; the paused server finds it in its socket later.
		for range 25 {
			counter++
			floor := counter
			next.must(http.MethodPut, "/v1/kv/paused", fmt.Sprint(counter))
			for how, get := range read {
				wg.Go(func() {
					got, ok := get(old)
					if ok {
						answered.Add(1)
					}
					if ok && got < floor {
						t.Errorf("a %s read at the leader that was paused gives %d, %d had been acknowledged before", how, got, floor)
					}
				})
			}
			last(30 * time.Millisecond)
		}
		old.signal(syscall.SIGCONT)
		wg.Wait()
		c.ready(old)
	}
	t.Logf("%d reads were answered by servers that had been paused as leader", answered.Load())
	if answered.Load() == 0 {
		t.Error("no read was answered: nothing was shown")
	}
}

func value(status int, body string) (int, bool) {
	n, err := strconv.Atoi(strings.TrimSpace(body))
	return n, status == http.StatusOK && err == nil
}

// TestDrillWrongMember announces servers at addresses where nobody is, and lets a server come that says a wrong address of itself. The
// cluster goes on to write, also with one of its true members dead.
func TestDrillWrongMember(t *testing.T) {
	c := newCluster(t, 3, 1)
	p := c.proxies[0]
	w := startWriters(p, 2)
	for i, u := range []string{"http://127.0.0.1:1", "http://192.0.2.1:8300", "http://" + c.servers[0].ip + ":9"} {
		resp, err := http.Post(p.url("/v2/members"), "application/json", strings.NewReader(fmt.Sprintf(`{"peerURLs":[%q]}`, u)))
		if err != nil {
			t.Fatal(err)
		}
		_ = resp.Body.Close()
		if resp.StatusCode != http.StatusCreated {
			t.Fatalf("announcement %d: status %d", i, resp.StatusCode)
		}
	}
	liar := newAgentHost(t, "liar", append(c.servers[0].args[:len(c.servers[0].args):len(c.servers[0].args)], "-advertise=192.0.2.7")...)
	liar.args = dropArg(liar.args, "-bootstrap-expect")
	liar.start()
	eventually(t, 30*time.Second, "the leader meets the server that says a wrong address", func() bool {
		return strings.Contains(c.leader().log.String(), "server could not be added to the consensus: node=liar")
	})
	before := w.count()
	eventually(t, 30*time.Second, "writes go on", func() bool { return w.count() > before+100 })
	c.others(c.leader())[0].kill()
	before = w.count()
	eventually(t, 30*time.Second, "writes go on with one server dead", func() bool { return w.count() > before+100 })
	acked := w.stop()
	if lost := missing(p, acked); len(lost) > 0 {
		t.Errorf("%d of %d acknowledged keys are lost", len(lost), len(acked))
	}
	var conf struct{ Servers []struct{ Address string } }
	if !p.get("/v1/operator/raft/configuration", &conf) || len(conf.Servers) != 3 {
		t.Errorf("the consensus has members that never answered: %+v", conf)
	}
}

func dropArg(args []string, prefix string) []string {
	var out []string
	for _, a := range args {
		if !strings.HasPrefix(a, prefix) {
			out = append(out, a)
		}
	}
	return out
}

func decode(body string, v any) bool { return json.Unmarshal([]byte(body), v) == nil }
