package peer_test

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/musterhq/muster/peer"
)

// patience is how long a test waits for what must happen, also on a busy machine.
const patience = time.Minute

// loopback is where servers listen, on a free port. Nobody dials from this address, so that a port that was closed stays closed.
const loopback = "127.0.41.1:0"

func listen(t *testing.T, cfg peer.Config) *peer.Server {
	t.Helper()
	cfg.Bind = loopback
	s, err := peer.Listen(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		_ = s.Close(ctx)
	})
	return s
}

// echo answers with the protocol, the method and the body.
func echo() http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		b, _ := io.ReadAll(r.Body)
		_, _ = fmt.Fprintf(w, "%s %s %s", r.Proto, r.Method, b)
	})
}

func get(t *testing.T, d *peer.Dialer, s *peer.Server, path string) (string, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	return send(ctx, d, "PUT", "http://"+s.Addr().String()+path, "body")
}

func send(ctx context.Context, d *peer.Dialer, method, url, body string) (string, error) {
	req, err := http.NewRequestWithContext(ctx, method, url, strings.NewReader(body))
	if err != nil {
		return "", err
	}
	resp, err := d.Transport().RoundTrip(req)
	if err != nil {
		return "", err
	}
	defer func() { _ = resp.Body.Close() }()
	b, err := io.ReadAll(resp.Body)
	return string(b), err
}

// modes runs f plain and under mutual TLS.
func modes(t *testing.T, f func(t *testing.T, tls *peer.TLS)) {
	t.Run("plain", func(t *testing.T) { f(t, nil) })
	t.Run("tls", func(t *testing.T) { f(t, newAuthority(t).load()) })
}

func TestRelayIsHTTP2(t *testing.T) {
	modes(t, func(t *testing.T, tls *peer.TLS) {
		srv := listen(t, peer.Config{TLS: tls, Handler: echo()})
		d := peer.NewDialer(peer.DialerConfig{TLS: tls})
		for range 3 {
			if got, err := get(t, d, srv, "/v1/kv/a"); err != nil || got != "HTTP/2.0 PUT body" {
				t.Fatalf("got %q, %v", got, err)
			}
		}
		if n := srv.Conns(); n != 1 {
			t.Fatalf("%d connections for one client, want 1", n)
		}
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		if _, err := send(peer.Long(ctx), d, "GET", "http://"+srv.Addr().String()+"/", ""); err != nil {
			t.Fatal(err)
		}
		if n := srv.Conns(); n != 2 {
			t.Fatalf("%d connections after a long poll, want it on one of its own", n)
		}
	})
}

func TestRelayStreamsAsItFlushes(t *testing.T) {
	modes(t, func(t *testing.T, tls *peer.TLS) {
		next := make(chan string)
		srv := listen(t, peer.Config{TLS: tls, Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			for s := range next {
				_, _ = io.WriteString(w, s)
				_ = http.NewResponseController(w).Flush()
			}
		})})
		d := peer.NewDialer(peer.DialerConfig{TLS: tls})
		ctx, cancel := context.WithTimeout(peer.Long(context.Background()), patience)
		defer cancel()
		req, _ := http.NewRequestWithContext(ctx, "GET", "http://"+srv.Addr().String()+"/", nil)
		go func() { next <- "event 0\n" }()
		resp, err := d.Transport().RoundTrip(req)
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = resp.Body.Close() }()
		for i := range 3 {
			buf := make([]byte, len("event 0\n"))
			if _, err := io.ReadFull(resp.Body, buf); err != nil || string(buf) != fmt.Sprintf("event %d\n", i) {
				t.Fatalf("read %q, %v", buf, err)
			}
			if i < 2 {
				next <- fmt.Sprintf("event %d\n", i+1) // only after the one before has arrived
			}
		}
		close(next)
		if rest, err := io.ReadAll(resp.Body); err != nil || len(rest) != 0 {
			t.Fatalf("rest %q, %v", rest, err)
		}
	})
}

