package proxy

import (
	"container/list"
	"net/http"
	"strings"
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
// nobody asked for longest make room for new ones; those that name nothing go first, so that questions about names
// that somebody makes up push out only each other. All methods are safe for concurrent use.
type Known struct {
	cfg KnownConfig

	mu      sync.Mutex
	entries map[string]*list.Element // of *known
	recent  *list.List               // the one used last is in front
	hollow  *list.List               // the same for answers that name nothing
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
	k := &Known{cfg: c, entries: map[string]*list.Element{}, recent: list.New(), hollow: list.New(), dirty: map[string]struct{}{}}
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
	kn := e.Value.(*known)
	k.listOf(kn.answer).MoveToFront(e)
	if k.cfg.MaxAge > 0 && time.Since(kn.at) > k.cfg.MaxAge {
		return nil, time.Time{}
	}
	return kn.answer, kn.at
}

// put keeps a, confirmed now, in the place of what was known before. What says the same is not written again, also
// when its index is newer and wide says that this means nothing.
func (k *Known) put(key string, a *Answer, wide bool) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if a.size() > k.cfg.MaxBytes/8 {
		k.drop(key) // the old one is not true any more, and one answer shall not push out most others
		return
	}
	now := time.Now()
	if e := k.entries[key]; e != nil {
		kn := e.Value.(*known)
		if old := kn.answer; old == a || old.same(a) || wide && old.says(a) {
			kn.answer, kn.at = a, now
			k.bytes += a.size() - old.size()
			k.listOf(a).MoveToFront(e)
			return
		}
		k.remove(e)
	}
	k.enter(&known{key, a, now})
	k.dirty[key] = struct{}{}
	k.shrink()
	k.file.wake()
}

// listOf is the list that an answer belongs to.
func (k *Known) listOf(a *Answer) *list.List {
	if a.Empty() {
		return k.hollow
	}
	return k.recent
}

// enter adds an entry in front.
func (k *Known) enter(kn *known) {
	k.entries[kn.key] = k.listOf(kn.answer).PushFront(kn)
	k.bytes += kn.answer.size()
}

// remove takes an entry out.
func (k *Known) remove(e *list.Element) {
	kn := e.Value.(*known)
	k.listOf(kn.answer).Remove(e)
	delete(k.entries, kn.key)
	k.bytes -= kn.answer.size()
}

// shrink makes room.
func (k *Known) shrink() {
	for len(k.entries) > k.cfg.MaxEntries || k.bytes > k.cfg.MaxBytes || k.hollow.Len() > max(1, k.cfg.MaxEntries/8) {
		last := k.hollow.Back()
		if last == nil {
			last = k.recent.Back()
		}
		k.drop(last.Value.(*known).key)
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
	k.remove(e)
	k.dirty[key] = struct{}{}
	k.file.wake()
}

// each calls f with what is known of the questions whose names begin with prefix and that anybody may ask.
func (k *Known) each(prefix string, f func(name string, body []byte, index uint64)) {
	k.mu.Lock()
	var list []known
	for e := k.recent.Front(); e != nil; e = e.Next() {
		if kn := e.Value.(*known); strings.HasPrefix(kn.key, "- "+prefix) && kn.answer.Status == http.StatusOK {
			list = append(list, *kn)
		}
	}
	k.mu.Unlock()
	for _, kn := range list {
		f(nameOf(kn.key), kn.answer.Body, kn.answer.Index)
	}
}

// Size says how many answers are kept, and how many bytes they take.
func (k *Known) Size() (entries int, bytes int64) {
	k.mu.Lock()
	defer k.mu.Unlock()
	return len(k.entries), k.bytes
}
