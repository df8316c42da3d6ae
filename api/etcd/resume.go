package etcd

import (
	"bytes"
	"encoding/json"
	"net/http"
	"strconv"
	"strings"

	"github.com/musterhq/muster/api"
)

// resumeWatch makes the Resumer of a watch; nil for any other request, and for one that will be refused.
func resumeWatch(r *http.Request) api.Resumer {
	if r.Method != http.MethodGet || !strings.Contains(r.URL.RawQuery, "wait") && !strings.Contains(r.URL.RawQuery, "%") {
		return nil
	}
	var f form
	var p params
	if f.parse(r.URL.RawQuery) != nil {
		return nil
	}
	if _, ok := f.check(r.Method, &p); !ok || !p.wait || p.quorum {
		return nil
	}
	return &watchResumer{next: p.waitIndex, stream: p.stream}
}

// watchResumer follows the events of one watch. An answer consists of lines, one event each, in the order of their
// indexes, so the rest of it is the watch from the index after the last line.
type watchResumer struct {
	next   uint64 // first index the client has not seen; 0 = from now
	since  uint64 // index at which the client's answer began
	last   uint64 // index of the last event delivered
	stream bool
	done   bool
}

// Again implements api.Resumer. Of several values the first counts, so the one the client gave need not be removed.
func (w *watchResumer) Again(r *http.Request) {
	if w.since == 0 {
		return
	}
	r.URL.RawQuery = "waitIndex=" + strconv.FormatUint(w.next, 10) + "&" + r.URL.RawQuery
	r.Header.Set(api.ResumeHeader, strconv.FormatUint(w.since, 10))
}

// Begin implements api.Resumer.
func (w *watchResumer) Begin(h http.Header) bool {
	n, err := strconv.ParseUint(h.Get("X-Etcd-Index"), 10, 64)
	if err != nil || n == 0 {
		return false
	}
	w.since = n
	if w.next == 0 {
		w.next = n + 1
	}
	return true
}

// Take implements api.Resumer. Line ends are escaped within an event, so a line is one whole event.
func (w *watchResumer) Take(b []byte) int {
	n := 0
	for !w.done {
		end := bytes.IndexByte(b[n:], '\n')
		if end < 0 {
			break
		}
		var ev struct {
			Node struct {
				ModifiedIndex uint64 `json:"modifiedIndex"`
			} `json:"node"`
		}
		if err := json.Unmarshal(b[n:n+end], &ev); err == nil && ev.Node.ModifiedIndex > 0 {
			w.last = ev.Node.ModifiedIndex
			w.next = w.last + 1
		}
		n += end + 1
		w.done = !w.stream
	}
	return n
}

// Done implements api.Resumer.
func (w *watchResumer) Done() bool { return w.done }

// Index implements api.Resumer.
func (w *watchResumer) Index() uint64 { return w.last }

// pastOf is the index up to which events are history to the client: where this watch began, or where the answer
// began that this one continues.
func pastOf(r *http.Request, start uint64) uint64 {
	if v := r.Header[api.ResumeHeader]; len(v) > 0 {
		if n, err := strconv.ParseUint(v[0], 10, 64); err == nil {
			return n
		}
	}
	return start
}
