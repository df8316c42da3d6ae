package dnsserver

import (
	"fmt"
	"net"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/miekg/dns"

	"github.com/musterhq/muster/catalog"
)

// wholeText is an answer as text: outcome and flags, then the records of each section in the order of the alphabet.
func wholeText(r *dns.Msg) string {
	flags := []string{dns.RcodeToString[r.Rcode]}
	for _, f := range []struct {
		name string
		set  bool
	}{{"aa", r.Authoritative}, {"tc", r.Truncated}, {"ra", r.RecursionAvailable}} {
		if f.set {
			flags = append(flags, f.name)
		}
	}
	out := strings.Join(flags, " ") + "\n"
	for _, s := range []struct {
		name string
		rrs  []dns.RR
	}{{"", r.Answer}, {"authority ", r.Ns}, {"additional ", r.Extra}} {
		for _, line := range text(s.rrs) {
			out += s.name + line + "\n"
		}
	}
	return out
}

// variants are questions of which the answer depends on settings, or on a corner of the catalog. The catalog is that of
// variantWorld; what is not said of an instance is that it is healthy.
var variants = []struct {
	what    string
	change  func(*Config)
	name    string
	qtype   uint16
	network string // default udp
	edns    int
	want    string
}{
	// which instances
	{what: "a critical node hides its services", name: "app.service.consul.", qtype: dns.TypeA, want: `
NOERROR aa
app.service.consul. 1 IN A 10.0.1.1
app.service.consul. 1 IN A 10.0.1.2
app.service.consul. 1 IN A 10.0.1.3
`},
	{what: "only passing ones", change: func(c *Config) { c.OnlyPassing = true }, name: "app.service.consul.", qtype: dns.TypeA, want: `
NOERROR aa
app.service.consul. 1 IN A 10.0.1.1
app.service.consul. 1 IN A 10.0.1.2
`},
	{what: "only passing ones, of which there are none", change: func(c *Config) { c.OnlyPassing = true }, name: "warned.service.consul.", qtype: dns.TypeA, want: `
NXDOMAIN aa
authority consul. 9 IN SOA ns.consul. hostmaster.consul. 0 100 200 300 9
`},
	{what: "a node in maintenance", name: "resting.service.consul.", qtype: dns.TypeSRV, want: `
NXDOMAIN aa
authority consul. 9 IN SOA ns.consul. hostmaster.consul. 0 100 200 300 9
`},
	{what: "a name registered in capitals", name: "api.service.consul.", qtype: dns.TypeA, want: `
NOERROR aa
api.service.consul. 1 IN A 10.0.1.1
`},
	{what: "no address twice", name: "same.service.consul.", qtype: dns.TypeA, want: `
NOERROR aa
same.service.consul. 1 IN A 10.0.9.9
`},
	{what: "no place twice", name: "same.service.consul.", qtype: dns.TypeSRV, edns: 4096, want: `
NOERROR aa
same.service.consul. 1 IN SRV 1 1 80 0a000909.addr.dc1.consul.
same.service.consul. 1 IN SRV 1 1 81 0a000909.addr.dc1.consul.
additional 0a000909.addr.dc1.consul. 1 IN A 10.0.9.9
`},
	{what: "host names only where there is no address", name: "mixed.service.consul.", qtype: dns.TypeA, want: `
NOERROR aa
mixed.service.consul. 1 IN A 10.0.1.1
`},
	{what: "host names beside addresses by SRV", name: "mixed.service.consul.", qtype: dns.TypeSRV, want: `
NOERROR aa
mixed.service.consul. 1 IN SRV 1 1 80 app1.node.dc1.consul.
mixed.service.consul. 1 IN SRV 1 1 80 www.example.com.
additional app1.node.dc1.consul. 1 IN A 10.0.1.1
additional app1.node.dc1.consul. 1 IN TXT "k=v"
`},
	{what: "the first of several host names", name: "hosts.service.consul.", qtype: dns.TypeA, want: `
NOERROR aa
hosts.service.consul. 1 IN CNAME a.example.com.
`},
	{what: "both families", name: "dual.service.consul.", qtype: dns.TypeANY, want: `
NOERROR aa
dual.service.consul. 1 IN A 10.0.1.1
dual.service.consul. 1 IN AAAA fd00::2
`},
	{what: "weights by status", name: "warned.service.consul.", qtype: dns.TypeSRV, want: `
NOERROR aa
warned.service.consul. 1 IN SRV 1 3 80 app3.node.dc1.consul.
additional app3.node.dc1.consul. 1 IN A 10.0.1.3
`},

	// metadata
	{what: "no metadata beside an address", change: func(c *Config) { c.NodeMetaTXT = false }, name: "app1.node.consul.", qtype: dns.TypeA, want: `
NOERROR aa
app1.node.consul. 5 IN A 10.0.1.1
`},
	{what: "no metadata beside SRV", change: func(c *Config) { c.NodeMetaTXT = false }, name: "one.service.consul.", qtype: dns.TypeSRV, want: `
NOERROR aa
one.service.consul. 1 IN SRV 1 1 80 app1.node.dc1.consul.
additional app1.node.dc1.consul. 1 IN A 10.0.1.1
`},
	{what: "metadata when asked for", change: func(c *Config) { c.NodeMetaTXT = false }, name: "app1.node.consul.", qtype: dns.TypeANY, want: `
NOERROR aa
app1.node.consul. 5 IN A 10.0.1.1
app1.node.consul. 5 IN TXT "k=v"
`},

	// times to live
	{what: "default times to live", change: func(c *Config) {
		d := DefaultConfig()
		c.NodeTTL, c.ServiceTTL, c.SOA = d.NodeTTL, d.ServiceTTL, d.SOA
	}, name: "one.service.consul.", qtype: dns.TypeA, want: `
NOERROR aa
one.service.consul. 1 IN A 10.0.1.1
`},
	{what: "default times to live of a node", change: func(c *Config) {
		d := DefaultConfig()
		c.NodeTTL, c.ServiceTTL, c.SOA, c.NodeMetaTXT = d.NodeTTL, d.ServiceTTL, d.SOA, false
	}, name: "app1.node.consul.", qtype: dns.TypeA, want: `
NOERROR aa
app1.node.consul. 1 IN A 10.0.1.1
`},
	{what: "default SOA", change: func(c *Config) { c.SOA = DefaultConfig().SOA }, name: "no.service.consul.", qtype: dns.TypeA, want: `
NXDOMAIN aa
authority consul. 1 IN SOA ns.consul. hostmaster.consul. 0 3600 600 86400 1
`},
	{what: "no time to live for whom none is set", change: func(c *Config) { c.ServiceTTL = map[string]time.Duration{"other": time.Minute} }, name: "one.service.consul.", qtype: dns.TypeA, want: `
NOERROR aa
one.service.consul. 0 IN A 10.0.1.1
`},
	{what: "the longest beginning", change: func(c *Config) {
		c.ServiceTTL = map[string]time.Duration{"*": 1e9, "o*": 2e9, "on*": 3e9, "onerous": 4e9}
	}, name: "one.service.consul.", qtype: dns.TypeA, want: `
NOERROR aa
one.service.consul. 3 IN A 10.0.1.1
`},
	{what: "the exact name", change: func(c *Config) {
		c.ServiceTTL = map[string]time.Duration{"*": 1e9, "one*": 3e9, "one": 4e9}
	}, name: "one.service.consul.", qtype: dns.TypeSRV, want: `
NOERROR aa
one.service.consul. 4 IN SRV 1 1 80 app1.node.dc1.consul.
additional app1.node.dc1.consul. 4 IN A 10.0.1.1
additional app1.node.dc1.consul. 4 IN TXT "k=v"
`},
	{what: "the time to live of nodes", change: func(c *Config) { c.NodeTTL = time.Hour }, name: "0a000001.addr.consul.", qtype: dns.TypeA, want: `
NOERROR aa
0a000001.addr.consul. 3600 IN A 10.0.0.1
`},

	// the zones
	{what: "one domain alone", change: func(c *Config) { c.AltDomain = "" }, name: "one.service.alt.test.", qtype: dns.TypeA, want: "\nREFUSED\n"},
	{what: "a domain of several labels", change: func(c *Config) { c.Domain = "Sd.Example.Org" }, name: "one.service.dc1.sd.example.org.", qtype: dns.TypeSRV, want: `
NOERROR aa
one.service.dc1.sd.example.org. 1 IN SRV 1 1 80 app1.node.dc1.sd.example.org.
additional app1.node.dc1.sd.example.org. 1 IN A 10.0.1.1
additional app1.node.dc1.sd.example.org. 1 IN TXT "k=v"
`},
	{what: "reverse names end in the first domain", change: func(c *Config) { c.Domain = "sd.example.org" }, name: "1.1.0.10.in-addr.arpa.", qtype: dns.TypePTR, want: `
NOERROR aa
1.1.0.10.in-addr.arpa. 0 IN PTR app1.node.dc1.sd.example.org.
`},
	{what: "a node before a service of its address", name: "1.1.0.10.in-addr.arpa.", qtype: dns.TypePTR, want: `
NOERROR aa
1.1.0.10.in-addr.arpa. 0 IN PTR app1.node.dc1.consul.
`},

	// sizes
	{what: "small UDP", name: "app.service.consul.", qtype: dns.TypeA, change: func(c *Config) { c.UDPAnswerLimit = 1; c.StableOrder = []string{"app"} }, want: `
NOERROR aa tc
app.service.consul. 1 IN A 10.0.1.1
`},
	{what: "small UDP by EDNS", name: "app.service.consul.", qtype: dns.TypeA, edns: 512, change: func(c *Config) { c.UDPAnswerLimit = 1; c.StableOrder = []string{"app"} }, want: `
NOERROR aa tc
app.service.consul. 1 IN A 10.0.1.1
`},
	{what: "small UDP, saying nothing of it", name: "app.service.consul.", qtype: dns.TypeA, change: func(c *Config) {
		c.UDPAnswerLimit, c.EnableTruncate, c.StableOrder = 1, false, []string{"app"}
	}, want: `
NOERROR aa
app.service.consul. 1 IN A 10.0.1.1
`},
	{what: "as many as wanted by TCP", name: "app.service.consul.", qtype: dns.TypeA, network: "tcp", change: func(c *Config) { c.UDPAnswerLimit = 1 }, want: `
NOERROR aa
app.service.consul. 1 IN A 10.0.1.1
app.service.consul. 1 IN A 10.0.1.2
app.service.consul. 1 IN A 10.0.1.3
`},
	{what: "few addresses by TCP", name: "app.service.consul.", qtype: dns.TypeANY, network: "tcp", change: func(c *Config) { c.ARecordLimit = 1; c.StableOrder = []string{"*"} }, want: `
NOERROR aa
app.service.consul. 1 IN A 10.0.1.1
`},
	{what: "few addresses, SRV all the same", name: "dual.service.consul.", qtype: dns.TypeSRV, edns: 4096, change: func(c *Config) { c.ARecordLimit, c.NodeMetaTXT = 1, false }, want: `
NOERROR aa
dual.service.consul. 1 IN SRV 1 1 80 app1.node.dc1.consul.
dual.service.consul. 1 IN SRV 1 1 80 fd000000000000000000000000000002.addr.dc1.consul.
additional app1.node.dc1.consul. 1 IN A 10.0.1.1
additional fd000000000000000000000000000002.addr.dc1.consul. 1 IN AAAA fd00::2
`},
}

