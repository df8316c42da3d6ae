package consensus

import (
	"errors"
	"net"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/raft"
)

// streams adapts a Layer to raft: it shows the advertised address, and notices when incoming streams break.
type streams struct {
	Layer
	addr   string
	broken func()
}

type advertised string

func (a advertised) Network() string { return "tcp" }
func (a advertised) String() string  { return string(a) }

func (s *streams) Addr() net.Addr { return advertised(s.addr) }

func (s *streams) Dial(addr raft.ServerAddress, timeout time.Duration) (net.Conn, error) {
	return s.Layer.Dial(string(addr), timeout)
}

func (s *streams) Accept() (net.Conn, error) {
	c, err := s.Layer.Accept()
	if err != nil {
		return nil, err
	}
	return &watchedConn{Conn: c, broken: s.broken}, nil
}

// watchedConn reports the first failed read.
type watchedConn struct {
	net.Conn
	once   sync.Once
	broken func()
}

func (c *watchedConn) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	if err != nil {
		c.once.Do(c.broken)
	}
	return n, err
}

// transport is raft's network transport, watched: it records when each follower has answered which request (the
// evidence for leases and consistent reads), when a leader was heard, how fast followers are, and it can tell raft to
// stand for election.
type transport struct {
	*raft.NetworkTransport
	acks      *acks
	figures   *figures
	given     *abdication
	progress  *progress
	heartbeat func() // a leader of the current term was heard
	term      func() uint64
	rpcs      chan raft.RPC
	closed    chan struct{}
	once      sync.Once
}

func newTransport(inner *raft.NetworkTransport, a *acks, g *figures, given *abdication, p *progress) *transport {
	t := &transport{NetworkTransport: inner, acks: a, figures: g, given: given, progress: p, rpcs: make(chan raft.RPC), closed: make(chan struct{})}
	go t.forward()
	return t
}

func (t *transport) forward() {
	in := t.NetworkTransport.Consumer()
	for {
		select {
		case rpc := <-in:
			if err := malformed(rpc.Command); err != nil {
				rpc.Respond(nil, err)
				continue
			}
			if r, ok := rpc.Command.(*raft.AppendEntriesRequest); ok {
				t.figures.append(&t.figures.received, r)
				t.given.hear(r)
				t.progress.heard(r)
			}
			select {
			case t.rpcs <- rpc:
			case <-t.closed:
				return
			}
		case <-t.closed:
			return
		}
	}
}

// Consumer gives raft the requests of others and our own from campaign.
func (t *transport) Consumer() <-chan raft.RPC { return t.rpcs }

// Close ends the transport and its streams.
func (t *transport) Close() error {
	t.once.Do(func() { close(t.closed) })
	return t.NetworkTransport.Close()
}

// campaign makes raft stand for election now, in place of after a timeout. It is what a leader asks of its
// successor when it hands over, and as safe: an election is decided by the votes alone.
func (t *transport) campaign() {
	answer := make(chan raft.RPCResponse, 1)
	select {
	case t.rpcs <- raft.RPC{
		Command:  &raft.TimeoutNowRequest{RPCHeader: raft.RPCHeader{ProtocolVersion: raft.ProtocolVersionMax}},
		RespChan: answer,
	}:
	case <-t.closed:
	}
}

// errGivenUp is why nothing more is sent in a term that this server has given up (see stall.go).
var errGivenUp = errors.New("consensus: this server has given up the term")

// TimeoutNow asks a follower to stand for election: raft hands over. From then on another may be elected before a
// lease is over, so this term has no lease any more, whatever becomes of it: a paused follower may take its time.
func (t *transport) TimeoutNow(id raft.ServerID, target raft.ServerAddress, args *raft.TimeoutNowRequest, resp *raft.TimeoutNowResponse) error {
	t.acks.endLease(t.term())
	return t.NetworkTransport.TimeoutNow(id, target, args, resp)
}

// appoint asks a follower to stand for election without raft's help, and waits for its answer.
func (t *transport) appoint(id raft.ServerID, target raft.ServerAddress) {
	args := &raft.TimeoutNowRequest{RPCHeader: raft.RPCHeader{ProtocolVersion: raft.ProtocolVersionMax}}
	_ = t.NetworkTransport.TimeoutNow(id, target, args, &raft.TimeoutNowResponse{}) // failing that, the election timeout acts
}

// SetHeartbeatHandler passes heartbeats to raft and notes those of a leader.
func (t *transport) SetHeartbeatHandler(cb func(raft.RPC)) {
	t.NetworkTransport.SetHeartbeatHandler(func(rpc raft.RPC) {
		req, ok := rpc.Command.(*raft.AppendEntriesRequest)
		if ok {
			t.given.hear(req) // first, for a blocked raft does not answer
		}
		cb(rpc)
		if ok && req.Term >= t.term() {
			t.heartbeat()
		}
	})
}

// AppendEntries sends entries or a heartbeat and records the answer.
func (t *transport) AppendEntries(id raft.ServerID, target raft.ServerAddress, args *raft.AppendEntriesRequest, resp *raft.AppendEntriesResponse) error {
	if args.Term <= t.given.term.Load() {
		return errGivenUp
	}
	sent := mono()
	t.figures.append(&t.figures.sent, args)
	err := t.NetworkTransport.AppendEntries(id, target, args, resp)
	t.figures.answered(id, args, time.Duration(mono()-sent), err == nil)
	if err == nil {
		t.acks.record(id, sent, args, resp)
	}
	return err
}

