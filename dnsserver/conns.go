package dnsserver

import (
	"net"
	"sync"
	"sync/atomic"
	"time"

	"github.com/miekg/dns"
)

const (
	tcpIdle      = 10 * time.Second // between two questions on a connection
	tcpTimeout   = 5 * time.Second  // for one question, and for one answer
	maxPipelined = 64               // questions of one connection looked up at one time; further ones wait unread
)

// limitListener closes connections beyond its limits at once, so that they cost nothing and the client knows.
type limitListener struct {
	net.Listener
	total, each int
	refused     *atomic.Uint64

	mu    sync.Mutex
	open  int
	hosts map[string]int
}

func (l *limitListener) Accept() (net.Conn, error) {
	for {
		c, err := l.Listener.Accept()
		if err != nil {
			return nil, err
		}
		host, _, _ := net.SplitHostPort(c.RemoteAddr().String())
		if l.enter(host) {
			return &limitConn{
				Conn: c, leave: func() { l.leave(host) },
				peer: &peer{Addr: c.RemoteAddr(), places: make(chan struct{}, maxPipelined)},
			}, nil
		}
		l.refused.Add(1)
		_ = c.Close()
	}
}

func (l *limitListener) enter(host string) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.open >= l.total || l.hosts[host] >= l.each {
		return false
	}
	if l.hosts == nil {
		l.hosts = make(map[string]int)
	}
	l.open++
	l.hosts[host]++
	return true
}

func (l *limitListener) leave(host string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.open--
	if l.hosts[host]--; l.hosts[host] <= 0 {
		delete(l.hosts, host)
	}
}

// limitConn gives its place back when it is closed, once. A client that does not take its answers loses its connection.
type limitConn struct {
	net.Conn
	peer  *peer
	once  sync.Once
	leave func()
}

// RemoteAddr is a *peer, by which a handler finds what belongs to the connection, also when TLS stands in between.
func (c *limitConn) RemoteAddr() net.Addr { return c.peer }

// Write bounds the time of one answer. What follows half an answer cannot be understood, so an error ends the connection.
func (c *limitConn) Write(b []byte) (int, error) {
	_ = c.SetWriteDeadline(time.Now().Add(tcpTimeout))
	n, err := c.Conn.Write(b)
	if err != nil {
		_ = c.Close()
	}
	return n, err
}

func (c *limitConn) Close() error {
	c.once.Do(c.leave)
	return c.Conn.Close()
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
