package membership

import (
	"net"
	"strconv"
	"strings"

	"github.com/hashicorp/go-msgpack/v2/codec"
	"github.com/hashicorp/serf/serf"
)

// Tags by which members tell each other what they are. All values are texts; absent means unknown.
const (
	TagID         = "id"      // node UUID
	TagRole       = "role"    // RoleServer or RoleProxy
	TagDatacenter = "dc"      // members of another one are refused
	TagVersion    = "build"   // version of the program
	TagServerPort = "port"    // the server port on the member's address
	TagHTTP       = "http"    // port on the member's address, or host:port, of its HTTP interface
	TagCluster    = "cluster" // id of the replicated tree
	TagExpect     = "expect"  // number of servers to wait for before the first election
)

// Values of TagRole.
const (
	RoleServer = "server"
	RoleProxy  = "proxy"
)

// Status of a Member.
type Status uint8

// Statuses; the numbers are those that clients of agent/members know.
const (
	StatusNone Status = iota
	StatusAlive
	StatusLeaving
	StatusLeft
	StatusFailed
)

func (s Status) String() string {
	switch s {
	case StatusAlive:
		return "alive"
	case StatusLeaving:
		return "leaving"
	case StatusLeft:
		return "left"
	case StatusFailed:
		return "failed"
	}
	return "none"
}

// Member is one agent as gossip knows it. Tags is shared: do not change it.
type Member struct {
	Name        string
	Addr        string // IP
	Port        uint16 // gossip port
	Tags        map[string]string
	Status      Status
	ProtocolMin uint8
	ProtocolMax uint8
	ProtocolCur uint8
	DelegateMin uint8
	DelegateMax uint8
	DelegateCur uint8
}

// GossipAddr is host:port for Join, Probe and Watch.
func (m Member) GossipAddr() string { return net.JoinHostPort(m.Addr, strconv.Itoa(int(m.Port))) }

// ID is the node's UUID, "" when it has none.
func (m Member) ID() string { return m.Tags[TagID] }

// Role is RoleServer or RoleProxy.
func (m Member) Role() string { return m.Tags[TagRole] }

// Datacenter of the member.
func (m Member) Datacenter() string { return m.Tags[TagDatacenter] }

// Version of the program the member runs.
func (m Member) Version() string { return m.Tags[TagVersion] }

// Cluster is the id of the replicated tree the member belongs to, "" while it does not know.
func (m Member) Cluster() string { return m.Tags[TagCluster] }

// ServerAddr is host:port of the member's server port, "" when it has none.
func (m Member) ServerAddr() string { return m.at(m.Tags[TagServerPort]) }

// HTTPAddr is host:port of the member's HTTP interface, "" when it tells none.
func (m Member) HTTPAddr() string {
	v := m.Tags[TagHTTP]
	if strings.Contains(v, ":") {
		return v
	}
	return m.at(v)
}

// BootstrapExpect is the number of servers this one waits for before the first election, 0 when it does not.
func (m Member) BootstrapExpect() int {
	n, err := strconv.Atoi(m.Tags[TagExpect])
	if err != nil || n < 0 {
		return 0
	}
	return n
}

// at is "" unless port is a port number: tags come from the network.
func (m Member) at(port string) string {
	if n, err := strconv.ParseUint(port, 10, 16); err != nil || n == 0 {
		return ""
	}
	return net.JoinHostPort(m.Addr, port)
}

func fromSerf(m serf.Member) Member {
	return Member{
		Name: m.Name, Addr: m.Addr.String(), Port: m.Port, Tags: m.Tags, Status: Status(m.Status),
		ProtocolMin: m.ProtocolMin, ProtocolMax: m.ProtocolMax, ProtocolCur: m.ProtocolCur,
		DelegateMin: m.DelegateMin, DelegateMax: m.DelegateMax, DelegateCur: m.DelegateCur,
	}
}

// tagsMagic begins serf's encoding of tags as memberlist metadata; a msgpack map follows.
const tagsMagic = 255

// decodeTags reads serf's metadata. The delegates need it because they see members before serf does. Damaged
// metadata gives false.
func decodeTags(meta []byte) (map[string]string, bool) {
	if len(meta) == 0 || meta[0] != tagsMagic {
		return nil, false
	}
	var tags map[string]string
	if codec.NewDecoderBytes(meta[1:], &codec.MsgpackHandle{}).Decode(&tags) != nil {
		return nil, false
	}
	return tags, true
}
