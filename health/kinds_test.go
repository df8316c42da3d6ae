package health_test

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/net/http2"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	grpchealth "google.golang.org/grpc/health"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"

	"github.com/musterhq/muster/health"
)

const short = 100 * time.Millisecond

// kindCase is one probe and what its first report has to be; an output that begins with "~" has to be contained.
type kindCase struct {
	spec   health.Spec
	status health.Status
	output string
}

// runKinds runs all cases at the same time: most of a case is waiting for the random start of its check.
func runKinds(t *testing.T, cases map[string]kindCase) {
	t.Helper()
	var wg sync.WaitGroup
	for name, c := range cases {
		wg.Go(func() {
			rec := &recorder{ch: make(chan report, 64)}
			spec := c.spec
			spec.ID, spec.Interval = "probe", health.MinInterval
			r, err := health.Start(spec, health.State{}, rec)
			if err != nil {
				t.Errorf("%s: %v", name, err)
				return
			}
			defer r.Stop()
			select {
			case got := <-rec.ch:
				want, part := strings.CutPrefix(c.output, "~")
				if got.status != c.status || part && !strings.Contains(got.output, want) || !part && got.output != want {
					t.Errorf("%s: got %q %.300q, want %q %q", name, got.status, got.output, c.status, c.output)
				}
				if strings.Contains(got.output, "secret") || strings.Contains(got.output, "sec ret") {
					t.Errorf("%s: a password was shown: %q", name, got.output)
				}
			case <-time.After(time.Minute):
				t.Errorf("%s: no report", name)
			}
		})
	}
	wg.Wait()
}

// serve accepts connections and gives each to f, which owns it.
func serve(t *testing.T, f func(net.Conn)) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() { defer c.Close(); f(c) }()
		}
	}()
	return l.Addr().String()
}

// hostile servers that every network check must survive within its timeout.
func babbler(t *testing.T) string { // endless bytes that are no protocol
	return serve(t, func(c net.Conn) {
		junk := []byte(strings.Repeat("\xff\x00junk ", 4096))
		for {
			if _, err := c.Write(junk); err != nil {
				return
			}
		}
	})
}

func dripper(t *testing.T) string { // a byte now and then: a slow loris
	return serve(t, func(c net.Conn) {
		for {
			if _, err := c.Write([]byte("H")); err != nil {
				return
			}
			time.Sleep(20 * time.Millisecond)
		}
	})
}

func framer(t *testing.T) string { // sound HTTP/2 that never answers a ping
	return serve(t, func(c net.Conn) {
		f := http2.NewFramer(c, c)
		_ = f.WriteSettings()
		for f.WritePing(false, [8]byte{1}) == nil {
		}
	})
}

func closer(t *testing.T) string { return serve(t, func(net.Conn) {}) }

