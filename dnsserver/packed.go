package dnsserver

import (
	"encoding/binary"
	"sync"

	"github.com/miekg/dns"

	"github.com/musterhq/muster/catalog"
)

// set is the answer to one question about a service in wire form (RFC 1035 section 4.1), made once per change of
// the service. An answer is then a copy of as many of its records as are wanted, in random order, behind the
// client's id and question.
//
// Records are kept without their owner name: in the packet it is a pointer to the question, which always has that
// name, in the client's spelling.
type set struct {
	answer   *Answer // valid as long as the source returns this pointer
	question question
	order    order

	blob    []byte   // answers: type, class, ttl, length, data
	ends    []uint32 // where each ends in blob
	limited bool     // ARecordLimit counts these

	target    []int32  // by answer: its SRV target, an index into names; nil for addresses
	ride      []uint16 // additional records of all answers, indices into extras
	rideEnds  []uint32 // where those of each answer end in ride
	extras    []packedExtra
	names     []packedName
	domainLen int // of the zone's name in wire form

	scratch sync.Pool // of *scratch
}

// packedExtra is an additional record: an owner name and the rest.
type packedExtra struct {
	name int32
	rest []byte
}

// packedName is a name below the zone; wire[:prefix] is what stands before the zone's name.
type packedName struct {
	wire   []byte
	prefix int
}

// srvTarget is where the target begins in an SRV record without owner: after type, class, ttl, length (10 bytes),
// priority, weight and port (6 bytes), RFC 2782.
const srvTarget = 16

// pointer (RFC 1035 section 4.1.4) to the name of the question, which follows the header of 12 bytes.
const questionPointer = 0xC000 | 12

// maxPointer is how far into a packet a pointer reaches.
const maxPointer = 0x3FFF

// pack fills s from groups of one record each. It reports false when something cannot be packed; such answers take
// the long way.
func (s *set) pack(groups []group, qtype uint16, domain string) bool {
	s.limited = qtype != dns.TypeSRV
	names := map[string]int32{}
	extras := map[string]uint16{}
	buf := make([]byte, 512) // names need 255; records that need more get more
	n, err := dns.PackDomainName(domain, buf, 0, nil, false)
	if err != nil {
		return false
	}
	s.domainLen = n
	name := func(fqdn string) (int32, bool) {
		if i, ok := names[fqdn]; ok {
			return i, true
		}
		n, err := dns.PackDomainName(fqdn, buf, 0, nil, false)
		if err != nil || n < s.domainLen {
			return 0, false
		}
		i := int32(len(s.names))
		names[fqdn] = i
		s.names = append(s.names, packedName{append([]byte(nil), buf[:n]...), n - s.domainLen})
		return i, true
	}
	for _, g := range groups {
		if len(g.answer) != 1 {
			return false
		}
		rest, ok := packRest(g.answer[0], &buf)
		if !ok {
			return false
		}
		s.blob = append(s.blob, rest...)
		s.ends = append(s.ends, uint32(len(s.blob)))
		if srv, ok := g.answer[0].(*dns.SRV); ok {
			t, ok := name(srv.Target)
			if !ok {
				return false
			}
			s.target = append(s.target, t)
		}
		for _, rr := range g.extra {
			key := rr.String()
			e, ok := extras[key]
			if !ok {
				if len(s.extras) > 65000 {
					return false
				}
				owner, ok := name(rr.Header().Name)
				if !ok {
					return false
				}
				rest, ok := packRest(rr, &buf)
				if !ok {
					return false
				}
				e = uint16(len(s.extras))
				extras[key] = e
				s.extras = append(s.extras, packedExtra{owner, append([]byte(nil), rest...)})
			}
			s.ride = append(s.ride, e)
		}
		s.rideEnds = append(s.rideEnds, uint32(len(s.ride)))
	}
	s.scratch.New = func() any { return s.newScratch() }
	return len(s.ends) > 0
}