func variantWorld(t testing.TB) *world {
	w := newWorld(t)
	node := func(name, addr string, meta map[string]string, checks ...*catalog.Check) {
		w.register(catalog.Registration{Node: catalog.Node{Name: name, Address: addr, Datacenter: "dc1", Meta: meta}, Checks: checks})
	}
	check := func(node, id, status string) *catalog.Check {
		return &catalog.Check{Node: node, ID: id, Name: id, Status: status}
	}
	one := catalog.Weights{Passing: 1, Warning: 1}
	node("app1", "10.0.1.1", map[string]string{"k": "v"})
	node("app2", "10.0.1.2", nil, check("app2", "serfHealth", catalog.Passing))
	node("app3", "10.0.1.3", nil, check("app3", "disk", catalog.Warning))
	node("app4", "10.0.1.4", nil, check("app4", "serfHealth", catalog.Critical))
	node("rest", "10.0.1.5", nil, check("rest", "_node_maintenance", catalog.Critical))
	node("ext", "www.example.com", nil)
	for _, s := range []struct {
		node string
		s    catalog.Service
	}{
		{"app1", catalog.Service{ID: "app", Name: "app", Port: 80}}, {"app2", catalog.Service{ID: "app", Name: "app", Port: 80}},
		{"app3", catalog.Service{ID: "app", Name: "app", Port: 80}}, {"app4", catalog.Service{ID: "app", Name: "app", Port: 80}},
		{"rest", catalog.Service{ID: "resting", Name: "resting", Port: 80}},
		{"app3", catalog.Service{ID: "warned", Name: "warned", Port: 80, Weights: catalog.Weights{Passing: 7, Warning: 3}}},
		{"app1", catalog.Service{ID: "API", Name: "API", Port: 80}},
		{"app1", catalog.Service{ID: "one", Name: "one", Port: 80}},
		{"app2", catalog.Service{ID: "near-one", Name: "near-one", Port: 80, Address: "10.0.1.1"}},
		{"app1", catalog.Service{ID: "mixed", Name: "mixed", Port: 80}}, {"ext", catalog.Service{ID: "mixed", Name: "mixed", Port: 80}},
		{"app1", catalog.Service{ID: "h1", Name: "hosts", Port: 80, Address: "a.example.com"}},
		{"app2", catalog.Service{ID: "h2", Name: "hosts", Port: 80, Address: "b.example.com"}},
		{"app1", catalog.Service{ID: "dual4", Name: "dual", Port: 80}},
		{"app1", catalog.Service{ID: "dual6", Name: "dual", Port: 80, Address: "fd00::2"}},
		{"app2", catalog.Service{ID: "s1", Name: "same", Port: 80, Address: "10.0.9.9"}},
		{"app2", catalog.Service{ID: "s2", Name: "same", Port: 80, Address: "10.0.9.9"}},
		{"app2", catalog.Service{ID: "s3", Name: "same", Port: 81, Address: "10.0.9.9"}},
	} {
		if s.s.Weights == (catalog.Weights{}) {
			s.s.Weights = one
		}
		w.service(s.node, "", s.s, "")
	}
	return w
}

