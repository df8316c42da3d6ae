package dnsserver

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/miekg/dns"

	"github.com/musterhq/muster/catalog"
	"github.com/musterhq/muster/kv"
)

// patience is how long a test waits for what must happen, also on a busy machine.
const patience = time.Minute

// world is a tree with a catalog in it.
type world struct {
	t    testing.TB
	tree *kv.Tree
}

func newWorld(t testing.TB) *world {
	t.Helper()
	return &world{t, kv.New(kv.Options{Deriver: catalog.Views{}})}
}

func (w *world) register(r catalog.Registration) {
	w.t.Helper()
	txn, err := catalog.Register(w.tree.Snap(), r)
	if err != nil {
		w.t.Fatal(err)
	}
	w.apply(txn)
}

func (w *world) apply(txn kv.Txn) {
	w.t.Helper()
	if res := w.tree.Apply(txn)[0]; res.Code != kv.OK {
		w.t.Fatalf("txn: code %d %+v", res.Code, res.Fail)
	}
}

// service registers an instance; status "" means no check.
func (w *world) service(node, addr string, s catalog.Service, status string) {
	w.t.Helper()
	r := catalog.Registration{Node: catalog.Node{Name: node, Address: addr, Datacenter: "dc1"}, Service: &s, SkipNodeUpdate: true}
	if status != "" {
		r.Checks = []*catalog.Check{{Node: node, ID: "c-" + s.ID, Name: "c", Status: status, ServiceID: s.ID}}
	}
	w.register(r)
}

func (w *world) node(name, addr string, meta map[string]string) {
	w.t.Helper()
	w.register(catalog.Registration{Node: catalog.Node{Name: name, Address: addr, Datacenter: "dc1", Meta: meta}})
}

// contractWorld is the catalog that the examples of the contract were recorded with.
func contractWorld(t testing.TB) *world {
	w := newWorld(t)
	one := catalog.Weights{Passing: 1, Warning: 1}
	w.node("n1", "127.0.0.1", map[string]string{"rack": "r=1", "rfc1035-00": "plain value", "consul-version": "1.21.4", "consul-network-segment": ""})
	w.service("n1", "127.0.0.1", catalog.Service{ID: "consul", Name: "consul", Port: 8300, Weights: one}, "")
	w.node("web1", "10.0.0.1", map[string]string{"z": "1"})
	w.service("web1", "10.0.0.1", catalog.Service{ID: "w1", Name: "web", Port: 80, Tags: []string{"v1", "prod.eu"}, Weights: one}, catalog.Passing)
	w.service("web1", "10.0.0.1", catalog.Service{ID: "w2", Name: "web", Port: 8080, Address: "10.1.1.2", Tags: []string{"V2"}, Weights: catalog.Weights{Passing: 5, Warning: 2}}, catalog.Warning)
	w.service("web1", "10.0.0.1", catalog.Service{ID: "w3", Name: "web", Port: 8081, Address: "10.1.1.3", Tags: []string{"v3"}, Weights: one}, catalog.Critical)
	w.service("web1", "10.0.0.1", catalog.Service{ID: "cn", Name: "cn", Port: 443, Address: "web1.node.consul", Weights: one}, "")
	w.service("web1", "10.0.0.1", catalog.Service{ID: "d", Name: "db-a", Port: 5432, Weights: one}, "")
	w.service("web1", "10.0.0.1", catalog.Service{ID: "sick", Name: "sick", Port: 1, Weights: one}, catalog.Critical)
	w.node("six1", "fd00::1", nil)
	w.service("six1", "fd00::1", catalog.Service{ID: "six", Name: "six", Port: 1, Weights: one}, "")
	w.node("ext1", "www.example.com", nil)
	w.service("ext1", "www.example.com", catalog.Service{ID: "ext", Name: "ext", Port: 443, Weights: one}, "")
	w.node("dotted.name", "10.0.0.9", nil)
	w.service("web1", "10.0.0.1", catalog.Service{ID: "kw", Name: "node", Port: 2, Weights: one}, "")
	w.node("service", "10.0.0.8", nil)
	return w
}

func contractConfig() Config {
	c := DefaultConfig()
	c.Addrs = []string{"127.0.0.1:0"}
	c.Datacenter = "dc1"
	c.AltDomain = "alt.test"
	c.NodeTTL = 5 * time.Second
	c.ServiceTTL = map[string]time.Duration{"web": 7 * time.Second, "db-*": 3 * time.Second, "*": time.Second}
	c.SOA = SOA{Refresh: 100, Retry: 200, Expire: 300, MinTTL: 9}
	return c
}

func start(t *testing.T, c Config, src Source) *Server {
	t.Helper()
	s, err := New(c, src)
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		if err := s.Close(ctx); err != nil {
			t.Errorf("close: %v", err)
		}
	})
	return s
}

// ask sends one question; edns is the size in an OPT record, 0 for none.
func ask(t *testing.T, s *Server, network, name string, qtype uint16, edns int) *dns.Msg {
	t.Helper()
	m := new(dns.Msg)
	m.SetQuestion(name, qtype)
	if edns > 0 {
		m.SetEdns0(uint16(edns), false)
	}
	return exchange(t, s, network, m)
}

func exchange(t *testing.T, s *Server, network string, m *dns.Msg) *dns.Msg {
	t.Helper()
	c := dns.Client{Net: network, Timeout: patience}
	if network == "udp" {
		c.UDPSize = dns.MaxMsgSize
	}
	r, _, err := c.Exchange(m, s.Addrs()[0])
	if err != nil {
		t.Fatalf("%s over %s: %v", m.Question[0].String(), network, err)
	}
	return r
}

