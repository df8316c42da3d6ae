package agent

import (
	"crypto/tls"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/musterhq/muster/internal/certs"
	"github.com/musterhq/muster/internal/pki"
)

// pairFiles makes an authority and a certificate in dir.
func pairFiles(t *testing.T, dir string) (ca, cert, key string) {
	t.Helper()
	authority, err := pki.NewAuthority(pki.Authority{Name: "ca", Days: 10})
	must(t, err)
	signer, err := pki.NewSigner(authority)
	must(t, err)
	leaf, err := signer.Sign(pki.Certificate{Name: "server.dc1.consul", Names: []string{"server.dc1.consul"}, Days: 5})
	must(t, err)
	ca, cert, key = filepath.Join(dir, "ca.pem"), filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem")
	must(t, os.WriteFile(ca, authority.Cert, 0o600))
	must(t, os.WriteFile(cert, leaf.Cert, 0o600))
	must(t, os.WriteFile(key, leaf.Key, 0o600))
	return ca, cert, key
}

func TestCheckTLS(t *testing.T) {
	ca, cert, key := pairFiles(t, t.TempDir())
	check := func(f certs.Files) (*Agent, error) {
		k, err := certs.Keep(f)
		return &Agent{certs: certificates{checks: k}}, err
	}
	if c := (&Agent{}).checkTLS(); c != nil {
		t.Errorf("switched off: %v", c)
	}
	if a, err := check(certs.Files{}); err != nil || a.checkTLS().RootCAs != nil || a.checkTLS().GetClientCertificate != nil {
		t.Errorf("without files: %v", err)
	}
	a, err := check(certs.Files{CA: ca, Cert: cert, Key: key})
	if err != nil || a.checkTLS().RootCAs == nil {
		t.Fatalf("with files: %v", err)
	}
	if pair, err := a.checkTLS().GetClientCertificate(nil); err != nil || pair.Leaf.Subject.CommonName != "server.dc1.consul" {
		t.Errorf("own certificate: %v %v", pair, err)
	}
	before := a.checkTLS()
	if a.checkTLS() != before {
		t.Error("another value although nothing has changed")
	}
	other, cert, key := pairFiles(t, t.TempDir())
	commit, err := a.certs.checks.Prepare(certs.Files{CA: other, Cert: cert, Key: key})
	must(t, err)
	commit()
	if now := a.checkTLS(); now == before || now.RootCAs.Equal(before.RootCAs) {
		t.Error("new authorities are not taken over")
	}
}

// TestCheckTLSWithPeers: with TLS between agents, checks follow the files that connections follow.
func TestCheckTLSWithPeers(t *testing.T) {
	ca, cert, key := pairFiles(t, t.TempDir())
	cfg := mustLoad(t, map[string]string{"a.hcl": `enable_agent_tls_for_checks = true
tls { internal_rpc { ca_file = "` + ca + `" cert_file = "` + cert + `" key_file = "` + key + `" tls_min_version = "TLSv1_3" } }`}, nil, "-dev")
	a := certAgent(t, cfg)
	before := a.checkTLS()
	if before.MinVersion != tls.VersionTLS13 {
		t.Errorf("the least version is %x", before.MinVersion)
	}
	ca2, cert2, key2 := pairFiles(t, t.TempDir())
	for from, to := range map[string]string{ca2: ca, cert2: cert, key2: key} {
		must(t, os.Rename(from, to))
	}
	var tx transaction
	must(t, a.prepareCertificates(&tx, &cfg))
	if a.checkTLS() != before {
		t.Error("prepared certificates are in use")
	}
	tx.commit()
	if a.checkTLS().RootCAs.Equal(before.RootCAs) {
		t.Error("new authorities are not taken over")
	}
}

func TestNeedRestart(t *testing.T) {
	ca, cert, key := pairFiles(t, t.TempDir())
	read := func(text string) Config {
		return mustLoad(t, map[string]string{"a.hcl": text}, nil, "-dev", "-node=a")
	}
	old := read(`tls { https { ca_file = "` + ca + `" } }`)
	for text, want := range map[string]string{
		``: "",
		`service { name = "a" } check { name = "b" ttl = "1s" } log_level = "debug" dns_config { only_passing = true }
		 upstream { service = "a" listen = "127.0.0.1:1" } recursors = ["1.1.1.1"] watches = [{ type = "nodes" args = ["/bin/true"] }]`: "",
		`ports { http = 1 } limits { kv_max_value_size = 7 } node_meta { a = "b" }`:                "limits.kv_max_value_size node_meta ports.http",
		`tls { https { cert_file = "` + cert + `" key_file = "` + key + `" } }`:                    "tls.https.cert_file",
		`tls { https { ca_file = "` + ca + `" tls_min_version = "TLSv1_3" } } primary_gateways=[]`: "tls.https.tls_min_version",
	} {
		now := read(text)
		if got := strings.Join(needRestart(&old, &now), " "); got != want {
			t.Errorf("%s: %q, want %q", text, got, want)
		}
	}
}

