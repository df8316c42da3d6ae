// Package coredns runs CoreDNS, as its newest release has it, in front of an agent, with the configuration that
// docs/dns.md prints. Debian has no package of it. It is a module of its own, because it pins versions that the
// product does not depend on.
//
//	cd test/conformance/coredns && go test -count=1 .
package coredns

import (
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/coredns/caddy"
	"github.com/coredns/coredns/core/dnsserver"
	_ "github.com/coredns/coredns/plugin/cache"
	_ "github.com/coredns/coredns/plugin/forward"
	"github.com/miekg/dns"
)

const (
	host  = "127.92.0.1"
	limit = 2 * time.Minute
)

// put makes one request that has to succeed, now or soon: an agent that has just started has no leader yet.
func put(t *testing.T, path, body string) {
	t.Helper()
	eventually(t, path, func() bool {
		req, err := http.NewRequestWithContext(t.Context(), http.MethodPut, "http://"+host+":8500"+path, strings.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			return false
		}
		_ = resp.Body.Close()
		return resp.StatusCode == http.StatusOK
	})
}

func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for deadline := time.Now().Add(limit); !ok(); <-tick.C {
		if time.Now().After(deadline) {
			t.Fatalf("not within %v: %s", limit, what)
		}
	}
}

// agent builds and starts an agent.
func agent(t *testing.T) {
	t.Helper()
	bin := filepath.Join(t.TempDir(), "muster")
	build := exec.Command("go", "build", "-o", bin, "./cmd/muster")
	build.Dir = filepath.Join("..", "..", "..")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	cmd := exec.Command(bin, "agent", "-dev", "-node", "n1", "-bind", host, "-client", host)
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = cmd.Process.Kill(); _ = cmd.Wait() })
}

// recipe is the Corefile of docs/dns.md for our agent, at a port of our own.
func recipe(t *testing.T, port string) string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join("..", "..", "..", "docs", "dns.md"))
	if err != nil {
		t.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(text), "\n### CoreDNS\n")
	_, rest, _ = strings.Cut(rest, "\n```\n")
	block, _, ended := strings.Cut(rest, "\n```\n")
	for _, is := range []string{":53 ", "127.0.0.1:8600"} {
		if !ended || !strings.Contains(block, is) {
			t.Fatalf("docs/dns.md has no recipe for CoreDNS with %q: %s", is, block)
		}
	}
	return strings.NewReplacer(":53 ", ":"+port+" ", "127.0.0.1:8600", host+":8600").Replace(block) + "\n"
}

// freePort is a port that is free at all addresses, by UDP and TCP: below those that connections are given, for a
// connection from any of the machine's addresses would be in the way.
func freePort(t *testing.T) string {
	t.Helper()
	for n := range 1000 {
		port := strconv.Itoa(20000 + (os.Getpid()+n)%10000)
		u, err := net.ListenPacket("udp", ":"+port)
		if err != nil {
			continue
		}
		l, err := net.Listen("tcp", ":"+port)
		_ = u.Close()
		if err == nil {
			_ = l.Close()
			return port
		}
	}
	t.Fatal("no port is free")
	return ""
}

func TestRecipe(t *testing.T) {
	agent(t)
	port := freePort(t)
	dnsserver.Quiet = true
	core, err := caddy.Start(caddy.CaddyfileInput{Contents: []byte(recipe(t, port)), Filepath: "Corefile", ServerTypeName: "dns"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = core.Stop() })
	ask := func(network, name string, qtype uint16) (*dns.Msg, []string) {
		m := new(dns.Msg)
		m.SetQuestion(name, qtype)
		m.SetEdns0(4096, false)
		c := dns.Client{Net: network, Timeout: 5 * time.Second}
		r, _, err := c.Exchange(m, net.JoinHostPort("127.0.0.1", port))
		if err != nil {
			return new(dns.Msg), nil
		}
		var got []string
		for _, rr := range r.Answer {
			got = append(got, strings.TrimPrefix(rr.String(), rr.Header().String()))
		}
		slices.Sort(got)
		return r, got
	}
	sees := func(what, network, name string, qtype uint16, want ...string) {
		t.Helper()
		eventually(t, what, func() bool { _, got := ask(network, name, qtype); return slices.Equal(got, want) })
	}
	instance := func(n int) string {
		return fmt.Sprintf(`{"Node":"web%[1]d","Address":"10.1.2.%[1]d","Service":{"Service":"web","Port":808%[1]d}}`, n)
	}
	put(t, "/v1/catalog/register", instance(1))
	sees("the first instance", "udp", "web.service.consul.", dns.TypeA, "10.1.2.1")
	put(t, "/v1/catalog/register", instance(2))
	sees("a second one", "udp", "web.service.consul.", dns.TypeA, "10.1.2.1", "10.1.2.2")
	sees("both ports", "tcp", "_web._tcp.service.consul.", dns.TypeSRV, "1 1 8081 web1.node.dc1.consul.", "1 1 8082 web2.node.dc1.consul.")
	sees("whose address it is", "udp", "2.2.1.10.in-addr.arpa.", dns.TypePTR, "web2.node.dc1.consul.")
	put(t, "/v1/catalog/deregister", `{"Node":"web1"}`)
	sees("the first one gone", "udp", "web.service.consul.", dns.TypeA, "10.1.2.2")
	put(t, "/v1/catalog/deregister", `{"Node":"web2"}`)
	eventually(t, "the service gone", func() bool {
		r, _ := ask("udp", "web.service.consul.", dns.TypeA)
		return r.Rcode == dns.RcodeNameError && len(r.Ns) == 1
	})
}
