package agent

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"github.com/hashicorp/go-hclog"

	"github.com/musterhq/muster/api/consul"
)

// RegistryFile is the name, in the data directory, of the file that keeps the registry.
const RegistryFile = "registry.log"

// registryFormat is the version of what is in RegistryFile; a newer one is refused.
const registryFormat = "1"

// Buckets of RegistryFile; keys are ids, values JSON.
var (
	bucketServices = "services" // savedService
	bucketChecks   = "checks"   // savedCheck
	bucketStates   = "states"   // savedState
	bucketSent     = "sent"     // "1" for each service whose present registration the catalog has acknowledged
)

// Delays of changes that nobody waits for.
const (
	statusDelay = 200 * time.Millisecond
	outputDelay = 30 * time.Second
)

type savedService struct{ Def consul.ServiceDefinition }

type savedCheck struct {
	Def         consul.CheckDefinition
	Alone       bool `json:",omitempty"` // registered by itself
	Maintenance bool `json:",omitempty"`
}

type savedState struct {
	Status  string
	Output  string
	Expired bool `json:",omitempty"` // a TTL that had run out
}

// savedRegistry is what a file held when it was opened.
type savedRegistry struct {
	services []consul.ServiceDefinition
	checks   []savedCheck
	states   map[string]savedState
	sent     map[string]bool
}

// op is one write; a nil value deletes.
type op struct {
	bucket, key string
	value       []byte
}

func serviceOp(s *localService) op {
	o := op{bucket: bucketServices, key: s.def.ID}
	if s.source == fromAPI {
		o.value = encodeSaved(savedService{s.def})
	}
	return o
}

func checkOp(c *localCheck) op {
	o := op{bucket: bucketChecks, key: c.def.ID}
	if c.source == fromAPI {
		o.value = encodeSaved(savedCheck{Def: c.def, Alone: c.alone, Maintenance: c.kind == kindMaintenance})
	}
	return o
}

func encodeSaved(v any) []byte {
	b, err := json.Marshal(v)
	if err != nil { // plain structs of strings and numbers always encode
		panic(fmt.Sprintf("encode a registration: %v", err))
	}
	return b
}

// registryStore writes changes in batches: whoever writes while a commit is under way shares the next one, so the
// cost of a synced commit is divided among all who wait. Without a file everything succeeds at once.
type registryStore struct {
	file *journal // nil: nothing is kept; used by run alone
	log  hclog.Logger

	mu      sync.Mutex
	pending map[opKey][]byte
	states  map[string]savedState // waiting, not encoded yet
	waiting []chan error
	due     time.Time // when states have to be written; zero: no hurry at all
	closed  bool
	wake    chan struct{}
	done    chan struct{}
	err     error // of the last commit at close
}

type opKey struct{ bucket, key string }

var errRegistryClosed = errors.New("the registry is closed")

// saved is the answer when there is nothing to wait for.
var savedAlready = func() chan error { c := make(chan error); close(c); return c }()

// openRegistryStore opens or makes the file in dir; dir "" keeps nothing.
func openRegistryStore(dir string, log hclog.Logger) (*registryStore, *savedRegistry, error) {
	s := &registryStore{log: log, pending: map[opKey][]byte{}, states: map[string]savedState{},
		wake: make(chan struct{}, 1), done: make(chan struct{})}
	saved := &savedRegistry{states: map[string]savedState{}, sent: map[string]bool{}}
	if dir == "" {
		close(s.done)
		return s, saved, nil
	}
	file, err := openJournal(filepath.Join(dir, RegistryFile), log, func(k opKey, value []byte) {
		// A record that cannot be read is left alone and told, it does not keep the agent from starting.
		if err := saved.add(k, value); err != nil {
			log.Error("saved record cannot be read", "bucket", k.bucket, "key", k.key, "error", err)
		}
	})
	if err != nil {
		return nil, nil, err
	}
	s.file = file
	saved.sort()
	go s.run()
	return s, saved, nil
}

