package consul

import (
	"maps"
	"time"

	"github.com/musterhq/muster/catalog"
)

// The shapes of this dialect's JSON, in the order and with the nulls, empties and omissions of the contract
// (consul-http 1.4, 8.7 and 22).

// Node is a machine in catalog and health answers.
type Node struct {
	ID              string
	Node            string
	Address         string
	Datacenter      string
	TaggedAddresses map[string]string
	Meta            map[string]string
	Locality        *catalog.Locality `json:",omitempty"`
	CreateIndex     uint64
	ModifyIndex     uint64
}

// ServiceAddress is one tagged address of a service.
type ServiceAddress struct {
	Address string
	Port    int
}

// Weights of an instance in DNS answers.
type Weights struct {
	Passing int
	Warning int
}

// Proxy is the mesh part of a service. Muster has no mesh: it is always in answers, with nothing set.
type Proxy struct {
	Mode        string
	MeshGateway struct{}
	Expose      struct{}
}

// Connect is the other mesh part of a service, always empty.
type Connect struct{}

// NodeService is a service instance inside a node in catalog/node, catalog/node-services and health/service.
type NodeService struct {
	Kind              string `json:",omitempty"`
	ID                string
	Service           string
	Tags              []string
	Address           string
	TaggedAddresses   map[string]ServiceAddress `json:",omitempty"`
	Meta              map[string]string
	Port              int    `json:",omitempty"`
	SocketPath        string `json:",omitempty"`
	Weights           Weights
	EnableTagOverride bool
	Locality          *catalog.Locality `json:",omitempty"`
	Proxy             Proxy
	Connect           Connect
	PeerName          string
	CreateIndex       uint64
	ModifyIndex       uint64
}

// AgentService is a service in the answers of the local agent.
type AgentService struct {
	Kind              string `json:",omitempty"`
	ID                string
	Service           string
	Tags              []string
	Meta              map[string]string
	Port              int
	Address           string
	SocketPath        string                    `json:",omitempty"`
	TaggedAddresses   map[string]ServiceAddress `json:",omitempty"`
	Weights           Weights
	EnableTagOverride bool
	ContentHash       string            `json:",omitempty"`
	Datacenter        string            `json:",omitempty"`
	Locality          *catalog.Locality `json:",omitempty"`
}

// ServiceNode is a service instance joined with its node in one flat object, the answer of catalog/service.
type ServiceNode struct {
	ID                       string
	Node                     string
	Address                  string
	Datacenter               string
	TaggedAddresses          map[string]string
	NodeMeta                 map[string]string
	ServiceKind              string
	ServiceID                string
	ServiceName              string
	ServiceTags              []string
	ServiceAddress           string
	ServiceTaggedAddresses   map[string]ServiceAddress `json:",omitempty"`
	ServiceWeights           Weights
	ServiceMeta              map[string]string
	ServicePort              int
	ServiceSocketPath        string
	ServiceEnableTagOverride bool
	ServiceProxy             Proxy
	ServiceConnect           Connect
	ServiceLocality          *catalog.Locality
	CreateIndex              uint64
	ModifyIndex              uint64
}

// HealthCheck is a check in catalog, health and agent answers.
type HealthCheck struct {
	Node        string
	CheckID     string
	Name        string
	Status      string
	Notes       string
	Output      string
	ServiceID   string
	ServiceName string
	ServiceTags []string
	Type        string
	Interval    string
	Timeout     string
	ExposedPort int
	Definition  map[string]any
	CreateIndex uint64
	ModifyIndex uint64
}

// ServiceEntry is one instance in health/service.
type ServiceEntry struct {
	Node    *Node
	Service *NodeService
	Checks  []*HealthCheck
}

// SessionEntry is a session in the answers of /v1/session.
type SessionEntry struct {
	ID            string
	Name          string
	Node          string
	LockDelay     time.Duration
	Behavior      string
	TTL           string
	NodeChecks    []string
	ServiceChecks []catalog.ServiceCheckRef
	CreateIndex   uint64
	ModifyIndex   uint64
}

// nodeOf is the wire form of a node.
func nodeOf(n *catalog.Node) *Node {
	return &Node{
		ID: n.ID, Node: n.Name, Address: n.Address, Datacenter: n.Datacenter,
		TaggedAddresses: n.TaggedAddresses, Meta: n.Meta, Locality: n.Locality,
		CreateIndex: n.Created, ModifyIndex: n.Modified,
	}
}

