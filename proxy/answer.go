package proxy

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"net/http"
	"strconv"
	"strings"
	"time"
)

// ClusterHeader on an answer of a server names the cluster whose data it is; it is not shown to clients.
const ClusterHeader = "X-Muster-Cluster"

// SharedHeader on a watch says that it is asked for several clients: nothing is to be left out.
const SharedHeader = "X-Muster-Shared"

// StaleHeader marks an answer that no server confirms at present: it is what was known last.
const StaleHeader = "X-Muster-Stale"

// Question is a read whose answer may be shared by many clients and kept: what a relay must know of it, given by the
// dialect. Nothing here knows what is asked.
type Question struct {
	// Name is what is asked: equal for requests that want the same data, whenever and however fresh they want it.
	Name string
	// Loose says that any server may answer, however old its data.
	Loose bool
	// Index and Wait make it wait: an answer newer than Index is wanted, within Wait. 0: an answer now.
	Index uint64
	Wait  time.Duration
	// IndexHeader is the header of the answer that says how new it is.
	IndexHeader string
	// Wide says that this index counts all changes there are, and not only those of the answer.
	Wide bool
	// Keep says that the answer is to be kept; Absent that "not found" is an answer like any other.
	Keep, Absent bool
	// Ask is the query string of the same question, to be answered when there is something newer than index, within
	// wait; at once with index 0.
	Ask func(index uint64, wait time.Duration) string

	// Watch makes it a question for a stream of events; Ask is then told the first index wanted.
	Watch *Watch

	secret string // see credentials
}

// keeps says whether an answer is one of those that are kept. Errors never are.
func (q *Question) keeps(a *Answer) bool {
	return q.Keep && (a.Status == http.StatusOK || q.Absent && a.Status == http.StatusNotFound)
}

// key tells apart what must not be mixed: what is asked, and on whose authority.
func (q *Question) key() string { return q.secret + " " + q.Name }

// nameOf is the name of what is asked, without the credentials.
func nameOf(key string) string {
	_, name, _ := strings.Cut(key, " ")
	return name
}

// credentials stands for everything in a request by which its client may be told from others: a digest, so that no
// secret is kept, or "-" for a client without any. An answer is never shown under other credentials than those it
// was asked with.
func credentials(r *http.Request) string {
	token := r.Header["X-Consul-Token"]
	basic := r.Header["Authorization"]
	query := ""
	if strings.Contains(r.URL.RawQuery, "token") || strings.Contains(r.URL.RawQuery, "%") {
		query = strings.Join(r.URL.Query()["token"], "\x00")
	}
	if len(token) == 0 && len(basic) == 0 && query == "" {
		return "-"
	}
	h := sha256.New()
	for _, s := range [...]string{strings.Join(token, "\x00"), strings.Join(basic, "\x00"), query} {
		_, _ = h.Write([]byte(strconv.Itoa(len(s)) + ":" + s))
	}
	return hex.EncodeToString(h.Sum(nil))
}

// Answer is a whole answer of a server. It is immutable.
type Answer struct {
	Status  int
	Header  http.Header // without those of the connection
	Body    []byte
	Index   uint64 // how new it is, as the tree counts; 0 = it does not say
	Cluster string // whose data it is; "" = the server did not say
}

// Empty says that the answer names nothing: no list, no object, no value.
func (a *Answer) Empty() bool {
	if a.Status == http.StatusNotFound {
		return true
	}
	switch string(bytes.TrimSpace(a.Body)) {
	case "", "[]", "{}", "null":
		return true
	}
	return false
}

// same says whether two answers tell a client the same.
func (a *Answer) same(b *Answer) bool {
	return a.Status == b.Status && a.Index == b.Index && a.Cluster == b.Cluster && bytes.Equal(a.Body, b.Body)
}

// says is same without a look at the index.
func (a *Answer) says(b *Answer) bool { return a.Status == b.Status && bytes.Equal(a.Body, b.Body) }

// failing says that a server could not answer at the moment: it is in trouble, or has more to do than its limits allow.
func failing(status int) bool {
	return status >= http.StatusInternalServerError || status == http.StatusTooManyRequests
}

// refuses says that the cluster has refused the question, so that what was known must not be shown any more.
func (a *Answer) refuses() bool {
	return a.Status >= 400 && !failing(a.Status) && a.Status != statusCancelled
}

// behind says that a is older than b, of the same data. Indexes of one cluster never go back, a restored snapshot
// moves them far ahead; those of another cluster say nothing.
func (a *Answer) behind(b *Answer) bool {
	return a.Index < b.Index && (a.Cluster == b.Cluster || a.Cluster == "" || b.Cluster == "")
}

// size is what keeping it costs, in bytes, roughly.
func (a *Answer) size() int64 {
	n := len(a.Body) + 512
	for name, values := range a.Header {
		n += len(name) + 48
		for _, v := range values {
			n += len(v) + 16
		}
	}
	return int64(n)
}

// answerHeader is the part of a header that belongs to the answer and not to its way here.
func answerHeader(h http.Header) http.Header {
	out := make(http.Header, len(h))
	for name, values := range h {
		switch {
		case hopHeader(name):
		case name == "Date", name == "Content-Length", name == "Set-Cookie", name == LeaderHeader, name == ClusterHeader:
		default:
			out[name] = values
		}
	}
	for _, name := range named(h) {
		delete(out, name)
	}
	return out
}

var staleWarning = []string{`110 muster "Response is Stale"`}

// write gives a to a client.
func (a *Answer) write(w http.ResponseWriter) {
	h := w.Header()
	for name, values := range a.Header {
		h[name] = values
	}
	a.finish(w)
}

func (a *Answer) finish(w http.ResponseWriter) {
	w.Header()["Content-Length"] = []string{strconv.Itoa(len(a.Body))}
	w.WriteHeader(a.Status)
	_, _ = w.Write(a.Body)
}

// writeKept gives a to a client as what was known last: confirmed by a server age ago, and by none now.
func (a *Answer) writeKept(w http.ResponseWriter, age time.Duration) {
	h := w.Header()
	for name, values := range a.Header {
		h[name] = values
	}
	if h["X-Consul-Index"] != nil {
		h["X-Consul-Knownleader"] = []string{"false"}
		h["X-Consul-Lastcontact"] = []string{strconv.FormatInt(max(age.Milliseconds(), 1), 10)}
		h["X-Consul-Effective-Consistency"] = []string{"stale"}
	}
	h[StaleHeader] = []string{"true"}
	h["Warning"] = staleWarning
	a.finish(w)
}
