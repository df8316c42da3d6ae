package proxy

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"net/http"
	"slices"
	"sync"
	"time"

	"github.com/musterhq/muster/peer"
)

const (
	viewWait       = 2 * time.Minute // of one question to the servers
	viewSlack      = 15 * time.Second
	viewRetryFirst = 100 * time.Millisecond
	viewRetryMost  = 2 * time.Second
)

// view follows one question for all clients that wait for its answer to change, by one blocking query.
//
// Each request that goes out has a number. A client that wants the truth (not Loose) must not be shown an answer
// that may have been made before it asked: it is given answers to requests sent after it came, and such as arrive so long
// after it (settled) that they cannot be older. Whoever remains is served by one further request, for all of them
// (catch-up). So an answer is as fresh as if each client had asked for itself.
type view struct {
	vs     *Views
	id     string // key in vs.views
	key    string // of what is known
	q      Question
	target Target
	path   *http.Request // as the first client asked it, with what is needed of its header

	ctx    context.Context
	cancel context.CancelFunc

	refs  int         // clients, guarded by vs.mu
	timer *time.Timer // ends the view after the last client, guarded by vs.mu

	mu       sync.Mutex
	cur      *Answer            // what clients are shown; nil = nothing is known
	at       time.Time          // when a server confirmed it
	live     bool               // the servers answer
	tried    bool               // a request has come to an end
	err      error              // of the last failure
	followed uint64             // the index that the servers know to be followed; 0 = ask anew
	sent     uint64             // number of the last request
	catching bool               // a catch-up is under way
	breakOff context.CancelFunc // of the waiting request
	waiters  map[*waiter]struct{}
	long     bool // the answer is too long to be held
	weight   int64
}

// waiter is one client.
type waiter struct {
	index  uint64
	came   time.Time
	sent   uint64 // number of the last request when it came
	needy  bool   // what is known is newer than its index, but perhaps not new enough
	due    bool   // its time is over; any answer will do
	strict bool   // an error is wanted at once rather than what was known
	out    chan outcome
}

// outcome is what a waiter is given: an answer, or an error.
type outcome struct {
	answer *Answer
	stale  bool
	at     time.Time
	err    error
}

// errUnshared: this one has to be asked for by each client.
var errUnshared = errors.New("the answer cannot be shared")

// shared answers a blocking query from a view. False: it must be relayed for itself.
func (v *Views) shared(w http.ResponseWriter, r *http.Request, t Target, q *Question) bool {
	vw := v.join(r, t, q)
	if vw == nil {
		return false
	}
	defer v.leave(vw, v.cfg.Linger)
	o := vw.await(r.Context(), q, false)
	switch {
	case errors.Is(o.err, errUnshared):
		return false
	case o.err != nil:
		v.p.fail(w, r, 0, o.err)
	case o.stale:
		v.giveKept(w, o.answer, o.at)
	default:
		v.stats.hits.Add(1)
		o.answer.write(w)
	}
	return true
}

// join finds or begins the view of a question; nil when there are too many.
func (v *Views) join(r *http.Request, t Target, q *Question) *view {
	id := q.key()
	if q.Loose {
		id = "loose " + id
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	vw := v.views[id]
	if vw == nil {
		if v.ctx.Err() != nil || len(v.views)+len(v.feeds) >= v.cfg.MaxViews || v.bytes > v.cfg.MaxBytes {
			return nil
		}
		vw = &view{vs: v, id: id, key: q.key(), q: *q, target: t, waiters: map[*waiter]struct{}{}, path: followable(r)}
		vw.cur, vw.at = v.known(vw.key)
		vw.ctx, vw.cancel = context.WithCancel(v.ctx)
		v.views[id] = vw
		v.runs.Go(vw.run)
	}
	vw.refs++
	if vw.timer != nil {
		vw.timer.Stop()
		vw.timer = nil
	}
	v.stats.waiters.Add(1)
	return vw
}

// leave ends the view, some time after the last client.
func (v *Views) leave(vw *view, linger time.Duration) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.stats.waiters.Add(-1)
	if vw.refs--; vw.refs > 0 {
		return
	}
	if linger <= 0 {
		v.drop(vw)
		return
	}
	vw.timer = time.AfterFunc(linger, func() {
		v.mu.Lock()
		defer v.mu.Unlock()
		v.drop(vw)
	})
}

