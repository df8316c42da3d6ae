// Package membership says who is alive: gossip between all agents of a datacenter, on serf and memberlist. It keeps
// the list of members with their tags, emits an event for each change, and decides nothing.
//
//	pool, err := membership.Open(membership.Config{
//		Name: "web1", Bind: "10.0.0.1", Port: 8301, Dir: "/var/lib/muster/serf",
//		Tags: map[string]string{membership.TagID: id, membership.TagRole: membership.RoleProxy, membership.TagDatacenter: "dc1"},
//	})
//	go pool.RetryJoin(ctx, []string{"10.0.0.2:8301"}, 10*time.Second, 0)
//	for e := range pool.Events() { ... }
//	pool.Leave(ctx); pool.Shutdown() // a Shutdown without Leave looks like a failure to the others
package membership

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/go-metrics"
	"github.com/hashicorp/serf/serf"
)

// Errors of a Pool.
var (
	ErrNoMember    = errors.New("no such member")
	ErrMemberAlive = errors.New("the member is alive; only failed, leaving and left members can be forced out")
	ErrShutdown    = errors.New("membership has been shut down")
)

// maxQueued events wait for a slow reader of Events; the oldest are dropped beyond that.
const maxQueued = 16384

// Kind of an Event.
type Kind uint8

// Kinds of events.
const (
	Join     Kind = iota + 1 // a member is alive: new, or back after Failed or Left
	Leave                    // it left on purpose, or was forced out
	Failed                   // it stopped answering
	Update                   // its tags or address changed
	Reap                     // it was forgotten
	Conflict                 // Members[0], with another id, claims this agent's own name
	User                     // somebody's Fire
)

func (k Kind) String() string {
	switch k {
	case Join:
		return "join"
	case Leave:
		return "leave"
	case Failed:
		return "failed"
	case Update:
		return "update"
	case Reap:
		return "reap"
	case Conflict:
		return "conflict"
	case User:
		return "user"
	}
	return "none"
}

// Event is a change in the membership. Members hold their state after it.
type Event struct {
	Kind    Kind
	Members []Member

	// Of a user event:
	Name    string
	Payload []byte
	LTime   uint64 // logical time: larger than that of every event its sender had seen
}

// Pool is this agent's place in the gossip. Its methods may be called from any goroutine.
type Pool struct {
	serf    *serf.Serf
	guard   *guard
	log     hclog.Logger
	metrics *metrics.Metrics

	source    chan serf.Event
	snapshot  chan<- serf.Event // leads to serf's snapshot and then to source; nil without Dir
	conflicts chan Member
	events    chan Event
	stop      chan struct{} // closed by Shutdown when gossip is over
	pumped    chan struct{} // closed when events is
	once      sync.Once
	closeErr  error
	damper    damper
	respond   atomic.Pointer[func(string, []byte) []byte]
	questions chan *serf.Query

	noCoordinates bool

	joinMu sync.Mutex // one Join at a time, so that a refusal finds its Join
	tagsMu sync.Mutex
}

