package cluster_test

import (
	"slices"
	"testing"

	"github.com/musterhq/muster/internal/testcluster"
	"github.com/musterhq/muster/test/drill"
)

// TestOrderSurvivesDeaths runs 32 clients through every endpoint while a follower and then the leader stop in good
// order, and a follower and then the leader die.
func TestOrderSurvivesDeaths(t *testing.T) {
	t.Parallel()
	c := testcluster.Start(t, 3, 1)
	var bases []string
	for _, h := range c.All() {
		bases = append(bases, h.EtcdURL())
	}
	d := drill.Run(t, 32, bases...)
	d.More(t, 100, "writes flow")
	for _, fall := range []struct {
		name   string
		leader bool
		how    func(*testcluster.Host)
	}{
		{"a follower stops", false, func(h *testcluster.Host) { h.Stop(t) }},
		{"the leader stops", true, func(h *testcluster.Host) { h.Stop(t) }},
		{"a follower dies", false, func(h *testcluster.Host) { h.Crash(t) }},
		{"the leader dies", true, func(h *testcluster.Host) { h.Crash(t) }},
	} {
		victim := c.WaitLeader(t)
		if !fall.leader {
			victim = c.Servers[(slices.Index(c.Servers, victim)+1)%len(c.Servers)]
		}
		fall.how(victim)
		d.More(t, 100, "writes go on when "+fall.name)
		victim.Start(t)
		victim.WaitReady(t)
		d.More(t, 50, "writes go on with it")
	}
	d.Verify(t, c.Proxies[0].EtcdURL())
	c.WaitSame(t)
}
