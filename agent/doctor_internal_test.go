package agent

import (
	"context"
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

	"github.com/musterhq/muster/internal/certs"
	"github.com/musterhq/muster/internal/doctor"
)

func TestDoctorOffset(t *testing.T) {
	sent := time.Unix(1000, 0)
	// The other clock was read in the middle of 200 ms, and shows 400 ms more than ours did then.
	if got := offset(sent, sent.Add(200*time.Millisecond), sent.Add(500*time.Millisecond).UnixNano()); got != 400*time.Millisecond {
		t.Errorf("offset %v", got)
	}
	if got := offset(sent, sent.Add(200*time.Millisecond), sent.Add(-time.Second).UnixNano()); got != -1100*time.Millisecond {
		t.Errorf("offset %v", got)
	}
}

// writeCertificate makes a self-signed certificate and its key in dir.
func writeCertificate(t *testing.T, dir string, from, until time.Time, keyMode os.FileMode) certs.Files {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	tmpl := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "agent"}, NotBefore: from, NotAfter: until}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	keyDER, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	files := certs.Files{Cert: filepath.Join(dir, "cert.pem"), Key: filepath.Join(dir, "key.pem")}
	for name, b := range map[string]*pem.Block{files.Cert: {Type: "CERTIFICATE", Bytes: der}, files.Key: {Type: "PRIVATE KEY", Bytes: keyDER}} {
		if err := os.WriteFile(name, pem.EncodeToMemory(b), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Chmod(files.Key, keyMode); err != nil {
		t.Fatal(err)
	}
	return files
}

func TestDoctorCertificates(t *testing.T) {
	now := time.Now()
	const day = 24 * time.Hour
	for _, c := range []struct {
		what        string
		from, until time.Duration
		mode        os.FileMode
		want        []doctor.Status
	}{
		{"good", -day, 90 * day, 0o600, []doctor.Status{doctor.OK}},
		{"soon", -day, 10 * day, 0o600, []doctor.Status{doctor.Warn}},
		{"over, and the key open", -9 * day, -day, 0o644, []doctor.Status{doctor.Fail, doctor.Warn}},
		{"to come", day, 90 * day, 0o600, []doctor.Status{doctor.Fail}},
	} {
		got := examineCertificates("tls.https", writeCertificate(t, t.TempDir(), now.Add(c.from), now.Add(c.until), c.mode), now)
		if len(got) != len(c.want) {
			t.Errorf("%s: %+v", c.what, got)
			continue
		}
		for i, f := range got {
			if f.Status != c.want[i] {
				t.Errorf("%s: %+v, want %s", c.what, f, c.want[i])
			}
		}
	}
	files := writeCertificate(t, t.TempDir(), now, now.Add(90*day), 0o600)
	if err := os.WriteFile(files.Cert, []byte("nonsense"), 0o600); err != nil {
		t.Fatal(err)
	}
	if got := examineCertificates("tls.https", files, now); len(got) != 1 || got[0].Status != doctor.Fail {
		t.Errorf("damaged file: %+v", got)
	}
}

// TestDoctorDoesNotWait: a probe that hangs costs its own finding and nothing else.
func TestDoctorDoesNotWait(t *testing.T) {
	hang := make(chan struct{})
	defer close(hang)
	ctx, cancel := context.WithTimeout(context.Background(), 50*time.Millisecond)
	defer cancel()
	good := doctor.Finding{Area: doctor.Agent, Subject: "x", Status: doctor.OK}
	got := runProbes(ctx, []probe{
		func(context.Context) []doctor.Finding { <-hang; return nil },
		func(context.Context) []doctor.Finding { return []doctor.Finding{good} },
	})
	if len(got) != 3 || len(got[1]) != 1 || got[1][0] != good || got[2][0].Status != doctor.Warn {
		t.Errorf("%+v", got)
	}
}

func TestDoctorDisk(t *testing.T) {
	dir := t.TempDir()
	took, err := measureSync(context.Background(), dir)
	if err != nil || len(took) != syncWrites {
		t.Fatalf("%v, %v", took, err)
	}
	if left, err := os.ReadDir(dir); err != nil || len(left) != 0 {
		t.Errorf("left behind: %v, %v", left, err)
	}
	if _, err := measureSync(context.Background(), filepath.Join(dir, "none")); err == nil {
		t.Error("no error for a directory that does not exist")
	}
}
