//go:build e2e

package e2e

import (
	"bytes"
	"fmt"
	"net/http"
	"os/exec"
	"strings"
	"testing"
	"time"

	consul "github.com/hashicorp/consul/api"
)

// TestStockEtcdctl drives the stock v2 command line against a cluster's proxy.
func TestStockEtcdctl(t *testing.T) {
	ctl := tool(t, "etcdctl")
	c := newCluster(t, 1, 1)
	env := []string{"ETCDCTL_API=2", "ETCDCTL_ENDPOINTS=http://" + c.proxies[0].ip + ":2379"}
	steps := []struct {
		args   string
		stdin  string
		out    string // exact standard output
		errHas string
		code   int
	}{
		{"set /a/b one", "", "one\n", "", 0},
		{"get /a/b", "", "one\n", "", 0},
		{"update /a/b two", "", "two\n", "", 0},
		{"set /a/b three --swap-with-value two", "", "three\n", "", 0},
		{"set /a/b four --swap-with-value two", "", "", "101: Compare failed ([two != three])", 4},
		{"set /in", "from stdin\n", "from stdin\n\n", "", 0},
		{"mk /a/b x", "", "", "105: Key already exists (/a/b)", 4},
		{"mk /a/c c", "", "c\n", "", 0},
		{"mkdir /d", "", "", "", 0},
		{"mkdir /d", "", "", "105: Key already exists (/d)", 4},
		{"setdir /e", "", "", "", 0},
		{"ls / --sort -p", "", "/a/\n/d/\n/e/\n/in\n", "", 0},
		{"ls /a --sort", "", "/a/b\n/a/c\n", "", 0},
		{"ls -r --sort /", "", "/a\n/a/b\n/a/c\n/d\n/e\n/in\n", "", 0},
		{"rm /a/c", "", "PrevNode.Value: c\n", "", 0},
		{"rm /a", "", "", "102: Not a file (/a)", 4},
		{"rmdir /a", "", "", "108: Directory not empty (/a)", 4},
		{"rmdir /d", "", "", "", 0},
		{"rm -r /a", "", "", "", 0},
		{"get /a/b", "", "", "100: Key not found (/a)", 4},
		{"get /e", "", "", "/e: is a directory", 1},
		{"set /ttl x --ttl 1", "", "x\n", "", 0},
	}
	for _, s := range steps {
		out, errs, code := sh(t, env, s.stdin, append([]string{ctl}, strings.Fields(s.args)...)...)
		if code != s.code || out != s.out || !strings.Contains(errs, s.errHas) {
			t.Errorf("etcdctl %s: exit %d, out %q, err %q; want exit %d, out %q, err with %q", s.args, code, out, errs, s.code, s.out, s.errHas)
		}
	}
	eventually(t, 30*time.Second, "a key with a lifetime of one second goes", func() bool {
		_, _, code := sh(t, env, "", ctl, "get", "/ttl")
		return code == 4
	})

	watch := background(t, env, ctl, "watch", "/w")
	execWatch := background(t, env, ctl, "exec-watch", "--recursive", "/w", "--", "sh", "-c", "echo $ETCD_WATCH_ACTION $ETCD_WATCH_KEY $ETCD_WATCH_VALUE")
	n := 0
	eventually(t, 30*time.Second, "watch prints the change and ends", func() bool {
		n++
		sh(t, env, "", ctl, "set", "/w", fmt.Sprint("v", n))
		return strings.HasPrefix(watch.String(), "v")
	})
	eventually(t, 30*time.Second, "exec-watch runs its command", func() bool {
		n++
		sh(t, env, "", ctl, "set", "/w", fmt.Sprint("v", n))
		return strings.Contains(execWatch.String(), "set /w v")
	})
}

// background starts a command and collects its output until the test ends.
func background(t *testing.T, env []string, argv ...string) *logBuffer {
	t.Helper()
	cmd := exec.Command(argv[0], argv[1:]...)
	cmd.Env = append(cmd.Environ(), env...)
	out := &logBuffer{}
	cmd.Stdout, cmd.Stderr = out, out
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	return out
}

