package consul

import (
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/musterhq/muster/api"
)

// keptPaths are the paths below which answers are worth keeping: who is there, and who is healthy.
var keptPaths = []string{"/v1/catalog/", "/v1/health/", "/v1/internal/ui/"}

// Share says how a read can be shared and kept. False: each is asked for itself, because it must be confirmed by a
// quorum, because its answer depends on who asks, or because it is refused.
func (a *API) Share(r *http.Request) (api.Shared, bool) {
	if r.Method != http.MethodGet {
		return api.Shared{}, false
	}
	q, err := a.parseRead(r)
	if err != nil || q.Consistency == api.Consistent || q.get("near") == "_ip" {
		return api.Shared{}, false
	}
	path := r.URL.EscapedPath()
	s := api.Shared{
		Name: path, Loose: q.Consistency == api.Stale && q.MaxStale == 0,
		Index: q.MinIndex, Wait: q.Wait, IndexHeader: "X-Consul-Index",
	}
	switch {
	case strings.HasPrefix(r.URL.Path, "/v1/kv/"):
		s.Key = strings.TrimPrefix(r.URL.Path, "/v1/kv/")
	case strings.HasPrefix(r.URL.Path, pathQuery):
		s.Keep = strings.HasSuffix(r.URL.Path, "/execute")
	default:
		s.Keep = slices.ContainsFunc(keptPaths, func(p string) bool { return strings.HasPrefix(r.URL.Path, p) })
	}
	if q.has("max_stale") && s.Index > 0 {
		return api.Shared{}, false // the bound is this client's own
	}
	name, asked := canonical(&q.params)
	if name != "" {
		s.Name += "?" + name
	}
	s.Ask = func(index uint64, wait time.Duration) string {
		if index == 0 {
			return asked
		}
		own := "index=" + strconv.FormatUint(index, 10) + "&wait=" + strconv.FormatInt(max(wait.Milliseconds(), 1), 10) + "ms"
		if asked == "" {
			return own
		}
		return own + "&" + asked
	}
	return s, true
}

// canonical gives two forms of a query string: name, in which only what chooses the data is left, in one order; and
// asked, the question as it is without the index and the wait of this client.
func canonical(p *params) (name, asked string) {
	var names, all []string
	for i := range p.n {
		q := p.at(i)
		pair := escapePair(q)
		switch q.key {
		case "index", "wait":
			continue
		case "token", "stale", "leader", "max_stale":
		default:
			names = append(names, pair)
		}
		all = append(all, pair)
	}
	// Of several values of one key the first may be the one that counts, so their order stays.
	slices.SortStableFunc(names, func(a, b string) int {
		ka, _, _ := strings.Cut(a, "=")
		kb, _, _ := strings.Cut(b, "=")
		return strings.Compare(ka, kb)
	})
	return strings.Join(names, "&"), strings.Join(all, "&")
}

func escapePair(p *param) string {
	return url.QueryEscape(p.key) + "=" + url.QueryEscape(p.value)
}
