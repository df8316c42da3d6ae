package dnsserver

import (
	"context"
	"errors"
	"net/netip"
	"time"

	"github.com/musterhq/muster/catalog"
)

// ErrUnreachable: nobody could be asked and nothing was remembered. The answer is SERVFAIL.
var ErrUnreachable = errors.New("dns: the catalog cannot be reached")

// Source is where answers come from: TreeSource on a server, FollowSource elsewhere. Any error becomes SERVFAIL.
// Names are in lower case and matched without regard to case. Methods are called concurrently.
type Source interface {
	// Service returns all instances of a service, healthy or not. As long as nothing about the service has changed
	// it returns the same pointer, which is how packed answers stay valid. A service nobody knows is an Answer
	// without instances.
	Service(ctx context.Context, name string) (*Answer, error)
	// Peek returns what Service would if that needs no waiting, else nil.
	Peek(name string) *Answer
	// Query executes a prepared query, found by its id or name, for a client; nil when there is none.
	Query(ctx context.Context, name string, client netip.Addr) (*QueryAnswer, error)
	// Node returns nil for a node nobody knows; stale as in Answer.
	Node(ctx context.Context, name string) (n *catalog.Node, stale bool, err error)
	// Reverse finds whose address it is: a node's first, then a service's. The zero Owner means nobody's.
	Reverse(ctx context.Context, addr netip.Addr) (Owner, error)
	// Servers returns the nodes that are servers, for NS records.
	Servers(ctx context.Context) ([]*catalog.Node, error)
}

// Answer is one state of one service. It and everything reached through it is immutable.
type Answer struct {
	Instances []*catalog.Instance
	Index     uint64 // of the last change, as the tree counts
	Stale     bool   // the cluster could not be reached; this is what was known last
}

// QueryAnswer is what a prepared query found just now. It is immutable.
type QueryAnswer struct {
	Answer         // the instances that the query chose, all of them to be shown
	Service string // whose instances they are
	Ordered bool   // they come in an order of the query's, nearest first
	TTL     *time.Duration
}

// Owner names the node or the service that has an address; one of the two is set.
type Owner struct{ Node, Service string }
