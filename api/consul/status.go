package consul

import (
	"net/http"

	"github.com/musterhq/muster/api"
)

func (a *API) statusRoutes() []api.Route {
	leader := newRoute("/v1/status/leader", api.Cluster, a.statusLeader, http.MethodGet)
	peers := newRoute("/v1/status/peers", api.Cluster, a.statusPeers, http.MethodGet)
	// Every server knows the answer, also while there is no leader.
	leader.Target = anyServer
	peers.Target = anyServer
	return []api.Route{leader, peers}
}

func anyServer(*http.Request) api.Target { return api.Any }

func (a *API) statusLeader(w http.ResponseWriter, r *http.Request) error {
	if err := a.statusParams(r); err != nil {
		return err
	}
	return writeJSON(w, r, a.cfg.Store.Status().LeaderAddr)
}

func (a *API) statusPeers(w http.ResponseWriter, r *http.Request) error {
	if err := a.statusParams(r); err != nil {
		return err
	}
	var peers []string
	if a.cfg.Peers != nil {
		peers = a.cfg.Peers()
	} else if l := a.cfg.Store.Status().LeaderAddr; l != "" {
		peers = []string{l}
	}
	return writeJSON(w, r, orEmpty(peers))
}

func (a *API) statusParams(r *http.Request) error {
	p, err := parseParams(r.URL.RawQuery)
	if err != nil {
		return err
	}
	return a.checkDatacenter(&p)
}

var errNoACL = refuse(http.StatusUnauthorized, "ACL support disabled")

// aclRoutes answer as a cluster without access control does.
func (a *API) aclRoutes() []api.Route {
	acl := newRoute("/v1/acl/", api.Local, func(http.ResponseWriter, *http.Request) error {
		return errNoACL
	})
	acl.Methods = nil
	return []api.Route{acl}
}
