package proxy

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/go-hclog"
)

// Defaults of ViewsConfig.
const (
	DefaultMaxViews  = 4096
	DefaultViewBytes = 64 << 20
	DefaultLinger    = 10 * time.Second
)

// maxAnswer is the longest answer that is shared or kept, in bytes; longer ones are streamed to the one who asked.
const maxAnswer = 16 << 20

// Judge decides what is shown and kept when an answer would take another's place: next, or previous when next is not
// to be believed, or one made of both, whose index must not be below previous's. name is what was asked, path and
// query. It is called at the one place where what is known is replaced, from many goroutines, and must be quick.
// Answers that differ in nothing are not shown to it.
type Judge func(name string, previous, next *Answer) *Answer

// ViewsConfig of a Views. Only Proxy is required.
type ViewsConfig struct {
	Proxy    *Proxy
	Known    *Known        // nil: nothing is kept
	Judge    Judge         // nil: what servers say is believed
	MaxViews int           // followed at once; 0 = the default, negative = nothing is shared
	MaxBytes int64         // of the answers of all views; beyond, requests are relayed each for itself
	Linger   time.Duration // how long a view is followed after the last client has gone
	Logger   hclog.Logger
}

// Views answers reads that many clients may share, and those whose answers are kept. Every blocking query that is
// asked by any number of clients is one question to the servers (view.go); when no server can be reached, what was
// known last is answered, marked as such. All methods are safe for concurrent use.
type Views struct {
	p   *Proxy
	cfg ViewsConfig
	log hclog.Logger

	ctx    context.Context
	cancel context.CancelFunc
	runs   sync.WaitGroup

	mu    sync.Mutex
	views map[string]*view
	feeds map[string]*feed
	bytes int64 // of the answers of all views
	stats viewStats
}

// viewStats are counted here and shown by Stats.
type viewStats struct {
	waiters, hits, asked, relayed, kept atomic.Int64
}

// NewViews returns a Views, which does nothing until it is asked. Close it.
func NewViews(c ViewsConfig) (*Views, error) {
	if c.Proxy == nil {
		return nil, errors.New("proxy: ViewsConfig.Proxy is missing")
	}
	if c.MaxViews == 0 {
		c.MaxViews = DefaultMaxViews
	}
	if c.MaxBytes == 0 {
		c.MaxBytes = DefaultViewBytes
	}
	if c.Linger == 0 {
		c.Linger = DefaultLinger
	}
	if c.Logger == nil {
		c.Logger = hclog.NewNullLogger()
	}
	v := &Views{p: c.Proxy, cfg: c, log: c.Logger, views: make(map[string]*view), feeds: make(map[string]*feed)}
	v.ctx, v.cancel = context.WithCancel(context.Background())
	return v, nil
}

// Serve answers r, a GET that came straight from a client.
func (v *Views) Serve(w http.ResponseWriter, r *http.Request, t Target, res Resumer, q Question) {
	q.secret = credentials(r)
	if q.Watch != nil {
		if res == nil || !v.watch(w, r, res, &q) {
			v.stats.relayed.Add(1)
			v.p.Relay(w, r, t, res)
		}
		return
	}
	if q.Index > 0 {
		if !v.shared(w, r, t, &q) {
			v.stats.relayed.Add(1)
			v.p.Relay(w, r, t, res)
		}
		return
	}
	if !q.Keep {
		v.p.Relay(w, r, t, res)
		return
	}
	v.relay(w, r, t, &q)
}

// relay asks for an answer now, and gives what is known where none is to be had.
func (v *Views) relay(w http.ResponseWriter, r *http.Request, t Target, q *Question) {
	a, rest, at, err := v.answer(r, t, q)
	switch {
	case rest != nil:
		defer rest.Close()
		a.stream(w, rest, v.p)
	case err != nil:
		v.p.fail(w, r, 0, err)
	case !at.IsZero():
		v.giveKept(w, a, at)
	default:
		a.write(w)
	}
}

