package api

import (
	"net/http"
	"slices"
)

// CORS wraps a handler so that web pages of the given origins ("https://ui.example:8443", or "*" for every page) may
// call it: browsers ask for the headers it sets, first with OPTIONS, which the handler has to answer. Without origins
// it returns h as it is: then no page may call, which is what an agent on a person's machine needs.
//
//	h = api.CORS([]string{"https://ui.example"}, h)
func CORS(origins []string, h http.Handler) http.Handler {
	if len(origins) == 0 {
		return h
	}
	all := slices.Contains(origins, "*")
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		header := w.Header()
		origin := "*"
		if !all {
			header.Add("Vary", "Origin") // a cache must not hand the answer for one page to another
			origin = r.Header.Get("Origin")
		}
		if all || slices.Contains(origins, origin) {
			header.Set("Access-Control-Allow-Methods", "POST, GET, OPTIONS, PUT, DELETE")
			header.Set("Access-Control-Allow-Origin", origin)
			header.Set("Access-Control-Allow-Headers", "accept, content-type, authorization")
		}
		h.ServeHTTP(w, r)
	})
}