func TestGRPCCheck(t *testing.T) {
	t.Parallel()
	start := func(opts ...grpc.ServerOption) string {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		srv, h := grpc.NewServer(opts...), grpchealth.NewServer()
		h.SetServingStatus("", healthpb.HealthCheckResponse_SERVING)
		h.SetServingStatus("up", healthpb.HealthCheckResponse_SERVING)
		h.SetServingStatus("down", healthpb.HealthCheckResponse_NOT_SERVING)
		healthpb.RegisterHealthServer(srv, h)
		go func() { _ = srv.Serve(l) }()
		t.Cleanup(srv.Stop)
		return l.Addr().String()
	}
	certs := httptest.NewTLSServer(nil)
	defer certs.Close()
	plain, secure := start(), start(grpc.Creds(credentials.NewServerTLSFromCert(&certs.TLS.Certificates[0])))
	bare := func() string { // a gRPC server without the health service
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		srv := grpc.NewServer()
		go func() { _ = srv.Serve(l) }()
		t.Cleanup(srv.Stop)
		return l.Addr().String()
	}()
	web := httptest.NewServer(http.NotFoundHandler())
	defer web.Close()
	runKinds(t, map[string]kindCase{
		"serving":        {health.Spec{GRPC: plain}, health.Passing, "gRPC check " + plain + ": success"},
		"service":        {health.Spec{GRPC: plain + "/up"}, health.Passing, "gRPC check " + plain + "/up: success"},
		"not serving":    {health.Spec{GRPC: plain + "/down"}, health.Critical, "gRPC " + plain + "/down serving status: NOT_SERVING"},
		"unknown":        {health.Spec{GRPC: plain + "/none"}, health.Critical, "rpc error: code = NotFound desc = unknown service"},
		"unimplemented":  {health.Spec{GRPC: bare}, health.Critical, "~rpc error: code = Unimplemented desc = unknown service grpc.health.v1.Health"},
		"refused":        {health.Spec{GRPC: "127.0.0.1:1"}, health.Critical, "~rpc error: code = Unavailable desc = dial tcp 127.0.0.1:1"},
		"bad address":    {health.Spec{GRPC: "%zz"}, health.Critical, "~malformed address"},
		"tls":            {health.Spec{GRPC: secure, GRPCUseTLS: true, TLSSkipVerify: true}, health.Passing, "~success"},
		"tls name":       {health.Spec{GRPC: secure + "/down", GRPCUseTLS: true, TLSSkipVerify: true, TLSServerName: "example.com"}, health.Critical, "~NOT_SERVING"},
		"tls untrusted":  {health.Spec{GRPC: secure, GRPCUseTLS: true}, health.Critical, "~certificate"},
		"tls to plain":   {health.Spec{GRPC: plain, GRPCUseTLS: true, TLSSkipVerify: true, Timeout: time.Second}, health.Critical, "~rpc error: code = "},
		"plain to tls":   {health.Spec{GRPC: secure, Timeout: time.Second}, health.Critical, "~rpc error: code = "},
		"http/1":         {health.Spec{GRPC: strings.TrimPrefix(web.URL, "http://"), Timeout: time.Second}, health.Critical, "~rpc error: code = "},
		"silent":         {health.Spec{GRPC: silent(t), Timeout: short}, health.Critical, "~rpc error: code = DeadlineExceeded"},
		"babbler":        {health.Spec{GRPC: babbler(t), Timeout: time.Second}, health.Critical, "~rpc error: code = "},
		"dripper":        {health.Spec{GRPC: dripper(t), Timeout: short}, health.Critical, "~rpc error: code = "},
		"frames forever": {health.Spec{GRPC: framer(t), Timeout: short}, health.Critical, "~rpc error: code = "},
		"closes":         {health.Spec{GRPC: closer(t)}, health.Critical, "~rpc error: code = Unavailable"},
	})
}

// TestGRPCCheckOfMalformedAnswers speaks HTTP/2 well and gRPC badly.
func TestGRPCCheckOfMalformedAnswers(t *testing.T) {
	t.Parallel()
	answer := func(h http.HandlerFunc) string {
		srv := httptest.NewUnstartedServer(h)
		srv.Config.Protocols = new(http.Protocols)
		srv.Config.Protocols.SetUnencryptedHTTP2(true)
		srv.Start()
		t.Cleanup(srv.Close)
		return strings.TrimPrefix(srv.URL, "http://")
	}
	body := func(status, body string) http.HandlerFunc {
		return func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", "application/grpc")
			w.Header().Set("Trailer", "Grpc-Status")
			_, _ = io.WriteString(w, body)
			w.Header().Set("Grpc-Status", status)
		}
	}
	runKinds(t, map[string]kindCase{
		"sound":        {health.Spec{GRPC: answer(body("0", "\x00\x00\x00\x00\x02\x08\x01"))}, health.Passing, "~success"},
		"more fields":  {health.Spec{GRPC: answer(body("0", "\x00\x00\x00\x00\x05\x12\x01x\x08\x01"))}, health.Passing, "~success"},
		"empty":        {health.Spec{GRPC: answer(body("0", "\x00\x00\x00\x00\x00"))}, health.Critical, "~serving status: UNKNOWN"},
		"future state": {health.Spec{GRPC: answer(body("0", "\x00\x00\x00\x00\x02\x08\x09"))}, health.Critical, "~serving status: Code(9)"},
		"no frame":     {health.Spec{GRPC: answer(body("0", ""))}, health.Critical, "~malformed health answer"},
		"wrong length": {health.Spec{GRPC: answer(body("0", "\x00\xff\xff\xff\xff\x08\x01"))}, health.Critical, "~malformed health answer"},
		"cut message":  {health.Spec{GRPC: answer(body("0", "\x00\x00\x00\x00\x01\x08"))}, health.Critical, "~malformed health answer"},
		"huge":         {health.Spec{GRPC: answer(body("0", strings.Repeat("x", 1<<20)))}, health.Critical, "~rpc error: code = "},
		"no status":    {health.Spec{GRPC: answer(body("", "\x00\x00\x00\x00\x02\x08\x01"))}, health.Critical, "~code = Unknown desc = the answer has no gRPC status"},
		"code":         {health.Spec{GRPC: answer(body("77", ""))}, health.Critical, "~code = Code(77)"},
		"not grpc":     {health.Spec{GRPC: answer(func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, "hello") })}, health.Critical, "~not a gRPC server: status 200 OK"},
		"redirect": {health.Spec{GRPC: answer(func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, "http://127.0.0.1:1/", http.StatusFound)
		})},
			health.Critical, "~not a gRPC server: status 302"},
	})
}

