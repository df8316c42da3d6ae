package membership

import (
	"context"
	"errors"
	"fmt"
	"net"
	"syscall"
	"time"
)

// Verdict is what a connection attempt proves about an agent's process.
type Verdict uint8

// Verdicts.
const (
	Silent Verdict = iota // no answer: the process, its machine or the network may be gone
	Alive                 // something listens there
	Dead                  // the machine refused: nothing listens there any more
)

func (v Verdict) String() string {
	switch v {
	case Alive:
		return "alive"
	case Dead:
		return "dead"
	}
	return "silent"
}

const (
	dialTimeout = time.Second           // of each attempt in Watch, and of Probe unless its ctx ends sooner
	redialPause = 50 * time.Millisecond // between attempts after a held connection was lost
	// DefaultGrace is how long Watch gives a process to come back on its port before it calls it dead: enough for a
	// quick restart, and with the detection itself (milliseconds) far below a second.
	DefaultGrace = 300 * time.Millisecond
)

// Probe connects to a gossip address (Member.GossipAddr) once and tells what that proves. It waits for ctx, at most 1 s.
func Probe(ctx context.Context, addr string) Verdict {
	conn, v := dial(ctx, addr)
	if conn != nil {
		conn.Close()
	}
	return v
}

// Refused says whether a connection to a gossip address is refused, the proof of a dead process (if no firewall
// answers in its place; Watch excludes that). It waits for ctx, at most 1 s.
func Refused(ctx context.Context, addr string) bool { return Probe(ctx, addr) == Dead }

// Watch keeps a connection open to the agent at a gossip address and returns when that proves something, so that
// nothing needs to be polled: the kernel closes the connection of a killed process at once.
//
//   - Dead: the connection was open, broke, and grace later the port still refuses. The process is dead.
//   - Silent: the agent could not be reached or did not take the connection, or it broke and nothing answers. That
//     proves nothing; wait for gossip's own verdict, or call Watch again after a pause.
//
// The error is ctx's. A graceful leave ends like a death, so cancel ctx when the member leaves. The leader's job
// runs one Watch per live member; each agent accepts 32.
func Watch(ctx context.Context, addr string, grace time.Duration) (Verdict, error) {
	conn := hold(ctx, addr)
	for conn != nil {
		wait(ctx, conn)
		var last Verdict
		conn, last = regain(ctx, addr, grace)
		if conn == nil {
			return last, ctx.Err()
		}
	}
	return Silent, ctx.Err()
}

// wait returns when a held connection ends or ctx does.
func wait(ctx context.Context, conn net.Conn) {
	defer conn.Close()
	stop := context.AfterFunc(ctx, func() { conn.Close() })
	defer stop()
	_, _ = conn.Read(make([]byte, 1))
}

// regain tries for the length of grace to hold a connection again. Without success it gives Dead if the last
// attempt was refused, else Silent.
func regain(ctx context.Context, addr string, grace time.Duration) (net.Conn, Verdict) {
	deadline := time.Now().Add(grace)
	for {
		conn, v := dial(ctx, addr)
		if v == Alive {
			if conn = greet(ctx, conn); conn != nil {
				return conn, Alive
			}
			v = Silent
		}
		if time.Now().After(deadline) || ctx.Err() != nil {
			return nil, v
		}
		select {
		case <-time.After(redialPause):
		case <-ctx.Done():
			return nil, Silent
		}
	}
}

func hold(ctx context.Context, addr string) net.Conn {
	conn, v := dial(ctx, addr)
	if v != Alive {
		return nil
	}
	return greet(ctx, conn)
}

// greet asks the agent to hold the connection; nil if it does not.
func greet(ctx context.Context, conn net.Conn) net.Conn {
	stop := context.AfterFunc(ctx, func() { conn.Close() })
	defer stop()
	_ = conn.SetDeadline(time.Now().Add(dialTimeout))
	answer := []byte{holdGreeting}
	if _, err := conn.Write(answer); err == nil {
		if _, err = conn.Read(answer); err == nil && answer[0] == holdGreeting {
			_ = conn.SetDeadline(time.Time{})
			return conn
		}
	}
	conn.Close()
	return nil
}

func dial(ctx context.Context, addr string) (net.Conn, Verdict) {
	d := net.Dialer{Timeout: dialTimeout}
	conn, err := d.DialContext(ctx, "tcp", addr)
	switch {
	case err == nil:
		return conn, Alive
	case errors.Is(err, syscall.ECONNREFUSED):
		return nil, Dead
	}
	return nil, Silent
}

// Ping sends one packet to a member by UDP and waits for its answer, at most as long as gossip itself does, and gives the
// round trip time. It tells whether UDP gets through, which gossip hides: it falls back to TCP.
func (p *Pool) Ping(m Member) (time.Duration, error) {
	ip := net.ParseIP(m.Addr)
	if ip == nil {
		return 0, fmt.Errorf("membership: address %q of %s is none", m.Addr, m.Name)
	}
	begin := time.Now()
	trip, err := p.serf.Memberlist().Ping(m.Name, &net.UDPAddr{IP: ip, Port: int(m.Port)})
	if err == nil && trip <= 0 {
		trip = time.Since(begin) // its clock starts after the packet has left, on a busy machine after the answer has come
	}
	return trip, err
}
