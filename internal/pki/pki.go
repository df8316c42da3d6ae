// Package pki makes the certificates of a cluster: an authority, and what it signs for servers, other agents and commands.
//
//	ca, err := pki.NewAuthority(pki.Authority{Name: "Muster CA", Days: 1825})
//	pair, err := ca.Sign(pki.Certificate{Name: "server.dc1.consul", Usage: pki.Both, Days: 365})
//
// Keys are ECDSA on P-256. Everything is PEM: certificates as "CERTIFICATE", keys as "EC PRIVATE KEY" (RFC 5915).
package pki

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha1" //nolint:gosec // a key identifier, RFC 5280 section 4.2.1.2
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"net"
	"time"
)

// Pair is a certificate with its key, both in PEM.
type Pair struct{ Cert, Key []byte }

// Authority says what a new authority is like.
type Authority struct {
	Name    string   // common name
	Days    int      // of validity
	Domains []string // when not empty, the only domains it can sign for
}

// Usage is what a certificate is for.
type Usage int

// What certificates are for: an agent is asked and asks, a command only asks.
const (
	Both Usage = iota
	ClientOnly
)

// Certificate says what a certificate to sign is like.
type Certificate struct {
	Name  string // common name
	Names []string
	IPs   []net.IP
	Usage Usage
	Days  int
}

// NewAuthority makes an authority that signs itself.
func NewAuthority(a Authority) (Pair, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return Pair{}, err
	}
	c, err := template(a.Name, a.Days)
	if err != nil {
		return Pair{}, err
	}
	c.IsCA, c.BasicConstraintsValid = true, true
	c.KeyUsage = x509.KeyUsageCertSign | x509.KeyUsageCRLSign | x509.KeyUsageDigitalSignature
	if len(a.Domains) > 0 {
		c.PermittedDNSDomainsCritical, c.PermittedDNSDomains = true, a.Domains
	}
	if c.SubjectKeyId, err = keyID(key.Public()); err != nil {
		return Pair{}, err
	}
	return encode(c, c, key, key)
}

// Signer is an authority that has been read.
type Signer struct {
	cert *x509.Certificate
	key  crypto.Signer
}

// ErrNoAuthority says that a certificate may not sign others.
var ErrNoAuthority = errors.New("the certificate is none of an authority")

// NewSigner reads an authority.
func NewSigner(p Pair) (*Signer, error) {
	pair, err := tls.X509KeyPair(p.Cert, p.Key)
	if err != nil {
		return nil, err
	}
	if !pair.Leaf.IsCA {
		return nil, ErrNoAuthority
	}
	key, ok := pair.PrivateKey.(crypto.Signer)
	if !ok {
		return nil, fmt.Errorf("a key of type %T cannot sign", pair.PrivateKey)
	}
	return &Signer{pair.Leaf, key}, nil
}

// Sign makes a key and a certificate for it, which is checked against the authority before it is given away: one with a
// name that the authority may not sign for is an error, and so is one that outlives it.
func (s *Signer) Sign(want Certificate) (Pair, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return Pair{}, err
	}
	c, err := template(want.Name, want.Days)
	if err != nil {
		return Pair{}, err
	}
	if c.NotAfter.After(s.cert.NotAfter) {
		return Pair{}, fmt.Errorf("it would be valid until %s, longer than its authority, which ends %s", c.NotAfter.Format(time.DateOnly), s.cert.NotAfter.Format(time.DateOnly))
	}
	c.DNSNames, c.IPAddresses = want.Names, want.IPs
	c.KeyUsage = x509.KeyUsageDigitalSignature | x509.KeyUsageKeyEncipherment
	c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}
	if want.Usage == Both {
		c.ExtKeyUsage = append(c.ExtKeyUsage, x509.ExtKeyUsageServerAuth)
	}
	if c.SubjectKeyId, err = keyID(key.Public()); err != nil {
		return Pair{}, err
	}
	p, err := encode(c, s.cert, key, s.key)
	if err != nil {
		return Pair{}, err
	}
	made, err := tls.X509KeyPair(p.Cert, p.Key)
	if err != nil {
		return Pair{}, err
	}
	roots := x509.NewCertPool()
	roots.AddCert(s.cert)
	if _, err := made.Leaf.Verify(x509.VerifyOptions{Roots: roots, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}}); err != nil {
		return Pair{}, err
	}
	return p, nil
}

func template(name string, days int) (*x509.Certificate, error) {
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 127))
	if err != nil {
		return nil, err
	}
	now := time.Now()
	return &x509.Certificate{
		SerialNumber: serial, Subject: pkix.Name{CommonName: name},
		NotBefore: now.Add(-time.Minute), // clocks differ
		NotAfter:  now.AddDate(0, 0, days),
	}, nil
}

func keyID(public crypto.PublicKey) ([]byte, error) {
	der, err := x509.MarshalPKIXPublicKey(public)
	if err != nil {
		return nil, err
	}
	sum := sha1.Sum(der) //nolint:gosec // an identifier
	return sum[:], nil
}

func encode(c, parent *x509.Certificate, key *ecdsa.PrivateKey, signer crypto.Signer) (Pair, error) {
	der, err := x509.CreateCertificate(rand.Reader, c, parent, key.Public(), signer)
	if err != nil {
		return Pair{}, err
	}
	secret, err := x509.MarshalECPrivateKey(key)
	if err != nil {
		return Pair{}, err
	}
	return Pair{
		Cert: pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}),
		Key:  pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: secret}),
	}, nil
}