// Fetch is Serve for callers inside the agent. A question that waits gets an error at once when no server can be
// reached; any other what was known last, if anything, and then since is when a server confirmed that.
func (v *Views) Fetch(r *http.Request, t Target, q Question) (a *Answer, since time.Time, err error) {
	q.secret = credentials(r)
	if vw := (*view)(nil); q.Index > 0 {
		if vw = v.join(r, t, &q); vw != nil {
			o := vw.await(r.Context(), &q, true)
			if r.Context().Err() != nil {
				v.leave(vw, 0) // it will not be asked again soon, and must not keep others from being shared
			} else {
				v.leave(vw, v.cfg.Linger)
			}
			if !errors.Is(o.err, errUnshared) {
				return o.answer, time.Time{}, o.err
			}
		}
		q.Keep = false // it is not shared, so it must not be cut short
	}
	a, rest, at, err := v.answer(r, t, &q)
	if rest != nil {
		_ = rest.Close()
		return nil, time.Time{}, errTooLong
	}
	return a, at, err
}

// answer asks for an answer now. Where none is to be had it gives what is known, and since when that was not confirmed.
// Of an answer that is too long to be held, rest is what follows its beginning.
func (v *Views) answer(r *http.Request, t Target, q *Question) (a *Answer, rest io.ReadCloser, at time.Time, err error) {
	key := q.key()
	var prev *Answer
	ctx := r.Context()
	if q.Keep {
		prev, at = v.known(key)
	}
	if prev != nil {
		if v.p.outage.lasts(t, v.p.picker.now()) {
			return prev, nil, at, nil
		}
		var cancel context.CancelFunc // there is something better than to wait for ever
		ctx, cancel = context.WithTimeout(ctx, v.p.cfg.Hold+time.Second)
		defer func() {
			if rest == nil {
				cancel()
			} else {
				rest = &cancelling{rest, cancel}
			}
		}()
	}
	a, rest, err = v.ask(r.WithContext(ctx), t, q)
	if rest != nil {
		v.forget(key)
		return a, rest, time.Time{}, nil
	}
	if err == nil && prev != nil && t == Any && a.Status == http.StatusOK && a.behind(prev) && !prev.Empty() {
		// This server has not caught up, or lost what it knew. The leader has it all.
		if a, rest, err = v.ask(r.WithContext(ctx), Leader, q); rest != nil {
			_ = rest.Close()
			rest, err = nil, errTooLong
		}
	}
	switch {
	case err != nil && r.Context().Err() != nil:
	case prev != nil && (err != nil || failing(a.Status)):
		if errors.Is(err, context.DeadlineExceeded) {
			v.p.outage.began(t, v.p.picker.now())
		}
		return prev, nil, at, nil
	case err == nil:
		confirmed := prev == nil || !a.behind(prev)
		if a = v.settle(q, prev, a); a == prev && !confirmed {
			return a, nil, at, nil
		}
	}
	return a, nil, time.Time{}, err
}

// cancelling ends its request when it is closed.
type cancelling struct {
	io.ReadCloser
	cancel context.CancelFunc
}

// Close implements io.Closer.
func (c *cancelling) Close() error {
	defer c.cancel()
	return c.ReadCloser.Close()
}

// settle takes what a server answered to a question, and returns what is to be shown.
func (v *Views) settle(q *Question, prev, next *Answer) *Answer {
	key := q.key()
	if !q.keeps(next) {
		if next.refuses() {
			v.forget(key)
		}
		return next
	}
	a := v.accept(key, prev, next)
	if v.cfg.Known != nil && (prev == nil || !next.behind(prev)) {
		v.cfg.Known.put(key, a, q.Wide)
	}
	return a
}

// accept is the one place where what is known about a question gives way to what a server has said.
func (v *Views) accept(key string, prev, next *Answer) *Answer {
	switch judge := v.cfg.Judge; {
	case prev == nil:
		return next
	case next.behind(prev):
		return prev // asked before prev was, or of a server that has not caught up
	case judge == nil || prev.same(next):
		return next
	default:
		return judge(nameOf(key), prev, next)
	}
}

