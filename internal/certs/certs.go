// Package certs reads the certificates of an agent from files, and again when the files have changed.
//
//	k, err := certs.Keep(certs.Files{CA: "ca.pem", Cert: "agent.pem", Key: "agent-key.pem"})
//	cfg := &tls.Config{GetCertificate: k.GetCertificate}
//	changed, err := k.Refresh() // now and then
package certs

import (
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"
)

// Files name what belongs together; each may be empty, but Cert and Key only both.
type Files struct {
	CA     string // PEM file of the authorities to trust
	CAPath string // directory of such files
	Cert   string // PEM file of our own certificate, the ones between it and its authority after it
	Key    string // PEM file of its key
}

// Loaded is one reading of Files. It is immutable.
type Loaded struct {
	Files Files
	Roots *x509.CertPool   // nil without authorities
	Pair  *tls.Certificate // nil without a certificate of our own
	// Expiries are the certificates and when they end, our own first.
	Expiries []Expiry
}

// Expiry is one certificate in a file.
type Expiry struct {
	File, Subject       string
	NotBefore, NotAfter time.Time
	Authority           bool
}

// Load reads the files. Errors name the file and what is wrong with it.
func Load(f Files) (*Loaded, error) {
	l, _, err := f.load()
	return l, err
}

func (f Files) load() (*Loaded, [sha256.Size]byte, error) {
	l, sum := &Loaded{Files: f}, sha256.New()
	var digest [sha256.Size]byte
	read := func(what, name string) ([]byte, error) {
		data, err := os.ReadFile(name)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", what, err)
		}
		fmt.Fprintf(sum, "%s\x00%d\x00", name, len(data))
		_, _ = sum.Write(data)
		return data, nil
	}
	var err error
	if f.Cert != "" || f.Key != "" {
		err = l.pair(f, read)
	}
	authorities, listErr := f.authorities()
	err = errors.Join(err, listErr)
	for _, name := range authorities {
		data, readErr := read("ca_file", name)
		if readErr != nil {
			err = errors.Join(err, readErr)
			continue
		}
		err = errors.Join(err, l.authority(name, data))
	}
	if err == nil && f.CA+f.CAPath != "" && l.Roots == nil {
		err = fmt.Errorf("ca_path %s: holds no file with a certificate", f.CAPath)
	}
	copy(digest[:], sum.Sum(nil))
	return l, digest, err
}

func (l *Loaded) pair(f Files, read func(what, name string) ([]byte, error)) error {
	cert, err := read("cert_file", f.Cert)
	key, keyErr := read("key_file", f.Key)
	if err := errors.Join(err, keyErr); err != nil {
		return err
	}
	pair, err := tls.X509KeyPair(cert, key)
	if err != nil {
		return fmt.Errorf("cert_file %s with key_file %s: %w", f.Cert, f.Key, err)
	}
	l.Pair = &pair
	l.Expiries = append(l.Expiries, expiry(f.Cert, pair.Leaf))
	return nil
}

// authorities are the files with certificates to trust.
func (f Files) authorities() ([]string, error) {
	var names []string
	if f.CA != "" {
		names = append(names, f.CA)
	}
	if f.CAPath == "" {
		return names, nil
	}
	list, err := os.ReadDir(f.CAPath)
	if err != nil {
		return nil, fmt.Errorf("ca_path: %w", err)
	}
	for _, e := range list {
		if name := filepath.Join(f.CAPath, e.Name()); !e.IsDir() {
			names = append(names, name)
		}
	}
	return names, nil
}

func (l *Loaded) authority(name string, data []byte) error {
	if l.Roots == nil {
		l.Roots = x509.NewCertPool()
	}
	found := false
	for block, rest := pem.Decode(data); block != nil; block, rest = pem.Decode(rest) {
		if block.Type != "CERTIFICATE" {
			continue
		}
		c, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return fmt.Errorf("ca_file %s: %w", name, err)
		}
		l.Roots.AddCert(c)
		l.Expiries = append(l.Expiries, expiry(name, c))
		found = true
	}
	if !found {
		return fmt.Errorf("ca_file %s: holds no PEM certificate", name)
	}
	return nil
}

