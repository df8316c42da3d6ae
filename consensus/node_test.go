package consensus_test

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/musterhq/muster/consensus"
	"github.com/musterhq/muster/kv"
)

func TestProposeAndRead(t *testing.T) {
	for _, size := range []int{1, 3, 5} {
		c := newCluster(t, size)
		idx := c.write("a", "1")
		l := c.leader()
		for _, how := range []consensus.Consistency{consensus.Default, consensus.Consistent, consensus.Stale} {
			s, meta, err := l.Read(ctxFor(t, patience), how)
			if err != nil || value(s, "a") != "1" || s.Index() < idx || !meta.KnownLeader || meta.LastContact != 0 {
				t.Fatalf("size %d, read %d: %v %+v", size, how, err, meta)
			}
		}
		id, addr := l.Leader()
		if id != l.cfg.ID || addr != l.cfg.Addr {
			t.Fatalf("leader calls itself %q %q", id, addr)
		}
		for _, f := range c.followers() {
			if err := f.WaitLeader(ctxFor(t, patience)); err != nil {
				t.Fatal(err)
			}
			_, err := f.Propose(ctxFor(t, patience), set("b", "x"))
			var nl *consensus.NotLeaderError
			if !errors.As(err, &nl) || nl.LeaderID != l.cfg.ID || nl.LeaderAddr != l.cfg.Addr || !errors.Is(err, consensus.ErrNotLeader) || errors.Is(err, consensus.ErrNoLeader) {
				t.Fatalf("follower: %v", err)
			}
			if _, _, err := f.Read(ctxFor(t, patience), consensus.Default); !errors.Is(err, consensus.ErrNotLeader) {
				t.Fatalf("follower reads by default: %v", err)
			}
			within(t, "the follower to apply", func() bool {
				s, meta, err := f.Read(context.Background(), consensus.Stale)
				return err == nil && value(s, "a") == "1" && meta.KnownLeader && meta.LastContact >= 0
			})
		}
		c.converge()
	}
}

func TestProposeRefusesBadTxns(t *testing.T) {
	c := newCluster(t, 1)
	l := c.leader()
	before := l.Status().LastIndex
	if _, err := l.Propose(context.Background(), kv.Txn{Ops: []kv.Op{{Kind: 99, Path: "k/a"}}}); err == nil {
		t.Fatal("unknown operation was accepted")
	}
	var bad *kv.TxnError
	big := kv.Txn{}
	for range 5 {
		big.Ops = append(big.Ops, kv.Op{Kind: kv.OpSet, Path: "k/big", Value: string(make([]byte, 8<<20))})
	}
	if _, err := l.Propose(context.Background(), big); !errors.As(err, &bad) {
		t.Fatalf("oversized txn: %v", err)
	}
	if after := l.Status().LastIndex; after != before {
		t.Fatalf("a refused txn reached the log: %d, was %d", after, before)
	}
	res, err := l.Propose(context.Background(), kv.Txn{Conds: []kv.Cond{{Kind: kv.CondHasValue, Path: "k/none"}}, Ops: []kv.Op{{Kind: kv.OpSet, Path: "k/a"}}})
	if err != nil || res.Code != kv.NotFound {
		t.Fatalf("failed condition: %v %v", res.Code, err)
	}
}

func TestLargeEntriesSurviveARestart(t *testing.T) {
	c := newCluster(t, 1, onDisk)
	big := string(make([]byte, 9<<20)) + "end"
	for _, k := range []string{"a", "b", "c"} { // more than a file of the log holds
		c.write(k, big)
	}
	m := c.members[0]
	m = c.restart(m, c.crash(m))
	s, _, err := m.Read(ctxFor(t, patience), consensus.Consistent)
	if err == nil {
		for _, k := range []string{"a", "b", "c"} {
			if value(s, k) != big {
				t.Errorf("value of %s is lost", k)
			}
		}
		return
	}
	if err := m.WaitLeader(ctxFor(t, patience)); err != nil {
		t.Fatal(err)
	}
	if s, _, err = m.Read(ctxFor(t, patience), consensus.Consistent); err != nil || value(s, "c") != big {
		t.Fatalf("after the restart: %v", err)
	}
}

func TestBootstrapOnlyOnce(t *testing.T) {
	c := newCluster(t, 1, onDisk)
	m := c.members[0]
	c.write("a", "1")
	self := []consensus.Server{{ID: m.cfg.ID, Addr: m.cfg.Addr, Voter: true}}
	if err := m.Bootstrap(self); !errors.Is(err, consensus.ErrHasState) {
		t.Fatalf("second bootstrap: %v", err)
	}
	if !m.HasState() {
		t.Fatal("no state after bootstrap")
	}
	fresh := c.start("fresh", loopback, "")
	defer c.stop(fresh)
	if fresh.HasState() {
		t.Fatal("a fresh node has state")
	}
	if _, err := fresh.Propose(context.Background(), set("a", "b")); !errors.Is(err, consensus.ErrNoLeader) || !errors.Is(err, consensus.ErrNotLeader) {
		t.Fatalf("propose without a cluster: %v", err)
	}
	if err := fresh.WaitLeader(ctxFor(t, 20*time.Millisecond)); !errors.Is(err, consensus.ErrNoLeader) {
		t.Fatalf("wait without a cluster: %v", err)
	}
}

