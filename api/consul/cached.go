package consul

import (
	"net/http"
	"strconv"
	"strings"
	"sync"

	"github.com/musterhq/muster/api"
)

// Clients may ask with ?cached for an answer out of an agent's cache. There is none: an answer costs a look at the
// tree, and is always as fresh as can be. So such a request is answered like any other, and says of itself what a
// cache that is kept up to date says: a miss the first time, then hits of age 0.

// recentQueries are the queries that were asked with ?cached.
type recentQueries struct {
	mu   sync.Mutex
	seen map[string]struct{}
}

// maxRecent bounds the list; beyond it, it begins again.
const maxRecent = 4096

func (c *recentQueries) again(key string) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if _, ok := c.seen[key]; ok {
		return true
	}
	if c.seen == nil || len(c.seen) >= maxRecent {
		c.seen = make(map[string]struct{})
	}
	c.seen[key] = struct{}{}
	return false
}

// cacheable says whether answers at a path may come out of a cache (contract: consul-http 5).
func cacheable(path string) bool {
	for _, p := range []string{"/v1/catalog/service/", "/v1/catalog/node-services/", "/v1/health/service/"} {
		if strings.HasPrefix(path, p) {
			return true
		}
	}
	return path == "/v1/catalog/services" || path == "/v1/catalog/datacenters" || strings.HasPrefix(path, pathQuery) && strings.HasSuffix(path, "/execute")
}

var (
	headerMiss = []string{"MISS"}
	headerHit  = []string{"HIT"}
)

// markCached sets the headers of an answer to a query with ?cached.
func (a *API) markCached(w http.ResponseWriter, r *http.Request, q *read) {
	if !q.has("cached") || !cacheable(r.URL.Path) {
		return
	}
	h := w.Header()
	h["X-Cache"] = headerMiss
	if a.recent.again(r.URL.Path+"?"+q.shaping()) && !strings.Contains(r.Header.Get("Cache-Control"), "must-revalidate") {
		h["X-Cache"], h["Age"] = headerHit, headerZero
	}
}

// checkCacheControl refuses a Cache-Control that means nothing; any that does is met by a fresh answer.
func checkCacheControl(r *http.Request) error {
	for part := range strings.SplitSeq(r.Header.Get("Cache-Control"), ",") {
		name, value, ok := strings.Cut(strings.ToLower(strings.TrimSpace(part)), "=")
		if ok && (name == "max-age" || name == "stale-if-error") {
			if n, err := strconv.Atoi(value); err != nil || n < 0 {
				return badRequest("Invalid Cache-Control header.")
			}
		}
	}
	return nil
}

// defaultStale lets reads of the catalog and of health be answered by any server that is not too far behind, where the
// operator has chosen so (discovery_max_stale) and the request asks for nothing else.
func (a *API) defaultStale(r *http.Request) bool {
	if a.cfg.DiscoveryMaxStale <= 0 || r.Method != http.MethodGet {
		return false
	}
	return strings.HasPrefix(r.URL.Path, "/v1/catalog/") || strings.HasPrefix(r.URL.Path, "/v1/health/")
}

// target is targetOf with discovery_max_stale.
func (a *API) target(r *http.Request) api.Target {
	if t := targetOf(r); t == api.Any || !a.defaultStale(r) {
		return t
	}
	if p, err := parseParams(r.URL.RawQuery); err != nil || p.has("consistent") || p.has("leader") {
		return api.Leader
	}
	return api.Any
}
