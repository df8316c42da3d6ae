package agent

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"sync"
	"time"

	"github.com/musterhq/muster/internal/watch"
)

// WatchConfig is one of `watches`: what to follow, and the one handler that gets each new state: Args (a program and its
// arguments), Handler (a line for the shell), or HTTPHandlerConfig with HandlerType "http". Datacenter is this one or
// empty; Token is sent with the queries; Stale lets any server answer them.
type WatchConfig struct {
	Type        string   `key:"type"` // key, keyprefix, services, nodes, service, checks or event
	Key         string   `key:"key"`
	Prefix      string   `key:"prefix"`
	Service     string   `key:"service"`
	Tag         []string `key:"tag"` // one or a list
	PassingOnly bool     `key:"passingonly"`
	State       string   `key:"state"`
	Name        string   `key:"name"`
	Filter      string   `key:"filter"`

	Datacenter string `key:"datacenter"`
	Token      string `key:"token"`
	Stale      bool   `key:"stale"`

	HandlerType       string           `key:"handler_type"` // script (default) or http
	Handler           string           `key:"handler"`
	Args              []string         `key:"args"`
	HTTPHandlerConfig WatchHTTPHandler `key:"http_handler_config"`
}

// WatchHTTPHandler sends each state to the URL Path. Defaults: Method POST, Timeout 10s.
type WatchHTTPHandler struct {
	Path          string              `key:"path"`
	Method        string              `key:"method"`
	Header        map[string][]string `key:"header" secret:"credentials"`
	Timeout       time.Duration       `key:"timeout"`
	TLSSkipVerify bool                `key:"tls_skip_verify"`
}

func (c *WatchConfig) plan() *watch.Plan {
	return &watch.Plan{
		Type: c.Type, Key: c.Key, Prefix: c.Prefix, Service: c.Service, Tags: c.Tag, PassingOnly: c.PassingOnly, State: c.State, Name: c.Name, Filter: c.Filter,
	}
}

// check says what is wrong with the watch.
func (c *WatchConfig) check(datacenter string) error {
	if err := c.plan().Check(); err != nil {
		return err
	}
	if c.Datacenter != "" && c.Datacenter != datacenter {
		return fmt.Errorf("datacenter %q is not this agent's, %q", c.Datacenter, datacenter)
	}
	switch c.HandlerType {
	case "", "script":
		if (c.Handler == "") == (len(c.Args) == 0) {
			return errors.New("expected args or handler, and not both")
		}
	case "http":
		u, err := url.Parse(c.HTTPHandlerConfig.Path)
		if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" {
			return fmt.Errorf("expected a URL as http_handler_config.path, got %q", c.HTTPHandlerConfig.Path)
		}
		if c.Handler != "" || len(c.Args) > 0 {
			return errors.New("a handler of type http takes no args and no handler")
		}
	default:
		return fmt.Errorf("handler_type is script or http, got %q", c.HandlerType)
	}
	return nil
}

// watches runs the watches of the configuration.
type watches struct {
	agent *Agent
	mu    sync.Mutex
	stop  context.CancelFunc
	runs  sync.WaitGroup
}

// set ends what runs and starts the watches of a configuration.
func (w *watches) set(list []WatchConfig) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.end()
	ctx, cancel := context.WithCancel(w.agent.ctx)
	w.stop = cancel
	for i := range list {
		c := list[i]
		w.runs.Go(func() { w.run(ctx, &c) })
	}
}

func (w *watches) close() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.end()
}

func (w *watches) end() {
	if w.stop != nil {
		w.stop()
		w.runs.Wait()
		w.stop = nil
	}
}

// handlerOutput is how much of what a handler writes goes to the log, in bytes.
const handlerOutput = 4096

func (w *watches) run(ctx context.Context, c *WatchConfig) {
	log := w.agent.log.Named("watch").With("type", c.Type)
	handle := func(index uint64, data []byte) error {
		out := &firstBytes{left: handlerOutput}
		err := c.handler(out)(ctx, index, data)
		switch {
		case errors.Is(err, watch.ErrStop), ctx.Err() != nil:
			return watch.ErrStop
		case err != nil:
			log.Error("the handler of a watch failed", "error", err, "output", out.String())
		default:
			log.Debug("the handler of a watch ran", "index", index, "output", out.String())
		}
		return nil // the next state is for it all the same
	}
	retry := func(err error, n int) (time.Duration, bool) {
		pause := watch.Backoff(n)
		log.Warn("a watch failed, trying again", "error", err, "in", pause)
		return pause, true
	}
	get := func(ctx context.Context, path string, q url.Values) (*http.Response, error) {
		if c.Stale {
			q.Set("stale", "")
		}
		return w.agent.ask(ctx, path, q, c.Token)
	}
	if err := c.plan().Run(ctx, get, retry, handle); err != nil {
		log.Error("a watch has ended", "error", err)
	}
}

func (c *WatchConfig) handler(out io.Writer) func(context.Context, uint64, []byte) error {
	if c.HandlerType == "http" {
		h := &c.HTTPHandlerConfig
		to := &watch.HTTP{URL: h.Path, Method: h.Method, Header: h.Header, Timeout: h.Timeout, TLSSkipVerify: h.TLSSkipVerify}
		return to.Handle
	}
	cmd := &watch.Command{Args: c.Args, Out: out, Err: out}
	if c.Handler != "" {
		cmd.Args, cmd.Shell = []string{c.Handler}, true
	}
	return cmd.Handle
}

// firstBytes keeps the first bytes written to it.
type firstBytes struct {
	bytes.Buffer
	left int
}

func (f *firstBytes) Write(b []byte) (int, error) {
	n := min(len(b), f.left)
	f.left -= n
	f.Buffer.Write(b[:n])
	return len(b), nil
}

// ask makes a GET request to this agent's own interfaces, without a listener.
func (a *Agent) ask(ctx context.Context, path string, q url.Values, token string) (resp *http.Response, err error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://agent"+path+"?"+q.Encode(), http.NoBody)
	if err != nil {
		return nil, err
	}
	req.RemoteAddr, req.RequestURI = "127.0.0.1:0", req.URL.RequestURI()
	if token != "" {
		req.Header["X-Consul-Token"] = []string{token}
	}
	answer := &memoryAnswer{header: http.Header{}, status: http.StatusOK}
	defer func() {
		// How a handler breaks off an answer: a server would cut the connection.
		if p := recover(); p == http.ErrAbortHandler { //nolint:errorlint // a panic's value
			resp, err = nil, io.ErrUnexpectedEOF
		} else if p != nil {
			panic(p)
		}
	}()
	a.serveRelayed(answer, req)
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	return &http.Response{StatusCode: answer.status, Header: answer.header, Body: io.NopCloser(&answer.body), Request: req}, nil
}

// memoryAnswer is a ResponseWriter that keeps the answer.
type memoryAnswer struct {
	header http.Header
	status int
	body   bytes.Buffer
}

func (m *memoryAnswer) Header() http.Header         { return m.header }
func (m *memoryAnswer) WriteHeader(status int)      { m.status = status }
func (m *memoryAnswer) Write(b []byte) (int, error) { return m.body.Write(b) }
