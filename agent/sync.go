package agent

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math"
	"math/rand/v2"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/go-metrics"

	"github.com/musterhq/muster/catalog"
)

// Cluster is the catalog as Sync needs it.
type Cluster interface {
	// Register writes the node with the given service and checks, as one change.
	Register(ctx context.Context, r catalog.Registration) error
	// Deregister removes a check (checkID not empty), or a service with its checks. Unknown ones are no error.
	Deregister(ctx context.Context, node, serviceID, checkID string) error
	// NodeServices gives all that the catalog holds of a node, never from a stale copy; a nil Node: it is unknown.
	NodeServices(ctx context.Context, node string) ([]*catalog.Service, []*catalog.Check, *catalog.Node, error)
	// Size is the number of nodes in the cluster, as well as it is known.
	Size() int
}

// SyncConfig configures a Sync. Registry, Cluster and Node are required.
type SyncConfig struct {
	Registry *Registry
	Cluster  Cluster
	Node     func() catalog.Node // this node's record as it should be in the catalog

	Interval      time.Duration // between full comparisons in a small cluster; 0 = 1m
	RetryInterval time.Duration // after failures, at first a sixteenth of it; 0 = 15s
	Timeout       time.Duration // of one request; 0 = 10s
	Parallel      int           // requests under way at once; 0 = 64

	Logger  hclog.Logger
	Metrics *metrics.Metrics
}

// protectedService is the servers' own entry, which the servers write themselves.
const protectedService = "consul"

// Sync makes the catalog's picture of this node follow the Registry: changes are sent at once, and a full
// comparison now and then repairs any difference, whoever made it. It never touches another node's records, the
// servers' own service or the liveness check.
//
// Requests that concern one service follow one another (a unit), those of different services run side by side. Every
// request is made from the registry's present state, so changes that come while one is under way are sent together
// by the next, and a repair can never bring back what was removed meanwhile.
type Sync struct {
	cfg SyncConfig
	log hclog.Logger
	ctx context.Context // of all requests, ended by cancel

	cancel   context.CancelFunc
	work     chan job // to idle workers
	slots    chan struct{}
	wake     chan struct{}
	wg       sync.WaitGroup // units under way
	workers  sync.WaitGroup
	failures atomic.Int64 // full comparisons that failed, one after the other

	mu      sync.Mutex
	units   map[unitKey]*unit
	due     time.Time // of the next full comparison
	running bool      // Run is on: before and after, changes are only noted
}

// unitKey names a service by its id, or a check of the node by its own.
type unitKey struct {
	service   string
	nodeCheck string
}

// unit is one service or node check that has something to send.
type unit struct {
	whole   bool                // the service itself and all its checks
	checks  map[string]struct{} // checks to send, or to remove when the registry no longer has them
	waiting []chan struct{}
	running bool
	failed  bool // to be sent again with the next full comparison
}

// NewSync makes a Sync and attaches it to the registry: from now on changes are noted. Run sends them.
func NewSync(cfg SyncConfig) *Sync {
	if cfg.Interval == 0 {
		cfg.Interval = time.Minute
	}
	if cfg.RetryInterval == 0 {
		cfg.RetryInterval = 15 * time.Second
	}
	if cfg.Timeout == 0 {
		cfg.Timeout = 10 * time.Second
	}
	if cfg.Parallel == 0 {
		cfg.Parallel = 64
	}
	if cfg.Logger == nil {
		cfg.Logger = hclog.NewNullLogger()
	}
	s := &Sync{
		cfg: cfg, log: cfg.Logger.Named("sync"),
		work: make(chan job), slots: make(chan struct{}, cfg.Parallel), wake: make(chan struct{}, 1), units: map[unitKey]*unit{},
	}
	s.ctx, s.cancel = context.WithCancel(context.Background())
	cfg.Registry.attach(s)
	return s
}

