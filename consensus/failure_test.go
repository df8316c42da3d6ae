package consensus_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/musterhq/muster/consensus"
	"github.com/musterhq/muster/kv"
)

// load writes numbered keys from several goroutines until stop is called, which returns what was acknowledged.
func (c *cluster) load(writers int) (stop func() map[string]string) {
	var mu sync.Mutex
	acked := map[string]string{}
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	for w := range writers {
		wg.Go(func() {
			for i := 0; ctx.Err() == nil; i++ {
				key := fmt.Sprintf("w%d-%d", w, i)
				wrote := false
				for _, m := range c.snapshot() {
					res, err := m.Propose(ctx, set(key, key))
					if err == nil && res.Code == kv.OK {
						wrote = true
						mu.Lock()
						acked[key] = key
						mu.Unlock()
					}
				}
				if !wrote {
					breathe(ctx)
				}
			}
		})
	}
	return func() map[string]string {
		cancel()
		wg.Wait()
		return acked
	}
}

// breathe keeps a goroutine that is refused at once from starving the cluster it waits for.
func breathe(ctx context.Context) {
	select {
	case <-ctx.Done():
	case <-time.After(time.Millisecond):
	}
}

var membersMu sync.Mutex

// snapshot is the list of members, safe beside restart.
func (c *cluster) snapshot() []*member {
	membersMu.Lock()
	defer membersMu.Unlock()
	return append([]*member(nil), c.members...)
}

func (c *cluster) checkAcked(acked map[string]string) {
	c.t.Helper()
	s, _, err := c.leader().Read(ctxFor(c.t, patience), consensus.Consistent)
	if err != nil {
		c.t.Fatal(err)
	}
	for k, v := range acked {
		if got := value(s, k); got != v {
			c.t.Fatalf("acknowledged write %s is lost (found %q, %d acknowledged)", k, got, len(acked))
		}
	}
}

func TestLeaderCrashLosesNothing(t *testing.T) {
	for _, size := range []int{3, 5} {
		c := newCluster(t, size, onDisk)
		c.leader()
		stop := c.load(4)
		for round := range (size - 1) / 2 {
			c.write(fmt.Sprintf("before-%d", round), "x")
			c.crash(c.leader())
			c.write(fmt.Sprintf("after-%d", round), "x")
		}
		acked := stop()
		if len(acked) == 0 {
			t.Fatal("nothing was written")
		}
		c.checkAcked(acked)
		c.converge()
	}
}

func TestWholeClusterRestarts(t *testing.T) {
	c := newCluster(t, 3, onDisk, tuned(func(c *consensus.Config) { c.SnapshotThreshold, c.TrailingLogs = 200, 20 }))
	c.leader()
	stop := c.load(4)
	for i := range 300 {
		c.write(fmt.Sprintf("k%d", i), "v")
	}
	id := c.leader().ClusterID()
	// All fall at once, in the middle of writing.
	dirs := map[*member]string{}
	for _, m := range c.members {
		dirs[m] = c.crash(m)
	}
	acked := stop()
	for _, m := range append([]*member(nil), c.members...) {
		tear(t, dirs[m])
		c.restart(m, dirs[m])
	}
	c.write("again", "x")
	c.checkAcked(acked)
	for i := range 300 {
		acked[fmt.Sprintf("k%d", i)] = "v"
	}
	c.checkAcked(acked)
	c.converge()
	if got := c.leader().ClusterID(); got != id {
		t.Fatalf("cluster id %s, was %s", got, id)
	}
}

