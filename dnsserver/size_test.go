package dnsserver

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/miekg/dns"

	"github.com/musterhq/muster/catalog"
)

// bulk registers n instances of a service on n nodes.
func (w *world) bulk(service string, n int) {
	for i := range n {
		node := fmt.Sprintf("node-%03d", i)
		addr := netip.AddrFrom4([4]byte{10, 2, byte(i >> 8), byte(i)}).String()
		w.service(node, addr, catalog.Service{ID: service, Name: service, Port: 1000 + i}, "")
	}
}

func TestSizes(t *testing.T) {
	w := newWorld(t)
	w.bulk("bulk", 60)
	s := start(t, contractConfig(), NewTreeSource(w.tree.Snap))
	for _, tc := range []struct {
		network string
		edns    int
		a, srv  int // answers; A as recorded, SRV at least as recorded
		exact   bool
	}{
		{"udp", 0, 3, 3, true},
		{"udp", 512, 3, 3, true},
		{"udp", 513, 29, 5, false},
		{"udp", 600, 34, 7, false},
		{"udp", 1232, 60, 15, false},
		{"udp", 4096, 60, 51, false},
		{"udp", 8192, 60, 60, false},
		{"tcp", 0, 60, 60, true},
		{"tcp", 512, 60, 60, true},
	} {
		for qtype, want := range map[uint16]int{dns.TypeA: tc.a, dns.TypeSRV: tc.srv} {
			seen := map[string]bool{}
			for range 30 {
				r := ask(t, s, tc.network, "bulk.service.consul.", qtype, tc.edns)
				what := fmt.Sprintf("%s %d %s", tc.network, tc.edns, dns.TypeToString[qtype])
				n := len(r.Answer)
				if n != want && (tc.exact || qtype == dns.TypeA || n < want) {
					t.Errorf("%s: %d answers, want %d", what, n, want)
				}
				if r.Truncated != (tc.network == "udp" && n < 60) {
					t.Errorf("%s: tc %t with %d of 60 answers", what, r.Truncated, n)
				}
				r.Compress = true
				if b, _ := r.Pack(); tc.network == "udp" && len(b) > max(512, tc.edns) {
					t.Errorf("%s: about %d bytes", what, len(b))
				}
				checkComplete(t, what, r)
				seen[r.Answer[0].String()] = true
			}
			if len(seen) < 5 {
				t.Errorf("%s %d: only %d different first answers in 30", tc.network, tc.edns, len(seen))
			}
		}
	}
}

// checkComplete: no record twice, and exactly the addresses that the SRV targets need.
func checkComplete(t *testing.T, what string, r *dns.Msg) {
	t.Helper()
	seen := map[string]bool{}
	need := map[string]bool{}
	for _, rr := range append(slices.Clone(r.Answer), r.Extra...) {
		if seen[rr.String()] {
			t.Errorf("%s: %s twice", what, rr)
		}
		seen[rr.String()] = true
		if srv, ok := rr.(*dns.SRV); ok {
			need[srv.Target] = true
		}
	}
	for _, rr := range r.Extra {
		if a, ok := rr.(*dns.A); ok {
			if !need[a.Hdr.Name] {
				t.Errorf("%s: %s is not needed", what, a)
			}
			delete(need, a.Hdr.Name)
		}
	}
	if len(need) > 0 {
		t.Errorf("%s: no address for %v", what, need)
	}
}

func TestTruncationCanBeTurnedOff(t *testing.T) {
	w := newWorld(t)
	w.bulk("bulk", 60)
	c := contractConfig()
	c.EnableTruncate, c.UDPAnswerLimit = false, 20
	s := start(t, c, NewTreeSource(w.tree.Snap))
	if r := ask(t, s, "udp", "bulk.service.consul.", dns.TypeA, 0); r.Truncated || len(r.Answer) != 8 {
		t.Errorf("tc %t, %d answers", r.Truncated, len(r.Answer))
	}
}

func TestARecordLimit(t *testing.T) {
	w := newWorld(t)
	w.bulk("bulk", 60)
	c := contractConfig()
	c.ARecordLimit = 2
	for _, plain := range []bool{false, true} {
		c.DisableCompression = plain // also by the long way
		s := start(t, c, NewTreeSource(w.tree.Snap))
		for _, network := range []string{"udp", "tcp"} {
			if r := ask(t, s, network, "bulk.service.consul.", dns.TypeA, 1232); r.Truncated || len(r.Answer) != 2 {
				t.Errorf("%s: tc %t, %d A answers", network, r.Truncated, len(r.Answer))
			}
		}
		if r := ask(t, s, "tcp", "bulk.service.consul.", dns.TypeSRV, 0); len(r.Answer) != 60 {
			t.Errorf("%d SRV answers", len(r.Answer))
		}
	}
}

