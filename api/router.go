package api

import (
	"io"
	"net/http"
	"runtime/debug"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/go-metrics"
)

// DefaultMaxBody is the largest request body of a route that names no limit of its own.
const DefaultMaxBody = 1 << 20

// RouterConfig configures a Router.
type RouterConfig struct {
	Routes   []Route
	NotFound http.Handler // paths without a Route; nil = plain 404
	MaxBody  int64        // bytes, 0 = DefaultMaxBody
	Logger   hclog.Logger
	Metrics  *metrics.Metrics // see Run
}

// Router dispatches by path and carries what every request needs: the method check, the limit of the body,
// recovery from panics, counters per route and the access log (debug level). It works on the decoded path as it
// is: unlike net/http's mux it never cleans or redirects, because dialects have their own rules for that.
type Router struct {
	table    table
	entries  []*entry
	notFound *entry
	maxBody  int64
	log      hclog.Logger
	metrics  *metrics.Metrics
	panics   atomic.Uint64
}

// NewRouter builds a Router. Errors name the row that is wrong.
func NewRouter(c RouterConfig) (*Router, error) {
	if c.Logger == nil {
		c.Logger = hclog.NewNullLogger()
	}
	if c.MaxBody == 0 {
		c.MaxBody = DefaultMaxBody
	}
	if c.NotFound == nil {
		c.NotFound = http.NotFoundHandler()
	}
	rt := &Router{
		maxBody: c.MaxBody, log: c.Logger.Named("http"), metrics: c.Metrics,
		notFound: &entry{Route: Route{Pattern: "not_found", Handler: c.NotFound}},
	}
	for _, r := range c.Routes {
		if r.Refuse == nil {
			r.Refuse = refuseMethod(r.Methods)
		}
		e := &entry{Route: r}
		if err := rt.table.add(e); err != nil {
			return nil, err
		}
		rt.entries = append(rt.entries, e)
	}
	rt.entries = append(rt.entries, rt.notFound)
	return rt, nil
}

func refuseMethod(methods []string) http.Handler {
	allow := strings.Join(methods, ", ")
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Allow", allow)
		http.Error(w, "method "+r.Method+" not allowed", http.StatusMethodNotAllowed)
	})
}

// Lookup returns the Route of a path, nil if there is none.
func (rt *Router) Lookup(path string) *Route {
	if e := rt.table.find(path); e != nil {
		return &e.Route
	}
	return nil
}

// ServeHTTP implements http.Handler.
func (rt *Router) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	e := rt.table.find(r.URL.Path)
	if e == nil {
		e = rt.notFound
	}
	rec := recorders.Get().(*recorder)
	rec.ResponseWriter, rec.status = w, 0
	n := e.started.Add(1)
	var start time.Time
	timed := (n%sampleEvery == 1 && !longPoll(r)) || rt.log.IsDebug()
	if timed {
		start = time.Now()
	}
	defer rt.finish(e, rec, r, start)

	h := e.Handler
	if !e.allows(r.Method) {
		h = e.Refuse
	} else if r.ContentLength != 0 && !rt.limitBody(e, rec, r) {
		return
	}
	h.ServeHTTP(rec, r)
}

func (e *entry) allows(method string) bool {
	for _, m := range e.Methods {
		if m == method {
			return true
		}
	}
	return len(e.Methods) == 0
}

// bodyTime is how long a body may take, plus a second for each 64 KiB announced.
const bodyTime = 30 * time.Second

// limitBody bounds the size of the body and the time it takes to arrive; false means that it has answered.
func (rt *Router) limitBody(e *entry, w *recorder, r *http.Request) bool {
	limit := e.MaxBody
	if limit == 0 {
		limit = rt.maxBody
	}
	if d, ok := w.ResponseWriter.(interface{ SetReadDeadline(time.Time) error }); ok && (limit > 0 || r.ContentLength > 0) {
		// The server sets a new deadline before it reads the next request.
		_ = d.SetReadDeadline(time.Now().Add(bodyTime + time.Duration(max(0, r.ContentLength)>>16)*time.Second))
	}
	switch {
	case limit < 0:
	case r.ContentLength > limit:
		http.Error(w, "Request body("+strconv.FormatInt(r.ContentLength, 10)+" bytes) too large, max size: "+
			strconv.FormatInt(limit, 10)+" bytes.", http.StatusRequestEntityTooLarge)
		return false
	case r.ContentLength < 0: // chunked; an announced length is enforced by the server
		r.Body = http.MaxBytesReader(w, r.Body, limit)
	}
	return true
}

