package api

import (
	"context"
	"strconv"
	"sync/atomic"
	"time"

	"github.com/hashicorp/go-metrics"
)

// sampleEvery is how many requests of one route share one measurement of time. Counting is exact; reading the
// clock and feeding the metrics registry for each request would cost more than a read of a key.
const sampleEvery = 64

// counters of one route, plain atomics that Run carries to the metrics registry.
type counters struct {
	started atomic.Uint64
	ended   [5]atomic.Uint64 // by class of status: 1xx .. 5xx
	flushed [5]uint64        // owned by the goroutine of flush
}

func (c *counters) count(status int) { c.ended[min(max(status/100, 1), 5)-1].Add(1) }

func (e *entry) labels() []metrics.Label {
	return []metrics.Label{{Name: "route", Value: e.Pattern}}
}

// RouteStats are the counts of one route since the start.
type RouteStats struct {
	Pattern  string
	Started  uint64
	ByClass  [5]uint64 // ended requests with a status of 1xx, 2xx, 3xx, 4xx, 5xx
	InFlight uint64
}

// Stats returns the counts of every route that was used.
func (rt *Router) Stats() []RouteStats {
	var out []RouteStats
	for _, e := range rt.entries {
		s := RouteStats{Pattern: e.Pattern}
		var ended uint64
		for i := range e.ended {
			s.ByClass[i] = e.ended[i].Load()
			ended += s.ByClass[i]
		}
		if s.Started = e.started.Load(); s.Started != 0 {
			s.InFlight = s.Started - min(s.Started, ended)
			out = append(out, s)
		}
	}
	return out
}

// Panics counts the panics recovered from handlers.
func (rt *Router) Panics() uint64 { return rt.panics.Load() }

// Run carries the counts to the metrics registry every second until ctx is done: http.requests and
// http.refusals (4xx and 5xx) by route and class of status, http.panics. Without Metrics it returns at once.
func (rt *Router) Run(ctx context.Context) {
	if rt.metrics == nil {
		return
	}
	t := time.NewTicker(time.Second)
	defer t.Stop()
	var panics uint64
	for {
		select {
		case <-ctx.Done():
			return
		case <-t.C:
			panics = rt.flush(panics)
		}
	}
}

func (rt *Router) flush(panics uint64) uint64 {
	for _, e := range rt.entries {
		for i := range e.ended {
			now := e.ended[i].Load()
			d := now - e.flushed[i]
			if d == 0 {
				continue
			}
			e.flushed[i] = now
			labels := append(e.labels(), metrics.Label{Name: "class", Value: strconv.Itoa(i+1) + "xx"})
			rt.metrics.IncrCounterWithLabels([]string{"http", "requests"}, float32(d), labels)
			if i >= 3 {
				rt.metrics.IncrCounterWithLabels([]string{"http", "refusals"}, float32(d), labels)
			}
		}
	}
	now := rt.panics.Load()
	if now != panics {
		rt.metrics.IncrCounter([]string{"http", "panics"}, float32(now-panics))
	}
	return now
}
