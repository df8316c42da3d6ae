package migrate

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"sync/atomic"
	"time"
)

// Client talks to the servers of one cluster by the version 2 interface of etcd. Safe for concurrent use.
type Client struct {
	endpoints []string
	http      *http.Client
	good      atomic.Int64  // endpoint that answered last
	newest    atomic.Uint64 // highest index that any answer told
}

const (
	requestTimeout = 30 * time.Second
	patience       = 20 * time.Second // for a cluster of which no server answers
	firstPatience  = 3 * time.Second  // before anything has answered: more likely a wrong address
	retryPause     = 100 * time.Millisecond
)

// NewClient makes a client of the servers at endpoints: URLs such as http://10.0.0.1:2379, a user name and password
// in them are sent with every request and shown in no error. tlsConfig may be nil.
func NewClient(endpoints []string, tlsConfig *tls.Config) (*Client, error) {
	c := &Client{http: &http.Client{Transport: &http.Transport{
		Proxy: http.ProxyFromEnvironment, TLSClientConfig: tlsConfig, MaxIdleConnsPerHost: 64,
		DialContext: (&net.Dialer{Timeout: 5 * time.Second}).DialContext,
	}}}
	for _, e := range endpoints {
		e = strings.TrimSuffix(strings.TrimSpace(e), "/")
		u, err := url.Parse(e)
		if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" {
			return nil, fmt.Errorf("endpoint %q: want a URL such as http://10.0.0.1:2379", redacted([]string{e})[0])
		}
		c.endpoints = append(c.endpoints, e)
	}
	if len(c.endpoints) == 0 {
		return nil, errors.New("no endpoints given")
	}
	return c, nil
}

// Login sends a user name and a password with every request; call it before the first.
func (c *Client) Login(user, password string) {
	for i, e := range c.endpoints {
		if u, err := url.Parse(e); err == nil {
			u.User = url.UserPassword(user, password)
			c.endpoints[i] = u.String()
		}
	}
}

// node is a key or a directory with its direct children, as it was when it was read.
type node struct {
	Key           string     `json:"key"`
	Value         string     `json:"value"`
	Dir           bool       `json:"dir"`
	Expiration    *time.Time `json:"expiration"`
	TTL           int64      `json:"ttl"`
	Nodes         []*node    `json:"nodes"`
	ModifiedIndex uint64     `json:"modifiedIndex"`

	deadline time.Time // by the local clock; zero: it does not expire
}

type event struct {
	Action string `json:"action"`
	Node   *node  `json:"node"`
}

// apiError is a refusal of the interface.
type apiError struct {
	Status    int    `json:"-"`
	ErrorCode int    `json:"errorCode"`
	Message   string `json:"message"`
	Cause     string `json:"cause"`
}

func (e *apiError) Error() string {
	return fmt.Sprintf("status %d: %d: %s (%s)", e.Status, e.ErrorCode, e.Message, e.Cause)
}

// Codes of the interface.
const (
	codeNotFound = 100
	codeNotFile  = 102
	codeNotDir   = 104
	codeCleared  = 401
)

// absent says that there is nothing at the key that was asked for.
func absent(err error) bool { return hasCode(err, codeNotFound) || hasCode(err, codeNotDir) }

func hasCode(err error, code int) bool {
	e, ok := errors.AsType[*apiError](err)
	return ok && e.ErrorCode == code
}

// UnreachableError says that no server of a cluster answered for a while.
type UnreachableError struct {
	Endpoints []string
	Err       error // of the last attempt
}

func (e *UnreachableError) Error() string {
	return fmt.Sprintf("no server answers at %s: %v", strings.Join(redacted(e.Endpoints), ", "), e.Err)
}

// Unwrap gives the error of the last attempt.
func (e *UnreachableError) Unwrap() error { return e.Err }

// redacted leaves out passwords.
func redacted(urls []string) []string {
	out := make([]string, len(urls))
	for i, s := range urls {
		if out[i] = "(no URL)"; !strings.Contains(s, "@") {
			out[i] = s
		}
		if u, err := url.Parse(s); err == nil && u.Host != "" {
			out[i] = u.Redacted()
		}
	}
	return out
}

