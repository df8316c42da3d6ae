// Package consulreplay replays recorded exchanges with the Consul v1 HTTP interface against a running agent. The
// recordings are the .jsonl files in ../consul; ../consul/README.md describes their format.
//
//	consulreplay.Run(t, "http://127.0.0.1:8500", "../consul/kv.jsonl", consulreplay.Options{})
//
// The cases clean up after themselves; they use names beginning with tr- and keys below tr/.
package consulreplay

import (
	"bufio"
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"os"
	"strings"
	"testing"
	"time"
)

// Options of a replay.
type Options struct {
	Only []string          // names of cases; empty = all
	Skip map[string]string // names of cases that are left out, with the reason
	Vars map[string]string // NODE, NODEID, DC and ADDR; nil = asked of /v1/agent/self
}

// Step is one exchange of a case.
type Step struct {
	Case      string
	Step      int
	Request   Request
	Response  Response
	Capture   map[string]string
	SleepMS   int   `json:"sleep_ms"`
	RetryMS   int   `json:"retry_ms"`
	ElapsedMS []int `json:"elapsed_ms"`
	During    *During
	Cleanup   bool
}

// During is a request that is sent while the step's own is waiting.
type During struct {
	DelayMS int `json:"delay_ms"`
	Request Request
}

// Request of a step.
type Request struct {
	Method, Path, Query string
	Headers             map[string]string
	Body                json.RawMessage
	BodyKind            string `json:"body_kind"`
}

// Response expected by a step.
type Response struct {
	Status    int
	Headers   map[string]*string
	Body      json.RawMessage
	BodyKind  string `json:"body_kind"`
	Unordered []string
}

// Case is a sequence of steps.
type Case struct {
	Name  string
	Steps []Step
}

// Load reads the cases of a file in their order.
func Load(file string) ([]Case, error) {
	f, err := os.Open(file)
	if err != nil {
		return nil, err
	}
	defer func() { _ = f.Close() }()
	var cases []Case
	in := bufio.NewScanner(f)
	in.Buffer(nil, 8<<20)
	for in.Scan() {
		if len(bytes.TrimSpace(in.Bytes())) == 0 {
			continue
		}
		var s Step
		if err := json.Unmarshal(in.Bytes(), &s); err != nil {
			return nil, fmt.Errorf("%s: %w", file, err)
		}
		if n := len(cases); n == 0 || cases[n-1].Name != s.Case {
			cases = append(cases, Case{Name: s.Case})
		}
		c := &cases[len(cases)-1]
		c.Steps = append(c.Steps, s)
	}
	return cases, in.Err()
}

// Run replays each case of a file as a subtest.
func Run(t *testing.T, base, file string, o Options) {
	t.Helper()
	cases, err := Load(file)
	if err != nil {
		t.Fatal(err)
	}
	vars := o.Vars
	if vars == nil {
		if vars, err = askVars(base); err != nil {
			t.Fatal(err)
		}
	}
	for _, c := range cases {
		if len(o.Only) > 0 && !contains(o.Only, c.Name) {
			continue
		}
		t.Run(c.Name, func(t *testing.T) {
			if why, ok := o.Skip[c.Name]; ok {
				t.Skip(why)
			}
			if err := Replay(base, c, vars); err != nil {
				t.Error(err)
			}
		})
	}
}

func contains(list []string, s string) bool {
	for _, x := range list {
		if x == s {
			return true
		}
	}
	return false
}

func askVars(base string) (map[string]string, error) {
	var self struct {
		Config struct{ NodeName, NodeID, Datacenter string }
		Member struct{ Addr string }
	}
	r, err := http.Get(base + "/v1/agent/self")
	if err != nil {
		return nil, err
	}
	defer func() { _ = r.Body.Close() }()
	if r.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("GET /v1/agent/self: %s", r.Status)
	}
	if err := json.NewDecoder(r.Body).Decode(&self); err != nil {
		return nil, fmt.Errorf("GET /v1/agent/self: %w", err)
	}
	return map[string]string{
		"NODE": self.Config.NodeName, "NODEID": self.Config.NodeID, "DC": self.Config.Datacenter, "ADDR": self.Member.Addr,
	}, nil
}

// Replay runs one case and returns its first difference. Cleanup steps run in any event.
func Replay(base string, c Case, vars map[string]string) error {
	p := &player{base: base, env: map[string]string{"RUN": fmt.Sprintf("%08x", rand.Uint32())}}
	p.client = &http.Client{Timeout: 75 * time.Second, Transport: &http.Transport{DisableCompression: true}}
	defer p.client.CloseIdleConnections()
	p.client.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	for k, v := range vars {
		p.env[k] = v
	}
	var failure error
	for i := range c.Steps {
		s := &c.Steps[i]
		if s.Cleanup {
			_, _ = p.send(&s.Request)
			continue
		}
		if failure != nil {
			continue
		}
		if err := p.step(s); err != nil {
			failure = fmt.Errorf("step %d %s %s?%s: %w", s.Step, s.Request.Method, s.Request.Path, s.Request.Query, err)
		}
	}
	return failure
}

