package proxy

import (
	"io"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"strings"
	"testing"
)

// canned answers at once, so that what remains is the relay itself.
type canned struct{ body string }

func (c canned) RoundTrip(r *http.Request) (*http.Response, error) {
	if r.Body != nil {
		_, _ = io.Copy(io.Discard, r.Body)
	}
	return &http.Response{
		StatusCode: 200, Header: http.Header{"Content-Type": {"application/json"}, "X-Consul-Index": {"12"}},
		Body: io.NopCloser(strings.NewReader(c.body)), ContentLength: int64(len(c.body)),
	}, nil
}

type nowhere struct{ h http.Header }

func (n nowhere) Header() http.Header         { return n.h }
func (n nowhere) Write(b []byte) (int, error) { return len(b), nil }
func (n nowhere) WriteHeader(int)             {}

func request() *http.Request {
	r := httptest.NewRequest("GET", "/v1/kv/some/key?stale", nil)
	r.Header = http.Header{"User-Agent": {"bench"}, "Accept": {"*/*"}, "Accept-Encoding": {"gzip"}}
	return r
}

// BenchmarkRelay is the work of one relayed read without any network.
func BenchmarkRelay(b *testing.B) {
	list := servers("10.0.0.1:8300", "10.0.0.2:8300", "10.0.0.3:8300")
	p, err := New(Config{Servers: list, Transport: canned{strings.Repeat("x", 300)}, IsRefused: refused})
	if err != nil {
		b.Fatal(err)
	}
	r := request()
	b.ReportAllocs()
	for b.Loop() {
		p.Relay(nowhere{http.Header{}}, r, Any, nil)
	}
}

// BenchmarkReverseProxy is the same by the standard library, for comparison.
func BenchmarkReverseProxy(b *testing.B) {
	u, _ := url.Parse("http://10.0.0.1:8300")
	p := httputil.NewSingleHostReverseProxy(u)
	p.Transport = canned{strings.Repeat("x", 300)}
	r := request()
	b.ReportAllocs()
	for b.Loop() {
		p.ServeHTTP(nowhere{http.Header{}}, r)
	}
}
