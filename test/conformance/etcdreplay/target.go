package etcdreplay

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"
)

// target is the server under test.
type target struct {
	url    *url.URL
	client http.Transport
	names  map[string]string // placeholder -> what this server has there
	behind bool              // see Options.Behind
}

// request builds the HTTP request. Opaque keeps the path exactly as it was recorded.
func (g *target) request(ctx context.Context, r *Request) (*http.Request, error) {
	u := &url.URL{Scheme: g.url.Scheme, Host: g.url.Host, Opaque: r.Path, RawQuery: encode(r.Query)}
	if r.RawQuery != nil {
		u.RawQuery = *r.RawQuery
	}
	var body io.Reader = http.NoBody
	contentType := ""
	switch {
	case r.Form != nil:
		body, contentType = strings.NewReader(encode(r.Form)), "application/x-www-form-urlencoded"
	case len(r.JSON) > 0:
		body, contentType = bytes.NewReader(r.JSON), "application/json"
	case r.RawBody != nil:
		body = strings.NewReader(*r.RawBody)
	}
	req, err := http.NewRequestWithContext(ctx, r.Method, g.url.String(), body)
	if err != nil {
		return nil, err
	}
	req.URL = u
	if contentType != "" {
		req.Header.Set("Content-Type", contentType)
	}
	for k, v := range r.Headers {
		req.Header.Set(k, v)
	}
	return req, nil
}

// encode writes a query or form; a value may be a list.
func encode(pairs map[string]any) string {
	v := url.Values{}
	for name, x := range pairs {
		list, ok := x.([]any)
		if !ok {
			list = []any{x}
		}
		for _, one := range list {
			v.Add(name, fmt.Sprint(one))
		}
	}
	return v.Encode()
}

// tracked headers are compared; those in present only by being there.
var (
	tracked = []string{"Content-Type", "X-Etcd-Index", "X-Raft-Index", "X-Raft-Term", "X-Etcd-Cluster-Id", "Allow", "Location"}
	present = []string{"X-Raft-Index", "X-Raft-Term", "X-Etcd-Cluster-Id"}
	cors    = []string{"Access-Control-Allow-Origin", "Access-Control-Allow-Methods", "Access-Control-Allow-Headers"}
)

func headers(h http.Header, withCORS bool) map[string]any {
	names := tracked
	if withCORS {
		names = slices.Concat(tracked, cors)
	}
	out := make(map[string]any)
	for _, name := range names {
		v := h.Get(name)
		switch {
		case v == "":
		case slices.Contains(present, name):
			out[name] = "*"
		case name == "X-Etcd-Index":
			out[name] = json.Number(v)
		default:
			out[name] = v
		}
	}
	return out
}

// decode reads JSON with exact numbers.
func decode(b []byte) (any, error) {
	d := json.NewDecoder(bytes.NewReader(b))
	d.UseNumber()
	var v any
	if err := d.Decode(&v); err != nil {
		return nil, err
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return nil, errors.New("more than one JSON value")
	}
	return v, nil
}

// parseBody gives nil for an empty body, the parsed JSON of an object or list, else the text.
func parseBody(b []byte) any {
	if len(bytes.TrimSpace(b)) == 0 {
		return nil
	}
	if v, err := decode(b); err == nil {
		switch v.(type) {
		case map[string]any, []any:
			return v
		}
	}
	return string(b)
}

func (g *target) do(r *Request, withCORS bool) (any, error) {
	ctx, cancel := context.WithTimeout(context.Background(), 15*time.Second)
	defer cancel()
	req, err := g.request(ctx, r)
	if err != nil {
		return nil, err
	}
	resp, err := g.client.RoundTrip(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		return nil, err
	}
	return map[string]any{
		"status":  json.Number(strconv.Itoa(resp.StatusCode)),
		"headers": headers(resp.Header, withCORS),
		"body":    parseBody(b),
	}, nil
}

// get reads a JSON object.
func (g *target) get(path string, into any) (http.Header, error) {
	resp, err := http.Get(g.url.Scheme + "://" + g.url.Host + path)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	return resp.Header, json.NewDecoder(resp.Body).Decode(into)
}

// listing is a directory as far as preparing a case needs it.
type listing struct {
	Node struct {
		Nodes []struct {
			Key string `json:"key"`
		} `json:"nodes"`
	} `json:"node"`
}

// index is the server's present index.
func (g *target) index() (int64, error) {
	h, err := g.get("/v2/keys/", new(listing))
	if err != nil {
		return 0, err
	}
	return strconv.ParseInt(h.Get("X-Etcd-Index"), 10, 64)
}

