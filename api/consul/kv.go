package consul

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"sync"

	"github.com/musterhq/muster/api"
	"github.com/musterhq/muster/catalog"
	"github.com/musterhq/muster/kv"
)

const kvPrefix = "/v1/kv/"

// The key "a/b" of this dialect is the path "k/a/b" of the tree. Keys are flat strings: they are never cleaned,
// segments may be empty, and a key may have a value and keys below it (contract: consul-http 9).
const kvRoot = "k/"

// flatWrite is how this dialect writes: directories that only exist because of keys below them come and go by
// themselves, a key keeps its created index and its lock, and writing what is there already changes nothing.
const flatWrite = kv.Flat | kv.KeepCreated | kv.KeepLock | kv.SkipSame

func (a *API) kvRoutes() []api.Route {
	rt := newRoute(kvPrefix, api.Cluster, a.kv, http.MethodGet, http.MethodPut, http.MethodDelete)
	rt.MaxBody = -1 // kvPut has its own limit and text
	return []api.Route{rt}
}

func (a *API) kv(w http.ResponseWriter, r *http.Request) error {
	key := rest(r, kvPrefix)
	switch r.Method {
	case http.MethodPut:
		return a.kvPut(w, r, key)
	case http.MethodDelete:
		return a.kvDelete(w, r, key)
	default:
		return a.kvGet(w, r, key)
	}
}

// scratch holds buffers for the answers about one key, which are copied when they are written. Larger ones are
// left to the collector.
var scratch = sync.Pool{New: func() any { b := make([]byte, 0, 512); return &b }}

const maxScratch = 16 << 10

func (a *API) kvGet(w http.ResponseWriter, r *http.Request, key string) error {
	q, err := a.parseRead(r)
	if err != nil {
		return err
	}
	switch {
	case q.has("keys"):
		return a.kvKeys(w, r, &q, key)
	case q.has("recurse"):
		return a.kvRecurse(w, r, &q, key)
	case key == "":
		return badRequest("Missing key name")
	}
	if err := a.allow(r, "key", key, false); err != nil {
		return err
	}
	if err := a.checkDatacenter(&q.params); err != nil {
		return err
	}
	path := kvRoot + key
	var found *kv.Entry
	var index uint64
	meta, err := api.Blocking(r.Context(), a.cfg.Store, q.BlockingOptions, path, func(s *kv.Snap) api.Result {
		e, ok := s.Get(path)
		if !ok || !e.HasValue() {
			found, index = nil, s.IndexOf(path)
			return api.Result{Index: index, Print: api.NotFound}
		}
		found, index = e, max(e.Modified(), s.Restored())
		return api.Result{Index: index}
	})
	if err != nil {
		return err
	}
	h := w.Header()
	writeMeta(h, indexHeader(index), meta)
	switch {
	case found == nil:
		w.WriteHeader(http.StatusNotFound)
	case q.has("raw"):
		h["Content-Type"] = headerRawType
		h["X-Content-Type-Options"] = headerNosniff
		h["Content-Security-Policy"] = headerSandbox
		_, _ = io.WriteString(w, found.Value())
	default:
		b := scratch.Get().(*[]byte)
		body := append(appendKV(append((*b)[:0], '['), key, found), ']')
		writeBody(w, r, http.StatusOK, body)
		if cap(body) <= maxScratch {
			*b = body
			scratch.Put(b)
		}
	}
	return nil
}

// waitPath is the nearest directory that covers every key with a string prefix.
func waitPath(prefix string) string {
	i := strings.LastIndexByte(prefix, '/')
	return strings.TrimSuffix(kvRoot+prefix[:max(i, 0)], "/")
}

// walkPrefix calls f for each key with the prefix that the request may read and returns the print of all of
// them, api.NotFound if there are none.
func walkPrefix(s *kv.Snap, prefix string, visible func(string) bool, f func(key string, e *kv.Entry)) uint64 {
	p, n := newPrinter(), 0
	s.Walk(kvRoot+prefix, func(path string, e *kv.Entry) bool {
		key := path[len(kvRoot):]
		if visible == nil || visible(key) {
			p.add(key, e.Modified())
			n++
			f(key, e)
		}
		return true
	})
	if n == 0 {
		return api.NotFound
	}
	return p.sum()
}

func (a *API) kvRecurse(w http.ResponseWriter, r *http.Request, q *read, prefix string) error {
	if err := a.checkDatacenter(&q.params); err != nil {
		return err
	}
	path, visible := waitPath(prefix), a.visible(r, "key")
	var body []byte
	var index uint64
	meta, err := api.Blocking(r.Context(), a.cfg.Store, q.BlockingOptions, path, func(s *kv.Snap) api.Result {
		body, index = append(body[:0], '['), s.IndexOf(path)
		print := walkPrefix(s, prefix, visible, func(key string, e *kv.Entry) {
			body = appendKV(append(body, sep(body)...), key, e)
		})
		return api.Result{Index: index, Print: print}
	})
	if err != nil {
		return err
	}
	writeMeta(w.Header(), indexHeader(index), meta)
	if len(body) == 1 {
		w.WriteHeader(http.StatusNotFound)
		return nil
	}
	writeBody(w, r, http.StatusOK, append(body, ']'))
	return nil
}