// drop ends a view that has no clients. Called with mu held.
func (v *Views) drop(vw *view) {
	if vw.refs > 0 || v.views[vw.id] != vw {
		return
	}
	delete(v.views, vw.id)
	v.bytes -= vw.weight
	vw.cancel()
}

// followable is what is needed of a client's request to ask the same again and again.
func followable(r *http.Request) *http.Request {
	u := *r.URL
	out := &http.Request{Method: http.MethodGet, URL: &u, Host: r.Host, Header: make(http.Header, len(r.Header))}
	for name, values := range r.Header {
		switch name {
		case "Range", "If-None-Match", "If-Modified-Since", "Accept-Encoding", "X-Forwarded-For", "User-Agent", "Cookie":
		default:
			out.Header[name] = values
		}
	}
	out.Header["Accept-Encoding"] = identity
	return out
}

// await waits like a blocking query: until there is something newer than q.Index, or q.Wait is over.
func (vw *view) await(ctx context.Context, q *Question, strict bool) outcome {
	wt := &waiter{index: q.Index, came: time.Now(), strict: strict, out: make(chan outcome, 1)}
	vw.mu.Lock()
	if vw.long {
		vw.mu.Unlock()
		return outcome{err: errUnshared}
	}
	down := vw.tried && !vw.live
	if down && strict {
		defer vw.mu.Unlock()
		return outcome{err: vw.err}
	}
	if vw.cur != nil && vw.cur.Index > wt.index && (down || vw.live && q.Loose) {
		defer vw.mu.Unlock()
		return outcome{answer: vw.cur, stale: down, at: vw.at}
	}
	wt.sent = vw.sent
	vw.waiters[wt] = struct{}{}
	if vw.live && vw.cur.Index > wt.index {
		vw.need(wt)
	}
	vw.mu.Unlock()

	timer := time.NewTimer(q.Wait + jitter(q.Wait))
	defer timer.Stop()
	for {
		select {
		case o := <-wt.out:
			return o
		case <-timer.C:
			if o, ok := vw.expire(wt); ok {
				return o
			}
		case <-ctx.Done():
			vw.drop(wt)
			return outcome{err: ctx.Err()}
		case <-vw.ctx.Done():
			vw.drop(wt)
			return outcome{err: fmt.Errorf("%w: %w", errNotSent, vw.ctx.Err())}
		}
	}
}

func jitter(wait time.Duration) time.Duration {
	if wait < 16 {
		return 0
	}
	return rand.N(wait / 16)
}

func (vw *view) drop(wt *waiter) {
	vw.mu.Lock()
	defer vw.mu.Unlock()
	delete(vw.waiters, wt)
}

// expire answers a waiter whose time is over, unless the answer is on its way.
func (vw *view) expire(wt *waiter) (outcome, bool) {
	vw.mu.Lock()
	defer vw.mu.Unlock()
	if _, ok := vw.waiters[wt]; !ok || wt.needy || vw.cur == nil || !vw.tried {
		wt.due = true
		return outcome{}, false
	}
	delete(vw.waiters, wt)
	return outcome{answer: vw.cur, stale: !vw.live, at: vw.at}, true
}

// need asks again, at once, for the sake of wt and all others in need. Called with mu held.
func (vw *view) need(wt *waiter) {
	wt.needy = true
	if !vw.catching {
		vw.catching = true
		vw.vs.runs.Go(vw.catchUp)
	}
}

// catchUp asks at once, again and again, as long as somebody came too late for the last answer.
func (vw *view) catchUp() {
	for {
		vw.mu.Lock()
		needy := false
		for wt := range vw.waiters {
			needy = needy || wt.needy
			wt.needy = false
		}
		if !needy || vw.ctx.Err() != nil {
			vw.catching = false
			vw.mu.Unlock()
			return
		}
		// A waiter that comes from now on has been too late for this one.
		n := vw.number()
		vw.mu.Unlock()
		if err := vw.ask(vw.ctx, n, 0); err != nil {
			vw.mu.Lock()
			if vw.breakOff != nil {
				vw.breakOff() // it may hang at a server that is gone
			}
			vw.mu.Unlock()
		}
	}
}

