package consensus_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"

	"github.com/hashicorp/raft"

	"github.com/musterhq/muster/consensus"
	"github.com/musterhq/muster/kv"
)

// disk is a log store whose appends can be held up.
type disk struct {
	raft.LogStore
	mu   sync.Mutex
	hold chan struct{} // nil: the disk is well
}

func (d *disk) StoreLogs(logs []*raft.Log) error {
	d.mu.Lock()
	hold := d.hold
	d.mu.Unlock()
	if hold != nil {
		<-hold
	}
	return d.LogStore.StoreLogs(logs)
}

func (d *disk) StoreLog(l *raft.Log) error { return d.StoreLogs([]*raft.Log{l}) }

// stall holds appends up until the returned function is called, once.
func (d *disk) stall() (heal func()) {
	d.mu.Lock()
	defer d.mu.Unlock()
	hold := make(chan struct{})
	d.hold = hold
	return func() {
		d.mu.Lock()
		d.hold = nil
		d.mu.Unlock()
		close(hold)
	}
}

// withDisks gives each server a disk of its own, by id.
func withDisks(disks map[string]*disk) func(*cluster) {
	return tuned(func(c *consensus.Config) {
		id := c.ID
		consensus.SlowDisk(c, func(s raft.LogStore) raft.LogStore {
			disks[id] = &disk{LogStore: s}
			return disks[id]
		})
	})
}

// A leader whose append does not come back gives up, while its heartbeats would go on; it refuses what it can no longer promise,
// knows who leads instead, and is a follower like any other when its disk answers.
func TestLeaderWithAStalledDiskGivesUp(t *testing.T) {
	disks := map[string]*disk{}
	c := newCluster(t, 3, steady, withDisks(disks))
	c.write("a", "old")
	l := c.leader()
	heal := disks[l.cfg.ID].stall()
	healed := false
	defer func() {
		if !healed {
			heal()
		}
	}()

	// The write that meets the stall is answered, long before the disk is.
	_, err := l.Propose(ctxFor(t, patience), set("b", "unknown"))
	if !errors.Is(err, consensus.ErrUnknownOutcome) {
		t.Fatalf("write into the stall: %v", err)
	}
	within(t, "another leader", func() bool {
		for _, m := range c.members {
			if m != l && m.IsLeader() && m.Status().Ready {
				return true
			}
		}
		return false
	})
	if l.IsLeader() {
		t.Error("the stalled server says that it leads")
	}
	for _, how := range []consensus.Consistency{consensus.Default, consensus.Consistent} {
		if _, _, err := l.Read(ctxFor(t, patience), how); !errors.Is(err, consensus.ErrNotLeader) {
			t.Errorf("read %v on the stalled server: %v", how, err)
		}
	}
	if _, err := l.Propose(ctxFor(t, patience), set("c", "refused")); !errors.Is(err, consensus.ErrNotLeader) {
		t.Errorf("write on the stalled server: %v", err)
	}
	if s, _, err := l.Read(context.Background(), consensus.Stale); err != nil || value(s, "a") != "old" {
		t.Errorf("stale read on the stalled server: %v", err)
	}
	c.write("a", "new")
	within(t, "the stalled server to know who leads", func() bool {
		next := c.leader()
		id, addr := l.Leader()
		return id == next.cfg.ID && addr == next.cfg.Addr
	})
	if f := l.Figures(); !f.DiskStalled || f.DiskStalls == 0 || f.GaveUp != 1 {
		t.Errorf("figures: stalled %v, stalls %d, gave up %d", f.DiskStalled, f.DiskStalls, f.GaveUp)
	}

	heal()
	healed = true
	within(t, "the server to follow", func() bool { return value(l.tree.Snap(), "a") == "new" })
	c.converge()
	if f := l.Figures(); f.DiskStalled {
		t.Error("the disk counts as stalled after it answered")
	}
	// And it may lead again.
	if err := c.leader().TransferLeadership(ctxFor(t, patience), l.cfg.ID); err != nil {
		t.Fatal(err)
	}
	within(t, "it to lead", l.IsLeader)
	c.write("d", "x")
	c.checkAcked(map[string]string{"a": "new", "d": "x"})
}

