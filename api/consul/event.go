package consul

import (
	"context"
	"io"
	"net/http"
	"regexp"
	"strconv"
	"strings"
	"time"

	uuid "github.com/hashicorp/go-uuid"

	"github.com/musterhq/muster/api"
)

// UserEvent is an event that somebody fired, as it is in answers and as it travels between agents (contract:
// consul-http 12).
type UserEvent struct {
	ID            string
	Name          string
	Payload       []byte
	NodeFilter    string // regular expressions of the agents it is for
	ServiceFilter string
	TagFilter     string
	Version       int
	LTime         uint64
}

// MaxUserEvent is the largest event in bytes: name, payload and filters.
const MaxUserEvent = 512

// userEventVersion is the version of the format that this program writes and the newest it understands.
const userEventVersion = 1

// LocalEvents are the events that this agent knows of.
type LocalEvents interface {
	// Fire sends an event to all agents and returns when this agent itself has got it.
	Fire(ctx context.Context, e *UserEvent) error
	// Events gives the events for this agent, oldest first, and a channel that is closed by the next one.
	Events() (list []*UserEvent, changed <-chan struct{})
}

func (a *AgentAPI) eventRoutes() []api.Route {
	fire := newRoute(pathEventFire, api.Local, a.eventFire, http.MethodPut)
	fire.MaxBody = 16 << 10 // what is too large is refused with a better text below that
	return []api.Route{fire, newRoute("/v1/event/list", api.Local, a.eventList, http.MethodGet)}
}

const pathEventFire = "/v1/event/fire/"

// ForAgent says whether an agent of that node name, with services of that many names and tags, is among those the
// event is for. An event with a mistake in its filters, or of a newer version, is for nobody.
func (e *UserEvent) ForAgent(node string, services func(yield func(name string, tags []string) bool)) bool {
	if e.Version > userEventVersion || e.check() != nil {
		return false
	}
	if e.NodeFilter != "" && !regexp.MustCompile(e.NodeFilter).MatchString(node) {
		return false
	}
	if e.ServiceFilter == "" {
		return true
	}
	service, tag := regexp.MustCompile(e.ServiceFilter), regexp.MustCompile(e.TagFilter)
	for name, tags := range services {
		if !service.MatchString(name) {
			continue
		}
		if e.TagFilter == "" {
			return true
		}
		for _, t := range tags {
			if tag.MatchString(t) {
				return true
			}
		}
	}
	return false
}

// check refuses an event that cannot be sent, in the words of the contract.
func (e *UserEvent) check() error {
	if e.TagFilter != "" && e.ServiceFilter == "" {
		return serverError("Cannot provide tag filter without service filter")
	}
	for _, f := range []struct{ what, expr string }{{"node", e.NodeFilter}, {"service", e.ServiceFilter}, {"tag", e.TagFilter}} {
		if _, err := regexp.Compile(f.expr); err != nil {
			return serverError("Invalid %s filter: %v", f.what, err)
		}
	}
	if len(e.Name)+len(e.Payload)+len(e.NodeFilter)+len(e.ServiceFilter)+len(e.TagFilter) > MaxUserEvent {
		return serverError("error broadcasting event: user event exceeds configured limit of %d bytes before encoding", MaxUserEvent)
	}
	return nil
}

// eventFire sends an event from the agent that is asked.
func (a *AgentAPI) eventFire(w http.ResponseWriter, r *http.Request) error {
	p, err := parseParams(r.URL.RawQuery)
	if err != nil {
		return err
	}
	name := argument(r, pathEventFire)
	if name == "" || name == strings.TrimSuffix(pathEventFire, "/") {
		return badRequest("Missing name")
	}
	if a.cfg.Events == nil {
		return errNotHere
	}
	if err := a.ownDatacenter(&p); err != nil {
		return err
	}
	if a.allow(r, "event", name, true) != nil {
		return refuse(http.StatusForbidden, "Permission denied")
	}
	e := &UserEvent{
		Name: name, NodeFilter: p.get("node"), ServiceFilter: p.get("service"), TagFilter: p.get("tag"), Version: userEventVersion,
	}
	if e.Payload, err = io.ReadAll(r.Body); err != nil {
		if big := bodyTooLarge(err); big != nil {
			return big
		}
		return badRequest("reading the request body: %v", err)
	}
	if len(e.Payload) == 0 {
		e.Payload = nil
	}
	if err := e.check(); err != nil {
		return err
	}
	if e.ID, err = uuid.GenerateUUID(); err != nil {
		return err
	}
	if err := a.cfg.Events.Fire(r.Context(), e); err != nil {
		return serverError("error broadcasting event: %v", err)
	}
	return writeJSON(w, r, e)
}

// ownDatacenter refuses every datacenter but this agent's.
func (a *AgentAPI) ownDatacenter(p *params) error {
	dc := p.get("datacenter")
	if dc == "" {
		dc = p.get("dc")
	}
	if dc != "" && !strings.EqualFold(dc, a.cfg.Datacenter) {
		return serverError("No path to datacenter")
	}
	return nil
}

// eventList lists the events for this agent. Its index is made of the id of the last event and only says whether
// there is a newer one: the query waits while it is the same.
func (a *AgentAPI) eventList(w http.ResponseWriter, r *http.Request) error {
	p, err := parseParams(r.URL.RawQuery)
	if err != nil {
		return err
	}
	q := read{params: p}
	q.Wait = a.cfg.QueryTime
	if err := q.parseWait(a.cfg.QueryTime, a.cfg.MaxQueryTime); err != nil {
		return err
	}
	if a.cfg.Events == nil {
		return errNotHere
	}
	var timeout <-chan time.Time
	if q.MinIndex > 0 {
		timer := time.NewTimer(q.Wait)
		defer timer.Stop()
		timeout = timer.C
	}
	name, stopping := p.get("name"), api.Stopping(r.Context())
	for {
		all, changed := a.cfg.Events.Events()
		list, index := []*UserEvent{}, uint64(1)
		for _, e := range all {
			if (name == "" || e.Name == name) && a.allow(r, "event", e.Name, false) == nil {
				list, index = append(list, e), eventIndex(e.ID)
			}
		}
		wait := q.MinIndex > 0 && index == q.MinIndex
		if wait {
			select {
			case <-changed:
				continue
			case <-timeout:
			case <-stopping:
			case <-r.Context().Done():
				return r.Context().Err()
			}
		}
		w.Header()["X-Consul-Index"] = indexHeader(index)
		return writeJSON(w, r, list)
	}
}

// eventIndex is the exclusive or of the halves of an event's UUID.
func eventIndex(id string) uint64 {
	hex := strings.ReplaceAll(id, "-", "")
	if len(hex) != 32 {
		return 1
	}
	hi, err1 := strconv.ParseUint(hex[:16], 16, 64)
	lo, err2 := strconv.ParseUint(hex[16:], 16, 64)
	if err1 != nil || err2 != nil {
		return 1
	}
	return hi ^ lo
}
