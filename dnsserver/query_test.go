package dnsserver

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/miekg/dns"

	"github.com/musterhq/muster/catalog"
	"github.com/musterhq/muster/kv"
)

func (w *world) query(q catalog.Query) {
	w.t.Helper()
	txn, err := catalog.SaveQuery(w.tree.Snap(), q, false)
	if err != nil || w.tree.Apply(txn)[0].Code != kv.OK {
		w.t.Fatal(err)
	}
}

func TestPreparedQueriesByName(t *testing.T) {
	w := contractWorld(t)
	w.query(catalog.Query{ID: "1", Name: "Best.Web", Service: catalog.QueryService{Service: "web", OnlyPassing: true}, TTL: "11s"})
	w.query(catalog.Query{ID: "2", Name: "two", Service: catalog.QueryService{Service: "web", Near: "n1"}})
	w.query(catalog.Query{ID: "3", Name: "none", Service: catalog.QueryService{Service: "sick"}})
	w.query(catalog.Query{ID: "4", Name: "any-", Template: catalog.QueryTemplate{Type: catalog.TemplateByPrefix}, Service: catalog.QueryService{Service: "${name.suffix}"}})
	src := NewTreeSource(w.tree.Snap)
	src.SortNear(func(_ *kv.Snap, node string, list []*catalog.Instance) {
		if node == "n1" {
			slices.SortFunc(list, func(a, b *catalog.Instance) int { return b.Service.Port - a.Service.Port })
		}
	})
	s := start(t, contractConfig(), src)
	for _, c := range []struct {
		name    string
		qtype   uint16
		answers int
		ttl     uint32
		rcode   int
	}{
		{"best.web.query.consul.", dns.TypeA, 1, 11, dns.RcodeSuccess},
		{"best.web.query.dc1.consul.", dns.TypeSRV, 1, 11, dns.RcodeSuccess},
		{"two.query.consul.", dns.TypeSRV, 2, 7, dns.RcodeSuccess},
		{"_two._tcp.query.consul.", dns.TypeSRV, 2, 7, dns.RcodeSuccess},
		{"1.query.consul.", dns.TypeA, 1, 11, dns.RcodeSuccess},
		{"any-db-a.query.consul.", dns.TypeA, 1, 3, dns.RcodeSuccess},
		{"any-nothing.query.consul.", dns.TypeA, 0, 0, dns.RcodeNameError},
		{"two.query.consul.", dns.TypeAAAA, 0, 0, dns.RcodeSuccess},
		{"none.query.consul.", dns.TypeA, 0, 0, dns.RcodeNameError},
		{"nope.query.consul.", dns.TypeSRV, 0, 0, dns.RcodeNameError},
		{"two.query.dc2.consul.", dns.TypeSRV, 0, 0, dns.RcodeNameError},
	} {
		for range 3 {
			r := ask(t, s, "udp", c.name, c.qtype, 0)
			if r.Rcode != c.rcode || len(r.Answer) != c.answers || c.answers > 0 && r.Answer[0].Header().Ttl != c.ttl {
				t.Errorf("%s %s: %v", c.name, dns.TypeToString[c.qtype], r)
			}
			if c.name == "two.query.consul." && c.answers == 2 && r.Answer[0].(*dns.SRV).Port != 8080 {
				t.Errorf("%s is not in the order of the query: %v", c.name, r)
			}
		}
	}
}

// TestQueryNearTheClient: the client is who asks, or the subnet it speaks for, and the answer is for that subnet.
func TestQueryNearTheClient(t *testing.T) {
	w := contractWorld(t)
	w.node("asker", "127.0.0.1", nil)
	w.query(catalog.Query{ID: "1", Name: "near", Service: catalog.QueryService{Service: "web", Near: "_ip"}})
	src := NewTreeSource(w.tree.Snap)
	var near []string
	src.SortNear(func(_ *kv.Snap, node string, _ []*catalog.Instance) { near = append(near, node) })
	s, err := New(contractConfig(), src)
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct{ sender, subnet, want string }{
		{"10.0.0.9", "", "[dotted.name]"}, {"10.0.0.9", "10.0.0.1", "[web1]"}, {"192.0.2.1", "", "[]"}, {"192.0.2.1", "fd00::1", "[six1]"},
	} {
		near = nil
		m := withOptions(dns.TypeSRV, "near.query.consul.")
		if ip := net.ParseIP(c.subnet); ip != nil {
			family, mask := uint16(1), uint8(32)
			if ip.To4() == nil {
				family, mask = 2, 128
			}
			m.IsEdns0().Option = []dns.EDNS0{&dns.EDNS0_SUBNET{Code: dns.EDNS0SUBNET, Family: family, SourceNetmask: mask, Address: ip}}
		}
		packed, err := m.Pack()
		if err != nil {
			t.Fatal(err)
		}
		out, req, r := &sink{}, new(dns.Msg), new(dns.Msg)
		if err := req.Unpack(packed); err != nil {
			t.Fatal(err)
		}
		handler{s, false}.ServeDNS(remote{out, c.sender}, req)
		if err := r.Unpack(out.last); err != nil || len(r.Answer) != 2 || fmt.Sprint(near) != c.want {
			t.Errorf("%s for %q: near %v, %v, %v", c.sender, c.subnet, near, err, r)
		}
		if e := option[*dns.EDNS0_SUBNET](r); (e == nil) != (c.subnet == "") || e != nil && e.SourceScope != e.SourceNetmask {
			t.Errorf("scope: %v", r)
		}
	}
}

const queryPath = "/v1/query/q/execute"

// TestFollowedQueries: an answer is good for the TTL of the query and then asked for anew; without the cluster the last
// one stays, over a restart too.
func TestFollowedQueries(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster()
		c.set(queryPath, `{"Service":"Web","Nodes":[`+instance("a", "10.0.0.1", "passing")+`],"DNS":{"TTL":"10s"}}`)
		f := newFollower(t, c, 0)
		defer f.Close()
		look := func() *QueryAnswer {
			t.Helper()
			a, err := f.Query(t.Context(), "q", netip.Addr{})
			if err != nil {
				t.Fatal(err)
			}
			return a
		}
		if a := look(); a == nil || len(a.Instances) != 1 || *a.TTL != 10*time.Second || a.Service != "web" {
			t.Fatalf("%+v", a)
		}
		time.Sleep(5 * time.Second)
		look()
		if n := c.requests(queryPath); n != 1 {
			t.Errorf("asked %d times within the TTL", n)
		}
		time.Sleep(10 * time.Second)
		c.set(queryPath, `{"Service":"Web","Nodes":[],"DNS":{"TTL":""}}`)
		if a := look(); len(a.Instances) != 0 || a.TTL != nil {
			t.Errorf("%+v", a)
		}
		c.fail(true)
		time.Sleep(time.Minute)
		if a := look(); a == nil || len(a.Instances) != 0 {
			t.Errorf("%+v", a)
		}
		if _, err := f.Query(t.Context(), "other", netip.Addr{}); !errors.Is(err, ErrUnreachable) {
			t.Error(err)
		}
	})
}
