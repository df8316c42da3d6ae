// Package consensus keeps one kv.Tree equal on several servers: hashicorp/raft behind three verbs.
//
//	node, err := consensus.Open(consensus.Config{
//		ID: uuid, Addr: "10.0.0.1:8300", Dir: "/var/lib/muster/raft", Tree: tree, Layer: srv.RaftLayer(dialer),
//	})
//	err = node.Bootstrap([]consensus.Server{{ID: uuid, Addr: "10.0.0.1:8300", Voter: true}})   // once, ever
//
//	res, err := node.Propose(ctx, kv.Txn{Ops: ops})             // on the leader: replicated, on disk, applied
//	snap, meta, err := node.Read(ctx, consensus.Consistent)      // linearizable
//	node.OnLeader("sweeper", func(ctx context.Context) { … })    // runs while this server leads
//
// Everything that happens on a server without leadership says so with ErrNotLeader (nothing ran; ask the leader)
// and everything whose fate cannot be known says ErrUnknownOutcome (it may yet happen; do not repeat blindly).
package consensus

import (
	"errors"
	"fmt"
	"net"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/go-metrics"
	"github.com/hashicorp/raft"

	"github.com/musterhq/muster/kv"
)

// Layer is the network of raft: *peer.RaftLayer.
type Layer interface {
	net.Listener
	Dial(addr string, timeout time.Duration) (net.Conn, error)
}

// Config of a Node. ID, Addr, Tree and Layer are needed; the zero value of every other field means its default.
type Config struct {
	ID      string // unique for ever; never reused for another data directory
	Name    string // for people, in logs
	Addr    string // "host:port" where the other servers reach this one's server port
	Dir     string // data directory, exclusively ours; "" keeps everything in memory
	Tree    *kv.Tree
	Layer   Layer
	Logger  hclog.Logger
	Metrics *metrics.Metrics

	// Resolve returns the present address of a server when it is known better than the one raft has stored.
	Resolve func(id string) (addr string, ok bool)

	Timing Timing

	SnapshotThreshold uint64        // least number of entries between snapshots; large trees wait longer (see DESIGN.md)
	SnapshotInterval  time.Duration // how often the need for a snapshot is checked (up to twice that)
	TrailingLogs      uint64        // entries kept behind a snapshot for followers that are a little late

	wrapLog func(raft.LogStore) raft.LogStore // tests put a slow disk in between
}

// Timing of leadership. All servers of a cluster must use the same.
type Timing struct {
	Heartbeat time.Duration // silence of the leader after which a follower stands for election
	Election  time.Duration // time for one election before it is repeated, at least Heartbeat; 0.7 of it for one append to the log
	Lease     time.Duration // a leader that reaches no quorum for so long steps down; below Heartbeat
	Commit    time.Duration // idle time after which followers are told the commit index
}

// LAN returns the default Timing: for servers within a few milliseconds of each other.
// See DESIGN.md for the sums.
func LAN() Timing {
	return Timing{Heartbeat: 350 * time.Millisecond, Election: 700 * time.Millisecond, Lease: 300 * time.Millisecond, Commit: 25 * time.Millisecond}
}

// WAN returns a Timing for servers up to some 150 milliseconds apart.
func WAN() Timing {
	return Timing{Heartbeat: 1500 * time.Millisecond, Election: 1500 * time.Millisecond, Lease: 1250 * time.Millisecond, Commit: 50 * time.Millisecond}
}

// Defaults.
const (
	DefaultSnapshotThreshold = 16384
	DefaultSnapshotInterval  = time.Second
	DefaultTrailingLogs      = 10240

	// maxBatch bounds how many entries share one fsync and one message, and so how many proposals are under
	// way at once.
	maxBatch = 256
	// An entry above largeEntry bytes goes alone, so that a batch, which is one write and one message, stays
	// below 256 x 256 KiB + 32 MiB. The log store cannot read back entries above 64 MiB.
	largeEntry       = 256 << 10
	maxEntry         = 32 << 20
	snapshotsKept    = 2
	rpcTimeout       = 10 * time.Second
	connsPerPeer     = 4
	logCacheEntries  = 1024
	logCacheLargest  = 32 << 10 // so the cache holds 32 MiB at most
	snapshotBytesPer = 400      // see fsm.go: one entry of log is tolerated per so many bytes of snapshot
)

// Consistency of a Read.
type Consistency int

