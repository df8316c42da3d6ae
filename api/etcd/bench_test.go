package etcd_test

import (
	"io"
	"net/http"
	"strings"
	"testing"

	"github.com/musterhq/muster/api/etcd"
	"github.com/musterhq/muster/kv"
)

// sink is the cheapest ResponseWriter.
type sink struct{ h http.Header }

func (s *sink) Header() http.Header         { return s.h }
func (s *sink) Write(b []byte) (int, error) { return len(b), nil }
func (s *sink) WriteHeader(int)             {}

func handler(b *testing.B) http.Handler {
	b.Helper()
	m := newMemory(b, kv.Options{})
	m.apply(kv.Txn{Ops: []kv.Op{{Kind: kv.OpSet, Path: "k/bench/key", Value: strings.Repeat("v", 100)}}})
	d, err := etcd.New(etcd.Config{Store: m, Name: "n1", Members: func() []etcd.Member { return nil }})
	if err != nil {
		b.Fatal(err)
	}
	return d.Routes()[0].Handler
}

func request(b *testing.B, method, url string) *http.Request {
	b.Helper()
	r, err := http.NewRequest(method, url, nil)
	if err != nil {
		b.Fatal(err)
	}
	return r
}

func BenchmarkGet(b *testing.B) {
	h, r, w := handler(b), request(b, "GET", "/v2/keys/bench/key"), &sink{h: http.Header{}}
	b.ReportAllocs()
	for b.Loop() {
		h.ServeHTTP(w, r)
	}
}

// BenchmarkBare is what an answer of the same size costs without any work.
func BenchmarkBare(b *testing.B) {
	body := []byte(strings.Repeat("v", 200))
	h := http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header()["Content-Type"] = []string{"application/json"}
		_, _ = w.Write(body)
	})
	r, w := request(b, "GET", "/v2/keys/bench/key"), &sink{h: http.Header{}}
	b.ReportAllocs()
	for b.Loop() {
		h.ServeHTTP(w, r)
	}
}

func BenchmarkPut(b *testing.B) {
	h, r, w := handler(b), request(b, "PUT", "/v2/keys/bench/key"), &sink{h: http.Header{}}
	body := "value=" + strings.Repeat("v", 100)
	r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	r.ContentLength = int64(len(body))
	b.ReportAllocs()
	for b.Loop() {
		r.Body = io.NopCloser(strings.NewReader(body))
		h.ServeHTTP(w, r)
	}
}

func BenchmarkGetDirectory(b *testing.B) {
	h, w := handler(b), &sink{h: http.Header{}}
	put := request(b, "PUT", "/v2/keys/dir/x")
	for i := range 100 {
		put.URL.Path = "/v2/keys/dir/" + strings.Repeat("n", 1+i)
		h.ServeHTTP(w, put)
	}
	r := request(b, "GET", "/v2/keys/dir")
	b.ReportAllocs()
	for b.Loop() {
		h.ServeHTTP(w, r)
	}
}
