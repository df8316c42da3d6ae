// Package watch follows one thing of the flat dialect (a key, a service, the nodes, …) by blocking queries and hands
// every new state of it to a handler: a command or a URL. `muster watch` uses it, and whoever else wants to react.
//
//	p := watch.Plan{Type: "service", Service: "web", PassingOnly: true}
//	err := p.Run(ctx, get, func(index uint64, data []byte) error {
//		fmt.Printf("%s\n", data)
//		return nil
//	})
//
// What a handler gets for each type is the contract of Consul's watches (consul-agent 8).
package watch

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"
)

// Plan says what to follow. Fields that the type does not know must be empty.
type Plan struct {
	Type        string   // key, keyprefix, services, nodes, service, checks or event
	Key         string   // of key
	Prefix      string   // of keyprefix
	Service     string   // of service and checks
	Tags        []string // of service: all of them
	PassingOnly bool     // of service
	State       string   // of checks: passing, warning, critical or any
	Name        string   // of event; empty: all
	Filter      string   // of services, nodes, service and checks
}

// UnsupportedError names a type that does not exist.
type UnsupportedError string

func (e UnsupportedError) Error() string { return "Unsupported watch type: " + string(e) }

// Get makes one GET request; the body of its answer is closed by Run.
type Get func(ctx context.Context, path string, q url.Values) (*http.Response, error)

// Handler takes one new state: its index, and the JSON of it in one line without a newline.
type Handler func(index uint64, data []byte) error

// ErrStop ends Run without an error when a Handler returns it.
var ErrStop = errors.New("enough")

// StatusError is an answer other than 2xx.
type StatusError struct {
	Status int
	Body   string
}

func (e *StatusError) Error() string {
	return fmt.Sprintf("Unexpected response code: %d (%s)", e.Status, e.Body)
}

// wait is how long one query may take at most.
const wait = 5 * time.Minute

// maxBody bounds one answer, in bytes.
const maxBody = 256 << 20

// Check says what is wrong with the plan, if anything.
func (p *Plan) Check() error {
	allowed := map[string]string{
		"key": "key", "keyprefix": "prefix", "services": "filter", "nodes": "filter",
		"service": "service tag passingonly filter", "checks": "service state filter", "event": "name",
	}
	fields, ok := allowed[p.Type]
	switch {
	case p.Type == "":
		return errors.New("watch type must be specified")
	case !ok:
		return UnsupportedError(p.Type)
	}
	given := map[string]bool{
		"key": p.Key != "", "prefix": p.Prefix != "", "service": p.Service != "", "tag": len(p.Tags) > 0,
		"passingonly": p.PassingOnly, "state": p.State != "", "name": p.Name != "", "filter": p.Filter != "",
	}
	for _, name := range []string{"key", "prefix", "service", "tag", "passingonly", "state", "name", "filter"} {
		if given[name] && !strings.Contains(" "+fields+" ", " "+name+" ") {
			return fmt.Errorf("a watch of type %s does not know %s", p.Type, name)
		}
	}
	switch {
	case p.Type == "key" && p.Key == "":
		return errors.New("a watch of type key needs a key")
	case p.Type == "keyprefix" && p.Prefix == "":
		return errors.New("a watch of type keyprefix needs a prefix")
	case p.Type == "service" && p.Service == "":
		return errors.New("a watch of type service needs a service")
	case p.Service != "" && p.State != "":
		return errors.New("a watch of type checks takes a service or a state, not both")
	}
	return nil
}

// request is the query of the plan.
func (p *Plan) request() (string, url.Values) {
	q := url.Values{}
	if p.Filter != "" {
		q.Set("filter", p.Filter)
	}
	switch p.Type {
	case "key":
		return "/v1/kv/" + escape(p.Key), q
	case "keyprefix":
		q.Set("recurse", "")
		return "/v1/kv/" + escape(p.Prefix), q
	case "services", "nodes":
		return "/v1/catalog/" + p.Type, q
	case "service":
		for _, t := range p.Tags {
			q.Add("tag", t)
		}
		if p.PassingOnly {
			q.Set("passing", "1")
		}
		return "/v1/health/service/" + url.PathEscape(p.Service), q
	case "event":
		if p.Name != "" {
			q.Set("name", p.Name)
		}
		return "/v1/event/list", q
	}
	state := p.State
	if state == "" {
		state = "any"
	}
	if p.Service != "" {
		return "/v1/health/checks/" + url.PathEscape(p.Service), q
	}
	return "/v1/health/state/" + url.PathEscape(state), q
}

// escape keeps the slashes of a key.
func escape(key string) string {
	parts := strings.Split(strings.TrimPrefix(key, "/"), "/")
	for i := range parts {
		parts[i] = url.PathEscape(parts[i])
	}
	return strings.Join(parts, "/")
}

