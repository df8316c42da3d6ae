package membership

import (
	"errors"
	"fmt"
	"net"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/hashicorp/memberlist"
)

// Reasons why members refuse each other.
var (
	// ErrNameConflict: a live member with another id has the name.
	ErrNameConflict = errors.New("the node name is taken by another live member")
	// ErrOldAddress: this agent's former address still counts as alive. It passes when that fails or leaves.
	ErrOldAddress = errors.New("this agent still counts as alive at its former address")
	// ErrDatacenter: the other side belongs to another datacenter.
	ErrDatacenter = errors.New("members of another datacenter are refused")
	// ErrCluster: both sides hold data, of different clusters.
	ErrCluster = errors.New("servers of another cluster are refused")
	// errMalformed: what the other side said of a member cannot be.
	errMalformed = errors.New("malformed member")
)

// clusterError is ErrCluster with the gossip address of the member that is in the way.
type clusterError struct {
	error
	addr string
}

func (e *clusterError) Unwrap() error { return e.error }

// guard decides who may enter this member's view of the cluster; it is memberlist's merge and alive delegate. It
// looks at memberlist's own nodes and not at serf's, because serf hides from its delegate who is dead.
//
// Others need no check against a name that is taken: memberlist never lets a live member's address be changed by
// anybody. What is left to do is that the claimant itself, and the rightful holder, learn of it.
type guard struct {
	name, id, dc string
	addr         string // own, as advertised
	conflict     func(Member)
	cluster      atomic.Value // string: the cluster whose data this member holds, once it is known

	mu      sync.Mutex
	refused error // the last refusal of a merge, for Join
}

// NotifyMerge refuses a whole exchange of state. It is called for joins in both directions.
func (g *guard) NotifyMerge(nodes []*memberlist.Node) error {
	for _, n := range nodes {
		if err := g.admit(n, n.State == memberlist.StateAlive || n.State == memberlist.StateSuspect); err != nil {
			g.mu.Lock()
			g.refused = err
			g.mu.Unlock()
			return err
		}
	}
	return nil
}

// NotifyAlive refuses a single rumour. memberlist calls it with its lock held: it must not call back.
func (g *guard) NotifyAlive(n *memberlist.Node) error {
	err := g.admit(n, true)
	if errors.Is(err, ErrOldAddress) {
		return nil // memberlist itself ignores it, and must see it to refute it
	}
	return err
}

func (g *guard) admit(n *memberlist.Node, live bool) error {
	if len(n.Addr) != net.IPv4len && len(n.Addr) != net.IPv6len || len(n.Name) == 0 || len(n.Name) > maxNameLength || len(n.Meta) > memberlist.MetaMaxSize {
		return fmt.Errorf("%w: name of %d, address of %d, tags of %d bytes", errMalformed, len(n.Name), len(n.Addr), len(n.Meta))
	}
	if !utf8.ValidString(n.Name) || strings.ContainsFunc(n.Name, func(r rune) bool { return !unicode.IsPrint(r) }) {
		return fmt.Errorf("%w: the name %q at %v cannot be printed", errMalformed, n.Name, n.Addr)
	}
	tags, ok := decodeTags(n.Meta)
	if !ok {
		return fmt.Errorf("%w: %q at %v has unreadable tags", errMalformed, n.Name, n.Addr)
	}
	if dc := tags[TagDatacenter]; dc != g.dc {
		return fmt.Errorf("%w: %q at %v is in %q, this is %q", ErrDatacenter, n.Name, n.Addr, dc, g.dc)
	}
	addr := net.JoinHostPort(n.Addr.String(), strconv.Itoa(int(n.Port)))
	// Two processes cannot listen on one address, so what is said of the own address is old news of a predecessor: of another
	// cluster, too, when this server was recovered.
	if n.Name == g.name && addr == g.addr {
		return nil
	}
	if own, _ := g.cluster.Load().(string); live && own != "" && tags[TagCluster] != "" && tags[TagCluster] != own {
		err := fmt.Errorf("%w: %q at %v holds data of cluster %s, this agent of cluster %s", ErrCluster, n.Name, n.Addr, tags[TagCluster], own)
		return &clusterError{err, addr}
	}
	if n.Name != g.name || !live {
		return nil
	}
	if tags[TagID] == g.id {
		return fmt.Errorf("%w: %q at %s, now at %s", ErrOldAddress, n.Name, addr, g.addr)
	}
	g.conflict(Member{Name: n.Name, Addr: n.Addr.String(), Port: n.Port, Tags: tags, Status: StatusAlive})
	return fmt.Errorf("%w: %q belongs to %s with id %q, this agent at %s has id %q", ErrNameConflict, n.Name, addr, tags[TagID], g.addr, g.id)
}

// takeRefusal gives the last refusal and forgets it.
func (g *guard) takeRefusal() error {
	g.mu.Lock()
	defer g.mu.Unlock()
	err := g.refused
	g.refused = nil
	return err
}

// damper lets the same conflict through once in a while: gossip repeats it many times a second.
type damper struct {
	mu   sync.Mutex
	last map[string]time.Time
}

const damperPeriod, damperSize = time.Minute, 64

func (d *damper) pass(key string, now time.Time) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	if at, ok := d.last[key]; ok && now.Sub(at) < damperPeriod {
		return false
	}
	if d.last == nil || len(d.last) >= damperSize { // keys come from the network
		d.last = map[string]time.Time{}
	}
	d.last[key] = now
	return true
}
