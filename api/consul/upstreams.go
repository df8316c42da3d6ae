package consul

import (
	"net/http"

	"github.com/musterhq/muster/api"
)

func (a *API) upstreamRoutes() []api.Route {
	if a.cfg.Upstreams == nil {
		return nil
	}
	return []api.Route{newRoute("/v1/agent/upstreams", api.Local, a.upstreams, http.MethodGet)}
}

// upstreams is GET /v1/agent/upstreams: the local ports of this machine, their instances and their connections.
func (a *API) upstreams(w http.ResponseWriter, r *http.Request) error {
	if _, err := a.operate(r, false); err != nil {
		return err
	}
	return writeJSON(w, r, a.cfg.Upstreams())
}