// Run compares everything at once, then every Interval scaled by the cluster's size and spread by chance, and after
// failures, until ctx ends. Then requests under way have a second to finish. It deregisters nothing at its end.
func (s *Sync) Run(ctx context.Context) {
	s.mu.Lock()
	s.running = true
	s.mu.Unlock()
	defer s.shut()
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-s.wake:
			timer.Reset(time.Until(s.dueAt()))
			continue
		case <-timer.C:
		}
		s.setDue(time.Now().Add(time.Hour)) // failures on the way may ask for an earlier one
		err := s.Full(ctx)
		wait := time.Duration(syncScale(s.cfg.Cluster.Size())) * s.cfg.Interval
		if err != nil && ctx.Err() == nil {
			s.count("failed")
			s.log.Warn("this node's registrations are not all in the catalog, will try again", "error", err)
			wait = s.retryAfter()
			s.failures.Add(1)
		} else {
			s.failures.Store(0)
		}
		next := time.Now().Add(wait + rand.N(wait+1))
		s.setDue(next)
		timer.Reset(time.Until(next))
	}
}

// shut ends all sending.
func (s *Sync) shut() {
	s.mu.Lock()
	s.running = false
	s.mu.Unlock()
	defer time.AfterFunc(time.Second, s.cancel).Stop()
	s.wg.Wait()
	s.cancel()
	s.workers.Wait()
}

// ServerUp asks for a full comparison within three seconds, because a server appeared.
func (s *Sync) ServerUp() { s.fullSoon(rand.N(3 * time.Second)) }

// fullSoon asks for a full comparison after d, unless one is due earlier.
func (s *Sync) fullSoon(d time.Duration) {
	at := time.Now().Add(d)
	s.mu.Lock()
	earlier := at.Before(s.due)
	if earlier {
		s.due = at
	}
	s.mu.Unlock()
	if earlier {
		select {
		case s.wake <- struct{}{}:
		default:
		}
	}
}

func (s *Sync) setDue(at time.Time) {
	s.mu.Lock()
	s.due = at
	s.mu.Unlock()
}

func (s *Sync) dueAt() time.Time {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.due
}

// syncScale stretches the intervals of clusters of more than 128 nodes, so that the servers' load grows with the
// logarithm of the cluster only (contract: consul-http 8.1).
func syncScale(nodes int) int {
	if nodes <= 128 {
		return 1
	}
	return int(math.Ceil(math.Log2(float64(nodes))-math.Log2(128))) + 1
}

func (s *Sync) count(what string) {
	if s.cfg.Metrics != nil {
		s.cfg.Metrics.IncrCounter([]string{"sync", what}, 1)
	}
}

// serviceChanged and checkChanged implement pusher.
func (s *Sync) serviceChanged(id string) <-chan struct{} {
	return s.mark(unitKey{service: id}, true, "")
}

func (s *Sync) checkChanged(serviceID, checkID string) <-chan struct{} {
	if serviceID == "" {
		return s.mark(unitKey{nodeCheck: checkID}, false, checkID)
	}
	return s.mark(unitKey{service: serviceID}, false, checkID)
}

// mark notes that something has to be sent and sees to it; the channel is closed after the request that holds it.
func (s *Sync) mark(key unitKey, whole bool, check string) <-chan struct{} {
	done := make(chan struct{})
	s.mu.Lock()
	defer s.mu.Unlock()
	u := s.units[key]
	if u == nil {
		u = &unit{checks: map[string]struct{}{}}
		s.units[key] = u
	}
	u.whole = u.whole || whole
	if check != "" {
		u.checks[check] = struct{}{}
	}
	if !s.running {
		u.failed = !u.running
		close(done)
		return done
	}
	u.waiting = append(u.waiting, done)
	if !u.running {
		u.running = true
		s.start(job{key, u})
	}
	return done
}

// job is a unit for a worker.
type job struct {
	key unitKey
	u   *unit
}

// workerIdle is how long a worker waits for more work: requests grow a goroutine's stack, so workers are reused.
const workerIdle = time.Second

// start hands a unit to an idle worker, or to a new one.
func (s *Sync) start(j job) {
	s.wg.Add(1)
	select {
	case s.work <- j:
	default:
		s.workers.Go(func() { s.worker(j) })
	}
}

func (s *Sync) worker(j job) {
	idle := time.NewTimer(workerIdle)
	defer idle.Stop()
	for {
		s.slots <- struct{}{}
		s.drain(j.key, j.u)
		<-s.slots
		s.wg.Done()
		idle.Reset(workerIdle)
		select {
		case j = <-s.work:
		case <-idle.C:
			return
		case <-s.ctx.Done():
			return
		}
	}
}