func TestManyLongPollsDoNotDelayWrites(t *testing.T) {
	release := make(chan struct{})
	var waiting sync.WaitGroup
	const polls = 1000
	waiting.Add(polls)
	srv := listen(t, peer.Config{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method == "GET" {
			waiting.Done()
			<-release
		}
		_, _ = io.WriteString(w, "done")
	})})
	d := peer.NewDialer(peer.DialerConfig{})
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	errs := make(chan error, polls)
	for range polls {
		go func() {
			_, err := send(peer.Long(ctx), d, "GET", "http://"+srv.Addr().String()+"/", "")
			errs <- err
		}()
	}
	waiting.Wait()
	if got, err := get(t, d, srv, "/"); err != nil || got != "done" {
		t.Fatalf("write beside %d long polls: %q, %v", polls, got, err)
	}
	close(release)
	for range polls {
		if err := <-errs; err != nil {
			t.Fatal(err)
		}
	}
}

func TestRaftStreams(t *testing.T) {
	modes(t, func(t *testing.T, tls *peer.TLS) {
		srv := listen(t, peer.Config{TLS: tls, Handler: echo()})
		d := peer.NewDialer(peer.DialerConfig{TLS: tls})
		layer := srv.RaftLayer(d)
		go func() { // an echo server on raft streams
			for {
				c, err := layer.Accept()
				if err != nil {
					return
				}
				go func() {
					_, _ = io.Copy(c, c)
					_ = c.Close()
				}()
			}
		}()
		var wg sync.WaitGroup
		for range 20 {
			wg.Go(func() {
				c, err := layer.Dial(srv.Addr().String(), patience)
				if err != nil {
					t.Error(err)
					return
				}
				defer func() { _ = c.Close() }()
				sent := make([]byte, 100<<10)
				_, _ = rand.Read(sent)
				go func() { _, _ = c.Write(sent) }()
				got := make([]byte, len(sent))
				_ = c.SetReadDeadline(time.Now().Add(patience))
				if _, err := io.ReadFull(c, got); err != nil || !bytes.Equal(got, sent) {
					t.Errorf("echo differs: %v", err)
				}
			})
		}
		wg.Wait()

		c, err := layer.Dial(srv.Addr().String(), patience)
		if err != nil {
			t.Fatal(err)
		}
		_ = layer.Close()
		_ = c.SetReadDeadline(time.Now().Add(patience))
		if _, err := c.Read(make([]byte, 1)); err == nil {
			t.Fatal("stream lives on after the layer was closed")
		}
		if _, err := layer.Accept(); !errors.Is(err, net.ErrClosed) {
			t.Fatalf("accept after close: %v", err)
		}
		if _, err := layer.Dial(srv.Addr().String(), patience); err == nil || peer.IsRefused(err) {
			t.Fatalf("dial to a closed layer: %v", err)
		}
		if _, err := get(t, d, srv, "/"); err != nil {
			t.Fatalf("the port stopped serving requests: %v", err)
		}
	})
}

// A client that sends its first raft bytes together with the upgrade request loses none of them.
func TestRaftStreamKeepsEarlyBytes(t *testing.T) {
	srv := listen(t, peer.Config{})
	layer := srv.RaftLayer(nil)
	c, err := net.Dial("tcp", srv.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = c.Close() }()
	_, _ = io.WriteString(c, "GET "+peer.RaftPath+" HTTP/1.1\r\nHost: x\r\nConnection: keep-alive, Upgrade\r\nUpgrade: Muster-Raft\r\n\r\nearly")
	in, err := layer.Accept()
	if err != nil {
		t.Fatal(err)
	}
	_, _ = io.WriteString(c, " late")
	got := make([]byte, len("early late"))
	_ = in.SetReadDeadline(time.Now().Add(patience))
	if _, err := io.ReadFull(in, got); err != nil || string(got) != "early late" {
		t.Fatalf("%q, %v", got, err)
	}
}

func TestRaftPathRefusesOrdinaryRequests(t *testing.T) {
	srv := listen(t, peer.Config{Handler: echo()})
	resp, err := http.Get("http://" + srv.Addr().String() + peer.RaftPath)
	if err != nil {
		t.Fatal(err)
	}
	_ = resp.Body.Close()
	if resp.StatusCode != http.StatusUpgradeRequired {
		t.Fatalf("status %d", resp.StatusCode)
	}
	if got, err := get(t, peer.NewDialer(peer.DialerConfig{}), srv, peer.RaftPath); err != nil || strings.Contains(got, "HTTP/2.0 PUT") {
		t.Fatalf("the relay handler saw the raft path: %q %v", got, err)
	}
}

