package agent

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strings"
	"time"

	"github.com/musterhq/muster/api"
	"github.com/musterhq/muster/catalog"
	"github.com/musterhq/muster/internal/version"
	"github.com/musterhq/muster/kv"
	"github.com/musterhq/muster/membership"
)

// reconcileEvery is how often the leader compares all members with the catalog; between two passes it acts on
// single events.
const reconcileEvery = 60 * time.Second

// serverService is the service as which servers appear in the catalog. Clients of the flat dialect look for it
// under this name.
const serverService = "consul"

// commitAttempts bounds how often a Txn is built anew after it lost a race.
const commitAttempts = 10

// commit builds a Txn from the newest state and proposes it, again when what it was built from has changed
// meanwhile. A build that has nothing to do returns an empty Txn.
func commit(ctx context.Context, store api.Store, build func(*kv.Snap) (kv.Txn, error)) error {
	for range commitAttempts {
		snap, _, err := store.Read(ctx, api.Default)
		if err != nil {
			return err
		}
		txn, err := build(snap)
		if err != nil || len(txn.Ops) == 0 {
			return err
		}
		res, err := store.Propose(ctx, txn)
		if err != nil {
			return err
		}
		if res.Code == kv.OK {
			return nil
		}
		if !catalog.Stale(res.Code) {
			return fmt.Errorf("write to the catalog was refused with code %d", res.Code)
		}
	}
	return errors.New("write to the catalog lost every race against others")
}

// reconcile is the leader's job that turns membership into catalog records and raft membership. Gossip only
// says what it sees; what follows from it is decided here, by one machine at a time.
func (a *Agent) reconcile(ctx context.Context) {
	r := &reconciler{Agent: a, began: time.Now(), vigils: map[string]*vigil{}, verdicts: make(chan verdict, 64), proven: map[string]bool{}}
	defer r.endVigils()
	a.nodes.lead(true)
	defer a.nodes.lead(false)
	full := time.NewTimer(0)
	defer full.Stop()
	upkeep := time.NewTicker(upkeepEvery)
	defer upkeep.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-a.compareSoon:
			full.Reset(0)
		case <-full.C:
			again := reconcileEvery
			if err := r.all(ctx); err != nil {
				if ctx.Err() != nil {
					return
				}
				a.log.Warn("comparing members with the catalog failed, trying again", "error", err)
				again = time.Second
			}
			full.Reset(again)
		case ev := <-a.memberEvents:
			for _, m := range ev.Members {
				if err := r.member(ctx, m, ev.Kind); err != nil && ctx.Err() == nil {
					a.log.Warn("acting on a change of membership failed, the next comparison repairs it", "node", m.Name, "error", err)
					full.Reset(time.Second)
				}
			}
			r.weighSoon(ctx, ev.Kind == membership.Failed, full)
		case <-upkeep.C:
			r.weighSoon(ctx, r.nodes.due(time.Now()), full)
		case v := <-r.verdicts:
			if err := r.judge(ctx, v); err != nil && ctx.Err() == nil {
				a.log.Warn("marking a node failed", "node", v.member.Name, "error", err)
				full.Reset(time.Second)
			}
		}
	}
}

// reconciler is the state of one leadership's reconcile job; one goroutine owns it.
type reconciler struct {
	*Agent
	began    time.Time
	vigils   map[string]*vigil // by node name in lower case
	verdicts chan verdict
	proven   map[string]bool // dead beyond doubt, by node name in lower case
	strays   []string        // nodes that the catalog has as alive and gossip does not know
	seeded   bool            // the guard knows who was alive
}

// all compares every member with the catalog.
func (r *reconciler) all(ctx context.Context) error {
	if err := r.seed(ctx); err != nil {
		return err
	}
	known := map[string]bool{}
	for _, m := range r.pool.Members() {
		known[strings.ToLower(m.Name)] = true
		kind := membership.Join
		switch m.Status {
		case membership.StatusFailed:
			kind = membership.Failed
		case membership.StatusLeft:
			kind = membership.Leave
		}
		if err := r.member(ctx, m, kind); err != nil {
			return err
		}
	}
	r.strays = nil
	if time.Since(r.began) < reconcileEvery {
		return r.weigh(ctx) // gossip may not have met everybody yet
	}
	snap, _, err := r.store.Read(ctx, api.Default)
	if err != nil {
		return err
	}
	for _, c := range catalog.ChecksInState(snap, catalog.Passing) {
		if c.ID != catalog.LivenessCheck || known[strings.ToLower(c.Node)] {
			continue
		}
		r.log.Warn("node has not been seen by gossip", "node", c.Node)
		r.strays = append(r.strays, c.Node)
	}
	return r.weigh(ctx)
}

