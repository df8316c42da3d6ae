package consensus

import (
	"errors"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/raft"

	"github.com/musterhq/muster/kv"
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

// Campaign makes a server stand for election now.
func (n *Node) Campaign() { n.trans.campaign() }

// LoadUpTo reads the directory of a stopped node up to a log entry.
func LoadUpTo(dir string, tree *kv.Tree, end uint64) (State, error) {
	id, err := readIdentity(dir)
	if err != nil {
		return State{}, err
	}
	d, err := openDir(dir, id.NodeID)
	if err != nil {
		return State{}, err
	}
	defer d.close()
	st, _, err := load(d, tree, end, hclog.NewNullLogger())
	return st, err
}

// SlowDisk puts f around raft's log store.
func SlowDisk(c *Config, f func(raft.LogStore) raft.LogStore) { c.wrapLog = f }

// HasLease says whether a Default read needs no round.
func (n *Node) HasLease() bool { return n.acks.lease.Load()+int64(n.cfg.Timing.Lease) > mono() }

// EmptyLog removes every entry of the log of a stopped node, as a snapshot from the leader does.
func EmptyLog(dir string) error {
	s, err := openStores(dir, hclog.NewNullLogger())
	if err != nil {
		return err
	}
	first, err := s.logs.FirstIndex()
	if err != nil {
		return err
	}
	last, err := s.logs.LastIndex()
	if err != nil {
		return err
	}
	return errors.Join(s.logs.DeleteRange(first, last), s.close())
}
