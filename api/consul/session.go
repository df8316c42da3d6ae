package consul

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/hashicorp/go-uuid"

	"github.com/musterhq/muster/api"
	"github.com/musterhq/muster/catalog"
	"github.com/musterhq/muster/kv"
)

func (a *API) sessionRoutes() []api.Route {
	get, put := http.MethodGet, http.MethodPut
	return []api.Route{
		newRoute("/v1/session/create", api.Cluster, a.sessionCreate, put),
		newRoute("/v1/session/destroy/", api.Cluster, a.sessionDestroy, put),
		newRoute("/v1/session/renew/", api.Cluster, a.sessionRenew, put),
		newRoute("/v1/session/info/", api.Cluster, a.sessionInfo, get),
		newRoute("/v1/session/node/", api.Cluster, a.sessionNode, get),
		newRoute("/v1/session/list", api.Cluster, a.sessionList, get),
	}
}

// defaultLockDelay of a session that names none.
const defaultLockDelay = 15 * time.Second

// newSession is the body of session/create. Unknown fields are ignored here (contract: consul-http 11).
type newSession struct {
	Name          string
	Node          string
	LockDelay     *lockDelay
	TTL           string
	Behavior      string
	NodeChecks    *[]string
	ServiceChecks []catalog.ServiceCheckRef
	Checks        *[]string // old spelling of NodeChecks
}

// lockDelay is a Go duration text, or a number: below 1000 seconds, from there on nanoseconds, fractions cut.
type lockDelay time.Duration

func (d *lockDelay) UnmarshalJSON(b []byte) error {
	s := string(b)
	if strings.HasPrefix(s, `"`) {
		return (*Duration)(d).UnmarshalJSON(b)
	}
	if s == "null" {
		return nil
	}
	f, err := strconv.ParseFloat(s, 64)
	if err != nil || f < 0 || f >= 1<<63 {
		return fmt.Errorf("invalid LockDelay %s: want a duration like \"15s\" or a number", s)
	}
	n := int64(f)
	if n < 1000 {
		n *= int64(time.Second)
	}
	*d = lockDelay(n)
	return nil
}

func (a *API) sessionCreate(w http.ResponseWriter, r *http.Request) error {
	p, err := parseParams(r.URL.RawQuery)
	if err != nil {
		return err
	}
	var body newSession
	if err := decodeOptional(r, &body); err != nil {
		return err
	}
	if err := a.checkDatacenter(&p); err != nil {
		return err
	}
	x, err := a.newSession(r, &body)
	if err != nil {
		return err
	}
	if err := a.allow(r, "session", x.Node, true); err != nil {
		return err
	}
	if x.ID, err = uuid.GenerateUUID(); err != nil {
		return err
	}
	if body.Node == "" && slices.Contains(x.NodeChecks, catalog.LivenessCheck) {
		if err := a.awaitLiveness(r.Context(), x.Node); err != nil {
			return err
		}
	}
	res, err := a.write(r.Context(), func(s *kv.Snap) (kv.Txn, error) { return catalog.CreateSession(s, x) })
	if err == nil {
		err = codeError(res)
	}
	if err != nil {
		return inputError(err, "apply failed: ")
	}
	return writeJSON(w, r, struct{ ID string }{x.ID})
}

// nodeStarting is how long session/create waits for the node of the agent that was asked. The leader writes the records of
// nodes within moments of its election, and that agent is there, or nobody would ask through it.
const nodeStarting = 3 * time.Second

// awaitLiveness waits for the liveness check of a node, but not for ever: without it the refusal tells what is missing.
func (a *API) awaitLiveness(ctx context.Context, node string) error {
	o := api.BlockingOptions{MinIndex: 1, Wait: nodeStarting}
	_, err := api.Blocking(ctx, a.cfg.Store, o, catalog.NodePath(node), func(s *kv.Snap) (res api.Result) {
		if _, _, ok := catalog.GetCheck(s, node, catalog.LivenessCheck); ok {
			res.Index = o.MinIndex + 1
		}
		return res
	})
	return err
}

// decodeOptional is decodeBody for a body that may be missing and may have unknown fields.
func decodeOptional(r *http.Request, v any) error {
	if r.ContentLength == 0 {
		return nil
	}
	err := json.NewDecoder(r.Body).Decode(v)
	switch {
	case err == nil, errors.Is(err, io.EOF): // EOF: chunked and empty
		return nil
	}
	if e := bodyTooLarge(err); e != nil {
		return e
	}
	return badRequest("Request decode failed: %v", err)
}

// newSession checks the body and fills in the defaults.
func (a *API) newSession(r *http.Request, body *newSession) (catalog.Session, error) {
	x := catalog.Session{
		Name: body.Name, Node: body.Node, LockDelay: int64(defaultLockDelay), Behavior: body.Behavior, TTL: body.TTL,
		NodeChecks: []string{catalog.LivenessCheck}, ServiceChecks: body.ServiceChecks,
	}
	if x.Node == "" {
		x.Node = a.nodeOf(r)
	}
	if body.LockDelay != nil {
		x.LockDelay = int64(*body.LockDelay)
	}
	if body.NodeChecks != nil {
		x.NodeChecks = orEmpty(*body.NodeChecks)
	} else if body.Checks != nil {
		x.NodeChecks = orEmpty(*body.Checks)
	}
	switch x.Behavior {
	case "":
		x.Behavior = catalog.BehaviorRelease
	case catalog.BehaviorRelease, catalog.BehaviorDelete:
	default:
		return x, serverError("Invalid Behavior setting '%s'", x.Behavior)
	}
	if x.TTL != "" {
		ttl, err := time.ParseDuration(x.TTL)
		if err != nil {
			return x, serverError("Session TTL '%s' invalid: %v", x.TTL, err)
		}
		if lo, hi := a.cfg.SessionTTL[0], a.cfg.SessionTTL[1]; ttl != 0 && (ttl < lo || ttl > hi) {
			return x, serverError("Invalid Session TTL '%d', must be between [%s=%s]", int64(ttl), short(lo), short(hi))
		}
	}
	return x, nil
}

