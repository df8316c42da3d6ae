package cluster_test

import (
	"fmt"
	"slices"
	"testing"

	"github.com/musterhq/muster/internal/testcluster"
)

// events gives the names of the user events that a host has got for itself, sorted: the order is that of the packets.
func events(h *testcluster.Host) (names []string) {
	var list []struct{ Name string }
	h.Get("/v1/event/list", &list)
	for _, e := range list {
		names = append(names, e.Name)
	}
	slices.Sort(names)
	return names
}

// TestEventsReachWhomTheyAreFor fires events at a proxy and a server and looks at every agent. One that joins later
// hears only what comes after.
func TestEventsReachWhomTheyAreFor(t *testing.T) {
	t.Parallel()
	c := testcluster.Start(t, 1, 2)
	p, s := c.Proxies[0], c.Servers[0]
	for _, h := range c.All() {
		testcluster.Eventually(t, h.Name+" knows all others", func() bool {
			var members []struct{ Status int }
			return h.Get("/v1/agent/members", &members) && len(members) == 3
		})
	}
	c.Proxies[1].Put(t, "/v1/agent/service/register", `{"Name":"web","Tags":["blue"]}`)
	p.Put(t, "/v1/event/fire/all", "x")
	if got := fmt.Sprint(events(p)); got != "[all]" {
		t.Errorf("right after firing the agent itself has %s", got)
	}
	s.Put(t, "/v1/event/fire/blue?service=^web$&tag=blue", "")
	s.Put(t, "/v1/event/fire/server?node=^"+s.Name+"$", "")
	p.Put(t, "/v1/event/fire/last", "")
	for h, want := range map[*testcluster.Host]string{p: "[all last]", c.Proxies[1]: "[all blue last]", s: "[all last server]"} {
		testcluster.Eventually(t, h.Name+" has "+want, func() bool { return fmt.Sprint(events(h)) == want })
	}
	late := c.AddProxy(t, "late")
	late.WaitReady(t)
	s.Put(t, "/v1/event/fire/afterwards", "")
	testcluster.Eventually(t, "the newcomer has heard the last", func() bool { return fmt.Sprint(events(late)) == "[afterwards]" })
}
