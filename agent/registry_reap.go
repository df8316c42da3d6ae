package agent

import (
	"context"
	"time"
)

// reap removes services that have been critical for longer than one of their checks allows. The clock starts when
// a result turns the check critical: one that merely starts critical is left alone.
func (r *Registry) reap() {
	defer close(r.done)
	tick := time.NewTicker(r.cfg.ReapInterval)
	defer tick.Stop()
	for {
		select {
		case <-r.stop:
			return
		case now := <-tick.C:
			for _, id := range r.overdue(now) {
				r.log.Warn("service is deregistered: it was critical for too long", "service", id)
				if err := r.DeregisterService(context.Background(), id); err != nil {
					r.log.Warn("critical service could not be deregistered", "service", id, "error", err)
				}
			}
		}
	}
}

// overdue lists the services to remove, each once.
func (r *Registry) overdue(now time.Time) []string {
	r.mu.RLock()
	defer r.mu.RUnlock()
	var out []string
	for id, svc := range r.services {
		for _, c := range svc.checks {
			if c.overdue(now) {
				out = append(out, id)
				break
			}
		}
	}
	return out
}

func (c *localCheck) overdue(now time.Time) bool {
	if c.reapAfter <= 0 {
		return false
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	return !c.criticalSince.IsZero() && now.Sub(c.criticalSince) >= c.reapAfter
}
