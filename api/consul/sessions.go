package consul

import (
	"context"
	"maps"
	"strings"
	"sync"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/go-metrics"

	"github.com/musterhq/muster/api"
	"github.com/musterhq/muster/catalog"
	"github.com/musterhq/muster/kv"
)

// maxLockDelay is the longest delay applied, whatever a session asks for.
const maxLockDelay = 60 * time.Second

// Sessions keeps what about sessions lives in the memory of the leader: the timer of each TTL, and the keys that
// nobody may lock for a while because the session that held them was invalidated. None of it is replicated: a
// new leader starts every TTL again and forgets the delays. A renewal only resets a timer.
//
// Run is the leader's job. All methods are safe for concurrent use, also while it does not run.
type Sessions struct {
	store   api.Store
	log     hclog.Logger
	metrics *metrics.Metrics

	mu      sync.Mutex
	running bool
	known   map[string]*keptSession
	delays  map[string]time.Time           // key -> when it may be locked again
	held    map[string]map[string]struct{} // session -> keys it holds, or is about to
	seen    uint64                         // index of the sessions as far as Run has followed them
	caught  chan struct{}                  // closed when seen moves
}

type keptSession struct {
	deletes  bool // behavior: its keys go with it
	delay    time.Duration
	ttl      time.Duration
	timer    *time.Timer // nil without TTL
	expiring bool
}

func newSessions(store api.Store, log hclog.Logger, m *metrics.Metrics) *Sessions {
	return &Sessions{store: store, log: log, metrics: m, caught: make(chan struct{})}
}

// retryRead is how long Run waits after a read that failed.
const retryRead = 200 * time.Millisecond

// Run follows the sessions until ctx is done, which must be when leadership ends. It reads what this server has
// applied, so that a moment without a lease does not stop it; what it proposes is conditional anyway.
func (k *Sessions) Run(ctx context.Context) error {
	k.start()
	defer k.stop()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	for first := true; ; {
		snap, _, err := k.store.Read(ctx, api.Stale)
		if err != nil {
			k.log.Warn("cannot read the sessions, trying again", "error", err)
			select {
			case <-time.After(retryRead):
				continue
			case <-ctx.Done():
				return ctx.Err()
			}
		}
		w := snap.Wait(catalog.SessionsPath())
		k.follow(ctx, snap, first)
		first = false
		select {
		case <-w.C:
			w.Stop()
		case <-ctx.Done():
			w.Stop()
			return ctx.Err()
		}
	}
}

func (k *Sessions) start() {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.running, k.seen = true, 0
	k.known = make(map[string]*keptSession)
	k.delays = make(map[string]time.Time)
	k.held = make(map[string]map[string]struct{})
}

func (k *Sessions) stop() {
	k.mu.Lock()
	defer k.mu.Unlock()
	for _, x := range k.known {
		if x.timer != nil {
			x.timer.Stop()
		}
	}
	k.running, k.known, k.delays, k.held = false, nil, nil, nil
	k.wake()
}

// wake lets everybody look again who waits for Run to catch up.
func (k *Sessions) wake() {
	close(k.caught)
	k.caught = make(chan struct{})
}

// follow brings the timers and delays up to date with the sessions in snap.
func (k *Sessions) follow(ctx context.Context, snap *kv.Snap, first bool) {
	k.mu.Lock()
	defer k.mu.Unlock()
	here := make(map[string]struct{}, len(k.known))
	for _, x := range catalog.Sessions(snap) {
		here[x.ID] = struct{}{}
		if k.known[x.ID] == nil {
			k.adopt(ctx, x)
			if first {
				k.loadHeld(snap, x.ID)
			}
		}
	}
	now := time.Now()
	for id, x := range k.known {
		if _, ok := here[id]; !ok {
			k.ended(snap, id, x, now)
		}
	}
	for key, until := range k.delays {
		if now.After(until) {
			delete(k.delays, key)
		}
	}
	k.seen = snap.IndexOf(catalog.SessionsPath())
	k.wake()
}

func (k *Sessions) adopt(ctx context.Context, x *catalog.Session) {
	s := &keptSession{deletes: x.Behavior == catalog.BehaviorDelete, delay: min(time.Duration(x.LockDelay), maxLockDelay)}
	k.known[x.ID] = s
	if ttl, err := time.ParseDuration(x.TTL); err == nil && ttl > 0 {
		id := x.ID
		s.ttl = ttl
		s.timer = time.AfterFunc(ttl, func() { k.expire(ctx, id) })
	}
}

