package agent

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"slices"
	"sync/atomic"
	"time"

	"github.com/hashicorp/go-metrics"

	"github.com/musterhq/muster/internal/certs"
	"github.com/musterhq/muster/peer"
)

// certificates are those of the agent, followed in their files for as long as it runs.
type certificates struct {
	peer   *peer.TLS     // of the port between agents; nil: plain
	https  *certs.Keeper // of HTTPS, the hierarchical dialect over TLS and DNS over TLS; nil: none
	checks *certs.Keeper // of checks, maybe that of peer; nil: what the system trusts, and no certificate

	forChecks atomic.Pointer[checkConfig]
}

// files are those of one stanza.
func (t *TLSConfig) files() certs.Files {
	return certs.Files{CA: t.CAFile, CAPath: t.CAPath, Cert: t.CertFile, Key: t.KeyFile}
}

func (t *TLSConfig) minVersion() uint16 {
	if t.MinVersion == "TLSv1_3" {
		return tls.VersionTLS13
	}
	return tls.VersionTLS12
}

// openCertificates reads them. Errors name the stanza and the file.
func (a *Agent) openCertificates() error {
	c := &a.cfg.TLS
	if t := &c.InternalRPC; t.CertFile != "" {
		spec := peer.TLSConfig{CAFile: t.CAFile, CAPath: t.CAPath, CertFile: t.CertFile, KeyFile: t.KeyFile, AcceptPlain: t.acceptPlain, MinVersion: t.minVersion(), CipherSuites: t.suites}
		if t.VerifyServerHostname {
			spec.VerifyServerName = "server." + a.cfg.Datacenter + "." + trimDot(a.cfg.Domain)
		}
		var err error
		if a.certs.peer, err = peer.LoadTLS(spec); err != nil {
			return fmt.Errorf("tls.internal_rpc: %w", err)
		}
	}
	if c.HTTPS.CertFile != "" {
		// One that has ended is better than none at the start: clients say so, the log too. Later a better one is there.
		fresh := func(l *certs.Loaded) error {
			if c.HTTPS.VerifyIncoming && l.Roots == nil {
				return errors.New("verify_incoming needs ca_file or ca_path, to know whom to trust")
			}
			if a.certs.https == nil {
				return nil
			}
			return l.Ended(time.Now())
		}
		var err error
		if a.certs.https, err = certs.Keep(c.HTTPS.files(), fresh); err != nil {
			return fmt.Errorf("tls.https: %w", err)
		}
	}
	if a.cfg.EnableAgentTLSForChecks && a.certs.peer != nil {
		a.certs.checks = a.certs.peer.Keeper
	} else if a.cfg.EnableAgentTLSForChecks {
		var err error
		if a.certs.checks, err = certs.Keep(c.InternalRPC.files()); err != nil {
			return fmt.Errorf("tls.internal_rpc, for checks: %w", err)
		}
	}
	go a.followCertificates(a.ctx)
	return nil
}

// dialTLS is the TLS of connections to servers; nil: plain.
func (a *Agent) dialTLS() *peer.TLS {
	if a.cfg.TLS.InternalRPC.dialPlain {
		return nil
	}
	return a.certs.peer
}

// clientTLS is what listeners for clients use: each handshake takes the newest certificates. protocols are offered by ALPN.
func (a *Agent) clientTLS(protocols ...string) (*tls.Config, error) {
	k, t := a.certs.https, &a.cfg.TLS.HTTPS
	if k == nil {
		return nil, errors.New("tls.https (or tls.defaults) has no cert_file and key_file")
	}
	cfg := &tls.Config{MinVersion: t.minVersion(), GetCertificate: k.GetCertificate}
	if t.VerifyIncoming {
		cfg.ClientAuth = tls.RequireAnyClientCert // and what it has to be is said here, with the authorities of today
		cfg.VerifyConnection = func(s tls.ConnectionState) error {
			return k.Current().Verify(s.PeerCertificates, "", x509.ExtKeyUsageClientAuth)
		}
	}
	if len(t.suites) > 0 {
		// Said to each connection and not to the listener: net/http refuses one with fewer suites than HTTP/2 asks for.
		each := cfg.Clone()
		each.CipherSuites, each.NextProtos = t.suites, protocols
		if !http2Fit(t.suites) {
			each.NextProtos = slices.DeleteFunc(slices.Clone(protocols), func(p string) bool { return p == "h2" })
		}
		cfg.GetConfigForClient = func(*tls.ClientHelloInfo) (*tls.Config, error) { return each, nil }
	}
	return cfg, nil
}

