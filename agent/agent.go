// Package agent is the composition root: the one place that knows every part of Muster. It reads the
// configuration, opens the parts in order, joins them, and takes them down again in the order that each step
// explains. Everything an agent does can be found from here.
//
//	cfg, warnings, err := agent.Load(os.Args[2:], os.Environ(), os.Stderr)
//	a, err := agent.Start(ctx, cfg, agent.Options{Log: os.Stderr, Banner: os.Stdout})
//	...
//	a.Stop(ctx)         // or a.Leave(false): stop for good
//	<-a.Done()
package agent

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/go-metrics"
	"golang.org/x/time/rate"

	"github.com/musterhq/muster/api"
	"github.com/musterhq/muster/api/consul"
	"github.com/musterhq/muster/api/etcd"
	"github.com/musterhq/muster/consensus"
	"github.com/musterhq/muster/dnsserver"
	"github.com/musterhq/muster/guard"
	"github.com/musterhq/muster/kv"
	"github.com/musterhq/muster/membership"
	"github.com/musterhq/muster/peer"
	"github.com/musterhq/muster/proxy"
	"github.com/musterhq/muster/upstream"
)

// Options are what a Config does not hold: where output goes, and seams for tests.
type Options struct {
	Log    io.Writer // default: discarded
	Banner io.Writer // default: none is shown
	// Reload gives the Config anew for SIGHUP and /v1/agent/reload; nil refuses reloads.
	Reload func() (Config, []Warning, error)
	// Dial replaces the TCP dial to servers (tests cut the network here); nil is the usual one.
	Dial func(ctx context.Context, network, addr string) (net.Conn, error)
	// Authorizer is asked by every route of both dialects and of this package; nil allows everything.
	Authorizer consul.Authorizer
}

// Agent is one running agent. Its methods are safe for concurrent use.
type Agent struct {
	cfg     Config
	opts    Options
	id      string
	started time.Time
	log     hclog.InterceptLogger
	*telemetry
	metrics *metrics.Metrics

	tree      *kv.Tree        // nil on a proxy
	raft      *consensus.Node // nil on a proxy
	store     api.Store
	certs     certificates
	dialer    *peer.Dialer
	port      *peer.Server // nil on a proxy
	pool      *membership.Pool
	events    *userEvents
	watches   *watches
	relay     *proxy.Proxy
	views     *proxy.Views    // nil on a server
	guard     *guard.Services // nil: turned off
	nodes     *nodeGuard
	strangers strangers
	rates     atomic.Pointer[rateLimits]
	limits    Limits      // that rates were made of; reloading guards it
	left      atomic.Bool // the agent says goodbye for good
	seen      seen

	memberCache memberCache
	unreachable atomic.Int64 // unix nanoseconds when no server could be reached last
	autopilot   *autopilot   // nil on a proxy

	registry  *Registry
	sync      *Sync
	endSync   func()        // stops the sync and waits for it
	up        chan struct{} // closed when everything runs: the sync may begin
	consul    *consul.API
	agentAPI  *consul.AgentAPI
	etcd      *etcd.Dialect
	dns       *dnsserver.Server
	view      localView
	contact   contact // of a proxy
	upstreams *upstream.Upstreams
	overHTTPS atomic.Pointer[dnsserver.Server] // the same, for a route that exists before it

	handler      atomic.Pointer[api.Router]
	memberEvents chan membership.Event
	compareSoon  chan struct{} // asks the leader's job for a full comparison
	sentries     sentries
	admitSoon    chan struct{} // asks the leader's job to look for servers without a vote

	ctx       context.Context // ends when the agent begins to stop
	cancel    context.CancelFunc
	stops     []stopStep
	once      sync.Once
	done      chan struct{}
	reason    error // why it ended by itself, valid after done
	marks     marks // when the tree's index was where
	mu        sync.Mutex
	reloading sync.Mutex // one reload at a time
	restoring sync.Mutex // one restore at a time
	examining sync.Mutex // one examination at a time

	ratesLogged rate.Sometimes
}

// stopStep undoes one step of Start.
type stopStep struct {
	what string
	f    func(context.Context) error
}

