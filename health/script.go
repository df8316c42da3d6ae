package health

import (
	"context"
	"errors"
	"fmt"
	"os/exec"
	"time"
)

// pipeDelay is how long a program's output is read after its end, when something that it left behind holds the pipe.
const pipeDelay = time.Second

// scriptProber runs a program: exit 0 passes, 1 warns, everything else is critical.
type scriptProber struct {
	args  []string
	max   int
	limit time.Duration // of one run
}

func (p scriptProber) probe(ctx context.Context) (Status, string) {
	out := &tail{max: p.max}
	cmd := exec.CommandContext(ctx, p.args[0], p.args[1:]...)
	cmd.Stdout, cmd.Stderr = out, out
	cmd.WaitDelay = pipeDelay
	ownGroup(cmd)
	err := cmd.Run()
	if errors.Is(ctx.Err(), context.DeadlineExceeded) {
		return Critical, timedOut(p.limit)
	}
	var exit *exec.ExitError
	switch {
	case err == nil, errors.Is(err, exec.ErrWaitDelay): // the latter: it ended well, but left a child with its output
		return Passing, out.text()
	case errors.As(err, &exit):
		return exitStatus(exit.ExitCode()), out.text()
	}
	return Critical, err.Error() // it did not start
}

// exitStatus is the meaning of a program's exit code; -1 is its death by a signal.
func exitStatus(code int) Status {
	switch code {
	case 0:
		return Passing
	case 1:
		return Warning
	}
	return Critical
}

// timedOut is the output of a program that took too long: it names the limit, not what a late start has left of it.
func timedOut(limit time.Duration) string {
	return fmt.Sprintf("Timed out (%s) running check", limit.Round(time.Millisecond))
}
