//go:build e2e

package e2e

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"testing"
	"time"
)

// pki is a certificate authority and the files of what it issued.
type pki struct {
	t      *testing.T
	dir    string
	ca     string // file
	cert   *x509.Certificate
	signer *ecdsa.PrivateKey
	serial int64
}

func newPKI(t *testing.T) *pki {
	t.Helper()
	p := &pki{t: t, dir: t.TempDir()}
	p.ca = p.issue("ca", "")
	return p
}

// issue makes a certificate for an address, for servers and clients, and returns its file; without an address it is the
// authority's own.
func (p *pki) issue(name, ip string) string {
	p.t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		p.t.Fatal(err)
	}
	p.serial++
	now := time.Now()
	c := &x509.Certificate{
		SerialNumber: big.NewInt(p.serial), Subject: pkix.Name{CommonName: name}, NotBefore: now.Add(-time.Hour), NotAfter: now.Add(time.Hour),
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}
	parent, signer := p.cert, p.signer
	if ip == "" {
		c.IsCA, c.BasicConstraintsValid, c.KeyUsage, c.ExtKeyUsage = true, true, x509.KeyUsageCertSign, nil
		parent, signer = c, key
		p.cert, p.signer = c, key
	} else {
		c.IPAddresses, c.DNSNames = []net.IP{net.ParseIP(ip)}, []string{"localhost"}
	}
	der, err := x509.CreateCertificate(rand.Reader, c, parent, &key.PublicKey, signer)
	if err != nil {
		p.t.Fatal(err)
	}
	private, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		p.t.Fatal(err)
	}
	p.write(p.key(name), "PRIVATE KEY", private)
	return p.write(filepath.Join(p.dir, name+".pem"), "CERTIFICATE", der)
}

// key is the file of the private key that belongs to name.
func (p *pki) key(name string) string { return filepath.Join(p.dir, name+"-key.pem") }

func (p *pki) write(file, kind string, der []byte) string {
	p.t.Helper()
	if err := os.WriteFile(file, pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}), 0o600); err != nil {
		p.t.Fatal(err)
	}
	return file
}
