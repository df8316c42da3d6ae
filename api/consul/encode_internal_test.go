package consul

import (
	"encoding/json"
	"reflect"
	"strings"
	"testing"

	"github.com/musterhq/muster/catalog"
	"github.com/musterhq/muster/kv"
)

var strange = []string{
	"", "plain", `quo"te`, `back\slash`, "tab\tnew\nline\rfeed\fback\b", "nul\x00\x1f\x7f", "<html>&amp;", "ünï©ode", "\u2028\u2029",
	"bad\xffutf\xc3", "日本", "😀", strings.Repeat("long ", 200),
}

func TestAppendStringIsJSON(t *testing.T) {
	for _, s := range strange {
		want, err := encodeJSON(s)
		if err != nil {
			t.Fatal(err)
		}
		if got := appendString(nil, s); string(got) != string(want) {
			t.Errorf("%q: %s, want %s", s, got, want)
		}
	}
}

func FuzzAppendString(f *testing.F) {
	for _, s := range strange {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		want, _ := encodeJSON(s)
		if got := appendString(nil, s); string(got) != string(want) {
			t.Errorf("%q: %s, want %s", s, got, want)
		}
	})
}

// The fast encoders give byte for byte what encoding/json makes of the structs that define the shapes.
func TestEncodersMatchTheShapes(t *testing.T) {
	nodes := []*catalog.Node{
		{Name: "n1"},
		{ID: "id", Name: "n2", Address: "10.0.0.1", Datacenter: "dc1", TaggedAddresses: map[string]string{"wan": "2", "lan": "1"}, Meta: map[string]string{}, Created: 5, Modified: 7},
	}
	services := []*catalog.Service{
		{ID: "s"},
		{
			ID: "s1", Name: "web", Kind: "k", Tags: []string{"a", `b"`}, Address: "1.2.3.4", Port: 80, SocketPath: "/s",
			TaggedAddresses: map[string]catalog.Address{"wan": {Address: "x", Port: 1}, "lan": {}}, Meta: map[string]string{"b": "2", "a": "1"},
			Weights: catalog.Weights{Passing: 3}, EnableTagOverride: true, Locality: &catalog.Locality{Region: "<r>", Zone: "z"}, Created: 1, Modified: 1<<64 - 1,
		},
	}
	checks := []*catalog.Check{
		{ID: "c"},
		{
			Node: "n", ID: "c", Name: "name", Status: "passing", Notes: "notes", Output: "out\nput", ServiceID: "s", ServiceName: "web",
			ServiceTags: []string{"t"}, Type: "ttl", Interval: "1s", Timeout: "2s", Definition: map[string]any{"HTTP": "http://x?a&b", "Header": map[string]any{}},
			Created: 1, Modified: 2,
		},
	}
	for _, n := range nodes {
		for _, s := range services {
			for k := range len(checks) + 1 {
				i := &catalog.Instance{Node: n, Service: s, Checks: checks[:k]}
				want, err := encodeJSON(&ServiceEntry{nodeOf(n), nodeServiceOf(s), healthChecksOf(i.Checks)})
				if err != nil {
					t.Fatal(err)
				}
				if got := appendEntry([]byte("["), i)[1:]; string(got) != string(want) {
					t.Errorf("got  %s\nwant %s", got, want)
				}
			}
		}
	}
}

func TestAppendKVIsJSON(t *testing.T) {
	type pair struct {
		LockIndex   uint64
		Key         string
		Flags       uint64
		Value       []byte
		Session     string `json:",omitempty"`
		CreateIndex uint64
		ModifyIndex uint64
	}
	tree := kv.New(kv.Options{})
	defer tree.Close()
	for i, key := range append(strange[1:len(strange):len(strange)], strings.Repeat("k", 95)) {
		value := strings.Repeat(key, i)
		if res := tree.Apply(kv.Txn{Ops: []kv.Op{{Kind: kv.OpSet, Path: "k/" + key, Value: value, UserFlags: 1 << 63}}})[0]; res.Code != kv.OK {
			t.Fatalf("%q: code %d", key, res.Code)
		}
		e, _ := tree.Snap().Get("k/" + key)
		p := pair{Key: key, Flags: 1 << 63, Value: []byte(value), CreateIndex: e.Created(), ModifyIndex: e.Modified()}
		if value == "" {
			p.Value = nil
		}
		want, _ := encodeJSON(p)
		if got := appendKV(nil, key, e); string(got) != string(want) {
			t.Errorf("got  %s\nwant %s", got, want)
		}
	}
}

