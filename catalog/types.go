// Package catalog holds the typed records of service discovery (nodes, services, checks, sessions) on top of
// package kv: their paths, the builders of the Txns that change them, the views derived from them, and the
// queries that read them.
//
//	txn, err := catalog.Register(snap, catalog.Registration{Node: catalog.Node{Name: "web1", Address: "10.0.0.1"}, Service: &catalog.Service{Name: "api", Port: 80}})
//	... propose txn ...
//	instances := catalog.Instances(snap, "api") // ready for health queries and DNS: no join, no lock
//
// Records are immutable once they are in the tree: never change a record reached through a Snap.
package catalog

import "github.com/musterhq/muster/kv"

// Status of a check.
type Status = string

// Statuses of checks, and Maintenance, which appears only as an aggregate.
const (
	Passing     Status = "passing"
	Warning     Status = "warning"
	Critical    Status = "critical"
	Maintenance Status = "maintenance"
)

// LivenessCheck is the id of the check by which the leader says whether a node's agent is alive.
const LivenessCheck = "serfHealth"

// Address is a tagged address of a service.
type Address struct {
	Address string
	Port    int
}

// Locality says where something runs.
type Locality struct {
	Region string
	Zone   string `json:",omitempty"`
}

// Weights of an instance in DNS SRV answers by status.
type Weights struct{ Passing, Warning int }

// Node is one machine.
type Node struct {
	ID              string // UUID, may be empty for external nodes
	Name            string
	Address         string
	Datacenter      string
	TaggedAddresses map[string]string
	Meta            map[string]string
	Locality        *Locality `json:",omitempty"`
	Created         uint64    `json:"-"` // filled from the Entry
	Modified        uint64    `json:"-"`
}

// Service is one instance of a service on a node.
type Service struct {
	ID                string
	Name              string
	Kind              string `json:",omitempty"`
	Tags              []string
	Address           string
	TaggedAddresses   map[string]Address `json:",omitempty"`
	Meta              map[string]string
	Port              int
	SocketPath        string `json:",omitempty"`
	Weights           Weights
	EnableTagOverride bool
	Locality          *Locality `json:",omitempty"`
	Created, Modified uint64    `json:"-"`
}

// Check is one health check as the catalog knows it.
type Check struct {
	Node              string
	ID                string
	Name              string
	Status            Status
	Notes             string
	Output            string
	ServiceID         string
	ServiceName       string
	ServiceTags       []string
	Type              string
	Interval, Timeout string         // Go duration texts as shown to clients, may be empty
	Definition        map[string]any `json:",omitempty"` // echoed for externally registered checks
	Created, Modified uint64         `json:"-"`
}

// Session ties locks to a node, its checks and optionally a TTL.
type Session struct {
	ID                string
	Name              string
	Node              string
	LockDelay         int64  // nanoseconds
	Behavior          string // "release" or "delete"
	TTL               string // Go duration text, "" = none
	NodeChecks        []string
	ServiceChecks     []ServiceCheckRef
	Created, Modified uint64 `json:"-"`
}

// ServiceCheckRef names a service check a session depends on.
type ServiceCheckRef struct{ ID, Namespace string }

// Instance is an entry of the view v/s/<service>: a service instance joined with its node and all checks
// that decide about it (the node's and its own), plus their aggregate.
type Instance struct {
	Node    *Node
	Service *Service
	Checks  []*Check // node checks first, each group ordered by id
	Status  Status   // worst of Checks: Passing, Warning or Critical
}

// Registration is one atomic write of a node with an optional service and checks.
type Registration struct {
	Node           Node
	Service        *Service
	Checks         []*Check
	SkipNodeUpdate bool
	// Known says that the catalog has acknowledged this registration of Service before, so that sending it again is
	// a repair: it is refused with *GoneError when the service was removed while the node's agent was away.
	Known bool
}

// Views is the kv.Deriver of this package.
type Views struct{}

var _ kv.Deriver = Views{}
