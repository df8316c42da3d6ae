package dnsserver

import (
	"bytes"
	"encoding/hex"
	"net"
	"net/netip"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/miekg/dns"
)

func option[T dns.EDNS0](m *dns.Msg) (e T) {
	if o := m.IsEdns0(); o != nil {
		for _, one := range o.Option {
			if x, ok := one.(T); ok {
				return x
			}
		}
	}
	return e
}

// withOptions is a question for web with EDNS options.
func withOptions(qtype uint16, name string, opts ...dns.EDNS0) *dns.Msg {
	m := new(dns.Msg)
	m.SetQuestion(name, qtype)
	m.SetEdns0(1400, false)
	m.IsEdns0().Option = opts
	return m
}

func cookieOption(b ...byte) *dns.EDNS0_COOKIE {
	return &dns.EDNS0_COOKIE{Code: dns.EDNS0COOKIE, Cookie: hex.EncodeToString(b)}
}

// Every kind of answer brings the client's cookie back with ours behind it; malformed ones are FORMERR (RFC 7873).
func TestCookies(t *testing.T) {
	s := start(t, contractConfig(), NewTreeSource(contractWorld(t).tree.Snap))
	mine := []byte("client-1")
	for _, name := range []string{"web.service.consul.", "web1.node.consul.", "no.service.consul.", "example.com."} {
		var last string
		for _, network := range []string{"udp", "tcp", "udp"} { // the second answer comes from the packed set
			r := exchange(t, s, network, withOptions(dns.TypeA, name, cookieOption(mine...)))
			e := option[*dns.EDNS0_COOKIE](r)
			if e == nil || len(e.Cookie) != 2*(clientCookie+serverCookie) || !strings.HasPrefix(e.Cookie, hex.EncodeToString(mine)+"01000000") {
				t.Fatalf("%s over %s: %v", name, network, r)
			}
			if r.IsEdns0().UDPSize() != udpSize {
				t.Errorf("%s: we take %d bytes", name, r.IsEdns0().UDPSize())
			}
			last = e.Cookie
		}
		again, _ := hex.DecodeString(last)
		if r := exchange(t, s, "udp", withOptions(dns.TypeA, name, cookieOption(again...))); option[*dns.EDNS0_COOKIE](r) == nil || r.Rcode == dns.RcodeFormatError {
			t.Errorf("%s: our own cookie: %v", name, r)
		}
	}
	for _, n := range []int{0, 1, 7, 9, 15, 41} {
		r := exchange(t, s, "udp", withOptions(dns.TypeA, "web.service.consul.", cookieOption(make([]byte, n)...)))
		if r.Rcode != dns.RcodeFormatError || len(r.Answer) != 0 {
			t.Errorf("a cookie of %d bytes: %v", n, r)
		}
	}
	k, now := newCookieSecret(), time.Now()
	a, b := netip.MustParseAddr("10.0.0.1"), netip.MustParseAddr("10.0.0.2")
	if c := k.server(mine, a, now); bytes.Equal(c, k.server(mine, b, now)) || bytes.Equal(c, newCookieSecret().server(mine, a, now)) || !bytes.Equal(c, k.server(mine, a, now)) {
		t.Error("a server cookie must depend on the secret and the client's address, and on nothing else")
	}
}

// Unknown options are ignored.
func TestUnknownOptions(t *testing.T) {
	s := start(t, contractConfig(), NewTreeSource(contractWorld(t).tree.Snap))
	r := exchange(t, s, "udp", withOptions(dns.TypeA, "web.service.consul.", &dns.EDNS0_LOCAL{Code: 65001, Data: []byte("x")}, &dns.EDNS0_NSID{Code: dns.EDNS0NSID}))
	if len(r.Answer) != 2 || len(r.IsEdns0().Option) != 0 {
		t.Errorf("got %v", r)
	}
}

// Stale and failed answers say so to clients that understand it (RFC 8914).
func TestExtendedErrors(t *testing.T) {
	c := newCluster()
	c.set(webPath, "["+instance("n1", "10.0.0.1", "passing")+"]")
	c.set("/v1/catalog/node/n1", `{"Node":{"Node":"n1","Address":"10.0.0.1"}}`)
	f := newFollower(t, c, 0)
	defer f.Close()
	s := start(t, contractConfig(), f)
	code := func(qtype uint16, name string, want int, rcode int) {
		t.Helper()
		for range 2 {
			r := exchange(t, s, "udp", withOptions(qtype, name))
			e := option[*dns.EDNS0_EDE](r)
			if r.Rcode != rcode || (e == nil) != (want < 0) || e != nil && int(e.InfoCode) != want {
				t.Errorf("%s: %v", name, r)
			}
		}
		if r := ask(t, s, "udp", name, qtype, 0); r.IsEdns0() != nil {
			t.Errorf("%s: an OPT record nobody asked for: %v", name, r)
		}
	}
	code(dns.TypeA, "web.service.consul.", -1, dns.RcodeSuccess)
	code(dns.TypeA, "n1.node.consul.", -1, dns.RcodeSuccess)
	c.fail(true)
	stale := func(get func() bool) {
		t.Helper()
		for end := time.Now().Add(patience); !get(); {
			if time.Now().After(end) {
				t.Fatal("nothing becomes stale")
			}
		}
	}
	stale(func() bool { a, err := f.Service(t.Context(), "web"); return err == nil && a.Stale })
	stale(func() bool { _, old, err := f.Node(t.Context(), "n1"); return err == nil && old })
	code(dns.TypeA, "web.service.consul.", int(dns.ExtendedErrorCodeStaleAnswer), dns.RcodeSuccess)
	code(dns.TypeSRV, "web.service.consul.", int(dns.ExtendedErrorCodeStaleAnswer), dns.RcodeSuccess)
	code(dns.TypeA, "no.web.service.consul.", int(dns.ExtendedErrorCodeStaleAnswer), dns.RcodeNameError)
	code(dns.TypeA, "n1.node.consul.", int(dns.ExtendedErrorCodeStaleAnswer), dns.RcodeSuccess)
	code(dns.TypeA, "unknown.service.consul.", int(dns.ExtendedErrorCodeNoReachableAuthority), dns.RcodeServerFailure)
}

