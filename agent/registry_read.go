package agent

import (
	"cmp"
	"context"
	"slices"

	"github.com/musterhq/muster/api/consul"
	"github.com/musterhq/muster/catalog"
	"github.com/musterhq/muster/health"
)

// Services gives all services of this machine, ordered by id. The records are shared: nobody may change them.
func (r *Registry) Services() []*catalog.Service {
	r.mu.RLock()
	out := make([]*catalog.Service, 0, len(r.services))
	for _, s := range r.services {
		out = append(out, s.rec)
	}
	r.mu.RUnlock()
	slices.SortFunc(out, byServiceID)
	return out
}

func byServiceID(a, b *catalog.Service) int { return cmp.Compare(a.ID, b.ID) }
func byCheckID(a, b *catalog.Check) int     { return cmp.Compare(a.ID, b.ID) }

// Service gives one service, and a channel that is closed when it is registered anew or removed.
func (r *Registry) Service(id string) (rec *catalog.Service, changed <-chan struct{}, ok bool) {
	r.mu.RLock()
	defer r.mu.RUnlock()
	s := r.services[id]
	if s == nil {
		return nil, nil, false
	}
	return s.rec, s.gone, true
}

// ServicesNamed gives the services of one name, ordered by id.
func (r *Registry) ServicesNamed(name string) []*catalog.Service {
	r.mu.RLock()
	ids := r.byName[name]
	out := make([]*catalog.Service, 0, len(ids))
	for _, s := range ids {
		out = append(out, s.rec)
	}
	r.mu.RUnlock()
	slices.SortFunc(out, byServiceID)
	return out
}

// Checks gives all checks of this machine as they are now, ordered by id.
func (r *Registry) Checks() []*catalog.Check {
	r.mu.RLock()
	out := make([]*catalog.Check, 0, len(r.checks))
	for _, c := range r.checks {
		out = append(out, c.record(r.cfg.NodeName, r.services[c.def.ServiceID]))
	}
	r.mu.RUnlock()
	slices.SortFunc(out, byCheckID)
	return out
}

// ServiceChecks gives the checks that decide about a service: its own and those of the node, ordered by id.
func (r *Registry) ServiceChecks(id string) []*catalog.Check {
	r.mu.RLock()
	out := r.nodeChecks()
	if s := r.services[id]; s != nil {
		for _, c := range s.checks {
			out = append(out, c.record(r.cfg.NodeName, s))
		}
	}
	r.mu.RUnlock()
	slices.SortFunc(out, byCheckID)
	return out
}

// nodeChecks gives the checks of no service; under the lock.
func (r *Registry) nodeChecks() []*catalog.Check {
	out := make([]*catalog.Check, 0, len(r.nodeWide))
	for _, c := range r.nodeWide {
		out = append(out, c.record(r.cfg.NodeName, nil))
	}
	return out
}

// serviceState is what Sync sends of one service: its record and those of its checks, ordered by id. sent: the catalog
// has acknowledged it before. A nil record: there is no such service.
func (r *Registry) serviceState(id string) (rec *catalog.Service, all []*catalog.Check, sent bool) {
	r.mu.RLock()
	defer r.mu.RUnlock()
	s := r.services[id]
	if s == nil {
		return nil, nil, false
	}
	checks := make([]*catalog.Check, 0, len(s.checks))
	for _, c := range s.checks {
		checks = append(checks, c.record(r.cfg.NodeName, s))
	}
	slices.SortFunc(checks, byCheckID)
	return s.rec, checks, s.sent.Load()
}

// checkState is what Sync sends of one check. pending: only its output changed, and its time has not come.
func (r *Registry) checkState(serviceID, id string) (rec *catalog.Check, pending, ok bool) {
	r.mu.RLock()
	defer r.mu.RUnlock()
	c := r.checks[id]
	if c == nil || c.def.ServiceID != serviceID {
		return nil, false, false
	}
	return c.record(r.cfg.NodeName, r.services[serviceID]), c.outputPending(), true
}

// adoptTags copies the catalog's tags of a service that allows it into the registry, which keeps them.
func (r *Registry) adoptTags(id string, tags []string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	s := r.services[id]
	if s == nil || !s.rec.EnableTagOverride || slices.Equal(s.rec.Tags, tags) {
		return
	}
	def := s.def
	def.Tags = slices.Clone(tags)
	next := &localService{def: def, rec: serviceRecord(def), source: s.source, checks: s.checks, gone: make(chan struct{})}
	next.sent.Store(s.sent.Load())
	r.services[id] = next
	r.byName[def.Name][id] = next
	close(s.gone)
	r.store.put([]op{serviceOp(next)}) // nobody waits: the catalog has it anyway
}

// Maintenance checks (contract: consul-http 7.6).
const (
	nodeMaintenanceID    = "_node_maintenance"
	serviceMaintenanceID = "_service_maintenance:"
)

// NodeMaintenance puts this whole machine into maintenance, or takes it out. Doing either twice is fine.
func (r *Registry) NodeMaintenance(ctx context.Context, enable bool, reason string) error {
	return r.maintenance(ctx, "", enable, reason)
}

// ServiceMaintenance does the same for one service. Unknown: 404.
func (r *Registry) ServiceMaintenance(ctx context.Context, id string, enable bool, reason string) error {
	return r.maintenance(ctx, id, enable, reason)
}

func (r *Registry) maintenance(ctx context.Context, serviceID string, enable bool, reason string) error {
	var ch change
	r.mu.Lock()
	err := r.writable()
	if err == nil && serviceID != "" && r.services[serviceID] == nil {
		err = unknownService(serviceID)
	}
	if err != nil {
		r.mu.Unlock()
		return err
	}
	id := maintenanceID(serviceID)
	switch old := r.checks[id]; {
	case enable:
		r.putMaintenance(&ch, serviceID, reason)
	case old != nil:
		r.dropCheck(&ch, old)
	}
	r.tellCheck(&ch, serviceID, id)
	saved := r.store.put(ch.ops)
	r.mu.Unlock()
	return r.finish(ctx, saved, &ch)
}

func maintenanceID(serviceID string) string {
	if serviceID == "" {
		return nodeMaintenanceID
	}
	return serviceMaintenanceID + serviceID
}

// putMaintenance puts the check in; the caller tells Sync.
func (r *Registry) putMaintenance(ch *change, serviceID, reason string) {
	name, what := "Node Maintenance Mode", "node"
	if serviceID != "" {
		name, what = "Service Maintenance Mode", "service"
	}
	if reason == "" {
		reason = "Maintenance mode is enabled for this " + what + ", but no reason was provided. This is a default message."
	}
	def := consul.CheckDefinition{ID: maintenanceID(serviceID), Name: name, Notes: reason, ServiceID: serviceID}
	c := &localCheck{reg: r, def: def, kind: kindMaintenance, source: fromAPI, status: health.Critical}
	if old := r.checks[def.ID]; old != nil {
		old.retire()
		ch.stopped = append(ch.stopped, old)
	}
	r.checks[def.ID] = c
	if svc := r.services[serviceID]; svc != nil {
		svc.checks[def.ID] = c
	} else {
		r.nodeWide[def.ID] = c
	}
	r.index.set(def.ID, c)
	ch.ops = append(ch.ops, checkOp(c))
}