func (a *API) kvKeys(w http.ResponseWriter, r *http.Request, q *read, prefix string) error {
	if err := a.checkDatacenter(&q.params); err != nil {
		return err
	}
	separator := q.get("separator")
	if separator == "" {
		separator = q.get("seperator") // as old clients spell it
	}
	path, visible := waitPath(prefix), a.visible(r, "key")
	var body []byte
	var index uint64
	meta, err := api.Blocking(r.Context(), a.cfg.Store, q.BlockingOptions, path, func(s *kv.Snap) api.Result {
		body, index = append(body[:0], '['), s.IndexOf(path)
		last := ""
		print := walkPrefix(s, prefix, visible, func(key string, _ *kv.Entry) {
			if separator != "" {
				if i := strings.Index(key[len(prefix):], separator); i >= 0 {
					key = key[:len(prefix)+i+len(separator)]
				}
			}
			if len(body) > 1 && key == last {
				return
			}
			body, last = appendString(append(body, sep(body)...), key), key
		})
		return api.Result{Index: index, Print: print}
	})
	if err != nil {
		return err
	}
	writeMeta(w.Header(), indexHeader(index), meta)
	if len(body) == 1 && prefix != "" {
		w.WriteHeader(http.StatusNotFound)
		return nil
	}
	writeBody(w, r, http.StatusOK, append(body, ']'))
	return nil
}

// conflicting refuses requests that carry more than one of the flags.
func conflicting(r *http.Request, p *params, flags ...string) error {
	n := 0
	for _, f := range flags {
		if p.has(f) {
			n++
		}
	}
	if n < 2 {
		return nil
	}
	v, err := url.ParseQuery(r.URL.RawQuery)
	if err != nil {
		return errBadQuery
	}
	return badRequest("Conflicting flags: %s\n", v.Encode())
}

// number reads an unsigned number; the error has the text of the contract.
func number(s string) (uint64, error) {
	n, err := strconv.ParseUint(s, 10, 64)
	if err != nil {
		return 0, serverError("%s", err.Error())
	}
	return n, nil
}

func (a *API) kvPut(w http.ResponseWriter, r *http.Request, key string) error {
	p, err := parseParams(r.URL.RawQuery)
	if err != nil {
		return err
	}
	if key == "" {
		return badRequest("Missing key name")
	}
	if err := conflicting(r, &p, "cas", "acquire", "release"); err != nil {
		return err
	}
	if err := a.checkDatacenter(&p); err != nil {
		return err
	}
	if err := a.allow(r, "key", key, true); err != nil {
		return err
	}
	op := kv.Op{Kind: kv.OpSet, Action: kv.ActSet, Flags: flatWrite, Path: kvRoot + key}
	if s, ok := p.lookup("flags"); ok && s != "" {
		if op.UserFlags, err = number(s); err != nil {
			return err
		}
	}
	var conds []kv.Cond
	if s, ok := p.lookup("cas"); ok {
		n, err := number(s)
		if err != nil {
			return err
		}
		op.Action = kv.ActCompareAndSwap
		conds = []kv.Cond{{Kind: kv.CondIndex, Path: op.Path, Index: n}}
	}
	if op.Value, err = a.kvBody(r); err != nil {
		return err
	}
	ok := false
	if id, acquire := p.lookup("acquire"); acquire {
		ok, err = a.acquire(r.Context(), key, id, op)
	} else if id, release := p.lookup("release"); release {
		ok, err = a.release(r.Context(), key, id, op)
	} else {
		ok, err = a.propose(r.Context(), kv.Txn{Conds: conds, Ops: []kv.Op{op}})
	}
	if err != nil {
		return err
	}
	writeBool(w, r, ok)
	return nil
}

// kvBody reads a value. What is just too large is read to its end, so that the client gets to see the refusal.
func (a *API) kvBody(r *http.Request) (string, error) {
	limit := a.cfg.KVMaxValue
	n := r.ContentLength
	switch {
	case n == 0:
		return "", nil
	case n > 0 && n <= limit:
		b := make([]byte, n)
		if _, err := io.ReadFull(r.Body, b); err != nil {
			return "", badRequest("reading the request body: %v", err)
		}
		return string(b), nil
	}
	b, err := io.ReadAll(io.LimitReader(r.Body, limit+1))
	if err != nil {
		return "", badRequest("reading the request body: %v", err)
	}
	if size := int64(len(b)); size <= limit {
		return string(b), nil
	} else if n < 0 {
		n = size
	}
	if n <= 4*limit {
		_, _ = io.Copy(io.Discard, io.LimitReader(r.Body, 4*limit))
	}
	return "", refuse(http.StatusRequestEntityTooLarge, "Request body(%d bytes) too large, max size: %d bytes. "+
		"See https://developer.hashicorp.com/docs/agent/config/config-files#kv_max_value_size.", n, limit)
}

