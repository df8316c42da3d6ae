package api

import (
	"context"
	"errors"
	"math/rand/v2"
	"time"

	"github.com/musterhq/muster/kv"
)

// ErrShutdown is the cause with which a Server cancels requests that do not end by themselves when it stops.
var ErrShutdown = errors.New("agent is shutting down")

type stoppingKey struct{}

// Stopping returns a channel that closes when the Server that serves the request begins to stop: what only waits
// should answer with what it has. It is nil where nobody
// set it; see WithStopping.
func Stopping(ctx context.Context) <-chan struct{} {
	c, _ := ctx.Value(stoppingKey{}).(<-chan struct{})
	return c
}

// WithStopping makes Stopping return c, for requests that are served by something else than a Server.
func WithStopping(ctx context.Context, c <-chan struct{}) context.Context {
	return context.WithValue(ctx, stoppingKey{}, c)
}

// ReadOptions say how a read wants its data.
type ReadOptions struct {
	Consistency Consistency
	MaxStale    time.Duration // with Stale: data older than this is asked of the leader instead; 0 = no bound
}

// Read is Store.Read with the bound of MaxStale.
func Read(ctx context.Context, s Store, o ReadOptions) (*kv.Snap, ReadMeta, error) {
	snap, meta, err := s.Read(ctx, o.Consistency)
	if err == nil && o.Consistency == Stale && o.MaxStale > 0 && meta.LastContact > o.MaxStale {
		return s.Read(ctx, Default)
	}
	return snap, meta, err
}

// BlockingOptions are the parameters of a blocking query.
type BlockingOptions struct {
	ReadOptions
	MinIndex uint64        // answer when the result's index is greater; 0 = answer at once
	Wait     time.Duration // longest wait; a random 0..1/16 is added so that clients do not come back in step
	// Also, when not nil, returns a channel that closes when the result may have changed without a change at the path.
	Also func() <-chan struct{}
}

// Result is what one evaluation of a blocking query found.
type Result struct {
	Index uint64 // index of the result
	// Print tells results apart when the index also moves for changes that the query does not show: as long as
	// it stays what the first evaluation saw, the query keeps waiting. 0 = the index alone decides.
	Print uint64
}

// NotFound is the Print of a result that is not there, so that a query for something missing waits until it
// appears, whatever happens around it.
const NotFound uint64 = 1

// Blocking is the one blocking query of the product. It evaluates query on a root of the wanted consistency, and
// again after each change at path, until the index of the result is greater than o.MinIndex, the time is over,
// or the server stops; then it returns the meta of the last read, and the caller answers with what query saw
// last. Errors are those of Store.Read, or that of ctx when the client went away.
//
// Contract: consul-http section 2.
func Blocking(ctx context.Context, s Store, o BlockingOptions, path string, query func(*kv.Snap) Result) (ReadMeta, error) {
	snap, meta, err := Read(ctx, s, o.ReadOptions)
	if err != nil {
		return meta, err
	}
	also := o.also()
	res := query(snap)
	if o.MinIndex == 0 || res.Index > o.MinIndex {
		return meta, nil
	}
	timer := time.NewTimer(o.Wait + jitter(o.Wait))
	defer timer.Stop()
	first, seen, stopping := res.Print, snap.Index(), Stopping(ctx)
	restored := snap.Restored()
	for {
		woken, err := await(ctx, snap, path, also, timer.C, stopping)
		if err != nil || !woken {
			return meta, err
		}
		if snap, meta, err = Read(ctx, s, o.ReadOptions); err != nil {
			return meta, err
		}
		also = o.also()
		res = query(snap)
		if snap.Restored() != restored || snap.Index() < seen {
			return meta, nil // the state is another: let the client look
		}
		if res.Index > o.MinIndex && (first == 0 || res.Print != first || seen < o.MinIndex) {
			return meta, nil
		}
		if seen < o.MinIndex {
			first = res.Print // this server was behind what the client has seen: that was another result
		}
		seen = snap.Index()
	}
}

func (o *BlockingOptions) also() <-chan struct{} {
	if o.Also == nil {
		return nil
	}
	return o.Also()
}

// await waits for a change at path, or for also; false means that the answer must be given now.
func await(ctx context.Context, snap *kv.Snap, path string, also <-chan struct{}, deadline <-chan time.Time, stopping <-chan struct{}) (bool, error) {
	w := snap.Wait(path)
	defer w.Stop()
	select {
	case <-w.C:
		return true, nil
	case <-also:
		return true, nil
	case <-deadline:
		return false, nil
	case <-stopping:
		return false, nil
	case <-ctx.Done():
		return false, ctx.Err()
	}
}

func jitter(wait time.Duration) time.Duration {
	if wait < 16 {
		return 0
	}
	return rand.N(wait / 16)
}
