package dnsserver

import (
	"net"
	"sync"
	"time"

	"github.com/miekg/dns"
)

const (
	tcpIdle      = 10 * time.Second // between two questions on a connection
	tcpTimeout   = 5 * time.Second  // for one question, and for one answer
	maxPipelined = 64               // questions of one connection looked up at one time; further ones wait unread
)

// peerListener makes connections know what is being looked up for them.
type peerListener struct{ net.Listener }

// Accept implements net.Listener.
func (l peerListener) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	return &peerConn{c, &peer{Addr: c.RemoteAddr(), places: make(chan struct{}, maxPipelined)}}, nil
}

// peerConn is a connection of ours. A client that does not take its answers loses it.
type peerConn struct {
	net.Conn
	peer *peer
}

// RemoteAddr is a *peer, by which a handler finds what belongs to the connection, also when TLS stands in between.
func (c *peerConn) RemoteAddr() net.Addr { return c.peer }

// Write bounds the time of one answer. What follows half an answer cannot be understood, so an error ends the connection.
func (c *peerConn) Write(b []byte) (int, error) {
	_ = c.SetWriteDeadline(time.Now().Add(tcpTimeout))
	n, err := c.Conn.Write(b)
	if err != nil {
		_ = c.Close()
	}
	return n, err
}

// peer is the address at the other end of a connection, and what is being looked up for it: questions sent one
// after the other without waiting are answered as their answers come, in any order (RFC 7766 section 6.2.1.1).
type peer struct {
	net.Addr
	places  chan struct{}
	pending sync.WaitGroup
}

// begin takes a place for a question that may take its time; false when there is none left. It is called only by the
// goroutine that reads the connection.
func (p *peer) begin() bool {
	select {
	case p.places <- struct{}{}:
		p.pending.Add(1)
		return true
	default:
		return false
	}
}

func (p *peer) end() {
	<-p.places
	p.pending.Done()
}

// patientReader reports the end of a connection when what was asked on it has been answered: a client may close its
// side after the last question.
type patientReader struct{ dns.Reader }

func (r patientReader) ReadTCP(c net.Conn, timeout time.Duration) ([]byte, error) {
	b, err := r.Reader.ReadTCP(c, timeout)
	if p, ok := c.RemoteAddr().(*peer); ok && err != nil {
		p.pending.Wait()
	}
	return b, err
}
