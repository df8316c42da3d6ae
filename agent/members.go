package agent

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"net/url"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/musterhq/muster/internal/version"
	"github.com/musterhq/muster/membership"
	"github.com/musterhq/muster/proxy"
)

// tagEtcd carries the URLs, separated by commas, of a server's interface for etcd clients, which ask the members for it.
const tagEtcd = "etcd"

// openGossip starts gossip. It joins nobody yet.
func (a *Agent) openGossip() error {
	tags := map[string]string{
		membership.TagID:         a.id,
		membership.TagRole:       membership.RoleProxy,
		membership.TagDatacenter: a.cfg.Datacenter,
		membership.TagVersion:    version.Version,
	}
	if l := a.cfg.HTTPListeners(); len(l) > 0 && l[0].Network == "tcp" {
		tags[membership.TagHTTP] = a.reachable(l[0].Address)
	}
	if a.cfg.Server {
		tags[membership.TagRole] = membership.RoleServer
		tags[membership.TagServerPort] = strconv.Itoa(a.cfg.Ports.Server)
		if n := a.cfg.BootstrapExpect; n > 0 {
			tags[membership.TagExpect] = strconv.Itoa(n)
		}
		if urls := a.ownClientURLs(); len(urls) > 0 {
			tags[tagEtcd] = strings.Join(urls, ",")
		}
		if id := a.raft.ClusterID(); id != "" {
			tags[membership.TagCluster] = id
		}
	}
	dir := ""
	if a.cfg.DataDir != "" {
		dir = filepath.Join(a.cfg.DataDir, "serf")
	}
	pool, err := membership.Open(membership.Config{
		Name: a.cfg.NodeName, Bind: a.cfg.SerfLAN, Port: a.cfg.Ports.SerfLAN, Advertise: a.cfg.AdvertiseAddr, AdvertisePort: a.cfg.Ports.SerfLAN,
		Tags: tags, Dir: dir, EncryptKey: a.cfg.Encrypt, NoKeyringFile: a.cfg.DisableKeyringFile, Allowed: prefixes(a.cfg.SerfLANAllowed), AcceptPlain: !a.cfg.EncryptVerifyIncoming, SendPlain: !a.cfg.EncryptVerifyOutgoing, Dev: a.cfg.DevMode, Tuning: a.tuning(), RejoinAfterLeave: a.cfg.RejoinAfterLeave, NoCoordinates: a.cfg.DisableCoordinates,
		ReconnectTimeout: a.cfg.ReconnectTimeout, Logger: a.log.Named("gossip"), Metrics: a.metrics,
	})
	if err != nil {
		return err
	}
	a.pool = pool
	pool.Respond(a.answerWhy)
	a.onStop("gossip", func(context.Context) error { return pool.Shutdown() })
	return nil
}

// ownClientURLs are where clients of the hierarchical dialect reach this server.
func (a *Agent) ownClientURLs() []string {
	if len(a.cfg.AdvertiseClientURLs) > 0 {
		return a.cfg.AdvertiseClientURLs
	}
	for _, l := range a.cfg.EtcdListeners() {
		if l.Network == "tcp" {
			scheme := "http"
			if l.TLS {
				scheme = "https"
			}
			return []string{scheme + "://" + a.reachable(l.Address)}
		}
	}
	return nil
}

// clusterPoll is how often a server without a cluster looks whether it has one now.
const clusterPoll = 100 * time.Millisecond

// announceCluster tells the others, once it is known, whose data this server holds. From then on it keeps apart
// from servers that hold another cluster's.
func (a *Agent) announceCluster() {
	for a.raft.ClusterID() == "" {
		if !rest(a.ctx, clusterPoll) {
			return
		}
	}
	tags := maps.Clone(a.pool.Local().Tags)
	if tags[membership.TagCluster] == a.raft.ClusterID() {
		return
	}
	tags[membership.TagCluster] = a.raft.ClusterID()
	if err := a.pool.SetTags(tags); err != nil && a.ctx.Err() == nil {
		a.log.Warn("telling the others which cluster this server belongs to", "error", err)
	}
}

// tuning is gossip_lan in the words of the gossip.
func (a *Agent) tuning() membership.Tuning {
	g := a.cfg.GossipLAN
	return membership.Tuning{
		GossipInterval: g.GossipInterval, GossipNodes: g.GossipNodes, ProbeInterval: g.ProbeInterval, ProbeTimeout: g.ProbeTimeout,
		SuspicionMult: g.SuspicionMult, RetransmitMult: g.RetransmitMult,
	}
}

// reachable replaces an any-address by the advertised one.
func (a *Agent) reachable(addr string) string {
	host, port, err := net.SplitHostPort(addr)
	if err == nil && isAny(host) {
		return net.JoinHostPort(a.cfg.AdvertiseAddr, port)
	}
	return addr
}

// join joins the cluster in the background, again and again; a start_join that fails is an error of the start.
func (a *Agent) join(ctx context.Context) error {
	if len(a.cfg.StartJoin) > 0 {
		if _, err := a.pool.Join(ctx, a.cfg.StartJoin); err != nil {
			return err
		}
	}
	if len(a.cfg.RetryJoin) == 0 {
		return nil
	}
	go func() {
		err := a.pool.RetryJoin(a.ctx, a.cfg.RetryJoin, a.cfg.RetryInterval, a.cfg.RetryMax)
		if err != nil && a.ctx.Err() == nil {
			a.fail(err)
		}
	}()
	return nil
}