// packRest packs rr into room, which grows if it must, and returns all but its owner name.
func packRest(rr dns.RR, room *[]byte) ([]byte, bool) {
	if n := dns.Len(rr); n > len(*room) {
		*room = make([]byte, n)
	}
	buf := *room
	start, err := dns.PackDomainName(rr.Header().Name, buf, 0, nil, false)
	if err != nil {
		return nil, false
	}
	end, err := dns.PackRR(rr, buf, 0, nil, false)
	if err != nil || end < start {
		return nil, false
	}
	return buf[start:end], true
}

// size is about how much memory the set takes, in bytes.
func (s *set) size() int {
	n := len(s.blob) + 16*len(s.ends) + 2*len(s.ride) + 300
	for _, e := range s.extras {
		n += len(e.rest) + 32
	}
	for _, w := range s.names {
		n += len(w.wire) + 32
	}
	return n
}

// scratch is the working memory of one answer.
type scratch struct {
	order   []uint32 // always a permutation of the answers, within their tiers; shuffling a shuffled one is as good
	buf     []byte
	stamp   uint32   // marks what belongs to the present answer in the two below
	inExtra []uint32 // by extra: stamp when it is in the packet
	inName  []uint32 // by name: stamp when offset is right
	offset  []int32  // by name: where it stands in the packet, 0 when out of reach or still to be written
}

func (s *set) newScratch() *scratch {
	x := &scratch{
		order:   make([]uint32, len(s.ends)),
		buf:     make([]byte, 0, 1536),
		inExtra: make([]uint32, len(s.extras)),
		inName:  make([]uint32, len(s.names)),
		offset:  make([]int32, len(s.names)),
	}
	for i := range x.order {
		x.order[i] = uint32(i)
	}
	return x
}

func (s *set) span(ends []uint32, i uint32) (uint32, uint32) {
	if i == 0 {
		return 0, ends[0]
	}
	return ends[i-1], ends[i]
}

// packet appends the answer to req to x.buf[:0]. limit is the most answers wanted whatever the transport, 0 for all.
// It returns nil if the question cannot be packed.
func (s *set) packet(x *scratch, req *dns.Msg, lim limits, limit int, opts *options, ra, setTC bool) []byte {
	b := append(x.buf[:0], make([]byte, 12+255+4)...)
	off, err := dns.PackDomainName(req.Question[0].Name, b, 12, nil, false)
	if err != nil {
		return nil
	}
	domainAt := off - s.domainLen
	binary.BigEndian.PutUint16(b[off:], req.Question[0].Qtype)
	binary.BigEndian.PutUint16(b[off+2:], req.Question[0].Qclass)
	b = b[:off+4]

	if x.stamp++; x.stamp == 0 { // wrapped: old stamps would look new
		clear(x.inExtra)
		clear(x.inName)
		x.stamp = 1
	}
	room := lim.bytes - opts.size()
	want := len(s.ends)
	if limit > 0 && s.limited {
		want = min(want, limit)
	}
	count, later := 0, 0 // later: bytes of additional records still to come
	for count < min(want, lim.counts) {
		s.order.pick(x.order, count)
		i := x.order[count]
		from, to := s.span(s.ends, i)
		rec := s.blob[from:to]
		at := len(b) + 2
		more := 0
		if s.target != nil {
			more = s.ridecost(x, i, at)
		}
		if count > 0 && at+len(rec)+later+more > room {
			break
		}
		b = append(b, questionPointer>>8, questionPointer&0xFF)
		b = append(b, rec...)
		later += more
		count++
	}
	tc := setTC && count < want
	extra := 0
	if len(s.extras) > 0 {
		b, extra = s.appendExtras(b, x, count, domainAt)
	}
	if opts.opt {
		b = opts.append(b)
		extra++
	}
	putHeader(b, req, count, extra, ra, tc)
	x.buf = b
	return b
}

