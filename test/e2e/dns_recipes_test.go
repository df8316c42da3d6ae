//go:build e2e

package e2e

import (
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

// recipe is the configuration that docs/dns.md gives under a heading, with the agent's address in place of the one
// printed there, and further replacements in pairs. What is to be replaced must be there.
func recipe(t *testing.T, heading string, agent *host, replace ...string) string {
	t.Helper()
	text, err := os.ReadFile("../../docs/dns.md")
	if err != nil {
		t.Fatal(err)
	}
	_, rest, ok := strings.Cut(string(text), "\n### "+heading+"\n")
	_, rest, begun := strings.Cut(rest, "\n```")
	_, rest, _ = strings.Cut(rest, "\n") // what language it is
	block, _, ended := strings.Cut(rest, "\n```\n")
	if !ok || !begun || !ended {
		t.Fatalf("docs/dns.md has no configuration under %q", heading)
	}
	for i := 0; i < len(replace); i += 2 {
		if !strings.Contains(block, replace[i]) {
			t.Fatalf("the configuration under %q in docs/dns.md has no %q:\n%s", heading, replace[i], block)
		}
		block = strings.ReplaceAll(block, replace[i], replace[i+1])
	}
	if !strings.Contains(block, "127.0.0.1") {
		t.Fatalf("the configuration under %q names no agent:\n%s", heading, block)
	}
	return strings.ReplaceAll(block, "127.0.0.1", agent.ip) + "\n"
}

// put writes a file of a test and returns its path.
func put(t *testing.T, dir, name, text string) string {
	t.Helper()
	file := filepath.Join(dir, name)
	if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	return file
}

// freePort is a port of ip that nobody uses, neither over UDP nor over TCP.
func freePort(t *testing.T, ip string) string {
	t.Helper()
	for range 20 {
		l, err := net.Listen("tcp", ip+":0")
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		p, err := net.ListenPacket("udp", l.Addr().String())
		if err == nil {
			defer p.Close()
			_, port, _ := net.SplitHostPort(l.Addr().String())
			return port
		}
	}
	t.Fatal("no port is free")
	return ""
}

// daemon runs a program for the time of the test and shows what it wrote if the test fails.
func daemon(t *testing.T, name string, args ...string) {
	t.Helper()
	d := &host{t: t, name: filepath.Base(name)}
	d.runProgram(name, args...)
	t.Cleanup(func() {
		d.kill()
		if t.Failed() {
			t.Logf("--- %s\n%s", d.name, tail(d.log.String(), 30))
		}
	})
}

// instanceOf registers an instance on a node of its own.
func instanceOf(c *cluster, service string, n int, addr string, port int) {
	c.t.Helper()
	c.servers[0].must(http.MethodPut, "/v1/catalog/register", fmt.Sprintf(`{"Node":"%s%d","Address":"%s","Service":{"Service":"%s","Port":%d}}`, service, n, addr, service, port))
}

func gone(c *cluster, service string, n int) {
	c.t.Helper()
	c.servers[0].must(http.MethodPut, "/v1/catalog/deregister", fmt.Sprintf(`{"Node":"%s%d"}`, service, n))
}

// resolverFollows asks a resolver in front of an agent for everything that people put one there for, while the
// instances change.
func resolverFollows(t *testing.T, c *cluster, ip, port string) {
	t.Helper()
	ask := func(args ...string) []string {
		out, _, _ := sh(t, nil, "", append([]string{tool(t, "dig"), "@" + ip, "-p", port, "+short", "+tries=1", "+time=2"}, args...)...)
		list := strings.Fields(strings.ReplaceAll(out, " ", "/"))
		slices.Sort(list)
		return list
	}
	status := func(name string) string {
		out, _, _ := sh(t, nil, "", tool(t, "dig"), "@"+ip, "-p", port, "+tries=1", "+time=2", name)
		_, rest, _ := strings.Cut(out, "status: ")
		code, _, _ := strings.Cut(rest, ",")
		return code
	}
	sees := func(what string, args []string, want ...string) {
		t.Helper()
		var got []string
		defer func() {
			if t.Failed() {
				t.Logf("%s: the last answer was %q, want %q", what, got, want)
			}
		}()
		eventually(t, 30*time.Second, what, func() bool { got = ask(args...); return slices.Equal(got, want) })
	}
	instanceOf(c, "web", 1, "10.1.2.1", 8081)
	sees("the first instance", []string{"web.service.consul"}, "10.1.2.1")
	sees("its port", []string{"web.service.consul", "SRV"}, "1/1/8081/web1.node.dc1.consul.")
	instanceOf(c, "web", 2, "10.1.2.2", 8082)
	sees("a second one", []string{"web.service.consul"}, "10.1.2.1", "10.1.2.2")
	sees("both ports", []string{"_web._tcp.service.consul", "SRV"}, "1/1/8081/web1.node.dc1.consul.", "1/1/8082/web2.node.dc1.consul.")
	sees("a node", []string{"web2.node.consul"}, "10.1.2.2")
	sees("whose address it is", []string{"-x", "10.1.2.2"}, "web2.node.dc1.consul.")
	sees("over TCP", []string{"+tcp", "web.service.consul"}, "10.1.2.1", "10.1.2.2")
	gone(c, "web", 1)
	sees("the first one gone", []string{"web.service.consul"}, "10.1.2.2")
	gone(c, "web", 2)
	eventually(t, 30*time.Second, "the service gone", func() bool { return status("web.service.consul") == "NXDOMAIN" })
	instanceOf(c, "web", 3, "10.1.2.3", 8083)
	sees("the service back", []string{"web.service.consul"}, "10.1.2.3")
	for i := range 60 {
		instanceOf(c, "many", i, fmt.Sprint("10.1.3.", i), 80)
	}
	eventually(t, 30*time.Second, "sixty instances", func() bool { return len(ask("many.service.consul", "SRV")) == 60 })
	if got := status("nobody.service.consul"); got != "NXDOMAIN" {
		t.Errorf("a service that never was: %s", got)
	}
}

// Each recipe of docs/dns.md for a resolver, by the real program.
func TestResolverRecipes(t *testing.T) {
	for name, start := range map[string]func(t *testing.T, agent *host) (ip, port string){
		"dnsmasq": func(t *testing.T, agent *host) (string, string) {
			ip := newHost()
			conf := put(t, t.TempDir(), "muster.conf", recipe(t, "dnsmasq", agent))
			daemon(t, tool(t, "dnsmasq"), "--conf-file="+conf, "--keep-in-foreground", "--port=5353", "--listen-address="+ip, "--bind-interfaces",
				"--no-resolv", "--no-hosts", "--user=", "--group=", "--pid-file=", "--log-facility=-")
			return ip, "5353"
		},
		"unbound": func(t *testing.T, agent *host) (string, string) {
			ip, dir := newHost(), t.TempDir()
			conf := put(t, dir, "unbound.conf", recipe(t, "unbound", agent)+fmt.Sprintf(`
server:
    interface: %s
    port: 5353
    access-control: 127.0.0.0/8 allow
    directory: %q
    chroot: ""
    username: ""
    pidfile: ""
    use-syslog: no
remote-control:
    control-enable: no
`, ip, dir))
			daemon(t, tool(t, "unbound"), "-d", "-c", conf)
			return ip, "5353"
		},
		"BIND": func(t *testing.T, agent *host) (string, string) {
			const ip = "127.0.0.1" // named listens on addresses that an interface lists
			port, dir := freePort(t, ip), t.TempDir()
			text := recipe(t, "BIND", agent, "options {", fmt.Sprintf(
				`options { listen-on port %s { LOOPBACK; }; listen-on-v6 { none; }; pid-file none; session-keyfile none; directory %q;`, port, dir))
			conf := put(t, dir, "named.conf", strings.ReplaceAll(text, "LOOPBACK", ip)+"controls { };\n")
			daemon(t, tool(t, "named"), "-g", "-c", conf)
			return ip, port
		},
		"systemd-resolved": resolved,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := newCluster(t, 1, 1)
			c.t = t
			ip, port := start(t, c.proxies[0])
			resolverFollows(t, c, ip, port)
		})
	}
}