func TestH2PingCheck(t *testing.T) {
	t.Parallel()
	server := func(secure bool) string {
		srv := httptest.NewUnstartedServer(http.NotFoundHandler())
		srv.Config.Protocols = new(http.Protocols)
		srv.Config.Protocols.SetHTTP2(true)
		srv.Config.Protocols.SetUnencryptedHTTP2(true)
		if secure {
			srv.EnableHTTP2 = true
			srv.StartTLS()
		} else {
			srv.Start()
		}
		t.Cleanup(srv.Close)
		return srv.Listener.Addr().String()
	}
	plain, secure := server(false), server(true)
	old := httptest.NewServer(http.NotFoundHandler()) // HTTP/1 only
	defer old.Close()
	goaway := serve(t, func(c net.Conn) {
		_ = http2.NewFramer(c, c).WriteGoAway(0, http2.ErrCodeEnhanceYourCalm, nil)
		_, _ = io.Copy(io.Discard, c)
	})
	runKinds(t, map[string]kindCase{
		"plain":         {health.Spec{H2PING: plain}, health.Passing, "HTTP2 ping was successful"},
		"tls":           {health.Spec{H2PING: secure, H2PingUseTLS: true, TLSSkipVerify: true}, health.Passing, "HTTP2 ping was successful"},
		"tls untrusted": {health.Spec{H2PING: secure, H2PingUseTLS: true}, health.Critical, "~Failed to dial to " + secure + ": "},
		"refused":       {health.Spec{H2PING: "127.0.0.1:1"}, health.Critical, "~Failed to dial to 127.0.0.1:1: "},
		"http/1":        {health.Spec{H2PING: old.Listener.Addr().String()}, health.Critical, "~HTTP2 ping failed: "},
		"goaway":        {health.Spec{H2PING: goaway}, health.Critical, "~refused the connection: ENHANCE_YOUR_CALM"},
		"silent":        {health.Spec{H2PING: silent(t), Timeout: short}, health.Critical, "~deadline exceeded"},
		"silent tls":    {health.Spec{H2PING: silent(t), H2PingUseTLS: true, Timeout: short}, health.Critical, "~deadline exceeded"},
		"babbler":       {health.Spec{H2PING: babbler(t)}, health.Critical, "~HTTP2 ping failed: "},
		"dripper":       {health.Spec{H2PING: dripper(t), Timeout: short}, health.Critical, "~HTTP2 ping failed: "},
		"pings forever": {health.Spec{H2PING: framer(t)}, health.Critical, "~HTTP2 ping failed: "},
		"closes":        {health.Spec{H2PING: closer(t)}, health.Critical, "~HTTP2 ping failed: "},
	})
}

