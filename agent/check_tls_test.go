package agent

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"os"
	"path/filepath"
	"testing"
	"time"
)

func TestCheckTLS(t *testing.T) {
	dir := t.TempDir()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must(t, err)
	template := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "agent"}, NotAfter: time.Now().Add(time.Hour), IsCA: true, BasicConstraintsValid: true}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	must(t, err)
	keyDER, err := x509.MarshalPKCS8PrivateKey(key)
	must(t, err)
	cert, private := filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem")
	must(t, os.WriteFile(cert, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), 0o600))
	must(t, os.WriteFile(private, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: keyDER}), 0o600))
	config := func(ca, cert, key string) *Config {
		c := &Config{EnableAgentTLSForChecks: true}
		c.TLS.InternalRPC = TLSConfig{CAFile: ca, CertFile: cert, KeyFile: key}
		return c
	}
	if c, err := checkTLS(&Config{}); c != nil || err != nil {
		t.Errorf("switched off: %v %v", c, err)
	}
	if c, err := checkTLS(config("", "", "")); err != nil || c.RootCAs != nil || len(c.Certificates) != 0 {
		t.Errorf("without files: %+v %v", c, err)
	}
	if c, err := checkTLS(config(cert, cert, private)); err != nil || c.RootCAs == nil || len(c.Certificates) != 1 {
		t.Errorf("with files: %+v %v", c, err)
	}
	for _, bad := range []*Config{config(private, "", ""), config("/nonexistent", "", ""), config("", cert, cert)} {
		if _, err := checkTLS(bad); err == nil {
			t.Errorf("%+v was accepted", bad.TLS.InternalRPC)
		}
	}
}
