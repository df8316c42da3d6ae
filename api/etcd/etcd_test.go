package etcd_test

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/musterhq/muster/api"
	"github.com/musterhq/muster/api/etcd"
	"github.com/musterhq/muster/kv"
)

// answer is what came back.
type answer struct {
	status int
	header http.Header
	body   string
}

func (a answer) code(t *testing.T) int {
	t.Helper()
	var e struct {
		Code int `json:"errorCode"`
	}
	if err := json.Unmarshal([]byte(a.body), &e); err != nil {
		t.Fatalf("%q is not an error of the dialect: %v", a.body, err)
	}
	return e.Code
}

// plain does not follow redirects.
var plain = &http.Client{CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}

// call sends a request; form is the body of a PUT or POST, header pairs follow.
func call(t *testing.T, method, url, form string, header ...string) answer {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	var body io.Reader
	if form != "" {
		body = strings.NewReader(form)
	}
	r, err := http.NewRequestWithContext(ctx, method, url, body)
	if err != nil {
		t.Fatal(err)
	}
	if form != "" {
		r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	}
	for i := 0; i < len(header); i += 2 {
		r.Header.Set(header[i], header[i+1])
	}
	resp, err := plain.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return answer{resp.StatusCode, resp.Header, string(b)}
}

func want(t *testing.T, a answer, status int, body string) {
	t.Helper()
	if a.status != status || a.body != body {
		t.Errorf("%d %s\nwant %d %s", a.status, a.body, status, body)
	}
}

func (m *memory) set(path, value string, flags kv.OpFlags) kv.Result {
	return m.apply(kv.Txn{Ops: []kv.Op{{Kind: kv.OpSet, Path: path, Value: value, Flags: flags}}})
}

func TestExactBytes(t *testing.T) {
	u := serve(t, newMemory(t, kv.Options{}), nil)
	a := call(t, "PUT", u+"/v2/keys/a/b", "value=%3Cx%26y%3E")
	want(t, a, 201, `{"action":"set","node":{"key":"/a/b","value":"\u003cx\u0026y\u003e","modifiedIndex":4,"createdIndex":4}}`+"\n")
	for name, value := range map[string]string{"X-Etcd-Index": "4", "X-Raft-Index": "5", "X-Raft-Term": "2",
		"X-Etcd-Cluster-Id": "cdf818194e3a8c32", "Content-Type": "application/json"} {
		if a.header.Get(name) != value {
			t.Errorf("%s is %q, want %q", name, a.header.Get(name), value)
		}
	}
	want(t, call(t, "GET", u+"/v2/keys", ""), 200, `{"action":"get","node":{"dir":true,"nodes":[{"key":"/a","dir":true,"modifiedIndex":4,"createdIndex":4}]}}`+"\n")
	want(t, call(t, "PUT", u+"/v2/keys/a", "value=x"), 403, `{"errorCode":102,"message":"Not a file","cause":"/a","index":4}`+"\n")
}

