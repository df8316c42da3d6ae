package consul_test

import (
	"context"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"net/http/httptest"
	"testing"

	"github.com/musterhq/muster/api"
	"github.com/musterhq/muster/api/apitest"
	"github.com/musterhq/muster/api/consul"
)

func TestRootCertificate(t *testing.T) {
	store := apitest.New()
	defer store.Close()
	for _, c := range []struct {
		connect, ensure bool
		status          int
	}{{false, true, 500}, {true, false, 500}, {true, true, 200}} {
		a := consul.New(consul.Config{Store: store, Datacenter: "dc1", Connect: c.connect})
		rt, err := api.NewRouter(api.RouterConfig{Routes: a.Routes()})
		if err != nil {
			t.Fatal(err)
		}
		ask := func() *httptest.ResponseRecorder {
			rec := httptest.NewRecorder()
			rt.ServeHTTP(rec, httptest.NewRequest("GET", "/v1/agent/connect/ca/roots", nil))
			return rec
		}
		if c.ensure {
			if err := a.EnsureRoot(context.Background()); err != nil {
				t.Fatal(err)
			}
		}
		rec := ask()
		if rec.Code != c.status {
			t.Fatalf("%+v: %d %s", c, rec.Code, rec.Body)
		}
		if c.status != 200 {
			continue
		}
		first := rec.Body.String()
		var got struct {
			ActiveRootID string
			Roots        []struct{ ID, RootCert string }
		}
		if err := json.Unmarshal(rec.Body.Bytes(), &got); err != nil || len(got.Roots) != 1 || got.Roots[0].ID != got.ActiveRootID {
			t.Fatalf("%v: %s", err, first)
		}
		block, _ := pem.Decode([]byte(got.Roots[0].RootCert))
		cert, err := x509.ParseCertificate(block.Bytes)
		if err != nil || !cert.IsCA || cert.CheckSignatureFrom(cert) != nil {
			t.Errorf("certificate %v: %v", cert, err)
		}
		// A new leader keeps what is there.
		if err := a.EnsureRoot(context.Background()); err != nil || ask().Body.String() != first {
			t.Errorf("a second call: %v, %s", err, ask().Body)
		}
	}
}