// member does what follows from one member's state.
func (r *reconciler) member(ctx context.Context, m membership.Member, kind membership.Kind) error {
	switch kind {
	case membership.Join, membership.Update:
		if m.Status != membership.StatusAlive {
			return nil
		}
		if isServer(m) {
			nudge(r.admitSoon)
		}
		if r.keepVigil(ctx, m) {
			return nil // its process is known to be dead, whatever gossip still believes
		}
		delete(r.proven, strings.ToLower(m.Name))
		r.nodes.returned(m.Name)
		return r.registerMember(ctx, m)
	case membership.Failed: // weigh decides what follows
		if !r.away(m) {
			r.endVigil(m.Name)
		}
	case membership.Leave, membership.Reap:
		r.endVigil(m.Name)
		return r.forget(ctx, m)
	}
	return nil
}

// forget removes a member that left from the consensus and from the catalog.
func (r *reconciler) forget(ctx context.Context, m membership.Member) error {
	if m.Name == r.cfg.NodeName {
		return nil
	}
	delete(r.proven, strings.ToLower(m.Name))
	r.nodes.back(m.Name)
	if isServer(m) {
		if err := r.raft.RemoveServer(ctx, m.ID(), false); err != nil {
			r.log.Warn("server that left could not be removed from the consensus", "node", m.Name, "error", err)
		}
	}
	return commit(ctx, r.store, func(s *kv.Snap) (kv.Txn, error) {
		if n, ok := catalog.GetNode(s, m.Name); ok && n.ID != "" && !strings.EqualFold(n.ID, m.ID()) {
			return kv.Txn{}, nil // the name has a new owner
		}
		return catalog.Deregister(s, m.Name, "", "")
	})
}

func (a *Agent) setLiveness(ctx context.Context, node string, alive bool) error {
	return commit(ctx, a.store, func(s *kv.Snap) (kv.Txn, error) { return catalog.SetLiveness(s, node, alive), nil })
}

// registerMember makes sure that the catalog has the node of a live member, alive, and the service of a server.
// What the node's own agent knows better (metadata, tagged addresses) is kept.
func (a *Agent) registerMember(ctx context.Context, m membership.Member) error {
	snap, _, err := a.store.Read(ctx, api.Default)
	if err != nil {
		return err
	}
	if n, ok := catalog.GetNode(snap, m.Name); ok && n.ID != "" && !strings.EqualFold(n.ID, m.ID()) {
		// A name has one living holder, and gossip knows it: the one in the catalog is gone, perhaps with a backup of
		// another cluster.
		if err := a.setLiveness(ctx, m.Name, false); err != nil {
			return err
		}
	}
	err = commit(ctx, a.store, func(s *kv.Snap) (kv.Txn, error) {
		n, ok := catalog.GetNode(s, m.Name)
		if ok && n.Address == m.Addr && strings.EqualFold(n.ID, m.ID()) && a.hasServerService(s, m) {
			return kv.Txn{}, nil
		}
		node := catalog.Node{Name: m.Name, Address: m.Addr, ID: m.ID(), Datacenter: a.cfg.Datacenter, TaggedAddresses: taggedAddresses(m.Addr), Meta: nodeMeta(nil)}
		if ok {
			node.Meta, node.Locality = n.Meta, n.Locality
			if n.Address == m.Addr {
				node.TaggedAddresses = n.TaggedAddresses
			}
		}
		r := catalog.Registration{Node: node}
		if isServer(m) {
			r.Service = &catalog.Service{ID: serverService, Name: serverService, Port: serverPort(m), Meta: map[string]string{"version": m.Version()}}
		}
		return catalog.Register(s, r)
	})
	if err != nil {
		return err
	}
	return a.setLiveness(ctx, m.Name, true)
}

func (a *Agent) hasServerService(s *kv.Snap, m membership.Member) bool {
	if !isServer(m) {
		return true
	}
	svc, ok := catalog.GetService(s, m.Name, serverService)
	return ok && svc.Port == serverPort(m)
}

// taggedAddresses are the addresses of a node by purpose, until its own agent tells which it was given.
func taggedAddresses(addr string) map[string]string {
	family := "ipv4"
	if ip := net.ParseIP(addr); ip != nil && ip.To4() == nil {
		family = "ipv6"
	}
	return map[string]string{"lan": addr, "lan_" + family: addr, "wan": addr, "wan_" + family: addr}
}

// nodeMeta is the metadata of an agent's node: what the operator gave it and what clients look for.
func nodeMeta(own map[string]string) map[string]string {
	meta := map[string]string{"consul-network-segment": "", "consul-version": version.Consul}
	for k, v := range own {
		meta[k] = v
	}
	return meta
}
