// Package connlimit bounds the connections of a listener, in all and of one address, so that no client takes the places
// of the others.
//
//	ln = connlimit.New(ln, connlimit.Limits{Total: 16384, PerClient: 1024}, func(c net.Conn) { _ = c.Close() })
//
// Refusing at once is better than not accepting: a client that is refused asks another server, a client in the
// backlog waits for its timeout.
package connlimit

import (
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
)

// Limits of open connections; 0 is no limit. Connections without an IP address (unix sockets) count in Total alone.
type Limits struct{ Total, PerClient int }

// Listener is a net.Listener with limits. All methods are safe for concurrent use.
type Listener struct {
	net.Listener
	limits  Limits
	refuse  func(net.Conn)
	refused atomic.Uint64

	mu   sync.Mutex
	open int
	by   map[netip.Addr]int
}

// New wraps ln. A connection above the limits goes to refuse, which closes it, and may say why before if it does not make
// Accept wait.
func New(ln net.Listener, limits Limits, refuse func(net.Conn)) *Listener {
	return &Listener{Listener: ln, limits: limits, refuse: refuse, by: map[netip.Addr]int{}}
}

// Accept implements net.Listener.
func (l *Listener) Accept() (net.Conn, error) {
	for {
		c, err := l.Listener.Accept()
		if err != nil {
			return nil, err
		}
		var from netip.Addr
		if a, err := netip.ParseAddrPort(c.RemoteAddr().String()); err == nil {
			from = a.Addr().Unmap()
		}
		if l.enter(from) {
			return &conn{Conn: c, leave: func() { l.leave(from) }}, nil
		}
		l.refused.Add(1)
		l.refuse(c)
	}
}

// Open is how many connections are open.
func (l *Listener) Open() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.open
}

// Refused is how many connections were refused so far.
func (l *Listener) Refused() uint64 { return l.refused.Load() }

func (l *Listener) enter(from netip.Addr) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.limits.Total > 0 && l.open >= l.limits.Total || from.IsValid() && l.limits.PerClient > 0 && l.by[from] >= l.limits.PerClient {
		return false
	}
	l.open++
	l.by[from]++
	return true
}

func (l *Listener) leave(from netip.Addr) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.open--
	if l.by[from]--; l.by[from] == 0 {
		delete(l.by, from)
	}
}

// conn gives its place back when it is closed, once.
type conn struct {
	net.Conn
	once  sync.Once
	leave func()
}

// Close implements net.Conn.
func (c *conn) Close() error {
	c.once.Do(c.leave)
	return c.Conn.Close()
}
