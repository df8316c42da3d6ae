package dnsserver

import (
	"context"
	"math/rand/v2"
	"net/netip"

	"github.com/miekg/dns"

	"github.com/musterhq/muster/catalog"
)

// maxChain is how many host names inside the zones are followed one after the other.
const maxChain = 3

// reply is what a lookup found, before it is fitted into a packet.
type reply struct {
	rcode     int
	groups    []group
	extra     []dns.RR // additional records that belong to the name, not to one answer
	authority []dns.RR
	order     *order // of groups; nil when they stay as they are
	stale     bool   // what it was made of is what was known last
	set       *set   // an empty one to keep the packed form in; nil when it must not be kept
}

// lookup answers one question.
type lookup struct {
	st      *settings
	src     Source
	forward func(ctx context.Context, host string) []dns.RR // asks recursors for A records of host
	qname   string                                          // as the client spells it; owner of answers
	qtype   uint16
	asker   catalog.Place
	client  netip.Addr // who asks, or for whom
	depth   int
}

// single makes one group of each record.
func single(rrs ...dns.RR) []group {
	groups := make([]group, len(rrs))
	for i, rr := range rrs {
		groups[i] = group{answer: []dns.RR{rr}}
	}
	return groups
}

// missing is NXDOMAIN; empty is a name that exists without records of the type asked (RFC 2308).
func (l *lookup) missing(zone string) *reply {
	return &reply{rcode: dns.RcodeNameError, authority: []dns.RR{l.st.soa(zone)}}
}

func (l *lookup) empty(zone string) *reply {
	return &reply{authority: []dns.RR{l.st.soa(zone)}}
}

// run chooses the records for a question inside the zones. An error means that nothing is known: SERVFAIL.
func (l *lookup) run(ctx context.Context, q question) (*reply, error) {
	switch l.qtype { // these two are answered for every name
	case dns.TypeSOA:
		ns, addrs, err := l.nameServers(ctx, q.domain)
		if err != nil {
			return nil, err
		}
		return &reply{groups: single(l.st.soa(q.domain)), authority: ns, extra: addrs}, nil
	case dns.TypeNS:
		ns, addrs, err := l.nameServers(ctx, q.domain)
		if err != nil {
			return nil, err
		}
		return &reply{groups: single(ns...), extra: addrs}, nil
	}
	switch q.kind {
	case kindService:
		if q.srvOnly && l.qtype != dns.TypeSRV {
			return l.missing(q.domain), nil
		}
		return l.service(ctx, q)
	case kindQuery:
		return l.query(ctx, q)
	case kindNode:
		return l.node(ctx, q)
	case kindAddr:
		rr := addrRecord(l.qname, q.addr, l.st.nodeTTL)
		if l.qtype == dns.TypeANY || l.qtype == rr.Header().Rrtype {
			return &reply{groups: single(rr)}, nil
		}
		return &reply{extra: []dns.RR{rr}}, nil
	case kindVirtual:
		return &reply{}, nil
	}
	return l.missing(q.domain), nil
}

// service answers with the healthy instances, in the order of the catalog; the caller shuffles.
func (l *lookup) service(ctx context.Context, q question) (*reply, error) {
	a, err := l.src.Service(ctx, q.name)
	if err != nil {
		return nil, err
	}
	ins := catalog.Choose(a.Instances, q.tag, l.st.OnlyPassing)
	if len(ins) == 0 {
		// Nobody healthy is no such name: a client must not cache "no address" of a service that is about to return.
		rep := l.missing(q.domain)
		rep.stale = a.Stale
		return rep, nil
	}
	return l.instances(ctx, q, a, ins, l.st.ttls.of(q.name)), nil
}

// query answers with the instances that a prepared query finds. No packed form is kept: they are found anew each time.
func (l *lookup) query(ctx context.Context, q question) (*reply, error) {
	a, err := l.src.Query(ctx, q.name, l.client)
	if err != nil {
		return nil, err
	}
	if a == nil || len(a.Instances) == 0 {
		rep := l.missing(q.domain)
		rep.stale = a != nil && a.Stale
		return rep, nil
	}
	ttl := l.st.ttls.of(a.Service)
	if a.TTL != nil {
		if own, err := ttlSeconds(q.name, *a.TTL); err == nil {
			ttl = own
		}
	}
	inner := *l
	if a.Ordered {
		inner.asker = catalog.Place{} // the query's own idea of near counts
	}
	rep := inner.instances(ctx, q, &a.Answer, a.Instances, ttl)
	rep.set = nil
	if a.Ordered && rep.order != nil {
		rep.order = &order{fixed: true}
	}
	return rep, nil
}