// checkTLS is what checks with TLS begin with: the authorities and the certificate of the port between agents as they are in
// their files, the same value while those stay the same. nil: the authorities of the system, and no certificate.
func (a *Agent) checkTLS() *tls.Config {
	k := a.certs.checks
	if k == nil {
		return nil
	}
	from := k.Current()
	if c := a.certs.forChecks.Load(); c != nil && c.from == from {
		return c.config
	}
	c := &checkConfig{from, &tls.Config{MinVersion: a.cfg.TLS.InternalRPC.minVersion(), CipherSuites: a.cfg.TLS.InternalRPC.suites, RootCAs: from.Roots}}
	if from.Pair != nil {
		c.config.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return from.Pair, nil }
	}
	a.certs.forChecks.Store(c)
	return c.config
}

// checkConfig is what follows for checks from one reading of files.
type checkConfig struct {
	from   *certs.Loaded
	config *tls.Config
}

// keptCertificates is one set of certificates and its name in the configuration.
type keptCertificates struct {
	stanza string
	*certs.Keeper
}

func (a *Agent) keepers() []keptCertificates {
	var out []keptCertificates
	if a.certs.peer != nil {
		out = append(out, keptCertificates{"tls.internal_rpc", a.certs.peer.Keeper})
	}
	if a.certs.https != nil {
		out = append(out, keptCertificates{"tls.https", a.certs.https})
	}
	if a.certs.checks != nil && a.certs.peer == nil {
		out = append(out, keptCertificates{"tls.internal_rpc", a.certs.checks})
	}
	return out
}

// prepareCertificates reads the files that a configuration names.
func (a *Agent) prepareCertificates(t *transaction, cfg *Config) error {
	var bad error
	for _, k := range a.keepers() {
		old, stanza := &a.cfg.TLS.InternalRPC, &cfg.TLS.InternalRPC
		if k.Keeper == a.certs.https {
			old, stanza = &a.cfg.TLS.HTTPS, &cfg.TLS.HTTPS
		}
		files := stanza.files()
		if (old.CertFile == "") != (stanza.CertFile == "") {
			files = k.Files() // with a certificate or without one is for a restart
		}
		commit, err := k.Prepare(files)
		if err != nil {
			bad = errors.Join(bad, fmt.Errorf("%s: %w", k.stanza, err))
			continue
		}
		t.add(commit, nil)
	}
	if bad == nil {
		t.add(func() { a.measureCertificates(true) }, nil)
	}
	return bad
}

// Intervals of looking after certificates.
const (
	certPeriod  = 3 * time.Second // between looks at the files
	certMeasure = time.Minute     // between reports of how long they are good
	certRemind  = 24 * time.Hour  // between warnings of their end
)

// followCertificates takes over new files and says in time that a certificate ends.
func (a *Agent) followCertificates(ctx context.Context) {
	look, measure := time.NewTicker(certPeriod), time.NewTicker(certMeasure)
	defer look.Stop()
	defer measure.Stop()
	reminded := time.Now()
	a.measureCertificates(true)
	for {
		select {
		case <-ctx.Done():
			return
		case <-look.C:
			for _, k := range a.keepers() {
				switch changed, err := k.Refresh(); {
				case err != nil:
					a.metrics.IncrCounter([]string{"agent", "tls", "reload_failed"}, 1)
					a.log.Error("new certificates are no good, the old ones stay in use", "stanza", k.stanza, "error", err)
				case changed:
					a.metrics.IncrCounter([]string{"agent", "tls", "reloaded"}, 1)
					a.log.Info("new certificates are in use", "stanza", k.stanza, "until", k.Current().Expiries[0].NotAfter)
					a.measureCertificates(true)
				}
			}
		case <-measure.C:
			remind := time.Since(reminded) > certRemind
			if remind {
				reminded = time.Now()
			}
			a.measureCertificates(remind)
		}
	}
}

// Times before the end of a certificate from which on it is spoken of.
const (
	certSoon   = 30 * 24 * time.Hour
	certUrgent = 7 * 24 * time.Hour
)

// measureCertificates sets the metric of each certificate, and logs those that end soon when told to.
func (a *Agent) measureCertificates(say bool) {
	for _, k := range a.keepers() {
		for _, e := range k.Current().Expiries {
			left := time.Until(e.NotAfter)
			a.metrics.SetGaugeWithLabels([]string{"agent", "tls", "cert", "expiry"}, float32(left.Seconds()),
				[]metrics.Label{{Name: "stanza", Value: k.stanza}, {Name: "file", Value: e.File}})
			if !say || left > certSoon {
				continue
			}
			log := a.log.Warn
			if left < certUrgent {
				log = a.log.Error
			}
			text := "a certificate ends soon: replace its file, the agent takes it over"
			if left < 0 {
				text = "a certificate has ended: replace its file, the agent takes it over"
			}
			log(text, "stanza", k.stanza, "file", e.File, "subject", e.Subject,
				"days", int(left.Hours()/24), "until", e.NotAfter)
		}
	}
}
