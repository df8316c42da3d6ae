// Package apitest has a Store in memory, for tests of what stands on package api: a whole tree with its views,
// without raft, network or disk.
//
//	s := apitest.New()
//	defer s.Close()
//	handler := consul.New(consul.Config{Store: s, Datacenter: "dc1"})
package apitest

import (
	"context"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/musterhq/muster/api"
	"github.com/musterhq/muster/catalog"
	"github.com/musterhq/muster/kv"
)

// Store is an api.Store that is always the leader of itself, unless it is told to fail.
type Store struct {
	Tree *kv.Tree

	mu     sync.Mutex // one Apply at a time
	fail   atomic.Pointer[error]
	reads  atomic.Int64
	writes atomic.Int64
	status atomic.Pointer[api.Status]
	stale  atomic.Int64
}

var _ api.Store = (*Store)(nil)

// New makes an empty Store.
func New() *Store {
	s := &Store{Tree: kv.New(kv.Options{Deriver: catalog.Views{}})}
	s.status.Store(&api.Status{
		ClusterID: 0xc1, ID: "11111111-1111-4111-8111-111111111111",
		LeaderID: "11111111-1111-4111-8111-111111111111", LeaderAddr: "127.0.0.1:8300", State: "leader", Term: 1,
	})
	return s
}

// Close ends all waits and watches.
func (s *Store) Close() { s.Tree.Close() }

// Fail makes every Propose and Read (but stale ones) end with err; nil makes them work again.
func (s *Store) Fail(err error) {
	if err == nil {
		s.fail.Store(nil)
		return
	}
	s.fail.Store(&err)
}

func (s *Store) failure() error {
	if p := s.fail.Load(); p != nil {
		return *p
	}
	return nil
}

// SetStatus changes what Status returns.
func (s *Store) SetStatus(st api.Status) { s.status.Store(&st) }

// SetLastContact changes the age that stale reads report.
func (s *Store) SetLastContact(d time.Duration) { s.stale.Store(int64(d)) }

// Counts returns how many reads and proposals there were.
func (s *Store) Counts() (reads, writes int64) { return s.reads.Load(), s.writes.Load() }

// Propose implements api.Store.
func (s *Store) Propose(ctx context.Context, t kv.Txn) (kv.Result, error) {
	if err := ctx.Err(); err != nil {
		return kv.Result{}, err
	}
	if err := s.failure(); err != nil {
		return kv.Result{}, err
	}
	if err := t.Check(); err != nil {
		return kv.Result{}, err
	}
	s.writes.Add(1)
	return s.Apply(t), nil
}

// Apply applies a Txn as if another server had sent it, also while the Store is told to fail.
func (s *Store) Apply(t kv.Txn) kv.Result {
	s.mu.Lock()
	defer s.mu.Unlock()
	t.Now = time.Now().UnixNano()
	return s.Tree.Apply(t)[0]
}

// Read implements api.Store.
func (s *Store) Read(ctx context.Context, c api.Consistency) (*kv.Snap, api.ReadMeta, error) {
	if err := ctx.Err(); err != nil {
		return nil, api.ReadMeta{}, err
	}
	if err := s.failure(); err != nil && c != api.Stale {
		return nil, api.ReadMeta{}, err
	}
	s.reads.Add(1)
	m := api.ReadMeta{KnownLeader: true}
	if c == api.Stale {
		m.LastContact = time.Duration(s.stale.Load())
		m.KnownLeader = s.failure() == nil
	}
	return s.Tree.Snap(), m, nil
}

// Watch implements api.Store.
func (s *Store) Watch(path string, after uint64, recursive bool) (*kv.Watcher, error) {
	return s.Tree.Watch(path, after, recursive)
}

// OldestIndex implements api.Store.
func (s *Store) OldestIndex(root string) uint64 { return s.Tree.OldestIndex(root) }

// Status implements api.Store.
func (s *Store) Status() api.Status { return *s.status.Load() }

// Now implements api.Store.
func (s *Store) Now() time.Time { return time.Now() }

// Must proposes a Txn that has to succeed.
func (s *Store) Must(t testing.TB, txn kv.Txn, err error) kv.Result {
	t.Helper()
	if err != nil {
		t.Fatalf("build: %v", err)
	}
	res, err := s.Propose(context.Background(), txn)
	if err != nil || res.Code != kv.OK {
		t.Fatalf("propose: code %d, %v, %+v", res.Code, err, res.Fail)
	}
	return res
}

// Register registers what has to be acceptable.
func (s *Store) Register(t testing.TB, r catalog.Registration) kv.Result {
	t.Helper()
	txn, err := catalog.Register(s.Tree.Snap(), r)
	return s.Must(t, txn, err)
}