func TestVariants(t *testing.T) {
	src := NewTreeSource(variantWorld(t).tree.Snap)
	for _, tc := range variants {
		t.Run(tc.what, func(t *testing.T) {
			for _, packed := range []bool{true, false} {
				c := contractConfig()
				c.DisableCompression = !packed
				if tc.change != nil {
					tc.change(&c)
				}
				s := start(t, c, src)
				network := tc.network
				if network == "" {
					network = "udp"
				}
				for range 2 { // the second time from a packed set
					if got := wholeText(ask(t, s, network, tc.name, tc.qtype, tc.edns)); got != tc.want[1:] {
						t.Errorf("%s %s, packed %v\ngot\n%swant%s", tc.name, dns.TypeToString[tc.qtype], packed, got, tc.want)
					}
				}
			}
		})
	}
}

// Of many servers three are named, each time others; a name that no packet can hold is not among them.
func TestNameServersAreAFew(t *testing.T) {
	w := newWorld(t)
	for i := range 5 {
		w.service(fmt.Sprint("s", i), fmt.Sprint("10.0.0.", i), catalog.Service{ID: "consul", Name: "consul", Port: 8300}, "")
	}
	w.service(strings.Repeat("x", 64), "10.0.0.7", catalog.Service{ID: "consul", Name: "consul", Port: 8300}, "")
	w.service("byname", "server.example.com", catalog.Service{ID: "consul", Name: "consul", Port: 8300}, "")
	s := start(t, contractConfig(), NewTreeSource(w.tree.Snap))
	seen := map[string]bool{}
	for range 50 {
		r := ask(t, s, "udp", "consul.", dns.TypeNS, 1232)
		if len(r.Answer) != 3 || len(text(r.Extra)) != 3 {
			t.Fatal(r)
		}
		for i, rr := range r.Answer {
			ns := rr.(*dns.NS)
			if ns.Hdr.Name != "consul." || ns.Hdr.Ttl != 5 || r.Extra[i].Header().Name != ns.Ns {
				t.Fatal(r)
			}
			seen[ns.Ns] = true
		}
	}
	if len(seen) != 5 {
		t.Errorf("named were %v", seen)
	}
}

