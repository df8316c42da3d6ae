package agent

import (
	"context"
	"crypto/tls"
	"io"
	"net/http"
	"slices"
	"strings"
	"testing"

	"github.com/musterhq/muster/api"
)

func TestCipherSuites(t *testing.T) {
	c, warns, err := load(t, map[string]string{"a.hcl": `tls {
		defaults { tls_cipher_suites = "TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256, TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384" }
		https { tls_min_version = "TLSv1_3" tls_cipher_suites = "TLS_ECDHE_RSA_WITH_AES_128_CBC_SHA" } }`}, nil, "-dev")
	if err != nil || len(warns) != 1 || !strings.Contains(warns[0].String(), "tls.https.tls_cipher_suites: changes nothing under") {
		t.Fatalf("%v, warnings %v", err, warns)
	}
	if got, want := c.TLS.InternalRPC.suites, []uint16{tls.TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256, tls.TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384}; !slices.Equal(got, want) {
		t.Errorf("inherited: %x, want %x", got, want)
	}
	if got := c.TLS.HTTPS.suites; !slices.Equal(got, []uint16{tls.TLS_ECDHE_RSA_WITH_AES_128_CBC_SHA}) {
		t.Errorf("its own: %x", got)
	}
	for text, want := range map[string]string{
		`tls { https { tls_cipher_suites = "TLS_FAST" } }`:                            `tls.https.tls_cipher_suites: "TLS_FAST" is no cipher suite, expected some of TLS_ECDHE_ECDSA`,
		`tls { defaults { tls_cipher_suites = "TLS_AES_128_GCM_SHA256" } }`:           "TLS_AES_128_GCM_SHA256 is a suite of TLS 1.3",
		`tls { internal_rpc { tls_cipher_suites = "TLS_RSA_WITH_AES_128_CBC_SHA" } }`: "TLS_RSA_WITH_AES_128_CBC_SHA is not safe",
		`tls_cipher_suites = "TLS_ECDHE_RSA_WITH_RC4_128_SHA"`:                        "TLS_ECDHE_RSA_WITH_RC4_128_SHA is not safe",
		`tls { defaults { tls_min_version = "TLSv1_1" } }`:                            `tls.defaults.tls_min_version: expected TLSv1_2 or TLSv1_3, got "TLSv1_1"`,
	} {
		_, _, err := load(t, map[string]string{"a.hcl": text}, nil, "-dev")
		if err == nil || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "default: ") || strings.Count(err.Error(), "a.hcl") != 1 {
			t.Errorf("%s: %v, want %q once, from the file", text, err, want)
		}
	}
	if c, _, err := loadEtcd(t, nil, "--cipher-suites=TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384"); err != nil || len(c.TLS.HTTPS.suites) != 1 || len(c.TLS.InternalRPC.suites) != 1 {
		t.Errorf("as etcd has it: %v, %+v", err, c.TLS)
	}
}

// TestListenersKeepToSuites makes handshakes with what listeners for clients and checks use.
func TestListenersKeepToSuites(t *testing.T) {
	ca, cert, key := pairFiles(t, t.TempDir()) // of ECDSA
	const gcm256, cbc, gcm128 = "TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384", "TLS_ECDHE_ECDSA_WITH_AES_128_CBC_SHA", "TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256"
	for _, k := range []struct {
		suites, version string
		offer           []uint16
		ok              bool
		proto           string
	}{
		{gcm256, "TLSv1_2", nil, true, "h2"}, // less than HTTP/2 asks servers to have
		{gcm256, "TLSv1_2", []uint16{tls.TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256}, false, ""},
		{cbc, "TLSv1_2", nil, true, ""},
		{gcm128 + "," + gcm256, "TLSv1_2", nil, true, "h2"},
		{"", "TLSv1_2", nil, true, "h2"},
		{"", "TLSv1_3", nil, false, ""},
	} {
		cfg := mustLoad(t, map[string]string{"a.hcl": `enable_agent_tls_for_checks = true
tls { defaults { ca_file = "` + ca + `" cert_file = "` + cert + `" key_file = "` + key + `" tls_cipher_suites = "` + k.suites + `" tls_min_version = "` + k.version + `" } }`}, nil, "-dev")
		a := certAgent(t, cfg)
		tlsConfig, err := a.clientTLS("h2", "http/1.1")
		must(t, err)
		s := api.NewServer(api.ServerConfig{Addr: "127.0.0.1:0", TLS: tlsConfig, Handler: http.HandlerFunc(func(http.ResponseWriter, *http.Request) {})})
		addr, err := s.Listen()
		must(t, err)
		served := make(chan error, 1)
		go func() { served <- s.Serve() }()
		c, err := tls.Dial("tcp", addr.String(), &tls.Config{InsecureSkipVerify: true, MaxVersion: tls.VersionTLS12, CipherSuites: k.offer, NextProtos: []string{"h2", "http/1.1"}})
		if (err == nil) != k.ok {
			t.Errorf("%+v: %v", k, err)
		}
		if err == nil {
			st := c.ConnectionState()
			if k.suites != "" && !strings.Contains(k.suites, tls.CipherSuiteName(st.CipherSuite)) {
				t.Errorf("%+v: %s was chosen", k, tls.CipherSuiteName(st.CipherSuite))
			}
			if k.proto != "" && st.NegotiatedProtocol != k.proto || k.proto == "" && st.NegotiatedProtocol == "h2" {
				t.Errorf("%+v: protocol %q", k, st.NegotiatedProtocol)
			}
			_ = c.Close()
		}
		if got, want := a.checkTLS(), a.cfg.TLS.InternalRPC; !slices.Equal(got.CipherSuites, want.suites) || got.MinVersion != want.minVersion() {
			t.Errorf("%+v: checks use %x from version %x", k, got.CipherSuites, got.MinVersion)
		}
		must(t, s.Close(context.Background()))
		must(t, <-served)
	}
}

// certAgent is an agent that has nothing but the certificates of a configuration.
func certAgent(t *testing.T, cfg Config) *Agent {
	t.Helper()
	tel, err := newTelemetry(&cfg)
	must(t, err)
	a := &Agent{cfg: cfg, log: newLogger(&cfg, io.Discard), telemetry: tel, metrics: tel.metrics}
	ctx, cancel := context.WithCancel(context.Background())
	cancel() // nothing follows the files in the background
	a.ctx = ctx
	must(t, a.openCertificates())
	return a
}
