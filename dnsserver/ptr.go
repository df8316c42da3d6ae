package dnsserver

import (
	"context"

	"github.com/miekg/dns"
)

// reverse answers whose address it is. Nobody's: found is false, and a recursor may know.
func (l *lookup) reverse(ctx context.Context, q question) (rep *reply, found bool, err error) {
	owner, err := l.src.Reverse(ctx, q.addr)
	if err != nil {
		return nil, false, err
	}
	n := naming{l.st.zones.dc, q.domain}
	var target string
	switch {
	case owner.Node != "":
		target = n.node(owner.Node)
	case owner.Service != "":
		target = n.service(owner.Service)
	}
	if target == "" || !validName(target) {
		return nil, false, nil
	}
	// TTL 0: who has an address may change at any moment, and nobody asks often.
	ptr := &dns.PTR{Hdr: header(l.qname, dns.TypePTR, 0), Ptr: target}
	return &reply{groups: single(ptr)}, true, nil
}
