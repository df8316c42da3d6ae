package main

import (
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

const node = `{"action":"get","node":{"key":"/k","value":"v","modifiedIndex":7,"createdIndex":5}}`

func TestKVRequests(t *testing.T) {
	set := `{"action":"set","node":{"key":"/k","value":"v","modifiedIndex":8,"createdIndex":8},"prevNode":{"key":"/k","value":"old","modifiedIndex":7,"createdIndex":7}}`
	del := `{"action":"delete","node":{"key":"/k","modifiedIndex":9,"createdIndex":8},"prevNode":{"key":"/k","value":"v","modifiedIndex":8,"createdIndex":8}}`
	dir := `{"action":"set","node":{"key":"/d","dir":true,"modifiedIndex":8,"createdIndex":8}}`
	rmdir := `{"action":"delete","node":{"key":"/d","dir":true,"modifiedIndex":9,"createdIndex":8},"prevNode":{"key":"/d","dir":true,"modifiedIndex":8,"createdIndex":8}}`
	list := `{"action":"get","node":{"key":"/d","dir":true,"nodes":[{"key":"/d/a","value":"1"},{"key":"/d/e","dir":true,"nodes":[{"key":"/d/e/f","value":"2"}]}]}}`
	f := newFake(t, map[string]string{
		"GET /v2/keys/k": node, "PUT /v2/keys/k": set, "DELETE /v2/keys/k": del, "POST /v2/keys/k": set,
		"PUT /v2/keys/d": dir, "DELETE /v2/keys/d": rmdir, "GET /v2/keys/d": list, "GET /v2/keys/": list,
		"GET /v2/keys/a%20b/c%3Fd": node,
	})
	read := "?quorum=false&recursive=false&sorted=false"
	for _, c := range []struct {
		args, stdin, asked, out string
	}{
		{"get k", "", "GET /v2/keys/k" + read, "v\n"},
		{"get /k -sort -quorum", "", "GET /v2/keys/k?quorum=true&recursive=false&sorted=true", "v\n"},
		{"get k -o extended", "", "GET /v2/keys/k" + read, "Key: /k\nCreated-Index: 5\nModified-Index: 7\nTTL: 0\nIndex: 9\n\nv\n"},
		{"get k -output=json", "", "GET /v2/keys/k" + read, `{"action":"get","node":{"key":"/k","value":"v","nodes":null,"createdIndex":5,"modifiedIndex":7},"prevNode":null}` + "\n"},
		{"set k v", "", "PUT /v2/keys/k value=v", "v\n"},
		{"set k", "from stdin", "PUT /v2/keys/k value=from+stdin", "v\n"},
		{"set k -ttl 5 -- -v", "", "PUT /v2/keys/k ttl=5&value=-v", "v\n"},
		{"set k v -swap-with-value=a -swap-with-index=3", "", "PUT /v2/keys/k?prevIndex=3&prevValue=a value=v", "v\n"},
		{"set k v -o extended", "", "PUT /v2/keys/k value=v", "Key: /k\nCreated-Index: 8\nModified-Index: 8\nPrevNode.Value: old\nTTL: 0\nIndex: 9\n\nv\n"},
		{"mk k v", "", "PUT /v2/keys/k?prevExist=false value=v", "v\n"},
		{"mk k v -in-order -ttl=3", "", "POST /v2/keys/k ttl=3&value=v", "v\n"},
		{"update k v", "", "PUT /v2/keys/k?prevExist=true value=v", "v\n"},
		{"rm k", "", "DELETE /v2/keys/k", "PrevNode.Value: v\n"},
		{"rm k -with-value=v -with-index=4 -dir -r", "", "DELETE /v2/keys/k?dir=true&prevIndex=4&prevValue=v&recursive=true", "PrevNode.Value: v\n"},
		{"mkdir d", "", "PUT /v2/keys/d?dir=true&prevExist=false", ""},
		{"mkdir d -ttl 9", "", "PUT /v2/keys/d?dir=true&prevExist=false ttl=9", ""},
		{"setdir d", "", "PUT /v2/keys/d?dir=true", ""},
		{"updatedir d -ttl 9", "", "PUT /v2/keys/d?dir=true&prevExist=true ttl=9", ""},
		{"updatedir k -ttl 9", "", "PUT /v2/keys/k?dir=true&prevExist=true ttl=9", ""}, // a key stays one, and shows no value
		{"rmdir d", "", "DELETE /v2/keys/d?dir=true", ""},
		{"ls", "", "GET /v2/keys/" + read, "/d/a\n/d/e\n/d/e/f\n"},
		{"ls d -p -r", "", "GET /v2/keys/d?quorum=false&recursive=true&sorted=false", "/d/a\n/d/e/\n/d/e/f\n"},
		{"ls k", "", "GET /v2/keys/k" + read, "/k\n"},
	} {
		r := muster(t, f.URL, c.stdin, append([]string{"kv"}, strings.Fields(c.args)...)...)
		if r.code != 0 || r.out != c.out || f.last() != c.asked {
			t.Errorf("kv %s: exit code %d, asked %q, printed %q (%s); want %q and %q", c.args, r.code, f.last(), r.out, r.errs, c.asked, c.out)
		}
	}
	if r := muster(t, f.URL, "", "kv", "get", "a b/c?d"); r.code != 0 || !strings.HasPrefix(f.last(), "GET /v2/keys/a%20b/c%3Fd?") {
		t.Errorf("a key with odd characters is asked for as %q: %d %s", f.last(), r.code, r.errs)
	}
	muster(t, f.URL, "", "kv", "get", "d").want(t, exitUsage, "/d: is a directory")
}

// events serves a key's changes 1, 2, 3… by their waitIndex, and cuts some answers off.
func events(t *testing.T) (base string, waits *[]string) {
	t.Helper()
	waits = new([]string)
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		next := r.URL.Query().Get("waitIndex")
		*waits = append(*waits, next)
		n := 101
		if next != "0" {
			if _, err := fmt.Sscan(next, &n); err != nil {
				t.Error(err)
			}
		}
		w.Header().Set("X-Etcd-Index", "100")
		if len(*waits) == 2 {
			w.WriteHeader(http.StatusOK) // the agent stopped before anything happened
			return
		}
		if n > 103 {
			w.WriteHeader(http.StatusBadRequest)
			_, _ = io.WriteString(w, `{"errorCode":401,"message":"The event in requested index is outdated and cleared","cause":"x","index":200}`)
			return
		}
		fmt.Fprintf(w, `{"action":"set","node":{"key":"/k","value":"v%d","modifiedIndex":%d,"createdIndex":1}}`, n, n)
	}))
	t.Cleanup(s.Close)
	return s.URL, waits
}

