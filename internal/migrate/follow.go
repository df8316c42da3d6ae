package migrate

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"path"
	"slices"
	"strings"
	"sync"
	"time"
)

// follower watches the source from before the first pass on, and remembers which keys have changed. What a key has
// become is read when its turn comes, so nothing is ever set back to an older value.
type follower struct {
	*run
	roots  []string
	cancel context.CancelFunc
	wg     sync.WaitGroup

	mu    sync.Mutex
	dirty map[string]bool      // keys to look at again; true: a removal was seen there
	lost  bool                 // there were more changes than are known
	seen  []uint64             // by root: everything up to here has been seen
	again []context.CancelFunc // by root: ends the request that waits
	wake  chan struct{}
}

// maxDirty bounds the memory for keys that wait; with more, a pass over everything is cheaper.
const maxDirty = 100_000

// newFollower begins to watch each root from an index on.
func newFollower(r *run, roots []string, from uint64) *follower {
	ctx, cancel := context.WithCancel(context.Background())
	f := &follower{run: r, roots: roots, cancel: cancel, dirty: map[string]bool{}, seen: make([]uint64, len(roots)), again: make([]context.CancelFunc, len(roots)), wake: make(chan struct{}, 1)}
	for i, root := range roots {
		f.seen[i] = from - 1
		f.wg.Go(func() { f.watch(ctx, i, root) })
	}
	return f
}

func (f *follower) stop() {
	f.cancel()
	f.wg.Wait()
}

// watch follows one root until ctx ends.
func (f *follower) watch(ctx context.Context, i int, root string) {
	for ctx.Err() == nil {
		one, cancel := context.WithCancel(ctx)
		f.mu.Lock()
		f.again[i] = cancel
		f.mu.Unlock()
		e, err := f.From.watch(one, root, f.at(i)+1, func(index uint64) { f.advance(i, index) })
		asked := one.Err() != nil
		cancel()
		switch {
		case ctx.Err() != nil:
			return
		case err != nil && asked:
		case hasCode(err, codeCleared):
			f.restart(ctx, i)
		case err != nil:
			f.run.cancel(fmt.Errorf("source: watching %s: %w", root, err))
			return
		case e != nil:
			f.changed(i, e)
		}
	}
}

func (f *follower) at(i int) uint64 {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.seen[i]
}

// advance notes that everything up to index has been seen.
func (f *follower) advance(i int, index uint64) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.seen[i] = max(f.seen[i], index)
	f.poke()
}

func (f *follower) poke() {
	select {
	case f.wake <- struct{}{}:
	default:
	}
}

// restart goes on from the present when the history does not reach back far enough.
func (f *follower) restart(ctx context.Context, i int) {
	index, err := f.From.index(ctx)
	if err != nil {
		return // the next watch tells
	}
	f.note(func(rep *Report) { rep.Lost++ })
	f.mu.Lock()
	f.lost = true
	f.mu.Unlock()
	f.advance(i, index)
}

func (f *follower) changed(i int, e *event) {
	removed := e.Action == "delete" || e.Action == "expire" || e.Action == "compareAndDelete"
	f.note(func(rep *Report) { rep.Events++ })
	f.mu.Lock()
	key := e.Node.Key
	if root := f.roots[i]; removed && strings.HasPrefix(root, key+"/") {
		key = root // it went with what is above it
	}
	if len(f.dirty) < maxDirty {
		f.dirty[key] = f.dirty[key] || removed
	} else {
		f.lost = true
	}
	f.mu.Unlock()
	f.advance(i, e.Node.ModifiedIndex)
}

// take gives the keys that wait.
func (f *follower) take() (keys map[string]bool, lost bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	keys, lost = f.dirty, f.lost
	f.dirty, f.lost = map[string]bool{}, false
	return keys, lost
}

// drain brings over what is known to have changed when it is called. What changes meanwhile is for the next call: a busy
// source must not hold it up for ever.
func (f *follower) drain(ctx context.Context) error {
	keys, lost := f.take()
	if lost { // the pass looks at these keys too
		index, err := f.From.index(ctx)
		if err != nil {
			return fmt.Errorf("source: %w", err)
		}
		return f.pass(ctx, f.roots, index)
	}
	f.note(func(rep *Report) { rep.Phase, rep.Waiting = Following, len(keys) })
	if err := f.bring(ctx, keys); err != nil {
		return err
	}
	f.note(func(rep *Report) { rep.Waiting = 0 })
	return context.Cause(ctx)
}

// bring syncs keys, several at a time, removals of directories first: what was made anew below them comes after.
func (f *follower) bring(ctx context.Context, keys map[string]bool) error {
	for _, removals := range []bool{true, false} {
		var wg sync.WaitGroup
		for key, removed := range keys {
			if removed != removals || !inside(f.roots, key) {
				continue
			}
			f.slots <- struct{}{}
			wg.Go(func() {
				defer func() { <-f.slots }()
				if err := f.one(ctx, key, removed); err != nil {
					f.run.cancel(err)
				}
			})
		}
		wg.Wait()
	}
	return context.Cause(ctx)
}

