package cluster_test

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"net/http"
	"os"
	"regexp"
	"testing"

	"github.com/musterhq/muster/internal/testcluster"
)

// TestEtcdPortOverTLS starts a server with etcd's own flags for HTTPS and client certificates: a client with one is
// served and told https URLs, one without is turned away in the handshake, and http stays http at the other URL.
func TestEtcdPortOverTLS(t *testing.T) {
	t.Parallel()
	conf, err := os.ReadFile(authority(t))
	if err != nil {
		t.Fatal(err)
	}
	file := func(key string) string {
		return regexp.MustCompile(key + `\s*= "([^"]*)"`).FindStringSubmatch(string(conf))[1]
	}
	ca, cert, key := file("ca_file"), file("cert_file"), file("key_file")
	h := testcluster.Start(t, 1, 0).Servers[0]
	h.Stop(t)
	secure, plain := "https://"+h.IP+":2379", "http://"+h.IP+":4001"
	h.ExtraArgs = []string{"--listen-client-urls=" + secure + "," + plain, "--cert-file=" + cert, "--key-file=" + key, "--trusted-ca-file=" + ca, "--client-cert-auth"}
	h.Start(t)
	h.WaitReady(t)

	pool := x509.NewCertPool()
	pem, err := os.ReadFile(ca)
	if err != nil || !pool.AppendCertsFromPEM(pem) {
		t.Fatal("authority", err)
	}
	pair, err := tls.LoadX509KeyPair(cert, key)
	if err != nil {
		t.Fatal(err)
	}
	client := func(certs ...tls.Certificate) *http.Client {
		return &http.Client{Timeout: testcluster.Patience, Transport: &http.Transport{DisableKeepAlives: true, TLSClientConfig: &tls.Config{RootCAs: pool, ServerName: "server.dc1.consul", Certificates: certs}}}
	}
	resp, err := client(pair).Get(secure + "/v2/members")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	var list struct {
		Members []struct{ ClientURLs []string }
	}
	if err := json.NewDecoder(resp.Body).Decode(&list); err != nil || len(list.Members) != 1 || len(list.Members[0].ClientURLs) == 0 || list.Members[0].ClientURLs[0] != secure {
		t.Errorf("members %+v %v", list, err)
	}
	if resp, err := client().Get(secure + "/version"); err == nil {
		resp.Body.Close()
		t.Errorf("served without a certificate: %d", resp.StatusCode)
	}
	if resp, err := client().Get(plain + "/version"); err != nil || resp.StatusCode != http.StatusOK {
		t.Errorf("the plain URL: %v", err)
	} else {
		resp.Body.Close()
	}
}
