package consul

import (
	"errors"
	"fmt"
	"net/http"

	"github.com/musterhq/muster/api"
	"github.com/musterhq/muster/archive"
	"github.com/musterhq/muster/internal/version"
)

// snapshotRoutes save and restore the state of the whole cluster (contract: consul-http 15).
func (a *API) snapshotRoutes() []api.Route {
	rt := newRoute("/v1/snapshot", api.Cluster, func(w http.ResponseWriter, r *http.Request) error {
		if r.Method == http.MethodPut {
			return a.snapshotRestore(w, r)
		}
		return a.snapshotSave(w, r)
	}, http.MethodGet, http.MethodPut)
	rt.MaxBody = -1
	// A restore runs where it is asked: the archive is checked there, in a file, before any server hears of it.
	rt.Here = func(r *http.Request) bool { return r.Method == http.MethodPut }
	return []api.Route{rt}
}

var headerGzip = []string{"application/x-gzip"}

// snapshotSave streams an archive of the state: nothing of it is collected anywhere.
func (a *API) snapshotSave(w http.ResponseWriter, r *http.Request) error {
	q, err := a.parseRead(r)
	if err != nil {
		return err
	}
	if err := a.checkDatacenter(&q.params); err != nil {
		return err
	}
	if err := a.allow(r, "operator", "", true); err != nil {
		return err
	}
	s, meta, err := api.Read(r.Context(), a.cfg.Store, q.ReadOptions)
	if err != nil {
		return err
	}
	st := a.cfg.Store.Status()
	h := w.Header()
	writeMeta(h, indexHeader(s.Index()), meta)
	h["Content-Type"] = headerGzip
	m := archive.Meta{
		ID: fmt.Sprintf("%d-%d-%d", st.Term, s.Index(), a.cfg.Store.Now().UnixMilli()), Index: s.Index(), Term: st.Term,
		Program: "muster " + version.Version, Cluster: fmt.Sprintf("%016x", st.ClusterID),
	}
	if err := archive.Write(w, m, s.WriteBare); err != nil {
		// The answer has begun: an archive that is cut shows it.
		a.log.Info("saving a snapshot was broken off", "error", err)
	}
	return nil
}

func (a *API) snapshotRestore(w http.ResponseWriter, r *http.Request) error {
	p, err := parseParams(r.URL.RawQuery)
	if err != nil {
		return err
	}
	if err := a.checkDatacenter(&p); err != nil {
		return err
	}
	if err := a.allow(r, "operator", "", true); err != nil {
		return err
	}
	if a.cfg.Restore == nil {
		return errNotHere
	}
	err = a.cfg.Restore(r)
	if errors.Is(err, archive.ErrDamaged) {
		return serverError("failed to decompress snapshot: %v", err)
	}
	if err != nil {
		return localError(err)
	}
	writeEmpty(w)
	return nil
}
