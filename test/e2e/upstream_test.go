//go:build e2e

package e2e

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
)

// named is an instance of a service: it says its name to whoever connects, then echoes.
type named struct {
	name string
	l    net.Listener
	mu   sync.Mutex
	open []net.Conn
}

func newNamed(t *testing.T, name string) *named {
	t.Helper()
	l, err := net.Listen("tcp", newHost()+":0")
	if err != nil {
		t.Fatal(err)
	}
	n := &named{name: name, l: l}
	t.Cleanup(n.kill)
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			n.mu.Lock()
			n.open = append(n.open, c)
			n.mu.Unlock()
			go func() {
				defer c.Close()
				fmt.Fprintln(c, name)
				_, _ = io.Copy(c, c)
			}()
		}
	}()
	return n
}

func (n *named) kill() {
	_ = n.l.Close()
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, c := range n.open {
		_ = c.Close()
	}
}

// register puts the instance into the catalog, with a TCP check that sees its death at once.
func (n *named) register(h *host) {
	h.t.Helper()
	ip, port, _ := net.SplitHostPort(n.l.Addr().String())
	h.must("PUT", "/v1/agent/service/register", fmt.Sprintf(`{"ID":%q,"Name":"db","Address":%q,"Port":%s,"Check":{"TCP":%q,"Interval":"1s","Timeout":"1s","Status":"passing"}}`, n.name, ip, port, ip+":"+port))
}

// hear connects and returns the name of the instance it was given, "" for none.
func hear(addr string) string {
	c, err := net.DialTimeout("tcp", addr, 5*time.Second)
	if err != nil {
		return ""
	}
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(10 * time.Second))
	line, err := bufio.NewReader(c).ReadString('\n')
	if err != nil {
		return ""
	}
	return strings.TrimSpace(line)
}

func heard(addr string, n int) map[string]int {
	got := map[string]int{}
	for range n {
		got[hear(addr)]++
	}
	return got
}

// TestUpstream runs programs against the local port of a proxy: instances come, die under load and go; then the servers
// die, and the proxy is started again without them.
func TestUpstream(t *testing.T) {
	c := newCluster(t, 1, 1)
	s, p := c.servers[0], newAgentHost(t, "user")
	port, later := p.ip+":5432", p.ip+":5433"
	conf := filepath.Join(t.TempDir(), "upstream.hcl")
	write := func(text string) {
		t.Helper()
		if err := os.WriteFile(conf, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	block := fmt.Sprintf("upstream {\n service = \"db\"\n listen = %q\n drain = \"1s\"\n}\n", port)
	write(block)
	p.args = append(p.args, "-retry-join="+s.ip, "-retry-interval=1s", "-config-file="+conf)
	p.start()
	c.ready(p)
	if hear(port) != "" {
		t.Fatal("somebody answers for a service without instances")
	}
	a, b, d := newNamed(t, "a"), newNamed(t, "b"), newNamed(t, "d")
	for _, n := range []*named{a, b, d} {
		n.register(c.proxies[0])
	}
	eventually(t, 30*time.Second, "all instances are used", func() bool { got := heard(port, 12); return len(got) == 3 && got[""] == 0 })

	// One dies under a load of new connections: none of them fails but those that it had taken.
	var failed, done atomic.Int64
	var wg sync.WaitGroup
	quit := make(chan struct{})
	for range 16 {
		wg.Go(func() {
			for {
				select {
				case <-quit:
					return
				default:
				}
				if hear(port) == "" {
					failed.Add(1)
				}
				done.Add(1)
			}
		})
	}
	eventually(t, 30*time.Second, "load", func() bool { return done.Load() > 200 })
	a.kill()
	at := done.Load()
	eventually(t, 30*time.Second, "more load", func() bool { return done.Load() > at+500 })
	eventually(t, 30*time.Second, "the check sees the death", func() bool { return len(upstreams(t, p)[0].Instances) == 2 })
	close(quit)
	wg.Wait()
	if n := failed.Load(); n > 16 {
		t.Errorf("%d of %d connections got nobody; the dead instance can have held 16", n, done.Load())
	}
	t.Logf("%d connections, %d failed with the instance that died", done.Load(), failed.Load())

	// One is deregistered: who is on it stays for the drain time.
	stay, err := net.Dial("tcp", port)
	for err == nil {
		line, readErr := bufio.NewReader(stay).ReadString('\n')
		if readErr != nil || strings.TrimSpace(line) == "b" {
			break
		}
		_ = stay.Close()
		stay, err = net.Dial("tcp", port)
	}
	if err != nil {
		t.Fatal(err)
	}
	defer stay.Close()
	c.proxies[0].must("PUT", "/v1/agent/service/deregister/b", "")
	eventually(t, 30*time.Second, "new connections go to the other one", func() bool { got := heard(port, 10); return got["d"] == 10 })
	_ = stay.SetReadDeadline(time.Now().Add(10 * time.Second))
	if _, err := stay.Read(make([]byte, 1)); err != io.EOF && err == nil {
		t.Errorf("the connection to the instance that went was not ended: %v", err)
	}

	// A reload adds a port and leaves the other one alone; a bad one changes nothing.
	write(block + fmt.Sprintf("upstream {\n service = \"db\"\n name = \"second\"\n listen = %q\n}\n", later))
	p.must("PUT", "/v1/agent/reload", "")
	if got := heard(later, 3); got["d"] != 3 {
		t.Errorf("the port that a reload added: %v", got)
	}
	write(block + fmt.Sprintf("upstream {\n service = \"db\"\n name = \"bad\"\n listen = %q\n}\n", p.ip+":8500"))
	if status, body := p.do("PUT", "/v1/agent/reload", ""); status == 200 || !strings.Contains(body, `upstream "bad"`) {
		t.Errorf("a port in use: %d %s", status, body)
	}
	if got := heard(later, 3); got["d"] != 3 {
		t.Errorf("after a refused reload: %v", got)
	}
	write(block)
	out, errs, code := sh(t, nil, "", binary, "upstreams", "-http-addr="+p.url(""))
	if code != 0 || !strings.Contains(out, "in use") || !strings.Contains(out, "second") {
		t.Errorf("muster upstreams: %d\n%s%s", code, out, errs)
	}

	// The servers die; then the proxy starts without them.
	s.kill()
	if got := heard(port, 20); got["d"] != 20 {
		t.Errorf("with the server dead: %v", got)
	}
	p.signal(syscall.SIGTERM)
	p.wait(40 * time.Second)
	began := time.Now()
	p.start()
	eventually(t, 30*time.Second, "it answers without a server", func() bool { return hear(port) == "d" })
	t.Logf("started without a server, its first connection after %v", time.Since(began).Round(time.Millisecond))
	if st := upstreams(t, p); !st[0].Stale {
		t.Errorf("not marked as stale: %+v", st)
	}
}

func upstreams(t *testing.T, h *host) (list []struct {
	Name      string
	Stale     bool
	Instances []struct{ ID string }
}) {
	t.Helper()
	if err := json.Unmarshal([]byte(h.must("GET", "/v1/agent/upstreams", "")), &list); err != nil {
		t.Fatal(err)
	}
	return list
}