// drain sends a unit until nothing is left of it, or a request fails.
func (s *Sync) drain(key unitKey, u *unit) {
	for {
		s.mu.Lock()
		whole, checks, waiting := u.whole, u.checks, u.waiting
		if !whole && len(checks) == 0 {
			u.running = false
			delete(s.units, key)
			s.mu.Unlock()
			return
		}
		u.whole, u.checks, u.waiting, u.failed = false, map[string]struct{}{}, nil, false
		s.mu.Unlock()

		ctx, cancel := context.WithTimeout(s.ctx, s.cfg.Timeout)
		err := s.send(ctx, key, whole, checks)
		cancel()
		if err != nil {
			s.count("push_failed")
			s.log.Warn("a change could not be sent to the catalog, it will be tried again", "service", key.service, "check", key.nodeCheck, "error", err)
			s.mu.Lock()
			// Try the whole unit next time: what the catalog has of it is unknown now.
			u.whole, u.failed, u.running = true, true, false
			maps.Copy(u.checks, checks)
			waiting = append(waiting, u.waiting...)
			u.waiting = nil
			s.mu.Unlock()
			wait := s.retryAfter()
			s.fullSoon(wait + rand.N(wait+1))
		}
		for _, w := range waiting {
			close(w)
		}
		if err != nil {
			return
		}
	}
}

// retryAfter is the pause after a failure. The first failures are as a rule those of a cluster that has no leader
// yet, or of servers that are being restarted: look again soon, and ever less often if it lasts.
func (s *Sync) retryAfter() time.Duration {
	wait := min(s.cfg.RetryInterval, s.cfg.RetryInterval/16<<min(s.failures.Load(), 4))
	return time.Duration(syncScale(s.cfg.Cluster.Size())) * wait
}

// send makes the catalog agree with the registry about one unit.
func (s *Sync) send(ctx context.Context, key unitKey, whole bool, checks map[string]struct{}) error {
	node := s.cfg.Node()
	reg := catalog.Registration{Node: node}
	if key.service != "" {
		svc, all, sent := s.cfg.Registry.serviceState(key.service)
		if svc == nil {
			return s.cfg.Cluster.Deregister(ctx, node.Name, key.service, "")
		}
		if whole {
			reg.Service, reg.Checks, reg.Known = svc, all, sent
		}
	}
	var gone []string
	for _, id := range slices.Sorted(maps.Keys(checks)) {
		c, _, ok := s.cfg.Registry.checkState(key.service, id)
		switch {
		case !ok:
			gone = append(gone, id)
		case !whole || key.service == "":
			reg.Checks = append(reg.Checks, c)
		}
	}
	if reg.Service != nil || len(reg.Checks) > 0 {
		err := s.cfg.Cluster.Register(ctx, reg)
		if gone := (*catalog.GoneError)(nil); errors.As(err, &gone) && reg.Service != nil {
			s.cfg.Registry.honour(reg.Service)
			return nil
		}
		if err != nil {
			return err
		}
		if reg.Service != nil {
			s.cfg.Registry.markSent(reg.Service)
		}
	}
	for _, id := range gone {
		if err := s.cfg.Cluster.Deregister(ctx, node.Name, "", id); err != nil {
			return err
		}
	}
	s.count("pushed")
	return nil
}

// Full compares the catalog's picture of this node with the registry and repairs every difference; it returns when
// all repairs were tried. It only marks units: what is sent is the registry's state of that moment.
func (s *Sync) Full(ctx context.Context) error {
	node := s.cfg.Node()
	readCtx, cancel := context.WithTimeout(ctx, s.cfg.Timeout)
	services, checks, known, err := s.cfg.Cluster.NodeServices(readCtx, node.Name)
	cancel()
	if err != nil {
		return fmt.Errorf("read this node from the catalog: %w", err)
	}
	if known == nil || !sameNode(known, &node) {
		regCtx, cancel := context.WithTimeout(ctx, s.cfg.Timeout)
		err := s.cfg.Cluster.Register(regCtx, catalog.Registration{Node: node})
		cancel()
		if err != nil {
			return fmt.Errorf("write this node to the catalog: %w", err)
		}
	}
	waits := s.retryFailed()
	waits = append(waits, s.compareServices(services)...)
	waits = append(waits, s.compareChecks(checks)...)
	for _, w := range waits {
		select {
		case <-w:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	if n := s.failedUnits(); n > 0 {
		return errors.New("some registrations could not be sent") // each was logged by itself
	}
	return nil
}

// retryFailed sends again what failed before.
func (s *Sync) retryFailed() []<-chan struct{} {
	s.mu.Lock()
	var keys []unitKey
	for k, u := range s.units {
		if u.failed && !u.running {
			keys = append(keys, k)
		}
	}
	s.mu.Unlock()
	waits := make([]<-chan struct{}, 0, len(keys))
	for _, k := range keys {
		waits = append(waits, s.mark(k, true, k.nodeCheck))
	}
	return waits
}

func (s *Sync) failedUnits() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	n := 0
	for _, u := range s.units {
		if u.failed {
			n++
		}
	}
	return n
}

// busy says whether a unit has something to send anyway.
func (s *Sync) busy(key unitKey) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.units[key] != nil
}

