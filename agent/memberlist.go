package agent

import (
	"crypto/sha1"
	"encoding/binary"
	"encoding/json"
	"hash/fnv"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/musterhq/muster/api/etcd"
	"github.com/musterhq/muster/consensus"
	"github.com/musterhq/muster/kv"
	"github.com/musterhq/muster/membership"
)

// What clients of the hierarchical dialect have asked for about servers, in the replicated tree:
//
//	m/members/<id>   a server that is to come (it runs out), or one whose id or addresses a client has chosen
//	m/removed/<id>   a member that was removed for good; never deleted
//
// The consensus knows neither: a server that is to come has no vote and no part in any quorum.
const (
	membersPath = "m/members"
	removedPath = "m/removed"
)

// memberRecord is the value of m/members/<id>.
type memberRecord struct {
	PeerURLs []string `json:"peerURLs"`
	Node     string   `json:"node,omitempty"` // UUID of the server that has the id; "" until one has come
	Addr     string   `json:"addr,omitempty"` // where that server was reached when PeerURLs were published
}

// removedRecord is the value of m/removed/<id>.
type removedRecord struct {
	Node    string    `json:"node,omitempty"` // "" when no server had come
	Cluster string    `json:"cluster"`        // the id of the cluster: a recovered one begins anew with whom it has
	At      time.Time `json:"at"`
}

// memberID is the number by which clients of the hierarchical dialect know a server that nobody announced: a hash of
// its UUID.
func memberID(node string) uint64 {
	h := fnv.New64a()
	_, _ = h.Write([]byte(node))
	return h.Sum64()
}

// announcedID is the id of a member announced at run time, as clients of the dialect expect it: salted with the time in
// seconds.
func announcedID(urls []string, now time.Time) uint64 {
	return saltedID(urls, strconv.FormatInt(now.Unix(), 10))
}

// saltedID is the first eight bytes of the SHA-1 of the sorted URLs and a salt.
func saltedID(urls []string, salt string) uint64 {
	sum := sha1.Sum([]byte(strings.Join(slices.Sorted(slices.Values(urls)), "") + salt))
	return binary.BigEndian.Uint64(sum[:])
}

func hexID(id uint64) string { return strconv.FormatUint(id, 16) }

func memberPath(root string, id uint64) string { return root + "/" + hexID(id) }

// memberRecords are all records about members at one moment.
type memberRecords struct {
	known   map[uint64]memberRecord
	removed map[uint64]removedRecord
}

func readMembers(s *kv.Snap) memberRecords {
	return memberRecords{known: readRecords[memberRecord](s, membersPath), removed: readRecords[removedRecord](s, removedPath)}
}

// readRecords decodes what lies below a path. Only this program writes there; what it cannot read it does not know.
func readRecords[T any](s *kv.Snap, path string) map[uint64]T {
	dir, ok := s.Get(path)
	if !ok {
		return nil
	}
	out := make(map[uint64]T, dir.Len())
	dir.Each(func(e *kv.Entry) bool {
		id, err := strconv.ParseUint(e.Name(), 16, 64)
		var rec T
		if err == nil && json.Unmarshal([]byte(e.Value()), &rec) == nil {
			out[id] = rec
		}
		return true
	})
	return out
}

// removedServer says whether the server with that UUID was removed from that cluster for good.
func (m memberRecords) removedServer(node, cluster string) bool {
	for _, r := range m.removed {
		if r.Node == node && node != "" && r.Cluster == cluster {
			return true
		}
	}
	return false
}

// idOf finds the id of a server: the one a record gives it, that of the announcement of its address, else its own.
func (m memberRecords) idOf(node, addr string) uint64 {
	announced, found := uint64(0), false
	for id, rec := range m.known {
		switch {
		case rec.Node == node:
			return id
		case rec.Node == "" && rec.names(addr) && (!found || id < announced):
			announced, found = id, true
		}
	}
	if found {
		return announced
	}
	return memberID(node)
}

