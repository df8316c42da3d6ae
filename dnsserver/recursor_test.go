package dnsserver

import (
	"net"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"github.com/miekg/dns"
)

// upstream is a recursor on a loopback port.
func upstream(t *testing.T, h dns.HandlerFunc) (string, *atomic.Int64) {
	t.Helper()
	var asked atomic.Int64
	counted := dns.HandlerFunc(func(w dns.ResponseWriter, r *dns.Msg) { asked.Add(1); h(w, r) })
	pc, ln, err := listen("127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	for _, d := range []*dns.Server{{PacketConn: pc, Handler: counted}, {Listener: ln, Handler: counted}} {
		started := make(chan struct{})
		d.NotifyStartedFunc = func() { close(started) }
		go d.ActivateAndServe()
		<-started
		t.Cleanup(func() { _ = d.Shutdown() })
	}
	return pc.LocalAddr().String(), &asked
}

// outside is a world of three names.
func outside(w dns.ResponseWriter, r *dns.Msg) {
	m := new(dns.Msg)
	m.SetReply(r)
	m.RecursionAvailable = true
	name := r.Question[0].Name
	switch name {
	case "www.ok.test.", "www.example.com.":
		a := &dns.A{Hdr: header(name, dns.TypeA, 60), A: net.IPv4(198, 51, 100, 7)}
		if _, tcp := w.RemoteAddr().(*net.TCPAddr); tcp {
			a.A = net.IPv4(198, 51, 100, 8)
		}
		m.Answer = []dns.RR{a}
	case "nx.test.", "9.9.9.10.in-addr.arpa.":
		m.Rcode = dns.RcodeNameError
	case "big.test.":
		for i := range 100 {
			m.Answer = append(m.Answer, &dns.A{Hdr: header(name, dns.TypeA, 60), A: net.IPv4(10, 0, 0, byte(i))})
		}
	case "8.8.8.8.in-addr.arpa.":
		m.Answer = []dns.RR{&dns.PTR{Hdr: header(name, dns.TypePTR, 60), Ptr: "far.test."}}
	default:
		m.Rcode = dns.RcodeServerFailure
	}
	_ = w.WriteMsg(m)
}

func failing(w dns.ResponseWriter, r *dns.Msg) {
	m := new(dns.Msg)
	_ = w.WriteMsg(m.SetRcode(r, dns.RcodeServerFailure))
}

func TestRecursors(t *testing.T) {
	bad, askedBad := upstream(t, failing)
	good, _ := upstream(t, outside)
	dead, _, err := listen("127.0.0.1:0") // takes packets, never answers
	if err != nil {
		t.Fatal(err)
	}
	defer dead.Close()
	c := contractConfig()
	c.Recursors = []string{dead.LocalAddr().String(), good}
	c.RecursorTimeout = time.Second
	s := start(t, c, NewTreeSource(contractWorld(t).tree.Snap))
	if r := ask(t, s, "udp", "www.ok.test.", dns.TypeA, 0); r.Rcode != 0 || len(r.Answer) != 1 {
		t.Errorf("with a silent recursor before the good one: %v", r)
	}

	c.Recursors, c.RecursorTimeout = []string{bad, good}, patience
	s = start(t, c, NewTreeSource(contractWorld(t).tree.Snap))

	for _, tc := range []struct {
		network, name string
		qtype         uint16
		rcode         int
		answer        []string
	}{
		{"udp", "www.ok.test.", dns.TypeA, 0, []string{"www.ok.test. 60 IN A 198.51.100.7"}},
		{"tcp", "www.ok.test.", dns.TypeA, 0, []string{"www.ok.test. 60 IN A 198.51.100.8"}}, // by the client's transport
		{"udp", "nx.test.", dns.TypeA, dns.RcodeNameError, nil},
		{"udp", "fail.test.", dns.TypeA, dns.RcodeServerFailure, nil},
		{"udp", "8.8.8.8.in-addr.arpa.", dns.TypePTR, 0, []string{"8.8.8.8.in-addr.arpa. 60 IN PTR far.test."}},
		{"udp", "9.9.9.10.in-addr.arpa.", dns.TypePTR, dns.RcodeNameError, nil},
	} {
		r := ask(t, s, tc.network, tc.name, tc.qtype, 0)
		if r.Rcode != tc.rcode || !slices.Equal(text(r.Answer), tc.answer) || r.Authoritative || !r.RecursionAvailable || !r.RecursionDesired {
			t.Errorf("%s over %s: %v", tc.name, tc.network, r)
		}
	}
	if askedBad.Load() == 0 {
		t.Error("the first recursor was never asked")
	}
	// Own answers say that recursion is at hand, and end in foreign addresses where names lead out.
	r := ask(t, s, "udp", "web.service.consul.", dns.TypeA, 0)
	if !r.Authoritative || !r.RecursionAvailable {
		t.Errorf("flags %s", r.MsgHdr.String())
	}
	want := []string{"ext.service.consul. 1 IN CNAME www.example.com.", "www.example.com. 1 IN A 198.51.100.7"}
	if got := text(ask(t, s, "udp", "ext.service.consul.", dns.TypeA, 0).Answer); !slices.Equal(got, want) {
		t.Errorf("CNAME: %q", got)
	}
	if got := text(ask(t, s, "udp", "ext.service.consul.", dns.TypeSRV, 0).Extra); !slices.Equal(got, want[1:]) {
		t.Errorf("SRV: %q", got)
	}
	big := ask(t, s, "udp", "big.test.", dns.TypeA, 0)
	if !big.Truncated || len(big.Answer) == 0 || len(big.Answer) == 100 {
		t.Errorf("100 foreign records without EDNS: tc %t, %d answers", big.Truncated, len(big.Answer))
	}
	if n := len(ask(t, s, "tcp", "big.test.", dns.TypeA, 0).Answer); n != 100 {
		t.Errorf("%d answers over TCP", n)
	}
}

