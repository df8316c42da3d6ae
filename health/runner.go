package health

import "errors"

// Errors of a Runner.
var (
	ErrNotTTL  = errors.New("not a TTL check: only TTL checks take a status from outside")
	ErrStopped = errors.New("the check has been stopped")

	errNoAliased = errors.New("an alias check has nothing to follow")
)

// Runner runs one check until Stop. Its methods may be called from any goroutine.
type Runner struct {
	ttl   *ttlCheck // exactly one of the three is set
	probe *probeCheck
	alias *aliasCheck
}

// Start validates s and starts it; errors are Validate's. last, when non-zero, is what State gave before a restart:
// the check begins with that status instead of s.Initial, and a TTL check goes on with its remaining time, so a
// restart shows no flap. A TTL check whose time ran out meanwhile begins critical and reports it.
func Start(s Spec, last State, to Reporter) (*Runner, error) {
	if err := s.Validate(); err != nil {
		return nil, err
	}
	s = s.prepared()
	restored := known(last.Status)
	if !restored {
		last = State{Status: s.Initial}
	}
	switch s.Kind() {
	case "ttl":
		return &Runner{ttl: startTTL(s, last, restored, to)}, nil
	case "alias":
		if s.Aliased == nil {
			return nil, errNoAliased
		}
		return &Runner{alias: startAlias(s, last, to)}, nil
	}
	return &Runner{probe: startProbe(s, last, newProber(s), to)}, nil
}

// Stop ends the check: a running probe is cancelled, and when Stop returns no report is under way or will follow.
// It may be called more than once. It must not be called from Report.
func (r *Runner) Stop() {
	switch {
	case r.ttl != nil:
		r.ttl.halt()
	case r.alias != nil:
		r.alias.halt()
	default:
		r.probe.halt()
	}
}

// Beat sets the status of a TTL check and restarts its timer. It allocates nothing and reports nothing when status
// and output stay the same; a change is reported before Beat returns. Errors: ErrNotTTL for other kinds,
// ErrBadStatus, ErrStopped.
func (r *Runner) Beat(status Status, output string) error {
	if r.ttl == nil {
		return ErrNotTTL
	}
	return r.ttl.beat(status, output)
}

// State is the check's present status and output, and for a TTL check the wall clock time of its expiry.
func (r *Runner) State() State {
	switch {
	case r.ttl != nil:
		return r.ttl.state()
	case r.alias != nil:
		return r.alias.state()
	}
	return r.probe.state()
}
