package consensus_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"

	"github.com/musterhq/muster/consensus"
	"github.com/musterhq/muster/kv"
)

// flood writes through whoever leads until stop is called, and counts what was acknowledged.
func (c *cluster) flood(writers int) (acked *atomic.Int64, stop func()) {
	acked = new(atomic.Int64)
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	stop = func() { cancel(); wg.Wait() }
	c.t.Cleanup(stop)
	for w := range writers {
		wg.Go(func() {
			members, at := c.snapshot(), 0
			for i := 0; ctx.Err() == nil; i++ {
				key := fmt.Sprintf("w%d/%d", w, i%500)
				if res, err := members[at].Propose(ctx, set(key, strings.Repeat("v", i%3000))); err == nil && res.Code == kv.OK {
					acked.Add(1)
				} else {
					at = (at + 1) % len(members)
					breathe(ctx)
				}
			}
		})
	}
	return acked, stop
}

// TestBackupOfARunningServer takes backups under load of a server that snapshots and shortens its log all the time,
// and proves each to be a state that the cluster really had: another server's whole log, replayed to the same entry,
// gives the same index and hash. What was acknowledged before the backup began is in it.
func TestBackupOfARunningServer(t *testing.T) {
	c := newCluster(t, 3, onDisk, steady, tuned(func(cfg *consensus.Config) {
		if cfg.ID != "node-2" {
			cfg.SnapshotThreshold, cfg.TrailingLogs, cfg.SnapshotInterval = 200, 50, 50*time.Millisecond
		}
	}))
	c.write("first", "1")
	if c.leader().cfg.ID == "node-2" {
		if err := c.leader().TransferLeadership(ctxFor(t, patience), "node-0"); err != nil {
			t.Fatal(err)
		}
	}
	acked, stop := c.flood(8)
	within(t, "some load", func() bool { return acked.Load() > 600 })
	var states []consensus.State
	for i, m := range []*member{c.leader(), c.members[0], c.members[1]} {
		marker := fmt.Sprintf("marker%d", i)
		idx := c.write(marker, "x")
		within(t, "the server to apply", func() bool { return m.tree.Snap().Index() >= idx })
		tree := kv.New(kv.Options{})
		st, err := consensus.Backup(ctxFor(t, patience), m.cfg.Dir, t.TempDir(), tree, hclog.NewNullLogger())
		if err != nil {
			t.Fatal(err)
		}
		if !st.Running || st.Index < idx || value(tree.Snap(), marker) != "x" || st.ClusterID != m.ClusterID() || st.Alive.IsZero() {
			t.Errorf("backup %+v of cluster %s, a write at %d was acknowledged before", st, m.ClusterID(), idx)
		}
		states = append(states, st)
	}
	before := acked.Load()
	within(t, "writes go on", func() bool { return acked.Load() > before+100 })
	stop()
	c.converge()
	witness := c.members[2]
	c.stop(witness)
	for _, st := range states {
		tree := kv.New(kv.Options{})
		if got, err := consensus.LoadUpTo(witness.cfg.Dir, tree, st.RaftIndex); err != nil || got.Index != st.Index || got.Hash != st.Hash || got.RaftTerm != st.RaftTerm {
			t.Errorf("the cluster had index %d hash %x at entry %d, the backup says %d %x: %v", got.Index, got.Hash, st.RaftIndex, st.Index, st.Hash, err)
		}
	}
	t.Logf("%d writes, backups at %d, %d, %d", acked.Load(), states[0].RaftIndex, states[1].RaftIndex, states[2].RaftIndex)
}

