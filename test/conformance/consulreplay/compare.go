package consulreplay

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
)

// masks are the placeholders of the recordings and what they stand for.
var masks = map[string]string{
	"$UUID":     `[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}`,
	"$INT":      `-?\d+`,
	"$IDX":      `[1-9]\d*`,
	"$TIME":     `\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(?:\.\d+)?(?:Z|[+-]\d\d:\d\d)`,
	"$DUR":      `[0-9.]+(?:ns|us|µs|ms|s|m|h)(?:[0-9.]+(?:ns|us|µs|ms|s|m))*`,
	"$FLOAT":    `-?\d+(?:\.\d+)?(?:e-?\d+)?`,
	"$HEX":      `[0-9a-f]+`,
	"$VERSION":  `\d+\.\d+\.\d+[^\s"]*`,
	"$HOSTPORT": `[^\s"]*:\d+`,
	"$ANY":      `[\s\S]*`,
}

var (
	hole   = regexp.MustCompile(`\$\{\w+\}|\$(?:UUID|INT|IDX|TIME|DUR|FLOAT|HEX|VERSION|HOSTPORT|ANY)`)
	single = regexp.MustCompile(`^\$\{\w+\}$`)
)

// matches compares a text with an expected one that has variables and masks in it.
func (p *player) matches(want, got string) bool {
	if !strings.Contains(want, "$") {
		return want == got
	}
	var b strings.Builder
	b.WriteString("^")
	pos := 0
	for _, m := range hole.FindAllStringIndex(want, -1) {
		b.WriteString(regexp.QuoteMeta(want[pos:m[0]]))
		if name := want[m[0]:m[1]]; name[1] == '{' {
			b.WriteString(regexp.QuoteMeta(p.fill(name)))
		} else {
			b.WriteString("(?:" + masks[name] + ")")
		}
		pos = m[1]
	}
	b.WriteString(regexp.QuoteMeta(want[pos:]) + "$")
	return regexp.MustCompile(b.String()).MatchString(got)
}

func (p *player) compare(s *Step, a *answer) error {
	r := &s.Response
	if r.Status != a.status {
		return fmt.Errorf("status: want %d, got %d (%.300s)", r.Status, a.status, a.body)
	}
	for name, want := range r.Headers {
		got := a.headers.Values(name)
		switch {
		case want == nil && len(got) > 0:
			return fmt.Errorf("header %s: want none, got %q", name, got)
		case want != nil && len(got) == 0:
			return fmt.Errorf("header %s: missing, want %q", name, *want)
		case want != nil && !p.matches(*want, got[0]):
			return fmt.Errorf("header %s: want %q, got %q", name, *want, got[0])
		}
	}
	if err := p.compareBody(r, a.body); err != nil {
		return err
	}
	if e := s.ElapsedMS; len(e) == 2 {
		lo, hi := time.Duration(e[0])*time.Millisecond, time.Duration(e[1])*time.Millisecond
		if a.took < lo || a.took > hi {
			return fmt.Errorf("took %v, want %v to %v", a.took, lo, hi)
		}
	}
	return nil
}

func (p *player) compareBody(r *Response, got []byte) error {
	var text string
	if r.BodyKind == "text" || r.BodyKind == "b64" {
		if err := json.Unmarshal(r.Body, &text); err != nil {
			return err
		}
	}
	switch r.BodyKind {
	case "any":
	case "empty":
		if len(got) > 0 {
			return fmt.Errorf("body: want none, got %.300s", got)
		}
	case "text":
		if !p.matches(text, string(got)) {
			return fmt.Errorf("body: want %q, got %q", text, got)
		}
	case "b64":
		if base64.StdEncoding.EncodeToString(got) != text {
			return fmt.Errorf("body: want the bytes %s, got %q", text, got)
		}
	default:
		want, err := decode(r.Body)
		if err != nil {
			return err
		}
		have, err := decode(got)
		if err != nil {
			return fmt.Errorf("body is not JSON: %.300s", got)
		}
		return p.diff(want, have, "", r.Unordered)
	}
	return nil
}