func (r *savedRegistry) add(k opKey, value []byte) error {
	switch k.bucket {
	case bucketServices:
		var v savedService
		if err := json.Unmarshal(value, &v); err != nil {
			return err
		}
		r.services = append(r.services, v.Def)
	case bucketChecks:
		var v savedCheck
		if err := json.Unmarshal(value, &v); err != nil {
			return err
		}
		r.checks = append(r.checks, v)
	case bucketStates:
		var v savedState
		if err := json.Unmarshal(value, &v); err != nil {
			return err
		}
		r.states[k.key] = v
	case bucketSent:
		r.sent[k.key] = true
	}
	return nil
}

// sort makes a start the same every time.
func (r *savedRegistry) sort() {
	slices.SortFunc(r.services, func(a, b consul.ServiceDefinition) int { return cmp.Compare(a.ID, b.ID) })
	slices.SortFunc(r.checks, func(a, b savedCheck) int { return cmp.Compare(a.Def.ID, b.Def.ID) })
}

// put queues writes in their order; the channel gives the outcome of the commit that holds them.
func (s *registryStore) put(ops []op) <-chan error {
	if s.file == nil || len(ops) == 0 {
		return savedAlready
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.closed {
		for _, o := range ops {
			s.pending[opKey{o.bucket, o.key}] = o.value
			if o.bucket == bucketStates {
				delete(s.states, o.key)
			}
		}
	}
	return s.nextCommit()
}

// settled gives the outcome of a commit that holds all that was noted before it.
func (s *registryStore) settled() <-chan error {
	if s.file == nil {
		return savedAlready
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.nextCommit()
}

// nextCommit asks for a commit at once and gives its outcome; under the lock.
func (s *registryStore) nextCommit() <-chan error {
	c := make(chan error, 1)
	if s.closed {
		c <- errRegistryClosed
		return c
	}
	s.waiting = append(s.waiting, c)
	s.kick()
	return c
}

// state notes the state of a check, to be written soon if its status changed and some time otherwise.
func (s *registryStore) state(id string, v savedState, statusChanged bool) {
	if s.file == nil {
		return
	}
	delay := outputDelay
	if statusChanged {
		delay = statusDelay
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.states[id] = v
	s.within(delay)
}

// later queues a write that nobody waits for.
func (s *registryStore) later(o op) {
	if s.file == nil {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.pending[opKey{o.bucket, o.key}] = o.value
	s.within(statusDelay)
}

// within sees to a commit within delay; under the lock.
func (s *registryStore) within(delay time.Duration) {
	due := time.Now().Add(delay)
	if s.due.IsZero() || due.Before(s.due) {
		s.due = due
		s.kick()
	}
}

func (s *registryStore) kick() {
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

// run commits until close.
func (s *registryStore) run() {
	defer close(s.done)
	timer := time.NewTimer(time.Hour)
	defer timer.Stop()
	for {
		s.mu.Lock()
		closed := s.closed
		wait := time.Hour
		if !s.due.IsZero() {
			wait = time.Until(s.due)
		}
		ready := len(s.waiting) > 0 || wait <= 0 || closed
		var batch map[opKey][]byte
		var states map[string]savedState
		var waiting []chan error
		if ready {
			batch, states, waiting = s.pending, s.states, s.waiting
			s.pending, s.states, s.waiting, s.due = map[opKey][]byte{}, map[string]savedState{}, nil, time.Time{}
		}
		s.mu.Unlock()
		if ready {
			err := s.commit(batch, states)
			for _, c := range waiting {
				c <- err
			}
			if err != nil && len(waiting) == 0 {
				s.log.Error("states of checks could not be saved", "error", err)
			}
			if closed {
				s.err = err
				return
			}
			continue
		}
		timer.Reset(wait)
		select {
		case <-s.wake:
		case <-timer.C:
		}
	}
}

func (s *registryStore) commit(batch map[opKey][]byte, states map[string]savedState) error {
	for id, v := range states {
		batch[opKey{bucketStates, id}] = encodeSaved(v)
	}
	if len(batch) == 0 {
		return nil
	}
	return s.file.append(batch)
}

// close writes what is waiting and closes the file.
func (s *registryStore) close() error {
	s.mu.Lock()
	if s.closed {
		s.mu.Unlock()
		return nil
	}
	s.closed = true
	s.mu.Unlock()
	if s.file == nil {
		return nil
	}
	s.kick()
	<-s.done
	return errors.Join(s.err, s.file.close())
}