// Open starts gossip: it listens, and tries to rejoin the members of a snapshot in Dir in the background. Errors name
// the wrong value and what was expected; an address that is taken is ErrAddressInUse. After an error nothing is left
// running on the network.
func Open(c Config) (*Pool, error) {
	if err := c.prepare(); err != nil {
		return nil, err
	}
	ring, err := c.keyring()
	if err != nil {
		return nil, err
	}
	conf, err := c.serfConfig()
	if err != nil {
		return nil, err
	}
	t, err := listen(c.Bind, c.Port, c.Logger)
	if err != nil {
		return nil, err
	}
	if c.Port == 0 {
		conf.MemberlistConfig.BindPort = t.GetAutoBindPort()
	}
	if conf.MemberlistConfig.AdvertisePort == 0 {
		conf.MemberlistConfig.AdvertisePort = t.GetAutoBindPort()
	}
	ip, port, err := t.FinalAdvertiseAddr(c.Advertise, conf.MemberlistConfig.AdvertisePort)
	if err != nil {
		_ = t.Shutdown()
		return nil, fmt.Errorf("membership: advertise address: %w", err)
	}
	p := &Pool{
		log: c.Logger, metrics: c.Metrics,
		source: make(chan serf.Event, 1024), conflicts: make(chan Member, 16), events: make(chan Event),
		questions: make(chan *serf.Query, asked),
		stop:      make(chan struct{}), pumped: make(chan struct{}), noCoordinates: c.NoCoordinates,
	}
	p.guard = &guard{
		name: c.Name, id: c.Tags[TagID], dc: c.Tags[TagDatacenter],
		addr:     net.JoinHostPort(ip.String(), strconv.Itoa(port)),
		conflict: p.onConflict,
	}
	p.guard.cluster.Store(c.Tags[TagCluster])
	conf.EventCh = p.source
	conf.MemberlistConfig.Transport = t
	conf.MemberlistConfig.Keyring = ring
	conf.MemberlistConfig.Merge = p.guard
	conf.MemberlistConfig.Alive = p.guard
	p.serf, err = serf.Create(conf)
	if err != nil {
		_ = t.Shutdown()
		return nil, fmt.Errorf("membership: %w", err)
	}
	if c.Dir != "" {
		p.snapshot = conf.EventCh // Create put the snapshot in front of source
	}
	self := serf.Member{Name: c.Name, Addr: ip, Port: uint16(port), Status: serf.StatusAlive}
	go p.answerQuestions()
	go p.pump(serf.MemberEvent{Type: serf.EventMemberJoin, Members: []serf.Member{self}})
	return p, nil
}

// Events delivers every change in order, beginning with this agent's own Join. It is one stream: read it in one
// place. It is closed by Shutdown. A reader that falls 16384 events behind loses the oldest (metric
// membership.event.dropped); compare with Members now and then.
func (p *Pool) Events() <-chan Event { return p.events }

// flushDelay is a little more than the 500 ms during which serf's snapshot only buffers what follows a write.
const flushDelay = 600 * time.Millisecond

// pump moves events from serf, which must never wait, to the reader, who may.
//
// It also gets the snapshot onto the disk. The library writes its buffer only with a later event, so that in a quiet
// cluster the members met in the first half second after a join would be forgotten by a killed process. Therefore
// selfJoin is sent after them: it changes nothing in the snapshot and does not reach the reader.
func (p *Pool) pump(selfJoin serf.MemberEvent) {
	defer close(p.pumped)
	defer close(p.events)
	var queue []Event
	var flush <-chan time.Time
	joined := false // this agent's own join has been seen; a second one can only be selfJoin
	for {
		var out chan<- Event
		var head Event
		if len(queue) > 0 {
			out, head = p.events, queue[0]
		}
		var e Event
		select {
		case <-p.stop:
			return
		case out <- head:
			queue[0] = Event{} // let it be collected
			queue = queue[1:]
			continue
		case <-flush:
			flush = nil
			select {
			case p.snapshot <- selfJoin:
			default: // full: then there are later events
			}
			continue
		case m := <-p.conflicts:
			e = Event{Kind: Conflict, Members: []Member{m}}
		case s := <-p.source:
			var ok bool
			if e, ok = translate(s); !ok {
				p.question(s)
				continue
			}
			if e.Kind == Join && e.Members[0].Name == p.guard.name {
				if joined {
					continue
				}
				joined = true
			} else if e.Kind == Join && p.snapshot != nil {
				flush = time.After(flushDelay)
			}
		}
		p.count("event", e.Kind.String())
		if len(queue) >= maxQueued {
			p.count("event", "dropped")
			queue = queue[1:]
		}
		queue = append(queue, e)
	}
}

func translate(s serf.Event) (Event, bool) {
	if u, ok := s.(serf.UserEvent); ok {
		return Event{Kind: User, Name: u.Name, Payload: u.Payload, LTime: uint64(u.LTime)}, true
	}
	m, ok := s.(serf.MemberEvent)
	if !ok {
		return Event{}, false // queries
	}
	var e Event
	switch m.Type {
	case serf.EventMemberJoin:
		e.Kind = Join
	case serf.EventMemberLeave:
		e.Kind = Leave
	case serf.EventMemberFailed:
		e.Kind = Failed
	case serf.EventMemberUpdate:
		e.Kind = Update
	case serf.EventMemberReap:
		e.Kind = Reap
	default:
		return Event{}, false
	}
	for _, member := range m.Members {
		e.Members = append(e.Members, fromSerf(member))
	}
	return e, true
}

