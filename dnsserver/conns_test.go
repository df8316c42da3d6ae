package dnsserver

import (
	"bytes"
	"encoding/binary"
	"io"
	"net"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/miekg/dns"
)

// framed is a question as it goes over TCP.
func framed(t *testing.T, id uint16, name string, qtype uint16) []byte {
	t.Helper()
	m := new(dns.Msg)
	m.SetQuestion(name, qtype)
	m.Id = id
	b, err := m.Pack()
	if err != nil {
		t.Fatal(err)
	}
	return append(binary.BigEndian.AppendUint16(nil, uint16(len(b))), b...)
}

// Questions sent at once on one connection are all answered; one that waits for a recursor holds up nobody, and is
// answered although the client has closed its side.
func TestPipelining(t *testing.T) {
	release := make(chan struct{})
	slow, _ := upstream(t, func(w dns.ResponseWriter, r *dns.Msg) { <-release; outside(w, r) })
	c := contractConfig()
	c.Recursors = []string{slow}
	c.RecursorTimeout = patience
	s := start(t, c, NewTreeSource(contractWorld(t).tree.Snap))
	conn, err := net.Dial("tcp", s.Addrs()[0])
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(2 * patience))
	var all []byte
	all = append(all, framed(t, 1, "www.ok.test.", dns.TypeA)...)
	for id, name := range []string{"web.service.consul.", "no.service.consul.", "web1.node.consul.", "web.service.consul."} {
		all = append(all, framed(t, uint16(id+2), name, dns.TypeA)...)
	}
	if _, err := conn.Write(all); err != nil {
		t.Fatal(err)
	}
	if err := conn.(*net.TCPConn).CloseWrite(); err != nil {
		t.Fatal(err)
	}
	dc := &dns.Conn{Conn: conn}
	seen := map[uint16]bool{}
	for range 4 {
		r, err := dc.ReadMsg()
		if err != nil {
			t.Fatal(err)
		}
		seen[r.Id] = true
	}
	if seen[1] || len(seen) != 4 {
		t.Errorf("answered before the slow one: %v", seen)
	}
	close(release)
	if r, err := dc.ReadMsg(); err != nil || r.Id != 1 || len(r.Answer) != 1 {
		t.Errorf("the slow one: %v %v", r, err)
	}
	if _, err := dc.ReadMsg(); err != io.EOF {
		t.Errorf("at the end: %v", err)
	}
}

// More questions than a connection may have under way are answered too, later.
func TestPipeliningIsBounded(t *testing.T) {
	s := start(t, contractConfig(), NewTreeSource(contractWorld(t).tree.Snap))
	conn, err := net.Dial("tcp", s.Addrs()[0])
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(2 * patience))
	const n = 5 * maxPipelined
	var all bytes.Buffer
	for id := range n {
		all.Write(framed(t, uint16(id), "no.service.consul.", dns.TypeA))
	}
	go conn.Write(all.Bytes())
	dc := &dns.Conn{Conn: conn}
	seen := map[uint16]bool{}
	for range n {
		r, err := dc.ReadMsg()
		if err != nil || r.Rcode != dns.RcodeNameError || seen[r.Id] {
			t.Fatalf("%v %v", r, err)
		}
		seen[r.Id] = true
	}
}

// pipes is a listener for connections within a bubble of virtual time.
type pipes struct {
	conns chan net.Conn
	gone  chan struct{}
	once  *sync.Once
}

func (p pipes) Accept() (net.Conn, error) {
	select {
	case c := <-p.conns:
		return c, nil
	case <-p.gone:
		return nil, net.ErrClosed
	}
}
func (p pipes) Close() error   { p.once.Do(func() { close(p.gone) }); return nil }
func (p pipes) Addr() net.Addr { return &net.TCPAddr{} }

// A connection stays open for a while between two questions, and no longer; a client that does not take its answer
// loses it.
func TestConnectionsEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, err := New(contractConfig(), NewTreeSource(contractWorld(t).tree.Snap))
		if err != nil {
			t.Fatal(err)
		}
		ln := pipes{make(chan net.Conn), make(chan struct{}), new(sync.Once)}
		s.serveConns(s.settings.Load(), ln, nil)
		defer s.Close(t.Context())
		dial := func() *dns.Conn {
			here, there := net.Pipe()
			ln.conns <- there
			return &dns.Conn{Conn: here}
		}
		m := new(dns.Msg)
		m.SetQuestion("web.service.consul.", dns.TypeA)
		idle := dial()
		for range 3 {
			if err := idle.WriteMsg(m); err != nil {
				t.Fatal(err)
			}
			if r, err := idle.ReadMsg(); err != nil || len(r.Answer) != 2 {
				t.Fatalf("%v %v", r, err)
			}
			time.Sleep(tcpIdle - time.Second)
		}
		begin := time.Now()
		if _, err := idle.ReadMsg(); err != io.EOF || time.Since(begin) > 2*time.Second {
			t.Errorf("%v after %v", err, time.Since(begin))
		}
		deaf := dial()
		if err := deaf.WriteMsg(m); err != nil {
			t.Fatal(err)
		}
		time.Sleep(tcpTimeout + time.Second)
		if _, err := deaf.ReadMsg(); err == nil {
			t.Error("an answer was kept for a client that does not read")
		}
	})
}