type player struct {
	base   string
	client *http.Client
	env    map[string]string
}

type answer struct {
	status  int
	headers http.Header
	body    []byte
	took    time.Duration
}

func (p *player) step(s *Step) error {
	if s.SleepMS > 0 {
		time.Sleep(time.Duration(s.SleepMS) * time.Millisecond) // part of the recording, not synchronisation
	}
	deadline := time.Now().Add(time.Duration(s.RetryMS) * time.Millisecond)
	for {
		a, err := p.exchange(s)
		if err == nil {
			err = p.take(s, a)
		}
		if err == nil {
			err = p.compare(s, a)
		}
		if err == nil || !time.Now().Before(deadline) {
			return err
		}
		time.Sleep(100 * time.Millisecond)
	}
}

func (p *player) exchange(s *Step) (*answer, error) {
	if s.During == nil {
		return p.send(&s.Request)
	}
	done := make(chan struct{})
	t := time.AfterFunc(time.Duration(s.During.DelayMS)*time.Millisecond, func() {
		defer close(done)
		_, _ = p.send(&s.During.Request)
	})
	a, err := p.send(&s.Request)
	if !t.Stop() {
		<-done
	}
	return a, err
}

func (p *player) send(r *Request) (*answer, error) {
	body, err := p.body(r)
	if err != nil {
		return nil, err
	}
	url := p.base + quote(p.fill(r.Path), "/:@!$&'()*+,;=~%")
	if r.Query != "" {
		url += "?" + quote(p.fill(r.Query), "=&%/:@!$'()*+,;?~")
	}
	req, err := http.NewRequestWithContext(context.Background(), r.Method, url, body)
	if err != nil {
		return nil, err
	}
	for k, v := range r.Headers {
		req.Header.Set(k, p.fill(v))
	}
	start := time.Now()
	res, err := p.client.Do(req)
	if err != nil {
		return nil, err
	}
	defer func() { _ = res.Body.Close() }()
	b, err := io.ReadAll(res.Body)
	return &answer{res.StatusCode, res.Header, b, time.Since(start)}, err
}

// quote escapes what may not stand in a URL and is not in keep.
func quote(s, keep string) string {
	const hex = "0123456789ABCDEF"
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		c := s[i]
		plain := c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || strings.IndexByte("-_.", c) >= 0
		if plain || strings.IndexByte(keep, c) >= 0 {
			b.WriteByte(c)
			continue
		}
		b.WriteByte('%')
		b.WriteByte(hex[c>>4])
		b.WriteByte(hex[c&15])
	}
	return b.String()
}

// fill replaces ${name}.
func (p *player) fill(s string) string {
	for {
		i := strings.Index(s, "${")
		if i < 0 {
			return s
		}
		n := strings.IndexByte(s[i:], '}')
		if n < 0 {
			return s
		}
		s = s[:i] + p.env[s[i+2:i+n]] + s[i+n+1:]
	}
}

func (p *player) body(r *Request) (io.Reader, error) {
	if len(r.Body) == 0 || string(r.Body) == "null" {
		return nil, nil
	}
	var text string
	switch r.BodyKind {
	case "fill":
		var f struct {
			Byte  string
			Count int
		}
		if err := json.Unmarshal(r.Body, &f); err != nil {
			return nil, err
		}
		return strings.NewReader(strings.Repeat(f.Byte, f.Count)), nil
	case "b64":
		if err := json.Unmarshal(r.Body, &text); err != nil {
			return nil, err
		}
		b, err := base64.StdEncoding.DecodeString(text)
		return bytes.NewReader(b), err
	}
	if r.Body[0] == '"' && r.BodyKind != "json" {
		if err := json.Unmarshal(r.Body, &text); err != nil {
			return nil, err
		}
		return strings.NewReader(p.fill(text)), nil
	}
	return strings.NewReader(p.fill(string(r.Body))), nil
}

// take captures values of an answer.
func (p *player) take(s *Step, a *answer) error {
	for name, from := range s.Capture {
		if h, ok := strings.CutPrefix(from, "header:"); ok {
			p.env[name] = a.headers.Get(h)
			continue
		}
		v, err := decode(a.body)
		if err != nil {
			return fmt.Errorf("capture %s: %w in %.200s", name, err, a.body)
		}
		if v, err = pointer(v, from); err != nil {
			return fmt.Errorf("capture %s: %w in %.200s", name, err, a.body)
		}
		p.env[name] = fmt.Sprint(v)
	}
	return nil
}
