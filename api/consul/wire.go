package consul

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/musterhq/muster/api"
)

// handlerFunc answers one request. A returned error is rendered by writeError; after a handler has written it
// returns nil.
type handlerFunc func(w http.ResponseWriter, r *http.Request) error

// httpError is a refusal with its status and the text for the client.
type httpError struct {
	status int
	text   string
}

func (e *httpError) Error() string { return e.text }

// refuse makes an error that is answered with this status and text.
func refuse(status int, format string, args ...any) error {
	if len(args) == 0 {
		return &httpError{status, format}
	}
	return &httpError{status, fmt.Sprintf(format, args...)}
}

// badRequest is refuse with status 400.
func badRequest(format string, args ...any) error {
	return refuse(http.StatusBadRequest, format, args...)
}

// serverError is refuse with status 500, which is what this dialect answers to most bad input that is noticed
// behind the decoding of the request.
func serverError(format string, args ...any) error {
	return refuse(http.StatusInternalServerError, format, args...)
}

// Values of headers that never change, shared by all answers so that setting them allocates nothing.
var (
	headerJSON     = []string{"application/json"}
	headerText     = []string{"text/plain; charset=utf-8"}
	headerVary     = []string{"Accept-Encoding"}
	headerAllow    = []string{"allow"}
	headerTrue     = []string{"true"}
	headerFalse    = []string{"false"}
	headerZero     = []string{"0"}
	headerLeader   = []string{"leader"}
	headerStale    = []string{"stale"}
	headerConsist  = []string{"consistent"}
	headerBlocking = []string{"blocking-query"}
	headerRawType  = []string{"text/plain"}
	headerNosniff  = []string{"nosniff"}
	headerSandbox  = []string{"sandbox"}
	bodyTrue       = []byte("true")
	bodyFalse      = []byte("false")
)

// newRoute makes a row of the table of routes whose handler speaks this dialect: common headers, refusal of
// enterprise parameters, errors rendered as text, OPTIONS and wrong methods answered.
func newRoute(pattern string, where api.Where, h handlerFunc, methods ...string) api.Route {
	return api.Route{
		Pattern: pattern,
		Methods: methods,
		Where:   where,
		Target:  targetOf,
		Handler: common(h),
		Refuse:  wrongMethod(methods),
	}
}

// targetOf sends stale reads to any server and everything else to the leader.
func targetOf(r *http.Request) api.Target {
	if r.Method != http.MethodGet {
		return api.Leader
	}
	q := r.URL.RawQuery
	if !strings.Contains(q, "stale") { // covers max_stale
		return api.Leader
	}
	p, err := parseParams(q)
	if err == nil && (p.has("stale") || p.has("max_stale")) && !p.has("consistent") && !p.has("leader") {
		return api.Any
	}
	return api.Leader
}

// common wraps a handler with what every endpoint shares.
func common(h handlerFunc) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		commonHeaders(w.Header())
		if !printable(r.URL.Path) {
			w.WriteHeader(http.StatusBadRequest)
			return
		}
		err := refuseEnterprise(r)
		if err == nil {
			err = h(w, r)
		}
		if err != nil {
			writeError(w, r, err)
		}
	})
}

func commonHeaders(h http.Header) {
	h["Vary"] = headerVary
	h["X-Consul-Default-Acl-Policy"] = headerAllow
}

// printable is false for paths with non-printable characters, which the contract answers with 400 and no body.
func printable(path string) bool {
	for i := 0; i < len(path); i++ {
		switch c := path[i]; {
		case c < 0x20 || c == 0x7f:
			return false
		case c >= utf8.RuneSelf:
			return strings.IndexFunc(path[i:], func(r rune) bool { return !unicode.IsPrint(r) }) < 0
		}
	}
	return true
}

// refuseEnterprise refuses the parameters of the commercial edition, also with the value "default".
func refuseEnterprise(r *http.Request) error {
	if q := r.URL.RawQuery; q != "" && (strings.Contains(q, "ns") || strings.Contains(q, "partition")) {
		p, err := parseParams(q)
		if err != nil {
			return err
		}
		if p.has("ns") {
			return badRequest(`Invalid query parameter: "ns" - Namespaces are a Consul Enterprise feature`)
		}
		if p.has("partition") {
			return badRequest(`Invalid query parameter: "partition" - Partitions are a Consul Enterprise feature`)
		}
	}
	if _, ok := r.Header["X-Consul-Namespace"]; ok {
		return badRequest(`Invalid header: "X-Consul-Namespace" - Namespaces are a Consul Enterprise feature`)
	}
	if _, ok := r.Header["X-Consul-Partition"]; ok {
		return badRequest(`Invalid header: "X-Consul-Partition" - Partitions are a Consul Enterprise feature`)
	}
	return nil
}

// wrongMethod answers OPTIONS, and 405 to all else.
func wrongMethod(methods []string) http.Handler {
	allow := []string{strings.Join(append([]string{http.MethodOptions}, methods...), ",")}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		h := w.Header()
		commonHeaders(h)
		h["Allow"] = allow
		if r.Method == http.MethodOptions {
			h["Content-Type"] = headerJSON
			return
		}
		writeText(w, http.StatusMethodNotAllowed, "method "+r.Method+" not allowed")
	})
}

