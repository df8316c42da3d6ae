package consensus

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/raft"

	"github.com/musterhq/muster/kv"
)

// Node is one server's part in the cluster. All methods are safe for concurrent use.
type Node struct {
	recorded string // cluster id in the data directory when it was opened
	cfg      Config
	log      hclog.Logger
	tree     *kv.Tree
	dir      *dataDir
	stores   *stores
	machine  *fsm // feeds the tree
	trans    *transport
	raft     *raft.Raft
	rcfg     *raft.Config
	acks     *acks
	figures  figures
	given    abdication
	progress progress
	full     atomic.Bool // an append found no room on the disk
	clock    clusterClock

	members  atomic.Pointer[members] // of the newest configuration
	lead     atomic.Pointer[leadership]
	jobs     jobs
	change   broadcast     // the leader is another one
	deadline chan struct{} // the earliest deadline of the tree is another one
	suspect  chan struct{} // an incoming stream broke: the leader may be dead

	slots    chan struct{}      // one per proposal under way
	large    chan struct{}      // held by the one large proposal under way
	underway chan *proposal     // handed to raft, in order
	reads    chan *verifyWaiter // Consistent reads of this leadership

	configuring sync.Mutex // one change of the configuration at a time
	restoring   sync.Mutex // held while raft puts a backup in place: ending then, it would panic

	stallMu   sync.Mutex // guards lastGiven
	lastGiven time.Time  // when this server last gave up a term because of its disk

	closing  chan struct{} // closed when Close begins
	closed   chan struct{} // closed when raft has ended
	shutdown sync.Once
	wg       sync.WaitGroup
}

// Open starts raft on what the data directory holds. A server with state rejoins its cluster by itself; a fresh one
// waits for Bootstrap or to be added by the leader.
func Open(cfg Config) (*Node, error) {
	if err := cfg.setDefaults(); err != nil {
		return nil, err
	}
	n := &Node{
		cfg: cfg, log: cfg.Logger, tree: cfg.Tree,
		deadline: make(chan struct{}, 1), suspect: make(chan struct{}, 1),
		slots: make(chan struct{}, maxBatch), large: make(chan struct{}, 1), underway: make(chan *proposal, maxBatch), reads: make(chan *verifyWaiter, maxBatch),
		closing: make(chan struct{}), closed: make(chan struct{}),
	}
	n.change.init()
	n.acks = &acks{voters: n.otherVoters}
	n.members.Store(&members{})
	var err error
	if n.dir, err = openDir(cfg.Dir, cfg.ID); err != nil {
		return nil, err
	}
	n.recorded = n.dir.id.ClusterID
	n.clock.keep(n.dir.lastStamp())
	if n.stores, err = openStores(cfg.Dir, n.log); err != nil {
		n.dir.close()
		return nil, err
	}
	if err = n.stores.checkStart(cfg.Dir, n.dir.lastCommitted()); err == nil {
		err = n.stores.checkMembers()
	}
	if err == nil {
		err = n.startRaft()
	}
	if err != nil {
		_ = n.stores.close()
		n.dir.close()
		return nil, err
	}
	for _, f := range []func(){n.verifyReads, n.watchLeader, n.keepAlive} {
		n.wg.Go(f)
	}
	go n.collect() // not waited for: raft may leave a proposal unanswered when it ends
	if n.soleVoter() {
		// Nobody else can answer: there is nothing to wait for.
		n.trans.campaign()
	}
	return n, nil
}

