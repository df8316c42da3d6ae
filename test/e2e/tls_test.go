//go:build e2e

package e2e

import (
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
)

// tlsDir is a directory in which `muster tls` makes certificates, and hosts have theirs.
type tlsDir struct {
	t   *testing.T
	dir string
}

func (d *tlsDir) muster(args ...string) string {
	d.t.Helper()
	cmd := exec.Command(binary, append([]string{"tls"}, args...)...)
	cmd.Dir = d.dir
	out, err := cmd.CombinedOutput()
	if err != nil {
		d.t.Fatalf("muster tls %v: %v\n%s", args, err, out)
	}
	return string(out)
}

func (d *tlsDir) read(name string) []byte {
	d.t.Helper()
	data, err := os.ReadFile(filepath.Join(d.dir, name))
	if err != nil {
		d.t.Fatal(err)
	}
	return data
}

// give writes a file of a host.
func (d *tlsDir) give(h *host, name string, data []byte) {
	d.t.Helper()
	if err := os.WriteFile(filepath.Join(h.dir, name), data, 0o600); err != nil {
		d.t.Fatal(err)
	}
}

// pair signs a certificate for a host and gives it the files.
func (d *tlsDir) pair(h *host, role string) {
	d.t.Helper()
	out := d.muster("cert", "create", "-"+role, "-additional-ipaddress", h.ip)
	var cert string
	for _, line := range strings.Split(out, "\n") {
		if name, ok := strings.CutPrefix(line, "==> Saved "); ok && cert == "" {
			cert = name
		}
	}
	d.give(h, "cert.pem", d.read(cert))
	d.give(h, "key.pem", d.read(strings.TrimSuffix(cert, ".pem")+"-key.pem"))
}

func (d *tlsDir) config(h *host, more string) {
	d.t.Helper()
	d.give(h, "tls.hcl", fmt.Appendf(nil, "ports { https = 8501 }\ntls { defaults {\n ca_file = %q\n cert_file = %q\n key_file = %q\n%s\n} }\n",
		filepath.Join(h.dir, "ca.pem"), filepath.Join(h.dir, "cert.pem"), filepath.Join(h.dir, "key.pem"), more))
}

// kvWriter writes through a host all the time, but when it is told to rest; what fails is remembered.
type kvWriter struct {
	h      *host
	rest   sync.RWMutex
	done   atomic.Int64
	failed atomic.Int64
	last   atomic.Pointer[string]
}

func (w *kvWriter) run(quit <-chan struct{}) {
	for i := 0; ; i++ {
		select {
		case <-quit:
			return
		default:
		}
		w.rest.RLock()
		if status, body := w.h.do("PUT", "/v1/kv/tls/"+fmt.Sprint(i%100), "x"); status != 200 {
			w.failed.Add(1)
			text := fmt.Sprintf("%d %s", status, body)
			w.last.Store(&text)
		}
		w.done.Add(1)
		w.rest.RUnlock()
	}
}

