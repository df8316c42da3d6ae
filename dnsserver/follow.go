package dnsserver

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/go-hclog"
	"golang.org/x/time/rate"

	"github.com/musterhq/muster/catalog"
	"github.com/musterhq/muster/guard"
)

// Fetch asks the cluster: a GET of path ("/v1/health/service/web") with query. Every status but 200 is an error. When
// nobody can be reached, it gives what was known last to a question that does not wait, marked stale, and an error at once to one that does.
type Fetch func(ctx context.Context, path string, query url.Values) (Fetched, error)

// Fetched is an answer of the cluster. Body is only read.
type Fetched struct {
	Body  []byte
	Index uint64 // X-Consul-Index
	Stale bool   // nobody confirms it: this is what was known last, and confirmed at Since
	Since time.Time
}

// FollowConfig of a FollowSource. Only Fetch is required.
type FollowConfig struct {
	Fetch    Fetch
	Idle     time.Duration   // a name not asked for this long is no longer followed, default 5 min
	First    time.Duration   // how long the first question about a name waits for the cluster, default 2 s
	Wait     time.Duration   // of one blocking query, default 60 s
	MaxNames int             // names remembered, default 4096
	Guard    *guard.Services // who says what to show of a service; nil: everything as it is
	// Doubt is how long an answer that is older than what is known already is not believed; only with Guard, default 5 min.
	Doubt  time.Duration
	Logger hclog.Logger
}

const (
	fetchSlack   = 15 * time.Second // beyond Wait, until a silent server is given up
	retryFirst   = 100 * time.Millisecond
	retryMost    = 5 * time.Second
	idleMissing  = 30 * time.Second // Idle of names that do not exist
	reverseFresh = 10 * time.Second // how long an answer to a reverse question is good
	evictSample  = 32
	// sameUse is how long an answer is good to a name that is not followed, because it was not in use before: the
	// questions of one connection, about both families of addresses, come together. Who asks later uses the name.
	sameUse = 10 * time.Millisecond
)

// FollowSource answers on an agent that holds no data. Each name in use, that is from the second time on that it is asked
// for, or from the first if it does not exist, is followed by a blocking query, so that a question about it never waits for
// the network. When the cluster cannot be reached, what was known last is answered, marked stale, without limit of time but
// that of SetMaxStale.
type FollowSource struct {
	cfg    FollowConfig
	log    hclog.Logger
	ctx    context.Context
	cancel context.CancelFunc
	runs   sync.WaitGroup

	newcomers *rate.Limiter // see strangers.go
	down      atomic.Bool   // the last question to the cluster failed
	judged    atomic.Uint64 // counts the states that were given to the guard, see guarded.go
	maxStale  atomic.Int64  // see SetMaxStale
	following atomic.Int64  // items that are followed

	mu    sync.RWMutex
	items map[string]*item
}

var _ Source = (*FollowSource)(nil)

// NewFollowSource returns a FollowSource, which does nothing until it is asked. Close it.
func NewFollowSource(c FollowConfig) (*FollowSource, error) {
	if c.Fetch == nil {
		return nil, errors.New("dns: FollowConfig.Fetch is missing")
	}
	setDuration(&c.Idle, 5*time.Minute)
	setDuration(&c.First, 2*time.Second)
	setDuration(&c.Wait, time.Minute)
	setDuration(&c.Doubt, 5*time.Minute)
	if c.MaxNames <= 0 {
		c.MaxNames = 4096
	}
	if c.Logger == nil {
		c.Logger = hclog.NewNullLogger()
	}
	f := &FollowSource{cfg: c, log: c.Logger, newcomers: newNewcomers(), items: make(map[string]*item)}
	f.ctx, f.cancel = context.WithCancel(context.Background())
	return f, nil
}

// Close ends all queries. Questions afterwards are answered with what is known.
func (f *FollowSource) Close() {
	f.mu.Lock() // no run begins once the lock has been held with the context ended
	f.cancel()
	f.mu.Unlock()
	f.runs.Wait()
}

// item is one thing that is followed while it is asked for. Afterwards it stays, without costing the cluster
// anything, for the day when nobody can be reached.
type item struct {
	key    string
	path   string
	query  url.Values
	follow bool // by blocking query; else the answer is asked anew when it is old
	decode func(body []byte, index uint64) (value, error)

	used atomic.Int64 // unix nanoseconds of the last question
	now  atomic.Pointer[value]
	live atomic.Bool // the present run has had a result; now needs no waiting

	mu    sync.Mutex
	stop  context.CancelFunc // of the present run, nil when there is none
	first chan struct{}      // closed by the first result of the present run
	asked time.Time          // when the last run ended that did not follow

	doubted time.Time // since when answers are older than what is known; of the loop alone
}