// names says whether one of the URLs is that address.
func (r *memberRecord) names(addr string) bool {
	return slices.ContainsFunc(r.PeerURLs, func(u string) bool { return hostOf(u) == addr })
}

// hostOf is the host:port of a peer URL, "" when it has none.
func hostOf(peerURL string) string {
	u, err := url.Parse(peerURL)
	if err != nil {
		return ""
	}
	return u.Host
}

// listed is a member as the dialect shows it, and the server behind it.
type listed struct {
	etcd.Member
	server *consensus.Server // nil while none has come
}

// listMembers joins the three sources: the consensus says who is a member, the records what a client has asked for,
// gossip what a server is called and where clients reach it.
func (a *Agent) listMembers(s *kv.Snap) ([]listed, error) {
	records := readMembers(s)
	servers, err := a.raft.Servers()
	if err != nil {
		return nil, err
	}
	gossip := map[string]membership.Member{}
	for _, m := range a.pool.Members() {
		if isServer(m) && m.ID() != "" {
			gossip[m.ID()] = m
		}
	}
	if len(servers) == 0 { // no cluster yet: those that are going to form it
		for id, m := range gossip {
			if m.Status != membership.StatusLeft {
				servers = append(servers, consensus.Server{ID: id, Addr: m.ServerAddr()})
			}
		}
	}
	var out []listed
	for i := range servers {
		srv := &servers[i]
		l := listed{server: srv, Member: etcd.Member{ID: records.idOf(srv.ID, srv.Addr), Name: srv.ID, PeerURLs: []string{a.scheme() + "://" + srv.Addr}, Leader: srv.Leader}}
		if rec, ok := records.known[l.ID]; ok {
			// What was published holds until the server moves by itself.
			if rec.Addr == srv.Addr || rec.names(srv.Addr) {
				l.PeerURLs = rec.PeerURLs
			}
			delete(records.known, l.ID)
		}
		if m, ok := gossip[srv.ID]; ok {
			l.Name = m.Name
			if u := m.Tags[tagEtcd]; u != "" {
				l.ClientURLs = strings.Split(u, ",")
			}
		}
		out = append(out, l)
	}
	for id, rec := range records.known {
		if rec.Node == "" { // a record of a server that is gone shows nobody
			out = append(out, listed{Member: etcd.Member{ID: id, PeerURLs: rec.PeerURLs}})
		}
	}
	return out, nil
}

// memberListAge is how old a list of members may be: the consensus and gossip are asked at most that often, however
// many clients ask for members. A change of the records shows at once.
const memberListAge = 100 * time.Millisecond

// memberCache keeps the last list.
type memberCache struct {
	mu      sync.Mutex
	at      time.Time
	index   uint64 // of the records
	members []etcd.Member
}

func (c *memberCache) forget() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.at = time.Time{}
}

// etcdMembers lists the members as that dialect shows them. On a proxy nobody asks: its routes are relayed.
func (a *Agent) etcdMembers() []etcd.Member {
	if a.raft == nil {
		return nil
	}
	c := &a.memberCache
	c.mu.Lock()
	defer c.mu.Unlock()
	snap := a.tree.Snap()
	index := snap.IndexOf(membersPath)
	if index == c.index && time.Since(c.at) < memberListAge {
		return c.members
	}
	list, err := a.listMembers(snap)
	if err != nil {
		return c.members // consensus is being closed
	}
	members := make([]etcd.Member, len(list))
	for i := range list {
		members[i] = list[i].Member
	}
	c.at, c.index, c.members = time.Now(), index, members
	return members
}

// ownMemberID is the id under which this server is listed.
func (a *Agent) ownMemberID() uint64 {
	if a.raft == nil {
		return memberID(a.id)
	}
	return readMembers(a.tree.Snap()).idOf(a.id, a.cfg.Advertised())
}