// Keys of the flat dialect live in the same tree, without directories of their own.
func TestFlatKeys(t *testing.T) {
	m := newMemory(t, kv.Options{})
	u := serve(t, m, nil)
	m.set("k/f", "on top", kv.Flat)         // 4
	m.set("k/f/x", "below", kv.Flat)        // 5
	m.set("k/g/y", "deep", kv.Flat)         // 6
	m.set("k/h//z", "empty part", kv.Flat)  // 7
	m.set("k/i/", "like a folder", kv.Flat) // 8
	want(t, call(t, "GET", u+"/v2/keys/f", ""), 200,
		`{"action":"get","node":{"key":"/f","dir":true,"nodes":[{"key":"/f/x","value":"below","modifiedIndex":5,"createdIndex":5}],"modifiedIndex":4,"createdIndex":4}}`+"\n")
	want(t, call(t, "GET", u+"/v2/keys/g/", ""), 200,
		`{"action":"get","node":{"key":"/g","dir":true,"nodes":[{"key":"/g/y","value":"deep","modifiedIndex":6,"createdIndex":6}],"modifiedIndex":6,"createdIndex":6}}`+"\n")
	if a := call(t, "GET", u+"/v2/keys/h?recursive=true", ""); !strings.Contains(a.body, `{"key":"/h//z","value":"empty part"`) {
		t.Errorf("the key with an empty part is not listed: %s", a.body)
	}
	if a := call(t, "GET", u+"/v2/keys/i", ""); !strings.Contains(a.body, `{"key":"/i/","value":"like a folder"`) {
		t.Errorf("the key with a slash at its end is not listed: %s", a.body)
	}
	for _, refused := range []struct {
		method, url, form string
		status, code      int
	}{
		{"PUT", "/v2/keys/f", "value=x", 403, 102},
		{"PUT", "/v2/keys/g", "dir=true", 403, 102},
		{"PUT", "/v2/keys/f?prevValue=on+top", "value=x", 403, 102},
		{"PUT", "/v2/keys/f?prevExist=false", "value=x", 412, 105},
		{"DELETE", "/v2/keys/f?prevValue=on+top", "", 403, 102},
		{"DELETE", "/v2/keys/g?dir=true", "", 403, 108},
		{"PUT", "/v2/keys/f/x/deeper", "value=x", 400, 104},
		{"PUT", "/v2/keys/g?prevExist=true", "value=x", 403, 102},
	} {
		a := call(t, refused.method, u+refused.url, refused.form)
		if a.status != refused.status || a.code(t) != refused.code {
			t.Errorf("%s %s: %d %s", refused.method, refused.url, a.status, a.body)
		}
	}
	// A new lifetime is all that an update can give to a directory, whatever else it is.
	for _, dir := range []string{"f", "g"} {
		a := call(t, "PUT", u+"/v2/keys/"+dir+"?prevExist=true", "ttl=1000")
		if a.status != 200 || !strings.Contains(a.body, `"dir":true,"expiration"`) {
			t.Errorf("update of /%s: %d %s", dir, a.status, a.body)
		}
	}
	if e, _ := m.tree.Snap().Get("k/f"); e.Value() != "on top" || e.Expires() == 0 {
		t.Errorf("the update of the directory left %q, %d", e.Value(), e.Expires())
	}
}

func TestNoLeader(t *testing.T) {
	m := newMemory(t, kv.Options{})
	u := serve(t, m, nil)
	call(t, "PUT", u+"/v2/keys/a", "value=1")
	want(t, call(t, "GET", u+"/health", ""), 200, `{"health":"true"}`)
	m.failWith(api.ErrNoLeader)
	if a := call(t, "GET", u+"/v2/keys/a", ""); a.status != 200 {
		t.Errorf("a plain read needs no leader: %d %s", a.status, a.body)
	}
	noLeader := `{"errorCode":300,"message":"Raft Internal Error","cause":"etcdserver: no leader","index":0}` + "\n"
	want(t, call(t, "PUT", u+"/v2/keys/a", "value=2"), 500, noLeader)
	want(t, call(t, "GET", u+"/v2/keys/a?quorum=true", ""), 500, noLeader)
	want(t, call(t, "GET", u+"/health", ""), 503, `{"health":"false"}`+"\n")
	want(t, call(t, "GET", u+"/v2/members/leader", ""), 503, `{"message":"During election"}`)
	want(t, call(t, "GET", u+"/v2/stats/leader", ""), 403, `{"message":"not current leader"}`)

	m.failWith(context.DeadlineExceeded)
	want(t, call(t, "PUT", u+"/v2/keys/a", "value=2"), 500,
		`{"errorCode":300,"message":"Raft Internal Error","cause":"etcdserver: request timed out","index":0}`+"\n")
	m.failWith(fmt.Errorf("proposing: %w", api.ErrUnknownOutcome))
	if a := call(t, "PUT", u+"/v2/keys/a", "value=2"); a.status != 500 || a.code(t) != 300 {
		t.Errorf("unknown outcome: %d %s", a.status, a.body)
	}
	m.failWith(errors.New("disk full"))
	if a := call(t, "DELETE", u+"/v2/keys/a", ""); a.status != 500 || !strings.Contains(a.body, "disk full") {
		t.Errorf("other error: %d %s", a.status, a.body)
	}
	// What relays need to send the request elsewhere.
	m.failWith(fmt.Errorf("proposing: %w", api.ErrNotLeader))
	if a := call(t, "PUT", u+"/v2/keys/a", "value=2"); a.status != 503 || a.header.Get(api.NotLeaderHeader) != "1" {
		t.Errorf("not leader: %d %v", a.status, a.header)
	}
}

