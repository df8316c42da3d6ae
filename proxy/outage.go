package proxy

import (
	"sync/atomic"
	"time"
)

// outagePause is how long servers that could not be reached are left alone by requests that have another answer. After
// it, one of these looks again, for all of them.
const outagePause = time.Second

// outage is what is known of the servers' absence, by Target: whoever can answer leads, or anybody does.
type outage struct {
	since atomic.Int64 // unix nanoseconds of the first failure after the last answer; 0 = they answer
	until [2]atomic.Int64
}

// over notes an answer of a server: a leader's is proof that any would do.
func (o *outage) over(t Target) {
	if o.until[Any].Load() != 0 {
		o.until[Any].Store(0)
	}
	if t == Leader && o.until[Leader].Load() != 0 {
		o.until[Leader].Store(0)
	}
	if o.since.Load() != 0 {
		o.since.Store(0)
	}
}

// began notes that nobody could be asked.
func (o *outage) began(t Target, now time.Time) {
	o.since.CompareAndSwap(0, now.UnixNano())
	o.until[t].Store(now.Add(outagePause).UnixNano())
}

// lasts says whether a request with another answer need not ask. One a pause is told to ask all the same.
func (o *outage) lasts(t Target, now time.Time) bool {
	until := o.until[t].Load()
	if until == 0 {
		return false
	}
	return now.UnixNano() < until || !o.until[t].CompareAndSwap(until, now.Add(outagePause).UnixNano())
}

// start is when the outage began, zero when there is none.
func (o *outage) start() time.Time {
	if n := o.since.Load(); n != 0 {
		return time.Unix(0, n)
	}
	return time.Time{}
}
