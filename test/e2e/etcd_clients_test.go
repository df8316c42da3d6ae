//go:build e2e

package e2e

import (
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"
)

// TestPythonEtcd runs Debian's python3-etcd on a server that leads, on one that follows, and on a proxy.
func TestPythonEtcd(t *testing.T) {
	python := debianPython(t, "etcd")
	c := newCluster(t, 3, 1)
	leader := c.leader()
	follower := c.servers[0]
	if follower == leader {
		follower = c.servers[1]
	}
	for _, h := range []*host{leader, follower, c.proxies[0]} {
		out, errs, code := sh(t, nil, "", python, "testdata/etcd_client.py", h.ip)
		if code != 0 || out != "ok\n" {
			t.Errorf("on %s: exit %d, out %q\n%s", h.name, code, out, errs)
		}
		h.must(http.MethodDelete, "/v2/keys/py?recursive=true", "")
	}
}

// TestStockEtcdctlOnMembers drives the verbs of etcdctl that look at the cluster and change it.
func TestStockEtcdctlOnMembers(t *testing.T) {
	ctl := tool(t, "etcdctl")
	c := newCluster(t, 3, 1)
	env := []string{"ETCDCTL_API=2", "ETCDCTL_ENDPOINTS=" + c.proxies[0].etcd()}
	run := func(args ...string) (string, int) {
		out, errs, code := sh(t, env, "", append([]string{ctl}, args...)...)
		return out + errs, code
	}
	out, code := run("cluster-health")
	if code != 0 || strings.Count(out, "is healthy: got healthy result from") != 3 || !strings.Contains(out, "cluster is healthy") {
		t.Errorf("cluster-health: exit %d\n%s", code, out)
	}
	out, code = run("member", "list")
	if code != 0 || strings.Count(out, "isLeader=true") != 1 || strings.Count(out, "\n") != 3 {
		t.Errorf("member list: exit %d\n%s", code, out)
	}
	var added string
	eventually(t, 30*time.Second, "a member can be added", func() bool { // not before the servers have been connected for some seconds
		added, code = run("member", "add", "s9", "http://127.0.0.99:8300")
		return code == 0
	})
	id := ""
	for _, line := range strings.Split(added, "\n") {
		if rest, ok := strings.CutPrefix(line, "Added member named s9 with ID "); ok {
			id, _, _ = strings.Cut(rest, " ")
		}
	}
	if id == "" || !strings.Contains(added, `ETCD_INITIAL_CLUSTER_STATE="existing"`) {
		t.Fatalf("member add: %s", added)
	}
	eventually(t, 30*time.Second, "the new member is listed", func() bool { // any server answers, each from what it has been told
		out, code = run("member", "list")
		return code == 0 && strings.Contains(out, id+"[unstarted]: peerURLs=http://127.0.0.99:8300")
	})
	if out, code = run("member", "update", id, "http://127.0.0.98:8300"); code != 0 || out != "Updated member with ID "+id+" in cluster\n" {
		t.Errorf("member update: exit %d\n%s", code, out)
	}
	if out, code = run("member", "remove", id); code != 0 || out != "Removed member "+id+" from cluster\n" {
		t.Errorf("member remove: exit %d\n%s", code, out)
	}
	// etcdctl looks for the id in the list first, and takes the 410 of a member that is gone for success: a server that
	// has not heard of the removal yet lets it come that far.
	eventually(t, 30*time.Second, "removing nobody is refused", func() bool {
		out, code = run("member", "remove", id)
		return code == 1
	})
	victim := c.leader()
	victim.kill()
	eventually(t, 30*time.Second, "a dead server shows", func() bool {
		out, code = run("cluster-health")
		return code == 5 && strings.Contains(out, "cluster is degraded")
	})
	victim.start()
	c.ready(victim)
	eventually(t, 30*time.Second, "all is well again", func() bool {
		out, code = run("cluster-health")
		return code == 0
	})
}

