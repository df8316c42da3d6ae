package agent

import (
	"context"
	"errors"
	"strconv"
	"strings"
	"time"

	"github.com/musterhq/muster/api"
	"github.com/musterhq/muster/consensus"
	"github.com/musterhq/muster/kv"
)

// treeStore gives the dialects of a server the replicated tree: consensus.Node in the words of api.Store.
type treeStore struct {
	node *consensus.Node
	tree *kv.Tree
}

func (s *treeStore) Propose(ctx context.Context, t kv.Txn) (kv.Result, error) {
	res, err := s.node.Propose(ctx, t)
	return res, storeError(err)
}

func (s *treeStore) Read(ctx context.Context, c api.Consistency) (*kv.Snap, api.ReadMeta, error) {
	snap, meta, err := s.node.Read(ctx, consensus.Consistency(c))
	return snap, api.ReadMeta{LastContact: meta.LastContact, KnownLeader: meta.KnownLeader}, storeError(err)
}

func (s *treeStore) Watch(path string, after uint64, recursive bool) (*kv.Watcher, error) {
	return s.tree.Watch(path, after, recursive)
}

func (s *treeStore) OldestIndex(root string) uint64 { return s.tree.OldestIndex(root) }

// Status implements api.Store.
func (s *treeStore) Status() api.Status {
	st := s.node.Status()
	id, err := strconv.ParseUint(st.ClusterID, 16, 64)
	if err != nil {
		id = 0 // no leader has named the cluster yet
	}
	return api.Status{
		ClusterID: id, ID: st.ID, LeaderID: st.LeaderID, LeaderAddr: st.LeaderAddr, State: strings.ToLower(st.State),
		Term: st.Term, Applied: st.AppliedIndex, Commit: st.CommitIndex, Last: st.LastIndex,
	}
}

func (s *treeStore) Now() time.Time { return time.Now() }

// storeError translates the errors of consensus; whatever else there is passes through.
func storeError(err error) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, consensus.ErrUnknownOutcome):
		return api.ErrUnknownOutcome
	case errors.Is(err, consensus.ErrDiskFull):
		return api.ErrDiskFull
	case errors.Is(err, consensus.ErrNotLeader), errors.Is(err, consensus.ErrNoLeader):
		return api.ErrNotLeader // the relay finds the leader, or says that there is none
	}
	return err
}

// noStore stands where a proxy has no tree. Its routes are relayed before anybody asks it; should one be asked
// all the same, it says truthfully that this agent does not lead.
type noStore struct{}

func (noStore) Propose(context.Context, kv.Txn) (kv.Result, error) {
	return kv.Result{}, api.ErrNotLeader
}
func (noStore) Read(context.Context, api.Consistency) (*kv.Snap, api.ReadMeta, error) {
	return nil, api.ReadMeta{}, api.ErrNotLeader
}
func (noStore) Watch(string, uint64, bool) (*kv.Watcher, error) { return nil, api.ErrNotLeader }
func (noStore) OldestIndex(string) uint64                       { return 0 }
func (noStore) Status() api.Status                              { return api.Status{} }
func (noStore) Now() time.Time                                  { return time.Now() }