// relayDrain is how long a stop waits for relayed requests under way before it cuts them: longer than an election takes on a
// busy machine, for writes that wait for the next leader are sent back to whom they came from and must not be cut.
const relayDrain = time.Second

// stopTimeout bounds the whole stop.
const stopTimeout = 15 * time.Second

// Start brings an agent up. When it returns, every interface answers; a cluster may still be forming. On an
// error everything opened so far is closed again.
func Start(ctx context.Context, cfg Config, opts Options) (*Agent, error) {
	if opts.Log == nil {
		opts.Log = io.Discard
	}
	a := &Agent{cfg: cfg, opts: opts, started: time.Now(), done: make(chan struct{}), memberEvents: make(chan membership.Event, 1024), compareSoon: make(chan struct{}, 1), admitSoon: make(chan struct{}, 1), up: make(chan struct{})}
	a.log = newLogger(&cfg, opts.Log)
	a.limits = cfg.Limits
	a.rates.Store(newRateLimits(&cfg.Limits))
	a.ratesLogged.Interval = limitsLogged
	a.events, a.watches = newUserEvents(a), &watches{agent: a}
	a.ctx, a.cancel = context.WithCancel(context.Background())
	if err := a.open(ctx); err != nil {
		a.Stop()
		return nil, err
	}
	if opts.Banner != nil {
		a.banner(opts.Banner)
	}
	return a, nil
}

// open is the order in which an agent comes up. Each step needs those before it.
func (a *Agent) open(ctx context.Context) error {
	steps := []struct {
		what string
		f    func() error
	}{
		{"data directory", a.openIdentity},
		{"metrics", a.openTelemetry},
		{"guard", a.openGuard}, // before whatever answers
		{"certificates", a.openCertificates},
		{"", a.openPort},                              // before raft, which talks through it
		{"", func() error { return a.openTree(ctx) }}, // before gossip, whose events become writes
		{"local registry", a.openRegistry},            // before gossip: checks of the last run are known when we are seen
		{"", a.openGossip},
		{"routes", a.openRoutes}, // before any listener that uses them
		{"view of services", a.openView},
		{"DNS", a.startDNS},
		{"", a.openUpstreams}, // after the view it asks
		{"HTTP", a.startHTTP},
		{"cluster", func() error { return a.startCluster(ctx) }},
	}
	for _, s := range steps {
		if err := s.f(); err != nil && s.what != "" {
			return fmt.Errorf("%s: %w", s.what, err)
		} else if err != nil {
			return err // it names its part already
		}
	}
	return nil
}

// onStop registers what undoes a step. Stop runs them last first, so that no part outlives what it stands on.
func (a *Agent) onStop(what string, f func(context.Context) error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.stops = append(a.stops, stopStep{what, f})
}

func (a *Agent) openIdentity() error {
	if err := openDataDir(a.cfg.DataDir); err != nil {
		return err
	}
	var err error
	if a.id, err = identity(&a.cfg); err != nil {
		return err
	}
	return a.writePid()
}

func (a *Agent) openTelemetry() error {
	t, err := newTelemetry(&a.cfg)
	if err != nil {
		return err
	}
	a.telemetry, a.metrics = t, t.metrics
	return nil
}

// openPort opens the port between agents, plain or under mutual TLS. Only servers listen; everybody dials.
func (a *Agent) openPort() error {
	a.dialer = peer.NewDialer(peer.DialerConfig{TLS: a.dialTLS(), Metrics: a.metrics, Dial: a.opts.Dial, Few: a.cfg.Server, MaxConns: a.dialConns()})
	a.onStop("connections to servers", func(context.Context) error { a.dialer.Close(); return nil })
	if !a.cfg.Server {
		return nil
	}
	// Relayed queries that only wait end with what they have when the agent begins to stop. What is left when the
	// port itself closes are streams, which never end by themselves.
	base, cancel := context.WithCancelCause(api.WithStopping(context.Background(), a.ctx.Done()))
	port, err := peer.Listen(peer.Config{
		Base: base,
		Bind: a.cfg.ServerListen(), TLS: a.certs.peer, Logger: a.log.Named("peer"), Metrics: a.metrics,
		Handler: http.HandlerFunc(a.serveRelayed), HeaderTimeout: a.cfg.Limits.RPCHandshakeTimeout, MaxConnsPerClient: a.cfg.Limits.RPCMaxConnsPerClient,
	})
	if err != nil {
		cancel(err)
		return err
	}
	a.port = port
	a.onStop("server port", func(ctx context.Context) error {
		// What was relayed here and is on its way to another server is given time to be answered: cut, nobody could
		// say whether it ran.
		drain, end := context.WithTimeout(ctx, relayDrain)
		defer end()
		defer context.AfterFunc(drain, func() { cancel(api.ErrShutdown) })()
		return port.Close(ctx)
	})
	return nil
}