func TestTargets(t *testing.T) {
	d, err := etcd.New(etcd.Config{Store: newMemory(t, kv.Options{}), Members: func() []etcd.Member { return nil }})
	if err != nil {
		t.Fatal(err)
	}
	keys := d.Routes()[0]
	for request, target := range map[string]api.Target{
		"GET /v2/keys/a":                        api.Any,
		"HEAD /v2/keys/a":                       api.Any,
		"GET /v2/keys/a?wait=true&waitIndex=7":  api.Any,
		"GET /v2/keys/a?quorum=false":           api.Any,
		"GET /v2/keys/a?quorum=maybe":           api.Any,
		"GET /v2/keys/a?quorum=true":            api.Leader,
		"GET /v2/keys/a?quoru%6d=1":             api.Leader,
		"GET /v2/keys/a?wait=true&quorum=true":  api.Leader,
		"PUT /v2/keys/a":                        api.Leader,
		"POST /v2/keys/a":                       api.Leader,
		"DELETE /v2/keys/a?recursive=true":      api.Leader,
		"GET /v2/keys/a?x=quorum&recursive=%zz": api.Any,
	} {
		method, path, _ := strings.Cut(request, " ")
		if got := keys.TargetOf(httptest.NewRequest(method, path, nil)); got != target {
			t.Errorf("%s: target %d, want %d", request, got, target)
		}
	}
}

func TestConfigIsChecked(t *testing.T) {
	members := func() []etcd.Member { return nil }
	for _, c := range []etcd.Config{
		{}, {Members: members}, {Store: newMemory(t, kv.Options{})},
		{Store: newMemory(t, kv.Options{}), Members: members, MaxBody: -1},
		{Store: newMemory(t, kv.Options{}), Members: members, Timeout: -1},
	} {
		if _, err := etcd.New(c); err == nil {
			t.Errorf("%+v was accepted", c)
		}
	}
}

func TestBodyLimit(t *testing.T) {
	u := serve(t, newMemory(t, kv.Options{}), func(c *etcd.Config) { c.MaxBody = 1000 })
	tooLarge := `{"errorCode":210,"message":"Invalid POST form","cause":"http: POST too large","index":0}` + "\n"
	if a := call(t, "PUT", u+"/v2/keys/a", "value="+strings.Repeat("x", 994)); a.status != 201 {
		t.Errorf("a body at the limit: %d %s", a.status, a.body)
	}
	want(t, call(t, "PUT", u+"/v2/keys/a", "value="+strings.Repeat("x", 995)), 400, tooLarge)
	chunked, err := http.NewRequest("PUT", u+"/v2/keys/a", io.MultiReader(strings.NewReader("value="+strings.Repeat("x", 5000))))
	if err != nil {
		t.Fatal(err)
	}
	chunked.Header.Set("Content-Type", "application/x-www-form-urlencoded; charset=utf-8")
	resp, err := plain.Do(chunked)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	b, _ := io.ReadAll(resp.Body)
	want(t, answer{resp.StatusCode, resp.Header, string(b)}, 400, tooLarge)
}

func TestRedirect(t *testing.T) {
	u := serve(t, newMemory(t, kv.Options{}), nil)
	for path, to := range map[string]string{
		"/v2/keys//a":                   "/v2/keys/a",
		"/v2/keys/a%2F%2Fb?prevValue=x": "/v2/keys/a/b?prevValue=x",
		"/v2/keys/%2e%2e/keys/a%20b/":   "/v2/keys/a%20b/",
	} {
		for _, method := range []string{"GET", "PUT", "DELETE"} {
			a := call(t, method, u+path, "")
			if a.header.Get("Location") != to || a.status != 301 && a.status != 307 || method != "GET" && a.status != 307 {
				t.Errorf("%s %s: %d %s", method, path, a.status, a.header.Get("Location"))
			}
		}
	}
	want(t, call(t, "GET", u+"/v2/keys", ""), 200, `{"action":"get","node":{"dir":true}}`+"\n")
}

func TestFarDeadline(t *testing.T) {
	m := newMemory(t, kv.Options{})
	u := serve(t, m, nil)
	a := call(t, "PUT", u+"/v2/keys/a", "value=1&ttl=18446744073709551615")
	if a.status != 201 || !strings.Contains(a.body, `"expiration":"2262-04-11T`) {
		t.Errorf("%d %s", a.status, a.body)
	}
	if a := call(t, "PUT", u+"/v2/keys/a", "value=1&ttl=18446744073709551616"); a.status != 400 || a.code(t) != 202 {
		t.Errorf("%d %s", a.status, a.body)
	}
}