func TestUDPCheck(t *testing.T) {
	t.Parallel()
	listen := func(answer bool) string {
		c, err := net.ListenPacket("udp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { c.Close() })
		go func() {
			var b [64]byte
			for {
				_, from, err := c.ReadFrom(b[:])
				if err != nil {
					return
				}
				if answer {
					_, _ = c.WriteTo(make([]byte, 32<<10), from) // much, for one byte asked
				}
			}
		}()
		return c.LocalAddr().String()
	}
	free, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	nobody := free.LocalAddr().String()
	free.Close()
	answers, quiet := listen(true), listen(false)
	runKinds(t, map[string]kindCase{
		"answer":  {health.Spec{UDP: answers, Timeout: time.Hour}, health.Passing, "UDP connect " + answers + ": Success"},
		"silence": {health.Spec{UDP: quiet, Timeout: short}, health.Passing, "UDP connect " + quiet + ": Success"},
		"refused": {health.Spec{UDP: nobody, Timeout: time.Hour}, health.Critical, "~connection refused"},
		"bad":     {health.Spec{UDP: "127.0.0.1"}, health.Critical, "~missing port"},
	})
}

func TestTCPTLSCheckOfHostileServers(t *testing.T) {
	t.Parallel()
	runKinds(t, map[string]kindCase{
		"babbler": {health.Spec{TCP: babbler(t), TCPUseTLS: true}, health.Critical, "~tls: "},
		"dripper": {health.Spec{TCP: dripper(t), TCPUseTLS: true, Timeout: short}, health.Critical, "~"},
		"closes":  {health.Spec{TCP: closer(t), TCPUseTLS: true}, health.Critical, "~"},
	})
}

func TestHTTPCheckOfHostileServers(t *testing.T) {
	t.Parallel()
	endless := serve(t, func(c net.Conn) {
		_, _ = io.WriteString(c, "HTTP/1.1 200 OK\r\n")
		for i := 0; ; i++ {
			if _, err := fmt.Fprintf(c, "X-%d: %s\r\n", i, strings.Repeat("x", 1024)); err != nil {
				return
			}
		}
	})
	runKinds(t, map[string]kindCase{
		"babbler":         {health.Spec{HTTP: "http://" + babbler(t)}, health.Critical, "~Get "},
		"dripper":         {health.Spec{HTTP: "http://" + dripper(t), Timeout: short}, health.Critical, "~Get "},
		"endless headers": {health.Spec{HTTP: "http://" + endless}, health.Critical, "~Get "},
		"closes":          {health.Spec{HTTP: "http://" + closer(t)}, health.Critical, "~Get "},
	})
}

func TestScriptCheck(t *testing.T) {
	t.Parallel()
	sh := func(script string) []string { return []string{"/bin/sh", "-c", script} }
	runKinds(t, map[string]kindCase{
		"passing":   {health.Spec{Args: sh("echo fine")}, health.Passing, "fine\n"},
		"warning":   {health.Spec{Args: sh("echo out; echo err >&2; exit 1")}, health.Warning, "out\nerr\n"},
		"critical":  {health.Spec{Args: sh("echo bad; exit 2")}, health.Critical, "bad\n"},
		"signal":    {health.Spec{Args: sh("echo dying; kill -9 $$")}, health.Critical, "dying\n"},
		"cut":       {health.Spec{Args: sh("printf 0123456789"), OutputMaxSize: 4}, health.Passing, "Captured 4 of 10 bytes\n...\n6789"},
		"fits":      {health.Spec{Args: sh("printf 0123"), OutputMaxSize: 4}, health.Passing, "0123"},
		"huge":      {health.Spec{Args: sh("head -c 9000000 /dev/zero"), OutputMaxSize: 4}, health.Passing, "Captured 4 of 9000000 bytes\n...\n\x00\x00\x00\x00"},
		"no input":  {health.Spec{Args: sh("cat")}, health.Passing, ""},
		"timeout":   {health.Spec{Args: sh("echo begun; sleep 600"), Timeout: short}, health.Critical, "Timed out (100ms) running check"},
		"stubborn":  {health.Spec{Args: sh("trap '' TERM INT HUP; while :; do sleep 600; done"), Timeout: short}, health.Critical, "Timed out (100ms) running check"},
		"no end":    {health.Spec{Args: sh("cat /dev/zero"), Timeout: short}, health.Critical, "Timed out (100ms) running check"},
		"leftover":  {health.Spec{Args: sh("echo done; sleep 600 & exit 0"), Timeout: 20 * time.Second}, health.Passing, "done\n"},
		"missing":   {health.Spec{Args: []string{"/nonexistent/program"}}, health.Critical, "~no such file"},
		"not a run": {health.Spec{Args: []string{"/etc/passwd"}}, health.Critical, "~permission denied"},
	})
}

// TestScriptTimeoutKillsTheWholeGroup: what a script has started must not outlive it.
func TestScriptTimeoutKillsTheWholeGroup(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "pid")
	got := firstReport(t, health.Spec{Timeout: time.Second,
		Args: []string{"/bin/sh", "-c", "sleep 600 & echo $! > " + file + ".new; mv " + file + ".new " + file + "; wait"}})
	if got.output != "Timed out (1s) running check" {
		t.Fatalf("got %+v", got)
	}
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	pid, err := strconv.Atoi(strings.TrimSpace(string(text)))
	if err != nil {
		t.Fatal(err)
	}
	for deadline := time.Now().Add(time.Minute); ; {
		stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
		if err != nil || strings.Contains(string(stat), ") Z ") { // gone, or a zombie that nobody reaps here
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("the script's child %d still runs: %s", pid, stat)
		}
		time.Sleep(10 * time.Millisecond)
	}
}

