package etcdreplay

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"reflect"
	"strconv"
	"strings"
	"testing"
	"time"
)

// randomBase is the index at which a random sequence begins; its requests are moved to that of each server.
const randomBase = 100

// TestRandomAgainstEtcd sends random requests and watches, the same to a real etcd and to the server named by
// MUSTER_CONFORMANCE_URL (an agent started with Likeness; a proxy in front of one will do as well), and compares. What is
// listed as a departure is not asked for. MUSTER_CONFORMANCE_SEED repeats a run.
func TestRandomAgainstEtcd(t *testing.T) {
	base := os.Getenv("MUSTER_CONFORMANCE_URL")
	if base == "" {
		t.Skip("MUSTER_CONFORMANCE_URL is not set")
	}
	bin, err := exec.LookPath("etcd")
	if err != nil {
		t.Skip("etcd is not installed")
	}
	seed := uint64(time.Now().UnixNano())
	if s := os.Getenv("MUSTER_CONFORMANCE_SEED"); s != "" {
		if seed, err = strconv.ParseUint(s, 10, 64); err != nil {
			t.Fatal(err)
		}
	}
	t.Logf("MUSTER_CONFORMANCE_SEED=%d", seed)
	etcd, err := newTarget(startEtcd(t, bin))
	if err != nil {
		t.Fatal(err)
	}
	live, err := newTarget(base)
	if err != nil {
		t.Fatal(err)
	}
	for i := range 200 {
		p := &pair{t: t, gen: gen{rand.New(rand.NewPCG(seed, uint64(i))), fmt.Sprint(i)}, sides: [2]*side{{target: etcd}, {target: live}}}
		p.sequence(50)
		if t.Failed() {
			t.Fatalf("sequence %d:\n%s", i, strings.Join(p.sent, "\n"))
		}
	}
}

// pair is one sequence, sent to two servers.
type pair struct {
	t     *testing.T
	gen   gen
	sides [2]*side
	sent  []string
}

// side is one of the two servers.
type side struct {
	*target
	base    int64
	watches []*watch
	events  [][]any // of each watch, comparable
}

func (p *pair) sequence(steps int) {
	for _, s := range p.sides {
		if err := s.prepare(randomBase); err != nil {
			p.t.Fatal(err)
		}
		if _, err := s.do(&Request{Method: "DELETE", Path: "/v2/keys/_h" + p.gen.tag, Query: map[string]any{"recursive": "true"}}, false); err != nil {
			p.t.Fatal(err)
		}
		var err error
		if s.base, err = s.index(); err != nil {
			p.t.Fatal(err)
		}
	}
	defer func() {
		for _, s := range p.sides {
			for _, w := range s.watches {
				w.close()
			}
		}
	}()
	var streams []bool
	for range steps {
		r, isWatch := p.gen.request(), p.gen.chance(30)
		if isWatch {
			now, err := p.sides[0].index()
			if err != nil {
				p.t.Fatal(err)
			}
			r = p.gen.watch(randomBase + now - p.sides[0].base)
			streams = append(streams, r.Query["stream"] != nil)
		}
		line, _ := json.Marshal(r)
		p.sent = append(p.sent, string(line))
		if !p.both(r, isWatch) {
			return
		}
	}
	if !p.both(&Request{Method: "GET", Path: "/v2/keys/", Query: map[string]any{"recursive": "true", "sorted": "true"}}, false) {
		return
	}
	p.compareEvents(streams)
}

// both sends r to both servers; false: the answers differ.
func (p *pair) both(r *Request, isWatch bool) bool {
	var got [2]any
	for i, s := range p.sides {
		moved := shift(r, randomBase, s.base, nil)
		var err error
		if isWatch {
			var w *watch
			if w, got[i], err = s.watch(moved, 5*time.Second); err == nil {
				s.watches, s.events = append(s.watches, w), append(s.events, nil)
			}
		} else {
			got[i], err = s.do(moved, false)
		}
		if err != nil {
			p.t.Errorf("%s: %v", s.url, err)
			return false
		}
		got[i] = anyTTL(normal(got[i], &Step{Request: r}, s.base, nil))
	}
	if d := firstDiff(got[0], got[1], ""); d != "" {
		p.t.Errorf("%s", d)
		return false
	}
	return true
}

// compareEvents waits until all watches have brought the same. Streams of etcd bring the removal of their key twice.
func (p *pair) compareEvents(streams []bool) {
	deadline := time.Now().Add(5 * time.Second)
	for {
		for _, s := range p.sides {
			for i, w := range s.watches {
				for v := w.next(5 * time.Millisecond); v != "<timeout>" && v != "<end>"; v = w.next(5 * time.Millisecond) {
					one := map[string]any{"body": v}
					ev := anyTTL(normal(one, &Step{}, s.base, nil))
					if n := len(s.events[i]); !streams[i] || n == 0 || !reflect.DeepEqual(s.events[i][n-1], ev) {
						s.events[i] = append(s.events[i], ev)
					}
				}
			}
		}
		if reflect.DeepEqual(p.sides[0].events, p.sides[1].events) {
			return
		}
		if time.Now().After(deadline) {
			for i := range streams {
				if a, b := p.sides[0].events[i], p.sides[1].events[i]; !reflect.DeepEqual(a, b) {
					p.t.Errorf("watch %d: etcd gives %v, the other %v", i, a, b)
				}
			}
			return
		}
	}
}

