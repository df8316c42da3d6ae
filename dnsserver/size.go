package dnsserver

import (
	"sort"

	"github.com/miekg/dns"
)

// Bounds of an answer, see DESIGN.md for where they come from.
const (
	minUDP      = 512   // without EDNS, RFC 1035 section 4.2.1
	maxUDP      = 65467 // what an IP packet carries, less headers
	maxTCP      = 65523
	maxTCPCount = 4096
	maxTCPSRV   = 1024
	optSize     = 11 // an OPT record without options
)

// limits of one answer.
type limits struct {
	bytes  int // of the packet
	counts int // answer records
}

// limitsFor follows from how the question came and what size the client says it can take.
func limitsFor(st *settings, req *dns.Msg, tcp bool) limits {
	if tcp {
		n := maxTCPCount
		if req.Question[0].Qtype == dns.TypeSRV {
			n = maxTCPSRV
		}
		return limits{bytes: maxTCP, counts: n}
	}
	if o := req.IsEdns0(); o != nil && o.UDPSize() > minUDP {
		return limits{bytes: min(int(o.UDPSize()), maxUDP), counts: maxTCPCount}
	}
	return limits{bytes: minUDP, counts: min(8, st.UDPAnswerLimit)}
}

// compose fills m with as many groups as fit, from the first, with what they bring along, the loose additional
// records and the authority section. It reports whether answers were cut. When space is short the authority
// section goes first, then loose records from the end, then answers from the end; one answer is always sent.
func compose(m *dns.Msg, rep *reply, lim limits) (cut bool) {
	fits := func(answers, loose int, authority bool) bool {
		m.Answer, m.Ns = m.Answer[:0], nil
		for _, g := range rep.groups[:answers] {
			m.Answer = append(m.Answer, g.answer...)
		}
		if authority {
			m.Ns = rep.authority
		}
		m.Extra = append(m.Extra[:0], rep.extra[:loose]...)
		addExtra(m, rep.groups[:answers])
		return m.Len() <= lim.bytes
	}
	n, records := 0, 0
	for n < len(rep.groups) && (n == 0 || records+len(rep.groups[n].answer) <= lim.counts) {
		records += len(rep.groups[n].answer)
		n++
	}
	cut = n < len(rep.groups)
	loose := len(rep.extra)
	if fits(n, loose, true) || fits(n, loose, false) {
		return cut
	}
	// The smallest number of loose records that is too many; 0 means that the answers alone are.
	if l := sort.Search(loose, func(l int) bool { return !fits(n, l, false) }); l > 0 {
		fits(n, l-1, false)
		return cut
	}
	k := max(1, sort.Search(n, func(k int) bool { return !fits(k+1, 0, false) }))
	fits(min(k, n), 0, false)
	return cut || k < n
}

// addExtra appends what the groups bring along, each record once.
func addExtra(m *dns.Msg, groups []group) {
	total := 0
	for _, g := range groups {
		total += len(g.extra)
	}
	if total == 0 {
		return
	}
	seen := make(map[string]struct{}, total)
	for _, g := range groups {
		for _, rr := range g.extra {
			k := rr.String()
			if _, dup := seen[k]; !dup {
				seen[k] = struct{}{}
				m.Extra = append(m.Extra, rr)
			}
		}
	}
}