// keyURL is the path of a key: each segment escaped by itself.
func keyURL(key string) string {
	parts := strings.Split(key, "/")
	for i := range parts {
		parts[i] = url.PathEscape(parts[i])
	}
	return "/v2/keys" + strings.Join(parts, "/")
}

// get reads a key, or a directory and its direct children. Servers may lag behind each other, so an answer older than
// one that came before is asked for again through a quorum, which costs the cluster more.
func (c *Client) get(ctx context.Context, key string) (*node, error) {
	newest := c.newest.Load()
	n, index, err := c.read(ctx, keyURL(key))
	if index < newest && (err == nil || absent(err)) {
		n, _, err = c.read(ctx, keyURL(key)+"?quorum=true")
	}
	return n, err
}

// read makes one read; index is that of the server that answered.
func (c *Client) read(ctx context.Context, target string) (n *node, index uint64, err error) {
	var e event
	index, err = c.do(ctx, http.MethodGet, target, nil, &e)
	if err != nil {
		return nil, index, err
	}
	if e.Node == nil {
		return nil, index, errors.New("the answer holds no node: is this the version 2 interface of etcd?")
	}
	now := time.Now()
	e.Node.settle(now)
	for _, child := range e.Node.Nodes {
		child.settle(now)
	}
	return e.Node, index, nil
}

// index is that of the cluster, through a quorum. It costs no listing: there is nothing at that key.
func (c *Client) index(ctx context.Context) (uint64, error) {
	_, index, err := c.read(ctx, keyURL("/_muster/nothing")+"?quorum=true")
	if absent(err) {
		err = nil
	}
	return index, err
}

// settle works out when the node expires by the local clock. The interface tells the seconds left, rounded up, and the
// moment by the server's clock; the moment is exact, and good for use here when both clocks agree. What has run out but
// has not been swept away yet has a moment and no seconds.
func (n *node) settle(now time.Time) {
	if n.TTL <= 0 {
		if n.Expiration != nil {
			n.deadline = now
		}
		return
	}
	n.deadline = now.Add(time.Duration(n.TTL) * time.Second)
	const agree = 500 * time.Millisecond
	if n.Expiration != nil {
		if early := n.deadline.Sub(*n.Expiration); early > -agree && early < time.Second+agree {
			n.deadline = *n.Expiration
		}
	}
}

// expired says that the time of a node has run out, whether it is still listed or not.
func (n *node) expired() bool { return !n.deadline.IsZero() && !time.Now().Before(n.deadline) }

// set writes a key with its value and the time to live that is left.
func (c *Client) set(ctx context.Context, n *node) error {
	form := url.Values{"value": {n.Value}}
	if s, ok := n.seconds(); ok {
		form.Set("ttl", s)
	}
	_, err := c.do(ctx, http.MethodPut, keyURL(n.Key), form, nil)
	return err
}

// setDir makes a directory, or sets the time to live of one that exists.
func (c *Client) setDir(ctx context.Context, n *node, exists bool) error {
	q := "?dir=true"
	if exists {
		q += "&prevExist=true"
	}
	form := url.Values{}
	if s, ok := n.seconds(); ok {
		form.Set("ttl", s)
	}
	_, err := c.do(ctx, http.MethodPut, keyURL(n.Key)+q, form, nil)
	return err
}

// seconds is the time left, rounded up: never early.
func (n *node) seconds() (string, bool) {
	if n.deadline.IsZero() {
		return "", false
	}
	left := (time.Until(n.deadline) + time.Second - 1) / time.Second
	return strconv.FormatInt(int64(max(left, 1)), 10), true
}

// remove deletes what is at key, with all below it; nothing there is no error.
func (c *Client) remove(ctx context.Context, key string) error {
	_, err := c.do(ctx, http.MethodDelete, keyURL(key)+"?dir=true&recursive=true", nil, nil)
	if hasCode(err, codeNotFound) {
		return nil
	}
	return err
}

// clusterID is the id in the headers of the cluster.
func (c *Client) clusterID(ctx context.Context) (id string, err error) {
	ctx, cancel := context.WithTimeout(ctx, firstPatience)
	defer cancel()
	err = c.each(ctx, func(base string) error {
		resp, err := c.request(ctx, http.MethodGet, base+"/v2/members", nil)
		if err != nil {
			return err
		}
		defer resp.Body.Close()
		id = resp.Header.Get("X-Etcd-Cluster-Id")
		_, err = answer(resp, nil)
		return err
	})
	return id, err
}

