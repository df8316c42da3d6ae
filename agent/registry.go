package agent

import (
	"context"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/go-metrics"

	"github.com/musterhq/muster/api/consul"
	"github.com/musterhq/muster/catalog"
	"github.com/musterhq/muster/health"
)

// source says who defined a service or check.
type source string

const (
	fromAPI  source = "api"  // saved, comes back after a restart
	fromFile source = "file" // lives as long as a configuration file says so
)

// RegistryConfig configures a Registry. NodeName is required.
type RegistryConfig struct {
	Dir      string // where registry.log is kept; "" = in memory only
	NodeName string

	Services []consul.ServiceDefinition // of the configuration files
	Checks   []consul.CheckDefinition

	CheckUpdateInterval     time.Duration // delay of changes of output alone; 0 = none
	CheckOutputMaxSize      int           // bytes, for checks that name none; 0 = health.DefaultOutputMaxSize
	DiscardCheckOutput      bool
	Damping                 health.Damping // of checks that name none
	EnableScriptChecks      bool           // from anywhere
	EnableLocalScriptChecks bool           // from files
	PushWait                time.Duration  // how long a registration waits for the cluster before it is answered; 0 = 1s
	ReapInterval            time.Duration  // how often critical services are looked for; 0 = 30s
	Nodes                   NodeWatcher    // for alias checks of other nodes; nil: there are none
	Host                    *health.Host   // nil: as it is found

	Logger  hclog.Logger
	Metrics *metrics.Metrics
}

// Registry is what this machine registered: services and checks by the HTTP interface or by configuration files,
// and the last state of every check. It runs the checks, saves all of it to one file, and tells an attached Sync
// of every change. It is the truth for this node: the catalog follows it. Safe for concurrent use.
//
// Locks, in the order in which they may nest: mu (the maps; writers), localCheck.mu (one check's state), and the
// store's and Sync's own. A heartbeat takes only the index's read lock and its check's.
type Registry struct {
	cfg   RegistryConfig
	log   hclog.Logger
	store *registryStore

	index   checkIndex
	aliases aliasWatches

	mu       sync.RWMutex
	services map[string]*localService
	byName   map[string]map[string]*localService // name -> id -> service
	checks   map[string]*localCheck
	nodeWide map[string]*localCheck // the checks of no service
	push     pusher                 // nil until a Sync is attached
	closed   bool

	stop chan struct{}
	done chan struct{}
}

// pusher is told what changed; the channel is closed when the change was sent, or failed to be.
type pusher interface {
	serviceChanged(id string) <-chan struct{}
	checkChanged(serviceID, checkID string) <-chan struct{}
}

type localService struct {
	def    consul.ServiceDefinition // without its checks
	rec    *catalog.Service         // immutable, replaced as a whole
	source source
	checks map[string]*localCheck
	gone   chan struct{} // closed when this version is replaced or removed
	sent   atomic.Bool   // the catalog has acknowledged this registration: from now on sending it is a repair
}

// checkIndex finds a check by id for the heartbeat, apart from the lock of the writers.
type checkIndex struct {
	mu sync.RWMutex
	m  map[string]*localCheck
}

func (x *checkIndex) get(id string) *localCheck {
	x.mu.RLock()
	c := x.m[id]
	x.mu.RUnlock()
	return c
}

func (x *checkIndex) set(id string, c *localCheck) {
	x.mu.Lock()
	if c == nil {
		delete(x.m, id)
	} else {
		x.m[id] = c
	}
	x.mu.Unlock()
}

// OpenRegistry opens the saved registrations, adds those of the configuration files (which win over saved ones of
// the same id) and starts all checks with their last status.
func OpenRegistry(cfg RegistryConfig) (*Registry, error) {
	if cfg.Logger == nil {
		cfg.Logger = hclog.NewNullLogger()
	}
	if cfg.PushWait == 0 {
		cfg.PushWait = time.Second
	}
	if cfg.ReapInterval == 0 {
		cfg.ReapInterval = 30 * time.Second
	}
	if cfg.Nodes == nil {
		cfg.Nodes = noNodes{}
	}
	if cfg.Host == nil {
		cfg.Host = new(health.Host)
	}
	r := &Registry{
		cfg: cfg, log: cfg.Logger.Named("registry"),
		index:    checkIndex{m: map[string]*localCheck{}},
		services: map[string]*localService{}, byName: map[string]map[string]*localService{},
		checks: map[string]*localCheck{}, nodeWide: map[string]*localCheck{},
		stop: make(chan struct{}), done: make(chan struct{}),
	}
	st, saved, err := openRegistryStore(cfg.Dir, r.log)
	if err != nil {
		return nil, err
	}
	r.store = st
	if err := r.restore(saved); err != nil {
		st.close()
		return nil, err
	}
	go r.reap()
	return r, nil
}

