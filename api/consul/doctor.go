package consul

import (
	"net/http"

	"github.com/musterhq/muster/api"
)

func (a *API) doctorRoutes() []api.Route {
	if a.cfg.Doctor == nil {
		return nil
	}
	return []api.Route{newRoute("/v1/agent/doctor", api.Local, a.doctor, http.MethodGet)}
}

// doctor is GET /v1/agent/doctor: what is wrong with this agent and with what it can reach of the cluster. It costs
// connections and writes to the disk, so there is one examination at a time; further ones get 429.
func (a *API) doctor(w http.ResponseWriter, r *http.Request) error {
	if _, err := a.operate(r, false); err != nil {
		return err
	}
	report := a.cfg.Doctor(r.Context())
	if report == nil {
		return refuse(http.StatusTooManyRequests, "another examination is under way: ask again in a few seconds")
	}
	return writeJSON(w, r, report)
}