// number is that of the next request. Called with mu held.
func (vw *view) number() uint64 {
	vw.sent++
	return vw.sent
}

// run follows the question until the view ends.
func (vw *view) run() {
	failures := 0
	for vw.ctx.Err() == nil {
		vw.mu.Lock()
		index, n := vw.followed, vw.number()
		ctx, cancel := context.WithTimeout(vw.ctx, viewWait+viewWait/16+viewSlack)
		vw.breakOff = cancel
		vw.mu.Unlock()
		began := time.Now()
		err := vw.ask(ctx, n, index)
		cancel()
		if errors.Is(err, errBrokenOff) {
			continue
		}
		if err != nil {
			failures++
			rest(vw.ctx, retryPause(failures))
			continue
		}
		failures = 0
		vw.mu.Lock()
		spins := vw.followed == 0 || vw.followed == index && time.Since(began) < time.Second
		vw.mu.Unlock()
		if spins {
			rest(vw.ctx, time.Second) // a server that does not wait must not make us spin
		}
	}
	vw.end()
}

// end lets everybody go.
func (vw *view) end() {
	vw.mu.Lock()
	defer vw.mu.Unlock()
	vw.live = false // so that no catch-up begins after this
	for wt := range vw.waiters {
		vw.give(wt, outcome{err: fmt.Errorf("%w: %w", errNotSent, context.Canceled)})
	}
}

// retryPause grows with each failure, with chance in it so that agents do not come back together.
func retryPause(failures int) time.Duration {
	d := min(viewRetryFirst<<min(failures, 10), viewRetryMost)
	return d/2 + rand.N(d)
}

func rest(ctx context.Context, d time.Duration) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-ctx.Done():
	}
}

// ask sends request n, for something newer than index or for an answer at once, and deals with the answer.
func (vw *view) ask(ctx context.Context, n, index uint64) error {
	v := vw.vs
	v.stats.asked.Add(1)
	if index > 0 {
		ctx = peer.Long(ctx)
	} else {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, v.p.cfg.Hold+time.Second)
		defer cancel()
	}
	req := vw.path.WithContext(ctx)
	u := *vw.path.URL
	u.RawQuery = vw.q.Ask(index, viewWait)
	req.URL = &u
	t := vw.target
	a, err := vw.fetch(req, t)
	if err == nil && t == Any && vw.isBehind(a) {
		a, err = vw.fetch(req, Leader)
	}
	if vw.ctx.Err() != nil {
		return vw.ctx.Err()
	}
	switch {
	case errors.Is(err, errTooLong):
		vw.tooLong()
		return nil
	case err != nil && errors.Is(ctx.Err(), context.Canceled):
		return errBrokenOff
	case err == nil && failing(a.Status):
		vw.failed(outcome{answer: a})
		return errTrouble
	case err != nil:
		if errors.Is(err, context.DeadlineExceeded) {
			v.p.outage.began(t, v.p.picker.now())
		}
		vw.failed(outcome{err: err})
		return err
	case a.Index == 0 || a.Status != http.StatusOK && a.Status != http.StatusNotFound:
		vw.refused(a)
		return errTrouble
	}
	vw.took(n, a)
	return nil
}

var (
	errTrouble   = errors.New("a server has answered with an error")
	errBrokenOff = errors.New("to be asked anew")
)

func (vw *view) fetch(req *http.Request, t Target) (*Answer, error) {
	resp, err := vw.vs.p.RoundTrip(req, t)
	if err != nil {
		return nil, err
	}
	a, tail, err := readAnswer(resp, vw.q.IndexHeader)
	if tail != nil {
		_ = tail.Close()
		return nil, errTooLong
	}
	return a, err
}

// isBehind says whether a server has answered with less than is known already.
func (vw *view) isBehind(a *Answer) bool {
	vw.mu.Lock()
	defer vw.mu.Unlock()
	return vw.cur != nil && a.Index > 0 && a.behind(vw.cur) && !vw.cur.Empty()
}

