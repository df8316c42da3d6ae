// Package etcd serves the etcd v2 HTTP dialect over the replicated tree: /v2/keys with every parameter, watches,
// members, statistics, /version and /health. It holds no data of its own: a request becomes a kv.Txn, a read of a
// kv.Snap or a kv.Watcher, and the answer is rendered the way etcd 3.4 renders it.
//
//	d, err := etcd.New(etcd.Config{Store: store, Name: "n1", Members: members})
//	for _, r := range d.Routes() {
//		table = append(table, r)
//	}
//
// The key /a/b is the tree path k/a/b, so both dialects see the same keys. DESIGN.md lists where the dialect
// departs from etcd, and why.
package etcd

import (
	"errors"
	"net/http"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/go-hclog"
	metrics "github.com/hashicorp/go-metrics"

	"github.com/musterhq/muster/api"
	"github.com/musterhq/muster/kv"
)

// Release is the etcd release whose v2 behaviour this dialect has, and the one /version names unless Config says
// otherwise: clients read it to decide which API to speak.
const Release = "3.4.23"

// clusterRelease is what /version gives as the version of the cluster: the minor release of Release.
const clusterRelease = "3.4.0"

// Defaults of a Config.
const (
	DefaultMaxBody = 10 << 20
	DefaultTimeout = 7 * time.Second // 5 s plus twice the election timeout of 1 s, as in etcd
)

// Member is one server as /v2/members shows it.
type Member struct {
	ID         uint64
	Name       string
	PeerURLs   []string
	ClientURLs []string
	Leader     bool
}

// Peer is what the leader knows about replication to one follower. Latencies are in milliseconds.
type Peer struct {
	ID                               uint64
	Current, Average, Deviation      float64
	Minimum, Maximum                 float64
	FailedAppends, SuccessfulAppends uint64
}

// Traffic counts append messages in one direction. The rates are those of the last ones, 0 after a second of silence.
type Traffic struct {
	Appends                   uint64
	PerSecond, BytesPerSecond float64
}

// Stats are the figures of consensus and of the tree in /v2/stats.
type Stats struct {
	LeaderSince    time.Time // when this server learned of the present leader
	Sent, Received Traffic
	Followers      []Peer    // on the leader only
	Applied        kv.Counts // what reached the tree of this server
}

// Config of a Dialect.
type Config struct {
	Store         api.Store
	Name          string            // name of this server
	Members       func() []Member   // the servers of the cluster, this one included; any order. Called from any goroutine
	Membership    Membership        // changes the members; nil: they are fixed
	Stats         func() Stats      // nil: the figures are left at zero
	ID            func() uint64     // member id of this server; nil: the Member called Name
	ServerVersion string            // "etcdserver" of /version; "" = Release
	CommandLine   []string          // of the process, without secrets, for /debug/vars
	FileLimit     uint64            // how many files the process may have open, for /debug/vars
	SetLogLevel   func(hclog.Level) // for /config/local/log; nil refuses it
	// Authorize is asked, with the request that carries the token, before anything is shown or changed that a token could
	// protect: keys, members, /debug/vars, /config/local/log. nil: everything is allowed.
	Authorize func(*http.Request, Access) error
	MaxBody   int64            // largest form body in bytes; 0 = DefaultMaxBody
	Timeout   time.Duration    // longest wait for a write or a quorum read; 0 = DefaultTimeout
	Logger    hclog.Logger     // nil = silent
	Metrics   *metrics.Metrics // nil = not counted
}

// Dialect answers the requests of etcd v2 clients. Safe for concurrent use.
type Dialect struct {
	cfg     Config
	store   api.Store
	log     hclog.Logger
	started time.Time
	count   counters
	buffers sync.Pool
	cluster atomic.Pointer[clusterHeader]
	json    []string // header values shared by all answers, never written to
	text    []string
}

// clusterHeader caches the text of the cluster id.
type clusterHeader struct {
	id    uint64
	value []string
}

// New checks the configuration and returns a Dialect.
func New(c Config) (*Dialect, error) {
	if c.Store == nil {
		return nil, errors.New("etcd dialect: no store given")
	}
	if c.Members == nil {
		return nil, errors.New("etcd dialect: no list of members given")
	}
	if c.MaxBody < 0 || c.Timeout < 0 {
		return nil, errors.New("etcd dialect: body limit and timeout must not be negative")
	}
	if c.MaxBody == 0 {
		c.MaxBody = DefaultMaxBody
	}
	if c.Timeout == 0 {
		c.Timeout = DefaultTimeout
	}
	if c.ServerVersion == "" {
		c.ServerVersion = Release
	}
	if c.Logger == nil {
		c.Logger = hclog.NewNullLogger()
	}
	return &Dialect{
		cfg:     c,
		store:   c.Store,
		log:     c.Logger,
		started: c.Store.Now(),
		buffers: sync.Pool{New: func() any { b := make([]byte, 0, 1024); return &b }},
		json:    []string{"application/json"},
		text:    []string{"text/plain; charset=utf-8"},
	}, nil
}