// resolved runs systemd-resolved without systemd: in a mount namespace of its own, where it finds its user, its
// configuration and its directory.
func resolved(t *testing.T, agent *host) (string, string) {
	program := os.Getenv("MUSTER_E2E_RESOLVED") // unpacked somewhere: installing it changes the machine's resolver
	if program == "" {
		program = "/lib/systemd/systemd-resolved"
	}
	program, unshare := tool(t, program), tool(t, "unshare")
	if _, errs, code := sh(t, nil, "", unshare, "-m", "true"); code != 0 {
		if os.Getenv("CI") != "" {
			t.Fatalf("mount namespaces cannot be made: %s", errs)
		}
		t.Skipf("mount namespaces cannot be made: %s", errs)
	}
	ip, dir := newHost(), t.TempDir()
	put(t, dir, "muster.conf", recipe(t, "systemd-resolved", agent)+"LLMNR=no\nMulticastDNS=no\nDNSStubListener=no\nDNSStubListenerExtra="+ip+":5353\n")
	for _, file := range []string{"passwd", "group"} {
		was, err := os.ReadFile("/etc/" + file)
		if err != nil {
			t.Fatal(err)
		}
		line := map[string]string{"passwd": "systemd-resolve:x:64999:64999::/:/usr/sbin/nologin\n", "group": "systemd-resolve:x:64999:\n"}[file]
		put(t, dir, file, line+string(was))
	}
	daemon(t, unshare, "-m", "sh", "-e", "-c", `
mount --bind "$1/passwd" /etc/passwd
mount --bind "$1/group" /etc/group
mkdir -p /run/systemd/resolve
mount -t tmpfs -o mode=755,uid=64999,gid=64999 none /run/systemd/resolve
mkdir -p /etc/systemd
mount -t tmpfs -o mode=755 none /etc/systemd
mkdir /etc/systemd/resolved.conf.d
cp "$1/muster.conf" /etc/systemd/resolved.conf.d/
exec "$2"`, "sh", dir, program)
	return ip, "5353"
}

