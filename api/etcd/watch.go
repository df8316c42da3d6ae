package etcd

import (
	"errors"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/musterhq/muster/api"
	"github.com/musterhq/muster/kv"
)

// streamWriteTimeout is how long one event may take to reach a stream client before it is given up.
const streamWriteTimeout = 30 * time.Second

// watch answers GET with wait=true. The head goes out at once; the body is the first event that matches, or with
// stream=true all of them until the client goes. When the tree is closed or replaced the body simply ends, and the
// client asks again.
func (d *Dialect) watch(w http.ResponseWriter, r *http.Request, key string, p *params) {
	tree := treePath(key)
	watcher, err := d.store.Watch(tree, after(p.waitIndex), p.recursive)
	if err != nil {
		d.failWatch(w, r, err, p)
		return
	}
	defer watcher.Stop()
	d.count.watches.Add(1)
	d.count.watchers.Add(1)
	defer d.count.watchers.Add(-1)

	st := d.store.Status()
	d.setIndexes(w.Header(), watcher.Start(), &st)
	setOldest(w.Header(), d.store.OldestIndex(rootPath))
	w.WriteHeader(http.StatusOK)
	rc := http.NewResponseController(w)
	_ = rc.SetWriteDeadline(time.Time{}) // a watch may wait for ever
	if rc.Flush() != nil {
		return
	}
	m := match{tree: tree, from: p.waitIndex, past: pastOf(r, watcher.Start()), stream: p.stream, all: r.Header[api.SharedHeader] != nil && p.stream}
	for {
		ev, err := watcher.Next(r.Context())
		if err != nil {
			return
		}
		if !m.wants(&ev) {
			continue
		}
		if d.writeEvent(w, rc, &ev, p.stream) != nil || !p.stream {
			return
		}
	}
}

// after turns waitIndex, the first index wanted, into the last one not wanted. 0 means from now on in both. The
// first index of a cluster is never a key (it is the record of the cluster's format), so 1 is the same as 2.
func after(waitIndex uint64) uint64 {
	if waitIndex == 0 {
		return 0
	}
	return max(waitIndex-1, 1)
}

// failWatch answers a watch that cannot begin. A history that is gone is an honest error with the oldest index kept.
func (d *Dialect) failWatch(w http.ResponseWriter, r *http.Request, err error, p *params) {
	var lost *kv.HistoryError
	if !errors.As(err, &lost) {
		d.failStore(w, err)
		return
	}
	f := failure{code: codeHistoryCleared}
	b := append([]byte("the requested history has been cleared ["), strconv.FormatUint(lost.Oldest, 10)...)
	b = append(b, '/')
	b = strconv.AppendUint(b, p.waitIndex, 10)
	f.cause = string(append(b, ']'))
	snap, _, err := d.store.Read(r.Context(), api.Stale)
	if err != nil {
		d.failStore(w, err)
		return
	}
	f.index = snap.Index()
	setOldest(w.Header(), lost.Oldest)
	d.fail(w, f)
}

// OldestHeader, on every answer to a watch, is the smallest waitIndex with which a watch misses nothing.
const OldestHeader = "X-Muster-Oldest-Index"

func setOldest(h http.Header, index uint64) {
	h[OldestHeader] = []string{strconv.FormatUint(index, 10)}
}

// match decides which events of a kv.Watcher an etcd client sees.
type match struct {
	tree   string // path being watched
	from   uint64 // events before it are not wanted
	past   uint64 // events up to it come from the history
	stream bool
	all    bool // whoever relays the events decides who sees the hidden ones
}

func (m *match) wants(ev *kv.Event) bool {
	if ev.Index < m.from {
		return false
	}
	if ev.Entry.Removed() && !ev.Whole() {
		return false // only the value of a flat key went: the directory that is seen here is still there
	}
	if m.all || ev.Index <= m.past && !m.stream {
		return true // a search of the history finds hidden nodes
	}
	return !hiddenBelow(m.tree, ev.Path)
}

// hiddenBelow says whether path has a hidden segment below the watched one. What is above does not count, nor does
// the watched segment itself.
func hiddenBelow(tree, path string) bool {
	return len(path) > len(tree) && strings.Contains(path[len(tree):], "/_")
}

func (d *Dialect) writeEvent(w http.ResponseWriter, rc *http.ResponseController, ev *kv.Event, stream bool) error {
	var now int64
	if expiring(ev.Entry) || expiring(ev.Prev) {
		now = d.store.Now().UnixNano()
	}
	buf := d.body()
	b := appendEvent((*buf)[:0], actionOf(ev), ev, now)
	if stream {
		_ = rc.SetWriteDeadline(time.Now().Add(streamWriteTimeout))
	}
	_, err := w.Write(b)
	d.release(buf, b)
	if !stream || err != nil {
		return err
	}
	if err = rc.Flush(); err == nil {
		err = rc.SetWriteDeadline(time.Time{})
		if errors.Is(err, http.ErrNotSupported) {
			err = nil
		}
	}
	return err
}
