package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/spf13/cobra"
)

// result is what one command line did.
type result struct {
	code      int
	out, errs string
}

// muster runs one command line against the agent at url ("" = the default).
func muster(t *testing.T, url, stdin string, args ...string) result {
	t.Helper()
	if url != "" {
		args = append(args, "-http-addr="+url)
		if i := slices.Index(args, "--"); i >= 0 {
			args = append([]string{"-http-addr=" + url}, args[:len(args)-1]...)
		}
	}
	var out, errs bytes.Buffer
	code := run(args, strings.NewReader(stdin), &out, &errs)
	return result{code, out.String(), errs.String()}
}

// want compares the exit code, and looks for texts in what was printed: errors in errs, everything else in out.
func (r result) want(t *testing.T, code int, texts ...string) {
	t.Helper()
	if r.code != code {
		t.Errorf("exit code %d, want %d\nout: %serr: %s", r.code, code, r.out, r.errs)
	}
	where, name := r.out, "output"
	if code != 0 && code != exitUnhealthy {
		where, name = r.errs, "error"
	}
	for _, text := range texts {
		if !strings.Contains(where, text) {
			t.Errorf("%s lacks %q:\n%s", name, text, where)
		}
	}
}

// fake is an agent that answers by "METHOD /path" with fixed texts, and remembers what it was asked.
type fake struct {
	*httptest.Server
	answers map[string]string
	asked   []string // "METHOD /path?query body"
}

func newFake(t *testing.T, answers map[string]string) *fake {
	t.Helper()
	f := &fake{answers: answers}
	f.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err != nil {
			t.Error(err)
		}
		f.asked = append(f.asked, strings.TrimSpace(r.Method+" "+r.URL.RequestURI()+" "+string(body)))
		text, ok := f.answers[r.Method+" "+r.URL.EscapedPath()]
		status := http.StatusOK
		if !ok {
			status, text = http.StatusInternalServerError, "no answer for "+r.Method+" "+r.URL.Path
		}
		if code, rest, found := strings.Cut(text, "|"); found {
			if _, err := fmt.Sscan(code, &status); err != nil {
				t.Error(err)
			}
			text = rest
		}
		w.Header().Set("X-Etcd-Index", "9")
		w.WriteHeader(status)
		_, _ = io.WriteString(w, text)
	}))
	t.Cleanup(f.Close)
	return f
}

// last is the last request.
func (f *fake) last() string {
	if len(f.asked) == 0 {
		return ""
	}
	return f.asked[len(f.asked)-1]
}

func TestNormalize(t *testing.T) {
	for _, c := range []struct{ in, want string }{
		{"kv set -ttl 5 k v", "kv set --ttl 5 k v"},
		{"kv set -ttl=5 k v", "kv set --ttl=5 k v"},
		{"kv set --ttl=5 k v", "kv set --ttl=5 k v"},
		{"kv ls -r", "kv ls -r"},
		{"kv ls -o json", "kv ls -o json"},
		{"kv ls -o=json", "kv ls -o=json"},
		{"kv ls --o=json", "kv ls -o=json"},
		{"kv ls -o= --r=", "kv ls --output= --recursive="},
		{"kv ls ---r", "kv ls ---r"},
		{"kv set k -5", "kv set -- k -5"},
		{"kv set k -----BEGIN -ttl 5", "kv set --ttl 5 -- k -----BEGIN"},
		{"kv set k -ttl 5 -x=y", "kv set --ttl 5 -- k -x=y"},
		{"kv set k v -tll 5", "kv set k v --tll 5"},
		{"kv set -tll 5 k v", "kv set --tll 5 k v"},
		{"kv set k -h", "kv set k -h"},
		{"kv get k -5", "kv get k -5"},
		{"kv exec-watch k sh -c -x -after-index 5", "kv exec-watch --after-index 5 -- k sh -c -x"},
		{"kv exec-watch -r k -- sh -c -r", "kv exec-watch -r k -- sh -c -r"},
		{"kv set k -12.5", "kv set -- k -12.5"},
		{"kv set k -", "kv set k -"},
		{"kv set -- -key -value", "kv set -- -key -value"},
		{"kv exec-watch -recursive k -- sh -c -ttl", "kv exec-watch --recursive k -- sh -c -ttl"},
		{"agent -dev -node x", "agent -dev -node x"},
		{"kv set k v -swap-with-value -abc --r", "kv set k v --swap-with-value -abc -r"},
		{"kv -output json ls", "kv --output json ls"},
		{"-http-addr -odd kv ls -r", "--http-addr -odd kv ls -r"},
		{"members -http-addr=h:1", "members --http-addr=h:1"},
		{"", ""},
	} {
		if got := strings.Join(normalize(newRoot(), strings.Fields(c.in)), " "); got != c.want {
			t.Errorf("normalize(%q) = %q, want %q", c.in, got, c.want)
		}
	}
}

