package peer

import (
	"net"
	"sync"
)

// Drop breaks the connections to addr that carry long polls and streams, and those of HTTP/1.1, which has no probes of
// its own (see DialerConfig.Few). It is for who knows by other means that the server is gone, when its machine vanished
// or its process hangs: what only waits loses nothing when it asks elsewhere, and a write to such a server would wait
// for nobody knows how long to learn that its outcome is unknown.
func (d *Dialer) Drop(addr string) { d.waiting.drop(addr) }

// held notes open connections by the address they were dialed at.
type held struct {
	mu    sync.Mutex
	conns map[string]map[*heldConn]struct{}
}

type heldConn struct {
	net.Conn
	held *held
	addr string
}

func (h *held) add(addr string, c net.Conn) net.Conn {
	hc := &heldConn{c, h, addr}
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.conns == nil {
		h.conns = map[string]map[*heldConn]struct{}{}
	}
	if h.conns[addr] == nil {
		h.conns[addr] = map[*heldConn]struct{}{}
	}
	h.conns[addr][hc] = struct{}{}
	return hc
}

func (h *held) drop(addr string) {
	h.mu.Lock()
	list := make([]*heldConn, 0, len(h.conns[addr]))
	for c := range h.conns[addr] {
		list = append(list, c)
	}
	h.mu.Unlock()
	for _, c := range list {
		_ = c.Close() // it is broken already, as far as anybody knows
	}
}

// Close implements net.Conn.
func (c *heldConn) Close() error {
	c.held.mu.Lock()
	if delete(c.held.conns[c.addr], c); len(c.held.conns[c.addr]) == 0 {
		delete(c.held.conns, c.addr)
	}
	c.held.mu.Unlock()
	return c.Conn.Close()
}
