package consensus

import (
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/raft"
)

// A disk that does not come back blocks raft's main goroutine in the middle of an append, while the goroutines that
// send heartbeats go on: the followers see a leader in the best of health that never commits anything. So the appends
// are watched. A leader whose append stays away gives its term up: from then on the transport sends nothing of that
// term, reads and writes here are refused, and the best follower is asked to stand for election. A server in that state cannot
// vote or lead, since it would have to write that down first; once the disk answers it finds a newer term and follows.

// stallCalm is the least time between two terms that one server gives up because of its disk: where all disks are
// slow, leadership must not go round in circles.
const stallCalm = 10 * time.Second

// handoverWait is how long a follower that was asked to stand for election has before the next one is asked. A new leader is heard
// by its heartbeats, and the first may take a fifth of the heartbeat timeout; asked too early, the next one would depose it.
func (t Timing) handoverWait() time.Duration { return t.Heartbeat * 3 / 10 }

// stallAfter is how long an append may take. What remains of the election timeout is for the election.
func (t Timing) stallAfter() time.Duration { return t.Election * 7 / 10 }

// watchedLog is raft's log store with a watch on how long appends take. raft appends from one goroutine.
type watchedLog struct {
	raft.LogStore
	limit time.Duration
	// late is called in a goroutine of its own when an append has taken too long; over is closed when it ends.
	late  func(over <-chan struct{})
	ended func(err error) // called with the outcome of each append

	mu    sync.Mutex
	alarm *time.Timer
	over  chan struct{} // closed when the append under way ends; nil when none is late
	nth   uint64        // counts appends
	busy  bool
}

func (w *watchedLog) StoreLogs(logs []*raft.Log) error {
	w.begin()
	defer w.end()
	err := w.LogStore.StoreLogs(logs)
	w.ended(err)
	return err
}

func (w *watchedLog) StoreLog(l *raft.Log) error { return w.StoreLogs([]*raft.Log{l}) }

// IsMonotonic says for raft, which asks by type, whether the store refuses gaps.
func (w *watchedLog) IsMonotonic() bool {
	m, ok := w.LogStore.(raft.MonotonicLogStore)
	return ok && m.IsMonotonic()
}

func (w *watchedLog) begin() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.nth++
	w.busy = true
	// In two steps: a process that was itself paused, or starved, finds the first one over although the disk is well.
	if w.alarm == nil {
		w.alarm = time.AfterFunc(w.limit-w.limit/8, w.first)
	} else {
		w.alarm.Reset(w.limit - w.limit/8)
	}
}

func (w *watchedLog) end() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.busy = false
	w.alarm.Stop()
	if w.over != nil {
		close(w.over)
		w.over = nil
	}
}

func (w *watchedLog) first() {
	w.mu.Lock()
	defer w.mu.Unlock()
	if n := w.nth; w.busy {
		time.AfterFunc(w.limit/8, func() { w.second(n) })
	}
}

func (w *watchedLog) second(nth uint64) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.busy && w.nth == nth && w.over == nil {
		w.over = make(chan struct{})
		go w.late(w.over)
	}
}

// abdication is the newest term that this server has given up as leader, and who leads since.
type abdication struct {
	term   atomic.Uint64 // nothing of this term or an earlier one is sent
	heard  atomic.Pointer[claim]
	change func() // called when somebody else is heard to lead
}

// claim is a leader by its own words: there is one in a term, so they are true.
type claim struct {
	term     uint64
	id, addr string
}

// hear takes note of an append that came in. raft, blocked, may not have looked at it yet.
func (a *abdication) hear(r *raft.AppendEntriesRequest) {
	given := a.term.Load()
	if given == 0 || r.Term <= given {
		return
	}
	if c := a.heard.Load(); c == nil || c.term < r.Term {
		a.heard.Store(&claim{r.Term, string(r.ID), string(r.Addr)})
		a.change()
	}
}

