package upstream

import (
	"errors"
	"io"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"time"
)

// keepAlive finds peers that vanished without a word.
const keepAlive = 15 * time.Second

// piece is how many bytes are carried before they are counted. The kernel carries them from socket to socket (splice)
// where it can, so this is also how often the process is woken on a busy connection.
const piece = 1 << 20

// breath is the longest that a quiet connection goes without its bytes being counted.
const breath = 15 * time.Second

// link is a client and the instance it was given.
type link struct {
	p      *port
	client net.Conn
	moved  atomic.Int64 // unix nanoseconds of the last count of bytes, in either direction

	mu     sync.Mutex
	server net.Conn
	closed bool
}

// close cuts both sides.
func (l *link) close() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.closed = true
	_ = l.client.Close()
	if l.server != nil {
		_ = l.server.Close()
	}
}

// relay carries bytes both ways until both sides have ended. The end of one direction is passed on and leaves the other
// one open.
func (l *link) relay(server net.Conn) {
	l.mu.Lock()
	if l.server = server; l.closed {
		_ = server.Close()
	}
	l.mu.Unlock()
	defer l.close()
	if tcp, ok := l.client.(*net.TCPConn); ok {
		_ = tcp.SetKeepAlivePeriod(keepAlive)
	}
	l.moved.Store(time.Now().UnixNano())
	var out sync.WaitGroup
	out.Go(func() { l.carry(server, l.client, &l.p.n.out) })
	l.carry(l.client, server, &l.p.n.in)
	out.Wait()
}

// halfCloser is a connection of which one direction can be ended.
type halfCloser interface{ CloseWrite() error }

// carry copies from src to dst until src ends. An error cuts both, for nothing sensible can follow, and so does silence
// in both directions when it lasts for IdleTimeout.
func (l *link) carry(dst, src net.Conn, count *atomic.Uint64) {
	for {
		pause, idle := breath, l.p.cfg.Load().IdleTimeout
		if idle > 0 {
			pause = min(pause, idle/4+time.Millisecond)
		}
		_ = src.SetReadDeadline(time.Now().Add(pause)) // of a closed connection: the copy says so
		n, err := io.CopyN(dst, src, piece)
		now := time.Now()
		if n > 0 {
			count.Add(uint64(n))
			l.moved.Store(now.UnixNano())
		}
		if quiet := errors.Is(err, os.ErrDeadlineExceeded); err == nil || quiet && (idle <= 0 || now.Sub(time.Unix(0, l.moved.Load())) < idle) {
			continue
		}
		if h, ok := dst.(halfCloser); !ok || err != io.EOF || h.CloseWrite() != nil { //nolint:errorlint // CopyN gives it bare
			l.close()
		}
		return
	}
}

// reset closes a connection so that the client sees a failure and not an empty answer.
func reset(c net.Conn) {
	if tcp, ok := c.(*net.TCPConn); ok {
		_ = tcp.SetLinger(0)
	}
	_ = c.Close()
}
