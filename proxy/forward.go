package proxy

import (
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strconv"
	"strings"
)

// hopHeader says whether a canonical header name belongs to one connection only (RFC 9110 section 7.6.1, and the
// older ones of RFC 2616 section 13.5.1), or must not travel with a relayed request.
func hopHeader(name string) bool {
	switch name {
	case "Connection", "Keep-Alive", "Proxy-Authenticate", "Proxy-Authorization", "Proxy-Connection",
		"Te", "Trailer", "Trailers", "Transfer-Encoding", "Upgrade":
		return true
	}
	return false
}

// ownHeader says which request headers are written anew or withheld: Expect has been met by reading the body, and
// the two idempotency keys would tell net/http's transport to replay writes on its own.
func ownHeader(name string) bool {
	switch name {
	case "Expect", "Idempotency-Key", "X-Idempotency-Key", "Content-Length", HopsHeader:
		return true
	}
	return false
}

// named lists the headers that a Connection header ties to the connection.
func named(h http.Header) []string {
	var names []string
	for _, v := range h["Connection"] {
		for name := range strings.SplitSeq(v, ",") {
			if name = strings.TrimSpace(name); name != "" {
				names = append(names, http.CanonicalHeaderKey(name))
			}
		}
	}
	return names
}

// hopsOf reads how often a request was relayed and refuses the one that has been far enough.
func hopsOf(h http.Header) (int, error) {
	v := h.Get(HopsHeader)
	if v == "" {
		return 0, nil
	}
	n, err := strconv.ParseUint(v, 10, 8)
	if err != nil {
		return 0, fmt.Errorf("%w, not %.20q", ErrBadHops, v)
	}
	if n >= MaxHops {
		return int(n), ErrTooFar
	}
	return int(n), nil
}

var hopValues = [MaxHops + 1][]string{{"0"}, {"1"}, {"2"}}

// outHeader is the header of the request to a server. Values are shared with r and only read.
func outHeader(r *http.Request, hops int) http.Header {
	out := make(http.Header, len(r.Header)+4)
	for name, values := range r.Header {
		if !hopHeader(name) && !ownHeader(name) {
			out[name] = values
		}
	}
	for _, name := range named(r.Header) {
		delete(out, name)
	}
	out[HopsHeader] = hopValues[hops+1]
	if host, _, err := net.SplitHostPort(r.RemoteAddr); err == nil {
		if prior := r.Header["X-Forwarded-For"]; len(prior) > 0 {
			host = strings.Join(prior, ", ") + ", " + host
		}
		out["X-Forwarded-For"] = []string{host}
	}
	if _, ok := out["User-Agent"]; !ok {
		out["User-Agent"] = nil // else the transport would add its own
	}
	if _, ok := out["Accept-Encoding"]; !ok {
		out["Accept-Encoding"] = identity // else the transport would add gzip and unpack it
	}
	return out
}

var identity = []string{"identity"}

// readBody keeps the whole body, because a request may have to be sent again. The memory is not pooled: a
// transport may still be reading it when an early answer has been delivered already.
func readBody(r *http.Request, limit int64) ([]byte, error) {
	if r.Body == nil || r.Body == http.NoBody || r.ContentLength == 0 {
		return nil, nil
	}
	if r.ContentLength > limit {
		return nil, fmt.Errorf("%w: %d bytes, limit %d", ErrTooLarge, r.ContentLength, limit)
	}
	if n := r.ContentLength; n > 0 {
		b := make([]byte, n)
		if _, err := io.ReadFull(r.Body, b); err != nil {
			return nil, readError(err)
		}
		return b, nil
	}
	b, err := io.ReadAll(io.LimitReader(r.Body, limit+1))
	if err != nil {
		return nil, readError(err)
	}
	if int64(len(b)) > limit {
		return nil, fmt.Errorf("%w: more than %d bytes", ErrTooLarge, limit)
	}
	return b, nil
}

// readError tells a limit set by a handler above from a broken client.
func readError(err error) error {
	var tooBig *http.MaxBytesError
	if errors.As(err, &tooBig) {
		return fmt.Errorf("%w: limit %d", ErrTooLarge, tooBig.Limit)
	}
	return &bodyError{err}
}

// writeHead passes status and header on. Another agent (inner) is told where the leader is; clients are not.
func writeHead(w http.ResponseWriter, resp *http.Response, inner bool, from string, t Target) {
	h := w.Header()
	for name, values := range resp.Header {
		if !hopHeader(name) {
			h[name] = values
		}
	}
	for _, name := range named(resp.Header) {
		delete(h, name)
	}
	switch {
	case !inner:
		delete(h, LeaderHeader)
		delete(h, ClusterHeader)
	case t == Leader && resp.Header.Get(LeaderHeader) == "":
		h.Set(LeaderHeader, from)
	}
	w.WriteHeader(resp.StatusCode)
}

const copySize = 32 << 10

// copyBody streams the answer. One of unknown length may be a long poll or a stream of events: its head and every
// piece of it are flushed at once. One of known length is left to the buffers of net/http.
func (p *Proxy) copyBody(w http.ResponseWriter, resp *http.Response) {
	flush := func() error { return nil }
	if resp.ContentLength < 0 {
		flush = http.NewResponseController(w).Flush
		_ = flush()
	}
	buf, _ := p.buffers.Get().(*[copySize]byte)
	if buf == nil {
		buf = new([copySize]byte)
	}
	defer p.buffers.Put(buf)
	for {
		n, err := resp.Body.Read(buf[:])
		if n > 0 {
			if _, werr := w.Write(buf[:n]); werr != nil {
				return // the client is gone; closing the body cancels upstream
			}
			if err == nil {
				_ = flush()
			}
		}
		if err == io.EOF {
			return
		}
		if err != nil {
			panic(http.ErrAbortHandler) // see Relay
		}
	}
}
