package dnsserver

import (
	"encoding/hex"
	"net/netip"
	"sort"
	"strings"

	"github.com/miekg/dns"

	"github.com/musterhq/muster/catalog"
)

// group is what stands or falls together when an answer is cut: one answer record, or the chain that begins with
// it, and the additional records that only it needs.
type group struct {
	answer []dns.RR
	extra  []dns.RR
	weight uint16 // how soon it comes, beside the others
	far    uint8  // see catalog.Place
}

// header of a record; ttl in seconds.
func header(owner string, rrtype uint16, ttl uint32) dns.RR_Header {
	return dns.RR_Header{Name: owner, Rrtype: rrtype, Class: dns.ClassINET, Ttl: ttl}
}

// addrRecord is an A or AAAA record.
func addrRecord(owner string, a netip.Addr, ttl uint32) dns.RR {
	if a = a.Unmap(); a.Is4() {
		return &dns.A{Hdr: header(owner, dns.TypeA, ttl), A: a.AsSlice()}
	}
	return &dns.AAAA{Hdr: header(owner, dns.TypeAAAA, ttl), AAAA: a.AsSlice()}
}

// wants says whether a question of type qtype is answered by an address like a. ANY and, for services, TXT take both
// families.
func wants(qtype uint16, a netip.Addr) bool {
	switch qtype {
	case dns.TypeA:
		return a.Unmap().Is4()
	case dns.TypeAAAA:
		return !a.Unmap().Is4()
	}
	return true
}

// address is where an instance or a node is found: an IP address or a host name.
type address struct {
	ip   netip.Addr
	host string // fully qualified; set when ip is not
	own  bool   // the service's own, not its node's
}

func parseAddress(s string) (address, bool) {
	if ip, err := netip.ParseAddr(s); err == nil {
		return address{ip: ip.WithZone("")}, true
	}
	host := dns.Fqdn(s)
	if s == "" || !validName(host) {
		return address{}, false
	}
	return address{host: host}, true
}

// addressOf is the service's address, else its node's.
func addressOf(in *catalog.Instance) (address, bool) {
	if in.Service.Address == "" {
		return parseAddress(in.Node.Address)
	}
	a, ok := parseAddress(in.Service.Address)
	a.own = true
	return a, ok
}

// naming makes the names of one zone.
type naming struct{ dc, domain string }

func (n naming) node(name string) string { return escape(name) + ".node." + n.dc + "." + n.domain }
func (n naming) service(name string) string {
	return escape(name) + ".service." + n.dc + "." + n.domain
}

func (n naming) addr(a netip.Addr) string {
	return hex.EncodeToString(a.Unmap().AsSlice()) + ".addr." + n.dc + "." + n.domain
}

// addressGroups are the A and AAAA records for the instances, each text once, and the host name of the first
// instance that has one, for use when there is no address at all.
func addressGroups(ins []*catalog.Instance, owner string, qtype uint16, ttl uint32, asker catalog.Place) (groups []group, any bool, host string) {
	seen := make(map[netip.Addr]int, len(ins)) // its group
	for _, in := range ins {
		a, ok := addressOf(in)
		switch {
		case !ok:
			continue
		case a.host != "":
			if host == "" {
				host = a.host
			}
			continue
		}
		any = true
		ip := a.ip.Unmap()
		if !wants(qtype, ip) {
			continue
		}
		w, far := in.Weight(), asker.Distance(in.Place())
		if i, dup := seen[ip]; dup { // it stands for both
			groups[i].weight, groups[i].far = clamp16(int(groups[i].weight)+int(w)), min(groups[i].far, far)
			continue
		}
		seen[ip] = len(groups)
		groups = append(groups, group{answer: []dns.RR{addrRecord(owner, ip, ttl)}, weight: w, far: far})
	}
	return groups, any, host
}

// srvGroups are the SRV records for the instances. resolve gives the additional records of a host name; it is only
// called for those.
func srvGroups(ins []*catalog.Instance, owner string, n naming, ttl uint32, meta bool, asker catalog.Place, resolve func(host string) []dns.RR) (groups []group, hosts bool) {
	type key struct {
		node, addr string
		port       int
	}
	seen := make(map[key]struct{}, len(ins))
	for _, in := range ins {
		k := key{in.Node.Name, in.Service.Address, in.Service.Port}
		if _, dup := seen[k]; dup {
			continue
		}
		seen[k] = struct{}{}
		a, ok := addressOf(in)
		if !ok {
			continue
		}
		target := a.host
		var extra []dns.RR
		if target == "" {
			target = n.node(in.Node.Name)
			if a.own || !validName(target) {
				target = n.addr(a.ip)
			}
			extra = []dns.RR{addrRecord(target, a.ip, ttl)}
		} else {
			hosts = true
			extra = resolve(target)
		}
		if meta && a.host == "" { // a host name's node is not what the target names
			extra = append(extra, metaRecords(n.node(in.Node.Name), in.Node.Meta, ttl)...)
		}
		groups = append(groups, group{
			answer: []dns.RR{&dns.SRV{
				Hdr: header(owner, dns.TypeSRV, ttl), Priority: 1, Weight: in.Weight(),
				Port: clamp16(in.Service.Port), Target: target,
			}},
			extra: extra, weight: in.Weight(), far: asker.Distance(in.Place()),
		})
	}
	return groups, hosts
}

func clamp16(n int) uint16 { return uint16(min(max(n, 0), 65535)) }

// metaRecords are the TXT records of a node's metadata (RFC 1464 form).
func metaRecords(owner string, meta map[string]string, ttl uint32) []dns.RR {
	if len(meta) == 0 || !validName(owner) {
		return nil
	}
	keys := make([]string, 0, len(meta))
	for k := range meta {
		keys = append(keys, k)
	}
	sort.Strings(keys)
	out := make([]dns.RR, 0, len(keys))
	for _, k := range keys {
		out = append(out, &dns.TXT{Hdr: header(owner, dns.TypeTXT, ttl), Txt: txtStrings(metaText(k, meta[k]))})
	}
	return out
}

// metaText is key=value by RFC 1464, with a grave accent before what would be misread; a key that begins with
// "rfc1035-" asks for the value alone.
func metaText(key, value string) string {
	if len(key) >= 8 && strings.EqualFold(key[:8], "rfc1035-") {
		return value
	}
	var b strings.Builder
	first := len(key) - len(strings.TrimLeft(key, " \t"))
	last := len(strings.TrimRight(key, " \t"))
	for i := 0; i < len(key); i++ {
		if c := key[i]; c == '`' || c == '=' || i < first || i >= last {
			b.WriteByte('`')
		}
		b.WriteByte(key[i])
	}
	b.WriteByte('=')
	b.WriteString(strings.ReplaceAll(value, "`", "``"))
	return b.String()
}

// txtStrings cuts text into character strings of at most 255 bytes and escapes it for package dns, which wants
// presentation form.
func txtStrings(text string) []string {
	var out []string
	for len(text) > 255 {
		out = append(out, escapeTXT(text[:255]))
		text = text[255:]
	}
	return append(out, escapeTXT(text))
}

func escapeTXT(s string) string {
	return strings.NewReplacer(`\`, `\\`, `"`, `\"`).Replace(s)
}