func TestFilters(t *testing.T) {
	entry := ServiceEntry{
		Node:    &Node{Node: "n1", Datacenter: "dc1", Meta: map[string]string{"env": "prod", "odd key": "x"}},
		Service: &NodeService{ID: "s1", Service: "web", Tags: []string{"a", "b"}, Port: 80, EnableTagOverride: true, Meta: map[string]string{"v": "1"}},
		Checks:  []*HealthCheck{{CheckID: "c1", Status: "passing"}, {CheckID: "c2", Status: "warning", Output: "oops 42"}},
	}
	for expr, want := range map[string]bool{
		`Service.Service == web`:                               true,
		`Service.Service == "web" and Node.Node != n1`:         false,
		`Service.Port == 80`:                                   true,
		`Service.Port != 80 or Node.Meta.env == prod`:          true,
		`not Service.Port == 80`:                               false,
		`Service.EnableTagOverride == true`:                    true,
		`a in Service.Tags and c not in Service.Tags`:          true,
		`Service.Tags contains b`:                              true,
		`Service.Tags not contains b`:                          false,
		`Service.Tags is empty`:                                false,
		`Service.Address is empty`:                             true,
		`env in Node.Meta`:                                     true,
		`zone in Node.Meta`:                                    false,
		`Node.Meta["odd key"] == x`:                            true,
		`Node.Meta.zone == x`:                                  false,
		`Node.Meta.zone != x`:                                  true,
		`Checks.Status == warning`:                             true,
		`Checks.Status == critical`:                            false,
		`Checks.Status != passing`:                             true,
		`Checks.Output matches "^oops [0-9]+$"`:                true,
		`Checks.Output not matches "."`:                        true,
		`"oop" in Checks.Output`:                               true,
		`(Node.Datacenter == dc1 and (Service.Meta.v == "1"))`: true,
	} {
		f, err := newFilter[ServiceEntry](expr)
		if err != nil {
			t.Errorf("%s: %v", expr, err)
			continue
		}
		if got := f.pass(&entry); got != want {
			t.Errorf("%s: %v, want %v", expr, got, want)
		}
	}
	for _, expr := range []string{
		`Nope == 1`, `Service.Nope == 1`, `Service.Port == x`, `Service.Port in 3`, `Service.Port is empty`, `Service == x`, `Checks == x`,
		`Node.Meta.env is not empty`, `Service.Service matches "("`, `((`, `==`, `Service.Service.More == 1`, `node.node == x`, `Service.Port matches "8"`,
		`Service.EnableTagOverride == maybe`, strings.Repeat("(", 5000), `Node.Node == "` + strings.Repeat("x", 5000) + `"`,
	} {
		if _, err := newFilter[ServiceEntry](expr); err == nil {
			t.Errorf("%.60s: accepted", expr)
		}
	}
	if f, err := newFilter[ServiceEntry](`Node.Meta.env == prod`); err != nil || f.pass(&ServiceEntry{}) {
		t.Errorf("nothing there: %v", err)
	}
}

func FuzzFilter(f *testing.F) {
	for _, s := range []string{`a == b`, `Checks.Status != "x" and not (Service.Port == 1)`, `x in Service.Tags`, `Node.Meta["a b"] is empty`, `any Service.Tags as t { t == "x" }`} {
		f.Add(s)
	}
	f.Fuzz(func(_ *testing.T, s string) {
		if f, err := newFilter[ServiceEntry](s); err == nil && f != nil {
			f.pass(&ServiceEntry{Service: &NodeService{Tags: []string{"x"}}, Checks: []*HealthCheck{{}}})
		}
	})
}

func TestParams(t *testing.T) {
	p, err := parseParams("a=1&b&c=x%20y+z&a=2&&d=e=f&g&h&i=9")
	if err != nil {
		t.Fatal(err)
	}
	for k, want := range map[string]string{"a": "1", "b": "", "c": "x y z", "d": "e=f", "i": "9"} {
		if got, ok := p.lookup(k); !ok || got != want {
			t.Errorf("%s = %q, %v", k, got, ok)
		}
	}
	if !reflect.DeepEqual(p.all("a"), []string{"1", "2"}) || p.has("z") {
		t.Errorf("a = %v, z %v", p.all("a"), p.has("z"))
	}
	for _, bad := range []string{"a=%", "%zz=1", "a;b"} {
		if _, err := parseParams(bad); err == nil {
			t.Errorf("%q: accepted", bad)
		}
	}
}

func FuzzParams(f *testing.F) {
	f.Add("a=1&b&c=x%20y")
	f.Fuzz(func(t *testing.T, s string) {
		p, err := parseParams(s)
		if err != nil {
			return
		}
		for i := range p.n {
			if !p.has(p.at(i).key) {
				t.Errorf("%q: lost %q", s, p.at(i).key)
			}
		}
	})
}

func TestDurations(t *testing.T) {
	for in, want := range map[string]string{`"10s"`: "10s", `1000000000`: "1s", `1e9`: "1s", `""`: "0s", `null`: "0s", `"1h"`: "1h0m0s"} {
		var d Duration
		if err := json.Unmarshal([]byte(in), &d); err != nil || d.String() != want {
			t.Errorf("%s: %v, %v", in, d, err)
		}
	}
	for _, in := range []string{`"x"`, `true`, `{}`, `1e99`, `"10"`} {
		var d Duration
		if err := json.Unmarshal([]byte(in), &d); err == nil {
			t.Errorf("%s: accepted as %v", in, d)
		}
	}
	for in, want := range map[string]string{`999`: "16m39s", `1000`: "1µs", `0`: "0s", `1.9`: "1s", `"5s"`: "5s"} {
		var d lockDelay
		if err := json.Unmarshal([]byte(in), &d); err != nil || Duration(d).String() != want {
			t.Errorf("lock delay %s: %v, %v", in, Duration(d), err)
		}
	}
}