// text is a section as sorted lines, without what changes from run to run.
func text(rrs []dns.RR) []string {
	var out []string
	for _, rr := range rrs {
		if rr.Header().Rrtype == dns.TypeOPT {
			continue
		}
		if soa, ok := rr.(*dns.SOA); ok {
			soa.Serial = 0
		}
		out = append(out, strings.Join(strings.Fields(rr.String()), " "))
	}
	slices.Sort(out)
	return out
}

const (
	soaConsul = "consul. 9 IN SOA ns.consul. hostmaster.consul. 0 100 200 300 9"
	soaAlt    = "alt.test. 9 IN SOA ns.alt.test. hostmaster.alt.test. 0 100 200 300 9"
)

// answers is the contract: question, outcome, and the three sections.
var answers = []struct {
	name, qtype string
	rcode       string
	answer      []string
	authority   []string
	extra       []string
}{
	// nodes
	{name: "web1.node.consul.", qtype: "A", answer: []string{"web1.node.consul. 5 IN A 10.0.0.1"}, extra: []string{`web1.node.consul. 5 IN TXT "z=1"`}},
	{name: "web1.node.dc1.consul.", qtype: "A", answer: []string{"web1.node.dc1.consul. 5 IN A 10.0.0.1"}, extra: []string{`web1.node.dc1.consul. 5 IN TXT "z=1"`}},
	{name: "WEB1.Node.CONSUL.", qtype: "A", answer: []string{"WEB1.Node.CONSUL. 5 IN A 10.0.0.1"}, extra: []string{`WEB1.Node.CONSUL. 5 IN TXT "z=1"`}},
	{name: "web1.node.consul.", qtype: "AAAA", extra: []string{`web1.node.consul. 5 IN TXT "z=1"`}},
	{name: "web1.node.consul.", qtype: "ANY", answer: []string{"web1.node.consul. 5 IN A 10.0.0.1", `web1.node.consul. 5 IN TXT "z=1"`}},
	{name: "web1.node.consul.", qtype: "SRV"},
	{name: "web1.node.consul.", qtype: "MX"},
	{name: "web1.node.consul.", qtype: "CNAME"},
	{name: "web1.node.consul.", qtype: "TXT", answer: []string{`web1.node.consul. 5 IN TXT "z=1"`}},
	{name: "dotted.name.node.consul.", qtype: "A", answer: []string{"dotted.name.node.consul. 5 IN A 10.0.0.9"}},
	{name: "six1.node.consul.", qtype: "AAAA", answer: []string{"six1.node.consul. 5 IN AAAA fd00::1"}},
	{name: "ext1.node.consul.", qtype: "A", answer: []string{"ext1.node.consul. 5 IN CNAME www.example.com."}},
	{name: "ext1.node.consul.", qtype: "CNAME", answer: []string{"ext1.node.consul. 5 IN CNAME www.example.com."}},
	{name: "web1.node.dc1.dc.consul.", qtype: "A", answer: []string{"web1.node.dc1.dc.consul. 5 IN A 10.0.0.1"}, extra: []string{`web1.node.dc1.dc.consul. 5 IN TXT "z=1"`}},
	{name: "web1.node.alt.test.", qtype: "A", answer: []string{"web1.node.alt.test. 5 IN A 10.0.0.1"}, extra: []string{`web1.node.alt.test. 5 IN TXT "z=1"`}},
	{name: "web1.node.consul.", qtype: "NS", answer: []string{"consul. 5 IN NS n1.node.dc1.consul."}, extra: []string{"n1.node.dc1.consul. 5 IN A 127.0.0.1"}},
	{name: "six1.node.consul.", qtype: "A"},
	{name: "six1.node.consul.", qtype: "TXT"},
	{name: "six1.node.consul.", qtype: "ANY", answer: []string{"six1.node.consul. 5 IN AAAA fd00::1"}},
	{name: "service.node.consul.", qtype: "A", answer: []string{"service.node.consul. 5 IN A 10.0.0.8"}}, // the rightmost keyword counts
	{name: "nope.node.consul.", qtype: "A", rcode: "NXDOMAIN", authority: []string{soaConsul}},
	{name: "nope.node.consul.", qtype: "TXT", rcode: "NXDOMAIN", authority: []string{soaConsul}},
	{name: "nope.node.alt.test.", qtype: "A", rcode: "NXDOMAIN", authority: []string{soaAlt}},
	{name: "web1.node.default.ns.consul.", qtype: "A", rcode: "NXDOMAIN", authority: []string{soaConsul}},
	{name: "web1.node.dc2.consul.", qtype: "A", rcode: "NXDOMAIN", authority: []string{soaConsul}},

	// services
	{name: "web.service.consul.", qtype: "A", answer: []string{"web.service.consul. 7 IN A 10.0.0.1", "web.service.consul. 7 IN A 10.1.1.2"}},
	{name: "Web.Service.Consul.", qtype: "A", answer: []string{"Web.Service.Consul. 7 IN A 10.0.0.1", "Web.Service.Consul. 7 IN A 10.1.1.2"}},
	{name: "web.service.dc1.consul.", qtype: "A", answer: []string{"web.service.dc1.consul. 7 IN A 10.0.0.1", "web.service.dc1.consul. 7 IN A 10.1.1.2"}},
	{name: "web.service.DC1.dc.consul.", qtype: "A", answer: []string{"web.service.DC1.dc.consul. 7 IN A 10.0.0.1", "web.service.DC1.dc.consul. 7 IN A 10.1.1.2"}},
	{name: "web.service.alt.test.", qtype: "A", answer: []string{"web.service.alt.test. 7 IN A 10.0.0.1", "web.service.alt.test. 7 IN A 10.1.1.2"}},
	{name: "web.service.consul.", qtype: "TXT", answer: []string{"web.service.consul. 7 IN A 10.0.0.1", "web.service.consul. 7 IN A 10.1.1.2"}},
	{name: "web.service.consul.", qtype: "ANY", answer: []string{"web.service.consul. 7 IN A 10.0.0.1", "web.service.consul. 7 IN A 10.1.1.2"}},
	{name: "web.service.consul.", qtype: "AAAA", authority: []string{soaConsul}},
	{name: "web.service.consul.", qtype: "CNAME", authority: []string{soaConsul}},
	{name: "web.service.consul.", qtype: "MX", authority: []string{soaConsul}},
	{name: "web.service.dc2.consul.", qtype: "A", rcode: "NXDOMAIN", authority: []string{soaConsul}},
	{name: "web.service.default.ns.consul.", qtype: "A", rcode: "NXDOMAIN", authority: []string{soaConsul}},
	{name: "web.service.default.ap.consul.", qtype: "A", rcode: "NXDOMAIN", authority: []string{soaConsul}},
	{name: "web.service.dc2.dc.consul.", qtype: "A", rcode: "NXDOMAIN", authority: []string{soaConsul}},
	{name: "node.service.consul.", qtype: "A", answer: []string{"node.service.consul. 1 IN A 10.0.0.1"}},
	{name: "v1.web.service.dc1.consul.", qtype: "A", answer: []string{"v1.web.service.dc1.consul. 7 IN A 10.0.0.1"}},
	{name: "prod.eu.web.service.consul.", qtype: "SRV", answer: []string{"prod.eu.web.service.consul. 7 IN SRV 1 1 80 web1.node.dc1.consul."},
		extra: []string{"web1.node.dc1.consul. 7 IN A 10.0.0.1", `web1.node.dc1.consul. 7 IN TXT "z=1"`}},
	{name: "six.service.consul.", qtype: "ANY", answer: []string{"six.service.consul. 1 IN AAAA fd00::1"}},
	{name: "six.service.consul.", qtype: "TXT", answer: []string{"six.service.consul. 1 IN AAAA fd00::1"}},
	{name: "ext.service.consul.", qtype: "AAAA", answer: []string{"ext.service.consul. 1 IN CNAME www.example.com."}},
	{name: "ext.service.consul.", qtype: "ANY", answer: []string{"ext.service.consul. 1 IN CNAME www.example.com."}},
	{name: "sick.service.consul.", qtype: "SRV", rcode: "NXDOMAIN", authority: []string{soaConsul}},
	{name: "nope.service.consul.", qtype: "SRV", rcode: "NXDOMAIN", authority: []string{soaConsul}},
	{name: "nope.service.consul.", qtype: "MX", rcode: "NXDOMAIN", authority: []string{soaConsul}},
	{name: "sick.service.consul.", qtype: "A", rcode: "NXDOMAIN", authority: []string{soaConsul}},
	{name: "service.consul.", qtype: "A", rcode: "NXDOMAIN", authority: []string{soaConsul}},
	{name: "db-a.service.consul.", qtype: "A", answer: []string{"db-a.service.consul. 3 IN A 10.0.0.1"}},
	{name: "v1.web.service.consul.", qtype: "A", answer: []string{"v1.web.service.consul. 7 IN A 10.0.0.1"}},
	{name: "V2.web.service.consul.", qtype: "A", answer: []string{"V2.web.service.consul. 7 IN A 10.1.1.2"}},
	{name: "v3.web.service.consul.", qtype: "A", rcode: "NXDOMAIN", authority: []string{soaConsul}},
	{name: "prod.eu.web.service.consul.", qtype: "A", answer: []string{"prod.eu.web.service.consul. 7 IN A 10.0.0.1"}},
	{name: "nope.web.service.consul.", qtype: "A", rcode: "NXDOMAIN", authority: []string{soaConsul}},
	{name: "six.service.consul.", qtype: "A", authority: []string{soaConsul}},
	{name: "six.service.consul.", qtype: "AAAA", answer: []string{"six.service.consul. 1 IN AAAA fd00::1"}},
	{name: "consul.service.consul.", qtype: "A", answer: []string{"consul.service.consul. 1 IN A 127.0.0.1"}},

	// SRV
	{name: "web.service.consul.", qtype: "SRV", answer: []string{
		"web.service.consul. 7 IN SRV 1 1 80 web1.node.dc1.consul.", "web.service.consul. 7 IN SRV 1 2 8080 0a010102.addr.dc1.consul."},
		extra: []string{"0a010102.addr.dc1.consul. 7 IN A 10.1.1.2", "web1.node.dc1.consul. 7 IN A 10.0.0.1", `web1.node.dc1.consul. 7 IN TXT "z=1"`}},
	{name: "_web._tcp.service.consul.", qtype: "SRV", answer: []string{
		"_web._tcp.service.consul. 7 IN SRV 1 1 80 web1.node.dc1.consul.", "_web._tcp.service.consul. 7 IN SRV 1 2 8080 0a010102.addr.dc1.consul."},
		extra: []string{"0a010102.addr.dc1.consul. 7 IN A 10.1.1.2", "web1.node.dc1.consul. 7 IN A 10.0.0.1", `web1.node.dc1.consul. 7 IN TXT "z=1"`}},
	{name: "_web._tcp.consul.", qtype: "SRV", answer: []string{
		"_web._tcp.consul. 7 IN SRV 1 1 80 web1.node.dc1.consul.", "_web._tcp.consul. 7 IN SRV 1 2 8080 0a010102.addr.dc1.consul."},
		extra: []string{"0a010102.addr.dc1.consul. 7 IN A 10.1.1.2", "web1.node.dc1.consul. 7 IN A 10.0.0.1", `web1.node.dc1.consul. 7 IN TXT "z=1"`}},
	{name: "_web._v2.service.consul.", qtype: "SRV", answer: []string{"_web._v2.service.consul. 7 IN SRV 1 2 8080 0a010102.addr.dc1.consul."},
		extra: []string{"0a010102.addr.dc1.consul. 7 IN A 10.1.1.2", `web1.node.dc1.consul. 7 IN TXT "z=1"`}},
	{name: "_web._v2.dc1.consul.", qtype: "SRV", answer: []string{"_web._v2.dc1.consul. 7 IN SRV 1 2 8080 0a010102.addr.dc1.consul."},
		extra: []string{"0a010102.addr.dc1.consul. 7 IN A 10.1.1.2", `web1.node.dc1.consul. 7 IN TXT "z=1"`}},
	{name: "_web._tcp.service.dc1.consul.", qtype: "SRV", answer: []string{
		"_web._tcp.service.dc1.consul. 7 IN SRV 1 1 80 web1.node.dc1.consul.", "_web._tcp.service.dc1.consul. 7 IN SRV 1 2 8080 0a010102.addr.dc1.consul."},
		extra: []string{"0a010102.addr.dc1.consul. 7 IN A 10.1.1.2", "web1.node.dc1.consul. 7 IN A 10.0.0.1", `web1.node.dc1.consul. 7 IN TXT "z=1"`}},
	{name: "_WEB._TCP.Service.consul.", qtype: "A", answer: []string{"_WEB._TCP.Service.consul. 7 IN A 10.0.0.1", "_WEB._TCP.Service.consul. 7 IN A 10.1.1.2"}},
	{name: "_web._tcp.dc2.consul.", qtype: "SRV", rcode: "NXDOMAIN", authority: []string{soaConsul}},
	{name: "cn.service.consul.", qtype: "SRV", answer: []string{"cn.service.consul. 1 IN SRV 1 1 443 web1.node.consul."}, extra: []string{"web1.node.consul. 1 IN A 10.0.0.1"}},
	{name: "_web._udp.service.consul.", qtype: "SRV", rcode: "NXDOMAIN", authority: []string{soaConsul}},
	{name: "_web._tcp.consul.", qtype: "A", rcode: "NXDOMAIN", authority: []string{soaConsul}},
	{name: "_web._v1.service.consul.", qtype: "A", answer: []string{"_web._v1.service.consul. 7 IN A 10.0.0.1"}},
	{name: "web.service.alt.test.", qtype: "SRV", answer: []string{
		"web.service.alt.test. 7 IN SRV 1 1 80 web1.node.dc1.alt.test.", "web.service.alt.test. 7 IN SRV 1 2 8080 0a010102.addr.dc1.alt.test."},
		extra: []string{"0a010102.addr.dc1.alt.test. 7 IN A 10.1.1.2", "web1.node.dc1.alt.test. 7 IN A 10.0.0.1", `web1.node.dc1.alt.test. 7 IN TXT "z=1"`}},
	{name: "six.service.consul.", qtype: "SRV", answer: []string{"six.service.consul. 1 IN SRV 1 1 1 six1.node.dc1.consul."}, extra: []string{"six1.node.dc1.consul. 1 IN AAAA fd00::1"}},
	{name: "ext.service.consul.", qtype: "SRV", answer: []string{"ext.service.consul. 1 IN SRV 1 1 443 www.example.com."}},
	{name: "ext.service.consul.", qtype: "A", answer: []string{"ext.service.consul. 1 IN CNAME www.example.com."}},
	{name: "ext.service.consul.", qtype: "CNAME", answer: []string{"ext.service.consul. 1 IN CNAME www.example.com."}},
	{name: "cn.service.consul.", qtype: "A", answer: []string{"cn.service.consul. 1 IN CNAME web1.node.consul.", "web1.node.consul. 1 IN A 10.0.0.1"}},

	// other forms
	{name: "0a000001.addr.consul.", qtype: "A", answer: []string{"0a000001.addr.consul. 5 IN A 10.0.0.1"}},
	{name: "0a000001.addr.dc1.consul.", qtype: "A", answer: []string{"0a000001.addr.dc1.consul. 5 IN A 10.0.0.1"}},
	{name: "0a000001.addr.consul.", qtype: "AAAA", extra: []string{"0a000001.addr.consul. 5 IN A 10.0.0.1"}},
	{name: "fd000000000000000000000000000001.addr.consul.", qtype: "AAAA", answer: []string{"fd000000000000000000000000000001.addr.consul. 5 IN AAAA fd00::1"}},
	{name: "fd000000000000000000000000000001.addr.consul.", qtype: "A", extra: []string{"fd000000000000000000000000000001.addr.consul. 5 IN AAAA fd00::1"}},
	{name: "0a000001.addr.alt.test.", qtype: "ANY", answer: []string{"0a000001.addr.alt.test. 5 IN A 10.0.0.1"}},
	{name: "0a000001.addr.dc2.consul.", qtype: "A", answer: []string{"0a000001.addr.dc2.consul. 5 IN A 10.0.0.1"}}, // nothing is looked up
	{name: "0a0000.addr.consul.", qtype: "A", rcode: "NXDOMAIN", authority: []string{soaConsul}},
	{name: "zz.addr.consul.", qtype: "A", rcode: "NXDOMAIN", authority: []string{soaConsul}},
	{name: "web.virtual.consul.", qtype: "A"},
	{name: "web.connect.consul.", qtype: "A", rcode: "NXDOMAIN", authority: []string{soaConsul}},
	{name: "web.ingress.consul.", qtype: "A", rcode: "NXDOMAIN", authority: []string{soaConsul}},
	{name: "nope.query.consul.", qtype: "A", rcode: "NXDOMAIN", authority: []string{soaConsul}},
	{name: "consul.", qtype: "A", rcode: "NXDOMAIN", authority: []string{soaConsul}},
	{name: "consul.", qtype: "ANY", rcode: "NXDOMAIN", authority: []string{soaConsul}},
	{name: "foo.consul.", qtype: "A", rcode: "NXDOMAIN", authority: []string{soaConsul}},
	{name: "bad.alt.test.", qtype: "A", rcode: "NXDOMAIN", authority: []string{soaAlt}},
	{name: "notconsul.", qtype: "A", rcode: "REFUSED"},
	{name: "www.example.com.", qtype: "A", rcode: "REFUSED"},

	// zone
	{name: "consul.", qtype: "SOA", answer: []string{soaConsul}, authority: []string{"consul. 5 IN NS n1.node.dc1.consul."}, extra: []string{"n1.node.dc1.consul. 5 IN A 127.0.0.1"}},
	{name: "consul.", qtype: "NS", answer: []string{"consul. 5 IN NS n1.node.dc1.consul."}, extra: []string{"n1.node.dc1.consul. 5 IN A 127.0.0.1"}},
	{name: "ns.consul.", qtype: "A", rcode: "NXDOMAIN", authority: []string{soaConsul}},
	{name: "ns.consul.", qtype: "SOA", answer: []string{soaConsul}, authority: []string{"consul. 5 IN NS n1.node.dc1.consul."}, extra: []string{"n1.node.dc1.consul. 5 IN A 127.0.0.1"}},
	{name: "alt.test.", qtype: "SOA", answer: []string{soaAlt}, authority: []string{"alt.test. 5 IN NS n1.node.dc1.alt.test."}, extra: []string{"n1.node.dc1.alt.test. 5 IN A 127.0.0.1"}},
	{name: "x.y.consul.", qtype: "SOA", answer: []string{soaConsul}, authority: []string{"consul. 5 IN NS n1.node.dc1.consul."}, extra: []string{"n1.node.dc1.consul. 5 IN A 127.0.0.1"}},
	{name: "alt.test.", qtype: "NS", answer: []string{"alt.test. 5 IN NS n1.node.dc1.alt.test."}, extra: []string{"n1.node.dc1.alt.test. 5 IN A 127.0.0.1"}},

	// reverse
	{name: "1.0.0.10.in-addr.arpa.", qtype: "PTR", answer: []string{"1.0.0.10.in-addr.arpa. 0 IN PTR web1.node.dc1.consul."}},
	{name: "2.1.1.10.in-addr.arpa.", qtype: "PTR", answer: []string{"2.1.1.10.in-addr.arpa. 0 IN PTR web.service.dc1.consul."}},
	{name: "1.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.d.f.ip6.arpa.", qtype: "PTR",
		answer: []string{"1.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.d.f.ip6.arpa. 0 IN PTR six1.node.dc1.consul."}},
	{name: "1.0.0.10.in-addr.arpa.", qtype: "ANY", answer: []string{"1.0.0.10.in-addr.arpa. 0 IN PTR web1.node.dc1.consul."}},
	{name: "1.0.0.10.IN-ADDR.ARPA.", qtype: "PTR", answer: []string{"1.0.0.10.IN-ADDR.ARPA. 0 IN PTR web1.node.dc1.consul."}},
	{name: "9.9.9.10.in-addr.arpa.", qtype: "PTR", rcode: "NXDOMAIN", authority: []string{soaConsul}},
	{name: "9.10.in-addr.arpa.", qtype: "PTR", rcode: "NXDOMAIN", authority: []string{soaConsul}},
}

