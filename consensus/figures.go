package consensus

import (
	"math"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/raft"
)

// Figures are what a server has measured of its own part in the cluster since it was opened.
type Figures struct {
	LeaderSince   time.Time // when this server learned of the present leader; zero when it knows none
	LeaderChanges uint64    // how often it learned of a leader that it had not known the moment before
	Pending       int       // proposals under way
	Failed        uint64    // proposals whose outcome is unknown (ErrUnknownOutcome)
	Sent          Traffic   // appends to followers
	Received      Traffic   // appends from leaders
	Followers     []Follower
	DiskStalled   bool   // an append to the log has been under way for too long
	DiskStalls    uint64 // how often that happened
	GaveUp        uint64 // how often this server gave up leadership for it
}

// Traffic counts messages that carry log entries or the commit index; heartbeats are none. The rates are those of
// the last messages, rateWindow at most, and 0 when the newest is older than a second.
type Traffic struct {
	Appends        uint64
	PerSecond      float64
	BytesPerSecond float64 // of the entries in them
}

// Follower tells how appends to one follower went: each is measured from when it was sent until it was answered,
// the follower's disk included. Only a leader sends any; what it measured stays when it leads no longer.
type Follower struct {
	ID, Addr                                    string
	Current, Average, Deviation, Least, Longest time.Duration
	Succeeded, Failed                           uint64
}

// Figures returns the present figures. Followers are the other servers of the configuration, voters or not, that
// this server has sent something to, in any order.
func (n *Node) Figures() Figures {
	f := n.figures.read(mono())
	f.Pending, f.Failed = len(n.slots), n.figures.failed.Load()
	f.DiskStalled, f.DiskStalls, f.GaveUp = n.figures.stalled.Load(), n.figures.stalls.Load(), n.figures.gaveUp.Load()
	if servers, err := n.Servers(); err == nil {
		addr := make(map[string]string, len(servers))
		for _, s := range servers {
			addr[s.ID] = s.Addr
		}
		kept := f.Followers[:0]
		for _, p := range f.Followers {
			if p.Addr = addr[p.ID]; p.Addr != "" {
				kept = append(kept, p)
			}
		}
		f.Followers = kept
	}
	return f
}

// figures gathers. The messages counted are batches, so one lock is cheap.
type figures struct {
	failed         atomic.Uint64
	stalled        atomic.Bool
	stalls, gaveUp atomic.Uint64

	mu             sync.Mutex
	leader         string
	since          time.Time
	changes        uint64
	sent, received traffic
	followers      map[string]*follower
}

func (g *figures) read(now int64) Figures {
	g.mu.Lock()
	defer g.mu.Unlock()
	f := Figures{LeaderSince: g.since, LeaderChanges: g.changes, Sent: g.sent.read(now), Received: g.received.read(now)}
	for id, p := range g.followers {
		f.Followers = append(f.Followers, p.read(id))
	}
	return f
}

// knows takes note of who leads; "" for nobody.
func (g *figures) knows(leader string) {
	g.mu.Lock()
	defer g.mu.Unlock()
	switch {
	case leader == "":
		g.since = time.Time{}
	case leader != g.leader:
		g.since = time.Now()
		g.changes++
	}
	g.leader = leader
}

// heartbeat says whether a request carries neither entries nor a commit index.
func heartbeat(r *raft.AppendEntriesRequest) bool {
	return len(r.Entries) == 0 && r.PrevLogEntry == 0 && r.LeaderCommitIndex == 0
}

func bytesOf(r *raft.AppendEntriesRequest) (n int) {
	for _, l := range r.Entries {
		n += len(l.Data) + len(l.Extensions)
	}
	return n
}

func (g *figures) append(to *traffic, r *raft.AppendEntriesRequest) {
	if heartbeat(r) {
		return
	}
	size := bytesOf(r)
	g.mu.Lock()
	defer g.mu.Unlock()
	to.add(mono(), size)
}

// answered takes note of the end of an append to a follower.
func (g *figures) answered(id raft.ServerID, r *raft.AppendEntriesRequest, took time.Duration, ok bool) {
	if heartbeat(r) {
		return
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	p := g.followers[string(id)]
	if p == nil {
		if g.followers == nil {
			g.followers = make(map[string]*follower)
		}
		p = &follower{}
		g.followers[string(id)] = p
	}
	p.add(took, ok)
}

const rateWindow = 200

// traffic remembers when the last messages were and how large.
type traffic struct {
	count uint64
	last  [rateWindow]struct {
		at   int64 // mono()
		size int
	}
}

func (t *traffic) add(at int64, size int) {
	m := &t.last[t.count%rateWindow]
	m.at, m.size = at, size
	t.count++
}

func (t *traffic) read(now int64) Traffic {
	out := Traffic{Appends: t.count}
	if t.count < 2 {
		return out
	}
	newest, n := t.count-1, min(t.count, rateWindow)
	oldest := t.count - n
	end := t.last[newest%rateWindow].at
	span := time.Duration(end - t.last[oldest%rateWindow].at).Seconds()
	if now-end > int64(time.Second) || span <= 0 {
		return out
	}
	bytes := 0
	for i := oldest; i <= newest; i++ {
		bytes += t.last[i%rateWindow].size
	}
	out.PerSecond, out.BytesPerSecond = float64(n)/span, float64(bytes)/span
	return out
}

// follower adds up by Welford's method, which stays exact however many values there are (Knuth, The Art of Computer
// Programming, volume 2, 4.2.2).
type follower struct {
	ok, failed              uint64
	current, least, longest time.Duration
	mean, squares           float64
}

func (p *follower) add(took time.Duration, ok bool) {
	if !ok {
		p.failed++
		return
	}
	p.ok++
	p.current = took
	if p.ok == 1 || took < p.least {
		p.least = took
	}
	p.longest = max(p.longest, took)
	d := float64(took) - p.mean
	p.mean += d / float64(p.ok)
	p.squares += d * (float64(took) - p.mean)
}

func (p *follower) read(id string) Follower {
	f := Follower{ID: id, Current: p.current, Average: time.Duration(p.mean), Least: p.least, Longest: p.longest, Succeeded: p.ok, Failed: p.failed}
	if p.ok > 0 {
		f.Deviation = time.Duration(math.Sqrt(p.squares / float64(p.ok)))
	}
	return f
}
