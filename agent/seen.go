package agent

import (
	"net/http"
	"strconv"
	"strings"
	"sync/atomic"

	"github.com/musterhq/muster/api"
	"github.com/musterhq/muster/proxy"
)

// seenHeader on a relayed request is the newest index that the agent in front of the client has shown to any
// client: no answer may be older.
const seenHeader = "X-Muster-Seen"

// seen is the newest index that passed through this agent in answers of others. A follower learns of a commit some
// milliseconds after the leader has answered; without this memory a client would not find what it has just
// written through the same agent, and a watch it begins now would report its own write of before.
type seen struct{ index atomic.Uint64 }

// note takes the index of an answer.
func (s *seen) note(h http.Header) {
	v := h["X-Etcd-Index"]
	if len(v) == 0 {
		return
	}
	if n, err := strconv.ParseUint(v[0], 10, 64); err == nil {
		s.raise(n)
	}
}

// raise remembers n if nothing newer was seen.
func (s *seen) raise(n uint64) {
	for {
		old := s.index.Load()
		if n <= old || s.index.CompareAndSwap(old, n) {
			return
		}
	}
}

// local says whether a request is one of those that any server answers from its own tree without saying how old
// the answer is.
func (s *seen) local(r *http.Request) bool { return strings.HasPrefix(r.URL.Path, "/v2/keys") }

// behind says whether this server's tree lacks something the client may have seen, while there is a leader who has
// it. Without a leader the old answer is better than none.
func (a *Agent) behind(r *http.Request) bool {
	if !a.seen.local(r) || r.Header[api.ResumeHeader] != nil { // a watch that goes on names the index it waits for
		return false
	}
	need := a.seen.index.Load()
	if r.Header[proxy.HopsHeader] != nil {
		if n, err := strconv.ParseUint(r.Header.Get(seenHeader), 10, 64); err == nil && n > need {
			need = n
		}
	}
	if need <= a.tree.Snap().Index() || a.raft.IsLeader() {
		return false
	}
	_, leader := a.raft.Leader()
	return leader != ""
}

// witness notes the index of an answer that is relayed through it.
type witness struct {
	http.ResponseWriter
	seen *seen
}

func (w *witness) WriteHeader(status int) {
	w.seen.note(w.Header())
	w.ResponseWriter.WriteHeader(status)
}

// Flush passes streamed answers on at once.
func (w *witness) Flush() {
	if f, ok := w.ResponseWriter.(http.Flusher); ok {
		f.Flush()
	}
}

// Unwrap serves http.ResponseController.
func (w *witness) Unwrap() http.ResponseWriter { return w.ResponseWriter }

// seenResumer notes the events of a watch before the client has them: a read after an event finds it.
type seenResumer struct {
	api.Resumer
	seen *seen
}

// Take implements proxy.Resumer.
func (s *seenResumer) Take(b []byte) int {
	n := s.Resumer.Take(b)
	if n > 0 {
		s.seen.raise(s.Index())
	}
	return n
}
