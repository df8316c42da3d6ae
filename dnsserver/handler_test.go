package dnsserver

import (
	"fmt"
	"net"
	"sync"
	"testing"
	"time"

	"github.com/miekg/dns"
	"golang.org/x/net/ipv4"

	"github.com/musterhq/muster/guard"
)

// sink is a ResponseWriter that keeps the last answer.
type sink struct{ last []byte }

func (s *sink) LocalAddr() net.Addr         { return &net.UDPAddr{} }
func (s *sink) RemoteAddr() net.Addr        { return &net.UDPAddr{} }
func (s *sink) Write(b []byte) (int, error) { s.last = append(s.last[:0], b...); return len(b), nil }
func (s *sink) WriteMsg(m *dns.Msg) error   { b, err := m.Pack(); s.last = b; return err }
func (s *sink) Close() error                { return nil }
func (s *sink) TsigStatus() error           { return nil }
func (s *sink) TsigTimersOnly(bool)         {}
func (s *sink) Hijack()                     {}

// FuzzPacket: whatever arrives and can be read as a message is answered with a well-formed answer to it that is no
// larger than the question allows.
func FuzzPacket(f *testing.F) {
	add := func(m *dns.Msg) {
		b, err := m.Pack()
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b, false)
		f.Add(b, true)
	}
	for _, tc := range answers {
		m := new(dns.Msg)
		m.SetQuestion(tc.name, dns.StringToType[tc.qtype])
		add(m)
		m.SetEdns0(600, true)
		add(m)
	}
	for _, qtype := range []uint16{dns.TypeA, dns.TypeSRV, dns.TypeSVCB, dns.TypeHTTPS, dns.TypeANY, dns.TypeAXFR} {
		for _, size := range []uint16{0, 512, 513, 1232, 65535} {
			m := withOptions(qtype, "Bulk.service.consul.", cookieOption(1, 2, 3, 4, 5, 6, 7, 8),
				&dns.EDNS0_SUBNET{Code: dns.EDNS0SUBNET, Family: 2, SourceNetmask: 56, Address: net.ParseIP("2001:db8::")},
				&dns.EDNS0_NSID{Code: dns.EDNS0NSID}, &dns.EDNS0_LOCAL{Code: 65001, Data: []byte("x")}, &dns.EDNS0_PADDING{Padding: make([]byte, 40)})
			m.IsEdns0().SetUDPSize(size)
			add(m)
			m.IsEdns0().Option = []dns.EDNS0{cookieOption(make([]byte, 9)...)}
			add(m)
			m.IsEdns0().Option = []dns.EDNS0{cookieOption(make([]byte, 40)...)}
			m.Question[0].Name = "nope.service.consul."
			add(m)
		}
	}
	m := withOptions(dns.TypeHTTPS, "bulk.service.consul.")
	m.IsEdns0().SetVersion(3)
	add(m)
	m = withOptions(dns.TypeTXT, "version.bind.")
	m.Question[0].Qclass = dns.ClassCHAOS
	add(m)
	add(new(dns.Msg))
	w := contractWorld(f)
	w.bulk("bulk", 60)
	s, err := New(contractConfig(), guarded(w))
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, packet []byte, tcp bool) {
		req := new(dns.Msg)
		if req.Unpack(packet) != nil {
			return
		}
		w := &sink{}
		handler{s, tcp}.ServeDNS(w, req)
		if w.last == nil {
			t.Fatalf("no answer to %v", req)
		}
		resp := new(dns.Msg)
		if err := resp.Unpack(w.last); err != nil {
			t.Fatalf("%v\nanswered by a malformed message: %v", req, err)
		}
		if resp.Id != req.Id || !resp.Response {
			t.Fatalf("%v\nanswered by %v", req, resp)
		}
		if s.counters.panics.Load() > 0 {
			t.Fatal("a panic was caught")
		}
		if n, most := len(w.last), allowed(req, resp, tcp); n > most {
			t.Fatalf("%v\nof %d bytes is answered by %d bytes, allowed are %d\n%v", req, len(packet), n, most, resp)
		}
	})
}

// answersOf is a socket that keeps what is sent.
type answersOf struct {
	net.PacketConn
	mu   sync.Mutex
	sent [][]byte
}

func (o *answersOf) WriteTo(b []byte, _ net.Addr) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.sent = append(o.sent, append([]byte(nil), b...))
	return len(b), nil
}

func (o *answersOf) WriteBatch(ms []ipv4.Message, _ int) (int, error) {
	for _, m := range ms {
		_, _ = o.WriteTo(m.Buffers[0], m.Addr)
	}
	return len(ms), nil
}

