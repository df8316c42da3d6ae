package consensus

import (
	"errors"
	"fmt"
	"sync/atomic"

	"github.com/hashicorp/raft"
)

// A restarted server learns from its leader what is committed, and until then raft applies nothing of the log. Whoever asks the server in
// between, or when there is no leader any more, would see an old snapshot, or nothing. So the tree is brought to the newest index that this
// directory knows to be committed before raft starts, and raft's own replay of these entries changes nothing.

// errReplaying: the tree is ahead of raft, so a snapshot of it would not be that of raft's index.
var errReplaying = errors.New("consensus: the log is being replayed")

// preload does that. It leaves the snapshot to raft when the newest cannot be used.
func (n *Node) preload(machine *fsm) error {
	list, err := n.stores.snaps.List()
	if err != nil {
		return fmt.Errorf("consensus: snapshots in %s: %w", n.cfg.Dir, err)
	}
	meta, err := n.stores.restoreNewest(n.cfg.Dir, machine, allEntries)
	if err != nil {
		return err
	}
	if len(list) > 0 && meta.ID != list[0].ID {
		return nil // raft tries one after the other, and says so
	}
	first, err := n.stores.logs.FirstIndex()
	if err != nil {
		return fmt.Errorf("consensus: log in %s: %w", n.cfg.Dir, err)
	}
	last, err := n.stores.logs.LastIndex()
	if err != nil {
		return fmt.Errorf("consensus: log in %s: %w", n.cfg.Dir, err)
	}
	if last > 0 && last < meta.Index {
		// The server ended between a snapshot that came from elsewhere and the removal of the log it replaces. The log store takes
		// no entry after a gap, so this server could never append again.
		if err := n.stores.logs.DeleteRange(first, last); err != nil {
			return fmt.Errorf("consensus: remove the log that a snapshot replaced, in %s: %w", n.cfg.Dir, err)
		}
		first, last = 0, 0
	}
	last = min(last, n.dir.lastCommitted())
	n.rcfg.NoSnapshotRestoreOnStart = true
	n.progress.known.Store(last > 0 || meta.Index > 0)
	if first > meta.Index+1 {
		return nil // a gap that raft will complain about
	}
	batch, skip := make([]*raft.Log, 0, maxBatch), uint64(0)
	for i := meta.Index + 1; i <= last; i++ {
		l := new(raft.Log)
		if err := n.stores.logs.GetLog(i, l); err != nil {
			return fmt.Errorf("%w: log in %s is damaged at entry %d: %w; %s", ErrDataDir, n.cfg.Dir, i, err, damageHelp)
		}
		if l.Type == raft.LogCommand {
			skip = i
		}
		if batch = append(batch, l); len(batch) == cap(batch) || i == last {
			machine.ApplyBatch(batch)
			batch = batch[:0]
		}
	}
	machine.skip = skip // raft passes on commands only
	machine.seen.Store(0)
	return nil
}

// progress says whether this server's tree is fit to be shown. A server that came new knows nothing before it has what was committed when
// the leader first spoke to it.
type progress struct {
	known  atomic.Bool
	target atomic.Uint64 // commit index that the leader told first
}

// heard takes note of an append that came in.
func (p *progress) heard(r *raft.AppendEntriesRequest) {
	if r.LeaderCommitIndex > 0 && p.target.Load() == 0 {
		p.target.CompareAndSwap(0, r.LeaderCommitIndex)
	}
}

// CaughtUp says whether the tree holds at least what this server had before it was restarted or, for one that came new, what was
// committed when it came. What a server shows before that could lack anything.
func (n *Node) CaughtUp() bool {
	p := &n.progress
	if p.known.Load() {
		return true
	}
	if t := p.target.Load(); t > 0 && n.inTree(t) {
		p.known.Store(true)
		return true
	}
	return false
}

// inTree says whether the tree has taken every entry up to index. raft's AppliedIndex tells what was passed on, and the tree may be a queue
// behind that. raft keeps entries of its own to itself, so the newest command up to index decides.
func (n *Node) inTree(index uint64) bool {
	passed := n.raft.AppliedIndex()
	if passed < index {
		return false
	}
	list, err := n.stores.snaps.List()
	if err != nil {
		return false
	}
	var end uint64 // of the newest snapshot that the tree was restored from, or that was taken of it
	for _, s := range list {
		if s.Index <= passed {
			end = max(end, s.Index)
		}
	}
	first, err := n.stores.logs.FirstIndex()
	if err != nil {
		return false
	}
	for i := index; i > end && i >= first && i > n.machine.seen.Load(); i-- {
		var l raft.Log
		if err := n.stores.logs.GetLog(i, &l); err != nil || l.Type == raft.LogCommand {
			return false
		}
	}
	return true
}