// anyTTL leaves of a time to live that it is there: a second may pass between the two answers.
func anyTTL(v any) any {
	switch v := v.(type) {
	case map[string]any:
		for k, x := range v {
			if v[k] = anyTTL(x); k == "ttl" {
				v[k] = typeName(x)
			}
		}
	case []any:
		for i := range v {
			v[i] = anyTTL(v[i])
		}
	}
	return v
}

// gen makes requests on few keys, so that they meet. Other sequences have other keys: what a proxy still shares of the
// watches of one would cover up what it does to those of the next.
type gen struct {
	*rand.Rand
	tag string
}

func (g gen) chance(percent int) bool    { return g.IntN(100) < percent }
func (g gen) pick(list ...string) string { return list[g.IntN(len(list))] }
func (g gen) or(odd, usual string) string {
	return map[bool]string{true: odd, false: usual}[g.chance(10)]
}

func (g gen) key() string {
	k := "/v2/keys"
	for range 1 + g.IntN(3) {
		k += "/" + g.or(g.pick("%C3%A9", "a%20b", "%25", "+", "..a", "%22", "%E2%80%A8", "%0A", "%00"), g.pick("a", "a", "b", "ab", "_h")+g.tag)
	}
	return k + g.or("/", "")
}

func (g gen) value(name string) string {
	switch name {
	case "value", "prevValue":
		return g.or(g.pick("é", "a+b&c", "\x00", "<b>", "\u2028", strings.Repeat("v", 3000)), g.pick("x", "x", "y", ""))
	case "ttl":
		return g.or(g.pick("-1", "1.5", "+500", "5x", "18446744073709551616"), g.pick("500", "1000", ""))
	case "prevIndex":
		return g.or(g.pick("", "-1", "x", "0", "1"), strconv.Itoa(randomBase+g.IntN(20)))
	}
	return g.or(g.pick("", "yes", "2", "tRUE", " true"), g.pick("true", "true", "false", "1", "0", "T", "f", "True"))
}

func (g gen) request() *Request {
	r := &Request{Method: g.pick("PUT", "PUT", "PUT", "GET", "POST", "DELETE"), Path: g.key()}
	names := map[string][]string{
		"PUT":    {"value", "value", "dir", "ttl", "prevExist", "prevValue", "prevIndex", "refresh", "noValueOnSuccess", "recursive"},
		"POST":   {"value", "dir", "ttl", "prevExist", "prevValue", "noValueOnSuccess", "refresh"},
		"DELETE": {"recursive", "recursive", "dir", "dir", "prevValue", "prevIndex", "ttl"},
		"GET":    {"recursive", "sorted", "quorum", "dir", "prevExist"},
	}[r.Method]
	switch g.IntN(40) {
	case 0:
		r.Path += g.pick("//x", "/./x", "/../x", "/..")
		return r // with a query the redirect is another
	case 1:
		r.Method = g.pick("HEAD", "OPTIONS", "PATCH", "FOO")
	case 2:
		r.Headers = map[string]string{"Content-Type": g.pick("text/plain", "application/x-www-form-urlencoded; a", ";", "a/b; c=1; c=2")}
	case 3:
		raw := g.pick("value=%zz", "a;b", "=", "&&value=x&value=y", "value", "va%6Cue=z")
		r.RawQuery = &raw
		return r
	}
	for range g.IntN(4) {
		at := &r.Query
		if g.chance(50) && (r.Method == "PUT" || r.Method == "POST") {
			at = &r.Form
		}
		if *at == nil {
			*at = make(map[string]any)
		}
		name := names[g.IntN(len(names))]
		(*at)[name] = g.value(name)
	}
	for _, fields := range []map[string]any{r.Query, r.Form} {
		if fields["refresh"] != nil {
			delete(r.Query, "dir") // it would turn a key into a directory
			delete(r.Form, "dir")
		}
	}
	return r
}

// watch makes a watch of what is still to come: what etcd finds in its history is another matter.
func (g gen) watch(now int64) *Request {
	q := map[string]any{"wait": "true"}
	for _, name := range []string{"recursive", "stream"} {
		if g.chance(50) {
			q[name] = "true"
		}
	}
	if g.chance(50) {
		q["waitIndex"] = fmt.Sprint(now + 1 + g.Int64N(30))
	}
	path := "/v2/keys"
	for range g.IntN(3) {
		path += "/" + g.pick("a", "a", "a", "_h") + g.tag
	}
	return &Request{Method: "GET", Path: path, Query: q}
}
