package pki_test

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"net"
	"testing"

	"github.com/musterhq/muster/internal/pki"
)

func authority(t *testing.T, a pki.Authority) (pki.Pair, *pki.Signer) {
	t.Helper()
	p, err := pki.NewAuthority(a)
	if err != nil {
		t.Fatal(err)
	}
	s, err := pki.NewSigner(p)
	if err != nil {
		t.Fatal(err)
	}
	return p, s
}

// TestMutual shakes hands with what was made.
func TestMutual(t *testing.T) {
	ca, signer := authority(t, pki.Authority{Name: "ca", Days: 10})
	signed := func(c pki.Certificate) tls.Certificate {
		t.Helper()
		c.Days = 5
		p, err := signer.Sign(c)
		if err != nil {
			t.Fatal(err)
		}
		pair, err := tls.X509KeyPair(p.Cert, p.Key)
		if err != nil {
			t.Fatal(err)
		}
		return pair
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(ca.Cert)
	agent := signed(pki.Certificate{Name: "server.dc1.consul", Names: []string{"server.dc1.consul"}, IPs: []net.IP{net.IPv4(127, 0, 0, 1)}})
	cli := signed(pki.Certificate{Name: "cli", Usage: pki.ClientOnly})
	for _, c := range []struct {
		what, name   string
		server, asks tls.Certificate
		ok           bool
	}{
		{"by name", "server.dc1.consul", agent, cli, true},
		{"by address", "127.0.0.1", agent, agent, true},
		{"another name", "server.dc2.consul", agent, cli, false},
		{"a command's certificate serving", "cli", cli, cli, false},
	} {
		l, err := tls.Listen("tcp", "127.0.0.1:0", &tls.Config{Certificates: []tls.Certificate{c.server}, ClientCAs: roots, ClientAuth: tls.RequireAndVerifyClientCert})
		if err != nil {
			t.Fatal(err)
		}
		go func() {
			s, err := l.Accept()
			if err != nil {
				return
			}
			_, _ = s.Write([]byte("x")) // shakes hands
			_ = s.Close()
		}()
		conn, err := tls.Dial("tcp", l.Addr().String(), &tls.Config{Certificates: []tls.Certificate{c.asks}, RootCAs: roots, ServerName: c.name})
		if err == nil {
			_, err = conn.Read(make([]byte, 1))
			_ = conn.Close()
		}
		if (err == nil) != c.ok {
			t.Errorf("%s: %v", c.what, err)
		}
		_ = l.Close()
	}
}

func TestRefusals(t *testing.T) {
	ca, signer := authority(t, pki.Authority{Name: "ca", Days: 10, Domains: []string{"consul"}})
	if _, err := signer.Sign(pki.Certificate{Name: "x", Names: []string{"x.consul"}, Days: 11}); err == nil {
		t.Error("a certificate outlives its authority")
	}
	if _, err := signer.Sign(pki.Certificate{Name: "x", Names: []string{"x.example"}, Days: 1}); err == nil {
		t.Error("a name outside the constraint was signed")
	}
	good, err := signer.Sign(pki.Certificate{Name: "x", Names: []string{"x.consul"}, Days: 1})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := pki.NewSigner(good); !errors.Is(err, pki.ErrNoAuthority) {
		t.Errorf("a certificate that is no authority: %v", err)
	}
	if _, err := pki.NewSigner(pki.Pair{Cert: ca.Cert, Key: good.Key}); err == nil {
		t.Error("a key of another certificate was taken")
	}
	if _, err := pki.NewSigner(pki.Pair{Cert: []byte("nonsense")}); err == nil {
		t.Error("nonsense was taken")
	}
}