// TestTLSFromNothingToNewAuthority takes a running cluster from plain connections to mutual TLS, one agent at a time, and then
// to certificates of another authority without a restart; writes go on all the time.
func TestTLSFromNothingToNewAuthority(t *testing.T) {
	c := newCluster(t, 3, 1)
	p := c.proxies[0]
	d := &tlsDir{t, t.TempDir()}
	d.muster("ca", "create")
	w := &kvWriter{h: p}
	quit := make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() { w.run(quit) })
	t.Cleanup(func() { close(quit); wg.Wait() })
	check := func(step string) {
		t.Helper()
		at := w.done.Load()
		eventually(t, 30*time.Second, step+": writes go on", func() bool { return w.done.Load() > at+50 })
		if n := w.failed.Swap(0); n > 0 {
			t.Errorf("%s: %d writes failed, the last one: %s", step, n, *w.last.Load())
		}
	}
	for _, h := range c.all() {
		d.give(h, "ca.pem", d.read("consul-agent-ca.pem"))
		role := "server"
		if h == p {
			role = "client"
		}
		d.pair(h, role)
		h.args = append(h.args, "-config-file="+filepath.Join(h.dir, "tls.hcl"))
	}
	for _, step := range []struct{ what, config string }{
		{"both are taken, none is used", "verify_incoming = false\n verify_outgoing = false"},
		{"both are taken, TLS is used", "verify_incoming = false\n verify_outgoing = true"},
		{"TLS only", "verify_incoming = true\n verify_outgoing = true\n verify_server_hostname = true"},
	} {
		for _, h := range c.all() {
			d.config(h, step.config)
			if h == p {
				w.rest.Lock()
			}
			h.signal(syscall.SIGTERM)
			h.wait(40 * time.Second)
			h.start()
			c.ready(h)
			eventually(t, 30*time.Second, h.name+" sees a leader", func() bool {
				var leader string
				return h.get("/v1/status/leader", &leader) && leader != ""
			})
			if h == p {
				w.rest.Unlock()
			}
		}
		check(step.what)
	}
	if conn, err := net.Dial("tcp", c.servers[0].ip+":8300"); err != nil {
		t.Error(err)
	} else {
		_ = conn.SetDeadline(time.Now().Add(5 * time.Second))
		fmt.Fprint(conn, "GET /v1/status/leader HTTP/1.1\r\nHost: x\r\n\r\n")
		buf := make([]byte, 12)
		if n, _ := conn.Read(buf); strings.HasPrefix(string(buf[:n]), "HTTP/1.1 200") {
			t.Error("a plain request was answered at the server port")
		}
		_ = conn.Close()
	}

	// Commands over HTTPS with a certificate, and without.
	d.muster("cert", "create", "-cli")
	at := func(name string) string { return filepath.Join(d.dir, name) }
	https := "https://" + c.servers[1].ip + ":8501"
	if out, errs, code := sh(t, nil, "", binary, "members", "-http-addr="+https, "-ca-file="+at("consul-agent-ca.pem"), "-client-cert="+at("dc1-cli-consul-0.pem"), "-client-key="+at("dc1-cli-consul-0-key.pem")); code != 0 || !strings.Contains(out, "s1") {
		t.Errorf("members over HTTPS: %d %s %s", code, out, errs)
	}
	if _, _, code := sh(t, nil, "", binary, "members", "-http-addr="+https, "-ca-file="+at("consul-agent-ca.pem")); code == 0 {
		t.Error("a client without a certificate was let in")
	}

	// A new authority: first all trust both, then all have certificates of the new one, then nobody trusts the old one.
	old := d.read("consul-agent-ca.pem")
	if err := os.Rename(at("consul-agent-ca.pem"), at("old-ca.pem")); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(at("consul-agent-ca-key.pem"), at("old-ca-key.pem")); err != nil {
		t.Fatal(err)
	}
	d.muster("ca", "create", "-common-name", "The next one")
	next := d.read("consul-agent-ca.pem")
	const inUse = "new certificates are in use: stanza=tls.internal_rpc"
	steps := func(what string, change func(h *host)) {
		t.Helper()
		seen := map[*host]int{}
		for _, h := range c.all() {
			seen[h] = strings.Count(h.log.String(), inUse)
		}
		for _, h := range c.all() {
			change(h)
		}
		for _, h := range c.all() {
			eventually(t, 30*time.Second, h.name+": "+what, func() bool { return strings.Count(h.log.String(), inUse) > seen[h] })
		}
		check(what)
	}
	steps("both authorities", func(h *host) { d.give(h, "ca.pem", append(append([]byte{}, old...), next...)) })
	steps("new certificates", func(h *host) {
		role := "server"
		if h == p {
			role = "client"
		}
		d.pair(h, role)
	})
	steps("the new authority alone", func(h *host) { d.give(h, "ca.pem", next) })

	// A bad file is said and not taken; everything goes on, also after the leader's death.
	d.give(c.servers[0], "key.pem", []byte("nonsense"))
	eventually(t, 30*time.Second, "the bad file is said", func() bool {
		return strings.Contains(c.servers[0].log.String(), "new certificates are no good")
	})
	check("a bad file")
	c.leader().kill()
	eventually(t, 30*time.Second, "writes go on without the leader", func() bool {
		status, _ := p.do("PUT", "/v1/kv/after", "x")
		return status == 200
	})
	w.failed.Store(0)
}

