package etcd

import "net/http"

// NotFound answers the paths of this dialect that no Route matches: those that are not clean with a redirect to the
// clean path, where there may be one.
func NotFound() http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if unclean(r.URL.Path) {
			redirect(w, r)
			return
		}
		http.NotFound(w, r)
	})
}
