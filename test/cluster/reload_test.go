package cluster_test

import (
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/miekg/dns"

	"github.com/musterhq/muster/internal/pki"
	"github.com/musterhq/muster/internal/testcluster"
)

// TestReloadIsAllOrNothing changes everything that a reload takes over at once. With one thing wrong with it, whatever that is,
// nothing changes and the error says what; without it everything does.
func TestReloadIsAllOrNothing(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	put := func(name string, data []byte) string {
		t.Helper()
		file := filepath.Join(dir, name)
		if err := os.WriteFile(file, data, 0o600); err != nil {
			t.Fatal(err)
		}
		return file
	}
	ca, err := pki.NewAuthority(pki.Authority{Name: "test", Days: 10})
	if err != nil {
		t.Fatal(err)
	}
	signer, err := pki.NewSigner(ca)
	if err != nil {
		t.Fatal(err)
	}
	stanza := map[string]string{}
	for _, name := range []string{"one", "two"} {
		pair, err := signer.Sign(pki.Certificate{Name: name, Names: []string{name}, Days: 1})
		if err != nil {
			t.Fatal(err)
		}
		stanza[name] = fmt.Sprintf("cert_file = %q key_file = %q", put(name+".pem", pair.Cert), put(name+"-key.pem", pair.Key))
	}
	h := testcluster.Start(t, 1, 0).Servers[0]
	h.Stop(t)
	at := func(port int) string { return fmt.Sprintf("%s:%d", h.IP, port) }
	config := func(tls string, ttl, port int, service, more string) {
		put("agent.hcl", fmt.Appendf(nil, `ports { https = 8501 }
tls { https { %s } }
dns_config { service_ttl { "*" = "%ds" } }
upstream { service = "web" listen = %q }
service { name = %q port = 1 }
%s`, tls, ttl, at(port), service, more))
	}
	config(stanza["one"], 7, 7001, "a", `service { name = "web" port = 1 }`)
	h.ExtraArgs = []string{"-config-file=" + filepath.Join(dir, "agent.hcl")}
	h.Start(t)
	h.WaitReady(t)
	h.Put(t, "/v1/agent/service/register", `{"Name":"by-api","Check":{"CheckID":"mine","TTL":"1h"}}`)

	listens := func(port int) bool {
		c, err := net.Dial("tcp", at(port))
		if err == nil {
			_ = c.Close()
		}
		return !errors.Is(err, syscall.ECONNREFUSED) // a reset is an upstream's, without an instance
	}
	state := func() string {
		secure, err := tls.Dial("tcp", at(8501), &tls.Config{InsecureSkipVerify: true})
		if err != nil {
			return err.Error()
		}
		defer secure.Close()
		r, _, err := new(dns.Client).Exchange(new(dns.Msg).SetQuestion("web.service.consul.", dns.TypeA), h.DNS())
		if err != nil || len(r.Answer) != 1 {
			return fmt.Sprintf("%v %v", r, err)
		}
		var services map[string]any
		h.Get("/v1/agent/services", &services)
		names := make([]string, 0, len(services))
		for name := range services {
			names = append(names, name)
		}
		slices.Sort(names)
		return fmt.Sprintf("certificate %s, ttl %d, ports %v %v, services %v", secure.ConnectionState().PeerCertificates[0].Subject.CommonName,
			r.Answer[0].Header().Ttl, listens(7001), listens(7002), names)
	}
	const before = "certificate one, ttl 7, ports true false, services [a by-api web]"
	testcluster.Eventually(t, "what the file says at first", func() bool { return state() == before })

	const web = `service { name = "web" port = 1 }` + "\n"
	mixed := strings.Replace(stanza["two"], "two-key", "one-key", 1)
	for what, bad := range map[string]struct{ tls, more, want string }{
		"a key of another certificate":   {mixed, web, "tls.https: cert_file " + filepath.Join(dir, "two.pem")},
		"a port that is taken":           {stanza["two"], web + `upstream { name = "bad" service = "a" listen = "` + at(8500) + `" }`, `upstream "bad"`},
		"a resolver that is the agent":   {stanza["two"], web + `recursors = ["` + at(8600) + `"]`, "is this server itself"},
		"an id that somebody else has":   {stanza["two"], web + `check { id = "mine" name = "x" ttl = "1h" }`, `check "mine": the id is in use`},
		"a key that does not exist":      {stanza["two"], web + "nonsense = 1", "nonsense"},
		"a check of an unknown service":  {stanza["two"], web + `check { name = "x" ttl = "1h" service_id = "none" }`, `"none"`},
		"two upstreams at the same port": {stanza["two"], web + `upstream { service = "a" listen = "` + at(7002) + `" }`, "upstreams[1]"},
	} {
		config(bad.tls, 9, 7002, "b", bad.more)
		if a := h.Do(http.MethodPut, "/v1/agent/reload", ""); a.OK() || !strings.Contains(a.Body, bad.want) {
			t.Errorf("%s: %d %q, want %q", what, a.Status, a.Body, bad.want)
		}
		if got := state(); got != before {
			t.Errorf("%s: after a refused reload there is %s, want %s", what, got, before)
		}
	}
	config(stanza["two"], 9, 7002, "b", web)
	h.Put(t, "/v1/agent/reload", "")
	const after = "certificate two, ttl 9, ports false true, services [b by-api web]"
	testcluster.Eventually(t, "all of the new configuration", func() bool { return state() == after })
}