func TestClosedNode(t *testing.T) {
	c := newCluster(t, 1)
	l := c.leader()
	c.stop(l)
	if _, err := l.Propose(context.Background(), set("a", "1")); !errors.Is(err, consensus.ErrClosed) || errors.Is(err, consensus.ErrUnknownOutcome) {
		t.Fatalf("propose: %v", err)
	}
	if _, _, err := l.Read(context.Background(), consensus.Consistent); !errors.Is(err, consensus.ErrClosed) {
		t.Fatalf("read: %v", err)
	}
	if err := l.Close(context.Background()); err != nil {
		t.Fatalf("second close: %v", err)
	}
}

func TestClusterID(t *testing.T) {
	c := newCluster(t, 3)
	l := c.leader()
	within(t, "the cluster id", func() bool { return l.ClusterID() != "" })
	id := l.ClusterID()
	if len(id) != 16 {
		t.Fatalf("cluster id %q", id)
	}
	c.converge()
	c.crash(l)
	c.write("a", "1")
	if got := c.leader().ClusterID(); got != id {
		t.Fatalf("cluster id changed from %s to %s", id, got)
	}
}

func TestOnLeader(t *testing.T) {
	c := newCluster(t, 3)
	type event struct {
		id    string
		begin bool
	}
	events := make(chan event, 100)
	for _, m := range c.members {
		m.OnLeader("test", func(ctx context.Context) {
			events <- event{m.cfg.ID, true}
			<-ctx.Done()
			events <- event{m.cfg.ID, false}
		})
	}
	next := func() event {
		select {
		case e := <-events:
			return e
		case <-time.After(patience):
			t.Fatal("no event")
			return event{}
		}
	}
	first := next()
	l := c.leader()
	if !first.begin || first.id != l.cfg.ID {
		t.Fatalf("%+v while %s leads", first, l.cfg.ID)
	}
	late := make(chan struct{})
	l.OnLeader("late", func(context.Context) { close(late) })
	select {
	case <-late:
	case <-time.After(patience):
		t.Fatal("a job added to a leader does not run")
	}
	heir := c.followers()[0].cfg.ID
	if err := l.TransferLeadership(ctxFor(t, patience), heir); err != nil {
		t.Fatal(err)
	}
	got := map[event]bool{next(): true, next(): true}
	if !got[event{l.cfg.ID, false}] || !got[event{heir, true}] {
		t.Fatalf("after handing over to %s: %v", heir, got)
	}
}

func TestMembership(t *testing.T) {
	// The same server leads from end to end, also on a busy machine.
	c := newCluster(t, 1, func(c *cluster) { c.timing = consensus.LAN() })
	l := c.leader()
	ctx := ctxFor(t, patience)
	c.write("a", "1")
	if err := l.RemoveServer(ctx, l.cfg.ID, false); !errors.Is(err, consensus.ErrQuorum) {
		t.Fatalf("the last voter: %v", err)
	}
	for _, id := range []string{"node-1", "node-2"} {
		m := c.start(id, loopback, "")
		c.members = append(c.members, m)
		if err := l.AddNonvoter(ctx, id, m.cfg.Addr); err != nil {
			t.Fatal(err)
		}
		within(t, id+" to catch up", func() bool {
			servers, err := l.Servers()
			if err != nil {
				t.Fatal(err)
			}
			for _, s := range servers {
				if s.ID == id {
					return !s.Voter && s.Match >= l.Status().CommitIndex && !s.LastContact.IsZero()
				}
			}
			return false
		})
		if err := l.AddVoter(ctx, id, m.cfg.Addr); err != nil {
			t.Fatal(err)
		}
		if _, _, err := l.Read(ctx, consensus.Consistent); err != nil {
			t.Fatal(err)
		}
	}
	c.write("b", "2")
	c.converge()
	if err := c.members[1].AddVoter(ctx, "x", "127.0.0.1:1"); !errors.Is(err, consensus.ErrNotLeader) {
		t.Fatalf("change on a follower: %v", err)
	}

	// With one of three dead, losing another live one would lose the quorum; removing the dead one is fine.
	dead, alive := c.members[2], c.members[1]
	c.crash(dead) // a moment ago it answered: that must not count
	if err := l.RemoveServer(ctx, alive.cfg.ID, false); !errors.Is(err, consensus.ErrQuorum) {
		t.Fatalf("removal of the second last live voter: %v", err)
	}
	if err := l.DemoteVoter(ctx, alive.cfg.ID, false); !errors.Is(err, consensus.ErrQuorum) {
		t.Fatalf("demotion of the second last live voter: %v", err)
	}
	if err := l.RemoveServer(ctx, dead.cfg.ID, false); err != nil {
		t.Fatal(err)
	}
	c.write("c", "3")
	if err := l.RemoveServer(ctx, alive.cfg.ID, false); err != nil {
		t.Fatal(err)
	}
	c.write("d", "4")
	servers, err := l.Servers()
	if err != nil || len(servers) != 1 || !servers[0].Leader || !servers[0].Voter {
		t.Fatalf("%+v %v", servers, err)
	}
}