// took takes the answer to request n and wakes whom it concerns.
func (vw *view) took(n uint64, a *Answer) {
	v, now := vw.vs, time.Now()
	vw.mu.Lock()
	defer vw.mu.Unlock()
	cur := v.accept(vw.key, vw.cur, a)
	if vw.cur != nil && cur.Index < vw.cur.Index {
		for wt := range vw.waiters {
			wt.index = 0 // it counts in data that are believed no more, and whatever there is now is news to it
		}
	}
	if vw.cur == nil || !cur.same(vw.cur) {
		vw.weigh(cur)
		vw.cur = cur
	}
	vw.at, vw.live, vw.tried = now, true, true
	vw.followed = max(a.Index, 1)
	if v.cfg.Known != nil && vw.q.keeps(cur) {
		v.cfg.Known.put(vw.key, vw.cur, vw.q.Wide)
	} else if vw.q.Keep {
		v.forget(vw.key)
	}
	for wt := range vw.waiters {
		switch {
		case vw.cur.Index <= wt.index && !wt.due:
		case vw.q.Loose || wt.due || wt.sent < n || now.Sub(wt.came) > settled:
			vw.give(wt, outcome{answer: vw.cur, at: now})
		case !wt.needy:
			vw.need(wt)
		}
	}
}

// weigh counts the bytes of the answer that takes the place of the present one.
func (vw *view) weigh(a *Answer) {
	size := a.size()
	vw.vs.mu.Lock()
	defer vw.vs.mu.Unlock()
	if vw.vs.views[vw.id] == vw {
		vw.vs.bytes += size - vw.weight
		vw.weight = size
	}
}

// give ends the wait of wt. Called with mu held.
func (vw *view) give(wt *waiter, o outcome) {
	delete(vw.waiters, wt)
	wt.out <- o
}

// failed deals with servers that cannot be reached, or are in trouble. Whoever waits for something newer goes on
// waiting, if there is something to be answered in the end.
func (vw *view) failed(o outcome) {
	vw.mu.Lock()
	defer vw.mu.Unlock()
	vw.live, vw.tried, vw.followed = false, true, 0
	if vw.err = o.err; vw.err == nil {
		vw.err = errTrouble
	}
	if !vw.q.Keep {
		vw.cur = nil // not one of the answers that outlive the servers
	}
	for wt := range vw.waiters {
		switch {
		case wt.strict || vw.cur == nil:
			vw.give(wt, o)
		case vw.cur.Index > wt.index || wt.due:
			vw.give(wt, outcome{answer: vw.cur, stale: true, at: vw.at})
		}
	}
}

// refused tells everybody that the question has no answer.
func (vw *view) refused(a *Answer) {
	vw.mu.Lock()
	defer vw.mu.Unlock()
	vw.live, vw.tried, vw.followed, vw.err = false, true, 0, errTrouble
	if a.refuses() {
		vw.cur = nil
		vw.vs.forget(vw.key)
	}
	for wt := range vw.waiters {
		vw.give(wt, outcome{answer: a})
	}
}

// tooLong sends everybody to ask for himself, and whoever comes while the view lasts.
func (vw *view) tooLong() {
	vw.mu.Lock()
	defer vw.mu.Unlock()
	vw.long, vw.followed, vw.cur, vw.live = true, 0, nil, false
	for wt := range vw.waiters {
		vw.give(wt, outcome{err: errUnshared})
	}
	vw.cancel()
}

// Rejudge asks all questions anew, so that what the Judge held back is looked at again.
func (v *Views) Rejudge() {
	v.mu.Lock()
	views := slices.Collect(maps.Values(v.views))
	v.mu.Unlock()
	for _, vw := range views {
		vw.mu.Lock()
		vw.followed = 0
		if vw.breakOff != nil {
			vw.breakOff()
		}
		vw.mu.Unlock()
	}
}

// Close ends all views. Clients that wait are let go.
func (v *Views) Close() {
	v.mu.Lock()
	v.cancel()
	v.mu.Unlock()
	v.runs.Wait()
}