func TestWatch(t *testing.T) {
	base, waits := events(t)
	muster(t, base, "", "kv", "watch", "k").want(t, 0, "v101\n")
	if got := strings.Join(*waits, ","); got != "0" {
		t.Errorf("a watch from now asks for index %q", got)
	}

	base, waits = events(t)
	r := muster(t, base, "", "kv", "watch", "k", "-forever", "-after-index=99")
	if want := "v100\nv101\nv102\nv103\n"; r.code != exitServer || r.out != want || !strings.Contains(r.errs, "401") {
		t.Errorf("watch for ever: exit code %d, %q, %q; want %q and the error of the agent", r.code, r.out, r.errs, want)
	}
	if got, want := strings.Join(*waits, ","), "100,101,101,102,103,104"; got != want {
		t.Errorf("it asked for %s, want %s: each index once, and again after an answer without an event", got, want)
	}

	base, _ = events(t)
	if r := muster(t, base, "", "kv", "watch", "k", "-recursive"); r.out != "[set] /k\nv101\n" {
		t.Errorf("recursive watch prints %q", r.out)
	}
	if r := muster(t, base, "", "kv", "-o", "json", "watch", "k", "-recursive"); !strings.HasPrefix(r.out, "[set] /k\n{\"action\":\"set\"") {
		t.Errorf("recursive watch in JSON prints %q", r.out)
	}
}

func TestExecWatch(t *testing.T) {
	base, _ := events(t)
	file := filepath.Join(t.TempDir(), "out")
	var out, errs strings.Builder
	code := run([]string{"kv", "exec-watch", "-http-addr=" + base, "-after-index=102", "k", "--", "sh", "-c",
		`echo "$ETCD_WATCH_ACTION $ETCD_WATCH_KEY $ETCD_WATCH_VALUE $ETCD_WATCH_MODIFIED_INDEX" >` + file}, strings.NewReader(""), &out, &errs)
	if code != exitServer { // the agent ends the watch with its error, after one event and one cut
		t.Errorf("exit code %d, %s", code, errs.String())
	}
	b, err := os.ReadFile(file)
	if want := "set /k v103 103\n"; err != nil || string(b) != want {
		t.Errorf("the command got %q, %v, want %q", b, err, want)
	}
}

func TestKeyPath(t *testing.T) {
	for key, want := range map[string]string{
		"": "/v2/keys/", "/": "/v2/keys/", "a": "/v2/keys/a", "/a/b/": "/v2/keys/a/b/", "//a//b": "/v2/keys/a/b", "/a/../b/.": "/v2/keys/b",
		"/../../v2/members": "/v2/keys/v2/members", "a b/ü": "/v2/keys/a b/ü", "a%2Fb": "/v2/keys/a%2Fb",
	} {
		if got := keyPath(key); got != want {
			t.Errorf("keyPath(%q) = %q, want %q", key, got, want)
		}
	}
}