// ask sends a question that is to be answered at once, and reads the answer. Of one that is too long, rest is what
// follows the beginning.
func (v *Views) ask(r *http.Request, t Target, q *Question) (a *Answer, rest io.ReadCloser, err error) {
	v.stats.asked.Add(1)
	out := r.WithContext(r.Context())
	out.Header = r.Header.Clone()
	out.Header["Accept-Encoding"] = identity // what is kept must be fit for every client
	out.Header.Del("Range")
	out.Header.Del("If-None-Match")
	resp, err := v.p.RoundTrip(out, t)
	if err != nil {
		return nil, nil, err
	}
	return readAnswer(resp, q.IndexHeader)
}

var errTooLong = fmt.Errorf("the answer is longer than %d bytes", maxAnswer)

// readAnswer reads a whole answer; of one that is too long, the beginning, and rest is what follows it.
func readAnswer(resp *http.Response, indexHeader string) (a *Answer, rest io.ReadCloser, err error) {
	a = &Answer{Status: resp.StatusCode, Header: answerHeader(resp.Header), Cluster: resp.Header.Get(ClusterHeader)}
	a.Index, _ = strconv.ParseUint(resp.Header.Get(indexHeader), 10, 64)
	if n := resp.ContentLength; n >= 0 && n <= maxAnswer {
		a.Body = make([]byte, n)
		_, err = io.ReadFull(resp.Body, a.Body)
	} else {
		a.Body, err = io.ReadAll(io.LimitReader(resp.Body, maxAnswer+1))
	}
	if err == nil && len(a.Body) > maxAnswer {
		return a, resp.Body, nil
	}
	_ = resp.Body.Close()
	return a, nil, err
}

// stream gives a client an answer that is too long to be held.
func (a *Answer) stream(w http.ResponseWriter, rest io.ReadCloser, p *Proxy) {
	h := w.Header()
	for name, values := range a.Header {
		h[name] = values
	}
	w.WriteHeader(a.Status)
	p.copyBody(w, &http.Response{ContentLength: -1, Body: struct {
		io.Reader
		io.Closer
	}{io.MultiReader(bytes.NewReader(a.Body), rest), rest}})
}

// known is what is kept about a question.
func (v *Views) known(key string) (*Answer, time.Time) {
	if v.cfg.Known == nil {
		return nil, time.Time{}
	}
	return v.cfg.Known.get(key)
}

func (v *Views) forget(key string) {
	if v.cfg.Known != nil {
		v.cfg.Known.forget(key)
	}
}

// Kept calls f with each good answer that is kept of a question, asked without credentials, whose name begins with prefix. Bodies are only read.
func (v *Views) Kept(prefix string, f func(name string, body []byte, index uint64)) {
	if v.cfg.Known != nil {
		v.cfg.Known.each(prefix, f)
	}
}

// giveKept answers with what was known last.
func (v *Views) giveKept(w http.ResponseWriter, a *Answer, at time.Time) {
	v.stats.kept.Add(1)
	a.writeKept(w, time.Since(at))
}

// ViewsStats are the figures of a Views.
type ViewsStats struct {
	Views, Waiters int   // followed now: questions and streams, and the clients of these
	ViewBytes      int64 // of the answers of all views
	Hits           int64 // answers given from a view, total
	Upstream       int64 // questions sent to servers for views and for what is kept, total
	Relayed        int64 // questions that could be shared and were relayed for one client, total
	Served         int64 // answers that no server confirmed, total
	Entries        int   // answers kept
	EntryBytes     int64 // bytes of these
}

// Stats tells how it is going.
func (v *Views) Stats() ViewsStats {
	v.mu.Lock()
	s := ViewsStats{Views: len(v.views) + len(v.feeds), ViewBytes: v.bytes}
	v.mu.Unlock()
	s.Waiters, s.Hits, s.Upstream = int(v.stats.waiters.Load()), v.stats.hits.Load(), v.stats.asked.Load()
	s.Relayed, s.Served = v.stats.relayed.Load(), v.stats.kept.Load()
	if v.cfg.Known != nil {
		s.Entries, s.EntryBytes = v.cfg.Known.Size()
	}
	return s
}

// Outage is since when no server has answered; zero while they do, and while nobody has asked.
func (v *Views) Outage() time.Time { return v.p.outage.start() }