// TestVerifyFlags: with a certificate, both sides are verified unless the opposite is said.
func TestVerifyFlags(t *testing.T) {
	ca, cert, key := pairFiles(t, t.TempDir())
	files := `ca_file = "` + ca + `" cert_file = "` + cert + `" key_file = "` + key + `" `
	for text, want := range map[string][2]bool{
		`tls { defaults { ` + files + ` } }`:                                                                                        {false, false},
		`tls { defaults { ` + files + ` verify_incoming = true verify_outgoing = true } }`:                                          {false, false},
		`tls { defaults { ` + files + ` verify_incoming = false verify_outgoing = false } }`:                                        {true, true},
		`tls { defaults { ` + files + ` } internal_rpc { verify_incoming = false } }`:                                               {true, false},
		`tls { defaults { ` + files + ` verify_incoming = false verify_outgoing = true } internal_rpc { verify_incoming = true } }`: {false, false},
		`tls { defaults { ` + files + ` verify_outgoing = false verify_server_hostname = true } }`:                                  {false, false},
	} {
		c, warns, err := load(t, map[string]string{"a.hcl": text}, nil, "-dev")
		if err != nil {
			t.Errorf("%s: %v", text, err)
			continue
		}
		if got := [2]bool{c.TLS.InternalRPC.acceptPlain, c.TLS.InternalRPC.dialPlain}; got != want {
			t.Errorf("%s: accepts and dials plain %v, want %v", text, got, want)
		}
		said := 0
		for _, w := range warns {
			if strings.Contains(w.String(), "without TLS") {
				said++
			}
		}
		if (said > 0) != (want[0] || want[1]) {
			t.Errorf("%s: warnings %v", text, warns)
		}
	}
}

// TestVerifyNeedsCertificates: what cannot be honoured is refused, or said.
func TestVerifyNeedsCertificates(t *testing.T) {
	ca, cert, key := pairFiles(t, t.TempDir())
	for _, text := range []string{`defaults { ca_file = "` + ca + `" verify_outgoing = true }`, `internal_rpc { ca_file = "` + ca + `" verify_server_hostname = true }`} {
		if _, _, err := load(t, map[string]string{"a.hcl": "tls { " + text + " }"}, nil, "-dev"); err == nil || !strings.Contains(err.Error(), "tls.internal_rpc.verify_outgoing: needs cert_file and key_file") {
			t.Errorf("%s: %v", text, err)
		}
	}
	_, warns, err := load(t, map[string]string{"a.hcl": `tls { https { ca_file = "` + ca + `" cert_file = "` + cert + `" key_file = "` + key + `" verify_outgoing = true verify_server_hostname = true } }`}, nil, "-dev")
	if err != nil || len(warns) != 2 {
		t.Errorf("%v, warnings %v", err, warns)
	}
}

func TestTLSExample(t *testing.T) {
	dir := t.TempDir()
	ca, cert, key := pairFiles(t, dir)
	for from, to := range map[string]string{ca: "consul-agent-ca.pem", cert: "agent.pem", key: "agent-key.pem"} {
		must(t, os.Rename(from, filepath.Join(dir, to)))
	}
	text, err := os.ReadFile("../configs/tls.hcl")
	must(t, err)
	c, warns, err := load(t, map[string]string{"tls.hcl": strings.ReplaceAll(string(text), "/etc/muster", dir)}, nil, "-server", "-bootstrap-expect=3", "-data-dir="+dir)
	if err != nil || len(warns) > 0 || !c.TLS.InternalRPC.VerifyServerHostname || !c.TLS.HTTPS.VerifyIncoming || c.Ports.HTTPS != 8501 {
		t.Errorf("%+v, %v, warnings %v", c.TLS, err, warns)
	}
}
