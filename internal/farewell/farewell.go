// Package farewell closes an HTTP server without cutting a request that is on its way to it.
//
//	var bye farewell.Farewell
//	srv := &http.Server{Handler: bye.Wrap(handler)}
//	go srv.Serve(ln)
//	...
//	err := bye.Shutdown(ctx, srv, ln)
//
// net/http closes a connection of HTTP/1.1 as soon as no request runs on it, although one may be on its way; whoever sent it cannot know
// whether it was carried out. Here every answer says first that it is the last of its connection, and only connections that are
// silent are closed.
package farewell

import (
	"context"
	"errors"
	"net"
	"net/http"
	"sync/atomic"
	"time"
)

// silence without a request lets connections be closed: longer than a request is on its way between two agents.
const silence = 100 * time.Millisecond

// Farewell belongs to one http.Server. The zero value is ready; all methods are safe for concurrent use.
type Farewell struct {
	busy    atomic.Int64 // requests running
	last    atomic.Int64 // unix nanoseconds when the last one began
	leaving atomic.Bool
	goodbye atomic.Bool // said with every answer
}

// Wrap makes the handler of the server.
func (f *Farewell) Wrap(h http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		f.busy.Add(1)
		defer f.busy.Add(-1)
		f.last.Store(time.Now().UnixNano())
		if f.goodbye.Load() {
			w.Header().Set("Connection", "close") // HTTP/2 turns it into a goodbye of its own
		}
		h.ServeHTTP(w, r)
	})
}

// Leaving says whether Shutdown was called: then the end of Serve is no fault.
func (f *Farewell) Leaving() bool { return f.leaving.Load() }

// Shutdown closes ln, so that new connections are refused, waits until nothing runs and nothing comes any more, and closes the
// server. When ctx ends before that it cuts what is left and returns ctx's error.
func (f *Farewell) Shutdown(ctx context.Context, srv *http.Server, ln net.Listener) error {
	f.leaving.Store(true)
	_ = ln.Close() // before a goodbye makes anybody connect anew: what waits to be accepted is cut
	f.goodbye.Store(true)
	if err := f.silent(ctx, time.Time{}); err != nil {
		_ = srv.Close()
		return err
	}
	ended, quiet := make(chan error, 1), make(chan error, 1)
	go func() { ended <- srv.Shutdown(ctx) }()
	// net/http keeps idle connections of HTTP/2 for a second after it said goodbye on them; an agent that stops need not wait for
	// that, but for the last bytes of answers to leave.
	go func() { quiet <- f.silent(ctx, time.Now()) }()
	select {
	case err := <-ended:
		if err != nil {
			_ = srv.Close()
		}
		return err
	case err := <-quiet:
		return errors.Join(err, srv.Close())
	}
}

// silent waits until nothing has run for some time, from since on at least, or ctx ends.
func (f *Farewell) silent(ctx context.Context, since time.Time) error {
	tick := time.NewTicker(silence / 10)
	defer tick.Stop()
	for ran := since; ; {
		if f.busy.Load() != 0 {
			ran = time.Now()
		} else if last := time.Unix(0, f.last.Load()); last.After(ran) {
			ran = last
		}
		if time.Since(ran) >= silence {
			return nil
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}
