package agent

import (
	"context"
	"errors"
	"net/http"
	"runtime"
	"strconv"
	"time"

	"github.com/hashicorp/serf/coordinate"

	"github.com/musterhq/muster/api/consul"
	"github.com/musterhq/muster/internal/version"
	"github.com/musterhq/muster/membership"
)

// local is this agent as the /v1/agent endpoints see it: who is there, what an operator may do, how it is.
type local struct{ *Agent }

func (a *Agent) newAgentAPI() *consul.AgentAPI {
	l := local{a}
	c := consul.AgentConfig{
		Datacenter: a.cfg.Datacenter, NodeName: a.cfg.NodeName, Registry: a.registry, Members: l, Control: l, Info: l, Events: a.events,
		Version: consul.AgentVersion{SHA: version.Revision(), HumanVersion: version.Version},
		Metrics: func(w http.ResponseWriter, r *http.Request) (any, error) { return a.memory.DisplayMetrics(w, r) },
		Logs:    a.log, Authorizer: a.opts.Authorizer, QueryTime: a.cfg.DefaultQueryTime, MaxQueryTime: a.cfg.MaxQueryTime,
	}
	if a.cfg.Telemetry.PrometheusRetention > 0 {
		c.Prometheus = a.prom
	}
	return consul.NewAgentAPI(c)
}

// Members lists the gossip pool. There is no pool between datacenters yet; the one for it shows the servers.
func (l local) Members(wan bool) []consul.AgentMember {
	var out []consul.AgentMember
	for _, m := range l.pool.Members() {
		if wan && !isServer(m) {
			continue
		}
		am := agentMember(m)
		if wan {
			am.Name += "." + m.Datacenter()
		}
		out = append(out, am)
	}
	return out
}

// agentMember shows a member in the words that clients of the flat dialect know: a server has the role "consul",
// every other agent the role "node".
func agentMember(m membership.Member) consul.AgentMember {
	tags := make(map[string]string, len(m.Tags))
	for k, v := range m.Tags {
		tags[k] = v
	}
	tags[membership.TagRole] = "node"
	if isServer(m) {
		tags[membership.TagRole] = "consul"
	}
	return consul.AgentMember{
		Name: m.Name, Addr: m.Addr, Port: m.Port, Tags: tags, Status: int(m.Status),
		ProtocolMin: m.ProtocolMin, ProtocolMax: m.ProtocolMax, ProtocolCur: m.ProtocolCur,
		DelegateMin: m.DelegateMin, DelegateMax: m.DelegateMax, DelegateCur: m.DelegateCur,
	}
}

// Join implements consul.LocalControl.
func (l local) Join(ctx context.Context, addr string, wan bool) error {
	if wan {
		return errors.New("joining other datacenters is not supported")
	}
	_, err := l.pool.Join(ctx, []string{addr})
	return err
}

// Leave leaves, and ends the agent once the request that asked for it has been answered.
func (l local) Leave(_ context.Context, force bool) error {
	if err := l.Agent.Leave(force); err != nil {
		return err
	}
	go l.Stop()
	return nil
}

// ForceLeave implements consul.LocalControl.
func (l local) ForceLeave(_ context.Context, node string, prune, wan bool) error {
	if wan {
		return consul.ErrNoSuchMember
	}
	err := l.pool.ForceLeave(node, prune)
	switch {
	case errors.Is(err, membership.ErrNoMember):
		return consul.ErrNoSuchMember
	case errors.Is(err, membership.ErrMemberAlive):
		// A living member would refute it: nothing happens, and clients of the dialect expect no error.
		l.log.Warn("a living member is not forced out", "node", node)
		return nil
	}
	return err
}

// Reload implements consul.LocalControl.
func (l local) Reload(context.Context) error { return l.Agent.Reload() }

// Self implements consul.LocalInfo.
func (l local) Self(context.Context) consul.AgentSelf {
	node := l.node()
	self := consul.AgentSelf{
		Config: consul.AgentSelfConfig{
			Datacenter: l.cfg.Datacenter, PrimaryDatacenter: l.cfg.Datacenter, NodeName: l.cfg.NodeName, NodeID: l.id,
			Revision: version.Revision(), Server: l.cfg.Server, Version: version.Consul,
		},
		DebugConfig: l.debugConfig(),
		Member:      agentMember(l.pool.Local()),
		Stats:       l.stats(),
		Meta:        node.Meta,
		Guard:       l.guardSelf(),
	}
	if c, ok := l.pool.Coordinate(l.cfg.NodeName); ok {
		self.Coord = c
	}
	return self
}

// debugConfig is the configuration without secrets, and what of it clients look for under Consul's names.
func (l local) debugConfig() map[string]any {
	c := l.cfg.Redacted()
	c["SerfAdvertiseAddrLAN"] = "tcp://" + l.pool.Local().GossipAddr()
	c["Version"] = version.Version
	return c
}

// stats is what `muster info` prints.
func (l local) stats() map[string]map[string]string {
	var mem runtime.MemStats
	runtime.ReadMemStats(&mem)
	checks := l.registry.Checks()
	s := map[string]map[string]string{
		"agent":  {"checks": strconv.Itoa(len(checks)), "services": strconv.Itoa(len(l.registry.Services())), "uptime": time.Since(l.started).Round(time.Second).String()},
		"build":  {"version": version.Version, "revision": version.Revision()},
		"consul": {"server": strconv.FormatBool(l.cfg.Server), "known_servers": strconv.Itoa(len(l.servers()))},
		"runtime": {
			"arch": runtime.GOARCH, "os": runtime.GOOS, "version": runtime.Version(), "cpu_count": strconv.Itoa(runtime.NumCPU()),
			"goroutines": strconv.Itoa(runtime.NumGoroutine()), "heap_bytes": strconv.FormatUint(mem.HeapAlloc, 10),
		},
		"serf_lan": l.pool.Stats(),
	}
	if l.raft == nil {
		s["proxy"] = l.viewsInfo()
		return s
	}
	st := l.raft.Status()
	s["consul"]["leader"] = strconv.FormatBool(l.raft.IsLeader())
	s["consul"]["leader_addr"] = st.LeaderAddr
	s["raft"] = map[string]string{
		"state": st.State, "term": strconv.FormatUint(st.Term, 10), "applied_index": strconv.FormatUint(st.AppliedIndex, 10),
		"commit_index": strconv.FormatUint(st.CommitIndex, 10), "last_log_index": strconv.FormatUint(st.LastIndex, 10),
		"last_contact": st.LastContact.String(), "cluster_id": st.ClusterID, "num_peers": strconv.Itoa(max(0, len(l.peers())-1)),
		"index": strconv.FormatUint(l.tree.Snap().Index(), 10),
	}
	return s
}

// coordinates tells the dialect where members stand; nil when that is turned off.
func (a *Agent) coordinates() func(string) (*coordinate.Coordinate, bool) {
	if a.cfg.DisableCoordinates {
		return nil
	}
	return a.pool.Coordinate
}
