package dnsserver

import (
	"encoding/hex"
	"net/netip"
	"strings"

	"github.com/miekg/dns"
)

// kind is what a name in one of our zones asks about.
type kind uint8

const (
	kindForeign kind = iota // outside our zones
	kindNone                // inside, but no form we know, or another datacenter: does not exist
	kindService
	kindNode
	kindAddr
	kindQuery
	kindVirtual // a form that exists and never has an answer here
	kindPTR     // a reverse name; addr is not valid when it names no single address
)

// question is a parsed name.
type question struct {
	kind    kind
	name    string // service, node or query, lower case; the dots of a node name are kept
	tag     string // lower case, "" = any
	addr    netip.Addr
	domain  string // the zone asked, lower case, with final dot
	srvOnly bool   // the short RFC 2782 form, which only SRV may use
}

// zones are the names this server answers for.
type zones struct {
	domains []string // lower case, with final dot; the primary one first
	dc      string   // lower case
}

// find returns the zone that lower, a fully qualified lower case name, lies in.
func (z *zones) find(lower string) (string, bool) {
	best := ""
	for _, d := range z.domains {
		if len(d) > len(best) && strings.HasSuffix(lower, d) &&
			(len(lower) == len(d) || lower[len(lower)-len(d)-1] == '.') {
			best = d
		}
	}
	return best, best != ""
}

// parse reads a fully qualified name in lower case. Seen from the right, the first of the words that name a family
// divides it: left of it stands the name, right of it the locality ([dc] or [dc].dc).
func (z *zones) parse(lower string) question {
	if strings.HasSuffix(lower, ".in-addr.arpa.") || strings.HasSuffix(lower, ".ip6.arpa.") {
		addr, _ := reverseAddr(lower)
		return question{kind: kindPTR, addr: addr, domain: z.domains[0]}
	}
	domain, ok := z.find(lower)
	if !ok {
		return question{kind: kindForeign}
	}
	none := question{kind: kindNone, domain: domain}
	if len(lower) == len(domain) {
		return none
	}
	labels := dns.SplitDomainName(lower[:len(lower)-len(domain)])
	for i, l := range labels {
		labels[i] = unescape(l)
	}
	for i := len(labels) - 1; i >= 0; i-- {
		switch labels[i] {
		case "service", "node", "addr", "virtual", "connect", "ingress", "query":
			return z.family(labels[i], labels[:i], labels[i+1:], none)
		}
	}
	return z.short(labels, none)
}

// family reads what stands left and right of word.
func (z *zones) family(word string, left, right []string, none question) question {
	q := none
	if len(left) == 0 {
		return none
	}
	if word == "virtual" && len(right) <= 1 { // right is a peer here, not a datacenter
		q.kind = kindVirtual
		return q
	}
	if word == "addr" && len(left) == 1 && z.local(right, true) {
		return addrQuestion(left[0], none)
	}
	if !z.local(right, false) {
		return none
	}
	switch word {
	case "service":
		q.kind = kindService
		if len(left) == 2 && underscored(left[0]) && underscored(left[1]) {
			q.name, q.tag = left[0][1:], srvTag(left[1])
			return q
		}
		q.name = left[len(left)-1]
		q.tag = strings.Join(left[:len(left)-1], ".")
	case "node":
		q.kind = kindNode
		q.name = strings.Join(left, ".")
	case "query":
		q.kind = kindQuery
		q.name = strings.Join(left, ".")
		if len(left) == 2 && underscored(left[0]) && underscored(left[1]) {
			q.name = left[0][1:]
		}
	}
	return q // connect and ingress have nothing here: none
}

// short reads _service._tag[.dc], the form of RFC 2782 without the word "service".
func (z *zones) short(labels []string, none question) question {
	if len(labels) < 2 || !underscored(labels[0]) || !underscored(labels[1]) || !z.local(labels[2:], false) {
		return none
	}
	q := none
	q.kind, q.name, q.tag, q.srvOnly = kindService, labels[0][1:], srvTag(labels[1]), true
	return q
}

