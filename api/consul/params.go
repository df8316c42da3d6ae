package consul

import (
	"errors"
	"net/url"
	"strings"
)

// errBadQuery is a malformed query string: 500 without a body.
var errBadQuery = errors.New("malformed query string")

// params is a parsed query string. Presence is what counts for flags (?raw, ?raw= and ?raw=false are the same).
// It keeps the first few pairs in place, so that parsing a usual query allocates nothing.
type params struct {
	n     int
	first [6]param
	more  []param
}

type param struct{ key, value string }

func parseParams(raw string) (params, error) {
	var p params
	for raw != "" {
		var pair string
		pair, raw, _ = strings.Cut(raw, "&")
		if pair == "" {
			continue
		}
		if strings.IndexByte(pair, ';') >= 0 {
			return p, errBadQuery
		}
		k, v, _ := strings.Cut(pair, "=")
		if strings.ContainsAny(pair, "%+") {
			var err1, err2 error
			k, err1 = url.QueryUnescape(k)
			v, err2 = url.QueryUnescape(v)
			if err1 != nil || err2 != nil {
				return p, errBadQuery
			}
		}
		if p.n < len(p.first) {
			p.first[p.n] = param{k, v}
		} else {
			p.more = append(p.more, param{k, v})
		}
		p.n++
	}
	return p, nil
}

func (p *params) at(i int) *param {
	if i < len(p.first) {
		return &p.first[i]
	}
	return &p.more[i-len(p.first)]
}

// lookup returns the first value of a key and whether the key is there at all.
func (p *params) lookup(key string) (string, bool) {
	for i := 0; i < p.n; i++ {
		if q := p.at(i); q.key == key {
			return q.value, true
		}
	}
	return "", false
}

func (p *params) has(key string) bool { _, ok := p.lookup(key); return ok }

func (p *params) get(key string) string { v, _ := p.lookup(key); return v }

// all returns every value of a key.
func (p *params) all(key string) []string {
	var out []string
	for i := 0; i < p.n; i++ {
		if q := p.at(i); q.key == key {
			out = append(out, q.value)
		}
	}
	return out
}