// instances answers with those that were chosen.
func (l *lookup) instances(ctx context.Context, q question, a *Answer, ins []*catalog.Instance, ttl uint32) *reply {
	if l.qtype == dns.TypeSRV {
		return l.srv(ctx, q, a, ins, ttl)
	}
	var groups []group
	switch l.qtype {
	case dns.TypeSVCB, dns.TypeHTTPS:
		groups = svcbGroups(ins, l.qname, naming{l.st.zones.dc, q.domain}, l.qtype, ttl, l.asker)
		if len(groups) > 0 {
			return &reply{groups: groups, order: l.order(groups, q), stale: a.Stale}
		}
	case dns.TypeA, dns.TypeAAAA, dns.TypeANY, dns.TypeTXT, dns.TypeCNAME:
		var any bool
		var host string
		groups, any, host = addressGroups(ins, l.qname, l.qtype, ttl, l.asker)
		if l.qtype == dns.TypeCNAME {
			groups = nil
		}
		if !any && host != "" {
			return &reply{groups: []group{l.chain(ctx, host, ttl)}, stale: a.Stale}
		}
	}
	if len(groups) == 0 {
		return l.empty(q.domain)
	}
	return &reply{groups: groups, order: l.order(groups, q), stale: a.Stale, set: &set{answer: a, question: q}}
}

func (l *lookup) srv(ctx context.Context, q question, a *Answer, ins []*catalog.Instance, ttl uint32) *reply {
	n := naming{l.st.zones.dc, q.domain}
	groups, hosts := srvGroups(ins, l.qname, n, ttl, l.st.NodeMetaTXT, l.asker, func(host string) []dns.RR {
		return l.resolve(ctx, host, ttl)
	})
	if len(groups) == 0 {
		return l.empty(q.domain)
	}
	rep := &reply{groups: groups, order: l.order(groups, q), stale: a.Stale}
	if !hosts { // records of foreign names must not be kept with ours
		rep.set = &set{answer: a, question: q}
	}
	return rep
}

func (l *lookup) order(groups []group, q question) *order {
	o := arrange(groups, l.st.stable.match(q.name))
	return &o
}

// node answers with the address of a node, and its metadata.
func (l *lookup) node(ctx context.Context, q question) (*reply, error) {
	node, stale, err := l.src.Node(ctx, q.name)
	if err != nil {
		return nil, err
	}
	if node == nil {
		return l.missing(q.domain), nil
	}
	rep := &reply{stale: stale}
	a, ok := parseAddress(node.Address)
	switch l.qtype {
	case dns.TypeA, dns.TypeAAAA, dns.TypeANY, dns.TypeCNAME:
		if ok && a.host != "" {
			rep.groups = []group{l.chain(ctx, a.host, l.st.nodeTTL)}
		} else if ok && l.qtype != dns.TypeCNAME && wants(l.qtype, a.ip) {
			rep.groups = single(addrRecord(l.qname, a.ip, l.st.nodeTTL))
		}
	}
	meta := metaRecords(l.qname, node.Meta, l.st.nodeTTL)
	rand.Shuffle(len(meta), func(i, j int) { meta[i], meta[j] = meta[j], meta[i] })
	switch {
	case l.qtype == dns.TypeANY || l.qtype == dns.TypeTXT:
		rep.groups = append(rep.groups, single(meta...)...)
	case l.st.NodeMetaTXT && (l.qtype == dns.TypeA || l.qtype == dns.TypeAAAA):
		rep.extra = meta
	}
	return rep, nil
}

// chain is a CNAME to host, followed by what host resolves to.
func (l *lookup) chain(ctx context.Context, host string, ttl uint32) group {
	g := group{answer: []dns.RR{&dns.CNAME{Hdr: header(l.qname, dns.TypeCNAME, ttl), Target: host}}}
	if l.qtype != dns.TypeCNAME {
		g.answer = append(g.answer, l.resolve(ctx, host, ttl)...)
	}
	return g
}

// resolve finds addresses of a host name: here when it lies in our zones, else by recursors. All get the TTL of the
// answer they stand in. Failure is no error: the name itself is the answer.
func (l *lookup) resolve(ctx context.Context, host string, ttl uint32) []dns.RR {
	lower := dns.CanonicalName(host)
	q := l.st.zones.parse(lower)
	var out []dns.RR
	if q.kind == kindForeign {
		if l.forward != nil {
			out = l.forward(ctx, host)
		}
	} else if l.depth < maxChain {
		inner := *l
		inner.qname, inner.depth = host, l.depth+1
		if inner.qtype != dns.TypeAAAA {
			inner.qtype = dns.TypeA
		}
		rep, err := inner.run(ctx, q)
		if err != nil {
			return nil
		}
		for _, g := range rep.groups {
			out = append(out, g.answer...)
		}
	}
	for _, rr := range out {
		rr.Header().Ttl = ttl
	}
	return out
}