// Routes returns the rows of this dialect for the table of routes. All methods reach the handlers: the dialect
// has its own way to refuse one.
func (d *Dialect) Routes() []api.Route {
	anyServer := func(*http.Request) api.Target { return api.Any }
	row := func(pattern string, where api.Where, h http.HandlerFunc) api.Route {
		return api.Route{Pattern: pattern, Where: where, Target: anyServer, Handler: d.front(h), MaxBody: -1}
	}
	keys := row("/v2/keys/", api.Cluster, d.serveKeys)
	keys.Target, keys.Resume, keys.Share = keysTarget, resumeWatch, shareKeys
	members := row("/v2/members/", api.Cluster, d.serveMembers)
	members.Target = membersTarget
	return []api.Route{
		keys,
		members,
		row("/v2/machines", api.Cluster, d.serveMachines),
		row("/v2/stats/self", api.Cluster, d.serveStatsSelf),
		row("/v2/stats/leader", api.Cluster, d.serveStatsLeader),
		row("/v2/stats/store", api.Cluster, d.serveStatsStore),
		row("/health", api.Cluster, d.serveHealth),
		row("/v2/auth/", api.Cluster, d.serveAuth),
		row("/version", api.Local, d.serveVersion),
		row("/debug/vars", api.Local, d.serveVars),
		row("/config/local/log", api.Local, d.serveLogLevel),
	}
}

// front answers OPTIONS, which is 200 everywhere. What browsers are told besides is api.CORS's.
func (d *Dialect) front(h http.HandlerFunc) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method == http.MethodOptions {
			w.WriteHeader(http.StatusOK)
			return
		}
		h(w, r)
	})
}

// methodNotAllowed answers 405 as etcd does: the allowed methods in Allow, plain text.
func methodNotAllowed(w http.ResponseWriter, allow string) {
	if allow != "" {
		w.Header().Set("Allow", allow)
	}
	http.Error(w, "Method Not Allowed", http.StatusMethodNotAllowed)
}

// setCluster sets X-Etcd-Cluster-Id: lower-case hexadecimal without leading zeros.
func (d *Dialect) setCluster(h http.Header, id uint64) {
	if id == 0 {
		return // not known here, or not yet
	}
	c := d.cluster.Load()
	if c == nil || c.id != id {
		c = &clusterHeader{id: id, value: []string{strconv.FormatUint(id, 16)}}
		d.cluster.Store(c)
	}
	h["X-Etcd-Cluster-Id"] = c.value
}

// setIndexes sets the headers of a successful answer under /v2/keys. It writes the map with canonical names and
// makes one string for the three numbers, because every read and write passes here.
func (d *Dialect) setIndexes(h http.Header, index uint64, st *api.Status) {
	var room [60]byte
	b := strconv.AppendUint(room[:0], index, 10)
	i := len(b)
	b = strconv.AppendUint(b, st.Applied, 10)
	j := len(b)
	b = strconv.AppendUint(b, st.Term, 10)
	s := string(b)
	v := [...]string{s[:i], s[i:j], s[j:]}
	vs := v[:]
	h["Content-Type"] = d.json
	h["X-Etcd-Index"] = vs[0:1:1]
	h["X-Raft-Index"] = vs[1:2:2]
	h["X-Raft-Term"] = vs[2:3:3]
	d.setCluster(h, st.ClusterID)
}

// body hands out an empty buffer; release takes it back unless it grew large.
func (d *Dialect) body() *[]byte { return d.buffers.Get().(*[]byte) }

func (d *Dialect) release(p *[]byte, b []byte) {
	if cap(b) > 64<<10 {
		return
	}
	*p = b[:0]
	d.buffers.Put(p)
}

// send writes a whole answer. net/http finds the length of short ones itself; a long one would be chunked.
func send(w http.ResponseWriter, status int, b []byte) {
	if len(b) > 2048 {
		w.Header()["Content-Length"] = []string{strconv.Itoa(len(b))}
	}
	if status != http.StatusOK {
		w.WriteHeader(status)
	}
	_, _ = w.Write(b)
}
