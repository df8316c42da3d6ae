package consensus

import (
	"time"

	"github.com/hashicorp/raft"
)

// ReloadTiming makes a running follower wait so long for its leader.
func (n *Node) ReloadTiming(heartbeat time.Duration) {
	err := n.raft.ReloadConfig(raft.ReloadableConfig{
		TrailingLogs: n.cfg.TrailingLogs, SnapshotInterval: n.cfg.SnapshotInterval, SnapshotThreshold: n.cfg.SnapshotThreshold,
		HeartbeatTimeout: heartbeat, ElectionTimeout: heartbeat,
	})
	if err != nil {
		panic(err)
	}
}