// writeError renders an error of a handler: its own status, or 500 with the error's text.
func writeError(w http.ResponseWriter, r *http.Request, err error) {
	var he *httpError
	switch {
	case errors.As(err, &he):
		if he.text == "" {
			w.WriteHeader(he.status)
			return
		}
		writeText(w, he.status, he.text)
	case errors.Is(err, errBadQuery):
		w.WriteHeader(http.StatusInternalServerError)
	case api.WriteStoreError(w, err):
	default:
		writeText(w, http.StatusInternalServerError, err.Error())
	}
}

// writeText writes a text answer without a final newline.
func writeText(w http.ResponseWriter, status int, msg string) {
	w.Header()["Content-Type"] = headerText
	w.WriteHeader(status)
	_, _ = io.WriteString(w, msg)
}

// writeJSON answers 200 with v as JSON; ?pretty indents it with four spaces and ends it with a newline.
func writeJSON(w http.ResponseWriter, r *http.Request, v any) error {
	return writeJSONStatus(w, r, http.StatusOK, v)
}

// writeJSONStatus is writeJSON with another status.
func writeJSONStatus(w http.ResponseWriter, r *http.Request, status int, v any) error {
	body, err := encodeJSON(v)
	if err != nil {
		return err
	}
	writeBody(w, r, status, body)
	return nil
}

// encodeJSON encodes without a final newline and without escaping of <, > and &.
func encodeJSON(v any) ([]byte, error) {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	if err := e.Encode(v); err != nil {
		return nil, fmt.Errorf("encode answer: %w", err)
	}
	return bytes.TrimSuffix(b.Bytes(), []byte("\n")), nil
}

// wholeBody is from where on a body needs its length announced lest it be sent in chunks; the server finds out
// the length of smaller ones by itself, and cheaper.
const wholeBody = 2048

// writeBody answers with an encoded JSON body.
func writeBody(w http.ResponseWriter, r *http.Request, status int, body []byte) {
	if q := r.URL.RawQuery; q != "" && strings.Contains(q, "pretty") {
		if p, err := parseParams(q); err == nil && p.has("pretty") {
			var b bytes.Buffer
			if json.Indent(&b, body, "", "    ") == nil {
				b.WriteByte('\n')
				body = b.Bytes()
			}
		}
	}
	h := w.Header()
	h["Content-Type"] = headerJSON
	if len(body) >= compressFrom && wantsGzip(r) {
		h["Content-Encoding"] = headerGzipped
		body = compress(body)
	}
	if len(body) >= wholeBody {
		h["Content-Length"] = []string{strconv.Itoa(len(body))}
	}
	w.WriteHeader(status)
	_, _ = w.Write(body)
}

// writeBool answers 200 with true or false.
func writeBool(w http.ResponseWriter, r *http.Request, v bool) {
	if v {
		writeBody(w, r, http.StatusOK, bodyTrue)
		return
	}
	writeBody(w, r, http.StatusOK, bodyFalse)
}

// writeEmpty answers 200 with an empty body, which this dialect still labels as JSON.
func writeEmpty(w http.ResponseWriter) {
	w.Header()["Content-Type"] = headerJSON
	w.WriteHeader(http.StatusOK)
}

// decodeBody reads a JSON body into v. Names match in any case; unknown fields are refused unless allowUnknown.
// The error is ready for the client (400, or 413 when the body is too large).
func decodeBody(r *http.Request, v any, allowUnknown bool) error {
	d := json.NewDecoder(r.Body)
	if !allowUnknown {
		d.DisallowUnknownFields()
	}
	if err := d.Decode(v); err != nil {
		if e := bodyTooLarge(err); e != nil {
			return e
		}
		return badRequest("Request decode failed: %v", err)
	}
	return nil
}

// bodyTooLarge turns the error of a body limit into a refusal, nil if err is something else.
func bodyTooLarge(err error) error {
	var tooLarge *http.MaxBytesError
	if errors.As(err, &tooLarge) {
		return refuse(http.StatusRequestEntityTooLarge, "Request body too large, max size: %d bytes.", tooLarge.Limit)
	}
	return nil
}

// Duration is a time span that is read from JSON as a Go duration text or as a number of nanoseconds, and
// written as text. Source: consul-http contract, 6.1.
type Duration time.Duration

// UnmarshalJSON implements json.Unmarshaler.
func (d *Duration) UnmarshalJSON(b []byte) error {
	s := strings.TrimSpace(string(b))
	switch {
	case s == "null":
		return nil
	case strings.HasPrefix(s, `"`):
		var text string
		if err := json.Unmarshal(b, &text); err != nil {
			return err
		}
		if text == "" {
			*d = 0
			return nil
		}
		v, err := time.ParseDuration(text)
		if err != nil {
			return err
		}
		*d = Duration(v)
		return nil
	}
	n, err := strconv.ParseInt(s, 10, 64)
	if err != nil {
		f, ferr := strconv.ParseFloat(s, 64)
		if ferr != nil || f < -(1<<63) || f >= 1<<63 {
			return fmt.Errorf("invalid duration %s: want a text like \"10s\" or a number of nanoseconds", s)
		}
		n = int64(f)
	}
	*d = Duration(n)
	return nil
}

// MarshalJSON implements json.Marshaler.
func (d Duration) MarshalJSON() ([]byte, error) {
	return strconv.AppendQuote(nil, time.Duration(d).String()), nil
}

// String is the Go text of the duration.
func (d Duration) String() string { return time.Duration(d).String() }