func TestRefreshOfDirectory(t *testing.T) {
	m := newMemory(t, kv.Options{})
	u := serve(t, m, nil)
	call(t, "PUT", u+"/v2/keys/d/x", "value=1")
	if a := call(t, "PUT", u+"/v2/keys/d", "refresh=true&ttl=50"); a.code(t) != 102 {
		t.Errorf("plain refresh: %s", a.body)
	}
	a := call(t, "PUT", u+"/v2/keys/d", "refresh=true&ttl=50&prevExist=true")
	if a.status != 200 || !strings.Contains(a.body, `"modifiedIndex":5,"createdIndex":4`) {
		t.Errorf("refresh by update: %d %s", a.status, a.body)
	}
	a = call(t, "GET", u+"/v2/keys/d", "")
	if !strings.Contains(a.body, `"key":"/d/x"`) || !strings.Contains(a.body, `"ttl":50,`) || !strings.Contains(a.body, `"modifiedIndex":4,"createdIndex":4}}`) {
		t.Errorf("after it: %s", a.body)
	}
	if a := call(t, "PUT", u+"/v2/keys/none", "refresh=true&ttl=50&prevExist=true"); a.code(t) != 100 {
		t.Errorf("missing: %s", a.body)
	}
}

func TestMembers(t *testing.T) {
	list := []etcd.Member{
		{ID: 0xb0, Name: "b", PeerURLs: []string{"http://127.0.0.1:2"}, ClientURLs: []string{"http://127.0.0.1:22"}},
		{ID: 0x0a, Name: "n1", PeerURLs: []string{"http://127.0.0.1:1"}, ClientURLs: []string{"http://127.0.0.1:11"}, Leader: true},
		{ID: 0xc0},
	}
	u := serve(t, newMemory(t, kv.Options{}), func(c *etcd.Config) {
		fake := &fakeMembers{list: list}
		c.Members, c.Membership = fake.all, fake
		c.Stats = func() etcd.Stats {
			return etcd.Stats{Followers: []etcd.Peer{{ID: 0xb0, Average: 0.5, SuccessfulAppends: 7}}}
		}
	})
	want(t, call(t, "GET", u+"/v2/members", ""), 200, `{"members":[`+
		`{"id":"a","name":"n1","peerURLs":["http://127.0.0.1:1"],"clientURLs":["http://127.0.0.1:11"]},`+
		`{"id":"b0","name":"b","peerURLs":["http://127.0.0.1:2"],"clientURLs":["http://127.0.0.1:22"]},`+
		`{"id":"c0","name":"","peerURLs":[],"clientURLs":[]}]}`)
	if list[0].Name != "b" {
		t.Error("the list of the caller was sorted")
	}
	want(t, call(t, "GET", u+"/v2/members/leader", ""), 200, `{"id":"a","name":"n1","peerURLs":["http://127.0.0.1:1"],"clientURLs":["http://127.0.0.1:11"]}`)
	want(t, call(t, "GET", u+"/v2/machines", ""), 200, "http://127.0.0.1:11, http://127.0.0.1:22")
	want(t, call(t, "GET", u+"/v2/stats/leader", ""), 200, `{"leader":"a","followers":{"b0":{"latency":{"current":0,"average":0.5,`+
		`"standardDeviation":0,"minimum":0,"maximum":0},"counts":{"fail":0,"success":7}}}}`)
	want(t, call(t, "GET", u+"/version", ""), 200, `{"etcdserver":"3.4.23","etcdcluster":"3.4.0"}`)
	for _, c := range []struct {
		method, path, body string
		status             int
	}{
		{"POST", "", `{"peerURLs":["http://127.0.0.1:9"]}`, 201},
		{"POST", "", `{"peerURLs":["http://127.0.0.1:9"]}`, 409},
		{"POST", "", `{"peerURLs":["127.0.0.1:9"]}`, 400},
		{"POST", "", `{"peerURLs":["http://127.0.0.1"]}`, 400},
		{"POST", "", `{"peerURLs":["http://127.0.0.1:9/x"]}`, 400},
		{"POST", "", `{"peerURLs":["ftp://127.0.0.1:9"]}`, 400},
		{"PUT", "/b0", `{"peerURLs":["http://127.0.0.1:1"]}`, 409},
		{"PUT", "/b0", `{"peerURLs":["http://127.0.0.1:2"]}`, 204},
		{"PUT", "/ff", `{"peerURLs":["http://127.0.0.1:2"]}`, 404},
		{"PUT", "/b0x", `no JSON`, 404},
		{"PUT", "/ff", `no JSON`, 400},
		{"DELETE", "/b0", "", 204},
		{"DELETE", "/b0", "", 410},
		{"PUT", "/b0", `{"peerURLs":["http://127.0.0.1:2"]}`, 500},
		{"DELETE", "/ff", "", 404},
		{"DELETE", "", "", 405},
	} {
		a := call(t, c.method, u+"/v2/members"+c.path, c.body, "Content-Type", "application/json")
		if a.status != c.status {
			t.Errorf("%s %s %s: %d %s, want %d", c.method, c.path, c.body, a.status, a.body, c.status)
		}
	}
}