// TestBackupBecomesACluster restores a backup, restarts it, and lets another server join.
func TestBackupBecomesACluster(t *testing.T) {
	c := newCluster(t, 1, onDisk)
	deadline := time.Now().Add(time.Hour).UnixNano()
	c.write("a", "1")
	if _, err := c.leader().Propose(ctxFor(t, patience), kv.Txn{Ops: []kv.Op{{Kind: kv.OpSet, Path: "k/ttl", Value: "x", Expires: deadline}}}); err != nil {
		t.Fatal(err)
	}
	m := c.members[0]
	old, _ := m.tree.Snap().Get("k/a")
	tree := kv.New(kv.Options{})
	st, err := consensus.Backup(ctxFor(t, patience), m.cfg.Dir, t.TempDir(), tree, hclog.NewNullLogger())
	if err != nil {
		t.Fatal(err)
	}
	if s := m.tree.Snap(); st.Index != s.Index() || st.Hash != s.Hash() {
		t.Fatalf("backup at %d %x, the server is at %d %x", st.Index, st.Hash, s.Index(), s.Hash())
	}
	dir := filepath.Join(t.TempDir(), "raft")
	if err := consensus.Strip(tree, nil); err != nil {
		t.Fatal(err)
	}
	if err := consensus.WriteBackup(dir, "fresh", st, tree.Snap(), hclog.NewNullLogger()); err != nil {
		t.Fatal(err)
	}
	c.stop(m)

	if n, err := c.open("fresh", loopback, dir); !errors.Is(err, consensus.ErrBackup) {
		t.Fatalf("a backup started as if it had members: %v %v", n, err)
	}
	if v, err := consensus.Inspect(dir, hclog.NewNullLogger()); err != nil || len(v.Servers) != 0 || v.LastIndex != st.RaftIndex || v.LastTerm != st.RaftTerm || v.Term != st.RaftTerm {
		t.Fatalf("survey of a backup: %+v %v", v, err)
	}
	fresh := recoverAs(t, c, dir, "fresh")
	if fresh.ClusterID() == m.ClusterID() || fresh.ClusterID() == "" {
		t.Errorf("cluster id %q, that of the old cluster is %q", fresh.ClusterID(), m.ClusterID())
	}
	s := fresh.tree.Snap()
	got, ok := s.Get("k/a")
	if !ok || got.Value() != "1" || got.Created() != old.Created() || got.Modified() != old.Modified() || s.Index() < st.Index {
		t.Errorf("restored %+v at %d, want %+v at %d or later", got, s.Index(), old, st.Index)
	}
	if e, ok := s.Get("k/ttl"); !ok || e.Expires() < deadline || e.Expires() > deadline+int64(time.Minute) {
		t.Errorf("deadline %v, was %d", e, deadline)
	}
	c.members = append(c.members, fresh)
	idx := c.write("b", "2")
	if idx <= st.Index {
		t.Errorf("index %d after a backup of %d", idx, st.Index)
	}
	second := c.start("second", loopback, "")
	c.members = append(c.members, second)
	if err := fresh.AddVoter(ctxFor(t, patience), "second", second.cfg.Addr); err != nil {
		t.Fatal(err)
	}
	c.converge()
	c.stop(fresh)
	again := c.start("fresh", fresh.cfg.Addr, dir)
	c.members = append(c.members, again)
	within(t, "the restored server to be there again", func() bool { return value(again.tree.Snap(), "b") == "2" })
}

// recoverAs makes a cluster of a directory and starts it.
func recoverAs(t *testing.T, c *cluster, dir, id string) *member {
	t.Helper()
	addr := loopback
	probe, err := c.open("probe", addr, t.TempDir()) // an address that is free
	if err != nil {
		t.Fatal(err)
	}
	c.stop(probe)
	st, err := consensus.Recover(consensus.RecoverConfig{Dir: dir, ID: id, Addr: probe.cfg.Addr, Tree: kv.New(kv.Options{})})
	if err != nil {
		t.Fatal(err)
	}
	m := c.start(id, probe.cfg.Addr, dir)
	if err := m.WaitLeader(ctxFor(t, patience)); err != nil {
		t.Fatal(err)
	}
	if m.ClusterID() != st.ClusterID {
		t.Errorf("cluster %s, recovered as %s", m.ClusterID(), st.ClusterID)
	}
	return m
}