// one is sync of a single changed key. It holds a slot, so it must not take one.
func (f *follower) one(ctx context.Context, key string, removed bool) error {
	src, err := f.From.get(ctx, key)
	switch {
	case absent(err):
		f.remove(ctx, key)
		return nil
	case err != nil:
		return fmt.Errorf("source: %s: %w", key, err)
	case src.expired():
		return nil // the event of its end comes
	}
	dst, err := f.To.get(ctx, key)
	if err != nil && !absent(err) {
		return fmt.Errorf("target: %s: %w", key, err)
	}
	if !src.Dir {
		f.key(ctx, src, dst, removed)
		return nil
	}
	if removed && dst != nil && dst.Dir { // made anew: whatever is left in the target is of the old one
		return f.shallow(ctx, src, dst)
	}
	f.ensureDir(ctx, src, dst)
	return nil
}

// shallow removes from a directory of the target what the source has no longer.
func (f *follower) shallow(ctx context.Context, src, dst *node) error {
	has := map[string]bool{}
	for _, n := range src.Nodes {
		has[n.Key] = true
	}
	for _, n := range dst.Nodes {
		switch {
		case !has[n.Key]:
			f.remove(ctx, n.Key)
		case n.Dir:
			if err := f.one(ctx, n.Key, true); err != nil {
				return err
			}
		}
	}
	f.ensureDir(ctx, src, dst)
	return nil
}

// inside says whether a key belongs to what is copied: history tells of hidden keys that no listing shows.
func inside(roots []string, key string) bool {
	for _, r := range roots {
		if (r == "/" || key == r || strings.HasPrefix(key, r+"/")) && !hiddenBelow(r, key) {
			return true
		}
	}
	return false
}

// catchUp follows until everything that had happened at the source is in the target; with Follow until that is closed.
func (f *follower) catchUp(ctx context.Context) error {
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	recompare := time.Now().Add(f.pause())
	for following := true; ; {
		// A refresh of a time to live makes no event, so all is compared now and then.
		if f.Follow != nil && following && time.Now().After(recompare) {
			index, err := f.From.index(ctx)
			if err == nil {
				err = f.pass(ctx, f.roots, index)
			}
			if err != nil {
				return err
			}
			recompare = time.Now().Add(f.pause())
		}
		if err := f.drain(ctx); err != nil {
			return err
		}
		index, err := f.From.index(ctx)
		if err != nil {
			return fmt.Errorf("source: %w", err)
		}
		if err := f.reach(ctx, index); err != nil {
			return err
		}
		f.note(func(rep *Report) { rep.Phase, rep.CaughtUp, rep.SourceIndex = Following, true, index })
		if f.Follow == nil || !following {
			return nil
		}
		select {
		case <-f.Follow:
			following = false // once more: what was written before the end was announced belongs to it
		case <-f.wake:
		case <-tick.C:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// reach follows until everything up to index has been seen and brought over, as far as a source goes on answering.
func (f *follower) reach(ctx context.Context, index uint64) error {
	limit := time.NewTimer(patience)
	defer limit.Stop()
	quiet := time.NewTicker(3 * quietTime) // also for a root that is silent while others are not
	defer quiet.Stop()
	for {
		if err := f.drain(ctx); err != nil {
			return err
		}
		if f.reached(index) {
			return f.drain(ctx)
		}
		select {
		case <-f.wake:
		case <-quiet.C:
			f.askAgain(index)
		case <-limit.C:
			return nil // the comparison at the end finds what the watch does not tell
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

func (f *follower) reached(index uint64) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return !slices.ContainsFunc(f.seen, func(s uint64) bool { return s < index })
}

// askAgain ends requests that began to wait before index and have had nothing to tell since: not every change makes an
// event. Asked again, the source says how far it is.
func (f *follower) askAgain(index uint64) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for i, s := range f.seen {
		if s < index && f.again[i] != nil {
			f.again[i]()
		}
	}
}

// wellKnownHidden are hidden directories that common software uses.
var wellKnownHidden = []string{"/_coreos.com", "/_etcd"}

// hidden finds hidden places: the well-known ones, and all of them when the source also lists keys in the flat way, as
// a Muster does.
func (c *Client) hidden(ctx context.Context) ([]string, error) {
	found := append([]string{}, wellKnownHidden...)
	err := c.each(ctx, func(base string) error {
		resp, err := c.request(ctx, http.MethodGet, base+"/v1/kv/?keys", nil)
		if err != nil {
			return err
		}
		defer resp.Body.Close()
		if resp.StatusCode != http.StatusOK {
			_, err = io.Copy(io.Discard, io.LimitReader(resp.Body, 64<<10))
			return err
		}
		return hiddenKeys(json.NewDecoder(resp.Body), func(key string) {
			if len(found) == 0 || found[len(found)-1] != key {
				found = append(found, key)
			}
		})
	})
	return found, err
}

// pause is how long to wait with the next comparison while following.
func (f *follower) pause() time.Duration {
	if f.Recompare > 0 {
		return f.Recompare
	}
	return max(time.Minute, 10*f.report().LastPass)
}

// hiddenKeys reads a list of keys one by one and gives the outermost hidden place of each that has one.
func hiddenKeys(d *json.Decoder, give func(string)) error {
	t, err := d.Token()
	if err != nil || t != json.Delim('[') {
		return errors.Join(err, errors.New("the list of keys is no list"))
	}
	for d.More() {
		var key string
		if err := d.Decode(&key); err != nil {
			return err
		}
		key = path.Clean("/" + key)
		if i := strings.Index(key, "/_"); i >= 0 {
			end := strings.IndexByte(key[i+1:], '/')
			if end < 0 {
				give(key)
			} else {
				give(key[:i+1+end])
			}
		}
	}
	return nil
}
