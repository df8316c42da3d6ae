package consul

import (
	"net/http"
	"net/http/httptest"
	"testing"
	"testing/synctest"
	"time"
)

func TestBlockingQueryKeepsItsDeadline(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := New(Config{})
		for query, want := range map[string]string{
			"index=7&wait=10s": "wait=6000ms&index=7&wait=10s",
			"index=7":          "wait=296000ms&index=7",
			"index=7&wait=4s":  "wait=1ms&index=7&wait=4s",
			"index=7&wait=1h":  "wait=596000ms&index=7&wait=1h",
		} {
			res := a.resume(httptest.NewRequest(http.MethodGet, "/v1/kv/a?"+query, nil))
			if res == nil {
				t.Fatalf("%s is not seen as a blocking query", query)
			}
			time.Sleep(4 * time.Second)
			r := httptest.NewRequest(http.MethodGet, "/v1/kv/a?"+query, nil)
			if res.Again(r); r.URL.RawQuery != want {
				t.Errorf("%s after 4 s: asked again as %s, want %s", query, r.URL.RawQuery, want)
			}
			if res.Begin(http.Header{}) {
				t.Error("an answer that has begun is continued")
			}
		}
	})
	a := New(Config{})
	for _, query := range []string{"", "index=0", "index=x", "wait=5s", "stale"} {
		if a.resume(httptest.NewRequest(http.MethodGet, "/v1/kv/a?"+query, nil)) != nil {
			t.Errorf("%q is seen as a blocking query", query)
		}
	}
	if a.resume(httptest.NewRequest(http.MethodPut, "/v1/kv/a?index=7", nil)) != nil {
		t.Error("a write is seen as a blocking query")
	}
}