// remote is a client at some address.
type remote struct {
	dns.ResponseWriter
	ip string
}

func (r remote) RemoteAddr() net.Addr { return &net.UDPAddr{IP: net.ParseIP(r.ip), Port: 4000} }

// One address cannot take the place of all others; the loopback address speaks for many.
func TestClientsAreLimited(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newClients()
		one, other, local := netip.MustParseAddr("10.0.0.1"), netip.MustParseAddr("10.0.0.2"), netip.MustParseAddr("127.0.0.1")
		count := func(a netip.Addr, asked int) (n int) {
			for range asked {
				if c.allow(a, 100) {
					n++
				}
			}
			return n
		}
		if n := count(one, 1000); n != 100 {
			t.Errorf("%d of 1000 at once", n)
		}
		if count(other, 100) != 100 || count(local, 1000) != 1000 {
			t.Error("others are limited with it")
		}
		time.Sleep(500 * time.Millisecond)
		if n := count(one, 1000); n != 50 {
			t.Errorf("%d of 1000 half a second later", n)
		}
		a, b := netip.MustParseAddr("2001:db8::1"), netip.MustParseAddr("2001:db8::2:0:0:1")
		if count(a, 100) != 100 || count(b, 100) != 0 {
			t.Error("addresses of one network are not counted together")
		}
		if !c.allow(one, 0) {
			t.Error("limited without a limit")
		}
	})
}

func TestFloodOfOneClientIsCounted(t *testing.T) {
	c := contractConfig()
	c.ClientRate = 1
	s := start(t, c, NewTreeSource(contractWorld(t).tree.Snap))
	if r := ask(t, s, "udp", "web.service.consul.", dns.TypeA, 0); len(r.Answer) != 2 {
		t.Errorf("a client on this machine: %v", r)
	}
	w := &sink{}
	h := handler{s, false}
	for range 5 {
		h.ServeDNS(remote{w, "198.51.100.7"}, withOptions(dns.TypeA, "web.service.consul."))
	}
	if n := s.counters.limited.Load(); n != 4 {
		t.Errorf("%d questions were over the limit, want 4", n)
	}
}

// A server that has not heard of the cluster for a while says so, and when that has been too long it says nothing.
func TestAgeOfAnswers(t *testing.T) {
	var age atomic.Int64
	c := contractConfig()
	c.Age, c.MaxStale = func() time.Duration { return time.Duration(age.Load()) }, 20*time.Second
	s := start(t, c, NewTreeSource(contractWorld(t).tree.Snap))
	questions := map[string]uint16{"web.service.consul.": dns.TypeSRV, "web1.node.consul.": dns.TypeA, "no.service.consul.": dns.TypeA, "1.0.0.10.in-addr.arpa.": dns.TypePTR, "consul.": dns.TypeNS}
	check := func(old time.Duration, want *uint16, failed bool) {
		t.Helper()
		age.Store(int64(old))
		for name, qtype := range questions {
			for range 2 {
				r := exchange(t, s, "udp", withOptions(qtype, name))
				e := option[*dns.EDNS0_EDE](r)
				if (e == nil) != (want == nil) || e != nil && e.InfoCode != *want || (r.Rcode == dns.RcodeServerFailure) != failed || failed && len(r.Answer)+len(r.Ns) > 0 {
					t.Errorf("%v old: %v", old, r)
				}
			}
		}
		if r := ask(t, s, "udp", "0a000001.addr.consul.", dns.TypeA, 0); len(r.Answer) != 1 {
			t.Errorf("a pure computation needs no cluster: %v", r)
		}
	}
	stale, none := dns.ExtendedErrorCodeStaleAnswer, dns.ExtendedErrorCodeNoReachableAuthority
	check(0, nil, false)
	check(4*time.Second, nil, false)
	check(6*time.Second, &stale, false)
	check(21*time.Second, &none, true)
	check(-1, &none, true)
	check(time.Second, nil, false)
	c.MaxStale = time.Second // counts as five
	if err := s.Reload(c); err != nil {
		t.Fatal(err)
	}
	check(4*time.Second, nil, false)
	check(6*time.Second, &none, true)
	c.MaxStale = 0
	if err := s.Reload(c); err != nil {
		t.Fatal(err)
	}
	check(time.Hour, &stale, false)
}