// TestHelp walks the tree of commands: each must explain itself, whatever the settings.
func TestHelp(t *testing.T) {
	t.Setenv("MUSTER_HTTP_ADDR", "gopher://nonsense")
	var walk func(path []string, cmd *cobra.Command)
	seen := 0
	walk = func(path []string, cmd *cobra.Command) {
		seen++
		for _, flag := range []string{"-h", "-help", "--help"} {
			r := muster(t, "", "", append(slices.Clone(path), flag)...)
			if r.code != 0 || !strings.Contains(r.out+r.errs, "Usage") {
				t.Errorf("muster %s %s: exit code %d, %q", strings.Join(path, " "), flag, r.code, r.out+r.errs)
			}
		}
		if cmd.Short == "" {
			t.Errorf("muster %s has no short description", strings.Join(path, " "))
		}
		for _, sub := range cmd.Commands() {
			if !sub.Hidden {
				walk(append(slices.Clone(path), sub.Name()), sub)
			}
		}
	}
	walk(nil, newRoot())
	if seen < 25 {
		t.Errorf("the tree has only %d commands", seen)
	}
	for _, group := range [][]string{nil, {"kv"}, {"services"}} {
		muster(t, "", "", group...).want(t, 0, "Usage")
	}
}

func TestUnknownCommands(t *testing.T) {
	for _, args := range [][]string{{"nope"}, {"kv", "nope"}, {"services", "nope"}} {
		muster(t, "", "", args...).want(t, exitUnknown, "nope", "-h")
	}
}

func TestBadArguments(t *testing.T) {
	for _, c := range []struct {
		args []string
		text string
	}{
		{[]string{"members", "-format=xml"}, "table or json"},
		{[]string{"kv", "get", "k", "-o", "xml"}, "simple, extended or json"},
		{[]string{"kv", "get"}, "key required"},
		{[]string{"kv", "set", "k"}, "value required"},
		{[]string{"kv", "set", "k", "v", "-ttl=soon"}, "ttl"},
		{[]string{"members", "-no-such-flag"}, "no-such-flag"},
		{[]string{"members", "extra"}, "extra"},
		{[]string{"health"}, "arg"},
		{[]string{"join"}, "arg"},
		{[]string{"services", "deregister"}, "id required"},
		{[]string{"services", "register"}, "-name"},
		{[]string{"services", "register", "-name=a", "file.json"}, "not both"},
		{[]string{"services", "register", "-name=a", "-meta=novalue"}, "key=value"},
		{[]string{"services", "register", "-name=a", "-ttl=5s", "-tcp=h:1"}, "one of"},
		{[]string{"services", "register", "/no/such/file.json"}, "/no/such/file.json"},
		{[]string{"validate"}, "arg"},
		{[]string{"kv", "exec-watch", "k"}, "command"},
		{[]string{"agent", "-no-such-flag"}, "no-such-flag"},
		{[]string{"agent", "extra"}, "extra"},
		{[]string{"agent"}, "data_dir"},
	} {
		muster(t, "", "", c.args...).want(t, exitUsage, c.text)
	}
}

