package consensus

import (
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/hashicorp/raft"
)

// Restore replaces the state of the whole cluster by a snapshot of the tree (kv.Snap.WriteBare) of size bytes, which
// must be one that Tree.Restore accepts: a replica that cannot take it ends. Only the leader can; it returns when a
// quorum has the new state. Proposals under way end with ErrUnknownOutcome. Errors: ErrNotLeader and what reading r
// gives (nothing has changed then), ErrUnknownOutcome, or that servers are just being added or removed.
func (n *Node) Restore(ctx context.Context, r io.Reader, size int64) error {
	if _, err := n.leading(ctx); err != nil {
		return err
	}
	n.configuring.Lock()
	defer n.configuring.Unlock()
	n.restoring.Lock()
	defer n.restoring.Unlock()
	select {
	case <-n.closing:
		return ErrClosed
	default:
	}
	src := &checkedReader{r: io.LimitReader(r, size)}
	err := n.raft.Restore(&raft.SnapshotMeta{Version: raft.SnapshotVersionMax, Size: size}, src, 0)
	switch {
	case err == nil:
		return nil
	case src.err != nil:
		return src.err
	case errors.Is(err, raft.ErrNotLeader):
		return n.notLeader()
	case errors.Is(err, raft.ErrLeadershipLost), errors.Is(err, raft.ErrRaftShutdown), errors.Is(err, raft.ErrAbortedByRestore):
		return fmt.Errorf("%w: %w", ErrUnknownOutcome, err)
	}
	return fmt.Errorf("consensus: restore: %w", err)
}

// checkedReader remembers the error of its reader, of which raft keeps only the text.
type checkedReader struct {
	r   io.Reader
	err error
}

func (c *checkedReader) Read(b []byte) (int, error) {
	n, err := c.r.Read(b)
	if err != nil && !errors.Is(err, io.EOF) {
		c.err = err
	}
	return n, err
}
