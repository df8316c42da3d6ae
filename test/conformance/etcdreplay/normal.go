package etcdreplay

import (
	"bytes"
	"encoding/json"
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

// This file brings a recorded and a live answer into one comparable form. With B the index before the case, a
// number n >= B becomes "+(n-B)"; smaller ones stay.

var (
	digits   = regexp.MustCompile(`[0-9]+`)
	unequal  = regexp.MustCompile(`\[(\d+) != (\d+)\]`)
	cleared  = regexp.MustCompile(`\[\d+/(\d+)\]`)
	timeForm = regexp.MustCompile(`^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z$`)
)

// rel is the relative form of the number in s.
func rel(s string, base int64) string {
	n, err := strconv.ParseInt(s, 10, 64)
	if err != nil || n < base {
		return s
	}
	return "+" + strconv.FormatInt(n-base, 10)
}

// names20 replaces the 20-digit names of in-order keys.
func names20(s string, f func(string) string) string {
	return digits.ReplaceAllStringFunc(s, func(d string) string {
		if len(d) != 20 {
			return d
		}
		return f(d)
	})
}

// normalText makes the indexes inside keys and causes relative. The oldest kept index of "history cleared" depends
// on the past of the server: only the one asked for counts.
func normalText(s string, base int64) string {
	s = names20(s, func(d string) string { return "<seq" + rel(strings.TrimLeft(d, "0"), base) + ">" })
	s = unequal.ReplaceAllStringFunc(s, func(m string) string {
		p := unequal.FindStringSubmatch(m)
		return "[" + rel(p[1], base) + " != " + rel(p[2], base) + "]"
	})
	return cleared.ReplaceAllStringFunc(s, func(m string) string {
		return "[*/" + rel(cleared.FindStringSubmatch(m)[1], base) + "]"
	})
}

// normal returns the comparable form of a response. It changes v.
func normal(v any, s *Step, base int64, live *strings.Replacer) any {
	r, ok := v.(map[string]any)
	if !ok {
		return v
	}
	if live != nil {
		r = placeholders(r, live).(map[string]any)
	}
	h, _ := r["headers"].(map[string]any)
	if n, ok := h["X-Etcd-Index"].(json.Number); ok {
		h["X-Etcd-Index"] = index(n, base, s.Loose)
	}
	sorted := false
	if s.Request != nil {
		switch fmt.Sprint(s.Request.Query["sorted"]) {
		case "true", "1", "t":
			sorted = true
		}
	}
	body := normalBody(r["body"], "", base, !sorted, s.Loose)
	for _, pointer := range s.Mask {
		mask(body, strings.Split(strings.Trim(strings.TrimPrefix(pointer, "-"), "/"), "/"), strings.HasPrefix(pointer, "-"))
	}
	if _, there := r["body"]; there {
		r["body"] = body
	}
	if to, ok := h["Location"].(string); ok {
		// Go releases differ in status and body of a redirect to the clean path: only the place counts.
		r["status"], r["body"] = "<redirect>", nil
		delete(h, "Content-Type")
		h["Location"] = normalText(to, base)
	}
	return r
}

func index(n json.Number, base int64, loose bool) any {
	if loose && n != "0" {
		return "<index>"
	}
	return rel(n.String(), base)
}

// placeholders replaces in every string of v.
func placeholders(v any, live *strings.Replacer) any {
	switch v := v.(type) {
	case string:
		return live.Replace(v)
	case []any:
		for i := range v {
			v[i] = placeholders(v[i], live)
		}
	case map[string]any:
		for k, x := range v {
			delete(v, k)
			v[live.Replace(k)] = placeholders(x, live)
		}
	}
	return v
}

func normalBody(v any, name string, base int64, sortNodes, loose bool) any {
	switch v := v.(type) {
	case map[string]any:
		for k, x := range v {
			v[k] = normalBody(x, k, base, sortNodes, loose)
		}
	case []any:
		for i, x := range v {
			v[i] = normalBody(x, "", base, sortNodes, loose)
		}
		switch {
		case name == "nodes" && sortNodes:
			sortBy(v, "key")
		case name == "members":
			sortBy(v, "name")
		}
	case json.Number:
		switch name {
		case "modifiedIndex", "createdIndex", "index":
			return index(v, base, loose)
		}
	case string:
		switch {
		case name == "expiration" && timeForm.MatchString(v):
			return "<time>"
		case name == "key" || name == "cause":
			if loose {
				v = names20(v, func(string) string { return "<seq>" })
			}
			return normalText(v, base)
		}
	}
	return v
}

func sortBy(list []any, field string) {
	slices.SortStableFunc(list, func(a, b any) int { return strings.Compare(member(a, field), member(b, field)) })
}

func member(v any, field string) string {
	m, _ := v.(map[string]any)
	s, _ := m[field].(string)
	return s
}

// mask replaces the value at a JSON pointer by the name of its type, or removes it. "*" is every member.
func mask(v any, parts []string, drop bool) {
	part, rest := parts[0], parts[1:]
	switch v := v.(type) {
	case map[string]any:
		for k, x := range v {
			if part != "*" && part != k {
				continue
			}
			switch {
			case len(rest) > 0:
				mask(x, rest, drop)
			case drop:
				delete(v, k)
			default:
				v[k] = typeName(x)
			}
		}
	case []any:
		for i, x := range v {
			if part != "*" && part != strconv.Itoa(i) {
				continue
			}
			if len(rest) > 0 {
				mask(x, rest, drop)
			} else {
				v[i] = typeName(x)
			}
		}
	}
}

func typeName(v any) string {
	switch v := v.(type) {
	case string:
		switch v {
		case "<string>", "<bool>", "<number>", "<array>", "<object>", "<null>": // masked while recording
			return v
		}
		if strings.HasPrefix(v, "+") { // an index
			return "<number>"
		}
		return "<string>"
	case bool:
		return "<bool>"
	case json.Number:
		return "<number>"
	case []any:
		return "<array>"
	case map[string]any:
		return "<object>"
	}
	return "<null>"
}

// firstDiff describes the first difference between what was recorded and what came; "" if there is none.
func firstDiff(want, got any, at string) string {
	switch want := want.(type) {
	case map[string]any:
		g, ok := got.(map[string]any)
		if !ok {
			break
		}
		names := make([]string, 0, len(want))
		for k := range want {
			names = append(names, k)
		}
		slices.Sort(names)
		for _, k := range names {
			x, there := g[k]
			if !there {
				return fmt.Sprintf("%s/%s: missing (expected %s)", at, k, short(want[k]))
			}
			if d := firstDiff(want[k], x, at+"/"+k); d != "" {
				return d
			}
		}
		for k, x := range g {
			if _, there := want[k]; !there {
				return fmt.Sprintf("%s/%s: unexpected %s", at, k, short(x))
			}
		}
		return ""
	case []any:
		g, ok := got.([]any)
		if !ok {
			break
		}
		for i := range min(len(want), len(g)) {
			if d := firstDiff(want[i], g[i], at+"/"+strconv.Itoa(i)); d != "" {
				return d
			}
		}
		if len(want) != len(g) {
			return fmt.Sprintf("%s: expected %d elements, got %d", at, len(want), len(g))
		}
		return ""
	default:
		switch got.(type) {
		case map[string]any, []any:
		default:
			if want == got {
				return ""
			}
		}
	}
	return fmt.Sprintf("%s: expected %s, got %s", at, short(want), short(got))
}

func short(v any) string {
	b, err := json.Marshal(v)
	if err != nil {
		return err.Error()
	}
	if len(b) > 240 {
		return fmt.Sprintf("%s...(%d bytes)", b[:200], len(b))
	}
	return string(b)
}

// shift moves the indexes that a recorded request carries to those of the live server, and fills in placeholders.
func shift(r *Request, recorded, live int64, names map[string]string) *Request {
	move := func(n int64) int64 {
		if n < recorded {
			return n
		}
		return n - recorded + live
	}
	var pairs []string
	for k, v := range names {
		pairs = append(pairs, k, v)
	}
	fill := strings.NewReplacer(pairs...)
	text := func(s string) string {
		return fill.Replace(names20(s, func(d string) string {
			n, err := strconv.ParseInt(d, 10, 64)
			if err != nil {
				return d
			}
			return fmt.Sprintf("%020d", move(n))
		}))
	}
	fields := func(in map[string]any) map[string]any {
		if in == nil {
			return nil
		}
		out := make(map[string]any, len(in))
		for k, v := range in {
			s, ok := v.(string)
			if !ok {
				out[k] = v
				continue
			}
			n, err := strconv.ParseInt(s, 10, 64)
			if (k == "prevIndex" || k == "waitIndex") && err == nil && strconv.FormatInt(n, 10) == s && n >= 0 {
				out[k] = strconv.FormatInt(move(n), 10)
			} else {
				out[k] = text(s)
			}
		}
		return out
	}
	out := *r
	out.Path, out.Query, out.Form = text(r.Path), fields(r.Query), fields(r.Form)
	if r.RawBody != nil {
		s := text(*r.RawBody)
		out.RawBody = &s
	}
	if len(r.JSON) > 0 {
		out.JSON = json.RawMessage(text(string(r.JSON)))
	}
	return &out
}

// numbered puts i in the place of {{i}}.
func (r *Request) numbered(i int) (*Request, error) {
	b, err := json.Marshal(r)
	if err != nil {
		return nil, err
	}
	out := new(Request)
	return out, json.Unmarshal(bytes.ReplaceAll(b, []byte("{{i}}"), []byte(strconv.Itoa(i))), out)
}