// onConflict must not block: memberlist may hold its lock.
func (p *Pool) onConflict(other Member) {
	if !p.damper.pass(other.GossipAddr()+" "+other.ID(), time.Now()) {
		return
	}
	p.log.Error("another agent claims this agent's node name; names must be unique", "name", other.Name, "other", other.GossipAddr(), "id", other.ID())
	select {
	case p.conflicts <- other:
	default:
	}
}

func (p *Pool) count(key ...string) {
	if p.metrics != nil {
		p.metrics.IncrCounter(append([]string{"membership"}, key...), 1)
	}
}

// Members lists all known members, also failed ones and those that left, ordered by name.
func (p *Pool) Members() []Member {
	list := p.serf.Members()
	members := make([]Member, len(list))
	for i, m := range list {
		members[i] = fromSerf(m)
	}
	slices.SortFunc(members, func(a, b Member) int { return cmp.Compare(a.Name, b.Name) })
	return members
}

// Local is this agent's own entry.
func (p *Pool) Local() Member { return fromSerf(p.serf.LocalMember()) }

// SetTags replaces this agent's tags and tells the others; it waits until one has heard it. The id and the
// datacenter are fixed at Open and cannot change.
func (p *Pool) SetTags(tags map[string]string) error {
	if tags[TagID] != p.guard.id || tags[TagDatacenter] != p.guard.dc {
		return fmt.Errorf("membership: the tags %q and %q cannot change while the agent runs", TagID, TagDatacenter)
	}
	own := make(map[string]string, len(tags))
	for k, v := range tags {
		own[k] = v
	}
	p.tagsMu.Lock()
	defer p.tagsMu.Unlock()
	if err := p.serf.SetTags(own); err != nil {
		return fmt.Errorf("membership: set tags: %w", err)
	}
	p.guard.cluster.Store(own[TagCluster])
	return nil
}

// pruneRepeats: gossip sends a message only a few times, also to members that have just died, and full state syncs
// repeat who has left but not who was pruned. Without repeats one prune in 25 missed the only other live member.
const pruneRepeats = 3

// ForceLeave turns a failed member into one that left, everywhere, and with prune also makes everyone forget it.
// Errors: ErrNoMember, ErrMemberAlive, or that the news could not be sent.
func (p *Pool) ForceLeave(name string, prune bool) error {
	members := p.serf.Members()
	i := slices.IndexFunc(members, func(m serf.Member) bool { return m.Name == name })
	if i < 0 {
		return fmt.Errorf("%w: %q", ErrNoMember, name)
	}
	if members[i].Status == serf.StatusAlive {
		// The library would erase a live member when pruning.
		return fmt.Errorf("%w: %q", ErrMemberAlive, name)
	}
	force, times := p.serf.RemoveFailedNode, 1
	if prune {
		force, times = p.serf.RemoveFailedNodePrune, pruneRepeats
	}
	for range times {
		if err := force(name); err != nil {
			return fmt.Errorf("membership: force-leave of %q: %w", name, err)
		}
	}
	return nil
}

// Leave tells the others that this agent goes on purpose and waits until they have heard it. When ctx ends first the
// leave goes on in the background. Call Shutdown afterwards.
func (p *Pool) Leave(ctx context.Context) error {
	done := make(chan error, 1)
	go func() { done <- p.serf.Leave() }()
	select {
	case err := <-done:
		return err
	case <-ctx.Done():
		return ctx.Err()
	}
}

// Shutdown ends gossip and closes Events. Without a Leave before it the others see a failure. It may be called more
// than once.
func (p *Pool) Shutdown() error {
	p.once.Do(func() {
		p.closeErr = p.serf.Shutdown()
		close(p.stop)
	})
	<-p.pumped
	return p.closeErr
}

// Stats are figures for operators: members, failed, left, queue lengths, encrypted and more, all as texts.
func (p *Pool) Stats() map[string]string { return p.serf.Stats() }