// propose commits a Txn whose condition, if it has one, is the client's: false means that it does not hold.
func (a *API) propose(ctx context.Context, t kv.Txn) (bool, error) {
	if err := t.Check(); err != nil {
		return false, badRequest("%s", err.Error())
	}
	res, err := a.cfg.Store.Propose(ctx, t)
	switch {
	case err != nil:
		return false, err
	case res.Code == kv.Mismatch, res.Code == kv.NotOwner:
		return false, nil
	default:
		return res.Code == kv.OK, codeError(res)
	}
}

// acquire takes the lock of a key for a session. The Txn holds only while the key is as it was seen, so that a
// lock delay that begins in between is not missed.
func (a *API) acquire(ctx context.Context, key, session string, op kv.Op) (bool, error) {
	if session == "" {
		return false, serverError("raft apply failed: missing session")
	}
	op.Kind, op.Action, op.Owner = kv.OpAcquire, kv.ActAcquire, session
	for range maxAttempts {
		s, _, err := a.cfg.Store.Read(ctx, api.Default)
		if err != nil {
			return false, err
		}
		path, ok := catalog.SessionPath(s, session)
		if !ok {
			return false, invalidSession(session)
		}
		op.OwnerPath = path
		seen := kv.Cond{Kind: kv.CondIndex, Path: op.Path}
		if e, ok := s.Get(op.Path); ok && e.HasValue() {
			if o := e.Owner(); o != "" && o != session {
				return false, nil
			}
			seen.Index = e.Modified()
		}
		if a.sessions.delayed(ctx, s, key) {
			return false, nil
		}
		done := a.sessions.intend(session, key)
		t := kv.Txn{Conds: []kv.Cond{seen}, Ops: []kv.Op{op}}
		if err := t.Check(); err != nil {
			done(false)
			return false, badRequest("%s", err.Error())
		}
		res, err := a.cfg.Store.Propose(ctx, t)
		done(err != nil || res.Code == kv.OK)
		switch {
		case err != nil:
			return false, err
		case res.Code == kv.Mismatch:
			continue // the key changed meanwhile: look again
		case res.Code == kv.NotOwner:
			return false, nil
		case res.Code == kv.NoSession:
			return false, invalidSession(session)
		default:
			return res.Code == kv.OK, codeError(res)
		}
	}
	return false, nil
}

func invalidSession(id string) error {
	return serverError("%s", fmt.Sprintf("raft apply failed: invalid session %q", id))
}

func (a *API) release(ctx context.Context, key, session string, op kv.Op) (bool, error) {
	if session == "" {
		return false, serverError("raft apply failed: missing session")
	}
	op.Kind, op.Action, op.Owner = kv.OpRelease, kv.ActRelease, session
	ok, err := a.propose(ctx, kv.Txn{Ops: []kv.Op{op}})
	if ok {
		a.sessions.released(session, key)
	}
	return ok, err
}

func (a *API) kvDelete(w http.ResponseWriter, r *http.Request, key string) error {
	p, err := parseParams(r.URL.RawQuery)
	if err != nil {
		return err
	}
	recurse := p.has("recurse")
	if key == "" && !recurse {
		return badRequest("Missing key name")
	}
	if err := conflicting(r, &p, "recurse", "cas"); err != nil {
		return err
	}
	if err := a.checkDatacenter(&p); err != nil {
		return err
	}
	resource := "key"
	if recurse {
		resource = "key-prefix"
	}
	if err := a.allow(r, resource, key, true); err != nil {
		return err
	}
	op := kv.Op{Kind: kv.OpDelete, Action: kv.ActDelete, Flags: kv.Flat, Path: kvRoot + key}
	t := kv.Txn{}
	if recurse {
		op.Kind = kv.OpDeletePrefix
	}
	if s, ok := p.lookup("cas"); ok {
		n, err := number(s)
		if err != nil {
			return err
		}
		op.Action = kv.ActCompareAndDelete
		t.Conds = []kv.Cond{{Kind: kv.CondIndex, Path: op.Path, Index: n}}
	}
	t.Ops = []kv.Op{op}
	if err := t.Check(); err != nil {
		return badRequest("%s", err.Error())
	}
	res, err := a.cfg.Store.Propose(r.Context(), t)
	if err != nil {
		return err
	}
	if res.Code == kv.Mismatch {
		// A key that is not there counts as deleted, whatever index was asked for.
		e := res.Fail.Entry
		writeBool(w, r, e == nil || !e.HasValue())
		return nil
	}
	if err := codeError(res); err != nil {
		return err
	}
	a.sessions.deleted(key, recurse)
	writeBool(w, r, true)
	return nil
}
