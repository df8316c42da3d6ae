package dnsserver

import (
	"context"
	"math/rand/v2"
	"time"

	"github.com/miekg/dns"
)

// The labels before the zone's name in an SOA record: the server's name and the mailbox.
const (
	soaHost = "ns"
	soaMail = "hostmaster"
)

// maxNS is how many servers are named in NS records.
const maxNS = 3

// soa is the SOA record of zone. The serial number is the time, since there is no zone file that could have one.
func (st *settings) soa(zone string) *dns.SOA {
	return &dns.SOA{
		Hdr: header(zone, dns.TypeSOA, st.SOA.MinTTL),
		Ns:  soaHost + "." + zone, Mbox: soaMail + "." + zone, Serial: uint32(time.Now().Unix()),
		Refresh: st.SOA.Refresh, Retry: st.SOA.Retry, Expire: st.SOA.Expire, Minttl: st.SOA.MinTTL,
	}
}

// nameServers are NS records for a few servers chosen by chance, and their addresses.
func (l *lookup) nameServers(ctx context.Context, zone string) (ns, addrs []dns.RR, err error) {
	nodes, err := l.src.Servers(ctx)
	if err != nil {
		return nil, nil, err
	}
	n := naming{l.st.zones.dc, zone}
	for _, i := range rand.Perm(len(nodes)) {
		if len(ns) == maxNS {
			break
		}
		a, ok := parseAddress(nodes[i].Address)
		name := n.node(nodes[i].Name)
		if !ok || a.host != "" || !validName(name) {
			continue
		}
		ns = append(ns, &dns.NS{Hdr: header(zone, dns.TypeNS, l.st.nodeTTL), Ns: name})
		addrs = append(addrs, addrRecord(name, a.ip, l.st.nodeTTL))
	}
	return ns, addrs, nil
}