func (n *Node) startRaft() error {
	c := raft.DefaultConfig()
	c.LocalID = raft.ServerID(n.cfg.ID)
	c.HeartbeatTimeout, c.ElectionTimeout = n.cfg.Timing.Heartbeat, n.cfg.Timing.Election
	c.LeaderLeaseTimeout, c.CommitTimeout = n.cfg.Timing.Lease, n.cfg.Timing.Commit
	c.MaxAppendEntries, c.BatchApplyCh = maxBatch, true
	c.ShutdownOnRemove = false // a removed server still answers stale reads until it is stopped
	c.SnapshotThreshold, c.SnapshotInterval, c.TrailingLogs = n.cfg.SnapshotThreshold, n.cfg.SnapshotInterval, n.cfg.TrailingLogs
	c.Logger = n.log.Named("raft")
	c.NoLegacyTelemetry = true
	leads := make(chan bool, 16)
	c.NotifyCh = leads
	n.rcfg = c

	tc := &raft.NetworkTransportConfig{
		Logger: n.log.Named("raft"), Stream: &streams{Layer: n.cfg.Layer, addr: n.cfg.Addr, broken: func() { poke(n.suspect) }},
		MaxPool: connsPerPeer, Timeout: rpcTimeout,
	}
	if n.cfg.Resolve != nil {
		tc.ServerAddressProvider = resolver(n.cfg.Resolve)
	}
	n.trans = newTransport(raft.NewNetworkTransportWithConfig(tc), n.acks, &n.figures, &n.given, &n.progress)
	n.trans.heartbeat = n.clock.heartbeat
	started := make(chan struct{})
	n.trans.term = func() uint64 { <-started; return n.raft.CurrentTerm() }

	n.given.change = n.change.wake
	var logs raft.LogStore = n.stores.logs
	if n.cfg.wrapLog != nil {
		logs = n.cfg.wrapLog(logs)
	}
	logs = &watchedLog{LogStore: logs, limit: n.cfg.Timing.stallAfter(), late: func(over <-chan struct{}) { <-started; n.late(over) }, ended: n.appended}
	n.machine = &fsm{tree: n.tree, log: n.log, clock: &n.clock, deadlineChanged: func() { poke(n.deadline) }, persisted: n.persisted}
	var err error
	if n.cfg.Dir != "" {
		if err = n.preload(n.machine); err != nil {
			_ = n.trans.Close()
			return err
		}
	}
	n.raft, err = raft.NewRaft(c, n.machine, logs, n.stores.stable, n.stores.snaps, n.trans)
	if err != nil {
		_ = n.trans.Close()
		return fmt.Errorf("consensus: start raft: %w", err)
	}
	n.refreshMembers()
	close(started)
	n.wg.Go(func() { n.followLeadership(leads) })
	return nil
}

type resolver func(id string) (string, bool)

func (f resolver) ServerAddr(id raft.ServerID) (raft.ServerAddress, error) {
	if addr, ok := f(string(id)); ok {
		return raft.ServerAddress(addr), nil
	}
	return "", errors.New("no newer address known")
}

