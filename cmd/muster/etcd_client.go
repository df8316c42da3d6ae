package main

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"math"
	"math/rand/v2"
	"net"
	"net/http"
	"net/url"
	"strings"
	"syscall"
	"time"
)

// maxRedirects is how many redirects one request follows.
const maxRedirects = 10

// etcdClient asks the endpoints of a cluster, one after the other, until one answers. The rules, which errors count
// as no answer and how they read are those of the Go client of etcd v2, because scripts see them.
//
//	c := &etcdClient{endpoints: []string{"http://127.0.0.1:2379"}, rt: http.DefaultTransport}
//	a, err := c.do(ctx, &etcdRequest{method: http.MethodGet, path: "/v2/members"})
type etcdClient struct {
	endpoints []string // URLs, in the order to try them; the one that answered last is asked first
	rt        http.RoundTripper
	timeout   time.Duration // for the head of one answer; 0 = none
	total     time.Duration // for a whole command except watches; 0 = none
	trace     io.Writer     // gets a curl command for every request; nil = none
	user      *url.Userinfo // Basic authentication; nil = none
	header    http.Header   // added to every request
	first     int           // index of the endpoint that answered last
}

// etcdRequest is a request to whichever endpoint answers.
type etcdRequest struct {
	method, path string // path unescaped
	query        url.Values
	form         url.Values // nil = no form
	json         any        // nil = no JSON
	wait         bool       // a watch: the answer may take for ever
	once         bool       // not repeated on another endpoint: it may have been done by the one that failed
}

// endpointsError says why no endpoint answered, one error for each that was tried.
type endpointsError struct{ errs []error }

func (e *endpointsError) Error() string {
	var b strings.Builder
	b.WriteString("client: etcd cluster is unavailable or misconfigured")
	for i, err := range e.errs {
		fmt.Fprintf(&b, "; error #%d: %v\n", i, err)
	}
	return b.String()
}

// detail is what follows the message on standard error.
func (e *endpointsError) detail() string {
	var b strings.Builder
	for i, err := range e.errs {
		fmt.Fprintf(&b, "error #%d: %v\n", i, err)
	}
	return b.String()
}

func (e *endpointsError) Unwrap() []error { return e.errs }

var (
	errNoEndpoints = errors.New("client: no endpoints available")
	errNoJSON      = errors.New("client: response is invalid json. The endpoint is probably not valid etcd cluster endpoint")
	errEmptyBody   = errors.New("client: response body is empty")
)

// messageError is an error answer of /v2/members and /v2/auth.
type messageError struct{ message string }

func (e *messageError) Error() string { return e.message }

// message is the error of an answer that is not the one wanted.
func (a *answer) message() error {
	var m struct {
		Message string `json:"message"`
	}
	if json.Unmarshal(a.body, &m) != nil || m.Message == "" {
		return &messageError{fmt.Sprintf("unexpected status code %d", a.status)}
	}
	return &messageError{m.Message}
}

// checkEndpoints refuses what is no URL at all.
func checkEndpoints(list []string) error {
	for _, e := range list {
		if _, err := url.Parse(e); err != nil {
			return plainly("%v", err)
		}
	}
	return nil
}

// within limits ctx to the time a whole command may take.
func (c *etcdClient) within(ctx context.Context) (context.Context, context.CancelFunc) {
	if c.total <= 0 {
		return context.WithCancel(ctx)
	}
	return context.WithTimeout(ctx, c.total)
}

// do sends r to the endpoints in turn. Answers with a status of 5xx count as none.
func (c *etcdClient) do(ctx context.Context, r *etcdRequest) (*answer, error) {
	if len(c.endpoints) == 0 {
		return nil, errNoEndpoints
	}
	var failed endpointsError
	for i := range c.endpoints {
		at := (c.first + i) % len(c.endpoints)
		a, err := c.ask(ctx, c.endpoints[at], r)
		if err == nil && a.status/100 == 5 {
			err = &faultError{c.endpoints[at], a.status, a.body}
		}
		switch {
		case err == nil:
			c.first = at
			return a, nil
		case ctx.Err() != nil:
			return nil, ctx.Err()
		case r.once:
			c.first = (at + 1) % len(c.endpoints)
			return nil, err
		}
		failed.errs = append(failed.errs, err)
	}
	return nil, &failed
}

// faultError is an answer with a status of 5xx, after which the next endpoint is asked.
type faultError struct {
	endpoint string
	status   int
	body     []byte
}

func (e *faultError) Error() string {
	if e.status == http.StatusInternalServerError || e.status == http.StatusServiceUnavailable {
		return fmt.Sprintf("client: etcd member %s has no leader", e.endpoint)
	}
	return fmt.Sprintf("client: etcd member %s returns server error [%s]", e.endpoint, http.StatusText(e.status))
}