// Over TCP an answer of many long records must stay below 64 KiB, and names beyond the reach of pointers be right.
func TestHugeAnswers(t *testing.T) {
	w := newWorld(t)
	long := strings.Repeat("x", 40)
	for i := range 1500 {
		node := fmt.Sprintf("n%d-%s", i, long)
		w.service(node, netip.AddrFrom4([4]byte{10, 3, byte(i >> 8), byte(i)}).String(), catalog.Service{ID: "huge", Name: "huge", Port: 1}, "")
	}
	for _, plain := range []bool{false, true} {
		c := contractConfig()
		c.DisableCompression = plain
		s := start(t, c, NewTreeSource(w.tree.Snap))
		r := ask(t, s, "tcp", "huge.service.consul.", dns.TypeSRV, 0)
		if n := len(r.Answer); n < 300 || n > 1024 {
			t.Errorf("%d SRV answers", n)
		}
		checkComplete(t, "huge", r)
		if r := ask(t, s, "tcp", "huge.service.consul.", dns.TypeA, 0); len(r.Answer) != 1500 {
			t.Errorf("%d A answers", len(r.Answer))
		}
	}
}

// The packed way and the long way are two writers of one answer.
func TestPackedAnswersEqualComposedOnes(t *testing.T) {
	w := contractWorld(t)
	w.bulk("bulk", 20)
	for i := range 5 { // several instances share a node, an address and its metadata
		w.service("web1", "", catalog.Service{ID: fmt.Sprint("m", i), Name: "many", Port: 80 + i%3, Address: []string{"", "10.1.1.2"}[i%2], Tags: []string{"t"}}, "")
	}
	src := NewTreeSource(w.tree.Snap)
	packed := start(t, contractConfig(), src)
	c := contractConfig()
	c.DisableCompression = true
	composed := start(t, c, src)
	for _, name := range []string{"web", "bulk", "many", "t.many", "six", "_many._t", "db-a", "nobody", strings.Repeat("a", 63)} {
		for _, qtype := range []uint16{dns.TypeA, dns.TypeAAAA, dns.TypeSRV, dns.TypeANY, dns.TypeTXT, dns.TypeMX} {
			for range 3 {
				q := name + ".sErvice.alt.TEST."
				a, b := ask(t, packed, "tcp", q, qtype, 0), ask(t, composed, "tcp", q, qtype, 0)
				if !slices.Equal(text(a.Answer), text(b.Answer)) || !slices.Equal(text(a.Ns), text(b.Ns)) || !slices.Equal(text(a.Extra), text(b.Extra)) {
					t.Errorf("%s %s\npacked   %v\ncomposed %v", q, dns.TypeToString[qtype], a, b)
				}
			}
		}
	}
	a, b := ask(t, packed, "tcp", "nobody.Service.alt.TEST.", dns.TypeA, 0), ask(t, composed, "tcp", "nobody.Service.alt.TEST.", dns.TypeA, 0)
	if a.Id, b.Id = 0, 0; a.MsgHdr != b.MsgHdr || a.Question[0] != b.Question[0] {
		t.Errorf("packed %v\ncomposed %v", a.MsgHdr, b.MsgHdr)
	}
	if len(packed.settings.Load().cache.sets) == 0 || len(composed.settings.Load().cache.sets) != 0 {
		t.Error("the two servers went the same way")
	}
}

func TestCacheIsBounded(t *testing.T) {
	c := newCache()
	for i := range 3 * cacheSets {
		c.put(cacheKey{name: fmt.Sprint("name", i), qtype: dns.TypeA}, &set{blob: make([]byte, 4000)})
		if len(c.sets) > cacheSets || c.bytes > cacheBytes {
			t.Fatalf("%d sets, %d bytes", len(c.sets), c.bytes)
		}
	}
	for range 3 {
		c.put(cacheKey{name: "same", qtype: dns.TypeA}, &set{blob: make([]byte, 4000)})
	}
	total := 0
	for _, s := range c.sets {
		total += s.size()
	}
	if total != c.bytes {
		t.Errorf("counted %d bytes, has %d", c.bytes, total)
	}
}

func TestAnswerLargerThanAnyPacketIsStillSent(t *testing.T) {
	w := newWorld(t)
	w.node("big", "10.0.0.1", map[string]string{"rfc1035-": strings.Repeat("y", 900)})
	s := start(t, contractConfig(), NewTreeSource(w.tree.Snap))
	if r := ask(t, s, "udp", "big.node.consul.", dns.TypeA, 0); len(r.Answer) != 1 || len(r.Extra) != 0 || r.Truncated {
		t.Errorf("what is only good to have must yield: %v", r)
	}
	m := new(dns.Msg)
	rep := &reply{groups: single(&dns.TXT{Hdr: header("big.", dns.TypeTXT, 0), Txt: txtStrings(strings.Repeat("y", 900))})}
	if cut := compose(m, rep, limits{bytes: 512, counts: 3}); cut || len(m.Answer) != 1 {
		t.Errorf("cut %t, %d answers", cut, len(m.Answer))
	}
}
