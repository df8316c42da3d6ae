package watch

import (
	"context"
	"errors"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// step is one answer of a scripted agent.
type step struct {
	index  int
	body   string
	status int
	err    error
}

// script answers with the steps in turn, then ends the watch.
func script(cancel func(), steps ...step) (Get, *[]string) {
	asked := &[]string{}
	return func(_ context.Context, path string, q url.Values) (*http.Response, error) {
		*asked = append(*asked, strings.TrimSuffix(path+"?"+q.Encode(), "?"))
		if len(steps) == 0 {
			cancel()
			return nil, context.Canceled
		}
		s := steps[0]
		steps = steps[1:]
		if s.err != nil {
			return nil, s.err
		}
		h := http.Header{}
		h.Set("X-Consul-Index", strconv.Itoa(s.index))
		if s.status == 0 {
			s.status = 200
		}
		return &http.Response{StatusCode: s.status, Header: h, Body: io.NopCloser(strings.NewReader(s.body))}, nil
	}, asked
}

func follow(t *testing.T, p Plan, retry func(error, int) (time.Duration, bool), steps ...step) (states, asked []string, err error) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	get, list := script(cancel, steps...)
	err = p.Run(ctx, get, retry, func(index uint64, data []byte) error {
		states = append(states, strconv.FormatUint(index, 10)+" "+string(data))
		return nil
	})
	return states, *list, err
}

func equal(t *testing.T, what string, got []string, want ...string) {
	t.Helper()
	if !slices.Equal(got, want) {
		t.Errorf("%s\n%q, want\n%q", what, got, want)
	}
}

func TestKey(t *testing.T) {
	states, asked, err := follow(t, Plan{Type: "key", Key: "/a/b c"}, nil,
		step{index: 5, status: 404},
		step{index: 6, status: 404}, // woken without a change
		step{index: 7, body: `[{"LockIndex":0,"Key":"a/b c","Flags":3,"Value":"MQ==","CreateIndex":7,"ModifyIndex":7}]`},
		step{index: 3, body: `[{"LockIndex":1,"Key":"a/b c","Flags":3,"Value":null,"Session":"s","CreateIndex":7,"ModifyIndex":8}]`}, // the index went back
	)
	if err != nil {
		t.Fatal(err)
	}
	equal(t, "states", states, "5 null",
		`7 {"Key":"a/b c","CreateIndex":7,"ModifyIndex":7,"LockIndex":0,"Flags":3,"Value":"MQ==","Session":""}`,
		`0 {"Key":"a/b c","CreateIndex":7,"ModifyIndex":8,"LockIndex":1,"Flags":3,"Value":null,"Session":"s"}`)
	equal(t, "asked", asked, "/v1/kv/a/b%20c", "/v1/kv/a/b%20c?index=5&wait=5m0s", "/v1/kv/a/b%20c?index=6&wait=5m0s", "/v1/kv/a/b%20c?index=7&wait=5m0s", "/v1/kv/a/b%20c")
}

func TestRequests(t *testing.T) {
	for _, c := range []struct {
		p    Plan
		want string
	}{
		{Plan{Type: "keyprefix", Prefix: "a/"}, "/v1/kv/a/?recurse="},
		{Plan{Type: "services", Filter: "x"}, "/v1/catalog/services?filter=x"},
		{Plan{Type: "nodes"}, "/v1/catalog/nodes"},
		{Plan{Type: "service", Service: "web", Tags: []string{"a", "b"}, PassingOnly: true}, "/v1/health/service/web?passing=1&tag=a&tag=b"},
		{Plan{Type: "checks"}, "/v1/health/state/any"},
		{Plan{Type: "checks", State: "critical"}, "/v1/health/state/critical"},
		{Plan{Type: "checks", Service: "web"}, "/v1/health/checks/web"},
		{Plan{Type: "event", Name: "deploy"}, "/v1/event/list?name=deploy"},
	} {
		states, asked, err := follow(t, c.p, nil, step{index: 1, body: "[ ]"})
		want := "1 []"
		if c.p.Type == "keyprefix" || err != nil {
			want = states[0]
		}
		equal(t, c.want, states, want)
		if err != nil || asked[0] != c.want {
			t.Errorf("asked %q, want %q; %v", asked[0], c.want, err)
		}
	}
}