// Run hands every new state to handle, the first at once, until ctx ends (nil), handle returns an error, or a query
// fails and retry denies: it is told the error and how many have come in a row (from 1), and returns how long to rest
// before the next attempt; a nil retry ends Run with the first error. A state equal to the one before is not handed on.
func (p *Plan) Run(ctx context.Context, get Get, retry func(err error, n int) (time.Duration, bool), handle Handler) error {
	if err := p.Check(); err != nil {
		return err
	}
	var last []byte
	lastEvent, first := "", true
	index, failures := uint64(0), 0
	for ctx.Err() == nil {
		body, next, err := p.ask(ctx, get, index)
		if err == nil {
			body, lastEvent, err = p.data(body, lastEvent)
		}
		if ctx.Err() != nil {
			break
		}
		if err != nil {
			failures++
			if retry == nil {
				return err
			}
			pause, again := retry(err, failures)
			if !again {
				return err
			}
			index = 0
			if !rest(ctx, pause) {
				break
			}
			continue
		}
		failures = 0
		if next < index && p.Type != "event" {
			next = 0 // it went back: begin again
		}
		index = next
		// A list of events that is empty after pruning brings nothing new.
		if !first && (bytes.Equal(body, last) || p.Type == "event" && len(body) <= len("[]")) {
			continue
		}
		first, last = false, body
		if err := handle(index, body); err != nil {
			if errors.Is(err, ErrStop) {
				return nil
			}
			return err
		}
	}
	return nil
}

// Backoff is the pause after the n-th failure in a row: 5 s times the square of n, at most 3 minutes.
func Backoff(n int) time.Duration {
	return min(5*time.Second*time.Duration(n*n), 3*time.Minute)
}

func rest(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}

// ask makes one query. A missing key is a nil body.
func (p *Plan) ask(ctx context.Context, get Get, index uint64) ([]byte, uint64, error) {
	path, q := p.request()
	if index > 0 {
		q.Set("index", strconv.FormatUint(index, 10))
		q.Set("wait", wait.String())
	}
	ctx, cancel := context.WithTimeout(ctx, wait+wait/8)
	defer cancel()
	resp, err := get(ctx, path, q)
	if err != nil {
		return nil, 0, err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, maxBody))
	if err != nil {
		return nil, 0, err
	}
	if resp.StatusCode == http.StatusNotFound && len(body) == 0 {
		body = nil
	} else if resp.StatusCode/100 != 2 {
		return nil, 0, &StatusError{resp.StatusCode, strings.TrimSpace(string(body))}
	}
	next, err := strconv.ParseUint(resp.Header.Get("X-Consul-Index"), 10, 64)
	if err != nil {
		return nil, 0, fmt.Errorf("X-Consul-Index: %w", err)
	}
	return body, max(next, 1), nil
}

// pair is a key as handlers get it.
type pair struct {
	Key                                        string
	CreateIndex, ModifyIndex, LockIndex, Flags uint64
	Value                                      []byte
	Session                                    string
}

// data turns the body of an answer into what handlers get. lastEvent is the id of the newest event handed on.
func (p *Plan) data(body []byte, lastEvent string) ([]byte, string, error) {
	switch p.Type {
	case "key", "keyprefix":
		var all []pair
		if body != nil {
			if err := json.Unmarshal(body, &all); err != nil {
				return nil, "", fmt.Errorf("the answer is no list of keys: %w", err)
			}
		}
		var v any = all
		if p.Type == "key" {
			v = nil
			if len(all) > 0 {
				v = all[0]
			}
		}
		out, err := json.Marshal(v)
		return out, "", err
	case "event":
		return newEvents(body, lastEvent)
	}
	var out bytes.Buffer
	if err := json.Compact(&out, body); err != nil {
		return nil, "", fmt.Errorf("the answer is no JSON: %w", err)
	}
	return out.Bytes(), "", nil
}

// newEvents drops the events up to the one named last.
func newEvents(body []byte, last string) ([]byte, string, error) {
	var all []json.RawMessage
	if err := json.Unmarshal(body, &all); err != nil {
		return nil, last, fmt.Errorf("the answer is no list of events: %w", err)
	}
	for i := len(all) - 1; i >= 0; i-- {
		var ev struct{ ID string }
		if err := json.Unmarshal(all[i], &ev); err != nil {
			return nil, last, fmt.Errorf("the answer is no list of events: %w", err)
		}
		if last != "" && ev.ID == last {
			all = all[i+1:]
			break
		}
	}
	if len(all) > 0 {
		var ev struct{ ID string }
		if err := json.Unmarshal(all[len(all)-1], &ev); err != nil {
			return nil, last, err
		}
		last = ev.ID
	}
	if all == nil {
		all = []json.RawMessage{}
	}
	out, err := json.Marshal(all)
	return out, last, err
}
