package consul

import (
	"errors"
	"fmt"
	"net/http"
	"os"
	"runtime"
	"strconv"
	"strings"
	"time"

	"github.com/hashicorp/go-hclog"
)

// self is GET /v1/agent/self.
func (a *AgentAPI) self(w http.ResponseWriter, r *http.Request) error {
	if a.cfg.Info == nil {
		return errNotHere
	}
	if err := a.allowHere(r, "agent", false); err != nil {
		return err
	}
	return writeJSON(w, r, a.cfg.Info.Self(r.Context()))
}

// version is GET /v1/agent/version.
func (a *AgentAPI) version(w http.ResponseWriter, r *http.Request) error {
	return writeJSON(w, r, a.cfg.Version)
}

// host is GET /v1/agent/host: what the Go runtime knows of this machine, in the fields of the dialect.
func (a *AgentAPI) host(w http.ResponseWriter, r *http.Request) error {
	if err := a.allow(r, "operator", "", false); err != nil {
		return err
	}
	type host struct {
		Hostname   string `json:"hostname"`
		OS         string `json:"os"`
		KernelArch string `json:"kernelArch"`
	}
	type cpu struct {
		CPU   int32 `json:"cpu"`
		Cores int32 `json:"cores"`
	}
	out := struct {
		Memory, Disk   any
		CPU            []cpu
		Host           host
		CollectionTime int64
		Errors         []string
	}{CPU: []cpu{{0, int32(runtime.NumCPU())}}, CollectionTime: time.Now().UnixNano()}
	name, err := os.Hostname()
	if err != nil {
		out.Errors = append(out.Errors, err.Error())
	}
	out.Host = host{name, runtime.GOOS, runtime.GOARCH}
	return writeJSON(w, r, out)
}

// members is GET /v1/agent/members.
func (a *AgentAPI) members(w http.ResponseWriter, r *http.Request) error {
	p, err := parseParams(r.URL.RawQuery)
	if err != nil {
		return err
	}
	wan := p.get("wan") != "" && p.get("wan") != "0" && p.get("wan") != "false"
	if wan && p.get("segment") != "" {
		return badRequest("Cannot provide a segment with wan=true")
	}
	f, err := newFilter[AgentMember](p.get("filter"))
	if err != nil {
		return err
	}
	if a.cfg.Members == nil {
		return errNotHere
	}
	out := []AgentMember{}
	for _, m := range a.cfg.Members.Members(wan) {
		if f.pass(&m) && a.allow(r, "node", m.Name, false) == nil {
			out = append(out, m)
		}
	}
	return writeJSON(w, r, out)
}

// metrics is GET /v1/agent/metrics.
func (a *AgentAPI) metrics(w http.ResponseWriter, r *http.Request) error {
	p, err := parseParams(r.URL.RawQuery)
	if err != nil {
		return err
	}
	if err := a.allowHere(r, "agent", false); err != nil {
		return err
	}
	accept := r.Header.Get("Accept")
	if p.get("format") == "prometheus" || strings.Contains(accept, "version=0.4.0") && strings.Contains(accept, "text/plain") ||
		strings.Contains(accept, "application/openmetrics-text") {
		if a.cfg.Prometheus == nil {
			w.Header()["X-Consul-Reason"] = []string{"Prometheus is not enabled since its retention time is not positive"}
			writeEmpty(w)
			return nil
		}
		a.cfg.Prometheus.ServeHTTP(w, r)
		return nil
	}
	if a.cfg.Metrics == nil {
		return errNotHere
	}
	v, err := a.cfg.Metrics(w, r)
	if err != nil {
		return err
	}
	return writeJSON(w, r, v)
}

