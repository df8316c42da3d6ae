package api

import (
	"errors"
	"net"
	"os"
	"testing"
	"testing/synctest"
	"time"
)

// countingConn counts the deadlines that reach the connection.
type countingConn struct {
	net.Conn
	sets int
}

func (c *countingConn) SetReadDeadline(t time.Time) error {
	c.sets++
	return c.Conn.SetReadDeadline(t)
}

func TestLazyConnKeepsDeadlines(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		here, there := net.Pipe()
		defer func() { _, _ = here.Close(), there.Close() }()
		inner := &countingConn{Conn: here}
		c := &lazyConn{Conn: inner}
		readUntil := func(want time.Duration) {
			t.Helper()
			start := time.Now()
			n, err := c.Read(make([]byte, 1))
			if n != 0 || !errors.Is(err, os.ErrDeadlineExceeded) || time.Since(start) != want {
				t.Errorf("read ended after %v with %v, want %v", time.Since(start), err, want)
			}
		}
		set := func(d time.Duration) {
			t.Helper()
			if err := c.SetReadDeadline(time.Now().Add(d)); err != nil {
				t.Fatal(err)
			}
		}
		set(10 * time.Second)
		for range 100 { // the life of a busy connection
			time.Sleep(10 * time.Millisecond)
			set(5 * time.Minute)
			_ = c.SetReadDeadline(time.Time{})
			set(10 * time.Second)
		}
		if inner.sets != 1 {
			t.Errorf("%d deadlines were set", inner.sets)
		}
		readUntil(10 * time.Second) // a later one, past the timer that stood
		readUntil(0)                // it stays over
		set(time.Minute)
		set(time.Second) // an earlier one
		readUntil(time.Second)

		// Without a deadline a read goes on past the timer that stood, and can be aborted from outside.
		set(time.Second)
		_ = c.SetReadDeadline(time.Time{})
		time.AfterFunc(time.Hour, func() { _ = c.SetReadDeadline(time.Unix(1, 0)) })
		readUntil(time.Hour)
		_ = c.SetReadDeadline(time.Time{})
		time.AfterFunc(time.Hour, func() { _, _ = there.Write([]byte("x")) })
		if n, err := c.Read(make([]byte, 1)); n != 1 || err != nil {
			t.Errorf("%d, %v", n, err)
		}
	})
}
