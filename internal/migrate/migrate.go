// Package migrate copies the keys of one cluster into another, both spoken to by the version 2 interface of etcd: a real
// etcd or a Muster. It compares and writes only what differs, so a run may be interrupted and repeated, follows the
// changes that clients of the source go on making, and proves the result by comparing everything once more.
//
//	from, err := migrate.NewClient([]string{"http://10.0.0.1:2379"}, nil)
//	to, err := migrate.NewClient([]string{"http://127.0.0.1:2379"}, nil)
//	report, err := migrate.Run(ctx, migrate.Options{From: from, To: to})
package migrate

import (
	"context"
	"errors"
	"fmt"
	"path"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/time/rate"
)

// Options of a Run. From and To are needed.
type Options struct {
	From, To *Client
	Prefixes []string // directories or keys to copy; default the root
	Hidden   []string // hidden keys or directories to copy: no listing shows them

	DryRun    bool    // compare only
	Overwrite bool    // replace other values in the target; else they are kept and count as differences
	Delete    bool    // delete keys that only the target has, below the prefixes
	Workers   int     // requests at a time at each side; default 8
	Rate      float64 // writes a second at most; 0 = no limit

	// Follow, when not nil, keeps the target up to date until it is closed; then everything is compared and Run ends.
	Follow <-chan struct{}
	// Recompare is the pause between comparisons of everything while following. Default: a minute, and ten times what a
	// comparison takes if that is longer.
	Recompare time.Duration
	// Progress is told once a second what has been done so far, and once in the end, from one goroutine; it may be nil.
	Progress func(Report)
}

// Phase is what a Run is at.
type Phase string

// The phases, in their order; a comparison may come again while following.
const (
	Connecting Phase = "connecting"
	Counting   Phase = "counting"
	Copying    Phase = "copying"
	Following  Phase = "following"
	Comparing  Phase = "comparing"
)

// Report says what a Run did.
type Report struct {
	Phase        Phase
	Total        int64 // keys at the source, as counted before or in the last pass
	Keys, Dirs   int64 // of the source that the present pass has looked at
	Bytes        int64 // of these keys and their values
	Expiring     int64 // of these keys, with a time to live
	Written      int64 // keys written, because they were missing or different
	WrittenBytes int64
	MadeDirs     int64  // directories made or given another time to live
	Deleted      int64  // keys and directories deleted, each with what was below it
	Extra        int64  // directories and keys found only in the target in the last pass, and kept
	Events       int64  // changes followed
	Passes       int    // comparisons of everything
	Lost         int    // times the source's history was too short, so that a pass had to be repeated
	Moving       int64  // keys that were changing during the last comparison, and were written again
	Different    int64  // differences in the last comparison that no change explains; 0 = the target is equal
	Kept         int64  // of these, left alone because Overwrite (or Delete) is off
	Verified     bool   // the last comparison found target and source equal
	SourceIndex  uint64 // of the source at the beginning of the pass, or when last caught up
	Waiting      int    // changed keys that wait to be brought over, while following
	CaughtUp     bool   // everything that had happened at the source was in the target when last looked
	LargestDrift time.Duration
	LastPass     time.Duration // how long the last whole comparison took
	Differences  []string      // of the last comparison: key and what is different; the first thousand
	Elapsed      time.Duration
}

// ErrSame says that source and target are one cluster.
var ErrSame = errors.New("source and target are the same cluster")

// ErrDifferent says that target and source were not equal in the end; the Report tells more.
var ErrDifferent = errors.New("the target differs from the source")

const maxRounds = 5

// run is the state of one Run.
type run struct {
	Options
	mu     sync.Mutex
	rep    Report
	limit  *rate.Limiter
	slots  chan struct{} // requests under way for single keys
	dirs   chan struct{} // directories walked beside each other
	cancel context.CancelCauseFunc
	first  uint64 // index of the source at the beginning of the run
	begin  uint64 // and at the beginning of the pass
	began  time.Time
}

// Run copies and compares; with DryRun it only compares. Errors: ErrSame, ErrDifferent, *UnreachableError, or that of ctx; the Report is valid with
// each of them.
func Run(ctx context.Context, o Options) (Report, error) {
	if o.Workers <= 0 {
		o.Workers = 8
	}
	if len(o.Prefixes) == 0 {
		o.Prefixes = []string{"/"}
	}
	r := &run{Options: o, slots: make(chan struct{}, o.Workers), dirs: make(chan struct{}, o.Workers), limit: rate.NewLimiter(rate.Inf, 1), began: time.Now()}
	if o.Rate > 0 {
		r.limit = rate.NewLimiter(rate.Limit(o.Rate), max(1, int(o.Rate/10)))
	}
	ctx, r.cancel = context.WithCancelCause(ctx)
	defer r.cancel(nil)
	stop := r.tell()
	err := r.all(ctx)
	stop()
	if cause := context.Cause(ctx); cause != nil && err != nil {
		err = cause
	}
	return r.report(), err
}

