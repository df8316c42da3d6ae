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
	c := newCluster(t, 3, steady)
	l := c.leader()
	deadlines := map[string]int64{}
	for _, k := range []struct {
		name string
		ttl  time.Duration
	}{{"late", time.Hour}, {"soon", 150 * time.Millisecond}, {"sooner", 50 * time.Millisecond}} { // each earlier than the one waited for
		txn := setTTL(k.name, k.ttl)
		deadlines[k.name] = txn.Ops[0].Expires
		if _, err := l.Propose(ctxFor(t, patience), txn); err != nil {
			t.Fatal(err)
		}
	}
	for _, name := range []string{"sooner", "soon"} {
		within(t, name+" to expire", func() bool { return !l.has(name) })
		if early := time.Duration(deadlines[name] - time.Now().UnixNano()); early > 0 {
			t.Errorf("%s expired %v early", name, early)
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
	var deadline time.Time
	fall := func(ttl time.Duration) (restart func()) {
		txn := setTTL("a", ttl)
		deadline = time.Unix(0, txn.Ops[0].Expires)
		c.propose(txn)
		c.converge()
		dirs := map[*member]string{}
		for _, m := range c.members {
			dirs[m] = c.crash(m)
		}
		return func() {
			for m, dir := range dirs {
				c.restart(m, dir)
			}
		}
	}
	ttl := 400 * time.Millisecond
	restart := fall(ttl)
	for time.Now().After(deadline) { // a busy machine: the key was not alive when they fell
		restart()
		ttl *= 2
		restart = fall(ttl)
	}
	// No leader for longer than the key was to live.
	fallen := time.Now()
	within(t, "the deadline to pass", func() bool { return time.Since(deadline) > ttl })
	outage := time.Since(fallen)
	restart()
	l := c.leader()
	within(t, "the key to expire", func() bool { return !l.has("a") })
	if early := time.Until(deadline.Add(outage)); early > 0 {
		t.Errorf("it died %v early: nobody could refresh it for %v", early, outage)
	}
	c.converge()
}

// A restart of a single server, with a clock stamp as the only witness of an idle time, puts deadlines off by the
// time it was down and not by the time it idled.
func TestExpiryAfterIdleRestart(t *testing.T) {
	c := newCluster(t, 1, onDisk)
	l := c.leader()
	if _, err := l.Propose(ctxFor(t, patience), setTTL("a", time.Hour)); err != nil {
		t.Fatal(err)
	}
	e, _ := l.tree.Snap().Get("k/a")
	before := e.Expires()
	idle := time.Now()
	within(t, "idle time", func() bool { return time.Since(idle) > 1500*time.Millisecond })
	c.stop(l)
	down := time.Now()
	m, err := c.open(l.cfg.ID, loopback, l.cfg.Dir)
	if err != nil {
		t.Fatal(err)
	}
	c.members = []*member{m}
	within(t, "the extension", func() bool {
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
	if _, err := l.Propose(ctxFor(t, patience), setTTL("old", time.Hour)); err != nil {
		t.Fatal(err)
	}
	before, _ := l.tree.Snap().Get("k/old")
	dir := c.crash(l)
	lost := time.Now()
	within(t, "an outage", func() bool { return time.Since(lost) > 300*time.Millisecond })
	m := c.restart(l, dir)
	for n := 0; ; n++ { // as early as anybody can
		txn := setTTL("new", time.Hour)
		if _, err := m.Propose(ctxFor(t, patience), txn); err != nil {
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
	within(t, "the jobs of the leader", func() bool { return m.Status().Ready })
	c.write("more", "1")
	if now, _ := m.tree.Snap().Get("k/old"); now.Expires() != old.Expires() {
		t.Fatal("put off twice")
	}
}
