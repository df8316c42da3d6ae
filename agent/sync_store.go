package agent

import (
	"context"
	"errors"

	"github.com/musterhq/muster/api"
	"github.com/musterhq/muster/catalog"
	"github.com/musterhq/muster/kv"
)

// StoreCluster is a Cluster on a server: while this server leads, changes go straight into the replicated tree,
// built by the same functions as those of the HTTP interface but without its encoding; otherwise, and for all that
// is read, it is what Remote is.
type StoreCluster struct {
	Store  api.Store
	Remote Cluster
}

var _ Cluster = (*StoreCluster)(nil)

// Register implements Cluster.
func (c *StoreCluster) Register(ctx context.Context, r catalog.Registration) error {
	err := commit(ctx, c.Store, func(s *kv.Snap) (kv.Txn, error) { return catalog.Register(s, r) })
	if errors.Is(err, api.ErrNotLeader) {
		return c.Remote.Register(ctx, r)
	}
	return err
}

// Deregister implements Cluster.
func (c *StoreCluster) Deregister(ctx context.Context, node, serviceID, checkID string) error {
	if serviceID == "" && checkID == "" {
		return errNodeMustStay
	}
	err := commit(ctx, c.Store, func(s *kv.Snap) (kv.Txn, error) { return catalog.Deregister(s, node, serviceID, checkID) })
	if errors.Is(err, api.ErrNotLeader) {
		return c.Remote.Deregister(ctx, node, serviceID, checkID)
	}
	return err
}

// NodeServices implements Cluster.
func (c *StoreCluster) NodeServices(ctx context.Context, node string) ([]*catalog.Service, []*catalog.Check, *catalog.Node, error) {
	return c.Remote.NodeServices(ctx, node)
}

// Size implements Cluster.
func (c *StoreCluster) Size() int { return c.Remote.Size() }