func TestAnswers(t *testing.T) {
	s := start(t, contractConfig(), NewTreeSource(contractWorld(t).tree.Snap))
	for _, network := range []string{"udp", "tcp"} {
		for round := range 2 { // the second time answers come from packed sets
			for _, tc := range answers {
				t.Run(fmt.Sprintf("%s/%d/%s/%s", network, round, tc.name, tc.qtype), func(t *testing.T) {
					r := ask(t, s, network, tc.name, dns.StringToType[tc.qtype], 1232)
					if want := tc.rcode; dns.RcodeToString[r.Rcode] != want && (want != "" || r.Rcode != 0) {
						t.Errorf("rcode %s, want %s", dns.RcodeToString[r.Rcode], want)
					}
					if !r.RecursionDesired || r.RecursionAvailable || r.Truncated || r.Authoritative != (tc.rcode != "REFUSED") {
						t.Errorf("flags %s", r.MsgHdr.String())
					}
					if r.IsEdns0() == nil || r.IsEdns0().UDPSize() != 1232 {
						t.Error("no OPT record with the client's size")
					}
					for _, sec := range []struct {
						name      string
						got, want []string
					}{{"answer", text(r.Answer), tc.answer}, {"authority", text(r.Ns), tc.authority}, {"additional", text(r.Extra), tc.extra}} {
						want := slices.Sorted(slices.Values(sec.want))
						if !slices.Equal(sec.got, want) {
							t.Errorf("%s\n got %q\nwant %q", sec.name, sec.got, want)
						}
					}
				})
			}
		}
	}
}

