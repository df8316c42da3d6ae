package agent

import (
	"context"
	"net/http"
	"strconv"
	"sync/atomic"
	"time"

	"github.com/musterhq/muster/proxy"
)

const (
	contactTick = 5 * time.Second // between questions whether the servers hear of a leader
	contactSoon = time.Second     // the same while they do not
	contactLost = 5 * time.Second // an election takes less
)

// contact is what a proxy knows of the leader behind the servers that it asks.
type contact struct {
	lost atomic.Int64 // unix nanoseconds of when the leader was heard of last; 0: it is
}

// note takes what a server says, in an answer that it has given just now, of its leader.
func (c *contact) note(h http.Header) {
	ms, err := strconv.ParseInt(h.Get("X-Consul-Lastcontact"), 10, 64)
	if err != nil {
		return
	}
	switch age := time.Duration(ms) * time.Millisecond; {
	case age > contactLost:
		c.lost.Store(time.Now().Add(-age).UnixNano())
	case age == 0 && h.Get("X-Consul-Knownleader") == "false": // it has never heard of one
		c.lost.CompareAndSwap(0, time.Now().UnixNano())
	default:
		c.lost.Store(0)
	}
}

// clusterAge is how long ago a leader stood behind what this proxy knows, as far as it has heard: 0 while all is well. Two
// atomic loads then.
func (a *Agent) clusterAge() time.Duration {
	since := a.views.Outage()
	if n := a.contact.lost.Load(); n != 0 && (since.IsZero() || n < since.UnixNano()) {
		since = time.Unix(0, n)
	}
	if since.IsZero() {
		return 0
	}
	return time.Since(since)
}

// keepContact asks now and then whether the servers hear of a leader, as long as DNS follows any name: the queries it
// follows them by say so at the end of a wait alone, and one question is enough for all.
func (a *Agent) keepContact() {
	tick := contactTick
	for rest(a.ctx, tick) {
		if a.contact.lost.Load() == 0 && !a.view.follow.Following() {
			continue
		}
		if err := a.askContact(); err != nil {
			a.log.Debug("asking whether there is a leader failed", "error", err)
		}
		if tick = contactTick; a.contact.lost.Load() != 0 {
			tick = contactSoon
		}
	}
}

// askContact asks the server that other questions go to, past what is shared or kept.
func (a *Agent) askContact() error {
	ctx, cancel := context.WithTimeout(a.ctx, contactTick)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, a.scheme()+"://cluster/v1/catalog/service/consul?stale", http.NoBody)
	if err != nil {
		return err
	}
	resp, err := a.relay.RoundTrip(req, proxy.Any)
	if err != nil {
		return err // the relay knows of the outage
	}
	a.contact.note(resp.Header)
	return resp.Body.Close()
}