// loadHeld notes the keys that a session held before this leader began.
func (k *Sessions) loadHeld(snap *kv.Snap, id string) {
	dir, ok := snap.Get("v/l/" + kv.Escape(id))
	if !ok {
		return
	}
	dir.Each(func(e *kv.Entry) bool {
		if path := e.Value(); len(path) > len(kvRoot) {
			k.hold(id, path[len(kvRoot):])
		}
		return true
	})
}

func (k *Sessions) hold(id, key string) {
	keys := k.held[id]
	if keys == nil {
		keys = make(map[string]struct{})
		k.held[id] = keys
	}
	keys[key] = struct{}{}
}

// ended begins the lock delay of what a vanished session held. A key that it unlocked before is not among them,
// nor one that somebody deleted or holds by now.
func (k *Sessions) ended(snap *kv.Snap, id string, x *keptSession, now time.Time) {
	if x.timer != nil {
		x.timer.Stop()
	}
	if x.delay > 0 {
		for key := range k.held[id] {
			e, ok := snap.Get(kvRoot + key)
			if ok = ok && e.HasValue(); ok && e.Owner() == "" || !ok && x.deletes {
				k.delays[key] = now.Add(x.delay)
			}
		}
	}
	delete(k.held, id)
	delete(k.known, id)
}

// expire ends a session whose TTL is over. It tries until it is done or leadership ends.
func (k *Sessions) expire(ctx context.Context, id string) {
	k.mu.Lock()
	x := k.known[id]
	if x == nil || ctx.Err() != nil {
		k.mu.Unlock()
		return
	}
	x.expiring = true
	k.mu.Unlock()
	res, err := proposeBuilt(ctx, k.store, func(s *kv.Snap) (kv.Txn, error) { return catalog.DestroySession(s, id), nil })
	if err == nil {
		err = codeError(res)
	}
	if err == nil {
		k.log.Debug("session expired", "session", id)
		if k.metrics != nil {
			k.metrics.IncrCounter([]string{"session", "expired"}, 1)
		}
		return
	}
	if ctx.Err() != nil {
		return
	}
	k.log.Warn("cannot end an expired session, trying again", "session", id, "error", err)
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.known[id] == x {
		x.timer.Reset(time.Second)
	}
}

// renew starts the TTL of a session again; false means that it has run out already.
func (k *Sessions) renew(id string) bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	x := k.known[id]
	if x == nil || x.timer == nil {
		return true // unknown yet: its timer starts when Run sees it
	}
	if x.expiring {
		return false
	}
	x.timer.Reset(x.ttl)
	return true
}

// intend notes that a session is about to hold a key, before the lock is proposed, so that the end of the session
// cannot be seen earlier than the lock. Call done with whether it may hold the key now.
func (k *Sessions) intend(session, key string) (done func(held bool)) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if !k.running {
		return func(bool) {}
	}
	_, had := k.held[session][key]
	if !had {
		k.hold(session, key)
	}
	return func(held bool) {
		if !held && !had {
			k.released(session, key)
		}
	}
}

// released notes that a session gave up a key by itself.
func (k *Sessions) released(session, key string) {
	k.mu.Lock()
	defer k.mu.Unlock()
	keys := k.held[session]
	delete(keys, key)
	if len(keys) == 0 {
		delete(k.held, session)
	}
}

// deleted notes that somebody deleted a key, or all that begin with it: its session holds it no longer, and its end
// delays nothing.
func (k *Sessions) deleted(key string, prefix bool) {
	k.mu.Lock()
	defer k.mu.Unlock()
	for session, keys := range k.held {
		if !prefix {
			delete(keys, key)
		} else {
			maps.DeleteFunc(keys, func(held string, _ struct{}) bool { return strings.HasPrefix(held, key) })
		}
		if len(keys) == 0 {
			delete(k.held, session)
		}
	}
}

// catchUp is how long a lock waits for Run to have followed the sessions up to the state it was read from.
const catchUp = time.Second

// delayed says whether the key must not be locked yet. It waits until Run has seen every session that had ended
// in snap.
func (k *Sessions) delayed(ctx context.Context, snap *kv.Snap, key string) bool {
	want := snap.IndexOf(catalog.SessionsPath())
	var timeout <-chan time.Time
	k.mu.Lock()
	for k.running && k.seen < want {
		caught := k.caught
		k.mu.Unlock()
		if timeout == nil {
			timeout = time.After(catchUp)
		}
		select {
		case <-caught:
		case <-timeout:
			return true // not locking is always safe
		case <-ctx.Done():
			return true
		}
		k.mu.Lock()
	}
	defer k.mu.Unlock()
	until, ok := k.delays[key]
	return ok && time.Now().Before(until)
}
