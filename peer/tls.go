package peer

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"sync/atomic"

	"github.com/musterhq/muster/internal/certs"
)

// TLSConfig names the files of a cluster under mutual TLS: the authority that signs every member, and the
// certificate and key of this one. All three are needed. The certificate serves both as server and as client
// certificate, so its extended key usages (when it states any) must include both.
type TLSConfig struct {
	CAFile   string
	CAPath   string // directory of such files, beside or instead of CAFile
	CertFile string
	KeyFile  string
	// VerifyServerName, when set, is a DNS name that the certificate of every server must carry, besides being
	// signed by the authority. It keeps the holder of an agent's certificate from posing as a server, both
	// where a server is dialed and where a raft stream comes in. Empty: any certificate of the authority.
	VerifyServerName string
	MinVersion       uint16 // of TLS, default 1.2
	// CipherSuites are those of TLS 1.2; nil: the safe ones. Agents among themselves speak 1.3, whose suites are not configurable.
	CipherSuites []uint16
	// AcceptPlain also takes connections without TLS, and under TLS those without a certificate: for the time in which a
	// cluster changes from one to the other.
	AcceptPlain bool
}

// TLS holds loaded certificates. It is shared by a Server and its Dialers: new connections use what was read last, open
// ones stay.
type TLS struct {
	*certs.Keeper
	spec TLSConfig
	cur  atomic.Pointer[loaded]
}

// loaded is what follows from one reading of the files.
type loaded struct {
	from   *certs.Loaded
	server *tls.Config
	client *tls.Config // without NextProtos
}

// LoadTLS reads and checks the files. Errors name the file and what is wrong with it.
func LoadTLS(spec TLSConfig) (*TLS, error) {
	for _, f := range []struct{ what, name string }{
		{"certificate authority", spec.CAFile + spec.CAPath}, {"certificate", spec.CertFile}, {"key", spec.KeyFile},
	} {
		if f.name == "" {
			return nil, fmt.Errorf("peer: tls: no %s file given: mutual tls needs an authority, a certificate and a key", f.what)
		}
	}
	// A certificate that no peer would accept is an error of the configuration, better met here than at the first
	// connection.
	acceptable := func(l *certs.Loaded) error {
		for _, use := range []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth} {
			chain := []*x509.Certificate{l.Pair.Leaf}
			for _, der := range l.Pair.Certificate[1:] {
				c, err := x509.ParseCertificate(der)
				if err != nil {
					return fmt.Errorf("peer: tls: certificate %s: %w", l.Files.Cert, err)
				}
				chain = append(chain, c)
			}
			if err := l.Verify(chain, "", use); err != nil {
				return fmt.Errorf("peer: tls: certificate %s is not acceptable under %s: %w", l.Files.Cert, l.Files.CA+l.Files.CAPath, err)
			}
		}
		return nil
	}
	k, err := certs.Keep(certs.Files{CA: spec.CAFile, CAPath: spec.CAPath, Cert: spec.CertFile, Key: spec.KeyFile}, acceptable)
	if err != nil {
		return nil, err
	}
	return &TLS{Keeper: k, spec: spec}, nil
}

// configs are the configurations of the newest reading.
func (t *TLS) configs() *loaded {
	now := t.Current()
	if l := t.cur.Load(); l != nil && l.from == now {
		return l
	}
	l := t.spec.configs(now)
	t.cur.Store(l)
	return l
}

func (c TLSConfig) configs(from *certs.Loaded) *loaded {
	l := &loaded{from: from}
	l.server = &tls.Config{
		MinVersion:   max(c.MinVersion, tls.VersionTLS12),
		CipherSuites: c.CipherSuites,
		Certificates: []tls.Certificate{*from.Pair},
		ClientAuth:   tls.RequireAndVerifyClientCert,
		ClientCAs:    from.Roots,
		NextProtos:   []string{"h2", "http/1.1"},
		// Without tickets every new connection is judged by the authority of today.
		SessionTicketsDisabled: true,
	}
	if c.AcceptPlain {
		l.server.ClientAuth = tls.VerifyClientCertIfGiven
	}
	name := c.VerifyServerName
	l.client = &tls.Config{
		MinVersion:   max(c.MinVersion, tls.VersionTLS12),
		CipherSuites: c.CipherSuites,
		Certificates: []tls.Certificate{*from.Pair},
		RootCAs:      from.Roots,
		ServerName:   name,
		// Servers are dialed by IP address, which certificates seldom carry; VerifyConnection below does
		// the whole verification in place of the default one.
		InsecureSkipVerify: true,
		VerifyConnection: func(s tls.ConnectionState) error {
			if err := from.Verify(s.PeerCertificates, name, x509.ExtKeyUsageServerAuth); err != nil {
				return fmt.Errorf("peer: tls: the server's certificate: %w", err)
			}
			return nil
		},
	}
	return l
}

// serverConfig is what a listener uses: each handshake asks for the newest reading of the files.
func (t *TLS) serverConfig() *tls.Config {
	base := t.configs().server.Clone()
	base.CipherSuites = nil // net/http refuses fewer than HTTP/2 asks for; each connection gets its own configuration anyway
	base.GetConfigForClient = func(*tls.ClientHelloInfo) (*tls.Config, error) { return t.configs().server, nil }
	return base
}

// clientConfig returns the newest client configuration offering protos.
func (t *TLS) clientConfig(protos ...string) *tls.Config {
	c := t.configs().client.Clone()
	c.NextProtos = protos
	return c
}

// isServer says whether the other side of an accepted connection may act as a server (see VerifyServerName).
func (t *TLS) isServer(s *tls.ConnectionState) error {
	if t == nil || t.spec.VerifyServerName == "" || t.spec.AcceptPlain {
		return nil
	}
	if s == nil || len(s.PeerCertificates) == 0 {
		return errors.New("peer: tls: no client certificate")
	}
	return s.PeerCertificates[0].VerifyHostname(t.spec.VerifyServerName)
}
