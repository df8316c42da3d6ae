package consensus_test

import (
	"fmt"
	"testing"
	"time"

	"github.com/musterhq/muster/consensus"
)

// Figures are what really went over the wire: each follower's round trips on the leader, appends on both sides, and
// the failures of one that is gone.
func TestFigures(t *testing.T) {
	c := newCluster(t, 3, steady)
	l := c.leader()
	before := time.Now()
	for i := range 50 {
		c.write(fmt.Sprint("k", i), "v")
	}
	c.converge()
	var f consensus.Figures
	within(t, "the rates of what was sent within the last second", func() bool {
		c.write("again", "v")
		f = l.Figures()
		return f.Sent.PerSecond > 0 && f.Sent.BytesPerSecond > 0
	})
	if len(f.Followers) != 2 || f.Sent.Appends < 50 || f.Failed != 0 {
		t.Fatalf("leader: %+v", f)
	}
	if f.LeaderChanges == 0 || f.LeaderSince.IsZero() || f.LeaderSince.After(before) {
		t.Fatalf("leader since %v, %d changes", f.LeaderSince, f.LeaderChanges)
	}
	for _, p := range f.Followers {
		if p.Succeeded == 0 || p.Failed != 0 || p.Least <= 0 || p.Least > p.Average || p.Average > p.Longest || p.Current <= 0 || p.Deviation < 0 || p.Longest > time.Minute {
			t.Errorf("follower: %+v", p)
		}
	}
	for _, m := range c.followers() {
		if f := m.Figures(); f.Received.Appends == 0 || f.LeaderChanges == 0 || len(f.Followers) != 0 && f.Sent.Appends == 0 {
			t.Errorf("%s: %+v", m.cfg.ID, f)
		}
	}
	gone := c.followers()[0]
	c.stop(gone)
	within(t, "appends to the stopped server to fail", func() bool {
		for _, p := range l.Figures().Followers {
			if p.ID == gone.cfg.ID && p.Failed > 0 {
				return true
			}
		}
		return false
	})
	// It is shown as long as it belongs to the cluster.
	if err := l.RemoveServer(ctxFor(t, patience), gone.cfg.ID, false); err != nil {
		t.Fatal(err)
	}
	within(t, "the removed server to be forgotten", func() bool { return len(l.Figures().Followers) == 1 })
}

// A new leader is a change of leaders for those who stay.
func TestFiguresCountLeaders(t *testing.T) {
	c := newCluster(t, 3)
	l := c.leader()
	stays := c.followers()
	changes := map[string]uint64{}
	for _, m := range stays {
		within(t, "the leader to be known", func() bool { return !m.Figures().LeaderSince.IsZero() })
		changes[m.cfg.ID] = m.Figures().LeaderChanges
	}
	began := time.Now()
	c.stop(l)
	for _, m := range stays {
		var f consensus.Figures
		within(t, "the new leader to be counted", func() bool {
			f = m.Figures()
			return f.LeaderChanges > changes[m.cfg.ID] && f.LeaderSince.After(began)
		})
	}
}