// TestOwnCommandsMatchTheStockOnes runs the same steps through muster kv.
func TestOwnKVCommands(t *testing.T) {
	c := newCluster(t, 1, 0)
	env := []string{"MUSTER_HTTP_ADDR=" + c.servers[0].url("")}
	steps := []struct {
		args   string
		out    string
		errHas string
		code   int
	}{
		{"kv set /a/b one", "one\n", "", 0},
		{"kv get /a/b", "one\n", "", 0},
		{"kv get /no", "", "Error:  100: Key not found (/no) [", 4},
		{"kv update /a/b two", "two\n", "", 0},
		{"kv mk /a/b x", "", "105: Key already exists (/a/b)", 4},
		{"kv mkdir /d", "", "", 0},
		{"kv setdir /e", "", "", 0},
		{"kv updatedir /e --ttl 100", "", "", 0},
		{"kv ls -p /", "/a/\n/d/\n/e/\n", "", 0},
		{"kv ls --sort -r /a", "/a/b\n", "", 0},
		{"kv rm /a/b", "PrevNode.Value: two\n", "", 0},
		{"kv rmdir /d", "", "", 0},
		{"kv rm -recursive /a", "", "", 0},
		{"kv get", "", "key required", 1},
		{"kv bogus", "", "unknown command", 3},
		{"services register -name web -port 80 -ttl 30s", "Registered service: web\n", "", 0},
		{"services deregister web", "Deregistered service: web\n", "", 0},
		{"services deregister web", "", "404", 4},
		{"health nosuch", "Node  ID  Address  Status  Tags\n", "no healthy instance", 5},
	}
	for _, s := range steps {
		out, errs, code := sh(t, env, "", append([]string{binary}, strings.Fields(s.args)...)...)
		if code != s.code || out != s.out || !strings.Contains(errs, s.errHas) {
			t.Errorf("muster %s: exit %d, out %q, err %q; want exit %d, out %q, err with %q", s.args, code, out, errs, s.code, s.out, s.errHas)
		}
	}
	for _, args := range []string{"members", "nodes", "services list", "info"} {
		for _, format := range []string{"table", "json"} {
			out, errs, code := sh(t, env, "", append(append([]string{binary}, strings.Fields(args)...), "-format="+format)...)
			if code != 0 || len(out) == 0 {
				t.Errorf("muster %s -format=%s: exit %d, err %q", args, format, code, errs)
			}
		}
	}
	if _, errs, code := sh(t, []string{"MUSTER_HTTP_ADDR=http://127.0.0.1:1"}, "", binary, "members"); code != 2 || !strings.Contains(errs, "127.0.0.1:1") {
		t.Errorf("no agent: exit %d, err %q; want exit 2 and the address", code, errs)
	}
	for _, shell := range []string{"bash", "zsh", "fish"} {
		if out, _, code := sh(t, nil, "", binary, "completion", shell); code != 0 || !strings.Contains(out, "muster") {
			t.Errorf("completion %s: exit %d", shell, code)
		}
	}
}

