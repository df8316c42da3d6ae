// Package etcdreplay replays recorded exchanges with the etcd v2 HTTP interface against a running server and
// reports every difference. The recordings are the .jsonl files in ../etcd; ../etcd/README.md describes their format.
//
//	etcdreplay.Run(t, "http://127.0.0.1:2379", "../etcd/watch.jsonl", etcdreplay.Options{
//		Skip: map[string]string{"history-window-edge": "more history is kept"},
//	})
//
// Indexes are compared relative to the index at the beginning of a case, so the server may have been used before.
// Between cases every visible key is deleted: only servers on loopback addresses are accepted.
package etcdreplay

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"testing"
	"time"
)

// Options of a Run.
type Options struct {
	// Skip says why a recording ("file.jsonl") or a case of it ("name") is left out, or why one step of a case
	// ("name/3") is run but not compared.
	Skip map[string]string
	// Fresh starts a new server for a case that wants one and returns its URL. Nil: such cases use the common one.
	Fresh func(t *testing.T) string
	// Destructive also runs the cases after which the server cannot be used any more. They need Fresh.
	Destructive bool
	// Stage gives the servers of a case that starts and stops some itself; second is the name that the second server
	// will get, "" when there is none. Nil: such cases are left out.
	Stage func(t *testing.T, second string) Stage
	// Loose says of cases why their indexes are only compared as zero or not.
	Loose map[string]string
	// Behind: the URL is that of an agent in front of the members. Then ENDPOINT is what the first member says.
	Behind bool
}

// Stage are the servers of one case. The first is running and fresh when the case begins.
type Stage interface {
	URL() string                                 // of the first server
	Second() (peer, client string)               // URLs that the second server has, or will have once it runs
	StartSecond(t *testing.T)                    // starts the second server, which joins the first; returns when it answers
	StartProxy(t *testing.T, mode string) string // starts a proxy in front of the first server, returns its URL
	StopFirst(t *testing.T)                      // stops the first server
}

// Step is one line of a recording.
type Step struct {
	Case        string          `json:"case"`
	Step        int             `json:"step"`
	Base        int64           `json:"base"`
	Request     *Request        `json:"request"`
	Response    json.RawMessage `json:"response"`
	SleepMS     int             `json:"sleep_ms"`
	Repeat      int             `json:"repeat"`
	WatchStart  string          `json:"watch_start"`
	WatchRead   string          `json:"watch_read"`
	WatchSilent string          `json:"watch_silent"`
	WatchClose  string          `json:"watch_close"`
	Events      int             `json:"events"`
	ExpectEnd   bool            `json:"expect_end"`
	TimeoutMS   int             `json:"timeout_ms"`
	AnyHead     bool            `json:"any_head"`
	Mask        []string        `json:"mask"`
	Loose       bool            `json:"loose_index"`
	CORS        bool            `json:"cors"`
	Fresh       bool            `json:"fresh"`
	NeedsSpawn  bool            `json:"needs_spawn"`
	Destructive bool            `json:"destructive"`
	StartSecond string          `json:"start_second"`
	StartProxy  string          `json:"start_proxy"`
	StopServer  bool            `json:"stop_server"`
	On          string          `json:"on"`
}

// Request is what a step sends. At most one of Form, RawBody and JSON is set.
type Request struct {
	Method   string            `json:"method"`
	Path     string            `json:"path"` // percent-encoded, sent as it is
	Query    map[string]any    `json:"query,omitempty"`
	Form     map[string]any    `json:"form,omitempty"`
	RawQuery *string           `json:"raw_query,omitempty"`
	RawBody  *string           `json:"raw_body,omitempty"`
	JSON     json.RawMessage   `json:"json,omitempty"`
	Headers  map[string]string `json:"headers,omitempty"`
}

