package agent

import (
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"os"
)

// checkTLS is what checks with TLS begin with when enable_agent_tls_for_checks is set: the authorities and the
// certificate of the port between agents. nil: those of the system, and no certificate. Read once, at the start.
func checkTLS(c *Config) (*tls.Config, error) {
	if !c.EnableAgentTLSForChecks {
		return nil, nil //nolint:nilnil // none is a valid answer
	}
	t, out := c.TLS.InternalRPC, &tls.Config{MinVersion: tls.VersionTLS12}
	if t.CAFile != "" {
		pem, err := os.ReadFile(t.CAFile)
		if err != nil {
			return nil, fmt.Errorf("ca_file: %w", err)
		}
		out.RootCAs = x509.NewCertPool()
		if !out.RootCAs.AppendCertsFromPEM(pem) {
			return nil, fmt.Errorf("ca_file %s: holds no PEM certificate", t.CAFile)
		}
	}
	if t.CertFile != "" {
		pair, err := tls.LoadX509KeyPair(t.CertFile, t.KeyFile)
		if err != nil {
			return nil, fmt.Errorf("cert_file %s, key_file %s: %w", t.CertFile, t.KeyFile, err)
		}
		out.Certificates = []tls.Certificate{pair}
	}
	return out, nil
}
