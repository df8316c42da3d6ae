package consensus

import (
	"context"
	"time"

	"github.com/musterhq/muster/kv"
)

const (
	// expireSpacing is the least time between two expiries, so that a stream of deadlines becomes batches.
	expireSpacing = 25 * time.Millisecond
	// clockStep is how far the wall clock may move against the monotonic one before it counts as set. It is also how
	// much too early a key may go when the clock is set forward by less.
	clockStep = 100 * time.Millisecond
	stampEach = time.Second
)

// expire removes what is due, as long as this server leads.
func (n *Node) expire(ctx context.Context) {
	timer := time.NewTimer(0)
	defer timer.Stop()
	start := time.Now()
	for {
		// Deadlines are points on the wall clock. If somebody sets it forward, they move along: a key shall live
		// as long as its writer asked for, measured in seconds that passed.
		step := clockMoved(start)
		if step > clockStep || step < -clockStep {
			n.log.Warn("wall clock was set", "by", step)
			start = time.Now()
			if step > 0 && !n.extend(ctx, func() time.Duration { return step }) {
				return
			}
		}
		now := time.Now().UnixNano()
		next := n.tree.NextExpiry()
		wait := stampEach // to notice a clock that was set
		switch {
		case next != 0 && next <= now:
			if _, err := n.Propose(ctx, kv.Txn{Ops: []kv.Op{{Kind: kv.OpExpire, Action: kv.ActExpire, Cutoff: now}}}); err != nil && ctx.Err() == nil {
				n.log.Warn("expiry was not accepted, trying again", "error", err)
			}
			wait = expireSpacing
		case next != 0:
			wait = min(wait, max(time.Duration(next-now), expireSpacing/25))
		}
		timer.Reset(wait)
		if wait == expireSpacing {
			select {
			case <-ctx.Done():
				return
			case <-timer.C:
			}
			continue
		}
		select {
		case <-ctx.Done():
			return
		case <-timer.C:
		case <-n.deadline:
		}
	}
}

// clockMoved is how far the wall clock was set since start. A goroutine may be held up between its looks at the two
// clocks, so of two measurements the smaller one counts.
func clockMoved(start time.Time) time.Duration {
	var least time.Duration
	for i := range 2 {
		now := time.Now()
		moved := now.Round(0).Sub(start.Round(0)) - now.Sub(start)
		if i == 0 || moved.Abs() < least.Abs() {
			least = moved
		}
	}
	return least
}

// outage is how long deadlines stood still, by the clock of this server, since the cluster was last alive.
func (n *Node) outage() time.Duration {
	alive := n.clock.lastAlive()
	if alive == 0 {
		return 0
	}
	return time.Duration(time.Now().UnixNano() - alive)
}

// extend moves all deadlines by what by returns, if there are any; false when leadership ended before it was done.
func (n *Node) extend(ctx context.Context, by func() time.Duration) bool {
	for n.tree.NextExpiry() != 0 {
		d := by()
		if d <= 0 {
			break
		}
		_, err := n.propose(ctx, kv.Txn{Ops: []kv.Op{{Kind: kv.OpExtendExpiry, Extend: int64(d)}}})
		if err == nil {
			n.log.Debug("deadlines extended", "by", d)
			break
		}
		select {
		case <-ctx.Done():
			return false
		case <-time.After(expireSpacing):
		}
	}
	return ctx.Err() == nil
}