func TestRecursorAddresses(t *testing.T) {
	got, err := recursorAddrs([]string{"192.0.2.1", "192.0.2.1:5353", "2001:db8::1", "[2001:db8::1]:5353", "[2001:db8::2]"}, nil)
	want := []string{"192.0.2.1:53", "192.0.2.1:5353", "[2001:db8::1]:53", "[2001:db8::1]:5353", "[2001:db8::2]:53"}
	if err != nil || !slices.Equal(got, want) {
		t.Errorf("%q %v", got, err)
	}
}

func TestRandomRecursorsAreAllAsked(t *testing.T) {
	a, askedA := upstream(t, outside)
	b, askedB := upstream(t, outside)
	c := contractConfig()
	c.Recursors, c.RandomRecursor = []string{a, b}, true
	s := start(t, c, broken{})
	for range 40 {
		ask(t, s, "udp", "www.ok.test.", dns.TypeA, 0)
	}
	if askedA.Load() == 0 || askedB.Load() == 0 || askedA.Load()+askedB.Load() != 40 {
		t.Errorf("asked %d and %d times", askedA.Load(), askedB.Load())
	}
}

// A cookie is between the client and us: the recursor sees none, and the client gets ours. An answer to another question is none.
func TestRecursorsSeeNoCookies(t *testing.T) {
	var cookies atomic.Int64
	addr, _ := upstream(t, func(w dns.ResponseWriter, r *dns.Msg) {
		if option[*dns.EDNS0_COOKIE](r) != nil {
			cookies.Add(1)
		}
		m := new(dns.Msg)
		m.SetReply(r)
		if r.Question[0].Name == "twisted.test." {
			m.Question[0].Name = "other.test."
		}
		m.SetEdns0(1232, false)
		m.IsEdns0().Option = []dns.EDNS0{cookieOption(make([]byte, 16)...)}
		_ = w.WriteMsg(m)
	})
	c := contractConfig()
	c.Recursors = []string{addr}
	s := start(t, c, broken{})
	r := exchange(t, s, "udp", withOptions(dns.TypeA, "www.ok.test.", cookieOption([]byte("client-1")...)))
	n := 0
	for _, o := range r.IsEdns0().Option {
		if o.Option() == dns.EDNS0COOKIE {
			n++
		}
	}
	if e := option[*dns.EDNS0_COOKIE](r); n != 1 || len(e.Cookie) != 2*(clientCookie+serverCookie) || cookies.Load() != 0 {
		t.Errorf("%d cookies, %d seen by the recursor: %v", n, cookies.Load(), r)
	}
	if r := ask(t, s, "udp", "twisted.test.", dns.TypeA, 0); r.Rcode != dns.RcodeServerFailure {
		t.Errorf("an answer to another question: %v", r)
	}
}

// A chain of names that leads back to itself ends.
func TestHostNamesInACircle(t *testing.T) {
	w := newWorld(t)
	w.node("a", "b.node.consul", nil)
	w.node("b", "a.node.consul", nil)
	s := start(t, contractConfig(), NewTreeSource(w.tree.Snap))
	r := ask(t, s, "udp", "a.node.consul.", dns.TypeA, 1232)
	if n := len(r.Answer); n == 0 || n > maxChain+1 {
		t.Errorf("%v", r)
	}
}
