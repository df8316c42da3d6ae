package agent

import (
	"context"
	"errors"
	"slices"
	"strings"
	"time"

	"github.com/musterhq/muster/api/consul"
	"github.com/musterhq/muster/catalog"
	"github.com/musterhq/muster/consensus"
	"github.com/musterhq/muster/membership"
)

// operator is the cluster of servers as operators of the flat dialect see and change it. Its routes are relayed to a
// server, so a.raft is there.
type operator struct{ *Agent }

var (
	_ consul.Operator = operator{}
	_ consul.Keyring  = operator{}
)

// changeTimeout bounds the wait until a change of the configuration is agreed upon.
const changeTimeout = 10 * time.Second

// raftProtocol is the version that all servers speak, as clients expect to read it.
const raftProtocol = "3"

// RaftServers implements consul.Operator.
func (o operator) RaftServers() ([]consul.RaftServer, uint64, error) {
	servers, err := o.raft.Servers()
	if err != nil {
		return nil, 0, err
	}
	st := o.raft.Status()
	names := o.serverNames()
	out := make([]consul.RaftServer, 0, len(servers))
	for _, s := range servers {
		r := consul.RaftServer{ID: s.ID, Node: "(unknown)", Address: s.Addr, Leader: s.Leader, ProtocolVersion: raftProtocol, Voter: s.Voter, LastIndex: s.Match}
		if s.ID == o.id {
			r.LastIndex = st.LastIndex
		}
		if name := names[s.ID]; name != "" {
			r.Node = name
		}
		out = append(out, r)
	}
	return out, st.CommitIndex, nil
}

// serverNames are the names that gossip knows, by UUID.
func (a *Agent) serverNames() map[string]string {
	names := map[string]string{}
	for _, m := range a.pool.Members() {
		if isServer(m) {
			names[m.ID()] = m.Name
		}
	}
	return names
}

// RemovePeer implements consul.Operator. A leader that is to go hands over first, so that the request finds the new one.
func (o operator) RemovePeer(ctx context.Context, id, address string, force bool) error {
	servers, err := o.raft.Servers()
	if err != nil {
		return err
	}
	i := slices.IndexFunc(servers, func(s consensus.Server) bool { return s.ID == id || id == "" && s.Addr == address })
	if i < 0 {
		return consul.ErrNoSuchPeer
	}
	server := servers[i]
	if server.ID == o.id {
		if err := o.raft.MayRemove(server.ID); err != nil && !force {
			return storeError(err)
		} else if err == nil {
			return o.handOver(ctx, &server)
		}
	}
	ctx, cancel := context.WithTimeout(ctx, changeTimeout) // a forced change may never be agreed upon
	defer cancel()
	o.log.Warn("a server is removed from the consensus by request", "id", server.ID, "address", server.Addr, "forced", force)
	defer o.memberCache.forget()
	return storeError(o.raft.RemoveServer(ctx, server.ID, force))
}

// TransferLeader implements consul.Operator.
func (o operator) TransferLeader(ctx context.Context, id string) error {
	if id == o.id && o.raft.IsLeader() {
		return errors.New("this server leads already")
	}
	return storeError(o.raft.TransferLeadership(ctx, id))
}

// Autopilot implements consul.Operator.
func (o operator) Autopilot() (consul.AutopilotHealth, error) {
	servers, err := o.raft.Servers()
	if err != nil {
		return consul.AutopilotHealth{}, err
	}
	verdicts, err := o.autopilot.judged(servers)
	if err != nil {
		return consul.AutopilotHealth{}, err
	}
	st, snap := o.raft.Status(), o.tree.Snap()
	out := consul.AutopilotHealth{Healthy: true}
	healthy, healthyVoters := 0, 0
	for _, s := range servers {
		v := verdicts[s.ID]
		h := consul.ServerHealth{
			ID: s.ID, Name: v.member.Name, Address: s.Addr, SerfStatus: v.status.String(), Version: v.member.Version(), Leader: s.Leader,
			Healthy: v.healthy, Voter: s.Voter, StableSince: v.since.UTC().Truncate(time.Second),
		}
		switch {
		case s.ID == o.id:
			h.LastTerm, h.LastIndex = st.Term, st.LastIndex
		case !s.LastContact.IsZero():
			h.LastContact, h.LastTerm, h.LastIndex = consul.Duration(time.Since(s.LastContact)), st.Term, s.Match
		}
		if n, ok := catalog.NodeByID(snap, s.ID); ok {
			h.Meta = n.Meta
		}
		if v.healthy {
			healthy++
			if s.Voter {
				healthyVoters++
			}
		}
		out.Healthy = out.Healthy && v.healthy
		out.Servers = append(out.Servers, h)
	}
	quorum := voters(servers)/2 + 1
	out.FailureTolerance = max(0, healthyVoters-quorum)
	out.OptimisticFailureTolerance = max(0, healthy-quorum)
	return out, nil
}

// Keys implements consul.Keyring. There is one gossip: servers of other datacenters, which the flat dialect knows
// in a pool of their own, would be in it with the same keys, so that pool is shown as what the servers have.
func (o operator) Keys() ([]consul.KeyringPool, error) {
	report, err := o.pool.ListKeys()
	if err != nil {
		return nil, keyError(report, err)
	}
	lan := consul.KeyringPool{Datacenter: o.cfg.Datacenter, Keys: report.Keys, PrimaryKeys: report.PrimaryKeys, NumNodes: report.Members}
	if len(report.Messages) > 0 {
		lan.Messages = report.Messages
	}
	servers := 0
	for _, m := range o.pool.Members() {
		if isServer(m) && m.Status == membership.StatusAlive {
			servers++
		}
	}
	among := func(keys map[string]int) map[string]int {
		out := make(map[string]int, len(keys))
		for k, n := range keys {
			out[k] = min(n, servers)
		}
		return out
	}
	wan := lan
	wan.WAN, wan.Keys, wan.PrimaryKeys, wan.NumNodes = true, among(lan.Keys), among(lan.PrimaryKeys), servers
	return []consul.KeyringPool{wan, lan}, nil
}

// InstallKey implements consul.Keyring.
func (o operator) InstallKey(key string) error { return keyError(o.pool.InstallKey(key)) }

// UseKey implements consul.Keyring.
func (o operator) UseKey(key string) error { return keyError(o.pool.UseKey(key)) }

// RemoveKey implements consul.Keyring.
func (o operator) RemoveKey(key string) error { return keyError(o.pool.RemoveKey(key)) }

// keyError adds to the refusal of a key operation what the members had to say.
func keyError(report membership.KeyReport, err error) error {
	switch {
	case errors.Is(err, membership.ErrNotEncrypted):
		return consul.ErrKeyringEmpty
	case err == nil || len(report.Messages) == 0:
		return err
	}
	var lines []string
	for name, text := range report.Messages {
		lines = append(lines, name+": "+text)
	}
	slices.Sort(lines)
	return errors.Join(err, errors.New(strings.Join(lines, "\n")))
}
