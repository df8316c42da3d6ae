package consensus

import (
	"context"
	"strconv"
	"time"

	"github.com/hashicorp/raft"
)

// idleEntries is how few entries in a second count as idle.
const idleEntries = 1000

// keepAlive does what is done once a second: the alive stamp while there is a leader, and a snapshot in idle times.
func (n *Node) keepAlive() {
	tick := time.NewTicker(stampEach)
	defer tick.Stop()
	var seen uint64
	for {
		select {
		case <-n.closed:
			return
		case <-tick.C:
		}
		n.stampAlive()
		n.lookForSpace()
		now := n.raft.AppliedIndex()
		if now-seen < idleEntries {
			n.snapshotIdle(now)
		}
		seen = now
	}
}

func (n *Node) stampAlive() {
	if l := n.lead.Load(); l != nil && l.isReady() {
		n.clock.keep(time.Now().UnixNano())
	} else if id, _ := n.Leader(); id == "" {
		return
	}
	if id := n.ClusterID(); id != "" {
		if err := n.dir.setCluster(id); err != nil {
			n.log.Error("cluster id", "error", err)
		}
	}
	if err := n.dir.stamp(n.clock.lastAlive(), n.raft.AppliedIndex()); err != nil {
		n.log.Warn("cannot write the alive stamp", "error", err)
	}
}

// snapshotIdle uses a quiet moment to shorten the log that a restart would have to replay. Under load snapshots of a
// large tree are further apart (see persisted).
func (n *Node) snapshotIdle(applied uint64) {
	last, err := strconv.ParseUint(n.raft.Stats()["last_snapshot_index"], 10, 64)
	if err != nil || applied < last+n.cfg.SnapshotThreshold {
		return
	}
	if err := n.raftCall(context.Background(), n.Snapshot); err != nil && n.raft.State() != raft.Shutdown {
		n.log.Warn("snapshot in an idle moment failed", "error", err)
	}
}