// dialConns is how many connections this agent opens to one server for short requests: so few that the server, whose limit is as
// ours, does not turn others away.
func (a *Agent) dialConns() int {
	if most := a.cfg.Limits.RPCMaxConnsPerClient; most > 0 {
		return min(peer.DefaultDialConns, most/2)
	}
	return peer.DefaultDialConns
}

// serveRelayed answers requests that another agent relays. Until the routes exist it says what is true: this
// server does not lead.
func (a *Agent) serveRelayed(w http.ResponseWriter, r *http.Request) {
	if strings.HasPrefix(r.URL.Path, restartPath) {
		a.hearRestart(w, r)
		return
	}
	switch r.URL.Path {
	case clockPath:
		tellClock(w)
		return
	case holdsPath:
		a.tellHolds(w)
		return
	}
	if h := a.handler.Load(); h != nil {
		h.ServeHTTP(w, r)
		return
	}
	api.WriteStoreError(w, api.ErrNotLeader)
}

// openTree opens the replicated tree on a server.
func (a *Agent) openTree(ctx context.Context) error {
	if !a.cfg.Server {
		a.store = noStore{}
		return nil
	}
	if a.cfg.ForceNewCluster {
		if err := a.forceNewCluster(ctx); err != nil {
			return err
		}
	}
	a.tree = newTree(&a.cfg)
	a.onStop("tree", func(context.Context) error { a.tree.Close(); return nil })
	dir := ""
	if a.cfg.DataDir != "" {
		dir = raftDir(a.cfg.DataDir)
	}
	node, err := consensus.Open(consensus.Config{
		ID: a.id, Name: a.cfg.NodeName, Addr: a.cfg.Advertised(), Dir: dir, Tree: a.tree,
		Layer: a.port.RaftLayer(a.dialer), Logger: a.log.Named("consensus"), Metrics: a.metrics,
		Timing:            a.timing(),
		SnapshotThreshold: uint64(a.cfg.RaftSnapshotThreshold), SnapshotInterval: a.cfg.RaftSnapshotInterval,
		TrailingLogs: uint64(a.cfg.RaftTrailingLogs),
	})
	if errors.Is(err, consensus.ErrBackup) {
		return fmt.Errorf("data directory %s: %w; start it once with -force-new-cluster", a.cfg.DataDir, err)
	}
	if err != nil {
		return err
	}
	a.raft, a.autopilot = node, newAutopilot(a)
	a.store = &treeStore{node: node, tree: a.tree}
	a.onStop("consensus", node.Close)
	return nil
}

// timing stretches the timing of leadership by raft_multiplier.
func (a *Agent) timing() consensus.Timing {
	t, m := consensus.LAN(), time.Duration(a.cfg.Performance.RaftMultiplier)
	return consensus.Timing{Heartbeat: m * t.Heartbeat, Election: m * t.Election, Lease: m * t.Lease, Commit: t.Commit}
}

// openRoutes composes the interfaces and the relay they share.
func (a *Agent) openRoutes() error {
	var err error
	self, leader := "", func() string { return "" }
	if a.raft != nil {
		self = a.cfg.Advertised()
		leader = func() string { _, addr := a.raft.Leader(); return addr }
	}
	a.relay, err = proxy.New(proxy.Config{
		Self: self, Servers: a.servers, Leader: leader, Local: a.localHandler(), Transport: a.dialer.Transport(),
		IsRefused: peer.IsRefused, Hold: a.cfg.Performance.RPCHoldTimeout, MaxBody: 16 << 20, OnError: a.relayFailed,
		Logger: a.log.Named("proxy"), Metrics: a.metrics,
	})
	if err != nil {
		return err
	}
	if err := a.openViews(); err != nil {
		return err
	}
	if err := a.openDialects(); err != nil {
		return err
	}
	router, err := a.router()
	if err != nil {
		return err
	}
	a.handler.Store(router)
	go router.Run(a.ctx)
	return nil
}

