package etcd

import (
	"net/http"
	"strings"
)

// Access is one thing a request wants to do: read or write a key, or every key that begins with Name ("key-prefix", a
// directory with the slash at its end), change the members ("operator"), or look into this agent or change how it logs
// ("agent", with the name of the server). Keys have no slash in front.
type Access struct {
	Resource string
	Name     string
	Write    bool
}

// mayKeys asks for what a request under /v2/keys wants; false: it was refused. What is below a directory belongs to
// it when a request is recursive, and when it adds a key there.
func (d *Dialect) mayKeys(w http.ResponseWriter, r *http.Request, key string, p *params) bool {
	if d.cfg.Authorize == nil {
		return true
	}
	x := Access{Resource: "key", Name: strings.TrimPrefix(key, "/"), Write: r.Method != http.MethodGet && r.Method != http.MethodHead}
	if p.recursive || r.Method == http.MethodPost {
		x.Resource, x.Name = "key-prefix", dirName(key)
	}
	return d.mayKey(w, r, x)
}

// mayList asks for what a plain read shows of a directory: the keys in it.
func (d *Dialect) mayList(w http.ResponseWriter, r *http.Request, key string) bool {
	return d.cfg.Authorize == nil || d.mayKey(w, r, Access{Resource: "key-prefix", Name: dirName(key)})
}

func dirName(key string) string {
	if key == "/" {
		return ""
	}
	return strings.TrimPrefix(key, "/") + "/"
}

func (d *Dialect) mayKey(w http.ResponseWriter, r *http.Request, x Access) bool {
	if d.cfg.Authorize(r, x) == nil {
		return true
	}
	d.fail(w, failure{code: codeUnauthorized, cause: unauthorized})
	return false
}

// may asks for the right to something that is no key; false: it was refused.
func (d *Dialect) may(w http.ResponseWriter, r *http.Request, x Access) bool {
	if d.cfg.Authorize == nil || d.cfg.Authorize(r, x) == nil {
		return true
	}
	d.sendJSON(w, http.StatusUnauthorized, message{unauthorized})
	return false
}

// unauthorized is the reason that clients know (contract: etcd-v2 sections 9 and 12).
const unauthorized = "Insufficient credentials"