// TestVitalMember: a removal that would harm the cluster is refused with the reason, unless forced.
func TestVitalMember(t *testing.T) {
	u := serve(t, newMemory(t, kv.Options{}), func(c *etcd.Config) {
		c.Membership = &fakeMembers{vital: true, list: []etcd.Member{{ID: 10}}}
	})
	if a := call(t, "DELETE", u+"/v2/members/a", ""); a.status != 500 || a.body != `{"message":"it is needed"}` {
		t.Errorf("%d %s", a.status, a.body)
	}
	if a := call(t, "DELETE", u+"/v2/members/a?force", ""); a.status != 204 {
		t.Errorf("forced: %d %s", a.status, a.body)
	}
}

// TestMembersRefused: whatever stands in the way of a change, the client of this dialect reads a 500, but a server that
// does not lead says so to the relay.
func TestMembersRefused(t *testing.T) {
	for err, status := range map[error]int{errors.New("no quorum"): 500, api.ErrUnknownOutcome: 500, api.ErrNotLeader: 503, etcd.ErrMemberExists: 409} {
		u := serve(t, newMemory(t, kv.Options{}), func(c *etcd.Config) { c.Membership = &fakeMembers{err: err} })
		for _, method := range []string{"POST", "PUT", "DELETE"} {
			path := "/v2/members/a"
			if method == "POST" {
				path = "/v2/members"
			}
			a := call(t, method, u+path, `{"peerURLs":["http://127.0.0.1:9"]}`, "Content-Type", "application/json")
			if a.status != status || status == 500 && a.body != `{"message":"Internal Server Error"}` {
				t.Errorf("%s with %v: %d %s, want %d", method, err, a.status, a.body, status)
			}
		}
	}
	u := serve(t, newMemory(t, kv.Options{}), func(c *etcd.Config) { c.Membership = nil })
	want(t, call(t, "DELETE", u+"/v2/members/a", ""), 501, `{"message":"the members of this server are fixed"}`)
}

func TestCounts(t *testing.T) {
	u := serve(t, newMemory(t, kv.Options{}), nil)
	call(t, "PUT", u+"/v2/keys/a", "value=1")
	call(t, "PUT", u+"/v2/keys/a/b", "value=1")
	call(t, "GET", u+"/v2/keys/a", "")
	call(t, "GET", u+"/v2/keys/none", "")
	call(t, "POST", u+"/v2/keys/q", "value=1")
	call(t, "PUT", u+"/v2/keys/a?prevValue=1", "value=2")
	call(t, "DELETE", u+"/v2/keys/a?prevValue=1", "")
	call(t, "PUT", u+"/v2/keys/a?prevExist=true", "value=2")
	call(t, "DELETE", u+"/v2/keys/a", "")
	want(t, call(t, "GET", u+"/v2/stats/store", ""), 200, `{"getsSuccess":1,"getsFail":1,"setsSuccess":1,"setsFail":1,`+
		`"deleteSuccess":1,"deleteFail":0,"updateSuccess":1,"updateFail":0,"createSuccess":1,"createFail":0,`+
		`"compareAndSwapSuccess":1,"compareAndSwapFail":0,"compareAndDeleteSuccess":0,"compareAndDeleteFail":1,"expireCount":0,"watchers":0}`)
}

