package consul

import (
	"context"
	"net/http"
	"time"

	"github.com/musterhq/muster/api"
	"github.com/musterhq/muster/catalog"
	"github.com/musterhq/muster/guard"
)

// GuardControl is the mass-removal guard as operators see it.
type GuardControl interface {
	// Guard is what this agent holds, with what the leader says about nodes.
	Guard(ctx context.Context) GuardState
	// Release makes every agent believe the losses of one service, or of all services and nodes when key is empty. The
	// key is catalog.InstancesPath of the service.
	Release(ctx context.Context, key string) error
	// GuardNodes is what this server, as the leader, says about nodes.
	GuardNodes() GuardNodes
}

// GuardState is the answer of agent/guard.
type GuardState struct {
	Enabled  bool
	Services []guard.Hold // shown as they were
	GuardNodes
	NodesError string `json:",omitempty"` // why the leader's part is missing
}

// GuardNodes are the nodes of which the leader does not know whether they live. Their liveness check stays as it was.
type GuardNodes struct {
	NodesHeld *guard.Hold // set while too many are silent at once to be believed
	Unknown   []UnknownNode
}

// UnknownNode is a node that is neither known to be alive nor known to be dead.
type UnknownNode struct {
	Node  string
	Why   string    // "silent" or "restarting"
	Since time.Time // when that began
	Until time.Time // when it counts as dead
}

func (a *API) guardRoutes() []api.Route {
	if a.cfg.GuardControl == nil {
		return nil
	}
	return []api.Route{
		newRoute("/v1/agent/guard", api.Local, a.guardState, http.MethodGet),
		newRoute("/v1/agent/guard/release", api.Local, a.guardRelease, http.MethodPut),
		newRoute("/v1/operator/guard", api.Cluster, a.guardNodes, http.MethodGet),
	}
}

// guardState is GET /v1/agent/guard.
func (a *API) guardState(w http.ResponseWriter, r *http.Request) error {
	if _, err := a.operate(r, false); err != nil {
		return err
	}
	return writeJSON(w, r, a.cfg.GuardControl.Guard(r.Context()))
}

// guardNodes is GET /v1/operator/guard, answered by the leader.
func (a *API) guardNodes(w http.ResponseWriter, r *http.Request) error {
	if _, err := a.operate(r, false); err != nil {
		return err
	}
	return writeJSON(w, r, a.cfg.GuardControl.GuardNodes())
}

// guardRelease is PUT /v1/agent/guard/release[?service=NAME].
func (a *API) guardRelease(w http.ResponseWriter, r *http.Request) error {
	p, err := a.operate(r, true)
	if err != nil {
		return err
	}
	key := ""
	if name := p.get("service"); name != "" {
		key = catalog.InstancesPath(name)
	}
	if err := a.cfg.GuardControl.Release(r.Context(), key); err != nil {
		return err
	}
	writeEmpty(w)
	return nil
}
