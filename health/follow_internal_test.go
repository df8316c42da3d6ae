package health

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"net/http"
	"net/http/httptest"
	"sync/atomic"
	"testing"
	"time"
)

// TestProbesFollowTLS: checks that run already take new authorities and a new certificate with their next attempt.
func TestProbesFollowTLS(t *testing.T) {
	t.Parallel()
	var shown atomic.Int64 // requests with a certificate
	srv := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if len(r.TLS.PeerCertificates) > 0 {
			shown.Add(1)
		}
		if r.ProtoMajor == 2 && r.Method == http.MethodPost { // as a gRPC server answers: SERVING
			w.Header().Set("Content-Type", "application/grpc")
			w.Header().Set("Trailer", "Grpc-Status")
			_, _ = w.Write([]byte{0, 0, 0, 0, 2, 8, 1})
			w.Header().Set("Grpc-Status", "0")
		}
	}))
	srv.TLS = &tls.Config{ClientAuth: tls.RequestClientCert}
	srv.EnableHTTP2 = true
	srv.StartTLS()
	t.Cleanup(srv.Close)
	roots := x509.NewCertPool()
	roots.AddCert(srv.Certificate())
	var base atomic.Pointer[tls.Config]
	host := &Host{TLS: base.Load}
	addr := srv.Listener.Addr().String()
	kinds := map[string]Spec{
		"http": {HTTP: srv.URL}, "tcp": {TCP: addr, TCPUseTLS: true}, "h2ping": {H2PING: addr, H2PingUseTLS: true}, "grpc": {GRPC: addr, GRPCUseTLS: true},
	}
	probers := map[string]prober{}
	for kind, s := range kinds {
		s.Host, s.OutputMaxSize = host, 64
		probers[kind] = newProber(s)
	}
	look := func(when string, want Status) {
		t.Helper()
		for kind, p := range probers {
			ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
			if got, out := p.probe(ctx); got != want {
				t.Errorf("%s, %s: %s %q, want %s", kind, when, got, out, want)
			}
			cancel()
		}
	}
	look("nobody is trusted", Critical)
	base.Store(&tls.Config{RootCAs: roots})
	look("the authority is there", Passing)
	if n := shown.Load(); n != 0 {
		t.Errorf("%d certificates were shown", n)
	}
	base.Store(&tls.Config{RootCAs: roots, Certificates: srv.TLS.Certificates})
	look("and a certificate of our own", Passing)
	if n := shown.Load(); n != 2 { // of HTTP and gRPC, where the server sees it
		t.Errorf("%d certificates were shown, want 2", n)
	}
	base.Store(&tls.Config{RootCAs: x509.NewCertPool()})
	look("the authority is gone", Critical)
}
