package dnsserver

import (
	"crypto/rand"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"net"
	"net/netip"
	"slices"
	"time"

	"github.com/dchest/siphash"
	"github.com/miekg/dns"
)

// udpSize is what our OPT records say we take over UDP, in bytes: what passes unfragmented everywhere.
const udpSize = 1232

// cookieSecret makes server cookies (RFC 9018). It lives as long as the process: a client that comes with an older
// one gets a new one.
type cookieSecret struct{ k0, k1 uint64 }

func newCookieSecret() cookieSecret {
	var b [16]byte
	_, _ = rand.Read(b[:]) // never fails
	return cookieSecret{binary.LittleEndian.Uint64(b[:8]), binary.LittleEndian.Uint64(b[8:])}
}

// Lengths in bytes: RFC 7873 section 4, RFC 9018 section 4.
const (
	clientCookie    = 8
	serverCookie    = 16
	minServerCookie = 8
	maxServerCookie = 32
)

// server makes the server cookie for a client: version, time and a hash of both with the client's cookie and address.
func (k cookieSecret) server(client []byte, addr netip.Addr, now time.Time) []byte {
	b := make([]byte, 0, clientCookie+8+16)
	b = append(b, client...)
	b = append(b, 1, 0, 0, 0)
	b = binary.BigEndian.AppendUint32(b, uint32(now.Unix()))
	b = append(b, addr.AsSlice()...)
	out := make([]byte, 0, serverCookie)
	out = append(out, b[clientCookie:clientCookie+8]...)
	return binary.LittleEndian.AppendUint64(out, siphash.Hash(k.k0, k.k1, b))
}

var errCookie = errors.New("dns: malformed cookie")

// options are the EDNS options of one answer.
type options struct {
	opt    bool // the question has an OPT record, so the answer has one
	cookie []byte
	subnet *dns.EDNS0_SUBNET
	scoped bool   // the answer may depend on the subnet
	error  uint16 // extended error (RFC 8914)
	failed bool   // error is meant
}

// readOptions reads what of a question's OPT record concerns the answer. Unknown options are ignored, as RFC 6891 has
// it. The error means FORMERR.
func (s *Server) readOptions(req *dns.Msg, client net.Addr) (options, error) {
	o := req.IsEdns0()
	if o == nil {
		return options{}, nil
	}
	out := options{opt: true}
	for _, one := range o.Option {
		switch e := one.(type) {
		case *dns.EDNS0_SUBNET:
			if out.subnet == nil {
				out.subnet = e
			}
		case *dns.EDNS0_COOKIE:
			if out.cookie != nil {
				continue
			}
			c, err := hex.DecodeString(e.Cookie)
			if n := len(c) - clientCookie; err != nil || n != 0 && (n < minServerCookie || n > maxServerCookie) {
				return out, errCookie
			}
			out.cookie = append(c[:clientCookie:clientCookie], s.cookies.server(c[:clientCookie], addrOf(client), time.Now())...)
		}
	}
	return out, nil
}

// addrOf is the IP address of a client, the zero Addr when it has none.
func addrOf(client net.Addr) netip.Addr {
	switch a := client.(type) {
	case *net.UDPAddr:
		return a.AddrPort().Addr().Unmap()
	case *net.TCPAddr:
		return a.AddrPort().Addr().Unmap()
	case *peer:
		return addrOf(a.Addr)
	}
	return netip.Addr{}
}

// client is for whom is asked: the subnet, or who sent the question.
func (o *options) client(sender net.Addr) netip.Addr {
	if o.subnet != nil {
		if a, ok := netip.AddrFromSlice(o.subnet.Address); ok {
			return a.Unmap()
		}
	}
	return addrOf(sender)
}

// fail adds an extended error.
func (o *options) fail(code uint16) { o.error, o.failed = code, true }

// record is the OPT record for the answer, nil when there is none. A client subnet (RFC 7871) comes back with
// scope 0, for most answers are the same for everybody, or with its own length.
func (o *options) record() *dns.OPT {
	if !o.opt {
		return nil
	}
	out := &dns.OPT{Hdr: dns.RR_Header{Name: ".", Rrtype: dns.TypeOPT}}
	out.SetUDPSize(udpSize)
	if o.subnet != nil {
		c := *o.subnet
		if c.SourceScope = 0; o.scoped {
			c.SourceScope = c.SourceNetmask
		}
		out.Option = append(out.Option, &c)
	}
	if o.cookie != nil {
		out.Option = append(out.Option, o.cookieOption())
	}
	if o.failed {
		out.Option = append(out.Option, &dns.EDNS0_EDE{InfoCode: o.error})
	}
	return out
}

func (o *options) cookieOption() *dns.EDNS0_COOKIE {
	return &dns.EDNS0_COOKIE{Code: dns.EDNS0COOKIE, Cookie: hex.EncodeToString(o.cookie)}
}

// dropCookies takes cookies out of m: they are between neighbours, and nothing for whoever comes behind
// (RFC 7873 section 3).
func dropCookies(m *dns.Msg) {
	if o := m.IsEdns0(); o != nil {
		o.Option = slices.DeleteFunc(o.Option, func(e dns.EDNS0) bool { return e.Option() == dns.EDNS0COOKIE })
	}
}

// size is that of the OPT record in wire form, without a subnet.
func (o *options) size() int {
	if !o.opt {
		return 0
	}
	n := optSize
	if o.cookie != nil {
		n += 4 + len(o.cookie)
	}
	if o.failed {
		n += 6
	}
	return n
}

// append writes the OPT record in wire form (RFC 6891 section 6.1), without a subnet.
func (o *options) append(b []byte) []byte {
	b = append(b, 0, 0, byte(dns.TypeOPT), udpSize>>8, udpSize&0xFF, 0, 0, 0, 0)
	b = binary.BigEndian.AppendUint16(b, uint16(o.size()-optSize))
	if o.cookie != nil {
		b = binary.BigEndian.AppendUint16(b, dns.EDNS0COOKIE)
		b = binary.BigEndian.AppendUint16(b, uint16(len(o.cookie)))
		b = append(b, o.cookie...)
	}
	if o.failed {
		b = append(b, 0, dns.EDNS0EDE, 0, 2, byte(o.error>>8), byte(o.error))
	}
	return b
}

// failure is the extended error for a lookup that failed.
func failure(err error) uint16 {
	if errors.Is(err, ErrUnreachable) {
		return dns.ExtendedErrorCodeNoReachableAuthority
	}
	return dns.ExtendedErrorCodeOther
}