// AppendEntriesPipeline watches the answers that come over a pipeline as well.
func (t *transport) AppendEntriesPipeline(id raft.ServerID, target raft.ServerAddress) (raft.AppendPipeline, error) {
	p, err := t.NetworkTransport.AppendEntriesPipeline(id, target)
	if err != nil {
		return nil, err
	}
	w := &pipeline{AppendPipeline: p, out: make(chan raft.AppendFuture), closed: make(chan struct{}), given: t.given, sent: func(r *raft.AppendEntriesRequest) {
		t.figures.append(&t.figures.sent, r)
	}, record: func(f raft.AppendFuture) {
		took := time.Since(f.Start())
		t.figures.answered(id, f.Request(), took, f.Error() == nil)
		if f.Error() == nil {
			t.acks.record(id, int64(f.Start().Sub(processStart)), f.Request(), f.Response())
		}
	}}
	go w.watch()
	return w, nil
}

type pipeline struct {
	raft.AppendPipeline
	out    chan raft.AppendFuture
	closed chan struct{}
	once   sync.Once
	given  *abdication
	sent   func(*raft.AppendEntriesRequest)
	record func(raft.AppendFuture)
}

// AppendEntries sends without waiting for the answer.
func (p *pipeline) AppendEntries(args *raft.AppendEntriesRequest, resp *raft.AppendEntriesResponse) (raft.AppendFuture, error) {
	if args.Term <= p.given.term.Load() {
		return nil, errGivenUp
	}
	p.sent(args)
	return p.AppendPipeline.AppendEntries(args, resp)
}

func (p *pipeline) Consumer() <-chan raft.AppendFuture { return p.out }

func (p *pipeline) Close() error {
	p.once.Do(func() { close(p.closed) })
	return p.AppendPipeline.Close()
}

func (p *pipeline) watch() {
	for {
		select {
		case f := <-p.AppendPipeline.Consumer():
			p.record(f)
			select {
			case p.out <- f:
			case <-p.closed:
				return
			}
		case <-p.closed:
			return
		}
	}
}

// acks is what followers have confirmed to this server as leader of one term. A follower that answers a request of
// term T has not voted in a later term before it received that request; when a quorum has answered requests sent
// after some moment, no other leader existed at that moment. raft's own check counts any answer that arrives,
// also one to a request sent long before (a paused leader finds such answers in its socket buffers), hence this.
type acks struct {
	voters func() (ids []string, self bool) // voters besides this server, and whether it is one

	mu    sync.Mutex
	term  uint64
	by    map[string]ack
	since atomic.Int64 // mono: a quorum has confirmed requests sent at this moment or later
	lease atomic.Int64 // the same, or 0 when reads must not rely on it
	// unleased is the newest term whose lease is void; ended the newest one whose answers count for nothing.
	unleased, ended uint64
}

type ack struct {
	sent  int64 // mono() when the newest confirmed request was sent
	match uint64
}

func (a *acks) record(id raft.ServerID, sent int64, args *raft.AppendEntriesRequest, resp *raft.AppendEntriesResponse) {
	if resp.Term != args.Term {
		return
	}
	voters, self := a.voters()
	a.mu.Lock()
	defer a.mu.Unlock()
	if args.Term < a.term || args.Term <= a.ended {
		return
	}
	if args.Term > a.term {
		a.term, a.by = args.Term, make(map[string]ack)
		a.since.Store(0)
		a.lease.Store(0)
	}
	k := a.by[string(id)]
	k.sent = max(k.sent, sent)
	if resp.Success && (args.PrevLogEntry != 0 || len(args.Entries) != 0) {
		last := args.PrevLogEntry
		if n := len(args.Entries); n > 0 {
			last = args.Entries[n-1].Index
		}
		k.match = max(k.match, last)
	}
	a.by[string(id)] = k
	since := a.quorum(voters, self)
	a.since.Store(since)
	if a.term > a.unleased {
		a.lease.Store(since)
	}
}

// endLease makes every further read in the term ask a quorum.
func (a *acks) endLease(term uint64) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.unleased = max(a.unleased, term)
	if a.term <= a.unleased {
		a.lease.Store(0)
	}
}

// forfeit makes all answers of the term worthless, those under way too.
func (a *acks) forfeit(term uint64) {
	a.endLease(term)
	a.mu.Lock()
	defer a.mu.Unlock()
	a.ended = max(a.ended, term)
	if a.term <= a.ended {
		a.since.Store(0)
	}
}

// quorum returns the newest moment at which a majority has confirmed; mu is held.
func (a *acks) quorum(voters []string, self bool) int64 {
	times := make([]int64, 0, 9)
	if self {
		times = append(times, 1<<63-1)
	}
	for _, id := range voters {
		times = append(times, a.by[id].sent)
	}
	if len(times) == 0 {
		return 0
	}
	slices.Sort(times)
	// The majority-th newest of n is at position n-(n/2+1) in ascending order.
	return times[len(times)-(len(times)/2+1)]
}

// quorumSince is the moment since which a quorum has confirmed the leadership in term; 0 when it has not.
func (a *acks) quorumSince(term uint64) int64 {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.term != term {
		return 0
	}
	return a.since.Load()
}

// of returns what a server has confirmed in term.
func (a *acks) of(term uint64, id string) (ack, bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	k, ok := a.by[id]
	return k, ok && a.term == term
}