// poke leaves a note in a channel of one place.
func poke(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// persisted adapts the distance between snapshots to their size: a large tree is written less often, a small one
// keeps the log that a restart must replay short.
func (n *Node) persisted(bytes int64) {
	want := max(n.cfg.SnapshotThreshold, uint64(bytes)/snapshotBytesPer)
	err := n.raft.ReloadConfig(raft.ReloadableConfig{
		TrailingLogs: n.cfg.TrailingLogs, SnapshotInterval: n.cfg.SnapshotInterval, SnapshotThreshold: want,
		HeartbeatTimeout: n.cfg.Timing.Heartbeat, ElectionTimeout: n.cfg.Timing.Election,
	})
	if err != nil {
		n.log.Error("cannot set the distance between snapshots", "error", err)
	}
}

// HasState says whether this server has ever been part of a cluster.
func (n *Node) HasState() bool {
	has, err := raft.HasExistingState(n.stores.logs, n.stores.stable, n.stores.snaps)
	return has || err != nil
}

// Bootstrap forms a new cluster of the given servers, this one among them as a voter. Called on several servers it
// must be given the same list. On a server with state it fails with ErrHasState and changes nothing.
func (n *Node) Bootstrap(servers []Server) error {
	var c raft.Configuration
	for _, s := range servers {
		rs := raft.Server{ID: raft.ServerID(s.ID), Address: raft.ServerAddress(s.Addr), Suffrage: raft.Nonvoter}
		if s.Voter {
			rs.Suffrage = raft.Voter
		}
		c.Servers = append(c.Servers, rs)
	}
	err := n.raft.BootstrapCluster(c).Error()
	switch {
	case errors.Is(err, raft.ErrCantBootstrap):
		return ErrHasState
	case err != nil:
		return fmt.Errorf("consensus: bootstrap: %w", err)
	}
	n.refreshMembers()
	if n.soleVoter() {
		n.trans.campaign()
	}
	return nil
}

// Leader returns the leader as this server knows it; empty strings when it knows none.
func (n *Node) Leader() (id, addr string) {
	if n.gaveUp() {
		return n.given.leader() // raft is blocked, and knows only itself
	}
	a, i := n.raft.LeaderWithID()
	return string(i), string(a)
}

// IsLeader says whether this server leads, by its own knowledge, and may have its first barrier still ahead.
func (n *Node) IsLeader() bool { return n.raft.State() == raft.Leader && !n.gaveUp() }

// LeaderChanged returns a channel that is closed when the leader is next another one, or none. Take the channel
// first, then ask Leader.
func (n *Node) LeaderChanged() <-chan struct{} { return n.change.wait() }

// WaitLeader returns as soon as a leader is known; on the leader itself when it is ready to serve.
func (n *Node) WaitLeader(ctx context.Context) error {
	for {
		changed := n.LeaderChanged()
		if l := n.lead.Load(); l != nil {
			if l.isReady() {
				return nil
			}
		} else if id, _ := n.Leader(); id != "" && id != n.cfg.ID {
			return nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return fmt.Errorf("%w: %w", ErrNoLeader, ctx.Err())
		case <-n.closing:
			return ErrClosed
		}
	}
}

// Snapshot writes a snapshot now and shortens the log. Nothing new since the last one is no error.
func (n *Node) Snapshot() error {
	if err := n.raft.Snapshot().Error(); err != nil && !errors.Is(err, raft.ErrNothingNewToSnapshot) {
		return fmt.Errorf("consensus: snapshot: %w", err)
	}
	return nil
}

// ClusterID is the id of the cluster; "" until the first leader has set it.
func (n *Node) ClusterID() string {
	if e, ok := n.tree.Snap().Get(clusterPath); ok {
		return e.Value()
	}
	return n.recorded // a restarted server belongs to its cluster before it has replayed the log
}

// Status tells how this server is doing.
func (n *Node) Status() Status {
	id, addr := n.Leader()
	s := Status{
		ID: n.cfg.ID, Addr: n.cfg.Addr, State: n.raft.State().String(), LeaderID: id, LeaderAddr: addr, ClusterID: n.ClusterID(),
		Term: n.raft.CurrentTerm(), LastIndex: n.raft.LastIndex(), CommitIndex: n.raft.CommitIndex(), AppliedIndex: n.raft.AppliedIndex(),
		LastContact: n.LastContact(),
	}
	if l := n.lead.Load(); l != nil {
		s.Ready = l.isReady()
	} else if n.gaveUp() {
		s.State = raft.Follower.String()
	}
	return s
}

// LastContact is how long ago this server last heard of the leader: 0 on the leader, negative when it never did.
func (n *Node) LastContact() time.Duration {
	if n.IsLeader() {
		return 0
	}
	t := n.raft.LastContact()
	if t.IsZero() {
		return -1
	}
	return time.Since(t)
}

// Close hands leadership over if it can, waits for proposals under way, and stops raft. ctx bounds the waiting,
// not the stopping. Further calls do nothing.
func (n *Node) Close(ctx context.Context) error {
	var err error
	n.shutdown.Do(func() {
		if n.IsLeader() && len(n.members.Load().others) > 0 {
			handover, cancel := context.WithTimeout(ctx, 2*n.cfg.Timing.Election)
			if err := n.TransferLeadership(handover, ""); err != nil {
				n.log.Warn("stopping without having handed over leadership", "error", err)
			}
			cancel()
		}
		close(n.closing)
		n.drain(ctx)
		n.restoring.Lock() // whatever ctx says: raft looks neither left nor right while it restores
		err = n.raft.Shutdown().Error()
		n.restoring.Unlock()
		close(n.closed)
		n.wg.Wait()
		n.jobs.stop()
		if id := n.clock.lastAlive(); id != 0 {
			_ = n.dir.stamp(id, n.raft.AppliedIndex())
		}
		err = errors.Join(err, n.stores.close())
		n.dir.close()
	})
	return err
}

// broadcast wakes everyone who waits, again and again.
type broadcast struct {
	mu sync.Mutex
	c  chan struct{}
}

func (b *broadcast) init() { b.c = make(chan struct{}) }

func (b *broadcast) wait() <-chan struct{} {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.c
}

func (b *broadcast) wake() {
	b.mu.Lock()
	defer b.mu.Unlock()
	close(b.c)
	b.c = make(chan struct{})
}