// tear leaves half a record behind the end of the log, as a write cut off by a power failure does: the beginning of
// a frame where the file is still zero.
func tear(t *testing.T, dir string) {
	t.Helper()
	segs, err := filepath.Glob(filepath.Join(dir, "log", "*.wal"))
	if err != nil || len(segs) == 0 {
		t.Fatalf("no segments in %s: %v", dir, err)
	}
	last := segs[len(segs)-1]
	b, err := os.ReadFile(last)
	if err != nil {
		t.Fatal(err)
	}
	end := len(strings.TrimRight(string(b), "\x00"))
	end = (end + 7) &^ 7 // frames are aligned
	f, err := os.OpenFile(last, os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.WriteAt([]byte{1, 0, 0, 0, 200, 0, 0, 0, 'h', 'a', 'l', 'f'}, int64(end)); err != nil {
		t.Fatal(err)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
}

// A killed leader is replaced without waiting for any timeout, because its port refuses connections.
func TestKilledLeaderIsReplacedAtOnce(t *testing.T) {
	c := newCluster(t, 3, func(c *cluster) {
		c.timing = consensus.Timing{Heartbeat: 600 * time.Millisecond, Election: 600 * time.Millisecond, Lease: 500 * time.Millisecond, Commit: 5 * time.Millisecond}
	})
	c.write("a", "1")
	l := c.leader()
	// From now on silence alone would take a minute.
	followers, term := c.followers(), l.Status().Term
	for _, m := range followers {
		m.ReloadTiming(time.Minute)
	}
	c.kill(l)
	within(t, "a follower that stands for election", func() bool {
		return slices.ContainsFunc(followers, func(m *member) bool { return m.Status().Term > term })
	})
	// On a busy machine both may have stood at once and elected nobody; the next try need not take a minute.
	for _, m := range followers {
		m.ReloadTiming(c.timing.Heartbeat)
	}
	c.write("b", "2")
	c.checkAcked(map[string]string{"a": "1", "b": "2"})
}

func TestPartitionedLeader(t *testing.T) {
	c := newCluster(t, 3)
	c.write("a", "old")
	l := c.leader()
	c.net.isolate(l.cfg.Addr, true)

	// A write into the minority is never acknowledged.
	_, err := l.Propose(ctxFor(t, patience), set("a", "lost"))
	if !errors.Is(err, consensus.ErrUnknownOutcome) && !errors.Is(err, consensus.ErrNotLeader) {
		t.Fatalf("write on a cut-off leader: %v", err)
	}
	c.write("a", "new")
	if _, _, err := l.Read(ctxFor(t, patience), consensus.Consistent); !errors.Is(err, consensus.ErrNotLeader) {
		t.Fatalf("consistent read on a cut-off leader: %v", err)
	}
	if _, _, err := l.Read(ctxFor(t, patience), consensus.Default); !errors.Is(err, consensus.ErrNotLeader) {
		t.Fatalf("default read on a cut-off leader: %v", err)
	}
	s, meta, err := l.Read(context.Background(), consensus.Stale)
	if err != nil || value(s, "a") != "old" || meta.KnownLeader {
		t.Fatalf("stale read on a cut-off leader: %q %+v %v", value(s, "a"), meta, err)
	}

	c.net.isolate(l.cfg.Addr, false)
	within(t, "the old leader to learn", func() bool { return value(l.tree.Snap(), "a") == "new" })
	c.converge()
}

// Reads on whoever believes to lead must never show less than what was acknowledged before they began.
func TestReadsAreNeverStale(t *testing.T) {
	c := newCluster(t, 3)
	c.leader()
	var acked atomic.Uint64 // index of the newest acknowledged write
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	for _, m := range c.members {
		for range 2 {
			wg.Go(func() {
				for ctx.Err() == nil {
					floor := acked.Load()
					s, _, err := m.Read(ctx, consensus.Consistent)
					if err != nil {
						breathe(ctx)
					} else if s.Index() < floor {
						t.Errorf("%s: consistent read at index %d, %d was acknowledged before", m.cfg.ID, s.Index(), floor)
					}
				}
			})
		}
		wg.Go(func() {
			for ctx.Err() == nil {
				res, err := m.Propose(ctx, set("x", "y"))
				if err != nil {
					breathe(ctx)
				}
				for err == nil {
					old := acked.Load()
					if res.Index <= old || acked.CompareAndSwap(old, res.Index) {
						break
					}
				}
			}
		})
	}
	for range 3 {
		l := c.leader()
		c.net.isolate(l.cfg.Addr, true)
		c.write("z", "z")
		c.net.isolate(l.cfg.Addr, false)
	}
	cancel()
	wg.Wait()
	c.converge()
}

func TestLaggingFollowerGetsASnapshot(t *testing.T) {
	c := newCluster(t, 3, onDisk, tuned(func(c *consensus.Config) { c.TrailingLogs = 5 }))
	c.write("a", "1")
	f := c.followers()[0]
	dir := c.crash(f)
	for i := range 50 {
		c.write(fmt.Sprintf("k%d", i), "v")
	}
	for _, m := range c.members {
		if !m.down {
			if err := m.Snapshot(); err != nil {
				t.Fatal(err)
			}
		}
	}
	c.write("b", "2")
	f = c.restart(f, dir)
	within(t, "the snapshot", func() bool { return value(f.tree.Snap(), "b") == "2" && value(f.tree.Snap(), "k49") == "v" })
	c.converge()
	if err := f.Snapshot(); err != nil {
		t.Fatal(err)
	}
	if err := f.Snapshot(); err != nil {
		t.Fatalf("snapshot with nothing new: %v", err)
	}
}

func TestTransferKeepsWritesGoing(t *testing.T) {
	c := newCluster(t, 3, steady)
	c.leader()
	stop := c.load(3)
	for range 3 {
		l := c.leader()
		if err := l.TransferLeadership(ctxFor(t, patience), ""); err != nil {
			t.Fatal(err)
		}
		within(t, "another leader", func() bool { return c.leader() != l || l.IsLeader() })
	}
	c.checkAcked(stop())
	if err := c.leader().TransferLeadership(ctxFor(t, patience), "nobody"); err == nil {
		t.Fatal("handed over to nobody")
	}
}

func TestDataDirRefusals(t *testing.T) {
	c := newCluster(t, 1, onDisk)
	c.write("a", "1")
	m := c.members[0]
	if _, err := c.open(m.cfg.ID, loopback, m.cfg.Dir); !errors.Is(err, consensus.ErrDataDir) {
		t.Fatalf("a directory in use: %v", err)
	}
	within(t, "the cluster id on disk", func() bool {
		b, err := os.ReadFile(filepath.Join(m.cfg.Dir, "node.json"))
		return err == nil && strings.Contains(string(b), m.ClusterID())
	})
	c.stop(m)
	if _, err := c.open("another", loopback, m.cfg.Dir); !errors.Is(err, consensus.ErrDataDir) || !strings.Contains(err.Error(), "node-0") {
		t.Fatalf("the directory of another node: %v", err)
	}
	file := filepath.Join(m.cfg.Dir, "node.json")
	good, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	for name, content := range map[string]string{
		"another format": strings.Replace(string(good), `"format": 1`, `"format": 2`, 1),
		"damaged":        "{",
	} {
		if err := os.WriteFile(file, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := c.open(m.cfg.ID, loopback, m.cfg.Dir); !errors.Is(err, consensus.ErrDataDir) {
			t.Fatalf("%s: %v", name, err)
		}
	}
	if err := os.Remove(file); err != nil {
		t.Fatal(err)
	}
	if _, err := c.open(m.cfg.ID, loopback, m.cfg.Dir); !errors.Is(err, consensus.ErrDataDir) {
		t.Fatalf("a log without node.json: %v", err)
	}
	if err := os.WriteFile(file, good, 0o600); err != nil {
		t.Fatal(err)
	}
	again, err := c.open(m.cfg.ID, loopback, m.cfg.Dir)
	if err != nil {
		t.Fatal(err)
	}
	defer c.stop(again)
	if err := again.WaitLeader(ctxFor(t, patience)); err != nil || value(again.tree.Snap(), "a") != "1" {
		t.Fatalf("after all that: %v", err)
	}
}

func TestOpenErrors(t *testing.T) {
	if _, err := consensus.Open(consensus.Config{ID: "x", Addr: "127.0.0.1:1"}); err == nil || !strings.Contains(err.Error(), "Tree") {
		t.Fatalf("%v", err)
	}
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	c := newCluster(t, 1)
	if _, err := c.open("x", loopback, file); err == nil {
		t.Fatal("a file was taken for a data directory")
	}
}

// A server that was restarted shows what it had, also when nobody leads who could say what is committed.
func TestRestartedServerShowsWhatItHad(t *testing.T) {
	c := newCluster(t, 3, onDisk, tuned(func(c *consensus.Config) { c.SnapshotThreshold, c.TrailingLogs = 200, 20 }))
	for i := range 250 {
		c.write(fmt.Sprintf("k%d", i), "v")
	}
	if err := c.leader().Snapshot(); err != nil {
		t.Fatal(err)
	}
	c.write("late", "v")
	c.converge()
	index := c.leader().tree.Snap().Index()
	m := c.members[0]
	for _, o := range c.members {
		c.stop(o)
	}
	again := c.restart(m, m.cfg.Dir)
	if !again.CaughtUp() || again.tree.Snap().Index() != index || value(again.tree.Snap(), "late") != "v" {
		t.Fatalf("alone after a restart the server shows index %d, it had %d; caught up: %v", again.tree.Snap().Index(), index, again.CaughtUp())
	}
	for _, o := range c.members[1:] {
		c.restart(o, o.cfg.Dir)
	}
	c.write("again", "v")
	c.converge()
	c.checkAcked(map[string]string{"late": "v", "k7": "v", "again": "v"})
}

// A server that comes new says that it is not fit to be shown until it has what was there before it.
func TestNewServerIsNotShownTooEarly(t *testing.T) {
	c := newCluster(t, 1)
	for i := range 4 { // large, so that the tree takes longer than raft
		txn := kv.Txn{Ops: make([]kv.Op, kv.MaxOps)}
		for j := range txn.Ops {
			txn.Ops[j] = kv.Op{Kind: kv.OpSet, Path: fmt.Sprintf("k/%d/%d", i, j), Value: "v"}
		}
		c.propose(txn)
	}
	fresh := c.start("fresh", loopback, "")
	defer c.stop(fresh)
	if fresh.CaughtUp() {
		t.Fatal("a server without data says that it has caught up")
	}
	index := c.leader().tree.Snap().Index()
	if err := c.leader().AddNonvoter(ctxFor(t, patience), fresh.cfg.ID, fresh.cfg.Addr); err != nil {
		t.Fatal(err)
	}
	within(t, "the new server to catch up", func() bool {
		up := fresh.CaughtUp()
		if got := fresh.tree.Snap().Index(); up && got < index {
			t.Fatalf("caught up at index %d of %d", got, index)
		}
		return up
	})
}
