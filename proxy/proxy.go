// Package proxy is how an agent reaches the cluster: it relays a client's own HTTP request to the leader or to
// any server, hides a change of leader from the client, and never runs a write twice.
//
//	p, err := proxy.New(proxy.Config{
//		Servers:   pool.Servers,      // who the servers are, by gossip
//		Leader:    func() string { return "" },
//		Transport: dialer.Transport(), // HTTP over the server port
//		IsRefused: peer.IsRefused,    // "this connection was never established"
//	})
//	p.Relay(w, r, proxy.Leader)               // one client request, answer streamed back
//	resp, err := p.RoundTrip(req, proxy.Any)  // the same for code inside the agent
//
// What is tried again, and on which proof, is decided in retry.go alone; which server is asked, in pick.go.
package proxy

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"strconv"
	"sync"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/go-metrics"
)

// Headers spoken between agents. They are never needed by clients.
const (
	// HopsHeader counts how many agents have relayed a request already.
	HopsHeader = "X-Muster-Hops"
	// NotLeaderHeader on a 503 (or 508) answer is a server's proof that it ran nothing because it does not lead.
	NotLeaderHeader = "X-Muster-Not-Leader"
	// LeaderHeader on any answer names the server port address of the leader, as far as the answering server knows.
	LeaderHeader = "X-Muster-Leader"
)

// MaxHops is how often one request may be relayed: agent to server, server to leader.
const MaxHops = 2

// Defaults of Config.
const (
	DefaultHold       = 7 * time.Second
	DefaultDownHold   = 500 * time.Millisecond
	DefaultResumeHold = 30 * time.Second
	DefaultMaxBody    = 8 << 20
)

// Target says which servers can answer a request.
type Target uint8

// Targets.
const (
	Leader Target = iota // only the leader: writes, default and consistent reads
	Any                  // any server: stale reads
)

// Server is one server of the cluster as gossip knows it.
type Server struct {
	ID, Name string
	Addr     string // host:port of the server port
	Healthy  bool   // false: asked only when nobody else is left
}

// Config of a Proxy. Servers, Transport and IsRefused are required; the functions are called from many
// goroutines, often, and must be quick. The slice returned by Servers is only read.
type Config struct {
	// Self is this agent's own server port address, "" when it is no server. It is never relayed to.
	Self string
	// Servers lists the servers of the own datacenter, Self included or not.
	Servers func() []Server
	// Leader is the address of the last known leader, "" when unknown. Nil is the same as always "". An agent that
	// is no server may leave it nil: the proxy learns the leader from the answers it relays.
	Leader func() string
	// Local runs a request here; used when this agent itself turns out to be the leader while a request waits for
	// one. Nil: such requests keep waiting until somebody else leads.
	Local http.Handler
	// Transport carries requests to servers. The scheme of URLs is its own business; it must not decompress. Requests
	// that may take long are marked with peer.Long.
	Transport http.RoundTripper
	// IsRefused reports that err proves that the connection was never established, so nothing was sent.
	IsRefused func(err error) bool
	// Hold is how long a request waits for a leader while servers are reachable, default 7 s.
	Hold time.Duration
	// DownHold is how long a request waits when every server refuses connections, default 500 ms: enough to hide a
	// quick restart, short enough to fail fast.
	DownHold time.Duration
	// ResumeHold is how long an answer that has begun (see Resumer) waits for a server that continues it before it is
	// ended, default 30 s.
	ResumeHold time.Duration
	// MaxBody is the size limit of request bodies in bytes, default 8 MiB. Bodies are kept for a replay.
	MaxBody int64
	// OnError writes an error answer in the dialect of the request. Nil: plain text.
	OnError func(w http.ResponseWriter, r *http.Request, status int, err error)
	Logger  hclog.Logger
	Metrics *metrics.Metrics
}

// Proxy relays requests. All methods are safe for concurrent use.
type Proxy struct {
	cfg     Config
	picker  picker
	buffers sync.Pool // of *[copySize]byte
	log     hclog.Logger
	outage  outage
}

