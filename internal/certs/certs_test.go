package certs_test

import (
	"bytes"
	"crypto/x509"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/musterhq/muster/internal/certs"
	"github.com/musterhq/muster/internal/pki"
)

func pair(t *testing.T, name string) (ca, leaf pki.Pair) {
	t.Helper()
	ca, err := pki.NewAuthority(pki.Authority{Name: name + " CA", Days: 10})
	if err != nil {
		t.Fatal(err)
	}
	s, err := pki.NewSigner(ca)
	if err != nil {
		t.Fatal(err)
	}
	leaf, err = s.Sign(pki.Certificate{Name: name, Names: []string{name}, Days: 5})
	if err != nil {
		t.Fatal(err)
	}
	return ca, leaf
}

func write(t *testing.T, dir string, files map[string][]byte) {
	t.Helper()
	for name, data := range files {
		if err := os.WriteFile(filepath.Join(dir, name), data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
}

func TestKeeperFollowsFiles(t *testing.T) {
	dir := t.TempDir()
	ca1, one := pair(t, "one")
	ca2, two := pair(t, "two")
	f := certs.Files{CA: filepath.Join(dir, "ca"), Cert: filepath.Join(dir, "cert"), Key: filepath.Join(dir, "key")}
	write(t, dir, map[string][]byte{"ca": ca1.Cert, "cert": one.Cert, "key": one.Key})
	own := func(l *certs.Loaded) error {
		return l.Verify([]*x509.Certificate{l.Pair.Leaf}, "", x509.ExtKeyUsageServerAuth)
	}
	k, err := certs.Keep(f, own)
	if err != nil {
		t.Fatal(err)
	}
	step := func(what string, changed bool, wantErr string, name string) {
		t.Helper()
		got, err := k.Refresh()
		if got != changed || (err == nil) != (wantErr == "") || err != nil && !strings.Contains(err.Error(), wantErr) {
			t.Errorf("%s: %v, %v", what, got, err)
		}
		if c, err := k.GetCertificate(nil); err != nil || c.Leaf.Subject.CommonName != name {
			t.Errorf("%s: the certificate is %s, want %s", what, c.Leaf.Subject.CommonName, name)
		}
	}
	step("nothing new", false, "", "one")
	write(t, dir, map[string][]byte{"cert": two.Cert}) // the key comes later
	step("half of it", false, "", "one")
	step("still half of it", false, "private key does not match", "one")
	step("said once", false, "", "one")
	write(t, dir, map[string][]byte{"key": two.Key})
	step("whole, just now", false, "", "one")
	step("whole, but of another authority", false, "unknown authority", "one")
	write(t, dir, map[string][]byte{"ca": append(bytes.Clone(ca1.Cert), ca2.Cert...)})
	step("just now", false, "", "one")
	step("good", true, "", "two")
	if n := len(k.Current().Expiries); n != 3 {
		t.Errorf("%d certificates, want our own and two authorities", n)
	}
	if err := os.Remove(f.CA); err != nil {
		t.Fatal(err)
	}
	step("gone, just now", false, "", "two")
	step("gone", false, "no such file", "two")
	if err := k.Reload(); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("asked to: %v", err)
	}
	write(t, dir, map[string][]byte{"ca": ca2.Cert})
	if err := k.Reload(); err != nil {
		t.Errorf("asked to: %v", err)
	}
	step("read already", false, "", "two")
}

// TestPrepare: what is prepared is used when it is committed, and followed from then on; what is no good changes nothing.
func TestPrepare(t *testing.T) {
	dir := t.TempDir()
	at := func(name string) string { return filepath.Join(dir, name) }
	_, one := pair(t, "one")
	_, two := pair(t, "two")
	_, three := pair(t, "three")
	write(t, dir, map[string][]byte{"cert": one.Cert, "key": one.Key, "cert2": two.Cert, "key2": two.Key})
	k, err := certs.Keep(certs.Files{Cert: at("cert"), Key: at("key")})
	if err != nil {
		t.Fatal(err)
	}
	name := func() string { return k.Current().Expiries[0].Subject }
	if _, err := k.Prepare(certs.Files{Cert: at("cert2"), Key: at("key")}); err == nil || !strings.Contains(err.Error(), at("cert2")) {
		t.Errorf("files that do not fit: %v", err)
	}
	commit, err := k.Prepare(certs.Files{Cert: at("cert2"), Key: at("key2")})
	if err != nil || name() != "one" || k.Files().Cert != at("cert") {
		t.Errorf("prepared: %v, in use %s of %s", err, name(), k.Files().Cert)
	}
	commit()
	if name() != "two" || k.Files().Cert != at("cert2") {
		t.Errorf("committed: in use %s of %s", name(), k.Files().Cert)
	}
	write(t, dir, map[string][]byte{"cert2": three.Cert, "key2": three.Key})
	for range 2 {
		if _, err := k.Refresh(); err != nil {
			t.Fatal(err)
		}
	}
	if name() != "three" {
		t.Errorf("the new files are not followed: in use %s", name())
	}
}

func TestLoad(t *testing.T) {
	dir := t.TempDir()
	ca, leaf := pair(t, "one")
	ca2, _ := pair(t, "two")
	write(t, dir, map[string][]byte{"cert": leaf.Cert, "key": leaf.Key, "nonsense": []byte("nonsense")})
	list := filepath.Join(dir, "list")
	if err := os.Mkdir(list, 0o700); err != nil {
		t.Fatal(err)
	}
	write(t, list, map[string][]byte{"a.pem": ca.Cert, "b.pem": ca2.Cert})
	at := func(name string) string { return filepath.Join(dir, name) }
	l, err := certs.Load(certs.Files{CAPath: list, Cert: at("cert"), Key: at("key")})
	if err != nil || len(l.Expiries) != 3 || !l.Expiries[1].Authority || l.Expiries[0].Subject != "one" {
		t.Fatalf("%+v, %v", l, err)
	}
	for name, want := range map[string]string{"one": "", "other": "valid for one, not other"} {
		err := l.Verify([]*x509.Certificate{l.Pair.Leaf}, name, x509.ExtKeyUsageServerAuth)
		if (err == nil) != (want == "") || err != nil && !strings.Contains(err.Error(), want) {
			t.Errorf("verified as %s: %v", name, err)
		}
	}
	if l.Verify(nil, "", x509.ExtKeyUsageServerAuth) == nil {
		t.Error("no certificate is good enough")
	}
	empty := filepath.Join(dir, "empty")
	if err := os.Mkdir(empty, 0o700); err != nil {
		t.Fatal(err)
	}
	// Without authorities nobody is trusted: those of the system are not ours.
	if l, err := certs.Load(certs.Files{Cert: at("cert"), Key: at("key")}); err != nil || l.Verify([]*x509.Certificate{l.Pair.Leaf}, "", x509.ExtKeyUsageServerAuth) == nil {
		t.Errorf("without authorities a certificate was trusted, or %v", err)
	} else if l.Ended(time.Now()) != nil || l.Ended(time.Now().AddDate(0, 0, 6)) == nil {
		t.Error("the end of a certificate")
	}
	for want, f := range map[string]certs.Files{
		"ca_path " + empty + ": holds no file":         {CAPath: empty},
		"ca_file " + at("nonsense") + ": holds no PEM": {CA: at("nonsense")},
		"ca_path: ":                   {CAPath: at("none")},
		"key_file: ":                  {Cert: at("cert"), Key: at("none")},
		"cert_file " + at("nonsense"): {Cert: at("nonsense"), Key: at("key")},
	} {
		if _, err := certs.Load(f); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%+v: %v, want %q", f, err, want)
		}
	}
}