func (o *answersOf) ReadBatch([]ipv4.Message, int) (int, error) { return 0, net.ErrClosed }

// FuzzRawPacket: whatever bytes arrive over UDP, there is one answer at most, it belongs to the packet, and it is not
// larger than what the packet, if it is a question, says that may come back.
func FuzzRawPacket(f *testing.F) {
	for _, tc := range answers {
		m := new(dns.Msg)
		m.SetQuestion(tc.name, dns.StringToType[tc.qtype])
		for _, size := range []uint16{0, 100, 1232, 65535} {
			if size > 0 {
				m.SetEdns0(size, false)
			}
			b, err := m.Pack()
			if err != nil {
				f.Fatal(err)
			}
			f.Add(b)
			f.Add(b[:len(b)-3])
			f.Add(append(b, 0, 1, 2))
			m.Extra = nil
		}
	}
	f.Add([]byte{})
	f.Add(make([]byte, 12))
	f.Add([]byte("\x00\x01\x01\x00\x00\x01\x00\x00\x00\x00\x00\x00\xc0\x0c\x00\x01\x00\x01"))
	w := contractWorld(f)
	w.bulk("bulk", 60)
	c := contractConfig()
	c.ClientRate = 0
	s, err := New(c, guarded(w))
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, packet []byte) {
		sock := &answersOf{}
		u := makeUDPSocket(handler{s, false}, sock, sock)
		u.answer(packet[:min(len(packet), maxQuery)], &net.UDPAddr{IP: net.IPv4(192, 0, 2, 1), Port: 4000}, nil)
		u.flush()
		u.pending.Wait()
		if s.counters.panics.Load() > 0 {
			t.Fatal("a panic was caught")
		}
		if len(sock.sent) == 0 {
			return
		}
		got, resp, req := sock.sent[0], new(dns.Msg), new(dns.Msg)
		if err := resp.Unpack(got); err != nil || len(sock.sent) > 1 || len(packet) < 12 || !resp.Response || got[0] != packet[0] || got[1] != packet[1] {
			t.Fatalf("%x\nis answered by %d answers, %v\n%v", packet, len(sock.sent), err, resp)
		}
		most := max(len(packet), 12) // of a packet that cannot be read, the question at most
		if len(packet) <= maxQuery && req.Unpack(packet) == nil {
			most = allowed(req, resp, false)
		}
		if len(got) > most {
			t.Fatalf("%x\nof %d bytes is answered by %d bytes, allowed are %d\n%v", packet, len(packet), len(got), most, resp)
		}
	})
}

// allowed is the size in bytes that the answer to req may have: a refusal is the question, an OPT record if there was
// one, and nothing else; an answer has the size that the client takes, or a single record.
func allowed(req, resp *dns.Msg, tcp bool) int {
	opt, size := 0, minUDP
	if o := req.IsEdns0(); o != nil {
		const cookie, extended = 4 + clientCookie + serverCookie, 6
		const subnet = 4 + 4 + 16
		opt, size = optSize+cookie+extended+subnet, max(minUDP, int(o.UDPSize()))
	}
	if resp.Rcode != dns.RcodeSuccess && resp.Rcode != dns.RcodeNameError {
		bare := dns.Msg{Question: req.Question[:min(1, len(req.Question))]}
		return bare.Len() + opt
	}
	switch {
	case tcp:
		return dns.MaxMsgSize
	case len(resp.Answer) == 1 && resp.Answer[0].Header().Rrtype != dns.TypeA:
		return dns.MaxMsgSize // the least there can be
	}
	return size
}

func TestInflightQuestionsAreLimited(t *testing.T) {
	c := contractConfig()
	c.MaxInflight = 1
	s, err := New(c, broken{})
	if err != nil {
		t.Fatal(err)
	}
	m := new(dns.Msg)
	m.SetQuestion("web.service.consul.", dns.TypeA)
	s.inflight.Add(1) // somebody is being served
	w := &sink{}
	handler{s, false}.ServeDNS(w, m)
	if w.last != nil || s.counters.dropped.Load() != 1 {
		t.Error("a question over the limit was answered")
	}
	handler{s, true}.ServeDNS(w, m) // TCP has its own limit
	if w.last == nil {
		t.Error("no answer over TCP")
	}
	s.inflight.Add(-1)
	w.last = nil
	if (handler{s, false}).ServeDNS(w, m); w.last == nil || s.inflight.Load() != 0 {
		t.Error("no answer below the limit")
	}
}

// bare is what a DNS server made of package dns alone does for a fixed answer.
func bare(rrs []dns.RR) dns.HandlerFunc {
	return func(w dns.ResponseWriter, req *dns.Msg) {
		m := new(dns.Msg)
		m.SetReply(req)
		m.Authoritative = true
		m.Compress = true
		m.Answer = rrs
		_ = w.WriteMsg(m)
	}
}