// Load reads a recording and groups its steps by case, in order.
func Load(file string) ([][]Step, error) {
	b, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	var cases [][]Step
	lines := bufio.NewScanner(bytes.NewReader(b))
	lines.Buffer(nil, 16<<20)
	for n := 1; lines.Scan(); n++ {
		if len(bytes.TrimSpace(lines.Bytes())) == 0 {
			continue
		}
		var s Step
		if err := json.Unmarshal(lines.Bytes(), &s); err != nil {
			return nil, fmt.Errorf("%s:%d: %w", file, n, err)
		}
		if s.Case == "" || len(s.Response) == 0 {
			return nil, fmt.Errorf("%s:%d: a step needs a case and a response", file, n)
		}
		if len(cases) == 0 || cases[len(cases)-1][0].Case != s.Case {
			cases = append(cases, nil)
		}
		cases[len(cases)-1] = append(cases[len(cases)-1], s)
	}
	return cases, lines.Err()
}

// Run replays every case of a recording as a subtest.
func Run(t *testing.T, baseURL, file string, o Options) {
	t.Helper()
	if why := o.Skip[filepath.Base(file)]; why != "" {
		t.Skip(why)
	}
	cases, err := Load(file)
	if err != nil {
		t.Fatal(err)
	}
	for _, steps := range cases {
		t.Run(steps[0].Case, func(t *testing.T) {
			first := steps[0]
			at := baseURL
			var stage Stage
			switch {
			case o.Skip[first.Case] != "":
				t.Skip(o.Skip[first.Case])
			case first.NeedsSpawn && o.Stage == nil:
				t.Skip("starts servers of its own")
			case first.Destructive && !o.Destructive && first.NeedsSpawn:
				t.Skip("leaves the server unusable")
			case first.NeedsSpawn:
				stage = o.Stage(t, secondName(steps))
				at = stage.URL()
			case first.Destructive && (!o.Destructive || o.Fresh == nil):
				t.Skip("leaves the server unusable")
			case first.Fresh && o.Fresh != nil:
				at = o.Fresh(t)
			}
			target, err := newTarget(at)
			if err != nil {
				t.Fatal(err)
			}
			target.behind = o.Behind && stage == nil
			runCase(t, target, stage, steps, &o)
		})
	}
}

// secondName is the name of the second server that a case starts.
func secondName(steps []Step) string {
	for i := range steps {
		if steps[i].StartSecond != "" {
			return steps[i].StartSecond
		}
	}
	return "second"
}

func newTarget(base string) (*target, error) {
	u, err := url.Parse(base)
	if err != nil {
		return nil, err
	}
	if ip := net.ParseIP(u.Hostname()); u.Hostname() != "localhost" && (ip == nil || !ip.IsLoopback()) {
		return nil, fmt.Errorf("%s is not a loopback address: replaying deletes every key", base)
	}
	return &target{url: u}, nil
}

func runCase(t *testing.T, g *target, stage Stage, steps []Step, o *Options) {
	t.Helper()
	recorded := steps[0].Base
	if err := g.prepare(recorded); err != nil {
		t.Fatal(err)
	}
	base, err := g.index()
	if err != nil {
		t.Fatal(err)
	}
	run := &run{t: t, target: g, stage: stage, others: make(map[string]*target), watches: make(map[string]*watch)}
	defer run.close()
	if stage != nil {
		names := g.substitutes()
		names["{{SECOND_PEER}}"], names["{{SECOND_ENDPOINT}}"] = stage.Second()
	}
	for i := range steps {
		s := &steps[i]
		s.Loose = s.Loose || steps[0].Loose || o.Loose[s.Case] != ""
		var req *Request
		if s.Request != nil {
			req = shift(s.Request, recorded, base, g.substitutes())
		}
		got, err := run.step(s, req)
		if err != nil {
			got = map[string]any{"error": err.Error()}
		}
		run.learn(s, got)
		if s.AnyHead || o.Skip[s.Case+"/"+strconv.Itoa(s.Step)] != "" {
			continue
		}
		want, err := decode(s.Response)
		if err != nil {
			t.Fatalf("step %d: recorded response: %v", s.Step, err)
		}
		want = normal(want, s, recorded, nil)
		if d := firstDiff(want, normal(got, s, base, g.placeholders()), ""); d != "" {
			t.Errorf("step %d %s: %s", s.Step, s.describe(), d)
		}
	}
}

