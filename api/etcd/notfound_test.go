package etcd_test

import (
	"net/http"
	"net/http/httptest"
	"testing"

	"github.com/musterhq/muster/api/etcd"
)

func TestNotFound(t *testing.T) {
	for _, c := range []struct {
		method, target string
		status         int
		location       string
	}{
		{"GET", "/v2//keys/a", 301, "/v2/keys/a"},
		{"GET", "//v2/keys/a/?recursive=true", 301, "/v2/keys/a/?recursive=true"},
		{"PUT", "/v2/./keys/a?prevExist=true", 307, "/v2/keys/a?prevExist=true"},
		{"GET", "/v2/x/../members", 301, "/v2/members"},
		{"GET", "/v2/stats", 404, ""},
		{"GET", "/v2/machines/", 404, ""},
	} {
		w := httptest.NewRecorder()
		r := httptest.NewRequest(c.method, "http://127.0.0.1"+c.target, http.NoBody)
		etcd.NotFound().ServeHTTP(w, r)
		if w.Code != c.status || w.Header().Get("Location") != c.location {
			t.Errorf("%s %s: %d to %q, want %d to %q", c.method, c.target, w.Code, w.Header().Get("Location"), c.status, c.location)
		}
		if w.Code == http.StatusNotFound && w.Body.String() != "404 page not found\n" {
			t.Errorf("%s %s: %q", c.method, c.target, w.Body)
		}
	}
}
