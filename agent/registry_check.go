package agent

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/musterhq/muster/api/consul"
	"github.com/musterhq/muster/catalog"
	"github.com/musterhq/muster/health"
)

// kindMaintenance is the type of the checks that only exist to be critical.
const kindMaintenance = "maintenance"

// localCheck is one check of this machine with its runner. It is its own health.Reporter, so a report of a runner
// that has been replaced reaches a retired localCheck and ends there.
type localCheck struct {
	reg               *Registry
	def               consul.CheckDefinition // immutable
	kind              string                 // as the catalog shows it
	source            source
	alone             bool           // registered by itself, not with its service
	runner            *health.Runner // nil for maintenance; set before the check is in any map
	damped            atomic.Bool    // a hold has begun: its output is to be seen at once
	damper            *health.Damper // between the runner and the check; nil: flapping is not damped
	interval, timeout string         // as the catalog shows them
	reapAfter         time.Duration

	mu            sync.Mutex
	retired       bool
	status        health.Status
	output        string
	criticalSince time.Time       // when a result turned it critical; zero: none did
	outputTimer   *time.Timer     // runs while a change of output alone waits to be sent
	told          <-chan struct{} // closed when the newest change was sent; nil: a beat has waited for it
}

func newLocalCheck(r *Registry, def consul.CheckDefinition, src source, alone bool) *localCheck {
	c := &localCheck{reg: r, def: def, kind: def.Kind(), source: src, alone: alone}
	if alone || def.Interval > 0 {
		c.interval = def.Interval.String()
	}
	if alone || def.Timeout > 0 {
		c.timeout = def.Timeout.String()
	}
	if alone && src == fromFile {
		c.kind = "" // as the contract has it for checks of files that stand by themselves
	}
	return c
}

// start runs the check. last is the state it takes over, if any.
func (c *localCheck) start(last health.State) {
	spec := specOf(c.def, c.reg.cfg.Host)
	spec.Aliased = c.aliased()
	if spec.OutputMaxSize == 0 {
		spec.OutputMaxSize = c.reg.cfg.CheckOutputMaxSize
	}
	spec, warnings := spec.Normalize()
	for _, w := range warnings {
		c.reg.log.Warn(w)
	}
	c.reapAfter = spec.DeregisterCriticalServiceAfter
	c.status, c.output = spec.Initial, ""
	if last.Status != "" {
		c.status, c.output = last.Status, last.Output
	}
	if c.status == "" {
		c.status = health.Critical
	}
	var reporter health.Reporter = c
	if d := c.damping(); d.Changes > 0 {
		c.damper = health.NewDamper(d, c.status, c, func() {
			c.damped.Store(true)
			c.reg.log.Warn("check is flapping and is held in its worst status", "check", c.def.ID, "service", c.def.ServiceID, "until stable for", d.Stable)
			if c.reg.cfg.Metrics != nil {
				c.reg.cfg.Metrics.IncrCounter([]string{"checks", "damped"}, 1)
			}
		})
		reporter = c.damper
	}
	runner, err := health.Start(spec, last, reporter)
	if err != nil { // definitions are validated before they come here
		c.reg.log.Error("check cannot run", "check", c.def.ID, "error", err)
		return
	}
	c.mu.Lock() // the first report may come before this line
	defer c.mu.Unlock()
	c.runner = runner
	// A TTL that ran out begins critical without a report of its own until the timer has run.
	if s := runner.State(); s.Status != c.status {
		c.status, c.output = s.Status, c.keep(s.Output)
	}
}

// damping is what the check or else the agent says about flapping.
func (c *localCheck) damping() health.Damping {
	d := c.reg.cfg.Damping
	if c.def.FlapChanges != 0 {
		d.Changes = c.def.FlapChanges
	}
	if c.def.FlapWindow > 0 {
		d.Window = c.def.FlapWindow
	}
	if c.def.FlapStable > 0 {
		d.Stable = c.def.FlapStable
	}
	return d
}

// aliased is what an alias check follows, nil for other kinds.
func (c *localCheck) aliased() health.Aliased {
	switch {
	case c.def.AliasNode != "":
		a := remoteAlias{nodes: c.reg.cfg.Nodes, node: c.def.AliasNode, service: c.def.AliasService}
		if strings.EqualFold(a.node, c.reg.cfg.NodeName) {
			a.self = c.def.ID
		}
		return a
	case c.def.AliasService != "":
		return localAlias{c.reg, c.def.ID, c.def.AliasService}
	}
	return nil
}

