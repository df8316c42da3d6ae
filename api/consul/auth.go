package consul

import (
	"net/http"
	"slices"
	"strings"

	"github.com/musterhq/muster/api"
	"github.com/musterhq/muster/catalog"
)

// Access is one thing a request wants to do. Resource and Name are those of the rules of the dialect (contract:
// consul-agent 5.3), with "key-prefix" for every key that begins with Name:
//
//	key, key-prefix, event, query   the name of the thing itself
//	service                         the name of the service, not the id of an instance
//	node, session, agent            the name of the node: where the instance, session or agent is
//	operator, keyring               no name
type Access struct {
	Resource string
	Name     string
	Write    bool
}

// Authorizer decides what a token may do. It is the one place where access control enters this package: every
// handler asks before it reads or writes, and lists drop what is not allowed.
type Authorizer interface {
	// Authorize returns nil, or the refusal whose text the client gets with status 403.
	Authorize(token string, a Access) error
}

// Token returns the token of a request: ?token=, then X-Consul-Token, then Authorization: Bearer.
func Token(r *http.Request) string {
	if q := r.URL.RawQuery; strings.Contains(q, "token=") {
		if p, err := parseParams(q); err == nil {
			if t := p.get("token"); t != "" {
				return t
			}
		}
	}
	if t := r.Header.Get("X-Consul-Token"); t != "" {
		return t
	}
	scheme, t, ok := strings.Cut(r.Header.Get("Authorization"), " ")
	if ok && strings.EqualFold(scheme, "bearer") {
		return strings.TrimSpace(t)
	}
	return ""
}

// Allow asks z, unless it is nil, whether the token of a request may do something; the error is ready for the client,
// with status 403.
func Allow(z Authorizer, r *http.Request, a Access) error {
	if z == nil {
		return nil
	}
	if err := z.Authorize(Token(r), a); err != nil {
		return refuse(http.StatusForbidden, "%s", err.Error())
	}
	return nil
}

func (a *API) allow(r *http.Request, resource, name string, write bool) error {
	return Allow(a.cfg.Authorizer, r, Access{resource, name, write})
}

// visible returns the test by which lists drop what the request may not read; nil = everything is visible.
func (a *API) visible(r *http.Request, resource string) func(name string) bool {
	if a.cfg.Authorizer == nil {
		return nil
	}
	token := Token(r)
	return func(name string) bool {
		return a.cfg.Authorizer.Authorize(token, Access{Resource: resource, Name: name}) == nil
	}
}

// visibleChecks returns the test by which lists drop the checks that the request may not read: a check belongs to a
// node and perhaps to a service.
func visibleChecks(z Authorizer, r *http.Request) func(*catalog.Check) bool {
	if z == nil {
		return func(*catalog.Check) bool { return true }
	}
	return func(c *catalog.Check) bool {
		return Allow(z, r, Access{Resource: "node", Name: c.Node}) == nil &&
			(c.ServiceName == "" || Allow(z, r, Access{Resource: "service", Name: c.ServiceName}) == nil)
	}
}

// readable leaves out the instances on nodes that the request may not read.
func (a *API) readable(r *http.Request, list []*catalog.Instance) []*catalog.Instance {
	visible := a.visible(r, "node")
	if visible == nil {
		return list
	}
	return slices.DeleteFunc(slices.Clone(list), func(i *catalog.Instance) bool { return !visible(i.Node.Name) })
}

// lookup finds an encoded body before anything else is read. Bodies are kept as they are for somebody who may read
// everything, so where tokens decide, the instances are looked at first: see readable.
func (a *API) lookup(key api.BodyKey, index uint64) *api.Body {
	if a.cfg.Authorizer != nil {
		return nil
	}
	return a.bodies.Lookup(key, index)
}