// decode keeps numbers as they are written.
func decode(b []byte) (any, error) {
	d := json.NewDecoder(bytes.NewReader(b))
	d.UseNumber()
	var v any
	err := d.Decode(&v)
	return v, err
}

func pointer(v any, ptr string) (any, error) {
	for part := range strings.SplitSeq(strings.TrimPrefix(ptr, "/"), "/") {
		switch x := v.(type) {
		case map[string]any:
			y, ok := x[part]
			if !ok {
				return nil, fmt.Errorf("no %q", part)
			}
			v = y
		case []any:
			i, err := strconv.Atoi(part)
			if err != nil || i < 0 || i >= len(x) {
				return nil, fmt.Errorf("no element %q", part)
			}
			v = x[i]
		default:
			return nil, fmt.Errorf("nothing below %T", v)
		}
	}
	return v, nil
}

// diff returns the first difference.
func (p *player) diff(want, got any, at string, unordered []string) error {
	switch w := want.(type) {
	case map[string]any:
		g, ok := got.(map[string]any)
		if !ok {
			return fmt.Errorf("body %s/: want an object, got %s", at, text(got))
		}
		return p.diffObject(w, g, at, unordered)
	case []any:
		g, ok := got.([]any)
		if !ok {
			return fmt.Errorf("body %s/: want an array, got %s", at, text(got))
		}
		if len(w) != len(g) {
			return fmt.Errorf("body %s/: want %d elements, got %d: %s", at, len(w), len(g), text(got))
		}
		if at == "" && slices.Contains(unordered, "/") || slices.Contains(unordered, at) {
			return p.diffSet(w, g, at, unordered)
		}
		for i := range w {
			if err := p.diff(w[i], g[i], at+"/"+strconv.Itoa(i), unordered); err != nil {
				return err
			}
		}
		return nil
	}
	if !p.sameScalar(want, got) {
		return fmt.Errorf("body %s/: want %s, got %s", at, text(want), text(got))
	}
	return nil
}

func (p *player) diffObject(want, got map[string]any, at string, unordered []string) error {
	known := map[string]bool{}
	_, more := want["$EXTRA"]
	for k, w := range want {
		if k == "$EXTRA" {
			continue
		}
		k, optional := strings.CutPrefix(p.fill(k), "?")
		known[k] = true
		g, ok := got[k]
		if !ok {
			if optional {
				continue
			}
			return fmt.Errorf("body %s/%s: missing, want %s", at, k, text(w))
		}
		if err := p.diff(w, g, at+"/"+k, unordered); err != nil {
			return err
		}
	}
	for k, g := range got {
		if !known[k] && !more {
			return fmt.Errorf("body %s/%s: unexpected %s", at, k, text(g))
		}
	}
	return nil
}

func (p *player) diffSet(want, got []any, at string, unordered []string) error {
	left := slices.Clone(got)
	for i, w := range want {
		j := slices.IndexFunc(left, func(g any) bool { return p.diff(w, g, at+"/"+strconv.Itoa(i), unordered) == nil })
		if j < 0 {
			return fmt.Errorf("body %s/%d: no element matches %s in %s", at, i, text(w), text(left))
		}
		left = slices.Delete(left, j, j+1)
	}
	return nil
}

func (p *player) sameScalar(want, got any) bool {
	w, ok := want.(string)
	if !ok || !strings.Contains(w, "$") {
		if wn, ok := want.(json.Number); ok {
			gn, ok := got.(json.Number)
			if !ok {
				return false
			}
			wf, err1 := wn.Float64()
			gf, err2 := gn.Float64()
			return wn == gn || err1 == nil && err2 == nil && wf == gf && len(wn) < 16 // as integers floats are exact so far
		}
		return want == got
	}
	if w == "$ANY" {
		return true
	}
	switch g := got.(type) {
	case string:
		return p.matches(w, g)
	case json.Number:
		if w == "$INT" || w == "$IDX" || w == "$FLOAT" || single.MatchString(w) {
			return p.matches(w, g.String())
		}
	}
	return false
}

func text(v any) string {
	b, err := json.Marshal(v)
	if err != nil {
		return fmt.Sprint(v)
	}
	if len(b) > 300 {
		b = append(b[:300], "..."...)
	}
	return string(b)
}
