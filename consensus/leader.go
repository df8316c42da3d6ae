package consensus

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/raft"

	"github.com/musterhq/muster/kv"
)

// clusterPath holds the cluster id in the tree.
const clusterPath = "m/cluster"

// leadership is one term of this server as leader.
type leadership struct {
	term    uint64
	ctx     context.Context // done when leadership is lost
	end     context.CancelFunc
	gaveUp  chan struct{} // closed when this server gives the term up while raft is blocked
	passing atomic.Bool   // the disk is full, and somebody else is asked to lead
	ready   chan struct{} // closed once the tree holds everything committed before and the outage is made good
}

func (l *leadership) isReady() bool {
	select {
	case <-l.ready:
		return true
	default:
		return false
	}
}

// followLeadership reacts to what raft says about our leadership. raft waits for this loop, so it never blocks.
func (n *Node) followLeadership(leads <-chan bool) {
	end := func() {
		if l := n.lead.Swap(nil); l != nil {
			l.end()
			n.clock.keep(time.Now().UnixNano()) // until now we could expire
		}
	}
	defer end()
	for {
		select {
		case lead := <-leads:
			end()
			if lead {
				ctx, cancel := context.WithCancel(context.Background())
				l := &leadership{ctx: ctx, end: cancel, gaveUp: make(chan struct{}), ready: make(chan struct{})}
				n.refreshMembers()
				n.lead.Store(l)
				n.wg.Go(func() { n.begin(l) })
			}
			n.change.wake()
		case <-n.closed:
			return
		}
	}
}

// begin brings a new leadership up: barrier first, then the outage, then the jobs.
func (n *Node) begin(l *leadership) {
	for {
		term := n.raft.CurrentTerm()
		err := n.raftCall(l.ctx, func() error { return n.raft.Barrier(0).Error() })
		if l.ctx.Err() != nil {
			return
		}
		// The barrier lies in our term if the term was the same before and after.
		if err == nil && n.raft.State() == raft.Leader && n.raft.CurrentTerm() == term {
			l.term = term
			break
		}
		if errors.Is(err, raft.ErrRaftShutdown) {
			return
		}
		select {
		case <-l.ctx.Done():
			return
		case <-time.After(10 * time.Millisecond):
		}
	}
	// First of all, and before anybody may write: make good the time in which nobody could refresh or expire anything.
	if !n.extend(l.ctx, n.outage) {
		return
	}
	n.progress.known.Store(true)
	l.passing.Store(n.full.Load() && !n.soleVoter())
	close(l.ready)
	n.log.Info("leading the cluster", "term", l.term)
	n.change.wake()
	n.passOn(l)
	n.nameCluster(l.ctx)
	n.jobs.start(l.ctx)
	n.expire(l.ctx)
}

// raftCall runs a call that knows no context; when ctx ends first the call goes on unattended.
func (n *Node) raftCall(ctx context.Context, f func() error) error {
	done := make(chan error, 1)
	go func() { done <- f() }()
	select {
	case err := <-done:
		return err
	case <-ctx.Done():
		return ctx.Err()
	case <-n.closed:
		return ErrClosed
	}
}

// nameCluster gives a new cluster its id.
func (n *Node) nameCluster(ctx context.Context) {
	if n.ClusterID() == "" {
		id := newClusterID()
		_, err := n.Propose(ctx, kv.Txn{
			Conds: []kv.Cond{{Kind: kv.CondAbsent, Path: clusterPath}},
			Ops:   []kv.Op{{Kind: kv.OpSet, Action: kv.ActCreate, Path: clusterPath, Value: id}},
		})
		if err != nil && ctx.Err() == nil {
			n.log.Error("cannot name the cluster", "error", err)
		}
	}
}

// OnLeader runs job whenever this server leads: after the first barrier, until it returns or, at the latest, until
// ctx is cancelled because leadership was lost. A job that returns is not run again before the next leadership, and
// never twice at a time. name is for logs.
func (n *Node) OnLeader(name string, job func(ctx context.Context)) {
	var ctx context.Context
	if l := n.lead.Load(); l != nil && l.isReady() {
		ctx = l.ctx
	}
	n.jobs.add(func(ctx context.Context) {
		n.log.Debug("leader job begins", "job", name)
		job(ctx)
		n.log.Debug("leader job ended", "job", name)
	}, ctx)
}

// jobs are the functions given to OnLeader.
type jobs struct {
	mu  sync.Mutex
	all []*job
	ctx context.Context // of the present or last leadership
	wg  sync.WaitGroup
}

type job struct {
	run  func(context.Context)
	busy sync.Mutex // one run at a time
}

func (j *jobs) add(run func(context.Context), ctx context.Context) {
	j.mu.Lock()
	defer j.mu.Unlock()
	e := &job{run: run}
	j.all = append(j.all, e)
	// start may or may not have come by already for this leadership; j.ctx tells.
	if ctx != nil && j.ctx == ctx {
		j.launch(e, ctx)
	}
}

func (j *jobs) start(ctx context.Context) {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.ctx = ctx
	for _, e := range j.all {
		j.launch(e, ctx)
	}
}

func (j *jobs) launch(e *job, ctx context.Context) {
	j.wg.Go(func() {
		e.busy.Lock() // the run of the leadership before may still be winding up
		defer e.busy.Unlock()
		if ctx.Err() == nil {
			e.run(ctx)
		}
	})
}

// stop waits for the jobs to end; leadership has ended before.
func (j *jobs) stop() { j.wg.Wait() }