// TestStockEtcdctlVerbs goes through the verbs, flags and forms of output that TestStockEtcdctl leaves out.
func TestStockEtcdctlVerbs(t *testing.T) {
	ctl := tool(t, "etcdctl")
	c := newCluster(t, 3, 1)
	env := []string{"ETCDCTL_API=2", "ETCDCTL_ENDPOINTS=" + c.proxies[0].etcd()}
	for _, s := range []struct {
		args, out, has, errHas string
		code                   int
	}{
		{"set /k v", "v\n", "", "", 0},
		{"-o extended get /k", "", "Key: /k\nCreated-Index: ", "", 0},
		{"-o json get /k", "", `{"action":"get","node":{"key":"/k","value":"v","nodes":null,`, "", 0},
		{"get --quorum /k", "v\n", "", "", 0},
		{"ls --quorum -p /", "", "/k\n", "", 0},
		{"mkdir /d --ttl 100", "", "", "", 0},
		{"updatedir /d --ttl 200", "", "", "", 0},
		{"updatedir /none --ttl 200", "", "", "100: Key not found (/none)", 4},
		{"setdir /d", "", "", "102: Not a file (/d)", 4},
		{"setdir /k", "", "", "", 0},
		{"ls -p /", "/d/\n/k/\n", "", "", 0},
		{"rmdir /k", "", "", "", 0},
		{"mk --in-order /q one", "one\n", "", "", 0},
		{"-o extended mk --in-order /q two", "", "Key: /q/0000", "", 0},
		{"rm --dir /q", "", "", "108: Directory not empty (/q)", 4},
		{"set /c one --ttl 100", "one\n", "", "", 0},
		{"rm --with-value two /c", "", "", "101: Compare failed ([two != one])", 4},
		{"rm --with-index 1 /c", "", "", "101: Compare failed ([1 != ", 4},
		{"rm --with-value one /c", "\n", "", "", 0},
		{"update /c x", "", "", "100: Key not found (/c)", 4},
		{"set --swap-with-index 1 /q/x y", "", "", "100: Key not found (/q/x)", 4},
		{"rm -r /q", "", "", "", 0},
		{"get", "", "", "key required", 1},
		{"bogus", "", "", "", 3},
	} {
		// Through the proxy alone, which shows each client its own writes.
		out, errs, code := sh(t, env, "", append([]string{ctl, "--no-sync"}, strings.Fields(s.args)...)...)
		if code != s.code || s.has == "" && s.code == 0 && out != s.out || !strings.Contains(out, s.has) || !strings.Contains(errs, s.errHas) {
			t.Errorf("etcdctl %s: exit %d, out %q, err %q; want exit %d, out %q%q, err with %q", s.args, code, out, errs, s.code, s.out, s.has, s.errHas)
		}
	}
	// Every change since an index, through the death of the server that is asked.
	first, _, _ := sh(t, env, "", ctl, "-o", "extended", "set", "/w/k", "0")
	index := ""
	for _, line := range strings.Split(first, "\n") {
		if v, ok := strings.CutPrefix(line, "Modified-Index: "); ok {
			index = v
		}
	}
	watch := background(t, env, ctl, "watch", "--forever", "--recursive", "--after-index", index, "/w")
	want := ""
	for i := 1; i <= 20; i++ {
		if i == 10 {
			c.leader().kill()
		}
		eventually(t, 30*time.Second, "a write succeeds", func() bool {
			_, _, code := sh(t, env, "", ctl, "set", "/w/k", fmt.Sprint(i))
			return code == 0
		})
		want += fmt.Sprintf("[set] /w/k\n%d\n", i)
	}
	eventually(t, 30*time.Second, "the watch prints every change", func() bool { return len(watch.String()) >= len(want) })
	if got := watch.String(); got != want {
		t.Errorf("the watch printed %q, want %q", got, want)
	}
}