// TestOfficialConsulClient uses the official Go client on a proxy as an application would.
func TestOfficialConsulClient(t *testing.T) {
	c := newCluster(t, 3, 1)
	cl, err := consul.NewClient(&consul.Config{Address: c.proxies[0].ip + ":8500"})
	if err != nil {
		t.Fatal(err)
	}
	err = cl.Agent().ServiceRegister(&consul.AgentServiceRegistration{
		ID: "api-1", Name: "api", Port: 9000, Tags: []string{"v1"}, Meta: map[string]string{"zone": "a"},
		Checks: consul.AgentServiceChecks{{CheckID: "beat", TTL: "30s"}, {TCP: c.proxies[0].ip + ":8500", Interval: "1s"}},
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := cl.Agent().UpdateTTL("beat", "fine", consul.HealthPassing); err != nil {
		t.Fatal(err)
	}
	var entries []*consul.ServiceEntry
	var meta *consul.QueryMeta
	eventually(t, 30*time.Second, "the instance is healthy", func() bool {
		entries, meta, err = cl.Health().Service("api", "v1", true, nil)
		return err == nil && len(entries) == 1
	})
	if e := entries[0]; e.Service.Port != 9000 || e.Service.Meta["zone"] != "a" || e.Node.Node != "p1" || len(e.Checks) < 3 {
		t.Errorf("the instance reads as %+v on %+v with %d checks", e.Service, e.Node, len(e.Checks))
	}
	if svcs, _, err := cl.Catalog().Services(nil); err != nil || len(svcs["api"]) != 1 {
		t.Errorf("services: %v, %v", svcs, err)
	}
	if nodes, _, err := cl.Catalog().Nodes(nil); err != nil || len(nodes) != 4 {
		t.Errorf("%d nodes, %v; want 4", len(nodes), err)
	}

	woken := make(chan int, 1)
	go func() {
		list, _, err := cl.Health().Service("api", "", true, &consul.QueryOptions{WaitIndex: meta.LastIndex, WaitTime: 30 * time.Second})
		if err != nil {
			t.Error(err)
		}
		woken <- len(list)
	}()
	if err := cl.Agent().UpdateTTL("beat", "broken", consul.HealthCritical); err != nil {
		t.Fatal(err)
	}
	select {
	case n := <-woken:
		if n != 0 {
			t.Errorf("the blocking query woke with %d passing instances, want none", n)
		}
	case <-time.After(10 * time.Second):
		t.Error("the blocking query was not woken by the failing check")
	}

	kv := cl.KV()
	if _, err := kv.Put(&consul.KVPair{Key: "cfg/a", Value: []byte("1"), Flags: 42}, nil); err != nil {
		t.Fatal(err)
	}
	pair, _, err := kv.Get("cfg/a", nil)
	if err != nil || pair == nil || string(pair.Value) != "1" || pair.Flags != 42 {
		t.Fatalf("read back %+v, %v", pair, err)
	}
	if ok, _, err := kv.CAS(&consul.KVPair{Key: "cfg/a", Value: []byte("2"), ModifyIndex: pair.ModifyIndex}, nil); err != nil || !ok {
		t.Errorf("cas with the right index: %v, %v", ok, err)
	}
	if ok, _, err := kv.CAS(&consul.KVPair{Key: "cfg/a", Value: []byte("3"), ModifyIndex: pair.ModifyIndex}, nil); err != nil || ok {
		t.Errorf("cas with an old index: %v, %v", ok, err)
	}
	if keys, _, err := kv.Keys("cfg/", "", nil); err != nil || len(keys) != 1 {
		t.Errorf("keys: %v, %v", keys, err)
	}
	if _, err := kv.DeleteTree("cfg/", nil); err != nil {
		t.Error(err)
	}
	lock, err := cl.LockKey("lock/me")
	if err != nil {
		t.Fatal(err)
	}
	lost, err := lock.Lock(nil)
	if err != nil || lost == nil {
		t.Fatalf("lock: %v", err)
	}
	if err := lock.Unlock(); err != nil {
		t.Error(err)
	}
	if err := cl.Agent().ServiceDeregister("api-1"); err != nil {
		t.Error(err)
	}
	eventually(t, 30*time.Second, "the service is gone", func() bool {
		list, _, err := cl.Health().Service("api", "", false, nil)
		return err == nil && len(list) == 0
	})
}

// TestDigForms asks for every form of name over UDP and TCP.
func TestDigForms(t *testing.T) {
	dig := tool(t, "dig")
	c := newCluster(t, 1, 1)
	s, p := c.servers[0], c.proxies[0]
	s.must(http.MethodPut, "/v1/catalog/register", `{"Node":"six","Address":"fd00::1","Service":{"Service":"web","Port":81,"Tags":["v2"]}}`)
	s.must(http.MethodPut, "/v1/catalog/register", `{"Node":"four","Address":"10.0.0.4","Service":{"Service":"web","Port":80,"Tags":["v1"]}}`)
	steps := []struct{ name, kind, want string }{
		{"web.service.consul", "A", "10.0.0.4"},
		{"web.service.consul", "AAAA", "fd00::1"},
		{"web.service.consul", "SRV", "1 1 80 four.node.dc1.consul."},
		{"web.service.consul", "ANY", "10.0.0.4"},
		{"v1.web.service.consul", "A", "10.0.0.4"},
		{"v2.web.service.consul", "AAAA", "fd00::1"},
		{"_web._v1.service.consul", "SRV", "1 1 80 four.node.dc1.consul."},
		{"_web._tcp.service.consul", "SRV", "1 1 81 six.node.dc1.consul."},
		{"web.service.dc1.consul", "A", "10.0.0.4"},
		{"four.node.consul", "A", "10.0.0.4"},
		{"six.node.consul", "AAAA", "fd00::1"},
		{"four.node.consul", "ANY", "10.0.0.4"},
		{"consul", "SOA", "ns.consul. hostmaster.consul."},
		{"consul", "NS", "s1.node.dc1.consul."},
	}
	for _, h := range []*host{s, p} {
		for _, transport := range []string{"+notcp", "+tcp"} {
			for _, x := range steps {
				var out string
				eventually(t, 30*time.Second, fmt.Sprintf("%s: dig %s %s %s shows %q", h.name, transport, x.name, x.kind, x.want), func() bool {
					out, _, _ = sh(t, nil, "", dig, "@"+h.ip, "-p", "8600", "+short", "+time=2", "+tries=1", transport, x.name, x.kind)
					return strings.Contains(out, x.want)
				})
			}
		}
		for name, want := range map[string]string{"no.service.consul": "NXDOMAIN", "web.service.consul": "NOERROR", "example.com": "REFUSED"} {
			kind := "MX"
			out, _, _ := sh(t, nil, "", dig, "@"+h.ip, "-p", "8600", "+time=2", "+tries=1", name, kind)
			if !strings.Contains(out, "status: "+want) {
				t.Errorf("%s: dig %s %s: want %s, got\n%s", h.name, name, kind, want, out)
			}
		}
	}
}

// TestDevAgentAnswersInAMinute is the first command of the README with the sample services.
func TestDevAgentAnswersInAMinute(t *testing.T) {
	dig := tool(t, "dig")
	h := newAgentHost(t, "dev")
	h.ip = "127.0.0.1"
	h.run("agent", "-dev", "-config-file", "../../configs/dev.hcl")
	eventually(t, 30*time.Second, "dig finds the sample service", func() bool {
		out, _, _ := sh(t, nil, "", dig, "@127.0.0.1", "-p", "8600", "+short", "+time=1", "+tries=1", "web.service.consul", "SRV")
		return strings.Contains(out, "1 1 ")
	})
	for _, want := range []string{"127.0.0.1:8500", "127.0.0.1:2379", "127.0.0.1:8600"} {
		if !strings.Contains(h.log.String(), want) {
			t.Errorf("the banner does not name %s", want)
		}
	}
	if bytes.Contains([]byte(h.log.String()), []byte("panic")) {
		t.Error("something panicked")
	}
}