func (r *run) report() Report {
	r.mu.Lock()
	defer r.mu.Unlock()
	rep := r.rep
	rep.Elapsed = time.Since(r.began)
	rep.Differences = slices.Clone(rep.Differences)
	return rep
}

func (r *run) note(f func(*Report)) {
	r.mu.Lock()
	defer r.mu.Unlock()
	f(&r.rep)
}

// tell shows progress until the function it returns is called.
func (r *run) tell() (stop func()) {
	if r.Progress == nil {
		return func() {}
	}
	quit, done := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(done)
		tick := time.NewTicker(time.Second)
		defer tick.Stop()
		for {
			select {
			case <-quit:
				r.Progress(r.report())
				return
			case <-tick.C:
				r.Progress(r.report())
			}
		}
	}()
	return func() { close(quit); <-done }
}

// all is the whole course: copy, follow, compare.
func (r *run) all(ctx context.Context) error {
	r.note(func(rep *Report) { rep.Phase = Connecting })
	from, err := r.From.clusterID(ctx)
	if err != nil {
		return fmt.Errorf("source: %w", err)
	}
	to, err := r.To.clusterID(ctx)
	if err != nil {
		return fmt.Errorf("target: %w", err)
	}
	if from != "" && from == to {
		return fmt.Errorf("%w, %s", ErrSame, from)
	}
	roots, err := r.roots(ctx)
	if err != nil {
		return err
	}
	index, err := r.From.index(ctx)
	if err != nil {
		return fmt.Errorf("source: %w", err)
	}
	r.first = index
	r.note(func(rep *Report) { rep.Phase = Counting })
	if err := r.descend(ctx, roots, r.count); err != nil {
		return err
	}
	if r.DryRun {
		if err := r.pass(ctx, roots, index); err != nil || r.report().Different+r.report().Moving == 0 {
			return err
		}
		return ErrDifferent
	}
	f := newFollower(r, roots, index+1)
	defer f.stop()
	if err := r.pass(ctx, roots, index); err != nil {
		return err
	}
	if err := f.catchUp(ctx); err != nil {
		return err
	}
	return r.verify(ctx, f)
}

// verify compares everything until nothing differs but what is just being changed.
func (r *run) verify(ctx context.Context, f *follower) error {
	for range maxRounds {
		// What is older than this has been brought over before the comparison begins.
		index, err := r.From.index(ctx)
		if err != nil {
			return fmt.Errorf("source: %w", err)
		}
		if err := f.reach(ctx, index); err != nil {
			return err
		}
		if err := r.pass(ctx, f.roots, index); err != nil {
			return err
		}
		rep := r.report()
		if err := f.drain(ctx); err != nil {
			return err
		}
		switch {
		case rep.Different == 0:
			r.note(func(rep *Report) { rep.Verified = true })
			return nil
		case rep.Kept == rep.Different: // another round changes nothing
			return ErrDifferent
		}
	}
	return ErrDifferent
}

// roots are the prefixes, and the hidden places below them that are known or can be found.
func (r *run) roots(ctx context.Context) ([]string, error) {
	var roots []string
	below := func(key string) bool {
		for _, p := range roots {
			if p == "/" && !hiddenBelow("/", key) || key == p || strings.HasPrefix(key, strings.TrimSuffix(p, "/")+"/") && !hiddenBelow(p, key) {
				return true
			}
		}
		return false
	}
	for _, p := range r.Prefixes {
		p = path.Clean("/" + p)
		if below(p) {
			continue
		}
		// With Delete a mistyped prefix would be emptied.
		if _, err := r.From.get(ctx, p); err != nil {
			return nil, fmt.Errorf("source: prefix %s: %w", p, err)
		}
		roots = append(roots, p)
	}
	found, err := r.From.hidden(ctx)
	if err != nil {
		return nil, err
	}
	for i, h := range append(append([]string{}, r.Hidden...), found...) {
		h = path.Clean("/" + h)
		wanted := i < len(r.Hidden)
		for _, p := range r.Prefixes {
			p = path.Clean("/" + p)
			wanted = wanted || p == "/" || strings.HasPrefix(h, p+"/")
		}
		if !wanted || below(h) {
			continue
		}
		_, err := r.From.get(ctx, h)
		if absent(err) && i >= len(r.Hidden) {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("source: hidden %s: %w", h, err)
		}
		roots = append(roots, h)
	}
	return roots, nil
}

// hiddenBelow says whether key, below dir, is hidden from a listing of dir.
func hiddenBelow(dir, key string) bool {
	return strings.Contains(strings.TrimPrefix(key, strings.TrimSuffix(dir, "/")), "/_")
}
