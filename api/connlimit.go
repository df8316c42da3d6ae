package api

import (
	"io"
	"net"
	"net/netip"
	"strconv"
	"sync"
	"sync/atomic"
	"time"
)

// tooManyConns is the answer to a connection above the limit, written without reading a request.
const tooManyConns = "Your IP is issuing too many concurrent connections, please rate limit your calls\n"

// ConnLimit bounds the number of connections from one client address. What is above it is answered with 429
// and closed. Connections that have no IP address (unix sockets) are not limited.
type ConnLimit struct {
	Max int // connections per address

	mu      sync.Mutex
	open    map[netip.Addr]int
	refused atomic.Uint64
}

// Listener wraps ln.
func (l *ConnLimit) Listener(ln net.Listener) net.Listener { return &limitedListener{ln, l} }

// Refused counts the connections that were refused.
func (l *ConnLimit) Refused() uint64 { return l.refused.Load() }

func (l *ConnLimit) enter(a netip.Addr) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.open == nil {
		l.open = make(map[netip.Addr]int)
	}
	if l.open[a] >= l.Max {
		return false
	}
	l.open[a]++
	return true
}

func (l *ConnLimit) leave(a netip.Addr) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.open[a]--; l.open[a] <= 0 {
		delete(l.open, a)
	}
}

type limitedListener struct {
	net.Listener
	limit *ConnLimit
}

func (l *limitedListener) Accept() (net.Conn, error) {
	for {
		c, err := l.Listener.Accept()
		if err != nil {
			return nil, err
		}
		from, err := netip.ParseAddrPort(c.RemoteAddr().String())
		if err != nil {
			return c, nil
		}
		a := from.Addr().Unmap()
		if l.limit.enter(a) {
			return &limitedConn{Conn: c, leave: func() { l.limit.leave(a) }}, nil
		}
		l.limit.refused.Add(1)
		go refuseConn(c)
	}
}

// refuseConn answers 429. It reads for a moment before it closes, because closing with unread data would reset
// the connection and lose the answer.
func refuseConn(c net.Conn) {
	defer func() { _ = c.Close() }()
	_ = c.SetDeadline(time.Now().Add(500 * time.Millisecond))
	_, err := io.WriteString(c, "HTTP/1.1 429 Too Many Requests\r\nContent-Type: text/plain; charset=utf-8\r\nConnection: close\r\nContent-Length: "+
		strconv.Itoa(len(tooManyConns))+"\r\n\r\n"+tooManyConns)
	if err != nil {
		return
	}
	if l, ok := c.(*lazyConn); ok {
		c = l.Conn
	}
	if t, ok := c.(interface{ CloseWrite() error }); ok {
		_ = t.CloseWrite()
	}
	_, _ = io.CopyN(io.Discard, c, 64<<10)
}

type limitedConn struct {
	net.Conn
	once  sync.Once
	leave func()
}

func (c *limitedConn) Close() error {
	c.once.Do(c.leave)
	return c.Conn.Close()
}
