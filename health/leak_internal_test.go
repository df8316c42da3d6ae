package health

import (
	"context"
	"net"
	"net/http"
	"net/http/httptest"
	"runtime"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	grpchealth "google.golang.org/grpc/health"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
)

// TestProbesLeaveNothingBehind: an agent probes for years, so a probe may keep neither a goroutine nor a connection.
func TestProbesLeaveNothingBehind(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	srv := grpc.NewServer()
	healthpb.RegisterHealthServer(srv, grpchealth.NewServer())
	go func() { _ = srv.Serve(l) }()
	defer srv.Stop()
	web := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}))
	defer web.Close()
	quiet, err := net.Listen("tcp", "127.0.0.1:0") // accepts, says nothing
	if err != nil {
		t.Fatal(err)
	}
	defer quiet.Close()
	addr, silent := strings.TrimPrefix(web.URL, "http://"), quiet.Addr().String()
	host := new(Host)
	var probers []prober
	for _, s := range []Spec{
		{GRPC: l.Addr().String()}, {GRPC: addr}, {GRPC: silent}, {H2PING: l.Addr().String()}, {H2PING: silent}, {HTTP: web.URL}, {HTTP: "http://" + silent},
		{TCP: addr}, {TCP: silent, TCPUseTLS: true}, {UDP: silent}, {Args: []string{"true"}}, {DockerContainerID: "c", Args: []string{"a"}},
	} {
		s.Host, s.OutputMaxSize = host, 64
		probers = append(probers, newProber(s))
	}
	host.Docker = "tcp://" + addr
	run := func() {
		for _, p := range probers {
			ctx, cancel := context.WithTimeout(context.Background(), 20*time.Millisecond)
			p.probe(ctx)
			cancel()
		}
	}
	run()
	before := runtime.NumGoroutine()
	for range 15 {
		run()
	}
	for deadline := time.Now().Add(time.Minute); runtime.NumGoroutine() > before+4; time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			buf := make([]byte, 1<<16)
			t.Fatalf("%d goroutines, %d before 15 rounds:\n%s", runtime.NumGoroutine(), before, buf[:runtime.Stack(buf, true)])
		}
	}
}
