package cluster_test

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/miekg/dns"

	"github.com/musterhq/muster/internal/testcluster"
)

// emptyAnswer says whether a host answers that there is no healthy instance; no answer is none.
func emptyAnswer(h *testcluster.Host, service string) string {
	c := dns.Client{Net: "tcp", Timeout: time.Second}
	in, _, err := c.Exchange(new(dns.Msg).SetQuestion(service+".service.consul.", dns.TypeSRV), h.DNS())
	if err == nil && (in.Rcode == dns.RcodeSuccess || in.Rcode == dns.RcodeNameError) && len(in.Answer) == 0 {
		return fmt.Sprintf("%s by DNS (%s)", h.Name, dns.RcodeToString[in.Rcode])
	}
	if n, _ := passing(h, service); n == 0 {
		return h.Name + " by HTTP"
	}
	return ""
}

// TestHoldIsLearnt: all instances turn critical while one server is away. It comes back, a proxy comes new, and both hold what the
// others hold.
func TestHoldIsLearnt(t *testing.T) {
	t.Parallel()
	c := testcluster.Start(t, 3, 0)
	away, rest := c.Servers[2], c.Servers[:2]
	fleet(t, rest[0], "web", 6)
	for _, h := range rest {
		watched(t, h, 1)
	}
	away.Crash(t)
	c.WaitLeader(t, away)
	for i := range 6 {
		report(t, rest[0], "web", i, "critical")
	}
	holds := func(h *testcluster.Host) {
		t.Helper()
		testcluster.Eventually(t, h.Name+" holds them", func() bool {
			var self struct {
				Guard struct{ Held []struct{ Lost int } }
			}
			return h.Get("/v1/agent/self", &self) && len(self.Guard.Held) == 1 && self.Guard.Held[0].Lost == 6 && lookupAll(h, "web.service.consul.") == 6
		})
	}
	for _, h := range rest { // all that was lost has been seen: what is learnt is what is held at that moment
		holds(h)
	}
	away.Start(t)
	holds(away)
	holds(c.AddProxy(t, "p1"))
	away.Put(t, "/v1/agent/guard/release", "")
	for _, h := range c.All() {
		testcluster.Eventually(t, h.Name+" believes it", func() bool {
			n, g := passing(h, "web")
			return n == 0 && g == "" && lookupAll(h, "web.service.consul.") == 0
		})
	}
}

// TestHoldOutlivesRestarts: all instances of a service turn critical at once and are held. Proxy and server die and come back, each
// while the other is there and both together, and nobody is ever told that there is none; an operator's word ends it for good.
func TestHoldOutlivesRestarts(t *testing.T) {
	t.Parallel()
	c := testcluster.Start(t, 1, 1)
	s, p := c.Servers[0], c.Proxies[0]
	fleet(t, s, "web", 6)
	for _, h := range c.All() {
		testcluster.Eventually(t, h.Name+" shows them", func() bool { n, _ := passing(h, "web"); return n == 6 && lookupAll(h, "web.service.consul.") == 6 })
		watched(t, h, 1)
	}
	for i := range 6 {
		report(t, s, "web", i, "critical")
	}
	held := func(when string) {
		t.Helper()
		for _, h := range c.All() {
			testcluster.Eventually(t, h.Name+" holds them "+when, func() bool {
				if where := emptyAnswer(h, "web"); where != "" {
					t.Fatalf("%s: %s says that there is none", when, where)
				}
				n, g := passing(h, "web")
				var self struct{ Guard struct{ Held []any } } // of a proxy once it follows the name, not at the first lookup
				return n == 6 && g != "" && lookupAll(h, "web.service.consul.") == 6 && h.Get("/v1/agent/self", &self) && len(self.Guard.Held) == 1
			})
		}
	}
	held("at first")
	for _, h := range c.All() {
		testcluster.Eventually(t, h.Name+" has written it down", func() bool {
			st, err := os.Stat(filepath.Join(h.DataDir, "guard.json"))
			return err == nil && st.Size() > 0
		})
	}
	never := func(when string, hosts ...*testcluster.Host) {
		t.Helper()
		for range 50 { // from the first answer on
			for _, h := range hosts {
				if where := emptyAnswer(h, "web"); where != "" {
					t.Fatalf("%s: %s says that there is none", when, where)
				}
			}
		}
	}
	p.Crash(t)
	p.Start(t)
	never("the proxy has died", p)
	held("after the death of the proxy")
	s.Crash(t)
	never("the server is dead", p)
	p.Stop(t)
	p.Start(t)
	never("and the proxy restarted", p)
	s.Start(t)
	never("the server is back", s, p)
	held("after the death of the server")

	p.Put(t, "/v1/agent/guard/release", "")
	gone := func(when string) {
		t.Helper()
		for _, h := range c.All() {
			testcluster.Eventually(t, h.Name+" believes it "+when, func() bool {
				n, g := passing(h, "web")
				return n == 0 && g == "" && lookupAll(h, "web.service.consul.") == 0
			})
			testcluster.Eventually(t, h.Name+" has nothing to write down "+when, func() bool {
				_, err := os.Stat(filepath.Join(h.DataDir, "guard.json"))
				return os.IsNotExist(err)
			})
		}
	}
	gone("after an operator's word")
	s.Crash(t)
	s.Start(t)
	gone("and after a restart")
}
