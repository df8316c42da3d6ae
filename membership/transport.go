package membership

import (
	"errors"
	"fmt"
	"net"
	"strconv"
	"sync"
	"syscall"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/memberlist"
)

// ErrAddressInUse is the reason why Open failed when another process has the gossip address.
var ErrAddressInUse = errors.New("the gossip address is already in use")

const (
	// holdGreeting opens a held connection (see Watch), and is the answer to it. memberlist's streams begin with a
	// message type below 16 or with the label mark 244.
	holdGreeting = 'H'
	// maxHolders limits held connections; the leader and a few that want to be need one each.
	maxHolders = 32
	// firstByteTimeout is how long an accepted stream may stay silent.
	firstByteTimeout = 10 * time.Second
)

// transport is memberlist's own, plus held connections on the same port: a peer that keeps one open learns from its
// end, at once, that this process has died.
type transport struct {
	*memberlist.NetTransport
	streams chan net.Conn
	stop    chan struct{}
	once    sync.Once

	mu     sync.Mutex
	conns  map[net.Conn]bool // being looked at (false) or held (true)
	held   int
	closed bool
}

// bindAttempts for a free port: TCP and UDP must both get the same one.
const bindAttempts = 10

func listen(bind string, port int, log hclog.Logger) (*transport, error) {
	attempts := 1
	if port == 0 {
		attempts = bindAttempts
	}
	conf := &memberlist.NetTransportConfig{
		BindAddrs: []string{bind}, BindPort: port,
		Logger: newLibraryLog(log),
	}
	var inner *memberlist.NetTransport
	var err error
	for range attempts {
		if inner, err = memberlist.NewNetTransport(conf); err == nil {
			break
		}
	}
	if err != nil {
		// The library drops the cause; ask the kernel again.
		if addr := net.JoinHostPort(bind, strconv.Itoa(port)); inUse(addr) {
			return nil, fmt.Errorf("membership: %w: %s (TCP and UDP are needed); is another agent running?", ErrAddressInUse, addr)
		}
		return nil, fmt.Errorf("membership: %w", err)
	}
	t := &transport{NetTransport: inner, streams: make(chan net.Conn), stop: make(chan struct{}), conns: map[net.Conn]bool{}}
	go t.accept()
	return t, nil
}

func inUse(addr string) bool {
	l, errTCP := net.Listen("tcp", addr)
	if errTCP == nil {
		l.Close()
	}
	u, errUDP := net.ListenPacket("udp", addr)
	if errUDP == nil {
		u.Close()
	}
	return errors.Is(errTCP, syscall.EADDRINUSE) || errors.Is(errUDP, syscall.EADDRINUSE)
}

// StreamCh gives memberlist the streams that are its own.
func (t *transport) StreamCh() <-chan net.Conn { return t.streams }

// Shutdown closes the listeners and every held connection. memberlist calls it.
func (t *transport) Shutdown() error {
	err := t.NetTransport.Shutdown() // first, while accept still drains what its listeners hand over
	t.once.Do(func() { close(t.stop) })
	t.mu.Lock()
	defer t.mu.Unlock()
	t.closed = true
	for c := range t.conns {
		c.Close()
	}
	return err
}

func (t *transport) accept() {
	for {
		select {
		case conn := <-t.NetTransport.StreamCh():
			if t.track(conn) {
				go t.route(conn)
			}
		case <-t.stop:
			return
		}
	}
}

// track remembers a connection, so that Shutdown can close it.
func (t *transport) track(c net.Conn) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.closed {
		c.Close()
		return false
	}
	t.conns[c] = false
	return true
}

// route looks at the first byte of a stream.
func (t *transport) route(c net.Conn) {
	var first [1]byte
	_ = c.SetDeadline(time.Now().Add(firstByteTimeout))
	if _, err := c.Read(first[:]); err != nil { // also a mere probe: connect and close
		t.drop(c)
		return
	}
	if first[0] == holdGreeting {
		t.hold(c)
		return
	}
	t.mu.Lock()
	delete(t.conns, c)
	t.mu.Unlock()
	select {
	case t.streams <- &unread{Conn: c, first: first[:]}:
	case <-t.stop:
		c.Close()
	}
}

// hold answers the greeting and keeps the connection open until the peer closes it or says anything.
func (t *transport) hold(c net.Conn) {
	defer t.drop(c)
	t.mu.Lock()
	full := t.held >= maxHolders || t.closed
	if !full {
		t.held++
		t.conns[c] = true
	}
	t.mu.Unlock()
	if full {
		return
	}
	if _, err := c.Write([]byte{holdGreeting}); err != nil {
		return
	}
	_ = c.SetDeadline(time.Time{}) // TCP keepalive finds a peer that has vanished
	_, _ = c.Read(make([]byte, 1))
}

func (t *transport) drop(c net.Conn) {
	c.Close()
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.conns[c] {
		t.held--
	}
	delete(t.conns, c)
}

// unread is a connection whose first byte has been put back.
type unread struct {
	net.Conn
	first []byte
}

func (u *unread) Read(p []byte) (int, error) {
	if len(u.first) > 0 && len(p) > 0 {
		n := copy(p, u.first)
		u.first = u.first[n:]
		return n, nil
	}
	return u.Conn.Read(p)
}
