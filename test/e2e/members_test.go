//go:build e2e

package e2e

import (
	"strings"
	"testing"
	"time"
)

// TestMembersWithEtcdctl adds and removes a server with the stock client: a wrong address does no harm, the right one is
// taken over by the server that comes, and a removed server ends by itself, now and whenever it is started again.
func TestMembersWithEtcdctl(t *testing.T) {
	etcdctl := tool(t, "etcdctl")
	c := newCluster(t, 1, 1)
	s1, p := c.servers[0], c.proxies[0]
	ctl := func(args ...string) string {
		t.Helper()
		argv := append([]string{etcdctl, "--endpoints", "http://" + p.ip + ":2379", "--no-sync"}, args...)
		out, errs, code := sh(t, []string{"ETCDCTL_API=2"}, "", argv...)
		if code != 0 {
			t.Fatalf("etcdctl %v: status %d\n%s%s", args, code, out, errs)
		}
		return out
	}
	ctl("member", "add", "typo", "http://127.0.0.1:1")
	ctl("set", "/a", "still written")

	s2 := newAgentHost(t, "s2", "-server", "-retry-join="+s1.ip, "-retry-interval=1s")
	added := ctl("member", "add", "s2", "http://"+s2.ip+":8300")
	_, id, _ := strings.Cut(added, " with ID ")
	id, _, _ = strings.Cut(id, " ")
	s2.start()
	c.ready(s2)
	eventually(t, 30*time.Second, "the server has its announced id and a vote", func() bool {
		var out struct {
			Servers []struct {
				Node  string
				Voter bool
			}
		}
		return strings.Contains(ctl("member", "list"), id+": name=s2 ") && s1.get("/v1/operator/raft/configuration", &out) && len(out.Servers) == 2 && out.Servers[0].Voter && out.Servers[1].Voter
	})
	ctl("member", "remove", id)
	if code := s2.wait(40 * time.Second); code != 0 || !strings.Contains(s2.log.String(), "removed from the cluster for good") {
		t.Errorf("the removed server ended with status %d", code)
	}
	s2.start()
	if code := s2.wait(40 * time.Second); code != 0 {
		t.Errorf("started again, the removed server ended with status %d", code)
	}
	if list := ctl("member", "list"); strings.Contains(list, "s2") || !strings.Contains(list, "name=s1 ") {
		t.Errorf("members afterwards:\n%s", list)
	}
	ctl("set", "/a", "still written")
}
