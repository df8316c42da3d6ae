package etcd

import (
	"errors"
	"io"
	"mime"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"
)

// tri is a boolean that may be missing.
type tri uint8

const (
	unset tri = iota
	yes
	no
)

// params are the parameters of a request under /v2/keys, checked.
type params struct {
	value, prevValue     string
	prevIndex, waitIndex uint64
	ttl                  uint64
	hasTTL               bool
	prevExist            tri
	recursive, dir       bool
	wait, quorum, stream bool
	noValue, refresh     bool
}

// Names of parameters, as places in a form.
const (
	pValue = iota
	pPrevValue
	pPrevIndex
	pWaitIndex
	pTTL
	pPrevExist
	pRecursive
	pSorted
	pWait
	pDir
	pQuorum
	pStream
	pNoValue
	pRefresh
	pCount
)

func place(name string) int {
	switch name {
	case "value":
		return pValue
	case "prevValue":
		return pPrevValue
	case "prevIndex":
		return pPrevIndex
	case "waitIndex":
		return pWaitIndex
	case "ttl":
		return pTTL
	case "prevExist":
		return pPrevExist
	case "recursive":
		return pRecursive
	case "sorted":
		return pSorted
	case "wait":
		return pWait
	case "dir":
		return pDir
	case "quorum":
		return pQuorum
	case "stream":
		return pStream
	case "noValueOnSuccess":
		return pNoValue
	case "refresh":
		return pRefresh
	}
	return -1
}

// form holds the first value given for each known parameter; others are dropped while parsing.
type form struct {
	values [pCount]string
	given  [pCount]bool
}

var (
	errSemicolon = errors.New("invalid semicolon separator in query")
	errTooLarge  = errors.New("http: POST too large")
)

// parse adds the pairs of a query or form body. A value that is already there wins. Like net/url it reads on after
// a bad pair and reports the first error.
func (f *form) parse(s string) (err error) {
	for s != "" {
		var pair string
		pair, s, _ = strings.Cut(s, "&")
		if strings.IndexByte(pair, ';') >= 0 {
			err = errSemicolon
			continue
		}
		if pair == "" {
			continue
		}
		name, value, _ := strings.Cut(pair, "=")
		name, e := unescape(name)
		if e == nil {
			value, e = unescape(value)
		}
		if e != nil {
			if err == nil {
				err = e
			}
			continue
		}
		if i := place(name); i >= 0 && !f.given[i] {
			f.values[i], f.given[i] = value, true
		}
	}
	return err
}

func unescape(s string) (string, error) {
	if !strings.ContainsAny(s, "%+") {
		return s, nil
	}
	return url.QueryUnescape(s)
}

// readForm collects the parameters of a request: the body of a PUT or POST when it is a form, then the query.
func (d *Dialect) readForm(w http.ResponseWriter, r *http.Request, f *form) error {
	var err error
	if r.Method == http.MethodPut || r.Method == http.MethodPost {
		err = d.readBody(w, r, f)
	}
	if e := f.parse(r.URL.RawQuery); err == nil {
		err = e
	}
	return err
}

const formType = "application/x-www-form-urlencoded"

// bodyTime is how long a body may take to arrive, plus a second for each 64 KiB announced.
const bodyTime = 30 * time.Second

// readBody reads the body of a PUT or POST if it is a form. A Content-Type that cannot be parsed is an error even where
// there is no body, or where the type can be made out and only its parameters cannot.
func (d *Dialect) readBody(w http.ResponseWriter, r *http.Request, f *form) error {
	var ct string
	if v := r.Header["Content-Type"]; len(v) > 0 {
		ct = v[0]
	}
	if ct != formType {
		if ct == "" {
			return nil
		}
		if t, _, err := mime.ParseMediaType(ct); err != nil || t != formType {
			return err
		}
	}
	if r.Body == nil || r.Body == http.NoBody {
		return nil
	}
	// The server sets a new deadline before it reads the next request; a writer without one has no connection.
	announced := min(max(0, r.ContentLength), 2*d.cfg.MaxBody)
	_ = http.NewResponseController(w).SetReadDeadline(time.Now().Add(bodyTime + time.Duration(announced>>16)*time.Second))
	if r.ContentLength > d.cfg.MaxBody {
		// A client that sends everything before it reads would see nothing but a broken connection.
		if r.Header["Expect"] == nil {
			_, _ = io.CopyN(io.Discard, r.Body, announced)
		}
		return errTooLarge
	}
	var b strings.Builder
	if r.ContentLength > 0 {
		b.Grow(int(min(r.ContentLength, 64<<10))) // a promise alone must not cost memory
	}
	p := d.body()
	room := (*p)[:cap(*p)]
	n, err := io.CopyBuffer(&b, io.LimitReader(r.Body, d.cfg.MaxBody+1), room)
	d.release(p, room)
	if n > d.cfg.MaxBody {
		return errTooLarge
	}
	if err != nil {
		return err
	}
	return f.parse(b.String())
}

