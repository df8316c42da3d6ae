package consul

import (
	"net/http"
	"strings"
)

// Access is one thing a request wants to do.
type Access struct {
	Resource string // "key", "key-prefix", "node", "service", "session"
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
