// Package consul is the flat dialect: the Consul v1 HTTP API over the replicated tree, one file per noun. The
// endpoints of the cluster (catalog, health, kv, txn, session, query, coordinate, snapshot, operator, status) are of type API; those that only concern the
// local agent are of type AgentAPI.
//
//	a := consul.New(consul.Config{Store: store, Datacenter: "dc1", NodeName: "web1"})
//	router, err := api.NewRouter(api.RouterConfig{Routes: a.Routes(), NotFound: consul.NotFound()})
//	http.ListenAndServe("127.0.0.1:8500", router)
package consul

import (
	"context"
	"net/http"
	"strings"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/go-metrics"
	"github.com/hashicorp/serf/coordinate"

	"github.com/musterhq/muster/api"
	"github.com/musterhq/muster/guard"
)

// Limits and defaults of the contract.
const (
	DefaultKVMaxValue   = 512 << 10         // bytes of one value
	DefaultTxnMaxBody   = 512 << 10         // bytes of the body of a transaction
	DefaultTxnMaxOps    = 128               // operations of a transaction
	DefaultQueryTime    = 300 * time.Second // wait of a blocking query that names none
	DefaultMaxQueryTime = 600 * time.Second // longest wait
)

// Config of an API. Store and Datacenter are required.
type Config struct {
	Store        api.Store
	Datacenter   string
	NodeName     string // this agent's node: the default of session/create
	Logger       hclog.Logger
	Metrics      *metrics.Metrics
	KVMaxValue   int64         // bytes, 0 = DefaultKVMaxValue
	TxnMaxBody   int64         // bytes, 0 = DefaultTxnMaxBody
	TxnMaxOps    int           // 0 = DefaultTxnMaxOps
	QueryTime    time.Duration // 0 = DefaultQueryTime
	MaxQueryTime time.Duration // 0 = DefaultMaxQueryTime
	// DiscoveryMaxStale lets reads of the catalog and of health be as old as that when the request does not say; 0 = not.
	DiscoveryMaxStale time.Duration
	SessionTTL        [2]time.Duration // smallest and largest TTL of a session; zero = 10 s and 24 h
	Peers             func() []string  // addresses (host:port) of the servers for status/peers; nil = only the leader's
	Operator          Operator         // the servers; nil = no operator endpoints for them
	Keyring           Keyring          // the keys of the gossip; nil = no endpoint for them
	// Coordinate tells where a member stands in the network; nil = coordinates are off.
	Coordinate func(node string) (*coordinate.Coordinate, bool)
	// Restore replaces the state of the cluster by the archive in the body of a request; nil = not here. Its errors are
	// archive.ErrDamaged, *LocalError, or those of the Store.
	Restore      func(*http.Request) error
	Guard        *guard.Services // what of a service is shown to those that want healthy instances; nil = everything as it is
	GuardControl GuardControl    // that guard as operators see it; nil = no endpoints for it
	Upstreams    func() any      // what GET agent/upstreams shows; nil = no endpoint
	// Doctor examines this agent and what it can reach of the cluster, for GET agent/doctor; nil = no endpoint. It must
	// bound itself in time. nil for the answer: an examination is under way.
	Doctor      func(context.Context) any
	Authorizer  Authorizer // nil = everything is allowed
	Connect     bool       // make and show a root certificate of the mesh, see connectRoutes
	TrustDomain string     // of that certificate, without ".consul"; default the cluster's id
	CacheBytes  int64      // limit of the encoded answers kept, 0 = api.DefaultBodyCacheBytes
}

// API serves the endpoints that read and write the replicated tree.
type API struct {
	cfg      Config
	log      hclog.Logger
	bodies   *api.BodyCache
	sessions *Sessions
	updates  *CoordinateUpdates
	recent   recentQueries
}

// New makes an API. It starts nothing; see Sessions for the leader's job.
func New(c Config) *API {
	if c.Logger == nil {
		c.Logger = hclog.NewNullLogger()
	}
	if c.KVMaxValue == 0 {
		c.KVMaxValue = DefaultKVMaxValue
	}
	if c.TxnMaxBody == 0 {
		c.TxnMaxBody = DefaultTxnMaxBody
	}
	if c.TxnMaxOps == 0 {
		c.TxnMaxOps = DefaultTxnMaxOps
	}
	if c.QueryTime == 0 {
		c.QueryTime = DefaultQueryTime
	}
	if c.MaxQueryTime == 0 {
		c.MaxQueryTime = DefaultMaxQueryTime
	}
	if c.SessionTTL == [2]time.Duration{} {
		c.SessionTTL = [2]time.Duration{10 * time.Second, 24 * time.Hour}
	}
	return &API{
		cfg:      c,
		log:      c.Logger.Named("http"),
		updates:  newCoordinateUpdates(c.Store),
		bodies:   api.NewBodyCache(c.CacheBytes),
		sessions: newSessions(c.Store, c.Logger.Named("session"), c.Metrics),
	}
}

// Sessions is the keeper of session TTLs and lock delays; its Run must be a job of the leader.
func (a *API) Sessions() *Sessions { return a.sessions }

// CoordinateUpdates writes the coordinates of nodes without an agent; its Run must be a job of the leader.
func (a *API) CoordinateUpdates() *CoordinateUpdates { return a.updates }

// Routes is this dialect's part of the table of routes.
func (a *API) Routes() []api.Route {
	var rs []api.Route
	rs = append(rs, a.catalogRoutes()...)
	rs = append(rs, a.healthRoutes()...)
	for i := range rs {
		rs[i].Target = a.target
	}
	rs = append(rs, a.kvRoutes()...)
	rs = append(rs, a.txnRoutes()...)
	rs = append(rs, a.snapshotRoutes()...)
	rs = append(rs, a.queryRoutes()...)
	rs = append(rs, a.uiRoutes()...)
	rs = append(rs, a.coordinateRoutes()...)
	rs = append(rs, a.sessionRoutes()...)
	rs = append(rs, a.statusRoutes()...)
	rs = append(rs, a.operatorRoutes()...)
	rs = append(rs, a.guardRoutes()...)
	rs = append(rs, a.upstreamRoutes()...)
	rs = append(rs, a.doctorRoutes()...)
	rs = append(rs, a.aclRoutes()...)
	rs = append(rs, a.connectRoutes()...)
	for i := range rs {
		rs[i].Resume, rs[i].Share = a.resume, a.Share
	}
	return rs
}

// NotFound answers the paths that no Route matches.
func NotFound() http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		text := "Invalid URL path: if attempting to use the HTTP API, ensure the path starts with '/v1/'\n"
		if strings.Contains(r.URL.Path, "/v1/") {
			text = "Invalid URL path: not a recognized HTTP API endpoint\n"
		}
		writeText(w, http.StatusNotFound, text)
	})
}
