package api_test

import (
	"bufio"
	"context"
	"io"
	"net"
	"net/http"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/musterhq/muster/api"
	"github.com/musterhq/muster/api/apitest"
	"github.com/musterhq/muster/kv"
)

func start(t *testing.T, c api.ServerConfig) (*api.Server, net.Addr) {
	t.Helper()
	s := api.NewServer(c)
	addr, err := s.Listen()
	if err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- s.Serve() }()
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		defer cancel()
		_ = s.Close(ctx)
		if err := <-ended; err != nil {
			t.Errorf("serve: %v", err)
		}
	})
	return s, addr
}

func TestServerLimitsConnectionsPerClient(t *testing.T) {
	s, addr := start(t, api.ServerConfig{Addr: "127.0.0.1:0", Handler: text("ok"), MaxConnsPerClient: 2})
	ask := func(c net.Conn) string {
		_ = c.SetDeadline(time.Now().Add(time.Minute))
		_, _ = io.WriteString(c, "GET / HTTP/1.1\r\nHost: x\r\n\r\n")
		line, _ := bufio.NewReader(c).ReadString('\n')
		return strings.TrimSpace(line)
	}
	dial := func() net.Conn {
		c, err := net.Dial("tcp", addr.String())
		if err != nil {
			t.Fatal(err)
		}
		return c
	}
	a, b := dial(), dial()
	defer func() { _ = b.Close() }()
	if ask(a) != "HTTP/1.1 200 OK" || ask(b) != "HTTP/1.1 200 OK" {
		t.Fatal("connections within the limit were refused")
	}
	c := dial()
	if got := ask(c); got != "HTTP/1.1 429 Too Many Requests" {
		t.Errorf("third connection: %q", got)
	}
	_ = c.Close()
	if s.RefusedConns() != 1 {
		t.Errorf("%d refusals counted", s.RefusedConns())
	}
	_ = a.Close()
	for deadline := time.Now().Add(time.Minute); ; {
		c := dial()
		got := ask(c)
		_ = c.Close()
		if got == "HTTP/1.1 200 OK" {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("after one was closed: %q", got)
		}
	}
}

func TestServerCloseEndsBlockingQueries(t *testing.T) {
	store := apitest.New()
	defer store.Close()
	index := set(t, store, "k/a", "1")
	waiting := make(chan struct{})
	h := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		close(waiting) // Close may now come before or during the wait
		o := api.BlockingOptions{MinIndex: index, Wait: time.Hour}
		_, err := api.Blocking(r.Context(), store, o, "k/a", func(s *kv.Snap) api.Result { return api.Result{Index: s.IndexOf("k/a")} })
		if err != nil {
			http.Error(w, err.Error(), 500)
		}
	})
	s, addr := start(t, api.ServerConfig{Addr: "127.0.0.1:0", Handler: h})
	status := make(chan int, 1)
	go func() {
		res, err := http.Get("http://" + addr.String() + "/")
		if err != nil {
			status <- 0
			return
		}
		_ = res.Body.Close()
		status <- res.StatusCode
	}()
	<-waiting
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	if err := s.Close(ctx); err != nil {
		t.Errorf("close: %v", err)
	}
	if got := <-status; got != 200 {
		t.Errorf("the waiting client got %d", got)
	}
}

func TestServerOnUnixSocket(t *testing.T) {
	path := filepath.Join(t.TempDir(), "http.sock")
	start(t, api.ServerConfig{Addr: "unix://" + path, Handler: text("ok"), MaxConnsPerClient: 1})
	client := http.Client{Transport: &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "unix", path)
	}}}
	res, err := client.Get("http://x/")
	if err != nil {
		t.Fatal(err)
	}
	_ = res.Body.Close()
	if _, err := api.NewServer(api.ServerConfig{Addr: "unix://" + path, Handler: text("")}).Listen(); err == nil {
		t.Error("took over the socket of a living server")
	}
}

func TestServerCutsSlowHeaders(t *testing.T) {
	_, addr := start(t, api.ServerConfig{Addr: "127.0.0.1:0", Handler: text("ok"), ReadHeaderTimeout: 50 * time.Millisecond, MaxHeaderBytes: 4 << 10})
	c, err := net.Dial("tcp", addr.String())
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = c.Close() }()
	_, _ = io.WriteString(c, "GET / HTTP/1.1\r\nHost")
	_ = c.SetReadDeadline(time.Now().Add(time.Minute))
	if _, err := io.ReadAll(c); err != nil {
		t.Errorf("the connection was not closed: %v", err)
	}
	req, _ := http.NewRequest("GET", "http://"+addr.String(), nil)
	req.Header.Set("X-Big", strings.Repeat("x", 16<<10))
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	_ = res.Body.Close()
	if res.StatusCode != http.StatusRequestHeaderFieldsTooLarge {
		t.Errorf("large headers: %d", res.StatusCode)
	}
}

func TestServerCloseLetsWritesEnd(t *testing.T) {
	running, end := make(chan struct{}), make(chan struct{})
	h := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		running <- struct{}{}
		if r.URL.Path == "/stream" {
			<-r.Context().Done()
			_, _ = io.WriteString(w, "ended")
			return
		}
		select {
		case <-end:
			_, _ = io.WriteString(w, "written")
		case <-r.Context().Done():
		}
	})
	s, addr := start(t, api.ServerConfig{Addr: "127.0.0.1:0", Handler: h})
	got := make(chan string, 1)
	ask := func(path string) {
		res, err := http.Get("http://" + addr.String() + path)
		if err != nil {
			got <- err.Error()
			return
		}
		b, _ := io.ReadAll(res.Body)
		_ = res.Body.Close()
		got <- string(b)
	}
	go ask("/write")
	<-running
	closed := make(chan error, 1)
	go func() { closed <- s.Close(t.Context()) }()
	for { // wait until it has stopped listening
		c, err := net.Dial("tcp", addr.String())
		if err != nil {
			break
		}
		_ = c.Close()
	}
	close(end)
	if body := <-got; body != "written" {
		t.Errorf("the write was answered %q", body)
	}
	if err := <-closed; err != nil {
		t.Error(err)
	}
	s, addr = start(t, api.ServerConfig{Addr: "127.0.0.1:0", Handler: h})
	go ask("/stream")
	<-running
	if err := s.Close(t.Context()); err != nil {
		t.Error(err)
	}
	if body := <-got; body != "ended" {
		t.Errorf("the stream was answered %q", body)
	}
}
