package api

import (
	"errors"
	"net"
	"os"
	"sync"
	"time"
)

// lazyListener hands out connections whose read deadline is cheap to move.
type lazyListener struct{ net.Listener }

func (l lazyListener) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	return &lazyConn{Conn: c}, nil
}

// lazyConn defers read deadlines. For each request net/http moves the deadline of a connection four times, nearly
// always to a later time, and each move changes a timer of the runtime: together a twentieth of what a small
// request costs. A lazyConn lets an earlier timer stand. When it fires too early, the read starts again with
// the deadline that is wanted by then, so that a busy connection pays once in a while instead of always.
type lazyConn struct {
	net.Conn
	mu   sync.Mutex
	want time.Time // the deadline as its user knows it; zero = none
	set  time.Time // the one of Conn; zero = none. Never later than want if there is one
}

// aborting is before every deadline that may stand: net/http ends a pending read with one that is long past.
func aborting(t time.Time) bool { return !t.IsZero() && t.Unix() < 1_000_000 }

// SetReadDeadline implements net.Conn.
func (c *lazyConn) SetReadDeadline(t time.Time) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.want = t
	if c.set.Equal(t) || !c.set.IsZero() && !aborting(c.set) && (t.IsZero() || c.set.Before(t)) {
		return nil
	}
	c.set = t
	return c.Conn.SetReadDeadline(t)
}

// SetDeadline implements net.Conn.
func (c *lazyConn) SetDeadline(t time.Time) error {
	if err := c.SetReadDeadline(t); err != nil {
		return err
	}
	return c.SetWriteDeadline(t)
}

// Read implements net.Conn.
func (c *lazyConn) Read(b []byte) (int, error) {
	for {
		n, err := c.Conn.Read(b)
		if n > 0 || err == nil || !errors.Is(err, os.ErrDeadlineExceeded) || c.expired() {
			return n, err
		}
	}
}

// expired says whether the deadline that is wanted is over; if not, it becomes the connection's.
func (c *lazyConn) expired() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.want.IsZero() && !time.Now().Before(c.want) {
		return true
	}
	c.set = c.want
	return c.Conn.SetReadDeadline(c.want) != nil
}
