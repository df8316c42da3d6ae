package dnsserver

import (
	"context"
	"runtime/debug"
	"strings"

	"github.com/miekg/dns"

	"github.com/musterhq/muster/catalog"
)

// handler is the Server as package dns calls it, for one transport.
type handler struct {
	s   *Server
	tcp bool
}

// ServeDNS answers one well-formed message.
func (h handler) ServeDNS(w dns.ResponseWriter, req *dns.Msg) {
	s := h.s
	s.counters.queries.Add(1)
	st := s.settings.Load()
	working := !h.tcp // counts among those at work until it is answered
	if working {
		if !s.clients.allow(addrOf(w.RemoteAddr()), st.ClientRate) {
			s.counters.limited.Add(1)
			return
		}
		if s.inflight.Add(1) > int64(st.MaxInflight) {
			s.inflight.Add(-1)
			s.counters.dropped.Add(1)
			return // the client asks again; an answer would cost what we do not have
		}
		defer func() {
			if working {
				s.inflight.Add(-1)
			}
		}()
	}
	defer s.guard(w, req)
	rcode, ok := acceptable(req)
	opts, err := s.readOptions(req, w.RemoteAddr())
	if err != nil && ok {
		rcode, ok = dns.RcodeFormatError, false
	}
	if !ok {
		s.refuse(w, req, opts, rcode)
		return
	}
	name := strings.ToLower(req.Question[0].Name)
	asker := st.here
	if st.Places != nil {
		asker = st.place(w.RemoteAddr())
	}
	if h.fast(w, req, opts, st, name, asker) {
		return
	}
	if p, ok := w.RemoteAddr().(*peer); ok && p.begin() {
		go h.beside(p.end, w, req, opts, st, name, asker)
		return
	}
	if u, ok := w.(*udpWriter); ok {
		working = false
		u.socket.pending.Add(1)
		end := func() { s.inflight.Add(-1); u.socket.pending.Done() }
		go h.beside(end, u.later(), req, opts, st, name, asker)
		return
	}
	h.slow(w, req, opts, st, name, asker)
}

// beside does the slow way beside the next questions of a connection or a socket.
func (h handler) beside(end func(), w dns.ResponseWriter, req *dns.Msg, opts options, st *settings, name string, asker catalog.Place) {
	defer end()
	defer h.s.guard(w, req)
	h.slow(w, req, opts, st, name, asker)
}

// guard, deferred, turns a panic into SERVFAIL.
func (s *Server) guard(w dns.ResponseWriter, req *dns.Msg) {
	if p := recover(); p != nil {
		s.counters.panics.Add(1)
		s.log.Error("dns question caused a panic", "panic", p, "stack", string(debug.Stack()))
		s.refuse(w, req, options{}, dns.RcodeServerFailure)
	}
}

// acceptable refuses what no lookup could answer.
func acceptable(req *dns.Msg) (rcode int, ok bool) {
	switch {
	case req.Opcode != dns.OpcodeQuery:
		return dns.RcodeNotImplemented, false
	case len(req.Question) == 0:
		return dns.RcodeFormatError, false
	}
	q := &req.Question[0]
	switch {
	case q.Qtype == dns.TypeAXFR || q.Qtype == dns.TypeIXFR:
		return dns.RcodeNotImplemented, false
	case q.Qclass != dns.ClassINET:
		return dns.RcodeRefused, false
	}
	opts := 0
	for _, rr := range req.Extra {
		if o, ok := rr.(*dns.OPT); ok {
			if opts++; opts > 1 {
				return dns.RcodeFormatError, false // RFC 6891 section 6.1.1
			}
			if o.Version() != 0 {
				return dns.RcodeBadVers, false
			}
		}
	}
	return 0, true
}

// fast answers from a packed set, if there is one and its service has not changed.
func (h handler) fast(w dns.ResponseWriter, req *dns.Msg, opts options, st *settings, name string, asker catalog.Place) bool {
	set := st.cache.get(cacheKey{name, req.Question[0].Qtype, asker})
	if set == nil || opts.subnet != nil {
		return false
	}
	a := h.s.src.Peek(set.question.name) // the next questions of the socket wait for this one
	if a == nil || a != set.answer {
		return false
	}
	stale, tooOld := st.age()
	if tooOld {
		return false
	}
	return h.writeSet(w, req, opts, st, set, stale || a.Stale)
}

func (h handler) writeSet(w dns.ResponseWriter, req *dns.Msg, opts options, st *settings, set *set, stale bool) bool {
	if stale {
		opts.fail(dns.ExtendedErrorCodeStaleAnswer)
	}
	x := set.scratch.Get().(*scratch)
	defer set.scratch.Put(x)
	b := set.packet(x, req, limitsFor(st, req, h.tcp), st.ARecordLimit, &opts,
		len(st.recursors) > 0, st.EnableTruncate && !h.tcp)
	if b == nil {
		return false
	}
	if stale {
		h.s.counters.stale.Add(1)
	}
	if _, err := w.Write(b); err != nil {
		h.s.counters.writeFailed.Add(1)
	}
	return true
}

