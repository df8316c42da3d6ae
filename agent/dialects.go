package agent

import (
	"context"
	"net/http"
	"os"
	"time"

	"github.com/musterhq/muster/api/consul"
	"github.com/musterhq/muster/api/etcd"
	"github.com/musterhq/muster/catalog"
	"github.com/musterhq/muster/health"
	"github.com/musterhq/muster/proxy"
)

// openRegistry opens what this machine registered and starts its checks.
func (a *Agent) openRegistry() error {
	remote := &HTTPCluster{Do: a.callWhenUp, Nodes: func() int { return len(a.pool.Members()) }}
	r, err := OpenRegistry(RegistryConfig{
		Dir: a.cfg.DataDir, NodeName: a.cfg.NodeName, Services: a.cfg.Services, Checks: a.cfg.Checks,
		CheckUpdateInterval: a.cfg.CheckUpdateInterval, CheckOutputMaxSize: a.cfg.CheckOutputMaxSize, DiscardCheckOutput: a.cfg.DiscardCheckOutput,
		Damping:            a.cfg.FlapDamping.rules(),
		EnableScriptChecks: a.cfg.EnableScriptChecks, EnableLocalScriptChecks: a.cfg.EnableLocalScriptChecks,
		Nodes: remote, Host: &health.Host{TLS: a.checkTLS}, Logger: a.log, Metrics: a.metrics,
	})
	if err != nil {
		return err
	}
	a.registry = r
	a.onStop("local registry", func(context.Context) error { return r.Close() })
	var cluster Cluster = remote
	if a.raft != nil {
		cluster = &StoreCluster{Store: a.store, Remote: remote}
	}
	a.sync = NewSync(SyncConfig{
		Registry: r, Cluster: cluster, Node: a.node,
		Logger: a.log, Metrics: a.metrics,
	})
	a.startSync()
	return nil
}

// startSync keeps the catalog in step with the registry, from the moment everything is up until endSync.
func (a *Agent) startSync() {
	ctx, cancel := context.WithCancel(a.ctx)
	ended := make(chan struct{})
	a.endSync = func() { cancel(); <-ended }
	go func() {
		defer close(ended)
		select {
		case <-a.up:
			a.sync.Run(ctx)
		case <-ctx.Done():
		}
	}()
}

// node is this machine's record as it should be in the catalog.
func (a *Agent) node() catalog.Node {
	return catalog.Node{
		ID: a.id, Name: a.cfg.NodeName, Address: a.cfg.AdvertiseAddr, Datacenter: a.cfg.Datacenter,
		TaggedAddresses: a.cfg.TaggedAddresses, Meta: nodeMeta(a.cfg.NodeMeta), Locality: a.cfg.Locality,
	}
}

// call makes one request to the cluster for a part of this agent: relayed like a client's, or run here when this
// server leads.
func (a *Agent) call(req *http.Request) (*http.Response, error) {
	if req.URL.Host == "" {
		req.URL.Scheme, req.URL.Host = a.scheme(), "cluster"
	}
	return a.relay.RoundTrip(req, proxy.Leader)
}

// callWhenUp is call for parts that begin before everything is up.
func (a *Agent) callWhenUp(req *http.Request) (*http.Response, error) {
	select {
	case <-a.up:
		return a.call(req)
	case <-req.Context().Done():
		return nil, req.Context().Err()
	}
}

// authorizeEtcd puts the questions of the hierarchical dialect to the one Authorizer.
func (a *Agent) authorizeEtcd() func(*http.Request, etcd.Access) error {
	if a.opts.Authorizer == nil {
		return nil
	}
	return func(r *http.Request, x etcd.Access) error {
		return consul.Allow(a.opts.Authorizer, r, consul.Access(x))
	}
}

// openDialects makes the translators. On a proxy they never touch a store: their routes are relayed.
func (a *Agent) openDialects() error {
	a.consul = consul.New(consul.Config{
		Store: a.store, Datacenter: a.cfg.Datacenter, NodeName: a.cfg.NodeName, Logger: a.log, Metrics: a.metrics,
		KVMaxValue: int64(a.cfg.Limits.KVMaxValueSize), TxnMaxBody: int64(a.cfg.Limits.TxnMaxReqLen), TxnMaxOps: a.cfg.Limits.TxnMaxOps,
		QueryTime: a.cfg.DefaultQueryTime, MaxQueryTime: a.cfg.MaxQueryTime,
		SessionTTL: [2]time.Duration{a.cfg.SessionTTLMin, 24 * time.Hour}, Peers: a.peers, Operator: operator{a}, Keyring: operator{a}, Connect: a.cfg.Connect.Enabled, Restore: a.restoreSnapshot, DiscoveryMaxStale: a.cfg.DiscoveryMaxStale, Coordinate: a.coordinates(),
		Authorizer: a.opts.Authorizer, Guard: a.guard, GuardControl: guardControl{a}, Upstreams: func() any { return a.upstreams.State() }, Doctor: a.examine,
		TrustDomain: a.cfg.Connect.CAConfig.ClusterID,
	})
	var err error
	a.etcd, err = etcd.New(etcd.Config{
		Store: a.store, Name: a.cfg.NodeName, Members: a.etcdMembers, Membership: clusterMembers{a}, ID: a.ownMemberID, Logger: a.log, Metrics: a.metrics,
		Stats: a.etcdStats, CommandLine: withoutSecrets(os.Args), FileLimit: fileLimit(), SetLogLevel: a.log.SetLevel,
		Authorize: a.authorizeEtcd(),
	})
	if err != nil {
		return err
	}
	if a.raft != nil {
		a.scraped.MustRegister(&etcdCollector{a})
	}
	a.agentAPI = a.newAgentAPI()
	return nil
}
