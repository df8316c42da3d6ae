package peer_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"io"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/musterhq/muster/peer"
)

// authority is a throwaway certificate authority.
type authority struct {
	t    *testing.T
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
	file string
}

func newAuthority(t *testing.T) *authority {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	tmpl := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "test ca"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	a := &authority{t: t, cert: cert, key: key, file: filepath.Join(t.TempDir(), "ca.pem")}
	writePEM(t, a.file, "CERTIFICATE", der)
	return a
}

// issue writes a certificate for names and returns the configuration that uses it.
func (a *authority) issue(notAfter time.Time, names ...string) peer.TLSConfig {
	a.t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		a.t.Fatal(err)
	}
	tmpl := &x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: pkix.Name{CommonName: "member"}, DNSNames: names,
		NotBefore: time.Now().Add(-time.Hour), NotAfter: notAfter,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, a.cert, &key.PublicKey, a.key)
	if err != nil {
		a.t.Fatal(err)
	}
	kder, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		a.t.Fatal(err)
	}
	dir := a.t.TempDir()
	c := peer.TLSConfig{CAFile: a.file, CertFile: filepath.Join(dir, "cert.pem"), KeyFile: filepath.Join(dir, "key.pem")}
	writePEM(a.t, c.CertFile, "CERTIFICATE", der)
	writePEM(a.t, c.KeyFile, "PRIVATE KEY", kder)
	return c
}

// load issues and loads a certificate good for an hour.
func (a *authority) load(names ...string) *peer.TLS {
	a.t.Helper()
	return mustLoad(a.t, a.issue(time.Now().Add(time.Hour), names...))
}

func mustLoad(t *testing.T, c peer.TLSConfig) *peer.TLS {
	t.Helper()
	l, err := peer.LoadTLS(c)
	if err != nil {
		t.Fatal(err)
	}
	return l
}

func writePEM(t *testing.T, file, kind string, der []byte) {
	t.Helper()
	if err := os.WriteFile(file, pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}), 0o600); err != nil {
		t.Fatal(err)
	}
}

func TestLoadTLSErrorsNameTheFile(t *testing.T) {
	ca, other := newAuthority(t), newAuthority(t)
	good := ca.issue(time.Now().Add(time.Hour))
	expired := ca.issue(time.Now().Add(-time.Minute))
	junk := filepath.Join(t.TempDir(), "junk.pem")
	if err := os.WriteFile(junk, []byte("no pem here"), 0o600); err != nil {
		t.Fatal(err)
	}
	missing := filepath.Join(t.TempDir(), "missing.pem")
	for name, c := range map[string]struct {
		cfg  peer.TLSConfig
		want string
	}{
		"no authority":      {peer.TLSConfig{CertFile: good.CertFile, KeyFile: good.KeyFile}, "certificate authority"},
		"no key":            {peer.TLSConfig{CAFile: good.CAFile, CertFile: good.CertFile}, "key"},
		"missing authority": {peer.TLSConfig{CAFile: missing, CertFile: good.CertFile, KeyFile: good.KeyFile}, missing},
		"junk authority":    {peer.TLSConfig{CAFile: junk, CertFile: good.CertFile, KeyFile: good.KeyFile}, junk},
		"missing cert":      {peer.TLSConfig{CAFile: good.CAFile, CertFile: missing, KeyFile: good.KeyFile}, missing},
		"junk key":          {peer.TLSConfig{CAFile: good.CAFile, CertFile: good.CertFile, KeyFile: junk}, junk},
		"wrong key":         {peer.TLSConfig{CAFile: good.CAFile, CertFile: good.CertFile, KeyFile: expired.KeyFile}, expired.KeyFile},
		"expired":           {expired, expired.CertFile},
		"other authority":   {peer.TLSConfig{CAFile: other.file, CertFile: good.CertFile, KeyFile: good.KeyFile}, other.file},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := peer.LoadTLS(c.cfg)
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Fatalf("error %v does not name %q", err, c.want)
			}
		})
	}
}