// join is PUT /v1/agent/join/:addr.
func (a *AgentAPI) join(w http.ResponseWriter, r *http.Request) error {
	if err := a.mayControl(r); err != nil {
		return err
	}
	addr := argument(r, pathJoin)
	if addr == "" {
		return badRequest("Missing address to join")
	}
	p, err := parseParams(r.URL.RawQuery)
	if err != nil {
		return err
	}
	return done(w, a.cfg.Control.Join(r.Context(), addr, p.get("wan") == "1"))
}

func (a *AgentAPI) mayControl(r *http.Request) error {
	if a.cfg.Control == nil {
		return errNotHere
	}
	return a.allowHere(r, "agent", true)
}

// leave is PUT /v1/agent/leave; ?force overrides a refusal.
func (a *AgentAPI) leave(w http.ResponseWriter, r *http.Request) error {
	if err := a.mayControl(r); err != nil {
		return err
	}
	p, err := parseParams(r.URL.RawQuery)
	if err != nil {
		return err
	}
	return done(w, a.cfg.Control.Leave(r.Context(), p.has("force")))
}

// forceLeave is PUT /v1/agent/force-leave/:node.
func (a *AgentAPI) forceLeave(w http.ResponseWriter, r *http.Request) error {
	if a.cfg.Control == nil {
		return errNotHere
	}
	if err := a.allow(r, "operator", "", true); err != nil {
		return err
	}
	node := argument(r, pathForceLeave)
	p, err := parseParams(r.URL.RawQuery)
	if err != nil {
		return err
	}
	err = a.cfg.Control.ForceLeave(r.Context(), node, p.has("prune"), p.has("wan"))
	if errors.Is(err, ErrNoSuchMember) {
		return serverError("agent: No node found with name '%s'", node)
	}
	return done(w, err)
}

// reload is PUT /v1/agent/reload.
func (a *AgentAPI) reload(w http.ResponseWriter, r *http.Request) error {
	if err := a.mayControl(r); err != nil {
		return err
	}
	return done(w, a.cfg.Control.Reload(r.Context()))
}

// token is PUT /v1/agent/token/:kind: there is no access control to keep tokens for.
func (a *AgentAPI) token(http.ResponseWriter, *http.Request) error {
	return refuse(http.StatusUnauthorized, "ACL support disabled")
}

// monitorBuffer is how many lines may wait for a slow reader; more are dropped, and the reader is told.
const monitorBuffer = 512

// monitor is GET /v1/agent/monitor: the log as it is written, until the client goes away.
func (a *AgentAPI) monitor(w http.ResponseWriter, r *http.Request) error {
	p, err := parseParams(r.URL.RawQuery)
	if err != nil {
		return err
	}
	if err := a.allowHere(r, "agent", false); err != nil {
		return err
	}
	level := hclog.Info
	if text := p.get("loglevel"); text != "" {
		if level = hclog.LevelFromString(text); level == hclog.NoLevel {
			return badRequest("Unknown log level: %s", text)
		}
	}
	if a.cfg.Logs == nil {
		return errNotHere
	}
	lines := &lineQueue{lines: make(chan []byte, monitorBuffer)}
	sink := hclog.NewSinkAdapter(&hclog.LoggerOptions{Level: level, Output: lines, JSONFormat: p.has("logjson")})
	a.cfg.Logs.RegisterSink(sink)
	defer a.cfg.Logs.DeregisterSink(sink)

	w.Header()["Content-Type"] = headerText
	w.WriteHeader(http.StatusOK)
	out := http.NewResponseController(w)
	_ = out.Flush()
	for {
		select {
		case <-r.Context().Done():
			return nil
		case line := <-lines.lines:
			if n := lines.lost.Swap(0); n > 0 {
				line = append([]byte("Monitor dropped "+strconv.FormatInt(n, 10)+" log lines\n"), line...)
			}
			if _, err := w.Write(line); err != nil {
				return nil //nolint:nilerr // the client went away
			}
			if err := out.Flush(); err != nil && !errors.Is(err, http.ErrNotSupported) {
				return fmt.Errorf("monitor: %w", err)
			}
		}
	}
}
