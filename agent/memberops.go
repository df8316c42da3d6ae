package agent

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"slices"
	"time"

	"github.com/musterhq/muster/api"
	"github.com/musterhq/muster/api/etcd"
	"github.com/musterhq/muster/consensus"
	"github.com/musterhq/muster/kv"
	"github.com/musterhq/muster/membership"
)

// clusterMembers changes the members for clients of the hierarchical dialect. It runs on the leader.
type clusterMembers struct{ *Agent }

var _ etcd.Membership = clusterMembers{}

// Add reserves an id for a server that is to come. The consensus is not told before that server is there and
// answers, so a wrong address costs nothing, and the reservation runs out by itself.
func (c clusterMembers) Add(ctx context.Context, urls []string) (etcd.Member, error) {
	now := c.store.Now()
	id := announcedID(urls, now)
	expires := now.Add(c.cfg.MemberReservation).UnixNano()
	err := c.commitMembers(ctx, func(s *kv.Snap, list []listed) ([]kv.Op, error) {
		_, removed := readMembers(s).removed[id]
		if removed || slices.ContainsFunc(list, func(l listed) bool { return l.ID == id }) {
			return nil, etcd.ErrMemberExists
		}
		if err := c.free(list, id, urls); err != nil {
			return nil, err
		}
		op, err := setRecord(memberPath(membersPath, id), memberRecord{PeerURLs: urls})
		op.Expires = expires
		return []kv.Op{op}, err
	})
	if err != nil {
		return etcd.Member{}, err
	}
	c.log.Info("a server was announced", "member", hexID(id), "urls", urls, "until", now.Add(c.cfg.MemberReservation))
	nudge(c.admitSoon) // it may be waiting already
	return etcd.Member{ID: id, PeerURLs: urls}, nil
}

// Update publishes other addresses. The consensus goes on with the old one until the new one answers as that very
// server (see admission), so a wrong address costs nothing.
func (c clusterMembers) Update(ctx context.Context, id uint64, urls []string) error {
	err := c.commitMembers(ctx, func(s *kv.Snap, list []listed) ([]kv.Op, error) {
		m, err := find(s, list, id)
		if err != nil {
			return nil, err
		}
		if err := c.free(list, id, urls); err != nil {
			return nil, err
		}
		path, rec := memberPath(membersPath, id), memberRecord{PeerURLs: urls}
		if m.server != nil {
			rec.Node, rec.Addr = m.server.ID, m.server.Addr
		}
		op, err := setRecord(path, rec)
		if e, ok := s.Get(path); ok && m.server == nil {
			op.Expires = e.Expires()
		}
		return []kv.Op{op}, err
	})
	if err == nil {
		nudge(c.admitSoon)
	}
	return err
}

// Remove takes a member out for good: first the record that says so, by which the server itself learns of it, then
// its vote. Should the second step fail, admission repeats it.
func (c clusterMembers) Remove(ctx context.Context, id uint64, force bool) error {
	var server *consensus.Server
	err := c.commitMembers(ctx, func(s *kv.Snap, list []listed) ([]kv.Op, error) {
		m, err := find(s, list, id)
		if err != nil {
			return nil, err
		}
		removed := removedRecord{Cluster: c.raft.ClusterID(), At: c.store.Now().UTC()}
		if server = m.server; server != nil {
			removed.Node = server.ID
			if err := c.raft.MayRemove(server.ID); errors.Is(err, consensus.ErrQuorum) {
				if !force {
					return nil, &etcd.RefusedError{Reason: err.Error() + "; ?force removes it nevertheless"}
				}
			} else if err != nil {
				return nil, err
			}
		}
		op, err := setRecord(memberPath(removedPath, id), removed)
		ops := []kv.Op{op}
		if path := memberPath(membersPath, id); exists(s, path) {
			ops = append(ops, kv.Op{Kind: kv.OpDelete, Action: kv.ActDelete, Path: path})
		}
		return ops, err
	}, func() error { return c.handOver(ctx, server) })
	if err != nil || server == nil {
		return err
	}
	c.log.Warn("a server is removed from the cluster for good", "member", hexID(id), "id", server.ID, "address", server.Addr, "forced", force)
	defer c.memberCache.forget()
	if err := c.raft.RemoveServer(ctx, server.ID, force); err != nil {
		nudge(c.admitSoon)
		return storeError(err)
	}
	c.forceOut(server.ID)
	return nil
}

// handOver gives leadership away when the server to be removed is this one. Then nothing ran here, and the request
// finds the new leader.
func (a *Agent) handOver(ctx context.Context, server *consensus.Server) error {
	if server == nil || server.ID != a.id {
		return nil
	}
	if err := a.raft.TransferLeadership(ctx, ""); err != nil {
		return err
	}
	return api.ErrNotLeader
}

