package etcd

import (
	"encoding/json"
	"net/http"
	"slices"
	"strconv"
	"strings"

	"github.com/musterhq/muster/api"
)

// ProxyRoute is what an agent in front of the servers answers by itself: to whom it relays, as client URLs.
func ProxyRoute(endpoints func() []string) api.Route {
	return api.Route{Pattern: "/v2/config/local/proxy", Where: api.Local, MaxBody: -1, Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !onlyGet(w, r) {
			return
		}
		out := struct {
			Endpoints []string `json:"endpoints"`
		}{append([]string{}, endpoints()...)}
		slices.Sort(out.Endpoints)
		b, err := json.Marshal(&out)
		if err != nil {
			http.Error(w, err.Error(), http.StatusInternalServerError)
			return
		}
		w.Header()["Content-Type"] = []string{"text/plain; charset=utf-8"}
		_, _ = w.Write(b)
	})}
}

// FailUnreachable answers a request that could be sent to no server: tried are the client URLs of those that were
// asked, none when all had failed a moment ago.
func (d *Dialect) FailUnreachable(w http.ResponseWriter, tried []string) {
	if len(tried) == 0 {
		d.sendJSON(w, http.StatusServiceUnavailable, message{"httpproxy: zero endpoints currently available"})
		return
	}
	d.sendJSON(w, http.StatusBadGateway, message{"httpproxy: unable to get response from " + strconv.Itoa(len(tried)) + " endpoint(s)"})
}

// FailRelay answers a request that found no leader, or whose fate is unknown (err is one of the errors of api.Store),
// in the words of its path. It says whether it has any.
func (d *Dialect) FailRelay(w http.ResponseWriter, r *http.Request, err error) bool {
	switch p := r.URL.Path; {
	case p == "/v2/keys" || strings.HasPrefix(p, "/v2/keys/"):
		d.failStore(w, err)
	case p == "/v2/members" || strings.HasPrefix(p, "/v2/members/"):
		d.setCluster(w.Header(), d.store.Status().ClusterID)
		d.sendJSON(w, http.StatusInternalServerError, message{"Internal Server Error"})
	default:
		return false
	}
	return true
}
