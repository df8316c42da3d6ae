package dnsserver

import (
	"context"
	"fmt"
	"strings"

	"github.com/miekg/dns"
)

// maxForeign is how many records of a foreign name are added to one of our answers.
const maxForeign = 5

// recurse passes a question on, over the transport it came by, until a recursor gives a final answer: NOERROR or
// NXDOMAIN. The answer goes back as it is, but for the id and cookies.
func (s *Server) recurse(ctx context.Context, st *settings, req *dns.Msg, tcp bool) (*dns.Msg, error) {
	select {
	case s.recursing <- struct{}{}:
		defer func() { <-s.recursing }()
	default:
		return nil, fmt.Errorf("dns: more than %d questions wait for recursors", cap(s.recursing))
	}
	client := dns.Client{Net: "udp", Timeout: st.RecursorTimeout, UDPSize: maxQuery} // some send more than was asked for
	if tcp {
		client.Net = "tcp"
	}
	out := req.Copy()
	dropCookies(out)
	var last error
	for _, addr := range st.order() {
		out.Id = dns.Id()
		resp, _, err := client.ExchangeContext(ctx, out, addr)
		switch {
		case err != nil:
			last = fmt.Errorf("dns: recursor %s: %w", addr, err)
		case !sameQuestion(req, resp):
			last = fmt.Errorf("dns: recursor %s answered another question", addr)
		case resp.Rcode == dns.RcodeSuccess || resp.Rcode == dns.RcodeNameError:
			resp.Id = req.Id
			resp.Authoritative = false
			resp.Compress = !st.DisableCompression
			dropCookies(resp)
			return resp, nil
		default:
			last = fmt.Errorf("dns: recursor %s answered %s", addr, dns.RcodeToString[resp.Rcode])
		}
		s.counters.recursorFailed.Add(1)
	}
	return nil, last
}

// sameQuestion: what answers another question is a mistake or forged.
func sameQuestion(req, resp *dns.Msg) bool {
	if len(resp.Question) != 1 {
		return false
	}
	q, r := req.Question[0], resp.Question[0]
	return q.Qtype == r.Qtype && q.Qclass == r.Qclass && strings.EqualFold(q.Name, r.Name)
}

// foreign asks the recursors for A records of host, for use inside one of our answers.
func (s *Server) foreign(ctx context.Context, st *settings, host string) []dns.RR {
	if len(st.recursors) == 0 {
		return nil
	}
	m := new(dns.Msg)
	m.SetQuestion(host, dns.TypeA)
	m.SetEdns0(udpSize, false)
	resp, err := s.recurse(ctx, st, m, false)
	if err != nil {
		s.log.Debug("host name not resolved", "name", host, "error", err)
		return nil
	}
	var out []dns.RR
	for _, rr := range resp.Answer {
		switch rr.(type) {
		case *dns.A, *dns.AAAA, *dns.CNAME:
			if len(out) < maxForeign {
				out = append(out, rr)
			}
		}
	}
	return out
}