// New checks c, fills in defaults and returns a Proxy. It starts nothing and needs no Close.
func New(c Config) (*Proxy, error) {
	switch {
	case c.Servers == nil:
		return nil, errors.New("proxy: Config.Servers is missing")
	case c.Transport == nil:
		return nil, errors.New("proxy: Config.Transport is missing")
	case c.IsRefused == nil:
		return nil, errors.New("proxy: Config.IsRefused is missing")
	case c.Hold < 0 || c.DownHold < 0 || c.ResumeHold < 0 || c.MaxBody < 0:
		return nil, errors.New("proxy: Config.Hold, DownHold, ResumeHold and MaxBody must not be negative")
	}
	if c.Hold == 0 {
		c.Hold = DefaultHold
	}
	if c.DownHold == 0 {
		c.DownHold = DefaultDownHold
	}
	if c.ResumeHold == 0 {
		c.ResumeHold = DefaultResumeHold
	}
	if c.MaxBody == 0 {
		c.MaxBody = DefaultMaxBody
	}
	if c.Leader == nil {
		c.Leader = func() string { return "" }
	}
	if c.Logger == nil {
		c.Logger = hclog.NewNullLogger()
	}
	p := &Proxy{cfg: c, log: c.Logger}
	p.picker.init(&p.cfg, time.Now, rand.Float64)
	return p, nil
}

// Errors of Relay and RoundTrip, to be found with errors.Is. The texts of ErrNoLeader and ErrNoServer are what
// clients are shown.
var (
	//lint:ignore ST1005 this text is a contract with clients
	ErrNoLeader = errors.New("No cluster leader")
	ErrNoServer = errors.New("no server of the cluster could be reached")
	ErrTooLarge = errors.New("request body too large")
	ErrTooFar   = errors.New("request was relayed too often, the servers do not agree who leads")
	ErrBadHops  = errors.New("header " + HopsHeader + " must be a small number")
)

// UnknownOutcomeError: the connection broke after the request had been sent. Nobody can say whether it ran.
type UnknownOutcomeError struct {
	Server string
	Err    error
}

func (e *UnknownOutcomeError) Error() string {
	return fmt.Sprintf("connection to server %s broke before its answer came, whether the request was carried out is unknown: %v", e.Server, e.Err)
}

// Unwrap returns the cause.
func (e *UnknownOutcomeError) Unwrap() error { return e.Err }

// bodyError is a client that broke off, or lied about the length of, its own request body.
type bodyError struct{ err error }

func (e *bodyError) Error() string { return "request body could not be read: " + e.err.Error() }
func (e *bodyError) Unwrap() error { return e.err }

// Status is the HTTP status Relay answers err with.
func Status(err error) int {
	var unknown *UnknownOutcomeError
	var body *bodyError
	switch {
	case errors.Is(err, ErrTooLarge):
		return http.StatusRequestEntityTooLarge
	case errors.Is(err, ErrTooFar):
		return http.StatusLoopDetected
	case errors.Is(err, errNotSent):
		return http.StatusServiceUnavailable
	case errors.Is(err, ErrBadHops), errors.As(err, &body):
		return http.StatusBadRequest
	case errors.As(err, &unknown):
		return http.StatusBadGateway
	}
	return http.StatusInternalServerError
}

// Relay sends r to a server fit for t and streams the answer to w. It answers in every case but two: the request
// was cancelled, or the server broke off in the middle of an answer; then it panics with http.ErrAbortHandler, which
// net/http turns into a broken connection, the only honest sign left. With a Resumer (nil for a request that does
// not wait) even that is survived: see resume.go.
func (p *Proxy) Relay(w http.ResponseWriter, r *http.Request, t Target, res Resumer) {
	hops, err := hopsOf(r.Header)
	if err != nil {
		p.fail(w, r, hops, err)
		return
	}
	body, err := readBody(r, p.cfg.MaxBody)
	if err != nil {
		p.fail(w, r, hops, err)
		return
	}
	ask := &asking{in: r, hops: hops, body: body, header: outHeader(r, hops), target: t, res: res}
	resp, from, err := p.do(ask)
	switch {
	case errors.Is(err, errSelf):
		p.serveLocal(w, ask.in, hops, body)
	case err != nil:
		p.fail(w, r, hops, err)
	default:
		writeHead(w, resp, hops > 0, from, t)
		if res != nil && resp.StatusCode == http.StatusOK && resp.ContentLength < 0 && res.Begin(resp.Header) {
			p.follow(w, ask, resp, from)
			return
		}
		defer resp.Body.Close()
		p.copyBody(w, resp)
	}
}

