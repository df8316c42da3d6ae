package dnsserver

import (
	"bytes"
	"encoding/binary"

	"github.com/miekg/dns"
)

// appendNegative writes an answer without records to req: the question, and the SOA record that says for how long it
// holds (RFC 2308 section 2), whose owner ends the question's name. It writes what package dns would, at less cost,
// because names that do not exist are what storms are made of. It reports false when the question cannot be packed.
func appendNegative(b []byte, req *dns.Msg, rcode int, soa *dns.SOA, opts *options, ra bool) ([]byte, bool) {
	b = append(b[:0], make([]byte, 12+255+4)...)
	off, err := dns.PackDomainName(req.Question[0].Name, b, 12, nil, false)
	if err != nil {
		return nil, false
	}
	var zone [255]byte
	n, err := dns.PackDomainName(soa.Hdr.Name, zone[:], 0, nil, false)
	if err != nil || n > off-12 {
		return nil, false
	}
	owner := zone[:n]
	at := uint16(0xC000 | (off + 4)) // where the zone's name stands
	if bytes.Equal(b[off-n:off], owner) {
		at = uint16(0xC000 | (off - n)) // within the question, unless that has capitals
		owner = []byte{byte(at >> 8), byte(at)}
	}
	b = binary.BigEndian.AppendUint16(b[:off], req.Question[0].Qtype)
	b = binary.BigEndian.AppendUint16(b, req.Question[0].Qclass)

	b = append(b, owner...)
	b = binary.BigEndian.AppendUint16(b, dns.TypeSOA)
	b = binary.BigEndian.AppendUint16(b, dns.ClassINET)
	b = binary.BigEndian.AppendUint32(b, soa.Hdr.Ttl)
	length := len(b)
	b = append(b, 0, 0)
	b = append(append(b, byte(len(soaHost))), soaHost...)
	b = binary.BigEndian.AppendUint16(b, at)
	b = append(append(b, byte(len(soaMail))), soaMail...)
	b = binary.BigEndian.AppendUint16(b, at)
	for _, number := range [...]uint32{soa.Serial, soa.Refresh, soa.Retry, soa.Expire, soa.Minttl} {
		b = binary.BigEndian.AppendUint32(b, number)
	}
	binary.BigEndian.PutUint16(b[length:], uint16(len(b)-length-2))
	extra := 0
	if opts.opt {
		b, extra = opts.append(b), 1
	}
	putHeader(b, req, 0, extra, ra, false)
	b[3] |= byte(rcode) // RCODE, the low four bits
	b[9] = 1            // NSCOUNT
	return b, true
}

// negative answers with rep if it has no records but an SOA record of the question's own zone.
func (h handler) negative(w dns.ResponseWriter, req *dns.Msg, opts options, st *settings, q question, rep *reply) bool {
	if len(rep.groups) > 0 || len(rep.extra) > 0 || len(rep.authority) != 1 || st.DisableCompression || opts.subnet != nil || q.kind == kindPTR {
		return false
	}
	soa, ok := rep.authority[0].(*dns.SOA)
	if !ok {
		return false
	}
	buf := h.s.buffers.Get().(*[]byte)
	defer h.s.buffers.Put(buf)
	b, ok := appendNegative(*buf, req, rep.rcode, soa, &opts, len(st.recursors) > 0)
	if !ok {
		return false
	}
	*buf = b
	if _, err := w.Write(b); err != nil {
		h.s.counters.writeFailed.Add(1)
	}
	return true
}
