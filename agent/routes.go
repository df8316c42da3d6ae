package agent

import (
	"bytes"
	"io"
	"net/http"
	"path"
	"strconv"
	"strings"
	"sync"

	"github.com/musterhq/muster/api"
	"github.com/musterhq/muster/api/consul"
	"github.com/musterhq/muster/api/etcd"
	"github.com/musterhq/muster/proxy"
)

// table composes the one table of routes. What is Local runs on the agent that was asked; what is Cluster runs
// here only if this agent is a server that may answer it, and is relayed otherwise:
//
//	/v1/agent/…, /v1/event/…, /v1/snapshot (restore), /metrics, /debug/pprof/    local
//	/v1/kv, /v1/catalog, /v1/health, /v1/session, /v1/status, /v1/txn, /v1/snapshot (save), /v1/acl, /v2/…, /version, /health    cluster
//
// The same table serves the client listeners and the port between agents, so a relayed request is the client's
// own request and nothing else has to be kept in step.
func (a *Agent) table() []api.Route {
	var rows []api.Route
	rows = append(rows, a.agentAPI.Routes()...)
	rows = append(rows, a.localRoutes()...)
	rows = append(rows, a.whyRoutes()...)
	rows = append(rows, a.consul.Routes()...)
	rows = append(rows, a.etcd.Routes()...)
	if a.raft == nil {
		rows = append(rows, etcd.ProxyRoute(a.clientURLs))
	}
	for i := range rows {
		if rows[i].Where == api.Cluster {
			rows[i] = a.clustered(rows[i])
		}
	}
	return rows
}

// router builds the handler of every listener.
func (a *Agent) router() (*api.Router, error) {
	return api.NewRouter(api.RouterConfig{
		Routes:   a.table(),
		NotFound: a.notFound(),
		MaxBody:  maxBody,
		Logger:   a.log,
		Metrics:  a.metrics,
	})
}

// maxBody bounds the bodies of requests whose route sets no limit, in bytes.
const maxBody = 1 << 20

// notFound answers unknown paths in the words of the dialect that the path looks like.
func (a *Agent) notFound() http.Handler {
	flat, other := consul.NotFound(), etcd.NotFound()
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch {
		case r.Method == http.MethodOptions && !strings.HasPrefix(r.URL.Path, "/v1/"):
		case r.URL.Path == "/":
			w.Header()["Content-Type"] = []string{"text/plain; charset=utf-8"}
			_, _ = io.WriteString(w, "Muster agent. The HTTP interfaces are at /v1/ and /v2/.\n")
		case hierarchical(path.Clean(r.URL.Path)):
			other.ServeHTTP(w, r)
		default:
			flat.ServeHTTP(w, r)
		}
	})
}

// hierarchical says whether a path looks like one of that dialect.
func hierarchical(p string) bool {
	first, _, _ := strings.Cut(strings.TrimPrefix(p, "/"), "/")
	switch first {
	case "v2", "version", "health", "debug", "config", "metrics":
		return true
	}
	return false
}

// clustered wraps a row that needs the replicated tree.
func (a *Agent) clustered(row api.Route) api.Route {
	inner := row.Handler
	if row.Here != nil {
		here, relayed := row.Here, row
		relayed.Here = nil
		relayed = a.clustered(relayed)
		row.Handler = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if here(r) {
				inner.ServeHTTP(w, r)
				return
			}
			relayed.Handler.ServeHTTP(w, r)
		})
		return row
	}
	if a.raft == nil {
		row.Handler = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			a.forward(w, r, &row, target(row.TargetOf(r)))
		})
		row.Handler = a.relayLimited(row.Handler)
		if a.cfg.ProxyReadOnly {
			row.Handler = readOnly(row.Handler)
			row.Methods = nil
		}
		return row
	}
	inner = a.limited(&row, inner)
	row.Handler = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Header[proxy.HopsHeader] != nil {
			w.Header()[proxy.ClusterHeader] = []string{a.raft.ClusterID()}
		}
		switch {
		case row.TargetOf(r) == api.Any:
			if !a.raft.CaughtUp() || a.behind(r) {
				a.forward(w, r, &row, proxy.Leader)
				return
			}
			if a.cfg.DiscoveryMaxStale > 0 || strings.Contains(r.URL.RawQuery, "max_stale") {
				a.asLeader(w, r, &row, inner) // a read with a bound may need the leader after all
				return
			}
			inner.ServeHTTP(w, r)
		case !a.raft.IsLeader():
			a.forward(w, r, &row, proxy.Leader)
		case r.Header[proxy.HopsHeader] != nil:
			// Relayed to us: an answer "not leader" goes back to the relay, which knows what to do with it.
			inner.ServeHTTP(w, r)
		default:
			a.asLeader(w, r, &row, inner)
		}
	})
	return row
}

