package etcd

import (
	"context"
	"net/http"
	"net/url"
	"path"
	"strings"

	"github.com/musterhq/muster/api"
	"github.com/musterhq/muster/kv"
)

const (
	keysPrefix  = "/v2/keys"
	keysMethods = "HEAD,GET,PUT,POST,DELETE"
	rootPath    = "k" // the part of the tree that holds user keys
)

// keyOf turns a path of the tree into a key: "k/a" is "/a", the root "k" is "/".
func keyOf(p string) string {
	if len(p) <= len(rootPath) {
		return "/"
	}
	return p[len(rootPath):]
}

// keysTarget says which server a request under /v2/keys needs: plain reads and watches are answered by any server
// from its own tree, everything else needs the leader.
func keysTarget(r *http.Request) api.Target {
	if r.Method != http.MethodGet && r.Method != http.MethodHead {
		return api.Leader
	}
	if !strings.Contains(r.URL.RawQuery, "quorum") && !strings.Contains(r.URL.RawQuery, "%") {
		return api.Any
	}
	var f form
	if f.parse(r.URL.RawQuery) != nil {
		return api.Any // any server can refuse it
	}
	if quorum, ok := f.flag(pQuorum); ok && quorum {
		return api.Leader
	}
	return api.Any
}

// serveKeys is /v2/keys: redirect, method, parameters, operation, in this order.
func (d *Dialect) serveKeys(w http.ResponseWriter, r *http.Request) {
	full := r.URL.Path
	if unclean(full) {
		redirect(w, r)
		return
	}
	key := strings.TrimSuffix(full[len(keysPrefix):], "/")
	if key == "" {
		key = "/"
	}
	switch r.Method {
	case http.MethodGet, http.MethodHead, http.MethodPut, http.MethodPost, http.MethodDelete:
	default:
		methodNotAllowed(w, keysMethods)
		return
	}
	var p params
	if r.URL.RawQuery != "" || r.Method == http.MethodPut || r.Method == http.MethodPost {
		if f, ok := d.parse(w, r, &p); !ok {
			d.fail(w, f)
			return
		}
	}
	if !d.mayKeys(w, r, key, &p) {
		return
	}
	switch r.Method {
	case http.MethodGet, http.MethodHead:
		if p.wait && !p.quorum {
			d.watch(w, r, key, &p)
		} else {
			d.get(w, r, key, &p)
		}
	default:
		d.write(w, r, key, &p)
	}
}

// unclean says whether a path has an empty, "." or ".." segment. One slash at the end is fine.
func unclean(p string) bool {
	for i := 0; i < len(p); {
		if p[i] != '/' {
			i++
			continue
		}
		i++
		rest := p[i:]
		if strings.HasPrefix(rest, "/") || rest == "." || rest == ".." ||
			strings.HasPrefix(rest, "./") || strings.HasPrefix(rest, "../") {
			return true
		}
	}
	return false
}

// redirect sends the client to the clean path and keeps the query, because without its conditions a write would be
// another one. 307 keeps the method where 301 makes clients turn a PUT into a GET.
func redirect(w http.ResponseWriter, r *http.Request) {
	clean := path.Clean("/" + r.URL.Path)
	if strings.HasSuffix(r.URL.Path, "/") && clean != "/" {
		clean += "/"
	}
	to := url.URL{Path: clean, RawQuery: r.URL.RawQuery}
	status := http.StatusTemporaryRedirect
	if r.Method == http.MethodGet || r.Method == http.MethodHead {
		status = http.StatusMovedPermanently
	}
	http.Redirect(w, r, to.String(), status)
}

// get answers a read: from this server's own tree, or with quorum=true after the leader has made sure of itself.
func (d *Dialect) get(w http.ResponseWriter, r *http.Request, key string, p *params) {
	ctx, level := r.Context(), api.Stale
	if p.quorum {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, d.cfg.Timeout)
		defer cancel()
		level = api.Consistent
	}
	snap, _, err := d.store.Read(ctx, level)
	if err != nil {
		d.count.read(p, false)
		d.failStore(w, err)
		return
	}
	e, code, at := snap.Resolve(treePath(key))
	if code != kv.OK && key != "/" {
		d.count.read(p, false)
		f := failure{code: codeNotFound, cause: missing(key, at), index: snap.Index()}
		if code == kv.NotDir {
			f.code = codeNotDir
		}
		d.fail(w, f)
		return
	}
	if (e == nil || e.IsDir()) && !p.recursive && !d.mayList(w, r, key) {
		return
	}
	d.count.read(p, true)
	st := d.store.Status()
	d.setIndexes(w.Header(), snap.Index(), &st)
	buf := d.body()
	var now int64
	if e != nil && (e.IsDir() || e.Expires() != 0) {
		now = d.store.Now().UnixNano()
	}
	b := appendGet((*buf)[:0], key, e, p.recursive, now)
	send(w, http.StatusOK, b)
	d.release(buf, b)
}

// treePath is the place of a key in the tree.
func treePath(key string) string {
	if key == "/" {
		return rootPath
	}
	return rootPath + key
}

// missing is the cause of "key not found": the first part of the key that is not there. The root always is, even
// while the tree is empty and does not hold it yet.
func missing(key, at string) string {
	if len(at) > len(rootPath) {
		return keyOf(at)
	}
	if i := strings.IndexByte(key[1:], '/'); i >= 0 {
		return key[:i+1]
	}
	return key
}
