package health

import (
	"fmt"
	"sync"
	"time"
)

// ttlCheck turns critical when nobody beats for a TTL. It owns no goroutine, only a runtime timer, so that a machine
// with thousands of TTL checks pays a few hundred bytes for each.
//
// The deadline moves with every beat, the timer does not: when it fires early it is set again for what remains. A
// beat therefore costs one uncontended lock and one clock reading however short the TTL is.
type ttlCheck struct {
	id   string
	ttl  time.Duration
	max  int // bytes of output kept
	to   Reporter
	base time.Time // deadlines are monotonic durations since here, so changing the wall clock moves none

	report sync.Mutex // held while a change is applied and reported; taken before mu

	mu       sync.Mutex
	status   Status
	output   string // as kept
	given    int    // length of output before it was cut
	expired  bool   // status and output say so already
	deadline time.Duration
	armed    bool // the timer will fire
	stopped  bool
	timer    *time.Timer
}

func startTTL(s Spec, last State, restored bool, to Reporter) *ttlCheck {
	c := &ttlCheck{id: s.ID, ttl: s.TTL, max: s.OutputMaxSize, to: to, base: time.Now()}
	c.mu.Lock() // the timer may fire before this function ends
	defer c.mu.Unlock()
	c.setLocked(last.Status, last.Output, len(last.Output))
	remaining := s.TTL
	if !last.Expires.IsZero() {
		// A clock that was set back must not lengthen a life.
		remaining = min(time.Until(last.Expires), s.TTL)
	} else if restored && last.Status == Critical {
		remaining, c.expired = 0, true // it had expired before it was saved
	}
	if remaining <= 0 {
		// Critical from the first moment, not only when the timer has run: nobody may see the dead status.
		c.expireLocked()
		remaining = 0
	}
	c.deadline, c.armed = remaining, true
	c.timer = time.AfterFunc(remaining, c.fire)
	return c
}

func (c *ttlCheck) beat(status Status, output string) error {
	if !known(status) {
		return ErrBadStatus
	}
	c.mu.Lock()
	if c.stopped {
		c.mu.Unlock()
		return ErrStopped
	}
	if c.sameLocked(status, output) {
		c.extendLocked()
		c.mu.Unlock()
		return nil
	}
	c.mu.Unlock()

	c.report.Lock()
	defer c.report.Unlock()
	c.mu.Lock()
	if c.stopped {
		c.mu.Unlock()
		return ErrStopped
	}
	c.extendLocked()
	if c.sameLocked(status, output) { // another beat was faster
		c.mu.Unlock()
		return nil
	}
	c.setLocked(status, cutPrefix(output, c.max), len(output))
	kept := c.output
	c.mu.Unlock()
	c.to.Report(c.id, status, kept)
	return nil
}

// fire runs on the timer: expire, or wait for what remains.
func (c *ttlCheck) fire() {
	c.report.Lock()
	defer c.report.Unlock()
	c.mu.Lock()
	if c.stopped {
		c.mu.Unlock()
		return
	}
	if remaining := c.deadline - time.Since(c.base); remaining > 0 {
		c.timer.Reset(remaining)
		c.mu.Unlock()
		return
	}
	c.armed = false
	c.expireLocked()
	status, output := c.status, c.output
	c.mu.Unlock()
	c.to.Report(c.id, status, output)
}

func (c *ttlCheck) halt() {
	c.mu.Lock()
	c.stopped = true
	c.timer.Stop()
	c.mu.Unlock()
	c.report.Lock() // wait for a report that is under way
	defer c.report.Unlock()
}

func (c *ttlCheck) state() State {
	c.mu.Lock()
	defer c.mu.Unlock()
	s := State{Status: c.status, Output: c.output}
	if c.armed {
		s.Expires = time.Now().Round(0).Add(c.deadline - time.Since(c.base))
	}
	return s
}

// sameLocked says whether a beat would change nothing. An output longer than the limit is the same when the kept
// part and the full length are: telling more would need the cut again, and an allocation with every beat.
func (c *ttlCheck) sameLocked(status Status, output string) bool {
	if status != c.status || len(output) != c.given || c.expired {
		return false
	}
	if len(output) > c.max {
		return len(c.output) >= c.max && c.output[:c.max] == output[:c.max]
	}
	return output == c.output
}

func (c *ttlCheck) setLocked(status Status, output string, given int) {
	c.status, c.output, c.given, c.expired = status, output, given, false
}

// expireLocked may be called again; the last output is quoted once.
func (c *ttlCheck) expireLocked() {
	if !c.expired {
		c.setLocked(Critical, expiredOutput(c.output), 0)
		c.expired = true
	}
}

func (c *ttlCheck) extendLocked() {
	c.deadline = time.Since(c.base) + c.ttl
	if !c.armed {
		c.armed = true
		c.timer.Reset(c.ttl)
	}
}

func expiredOutput(last string) string {
	if last == "" {
		return "TTL expired"
	}
	return "TTL expired (last output before timeout follows): " + last
}

// cutPrefix keeps the first max bytes and says so.
func cutPrefix(s string, max int) string {
	if len(s) <= max {
		return s
	}
	return fmt.Sprintf("%s ... (captured %d of %d bytes)", s[:max], max, len(s))
}