// Without EDNS there is no OPT record in the answer, and the least TTL of a negative answer is the smaller one of the SOA
// record's TTL and minimum, which are one number (RFC 2308 section 5).
func TestNegativeAnswers(t *testing.T) {
	c := contractConfig()
	c.SOA.MinTTL = 3
	s := start(t, c, NewTreeSource(contractWorld(t).tree.Snap))
	for name, rcode := range map[string]int{"no.service.consul.": dns.RcodeNameError, "web.service.consul.": dns.RcodeSuccess} {
		r := ask(t, s, "udp", name, dns.TypeAAAA, 0)
		soa, ok := r.Ns[0].(*dns.SOA)
		if !ok || soa.Hdr.Ttl != 3 || soa.Minttl != 3 || r.Rcode != rcode || r.IsEdns0() != nil || len(r.Extra) != 0 {
			t.Errorf("%s: %v", name, r)
		}
	}
}

func TestNodeMetaText(t *testing.T) {
	s := start(t, contractConfig(), NewTreeSource(contractWorld(t).tree.Snap))
	want := []string{
		"n1.node.consul. 5 IN A 127.0.0.1", `n1.node.consul. 5 IN TXT "consul-network-segment="`, `n1.node.consul. 5 IN TXT "consul-version=1.21.4"`,
		`n1.node.consul. 5 IN TXT "plain value"`, `n1.node.consul. 5 IN TXT "rack=r=1"`,
	}
	if got := text(ask(t, s, "tcp", "n1.node.consul.", dns.TypeANY, 0).Answer); !slices.Equal(got, want) {
		t.Errorf("got %q", got)
	}
	if r := ask(t, s, "udp", "n1.node.consul.", dns.TypeTXT, 0); len(r.Answer) != 3 || !r.Truncated {
		t.Errorf("small UDP: %d answers, tc %t", len(r.Answer), r.Truncated)
	}
	for in, want := range map[[2]string]string{
		{"a", "b"}: "a=b", {"a=b", "c"}: "a`=b=c", {"a`", "`"}: "a``=``", {" a ", "v"}: "` a` =v", {"RFC1035-x", "a=`"}: "a=`", {"", ""}: "=",
	} {
		if got := metaText(in[0], in[1]); got != want {
			t.Errorf("%q: %q, want %q", in, got, want)
		}
	}
	long := strings.Repeat(`x"\`, 100)
	w := newWorld(t)
	w.node("long", "10.0.0.1", map[string]string{"rfc1035-": long})
	s = start(t, contractConfig(), NewTreeSource(w.tree.Snap))
	r := ask(t, s, "tcp", "long.node.consul.", dns.TypeTXT, 0)
	if txt := r.Answer[0].(*dns.TXT).Txt; len(txt) != 2 || strings.NewReplacer(`\"`, `"`, `\\`, `\`).Replace(strings.Join(txt, "")) != long {
		t.Errorf("long text came as %q", txt)
	}
}

func TestOnlyPassingAndReload(t *testing.T) {
	c := contractConfig()
	s := start(t, c, NewTreeSource(contractWorld(t).tree.Snap))
	count := func() int { return len(ask(t, s, "udp", "web.service.consul.", dns.TypeA, 0).Answer) }
	if n := count(); n != 2 {
		t.Fatalf("%d answers", n)
	}
	c.OnlyPassing = true
	c.Domain = "ignored."
	if err := s.Reload(c); err != nil {
		t.Fatal(err)
	}
	if n := count(); n != 1 {
		t.Errorf("%d answers with only_passing", n)
	}
	c.Recursors = []string{"nonsense"}
	if err := s.Reload(c); err == nil {
		t.Error("bad recursor taken")
	}
	if n := count(); n != 1 {
		t.Errorf("%d answers after a failed reload", n)
	}
}

func TestAnswerFollowsTheCatalog(t *testing.T) {
	w := contractWorld(t)
	s := start(t, contractConfig(), NewTreeSource(w.tree.Snap))
	want := func(what string, lines ...string) {
		t.Helper()
		for range 2 {
			if got := text(ask(t, s, "udp", "web.service.consul.", dns.TypeA, 0).Answer); !slices.Equal(got, lines) {
				t.Fatalf("%s: %q", what, got)
			}
		}
	}
	want("before", "web.service.consul. 7 IN A 10.0.0.1", "web.service.consul. 7 IN A 10.1.1.2")
	w.service("web1", "", catalog.Service{ID: "w1", Name: "web", Port: 80}, catalog.Critical)
	want("one critical", "web.service.consul. 7 IN A 10.1.1.2")
	w.service("web1", "", catalog.Service{ID: "w3", Name: "web", Port: 80, Address: "10.7.7.7"}, catalog.Passing)
	want("another passing", "web.service.consul. 7 IN A 10.1.1.2", "web.service.consul. 7 IN A 10.7.7.7")
	txn, err := catalog.Deregister(w.tree.Snap(), "web1", "", "")
	if err != nil {
		t.Fatal(err)
	}
	w.apply(txn)
	if r := ask(t, s, "udp", "web.service.consul.", dns.TypeA, 0); r.Rcode != dns.RcodeNameError {
		t.Errorf("node gone: %v", r)
	}
	if r := ask(t, s, "udp", "1.0.0.10.in-addr.arpa.", dns.TypePTR, 0); r.Rcode != dns.RcodeNameError {
		t.Errorf("node gone: %v", r)
	}
}

func TestRefusals(t *testing.T) {
	s := start(t, contractConfig(), NewTreeSource(contractWorld(t).tree.Snap))
	for name, tc := range map[string]struct {
		change func(*dns.Msg)
		want   int
	}{
		"class CH":   {func(m *dns.Msg) { m.Question[0].Qclass = dns.ClassCHAOS }, dns.RcodeRefused},
		"AXFR":       {func(m *dns.Msg) { m.Question[0].Qtype = dns.TypeAXFR }, dns.RcodeNotImplemented},
		"update":     {func(m *dns.Msg) { m.Opcode = dns.OpcodeUpdate }, dns.RcodeNotImplemented},
		"notify":     {func(m *dns.Msg) { m.Opcode = dns.OpcodeNotify }, dns.RcodeNotImplemented},
		"no zone":    {func(m *dns.Msg) { m.Question[0].Name = "." }, dns.RcodeRefused},
		"EDNS 1":     {func(m *dns.Msg) { m.SetEdns0(1232, false); m.IsEdns0().SetVersion(1) }, dns.RcodeBadVers},
		"two at one": {func(m *dns.Msg) { m.Question = append(m.Question, m.Question[0]) }, dns.RcodeFormatError},
	} {
		m := new(dns.Msg)
		m.SetQuestion("web.service.consul.", dns.TypeA)
		tc.change(m)
		for _, network := range []string{"udp", "tcp"} {
			r := exchange(t, s, network, m)
			if r.Rcode != tc.want || len(r.Answer) != 0 || r.Authoritative {
				t.Errorf("%s over %s: %v", name, network, r)
			}
		}
	}
}

func TestMalformedPacketsAreAnsweredOrDropped(t *testing.T) {
	s := start(t, contractConfig(), NewTreeSource(contractWorld(t).tree.Snap))
	c, err := net.Dial("udp", s.Addrs()[0])
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	q := new(dns.Msg)
	q.SetQuestion("web.service.consul.", dns.TypeA)
	good, _ := q.Pack()
	for i := range good {
		c.Write(good[:i])
	}
	loop := append(append([]byte(nil), good[:12]...), 0xC0, 12, 0, 1, 0, 1) // a name that points at itself
	c.Write(loop)
	if r := ask(t, s, "udp", "web.service.consul.", dns.TypeA, 0); len(r.Answer) != 2 {
		t.Errorf("after garbage: %v", r)
	}
}

func TestClientSubnetComesBackWithScopeZero(t *testing.T) {
	s := start(t, contractConfig(), NewTreeSource(contractWorld(t).tree.Snap))
	for range 2 {
		m := new(dns.Msg)
		m.SetQuestion("web.service.consul.", dns.TypeA)
		m.SetEdns0(1232, false)
		m.IsEdns0().Option = []dns.EDNS0{&dns.EDNS0_SUBNET{Code: dns.EDNS0SUBNET, Family: 1, SourceNetmask: 24, SourceScope: 7, Address: net.IPv4(198, 51, 100, 0)}}
		r := exchange(t, s, "udp", m)
		e := option[*dns.EDNS0_SUBNET](r)
		if e == nil || e.SourceNetmask != 24 || e.SourceScope != 0 || len(r.Answer) != 2 {
			t.Errorf("got %v", r)
		}
	}
}

// broken is a Source that cannot answer, or worse.
type broken struct{ panics bool }

func (b broken) fail() error {
	if b.panics {
		panic("a defect")
	}
	return fmt.Errorf("asking: %w", ErrUnreachable)
}
func (b broken) Service(context.Context, string) (*Answer, error) { return nil, b.fail() }
func (b broken) Node(context.Context, string) (*catalog.Node, bool, error) {
	return nil, false, b.fail()
}
func (b broken) Query(context.Context, string, netip.Addr) (*QueryAnswer, error) {
	return nil, b.fail()
}
func (b broken) Reverse(context.Context, netip.Addr) (Owner, error)   { return Owner{}, b.fail() }
func (b broken) Peek(string) *Answer                                  { return nil }
func (b broken) Servers(ctx context.Context) ([]*catalog.Node, error) { return nil, b.fail() }

func TestSourceThatFailsIsServfail(t *testing.T) {
	for _, panics := range []bool{false, true} {
		s := start(t, contractConfig(), broken{panics})
		for name, qtype := range map[string]uint16{
			"web.service.consul.": dns.TypeSRV, "web.query.consul.": dns.TypeA, "web1.node.consul.": dns.TypeA, "1.0.0.10.in-addr.arpa.": dns.TypePTR, "consul.": dns.TypeNS,
		} {
			if r := ask(t, s, "udp", name, qtype, 0); r.Rcode != dns.RcodeServerFailure {
				t.Errorf("panics %t, %s: %v", panics, name, r)
			}
		}
		if r := ask(t, s, "udp", "0a000001.addr.consul.", dns.TypeA, 0); len(r.Answer) != 1 {
			t.Errorf("a pure computation needs no source: %v", r)
		}
	}
}

func TestPortInUse(t *testing.T) {
	for _, network := range []string{"tcp", "udp"} {
		var addr string
		if network == "tcp" {
			l, err := net.Listen("tcp", "127.0.9.7:0")
			if err != nil {
				t.Fatal(err)
			}
			defer l.Close()
			addr = l.Addr().String()
		} else {
			l, err := net.ListenPacket("udp", "127.0.9.7:0")
			if err != nil {
				t.Fatal(err)
			}
			defer l.Close()
			addr = l.LocalAddr().String()
		}
		c := contractConfig()
		c.Addrs = []string{"127.0.0.1:0", addr}
		s, err := New(c, broken{})
		if err != nil {
			t.Fatal(err)
		}
		err = s.Start()
		if !errors.Is(err, syscall.EADDRINUSE) || !strings.Contains(err.Error(), addr) || !strings.Contains(err.Error(), network) {
			t.Errorf("%s: %v", network, err)
		}
		if len(s.Addrs()) != 0 {
			t.Error("something stayed open")
		}
	}
}

func TestConfigIsChecked(t *testing.T) {
	for name, change := range map[string]func(*Config){
		"datacenter":      func(c *Config) { c.Datacenter = "" },
		"datacenter dots": func(c *Config) { c.Datacenter = "a.b" },
		"domain":          func(c *Config) { c.Domain = "a..b" },
		"root":            func(c *Config) { c.Domain = "." },
		"recursor":        func(c *Config) { c.Recursors = []string{"dns.example"} },
		"itself":          func(c *Config) { c.Addrs = []string{"127.0.0.1:8600"}; c.Recursors = []string{"127.0.0.1:8600"} },
		"ttl":             func(c *Config) { c.NodeTTL = -time.Second },
		"service ttl":     func(c *Config) { c.ServiceTTL = map[string]time.Duration{"a": -time.Second} },
		"limit":           func(c *Config) { c.UDPAnswerLimit = -1 },
	} {
		c := contractConfig()
		change(&c)
		if _, err := New(c, broken{}); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
	if _, err := New(contractConfig(), nil); err == nil {
		t.Error("no source: no error")
	}
	c := contractConfig()
	c.Addrs = []string{"nonsense"}
	s, _ := New(c, broken{})
	if err := s.Start(); err == nil {
		t.Error("bad address: no error")
	}
}

func TestTTLTable(t *testing.T) {
	tab, err := newTTLTable(map[string]time.Duration{"Web": 1e9, "db*": 2e9, "db-long*": 3e9, "*": 4e9})
	if err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]uint32{"web": 1, "web2": 4, "db": 2, "db-x": 2, "db-long-x": 3, "other": 4} {
		if got := tab.of(name); got != want {
			t.Errorf("%s: %d, want %d", name, got, want)
		}
	}
	if tab, _ = newTTLTable(nil); tab.of("x") != 0 {
		t.Error("default is not 0")
	}
}

func TestTCPConnectionsAreLimited(t *testing.T) {
	c := contractConfig()
	c.MaxConnsClient = 2
	s := start(t, c, NewTreeSource(contractWorld(t).tree.Snap))
	dial := func() (*dns.Conn, error) {
		conn, err := dns.DialTimeout("tcp", s.Addrs()[0], patience)
		if err != nil {
			return nil, err
		}
		m := new(dns.Msg)
		m.SetQuestion("web.service.consul.", dns.TypeA)
		conn.SetDeadline(time.Now().Add(patience))
		if err := conn.WriteMsg(m); err != nil {
			return conn, err
		}
		_, err = conn.ReadMsg()
		return conn, err
	}
	one, err := dial()
	if err != nil {
		t.Fatal(err)
	}
	two, err := dial()
	if err != nil {
		t.Fatal(err)
	}
	defer two.Close()
	if three, err := dial(); err == nil {
		three.Close()
		t.Fatal("a third connection was served")
	}
	one.Close()
	deadline := time.Now().Add(patience)
	for {
		again, err := dial()
		if again != nil {
			defer again.Close()
		}
		if err == nil {
			break
		}
		if time.Now().After(deadline) {
			t.Fatal("no connection after one was closed")
		}
		time.Sleep(5 * time.Millisecond)
	}
}

func TestCloseIsRepeatable(t *testing.T) {
	s, err := New(contractConfig(), broken{})
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Start(); err != nil {
		t.Fatal(err)
	}
	if err := s.Start(); err == nil {
		t.Error("started twice")
	}
	for range 2 {
		if err := s.Close(t.Context()); err != nil {
			t.Error(err)
		}
	}
}

// Every kind of address is served over UDP: those that answers leave from by themselves, and those of the whole machine.
func TestEveryKindOfAddress(t *testing.T) {
	addrs := []string{"127.0.0.1:0", "0.0.0.0:0", "[::]:0"}
	if l, err := net.ListenPacket("udp", "[::1]:0"); err == nil {
		_ = l.Close()
		addrs = append(addrs, "[::1]:0")
	}
	c := contractConfig()
	c.Addrs = addrs
	s := start(t, c, NewTreeSource(contractWorld(t).tree.Snap))
	if len(addrs) == 4 && len(s.sockets) != len(addrs) { // without IPv6 package dns has to help
		t.Errorf("%d sockets are read in batches", len(s.sockets))
	}
	for i, addr := range s.Addrs() {
		host, port, err := net.SplitHostPort(addr)
		if err != nil {
			t.Fatal(err)
		}
		if ip := net.ParseIP(host); ip.IsUnspecified() { // answers come from the address that was asked
			host = "127.0.9.8"
			if len(addrs) == 4 && i == 2 {
				host = "::1"
			}
		}
		conn, err := net.Dial("udp", net.JoinHostPort(host, port)) // which takes answers from there alone
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		for _, name := range []string{"web.service.consul.", "web.service.consul.", "no.service.consul."} {
			m := new(dns.Msg)
			m.SetQuestion(name, dns.TypeA)
			client := dns.Client{Timeout: patience}
			r, _, err := client.ExchangeWithConn(m, &dns.Conn{Conn: conn})
			if err != nil || (r.Rcode == 0) != (len(r.Answer) == 2) {
				t.Errorf("%s: %v %v", addrs[i], r, err)
			}
		}
	}
}

// Questions that come at once are all answered, those that take longer beside the others.
func TestBursts(t *testing.T) {
	release := make(chan struct{})
	slow, _ := upstream(t, func(w dns.ResponseWriter, r *dns.Msg) { <-release; outside(w, r) })
	c := contractConfig()
	c.Recursors, c.RecursorTimeout = []string{slow}, patience
	s := start(t, c, NewTreeSource(contractWorld(t).tree.Snap))
	ask(t, s, "udp", "web.service.consul.", dns.TypeA, 0) // makes the packed set
	conn, err := net.Dial("udp", s.Addrs()[0])
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(2 * patience))
	const n = 4 * batch
	names := []string{"web.service.consul.", "web1.node.consul.", "no.service.consul.", "www.ok.test."}
	for id := range n {
		if _, err := conn.Write(framed(t, uint16(id), names[id%4], dns.TypeA)[2:]); err != nil {
			t.Fatal(err)
		}
	}
	dc, seen := &dns.Conn{Conn: conn}, map[uint16]bool{}
	read := func(count int) {
		t.Helper()
		for range count {
			r, err := dc.ReadMsg()
			if err != nil || seen[r.Id] || r.Question[0].Name != names[r.Id%4] || (r.Rcode == dns.RcodeSuccess) != (r.Id%4 != 2) {
				t.Fatalf("%v %v", r, err)
			}
			seen[r.Id] = true
		}
	}
	read(n / 4 * 3)
	for id := range seen {
		if id%4 == 3 {
			t.Errorf("%d was answered before the recursor", id)
		}
	}
	close(release)
	read(n / 4)
	for deadline := time.Now().Add(patience); s.inflight.Load() > 0; time.Sleep(time.Millisecond) { // the last ones may still be leaving
		if time.Now().After(deadline) {
			t.Fatalf("%d questions are said to be at work", s.inflight.Load())
		}
	}
}
