package testcluster

import (
	"context"
	"errors"
	"net"
	"strings"
	"sync"
	"testing"
)

// errCut is why a connection across a cut fails.
var errCut = errors.New("testcluster: the network is cut here")

// network knows every connection to a server port, and can break those between two addresses.
type network struct {
	mu    sync.Mutex
	cuts  map[*cut]struct{}
	conns map[*conn]struct{}
}

// cut says whether nothing passes between two addresses.
type cut struct{ between func(a, b string) bool }

func newNetwork() *network {
	return &network{cuts: map[*cut]struct{}{}, conns: map[*conn]struct{}{}}
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

// broken is asked with mu held.
func (n *network) broken(from, to string) bool {
	for c := range n.cuts {
		if c.between(from, to) {
			return true
		}
	}
	return false
}

// cut breaks the connections for which between is true, and forbids new ones, until mend is called.
func (n *network) cut(between func(a, b string) bool) (mend func()) {
	c := &cut{between}
	n.mu.Lock()
	defer n.mu.Unlock()
	n.cuts[c] = struct{}{}
	for c := range n.conns {
		if n.broken(c.from, c.to) {
			_ = c.Conn.Close()
			delete(n.conns, c)
		}
	}
	return func() {
		n.mu.Lock()
		defer n.mu.Unlock()
		delete(n.cuts, c)
	}
}

// dialer dials from one address.
func (n *network) dialer(from string) func(ctx context.Context, network, addr string) (net.Conn, error) {
	return func(ctx context.Context, kind, addr string) (net.Conn, error) {
		to, _, err := net.SplitHostPort(addr)
		if err != nil {
			return nil, err
		}
		var d net.Dialer
		raw, err := d.DialContext(ctx, kind, addr)
		if err != nil {
			return nil, err
		}
		n.mu.Lock()
		defer n.mu.Unlock()
		if n.broken(from, to) {
			_ = raw.Close()
			return nil, errCut
		}
		c := &conn{Conn: raw, network: n, from: from, to: to}
		n.conns[c] = struct{}{}
		return c, nil
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
