package health

import (
	"context"
	"math/rand/v2"
	"sync"
	"time"
)

// prober makes one attempt and judges it. It must return soon after ctx is done. A new kind of probed check is one
// file with its prober, its fields in Spec, and its line in newProber, Kind and Validate.
type prober interface {
	probe(ctx context.Context) (Status, string)
}

// newProber returns nil for the kinds that nobody probes: TTL and alias.
func newProber(s Spec) prober {
	switch s.Kind() {
	case "grpc":
		return newGRPCProber(s)
	case "http":
		return newHTTPProber(s)
	case "tcp":
		return newTCPProber(s)
	case "udp":
		return udpProber{s.UDP}
	case "docker":
		return newDockerProber(s)
	case "script":
		return scriptProber{s.Args, s.OutputMaxSize, s.Timeout}
	case "h2ping":
		return newH2Prober(s)
	case "os_service":
		return osServiceProber{s.Host.systemctl(), s.OSService, s.Timeout}
	}
	return nil
}

// probeCheck runs a prober every interval and reports what the thresholds decide.
type probeCheck struct {
	id       string
	p        prober
	interval time.Duration
	timeout  time.Duration
	to       Reporter
	cancel   context.CancelFunc
	done     chan struct{}
	limits   thresholds

	mu     sync.Mutex
	status Status
	output string
}

func startProbe(s Spec, last State, p prober, to Reporter) *probeCheck {
	ctx, cancel := context.WithCancel(context.Background())
	c := &probeCheck{
		id: s.ID, p: p, interval: s.Interval, timeout: s.Timeout, to: to,
		cancel: cancel, done: make(chan struct{}),
		limits: thresholds{pass: s.SuccessBeforePassing, warn: s.FailuresBeforeWarning, crit: s.FailuresBeforeCritical},
		status: last.Status, output: last.Output,
	}
	go c.run(ctx)
	return c
}

// run keeps a fixed rhythm that begins at a random point of the interval: checks registered together spread out and
// stay spread, because the time a probe takes does not shift the next one. Beats missed by a slow probe are skipped.
func (c *probeCheck) run(ctx context.Context) {
	defer close(c.done)
	next := time.Now().Add(rand.N(c.interval))
	timer := time.NewTimer(time.Until(next))
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-timer.C:
		}
		c.once(ctx)
		next = next.Add(c.interval)
		if late := time.Since(next); late > 0 {
			next = next.Add(late - late%c.interval + c.interval)
		}
		timer.Reset(time.Until(next))
	}
}

func (c *probeCheck) once(parent context.Context) {
	ctx, cancel := context.WithTimeout(parent, c.timeout)
	result, output := c.p.probe(ctx)
	cancel()
	if parent.Err() != nil { // stopped: the result is the stop's doing
		return
	}
	status, decided := c.limits.judge(result)
	if !decided {
		return
	}
	c.mu.Lock()
	c.status, c.output = status, output
	c.mu.Unlock()
	c.to.Report(c.id, status, output)
}

func (c *probeCheck) halt() {
	c.cancel()
	<-c.done
}

func (c *probeCheck) state() State {
	c.mu.Lock()
	defer c.mu.Unlock()
	return State{Status: c.status, Output: c.output}
}

// thresholds count consecutive results. Passing and warning are both successes.
type thresholds struct {
	pass, warn, crit    int // needed in a row
	successes, failures int // seen in a row
}

// judge counts a result and gives the status it leads to; false means that the status stays what it was.
func (t *thresholds) judge(result Status) (Status, bool) {
	if result != Critical {
		t.successes, t.failures = t.successes+1, 0
		return result, t.successes >= t.pass
	}
	t.successes, t.failures = 0, t.failures+1
	switch {
	case t.failures >= t.crit:
		return Critical, true
	case t.failures >= t.warn:
		return Warning, true
	}
	return "", false
}