// TestRecoverAfterTheLossOfTheQuorum compares two survivors of five, makes a cluster of the better one, and finds
// everything acknowledged in it.
func TestRecoverAfterTheLossOfTheQuorum(t *testing.T) {
	c := newCluster(t, 5, onDisk)
	for i := range 50 {
		c.write(fmt.Sprintf("early%d", i), "x")
	}
	c.converge()
	behind := c.followers()[0]
	c.stop(behind)
	for i := range 50 {
		c.write(fmt.Sprintf("late%d", i), "x")
	}
	c.converge()
	best := c.followers()[0]
	for _, m := range c.members {
		c.stop(m)
	}
	var views []consensus.Survey
	for _, m := range []*member{behind, best} {
		v, err := consensus.Inspect(m.cfg.Dir, hclog.NewNullLogger())
		if err != nil {
			t.Fatal(err)
		}
		if v.NodeID != m.cfg.ID || v.ClusterID != "" && v.ClusterID != m.ClusterID() || len(v.Voters()) != 5 || v.Committed == 0 || v.Committed > v.LastIndex || v.Recovered != "" {
			t.Errorf("survey %+v", v)
		}
		views = append(views, v)
	}
	if !views[1].Better(views[0]) || views[0].Better(views[1]) {
		t.Errorf("the one that saw everything is not better: %+v %+v", views[0], views[1])
	}
	m := recoverAs(t, c, best.cfg.Dir, best.cfg.ID)
	defer c.stop(m)
	for i := range 50 {
		if s := m.tree.Snap(); value(s, fmt.Sprintf("early%d", i)) != "x" || value(s, fmt.Sprintf("late%d", i)) != "x" {
			t.Fatalf("keys %d are lost", i)
		}
	}
	servers, err := m.Servers()
	if err != nil || len(servers) != 1 || servers[0].ID != best.cfg.ID || !servers[0].Voter {
		t.Errorf("members %+v %v", servers, err)
	}
	if res, err := m.Propose(ctxFor(t, patience), set("new", "1")); err != nil || res.Code != kv.OK {
		t.Errorf("write: %v %v", res.Code, err)
	}
	if v, err := consensus.Inspect(best.cfg.Dir, hclog.NewNullLogger()); !errors.Is(err, consensus.ErrInUse) {
		t.Errorf("the directory of a running server was inspected: %+v %v", v, err)
	}
}

func TestBackupAndRecoverRefuse(t *testing.T) {
	c := newCluster(t, 1, onDisk)
	c.write("a", "1")
	m := c.members[0]
	log := hclog.NewNullLogger()
	none := filepath.Join(t.TempDir(), "none")
	if _, err := consensus.Backup(ctxFor(t, patience), none, t.TempDir(), kv.New(kv.Options{}), log); !errors.Is(err, consensus.ErrDataDir) {
		t.Errorf("backup of nothing: %v", err)
	}
	if _, err := consensus.Recover(consensus.RecoverConfig{Dir: none, ID: "x", Addr: "127.0.0.1:1", Tree: kv.New(kv.Options{})}); !errors.Is(err, consensus.ErrDataDir) {
		t.Errorf("recovery of nothing: %v", err)
	}
	if _, err := os.Stat(none); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a refusal made the directory: %v", err)
	}
	rc := consensus.RecoverConfig{Dir: m.cfg.Dir, ID: m.cfg.ID, Addr: m.cfg.Addr, Tree: kv.New(kv.Options{})}
	if _, err := consensus.Recover(rc); !errors.Is(err, consensus.ErrInUse) {
		t.Errorf("recovery under a running server: %v", err)
	}
	c.stop(m)
	rc.ID = "another"
	if _, err := consensus.Recover(rc); !errors.Is(err, consensus.ErrDataDir) {
		t.Errorf("recovery as another node: %v", err)
	}
	empty := filepath.Join(t.TempDir(), "raft")
	idle := c.start("idle", loopback, empty)
	c.stop(idle)
	if _, err := consensus.Inspect(empty, log); !errors.Is(err, consensus.ErrDataDir) {
		t.Errorf("survey of a server that never had a cluster: %v", err)
	}
	segs, err := filepath.Glob(filepath.Join(m.cfg.Dir, "log", "*.wal"))
	if err != nil || len(segs) == 0 {
		t.Fatal(segs, err)
	}
	if err := os.Truncate(segs[0], 64); err != nil {
		t.Fatal(err)
	}
	if _, err := consensus.Backup(ctxFor(t, patience), m.cfg.Dir, t.TempDir(), kv.New(kv.Options{}), log); !errors.Is(err, consensus.ErrDataDir) {
		t.Errorf("backup of a cut log: %v", err)
	}
}
