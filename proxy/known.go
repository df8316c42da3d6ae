package proxy

import (
	"container/list"
	"net/http"
	"sync"
	"time"

	"github.com/hashicorp/go-hclog"
)

// Defaults of KnownConfig.
const (
	DefaultKnownEntries = 10_000
	DefaultKnownBytes   = 64 << 20
	defaultKnownFlush   = 2 * time.Second
)

// KnownConfig of a Known.
type KnownConfig struct {
	File       string        // bbolt file; "" keeps answers in memory alone
	MaxEntries int           // default 10,000
	MaxBytes   int64         // of all answers, in memory and again in the file; default 64 MiB
	MaxAge     time.Duration // since a server confirmed it; older answers are not given any more. 0 = no limit
	Flush      time.Duration // how long a change may wait for others before it is written, default 2 s
	Logger     hclog.Logger
}

// Known holds the last good answer to each question, in memory and, written behind, in a file. The answers that
// nobody asked for longest make room for new ones. All methods are safe for concurrent use.
type Known struct {
	cfg KnownConfig

	mu      sync.Mutex
	entries map[string]*list.Element // of *known
	recent  *list.List               // the one used last is in front
	bytes   int64
	dirty   map[string]struct{} // to be written, or to be removed from the file

	file *knownFile // nil: memory alone
}

// known is one kept answer.
type known struct {
	key    string
	answer *Answer
	at     time.Time // when a server confirmed it last
}

// OpenKnown opens or makes the file. A file that cannot be used is set aside and reported in the log; whatever of it
// can be read is taken over.
func OpenKnown(c KnownConfig) *Known {
	if c.MaxEntries == 0 {
		c.MaxEntries = DefaultKnownEntries
	}
	if c.MaxBytes == 0 {
		c.MaxBytes = DefaultKnownBytes
	}
	if c.Flush == 0 {
		c.Flush = defaultKnownFlush
	}
	if c.Logger == nil {
		c.Logger = hclog.NewNullLogger()
	}
	k := &Known{cfg: c, entries: map[string]*list.Element{}, recent: list.New(), dirty: map[string]struct{}{}}
	if c.File != "" {
		k.openFile()
	}
	return k
}

// Get returns the last good answer to a question, nil if there is none, and when a server confirmed it last.
func (k *Known) get(key string) (*Answer, time.Time) {
	k.mu.Lock()
	defer k.mu.Unlock()
	e := k.entries[key]
	if e == nil {
		return nil, time.Time{}
	}
	k.recent.MoveToFront(e)
	kn := e.Value.(*known)
	if k.cfg.MaxAge > 0 && time.Since(kn.at) > k.cfg.MaxAge {
		return nil, time.Time{}
	}
	return kn.answer, kn.at
}

// put keeps a, confirmed now, in the place of what was known before. What says the same is not written again.
func (k *Known) put(key string, a *Answer) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if a.size() > k.cfg.MaxBytes/8 {
		k.drop(key) // the old one is not true any more, and one answer shall not push out most others
		return
	}
	now := time.Now()
	if e := k.entries[key]; e != nil {
		kn := e.Value.(*known)
		k.recent.MoveToFront(e)
		kn.at = now
		if kn.answer.same(a) {
			return
		}
		k.bytes += a.size() - kn.answer.size()
		kn.answer = a
	} else {
		k.enter(&known{key, a, now})
	}
	k.dirty[key] = struct{}{}
	k.shrink()
	k.file.wake()
}

// enter adds an entry in front.
func (k *Known) enter(kn *known) {
	k.entries[kn.key] = k.recent.PushFront(kn)
	k.bytes += kn.answer.size()
}

// shrink makes room.
func (k *Known) shrink() {
	for len(k.entries) > k.cfg.MaxEntries || k.bytes > k.cfg.MaxBytes {
		k.drop(k.recent.Back().Value.(*known).key)
	}
}

// confirm notes that a server stands by what is known, now.
func (k *Known) confirm(key string) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if e := k.entries[key]; e != nil {
		e.Value.(*known).at = time.Now()
		k.recent.MoveToFront(e)
	}
}

// forget removes what is known: a server says that the question has no answer.
func (k *Known) forget(key string) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.drop(key)
}

func (k *Known) drop(key string) {
	e := k.entries[key]
	if e == nil {
		return
	}
	k.recent.Remove(e)
	delete(k.entries, key)
	k.bytes -= e.Value.(*known).answer.size()
	k.dirty[key] = struct{}{}
	k.file.wake()
}

// Size says how many answers are kept, and how many bytes they take.
func (k *Known) Size() (entries int, bytes int64) {
	k.mu.Lock()
	defer k.mu.Unlock()
	return len(k.entries), k.bytes
}

// keeps says whether an answer is one of those that are kept. Errors never are.
func (q *Question) keeps(a *Answer) bool {
	return q.Keep && (a.Status == http.StatusOK || q.Absent && a.Status == http.StatusNotFound)
}

// refuses says that the cluster has refused the question, so that what was known must not be shown any more.
func (a *Answer) refuses() bool {
	return a.Status >= 400 && a.Status < 500 && a.Status != http.StatusTooManyRequests && a.Status != statusCancelled
}