func TestWrongAuthorityIsRefused(t *testing.T) {
	srv := listen(t, peer.Config{TLS: newAuthority(t).load(), Handler: echo()})
	d := peer.NewDialer(peer.DialerConfig{TLS: newAuthority(t).load()})
	if _, err := get(t, d, srv, "/"); !peer.IsRefused(err) {
		t.Fatalf("relay: %v", err)
	}
	if _, err := d.Raft(srv.Addr().String(), patience); !peer.IsRefused(err) {
		t.Fatalf("raft: %v", err)
	}
}

func TestIsRefused(t *testing.T) {
	ln, err := net.Listen("tcp", loopback)
	if err != nil {
		t.Fatal(err)
	}
	addr := ln.Addr().String()
	_ = ln.Close()
	d := peer.NewDialer(peer.DialerConfig{})
	if _, err := send(context.Background(), d, "PUT", "http://"+addr+"/", "x"); !d.IsRefused(err) {
		t.Fatalf("closed port: %v", err)
	}
	if _, err := d.Raft(addr, patience); !peer.IsRefused(err) {
		t.Fatalf("raft to closed port: %v", err)
	}

	// The server dies with the request in hand: something may have run.
	srv := listen(t, peer.Config{Handler: http.HandlerFunc(func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) })})
	if _, err := get(t, d, srv, "/"); err == nil || d.IsRefused(err) {
		t.Fatalf("aborted request: %v", err)
	}
	if d.IsRefused(nil) || d.IsRefused(context.Canceled) {
		t.Fatal("nil or cancellation taken for proof")
	}

	slow := peer.NewDialer(peer.DialerConfig{Timeout: 20 * time.Millisecond, Dial: func(ctx context.Context, _, _ string) (net.Conn, error) {
		<-ctx.Done()
		return nil, ctx.Err()
	}})
	if _, err := send(context.Background(), slow, "PUT", "http://"+addr+"/", "x"); !d.IsRefused(err) {
		t.Fatalf("dial timeout: %v", err)
	}
}

func TestGarbageHurtsNobody(t *testing.T) {
	modes(t, func(t *testing.T, tls *peer.TLS) {
		srv := listen(t, peer.Config{TLS: tls, Handler: echo(), HeaderTimeout: 200 * time.Millisecond, MaxHeaderBytes: 8 << 10})
		for _, junk := range []string{
			"\x00\x01\x02\x03", strings.Repeat("A", 100<<10), "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + strings.Repeat("\xff", 2000),
			"\x16\x03\x01\xff\xff", "GET " + peer.RaftPath + " HTTP/1.1\r\nUpgrade: muster-raft\r\n\r\n", "G",
			"GET / HTTP/1.1\r\nHost: x\r\nX: " + strings.Repeat("y", 64<<10) + "\r\n\r\n",
		} {
			c, err := net.Dial("tcp", srv.Addr().String())
			if err != nil {
				t.Fatal(err)
			}
			_ = c.SetDeadline(time.Now().Add(patience))
			_, _ = io.WriteString(c, junk)
			// The server must end it by itself: a clean answer, a reset, but no hang.
			if _, err := io.Copy(io.Discard, c); errors.Is(err, context.DeadlineExceeded) || isTimeout(err) {
				t.Errorf("%.20q: connection kept open", junk)
			}
			_ = c.Close()
		}
		if _, err := get(t, peer.NewDialer(peer.DialerConfig{TLS: tls}), srv, "/"); err != nil {
			t.Fatalf("after garbage: %v", err)
		}
	})
}

func isTimeout(err error) bool {
	var ne net.Error
	return errors.As(err, &ne) && ne.Timeout()
}

func TestConnectionLimit(t *testing.T) {
	srv := listen(t, peer.Config{Handler: echo(), MaxConns: 2})
	addr := srv.Addr().String()
	a, b := mustDial(t, addr), mustDial(t, addr)
	eventually(t, func() bool { return srv.Conns() == 2 })
	c := mustDial(t, addr)
	_ = c.SetReadDeadline(time.Now().Add(patience))
	if _, err := c.Read(make([]byte, 1)); err == nil || isTimeout(err) {
		t.Fatalf("third connection is not closed: %v", err)
	}
	_ = a.Close()
	_ = b.Close()
	eventually(t, func() bool { return srv.Conns() == 0 })
	if _, err := get(t, peer.NewDialer(peer.DialerConfig{}), srv, "/"); err != nil {
		t.Fatalf("places are not given back: %v", err)
	}
}

