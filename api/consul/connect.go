package consul

import (
	"cmp"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha1"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"math/big"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/musterhq/muster/api"
	"github.com/musterhq/muster/kv"
)

// rootPath is the record of the mesh's root certificate.
const rootPath = "g/connect/root"

// rootLife is how long the root certificate is valid.
const rootLife = 10 * 365 * 24 * time.Hour

// caRoot is the root certificate of a cluster's mesh, as stored and as shown.
type caRoot struct {
	ID                  string
	Name                string
	SerialNumber        uint64
	SigningKeyID        string
	ExternalTrustDomain string
	NotBefore           time.Time
	NotAfter            time.Time
	RootCert            string // PEM
	IntermediateCerts   []string
	Active              bool
	PrivateKeyType      string
	PrivateKeyBits      int
	CreateIndex         uint64
	ModifyIndex         uint64
}

// caRoots is the answer of connect/ca/roots.
type caRoots struct {
	ActiveRootID string
	TrustDomain  string
	Roots        []*caRoot
}

// connectRoutes are the two spellings of the one question of the mesh that is answered: clients and test harnesses
// wait for a root to know that an agent with connect enabled is up. There is no mesh: nothing is ever signed.
func (a *API) connectRoutes() []api.Route {
	return []api.Route{
		newRoute("/v1/agent/connect/ca/roots", api.Cluster, a.connectRoots, http.MethodGet),
		newRoute("/v1/connect/ca/roots", api.Cluster, a.connectRoots, http.MethodGet),
	}
}

func (a *API) connectRoots(w http.ResponseWriter, r *http.Request) error {
	if !a.cfg.Connect {
		return serverError("Connect must be enabled in order to use this endpoint")
	}
	q, err := a.parseRead(r)
	if err != nil {
		return err
	}
	return a.answer(w, r, &q, rootPath, func(s *kv.Snap) (result, error) {
		e, ok := s.Get(rootPath)
		if !ok {
			return result{}, serverError("the root certificate has not been made yet")
		}
		root := new(caRoot)
		if err := json.Unmarshal([]byte(e.Value()), root); err != nil {
			return result{}, fmt.Errorf("record of the root certificate: %w", err)
		}
		root.CreateIndex, root.ModifyIndex = e.Created(), e.Modified()
		list := &caRoots{ActiveRootID: root.ID, TrustDomain: root.ExternalTrustDomain + ".consul", Roots: []*caRoot{root}}
		return result{index: e.Modified(), value: list}, nil
	})
}

// EnsureRoot is the leader's job that makes the root certificate where connect is enabled and none is there yet.
// The key that signed it is not kept: nobody can issue certificates under it.
func (a *API) EnsureRoot(ctx context.Context) error {
	if !a.cfg.Connect {
		return nil
	}
	_, err := a.write(ctx, func(s *kv.Snap) (kv.Txn, error) {
		if _, ok := s.Get(rootPath); ok {
			return kv.Txn{}, nil
		}
		root, err := newRoot(cmp.Or(a.cfg.TrustDomain, fmt.Sprintf("%016x", a.cfg.Store.Status().ClusterID)), time.Now())
		if err != nil {
			return kv.Txn{}, err
		}
		b, err := json.Marshal(root)
		if err != nil {
			return kv.Txn{}, err
		}
		return kv.Txn{
			Conds: []kv.Cond{{Kind: kv.CondAbsent, Path: rootPath}},
			Ops:   []kv.Op{{Kind: kv.OpSet, Path: rootPath, Value: string(b)}},
		}, nil
	})
	return err
}

// newRoot makes a self-signed authority for the trust domain of a cluster (SPIFFE X.509-SVID, section 4).
func newRoot(domain string, now time.Time) (*caRoot, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	serial, err := rand.Int(rand.Reader, new(big.Int).SetUint64(1<<63-1))
	if err != nil {
		return nil, err
	}
	pub, err := x509.MarshalPKIXPublicKey(&key.PublicKey)
	if err != nil {
		return nil, err
	}
	keyID := sha1.Sum(pub)
	cert := &x509.Certificate{
		SerialNumber: serial, Subject: pkix.Name{CommonName: "Muster CA " + domain},
		NotBefore: now.Add(-time.Minute), NotAfter: now.Add(rootLife),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
		SubjectKeyId: keyID[:], AuthorityKeyId: keyID[:],
		URIs: []*url.URL{{Scheme: "spiffe", Host: domain + ".consul"}},
	}
	der, err := x509.CreateCertificate(rand.Reader, cert, cert, &key.PublicKey, key)
	if err != nil {
		return nil, err
	}
	print := sha1.Sum(der)
	return &caRoot{
		ID: colons(print[:]), Name: cert.Subject.CommonName, SerialNumber: serial.Uint64(), SigningKeyID: colons(keyID[:]),
		ExternalTrustDomain: domain, NotBefore: cert.NotBefore.UTC().Truncate(time.Second), NotAfter: cert.NotAfter.UTC().Truncate(time.Second),
		RootCert: string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})), Active: true, PrivateKeyType: "ec", PrivateKeyBits: 256,
	}, nil
}

// colons writes bytes as the dialect writes ids of certificates: hex pairs with colons between.
func colons(b []byte) string {
	return strings.ReplaceAll(fmt.Sprintf("% x", b), " ", ":")
}
