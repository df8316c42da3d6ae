package migrate

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"
)

// tolerance is how far the moments of expiry of two equal keys may lie apart: the interface counts in seconds, on both
// sides, and clocks differ.
const tolerance = 3 * time.Second

// count finds how many keys there are, so that progress can be told. It costs reads alone.
func (r *run) count(ctx context.Context, key string) error {
	n, err := r.From.get(ctx, key)
	if absent(err) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("source: %s: %w", key, err)
	}
	if !n.Dir {
		n.Nodes = []*node{n}
	}
	var below []string
	var keys int64
	for _, child := range n.Nodes {
		if child.Dir {
			below = append(below, child.Key)
		} else {
			keys++
		}
	}
	r.note(func(rep *Report) { rep.Total += keys })
	n.Nodes = nil
	return r.descend(ctx, below, r.count)
}

// pass compares everything once and writes what differs. A key that changed after index is not expected to be equal.
func (r *run) pass(ctx context.Context, roots []string, index uint64) error {
	began := time.Now()
	r.begin = index
	r.note(func(rep *Report) {
		rep.Passes++
		rep.Phase = Comparing
		if rep.Passes == 1 && !r.DryRun {
			rep.Phase = Copying
		}
		rep.SourceIndex, rep.Keys, rep.Bytes, rep.Dirs, rep.Expiring, rep.Extra, rep.Moving, rep.Different, rep.Kept, rep.LargestDrift = index, 0, 0, 0, 0, 0, 0, 0, 0, 0
		rep.Differences = nil
	})
	for _, root := range roots {
		if err := r.sync(ctx, root); err != nil {
			return err
		}
	}
	r.note(func(rep *Report) { rep.Total, rep.LastPass = rep.Keys, time.Since(began) })
	return context.Cause(ctx)
}

// sync brings the target at key, and below it, to what the source has.
func (r *run) sync(ctx context.Context, key string) error {
	src, err := r.From.get(ctx, key)
	if err != nil && !absent(err) {
		return fmt.Errorf("source: %s: %w", key, err)
	}
	dst, err := r.To.get(ctx, key)
	if err != nil && !absent(err) {
		return fmt.Errorf("target: %s: %w", key, err)
	}
	switch {
	case src == nil || src.expired(): // gone since it was listed: the watch tells
	case src.Dir:
		return r.dir(ctx, src, dst)
	default:
		r.looked(src)
		r.key(ctx, src, dst, false)
	}
	return nil
}

// looked counts a key of the source.
func (r *run) looked(src *node) {
	r.note(func(rep *Report) {
		rep.Keys++
		rep.Bytes += int64(len(src.Key) + len(src.Value))
		if !src.deadline.IsZero() {
			rep.Expiring++
		}
	})
}

// may says whether the source wins over another value in the target: it does for what changed there during the run.
func (r *run) may(src *node) bool { return r.Overwrite || src.ModifiedIndex > r.first }

// key compares one key and writes it when it differs. made says that it is known to have been made in place of what was
// there before.
func (r *run) key(ctx context.Context, src, dst *node, made bool) {
	if src.expired() {
		return
	}
	switch {
	case dst == nil || dst.expired():
		r.differs(src, "missing in the target")
	case dst.Dir:
		if !made && !(r.Delete && r.may(src)) {
			r.keep(src, "a directory in the target; -overwrite -delete would replace it")
			return
		}
		r.differs(src, "a directory in the target")
		r.remove(ctx, src.Key)
	case src.Value != dst.Value:
		if !r.may(src) {
			r.keep(src, "another value in the target; -overwrite would replace it")
			return
		}
		r.differs(src, "another value in the target")
	case r.sameDeadline(src, dst):
		return
	default:
		r.differs(src, "time to live: "+left(src)+", in the target "+left(dst))
	}
	r.write(ctx, src.Key, func() error { return r.To.set(ctx, src) }, func(rep *Report) {
		rep.Written++
		rep.WrittenBytes += int64(len(src.Key) + len(src.Value))
	})
}

func left(n *node) string {
	if n.deadline.IsZero() {
		return "for ever"
	}
	return time.Until(n.deadline).Round(time.Second).String()
}

// differs counts a difference: one that a change since the beginning of the pass explains is none.
func (r *run) differs(src *node, what string) {
	if src.ModifiedIndex > r.begin {
		r.note(func(rep *Report) { rep.Moving++ })
		return
	}
	r.note(func(rep *Report) { rep.differ(src.Key + ": " + what) })
}

// keep counts a difference that is left alone.
func (r *run) keep(src *node, what string) {
	r.note(func(rep *Report) {
		rep.Kept++
		rep.differ(src.Key + ": " + what)
	})
}

// differencesKept bounds the memory of the list; all are counted.
const differencesKept = 1000

