package agent_test

import (
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/musterhq/muster/internal/doctor"
	"github.com/musterhq/muster/internal/testcluster"
)

// examined is what a host's agent finds, the bad findings by "area subject".
func examined(t *testing.T, h *testcluster.Host) (*doctor.Report, map[string]doctor.Finding) {
	t.Helper()
	r := new(doctor.Report)
	if !h.Get("/v1/agent/doctor", r) {
		t.Fatalf("%s: no report", h.Name)
	}
	bad := map[string]doctor.Finding{}
	for _, f := range r.Findings {
		if f.Status != doctor.OK {
			bad[f.Area+" "+f.Subject] = f
		}
	}
	return r, bad
}

func TestDoctor(t *testing.T) {
	t.Parallel()
	c := testcluster.Start(t, 3, 1)
	c.WaitLeader(t)
	for _, h := range []*testcluster.Host{c.Servers[0], c.Proxies[0]} {
		var r *doctor.Report
		var bad map[string]doctor.Finding
		// What a busy machine does to disks and answers is not this test's matter.
		testcluster.Eventually(t, h.Name+" has nothing to complain of", func() bool {
			r, bad = examined(t, h)
			for k, f := range bad {
				if f.Status == doctor.Warn && (f.Area == doctor.Disk || k == "agent open files" || f.Area == doctor.Time) {
					delete(bad, k)
				}
			}
			return len(bad) == 0
		})
		seen := map[string]bool{}
		for _, f := range r.Findings {
			seen[f.Area+" "+f.Subject] = true
		}
		s2, p := c.Servers[1], c.Proxies[0]
		for _, want := range []string{
			"cluster quorum", "cluster leader", "cluster server s2", "network s2 server port " + s2.ServerAddr() + "/tcp", "clock s2",
			"network s2 gossip port " + s2.IP + ":8301/udp", "network s2 gossip port " + s2.IP + ":8301/tcp",
			"listeners dns " + h.DNS() + "/udp", "listeners dns " + h.DNS() + "/tcp", "listeners http " + h.IP + ":8500", "listeners etcd " + h.IP + ":2379",
			"disk fsync in " + h.DataDir, "disk space in " + h.DataDir, "versions programs", "agent catalog",
		} {
			if !seen[want] {
				t.Errorf("%s says nothing about %q", h.Name, want)
			}
		}
		if r.Node != h.Name || r.Server != (h != p) || seen["disk stalls"] != r.Server {
			t.Errorf("report %+v", r)
		}
	}

	dead := c.Servers[2]
	dead.Crash(t)
	port := "network s3 server port " + dead.ServerAddr() + "/tcp"
	for _, h := range []*testcluster.Host{c.Servers[0], c.Proxies[0]} {
		testcluster.Eventually(t, h.Name+" names the dead server", func() bool {
			_, bad := examined(t, h)
			return bad[port].Status == doctor.Fail && bad["cluster quorum"].Status == doctor.Warn && bad["cluster server s3"].Status == doctor.Fail
		})
	}

	c.Servers[1].Crash(t)
	for _, h := range []*testcluster.Host{c.Servers[0], c.Proxies[0]} {
		testcluster.Eventually(t, h.Name+" misses the leader, and says all the rest", func() bool {
			r, bad := examined(t, h)
			if r.Took > 6*time.Second {
				t.Errorf("%s took %v", h.Name, r.Took)
			}
			return bad["cluster leader"].Status == doctor.Fail && bad["listeners http "+h.IP+":8500"].Status == "" && len(r.Findings) > 10
		})
	}
}

func TestDoctorOneAtATime(t *testing.T) {
	t.Parallel()
	c := testcluster.Start(t, 1, 0)
	h := c.Servers[0]
	answers := make(chan testcluster.Answer)
	const many = 16
	for range many {
		go func() { answers <- h.Do(http.MethodGet, "/v1/agent/doctor", "") }()
	}
	good := 0
	for range many {
		switch a := <-answers; {
		case a.Status == http.StatusOK:
			good++
		case a.Status != http.StatusTooManyRequests || !strings.Contains(a.Body, "under way"):
			t.Errorf("status %d: %s", a.Status, a.Body)
		}
	}
	if good == 0 {
		t.Error("nobody got a report")
	}
}

// TestDoctorAlone: a proxy that finds nobody says whom it tried.
func TestDoctorAlone(t *testing.T) {
	t.Parallel()
	c := testcluster.Start(t, 0, 0)
	const nobody = "127.99.99.99"
	p := c.AddProxy(t, "alone", "-retry-join="+nobody)
	_, bad := examined(t, p)
	if bad["cluster servers"].Status != doctor.Fail || bad["network retry_join "+nobody+":8301/tcp"].Status != doctor.Fail {
		t.Errorf("%+v", bad)
	}
	if f := bad["listeners dns "+p.DNS()+"/udp"]; f.Status == doctor.Fail {
		t.Errorf("the listener answers, and counts as dead: %+v", f)
	}
}