// Close saves the last state of every check and stops all of them. Nothing is deregistered.
func (r *Registry) Close() error {
	r.mu.Lock()
	if r.closed {
		r.mu.Unlock()
		return nil
	}
	r.closed = true
	all := make([]*localCheck, 0, len(r.checks))
	for _, c := range r.checks {
		all = append(all, c)
	}
	r.mu.Unlock()
	close(r.stop)
	<-r.done
	for _, c := range all {
		c.halt()
	}
	return r.store.close()
}

func (r *Registry) attach(p pusher) {
	r.mu.Lock()
	r.push = p
	r.mu.Unlock()
}

// change is what one operation did under the lock and still has to finish after it.
type change struct {
	ops     []op                     // to save
	stopped []*localCheck            // to halt
	pushed  []func() <-chan struct{} // to tell
}

// finish waits until the change is on disk and, within PushWait and best effort, in the catalog. An error means
// that it could not be saved.
func (r *Registry) finish(ctx context.Context, saved <-chan error, ch *change) error {
	waits := make([]<-chan struct{}, 0, len(ch.pushed))
	for _, f := range ch.pushed {
		waits = append(waits, f())
	}
	for _, c := range ch.stopped {
		c.halt()
	}
	if saved != nil {
		if err := <-saved; err != nil {
			return fmt.Errorf("registered until the agent stops, but not saved: %w", err)
		}
	}
	if len(waits) == 0 {
		return nil
	}
	timer := time.NewTimer(r.cfg.PushWait)
	defer timer.Stop()
	for _, w := range waits {
		select {
		case <-w:
		case <-timer.C:
			return nil
		case <-ctx.Done():
			return nil
		}
	}
	return nil
}

// tellService and tellCheck note whom to tell once the lock is free.
func (r *Registry) tellService(ch *change, id string) {
	r.aliases.wake(id)
	if p := r.push; p != nil {
		ch.pushed = append(ch.pushed, func() <-chan struct{} { return p.serviceChanged(id) })
	}
}

func (r *Registry) tellCheck(ch *change, serviceID, id string) {
	r.aliases.wake(serviceID)
	if p := r.push; p != nil {
		ch.pushed = append(ch.pushed, func() <-chan struct{} { return p.checkChanged(serviceID, id) })
	}
}

// RegisterService registers or replaces a service; earlier checks that def does not name stay, unless
// replaceChecks. It returns when the registration is saved and the catalog was told, or could not be told within
// PushWait: Sync repairs that later. Refusals are *consul.LocalError and change nothing.
func (r *Registry) RegisterService(ctx context.Context, def consul.ServiceDefinition, replaceChecks bool) error {
	def, err := normaliseService(def, r.rules(r.cfg.EnableScriptChecks))
	if err != nil {
		return err
	}
	var ch change
	r.mu.Lock()
	if err := r.writable(); err != nil {
		r.mu.Unlock()
		return err
	}
	if err := r.putService(&ch, def, fromAPI, replaceChecks, nil); err != nil {
		r.mu.Unlock()
		return err
	}
	saved := r.store.put(ch.ops)
	r.mu.Unlock()
	return r.finish(ctx, saved, &ch)
}

func (r *Registry) writable() error {
	if r.closed {
		return refuse(http.StatusServiceUnavailable, "the agent is shutting down")
	}
	return nil
}

// putService is the part of a registration that runs under the lock. states holds the saved states of checks at
// start. Nothing is changed when it returns an error.
func (r *Registry) putService(ch *change, def consul.ServiceDefinition, src source, replaceChecks bool, states map[string]savedState) error {
	for i := range def.Checks {
		if c := r.checks[def.Checks[i].ID]; c != nil && c.def.ServiceID != def.ID {
			return badRequest("Invalid check: the check ID %q is in use %s", c.def.ID, c.place())
		}
	}
	checks := def.Checks
	def.Checks = nil
	svc := &localService{def: def, rec: serviceRecord(def), source: src, checks: map[string]*localCheck{}, gone: make(chan struct{})}
	if !dnsSafe(def.Name) {
		r.log.Warn("service will not be found by DNS: its name should have letters, digits and dashes only", "service", def.Name)
	}
	old := r.services[def.ID]
	if src == fromFile || old != nil && old.sent.Load() {
		ch.ops = append(ch.ops, op{bucket: bucketSent, key: def.ID})
	}
	if old != nil {
		svc.checks = old.checks
		close(old.gone)
		r.unname(old)
		if replaceChecks {
			for id, c := range old.checks {
				named := slices.ContainsFunc(checks, func(d consul.CheckDefinition) bool { return d.ID == id })
				if !named && c.kind != kindMaintenance {
					r.dropCheck(ch, c)
					r.tellCheck(ch, def.ID, id)
				}
			}
		}
	}
	r.services[def.ID] = svc
	if r.byName[def.Name] == nil {
		r.byName[def.Name] = map[string]*localService{}
	}
	r.byName[def.Name][def.ID] = svc
	ch.ops = append(ch.ops, serviceOp(svc))
	for _, d := range checks {
		r.putCheck(ch, d, src, false, states)
	}
	r.tellService(ch, def.ID)
	return nil
}

