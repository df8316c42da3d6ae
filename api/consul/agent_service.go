package consul

import (
	"cmp"
	"hash/fnv"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/musterhq/muster/catalog"
)

// registerService is PUT /v1/agent/service/register.
func (a *AgentAPI) registerService(w http.ResponseWriter, r *http.Request) error {
	p, err := parseParams(r.URL.RawQuery)
	if err != nil {
		return err
	}
	var body serviceBody
	if err := decodeBody(r, &body, false); err != nil {
		return err
	}
	def, err := body.definition()
	if err != nil {
		return err
	}
	if err := a.allow(r, "service", def.Name, true); err != nil {
		return err
	}
	if id := cmp.Or(def.ID, def.Name); a.cfg.Authorizer != nil {
		if was, _, ok := a.cfg.Registry.Service(id); ok { // what the name was until now is taken away
			if err := a.allow(r, "service", was.Name, true); err != nil {
				return err
			}
		}
	}
	if def.Token == "" {
		def.Token = Token(r)
	}
	return done(w, a.cfg.Registry.RegisterService(r.Context(), def, p.has("replace-existing-checks")))
}

// deregisterService is PUT /v1/agent/service/deregister/:id.
func (a *AgentAPI) deregisterService(w http.ResponseWriter, r *http.Request) error {
	id := argument(r, pathDeregister)
	if err := a.allowService(r, id, true); err != nil {
		return err
	}
	return done(w, a.cfg.Registry.DeregisterService(r.Context(), id))
}

// allowService asks for the right on a service by its id.
func (a *AgentAPI) allowService(r *http.Request, id string, write bool) error {
	if a.cfg.Authorizer == nil {
		return nil
	}
	name := id
	if s, _, ok := a.cfg.Registry.Service(id); ok {
		name = s.Name
	}
	return a.allow(r, "service", name, write)
}

// services is GET /v1/agent/services.
func (a *AgentAPI) services(w http.ResponseWriter, r *http.Request) error {
	p, err := parseParams(r.URL.RawQuery)
	if err != nil {
		return err
	}
	f, err := newFilter[AgentService](p.get("filter"))
	if err != nil {
		return err
	}
	out := map[string]*AgentService{}
	for _, s := range a.cfg.Registry.Services() {
		if x := agentServiceOf(s, a.cfg.Datacenter); f.pass(x) && a.allow(r, "service", s.Name, false) == nil {
			out[s.ID] = x
		}
	}
	return writeJSON(w, r, out)
}

// service is GET /v1/agent/service/:id; ?hash= blocks until the service is no longer the one with that hash.
func (a *AgentAPI) service(w http.ResponseWriter, r *http.Request) error {
	id := argument(r, pathService)
	p, err := parseParams(r.URL.RawQuery)
	if err != nil {
		return err
	}
	if err := a.allowService(r, id, false); err != nil {
		return err
	}
	hash := p.get("hash")
	var deadline <-chan time.Time
	if hash != "" {
		wait, err := a.wait(p.get("wait"))
		if err != nil {
			return err
		}
		timer := time.NewTimer(wait)
		defer timer.Stop()
		deadline = timer.C
	}
	for {
		s, changed, ok := a.cfg.Registry.Service(id)
		if !ok {
			return refuse(http.StatusNotFound, "unknown service ID: %s", id)
		}
		out := agentServiceOf(s, a.cfg.Datacenter)
		if out.ContentHash, err = contentHash(out); err != nil {
			return err
		}
		if hash != "" && hash == out.ContentHash {
			select {
			case <-changed:
				continue
			case <-r.Context().Done():
				return r.Context().Err()
			case <-deadline:
			}
		}
		w.Header()["X-Consul-Contenthash"] = []string{out.ContentHash}
		return writeJSON(w, r, out)
	}
}

// wait reads ?wait= as blocking queries do, without the jitter: nobody else is waiting.
func (a *AgentAPI) wait(text string) (time.Duration, error) {
	if text == "" {
		return a.cfg.QueryTime, nil
	}
	d, err := time.ParseDuration(text)
	if err != nil {
		return 0, badRequest("Invalid wait time")
	}
	if d <= 0 {
		return a.cfg.QueryTime, nil
	}
	return min(d, a.cfg.MaxQueryTime), nil
}

// contentHash is opaque to clients; it only has to change when the service does.
func contentHash(s *AgentService) (string, error) {
	b, err := encodeJSON(s)
	if err != nil {
		return "", err
	}
	h := fnv.New64a()
	_, _ = h.Write(b)
	text := strconv.FormatUint(h.Sum64(), 16)
	return strings.Repeat("0", 16-len(text)) + text, nil
}

// serviceMaintenance is PUT /v1/agent/service/maintenance/:id.
func (a *AgentAPI) serviceMaintenance(w http.ResponseWriter, r *http.Request) error {
	id := argument(r, pathServiceMaintenance)
	if id == "" {
		return badRequest("Missing service ID")
	}
	enable, reason, err := maintenanceParams(r)
	if err != nil {
		return err
	}
	if err := a.allowService(r, id, true); err != nil {
		return err
	}
	return done(w, a.cfg.Registry.ServiceMaintenance(r.Context(), id, enable, reason))
}

