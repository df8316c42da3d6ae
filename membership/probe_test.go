package membership_test

import (
	"context"
	"errors"
	"io"
	"net"
	"testing"
	"time"

	"github.com/musterhq/muster/membership"
)

func TestProbe(t *testing.T) {
	t.Parallel()
	a := open(t, config("a", "127.1.0.2"))
	addr := a.Local().GossipAddr()
	if v := membership.Probe(t.Context(), addr); v != membership.Alive || membership.Refused(t.Context(), addr) {
		t.Errorf("a running agent is %v", v)
	}
	_ = a.Shutdown()
	if v := membership.Probe(t.Context(), addr); v != membership.Dead || !membership.Refused(t.Context(), addr) {
		t.Errorf("a dead agent is %v", v)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if v := membership.Probe(ctx, addr); v != membership.Silent {
		t.Errorf("without an attempt the verdict is %v", v)
	}
}

func TestPing(t *testing.T) {
	t.Parallel()
	a, b := open(t, config("a", "127.1.0.121")), open(t, config("b", "127.1.0.122"))
	if _, err := a.Join(t.Context(), []string{b.Local().GossipAddr()}); err != nil {
		t.Fatal(err)
	}
	to := b.Local()
	if trip, err := a.Ping(to); err != nil || trip <= 0 {
		t.Errorf("a running agent: %v, %v", trip, err)
	}
	if a.Encrypted() {
		t.Error("a pool without a key is encrypted")
	}
	_ = b.Shutdown()
	if _, err := a.Ping(to); err == nil {
		t.Error("a dead agent answers")
	}
	to.Addr = "nowhere"
	if _, err := a.Ping(to); err == nil {
		t.Error("no address, and an answer")
	}
}

// watch runs Watch and gives what it will return.
func watch(ctx context.Context, addr string, grace time.Duration) <-chan membership.Verdict {
	out := make(chan membership.Verdict, 1)
	go func() {
		v, _ := membership.Watch(ctx, addr, grace)
		out <- v
	}()
	return out
}

func verdict(t *testing.T, c <-chan membership.Verdict) membership.Verdict {
	t.Helper()
	select {
	case v := <-c:
		return v
	case <-time.After(patience):
		t.Fatal("Watch did not return")
		return 0
	}
}

// relay stands between Watch and an agent and tells when the agent has taken a connection.
type relay struct {
	net.Listener
	held chan struct{}
}

func startRelay(t *testing.T, ip, to string) *relay {
	t.Helper()
	l, err := net.Listen("tcp", ip+":0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	r := &relay{l, make(chan struct{}, 16)}
	go func() {
		for {
			client, err := l.Accept()
			if err != nil {
				return
			}
			go r.serve(client, to)
		}
	}()
	return r
}

func (r *relay) serve(client net.Conn, to string) {
	defer client.Close()
	agent, err := net.Dial("tcp", to)
	if err != nil {
		return
	}
	go func() {
		_, _ = io.Copy(agent, client)
		agent.Close()
	}()
	answer := make([]byte, 1)
	if _, err := agent.Read(answer); err != nil {
		return
	}
	_, _ = client.Write(answer)
	r.held <- struct{}{}
	_, _ = io.Copy(client, agent) // until the agent ends
}

func TestWatchSeesADeathAndNotARestart(t *testing.T) {
	t.Parallel()
	conf := config("a", "127.1.1.2")
	a := open(t, conf)
	conf.Port = int(a.Local().Port)
	r := startRelay(t, "127.1.1.3", a.Local().GossipAddr())
	w := watch(t.Context(), r.Addr().String(), patience)
	<-r.held
	_ = a.Shutdown()
	a = open(t, conf)
	<-r.held // by the successor
	select {
	case v := <-w:
		t.Fatalf("a restart gave the verdict %v", v)
	default:
	}

	r = startRelay(t, "127.1.1.4", a.Local().GossipAddr())
	w = watch(t.Context(), r.Addr().String(), 100*time.Millisecond)
	<-r.held
	r.Close() // so that the port refuses, like the dead agent's own
	_ = a.Shutdown()
	if v := verdict(t, w); v != membership.Dead {
		t.Errorf("a death gave the verdict %v", v)
	}
}

func TestHoldersAreLimitedAndDoNotDisturbGossip(t *testing.T) {
	t.Parallel()
	a, b := open(t, config("a", "127.1.4.2")), open(t, config("b", "127.1.4.3"))
	greet := func() (net.Conn, error) {
		c, err := net.Dial("tcp", a.Local().GossipAddr())
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { c.Close() })
		_, _ = c.Write([]byte{'H'})
		_, err = c.Read(make([]byte, 1))
		return c, err
	}
	var first net.Conn
	for i := range 32 {
		c, err := greet()
		if err != nil {
			t.Fatalf("holder %d: %v", i, err)
		}
		if first == nil {
			first = c
		}
	}
	if _, err := greet(); err == nil {
		t.Error("holder 33 was taken")
	}
	first.Close()
	eventually(t, "the place of a gone holder is free", func() bool { _, err := greet(); return err == nil })
	b.join(t, a)
	a.sees(t, "b", membership.StatusAlive)
}

func TestWatchProvesNothingWithoutAConnection(t *testing.T) {
	t.Parallel()
	// Refused from the start: a firewall might have said so.
	if v := verdict(t, watch(t.Context(), "127.1.2.2:1", 10*time.Millisecond)); v != membership.Silent {
		t.Errorf("got %v", v)
	}
	// A server that accepts and never answers the greeting.
	l, err := net.Listen("tcp", "127.1.2.3:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() { _, _ = io.Copy(io.Discard, c); c.Close() }()
		}
	}()
	if v := verdict(t, watch(t.Context(), l.Addr().String(), 10*time.Millisecond)); v != membership.Silent {
		t.Errorf("got %v", v)
	}
}

func TestWatchEndsWithItsContext(t *testing.T) {
	t.Parallel()
	a := open(t, config("a", "127.1.3.2"))
	r := startRelay(t, "127.1.3.3", a.Local().GossipAddr())
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() {
		_, err := membership.Watch(ctx, r.Addr().String(), time.Hour)
		done <- err
	}()
	<-r.held
	cancel()
	select {
	case err := <-done:
		if !errors.Is(err, context.Canceled) {
			t.Errorf("got %v", err)
		}
	case <-time.After(patience):
		t.Fatal("Watch outlived its context")
	}
}