func (r *Registry) unname(svc *localService) {
	ids := r.byName[svc.def.Name]
	delete(ids, svc.def.ID)
	if len(ids) == 0 {
		delete(r.byName, svc.def.Name)
	}
}

// DeregisterService removes a service with its checks. Unknown: 404.
func (r *Registry) DeregisterService(ctx context.Context, id string) error {
	var ch change
	r.mu.Lock()
	svc := r.services[id]
	if svc == nil {
		r.mu.Unlock()
		return unknownService(id)
	}
	if err := r.writable(); err != nil {
		r.mu.Unlock()
		return err
	}
	r.dropService(&ch, svc)
	saved := r.store.put(ch.ops)
	r.mu.Unlock()
	return r.finish(ctx, saved, &ch)
}

// markSent notes that the catalog has acknowledged rec, unless it has been replaced meanwhile.
func (r *Registry) markSent(rec *catalog.Service) {
	r.mu.RLock() // keeps putService from replacing it in between
	defer r.mu.RUnlock()
	if s := r.services[rec.ID]; s != nil && s.rec == rec && !s.sent.Swap(true) && s.source == fromAPI {
		r.store.later(op{bucket: bucketSent, key: rec.ID, value: []byte("1")})
	}
}

// honour removes a service that was removed from the catalog while this agent was away, unless it has been
// registered anew meanwhile. One that a file defines returns when the file is read again.
func (r *Registry) honour(rec *catalog.Service) {
	var ch change
	r.mu.Lock()
	s := r.services[rec.ID]
	if s == nil || s.rec != rec || r.closed {
		r.mu.Unlock()
		return
	}
	r.dropService(&ch, s)
	r.store.put(ch.ops) // nobody waits: the catalog refuses it after a crash just as well
	r.mu.Unlock()
	r.log.Warn("service is deregistered: it was removed from the catalog while this agent was away", "service", rec.ID)
	for _, tell := range ch.pushed {
		tell()
	}
	for _, c := range ch.stopped {
		c.halt()
	}
}

func (r *Registry) dropService(ch *change, svc *localService) {
	delete(r.services, svc.def.ID)
	r.unname(svc)
	close(svc.gone)
	ch.ops = append(ch.ops, op{bucket: bucketServices, key: svc.def.ID}, op{bucket: bucketSent, key: svc.def.ID})
	for _, c := range svc.checks {
		r.dropCheck(ch, c)
	}
	r.tellService(ch, svc.def.ID)
}

// RegisterCheck registers or replaces a check that stands by itself, of the node or of a known service.
func (r *Registry) RegisterCheck(ctx context.Context, def consul.CheckDefinition) error {
	def, err := normaliseCheck(def, r.rules(r.cfg.EnableScriptChecks))
	if err != nil {
		return err
	}
	var ch change
	r.mu.Lock()
	if err = r.writable(); err == nil {
		err = r.checkPlace(def)
	}
	if err != nil {
		r.mu.Unlock()
		return err
	}
	r.putCheck(&ch, def, fromAPI, true, nil)
	r.tellCheck(&ch, def.ServiceID, def.ID)
	saved := r.store.put(ch.ops)
	r.mu.Unlock()
	return r.finish(ctx, saved, &ch)
}

// checkPlace refuses a check whose service is unknown, or whose id is used elsewhere: in the catalog a check is
// known by its id on the node, so moving one would let two services fight for it.
func (r *Registry) checkPlace(def consul.CheckDefinition) error {
	if def.ServiceID != "" && r.services[def.ServiceID] == nil {
		return refuse(http.StatusNotFound, "ServiceID %q does not exist", def.ServiceID)
	}
	if c := r.checks[def.ID]; c != nil && c.def.ServiceID != def.ServiceID {
		return badRequest("Invalid check: the check ID %q is in use %s", def.ID, c.place())
	}
	if def.ID == catalog.LivenessCheck {
		return badRequest("Invalid check: the check ID %q is kept for the cluster's own check", def.ID)
	}
	return nil
}