// slow parses the name and looks it up.
func (h handler) slow(w dns.ResponseWriter, req *dns.Msg, opts options, st *settings, name string, asker catalog.Place) {
	s := h.s
	ctx, cancel := context.WithTimeout(s.ctx, st.LookupTimeout)
	defer cancel()
	q := st.zones.parse(name)
	opts.scoped = q.kind == kindQuery
	l := &lookup{st: st, src: s.src, qname: req.Question[0].Name, qtype: req.Question[0].Qtype, asker: asker, client: opts.client(w.RemoteAddr())}
	l.forward = func(ctx context.Context, host string) []dns.RR { return s.foreign(ctx, st, host) }
	var rep *reply
	var err error
	stale, tooOld := st.age()
	switch q.kind {
	case kindForeign:
		h.recurse(ctx, w, req, opts, st)
		return
	case kindPTR:
		found := false
		if tooOld {
			err = ErrUnreachable
		} else if q.addr.IsValid() && (l.qtype == dns.TypePTR || l.qtype == dns.TypeANY) {
			rep, found, err = l.reverse(ctx, q)
		}
		if err == nil && !found {
			if len(st.recursors) > 0 {
				h.recurse(ctx, w, req, opts, st)
				return
			}
			rep = l.missing(q.domain)
		}
	default:
		if tooOld && q.kind != kindAddr {
			err = ErrUnreachable
			break
		}
		rep, err = l.run(ctx, q)
	}
	if err == nil && stale && q.kind != kindAddr {
		rep.stale, rep.set = true, nil
	}
	if err != nil {
		s.counters.failed.Add(1)
		s.log.Debug("dns lookup failed", "name", name, "error", err)
		opts.fail(failure(err))
		s.refuse(w, req, opts, dns.RcodeServerFailure)
		return
	}
	h.reply(w, req, opts, st, name, asker, q, rep)
}

// reply writes rep, and keeps its packed form if it may be kept.
func (h handler) reply(w dns.ResponseWriter, req *dns.Msg, opts options, st *settings, name string, asker catalog.Place, q question, rep *reply) {
	qtype := req.Question[0].Qtype
	if rep.set != nil && !st.DisableCompression && opts.subnet == nil {
		rep.set.order = *rep.order
		if rep.set.pack(rep.groups, qtype, q.domain) {
			st.cache.put(cacheKey{name, qtype, asker}, rep.set)
			if h.writeSet(w, req, opts, st, rep.set, rep.set.answer.Stale) {
				return
			}
		}
	}
	if rep.stale {
		h.s.counters.stale.Add(1)
		opts.fail(dns.ExtendedErrorCodeStaleAnswer)
	}
	if h.negative(w, req, opts, st, q, rep) {
		return
	}
	m := h.s.response(req, st, rep.rcode)
	m.Authoritative = true
	lim := limitsFor(st, req, h.tcp)
	opt := opts.record()
	if opt != nil {
		lim.bytes -= dns.Len(opt)
	}
	if rep.order != nil {
		rep.order.shuffle(rep.groups)
		if n := st.ARecordLimit; n > 0 && n < len(rep.groups) && qtype != dns.TypeSRV {
			rep.groups = rep.groups[:n]
		}
	}
	cut := compose(m, rep, lim)
	m.Truncated = cut && st.EnableTruncate && !h.tcp
	if opt != nil {
		m.Extra = append(m.Extra, opt)
	}
	h.s.write(w, req, m)
}

// recurse asks the recursors, or refuses.
func (h handler) recurse(ctx context.Context, w dns.ResponseWriter, req *dns.Msg, opts options, st *settings) {
	s := h.s
	if len(st.recursors) == 0 {
		s.refuse(w, req, opts, dns.RcodeRefused)
		return
	}
	s.counters.recursed.Add(1)
	resp, err := s.recurse(ctx, st, req, h.tcp)
	if err != nil {
		s.log.Debug("recursion failed", "name", req.Question[0].Name, "error", err)
		opts.fail(dns.ExtendedErrorCodeNetworkError)
		s.refuse(w, req, opts, dns.RcodeServerFailure)
		return
	}
	if o := resp.IsEdns0(); o != nil && opts.cookie != nil {
		o.Option = append(o.Option, opts.cookieOption())
	}
	if !h.tcp {
		resp.Truncate(limitsFor(st, req, false).bytes)
	}
	s.write(w, req, resp)
}

// response begins an answer to req.
func (s *Server) response(req *dns.Msg, st *settings, rcode int) *dns.Msg {
	m := new(dns.Msg)
	m.SetRcode(req, rcode)
	m.Compress = !st.DisableCompression
	m.RecursionAvailable = len(st.recursors) > 0
	return m
}

// refuse answers with rcode and nothing else.
func (s *Server) refuse(w dns.ResponseWriter, req *dns.Msg, opts options, rcode int) {
	switch rcode {
	case dns.RcodeRefused, dns.RcodeNotImplemented, dns.RcodeFormatError:
		s.counters.refused.Add(1)
	}
	m := s.response(req, s.settings.Load(), rcode)
	if o := opts.record(); o != nil {
		m.Extra = append(m.Extra, o) // BADVERS lives in it
	}
	s.write(w, req, m)
}

func (s *Server) write(w dns.ResponseWriter, req, m *dns.Msg) {
	b, err := m.Pack()
	if err != nil {
		s.log.Error("dns answer could not be packed", "name", req.Question[0].Name, "error", err)
		f := new(dns.Msg)
		if b, err = f.SetRcode(req, dns.RcodeServerFailure).Pack(); err != nil {
			return
		}
	}
	if _, err := w.Write(b); err != nil {
		s.counters.writeFailed.Add(1)
	}
}
