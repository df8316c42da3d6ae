package consensus_test

import (
	"testing"
	"time"

	"github.com/musterhq/muster/kv"
)

func setTTL(key string, ttl time.Duration) kv.Txn {
	return kv.Txn{Ops: []kv.Op{{Kind: kv.OpSet, Path: "k/" + key, Value: "v", Expires: time.Now().Add(ttl).UnixNano()}}}
}

func (m *member) has(key string) bool { return value(m.tree.Snap(), key) != "" }

func TestExpiry(t *testing.T) {
	c := newCluster(t, 3)
	l := c.leader()
	for _, k := range []struct {
		name string
		ttl  time.Duration
	}{{"late", time.Hour}, {"soon", 150 * time.Millisecond}, {"sooner", 50 * time.Millisecond}} { // each earlier than the one waited for
		if _, err := l.Propose(ctxFor(t, 5*time.Second), setTTL(k.name, k.ttl)); err != nil {
			t.Fatal(err)
		}
	}
	start := time.Now()
	for _, k := range []struct {
		name string
		ttl  time.Duration
	}{{"sooner", 50 * time.Millisecond}, {"soon", 150 * time.Millisecond}} {
		within(t, 5*time.Second, k.name+" to expire", func() bool { return !l.has(k.name) })
		if d := time.Since(start); d < k.ttl-50*time.Millisecond {
			t.Errorf("%s expired after %v", k.name, d)
		}
	}
	if !l.has("late") {
		t.Fatal("expired an hour early")
	}
	c.converge()
}

// An expiry that falls into the time without a leader is put off by that time.
func TestExpiryIsNeverEarlyAcrossLeaders(t *testing.T) {
	c := newCluster(t, 3, onDisk)
	l := c.leader()
	const ttl = 400 * time.Millisecond
	if _, err := l.Propose(ctxFor(t, 5*time.Second), setTTL("a", ttl)); err != nil {
		t.Fatal(err)
	}
	c.write("barrier", "x")
	c.converge()
	// No leader for longer than the key was to live.
	var dirs []string
	lost := time.Now()
	for _, m := range c.members {
		dirs = append(dirs, c.crash(m))
	}
	within(t, 5*time.Second, "the deadline to pass", func() bool { return time.Since(lost) > 2*ttl })
	for i, m := range append([]*member(nil), c.members...) {
		c.restart(m, dirs[i])
	}
	l = c.leader()
	back := time.Now()
	within(t, 5*time.Second, "the key to be extended or gone", func() bool {
		e, ok := l.tree.Snap().Get("k/a")
		return !ok || e.Expires() > time.Now().UnixNano()
	})
	if !l.has("a") {
		t.Fatal("the key died while nobody could refresh it")
	}
	within(t, 10*time.Second, "the key to expire", func() bool { return !l.has("a") })
	if d := time.Since(back); d > 10*ttl {
		t.Errorf("it lived %v after the cluster came back", d)
	}
	c.converge()
}

// A restart of a single server, with a clock stamp as the only witness of an idle time, puts deadlines off by the
// time it was down and not by the time it idled.
func TestExpiryAfterIdleRestart(t *testing.T) {
	c := newCluster(t, 1, onDisk)
	l := c.leader()
	if _, err := l.Propose(ctxFor(t, 5*time.Second), setTTL("a", time.Hour)); err != nil {
		t.Fatal(err)
	}
	e, _ := l.tree.Snap().Get("k/a")
	before := e.Expires()
	idle := time.Now()
	within(t, 5*time.Second, "idle time", func() bool { return time.Since(idle) > 1500*time.Millisecond })
	c.stop(l)
	down := time.Now()
	m, err := c.open(l.cfg.ID, "127.0.0.1:0", l.cfg.Dir)
	if err != nil {
		t.Fatal(err)
	}
	c.members = []*member{m}
	within(t, 5*time.Second, "the extension", func() bool {
		e, ok := m.tree.Snap().Get("k/a")
		return ok && e.Expires() > before
	})
	e, _ = m.tree.Snap().Get("k/a")
	if by := time.Duration(e.Expires() - before); by > time.Since(down)+200*time.Millisecond {
		t.Errorf("extended by %v, the server was down for %v at most", by, time.Since(down))
	}
}

// What is written right after an outage keeps the deadline it was given: only what stood there before is put off.
func TestOutageMovesNoNewDeadline(t *testing.T) {
	c := newCluster(t, 1, onDisk)
	l := c.leader()
	if _, err := l.Propose(ctxFor(t, 5*time.Second), setTTL("old", time.Hour)); err != nil {
		t.Fatal(err)
	}
	before, _ := l.tree.Snap().Get("k/old")
	dir := c.crash(l)
	lost := time.Now()
	within(t, 5*time.Second, "an outage", func() bool { return time.Since(lost) > 300*time.Millisecond })
	m := c.restart(l, dir)
	for n := 0; ; n++ { // as early as anybody can
		txn := setTTL("new", time.Hour)
		if _, err := m.Propose(ctxFor(t, 5*time.Second), txn); err != nil {
			continue
		}
		if e, ok := m.tree.Snap().Get("k/new"); !ok || e.Expires() != txn.Ops[0].Expires {
			t.Fatalf("try %d: a new key was put off by %v", n, time.Duration(e.Expires()-txn.Ops[0].Expires))
		}
		break
	}
	old, _ := m.tree.Snap().Get("k/old")
	if by := time.Duration(old.Expires() - before.Expires()); by < 300*time.Millisecond {
		t.Fatalf("the outage put the old key off by %v only", by)
	}
	// Nor does anything move it later.
	within(t, 5*time.Second, "the jobs of the leader", func() bool { return m.Status().Ready })
	c.write("more", "1")
	if now, _ := m.tree.Snap().Get("k/old"); now.Expires() != old.Expires() {
		t.Fatal("put off twice")
	}
}
