package dnsserver

import (
	"net"
	"strconv"
	"strings"

	"github.com/miekg/dns"

	"github.com/musterhq/muster/catalog"
)

// Service metadata that make SVCB and HTTPS records (RFC 9460). An instance has such a record when it names its
// protocols, because an HTTPS record alone makes a browser use TLS; the others override what the instance is known by.
const (
	metaALPN     = "svcb_alpn"     // protocols, separated by commas: h2,h3
	metaPort     = "svcb_port"     // default: the service's port
	metaPriority = "svcb_priority" // default 1; near instances come before far ones of the same priority
	metaIPv4Hint = "svcb_ipv4hint" // addresses, separated by commas; default: the instance's own
	metaIPv6Hint = "svcb_ipv6hint"
)

// svcbGroups are the SVCB or HTTPS records of the instances that ask for one. What cannot be read is left out.
func svcbGroups(ins []*catalog.Instance, owner string, n naming, qtype uint16, ttl uint32, asker catalog.Place) []group {
	var out []group
	for _, in := range ins {
		alpn := list(in.Service.Meta[metaALPN])
		a, ok := addressOf(in)
		if len(alpn) == 0 || !ok {
			continue
		}
		target := a.host
		var extra []dns.RR
		if target == "" {
			if target = n.node(in.Node.Name); a.own || !validName(target) {
				target = n.addr(a.ip)
			}
			extra = []dns.RR{addrRecord(target, a.ip, ttl)}
		}
		far := asker.Distance(in.Place())
		rr := dns.SVCB{
			Hdr: header(owner, qtype, ttl), Target: target, Value: []dns.SVCBKeyValue{&dns.SVCBAlpn{Alpn: alpn}},
			Priority: uint16(max(1, number(in.Service.Meta[metaPriority], 1))),
		}
		if port := number(in.Service.Meta[metaPort], in.Service.Port); port > 0 {
			rr.Value = append(rr.Value, &dns.SVCBPort{Port: uint16(port)})
		}
		rr.Value = append(rr.Value, hints(in.Service.Meta, a)...)
		g := group{answer: []dns.RR{&rr}, extra: extra, weight: in.Weight(), far: far}
		if qtype == dns.TypeHTTPS {
			g.answer[0] = &dns.HTTPS{SVCB: rr}
		}
		out = append(out, g)
	}
	return out
}

// hints are the addresses a client may use before it has resolved the target.
func hints(meta map[string]string, a address) []dns.SVCBKeyValue {
	v4, v6 := addresses(meta[metaIPv4Hint], true), addresses(meta[metaIPv6Hint], false)
	if len(v4) == 0 && len(v6) == 0 && a.host == "" {
		if ip := a.ip.Unmap(); ip.Is4() {
			v4 = []net.IP{ip.AsSlice()}
		} else {
			v6 = []net.IP{ip.AsSlice()}
		}
	}
	var out []dns.SVCBKeyValue
	if len(v4) > 0 {
		out = append(out, &dns.SVCBIPv4Hint{Hint: v4})
	}
	if len(v6) > 0 {
		out = append(out, &dns.SVCBIPv6Hint{Hint: v6})
	}
	return out
}

// list splits at commas; empty and overlong parts (a protocol's name has at most 255 bytes) are left out.
func list(text string) []string {
	var out []string
	for part := range strings.SplitSeq(text, ",") {
		if part = strings.TrimSpace(part); part != "" && len(part) <= 255 {
			out = append(out, part)
		}
	}
	return out
}

func addresses(text string, four bool) []net.IP {
	var out []net.IP
	for _, part := range list(text) {
		if ip := net.ParseIP(part); ip != nil && (ip.To4() != nil) == four {
			out = append(out, ip)
		}
	}
	return out
}

// number reads a number from 1 to 65535, else it is def.
func number(text string, def int) int {
	if n, err := strconv.Atoi(strings.TrimSpace(text)); err == nil && n > 0 && n <= 65535 {
		return n
	}
	return min(max(def, 0), 65535)
}
