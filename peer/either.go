package peer

import (
	"crypto/tls"
	"net"
	"sync"
	"time"
)

// either is a listener that takes connections with and without TLS. The first byte tells: a TLS connection begins with a
// record of the type handshake (22, RFC 8446 section 5.1), which no HTTP request begins with.
type either struct {
	net.Listener
	config  *tls.Config
	timeout time.Duration // for that byte
	conns   chan net.Conn
	closed  chan struct{}
	once    sync.Once
	err     error // why there are no more, valid after closed
}

const recordHandshake = 22

func newEither(l net.Listener, config *tls.Config, timeout time.Duration) *either {
	e := &either{Listener: l, config: config, timeout: timeout, conns: make(chan net.Conn), closed: make(chan struct{})}
	go e.accept()
	return e
}

// accept looks at each connection beside the others: one that stays silent holds up nobody.
func (e *either) accept() {
	for {
		c, err := e.Listener.Accept()
		if err != nil {
			e.end(err)
			return
		}
		go e.look(c)
	}
}

func (e *either) look(c net.Conn) {
	first := make([]byte, 1)
	_ = c.SetReadDeadline(time.Now().Add(e.timeout))
	n, err := c.Read(first)
	if err != nil || n == 0 {
		_ = c.Close()
		return
	}
	_ = c.SetReadDeadline(time.Time{})
	var out net.Conn = &begunConn{Conn: c, first: first}
	if first[0] == recordHandshake {
		out = tls.Server(out, e.config)
	}
	select {
	case e.conns <- out:
	case <-e.closed:
		_ = c.Close()
	}
}

func (e *either) end(err error) {
	e.once.Do(func() { e.err = err; close(e.closed) })
}

// Accept implements net.Listener.
func (e *either) Accept() (net.Conn, error) {
	select {
	case c := <-e.conns:
		return c, nil
	case <-e.closed:
		return nil, e.err
	}
}

// Close implements net.Listener.
func (e *either) Close() error {
	err := e.Listener.Close()
	e.end(net.ErrClosed)
	return err
}

// begunConn is a connection of which the first byte has been read.
type begunConn struct {
	net.Conn
	first []byte
}

func (c *begunConn) Read(b []byte) (int, error) {
	if len(c.first) == 0 {
		return c.Conn.Read(b)
	}
	n := copy(b, c.first)
	c.first = c.first[n:]
	return n, nil
}