// FuzzRequest: no path, query or body brings the dialect down, and every answer is one of its own.
func FuzzRequest(f *testing.F) {
	f.Add("PUT", "/a/b", "prevExist=true", "value=x&ttl=5")
	f.Add("POST", "/", "", "dir=true")
	f.Add("DELETE", "/a", "recursive=true&prevIndex=4", "")
	f.Add("GET", "//a/../%", "sorted=1&quorum=t", "")
	f.Add("GET", "/\x00\xff", "", "value=%zz")
	f.Add("PUT", "/a", "refresh=true", "ttl=18446744073709551615")
	f.Add("DELETE", "/", "prevValue=x", "")
	f.Add("GET", "/a", "wait=true&stream=true&recursive=true&waitIndex=18446744073709551615", "")
	f.Add("PUT", "/_a/./..", "prevIndex=18446744073709551615&noValueOnSuccess=1", "dir=true;")
	m := newMemory(f, kv.Options{})
	d, err := etcd.New(etcd.Config{Store: m, Members: func() []etcd.Member { return nil }})
	if err != nil {
		f.Fatal(err)
	}
	h := mux(d.Routes())
	f.Fuzz(func(t *testing.T, method, path, query, body string) {
		r := httptest.NewRequest(http.MethodGet, "/", strings.NewReader(body))
		ctx, cancel := context.WithTimeout(context.Background(), 20*time.Millisecond) // ends watches
		defer cancel()
		r = r.WithContext(ctx)
		r.Method = method
		r.URL = &url.URL{Path: "/v2/keys" + path, RawQuery: query}
		r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
		w := httptest.NewRecorder()
		h.ServeHTTP(w, r)
		switch w.Code {
		case 200, 201, 301, 307, 400, 403, 404, 405, 412, 499, 500:
		default:
			t.Errorf("%s %q ?%q: status %d", method, path, query, w.Code)
		}
		if w.Header().Get("Content-Type") == "application/json" && w.Body.Len() > 0 {
			dec := json.NewDecoder(w.Body)
			for dec.More() {
				var v map[string]any
				if err := dec.Decode(&v); err != nil {
					t.Fatalf("%s %q ?%q: %v", method, path, query, err)
				}
			}
		}
	})
}

// poll is an open watch.
type poll struct {
	resp   *http.Response
	lines  *bufio.Reader
	cancel context.CancelFunc
}

func watch(t *testing.T, url string) *poll {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	t.Cleanup(cancel)
	r, err := http.NewRequestWithContext(ctx, "GET", url, nil)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := plain.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { resp.Body.Close() })
	return &poll{resp, bufio.NewReader(resp.Body), cancel}
}

// next is the next line of the answer, "" at its end.
func (p *poll) next(t *testing.T) string {
	t.Helper()
	s, err := p.lines.ReadString('\n')
	if err != nil && !errors.Is(err, io.EOF) {
		t.Fatal(err)
	}
	return s
}

func TestStreamFromThePastGoesOn(t *testing.T) {
	u := serve(t, newMemory(t, kv.Options{}), nil)
	for i := range 3 {
		call(t, "PUT", u+"/v2/keys/s/a", "value="+strconv.Itoa(i))
	}
	call(t, "PUT", u+"/v2/keys/s/_h", "value=hidden")
	p := watch(t, u+"/v2/keys/s?wait=true&stream=true&recursive=true&waitIndex=5")
	for i := 3; i < 300; i++ { // more than etcd lets a stream lag behind
		call(t, "PUT", u+"/v2/keys/s/a", "value="+strconv.Itoa(i))
	}
	for i := 1; i < 300; i++ {
		if s := p.next(t); !strings.HasPrefix(s, fmt.Sprintf(`{"action":"set","node":{"key":"/s/a","value":"%d"`, i)) {
			t.Fatalf("event %d is %q", i, s)
		}
	}
}

func TestWatchEnds(t *testing.T) {
	m := newMemory(t, kv.Options{})
	u := serve(t, m, nil)
	watchers := func(n int) {
		t.Helper()
		deadline := time.Now().Add(time.Minute)
		for !strings.Contains(call(t, "GET", u+"/v2/stats/store", "").body, fmt.Sprintf(`"watchers":%d}`, n)) {
			if time.Now().After(deadline) {
				t.Fatalf("there are not %d watchers", n)
			}
		}
	}
	gone := watch(t, u+"/v2/keys/a?wait=true")
	watchers(1)
	gone.cancel()
	watchers(0)
	closed := watch(t, u+"/v2/keys/a?wait=true")
	stream := watch(t, u+"/v2/keys/?wait=true&recursive=true&stream=true")
	watchers(2)
	m.tree.Close()
	if s := closed.next(t) + stream.next(t); s != "" {
		t.Errorf("the end of the server gave %q", s)
	}
	watchers(0)
	if a := call(t, "GET", u+"/v2/keys/a?wait=true", ""); a.status != 500 {
		t.Errorf("a watch on a closed tree: %d %s", a.status, a.body)
	}
}