// finish recovers, counts and logs.
func (rt *Router) finish(e *entry, w *recorder, r *http.Request, start time.Time) {
	abort := false
	if p := recover(); p != nil {
		abort = rt.recovered(p, w, r)
	}
	status := w.status
	if status == 0 {
		status = http.StatusOK
	}
	e.count(status)
	if !start.IsZero() {
		rt.observe(e, r, status, time.Since(start))
	}
	w.ResponseWriter = nil
	recorders.Put(w)
	if abort {
		panic(http.ErrAbortHandler) // half an answer must not look like a whole one
	}
}

// recovered answers 500 after a panic, or says that the connection must be cut because the answer had begun.
func (rt *Router) recovered(p any, w *recorder, r *http.Request) (abort bool) {
	if p == http.ErrAbortHandler {
		return true
	}
	rt.panics.Add(1)
	rt.log.Error("panic in a request handler", "method", r.Method, "path", r.URL.Path, "panic", p, "stack", string(debug.Stack()))
	if w.status != 0 {
		return true
	}
	http.Error(w, "internal error", http.StatusInternalServerError)
	return false
}

func (rt *Router) observe(e *entry, r *http.Request, status int, took time.Duration) {
	if rt.metrics != nil && !longPoll(r) {
		rt.metrics.AddSampleWithLabels([]string{"http", "request_time"}, float32(took.Seconds()*1000), e.labels())
	}
	if rt.log.IsDebug() {
		// Neither the query nor the headers: they may carry tokens.
		rt.log.Debug("request", "method", r.Method, "path", r.URL.Path, "from", r.RemoteAddr, "status", status, "took", took)
	}
}

// longPoll says whether the time of a request says something about its client only.
func longPoll(r *http.Request) bool {
	q := r.URL.RawQuery
	return q != "" && (strings.Contains(q, "wait") || strings.Contains(q, "index=") || strings.Contains(q, "stream"))
}

// recorder notes the status of an answer. It keeps flushing, hijacking and copying available: Flush directly,
// the others through http.ResponseController and Unwrap.
type recorder struct {
	http.ResponseWriter
	status int
}

var recorders = sync.Pool{New: func() any { return new(recorder) }}

func (w *recorder) WriteHeader(status int) {
	if w.status == 0 && (status >= 200 || status == http.StatusSwitchingProtocols) {
		w.status = status
	}
	w.ResponseWriter.WriteHeader(status)
}

// Bodies of at least largeBody bytes get writeTime to be taken by the client; smaller ones fit the buffers.
const (
	largeBody = 64 << 10
	writeTime = time.Minute
)

func (w *recorder) Write(b []byte) (int, error) {
	if w.status == 0 {
		w.status = http.StatusOK
	}
	if len(b) < largeBody {
		return w.ResponseWriter.Write(b)
	}
	d, ok := w.ResponseWriter.(interface{ SetWriteDeadline(time.Time) error })
	if !ok {
		return w.ResponseWriter.Write(b)
	}
	_ = d.SetWriteDeadline(time.Now().Add(writeTime + time.Duration(len(b)>>20)*10*time.Second))
	n, err := w.ResponseWriter.Write(b)
	_ = d.SetWriteDeadline(time.Time{})
	return n, err
}

func (w *recorder) WriteString(s string) (int, error) {
	if w.status == 0 {
		w.status = http.StatusOK
	}
	return io.WriteString(w.ResponseWriter, s)
}

// Flush implements http.Flusher.
func (w *recorder) Flush() {
	if w.status == 0 {
		w.status = http.StatusOK
	}
	if f, ok := w.ResponseWriter.(http.Flusher); ok {
		f.Flush()
	}
}

// Unwrap serves http.ResponseController.
func (w *recorder) Unwrap() http.ResponseWriter { return w.ResponseWriter }