// leader gives who leads since the term was given up, "" when nobody was heard.
func (a *abdication) leader() (id, addr string) {
	if c := a.heard.Load(); c != nil && c.term > a.term.Load() {
		return c.id, c.addr
	}
	return "", ""
}

// gaveUp says whether raft is still in a term that this server has given up.
func (n *Node) gaveUp() bool {
	given := n.given.term.Load()
	return given != 0 && n.raft.CurrentTerm() <= given
}

// late accompanies an append that takes too long until it ends.
func (n *Node) late(over <-chan struct{}) {
	begin := time.Now().Add(-n.cfg.Timing.stallAfter())
	n.figures.stalls.Add(1)
	n.figures.stalled.Store(true)
	n.measure("stalls", 1)
	defer func() {
		n.figures.stalled.Store(false)
		n.measure("stalled", 0)
	}()
	n.log.Warn("the disk stalls: an append to the log has not come back", "after", n.cfg.Timing.stallAfter(), "leader", n.IsLeader())
	for {
		wait := n.giveUp()
		select {
		case <-over:
			n.log.Warn("the disk answers again", "stalled for", time.Since(begin).Round(time.Millisecond))
			return
		case <-n.closed:
			return
		case <-wait:
		}
	}
}

// giveUp ends the present leadership of this server, if it has one that somebody else could take. The channel tells when
// to look again; nil when that makes no sense.
func (n *Node) giveUp() <-chan time.Time {
	if !n.IsLeader() || n.soleVoter() {
		return nil
	}
	term := n.raft.CurrentTerm()
	n.stallMu.Lock()
	defer n.stallMu.Unlock()
	if rest := stallCalm - time.Since(n.lastGiven); !n.lastGiven.IsZero() && rest > 0 {
		return time.After(rest)
	}
	n.lastGiven = time.Now()
	heirs := n.heirs(term)
	n.given.term.Store(term)
	n.acks.forfeit(term)
	if l := n.lead.Swap(nil); l != nil {
		close(l.gaveUp)
		l.end()
		n.clock.keep(time.Now().UnixNano()) // until now we could expire
	}
	n.figures.gaveUp.Add(1)
	n.measure("gave_up", 1)
	n.change.wake()
	n.log.Error("giving up leadership, because the disk stalls", "term", term)
	go n.handOver(term, heirs)
	return nil
}

// measure counts under consensus.disk; "stalled" alone is a gauge.
func (n *Node) measure(name string, v float32) {
	m := n.cfg.Metrics
	switch {
	case m == nil:
		return
	case name != "stalled":
		m.IncrCounter([]string{"consensus", "disk", name}, v)
		v = 1
	}
	m.SetGauge([]string{"consensus", "disk", "stalled"}, v)
}

// heirs are the other voters, best first: whoever has most of the log, and of those with the same, who answered last.
func (n *Node) heirs(term uint64) []Server {
	servers, err := n.Servers()
	if err != nil {
		return nil
	}
	heirs := slices.DeleteFunc(servers, func(s Server) bool { return !s.Voter || s.ID == n.cfg.ID })
	slices.SortFunc(heirs, func(a, b Server) int {
		if a.Match != b.Match {
			return int(min(max(int64(b.Match)-int64(a.Match), -1), 1))
		}
		return b.LastContact.Compare(a.LastContact)
	})
	return heirs
}

// handOver asks one after the other to stand for election until somebody leads. raft does the same when it hands over,
// and cannot now. Should nobody hear it: without heartbeats the followers elect one by themselves.
func (n *Node) handOver(term uint64, heirs []Server) {
	for _, s := range heirs {
		if !n.gaveUp() {
			return
		}
		if id, _ := n.given.leader(); id != "" {
			return
		}
		changed := n.LeaderChanged()
		go n.trans.appoint(raft.ServerID(s.ID), raft.ServerAddress(s.Addr))
		t := time.NewTimer(n.cfg.Timing.handoverWait())
		select {
		case <-t.C:
		case <-changed:
			t.Stop()
		case <-n.closed:
			t.Stop()
			return
		}
	}
	n.log.Debug("asked the others to take over", "term", term)
}