// do makes one request at the first server that answers, decodes the answer into v unless that is nil, and returns the
// index of the cluster. Writes may be made twice when a server dies during one, which does no harm here.
func (c *Client) do(ctx context.Context, method, path string, form url.Values, v any) (index uint64, err error) {
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	err = c.each(ctx, func(base string) error {
		resp, err := c.request(ctx, method, base+path, form)
		if err != nil {
			return err
		}
		defer resp.Body.Close()
		index, err = answer(resp, v)
		c.saw(index)
		return err
	})
	return index, err
}

// saw notes how far the cluster is.
func (c *Client) saw(index uint64) {
	for {
		old := c.newest.Load()
		if index <= old || c.newest.CompareAndSwap(old, index) {
			return
		}
	}
}

func (c *Client) request(ctx context.Context, method, target string, form url.Values) (*http.Response, error) {
	var body io.Reader = http.NoBody
	if form != nil {
		body = strings.NewReader(form.Encode())
	}
	req, err := http.NewRequestWithContext(ctx, method, target, body)
	if err != nil {
		return nil, err
	}
	if form != nil {
		req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	}
	return c.http.Do(req)
}

// answer decodes a whole answer. Anything but a success is an apiError.
func answer(resp *http.Response, v any) (index uint64, err error) {
	if index, err = strconv.ParseUint(resp.Header.Get("X-Etcd-Index"), 10, 64); err != nil {
		index = 0 // errors of a proxy have none
	}
	if resp.StatusCode/100 != 2 {
		e := &apiError{Status: resp.StatusCode}
		b, err := io.ReadAll(io.LimitReader(resp.Body, 64<<10))
		if err != nil {
			return index, err
		}
		if json.Unmarshal(b, e) != nil {
			e.Message = strings.TrimSpace(string(b))
		}
		return index, e
	}
	if v == nil {
		_, err = io.Copy(io.Discard, resp.Body)
		return index, err
	}
	return index, json.NewDecoder(resp.Body).Decode(v)
}

// each tries f at one server after the other, the last good one first, until one gives an answer that is not the
// failure of that server.
func (c *Client) each(ctx context.Context, f func(base string) error) error {
	began := time.Now()
	for {
		var err error
		start := int(c.good.Load())
		for i := range c.endpoints {
			at := (start + i) % len(c.endpoints)
			err = f(c.endpoints[at])
			if e, ok := errors.AsType[*apiError](err); err == nil || ok && e.Status < 500 {
				c.good.Store(int64(at))
				return err
			}
			if ctx.Err() != nil {
				break
			}
		}
		if time.Since(began) < patience {
			select {
			case <-ctx.Done():
			case <-time.After(retryPause):
				continue
			}
		}
		if errors.Is(ctx.Err(), context.Canceled) {
			return err
		}
		return &UnreachableError{c.endpoints, err}
	}
}

// watch waits for the first change below key with an index from from on. head is told the index at the beginning of
// the wait: everything before it has been seen if nothing comes at once. A nil event without an error: ask again.
func (c *Client) watch(ctx context.Context, key string, from uint64, head func(index uint64)) (e *event, err error) {
	err = c.each(ctx, func(base string) error {
		resp, err := c.request(ctx, http.MethodGet, fmt.Sprintf("%s%s?wait=true&recursive=true&waitIndex=%d", base, keyURL(key), from), nil)
		if err != nil {
			return err
		}
		defer resp.Body.Close()
		if index, err := strconv.ParseUint(resp.Header.Get("X-Etcd-Index"), 10, 64); err == nil && resp.StatusCode == http.StatusOK {
			quiet := time.AfterFunc(quietTime, func() { head(index) })
			defer quiet.Stop()
		}
		var ev event
		if _, err = answer(resp, &ev); errors.Is(err, io.EOF) {
			return nil // the server stopped
		}
		if err == nil && ev.Node != nil {
			c.saw(ev.Node.ModifiedIndex)
			e = &ev
		}
		return err
	})
	return e, err
}

// quietTime is how long a watch must have nothing to tell before everything older counts as seen.
const quietTime = 100 * time.Millisecond
