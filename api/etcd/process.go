package etcd

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"runtime"
	"strings"
	"time"

	"github.com/hashicorp/go-hclog"

	"github.com/musterhq/muster/api"
)

func (d *Dialect) serveVersion(w http.ResponseWriter, r *http.Request) {
	if onlyGet(w, r) {
		w.Header()["Content-Type"] = d.json
		_, _ = fmt.Fprintf(w, `{"etcdserver":%q,"etcdcluster":%q}`, d.cfg.ServerVersion, clusterRelease)
	}
}

// serveHealth says "true" when this server knows a leader; the leader itself also has to prove within a second
// that a quorum follows it.
func (d *Dialect) serveHealth(w http.ResponseWriter, r *http.Request) {
	if !onlyGet(w, r) {
		return
	}
	st := d.store.Status()
	healthy := st.LeaderID != ""
	if healthy && st.State == "leader" {
		ctx, cancel := context.WithTimeout(r.Context(), time.Second)
		defer cancel()
		_, _, err := d.store.Read(ctx, api.Consistent)
		healthy = err == nil
	}
	w.Header()["Content-Type"] = d.text
	if healthy {
		send(w, http.StatusOK, []byte(`{"health":"true"}`))
		return
	}
	send(w, http.StatusServiceUnavailable, []byte(`{"health":"false"}`+"\n"))
}

// serveVars shows the process: its command line, memory, and its place in the consensus.
func (d *Dialect) serveVars(w http.ResponseWriter, r *http.Request) {
	if !onlyGet(w, r) || !d.may(w, r, Access{Resource: "agent", Name: d.cfg.Name}) {
		return
	}
	type raftStatus struct {
		ID      string `json:"id"`
		Term    uint64 `json:"term"`
		Commit  uint64 `json:"commit"`
		Applied uint64 `json:"applied"`
		Leader  string `json:"lead"`
		State   string `json:"raftState"`
	}
	var out struct {
		CommandLine []string         `json:"cmdline"`
		FileLimit   uint64           `json:"file_descriptor_limit"`
		Memory      runtime.MemStats `json:"memstats"`
		Raft        struct {         // empty on a proxy
			*raftStatus
		} `json:"raft.status"`
	}
	out.CommandLine, out.FileLimit = append([]string{}, d.cfg.CommandLine...), d.cfg.FileLimit
	runtime.ReadMemStats(&out.Memory)
	if st := d.store.Status(); st.ID != "" {
		members := d.cfg.Members()
		out.Raft.raftStatus = &raftStatus{ID: hexID(d.self(members)), Term: st.Term, Commit: st.Commit, Applied: st.Applied, Leader: "0", State: stateName(st.State)}
		if l := leaderOf(members); l != nil {
			out.Raft.Leader = hexID(l.ID)
		}
	}
	w.Header().Set("Content-Type", "application/json; charset=utf-8")
	enc := json.NewEncoder(w)
	enc.SetIndent("", " ")
	if err := enc.Encode(&out); err != nil {
		d.log.Debug("answer was cut off", "path", r.URL.Path, "error", err)
	}
}

// levels are the words for a log level that clients of this dialect use, and what they mean here.
var levels = map[string]hclog.Level{
	"CRITICAL": hclog.Error, "ERROR": hclog.Error, "WARNING": hclog.Warn, "WARN": hclog.Warn, "NOTICE": hclog.Info, "INFO": hclog.Info,
	"DEBUG": hclog.Debug, "TRACE": hclog.Trace,
}

// serveLogLevel changes the log level of the running agent.
func (d *Dialect) serveLogLevel(w http.ResponseWriter, r *http.Request) {
	if r.Method != http.MethodPut {
		methodNotAllowed(w, "PUT")
		return
	}
	if !d.may(w, r, Access{Resource: "agent", Name: d.cfg.Name, Write: true}) {
		return
	}
	var in struct{ Level string }
	if err := json.NewDecoder(io.LimitReader(r.Body, 1<<10)).Decode(&in); err != nil {
		d.sendJSON(w, http.StatusBadRequest, message{"Invalid json body"})
		return
	}
	level, ok := levels[strings.ToUpper(in.Level)]
	switch {
	case !ok:
		d.sendJSON(w, http.StatusBadRequest, message{"Invalid log level " + in.Level})
	case d.cfg.SetLogLevel == nil:
		d.sendJSON(w, http.StatusNotImplemented, message{"the log level of this server cannot be changed"})
	default:
		d.cfg.SetLogLevel(level)
		w.WriteHeader(http.StatusNoContent)
	}
}

var errNoAuth = message{"users and roles are not offered by this server: restrict who reaches its ports"}

// serveAuth is /v2/auth. There are no users and roles: that much is said truthfully, everything else is refused.
func (d *Dialect) serveAuth(w http.ResponseWriter, r *http.Request) {
	name := strings.TrimPrefix(r.URL.Path, "/v2/auth")
	kind, one, _ := strings.Cut(strings.TrimPrefix(name, "/"), "/")
	allow := "GET,PUT,DELETE"
	switch {
	case name == "/enable":
	case kind == "users" || kind == "roles":
		if one == "" {
			allow = "GET"
		}
	default:
		http.NotFound(w, r)
		return
	}
	if !strings.Contains(","+allow+",", ","+r.Method+",") {
		methodNotAllowed(w, allow)
		return
	}
	d.setCluster(w.Header(), d.store.Status().ClusterID)
	switch {
	case name == "/enable" && r.Method == http.MethodGet:
		d.sendJSON(w, http.StatusOK, struct {
			Enabled bool `json:"enabled"`
		}{})
	case name == "/enable" && r.Method == http.MethodDelete:
		d.sendJSON(w, http.StatusConflict, message{"auth: already disabled"})
	default:
		d.sendJSON(w, http.StatusNotImplemented, errNoAuth)
	}
}