// docker is a daemon with one container, "web"; program makes the output and the exit code of a command.
func docker(t *testing.T, program func(cmd []string, w io.Writer) (exit int)) *health.Host {
	t.Helper()
	codes := make(chan int, 1)
	var cmds = make(chan []string, 1)
	mux := http.NewServeMux()
	mux.HandleFunc("POST /containers/{id}/exec", func(w http.ResponseWriter, r *http.Request) {
		var in struct {
			Cmd                        []string
			AttachStdout, AttachStderr bool
		}
		if err := json.NewDecoder(r.Body).Decode(&in); err != nil || !in.AttachStdout || !in.AttachStderr {
			t.Errorf("exec create: %+v, %v", in, err)
		}
		if r.PathValue("id") != "web" {
			w.WriteHeader(http.StatusNotFound)
			fmt.Fprint(w, `{"message":"No such container: nope"}`)
			return
		}
		cmds <- in.Cmd
		w.WriteHeader(http.StatusCreated)
		fmt.Fprint(w, `{"Id":"e1"}`)
	})
	mux.HandleFunc("POST /exec/e1/start", func(w http.ResponseWriter, r *http.Request) {
		_ = http.NewResponseController(w).EnableFullDuplex()
		codes <- program(<-cmds, w)
	})
	mux.HandleFunc("GET /exec/e1/json", func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprintf(w, `{"Running":false,"ExitCode":%d}`, <-codes)
	})
	socket := filepath.Join(t.TempDir(), "d.sock")
	l, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	srv := &http.Server{Handler: mux}
	go func() { _ = srv.Serve(l) }()
	t.Cleanup(func() { srv.Close() })
	return &health.Host{Docker: "unix://" + socket}
}

func frame(stream byte, text string) []byte {
	return append(binary.BigEndian.AppendUint32([]byte{stream, 0, 0, 0}, uint32(len(text))), text...)
}

func TestDockerCheck(t *testing.T) {
	t.Parallel()
	says := func(exit int, frames ...[]byte) *health.Host {
		return docker(t, func(_ []string, w io.Writer) int {
			for _, f := range frames {
				_, _ = w.Write(f)
			}
			return exit
		})
	}
	echo := func(t *testing.T) *health.Host {
		return docker(t, func(cmd []string, w io.Writer) int {
			_, _ = w.Write(frame(1, strings.Join(cmd, "|")))
			return 0
		})
	}
	slow := docker(t, func([]string, io.Writer) int { time.Sleep(time.Second); return 0 })
	spec := func(h *health.Host) health.Spec {
		return health.Spec{DockerContainerID: "web", Args: []string{"check"}, Host: h, OutputMaxSize: 64}
	}
	other := spec(says(0))
	other.DockerContainerID = "nope"
	shell := spec(echo(t))
	shell.Shell, shell.Args = "/bin/bash", []string{"true && false"}
	late := spec(slow)
	late.Timeout = short
	runKinds(t, map[string]kindCase{
		"passing":   {spec(says(0, frame(1, "out "), frame(2, "err"))), health.Passing, "out err"},
		"warning":   {spec(says(1)), health.Warning, ""},
		"critical":  {spec(says(137, frame(2, "killed"))), health.Critical, "killed"},
		"cut":       {spec(says(0, frame(1, strings.Repeat("x", 1<<20)))), health.Passing, "Captured 64 of 1048576 bytes\n...\n" + strings.Repeat("x", 64)},
		"command":   {spec(echo(t)), health.Passing, "check"},
		"shell":     {shell, health.Passing, "/bin/bash|-c|true && false"},
		"unknown":   {other, health.Critical, "Docker: 404 Not Found: No such container: nope"},
		"timeout":   {late, health.Critical, "Timed out (100ms) running check"},
		"no format": {spec(says(0, []byte("plain text that is no frame"))), health.Critical, "Docker: the output is not in the daemon's format"},
		"lies":      {spec(says(0, frame(1, "abc")[:9])), health.Critical, "~Docker: the output broke off"},
		"no daemon": {spec(&health.Host{Docker: "unix:///nonexistent/socket"}), health.Critical, "~Docker: dial unix /nonexistent/socket"},
		"bad host":  {spec(&health.Host{Docker: "ssh://x"}), health.Critical, "~must be unix:///path or tcp://host:port"},
		"babbler":   {spec(&health.Host{Docker: "tcp://" + babbler(t)}), health.Critical, "~Docker: "},
	})
}