// Kinds of reads.
const (
	// Default reads on the leader while its lease holds: no message, never older than anything acknowledged,
	// unless clocks run at different speeds.
	Default Consistency = iota
	// Consistent asks a quorum whether this server still leads, after the read has begun: linearizable.
	Consistent
	// Stale reads what this server has, leader or not.
	Stale
)

// ReadMeta tells under which circumstances a Read was answered.
type ReadMeta struct {
	KnownLeader bool          // a leader is known
	LastContact time.Duration // since this server last heard of the leader; 0 on the leader, negative when never
}

// Errors. Test with errors.Is; a NotLeaderError is also found by errors.As.
var (
	// ErrNotLeader: this server does not lead; nothing ran. It is always a *NotLeaderError with the leader.
	ErrNotLeader = errors.New("consensus: not the leader")
	// ErrNoLeader: no leader is known at the moment; nothing ran.
	ErrNoLeader = errors.New("consensus: no cluster leader")
	// ErrUnknownOutcome: the proposal was handed to raft, but leadership, the log or the caller's patience was
	// lost before the result was known. It may or may not take effect.
	ErrUnknownOutcome = errors.New("consensus: outcome unknown")
	// ErrClosed: the Node was closed; nothing ran unless ErrUnknownOutcome is wrapped as well.
	ErrClosed = errors.New("consensus: closed")
	// ErrDiskFull: the disk of the leader is full; nothing ran.
	ErrDiskFull = errors.New("consensus: the disk of the leader is full, writes are refused until there is space")
	// ErrQuorum: the change would leave fewer live voters than a quorum needs.
	ErrQuorum = errors.New("consensus: the cluster would lose its quorum")
	// ErrHasState: Bootstrap on a server that already belongs to a cluster.
	ErrHasState = errors.New("consensus: this server already belongs to a cluster")
	// ErrDataDir: the data directory belongs to another node, another cluster, another format, or a running process.
	ErrDataDir = errors.New("consensus: data directory refused")
	// ErrInUse: the data directory is locked by a running process. Wrapped together with ErrDataDir.
	ErrInUse = errors.New("in use by another process")
	// ErrBackup: the data directory is a backup, which has no members; Recover makes a cluster of it.
	ErrBackup = errors.New("consensus: this data directory is a backup without members")
)

// NotLeaderError says who leads. It wraps ErrNotLeader, and ErrNoLeader as well when nobody is known to lead.
type NotLeaderError struct {
	LeaderID   string // "" when unknown
	LeaderAddr string
}

func (e *NotLeaderError) Error() string {
	if e.LeaderAddr == "" {
		return ErrNoLeader.Error()
	}
	return fmt.Sprintf("%v: the leader is %s", ErrNotLeader, e.LeaderAddr)
}

// Is makes errors.Is work for both sentinels.
func (e *NotLeaderError) Is(target error) bool {
	return target == ErrNotLeader || (target == ErrNoLeader && e.LeaderAddr == "")
}

// Server is one member of the raft configuration.
type Server struct {
	ID    string
	Addr  string
	Voter bool

	// The following are filled in by Servers.
	Leader      bool
	LastContact time.Time // on the leader: when the server last answered; zero when it has not
	Match       uint64    // on the leader: raft index up to which the server is known to have the log
}

// Status describes a Node for people and for decisions about membership.
type Status struct {
	ID, Addr     string
	State        string // Leader, Follower, Candidate, Shutdown
	LeaderID     string
	LeaderAddr   string
	ClusterID    string
	Term         uint64
	LastIndex    uint64 // raft index of the last entry on disk
	CommitIndex  uint64
	AppliedIndex uint64
	LastContact  time.Duration // as in ReadMeta
	Ready        bool          // leader and past its first barrier
}

func (c *Config) setDefaults() error {
	for _, f := range []struct {
		name  string
		unset bool
	}{{"ID", c.ID == ""}, {"Addr", c.Addr == ""}, {"Tree", c.Tree == nil}, {"Layer", c.Layer == nil}} {
		if f.unset {
			return fmt.Errorf("consensus: Config.%s is not set", f.name)
		}
	}
	if c.Logger == nil {
		c.Logger = hclog.NewNullLogger()
	}
	if c.Timing == (Timing{}) {
		c.Timing = LAN()
	}
	if c.SnapshotThreshold == 0 {
		c.SnapshotThreshold = DefaultSnapshotThreshold
	}
	if c.SnapshotInterval == 0 {
		c.SnapshotInterval = DefaultSnapshotInterval
	}
	if c.TrailingLogs == 0 {
		c.TrailingLogs = DefaultTrailingLogs
	}
	return nil
}
