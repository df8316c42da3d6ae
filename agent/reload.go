package agent

import (
	"context"
	"errors"
	"fmt"
	"reflect"
	"slices"

	"github.com/musterhq/muster/api/consul"
	"github.com/musterhq/muster/health"
)

// restore starts with what was saved and what the configuration files say.
func (r *Registry) restore(saved *savedRegistry) error {
	services, checks, err := r.fileDefinitions(r.cfg.Services, r.cfg.Checks)
	if err != nil {
		return err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	var ch change
	for _, def := range services {
		if err := r.putService(&ch, def, fromFile, false, saved.states); err != nil {
			return err
		}
	}
	for _, def := range saved.services {
		if r.services[def.ID] != nil {
			continue // the file wins
		}
		if def, err = normaliseService(def, r.rules(true)); err == nil {
			err = r.putService(&ch, def, fromAPI, false, saved.states)
		}
		if s := r.services[def.ID]; err == nil && s != nil {
			s.sent.Store(saved.sent[def.ID])
		}
		if err != nil { // an older or newer version knew better
			r.log.Error("saved service cannot be restored", "service", def.ID, "error", err)
		}
	}
	for _, def := range checks {
		if err := r.checkPlace(def); err != nil {
			return fmt.Errorf("check %q: %w", def.ID, err)
		}
		r.putCheck(&ch, def, fromFile, true, saved.states)
	}
	for _, s := range saved.checks {
		r.restoreCheck(&ch, s, saved.states)
	}
	// What was read is on disk already; only what a file has taken over, or what is orphaned, goes.
	ch.ops = slices.DeleteFunc(ch.ops, func(o op) bool { return o.value != nil })
	return <-r.store.put(ch.ops)
}

func (r *Registry) restoreCheck(ch *change, s savedCheck, states map[string]savedState) {
	if r.checks[s.Def.ID] != nil {
		return // the file wins
	}
	if s.Def.ServiceID != "" && r.services[s.Def.ServiceID] == nil {
		r.log.Info("saved check is dropped: its service is gone", "check", s.Def.ID, "service", s.Def.ServiceID)
		ch.ops = append(ch.ops, op{bucket: bucketChecks, key: s.Def.ID}, op{bucket: bucketStates, key: s.Def.ID})
		return
	}
	if s.Maintenance {
		r.putMaintenance(ch, s.Def.ServiceID, s.Def.Notes)
		return
	}
	if err := checkKind(s.Def, r.rules(r.cfg.EnableScriptChecks)); err != nil {
		r.log.Error("saved check cannot run", "check", s.Def.ID, "error", err)
		r.putIdle(ch, s, err)
		return
	}
	r.putCheck(ch, s.Def, fromAPI, s.Alone, states)
}

// putIdle keeps a check that must not or cannot run here any more, critical: without it its service would look
// healthy because nobody looks.
func (r *Registry) putIdle(ch *change, s savedCheck, reason error) {
	c := newLocalCheck(r, s.Def, fromAPI, s.Alone)
	c.status, c.output = health.Critical, "This check does not run: "+reason.Error()
	r.checks[s.Def.ID] = c
	if svc := r.services[s.Def.ServiceID]; svc != nil {
		svc.checks[s.Def.ID] = c
	} else {
		r.nodeWide[s.Def.ID] = c
	}
	r.index.set(s.Def.ID, c)
	ch.ops = append(ch.ops, checkOp(c))
}

func (r *Registry) fileDefinitions(services []consul.ServiceDefinition, checks []consul.CheckDefinition) ([]consul.ServiceDefinition, []consul.CheckDefinition, error) {
	may := r.rules(r.cfg.EnableScriptChecks || r.cfg.EnableLocalScriptChecks)
	outS := make([]consul.ServiceDefinition, len(services))
	outC := make([]consul.CheckDefinition, len(checks))
	var err error
	for i, def := range services {
		if outS[i], err = normaliseService(def, may); err != nil {
			return nil, nil, fmt.Errorf("service %q: %w", def.Name, err)
		}
	}
	for i, def := range checks {
		if outC[i], err = normaliseCheck(def, may); err != nil {
			return nil, nil, fmt.Errorf("check %q: %w", def.Name, err)
		}
	}
	return outS, outC, nil
}

// Reload puts the services and checks of the configuration files in place of the former ones from files: new and
// changed ones are registered, vanished ones removed, unchanged ones not touched. What came by the HTTP interface
// stays, unless a file now names its id. An error changes nothing, but for errNotSaved.
func (r *Registry) Reload(ctx context.Context, services []consul.ServiceDefinition, checks []consul.CheckDefinition) error {
	services, checks, err := r.fileDefinitions(services, checks)
	if err != nil {
		return err
	}
	var ch change
	r.mu.Lock()
	saved, err := r.reload(&ch, services, checks)
	r.mu.Unlock()
	if err != nil {
		return err
	}
	if err := r.finish(ctx, saved, &ch); err != nil {
		return fmt.Errorf("%w: %w", errNotSaved, err)
	}
	return nil
}

// errNotSaved says that a reload happened, and that the disk does not know.
var errNotSaved = errors.New("the registry could not be saved")

func (r *Registry) reload(ch *change, services []consul.ServiceDefinition, checks []consul.CheckDefinition) (<-chan error, error) {
	if err := r.writable(); err != nil {
		return nil, err
	}
	named, ownChecks := map[string]bool{}, map[string]string{} // services; check id -> service id
	for _, def := range services {
		named[def.ID] = true
		for _, c := range def.Checks {
			ownChecks[c.ID] = def.ID
		}
	}
	for _, def := range checks {
		if def.ServiceID != "" && !named[def.ServiceID] && (r.services[def.ServiceID] == nil || r.services[def.ServiceID].source == fromFile) {
			return nil, fmt.Errorf("check %q: no service has the id %q", def.ID, def.ServiceID)
		}
		if _, twice := ownChecks[def.ID]; twice {
			return nil, fmt.Errorf("check %q: the id is used twice", def.ID)
		}
		ownChecks[def.ID] = def.ServiceID
	}
	for id, serviceID := range ownChecks { // of what stays, nothing may hold an id for another service
		if c := r.checks[id]; c != nil && c.def.ServiceID != serviceID && c.source == fromAPI {
			return nil, fmt.Errorf("check %q: the id is in use %s", id, c.place())
		}
	}
	for id, c := range r.checks {
		if serviceID, ok := ownChecks[id]; c.source == fromFile && (!ok || serviceID != c.def.ServiceID) {
			r.dropCheck(ch, c)
			r.tellCheck(ch, c.def.ServiceID, id)
		}
	}
	for id, svc := range r.services {
		if svc.source == fromFile && !named[id] {
			r.dropService(ch, svc)
		}
	}
	for _, def := range services {
		if r.sameService(def) {
			continue
		}
		if err := r.putService(ch, def, fromFile, false, nil); err != nil {
			return nil, err // cannot be: the ids were looked at above
		}
	}
	for _, def := range checks {
		if c := r.checks[def.ID]; c != nil && c.source == fromFile && reflect.DeepEqual(c.def, def) {
			continue
		}
		r.putCheck(ch, def, fromFile, true, nil)
		r.tellCheck(ch, def.ServiceID, def.ID)
	}
	return r.store.put(ch.ops), nil
}

// sameService says whether a file service is registered exactly so already.
func (r *Registry) sameService(def consul.ServiceDefinition) bool {
	svc := r.services[def.ID]
	if svc == nil || svc.source != fromFile {
		return false
	}
	for _, d := range def.Checks {
		if c := svc.checks[d.ID]; c == nil || !reflect.DeepEqual(c.def, d) {
			return false
		}
	}
	def.Checks = nil
	return reflect.DeepEqual(svc.def, def)
}