// The index of events is no counter: it may fall. Handlers get each event once.
func TestEvents(t *testing.T) {
	states, asked, err := follow(t, Plan{Type: "event"}, nil,
		step{index: 900, body: `[]`},
		step{index: 500, body: `[{"ID":"a"},{"ID":"b"}]`},
		step{index: 500, body: `[{"ID":"a"},{"ID":"b"}]`},
		step{index: 700, body: `[{"ID":"b"},{"ID":"c"}]`},
		step{index: 20, body: `[{"ID":"x"},{"ID":"y"}]`}, // all that we knew has been forgotten
	)
	if err != nil {
		t.Fatal(err)
	}
	equal(t, "states", states, `900 []`, `500 [{"ID":"a"},{"ID":"b"}]`, `700 [{"ID":"c"}]`, `20 [{"ID":"x"},{"ID":"y"}]`)
	if last := asked[len(asked)-1]; last != "/v1/event/list?index=20&wait=5m0s" {
		t.Errorf("asked %s", last)
	}
}

func TestErrors(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		began := time.Now()
		var pauses []string
		retry := func(err error, n int) (time.Duration, bool) {
			pauses = append(pauses, Backoff(n).String())
			return Backoff(n), true
		}
		states, asked, err := follow(t, Plan{Type: "nodes"}, retry,
			step{err: errors.New("refused")}, step{status: 500, body: "No cluster leader"}, step{index: 4, body: "not JSON"},
			step{index: 4, body: "[1]"}, step{err: errors.New("refused")}, step{index: 4, body: "[1]"}, step{index: 5, body: "[2]"})
		if err != nil {
			t.Fatal(err)
		}
		equal(t, "states", states, "4 [1]", "5 [2]")
		equal(t, "pauses", pauses, "5s", "20s", "45s", "5s")
		if spent := time.Since(began); spent != 75*time.Second {
			t.Errorf("rested %v", spent)
		}
		if last := asked[5]; last != "/v1/catalog/nodes" {
			t.Errorf("after an error it asked %s", last)
		}
	})
	if Backoff(100) != 3*time.Minute {
		t.Errorf("Backoff(100) = %v", Backoff(100))
	}
	_, _, err := follow(t, Plan{Type: "nodes"}, nil, step{status: 500, body: "No cluster leader\n"})
	var se *StatusError
	if !errors.As(err, &se) || se.Status != 500 || se.Body != "No cluster leader" {
		t.Errorf("error %v", err)
	}
	_, _, err = follow(t, Plan{Type: "nodes"}, func(error, int) (time.Duration, bool) { return 0, false }, step{err: errors.New("x")})
	if err == nil {
		t.Error("a denied retry is no error")
	}
}

func TestCommandHandler(t *testing.T) {
	var out, errs strings.Builder
	c := Command{Args: []string{`read line; echo "$CONSUL_INDEX $line"; echo bad >&2`}, Shell: true, Out: &out, Err: &errs}
	if err := c.Handle(t.Context(), 7, []byte(`{"a":1}`)); err != nil || out.String() != "7 {\"a\":1}\n" || errs.String() != "bad\n" {
		t.Errorf("%v, %q, %q", err, out.String(), errs.String())
	}
	if err := (&Command{Args: []string{"exit 3"}, Shell: true}).Handle(t.Context(), 1, nil); err == nil {
		t.Error("a handler that fails is no error")
	}
	if err := (&Command{Args: []string{"/no/such/program"}}).Handle(t.Context(), 1, nil); err == nil {
		t.Error("a handler that does not exist is no error")
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := (&Command{Args: []string{"sleep 600"}, Shell: true}).Handle(ctx, 1, nil); !errors.Is(err, ErrStop) {
		t.Errorf("an interrupted handler: %v", err)
	}
}
