package cluster_test

import (
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/musterhq/muster/internal/testcluster"
)

// TestWatchesOfTheConfiguration runs a command for events and a URL for a key, on a proxy, and changes them by a reload.
func TestWatchesOfTheConfiguration(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	got := make(chan string, 16)
	srv := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		b, _ := io.ReadAll(r.Body)
		got <- fmt.Sprint(r.Method, " ", r.Header.Get("X-Extra"), " ", r.Header.Get("X-Consul-Index") != "", " ", string(b))
	}))
	defer srv.Close()
	file, out := filepath.Join(dir, "watches.hcl"), filepath.Join(dir, "out")
	write := func(key string) {
		t.Helper()
		text := fmt.Sprintf(`watches = [
			{ type = "event" name = "deploy" args = ["sh", "-c", "cat >> %s; echo index $CONSUL_INDEX >> %s"] },
			{ type = "key" key = %q handler_type = "http" http_handler_config { path = %q method = "PUT" header = { x-extra = ["yes"] } timeout = "5s" } },
		]`, out, out, key, srv.URL)
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write("a/b")
	c := testcluster.Start(t, 1, 0)
	p := c.AddProxy(t, "p1", "-config-file", file)
	p.WaitReady(t)
	if first := <-got; first != "PUT yes true null" {
		t.Errorf("the first state is %q", first)
	}
	p.Put(t, "/v1/kv/a/b", "x")
	if next := <-got; !strings.Contains(next, `"Key":"a/b"`) || !strings.Contains(next, `"Value":"eA=="`) {
		t.Errorf("the next state is %q", next)
	}
	testcluster.Eventually(t, "the event handler has run for the empty list", func() bool {
		b, _ := os.ReadFile(out)
		return strings.Contains(string(b), "[]\nindex ")
	})
	c.Servers[0].Put(t, "/v1/event/fire/other", "")
	c.Servers[0].Put(t, "/v1/event/fire/deploy", "v2")
	testcluster.Eventually(t, "the event handler has run for the event", func() bool {
		b, _ := os.ReadFile(out)
		return strings.Contains(string(b), `"Name":"deploy"`) && !strings.Contains(string(b), `"Name":"other"`)
	})

	write("c")
	p.Put(t, "/v1/agent/reload", "")
	if first := <-got; first != "PUT yes true null" {
		t.Errorf("after the reload the first state is %q", first)
	}
	p.Put(t, "/v1/kv/a/b", "y")
	p.Put(t, "/v1/kv/c", "z")
	if next := <-got; !strings.Contains(next, `"Key":"c"`) {
		t.Errorf("after the reload: %q", next)
	}
	if err := os.WriteFile(file, []byte(`watches = [ { type = "key" } ]`), 0o600); err != nil {
		t.Fatal(err)
	}
	if a := p.Do("PUT", "/v1/agent/reload", ""); a.Status != 500 || !strings.Contains(a.Body, "watches[0]") {
		t.Errorf("a watch without a key: %d %s", a.Status, a.Body)
	}
}
