package health

import (
	"context"
	"fmt"
	"sync"
)

// Aliased is what an alias check looks at. Follow reports the present status at once and every later one when it
// changes, until ctx is done; it then returns soon. It never reports from two goroutines at a time.
type Aliased interface {
	Follow(ctx context.Context, report func(Status, string))
}

// AliasedCheck is one check among those that decide about an alias.
type AliasedCheck struct {
	Name   string
	Status Status
	Output string
}

// JudgeAlias gives the status of an alias: the worst of the checks, the first of the worst ones named. found says
// whether the aliased service is there at all; service and node are for the text when it is not.
func JudgeAlias(service, node string, found bool, checks []AliasedCheck) (Status, string) {
	if !found {
		return Critical, fmt.Sprintf("Service %s could not be found on node %s", service, node)
	}
	status, output := Passing, "All checks passing."
	for _, c := range checks {
		worse := c.Status == Critical && status != Critical || c.Status != Passing && status == Passing
		if !worse {
			continue
		}
		status = Warning // also for a status of a foreign name
		if c.Status == Critical {
			status = Critical
		}
		output = fmt.Sprintf("Aliased check %q failing: %s", c.Name, c.Output)
	}
	return status, output
}

// aliasCheck follows other checks. It has no interval and no thresholds: they were applied where the checks run.
type aliasCheck struct {
	id     string
	max    int
	to     Reporter
	cancel context.CancelFunc
	done   chan struct{}

	mu  sync.Mutex
	now State
}

func startAlias(s Spec, last State, to Reporter) *aliasCheck {
	ctx, cancel := context.WithCancel(context.Background())
	c := &aliasCheck{id: s.ID, max: s.OutputMaxSize, to: to, cancel: cancel, done: make(chan struct{})}
	c.now = State{Status: last.Status, Output: last.Output}
	go func() {
		defer close(c.done)
		s.Aliased.Follow(ctx, func(status Status, output string) { c.report(ctx, status, output) })
	}()
	return c
}

func (c *aliasCheck) report(ctx context.Context, status Status, output string) {
	next := State{Status: status, Output: cutPrefix(output, c.max)}
	c.mu.Lock()
	same := c.now == next
	c.now = next
	c.mu.Unlock()
	if !same && ctx.Err() == nil {
		c.to.Report(c.id, next.Status, next.Output)
	}
}

func (c *aliasCheck) halt() {
	c.cancel()
	<-c.done
}

func (c *aliasCheck) state() State {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.now
}