// value is what is known; one of the first three is meant, by the kind of item. It is immutable.
type value struct {
	answer  *Answer
	node    *catalog.Node
	owner   Owner
	query   *QueryAnswer
	names   map[string]bool // of a list of all names
	missing bool            // nothing is there
	stale   bool
	judged  *judged   // nil: answer is what the cluster said
	since   time.Time // when it became stale
}

// ErrMissing is what a Fetch returns when the cluster says that there is no such thing.
var ErrMissing = errors.New("dns: there is no such thing")

// Kinds of items, the beginning of their keys.
const (
	followService = "s/"
	followNode    = "n/"
	followOwner   = "r/"
	followQuery   = "q/"
)

// newItem makes the item for key, nil if there is no such kind.
func newItem(key string) *item {
	it := &item{key: key}
	kind, name := key[:min(2, len(key))], key[min(2, len(key)):]
	switch kind {
	case followService:
		it.path, it.follow, it.decode = "/v1/health/service/"+url.PathEscape(name), true, decodeService
	case followNode:
		it.path, it.follow, it.decode = "/v1/catalog/node/"+url.PathEscape(name), true, decodeNode
	case followOwner:
		it.path, it.decode = "/v1/catalog/nodes", decodeOwner
		it.query = url.Values{"filter": {"Address == " + strconv.Quote(name)}}
	case followQuery:
		it.path, it.decode = "/v1/query/"+url.PathEscape(name)+"/execute", decodeQuery
		it.query = url.Values{"connect": {"false"}}
	case followDirectory:
		it.follow = true
		if key == allServices {
			it.path, it.decode = "/v1/catalog/services", decodeServiceNames
		} else {
			it.path, it.decode = "/v1/catalog/nodes", decodeNodeNames
		}
	default:
		return nil
	}
	return it
}

// fresh is how long the answer to a question that is not followed is good.
func (it *item) fresh(v *value) time.Duration {
	switch {
	case it.follow:
		return sameUse
	case v.query != nil && v.query.TTL != nil:
		return max(time.Second, *v.query.TTL)
	case v.owner == (Owner{}):
		return time.Second
	}
	return reverseFresh
}

// Service implements Source.
func (f *FollowSource) Service(ctx context.Context, name string) (*Answer, error) {
	v, err := f.get(ctx, followService+name)
	if err != nil {
		return nil, err
	}
	return v.answer, nil
}

// Peek implements Source.
func (f *FollowSource) Peek(name string) *Answer {
	f.mu.RLock()
	it := f.items[followService+name]
	f.mu.RUnlock()
	if it == nil || !it.live.Load() {
		return nil
	}
	it.used.Store(time.Now().UnixNano())
	v, err := f.known(it)
	if err != nil {
		return nil
	}
	return v.answer
}

// Node implements Source.
func (f *FollowSource) Node(ctx context.Context, name string) (*catalog.Node, bool, error) {
	v, err := f.get(ctx, followNode+name)
	if err != nil {
		return nil, false, err
	}
	return v.node, v.stale, nil
}

// Query implements Source. An answer is good for as long as the query's own TTL says, a second at least; when the cluster
// cannot be reached, for as long as may be. It is one answer for all clients: "near the client" is any order here.
func (f *FollowSource) Query(ctx context.Context, name string, _ netip.Addr) (*QueryAnswer, error) {
	v, err := f.get(ctx, followQuery+name)
	if err != nil {
		return nil, err
	}
	return v.query, nil
}

// Servers implements Source.
func (f *FollowSource) Servers(ctx context.Context) ([]*catalog.Node, error) {
	a, err := f.Service(ctx, serverService)
	if err != nil {
		return nil, err
	}
	return nodesOf(a), nil
}

// Reverse implements Source. Nodes are asked of the cluster; services are found among those in use on this machine,
// since no query finds services by address.
func (f *FollowSource) Reverse(ctx context.Context, addr netip.Addr) (Owner, error) {
	text := addr.Unmap().String()
	v, err := f.get(ctx, followOwner+text)
	if err == nil && v.owner.Node != "" {
		return v.owner, nil
	}
	f.mu.RLock()
	defer f.mu.RUnlock()
	for _, it := range f.items {
		if s := it.now.Load(); s != nil && s.answer != nil {
			for _, in := range s.answer.Instances {
				if in.Service.Address == text {
					return Owner{Service: in.Service.Name}, nil
				}
			}
		}
	}
	return Owner{}, err
}

