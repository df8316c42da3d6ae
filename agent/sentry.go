package agent

import (
	"context"
	"sync"
	"sync/atomic"
	"time"

	"github.com/musterhq/muster/membership"
)

// sentries are the connections that a server holds to all other servers, leader or not. When the leader is killed, whoever leads next has
// never been connected to it as a leader, and a port that refuses proves nothing about a process that one has never met. These have met it.
type sentries struct {
	mu sync.Mutex
	by map[string]*sentry // by node id
}

type sentry struct {
	addr   string
	cancel context.CancelFunc
	dead   atomic.Bool
}

// set watches a server, at its newest address.
func (s *sentries) set(ctx context.Context, m membership.Member) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if old := s.by[m.ID()]; old != nil {
		if old.addr == m.GossipAddr() {
			return
		}
		old.cancel()
	}
	ctx, cancel := context.WithCancel(ctx)
	w := &sentry{addr: m.GossipAddr(), cancel: cancel}
	if s.by == nil {
		s.by = map[string]*sentry{}
	}
	s.by[m.ID()] = w
	go w.run(ctx)
}

// end stops watching a server that left.
func (s *sentries) end(m membership.Member) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if w := s.by[m.ID()]; w != nil {
		w.cancel()
		delete(s.by, m.ID())
	}
}

// dead says whether the process of a server is known to have died.
func (s *sentries) dead(id string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	w := s.by[id]
	return w != nil && w.dead.Load()
}

func (w *sentry) run(ctx context.Context) {
	for {
		found, err := membership.Watch(ctx, w.addr, membership.DefaultGrace)
		if err != nil {
			return
		}
		if found == membership.Dead {
			w.dead.Store(true)
			for membership.Probe(ctx, w.addr) != membership.Alive {
				if !rest(ctx, reviveEvery) {
					return
				}
			}
			w.dead.Store(false)
			continue
		}
		if !rest(ctx, time.Second) {
			return
		}
	}
}