// Nobody else could answer in place of a server that is alone: its writes wait for the disk.
func TestStalledDiskOfTheOnlyServer(t *testing.T) {
	disks := map[string]*disk{}
	c := newCluster(t, 1, withDisks(disks))
	c.write("a", "1")
	l := c.leader()
	heal := disks[l.cfg.ID].stall()
	done := make(chan error, 1)
	go func() {
		res, err := l.Propose(ctxFor(t, patience), set("a", "2"))
		if err == nil && res.Code != kv.OK {
			err = fmt.Errorf("code %d", res.Code)
		}
		done <- err
	}()
	within(t, "the stall to be seen", func() bool { return l.Figures().DiskStalled })
	if s, _, err := l.Read(ctxFor(t, patience), consensus.Consistent); err != nil || value(s, "a") != "1" {
		t.Errorf("read beside a stalled disk: %v", err)
	}
	if f := l.Figures(); f.GaveUp != 0 {
		t.Error("the only server gave up")
	}
	heal()
	if err := <-done; err != nil {
		t.Errorf("the write that waited: %v", err)
	}
}

// A follower whose disk stalls costs the others nothing.
func TestStalledFollowerHoldsNobodyUp(t *testing.T) {
	disks := map[string]*disk{}
	c := newCluster(t, 3, steady, withDisks(disks))
	c.write("a", "1")
	l, f := c.leader(), c.followers()[0]
	heal := disks[f.cfg.ID].stall()
	c.write("a", "2")
	within(t, "the stall to be seen", func() bool { return f.Figures().DiskStalled })
	c.write("a", "3")
	if !l.IsLeader() || f.Figures().GaveUp != 0 {
		t.Error("the stalled disk of a follower cost the leader its office")
	}
	heal()
	c.converge()
}

// When a follower has been asked to stand for election, another may lead before the lease is over.
func TestNoLeaseWhileHandingOver(t *testing.T) {
	c := newCluster(t, 3, steady)
	c.write("a", "1")
	l := c.leader()
	within(t, "a lease", l.HasLease)
	if err := l.TransferLeadership(ctxFor(t, patience), ""); err != nil {
		t.Fatal(err)
	}
	if l.HasLease() {
		t.Error("the lease outlived the handing over")
	}
}

// fullDisk is a log store that may have no room.
type fullDisk struct {
	raft.LogStore
	full atomic.Bool
}

func (d *fullDisk) StoreLogs(logs []*raft.Log) error {
	if d.full.Load() {
		return &os.PathError{Op: "write", Path: "log", Err: syscall.ENOSPC}
	}
	return d.LogStore.StoreLogs(logs)
}

func (d *fullDisk) StoreLog(l *raft.Log) error { return d.StoreLogs([]*raft.Log{l}) }

// The write that finds no room has an unknown outcome; those after it are refused, while reads go on and the leader stays. The refusal ends by
// itself, since the file system has room in truth.
func TestFullDiskRefusesWrites(t *testing.T) {
	var d *fullDisk
	c := newCluster(t, 1, onDisk, tuned(func(c *consensus.Config) {
		consensus.SlowDisk(c, func(s raft.LogStore) raft.LogStore {
			d = &fullDisk{LogStore: s}
			return d
		})
	}))
	c.write("a", "1")
	l := c.leader()
	d.full.Store(true)
	if _, err := l.Propose(ctxFor(t, patience), set("b", "x")); !errors.Is(err, consensus.ErrUnknownOutcome) {
		t.Fatalf("the write that finds no room: %v", err)
	}
	d.full.Store(false) // there was room for less
	refused := false
	within(t, "writes to be taken again", func() bool {
		_, err := l.Propose(ctxFor(t, patience), set("c", "x"))
		refused = refused || errors.Is(err, consensus.ErrDiskFull)
		return err == nil
	})
	if !refused {
		t.Error("no write was refused")
	}
	c.checkAcked(map[string]string{"a": "1", "c": "x"})
}