// localHandler lets the relay run a request here when this server becomes the leader while it waits for one.
func (a *Agent) localHandler() http.Handler {
	if a.raft == nil {
		return nil
	}
	return http.HandlerFunc(a.serveRelayed)
}

func (a *Agent) scheme() string {
	if a.dialTLS() != nil {
		return "https"
	}
	return "http"
}

// startCluster begins what runs for as long as the agent does: leader jobs, joining, forming, syncing.
func (a *Agent) startCluster(ctx context.Context) error {
	go a.followMembers()
	if a.tree != nil {
		go a.marks.follow(a.ctx, func() uint64 { return a.tree.Snap().Index() })
	}
	if a.raft != nil {
		a.raft.OnLeader("membership", a.reconcile)
		a.raft.OnLeader("admission", a.admit)
		a.raft.OnLeader("autopilot", a.autopilot.run)
		a.raft.OnLeader("sessions", func(ctx context.Context) {
			if err := a.consul.Sessions().Run(ctx); err != nil && ctx.Err() == nil {
				a.log.Error("the keeper of sessions has ended", "error", err)
			}
		})
		a.raft.OnLeader("coordinates", func(ctx context.Context) {
			for ctx.Err() == nil {
				if err := a.consul.CoordinateUpdates().Run(ctx); err != nil && rest(ctx, time.Second) {
					a.log.Warn("writing coordinates failed, trying again with the next", "error", err)
				}
			}
		})
		a.raft.OnLeader("root certificate", func(ctx context.Context) {
			if err := a.consul.EnsureRoot(ctx); err != nil && ctx.Err() == nil {
				a.log.Error("making the root certificate", "error", err)
			}
		})
		if err := a.form(a.ctx); err != nil {
			return err
		}
		go a.announceCluster()
		go a.watchRemoval()
	}
	if err := a.join(ctx); err != nil {
		return err
	}
	a.runGuard()
	close(a.up)
	go a.tellBack()
	a.watches.set(a.cfg.Watches)
	a.onStop("watches", func(context.Context) error { a.watches.close(); return nil })
	return nil
}

// Done is closed when the agent has stopped, for whatever reason.
func (a *Agent) Done() <-chan struct{} { return a.done }

// Err is why the agent ended by itself; nil after Stop and Leave. Valid once Done is closed.
func (a *Agent) Err() error { return a.reason }

// Stop ends the agent and deregisters nothing: what it registered stays in the catalog for its return.
func (a *Agent) Stop() {
	ctx, cancel := context.WithTimeout(context.Background(), stopTimeout)
	defer cancel()
	a.warnQuorum()
	a.tellRestart(ctx, restartingWord)
	a.shutdown(ctx)
}

// fail ends the agent because a part of it cannot go on.
func (a *Agent) fail(err error) {
	a.mu.Lock()
	if a.reason == nil {
		a.reason = err
	}
	a.mu.Unlock()
	a.log.Error("the agent cannot go on", "error", err)
	go a.Stop()
}

// shutdown takes the parts down until ctx ends; what is under way then is cut.
func (a *Agent) shutdown(ctx context.Context) {
	a.once.Do(func() {
		a.cancel()
		a.mu.Lock()
		stops := a.stops
		a.mu.Unlock()
		for i := len(stops) - 1; i >= 0; i-- {
			if err := stops[i].f(ctx); err != nil && !errors.Is(err, context.Canceled) {
				a.log.Warn("stopping did not go smoothly", "part", stops[i].what, "error", err)
			}
		}
		a.log.Info("agent has stopped")
		close(a.done)
	})
	<-a.done
}

func trimDot(s string) string {
	if n := len(s); n > 0 && s[n-1] == '.' {
		return s[:n-1]
	}
	return s
}