// local says whether a locality is this datacenter; with anyDC any datacenter will do.
func (z *zones) local(right []string, anyDC bool) bool {
	switch len(right) {
	case 0:
		return true
	case 1:
	case 2:
		if right[1] != "dc" {
			return false
		}
	default:
		return false
	}
	return anyDC || right[0] == z.dc
}

func underscored(label string) bool { return len(label) > 1 && label[0] == '_' }

// srvTag: "_tcp" means no tag, everything else is one.
func srvTag(label string) string {
	if label == "_tcp" {
		return ""
	}
	return label[1:]
}

// addrQuestion reads an address written as hexadecimal digits.
func addrQuestion(label string, none question) question {
	b, err := hex.DecodeString(label)
	if err != nil || (len(b) != 4 && len(b) != 16) {
		return none
	}
	q := none
	q.kind = kindAddr
	q.addr, _ = netip.AddrFromSlice(b)
	return q
}

// reverseAddr reads the address out of a full in-addr.arpa or ip6.arpa name (RFC 1035 3.5, RFC 3596 2.5).
func reverseAddr(lower string) (netip.Addr, bool) {
	if rest, ok := strings.CutSuffix(lower, ".in-addr.arpa."); ok {
		parts := strings.Split(rest, ".")
		if len(parts) != 4 {
			return netip.Addr{}, false
		}
		a, err := netip.ParseAddr(parts[3] + "." + parts[2] + "." + parts[1] + "." + parts[0])
		return a, err == nil
	}
	rest, ok := strings.CutSuffix(lower, ".ip6.arpa.")
	if !ok || len(rest) != 63 {
		return netip.Addr{}, false
	}
	var digits [32]byte
	for i := range digits {
		if i > 0 && rest[2*i-1] != '.' {
			return netip.Addr{}, false
		}
		digits[31-i] = rest[2*i]
	}
	var b [16]byte
	if _, err := hex.Decode(b[:], digits[:]); err != nil {
		return netip.Addr{}, false
	}
	return netip.AddrFrom16(b), true
}

// unescape turns a label as package dns presents it (\. and \DDD, RFC 1035 5.1) into its bytes.
func unescape(label string) string {
	if strings.IndexByte(label, '\\') < 0 {
		return label
	}
	b := make([]byte, 0, len(label))
	for i := 0; i < len(label); i++ {
		if label[i] != '\\' || i+1 == len(label) {
			b = append(b, label[i])
			continue
		}
		if d := label[i+1:]; len(d) >= 3 && isDigit(d[0]) && isDigit(d[1]) && isDigit(d[2]) {
			b = append(b, byte(int(d[0]-'0')*100+int(d[1]-'0')*10+int(d[2]-'0')))
			i += 3
			continue
		}
		i++
		b = append(b, label[i])
	}
	return string(b)
}

// escape is the inverse: raw as dot separated labels in presentation form. Dots divide labels, as they do in node
// names.
func escape(raw string) string {
	clean := true
	for i := 0; i < len(raw); i++ {
		if c := raw[i]; c <= ' ' || c >= 0x7f || strings.IndexByte(`"();@$\`, c) >= 0 {
			clean = false
			break
		}
	}
	if clean {
		return raw
	}
	var b strings.Builder
	for i := 0; i < len(raw); i++ {
		switch c := raw[i]; {
		case c <= ' ' || c >= 0x7f:
			b.Write([]byte{'\\', '0' + c/100, '0' + c/10%10, '0' + c%10})
		case strings.IndexByte(`"();@$\`, c) >= 0:
			b.Write([]byte{'\\', c})
		default:
			b.WriteByte(c)
		}
	}
	return b.String()
}

func isDigit(c byte) bool { return '0' <= c && c <= '9' }

// validName says whether a fully qualified name can be put into a packet.
func validName(fqdn string) bool {
	var buf [256]byte
	_, err := dns.PackDomainName(fqdn, buf[:], 0, nil, false)
	return err == nil
}
