package consensus

import (
	"errors"
	"fmt"
	"io"
	"sync/atomic"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/raft"

	"github.com/musterhq/muster/kv"
)

// fsm feeds committed entries to the tree. raft calls it from one goroutine.
type fsm struct {
	tree  *kv.Tree
	log   hclog.Logger
	clock *clusterClock
	// changed is called after a batch when the earliest deadline of the tree is another one.
	deadlineChanged func()
	// persisted is called with the size of each snapshot written.
	persisted func(bytes int64)

	// skip is the newest entry that is in the tree before raft comes to it (preload.go), seen the newest that raft has passed on and
	// the tree has taken. Anybody may read seen.
	skip uint64
	seen atomic.Uint64

	lastDeadline atomic.Int64
	txns         []kv.Txn // reused between batches
	at           []int    // position in the batch of each of txns
}

var _ raft.BatchingFSM = (*fsm)(nil)

// ApplyBatch applies all commands of logs with one publish. The responses to commands are *kv.Result.
func (f *fsm) ApplyBatch(logs []*raft.Log) []any {
	responses := make([]any, len(logs))
	defer func() { f.seen.Store(logs[len(logs)-1].Index) }()
	f.txns, f.at = f.txns[:0], f.at[:0]
	for i, l := range logs {
		if l.Type != raft.LogCommand || f.skip > 0 && l.Index <= f.skip {
			continue
		}
		t, err := kv.UnmarshalTxn(l.Data)
		if err != nil {
			responses[i] = f.refuse(l, err)
			continue
		}
		f.txns, f.at = append(f.txns, t), append(f.at, i)
	}
	if len(f.txns) == 0 {
		return responses
	}
	results := f.tree.Apply(f.txns...)
	clear(f.txns) // let go of the values
	for n, i := range f.at {
		responses[i] = &results[n]
	}
	f.clock.applied(f.tree.LastNow())
	f.noteDeadline()
	return responses
}

// refuse answers an entry that cannot be read: it changes nothing, the same on every replica of this version.
// Nothing this package proposes is unreadable to it, so the log was written by a newer version, or is damaged.
func (f *fsm) refuse(l *raft.Log, err error) *kv.Result {
	f.log.Error("log entry cannot be read, it changes nothing here", "raft-index", l.Index, "error", err)
	res := &kv.Result{Code: kv.BadTxn, Index: f.tree.Snap().Index()}
	var bad *kv.TxnError
	if errors.As(err, &bad) {
		res.Code = bad.Code
	}
	return res
}

// Apply is the single form of ApplyBatch.
func (f *fsm) Apply(l *raft.Log) any { return f.ApplyBatch([]*raft.Log{l})[0] }

func (f *fsm) noteDeadline() {
	if d := f.tree.NextExpiry(); f.lastDeadline.Swap(d) != d {
		f.deadlineChanged()
	}
}

// Snapshot captures the present root; writing it out happens beside further Applies.
func (f *fsm) Snapshot() (raft.FSMSnapshot, error) {
	if f.seen.Load() < f.skip {
		return nil, errReplaying
	}
	return &fsmSnapshot{snap: f.tree.Snap(), persisted: f.persisted}, nil
}

// Restore replaces the tree.
func (f *fsm) Restore(r io.ReadCloser) error {
	if err := f.tree.Restore(r); err != nil {
		return fmt.Errorf("consensus: restore snapshot: %w", err)
	}
	f.skip = 0
	f.clock.applied(f.tree.LastNow())
	f.noteDeadline()
	return nil
}

type fsmSnapshot struct {
	snap      *kv.Snap
	persisted func(int64)
}

func (s *fsmSnapshot) Persist(sink raft.SnapshotSink) error {
	n, err := s.snap.WriteTo(&paced{Writer: sink, since: time.Now()})
	if err != nil {
		_ = sink.Cancel()
		return fmt.Errorf("consensus: write snapshot: %w", err)
	}
	if err := sink.Close(); err != nil {
		return fmt.Errorf("consensus: finish snapshot: %w", err)
	}
	s.persisted(n)
	return nil
}

func (s *fsmSnapshot) Release() {}

// clusterClock estimates, on a follower, what the clock of the leader showed when it was last heard of: the time
// in the newest Txn, plus the time that passed here between applying it and the leader's last heartbeat. Only
// durations are measured here, so the estimate needs no agreement between the wall clocks of the servers. It is
// never ahead of the leader's true clock, because a Txn is applied after it was stamped.
type clusterClock struct {
	now  atomic.Int64 // newest Txn.Now seen
	at   atomic.Int64 // mono() when it was applied
	seen atomic.Int64 // mono() of the last heartbeat of a leader
	kept atomic.Int64 // a lower bound known otherwise: the alive stamp, or our own clock while we led
}

func (c *clusterClock) applied(now int64) {
	if now > c.now.Load() {
		// at first: a reader between the two stores computes an estimate that is too low, never too high.
		c.at.Store(mono())
		c.now.Store(now)
	}
}

func (c *clusterClock) heartbeat() { c.seen.Store(mono()) }

// keep raises the lower bound.
func (c *clusterClock) keep(now int64) {
	for {
		old := c.kept.Load()
		if now <= old || c.kept.CompareAndSwap(old, now) {
			return
		}
	}
}

// lastAlive is the estimate in unix nanoseconds; 0 when nothing is known.
func (c *clusterClock) lastAlive() int64 {
	now := c.now.Load()
	if now != 0 {
		now += max(0, c.seen.Load()-c.at.Load())
	}
	return max(now, c.kept.Load())
}

var processStart = time.Now()

// mono is a monotonic clock in nanoseconds, unmoved by changes of the wall clock.
func mono() int64 { return int64(time.Since(processStart)) }