func TestEventsOfTheOtherDialect(t *testing.T) {
	m := newMemory(t, kv.Options{})
	u := serve(t, m, nil)
	m.set("k/d", "value of its own", kv.Flat)
	m.set("k/d/x", "1", kv.Flat)
	p := watch(t, u+"/v2/keys/d?wait=true&stream=true&recursive=true")
	m.apply(kv.Txn{Ops: []kv.Op{{Kind: kv.OpDelete, Path: "k/d", Action: kv.ActDelete, Flags: kv.Flat}}})
	m.set("k/d/x", "2", kv.Flat|kv.KeepCreated)
	if s := p.next(t); !strings.HasPrefix(s, `{"action":"set","node":{"key":"/d/x","value":"2"`) {
		t.Errorf("the directory did not go away, yet there came %q", s)
	}
	m.apply(kv.Txn{Ops: []kv.Op{{Kind: kv.OpSet, Action: kv.ActAcquire, Path: "k/d/x", Value: "3", Flags: kv.Flat | kv.KeepCreated}}})
	if s := p.next(t); !strings.HasPrefix(s, `{"action":"update","node":{"key":"/d/x","value":"3"`) {
		t.Errorf("a lock was taken: %q", s)
	}
	m.set("k/d", "again", kv.Flat)
	if s := p.next(t); !strings.HasPrefix(s, `{"action":"set","node":{"key":"/d","dir":true,`) {
		t.Errorf("a value on a directory: %q", s)
	}
	call(t, "DELETE", u+"/v2/keys/d?recursive=true", "")
	if s := p.next(t); !strings.HasPrefix(s, `{"action":"delete","node":{"key":"/d","dir":true,`) {
		t.Errorf("the directory went: %q", s)
	}
}

func TestHistoryIsLongAndHonest(t *testing.T) {
	u := serve(t, newMemory(t, kv.Options{HistoryEvents: 2000}), nil)
	for i := range 3000 {
		call(t, "PUT", u+"/v2/keys/a", "value="+strconv.Itoa(i))
	}
	if s := watch(t, u+"/v2/keys/a?wait=true&waitIndex=1004").next(t); !strings.Contains(s, `"value":"1000"`) {
		t.Errorf("event 1004 is %q", s)
	}
	a := call(t, "GET", u+"/v2/keys/a?wait=true&waitIndex=1003&stream=true", "")
	want(t, a, 400, `{"errorCode":401,"message":"The event in requested index is outdated and cleared",`+
		`"cause":"the requested history has been cleared [1004/1003]","index":3003}`+"\n")
	if a.header.Get("X-Etcd-Index") != "3003" {
		t.Errorf("X-Etcd-Index is %s", a.header.Get("X-Etcd-Index"))
	}
}

// TestResumedWatchSeesNoHistory: what happened after an answer began is live to its client, so a hidden node is left
// out of it even when another server has to search its history for the rest.
func TestResumedWatchSeesNoHistory(t *testing.T) {
	u := serve(t, newMemory(t, kv.Options{}), nil)
	call(t, "PUT", u+"/v2/keys/w/a", "value=1") // 4
	call(t, "PUT", u+"/v2/keys/w/_h", "value=2")
	call(t, "PUT", u+"/v2/keys/w/b", "value=3")
	path := u + "/v2/keys/w?wait=true&recursive=true&waitIndex=5"
	if a := call(t, "GET", path, ""); !strings.Contains(a.body, `"/w/_h"`) {
		t.Errorf("a watch into the past shows %s, want the hidden node", a.body)
	}
	if a := call(t, "GET", path, "", api.ResumeHeader, "4"); !strings.Contains(a.body, `"/w/b"`) {
		t.Errorf("a watch that goes on shows %s, want the node that is not hidden", a.body)
	}
}
