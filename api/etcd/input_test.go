package etcd_test

import (
	"bufio"
	"bytes"
	"fmt"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/musterhq/muster/api/etcd"
	"github.com/musterhq/muster/kv"
)

// checks are the refusals of a request under /v2/keys in the order in which they are looked for. The parameters are
// those of a PUT.
var checks = []struct {
	params  []string // each of them alone is refused so
	code    int
	message string
	cause   string
}{
	{[]string{"x=%zz"}, 210, "Invalid POST form", `invalid URL escape "%zz"`},
	{[]string{"x=1;y=2"}, 210, "Invalid POST form", "invalid semicolon separator in query"},
	{numbers("prevIndex", true), 203, "The given index in POST form is not a number", `invalid value for "prevIndex"`},
	{numbers("waitIndex", true), 203, "The given index in POST form is not a number", `invalid value for "waitIndex"`},
	{bools("recursive"), 209, "Invalid field", `invalid value for "recursive"`},
	{bools("sorted"), 209, "Invalid field", `invalid value for "sorted"`},
	{bools("wait"), 209, "Invalid field", `invalid value for "wait"`},
	{bools("dir"), 209, "Invalid field", `invalid value for "dir"`},
	{bools("quorum"), 209, "Invalid field", `invalid value for "quorum"`},
	{bools("stream"), 209, "Invalid field", `invalid value for "stream"`},
	{[]string{"wait=true", "wait=1"}, 209, "Invalid field", `"wait" can only be used with GET requests`},
	{[]string{"prevValue=", "prevValue"}, 201, "PrevValue is Required in POST form", `"prevValue" cannot be empty`},
	{bools("noValueOnSuccess"), 209, "Invalid field", `invalid value for "noValueOnSuccess"`},
	{numbers("ttl", false), 202, "The given TTL in POST form is not a number", `invalid value for "ttl"`},
	{bools("prevExist"), 209, "Invalid field", "invalid value for prevExist"},
	{bools("refresh"), 209, "Invalid field", "invalid value for refresh"},
	{[]string{"refresh=true&value=v"}, 211, "Value provided on refresh", "A value was provided on a refresh"},
	{[]string{"refresh=true", "refresh=1&value=", "refresh=t&ttl="}, 212, "A TTL must be provided on refresh", "No TTL value set"},
}

func bools(name string) (out []string) {
	for _, v := range []string{"", "maybe", "2", "yes", "tRUE", "-1", "+true", "on"} {
		out = append(out, name+"="+v)
	}
	return out
}

func numbers(name string, empty bool) (out []string) {
	for _, v := range []string{"-1", "1.5", "+5", "%205", "5%20", "0x10", "1e3", "18446744073709551616", "five", "1_000"} {
		out = append(out, name+"="+v)
	}
	if empty {
		out = append(out, name+"=")
	}
	return out
}

// TestRefusals: each malformed parameter has its exact refusal, wherever it stands, in the order of the checks, and
// changes nothing.
func TestRefusals(t *testing.T) {
	m := newMemory(t, kv.Options{})
	u := serve(t, m, nil) + "/v2/keys"
	call(t, "PUT", u+"/k", "value=1")
	before := m.tree.Snap().Hash()
	refused := func(i int, a answer, what string) {
		t.Helper()
		c := checks[i]
		body := fmt.Sprintf(`{"errorCode":%d,"message":"%s","cause":"%s","index":0}`+"\n", c.code, c.message, strings.ReplaceAll(c.cause, `"`, `\"`))
		if a.status != 400 || a.body != body {
			t.Errorf("%s: %d %swant 400 %s", what, a.status, a.body, body)
		}
		if a.header.Get("X-Etcd-Index") != "0" || a.header.Get("X-Etcd-Cluster-Id") == "" || a.header.Get("X-Raft-Index") != "" || a.header.Get("Content-Type") != "application/json" {
			t.Errorf("%s: headers %v", what, a.header)
		}
	}
	for i, c := range checks {
		for _, p := range c.params {
			refused(i, call(t, "PUT", u+"/k?"+p, ""), "PUT ?"+p)
			refused(i, call(t, "PUT", u+"/k", p), "PUT "+p)
			refused(i, call(t, "POST", u+"/k", "more=1&"+p), "POST "+p)
			refused(i, call(t, "DELETE", u+"/k?"+p, ""), "DELETE ?"+p)
			if !strings.HasPrefix(p, "wait=") || c.cause == `invalid value for "wait"` {
				refused(i, call(t, "GET", u+"/k?"+p, ""), "GET ?"+p)
			}
			if a := call(t, http.MethodHead, u+"/k?"+p, ""); a.status != 400 || a.body != "" {
				t.Errorf("HEAD ?%s: %d %s", p, a.status, a.body)
			}
			// The body of other methods is not looked at.
			if a := call(t, "GET", u+"/k", p); a.status != 200 {
				t.Errorf("GET with the body %s: %d %s", p, a.status, a.body)
			}
			// The first check that fails decides, wherever the others stand.
			for j := i + 1; j < len(checks); j++ {
				other := checks[j].params[0]
				if name, _, _ := strings.Cut(p, "="); strings.HasPrefix(other, name+"=") || strings.Contains(p, "value=") && strings.Contains(other, "value=") {
					continue
				}
				if strings.HasPrefix(p, "ttl=") && j >= len(checks)-2 || strings.HasPrefix(p, "x=") && strings.HasPrefix(other, "x=") {
					continue
				}
				refused(i, call(t, "PUT", u+"/k?"+other+"&"+p, ""), "PUT ?"+other+"&"+p)
				refused(i, call(t, "PUT", u+"/k?"+p, other), "PUT ?"+p+" "+other)
			}
		}
	}
	if m.tree.Snap().Hash() != before {
		t.Error("a refused request has changed something")
	}
	// What only looks odd is accepted.
	for i, p := range []string{"ttl=", "ttl=0100", "prevIndex=0", "waitIndex=000", "unknown=%20&x", "dir=F", "prevExist=T", "noValueOnSuccess=0", "stream=1", "&&=&value=1", "refresh=false&value=1"} {
		if a := call(t, "PUT", fmt.Sprintf("%s/odd/%d?prevExist=false", u, i), p); a.status != 201 && a.status != 404 {
			t.Errorf("PUT %s: %d %s", p, a.status, a.body)
		}
	}
}

