package dnsserver

import (
	"net/netip"
	"strings"
	"testing"

	"github.com/miekg/dns"
)

var testZones = zones{domains: []string{"consul.", "alt.consul."}, dc: "dc1"}

func TestParse(t *testing.T) {
	none := question{kind: kindNone, domain: "consul."}
	svc := func(name, tag string) question {
		return question{kind: kindService, name: name, tag: tag, domain: "consul."}
	}
	node := func(name string) question { return question{kind: kindNode, name: name, domain: "consul."} }
	for in, want := range map[string]question{
		"web.service.consul.":                  svc("web", ""),
		"web.service.dc1.consul.":              svc("web", ""),
		"web.service.dc1.dc.consul.":           svc("web", ""),
		"web.service.dc2.consul.":              none,
		"web.service.dc1.no.consul.":           none,
		"web.service.a.b.c.consul.":            none,
		"a.b.web.service.consul.":              svc("web", "a.b"),
		"_web._tcp.service.consul.":            svc("web", ""),
		"_web._v1.service.dc1.consul.":         svc("web", "v1"),
		"_web._tcp.x.service.consul.":          svc("x", "_web._tcp"),
		"_._tcp.service.consul.":               svc("_tcp", "_"),
		"service.service.consul.":              svc("service", ""),
		"node.service.consul.":                 svc("node", ""),
		"service.node.consul.":                 node("service"),
		"a.service.node.consul.":               node("a.service"),
		"a.b.node.dc1.consul.":                 node("a.b"),
		`a\.b.node.consul.`:                    node("a.b"),
		`a\032b.node.consul.`:                  node("a b"),
		`\195\164.node.consul.`:                node("ä"),
		"node.consul.":                         none,
		"service.consul.":                      none,
		"consul.":                              none,
		"foo.consul.":                          none,
		"x.query.consul.":                      {kind: kindQuery, name: "x", domain: "consul."},
		"a.b.query.dc1.consul.":                {kind: kindQuery, name: "a.b", domain: "consul."},
		"_a-b._tcp.query.consul.":              {kind: kindQuery, name: "a-b", domain: "consul."},
		"x.query.dc2.consul.":                  none,
		"query.consul.":                        none,
		"x.connect.consul.":                    none,
		"x.ingress.dc1.consul.":                none,
		"x.virtual.consul.":                    {kind: kindVirtual, domain: "consul."},
		"x.virtual.peer.consul.":               {kind: kindVirtual, domain: "consul."},
		"virtual.consul.":                      none,
		"0a000001.addr.consul.":                {kind: kindAddr, addr: netip.MustParseAddr("10.0.0.1"), domain: "consul."},
		"0a000001.addr.dc9.consul.":            {kind: kindAddr, addr: netip.MustParseAddr("10.0.0.1"), domain: "consul."},
		"0a0000.addr.consul.":                  none,
		"x.0a000001.addr.consul.":              none,
		"_web._tcp.consul.":                    {kind: kindService, name: "web", domain: "consul.", srvOnly: true},
		"_web._v1.dc1.consul.":                 {kind: kindService, name: "web", tag: "v1", domain: "consul.", srvOnly: true},
		"_web._v1.dc2.consul.":                 none,
		"web.service.alt.consul.":              {kind: kindService, name: "web", domain: "alt.consul."},
		"web.service.xalt.consul.":             none,
		"xconsul.":                             {},
		"web.service.example.com.":             {},
		".":                                    {},
		"1.0.0.10.in-addr.arpa.":               {kind: kindPTR, addr: netip.MustParseAddr("10.0.0.1"), domain: "consul."},
		"0.10.in-addr.arpa.":                   {kind: kindPTR, domain: "consul."},
		"1.0.0.256.in-addr.arpa.":              {kind: kindPTR, domain: "consul."},
		"x.ip6.arpa.":                          {kind: kindPTR, domain: "consul."},
		strings.Repeat("0.", 32) + "ip6.arpa.": {kind: kindPTR, addr: netip.IPv6Unspecified(), domain: "consul."},
		strings.Repeat("g.", 32) + "ip6.arpa.": {kind: kindPTR, domain: "consul."},
	} {
		if got := testZones.parse(in); got != want {
			t.Errorf("%s\n got %+v\nwant %+v", in, got, want)
		}
	}
}

func TestEscapeIsUndoneByUnescape(t *testing.T) {
	for _, s := range []string{"plain", "with space", `back\slash`, "ä", "tab\t", `q"u`, "semi;colon", "a(b)", "\x00\xff"} {
		e := escape(s)
		if got := unescape(e); got != s {
			t.Errorf("%q became %q", s, got)
		}
		if !validName(e + ".consul.") {
			t.Errorf("%q is no name", e)
		}
	}
}

func FuzzParse(f *testing.F) {
	for _, tc := range answers {
		f.Add(strings.ToLower(tc.name))
	}
	f.Add(`\.\\\300.service.consul.`)
	f.Add(".service.consul.")
	f.Fuzz(func(t *testing.T, name string) {
		q := testZones.parse(name)
		if q.kind != kindForeign && q.domain == "" {
			t.Errorf("%q: %+v without a zone", name, q)
		}
		if (q.kind == kindService || q.kind == kindNode) && q.name == "" && dns.IsFqdn(name) && validName(name) {
			t.Errorf("%q: %+v without a name", name, q)
		}
	})
}