// TestCertificateEndsSoon: it is said in the log and in the metrics.
func TestCertificateEndsSoon(t *testing.T) {
	d := &tlsDir{t, t.TempDir()}
	d.muster("ca", "create")
	h := newAgentHost(t, "s1", "-server", "-bootstrap-expect=1")
	out := d.muster("cert", "create", "-server", "-days", "5")
	if !strings.Contains(out, "dc1-server-consul-0.pem") {
		t.Fatal(out)
	}
	d.give(h, "ca.pem", d.read("consul-agent-ca.pem"))
	d.give(h, "cert.pem", d.read("dc1-server-consul-0.pem"))
	d.give(h, "key.pem", d.read("dc1-server-consul-0-key.pem"))
	d.config(h, "verify_incoming = true")
	h.args = append(h.args, "-config-file="+filepath.Join(h.dir, "tls.hcl"))
	h.start()
	eventually(t, 30*time.Second, "the log says so", func() bool {
		return strings.Contains(h.log.String(), "a certificate ends soon") && strings.Contains(h.log.String(), "days=4")
	})
	eventually(t, 30*time.Second, "the metrics say so", func() bool {
		status, body := h.do("GET", "/metrics", "")
		return status == 200 && strings.Contains(body, "agent_tls_cert_expiry{") && strings.Contains(body, `stanza="tls.https"`)
	})
}

// TestGossipKeyRotation replaces the key of gossip on a running cluster, and restarts one of its members.
func TestGossipKeyRotation(t *testing.T) {
	key := func() string {
		out, _, _ := sh(t, nil, "", binary, "keygen")
		return strings.TrimSpace(out)
	}
	first, second := key(), key()
	c := newCluster(t, 2, 1, "-encrypt="+first)
	s := c.servers[0]
	ring := func(args ...string) string {
		t.Helper()
		out, errs, code := sh(t, nil, "", append([]string{binary, "keyring", "-http-addr=" + s.url("")}, args...)...)
		if code != 0 {
			t.Fatalf("keyring %v: %d %s%s", args, code, out, errs)
		}
		return out
	}
	eventually(t, 30*time.Second, "everybody has the key", func() bool { return strings.Contains(ring("-list"), first+" [3/3]") })
	ring("-install", second)
	ring("-use", second)
	ring("-remove", first)
	if out := ring("-list"); !strings.Contains(out, second+" [3/3]") || strings.Contains(out, first) {
		t.Errorf("after the rotation:\n%s", out)
	}
	c.servers[1].kill()
	c.servers[1].start() // with the old key on its command line: what was rotated is on its disk
	c.ready(c.servers[1])
	eventually(t, 30*time.Second, "it has the new key", func() bool { return strings.Contains(ring("-list"), second+" [3/3]") })

	stranger := newAgentHost(t, "stranger", "-encrypt="+first, "-retry-join="+s.ip, "-retry-interval=1s")
	stranger.start()
	eventually(t, 30*time.Second, "a member with another key is told", func() bool {
		return strings.Contains(stranger.log.String(), "no installed keys could decrypt the message")
	})
	if out, _, _ := sh(t, nil, "", binary, "members", "-http-addr="+s.url("")); strings.Contains(out, "stranger") {
		t.Errorf("a member with another key is in:\n%s", out)
	}
}