// RoundTrip is Relay for callers inside the agent: only method, path, query, header, body and context of req
// matter. The caller must close the answer's body. A status is no error, except for those this package handles.
func (p *Proxy) RoundTrip(req *http.Request, t Target) (*http.Response, error) {
	hops, err := hopsOf(req.Header)
	if err != nil {
		return nil, err
	}
	body, err := readBody(req, p.cfg.MaxBody)
	if err != nil {
		return nil, err
	}
	resp, _, err := p.do(&asking{in: req, hops: hops, body: body, header: outHeader(req, hops), target: t})
	if errors.Is(err, errSelf) {
		return p.roundTripLocal(req, hops, body), nil
	}
	return resp, err
}

// fail answers err. A request that was cancelled, by its client or because this agent stops, gets a broken connection:
// a handler that just returned would have said 200 to a write that may never have run.
func (p *Proxy) fail(w http.ResponseWriter, r *http.Request, hops int, err error) {
	if r.Context().Err() != nil && (hops == 0 || !errors.Is(err, errNotSent)) {
		panic(http.ErrAbortHandler)
	}
	p.count("failed")
	p.log.Debug("relay failed", "method", r.Method, "path", r.URL.Path, "error", err)
	if errors.Is(err, ErrTooFar) || errors.Is(err, errNotSent) {
		// Nothing ran: the agent before us may look for the leader again.
		w.Header().Set(NotLeaderHeader, "1")
	}
	if p.cfg.OnError != nil {
		p.cfg.OnError(w, r, Status(err), err)
		return
	}
	text := err.Error()
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	w.Header().Set("Content-Length", strconv.Itoa(len(text)))
	w.WriteHeader(Status(err))
	_, _ = io.WriteString(w, text)
}

// count adds one to a counter of this package.
func (p *Proxy) count(what string) {
	if p.cfg.Metrics != nil {
		p.cfg.Metrics.IncrCounter([]string{"proxy", what}, 1)
	}
}

// serveLocal runs r here. The hop is counted as if it had gone over the wire, so that two agents, or an agent and
// itself, can never toss a request back and forth.
func (p *Proxy) serveLocal(w http.ResponseWriter, r *http.Request, hops int, body []byte) {
	p.cfg.Local.ServeHTTP(w, localRequest(r, hops, body))
}

func localRequest(r *http.Request, hops int, body []byte) *http.Request {
	in := r.WithContext(r.Context())
	in.Header = r.Header.Clone()
	if in.Header == nil {
		in.Header = make(http.Header)
	}
	in.Header.Set(HopsHeader, strconv.Itoa(hops+1))
	in.Body = http.NoBody
	if len(body) > 0 {
		in.Body = io.NopCloser(bytes.NewReader(body))
	}
	in.ContentLength = int64(len(body))
	return in
}

// roundTripLocal runs req here and collects the answer.
func (p *Proxy) roundTripLocal(req *http.Request, hops int, body []byte) *http.Response {
	in := localRequest(req, hops, body)
	in.RequestURI = in.URL.RequestURI()
	rec := &recorder{header: make(http.Header)}
	p.cfg.Local.ServeHTTP(rec, in)
	if rec.status == 0 {
		rec.status = http.StatusOK
	}
	return &http.Response{
		Status:     strconv.Itoa(rec.status) + " " + http.StatusText(rec.status),
		StatusCode: rec.status, Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1,
		Header: rec.header, Body: io.NopCloser(&rec.body), ContentLength: int64(rec.body.Len()), Request: req,
	}
}

// recorder is a ResponseWriter into memory.
type recorder struct {
	header http.Header
	status int
	body   bytes.Buffer
}

func (r *recorder) Header() http.Header { return r.header }
func (r *recorder) Flush()              {}

func (r *recorder) WriteHeader(status int) {
	if r.status == 0 && status >= 200 {
		r.status = status
	}
}

func (r *recorder) Write(b []byte) (int, error) {
	r.WriteHeader(http.StatusOK)
	return r.body.Write(b)
}
