package dnsserver

import (
	"slices"
	"testing"

	"github.com/miekg/dns"

	"github.com/musterhq/muster/catalog"
)

// SVCB and HTTPS records come from the service's metadata, and only from instances that name their protocols.
func TestServiceBinding(t *testing.T) {
	w := newWorld(t)
	w.node("n1", "10.0.0.1", nil)
	w.node("n2", "fd00::2", nil)
	w.service("n1", "", catalog.Service{ID: "a", Name: "web", Port: 443, Meta: map[string]string{"svcb_alpn": "h2, h3,,"}}, "")
	w.service("n1", "", catalog.Service{ID: "b", Name: "web", Port: 80, Address: "10.1.1.1", Meta: map[string]string{"svcb_alpn": "h2", "svcb_port": "8443", "svcb_priority": "2", "svcb_ipv4hint": "192.0.2.1,x,192.0.2.2", "svcb_ipv6hint": "2001:db8::1"}}, "")
	w.service("n2", "", catalog.Service{ID: "c", Name: "web", Port: 443, Meta: map[string]string{"svcb_alpn": "h2", "svcb_port": "99999", "svcb_priority": "-1"}}, "")
	w.service("n1", "", catalog.Service{ID: "d", Name: "web", Port: 81}, "")
	w.service("n1", "", catalog.Service{ID: "e", Name: "web", Port: 82, Meta: map[string]string{"svcb_alpn": "h2"}}, catalog.Critical)
	w.service("n1", "", catalog.Service{ID: "p", Name: "plain", Port: 80}, "")
	s := start(t, contractConfig(), NewTreeSource(w.tree.Snap))
	for qtype, name := range map[uint16]string{dns.TypeSVCB: "SVCB", dns.TypeHTTPS: "HTTPS"} {
		want := []string{
			"web.service.consul. 7 IN " + name + " 1 n1.node.dc1.consul. alpn=\"h2,h3\" port=\"443\" ipv4hint=\"10.0.0.1\"",
			"web.service.consul. 7 IN " + name + " 1 n2.node.dc1.consul. alpn=\"h2\" port=\"443\" ipv6hint=\"fd00::2\"",
			"web.service.consul. 7 IN " + name + " 2 0a010101.addr.dc1.consul. alpn=\"h2\" port=\"8443\" ipv4hint=\"192.0.2.1,192.0.2.2\" ipv6hint=\"2001:db8::1\"",
		}
		for _, network := range []string{"udp", "tcp"} {
			r := ask(t, s, network, "web.service.consul.", qtype, 1232)
			got := text(r.Answer)
			slices.Sort(got)
			if !slices.Equal(got, want) {
				t.Errorf("%s over %s\ngot  %q\nwant %q", name, network, got, want)
			}
			if extra := text(r.Extra); len(extra) != 3 {
				t.Errorf("additional %q", extra)
			}
		}
		if r := ask(t, s, "udp", "plain.service.consul.", qtype, 0); r.Rcode != dns.RcodeSuccess || len(r.Answer) != 0 || len(r.Ns) != 1 {
			t.Errorf("without metadata: %v", r)
		}
	}
}