// ridecost notes that answer i, standing at offset at, is chosen, and returns the most bytes that additional
// records not yet chosen will take.
func (s *set) ridecost(x *scratch, i uint32, at int) int {
	if t := s.target[i]; x.inName[t] != x.stamp && at+srvTarget <= maxPointer {
		x.inName[t] = x.stamp
		x.offset[t] = int32(at + srvTarget)
	}
	cost := 0
	from, to := s.span(s.rideEnds, i)
	for _, e := range s.ride[from:to] {
		if x.inExtra[e] == x.stamp {
			continue
		}
		x.inExtra[e] = x.stamp
		ex := &s.extras[e]
		cost += len(ex.rest) + 2
		if x.inName[ex.name] != x.stamp {
			cost += s.names[ex.name].prefix
		}
	}
	return cost
}

// appendExtras writes the additional records of the first count answers, each once.
func (s *set) appendExtras(b []byte, x *scratch, count, domainAt int) ([]byte, int) {
	n := 0
	for _, i := range x.order[:count] {
		from, to := s.span(s.rideEnds, i)
		for _, e := range s.ride[from:to] {
			if x.inExtra[e] != x.stamp {
				continue
			}
			x.inExtra[e] = 0 // written
			ex := &s.extras[e]
			if x.inName[ex.name] == x.stamp {
				p := 0xC000 | x.offset[ex.name]
				b = append(b, byte(p>>8), byte(p))
			} else {
				if len(b) <= maxPointer {
					x.inName[ex.name] = x.stamp
					x.offset[ex.name] = int32(len(b))
				}
				nm := &s.names[ex.name]
				p := 0xC000 | domainAt
				b = append(b, nm.wire[:nm.prefix]...)
				b = append(b, byte(p>>8), byte(p))
			}
			b = append(b, ex.rest...)
			n++
		}
	}
	return b, n
}

// putHeader writes the header (RFC 1035 section 4.1.1) of an authoritative answer to req.
func putHeader(b []byte, req *dns.Msg, answers, extra int, ra, tc bool) {
	binary.BigEndian.PutUint16(b[0:], req.Id)
	flags := uint16(1<<15 | 1<<10) // QR, AA
	if tc {
		flags |= 1 << 9
	}
	if req.RecursionDesired {
		flags |= 1 << 8
	}
	if ra {
		flags |= 1 << 7
	}
	if req.CheckingDisabled {
		flags |= 1 << 4
	}
	binary.BigEndian.PutUint16(b[2:], flags)
	binary.BigEndian.PutUint16(b[4:], 1)
	binary.BigEndian.PutUint16(b[6:], uint16(answers))
	binary.BigEndian.PutUint16(b[8:], 0)
	binary.BigEndian.PutUint16(b[10:], uint16(extra))
}

// Bounds of a cache. What is dropped is made again when it is asked for.
const (
	cacheSets  = 8192
	cacheBytes = 16 << 20
)

// cache keeps the sets of the names being asked. A set whose service has changed is replaced by the next question.
type cache struct {
	mu    sync.RWMutex
	sets  map[cacheKey]*set
	bytes int
}

type cacheKey struct {
	name  string // lower case
	qtype uint16
	asker catalog.Place // answers depend on where it stands
}

func newCache() *cache { return &cache{sets: make(map[cacheKey]*set)} }

func (c *cache) get(k cacheKey) *set {
	c.mu.RLock()
	s := c.sets[k]
	c.mu.RUnlock()
	return s
}

func (c *cache) put(k cacheKey, s *set) {
	n := s.size()
	if n > cacheBytes/4 {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if old := c.sets[k]; old != nil {
		c.bytes -= old.size()
	} else if len(c.sets) >= cacheSets {
		c.drop()
	}
	if c.bytes+n > cacheBytes {
		c.drop()
	}
	c.sets[k] = s
	c.bytes += n
}

func (c *cache) drop() {
	clear(c.sets)
	c.bytes = 0
}
