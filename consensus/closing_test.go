package consensus_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/musterhq/muster/consensus"
	"github.com/musterhq/muster/kv"
)

// endReader says when its last byte was read.
type endReader struct {
	*bytes.Buffer
	end chan struct{}
}

func (r *endReader) Read(b []byte) (int, error) {
	n, err := r.Buffer.Read(b)
	if n > 0 && r.Len() == 0 {
		close(r.end)
	}
	return n, err
}

// TestCloseWhileRestoring closes a leader that is putting a restored state in place: raft takes the end of its machine
// for damage of the snapshot, and panics.
func TestCloseWhileRestoring(t *testing.T) {
	c := newCluster(t, 1, onDisk)
	l := c.leader()
	source := kv.New(kv.Options{})
	for at := range 40 {
		txns := make([]kv.Txn, 500)
		for i := range txns {
			txns[i] = set(fmt.Sprintf("restored-%d-%d", at, i), "value")
		}
		source.Apply(txns...)
	}
	var backup bytes.Buffer
	if err := source.Snap().WriteBare(&backup); err != nil {
		t.Fatal(err)
	}
	read := make(chan struct{})
	restored := make(chan error, 1)
	go func() {
		size := int64(backup.Len())
		restored <- l.Restore(context.Background(), &endReader{&backup, read}, size)
	}()
	<-read
	dir := l.cfg.Dir
	c.stop(l)
	select {
	case err := <-restored:
		if err != nil && !errors.Is(err, consensus.ErrUnknownOutcome) {
			t.Fatalf("restore: %v", err)
		}
	case <-time.After(patience):
		t.Fatal("the restore does not end with its server")
	}
	if err := l.Restore(context.Background(), &bytes.Buffer{}, 0); err == nil {
		t.Error("a closed server restores")
	}
	m := c.restart(l, dir)
	c.leader()
	if got := value(m.tree.Snap(), "restored-39-499"); got != "value" {
		t.Errorf("the restored state is not there after the next start: %q", got)
	}
}

// TestCloseAtAnyMoment ends servers in the middle of what they do: elections, appends, snapshots sent and received. A store that
// is closed under raft's main goroutine is a panic there.
func TestCloseAtAnyMoment(t *testing.T) {
	c := newCluster(t, 3, onDisk, tuned(func(c *consensus.Config) {
		c.SnapshotThreshold, c.SnapshotInterval, c.TrailingLogs = 20, 20*time.Millisecond, 5
	}))
	c.leader()
	stop := c.load(3)
	for round := range 12 {
		m := c.members[round%3]
		if round%2 == 0 {
			m = c.leader()
		}
		dir := m.cfg.Dir
		ctx, cancel := context.WithCancel(context.Background())
		if round%3 != 0 {
			cancel() // no time for a goodbye
		}
		if err := m.Close(ctx); err != nil {
			t.Errorf("close: %v", err)
		}
		cancel()
		c.stop(m)
		c.restart(m, dir)
	}
	c.write("after", "x")
	c.checkAcked(stop())
	c.converge()
}
