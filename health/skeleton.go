package health

import "time"

// Validate refuses a Spec that cannot run, in the words of the contract (7.1), without any prefix.
func (s Spec) Validate() error { panic("x") }

// Kind is "ttl", "http" or "tcp", "" for none.
func (s Spec) Kind() string { panic("x") }

// Runner runs one check until Stop, which waits for the last report to be over.
type Runner struct{}

// Start validates s and starts it. last, when non-zero, restores a TTL check's remaining time and status without a flap.
func Start(s Spec, last State, to Reporter) (*Runner, error) { panic("x") }
func (r *Runner) Stop()                                      { panic("x") }

// Beat sets the status of a TTL check and restarts its timer. It allocates nothing when nothing changes.
// It returns ErrNotTTL for other kinds.
func (r *Runner) Beat(status Status, output string) error { panic("x") }

// State is what survives a restart.
type State struct {
	Status  Status
	Output  string
	Expires time.Time // TTL checks: when it would have expired
}

func (r *Runner) State() State { panic("x") }