func expiry(file string, c *x509.Certificate) Expiry {
	return Expiry{File: file, Subject: c.Subject.CommonName, NotBefore: c.NotBefore, NotAfter: c.NotAfter, Authority: c.IsCA}
}

// Ended says whether our own certificate has ended.
func (l *Loaded) Ended(now time.Time) error {
	if l.Pair != nil && now.After(l.Pair.Leaf.NotAfter) {
		return fmt.Errorf("cert_file %s: the certificate ended on %s", l.Expiries[0].File, l.Pair.Leaf.NotAfter.UTC().Format(time.RFC3339))
	}
	return nil
}

// Verify checks a chain of certificates, the other side's own first, against our authorities. An empty name is not checked.
func (l *Loaded) Verify(chain []*x509.Certificate, name string, use x509.ExtKeyUsage) error {
	if len(chain) == 0 {
		return errors.New("the other side sent no certificate")
	}
	if l.Roots == nil { // package x509 would take the system's authorities
		return errors.New("no authority is configured")
	}
	between := x509.NewCertPool()
	for _, c := range chain[1:] {
		between.AddCert(c)
	}
	_, err := chain[0].Verify(x509.VerifyOptions{Roots: l.Roots, Intermediates: between, DNSName: name, KeyUsages: []x509.ExtKeyUsage{use}})
	return err
}

// Keeper holds the newest good reading of Files. Its methods are safe for concurrent use.
type Keeper struct {
	check func(*Loaded) error
	cur   atomic.Pointer[Loaded]

	mu     sync.Mutex
	files  Files
	good   [sha256.Size]byte // of cur
	before [sha256.Size]byte // of the last look
	failed [sha256.Size]byte // of files that were refused
}

// Keep reads the files. A check, if given, may refuse what is read, now and later.
func Keep(f Files, check ...func(*Loaded) error) (*Keeper, error) {
	k := &Keeper{files: f, check: func(l *Loaded) error {
		for _, c := range check {
			if err := c(l); err != nil {
				return err
			}
		}
		return nil
	}}
	return k, k.Reload()
}

// Current is the newest good reading.
func (k *Keeper) Current() *Loaded { return k.cur.Load() }

// Files are those that are followed.
func (k *Keeper) Files() Files {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.files
}

// Reload reads the files now. On an error everything stays as it was.
func (k *Keeper) Reload() error {
	commit, err := k.Prepare(k.Files())
	if err == nil {
		commit()
	}
	return err
}

// Prepare reads and checks files, those of before or others; commit, which cannot fail, uses them and follows them from then on.
func (k *Keeper) Prepare(f Files) (commit func(), err error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	l, sum, err := f.load()
	if err == nil {
		err = k.check(l)
	}
	if err != nil {
		if f == k.files {
			k.before, k.failed = sum, sum // said once
		}
		return nil, err
	}
	return func() {
		k.mu.Lock()
		defer k.mu.Unlock()
		k.use(l, sum)
	}, nil
}

func (k *Keeper) use(l *Loaded, sum [sha256.Size]byte) {
	k.files, k.before, k.good, k.failed = l.Files, sum, sum, [sha256.Size]byte{}
	k.cur.Store(l)
}

// Refresh reads the files if they have changed and then stayed the same from one call to the next, so that a certificate and
// its key may be replaced one after the other. It says whether there is a new reading. The same bad files are an error once.
func (k *Keeper) Refresh() (changed bool, err error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	l, sum, err := k.files.load()
	if sum == k.good || sum == k.failed {
		k.before = sum
		return false, nil
	}
	if sum != k.before {
		k.before = sum
		return false, nil
	}
	if err == nil {
		err = k.check(l)
	}
	if err != nil {
		k.failed = sum
		return false, err
	}
	k.use(l, sum)
	return true, nil
}

// GetCertificate is for tls.Config: our own certificate as it is now.
func (k *Keeper) GetCertificate(*tls.ClientHelloInfo) (*tls.Certificate, error) {
	if p := k.Current().Pair; p != nil {
		return p, nil
	}
	return nil, errors.New("no certificate is configured")
}
