package cluster_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/pem"
	"fmt"
	"math/big"
	"net/http"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/musterhq/muster/internal/testcluster"
)

// authority makes a CA and one certificate for all agents, and returns a configuration file that uses them.
func authority(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	caKey, ca := certificate(t, nil, nil)
	key, cert := certificate(t, ca, caKey)
	write := func(name, kind string, der []byte) string {
		file := filepath.Join(dir, name)
		if err := os.WriteFile(file, pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}), 0o600); err != nil {
			t.Fatal(err)
		}
		return file
	}
	keyDER, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	config := fmt.Sprintf(`tls {
  internal_rpc {
    ca_file                = %q
    cert_file              = %q
    key_file               = %q
    verify_incoming        = true
    verify_outgoing        = true
    verify_server_hostname = true
  }
}
`, write("ca.pem", "CERTIFICATE", ca.Raw), write("cert.pem", "CERTIFICATE", cert.Raw), write("key.pem", "PRIVATE KEY", keyDER))
	file := filepath.Join(dir, "tls.hcl")
	if err := os.WriteFile(file, []byte(config), 0o600); err != nil {
		t.Fatal(err)
	}
	return file
}

// certificate makes a key and its certificate: an authority's when parent is nil.
func certificate(t *testing.T, parent *x509.Certificate, parentKey *ecdsa.PrivateKey) (*ecdsa.PrivateKey, *x509.Certificate) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()), NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		Subject: pkix.Name{CommonName: "test"}, BasicConstraintsValid: true,
	}
	if parent == nil {
		template.IsCA, template.KeyUsage = true, x509.KeyUsageCertSign
		parent, parentKey = template, key
	} else {
		template.DNSNames = []string{"server.dc1.consul"}
		template.KeyUsage = x509.KeyUsageDigitalSignature
		template.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth}
	}
	der, err := x509.CreateCertificate(rand.Reader, template, parent, key.Public(), parentKey)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return key, cert
}

// TestMutualTLS forms a cluster under certificates; agents of another authority, and those without any, get nothing
// through the port between agents and do not disturb the others.
func TestMutualTLS(t *testing.T) {
	t.Parallel()
	c := testcluster.Start(t, 3, 1, "-config-file="+authority(t))
	p := c.Proxies[0]
	p.Put(t, "/v1/kv/secret", "x")
	c.WaitSame(t)

	for name, args := range map[string][]string{
		"foreign": {"-config-file=" + authority(t)},
		"plain":   {`-hcl=tls { internal_rpc { ca_file = "" cert_file = "" key_file = "" verify_incoming = false verify_outgoing = false verify_server_hostname = false } }`},
	} {
		proxy := c.AddProxy(t, name+"-proxy", args...)
		testcluster.Eventually(t, proxy.Name+" knows the servers", func() bool { return len(members(proxy)) >= 4 })
		if a := proxy.Do(http.MethodGet, "/v1/kv/secret?raw", ""); a.OK() {
			t.Errorf("%s reads %q", proxy.Name, a.Body)
		}
		if a := proxy.Do(http.MethodPut, "/v1/kv/secret", "y"); a.OK() {
			t.Errorf("%s writes: %d %q", proxy.Name, a.Status, a.Body)
		}
		proxy.Stop(t)

		server := c.AddServer(t, name+"-server", args...)
		c.Servers = c.Servers[:3] // it is not to become one of them
		testcluster.Eventually(t, server.Name+" knows the servers", func() bool { return len(members(server)) >= 4 })
		testcluster.Eventually(t, server.Name+" is seen by the leader", func() bool { return members(c.WaitLeader(t))[server.Name] == 1 })
		if a := server.Do(http.MethodGet, "/v1/kv/secret?raw&stale", ""); a.OK() {
			t.Errorf("%s reads %q", server.Name, a.Body)
		}
		p.Put(t, "/v1/kv/still", "works")
		if index, _, _ := server.Agent().StateHash(); index != 0 {
			t.Errorf("%s has got data up to index %d", server.Name, index)
		}
		server.Stop(t)
	}
	if a := p.Do(http.MethodGet, "/v1/kv/secret?raw", ""); a.Body != "x" {
		t.Errorf("the secret reads %d %q", a.Status, a.Body)
	}
	for _, s := range c.Servers {
		if n := len(peers(s)); n != 3 {
			t.Errorf("%s counts %d voters, want the 3 that have certificates", s.Name, n)
		}
	}
	c.WaitSame(t)
}

// TestGossipEncryption forms a cluster under a gossip key; agents with another key or none never become members.
func TestGossipEncryption(t *testing.T) {
	t.Parallel()
	key := func() string {
		b := make([]byte, 32)
		_, _ = rand.Read(b)
		return base64.StdEncoding.EncodeToString(b)
	}
	c := testcluster.Start(t, 1, 1, "-encrypt="+key())
	c.Proxies[0].Put(t, "/v1/kv/a", "x")
	for name, arg := range map[string]string{"other-key": "-encrypt=" + key(), "no-key": "-encrypt="} {
		h := c.AddProxy(t, name, arg)
		if a := h.Do(http.MethodPut, "/v1/agent/join/"+c.Servers[0].IP, ""); a.OK() {
			t.Errorf("%s joins: %d %q", name, a.Status, a.Body)
		}
		if n := len(members(h)); n != 1 {
			t.Errorf("%s knows %d members, want only itself", name, n)
		}
		if a := h.Do(http.MethodGet, "/v1/kv/a?raw", ""); a.OK() {
			t.Errorf("%s reads %q", name, a.Body)
		}
		for _, old := range []*testcluster.Host{c.Servers[0], c.Proxies[0]} {
			if n := len(members(old)); n != 2 {
				t.Errorf("%s knows %d members, want 2", old.Name, n)
			}
		}
	}
}