// TestContentType: only a form is looked at, and a type that cannot be parsed is refused whether there is a body or not,
// as etcd 3.4 does it.
func TestContentType(t *testing.T) {
	m := newMemory(t, kv.Options{})
	u := serve(t, m, nil) + "/v2/keys/k"
	for _, c := range []struct{ contentType, body, value, cause string }{
		{"application/x-www-form-urlencoded", "value=v", "v", ""},
		{"Application/X-WWW-Form-Urlencoded; charset=utf-8", "value=v", "v", ""},
		{"application/x-www-form-urlencoded;", "value=v", "v", ""},
		{"application/x-www-form-urlencoded", "", "", ""},
		{"application/json", "value=v", "", ""},
		{"multipart/form-data", "value=v", "", ""},
		{"application/x-www-form-urlencoded; a", "value=v", "", "mime: invalid media parameter"},
		{"application/x-www-form-urlencoded; a", "", "", "mime: invalid media parameter"},
		{"text/plain; a=1; a=2", "", "", "mime: duplicate parameter name"},
		{"application/x-www-form-urlencoded, text/plain", "", "", "mime: unexpected content after media subtype"},
		{";", "value=v", "", "mime: no media type"},
	} {
		what := fmt.Sprintf("Content-Type %q with %q", c.contentType, c.body)
		before := m.tree.Snap().Hash()
		a := call(t, "PUT", u, c.body, "Content-Type", c.contentType)
		if c.cause != "" {
			if want := `{"errorCode":210,"message":"Invalid POST form","cause":"` + c.cause + `","index":0}` + "\n"; a.status != 400 || a.body != want {
				t.Errorf("%s: %d %s, want 400 %s", what, a.status, a.body, want)
			}
			if m.tree.Snap().Hash() != before {
				t.Errorf("%s: refused, yet something has changed", what)
			}
		} else if a.status >= 400 || !strings.Contains(a.body, `"node":{"key":"/k","value":"`+c.value+`"`) {
			t.Errorf("%s: %d %s, want the value %q", what, a.status, a.body, c.value)
		}
	}
}

// TestTooLargeIsTold: a client that sends its whole body before it reads gets the refusal, not a broken connection. The
// body is larger than what the kernel keeps for the two.
func TestTooLargeIsTold(t *testing.T) {
	const limit = 16 << 20
	u := serve(t, newMemory(t, kv.Options{}), func(c *etcd.Config) { c.MaxBody = limit })
	conn, err := net.Dial("tcp", strings.TrimPrefix(u, "http://"))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if err := conn.SetDeadline(time.Now().Add(time.Minute)); err != nil {
		t.Fatal(err)
	}
	body := bytes.Repeat([]byte("v"), limit*3/2)
	fmt.Fprintf(conn, "PUT /v2/keys/k HTTP/1.1\r\nHost: h\r\nContent-Type: application/x-www-form-urlencoded\r\nContent-Length: %d\r\n\r\n", len(body))
	if _, err := conn.Write(body); err != nil {
		t.Fatalf("sending the body: %v", err)
	}
	resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		t.Fatalf("reading the answer: %v", err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != 400 {
		t.Errorf("status %d", resp.StatusCode)
	}
}

// TestTooLargeIsNotSent: who asks first whether to send the body is told before he does.
func TestTooLargeIsNotSent(t *testing.T) {
	u := serve(t, newMemory(t, kv.Options{}), func(c *etcd.Config) { c.MaxBody = 1000 })
	conn, err := net.Dial("tcp", strings.TrimPrefix(u, "http://"))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if err := conn.SetDeadline(time.Now().Add(time.Minute)); err != nil {
		t.Fatal(err)
	}
	fmt.Fprint(conn, "PUT /v2/keys/k HTTP/1.1\r\nHost: h\r\nContent-Type: application/x-www-form-urlencoded\r\nContent-Length: 1001\r\nExpect: 100-continue\r\n\r\n")
	resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		t.Fatalf("reading the answer: %v", err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != 400 {
		t.Errorf("status %d", resp.StatusCode)
	}
}