func (s *Sync) compareServices(remote []*catalog.Service) []<-chan struct{} {
	var waits []<-chan struct{}
	byID := make(map[string]*catalog.Service, len(remote))
	for _, svc := range remote {
		byID[svc.ID] = svc
	}
	for _, local := range s.cfg.Registry.Services() {
		there := byID[local.ID]
		if there != nil && local.EnableTagOverride && !s.busy(unitKey{service: local.ID}) {
			s.cfg.Registry.adoptTags(local.ID, there.Tags)
			if now, _, ok := s.cfg.Registry.Service(local.ID); ok {
				local = now
			}
		}
		if there == nil || !sameService(local, there) {
			waits = append(waits, s.serviceChanged(local.ID))
		}
		delete(byID, local.ID)
	}
	for id := range byID { // the catalog has it, the registry does not
		if id != protectedService {
			waits = append(waits, s.serviceChanged(id))
		}
	}
	return waits
}

func (s *Sync) compareChecks(remote []*catalog.Check) []<-chan struct{} {
	var waits []<-chan struct{}
	byID := make(map[string]*catalog.Check, len(remote))
	for _, c := range remote {
		byID[c.ID] = c
	}
	for _, local := range s.cfg.Registry.Checks() {
		there := byID[local.ID]
		delete(byID, local.ID)
		if there != nil && sameCheck(local, there, true) {
			if local.Output == there.Output {
				continue
			}
			if _, pending, ok := s.cfg.Registry.checkState(local.ServiceID, local.ID); ok && pending {
				continue // output alone, and its time has not come
			}
		}
		waits = append(waits, s.checkChanged(local.ServiceID, local.ID))
	}
	for id, c := range byID {
		if id == catalog.LivenessCheck || c.ServiceID == protectedService {
			continue
		}
		if c.ServiceID != "" {
			if _, _, ok := s.cfg.Registry.Service(c.ServiceID); !ok {
				continue // goes with its service
			}
		}
		waits = append(waits, s.checkChanged(c.ServiceID, id))
	}
	return waits
}

func sameNode(a, b *catalog.Node) bool {
	return a.ID == b.ID && a.Name == b.Name && a.Address == b.Address &&
		sameMap(a.TaggedAddresses, b.TaggedAddresses) && sameMap(a.Meta, b.Meta) && sameLocality(a.Locality, b.Locality)
}

func sameService(a, b *catalog.Service) bool {
	return a.ID == b.ID && a.Name == b.Name && a.Kind == b.Kind && a.Address == b.Address && a.Port == b.Port &&
		a.SocketPath == b.SocketPath && a.Weights == b.Weights && a.EnableTagOverride == b.EnableTagOverride &&
		slices.Equal(a.Tags, b.Tags) && sameMap(a.Meta, b.Meta) && sameMap(a.TaggedAddresses, b.TaggedAddresses) &&
		sameLocality(a.Locality, b.Locality)
}

func sameLocality(a, b *catalog.Locality) bool { return a == b || a != nil && b != nil && *a == *b }

// sameCheck compares all but the output when butOutput.
func sameCheck(a, b *catalog.Check, butOutput bool) bool {
	return a.ID == b.ID && a.Name == b.Name && a.Status == b.Status && a.Notes == b.Notes &&
		a.ServiceID == b.ServiceID && a.ServiceName == b.ServiceName && slices.Equal(a.ServiceTags, b.ServiceTags) &&
		a.Type == b.Type && a.Interval == b.Interval && a.Timeout == b.Timeout && (butOutput || a.Output == b.Output)
}

// sameMap takes an empty and a missing map as the same.
func sameMap[V comparable](a, b map[string]V) bool { return maps.Equal(a, b) }