// followMembers passes events on to the leader's job. While this server does not lead they are dropped: a new
// leader begins with everybody.
func (a *Agent) followMembers() {
	for ev := range a.pool.Events() {
		if ev.Kind == membership.User {
			if ev.Name == restoredEventName {
				a.sync.ServerUp() // compares soon, at a moment of its own
			} else if !a.guardUser(ev) {
				a.events.receive(ev)
			}
			continue
		}
		for _, m := range ev.Members {
			a.log.Info("membership", "event", ev.Kind, "node", m.Name, "address", m.GossipAddr(), "role", m.Role())
			if ev.Kind == membership.Join && isServer(m) {
				a.sync.ServerUp()
			}
			if a.raft != nil && isServer(m) && m.ID() != a.id {
				switch ev.Kind {
				case membership.Join, membership.Update:
					a.sentries.set(a.ctx, m)
				case membership.Leave, membership.Reap:
					a.sentries.end(m)
				}
			}
			if ev.Kind == membership.Failed && isServer(m) {
				a.dialer.Drop(m.ServerAddr())
				a.relay.Suspect(m.ServerAddr())
			}
		}
		if a.raft == nil || !a.raft.IsLeader() {
			continue
		}
		select {
		case a.memberEvents <- ev:
		default: // more than fit: one comparison of everything replaces them all
			nudge(a.compareSoon)
		}
	}
}

func isServer(m membership.Member) bool { return m.Role() == membership.RoleServer }

// serverPort is the number of a server's port, 0 when it tells none.
func serverPort(m membership.Member) int {
	_, port, err := net.SplitHostPort(m.ServerAddr())
	if err != nil {
		return 0
	}
	n, err := strconv.Atoi(port)
	if err != nil {
		return 0
	}
	return n
}

// servers lists the servers for the relay.
func (a *Agent) servers() []proxy.Server {
	var out []proxy.Server
	for _, m := range a.pool.Members() {
		if isServer(m) && m.ServerAddr() != "" && m.Status != membership.StatusLeft {
			out = append(out, proxy.Server{ID: m.ID(), Name: m.Name, Addr: m.ServerAddr(), Healthy: m.Status == membership.StatusAlive})
		}
	}
	return out
}

// peers are the addresses of the servers, learners included, for /v1/status/peers.
func (a *Agent) peers() []string {
	if a.raft == nil {
		return nil
	}
	list, err := a.raft.Servers()
	if err != nil {
		return nil
	}
	out := make([]string, 0, len(list))
	for _, s := range list {
		out = append(out, s.Addr)
	}
	return out
}

// ErrLastVotes: leaving would take the quorum away from those that stay.
var ErrLastVotes = errors.New("the other servers could not go on without this one")

// Leave leaves the cluster on purpose: the node and its services are removed from the catalog by the leader, and a
// server gives up its vote first. When the other servers would lose their quorum by that, it fails with
// ErrLastVotes and nothing has happened, unless forced. The agent keeps running until Stop.
func (a *Agent) Leave(force bool) error {
	a.log.Info("leaving the cluster")
	ctx, cancel := context.WithTimeout(context.Background(), stopTimeout)
	defer cancel()
	if a.raft != nil {
		if err := a.leaveConsensus(ctx); err != nil && !force {
			return err
		} else if err != nil {
			a.log.Warn("leaving all the same", "error", err)
		}
	}
	a.left.Store(true)
	a.endSync() // or it would bring back what the leader is about to remove
	err := a.pool.Leave(ctx)
	// Others learn of it while this agent still answers what is under way.
	rest(ctx, a.cfg.Performance.LeaveDrainTime)
	return err
}

// leaveConsensus gives up this server's vote when others can go on without it; the leader decides, so leadership goes
// first. The last server keeps it: there is nobody to hand the data to, and a restart finds it again.
func (a *Agent) leaveConsensus(ctx context.Context) error {
	list, err := a.raft.Servers()
	if err != nil || len(list) < 2 || !a.inConsensus() {
		return err
	}
	if a.raft.IsLeader() {
		if err := a.raft.MayRemove(a.id); err != nil {
			return fmt.Errorf("%w: %w", ErrLastVotes, err)
		}
		if err := a.raft.TransferLeadership(ctx, ""); err != nil {
			return fmt.Errorf("%w: leadership could not be handed over: %w", ErrLastVotes, err)
		}
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodDelete, "/v1/operator/raft/peer?id="+url.QueryEscape(a.id), nil)
	if err != nil {
		return err
	}
	resp, err := a.call(req)
	if err != nil {
		return fmt.Errorf("%w: %w", ErrLastVotes, err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		text, _ := io.ReadAll(io.LimitReader(resp.Body, 4<<10))
		return fmt.Errorf("%w: the leader says: %s", ErrLastVotes, strings.TrimSpace(string(text)))
	}
	return nil // should it be added again before gossip tells the leader that we left, the leader removes it again then
}

// warnQuorum says in the log what the stop of a server does to the others. It cannot be refused: whoever stops a
// process that does not go kills it.
func (a *Agent) warnQuorum() {
	if a.raft == nil || a.pool == nil {
		return
	}
	servers, err := a.raft.Servers()
	if err != nil {
		return
	}
	alive := map[string]bool{}
	for _, m := range a.pool.Members() {
		alive[m.ID()] = m.Status == membership.StatusAlive
	}
	all, left, self := 0, 0, false
	for _, s := range servers {
		switch {
		case !s.Voter:
			continue
		case s.ID == a.id:
			self = true
		case alive[s.ID]:
			left++
		}
		all++
	}
	if need := all/2 + 1; self && all > 1 && left < need && left+1 >= need {
		a.log.Warn("without this server the others cannot write until it is back", "voters", all, "alive without it", left, "needed", need)
	}
}