func (s *Step) describe() string {
	switch {
	case s.Request != nil:
		p := s.Request.Path
		if len(p) > 60 {
			p = p[:60]
		}
		return s.Request.Method + " " + p
	case s.WatchRead != "":
		return "read of watch " + s.WatchRead
	case s.WatchSilent != "":
		return "silence of watch " + s.WatchSilent
	}
	return "close of watch " + s.WatchClose
}

// run is the state of one case.
type run struct {
	t       *testing.T
	target  *target
	stage   Stage              // nil: one server only
	others  map[string]*target // "second", "proxy"
	watches map[string]*watch
}

func (r *run) close() {
	for _, w := range r.watches {
		w.close()
	}
}

func timeout(ms, byDefault int) time.Duration {
	if ms == 0 {
		ms = byDefault
	}
	return time.Duration(ms) * time.Millisecond
}

// step does what a step says and returns the answer in the shape of a recorded response.
func (r *run) step(s *Step, req *Request) (any, error) {
	if s.SleepMS > 0 {
		<-time.After(time.Duration(s.SleepMS) * time.Millisecond) // part of the exchange: a time to live runs out
	}
	if s.StartSecond != "" || s.StartProxy != "" || s.StopServer {
		return r.change(s)
	}
	at := r.target
	if s.On != "" {
		if at = r.others[s.On]; at == nil {
			return nil, fmt.Errorf("the server %q was not started", s.On)
		}
	}
	switch {
	case s.WatchStart != "":
		limit := timeout(0, 3000)
		if s.AnyHead {
			limit = 0
		}
		w, head, err := at.watch(req, limit)
		if err != nil {
			return nil, err
		}
		r.watches[s.WatchStart] = w
		return head, nil
	case s.WatchRead != "":
		return r.watches[s.WatchRead].read(max(s.Events, 1), timeout(s.TimeoutMS, 5000), s.ExpectEnd)
	case s.WatchSilent != "":
		return r.watches[s.WatchSilent].silent(timeout(s.TimeoutMS, 400))
	case s.WatchClose != "":
		r.watches[s.WatchClose].close()
		return map[string]any{"body": nil}, nil
	case s.Repeat > 0:
		var last any
		for i := range s.Repeat {
			one, err := req.numbered(i)
			if err != nil {
				return nil, err
			}
			if last, err = at.do(one, s.CORS); err != nil {
				return nil, err
			}
		}
		return last, nil
	case req != nil:
		return at.do(req, s.CORS)
	}
	return nil, fmt.Errorf("step asks for nothing that this replayer knows")
}

// change starts or stops a server.
func (r *run) change(s *Step) (any, error) {
	if r.stage == nil {
		return nil, errors.New("the case needs servers of its own")
	}
	var name, url string
	switch {
	case s.StopServer:
		r.stage.StopFirst(r.t)
		return map[string]any{"body": "<stopped>"}, nil
	case s.StartSecond != "":
		r.stage.StartSecond(r.t)
		name = "second"
		_, url = r.stage.Second()
	default:
		name, url = "proxy", r.stage.StartProxy(r.t, s.StartProxy)
	}
	other, err := newTarget(url)
	if err != nil {
		return nil, err
	}
	r.others[name] = other
	return map[string]any{"body": "<started>"}, nil
}

// learn takes the id of the second member out of the answer that announced it.
func (r *run) learn(s *Step, got any) {
	if r.stage == nil || s.Request == nil || s.Request.Method != http.MethodPost || s.Request.Path != "/v2/members" {
		return
	}
	answer, _ := got.(map[string]any)
	body, _ := answer["body"].(map[string]any)
	if id, ok := body["id"].(string); ok && r.target.names["{{SECOND_ID}}"] == "" {
		r.target.names["{{SECOND_ID}}"] = id
	}
}
