package consul_test

import (
	"bytes"
	"compress/gzip"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	client "github.com/hashicorp/consul/api"

	"github.com/musterhq/muster/api"
	"github.com/musterhq/muster/api/consul"
)

func TestCachedReads(t *testing.T) {
	store, srv := newServer(t)
	addInstances(t, store, "web", 1)
	c := newClient(t, srv.URL)
	for i := range 3 {
		_, meta, err := c.Health().Service("web", "", false, &client.QueryOptions{UseCache: true})
		if err != nil || meta.CacheHit != (i > 0) || meta.CacheAge != 0 {
			t.Errorf("read %d: %+v %v", i, meta, err)
		}
	}
	_, h, _ := ask(t, srv, "GET", "/v1/health/service/web?cached&passing", "")
	if h.Get("X-Cache") != "MISS" || h.Get("Age") != "" {
		t.Errorf("another query: %v", h)
	}
	for target, want := range map[string]string{
		"/v1/catalog/services?cached": "MISS", "/v1/catalog/datacenters?cached": "MISS", "/v1/catalog/nodes?cached": "", "/v1/health/service/web": "",
	} {
		if _, h, _ := ask(t, srv, "GET", target, ""); h.Get("X-Cache") != want {
			t.Errorf("%s: X-Cache %q, want %q", target, h.Get("X-Cache"), want)
		}
	}
	req, _ := http.NewRequestWithContext(t.Context(), "GET", srv.URL+"/v1/health/service/web?cached", nil)
	req.Header.Set("Cache-Control", "max-age=soon")
	res, err := srv.Client().Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	if b, _ := io.ReadAll(res.Body); res.StatusCode != 400 || string(b) != "Invalid Cache-Control header." {
		t.Errorf("%d %s", res.StatusCode, b)
	}
	want(t, srv, "GET", "/v1/health/service/web?cached&consistent", "", 400, "Cannot specify ?cached with ?consistent, conflicting semantics.")
}

func TestCompressedAnswers(t *testing.T) {
	store, rt := newRouter(t)
	addInstances(t, store, "web", 20)
	get := func(target, encoding string) *httptest.ResponseRecorder {
		r := httptest.NewRequest("GET", target, nil)
		r.Header.Set("Accept-Encoding", encoding)
		w := httptest.NewRecorder()
		rt.ServeHTTP(w, r)
		return w
	}
	put := httptest.NewRequest("PUT", "/v1/kv/big", strings.NewReader(strings.Repeat("v", 2000)))
	rt.ServeHTTP(httptest.NewRecorder(), put)
	for _, target := range []string{"/v1/health/service/web", "/v1/health/service/web?pretty", "/v1/catalog/service/web", "/v1/kv/big", "/v1/catalog/nodes"} {
		plain := get(target, "")
		for range 2 {
			w := get(target, "deflate, gzip;q=1.0, *;q=0.5")
			size := w.Body.Len()
			z, err := gzip.NewReader(w.Body)
			if err != nil || w.Header().Get("Content-Encoding") != "gzip" {
				t.Fatalf("%s: %v %v", target, w.Header(), err)
			}
			if n := w.Header().Get("Content-Length"); n != "" && n != fmt.Sprint(size) {
				t.Errorf("%s: Content-Length %s", target, n)
			}
			if b, err := io.ReadAll(z); err != nil || !bytes.Equal(b, plain.Body.Bytes()) {
				t.Errorf("%s: another body when compressed: %v", target, err)
			}
		}
		for _, encoding := range []string{"", "identity", "gzip;q=0", "br"} {
			if w := get(target, encoding); w.Header().Get("Content-Encoding") != "" {
				t.Errorf("%s: compressed for %q", target, encoding)
			}
		}
	}
	if w := get("/v1/kv/big?raw", "gzip"); w.Header().Get("Content-Encoding") != "" || w.Body.Len() != 2000 {
		t.Error("a raw value must stay raw")
	}
	if w := get("/v1/catalog/services", "gzip"); w.Header().Get("Content-Encoding") != "" {
		t.Error("a small body was compressed")
	}
}

// TestDiscoveryMaxStale: reads of the catalog and of health are stale without asking, within the bound; the others never.
func TestDiscoveryMaxStale(t *testing.T) {
	store, srv := newServer(t, func(c *consul.Config) { c.DiscoveryMaxStale = 10 * time.Second })
	store.Fail(api.ErrNotLeader)
	for target, want := range map[string]int{
		"/v1/catalog/nodes": 200, "/v1/health/state/any?pretty": 200, "/v1/health/service/web?leader": 503, "/v1/catalog/nodes?consistent": 503, "/v1/session/list": 503,
	} {
		if status, h, _ := ask(t, srv, "GET", target, ""); status != want || want == 200 && h.Get("X-Consul-Effective-Consistency") != "stale" {
			t.Errorf("%s: %d %v", target, status, h)
		}
	}
	store.SetLastContact(time.Minute)
	if status, _, _ := ask(t, srv, "GET", "/v1/catalog/nodes", ""); status != 503 {
		t.Errorf("a server too far behind answers %d", status)
	}
}

// BenchmarkCompressed is what compression costs a client that asks for it, as Go's own does by default.
func BenchmarkCompressed(b *testing.B) {
	store, rt := newRouter(b)
	addInstances(b, store, "web", 10)
	for _, encoding := range []string{"", "gzip"} {
		for _, target := range []string{"/v1/health/service/web", "/v1/catalog/nodes"} {
			b.Run(target+"/"+encoding, func(b *testing.B) {
				r := httptest.NewRequest("GET", target, nil)
				r.Header.Set("Accept-Encoding", encoding)
				b.ReportAllocs()
				for b.Loop() {
					w := &sink{h: http.Header{}}
					rt.ServeHTTP(w, r)
				}
			})
		}
	}
}