// disable_compression writes every name in full; otherwise none that stood before.
func TestCompression(t *testing.T) {
	w := newWorld(t)
	w.bulk("bulk", 20)
	size := map[bool]int{}
	for _, plain := range []bool{false, true} {
		c := contractConfig()
		c.DisableCompression = plain
		s, err := New(c, NewTreeSource(w.tree.Snap))
		if err != nil {
			t.Fatal(err)
		}
		m := new(dns.Msg)
		m.SetQuestion("bulk.service.consul.", dns.TypeA)
		out := &sink{}
		handler{s, true}.ServeDNS(out, m)
		size[plain] = len(out.last)
	}
	const header, question, record = 12, len("bulk.service.consul.") + 1 + 4, 14
	if size[false] != header+question+20*(2+record) || size[true] != header+question+20*(len("bulk.service.consul.")+1+record) {
		t.Errorf("compressed %d bytes, plain %d", size[false], size[true])
	}
}

// Of a foreign name that a chain ends in, five records are taken at most, all with the time to live of the chain.
func TestForeignRecordsAreAFew(t *testing.T) {
	addr, _ := upstream(t, func(w dns.ResponseWriter, r *dns.Msg) {
		m := new(dns.Msg)
		m.SetReply(r)
		for i := range 9 {
			m.Answer = append(m.Answer, &dns.A{Hdr: header(r.Question[0].Name, dns.TypeA, 600), A: net.IPv4(198, 51, 100, byte(i))})
		}
		_ = w.WriteMsg(m)
	})
	c := contractConfig()
	c.Recursors = []string{addr}
	s := start(t, c, NewTreeSource(contractWorld(t).tree.Snap))
	r := ask(t, s, "tcp", "ext.service.consul.", dns.TypeA, 0)
	want := []string{"ext.service.consul. 1 IN CNAME www.example.com."}
	for i := range maxForeign {
		want = append(want, fmt.Sprintf("www.example.com. 1 IN A 198.51.100.%d", i))
	}
	if got := text(r.Answer); !slices.Equal(got, want) {
		t.Errorf("got %q", got)
	}
}