// raw sends a packet over UDP and gives the answer. Without an answer to wait for it looks whether there is one before
// that of a good question.
func raw(t *testing.T, s *Server, packet []byte, answered bool) []byte {
	t.Helper()
	conn, err := net.Dial("udp", s.Addrs()[0])
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(patience))
	if _, err := conn.Write(packet); err != nil {
		t.Fatal(err)
	}
	if !answered {
		if _, err := conn.Write(framed(t, 0xBEEF, "web.service.consul.", dns.TypeA)[2:]); err != nil {
			t.Fatal(err)
		}
	}
	buf := make([]byte, 4096)
	n, err := conn.Read(buf)
	if err != nil {
		t.Fatalf("%x: %v", packet, err)
	}
	return buf[:n]
}

// Packets in the corners of the protocol.
func TestOddPackets(t *testing.T) {
	s := start(t, contractConfig(), NewTreeSource(contractWorld(t).tree.Snap))
	header := func(flags, qd, an, ns, ar uint16) []byte {
		b := []byte{0x12, 0x34}
		for _, n := range []uint16{flags, qd, an, ns, ar} {
			b = binary.BigEndian.AppendUint16(b, n)
		}
		return b
	}
	question := func(name string, qtype, class uint16) []byte {
		var b []byte
		for _, l := range strings.Split(strings.Trim(name, "."), ".") {
			b = append(append(b, byte(len(l))), l...)
		}
		return binary.BigEndian.AppendUint16(binary.BigEndian.AppendUint16(append(b, 0), qtype), class)
	}
	opt := func(version byte, data ...byte) []byte {
		b := []byte{0, 0, 41, 4, 208, 0, version, 0, 0}
		return append(binary.BigEndian.AppendUint16(b, uint16(len(data))), data...)
	}
	join := func(parts ...[]byte) []byte { return bytes.Join(parts, nil) }
	web := question("web.service.consul", dns.TypeA, dns.ClassINET)
	label := strings.Repeat("x", 61)
	for what, c := range map[string]struct {
		packet []byte
		rcode  int // -1: no answer
	}{
		"no question":                     {header(0x100, 0, 0, 0, 0), dns.RcodeFormatError},
		"no question, with OPT":           {join(header(0x100, 0, 0, 0, 1), opt(0)), dns.RcodeFormatError},
		"a question announced, none here": {header(0x100, 1, 0, 0, 0), dns.RcodeFormatError},
		"two questions":                   {join(header(0x100, 2, 0, 0, 0), web, web), dns.RcodeFormatError},
		"an answer":                       {join(header(0x8100, 1, 0, 0, 0), web), -1},
		"half a header":                   {header(0x100, 1, 0, 0, 0)[:7], -1},
		"class CH":                        {join(header(0x100, 1, 0, 0, 0), question("version.bind", dns.TypeTXT, dns.ClassCHAOS)), dns.RcodeRefused},
		"class ANY":                       {join(header(0x100, 1, 0, 0, 0), question("web.service.consul", dns.TypeA, dns.ClassANY)), dns.RcodeRefused},
		"OPT announced, none here":        {join(header(0x100, 1, 0, 0, 1), web), dns.RcodeSuccess},
		"OPT cut in the middle":           {join(header(0x100, 1, 0, 0, 1), web, opt(0)[:6]), dns.RcodeFormatError},
		"option longer than OPT":          {join(header(0x100, 1, 0, 0, 1), web, opt(0, 0, 10, 0, 99, 1)), dns.RcodeFormatError},
		"two OPT records":                 {join(header(0x100, 1, 0, 0, 2), web, opt(0), opt(0)), dns.RcodeFormatError},
		"EDNS version 1":                  {join(header(0x100, 1, 0, 0, 1), web, opt(1)), dns.RcodeBadVers},
		"name of 255 bytes":               {join(header(0x100, 1, 0, 0, 0), question(strings.Join([]string{label, label, label, strings.Repeat("y", 52), "service", "consul"}, "."), dns.TypeA, 1)), dns.RcodeNameError},
		"name of 256 bytes":               {join(header(0x100, 1, 0, 0, 0), question(strings.Join([]string{label, label, label, strings.Repeat("y", 53), "service", "consul"}, "."), dns.TypeA, 1)), dns.RcodeFormatError},
		"label of 64 bytes":               {join(header(0x100, 1, 0, 0, 0), []byte{64}, bytes.Repeat([]byte{'x'}, 64), []byte{0, 0, 1, 0, 1}), dns.RcodeFormatError},
		"zeros and dots within labels":    {join(header(0x100, 1, 0, 0, 0), []byte{3, 0, '.', '\\', 7}, []byte("service"), []byte{6}, []byte("consul"), []byte{0, 0, 1, 0, 1}), dns.RcodeNameError},
		"pointer at itself":               {join(header(0x100, 1, 0, 0, 0), []byte{0xC0, 12, 0, 1, 0, 1}), dns.RcodeFormatError},
		"status":                          {join(header(2<<11, 1, 0, 0, 0), web), dns.RcodeNotImplemented},
	} {
		got := raw(t, s, c.packet, c.rcode >= 0)
		m := new(dns.Msg)
		if err := m.Unpack(got); err != nil || !m.Response || m.Id == 0x1234 != (c.rcode >= 0) || m.Rcode != max(c.rcode, 0) {
			t.Errorf("%s: %v %v", what, m, err)
		}
		if m.Rcode != dns.RcodeSuccess && m.Rcode != dns.RcodeNameError && len(got) > len(c.packet)+optSize {
			t.Errorf("%s: %d bytes answered by %d", what, len(c.packet), len(got))
		}
	}
}
