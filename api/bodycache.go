package api

import (
	"errors"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
)

// Limits of a BodyCache.
const (
	DefaultBodyCacheBytes = 16 << 20
	maxBodies             = 4096
)

// BodyKey names one query: Kind is the noun and verb, Name its argument, Params whatever else changes the
// result, in canonical form.
type BodyKey struct{ Kind, Name, Params string }

// Body is an encoded answer with the header values that go with it. It is shared: nobody may change it.
type Body struct {
	Index         uint64
	Bytes         []byte
	IndexHeader   []string // Index as a header value
	ContentLength []string // len(Bytes) as a header value

	packing sync.Once
	packed  *Body
}

// Compressed is the same answer as compress makes it, which is called once however many ask.
func (b *Body) Compressed(compress func([]byte) []byte) *Body {
	b.packing.Do(func() { b.packed = NewBody(b.Index, compress(b.Bytes)) })
	return b.packed
}

var errEncodingDied = errors.New("encoding of the answer failed")

// NewBody makes a Body.
func NewBody(index uint64, b []byte) *Body {
	return &Body{
		Index: index, Bytes: b,
		IndexHeader:   []string{strconv.FormatUint(index, 10)},
		ContentLength: []string{strconv.Itoa(len(b))},
	}
}

// BodyCache keeps the encoded answer of each recent query for the index it was made at, so that any number of
// requests and of waiters woken by one change share one encoding. An answer is valid as long as the index of its
// query has not moved; nothing expires by time. Safe for concurrent use.
type BodyCache struct {
	max    int64
	mu     sync.RWMutex
	bodies map[BodyKey]*cachedBody
	bytes  int64

	hits, misses atomic.Uint64
}

type cachedBody struct {
	index uint64
	size  int64 // guarded by BodyCache.mu; 0 until encoded
	once  sync.Once
	body  *Body
	err   error
}

// NewBodyCache makes a cache of at most max bytes of bodies (0 = DefaultBodyCacheBytes).
func NewBodyCache(max int64) *BodyCache {
	if max <= 0 {
		max = DefaultBodyCacheBytes
	}
	return &BodyCache{max: max, bodies: make(map[BodyKey]*cachedBody)}
}

// Lookup returns the answer at exactly this index, nil if it is not there.
func (c *BodyCache) Lookup(key BodyKey, index uint64) *Body {
	c.mu.RLock()
	e := c.bodies[key]
	c.mu.RUnlock()
	if e == nil || e.index != index {
		return nil
	}
	e.once.Do(func() {}) // wait for whoever is encoding
	if e.body != nil {
		c.hits.Add(1)
	}
	return e.body
}

// Get returns the answer at this index and makes it by encode if need be; only one of the callers that ask for
// the same at the same time encodes. An older index than the one kept is encoded but not kept.
func (c *BodyCache) Get(key BodyKey, index uint64, encode func() ([]byte, error)) (*Body, error) {
	if b := c.Lookup(key, index); b != nil {
		return b, nil
	}
	c.mu.Lock()
	e := c.bodies[key]
	switch {
	case e == nil || e.index < index:
		if e != nil {
			c.bytes -= e.size
		}
		key = BodyKey{strings.Clone(key.Kind), strings.Clone(key.Name), strings.Clone(key.Params)}
		e = &cachedBody{index: index}
		delete(c.bodies, key) // so that the map holds the cloned strings, not those of a request
		c.bodies[key] = e
	case e.index > index:
		e = &cachedBody{index: index}
	}
	c.mu.Unlock()
	e.once.Do(func() {
		e.err = errEncodingDied // stays if encode panics
		b, err := encode()
		if e.err = err; err == nil {
			e.body = NewBody(index, b)
			c.misses.Add(1)
		}
		c.account(key, e)
	})
	return e.body, e.err
}

// account enters the size of a fresh body and makes room for it.
func (c *BodyCache) account(key BodyKey, e *cachedBody) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.bodies[key] != e { // replaced meanwhile, or never kept
		return
	}
	if e.err != nil {
		delete(c.bodies, key)
		return
	}
	e.size = int64(len(e.body.Bytes)) + int64(len(key.Name)+len(key.Params)) + 256
	c.bytes += e.size
	for k, old := range c.bodies { // map order is random: any victim will do
		if c.bytes <= c.max && len(c.bodies) <= maxBodies {
			return
		}
		if old != e && old.size != 0 {
			c.bytes -= old.size
			delete(c.bodies, k)
		}
	}
}

// Stats returns how often a body was found and how often it was encoded.
func (c *BodyCache) Stats() (hits, misses uint64) { return c.hits.Load(), c.misses.Load() }
