// Package api holds what both HTTP dialects share: the store they read and write through, blocking queries,
// middleware and errors.
package api

import (
	"context"
	"errors"
	"time"

	"github.com/musterhq/muster/kv"
)

// Consistency of a read.
type Consistency uint8

// Consistency levels.
const (
	Default    Consistency = iota // leader under its lease
	Consistent                    // leadership confirmed with a quorum
	Stale                         // this server, whatever it knows
)

// ReadMeta says how fresh a read is.
type ReadMeta struct {
	LastContact time.Duration // since this server heard the leader; 0 on the leader
	KnownLeader bool
}

// Status is what a server knows of consensus.
type Status struct {
	ClusterID             uint64
	ID                    string // this server's raft id (node UUID)
	LeaderID, LeaderAddr  string // LeaderAddr host:port of the server port; empty when unknown
	State                 string // "leader", "follower", "candidate"
	Term                  uint64
	Applied, Commit, Last uint64 // raft indexes
}

// Store is the replicated tree as the dialects use it. Implemented by agent over consensus.Node.
type Store interface {
	// Propose commits a Txn; Txn.Now is set by the store. Errors: ErrNotLeader (nothing ran, safe to send elsewhere),
	// ErrNoLeader, ErrUnknownOutcome (may or may not be committed), context errors.
	Propose(ctx context.Context, t kv.Txn) (kv.Result, error)
	// Read gives a root at the wanted consistency. Errors as Propose (never ErrUnknownOutcome).
	Read(ctx context.Context, c Consistency) (*kv.Snap, ReadMeta, error)
	Watch(path string, after uint64, recursive bool) (*kv.Watcher, error)
	OldestIndex(root string) uint64
	Status() Status
	Now() time.Time // the clock deadlines are made with
}

// Errors of a Store.
var (
	ErrNotLeader = errors.New("this server is not the leader")
	ErrNoLeader  = errors.New("no cluster leader")
	ErrDiskFull  = errors.New("the disk of the leader is full; nothing was written")
	// ErrTooManyRequests is not of the store: an agent refuses what is above its limits before the store sees it.
	ErrTooManyRequests = errors.New("more requests than the limits allow; nothing ran")
	ErrUnknownOutcome  = errors.New("leadership was lost while the write was in flight; its outcome is unknown")
)