// prepare deletes every visible key and raises the index to atLeast by writing a hidden key, so that the indexes of
// the recording can be moved to those of this server.
func (g *target) prepare(atLeast int64) error {
	var root listing
	if _, err := g.get("/v2/keys/", &root); err != nil {
		return err
	}
	for _, n := range root.Node.Nodes {
		r := &Request{Method: "DELETE", Path: "/v2/keys" + (&url.URL{Path: n.Key}).EscapedPath(), Query: map[string]any{"recursive": "true"}}
		if _, err := g.do(r, false); err != nil {
			return err
		}
	}
	for {
		now, err := g.index()
		if err != nil || now >= atLeast {
			return err
		}
		if _, err := g.do(&Request{Method: "PUT", Path: "/v2/keys/_pad", Form: map[string]any{"value": "x"}}, false); err != nil {
			return err
		}
	}
}

// substitutes gives what this server has in the place of each placeholder of a recording.
func (g *target) substitutes() map[string]string {
	if g.names == nil {
		g.names = map[string]string{"{{ENDPOINT}}": g.url.Scheme + "://" + g.url.Host, "{{HOSTPORT}}": g.url.Host}
		var list struct {
			Members []struct {
				ID       string   `json:"id"`
				Name     string   `json:"name"`
				PeerURLs []string `json:"peerURLs"`
				Clients  []string `json:"clientURLs"`
			} `json:"members"`
		}
		if _, err := g.get("/v2/members", &list); err == nil && len(list.Members) > 0 {
			m := list.Members[0]
			g.names["{{MEMBER_ID}}"], g.names["{{NAME}}"] = m.ID, m.Name
			if len(m.PeerURLs) > 0 {
				g.names["{{PEER_URL}}"] = m.PeerURLs[0]
			}
			if g.behind && len(m.Clients) > 0 {
				g.names["{{ENDPOINT}}"] = m.Clients[0]
			}
		}
	}
	return g.names
}

// placeholders replaces what differs between servers by the placeholders. Short values are left alone: they would
// match by accident.
func (g *target) placeholders() *strings.Replacer {
	var pairs []string
	for _, name := range []string{"{{PEER_URL}}", "{{ENDPOINT}}", "{{MEMBER_ID}}", "{{SECOND_PEER}}", "{{SECOND_ENDPOINT}}", "{{SECOND_ID}}", "{{HOSTPORT}}"} {
		if v := g.substitutes()[name]; len(v) > 3 {
			pairs = append(pairs, v, name)
		}
	}
	return strings.NewReplacer(pairs...)
}

// watch is a request that stays open; its JSON objects arrive on events, which is closed at its end.
type watch struct {
	events chan any
	close  context.CancelFunc
}

// watch opens a request. The head of the answer has to come within the limit; 0: it may come with the first event.
func (g *target) watch(r *Request, limit time.Duration) (*watch, any, error) {
	ctx, cancel := context.WithCancel(context.Background())
	req, err := g.request(ctx, r)
	if err != nil {
		cancel()
		return nil, nil, err
	}
	w := &watch{events: make(chan any, 1024), close: cancel}
	if limit == 0 {
		arrived := make(chan struct{})
		go func() {
			defer close(arrived)
			resp, err := g.client.RoundTrip(req)
			if err != nil {
				close(w.events)
				return
			}
			go w.follow(resp.Body)
		}()
		// Without a head nobody can tell when the server has the request.
		select {
		case <-arrived:
		case <-time.After(300 * time.Millisecond):
		}
		return w, map[string]any{}, nil
	}
	late := time.AfterFunc(limit, cancel)
	resp, err := g.client.RoundTrip(req)
	if !late.Stop() || err != nil {
		cancel()
		return nil, nil, fmt.Errorf("no head within %v: %w", limit, err)
	}
	go w.follow(resp.Body)
	return w, map[string]any{"status": json.Number(strconv.Itoa(resp.StatusCode)), "headers": headers(resp.Header, false)}, nil
}

// follow passes on the JSON objects of an answer until it ends.
func (w *watch) follow(body io.ReadCloser) {
	defer close(w.events)
	defer body.Close()
	d := json.NewDecoder(body)
	d.UseNumber()
	for {
		var v any
		if d.Decode(&v) != nil {
			return
		}
		w.events <- v
	}
}

// next waits for an event; "<end>" is the end of the answer, "<timeout>" that nothing came.
func (w *watch) next(limit time.Duration) any {
	t := time.NewTimer(limit)
	defer t.Stop()
	select {
	case v, ok := <-w.events:
		if !ok {
			return "<end>"
		}
		return v
	case <-t.C:
		return "<timeout>"
	}
}

func (w *watch) read(n int, limit time.Duration, wantEnd bool) (any, error) {
	if w == nil {
		return nil, errors.New("there is no such watch")
	}
	var got []any
	for range n {
		v := w.next(limit)
		got = append(got, v)
		if v == "<end>" || v == "<timeout>" {
			break
		}
	}
	out := map[string]any{"body": got}
	if wantEnd {
		out["end"] = w.next(2*time.Second) == "<end>"
	}
	return out, nil
}

func (w *watch) silent(limit time.Duration) (any, error) {
	if w == nil {
		return nil, errors.New("there is no such watch")
	}
	v := w.next(limit)
	if v == "<timeout>" {
		v = "<silent>"
	}
	return map[string]any{"body": v}, nil
}