func (rep *Report) differ(what string) {
	if rep.Different++; len(rep.Differences) < differencesKept {
		rep.Differences = append(rep.Differences, what)
	}
}

func (r *run) sameDeadline(src, dst *node) bool {
	if src.deadline.IsZero() || dst.deadline.IsZero() {
		return src.deadline.IsZero() && dst.deadline.IsZero()
	}
	drift := dst.deadline.Sub(src.deadline).Abs()
	if drift > tolerance {
		return false
	}
	r.note(func(rep *Report) { rep.LargestDrift = max(rep.LargestDrift, drift) })
	return true
}

// dir compares a directory. Its listing is let go before the directories below it are read, so that memory is bounded by
// the largest directory and not by the tree.
func (r *run) dir(ctx context.Context, src, dst *node) error {
	r.note(func(rep *Report) { rep.Dirs++ })
	if !r.ensureDir(ctx, src, dst) {
		return nil
	}
	there := map[string]*node{}
	if dst != nil {
		for _, n := range dst.Nodes {
			there[n.Key] = n
		}
	}
	var below []string
	var wg sync.WaitGroup
	for _, n := range src.Nodes {
		if ctx.Err() != nil {
			break
		}
		d := there[n.Key]
		delete(there, n.Key)
		if n.Dir {
			below = append(below, n.Key)
			continue
		}
		r.slots <- struct{}{}
		wg.Go(func() {
			defer func() { <-r.slots }()
			r.looked(n)
			r.key(ctx, n, d, false)
		})
	}
	wg.Wait()
	for key := range there {
		r.extra(ctx, key)
	}
	src.Nodes, there = nil, nil
	return r.descend(ctx, below, r.sync)
}

// extra deals with what only the target has. A deletion that the target acknowledged needs no further proof.
func (r *run) extra(ctx context.Context, key string) {
	switch {
	case !r.Delete:
		r.note(func(rep *Report) { rep.Extra++ })
	case r.DryRun:
		r.note(func(rep *Report) { rep.differ(key + ": only in the target") })
		r.remove(ctx, key)
	default:
		r.note(func(rep *Report) { rep.Moving++ })
		r.remove(ctx, key)
	}
}

// descend visits directories, several at a time as long as there is room.
func (r *run) descend(ctx context.Context, keys []string, visit func(context.Context, string) error) error {
	var wg sync.WaitGroup
	defer wg.Wait()
	for _, key := range keys {
		if err := context.Cause(ctx); err != nil {
			return err
		}
		select {
		case r.dirs <- struct{}{}:
			wg.Go(func() {
				defer func() { <-r.dirs }()
				if err := visit(ctx, key); err != nil {
					r.cancel(err)
				}
			})
		default:
			if err := visit(ctx, key); err != nil {
				return err
			}
		}
	}
	wg.Wait()
	return context.Cause(ctx)
}

// ensureDir makes a directory that will not come by itself with its first key, and sets its time to live. False: there
// is a key in its place, which is kept.
func (r *run) ensureDir(ctx context.Context, src, dst *node) bool {
	if src.Key == "" || src.Key == "/" {
		return true
	}
	exists := dst != nil && dst.Dir
	switch {
	case exists && r.sameDeadline(src, dst):
		return true
	case exists:
		r.differs(src, "time to live: "+left(src)+", in the target "+left(dst))
	case dst == nil && len(src.Nodes) > 0 && src.deadline.IsZero():
		return true
	case dst == nil:
		r.differs(src, "directory missing in the target")
	case !r.may(src):
		r.keep(src, "a key in the target, with the source's directory; -overwrite would replace it")
		return false
	default:
		r.differs(src, "a key in the target, a directory here")
	}
	r.write(ctx, src.Key, func() error {
		err := r.To.setDir(ctx, src, exists)
		if hasCode(err, codeNotFile) { // made meanwhile
			err = r.To.setDir(ctx, src, true)
		}
		return err
	}, func(rep *Report) { rep.MadeDirs++ })
	return true
}

func (r *run) remove(ctx context.Context, key string) {
	r.write(ctx, key, func() error { return r.To.remove(ctx, key) }, func(rep *Report) { rep.Deleted++ })
}

// write makes one change of the target. One that is refused is a difference; when nobody answers the run ends.
func (r *run) write(ctx context.Context, key string, f func() error, done func(*Report)) {
	if ctx.Err() != nil {
		return
	}
	if !r.DryRun {
		if err := r.limit.Wait(ctx); err != nil {
			return
		}
		err := f()
		if _, refused := errors.AsType[*apiError](err); refused {
			r.note(func(rep *Report) { rep.differ(fmt.Sprintf("%s: the target refuses it: %v", key, err)) })
			return
		}
		if err != nil {
			r.cancel(fmt.Errorf("target: %s: %w", key, err))
			return
		}
	}
	r.note(done)
}