func TestReloadReplacesCertificates(t *testing.T) {
	ca, next := newAuthority(t), newAuthority(t)
	cfg := ca.issue(time.Now().Add(time.Hour))
	serverTLS := mustLoad(t, cfg)
	srv := listen(t, peer.Config{TLS: serverTLS, Handler: echo()})

	oldClient := peer.NewDialer(peer.DialerConfig{TLS: ca.load()})
	newClient := peer.NewDialer(peer.DialerConfig{TLS: next.load()})
	if _, err := get(t, oldClient, srv, "/"); err != nil {
		t.Fatalf("before the reload: %v", err)
	}
	if _, err := get(t, newClient, srv, "/"); err == nil {
		t.Fatal("a certificate of another authority was accepted")
	}

	// A bad file changes nothing.
	if err := os.WriteFile(cfg.CAFile, []byte("junk"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := serverTLS.Reload(); err == nil {
		t.Fatal("junk was accepted as an authority")
	}
	oldClient.Close()
	if _, err := get(t, oldClient, srv, "/"); err != nil {
		t.Fatalf("after a failed reload: %v", err)
	}

	// The same file names now hold what the next authority issued.
	fresh := next.issue(time.Now().Add(time.Hour))
	for from, to := range map[string]string{fresh.CAFile: cfg.CAFile, fresh.CertFile: cfg.CertFile, fresh.KeyFile: cfg.KeyFile} {
		b, err := os.ReadFile(from)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(to, b, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := serverTLS.Reload(); err != nil {
		t.Fatal(err)
	}
	if _, err := get(t, newClient, srv, "/"); err != nil {
		t.Fatalf("after the reload: %v", err)
	}
	if _, err := oldClient.Raft(srv.Addr().String(), patience); err == nil {
		t.Fatal("the old authority is still accepted")
	}
}

// TestCipherSuites: the suites of TLS 1.2 bind both sides of the port, fewer than HTTP/2 asks for, too; agents speak TLS 1.3.
func TestCipherSuites(t *testing.T) {
	ca := newAuthority(t)
	cfg := ca.issue(time.Now().Add(time.Hour))
	cfg.CipherSuites = []uint16{tls.TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384}
	srv := listen(t, peer.Config{TLS: mustLoad(t, cfg), Handler: echo()})
	if _, err := get(t, peer.NewDialer(peer.DialerConfig{TLS: mustLoad(t, cfg)}), srv, "/"); err != nil {
		t.Errorf("agents among themselves: %v", err)
	}
	pair, err := tls.LoadX509KeyPair(cfg.CertFile, cfg.KeyFile)
	if err != nil {
		t.Fatal(err)
	}
	for offer, ok := range map[uint16]bool{tls.TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384: true, tls.TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256: false} {
		c, err := tls.Dial("tcp", srv.Addr().String(), &tls.Config{InsecureSkipVerify: true, MaxVersion: tls.VersionTLS12, CipherSuites: []uint16{offer}, Certificates: []tls.Certificate{pair}})
		if err == nil {
			_ = c.Close()
		}
		if (err == nil) != ok {
			t.Errorf("%s: %v", tls.CipherSuiteName(offer), err)
		}
	}
}

func TestVerifyServerName(t *testing.T) {
	ca := newAuthority(t)
	const name = "server.dc1.example"
	withName := func(names ...string) *peer.TLS {
		c := ca.issue(time.Now().Add(time.Hour), names...)
		c.VerifyServerName = name
		return mustLoad(t, c)
	}
	real := listen(t, peer.Config{TLS: withName(name), Handler: echo()})
	layer := real.RaftLayer(nil)
	posing := listen(t, peer.Config{TLS: withName("agent.example"), Handler: echo()})

	server := peer.NewDialer(peer.DialerConfig{TLS: withName(name)})
	agent := peer.NewDialer(peer.DialerConfig{TLS: withName("agent.example")})
	if _, err := get(t, agent, real, "/"); err != nil {
		t.Fatalf("an agent cannot relay: %v", err)
	}
	if _, err := get(t, agent, posing, "/"); !peer.IsRefused(err) {
		t.Fatalf("an agent posing as a server was believed: %v", err)
	}
	if c, err := agent.Raft(real.Addr().String(), patience); err == nil {
		_ = c.Close()
		t.Fatal("an agent was given a raft stream")
	}
	go func() {
		if c, err := layer.Accept(); err == nil {
			_ = c.Close()
		}
	}()
	c, err := server.Raft(real.Addr().String(), patience)
	if err != nil {
		t.Fatalf("a server was refused a raft stream: %v", err)
	}
	_ = c.Close()
}

func TestPlainAndTLSDoNotMix(t *testing.T) {
	ca := newAuthority(t)
	plainSrv := listen(t, peer.Config{Handler: echo()})
	tlsSrv := listen(t, peer.Config{TLS: ca.load(), Handler: echo()})
	plain := peer.NewDialer(peer.DialerConfig{})
	secure := peer.NewDialer(peer.DialerConfig{TLS: ca.load()})
	for name, f := range map[string]func() error{
		"plain request to tls port": func() error { _, err := get(t, plain, tlsSrv, "/"); return err },
		"tls request to plain port": func() error { _, err := get(t, secure, plainSrv, "/"); return err },
		"plain raft to tls port":    func() error { return closeIf(plain.Raft(tlsSrv.Addr().String(), patience)) },
		"tls raft to plain port":    func() error { return closeIf(secure.Raft(plainSrv.Addr().String(), patience)) },
	} {
		start := time.Now()
		if err := f(); err == nil {
			t.Errorf("%s: no error", name)
		}
		if d := time.Since(start); d > patience/2 {
			t.Errorf("%s: hung for %v", name, d)
		}
	}
	if _, err := get(t, plain, plainSrv, "/"); err != nil {
		t.Errorf("plain port no longer serves: %v", err)
	}
	if _, err := get(t, secure, tlsSrv, "/"); err != nil {
		t.Errorf("tls port no longer serves: %v", err)
	}
}

func closeIf(c net.Conn, err error) error {
	if err == nil {
		_ = c.Close()
	}
	return err
}

// TestChangeOver is the time in which some members speak TLS and others do not yet.
func TestChangeOver(t *testing.T) {
	ca := newAuthority(t)
	c := ca.issue(time.Now().Add(time.Hour), "agent.example")
	c.AcceptPlain, c.VerifyServerName = true, "server.dc1.example"
	srv := listen(t, peer.Config{TLS: mustLoad(t, c), Handler: echo()})
	layer := srv.RaftLayer(nil)
	silent := mustDial(t, srv.Addr().String()) // holds up nobody
	for name, d := range map[string]*peer.Dialer{
		"plain": peer.NewDialer(peer.DialerConfig{}), "TLS": peer.NewDialer(peer.DialerConfig{TLS: ca.load("agent.example")}),
	} {
		if _, err := get(t, d, srv, "/"); err != nil {
			t.Errorf("%s: a request: %v", name, err)
		}
		taken := make(chan net.Conn, 1)
		go func() {
			if in, err := layer.Accept(); err == nil {
				taken <- in
			}
			close(taken)
		}()
		out, err := d.Raft(srv.Addr().String(), patience)
		if err != nil {
			t.Fatalf("%s: a raft stream: %v", name, err)
		}
		in := <-taken
		if _, err := out.Write([]byte("x")); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if b := make([]byte, 1); in == nil || read(in, b) != nil || b[0] != 'x' {
			t.Errorf("%s: the stream carries %q", name, b)
		}
		_ = out.Close()
	}
	if _, err := get(t, peer.NewDialer(peer.DialerConfig{TLS: newAuthority(t).load()}), srv, "/"); err == nil {
		t.Error("a certificate of another authority was accepted")
	}
	_ = silent.Close()
}

func read(c net.Conn, b []byte) error {
	_, err := io.ReadFull(c, b)
	return err
}
