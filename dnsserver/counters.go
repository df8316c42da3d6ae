package dnsserver

import (
	"context"
	"sync/atomic"
	"time"

	"github.com/hashicorp/go-metrics"
)

// counters count without locks, on the way of every question; report hands the differences on now and then.
type counters struct {
	queries        atomic.Uint64
	dropped        atomic.Uint64 // UDP, over MaxInflight
	limited        atomic.Uint64 // UDP, over ClientRate
	refused        atomic.Uint64 // REFUSED, NOTIMP, FORMERR
	failed         atomic.Uint64 // SERVFAIL
	stale          atomic.Uint64 // answered with what was known last
	recursed       atomic.Uint64
	recursorFailed atomic.Uint64
	connsRefused   atomic.Uint64
	writeFailed    atomic.Uint64
	panics         atomic.Uint64
}

func (c *counters) report(ctx context.Context, m *metrics.Metrics) {
	all := []struct {
		name string
		n    *atomic.Uint64
		last uint64
	}{
		{name: "queries", n: &c.queries}, {name: "dropped", n: &c.dropped}, {name: "limited", n: &c.limited}, {name: "refused", n: &c.refused},
		{name: "failed", n: &c.failed}, {name: "stale", n: &c.stale}, {name: "recursed", n: &c.recursed},
		{name: "recursor_failed", n: &c.recursorFailed}, {name: "conns_refused", n: &c.connsRefused},
		{name: "write_failed", n: &c.writeFailed}, {name: "panics", n: &c.panics},
	}
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for {
		for i := range all {
			a := &all[i]
			if n := a.n.Load(); n != a.last {
				m.IncrCounter([]string{"dns", a.name}, float32(n-a.last))
				a.last = n
			}
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}