func TestBadAddress(t *testing.T) {
	for addr, text := range map[string]string{
		"ftp://h:1":              "http, https or unix",
		"http://":                "host:port",
		"http://[::1":            "-http-addr",
		"https://127.0.0.1:\x7f": "-http-addr",
	} {
		r := muster(t, addr, "", "members")
		r.want(t, exitUsage, text)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	closed := l.Addr().String()
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	for _, addr := range []string{closed, "http://" + closed, "unix:///no/such/socket"} {
		for _, args := range [][]string{{"members"}, {"kv", "get", "k"}, {"kv", "set", "k", "v"}, {"kv", "watch", "k"}, {"info"}, {"leave"}, {"health", "web"}} {
			muster(t, addr, "", args...).want(t, exitNoAgent, "is it running?")
		}
	}
}

func TestAddressFromEnvironmentAndSocket(t *testing.T) {
	f := newFake(t, map[string]string{"GET /v1/agent/members": "[]"})
	t.Setenv("MUSTER_HTTP_ADDR", strings.TrimPrefix(f.URL, "http://"))
	muster(t, "", "", "members").want(t, 0, "Node")

	socket := filepath.Join(t.TempDir(), "s")
	l, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	s := &http.Server{Handler: f.Config.Handler}
	go func() { _ = s.Serve(l) }()
	t.Cleanup(func() { _ = s.Close() })
	muster(t, "unix://"+socket, "", "members").want(t, 0, "Node")
}

func TestServerErrors(t *testing.T) {
	f := newFake(t, map[string]string{
		"GET /v1/agent/members":  "500|No cluster leader",
		"GET /v1/agent/self":     "not json",
		"GET /v2/keys/k":         `404|{"errorCode":100,"message":"Key not found","cause":"/k","index":9}`,
		"GET /v2/keys/plain":     "503|busy",
		"PUT /v1/agent/leave":    "403|no",
		"PUT /v1/agent/join/h:1": "500|refused",
	})
	muster(t, f.URL, "", "members").want(t, exitServer, "500", "No cluster leader")
	muster(t, f.URL, "", "info").want(t, exitServer, "JSON")
	muster(t, f.URL, "", "kv", "get", "k").want(t, exitServer, "Error:  100: Key not found (/k) [9]")
	muster(t, f.URL, "", "kv", "get", "plain").want(t, exitServer, "503", "busy")
	muster(t, f.URL, "", "leave").want(t, exitServer, "403")
	muster(t, f.URL, "", "join", "h:1").want(t, exitServer, "refused", "failed to join any")
}

func TestListFormats(t *testing.T) {
	f := newFake(t, map[string]string{
		"GET /v1/agent/members": `[{"Name":"p1","Addr":"10.0.0.2","Port":8301,"Status":4,"Tags":{"role":"node","dc":"dc1"}},
			{"Name":"a1","Addr":"10.0.0.1","Port":8301,"Status":1,"Tags":{"role":"consul","dc":"dc1"}}]`,
		"GET /v1/catalog/services":        `{"web":["v2","v1"],"db":[]}`,
		"GET /v1/catalog/nodes":           `[{"ID":"12345678-aaaa","Node":"a1","Address":"10.0.0.1","Datacenter":"dc1"},{"ID":"","Node":"x","Address":"10.0.0.9","Datacenter":"dc1"}]`,
		"GET /v1/agent/self":              `{"Stats":{"raft":{"term":"2","applied_index":"7"},"agent":{"checks":"1"}}}`,
		"GET /v1/health/service/web":      `[{"Node":{"Node":"a1","Address":"10.0.0.1"},"Service":{"ID":"w1","Port":80,"Tags":["t"]},"Checks":[{"Status":"passing"},{"Status":"warning"}]}]`,
		"GET /v1/health/service/sick":     `[{"Node":{"Node":"a1","Address":"10.0.0.1"},"Service":{"ID":"s1","Address":"10.1.1.1","Port":81},"Checks":[{"Status":"critical"}]}]`,
		"GET /v1/health/service/none":     `[]`,
		"GET /v1/health/service/a%2Fb%3F": `[]`,
	})
	table := func(wantCode int, want string, args ...string) {
		t.Helper()
		r := muster(t, f.URL, "", args...)
		if r.code != wantCode || r.out != want {
			t.Errorf("muster %s: exit code %d, want %d, and\n%s\nwant\n%s", strings.Join(args, " "), r.code, wantCode, r.out, want)
		}
	}
	table(0, "Service  Tags\ndb       \nweb      v1,v2\n", "services", "list")
	table(0, "Node  ID        Address   DC\na1    12345678  10.0.0.1  dc1\nx               10.0.0.9  dc1\n", "nodes")
	table(0, "agent:\n\tchecks = 1\nraft:\n\tapplied_index = 7\n\tterm = 2\n", "info")
	table(0, "Node  ID  Address      Status   Tags\na1    w1  10.0.0.1:80  warning  t\n", "health", "web")
	table(exitUnhealthy, "Node  ID  Address      Status    Tags\na1    s1  10.1.1.1:81  critical  \n", "health", "sick")
	muster(t, f.URL, "", "health", "none").want(t, exitUnhealthy)
	muster(t, f.URL, "", "health", "a/b?").want(t, exitUnhealthy)
	muster(t, f.URL, "", "health", "web", "-passing", "-tag=t").want(t, 0)
	if got := f.last(); got != "GET /v1/health/service/web?passing=true&tag=t" {
		t.Errorf("asked %q", got)
	}
	r := muster(t, f.URL, "", "members")
	r.want(t, 0, "alive", "failed", "server", "proxy", "10.0.0.1:8301")
	if strings.Index(r.out, "a1") > strings.Index(r.out, "p1") {
		t.Errorf("members are not sorted:\n%s", r.out)
	}
	for _, args := range [][]string{{"members"}, {"services", "list"}, {"nodes"}, {"info"}, {"health", "web"}, {"version"}} {
		r := muster(t, f.URL, "", append(args, "-format=json")...)
		var v any
		if err := json.Unmarshal([]byte(r.out), &v); r.code != 0 || err != nil {
			t.Errorf("muster %s -format=json: exit code %d, %v in %q", strings.Join(args, " "), r.code, err, r.out)
		}
	}
	muster(t, "", "", "version").want(t, 0, "Muster v", "Revision")
}

func TestClusterCommands(t *testing.T) {
	f := newFake(t, map[string]string{
		"PUT /v1/agent/join/10.0.0.1":            "",
		"PUT /v1/agent/join/10.0.0.2":            "500|refused",
		"PUT /v1/agent/leave":                    "",
		"PUT /v1/agent/reload":                   "",
		"PUT /v1/agent/service/deregister/a":     "",
		"PUT /v1/agent/service/deregister/a%2Fb": "",
	})
	muster(t, f.URL, "", "join", "10.0.0.1").want(t, 0, "contacting 1 nodes")
	r := muster(t, f.URL, "", "join", "10.0.0.2", "10.0.0.1")
	r.want(t, 0, "contacting 1 nodes")
	if !strings.Contains(r.errs, "10.0.0.2") {
		t.Errorf("the address that failed is not named: %q", r.errs)
	}
	muster(t, f.URL, "", "leave").want(t, 0, "leave complete")
	muster(t, f.URL, "", "reload").want(t, 0, "reload")
	muster(t, f.URL, "", "services", "deregister", "a").want(t, 0, "a")
	muster(t, f.URL, "", "services", "deregister", "-id=a/b").want(t, 0, "a/b")
}

func TestServicesRegister(t *testing.T) {
	f := newFake(t, map[string]string{"PUT /v1/agent/service/register": ""})
	dir := t.TempDir()
	file := func(name, text string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	bodies := func(args ...string) []string {
		t.Helper()
		f.asked = nil
		muster(t, f.URL, "", append([]string{"services", "register"}, args...)...).want(t, 0, "Registered service: ")
		var out []string
		for _, a := range f.asked {
			out = append(out, strings.TrimPrefix(a, "PUT /v1/agent/service/register "))
		}
		return out
	}
	for _, c := range []struct {
		args []string
		want []string
	}{
		{[]string{file("bare.json", `{"Name":"a","Port":1}`)}, []string{`{"Name":"a","Port":1}`}},
		{[]string{file("one.json", `{"service":{"name":"a","port":1}}`)}, []string{`{"Name":"a","Port":1}`}},
		{[]string{file("many.json", `{"services":[{"name":"a"},{"name":"b"}]}`)}, []string{`{"Name":"a"}`, `{"Name":"b"}`}},
		{[]string{file("both.json", `{"service":{"name":"a"},"services":[{"name":"b"}]}`), file("c.json", `{"Name":"c"}`)}, []string{`{"Name":"b"}`, `{"Name":"a"}`, `{"Name":"c"}`}},
		{
			[]string{file("block.hcl", `service {
				name = "a"
				id = "a1"
				meta { k = "v" }
				enable_tag_override = true
				check { id = "c" ttl = "30s" success_before_passing = 3 }
				checks = [{ http = "http://h/" interval = "1s" header { X = ["y"] } }]
			}`)},
			[]string{`{"Checks":[{"CheckID":"c","SuccessBeforePassing":3,"TTL":30000000000},{"HTTP":"http://h/","Header":{"X":["y"]},"Interval":1000000000}],"EnableTagOverride":true,"ID":"a1","Meta":{"k":"v"},"Name":"a"}`},
		},
		{[]string{"-name=a"}, []string{`{"Name":"a","Port":0}`}},
		{
			[]string{"-name=a", "-port=1", "-socket=/s", "-kind=k", "-tagged-address=lan=10.0.0.1:99", "-tagged-address=wan=h"},
			[]string{`{"Kind":"k","Name":"a","Port":1,"SocketPath":"/s","TaggedAddresses":{"lan":{"Address":"10.0.0.1","Port":99},"wan":{"Address":"h","Port":1}}}`},
		},
		{
			[]string{"-name=a", "-id=a1", "-port=80", "-address=10.0.0.1", "-tag=x", "-tag=y,z", "-meta=k=v=w", "-ttl=30s"},
			[]string{`{"Address":"10.0.0.1","Check":{"TTL":"30s"},"ID":"a1","Meta":{"k":"v=w"},"Name":"a","Port":80,"Tags":["x","y,z"]}`},
		},
		{[]string{"-name=a", "-http=http://h/", "-interval=3s", "-check-timeout=1s"}, []string{`{"Check":{"HTTP":"http://h/","Interval":"3s","Timeout":"1s"},"Name":"a","Port":0}`}},
		{[]string{"-name=a", "-tcp=h:1"}, []string{`{"Check":{"Interval":"10s","TCP":"h:1"},"Name":"a","Port":0}`}},
	} {
		if got := bodies(c.args...); !slices.Equal(got, c.want) {
			t.Errorf("services register %s sends %q, want %q", strings.Join(c.args, " "), got, c.want)
		}
	}
	f.asked = nil
	for name, text := range map[string]string{"list.json": "[1]", "broken.json": `{"Name":`, "text.json": `{"service":"a"}`, "map.json": `{"services":{"a":{}}}`, "more.json": `{"service":{"name":"a"},"server":true}`, "bad.hcl": `service {`, "x.txt": "x"} {
		// A good file before a bad one must not be registered either.
		muster(t, f.URL, "", "services", "register", file("good.json", `{"Name":"good"}`), file(name, text)).want(t, exitUsage, name)
	}
	if len(f.asked) != 0 {
		t.Errorf("with a bad file something was registered: %q", f.asked)
	}
}