// forward relays a request. The first agent on the way says who it is, for what means "this node" by default.
func (a *Agent) forward(w http.ResponseWriter, r *http.Request, row *api.Route, t proxy.Target) {
	if r.Header[proxy.HopsHeader] == nil {
		r.Header[consul.NodeHeader] = []string{a.cfg.NodeName}
		delete(r.Header, seenHeader)
	}
	if a.seen.local(r) {
		if n := a.seen.index.Load(); n > 0 && r.Header[seenHeader] == nil {
			r.Header[seenHeader] = []string{strconv.FormatUint(n, 10)}
		}
		w = &witness{ResponseWriter: w, seen: &a.seen}
	}
	if a.views != nil && r.Header[proxy.HopsHeader] == nil {
		if q, ok := a.question(row, r); ok {
			a.views.Serve(w, r, t, a.resumer(row, r), q)
			return
		}
	}
	a.relay.Relay(w, r, t, a.resumer(row, r))
}

// resumer is what carries a waiting request over the death of its server, nil for any other.
func (a *Agent) resumer(row *api.Route, r *http.Request) proxy.Resumer {
	if row.Resume == nil {
		return nil
	}
	res := row.Resume(r)
	if res == nil {
		return nil
	}
	return &seenResumer{Resumer: res, seen: &a.seen}
}

func target(t api.Target) proxy.Target {
	if t == api.Any {
		return proxy.Any
	}
	return proxy.Leader
}

// asLeader runs a request here that came straight from a client while this server leads. Should leadership go
// before anything ran, the handler says so, and the request is relayed to the new leader instead of showing
// the client an election.
func (a *Agent) asLeader(w http.ResponseWriter, r *http.Request, row *api.Route, inner http.Handler) {
	var body []byte
	if r.ContentLength != 0 && r.Body != nil && r.Body != http.NoBody {
		if r.ContentLength < 0 || r.ContentLength > maxReplay {
			inner.ServeHTTP(w, r)
			return
		}
		body = make([]byte, r.ContentLength)
		if _, err := io.ReadFull(r.Body, body); err != nil {
			http.Error(w, "request body ended before its length of "+strconv.FormatInt(r.ContentLength, 10)+" bytes", http.StatusBadRequest)
			return
		}
		kept := new(keptBody)
		kept.Reset(body)
		r.Body = kept
	}
	g := guards.Get().(*leaderGuard)
	g.ResponseWriter, g.swallowed = w, false
	inner.ServeHTTP(g, r)
	swallowed := g.swallowed
	g.ResponseWriter = nil
	guards.Put(g)
	if swallowed {
		w.Header().Del(api.NotLeaderHeader)
		if body != nil {
			r.Body = io.NopCloser(bytes.NewReader(body))
		}
		a.forward(w, r, row, proxy.Leader)
	}
}

// keptBody is a body in memory, in one allocation.
type keptBody struct{ bytes.Reader }

// Close implements io.Closer.
func (*keptBody) Close() error { return nil }

// maxReplay is the largest body, in bytes, that is kept to be sent to another leader.
const maxReplay = 1 << 20

var guards = sync.Pool{New: func() any { return new(leaderGuard) }}

// leaderGuard swallows the answer "not leader", which proves that nothing ran.
type leaderGuard struct {
	http.ResponseWriter
	swallowed bool
}

func (g *leaderGuard) WriteHeader(status int) {
	if status == http.StatusServiceUnavailable && g.Header()[api.NotLeaderHeader] != nil {
		g.swallowed = true
		return
	}
	g.ResponseWriter.WriteHeader(status)
}

func (g *leaderGuard) Write(b []byte) (int, error) {
	if g.swallowed {
		return len(b), nil
	}
	return g.ResponseWriter.Write(b)
}

// Flush passes streamed answers on at once.
func (g *leaderGuard) Flush() {
	if f, ok := g.ResponseWriter.(http.Flusher); ok && !g.swallowed {
		f.Flush()
	}
}

// Unwrap serves http.ResponseController.
func (g *leaderGuard) Unwrap() http.ResponseWriter { return g.ResponseWriter }

// readOnly refuses whatever could change the cluster, before anything else is looked at. What this agent does for
// itself, registrations on this machine among it, does not pass here.
func readOnly(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method != http.MethodGet {
			w.WriteHeader(http.StatusNotImplemented)
			return
		}
		next.ServeHTTP(w, r)
	})
}