// parse checks a request in the order of the contract; the first bad parameter decides.
func (d *Dialect) parse(w http.ResponseWriter, r *http.Request, p *params) (failure, bool) {
	var f form
	if err := d.readForm(w, r, &f); err != nil {
		return failure{code: codeForm, cause: err.Error()}, false
	}
	return f.check(r.Method, p)
}

func (f *form) check(method string, p *params) (failure, bool) {
	bad := func(code int, cause string) (failure, bool) { return failure{code: code, cause: cause}, false }
	var ok bool
	if p.prevIndex, ok = f.number(pPrevIndex); !ok {
		return bad(codeIndex, `invalid value for "prevIndex"`)
	}
	if p.waitIndex, ok = f.number(pWaitIndex); !ok {
		return bad(codeIndex, `invalid value for "waitIndex"`)
	}
	var sorted bool // answers are always sorted; the parameter is only checked
	for _, b := range [...]struct {
		place int
		to    *bool
		name  string
	}{
		{pRecursive, &p.recursive, "recursive"},
		{pSorted, &sorted, "sorted"},
		{pWait, &p.wait, "wait"},
		{pDir, &p.dir, "dir"},
		{pQuorum, &p.quorum, "quorum"},
		{pStream, &p.stream, "stream"},
	} {
		if *b.to, ok = f.flag(b.place); !ok {
			return bad(codeField, `invalid value for "`+b.name+`"`)
		}
	}
	if p.wait && method != http.MethodGet {
		return bad(codeField, `"wait" can only be used with GET requests`)
	}
	p.prevValue = f.values[pPrevValue]
	if f.given[pPrevValue] && p.prevValue == "" {
		return bad(codePrevValue, `"prevValue" cannot be empty`)
	}
	if p.noValue, ok = f.flag(pNoValue); !ok {
		return bad(codeField, `invalid value for "noValueOnSuccess"`)
	}
	if s := f.values[pTTL]; s != "" {
		n, err := strconv.ParseUint(s, 10, 64)
		if err != nil {
			return bad(codeTTL, `invalid value for "ttl"`)
		}
		p.ttl, p.hasTTL = n, true
	}
	if f.given[pPrevExist] {
		v, ok := f.flag(pPrevExist)
		if !ok {
			return bad(codeField, "invalid value for prevExist")
		}
		p.prevExist = no
		if v {
			p.prevExist = yes
		}
	}
	if p.refresh, ok = f.flag(pRefresh); !ok {
		return bad(codeField, "invalid value for refresh")
	}
	p.value = f.values[pValue]
	if p.refresh && p.value != "" {
		return bad(codeRefreshValue, "A value was provided on a refresh")
	}
	if p.refresh && !p.hasTTL {
		return bad(codeRefreshTTL, "No TTL value set")
	}
	return failure{}, true
}

// number reads an unsigned number; a missing one is 0, an empty one is bad.
func (f *form) number(i int) (uint64, bool) {
	if !f.given[i] {
		return 0, true
	}
	n, err := strconv.ParseUint(f.values[i], 10, 64)
	return n, err == nil
}

// flag reads a boolean; a missing one is false, an empty one is bad.
func (f *form) flag(i int) (value, ok bool) {
	if !f.given[i] {
		return false, true
	}
	v, err := strconv.ParseBool(f.values[i])
	return v, err == nil
}
