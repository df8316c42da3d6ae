package connlimit_test

import (
	"net"
	"path/filepath"
	"testing"
	"time"

	"github.com/musterhq/muster/internal/connlimit"
)

// serve accepts until the end of the test and gives what was accepted.
func serve(t *testing.T, ln *connlimit.Listener) <-chan net.Conn {
	t.Helper()
	accepted := make(chan net.Conn, 16)
	t.Cleanup(func() { _ = ln.Close() })
	go func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				close(accepted)
				return
			}
			accepted <- c
		}
	}()
	return accepted
}

func listen(t *testing.T, network, addr string) net.Listener {
	t.Helper()
	ln, err := net.Listen(network, addr)
	if err != nil {
		t.Fatal(err)
	}
	return ln
}

func dial(t *testing.T, ln net.Listener, from string) net.Conn {
	t.Helper()
	var d net.Dialer
	if from != "" {
		d.LocalAddr = &net.TCPAddr{IP: net.ParseIP(from)}
	}
	c, err := d.Dial(ln.Addr().Network(), ln.Addr().String())
	if err != nil && from != "" {
		t.Skip("no second loopback address: ", err)
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	return c
}

// closed says whether the other side ends the connection.
func closed(c net.Conn) bool {
	_ = c.SetReadDeadline(time.Now().Add(time.Minute))
	_, err := c.Read(make([]byte, 1))
	ne, ok := err.(net.Error)
	return err != nil && !(ok && ne.Timeout())
}

func shut(c net.Conn) { _ = c.Close() }

func TestTotal(t *testing.T) {
	ln := connlimit.New(listen(t, "tcp", "127.0.0.1:0"), connlimit.Limits{Total: 2}, shut)
	accepted := serve(t, ln)
	dial(t, ln, "")
	dial(t, ln, "")
	first := <-accepted
	<-accepted
	if !closed(dial(t, ln, "")) || ln.Open() != 2 || ln.Refused() != 1 {
		t.Errorf("open %d, refused %d", ln.Open(), ln.Refused())
	}
	_ = first.Close()
	_ = first.Close() // gives one place back, not two
	if ln.Open() != 1 {
		t.Errorf("%d open after one was closed", ln.Open())
	}
	dial(t, ln, "")
	<-accepted
	if !closed(dial(t, ln, "")) || ln.Open() != 2 {
		t.Errorf("open %d", ln.Open())
	}
}

func TestPerClient(t *testing.T) {
	ln := connlimit.New(listen(t, "tcp", "127.0.0.1:0"), connlimit.Limits{PerClient: 1}, shut)
	accepted := serve(t, ln)
	dial(t, ln, "")
	one := <-accepted
	if !closed(dial(t, ln, "")) {
		t.Error("one address has two places")
	}
	dial(t, ln, "127.0.0.2")
	<-accepted
	if ln.Open() != 2 {
		t.Errorf("%d open", ln.Open())
	}
	_ = one.Close()
	dial(t, ln, "")
	<-accepted
}

// Unix sockets have no address to tell clients apart by.
func TestUnixSockets(t *testing.T) {
	ln := connlimit.New(listen(t, "unix", filepath.Join(t.TempDir(), "s")), connlimit.Limits{PerClient: 1}, shut)
	accepted := serve(t, ln)
	for range 3 {
		dial(t, ln, "")
		<-accepted
	}
	if ln.Open() != 3 || ln.Refused() != 0 {
		t.Errorf("open %d, refused %d", ln.Open(), ln.Refused())
	}
}
