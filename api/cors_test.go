package api_test

import (
	"net/http"
	"net/http/httptest"
	"testing"

	"github.com/musterhq/muster/api"
)

func TestCORS(t *testing.T) {
	for _, c := range []struct {
		origins     []string
		origin      string
		allow, vary string
	}{
		{nil, "http://page.example", "", ""},
		{nil, "", "", ""},
		{[]string{"*"}, "http://page.example", "*", ""},
		{[]string{"*"}, "", "*", ""},
		{[]string{"http://page.example", "https://b.example"}, "http://page.example", "http://page.example", "Origin"},
		{[]string{"http://page.example"}, "https://page.example", "", "Origin"},
		{[]string{"http://page.example"}, "http://page.example.evil.example", "", "Origin"},
		{[]string{"http://page.example"}, "", "", "Origin"},
	} {
		for _, method := range []string{http.MethodGet, http.MethodOptions, http.MethodPut} {
			h := api.CORS(c.origins, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusTeapot) }))
			r := httptest.NewRequest(method, "/any/path", nil)
			if c.origin != "" {
				r.Header.Set("Origin", c.origin)
			}
			w := httptest.NewRecorder()
			h.ServeHTTP(w, r)
			if w.Code != http.StatusTeapot {
				t.Fatalf("the handler was not asked: %d", w.Code)
			}
			head := w.Header()
			methods, headers := "", ""
			if c.allow != "" {
				methods, headers = "POST, GET, OPTIONS, PUT, DELETE", "accept, content-type, authorization"
			}
			if head.Get("Access-Control-Allow-Origin") != c.allow || head.Get("Access-Control-Allow-Methods") != methods ||
				head.Get("Access-Control-Allow-Headers") != headers || head.Get("Vary") != c.vary {
				t.Errorf("%s from %q, allowed %q: %v", method, c.origin, c.origins, head)
			}
		}
	}
}