// nginx finds the instances of a service by their addresses.
func TestNginxRecipe(t *testing.T) {
	nginx := tool(t, "nginx")
	c := newCluster(t, 1, 1)
	front, dir := newHost(), t.TempDir()
	text := recipe(t, "nginx", c.proxies[0], "listen 8080", "listen "+front+":8080")
	conf := put(t, dir, "nginx.conf", fmt.Sprintf(`daemon off; master_process off; pid %[1]s/pid; error_log stderr;
events {}
http {
access_log off;
client_body_temp_path %[1]s; proxy_temp_path %[1]s; fastcgi_temp_path %[1]s; uwsgi_temp_path %[1]s; scgi_temp_path %[1]s;
%s
}`, dir, text))
	one, two := answering(t, "8000"), answering(t, "8000")
	instanceOf(c, "web", 1, one, 8000)
	daemon(t, nginx, "-e", "stderr", "-c", conf, "-p", dir)
	sees := func(what string, want ...string) {
		t.Helper()
		slices.Sort(want)
		eventually(t, 30*time.Second, what, func() bool { return slices.Equal(reached("http://"+front+":8080"), want) })
	}
	sees("the first instance gets requests", one)
	instanceOf(c, "web", 2, two, 8000)
	sees("a second one gets some", one, two)
	gone(c, "web", 1)
	sees("the first one gone", two)
}

// HAProxy fills its backend from SRV answers, ports included, and empties it.
func TestHAProxyRecipe(t *testing.T) {
	haproxy := tool(t, "haproxy")
	c := newCluster(t, 1, 1)
	front, dir := newHost(), t.TempDir()
	conf := put(t, dir, "haproxy.cfg", fmt.Sprintf(`
global
    maxconn 100
defaults
    mode http
    timeout connect 1s
    timeout client 5s
    timeout server 5s
frontend in
    bind %s:8080
    default_backend web
`, front)+recipe(t, "HAProxy", c.proxies[0]))
	p, all := c.proxies[0], []string(nil)
	for i := range 5 {
		all = append(all, answering(t, fmt.Sprint(8001+i)))
		p.must(http.MethodPut, "/v1/agent/service/register", fmt.Sprintf(
			`{"Name":"web","ID":"web%[1]d","Address":"%[2]s","Port":%[3]d,"Check":{"CheckID":"c%[1]d","TTL":"60s","Status":"passing"}}`, i, all[i], 8001+i))
	}
	daemon(t, haproxy, "-f", conf, "-db")
	sees := func(what string, want ...string) {
		t.Helper()
		slices.Sort(want)
		eventually(t, 30*time.Second, what, func() bool { return slices.Equal(reached("http://"+front+":8080"), want) })
	}
	sees("every instance gets requests", slices.Clone(all)...)
	p.must(http.MethodPut, "/v1/agent/check/fail/c1", "")
	sees("the failed one gets none", slices.Concat(all[:1], all[2:])...)
	p.must(http.MethodPut, "/v1/agent/check/pass/c1", "")
	sees("it is back", slices.Clone(all)...)
}

// answering is a web server on an address of its own, which it says.
func answering(t *testing.T, port string) string {
	t.Helper()
	ip := newHost()
	l, err := net.Listen("tcp", ip+":"+port)
	if err != nil {
		t.Fatal(err)
	}
	s := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, ip) })}
	go s.Serve(l)
	t.Cleanup(func() { _ = s.Close() })
	return ip
}

// reached asks some times, each over a connection of its own, and says who answered.
func reached(url string) []string {
	client := http.Client{Timeout: 5 * time.Second, Transport: &http.Transport{DisableKeepAlives: true}}
	seen := map[string]bool{}
	for range 20 {
		resp, err := client.Get(url)
		if err != nil {
			return []string{err.Error()}
		}
		var b [64]byte
		n, _ := resp.Body.Read(b[:])
		_ = resp.Body.Close()
		if resp.StatusCode != http.StatusOK {
			return []string{resp.Status}
		}
		seen[string(b[:n])] = true
	}
	var out []string
	for who := range seen {
		out = append(out, who)
	}
	slices.Sort(out)
	return out
}