// forceOut makes gossip forget a removed server that is not alive to leave by itself.
func (a *Agent) forceOut(id string) {
	for _, m := range a.pool.Members() {
		if m.ID() == id && m.Status == membership.StatusFailed {
			if err := a.pool.ForceLeave(m.Name, false); err != nil {
				a.log.Warn("the removed server stays in the gossip until it is forgotten", "node", m.Name, "error", err)
			}
		}
	}
}

// commitMembers commits a change of the records that was built from the newest list. before run between the build
// and the proposal, and may refuse.
func (c clusterMembers) commitMembers(ctx context.Context, build func(*kv.Snap, []listed) ([]kv.Op, error), before ...func() error) error {
	return commit(ctx, c.store, func(s *kv.Snap) (kv.Txn, error) {
		list, err := c.listMembers(s)
		if err != nil {
			return kv.Txn{}, err
		}
		ops, err := build(s, list)
		if err != nil {
			return kv.Txn{}, err
		}
		for _, f := range before {
			if err := f(); err != nil {
				return kv.Txn{}, err
			}
		}
		// Two clients must not take the same address, so whatever has changed among the records means another look.
		conds := []kv.Cond{
			{Kind: kv.CondBelow, Path: membersPath, Index: s.IndexOf(membersPath)},
			{Kind: kv.CondBelow, Path: removedPath, Index: s.IndexOf(removedPath)},
		}
		return kv.Txn{Conds: conds, Ops: ops}, nil
	})
}

// free makes sure that no other member has one of the addresses, published or true.
func (c clusterMembers) free(list []listed, id uint64, urls []string) error {
	for i := range list {
		l := &list[i]
		if l.ID == id {
			continue
		}
		for _, u := range urls {
			if slices.Contains(l.PeerURLs, u) || l.server != nil && hostOf(u) == l.server.Addr {
				return etcd.ErrPeerURL
			}
		}
	}
	return nil
}

// find gives the member of that id, or the reason why there is none.
func find(s *kv.Snap, list []listed, id uint64) (*listed, error) {
	if i := slices.IndexFunc(list, func(l listed) bool { return l.ID == id }); i >= 0 {
		return &list[i], nil
	}
	if exists(s, memberPath(removedPath, id)) {
		return nil, etcd.ErrMemberRemoved
	}
	return nil, etcd.ErrNoMember
}

func exists(s *kv.Snap, path string) bool {
	_, ok := s.Get(path)
	return ok
}

func setRecord(path string, rec any) (kv.Op, error) {
	b, err := json.Marshal(rec)
	if err != nil {
		return kv.Op{}, fmt.Errorf("encode %s: %w", path, err)
	}
	return kv.Op{Kind: kv.OpSet, Action: kv.ActSet, Path: path, Value: string(b), Flags: kv.Flat}, nil
}

// claim gives a server that has come the id that was reserved for its address, for good. Announcements may name it by
// a host name; so may the addresses that it takes over.
func (a *Agent) claim(ctx context.Context, server consensus.Server) error {
	named := a.announcedByName(ctx, server)
	err := commit(ctx, a.store, func(s *kv.Snap) (kv.Txn, error) {
		records := readMembers(s)
		id := records.idOf(server.ID, server.Addr)
		rec, ok := records.known[id]
		if !ok && named != 0 {
			id = named
			rec, ok = records.known[id]
		}
		if !ok || rec.Node != "" {
			return kv.Txn{}, nil
		}
		path := memberPath(membersPath, id)
		rec.Node, rec.Addr = server.ID, server.Addr
		op, err := setRecord(path, rec)
		return kv.Txn{Conds: []kv.Cond{{Kind: kv.CondBelow, Path: path, Index: s.IndexOf(path)}}, Ops: []kv.Op{op}}, err
	})
	if errors.Is(err, api.ErrNotLeader) {
		return nil // the next leader's
	}
	return err
}

// announcedByName finds the announcement whose host name has the address of a server that has no record yet; 0 when
// there is none. Only here, on the leader, names are looked up: what replicas show must not depend on their resolvers.
func (a *Agent) announcedByName(ctx context.Context, server consensus.Server) uint64 {
	records := readMembers(a.tree.Snap())
	if _, known := records.known[records.idOf(server.ID, server.Addr)]; known {
		return 0
	}
	ip, port, err := net.SplitHostPort(server.Addr)
	if err != nil {
		return 0
	}
	ctx, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	for id, rec := range records.known {
		for _, u := range rec.PeerURLs {
			host, p, err := net.SplitHostPort(hostOf(u))
			if err != nil || rec.Node != "" || p != port || net.ParseIP(host) != nil {
				continue
			}
			if addrs, err := net.DefaultResolver.LookupHost(ctx, host); err == nil && slices.Contains(addrs, ip) {
				return id
			}
		}
	}
	return 0
}