// TestGossipFromPlainToEncrypted takes a running cluster from plain to encrypted gossip, one agent at a time.
func TestGossipFromPlainToEncrypted(t *testing.T) {
	c := newCluster(t, 2, 1)
	out, _, _ := sh(t, nil, "", binary, "keygen")
	key := strings.TrimSpace(out)
	args := map[*host][]string{}
	for _, h := range c.all() {
		args[h] = h.args
	}
	for _, round := range []string{"encrypt_verify_incoming = false\n encrypt_verify_outgoing = false", "encrypt_verify_incoming = false", ""} {
		for _, h := range c.all() {
			h.args = append(append([]string{}, args[h]...), "-encrypt="+key)
			if round != "" {
				h.args = append(h.args, "-hcl="+round)
			}
			h.signal(syscall.SIGTERM)
			h.wait(40 * time.Second)
			h.start()
			c.ready(h)
			for _, at := range c.all() {
				eventually(t, 30*time.Second, at.name+" sees everybody", func() bool {
					out, _, code := sh(t, nil, "", binary, "members", "-http-addr="+at.url(""))
					return code == 0 && strings.Count(out, "alive") == 3
				})
			}
		}
	}
	if out, errs, code := sh(t, nil, "", binary, "keyring", "-http-addr="+c.proxies[0].url(""), "-list"); code != 0 || !strings.Contains(out, key+" [3/3]") {
		t.Errorf("in the end: %d %s%s", code, out, errs)
	}
	stranger := newAgentHost(t, "stranger", "-retry-join="+c.servers[0].ip, "-retry-interval=1s")
	stranger.start()
	eventually(t, 30*time.Second, "a member without a key is told", func() bool { return strings.Contains(stranger.log.String(), "encryption is not configured") })
}

// TestNobodyIsTrustedWithoutAuthorities: a directory of authorities that is emptied leaves those in use that were there, and is
// no reason to trust those of the system.
func TestNobodyIsTrustedWithoutAuthorities(t *testing.T) {
	d, stranger := &tlsDir{t, t.TempDir()}, &tlsDir{t, t.TempDir()}
	for _, x := range []*tlsDir{d, stranger} {
		x.muster("ca", "create")
		x.muster("cert", "create", "-cli")
	}
	h := newAgentHost(t, "s1", "-server", "-bootstrap-expect=1")
	d.pair(h, "server")
	list := filepath.Join(h.dir, "authorities")
	if err := os.Mkdir(list, 0o700); err != nil {
		t.Fatal(err)
	}
	d.give(h, "authorities/ca.pem", d.read("consul-agent-ca.pem"))
	d.give(h, "tls.hcl", fmt.Appendf(nil, "ports { https = 8501 }\ntls { https {\n ca_path = %q\n cert_file = %q\n key_file = %q\n verify_incoming = true\n} }\n",
		list, filepath.Join(h.dir, "cert.pem"), filepath.Join(h.dir, "key.pem")))
	h.args = append(h.args, "-config-file="+filepath.Join(h.dir, "tls.hcl"))
	// The stranger's authority is one that the system trusts.
	t.Setenv("SSL_CERT_FILE", filepath.Join(stranger.dir, "consul-agent-ca.pem"))
	h.start()
	enters := func(x *tlsDir) bool {
		_, _, code := sh(t, nil, "", binary, "members", "-http-addr=https://"+h.ip+":8501", "-ca-file="+filepath.Join(d.dir, "consul-agent-ca.pem"),
			"-client-cert="+filepath.Join(x.dir, "dc1-cli-consul-0.pem"), "-client-key="+filepath.Join(x.dir, "dc1-cli-consul-0-key.pem"))
		return code == 0
	}
	eventually(t, 30*time.Second, "it answers", func() bool { return enters(d) })
	if enters(stranger) {
		t.Error("a stranger was let in")
	}
	if err := os.Remove(filepath.Join(list, "ca.pem")); err != nil {
		t.Fatal(err)
	}
	if status, body := h.do("PUT", "/v1/agent/reload", ""); status == 200 || !strings.Contains(body, "holds no file with a certificate") {
		t.Errorf("a reload without authorities: %d %s", status, body)
	}
	if enters(stranger) || !enters(d) {
		t.Error("without authorities others are trusted")
	}
	h.signal(syscall.SIGTERM)
	h.wait(40 * time.Second)
	h.start()
	if code := h.wait(40 * time.Second); code == 0 || !strings.Contains(h.log.String(), "holds no file with a certificate") {
		t.Errorf("a start without authorities: %d", code)
	}
}