// Report takes a result; it implements health.Reporter. The same status and output end here, output alone is sent
// within CheckUpdateInterval, a status at once.
func (c *localCheck) Report(_ string, status health.Status, output string) {
	output = c.keep(output)
	c.mu.Lock()
	if c.retired || status == c.status && output == c.output {
		c.mu.Unlock()
		return
	}
	changed := status != c.status
	c.status, c.output = status, output
	delay := c.reg.cfg.CheckUpdateInterval
	switch {
	case changed && status == health.Critical:
		c.criticalSince = time.Now()
	case changed:
		c.criticalSince = time.Time{}
	}
	now := changed || c.damped.Swap(false) || delay <= 0
	if now {
		c.cancelOutputLocked()
	} else if c.outputTimer == nil {
		// Somewhere in the second half of the interval, so that many checks do not write in step.
		c.outputTimer = time.AfterFunc(delay/2+rand.N(delay/2+1), c.sendOutput)
	}
	c.reg.aliases.wake(c.def.ServiceID)
	c.reg.store.state(c.def.ID, savedState{Status: status, Output: output, Expired: c.spent()}, changed)
	c.mu.Unlock()
	if changed {
		c.reg.log.Info("check changed its status", "check", c.def.ID, "service", c.def.ServiceID, "status", status)
	}
	if now {
		c.tell()
	}
}

// spent says whether a TTL has run out, so that a restart does not give it a new one.
func (c *localCheck) spent() bool {
	return c.def.TTL > 0 && c.runner != nil && c.runner.State().Expires.IsZero()
}

func (c *localCheck) keep(output string) string {
	if c.reg.cfg.DiscardCheckOutput {
		return ""
	}
	return output
}

func (c *localCheck) cancelOutputLocked() {
	if c.outputTimer != nil {
		c.outputTimer.Stop()
		c.outputTimer = nil
	}
}

func (c *localCheck) sendOutput() {
	c.mu.Lock()
	c.outputTimer = nil
	retired := c.retired
	c.mu.Unlock()
	if !retired {
		c.tell()
	}
}

// tell says to Sync that this check changed, without waiting for it.
func (c *localCheck) tell() {
	c.reg.mu.RLock()
	p := c.reg.push
	c.reg.mu.RUnlock()
	if p == nil {
		return
	}
	told := p.checkChanged(c.def.ServiceID, c.def.ID)
	c.mu.Lock()
	c.told = told
	c.mu.Unlock()
}

// awaitKept waits until a beat that has changed the status is on disk, so that a crash does not take back what the
// client was told, and, at most PushWait, in the catalog: a client that beats and then asks the cluster finds what it
// said. A beat that changes nothing does not wait.
func (c *localCheck) awaitKept(before health.Status) {
	c.mu.Lock()
	told := c.told
	changed := c.status != before
	if changed {
		c.told = nil
	}
	c.mu.Unlock()
	if !changed {
		return
	}
	// A disk that takes no more is no reason to refuse a sign of life: the status holds until the agent stops.
	if err := <-c.reg.store.settled(); err != nil {
		c.reg.log.Error("the status of a check could not be saved", "check", c.def.ID, "error", err)
	}
	if told == nil {
		return
	}
	timer := time.NewTimer(c.reg.cfg.PushWait)
	defer timer.Stop()
	select {
	case <-told:
	case <-timer.C:
	}
}

func (c *localCheck) statusNow() health.Status {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.status
}

// retire ends the reports of this check and gives its last state for a successor. The runner is stopped later, by
// halt, without any lock.
func (c *localCheck) retire() health.State {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.retired = true
	c.cancelOutputLocked()
	last := health.State{Status: c.status, Output: c.output}
	if c.runner != nil {
		last.Expires = c.runner.State().Expires
	}
	return last
}

func (c *localCheck) isRetired() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.retired
}

// halt stops the runner. At the end of the agent the last state was saved with its report already.
func (c *localCheck) halt() {
	c.mu.Lock()
	c.retired = true
	c.cancelOutputLocked()
	c.mu.Unlock()
	if c.runner != nil {
		c.runner.Stop()
	}
	if c.damper != nil {
		c.damper.Stop()
	}
}

// outputPending says whether a change of output alone is waiting for its time.
func (c *localCheck) outputPending() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.outputTimer != nil
}

// place names where the check belongs, for error texts.
func (c *localCheck) place() string {
	if c.def.ServiceID == "" {
		return "by a check of the node"
	}
	return fmt.Sprintf("by service %q", c.def.ServiceID)
}

// record is the catalog's form of the check. svc is its service, nil for a check of the node.
func (c *localCheck) record(node string, svc *localService) *catalog.Check {
	out := &catalog.Check{
		Node: node, ID: c.def.ID, Name: c.def.Name, Notes: c.def.Notes, ServiceID: c.def.ServiceID,
		Type: c.kind, Interval: c.interval, Timeout: c.timeout,
	}
	if svc != nil {
		out.ServiceName, out.ServiceTags = svc.rec.Name, svc.rec.Tags
	}
	c.mu.Lock()
	out.Status, out.Output = c.status, c.output
	c.mu.Unlock()
	return out
}

func beatError(id, status string, err error) error {
	switch {
	case errors.Is(err, health.ErrNotTTL):
		return notTTL(id)
	case errors.Is(err, health.ErrBadStatus):
		return badRequest("Invalid check status: '%s'", status)
	case errors.Is(err, health.ErrStopped):
		return refuse(503, "the agent is shutting down")
	}
	return err
}
