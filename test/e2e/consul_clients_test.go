//go:build e2e

package e2e

import (
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"testing"
	"time"
)

// TestPythonConsul runs Debian's python3-consul on a proxy.
func TestPythonConsul(t *testing.T) {
	python := debianPython(t, "consul")
	c := newCluster(t, 3, 1)
	out, errs, code := sh(t, nil, "", python, "testdata/consul_client.py", c.proxies[0].ip)
	if code != 0 || out != "ok\n" {
		t.Errorf("exit %d, out %q\n%s", code, out, errs)
	}
}

// debianPython is the interpreter that Debian's modules belong to; the module has to be there.
func debianPython(t *testing.T, module string) string {
	t.Helper()
	python := tool(t, "/usr/bin/python3")
	if _, errs, code := sh(t, nil, "", python, "-c", "import "+module); code != 0 {
		if os.Getenv("CI") != "" {
			t.Fatalf("python3-%s is not installed: %s", module, errs)
		}
		t.Skipf("python3-%s is not installed", module)
	}
	return python
}

// TestHAProxyFollowsSRV lets HAProxy fill its backend from SRV answers, and take out what fails.
func TestHAProxyFollowsSRV(t *testing.T) {
	haproxy := tool(t, "haproxy")
	c := newCluster(t, 1, 1)
	p := c.proxies[0]
	const instances = 3
	for i := range instances {
		srv := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, i) }))
		ip := newHost() // HAProxy 2.6 resolves several servers of one name and address badly
		l, err := net.Listen("tcp", ip+":0")
		if err != nil {
			t.Fatal(err)
		}
		_ = srv.Listener.Close()
		srv.Listener = l
		srv.Start()
		t.Cleanup(srv.Close)
		p.must(http.MethodPut, "/v1/agent/service/register",
			fmt.Sprintf(`{"Name":"web","ID":"web%d","Address":"%s","Port":%d,"Check":{"CheckID":"c%d","TTL":"60s","Status":"passing"}}`, i, ip, l.Addr().(*net.TCPAddr).Port, i))
	}
	front := newHost() + ":8080"
	config := filepath.Join(t.TempDir(), "haproxy.cfg")
	text := fmt.Sprintf(`
global
  maxconn 100
defaults
  mode http
  timeout connect 1s
  timeout client 5s
  timeout server 5s
resolvers muster
  nameserver agent %s:8600
  accepted_payload_size 8192
  hold valid 1s
  hold obsolete 0s
  timeout resolve 500ms
frontend in
  bind %s
  default_backend web
backend web
  balance roundrobin
  server-template web %d _web._tcp.service.consul resolvers muster init-addr none
`, p.ip, front, 5)
	if err := os.WriteFile(config, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	ha := &host{t: t, name: "haproxy"}
	ha.runProgram(haproxy, "-f", config, "-db")
	t.Cleanup(ha.kill)
	defer func() {
		if t.Failed() {
			t.Log(tail(ha.log.String(), 30))
		}
	}()

	// reached asks some times, each over a connection of its own, and says which instances answered.
	reached := func() string {
		var seen [instances]bool
		for range 4 * instances {
			resp, err := (&http.Client{Timeout: 5 * time.Second, Transport: &http.Transport{DisableKeepAlives: true}}).Get("http://" + front)
			if err != nil {
				return err.Error()
			}
			b, _ := io.ReadAll(resp.Body)
			_ = resp.Body.Close()
			if resp.StatusCode != http.StatusOK || len(b) != 1 {
				return resp.Status
			}
			seen[b[0]-'0'] = true
		}
		return fmt.Sprint(seen)
	}
	eventually(t, 20*time.Second, "every instance gets requests", func() bool { return reached() == "[true true true]" })
	p.must(http.MethodPut, "/v1/agent/check/fail/c1", "")
	eventually(t, 20*time.Second, "the failed instance gets none", func() bool { return reached() == "[true false true]" })
	p.must(http.MethodPut, "/v1/agent/check/pass/c1", "")
	eventually(t, 20*time.Second, "the instance is back", func() bool { return reached() == "[true true true]" })
}
