package peer

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"os"
	"sync/atomic"
)

// TLSConfig names the files of a cluster under mutual TLS: the authority that signs every member, and the
// certificate and key of this one. All three are needed. The certificate serves both as server and as client
// certificate, so its extended key usages (when it states any) must include both.
type TLSConfig struct {
	CAFile   string
	CertFile string
	KeyFile  string
	// VerifyServerName, when set, is a DNS name that the certificate of every server must carry, besides being
	// signed by the authority. It keeps the holder of an agent's certificate from posing as a server, both
	// where a server is dialed and where a raft stream comes in. Empty: any certificate of the authority.
	VerifyServerName string
}

// TLS holds loaded certificates. It is shared by a Server and its Dialers; Reload serves all of them.
type TLS struct {
	spec TLSConfig
	cur  atomic.Pointer[loaded]
}

// loaded is one reading of the files.
type loaded struct {
	server *tls.Config
	client *tls.Config // without NextProtos
}

// LoadTLS reads and checks the files. Errors name the file and what is wrong with it.
func LoadTLS(spec TLSConfig) (*TLS, error) {
	t := &TLS{spec: spec}
	if err := t.Reload(); err != nil {
		return nil, err
	}
	return t, nil
}

// Reload reads the files again. New connections use what was read; open ones stay. On error everything remains
// as it was. Safe for concurrent use.
func (t *TLS) Reload() error {
	l, err := t.spec.load()
	if err != nil {
		return err
	}
	t.cur.Store(l)
	return nil
}

func (c TLSConfig) load() (*loaded, error) {
	for _, f := range []struct{ what, name string }{
		{"certificate authority", c.CAFile}, {"certificate", c.CertFile}, {"key", c.KeyFile},
	} {
		if f.name == "" {
			return nil, fmt.Errorf("peer: tls: no %s file given: mutual tls needs an authority, a certificate and a key", f.what)
		}
	}
	pem, err := os.ReadFile(c.CAFile)
	if err != nil {
		return nil, fmt.Errorf("peer: tls: certificate authority: %w", err)
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(pem) {
		return nil, fmt.Errorf("peer: tls: certificate authority: %s holds no PEM certificate", c.CAFile)
	}
	cert, err := tls.LoadX509KeyPair(c.CertFile, c.KeyFile)
	if err != nil {
		return nil, fmt.Errorf("peer: tls: certificate %s with key %s: %w", c.CertFile, c.KeyFile, err)
	}
	// A certificate that no peer would accept is an error of the configuration, better met at start than at
	// the first connection.
	for _, use := range []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth} {
		if err := verifyChain(pool, []*x509.Certificate{cert.Leaf}, use); err != nil {
			return nil, fmt.Errorf("peer: tls: certificate %s is not acceptable under %s: %w", c.CertFile, c.CAFile, err)
		}
	}

	l := &loaded{}
	l.server = &tls.Config{
		MinVersion:   tls.VersionTLS12,
		Certificates: []tls.Certificate{cert},
		ClientAuth:   tls.RequireAndVerifyClientCert,
		ClientCAs:    pool,
		NextProtos:   []string{"h2", "http/1.1"},
		// Without tickets every new connection is judged by the authority of today.
		SessionTicketsDisabled: true,
	}
	name := c.VerifyServerName
	l.client = &tls.Config{
		MinVersion:   tls.VersionTLS12,
		Certificates: []tls.Certificate{cert},
		RootCAs:      pool,
		ServerName:   name,
		// Servers are dialed by IP address, which certificates seldom carry; VerifyConnection below does
		// the whole verification in place of the default one.
		InsecureSkipVerify: true,
		VerifyConnection: func(s tls.ConnectionState) error {
			if len(s.PeerCertificates) == 0 {
				return errors.New("peer: tls: the server sent no certificate")
			}
			if name != "" {
				if err := s.PeerCertificates[0].VerifyHostname(name); err != nil {
					return err
				}
			}
			return verifyChain(pool, s.PeerCertificates, x509.ExtKeyUsageServerAuth)
		},
	}
	return l, nil
}

func verifyChain(roots *x509.CertPool, chain []*x509.Certificate, use x509.ExtKeyUsage) error {
	between := x509.NewCertPool()
	for _, c := range chain[1:] {
		between.AddCert(c)
	}
	_, err := chain[0].Verify(x509.VerifyOptions{Roots: roots, Intermediates: between, KeyUsages: []x509.ExtKeyUsage{use}})
	return err
}

// serverConfig is what a listener uses: each handshake asks for the newest reading of the files.
func (t *TLS) serverConfig() *tls.Config {
	base := t.cur.Load().server.Clone()
	base.GetConfigForClient = func(*tls.ClientHelloInfo) (*tls.Config, error) { return t.cur.Load().server, nil }
	return base
}

// clientConfig returns the newest client configuration offering protos.
func (t *TLS) clientConfig(protos ...string) *tls.Config {
	c := t.cur.Load().client.Clone()
	c.NextProtos = protos
	return c
}

// isServer says whether the other side of an accepted connection may act as a server (see VerifyServerName).
func (t *TLS) isServer(s *tls.ConnectionState) error {
	if t == nil || t.spec.VerifyServerName == "" {
		return nil
	}
	if s == nil || len(s.PeerCertificates) == 0 {
		return errors.New("peer: tls: no client certificate")
	}
	return s.PeerCertificates[0].VerifyHostname(t.spec.VerifyServerName)
}