// nodeMaintenance is PUT /v1/agent/maintenance.
func (a *AgentAPI) nodeMaintenance(w http.ResponseWriter, r *http.Request) error {
	enable, reason, err := maintenanceParams(r)
	if err != nil {
		return err
	}
	if err := a.allowHere(r, "node", true); err != nil {
		return err
	}
	return done(w, a.cfg.Registry.NodeMaintenance(r.Context(), enable, reason))
}

func maintenanceParams(r *http.Request) (enable bool, reason string, err error) {
	p, err := parseParams(r.URL.RawQuery)
	if err != nil {
		return false, "", err
	}
	text, _ := p.lookup("enable")
	if text == "" {
		return false, "", badRequest("Missing value for enable")
	}
	if enable, err = strconv.ParseBool(text); err != nil {
		return false, "", badRequest("Invalid value for enable: %q", text)
	}
	return enable, p.get("reason"), nil
}

// agentHealth is one service in agent/health/service.
type agentHealth struct {
	AggregatedStatus string
	Service          *AgentService
	Checks           []agentHealthCheck
}

// agentHealthCheck is a check inside agentHealth; it has a shape of its own (contract: consul-http 8.4).
type agentHealthCheck struct {
	Node, CheckID, Name, Status, Notes, Output, ServiceID, ServiceName string
	ServiceTags                                                        []string
	Type                                                               string
	ExposedPort                                                        int
	Definition                                                         agentHealthDefinition
	CreateIndex, ModifyIndex                                           uint64
}

type agentHealthDefinition struct {
	Interval, Timeout, DeregisterCriticalServiceAfter Duration
	HTTP                                              string
	Header                                            http.Header
	Method, Body, TLSServerName                       string
	TLSSkipVerify                                     bool
	TCP                                               string
	TCPUseTLS                                         bool
	UDP, GRPC, OSService                              string
	GRPCUseTLS                                        bool
}

// healthByID is GET /v1/agent/health/service/id/:id.
func (a *AgentAPI) healthByID(w http.ResponseWriter, r *http.Request) error {
	id := argument(r, pathHealthID)
	if id == "" {
		return serverError("Missing serviceID")
	}
	if err := a.allowService(r, id, false); err != nil {
		return err
	}
	s, _, ok := a.cfg.Registry.Service(id)
	if !ok {
		return a.answerHealth(w, r, http.StatusNotFound, "ServiceId "+id+" not found", agentHealth{AggregatedStatus: catalog.Critical})
	}
	h := a.health(s)
	return a.answerHealth(w, r, healthStatus(h.AggregatedStatus), h.AggregatedStatus, h)
}

// healthByName is GET /v1/agent/health/service/name/:name.
func (a *AgentAPI) healthByName(w http.ResponseWriter, r *http.Request) error {
	name := argument(r, pathHealthName)
	if name == "" {
		return serverError("Missing service Name")
	}
	if err := a.allow(r, "service", name, false); err != nil {
		return err
	}
	out := []agentHealth{}
	worst := catalog.Passing
	for _, s := range a.cfg.Registry.ServicesNamed(name) {
		h := a.health(s)
		if severity(h.AggregatedStatus) > severity(worst) {
			worst = h.AggregatedStatus
		}
		out = append(out, h)
	}
	if len(out) == 0 {
		return a.answerHealth(w, r, http.StatusNotFound, "ServiceName "+name+" Not Found", out)
	}
	return a.answerHealth(w, r, healthStatus(worst), worst, out)
}

func (a *AgentAPI) health(s *catalog.Service) agentHealth {
	h := agentHealth{AggregatedStatus: catalog.Passing, Service: agentServiceOf(s, a.cfg.Datacenter), Checks: []agentHealthCheck{}}
	for _, c := range a.cfg.Registry.ServiceChecks(s.ID) {
		status := c.Status
		if c.Type == "maintenance" {
			status = catalog.Maintenance
		}
		if severity(status) > severity(h.AggregatedStatus) {
			h.AggregatedStatus = status
		}
		h.Checks = append(h.Checks, agentHealthCheck{
			Node: c.Node, CheckID: c.ID, Name: c.Name, Status: c.Status, Notes: c.Notes, Output: c.Output,
			ServiceID: c.ServiceID, ServiceName: c.ServiceName,
		})
	}
	return h
}

func severity(status string) int {
	switch status {
	case catalog.Maintenance:
		return 3
	case catalog.Critical:
		return 2
	case catalog.Warning:
		return 1
	}
	return 0
}

func healthStatus(aggregate string) int {
	switch aggregate {
	case catalog.Passing:
		return http.StatusOK
	case catalog.Warning:
		return http.StatusTooManyRequests
	}
	return http.StatusServiceUnavailable
}

// answerHealth writes the object, or the reason alone when text is asked for.
func (a *AgentAPI) answerHealth(w http.ResponseWriter, r *http.Request, status int, reason string, v any) error {
	p, err := parseParams(r.URL.RawQuery)
	if err != nil {
		return err
	}
	w.Header()["X-Consul-Reason"] = []string{reason}
	if p.get("format") == "text" || strings.HasPrefix(r.Header.Get("Accept"), "text/plain") {
		w.Header()["Content-Type"] = headerRawType
		w.WriteHeader(status)
		_, _ = w.Write([]byte(reason))
		return nil
	}
	return writeJSONStatus(w, r, status, v)
}