// One address cannot take the places of all.
func TestConnectionLimitOfOneAddress(t *testing.T) {
	srv := listen(t, peer.Config{Handler: echo(), MaxConnsPerClient: 2})
	addr := srv.Addr().String()
	a, _ := mustDial(t, addr), mustDial(t, addr)
	eventually(t, func() bool { return srv.Conns() == 2 })
	c := mustDial(t, addr)
	_ = c.SetReadDeadline(time.Now().Add(patience))
	if _, err := c.Read(make([]byte, 1)); err == nil || isTimeout(err) {
		t.Fatalf("third connection is not closed: %v", err)
	}
	other := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.IPv4(127, 0, 0, 2)}}
	d, err := other.Dial("tcp", addr)
	if err != nil {
		t.Skip("no second loopback address: ", err)
	}
	defer d.Close()
	eventually(t, func() bool { return srv.Conns() == 3 })
	_ = a.Close()
	eventually(t, func() bool { return srv.Conns() == 2 })
	mustDial(t, addr)
	eventually(t, func() bool { return srv.Conns() == 3 })
}

func mustDial(t *testing.T, addr string) net.Conn {
	t.Helper()
	c, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	return c
}

func eventually(t *testing.T, f func() bool) {
	t.Helper()
	for deadline := time.Now().Add(patience); !f(); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("condition not met in time")
		}
	}
}

func TestCloseWaitsForRequestsThenCuts(t *testing.T) {
	started, finish := make(chan struct{}, 1), make(chan struct{})
	h := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		started <- struct{}{}
		select {
		case <-finish:
			_, _ = io.WriteString(w, "finished")
		case <-r.Context().Done():
		}
	})
	for _, patient := range []bool{true, false} {
		srv := listen(t, peer.Config{Handler: h})
		d := peer.NewDialer(peer.DialerConfig{})
		type answer struct {
			body string
			err  error
		}
		got := make(chan answer, 1)
		go func() {
			b, err := get(t, d, srv, "/")
			got <- answer{b, err}
		}()
		<-started
		ctx, cancel := context.WithCancel(context.Background())
		closed := make(chan error, 1)
		go func() { closed <- srv.Close(ctx) }()
		if patient {
			eventually(t, func() bool { // the port is closed to newcomers while the request still runs
				c, err := net.Dial("tcp", srv.Addr().String())
				if err == nil {
					_ = c.Close()
				}
				return err != nil
			})
			finish <- struct{}{}
			if a := <-got; a.err != nil || a.body != "finished" {
				t.Fatalf("running request was cut: %v", a)
			}
			if err := <-closed; err != nil {
				t.Fatal(err)
			}
		} else {
			cancel()
			if err := <-closed; !errors.Is(err, context.Canceled) {
				t.Fatalf("close: %v", err)
			}
			if a := <-got; a.err == nil {
				t.Fatal("request outlived the server")
			}
		}
		cancel()
	}
}

func TestListenErrorNamesThePort(t *testing.T) {
	srv := listen(t, peer.Config{})
	if _, err := peer.Listen(peer.Config{Bind: srv.Addr().String()}); err == nil || !strings.Contains(err.Error(), srv.Addr().String()) {
		t.Fatalf("%v", err)
	}
}

func BenchmarkRelay(b *testing.B) {
	srv, err := peer.Listen(peer.Config{Bind: loopback, Handler: echo()})
	if err != nil {
		b.Fatal(err)
	}
	defer func() { _ = srv.Close(context.Background()) }()
	d := peer.NewDialer(peer.DialerConfig{})
	url := "http://" + srv.Addr().String() + "/"
	b.SetParallelism(32)
	b.ReportAllocs()
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			if _, err := send(context.Background(), d, "PUT", url, "body"); err != nil {
				b.Error(err)
				return
			}
		}
	})
}
