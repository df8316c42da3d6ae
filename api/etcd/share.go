package etcd

import (
	"net/http"
	"strings"
	"time"

	"github.com/musterhq/muster/api"
)

// shareKeys says how a plain read of keys is kept. False: it waits, must be confirmed by a quorum, or is refused.
func shareKeys(r *http.Request) (api.Shared, bool) {
	if r.Method != http.MethodGet || unclean(r.URL.Path) {
		return api.Shared{}, false
	}
	var f form
	var p params
	if f.parse(r.URL.RawQuery) != nil {
		return api.Shared{}, false
	}
	if _, ok := f.check(r.Method, &p); !ok || p.wait || p.quorum {
		return api.Shared{}, false
	}
	name := strings.TrimSuffix(r.URL.EscapedPath(), "/")
	if p.recursive {
		name += "?recursive" // nothing else chooses what is read: answers are always sorted
	}
	raw := r.URL.RawQuery
	// A prefix that ends in a slash means the directory as well, which is what is listed here.
	key := strings.Trim(strings.TrimPrefix(r.URL.Path, keysPrefix), "/") + "/"
	return api.Shared{
		Name: name, Loose: true, Key: key, IndexHeader: "X-Etcd-Index", Wide: true,
		Ask: func(uint64, time.Duration) string { return raw },
	}, true
}
