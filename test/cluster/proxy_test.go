package cluster_test

import (
	"net/http"
	"strings"
	"testing"

	"github.com/musterhq/muster/internal/testcluster"
)

// TestWithoutALeader: with two of three servers gone the third still answers plain reads, itself and through a
// proxy, and says of everything else what clients of either dialect know.
func TestWithoutALeader(t *testing.T) {
	t.Parallel()
	c := testcluster.Start(t, 3, 1, `-hcl=performance { rpc_hold_timeout = "1s" }`)
	p, last := c.Proxies[0], c.Servers[2]
	p.Put(t, "/v2/keys/kept", "value=here")
	c.WaitSame(t)
	c.Servers[0].Crash(t)
	c.Servers[1].Crash(t)
	testcluster.Eventually(t, "the last server gives up", func() bool {
		return last.Do(http.MethodGet, "/health", "").Status == http.StatusServiceUnavailable
	})
	for _, h := range []*testcluster.Host{last, p} {
		if a := h.Do(http.MethodGet, "/v2/keys/kept", ""); a.Status != http.StatusOK || !strings.Contains(a.Body, `"here"`) {
			t.Errorf("%s: a plain read without a leader: %d %s", h.Name, a.Status, a.Body)
		}
		for _, how := range []struct{ method, path, body string }{
			{http.MethodGet, "/v2/keys/kept?quorum=true", ""}, {http.MethodPut, "/v2/keys/kept", "value=x"}, {http.MethodDelete, "/v2/keys/kept", ""},
		} {
			a := h.Do(how.method, how.path, how.body)
			const want = `{"errorCode":300,"message":"Raft Internal Error","cause":"etcdserver: request timed out","index":0}` + "\n"
			if a.Status != http.StatusInternalServerError || a.Body != want || a.Header.Get("Content-Type") != "application/json" {
				t.Errorf("%s: %s %s without a leader: %d %s", h.Name, how.method, how.path, a.Status, a.Body)
			}
		}
		if a := h.Do(http.MethodGet, "/v1/kv/kept", ""); a.Status != http.StatusInternalServerError || a.Body != "No cluster leader" {
			t.Errorf("%s: a read of the flat dialect without a leader: %d %s", h.Name, a.Status, a.Body)
		}
	}
}

func TestReadOnlyProxy(t *testing.T) {
	t.Parallel()
	c := testcluster.Start(t, 1, 1)
	ro := c.AddProxy(t, "ro", "-proxy-read-only")
	ro.WaitReady(t) // it registers itself all the same
	c.Proxies[0].Put(t, "/v2/keys/a", "value=1")
	for _, path := range []string{"/v2/keys/a", "/v2/members", "/v1/kv/a", "/v2/machines"} {
		for _, method := range []string{http.MethodPut, http.MethodPost, http.MethodDelete, http.MethodHead, http.MethodOptions} {
			if a := ro.Do(method, path, ""); a.Status != http.StatusNotImplemented || a.Body != "" {
				t.Errorf("%s %s: %d %q, want 501 and nothing else", method, path, a.Status, a.Body)
			}
		}
	}
	if a := ro.Do(http.MethodGet, "/v2/keys/a", ""); !strings.Contains(a.Body, `"value":"1"`) {
		t.Errorf("GET: %d %s", a.Status, a.Body)
	}
	want := `{"endpoints":["` + c.Servers[0].EtcdURL() + `"]}`
	if a := ro.Do(http.MethodGet, "/v2/config/local/proxy", ""); a.Status != http.StatusOK || a.Body != want {
		t.Errorf("endpoints: %d %s, want %s", a.Status, a.Body, want)
	}
	if a := c.Servers[0].Do(http.MethodGet, "/v2/config/local/proxy", ""); a.Status != http.StatusNotFound {
		t.Errorf("a server answers the proxy's own path: %d %s", a.Status, a.Body)
	}
}
