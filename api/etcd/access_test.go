package etcd_test

import (
	"errors"
	"io"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/hashicorp/go-hclog"

	"github.com/musterhq/muster/api/etcd"
	"github.com/musterhq/muster/kv"
)

// clerk decides, and writes down what it was asked: "key:write a/b".
type clerk struct {
	mu     sync.Mutex
	asked  []string
	denies bool
}

func (c *clerk) authorize(_ *http.Request, x etcd.Access) error {
	level := ":read "
	if x.Write {
		level = ":write "
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.asked = append(c.asked, strings.TrimSpace(x.Resource+level+x.Name))
	if c.denies {
		return errors.New("denied")
	}
	return nil
}

func (c *clerk) take() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	s := strings.Join(c.asked, ",")
	c.asked = nil
	return s
}

func ask(t *testing.T, method, url, form string) (int, string) {
	t.Helper()
	req, err := http.NewRequest(method, url, strings.NewReader(form))
	if err != nil {
		t.Fatal(err)
	}
	if form != "" {
		req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, string(b)
}

// Each request asks for what it wants before it shows or changes anything, and a refusal is in the words clients know.
func TestAuthorize(t *testing.T) {
	m, c := newMemory(t, kv.Options{}), &clerk{}
	url := serve(t, m, func(cfg *etcd.Config) {
		cfg.Authorize, cfg.SetLogLevel = c.authorize, func(hclog.Level) {}
	})
	if status, body := ask(t, "PUT", url+"/v2/keys/dir/a", "value=1"); status != http.StatusCreated {
		t.Fatalf("%d %s", status, body)
	}
	const (
		key    = `{"errorCode":110,"message":"The request requires user authentication","cause":"Insufficient credentials","index":0}` + "\n"
		member = `{"message":"Insufficient credentials"}`
	)
	for _, x := range []struct{ method, path, form, asked, refusal string }{
		{"GET", "/v2/keys/dir/a", "", "key:read dir/a", key},
		{"GET", "/v2/keys/dir/a?quorum=true", "", "key:read dir/a", key},
		{"GET", "/v2/keys/dir", "", "key:read dir,key-prefix:read dir/", key},
		{"GET", "/v2/keys/dir?recursive=true", "", "key-prefix:read dir/", key},
		{"GET", "/v2/keys/?recursive=true", "", "key-prefix:read", key},
		{"GET", "/v2/keys/dir/a?wait=true&waitIndex=1", "", "key:read dir/a", key},
		{"GET", "/v2/keys/dir?wait=true&recursive=true&waitIndex=1", "", "key-prefix:read dir/", key},
		{"PUT", "/v2/keys/dir/a", "value=2", "key:write dir/a", key},
		{"POST", "/v2/keys/dir", "value=2", "key-prefix:write dir/", key},
		{"DELETE", "/v2/keys/dir/a?prevValue=none", "", "key:write dir/a", key},
		{"DELETE", "/v2/keys/none?recursive=true", "", "key-prefix:write none/", key},
		{"POST", "/v2/members", "", "operator:write", member},
		{"DELETE", "/v2/members/1", "", "operator:write", member},
		{"GET", "/debug/vars", "", "agent:read n1", member},
		{"PUT", "/config/local/log", "", "agent:write n1", member},
		{"GET", "/v2/members", "", "", ""},
		{"GET", "/v2/stats/self", "", "", ""},
		{"GET", "/health", "", "", ""},
		{"GET", "/version", "", "", ""},
	} {
		c.take()
		before := m.tree.Snap().Index()
		c.denies = true
		status, body := ask(t, x.method, url+x.path, x.form)
		switch c.take(); {
		case x.asked == "" && status != http.StatusOK:
			t.Errorf("%s %s needs no right: %d %s", x.method, x.path, status, body)
		case x.asked != "" && (status != http.StatusUnauthorized || strings.TrimSpace(body) != strings.TrimSpace(x.refusal)):
			t.Errorf("%s %s refused: %d %s", x.method, x.path, status, body)
		}
		if now := m.tree.Snap().Index(); now != before {
			t.Errorf("%s %s refused moved the index", x.method, x.path)
		}
		c.denies = false
		status, body = ask(t, x.method, url+x.path, x.form)
		if asked := c.take(); asked != x.asked || slices.Contains([]int{401, 500}, status) {
			t.Errorf("%s %s asks for %q, want %q; %d %s", x.method, x.path, asked, x.asked, status, body)
		}
	}
}