func TestOSServiceCheck(t *testing.T) {
	t.Parallel()
	program := filepath.Join(t.TempDir(), "systemctl")
	script := "#!/bin/sh\n[ \"$1 $2\" = 'is-active --' ] || exit 9\ncase $3 in slow*) sleep 600;; *) echo ${3%.service}; esac\n[ $3 = active.service ] || exit 3\n"
	if err := os.WriteFile(program, []byte(script), 0o755); err != nil {
		t.Fatal(err)
	}
	host := &health.Host{Systemctl: program}
	unit := func(name string) health.Spec { return health.Spec{OSService: name, Host: host} }
	late := unit("slow.service")
	late.Timeout = short
	runKinds(t, map[string]kindCase{
		"active":       {unit("active.service"), health.Passing, "Unit active.service: active"},
		"reloading":    {unit("reloading.service"), health.Passing, "Unit reloading.service: reloading"},
		"activating":   {unit("activating.service"), health.Warning, "Unit activating.service: activating"},
		"deactivating": {unit("deactivating.service"), health.Warning, "Unit deactivating.service: deactivating"},
		"failed":       {unit("failed.service"), health.Critical, "Unit failed.service: failed"},
		"inactive":     {unit("inactive.service"), health.Critical, "Unit inactive.service: inactive"},
		"timeout":      {late, health.Critical, "Timed out (100ms) running check"},
		"no program": {health.Spec{OSService: "a.service", Host: &health.Host{Systemctl: "/nonexistent/systemctl"}},
			health.Critical, "~no such file"},
	})
	for _, bad := range []string{"--help", "-H", "a b", "x*", "a/b", "a;b"} {
		s := unit(bad)
		s.Interval = time.Second
		if err := s.Validate(); err == nil {
			t.Errorf("unit name %q was accepted", bad)
		}
	}
	if _, err := os.Stat("/run/systemd/system"); err != nil {
		if err := (health.Spec{OSService: "x.service", Interval: time.Second}).Validate(); err != health.ErrNoSystemd {
			t.Errorf("without systemd: %v", err)
		}
	}
}

// fixed is an Aliased that reports what it is told to.
type fixed chan [2]string

func (f fixed) Follow(ctx context.Context, report func(health.Status, string)) {
	for {
		select {
		case v := <-f:
			report(v[0], v[1])
		case <-ctx.Done():
			return
		}
	}
}

func TestAliasCheckReportsChangesOnly(t *testing.T) {
	src := make(fixed)
	rec := &recorder{}
	r := start(t, health.Spec{ID: "a", AliasService: "web", Aliased: src, OutputMaxSize: 8}, health.State{Status: health.Passing, Output: "same"}, rec)
	for _, v := range [][2]string{{health.Passing, "same"}, {health.Warning, "w"}, {health.Warning, "w"}, {health.Warning, "x"}, {health.Critical, "0123456789"}, {health.Critical, "0123456789"}} {
		src <- v
	}
	r.Stop()
	var got []string
	for _, rep := range rec.all() {
		got = append(got, rep.status+" "+rep.output)
	}
	if want := "warning w, warning x, critical 01234567 ... (captured 8 of 10 bytes)"; strings.Join(got, ", ") != want {
		t.Errorf("reports %q, want %q", got, want)
	}
	if s := r.State(); s.Status != health.Critical {
		t.Errorf("state %+v", s)
	}
	if _, err := health.Start(health.Spec{ID: "a", AliasService: "web"}, health.State{}, rec); err == nil {
		t.Error("an alias without anything to follow was started")
	}
}

