//go:build e2e

package e2e

import (
	"fmt"
	"net/http"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/miekg/dns"
)

// rounds is how often a drill that measures repeats itself: MUSTER_DRILL_ROUNDS, or so often.
func rounds(t *testing.T, few int) int {
	t.Helper()
	if s := os.Getenv("MUSTER_DRILL_ROUNDS"); s != "" {
		n, err := strconv.Atoi(s)
		if err != nil {
			t.Fatal(err)
		}
		return n
	}
	return few
}

// answersOf counts the records that the DNS at an address gives for a name; -1 when there is no answer.
func answersOf(client *dns.Client, server, name string) int {
	var q dns.Msg
	q.SetQuestion(name+".", dns.TypeSRV)
	a, _, err := client.Exchange(&q, server+":8600")
	if err != nil || a.Rcode != dns.RcodeSuccess && a.Rcode != dns.RcodeNameError {
		return -1
	}
	return len(a.Answer)
}

// leftDNS waits until the DNS of each host gives so many records less, and tells how long the slowest took.
func leftDNS(t *testing.T, name string, want int, hosts ...*host) time.Duration {
	t.Helper()
	begin := time.Now()
	client := &dns.Client{Timeout: time.Second}
	for _, h := range hosts {
		for tick := time.NewTicker(2 * time.Millisecond); ; <-tick.C {
			if answersOf(client, h.ip, name) == want {
				tick.Stop()
				break
			}
			if time.Since(begin) > 30*time.Second {
				t.Fatalf("%s still gives other than %d records for %s", h.name, want, name)
			}
		}
	}
	return time.Since(begin)
}

func spread(all []time.Duration) string {
	slices.Sort(all)
	return fmt.Sprintf("median %v, most %v of %d", all[len(all)/2].Round(time.Millisecond), all[len(all)-1].Round(time.Millisecond), len(all))
}

// TestDrillDeath measures how long the services of a process that is killed stay in the DNS of all others: a proxy, and each server in
// turn, the leader among them.
func TestDrillDeath(t *testing.T) {
	c := newCluster(t, 3, 2)
	p := c.proxies[0]
	p.must(http.MethodPut, "/v1/agent/service/register", `{"Name":"mortal","Port":1}`)
	for _, s := range c.servers {
		s.must(http.MethodPut, "/v1/agent/service/register", `{"Name":"server","Port":1}`)
	}
	rest := func(dead *host) []*host {
		return slices.DeleteFunc(c.all(), func(h *host) bool { return h == dead })
	}
	var proxies, followers, leaders []time.Duration
	for range rounds(t, 3) {
		leftDNS(t, "mortal.service.consul", 1, c.all()...)
		p.kill()
		proxies = append(proxies, leftDNS(t, "mortal.service.consul", 0, rest(p)...))
		p.start()
		c.ready(p)
		leader := c.leader()
		for _, s := range []*host{c.others(leader)[0], leader} {
			leftDNS(t, "server.service.consul", 3, c.all()...)
			s.kill()
			took := leftDNS(t, "server.service.consul", 2, rest(s)...)
			if s == leader {
				leaders = append(leaders, took)
			} else {
				followers = append(followers, took)
			}
			s.start()
			c.ready(s)
		}
	}
	t.Logf("kill -9 to out of the DNS of all other agents: a proxy %s; a follower %s; the leader %s", spread(proxies), spread(followers), spread(leaders))
	for who, all := range map[string][]time.Duration{"a proxy": proxies, "a follower": followers, "the leader": leaders} {
		if all[len(all)/2] > 2*time.Second { // gossip alone needs 3
			t.Errorf("%s: nobody took the refused connection for a proof", who)
		}
	}
}

// TestDrillPulledCable measures the same for a machine whose cable is pulled: nothing proves its death, gossip has to find out.
func TestDrillPulledCable(t *testing.T) {
	l := newLab(t, 4)
	for i := 1; i <= 3; i++ {
		l.agent(i, "-server", "-bootstrap-expect=3")
	}
	l.agent(4)
	eventually(t, 30*time.Second, "the proxy registers", func() bool {
		_, code := l.muster(4, "services", "register", "-name=silent", "-port=1")
		return code == 0
	})
	client := l.client(1)
	healthy := func() bool {
		_, body := get(client, "/v1/health/service/silent?passing&stale")
		return strings.Contains(body, `"silent"`)
	}
	var all []time.Duration
	for range rounds(t, 1) {
		eventually(t, 60*time.Second, "the service is healthy", healthy)
		last(time.Second)
		l.unplug(4)
		begin := time.Now()
		eventually(t, 60*time.Second, "the service leaves the answers", func() bool { return !healthy() })
		all = append(all, time.Since(begin))
		l.plug(4)
	}
	t.Logf("cable pulled to out of the answers: %s", spread(all))
}
