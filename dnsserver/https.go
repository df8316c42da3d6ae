package dnsserver

import (
	"encoding/base64"
	"io"
	"net"
	"net/http"
	"strconv"

	"github.com/miekg/dns"
)

// HTTPPath is where DNS over HTTPS is asked (RFC 8484 section 4.1).
const HTTPPath = "/dns-query"

const messageType = "application/dns-message"

// ServeHTTP answers DNS over HTTPS (RFC 8484): a question in wire form, by POST or in ?dns= of a GET. Answers are as
// over TCP. It works as long as the Server is not closed, also without Start.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	var wire []byte
	var err error
	switch r.Method {
	case http.MethodGet:
		wire, err = base64.RawURLEncoding.DecodeString(r.URL.Query().Get("dns"))
	case http.MethodPost:
		if r.Header.Get("Content-Type") != messageType {
			http.Error(w, "the body must be of type "+messageType, http.StatusUnsupportedMediaType)
			return
		}
		wire, err = io.ReadAll(http.MaxBytesReader(w, r.Body, dns.MaxMsgSize))
	default:
		w.Header().Set("Allow", "GET, POST")
		http.Error(w, "Method Not Allowed", http.StatusMethodNotAllowed)
		return
	}
	req := new(dns.Msg)
	if err != nil || req.Unpack(wire) != nil || len(req.Question) != 1 || req.Response {
		http.Error(w, "not a DNS message with one question", http.StatusBadRequest)
		return
	}
	client, err := net.ResolveTCPAddr("tcp", r.RemoteAddr)
	if err != nil {
		client = nil // a unix socket
	}
	out := &httpWriter{client: client}
	handler{s, true}.ServeDNS(out, req)
	if out.answer == nil {
		http.Error(w, "no answer", http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", messageType)
	w.Header().Set("Cache-Control", "max-age="+strconv.FormatUint(uint64(freshness(out.answer)), 10))
	_, _ = w.Write(out.answer)
}

// freshness is how long an answer may be kept, in seconds: the smallest TTL of its answers, or of its authority
// section when there is none (RFC 8484 section 5.1).
func freshness(wire []byte) uint32 {
	m := new(dns.Msg)
	if m.Unpack(wire) != nil {
		return 0
	}
	rrs := m.Answer
	if len(rrs) == 0 {
		rrs = m.Ns
	}
	if len(rrs) == 0 {
		return 0
	}
	ttl := rrs[0].Header().Ttl
	for _, rr := range rrs {
		ttl = min(ttl, rr.Header().Ttl)
	}
	return ttl
}

// httpWriter takes the answer for an HTTP client.
type httpWriter struct {
	client net.Addr
	answer []byte
}

func (w *httpWriter) LocalAddr() net.Addr  { return nil }
func (w *httpWriter) RemoteAddr() net.Addr { return w.client }

// Write keeps a copy: the caller uses b again.
func (w *httpWriter) Write(b []byte) (int, error) {
	w.answer = append([]byte(nil), b...)
	return len(b), nil
}

func (w *httpWriter) WriteMsg(m *dns.Msg) (err error) {
	w.answer, err = m.Pack()
	return err
}

func (w *httpWriter) Close() error        { return nil }
func (w *httpWriter) TsigStatus() error   { return nil }
func (w *httpWriter) TsigTimersOnly(bool) {}
func (w *httpWriter) Hijack()             {}
