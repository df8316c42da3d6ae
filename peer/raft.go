package peer

import (
	"bufio"
	"net"
	"net/http"
	"strings"
	"sync"
	"time"
)

// RaftLayer is what raft needs of a network: incoming streams to accept, and a way to dial one. It differs from
// raft's own interface only in the type of the address, so that this package need not know raft. Obtain it from
// Server.RaftLayer; Close closes the streams, not the Server.
type RaftLayer struct {
	srv    *Server
	dialer *Dialer
}

// RaftLayer offers the raft streams that come in at s and dials others with d.
func (s *Server) RaftLayer(d *Dialer) *RaftLayer { return &RaftLayer{srv: s, dialer: d} }

// Accept waits for the next raft stream; after Close it returns net.ErrClosed.
func (l *RaftLayer) Accept() (net.Conn, error) { return l.srv.raft.accept() }

// Close ends Accept and closes every raft stream that came in.
func (l *RaftLayer) Close() error { l.srv.raft.close(); return nil }

// Addr is the bound address of the Server.
func (l *RaftLayer) Addr() net.Addr { return l.srv.Addr() }

// Dial opens a raft stream to another server ("host:port").
func (l *RaftLayer) Dial(addr string, timeout time.Duration) (net.Conn, error) {
	return l.dialer.Raft(addr, timeout)
}

// serveRaft turns an upgrade request into a stream for Accept.
func (s *Server) serveRaft(w http.ResponseWriter, r *http.Request) {
	if r.ProtoMajor != 1 || !headerHas(r.Header, "Connection", "upgrade") || !headerHas(r.Header, "Upgrade", raftProtocol) {
		w.Header().Set("Upgrade", raftProtocol)
		http.Error(w, "this path takes HTTP/1.1 requests with Connection: Upgrade and Upgrade: "+raftProtocol+" only", http.StatusUpgradeRequired)
		return
	}
	if err := s.cfg.TLS.isServer(r.TLS); err != nil {
		count(s.cfg.Metrics, "peer", "raft", "refused")
		s.cfg.Logger.Warn("raft stream refused: not the certificate of a server", "remote", r.RemoteAddr, "error", err)
		http.Error(w, "raft streams are for servers: "+err.Error(), http.StatusForbidden)
		return
	}
	if !s.raft.reserve() {
		count(s.cfg.Metrics, "peer", "raft", "refused")
		http.Error(w, "raft is not accepting streams", http.StatusServiceUnavailable)
		return
	}
	conn, buf, err := http.NewResponseController(w).Hijack()
	if err != nil {
		s.raft.release()
		http.Error(w, "cannot take over the connection", http.StatusInternalServerError)
		return
	}
	_ = conn.SetDeadline(time.Now().Add(s.cfg.HeaderTimeout))
	_, err = conn.Write([]byte("HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: " + raftProtocol + "\r\n\r\n"))
	if err != nil {
		s.raft.release()
		_ = conn.Close()
		return
	}
	_ = conn.SetDeadline(time.Time{})
	count(s.cfg.Metrics, "peer", "raft", "accepted")
	s.raft.deliver(withBuffered(conn, buf.Reader))
}

// headerHas says whether the comma-separated header holds the token, whatever the case of its letters.
func headerHas(h http.Header, name, token string) bool {
	for _, line := range h.Values(name) {
		for part := range strings.SplitSeq(line, ",") {
			if strings.EqualFold(strings.TrimSpace(part), token) {
				return true
			}
		}
	}
	return false
}

// acceptor queues hijacked streams for Accept and keeps hold of those in use, because net/http forgets a
// connection once it is hijacked and somebody must close it at the end.
type acceptor struct {
	mu     sync.Mutex
	free   int // places left in the queue
	queue  chan net.Conn
	closed chan struct{}
	over   bool
	live   map[*streamConn]struct{}
}

func (a *acceptor) init(backlog int) {
	a.free = backlog
	a.queue = make(chan net.Conn, backlog)
	a.closed = make(chan struct{})
	a.live = make(map[*streamConn]struct{})
}

// reserve takes a place in the queue; false when closed or when nobody accepts.
func (a *acceptor) reserve() bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.over || a.free == 0 {
		return false
	}
	a.free--
	return true
}

func (a *acceptor) release() {
	a.mu.Lock()
	a.free++
	a.mu.Unlock()
}

// deliver hands a stream over; the place was reserved, so it never blocks.
func (a *acceptor) deliver(c net.Conn) {
	sc := &streamConn{Conn: c, a: a}
	a.mu.Lock()
	over := a.over
	if !over {
		a.live[sc] = struct{}{}
		a.queue <- sc
	}
	a.mu.Unlock()
	if over {
		_ = c.Close()
	}
}

func (a *acceptor) accept() (net.Conn, error) {
	select {
	case <-a.closed: // first: after close nothing is handed out, even if something is queued
		return nil, net.ErrClosed
	default:
	}
	select {
	case c := <-a.queue:
		a.release()
		return c, nil
	case <-a.closed:
		return nil, net.ErrClosed
	}
}

func (a *acceptor) close() {
	a.mu.Lock()
	if a.over {
		a.mu.Unlock()
		return
	}
	a.over = true
	close(a.closed)
	live := a.live
	a.live = nil
	a.mu.Unlock()
	for c := range live {
		_ = c.Conn.Close()
	}
}

// streamConn leaves the acceptor's book when closed.
type streamConn struct {
	net.Conn
	a *acceptor
}

func (c *streamConn) Close() error {
	c.a.mu.Lock()
	delete(c.a.live, c)
	c.a.mu.Unlock()
	return c.Conn.Close()
}

// bufferedConn reads first what an HTTP reader had already taken off the wire.
type bufferedConn struct {
	net.Conn
	r *bufio.Reader // nil once drained
}

func withBuffered(c net.Conn, r *bufio.Reader) net.Conn {
	if r == nil || r.Buffered() == 0 {
		return c
	}
	return &bufferedConn{Conn: c, r: r}
}

func (c *bufferedConn) Read(p []byte) (int, error) {
	if c.r == nil {
		return c.Conn.Read(p)
	}
	if n := c.r.Buffered(); len(p) > n {
		p = p[:n]
	}
	n, err := c.r.Read(p)
	if c.r.Buffered() == 0 {
		c.r = nil
	}
	return n, err
}
