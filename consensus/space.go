package consensus

import (
	"errors"
	"syscall"
)

// spaceNeeded is how many bytes must be free for writes to be taken again after the disk was full: the next file of
// the log, and as much again for whatever else writes there.
const spaceNeeded = 2 * segmentBytes

// appended looks at how an append to the log ended. One that found no room costs a leader its office, because raft steps down when its log
// fails. A server that is alone would lead and fall again with every write, so what clients write is refused until there is space.
func (n *Node) appended(err error) {
	if errors.Is(err, syscall.ENOSPC) && !n.full.Swap(true) {
		n.log.Error("the disk is full: writes are refused until there is space", "directory", n.cfg.Dir, "needed bytes", spaceNeeded)
		n.measureFull(1)
	}
}

// passOn hands leadership over when this server was elected with a full disk: somebody else may have room.
func (n *Node) passOn(l *leadership) {
	if !l.passing.Load() {
		return
	}
	if err := n.TransferLeadership(l.ctx, ""); err != nil && l.ctx.Err() == nil {
		n.log.Warn("leading with a full disk", "error", err)
		l.passing.Store(false)
	}
}

// refuseFull is the error of a write while the disk is full: nobody leads as long as somebody else is about to.
func (n *Node) refuseFull() error {
	if l := n.lead.Load(); l == nil || l.passing.Load() {
		return n.notLeader()
	}
	return ErrDiskFull
}

// lookForSpace ends the refusal; it is called once a second.
func (n *Node) lookForSpace() {
	if !n.full.Load() {
		return
	}
	if free, err := freeBytes(n.cfg.Dir); err != nil || free < spaceNeeded {
		return
	}
	n.full.Store(false)
	n.log.Info("the disk has space again: writes are taken", "directory", n.cfg.Dir)
	n.measureFull(0)
}

func (n *Node) measureFull(v float32) {
	if n.cfg.Metrics != nil {
		n.cfg.Metrics.SetGauge([]string{"consensus", "disk", "full"}, v)
	}
}