// short is the text of a duration without zero parts: 24h0m0s is "24h0m0s" in Go and in the contract, 10s is "10s".
func short(d time.Duration) string { return d.String() }

// NodeHeader names the node whose agent relays a request, so that session/create knows its default node.
const NodeHeader = "X-Muster-Node"

// nodeOf is the node of the agent that the client talked to.
func (a *API) nodeOf(r *http.Request) string {
	if n := r.Header.Get(NodeHeader); n != "" {
		return n
	}
	return a.cfg.NodeName
}

func (a *API) sessionDestroy(w http.ResponseWriter, r *http.Request) error {
	id := rest(r, "/v1/session/destroy/")
	if err := a.sessionWrite(r, id); err != nil {
		return err
	}
	res, err := a.write(r.Context(), func(s *kv.Snap) (kv.Txn, error) { return catalog.DestroySession(s, id), nil })
	if err == nil {
		err = codeError(res)
	}
	if err != nil {
		return err
	}
	writeBool(w, r, true)
	return nil
}

// sessionWrite checks what destroy and renew have in common.
func (a *API) sessionWrite(r *http.Request, id string) error {
	p, err := parseParams(r.URL.RawQuery)
	if err != nil {
		return err
	}
	if id == "" {
		return badRequest("Missing session")
	}
	if err := a.checkDatacenter(&p); err != nil {
		return err
	}
	return a.allowSession(r, id)
}

// allowSession asks for the right to change a session, which is the right on its node. Nobody is told whether there is
// a session that he may not change: without one it is the right on no node.
func (a *API) allowSession(r *http.Request, id string) error {
	if a.cfg.Authorizer == nil {
		return nil
	}
	s, _, err := a.cfg.Store.Read(r.Context(), api.Default)
	if err != nil {
		return err
	}
	node := ""
	if x, ok := catalog.GetSession(s, id); ok {
		node = x.Node
	}
	return a.allow(r, "session", node, true)
}

func (a *API) sessionRenew(w http.ResponseWriter, r *http.Request) error {
	id := rest(r, "/v1/session/renew/")
	if err := a.sessionWrite(r, id); err != nil {
		return err
	}
	s, _, err := a.cfg.Store.Read(r.Context(), api.Default)
	if err != nil {
		return err
	}
	x, ok := catalog.GetSession(s, id)
	if !ok || !a.sessions.renew(id) {
		return refuse(http.StatusNotFound, "Session id '%s' not found", id)
	}
	return writeJSON(w, r, []*SessionEntry{sessionOf(x)})
}

func (a *API) sessionInfo(w http.ResponseWriter, r *http.Request) error {
	id := rest(r, "/v1/session/info/")
	if id == "" {
		return badRequest("Missing session")
	}
	return a.sessionQuery(w, r, catalog.SessionsPath(), func(s *kv.Snap) []*catalog.Session {
		if x, ok := catalog.GetSession(s, id); ok {
			return []*catalog.Session{x}
		}
		return nil
	})
}

func (a *API) sessionNode(w http.ResponseWriter, r *http.Request) error {
	node := rest(r, "/v1/session/node/")
	if node == "" {
		return badRequest("Missing node name")
	}
	return a.sessionQuery(w, r, catalog.NodePath(node), func(s *kv.Snap) []*catalog.Session {
		return catalog.NodeSessions(s, node)
	})
}

func (a *API) sessionList(w http.ResponseWriter, r *http.Request) error {
	return a.sessionQuery(w, r, catalog.SessionsPath(), catalog.Sessions)
}

// sessionQuery answers with the sessions that list finds; it waits until they differ, because the index at path
// also moves for others.
func (a *API) sessionQuery(w http.ResponseWriter, r *http.Request, path string, list func(*kv.Snap) []*catalog.Session) error {
	q, err := a.parseRead(r)
	if err != nil {
		return err
	}
	if err := a.checkDatacenter(&q.params); err != nil {
		return err
	}
	visible := a.visible(r, "session")
	var found []*SessionEntry
	var index uint64
	meta, err := api.Blocking(r.Context(), a.cfg.Store, q.BlockingOptions, path, func(s *kv.Snap) api.Result {
		found, index = []*SessionEntry{}, s.IndexOf(path)
		p := newPrinter()
		for _, x := range list(s) {
			if visible == nil || visible(x.Node) {
				found = append(found, sessionOf(x))
				p.add(x.ID, x.Modified)
			}
		}
		return api.Result{Index: index, Print: p.sum()}
	})
	if err != nil {
		return err
	}
	writeMeta(w.Header(), indexHeader(index), meta)
	return writeJSON(w, r, found)
}
