package health

import (
	"fmt"
	"sync"
	"time"
)

// Damping says when a check counts as flapping: more than Changes changes of status within Window. It is then held in
// the worst status seen until nothing has changed for Stable. Changes 0 is never.
type Damping struct {
	Changes int
	Window  time.Duration // 0 = DefaultDampWindow
	Stable  time.Duration // 0 = DefaultDampStable
}

// Defaults of a Damping.
const (
	DefaultDampWindow = time.Minute
	DefaultDampStable = 30 * time.Second
)

// Damper is a Reporter that passes results on to another and holds back the flapping of one check.
//
//	r, err := health.Start(spec, last, health.NewDamper(health.Damping{Changes: 5}, spec.Initial, reporter, nil))
type Damper struct {
	rules Damping
	to    Reporter
	began func()

	mu      sync.Mutex
	id      string
	status  Status // as last reported
	output  string
	changes []time.Time // within the window, oldest first
	held    Status      // "" = what is reported is passed on
	timer   *time.Timer // runs while it is held
	stopped bool
}

// NewDamper makes a Damper that passes on to another Reporter. initial is the status the check begins with. began,
// which may be nil, is called when a hold begins.
func NewDamper(d Damping, initial Status, to Reporter, began func()) *Damper {
	if d.Window <= 0 {
		d.Window = DefaultDampWindow
	}
	if d.Stable <= 0 {
		d.Stable = DefaultDampStable
	}
	return &Damper{rules: d, to: to, began: began, status: initial}
}

// Report implements Reporter.
func (d *Damper) Report(id string, status Status, output string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.stopped {
		return
	}
	before := d.status
	d.id, d.status, d.output = id, status, output
	if status != before {
		d.note(before, status)
	}
	if d.held == "" {
		d.to.Report(id, status, output)
		return
	}
	d.to.Report(id, d.held, fmt.Sprintf("Flapping: %d changes of status within %v, held %s until nothing changes for %v. Now %s: %s",
		len(d.changes), d.rules.Window, d.held, d.rules.Stable, status, output))
}

// note takes a change of status. The caller holds mu.
func (d *Damper) note(before, status Status) {
	now := time.Now()
	d.changes = append(d.changes, now)
	for len(d.changes) > 0 && now.Sub(d.changes[0]) >= d.rules.Window {
		d.changes = d.changes[1:]
	}
	switch {
	case d.held != "":
		d.held = worse(d.held, status)
		d.timer.Reset(d.rules.Stable)
	case len(d.changes) > d.rules.Changes:
		d.held = worse(before, status)
		d.timer = time.AfterFunc(d.rules.Stable, d.release)
		if d.began != nil {
			d.began()
		}
	}
	if most := d.rules.Changes + 1; d.held == "" && len(d.changes) > most {
		d.changes = d.changes[len(d.changes)-most:]
	}
}

// release ends the hold: nothing has changed for long enough.
func (d *Damper) release() {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.stopped || d.held == "" {
		return
	}
	if n := len(d.changes); n > 0 && time.Since(d.changes[n-1]) < d.rules.Stable {
		return // a change came while the timer fired, and has set it again
	}
	d.held, d.changes = "", nil
	d.to.Report(d.id, d.status, d.output)
}

// Stop ends the hold without a report. Stop the Runner first.
func (d *Damper) Stop() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.stopped = true
	if d.timer != nil {
		d.timer.Stop()
	}
}

// worse of two statuses.
func worse(a, b Status) Status {
	rank := map[Status]int{Passing: 0, Warning: 1, Critical: 2}
	if rank[b] > rank[a] {
		return b
	}
	return a
}