func TestJudgeAlias(t *testing.T) {
	c := func(name, status string) health.AliasedCheck {
		return health.AliasedCheck{Name: name, Status: status, Output: "out"}
	}
	for name, k := range map[string]struct {
		found  bool
		checks []health.AliasedCheck
		status health.Status
		output string
	}{
		"unknown":  {false, nil, health.Critical, "Service web could not be found on node n1"},
		"none":     {true, nil, health.Passing, "All checks passing."},
		"passing":  {true, []health.AliasedCheck{c("a", "passing"), c("b", "passing")}, health.Passing, "All checks passing."},
		"warning":  {true, []health.AliasedCheck{c("a", "passing"), c("b", "warning"), c("c", "warning")}, health.Warning, `Aliased check "b" failing: out`},
		"critical": {true, []health.AliasedCheck{c("b", "warning"), c("c", "critical"), c("d", "critical")}, health.Critical, `Aliased check "c" failing: out`},
		"foreign":  {true, []health.AliasedCheck{c("b", "green")}, health.Warning, `Aliased check "b" failing: out`},
	} {
		if status, output := health.JudgeAlias("web", "n1", k.found, k.checks); status != k.status || output != k.output {
			t.Errorf("%s: got %q %q, want %q %q", name, status, output, k.status, k.output)
		}
	}
}

// TestSharedTransportsKeepChecksApart: checks that share a transport must not share their TLS settings.
func TestSharedTransportsKeepChecksApart(t *testing.T) {
	t.Parallel()
	srv := httptest.NewTLSServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}))
	defer srv.Close()
	srv.TLS.MinVersion = tls.VersionTLS12
	host := new(health.Host)
	for range 2 {
		if got := firstReport(t, health.Spec{HTTP: srv.URL, TLSSkipVerify: true, Host: host}); got.status != health.Passing {
			t.Errorf("without verification: %+v", got)
		}
		if got := firstReport(t, health.Spec{HTTP: srv.URL, Host: host}); got.status != health.Critical {
			t.Errorf("with verification: %+v", got)
		}
	}
}

// TestAgentTLS: with the agent's own authorities and certificate, a service that demands both passes, and others do not.
func TestAgentTLS(t *testing.T) {
	t.Parallel()
	srv := httptest.NewUnstartedServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}))
	srv.TLS = &tls.Config{ClientAuth: tls.RequireAnyClientCert}
	srv.EnableHTTP2 = true
	srv.StartTLS()
	t.Cleanup(srv.Close)
	roots := x509.NewCertPool()
	roots.AddCert(srv.Certificate())
	base := &tls.Config{RootCAs: roots, Certificates: srv.TLS.Certificates}
	mine := &health.Host{TLS: func() *tls.Config { return base }}
	addr := srv.Listener.Addr().String()
	runKinds(t, map[string]kindCase{
		"http":       {health.Spec{HTTP: srv.URL, Host: mine}, health.Passing, "~200 OK"},
		"http name":  {health.Spec{HTTP: srv.URL, Host: mine, TLSServerName: "wrong.example"}, health.Critical, "~certificate"},
		"http none":  {health.Spec{HTTP: srv.URL}, health.Critical, "~certificate"},
		"http bare":  {health.Spec{HTTP: srv.URL, TLSSkipVerify: true}, health.Critical, "~certificate required"},
		"tcp":        {health.Spec{TCP: addr, TCPUseTLS: true, Host: mine}, health.Passing, "~Success"},
		"h2ping":     {health.Spec{H2PING: addr, H2PingUseTLS: true, Host: mine}, health.Passing, "~successful"},
		"grpc: http": {health.Spec{GRPC: addr, GRPCUseTLS: true, Host: mine}, health.Critical, "~not a gRPC server: status 200"},
	})
}