type writer struct{ sink }

func (w *writer) Write(b []byte) (int, error) { return len(b), nil }
func (w *writer) WriteMsg(m *dns.Msg) error   { _, err := m.Pack(); return err }

// guarded is the source of a server as agents run it.
func guarded(w *world) *TreeSource {
	src := NewTreeSource(w.tree.Snap)
	g := guard.New(guard.Config{Rules: guard.DefaultRules()})
	g.Begin()
	src.Guard(g)
	return src
}

// BenchmarkAnswer is the work of one answer without network: ours from packed sets, and the fixed answer of the same
// records.
func BenchmarkAnswer(b *testing.B) {
	w := newWorld(b)
	w.bulk("three", 3)
	w.bulk("fifty", 50)
	s, err := New(contractConfig(), guarded(w))
	if err != nil {
		b.Fatal(err)
	}
	for _, svc := range []string{"three", "fifty"} {
		for _, qtype := range []uint16{dns.TypeA, dns.TypeSRV} {
			req := new(dns.Msg)
			req.SetQuestion(svc+".service.consul.", qtype)
			req.SetEdns0(4096, false)
			var out writer
			got := &sink{}
			handler{s, false}.ServeDNS(got, req)
			full := new(dns.Msg)
			if err := full.Unpack(got.last); err != nil {
				b.Fatal(err)
			}
			name := svc + "/" + dns.TypeToString[qtype]
			b.Run(name+"/muster", func(b *testing.B) {
				b.ReportAllocs()
				for b.Loop() {
					handler{s, false}.ServeDNS(&out, req)
				}
			})
			fixed := bare(full.Answer)
			b.Run(name+"/bare", func(b *testing.B) {
				b.ReportAllocs()
				for b.Loop() {
					fixed(&out, req)
				}
			})
		}
	}
}

// BenchmarkMissing is the same for names that do not exist, each another.
func BenchmarkMissing(b *testing.B) {
	w := newWorld(b)
	w.bulk("three", 3)
	s, err := New(contractConfig(), guarded(w))
	if err != nil {
		b.Fatal(err)
	}
	reqs := make([]*dns.Msg, 1000)
	for i := range reqs {
		reqs[i] = new(dns.Msg)
		reqs[i].SetQuestion(fmt.Sprintf("no%d.service.consul.", i), dns.TypeA)
		reqs[i].SetEdns0(4096, false)
	}
	var out writer
	b.ReportAllocs()
	for i := 0; b.Loop(); i++ {
		handler{s, false}.ServeDNS(&out, reqs[i%len(reqs)])
	}
}

// BenchmarkLive is the same over real sockets, with as many clients as processors.
func BenchmarkLive(b *testing.B) {
	w := newWorld(b)
	w.bulk("three", 3)
	w.bulk("fifty", 50)
	c := contractConfig()
	s, err := New(c, guarded(w))
	if err != nil {
		b.Fatal(err)
	}
	if err := s.Start(); err != nil {
		b.Fatal(err)
	}
	defer s.Close(b.Context())
	for _, svc := range []string{"three", "fifty"} {
		m := new(dns.Msg)
		m.SetQuestion(svc+".service.consul.", dns.TypeA)
		m.SetEdns0(4096, false)
		q, _ := m.Pack()
		got := &sink{}
		handler{s, false}.ServeDNS(got, m)
		full := new(dns.Msg)
		if err := full.Unpack(got.last); err != nil {
			b.Fatal(err)
		}
		b.Run(svc+"/muster", func(b *testing.B) { load(b, s.Addrs()[0], q) })
		pc, err := net.ListenPacket("udp", "127.0.0.1:0")
		if err != nil {
			b.Fatal(err)
		}
		d := &dns.Server{PacketConn: pc, Handler: bare(full.Answer)}
		go d.ActivateAndServe()
		b.Run(svc+"/bare", func(b *testing.B) { load(b, pc.LocalAddr().String(), q) })
		_ = d.Shutdown()
	}
}

func load(b *testing.B, addr string, q []byte) {
	b.SetParallelism(8)
	b.RunParallel(func(pb *testing.PB) {
		c, err := net.Dial("udp", addr)
		if err != nil {
			b.Error(err)
			return
		}
		defer c.Close()
		buf := make([]byte, 8192)
		for pb.Next() {
			_ = c.SetDeadline(time.Now().Add(patience))
			if _, err := c.Write(q); err != nil {
				b.Error(err)
				return
			}
			if _, err := c.Read(buf); err != nil {
				b.Error(err)
				return
			}
		}
	})
}
