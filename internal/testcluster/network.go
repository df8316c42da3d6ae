package testcluster

import (
	"context"
	"errors"
	"net"
	"strings"
	"sync"
	"testing"
)

// errCut is why a connection across a partition fails.
var errCut = errors.New("testcluster: the network is cut here")

// pair is a way from one address to another; cuts hold for both directions.
type pair struct{ a, b string }

func way(a, b string) pair {
	if a > b {
		a, b = b, a
	}
	return pair{a, b}
}

// network knows every connection to a server port and can break those between two addresses.
type network struct {
	mu    sync.Mutex
	cuts  map[pair]bool
	gone  map[string]bool // addresses whose process is dying
	conns map[*conn]struct{}
}

func newNetwork() *network {
	return &network{cuts: map[pair]bool{}, gone: map[string]bool{}, conns: map[*conn]struct{}{}}
}

// conn is a connection that its network can break.
type conn struct {
	net.Conn
	network  *network
	from, to string
}

func (c *conn) Close() error {
	c.network.mu.Lock()
	delete(c.network.conns, c)
	c.network.mu.Unlock()
	return c.Conn.Close()
}

// broken says, with mu held, whether nothing passes between two addresses.
func (n *network) broken(from, to string) bool {
	return n.cuts[way(from, to)] || n.gone[from] || n.gone[to]
}

// dialer dials from one address.
func (n *network) dialer(from string) func(ctx context.Context, network, addr string) (net.Conn, error) {
	return func(ctx context.Context, kind, addr string) (net.Conn, error) {
		to, _, err := net.SplitHostPort(addr)
		if err != nil {
			return nil, err
		}
		n.mu.Lock()
		broken := n.broken(from, to)
		n.mu.Unlock()
		if broken {
			return nil, errCut
		}
		var d net.Dialer
		raw, err := d.DialContext(ctx, kind, addr)
		if err != nil {
			return nil, err
		}
		c := &conn{Conn: raw, network: n, from: from, to: to}
		n.mu.Lock()
		defer n.mu.Unlock()
		if n.broken(from, to) { // cut while we dialed
			_ = raw.Close()
			return nil, errCut
		}
		n.conns[c] = struct{}{}
		return c, nil
	}
}

func (n *network) cut(a, b string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.cuts[way(a, b)] = true
	n.sever()
}

// isolate breaks everything from and to an address until mend is called.
func (n *network) isolate(ip string) (mend func()) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.gone[ip] = true
	n.sever()
	return func() {
		n.mu.Lock()
		defer n.mu.Unlock()
		delete(n.gone, ip)
	}
}

func (n *network) heal() {
	n.mu.Lock()
	defer n.mu.Unlock()
	clear(n.cuts)
}

// sever breaks, with mu held, the connections that may not be.
func (n *network) sever() {
	for c := range n.conns {
		if n.broken(c.from, c.to) {
			_ = c.Conn.Close()
			delete(n.conns, c)
		}
	}
}

// logSink gives the log of an agent to the test, so that only failing tests speak. After end it is silent: a
// goroutine that logs after the end of its test would be a panic.
type logSink struct {
	t    testing.TB
	mu   sync.Mutex
	over bool
}

func (l *logSink) end() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.over = true
}

func (l *logSink) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if !l.over {
		l.t.Log(strings.TrimRight(string(p), "\n"))
	}
	return len(p), nil
}
