package consul

import (
	"context"
	"errors"
	"net/http"

	"github.com/musterhq/muster/api"
)

// Operator is the cluster of servers as an operator sees and changes it. What changes something or needs the
// leader's knowledge fails with api.ErrNotLeader elsewhere; nothing has run then.
type Operator interface {
	// RaftServers lists the configuration of the consensus and the raft index up to which it is known. Any server.
	RaftServers() ([]RaftServer, uint64, error)
	// RemovePeer takes the server of that id or address out of the consensus; it comes back when it is alive.
	// Unless forced it refuses to lose the quorum. Errors: ErrNoSuchPeer.
	RemovePeer(ctx context.Context, id, address string, force bool) error
	// TransferLeader makes the voter id lead, or the best one when id is "". Errors: ErrNoSuchPeer.
	TransferLeader(ctx context.Context, id string) error
	// Autopilot tells how the servers are.
	Autopilot() (AutopilotHealth, error)
}

// ErrNoSuchPeer says that no server of the consensus has the id or address.
var ErrNoSuchPeer = errors.New("no such server in the configuration of the consensus")

// RaftServer is one server in operator/raft/configuration.
type RaftServer struct {
	ID              string
	Node            string
	Address         string
	Leader          bool
	ProtocolVersion string
	Voter           bool
	LastIndex       uint64
}

func (a *API) operatorRoutes() []api.Route {
	get, put := http.MethodGet, http.MethodPut
	rows := []api.Route{newRoute("/v1/operator/usage", api.Cluster, a.operatorUsage, get)}
	if a.cfg.Keyring != nil {
		rows = append(rows, newRoute("/v1/operator/keyring", api.Local, a.operatorKeyring, get, http.MethodPost, put, http.MethodDelete))
	}
	if a.cfg.Operator == nil {
		return rows
	}
	return append(rows,
		newRoute("/v1/operator/raft/configuration", api.Cluster, a.raftConfiguration, get),
		newRoute("/v1/operator/raft/peer", api.Cluster, a.raftPeer, http.MethodDelete),
		newRoute("/v1/operator/raft/transfer-leader", api.Cluster, a.raftTransfer, http.MethodPost, put),
		newRoute("/v1/operator/autopilot/configuration", api.Cluster, a.autopilotConfiguration, get, put),
		newRoute("/v1/operator/autopilot/health", api.Cluster, a.autopilotHealth, get),
		newRoute("/v1/operator/autopilot/state", api.Cluster, a.autopilotState, get),
	)
}

// operate checks what all operator endpoints share: the parameters and the right to use them.
func (a *API) operate(r *http.Request, write bool) (params, error) {
	p, err := parseParams(r.URL.RawQuery)
	if err != nil {
		return p, err
	}
	if err := a.checkDatacenter(&p); err != nil {
		return p, err
	}
	return p, a.allow(r, "operator", "", write)
}

// raftConfiguration is GET /v1/operator/raft/configuration.
func (a *API) raftConfiguration(w http.ResponseWriter, r *http.Request) error {
	p, err := a.operate(r, false)
	if err != nil {
		return err
	}
	consistency := api.Default
	if p.has("stale") {
		consistency = api.Stale
	}
	// The read proves who leads; a server that has lost leadership does not know the present configuration.
	if _, _, err := a.cfg.Store.Read(r.Context(), consistency); err != nil {
		return err
	}
	var out struct {
		Servers []RaftServer
		Index   uint64
	}
	servers, index, err := a.cfg.Operator.RaftServers()
	if err != nil {
		return err
	}
	out.Servers, out.Index = orEmpty(servers), index
	return writeJSON(w, r, &out)
}

// raftPeer is DELETE /v1/operator/raft/peer.
func (a *API) raftPeer(w http.ResponseWriter, r *http.Request) error {
	p, err := a.operate(r, true)
	if err != nil {
		return err
	}
	id, address := p.get("id"), p.get("address")
	switch {
	case id == "" && address == "":
		return badRequest("Must specify either ?id with the server's ID or ?address with IP:port of peer to remove")
	case id != "" && address != "":
		return badRequest("Must specify only one of ?id or ?address")
	}
	err = a.cfg.Operator.RemovePeer(r.Context(), id, address, p.has("force"))
	switch {
	case errors.Is(err, ErrNoSuchPeer) && id != "":
		return serverError("id %q was not found in the Raft configuration", id)
	case errors.Is(err, ErrNoSuchPeer):
		return serverError("address %q was not found in the Raft configuration", address)
	case err != nil:
		return err
	}
	writeEmpty(w)
	return nil
}

// raftTransfer is POST /v1/operator/raft/transfer-leader.
func (a *API) raftTransfer(w http.ResponseWriter, r *http.Request) error {
	p, err := a.operate(r, true)
	if err != nil {
		return err
	}
	err = a.cfg.Operator.TransferLeader(r.Context(), p.get("id"))
	switch {
	case errors.Is(err, api.ErrNotLeader):
		return err
	case err != nil:
		return refuse(http.StatusNotFound, "Failed to transfer Leader: %s", err.Error())
	}
	return writeJSON(w, r, struct{ Success bool }{true})
}
