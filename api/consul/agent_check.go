package consul

import (
	"net/http"

	"github.com/musterhq/muster/catalog"
)

// registerCheck is PUT /v1/agent/check/register.
func (a *AgentAPI) registerCheck(w http.ResponseWriter, r *http.Request) error {
	var body nodeCheckBody
	if err := decodeBody(r, &body, false); err != nil {
		return err
	}
	def := body.definition()
	if err := a.allowCheck(r, def.ServiceID); err != nil {
		return err
	}
	if def.Token == "" {
		def.Token = Token(r)
	}
	return done(w, a.cfg.Registry.RegisterCheck(r.Context(), def))
}

// allowCheck asks for the right to change a check of a service, or of the node.
func (a *AgentAPI) allowCheck(r *http.Request, serviceID string) error {
	if serviceID != "" {
		return a.allowService(r, serviceID, true)
	}
	return a.allowHere(r, "node", true)
}

// deregisterCheck is PUT /v1/agent/check/deregister/:id.
func (a *AgentAPI) deregisterCheck(w http.ResponseWriter, r *http.Request) error {
	id := argument(r, pathCheckDeregister)
	if err := a.allowCheckID(r, id); err != nil {
		return err
	}
	return done(w, a.cfg.Registry.DeregisterCheck(r.Context(), id))
}

func (a *AgentAPI) allowCheckID(r *http.Request, id string) error {
	if a.cfg.Authorizer == nil {
		return nil
	}
	for _, c := range a.cfg.Registry.Checks() {
		if c.ID == id {
			return a.allowCheck(r, c.ServiceID)
		}
	}
	return a.allowCheck(r, "") // who may not change checks is not told that there is none
}

// beat is PUT /v1/agent/check/{pass,warn,fail}/:id, the most frequent request an agent gets: it allocates nothing
// of its own while status and note stay the same.
func (a *AgentAPI) beat(prefix, status string) handlerFunc {
	return func(w http.ResponseWriter, r *http.Request) error {
		id := argument(r, prefix)
		note := ""
		if r.URL.RawQuery != "" {
			p, err := parseParams(r.URL.RawQuery)
			if err != nil {
				return err
			}
			note = p.get("note")
		}
		if err := a.allowCheckID(r, id); err != nil {
			return err
		}
		return done(w, a.cfg.Registry.Beat(id, status, note))
	}
}

// checkUpdate is the body of agent/check/update.
type checkUpdate struct{ Status, Output string }

// updateCheck is PUT /v1/agent/check/update/:id.
func (a *AgentAPI) updateCheck(w http.ResponseWriter, r *http.Request) error {
	var body checkUpdate
	if err := decodeBody(r, &body, false); err != nil {
		return err
	}
	switch body.Status {
	case catalog.Passing, catalog.Warning, catalog.Critical:
	default:
		return badRequest("Invalid check status: '%s'", body.Status)
	}
	id := argument(r, pathCheckUpdate)
	if err := a.allowCheckID(r, id); err != nil {
		return err
	}
	return done(w, a.cfg.Registry.Beat(id, body.Status, body.Output))
}

// checks is GET /v1/agent/checks.
func (a *AgentAPI) checks(w http.ResponseWriter, r *http.Request) error {
	p, err := parseParams(r.URL.RawQuery)
	if err != nil {
		return err
	}
	f, err := newFilter[HealthCheck](p.get("filter"))
	if err != nil {
		return err
	}
	out, visible := map[string]*HealthCheck{}, visibleChecks(a.cfg.Authorizer, r)
	for _, c := range a.cfg.Registry.Checks() {
		if x := healthCheckOf(c); f.pass(x) && visible(c) {
			out[c.ID] = x
		}
	}
	return writeJSON(w, r, out)
}