// nodeServiceOf is the wire form of a service inside a node: tags are never null, an unset Meta is null.
func nodeServiceOf(s *catalog.Service) *NodeService {
	return &NodeService{
		Kind: s.Kind, ID: s.ID, Service: s.Name, Tags: orEmpty(s.Tags), Address: s.Address,
		TaggedAddresses: addressesOf(s.TaggedAddresses), Meta: s.Meta, Port: s.Port, SocketPath: s.SocketPath,
		Weights: weightsOf(s.Weights), EnableTagOverride: s.EnableTagOverride, Locality: s.Locality,
		CreateIndex: s.Created, ModifyIndex: s.Modified,
	}
}

// serviceNodeOf is the flat wire form of an instance: an unset ServiceMeta is {}.
func serviceNodeOf(n *catalog.Node, s *catalog.Service) *ServiceNode {
	return &ServiceNode{
		ID: n.ID, Node: n.Name, Address: n.Address, Datacenter: n.Datacenter,
		TaggedAddresses: n.TaggedAddresses, NodeMeta: n.Meta,
		ServiceKind: s.Kind, ServiceID: s.ID, ServiceName: s.Name, ServiceTags: orEmpty(s.Tags),
		ServiceAddress: s.Address, ServiceTaggedAddresses: addressesOf(s.TaggedAddresses),
		ServiceWeights: weightsOf(s.Weights), ServiceMeta: orEmptyMap(s.Meta), ServicePort: s.Port,
		ServiceSocketPath: s.SocketPath, ServiceEnableTagOverride: s.EnableTagOverride, ServiceLocality: s.Locality,
		CreateIndex: s.Created, ModifyIndex: s.Modified,
	}
}

// healthCheckOf is the wire form of a check.
func healthCheckOf(c *catalog.Check) *HealthCheck {
	return &HealthCheck{
		Node: c.Node, CheckID: c.ID, Name: c.Name, Status: c.Status, Notes: c.Notes, Output: c.Output,
		ServiceID: c.ServiceID, ServiceName: c.ServiceName, ServiceTags: orEmpty(c.ServiceTags),
		Type: c.Type, Interval: c.Interval, Timeout: c.Timeout, Definition: orEmptyMap(c.Definition),
		CreateIndex: c.Created, ModifyIndex: c.Modified,
	}
}

func healthChecksOf(cs []*catalog.Check) []*HealthCheck {
	out := make([]*HealthCheck, len(cs))
	for i, c := range cs {
		out[i] = healthCheckOf(c)
	}
	return out
}

// agentServiceOf is the wire form of a service of the local agent: tags and Meta are never null.
func agentServiceOf(s *catalog.Service, datacenter string) *AgentService {
	return &AgentService{
		Kind: s.Kind, ID: s.ID, Service: s.Name, Tags: orEmpty(s.Tags), Meta: orEmptyMap(s.Meta), Port: s.Port,
		Address: s.Address, SocketPath: s.SocketPath, TaggedAddresses: addressesOf(s.TaggedAddresses),
		Weights: weightsOf(s.Weights), EnableTagOverride: s.EnableTagOverride, Datacenter: datacenter,
		Locality: s.Locality,
	}
}

func sessionOf(s *catalog.Session) *SessionEntry {
	return &SessionEntry{
		ID: s.ID, Name: s.Name, Node: s.Node, LockDelay: time.Duration(s.LockDelay), Behavior: s.Behavior, TTL: s.TTL,
		NodeChecks: orEmpty(s.NodeChecks), ServiceChecks: s.ServiceChecks,
		CreateIndex: s.Created, ModifyIndex: s.Modified,
	}
}

// weightsOf gives unset weights their default, 1.
func weightsOf(w catalog.Weights) Weights {
	if w == (catalog.Weights{}) {
		return Weights{1, 1}
	}
	return Weights(w)
}

func addressesOf(m map[string]catalog.Address) map[string]ServiceAddress {
	if len(m) == 0 {
		return nil
	}
	out := make(map[string]ServiceAddress, len(m))
	for k, a := range m {
		out[k] = ServiceAddress(a)
	}
	return out
}

// addressesTo is the inverse of addressesOf.
func addressesTo(m map[string]ServiceAddress) map[string]catalog.Address {
	if len(m) == 0 {
		return nil
	}
	out := make(map[string]catalog.Address, len(m))
	for k, a := range m {
		out[k] = catalog.Address(a)
	}
	return out
}

func orEmpty[T any](s []T) []T {
	if s == nil {
		return []T{}
	}
	return s
}

func orEmptyMap[V any](m map[string]V) map[string]V {
	if m == nil {
		return map[string]V{}
	}
	return m
}

// cloneOrNil copies a map and turns an empty one into nil, the form in which records keep it.
func cloneOrNil(m map[string]string) map[string]string {
	if len(m) == 0 {
		return nil
	}
	return maps.Clone(m)
}