// DeregisterCheck removes a check. Unknown: 404.
func (r *Registry) DeregisterCheck(ctx context.Context, id string) error {
	var ch change
	r.mu.Lock()
	c := r.checks[id]
	if c == nil {
		r.mu.Unlock()
		return unknownCheck(id)
	}
	if err := r.writable(); err != nil {
		r.mu.Unlock()
		return err
	}
	r.dropCheck(&ch, c)
	r.tellCheck(&ch, c.def.ServiceID, id)
	saved := r.store.put(ch.ops)
	r.mu.Unlock()
	return r.finish(ctx, saved, &ch)
}

// putCheck puts a check in place of the one with its id, if any, whose status and output it inherits, and starts
// it. The caller tells Sync.
func (r *Registry) putCheck(ch *change, def consul.CheckDefinition, src source, alone bool, states map[string]savedState) {
	c := newLocalCheck(r, def, src, alone)
	var last health.State
	if old := r.checks[def.ID]; old != nil {
		last = old.retire()
		c.criticalSince = old.criticalSince // nobody changes it after retire
		ch.stopped = append(ch.stopped, old)
	} else if s, ok := states[def.ID]; ok {
		last = health.State{Status: s.Status, Output: s.Output}
		if s.Status == health.Critical { // a result said so: only results are saved
			c.criticalSince = time.Now()
		}
		if !s.Expired {
			last.Expires = time.Now() // non-zero: it had time left
		}
	}
	if !last.Expires.IsZero() && def.TTL > 0 {
		// Nobody could beat while the agent was away, and a new registration starts a new life: a whole TTL.
		last.Expires = time.Now().Add(def.TTL)
	}
	r.checks[def.ID] = c
	if svc := r.services[def.ServiceID]; svc != nil {
		svc.checks[def.ID] = c
	} else {
		r.nodeWide[def.ID] = c
	}
	c.start(last)
	r.index.set(def.ID, c)
	ch.ops = append(ch.ops, checkOp(c))
}

// dropCheck takes a check out. The caller tells Sync.
func (r *Registry) dropCheck(ch *change, c *localCheck) {
	c.retire()
	r.index.set(c.def.ID, nil)
	delete(r.checks, c.def.ID)
	delete(r.nodeWide, c.def.ID)
	if svc := r.services[c.def.ServiceID]; svc != nil {
		delete(svc.checks, c.def.ID)
	}
	ch.stopped = append(ch.stopped, c)
	ch.ops = append(ch.ops, op{bucket: bucketChecks, key: c.def.ID}, op{bucket: bucketStates, key: c.def.ID})
}

// Beat sets the status of a TTL check and restarts its timer; nothing is written anywhere unless the status or the
// output changes. A status that it changed is saved when it returns. Unknown checks are 404, checks of other kinds and unknown statuses 500 and 400.
func (r *Registry) Beat(id, status, output string) error {
	for {
		c := r.index.get(id)
		if c == nil {
			return unknownCheck(id)
		}
		if c.runner == nil {
			return notTTL(id)
		}
		before := c.statusNow()
		err := c.runner.Beat(status, output)
		switch {
		case c.isRetired(): // replaced meanwhile: the beat belongs to its successor
			continue
		case err == nil:
			c.awaitKept(before)
			return nil
		default:
			return beatError(id, status, err)
		}
	}
}

func serviceRecord(d consul.ServiceDefinition) *catalog.Service {
	return &catalog.Service{
		ID: d.ID, Name: d.Name, Kind: d.Kind, Tags: d.Tags, Address: d.Address, TaggedAddresses: d.TaggedAddresses,
		Meta: d.Meta, Port: d.Port, SocketPath: d.SocketPath, Weights: *d.Weights, EnableTagOverride: d.EnableTagOverride, Locality: d.Locality,
	}
}

func dnsSafe(name string) bool {
	return dnsLabelPattern.MatchString(name) && !strings.Contains(name, ".")
}

func unknownService(id string) error {
	return refuse(http.StatusNotFound, "Unknown service ID %q. Ensure that the service ID is passed, not the service name.", id)
}

func unknownCheck(id string) error {
	return refuse(http.StatusNotFound, "Unknown check ID %q. Ensure that the check ID is passed, not the check name.", id)
}

func notTTL(id string) error {
	return refuse(http.StatusInternalServerError, "CheckID %q does not have associated TTL", id)
}