// ask sends r to one endpoint, following redirects, and reads the answer.
func (c *etcdClient) ask(ctx context.Context, endpoint string, r *etcdRequest) (*answer, error) {
	u, err := url.Parse(endpoint)
	if err != nil {
		return nil, err
	}
	u.Path, u.RawQuery = strings.TrimSuffix(u.Path, "/")+r.path, r.query.Encode()
	for range maxRedirects {
		a, err := c.askURL(ctx, endpoint, u, r)
		if err != nil || a.status/100 != 3 {
			return a, err
		}
		to := a.header.Get("Location")
		if to == "" {
			return nil, errors.New("client: location header not set")
		}
		if u, err = u.Parse(to); err != nil {
			return nil, fmt.Errorf("client: location header not valid URL: %s", to)
		}
	}
	return nil, errors.New("client: too many redirects")
}

func (c *etcdClient) askURL(ctx context.Context, endpoint string, u *url.URL, r *etcdRequest) (*answer, error) {
	req, err := c.build(u, r)
	if err != nil {
		return nil, err
	}
	head, cancel := context.WithCancel(ctx)
	defer cancel()
	limit := time.Duration(math.MaxInt64)
	if c.timeout > 0 && !r.wait {
		limit = c.timeout
	}
	// The limit is on the head of the answer: a long list may take longer to come.
	timer := time.AfterFunc(limit, cancel)
	resp, err := c.rt.RoundTrip(req.WithContext(head))
	late := !timer.Stop()
	if err == nil {
		defer resp.Body.Close()
		var body []byte
		if body, err = io.ReadAll(io.LimitReader(resp.Body, maxAnswer)); err == nil {
			return &answer{resp.StatusCode, resp.Header, body}, nil
		}
	}
	switch {
	case ctx.Err() != nil:
		return nil, ctx.Err()
	case late:
		return nil, fmt.Errorf("client: endpoint %s exceeded header timeout", endpoint)
	}
	if bad, ok := errors.AsType[*tls.CertificateVerificationError](err); ok {
		return nil, bad.Err
	}
	return nil, err
}

// build makes the request and writes its trace. The password does not appear in the trace.
func (c *etcdClient) build(u *url.URL, r *etcdRequest) (*http.Request, error) {
	var body []byte
	kind := ""
	switch {
	case r.form != nil:
		body, kind = []byte(r.form.Encode()), "application/x-www-form-urlencoded"
	case r.json != nil:
		b, err := json.Marshal(r.json)
		if err != nil {
			return nil, err
		}
		body, kind = b, "application/json"
	}
	if c.trace != nil {
		data := ""
		if kind != "" {
			data = fmt.Sprintf(" -d %q", body)
		}
		fmt.Fprintf(c.trace, "cURL Command: curl -X %s %s%s\n", r.method, u, data)
	}
	req, err := http.NewRequest(r.method, u.String(), bytes.NewReader(body))
	if err != nil {
		return nil, err
	}
	maps.Copy(req.Header, c.header)
	if kind != "" {
		req.Header.Set("Content-Type", kind)
	}
	if c.user != nil {
		password, _ := c.user.Password()
		req.SetBasicAuth(c.user.Username(), password)
	}
	return req, nil
}

// sync replaces the endpoints by those that the members of the cluster publish, in random order.
func (c *etcdClient) sync(ctx context.Context) error {
	ctx, cancel := c.within(ctx)
	defer cancel()
	members, err := c.members(ctx)
	if err != nil {
		return err
	}
	var urls []string
	for _, m := range members {
		urls = append(urls, m.ClientURLs...)
	}
	if len(urls) == 0 {
		return errNoEndpoints
	}
	if err := checkEndpoints(urls); err != nil {
		return err
	}
	c.endpoints, c.first = urls, 0
	c.shuffle()
	return nil
}

// shuffle spreads the clients of a cluster over its servers.
func (c *etcdClient) shuffle() {
	rand.Shuffle(len(c.endpoints), func(i, j int) { c.endpoints[i], c.endpoints[j] = c.endpoints[j], c.endpoints[i] })
}

// noConnection reports whether nobody was there to answer, or nobody in time, at any endpoint.
func noConnection(err error) bool {
	if all, ok := errors.AsType[*endpointsError](err); ok {
		for _, e := range all.errs {
			if !noConnection(e) {
				return false
			}
		}
		return true
	}
	if op, ok := errors.AsType[*net.OpError](err); ok && (op.Op == "dial" || op.Op == "read") {
		return true
	}
	if timeout, ok := errors.AsType[net.Error](err); ok && timeout.Timeout() {
		return true
	}
	return errors.Is(err, syscall.ECONNREFUSED)
}

// etcdTransport is the transport under an etcdClient.
func etcdTransport(cfg *tls.Config) *http.Transport {
	return &http.Transport{
		Proxy:               http.ProxyFromEnvironment,
		DialContext:         (&net.Dialer{Timeout: 30 * time.Second, KeepAlive: 30 * time.Second}).DialContext,
		TLSHandshakeTimeout: 10 * time.Second,
		TLSClientConfig:     cfg,
	}
}