// get returns what is known about key, waiting only if it is not being followed yet.
func (f *FollowSource) get(ctx context.Context, key string) (*value, error) {
	f.mu.RLock()
	it := f.items[key]
	f.mu.RUnlock()
	if it == nil {
		if v, err := f.stranger(ctx, key); v != nil || err != nil {
			return v, err
		}
		it = f.add(newItem(key))
	}
	it.used.Store(time.Now().UnixNano())
	if it.live.Load() {
		if it.now.Load() != nil {
			return f.known(it)
		}
	}
	first := f.run(it)
	if first == nil {
		return f.known(it)
	}
	if it.now.Load() != nil && f.down.Load() { // waiting would end with the same answer
		it.goStale()
		return f.known(it)
	}
	timer := time.NewTimer(f.cfg.First)
	defer timer.Stop()
	select {
	case <-first:
	case <-timer.C:
		it.goStale()
	case <-ctx.Done():
		it.goStale()
	}
	return f.known(it)
}

// known is the answer if there is one that may be given.
func (f *FollowSource) known(it *item) (*value, error) {
	v := it.now.Load()
	if v == nil {
		return nil, ErrUnreachable
	}
	if most := f.maxStale.Load(); v.stale && most > 0 && time.Since(v.since) > time.Duration(most) {
		return nil, ErrUnreachable
	}
	return f.current(it, v), nil
}

// SetMaxStale bounds how long what was known last is answered while the cluster cannot be reached, as
// Config.MaxStale does. Without it there is no limit.
func (f *FollowSource) SetMaxStale(d time.Duration) {
	if d > 0 {
		d = max(d, unconfirmed)
	}
	f.maxStale.Store(int64(d))
}

// Following says whether any name is in use.
func (f *FollowSource) Following() bool { return f.following.Load() > 0 }

// add enters an item, in place of another if there are too many, and returns the one that counts.
func (f *FollowSource) add(it *item) *item {
	f.mu.Lock()
	defer f.mu.Unlock()
	if old := f.items[it.key]; old != nil {
		return old
	}
	if len(f.items) >= f.cfg.MaxNames {
		f.evict()
	}
	it.used.Store(time.Now().UnixNano())
	f.items[it.key] = it
	return it
}

// evict drops one of a few items, which the map hands out at random: one that names nothing, else the one not asked
// for longest. So names made up by somebody push out each other and not those in use.
func (f *FollowSource) evict() {
	var worst *item
	missing := func(it *item) bool { // not: about to be known, for somebody waits for it
		v := it.now.Load()
		return v != nil && v.missing
	}
	worse := func(a, b *item) bool {
		if am, bm := missing(a), missing(b); am != bm {
			return am
		}
		return a.used.Load() < b.used.Load()
	}
	n := 0
	for _, it := range f.items {
		if worst == nil || worse(it, worst) {
			worst = it
		}
		if n++; n == evictSample {
			break
		}
	}
	delete(f.items, worst.key)
	worst.mu.Lock()
	defer worst.mu.Unlock()
	if worst.stop != nil {
		worst.stop()
	}
}

// run starts following it unless that is being done, and returns what its first result will close; nil after Close.
func (f *FollowSource) run(it *item) <-chan struct{} {
	f.mu.RLock()
	defer f.mu.RUnlock()
	it.mu.Lock()
	defer it.mu.Unlock()
	if it.stop != nil {
		return it.first
	}
	if f.ctx.Err() != nil {
		return nil
	}
	var ctx context.Context
	ctx, it.stop = context.WithCancel(f.ctx)
	it.first = make(chan struct{})
	follow := it.follow && (time.Since(it.asked) < f.patience(it) || strings.HasPrefix(it.key, followDirectory))
	f.following.Add(1)
	f.runs.Go(func() {
		defer f.following.Add(-1)
		f.loop(ctx, it, follow)
	})
	return it.first
}

// loop follows it until nobody asks any more, or asks about it once.
func (f *FollowSource) loop(ctx context.Context, it *item, follow bool) {
	seen := false
	result := func() {
		it.live.Store(true)
		if !seen {
			seen = true
			close(it.first)
		}
	}
	defer func() {
		it.mu.Lock()
		defer it.mu.Unlock()
		it.live.Store(false)
		if it.asked = time.Now(); follow {
			it.asked = time.Time{}
		}
		if !seen {
			close(it.first)
		}
		it.stop()
		it.stop = nil
	}()
	var index uint64
	failures := 0
	for ctx.Err() == nil && !f.idle(it) {
		began := time.Now()
		v, got, err := f.fetch(ctx, it, index)
		if ctx.Err() != nil {
			return
		}
		if err == nil && v.stale {
			if it.now.Load() == nil {
				it.now.CompareAndSwap(nil, f.judge(it, v))
			}
			err = ErrUnreachable
		}
		if err != nil {
			f.log.Debug("following a name failed", "path", it.path, "error", err)
			it.goStale()
			result()
			index = 0 // the next answer shall come at once
			failures++
			pause(ctx, retryPause(failures))
			continue
		}
		if word := f.word(it); f.doubtful(it, v, got) {
			it.goStale()
			result()
			index = 0
			failures++
			pauseUntil(ctx, retryPause(failures), word)
			continue
		}
		failures = 0
		if got < index {
			got = 0 // the cluster was rebuilt; begin again
		}
		if old := it.now.Load(); old == nil || old.stale || got != index || index == 0 {
			it.now.Store(f.judge(it, v))
		}
		result()
		if follow = follow || it.follow && v.missing; !follow { // made-up names come again and again, and are soon given up
			pause(ctx, it.fresh(v))
			return
		}
		if got == index && time.Since(began) < time.Second || got == 0 {
			pause(ctx, time.Second) // a server that does not block must not make us spin
		}
		index = got
	}
}

// fetch asks once; with an index it waits for a change beyond it.
func (f *FollowSource) fetch(ctx context.Context, it *item, index uint64) (*value, uint64, error) {
	limit := fetchSlack
	query := url.Values{"stale": {""}}
	for k, v := range it.query {
		query[k] = v
	}
	if index > 0 {
		query.Set("index", strconv.FormatUint(index, 10))
		query.Set("wait", f.cfg.Wait.String())
		limit += f.cfg.Wait + f.cfg.Wait/16 // servers add up to a sixteenth by chance
	}
	asking, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	a, err := f.cfg.Fetch(asking, it.path, query)
	if ctx.Err() == nil {
		f.down.Store(a.Stale || err != nil && !errors.Is(err, ErrMissing))
	}
	if errors.Is(err, ErrMissing) {
		return &value{missing: true}, 1, nil
	}
	if err != nil {
		return nil, 0, err
	}
	got := a.Index
	v, err := it.decode(a.Body, got)
	if err != nil {
		return nil, 0, fmt.Errorf("dns: answer to %s: %w", it.path, err)
	}
	if a.Stale {
		v = *v.old()
		v.since = a.Since
	}
	return &v, got, nil
}

// patience is how long after a question the next one belongs to the same use of a name.
func (f *FollowSource) patience(it *item) time.Duration {
	if v := it.now.Load(); v == nil || v.missing {
		return min(f.cfg.Idle, idleMissing)
	}
	return f.cfg.Idle
}

// idle says whether nobody has asked for long enough.
func (f *FollowSource) idle(it *item) bool {
	return time.Since(time.Unix(0, it.used.Load())) > f.patience(it)
}

// goStale marks what is known as no longer confirmed.
func (it *item) goStale() {
	v := it.now.Load()
	if v == nil || v.stale {
		return
	}
	it.now.CompareAndSwap(v, v.old())
}

// old is v as it was known last.
func (v *value) old() *value {
	old := *v
	old.stale, old.since = true, time.Now()
	if old.answer != nil {
		a := *old.answer
		a.Stale = true
		old.answer = &a
	}
	if old.query != nil {
		a := *old.query
		a.Stale = true
		old.query = &a
	}
	return &old
}

// Remember takes over what was known of a service when the agent stopped, body being an answer of the path that Fetch is asked
// for. Nothing is asked of the cluster until somebody asks for the name; but what has an address can be said at
// once. Nonsense is left out.
func (f *FollowSource) Remember(path string, body []byte, index uint64) {
	name, err := url.PathUnescape(strings.TrimPrefix(path, "/v1/health/service/"))
	if err != nil || name == "" {
		return
	}
	it := newItem(followService + name)
	if it.path != path {
		return
	}
	if v, err := it.decode(body, index); err == nil && !v.missing {
		it = f.add(it)
		it.now.CompareAndSwap(nil, f.judge(it, v.old()))
	}
}

// retryPause grows with each failure, with chance in it so that agents do not come back together.
func retryPause(failures int) time.Duration {
	d := min(retryFirst<<min(failures, 10), retryMost)
	return d/2 + rand.N(d)
}

func pause(ctx context.Context, d time.Duration) { pauseUntil(ctx, d, nil) }

// pauseUntil is a pause that ends early when wake is closed.
func pauseUntil(ctx context.Context, d time.Duration, wake <-chan struct{}) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-wake:
	case <-ctx.Done():
	}
}
