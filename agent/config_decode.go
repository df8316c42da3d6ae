package agent

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode"

	"github.com/hashicorp/hcl"
)

// maxConfigFile bounds one configuration file, in bytes: far above any sane one, far below what hurts.
const maxConfigFile = 8 << 20

// maxConfigDepth bounds nesting: the HCL parser recurses, and a stack that overflows cannot be recovered from.
const maxConfigDepth = 64

// Warning is something the operator should know that does not stop the agent.
type Warning struct {
	Source string // file, environment variable or flag
	Key    string // key path, such as "telemetry.statsd_address"
	Text   string
}

func (w Warning) String() string { return w.Source + ": " + w.Key + ": " + w.Text }

// parseConfig turns HCL or JSON text into maps, lists and scalars. format is "hcl" or "json".
func parseConfig(text []byte, format string) (tree map[string]any, err error) {
	if len(text) > maxConfigFile {
		return nil, fmt.Errorf("is %d bytes long, at most %d are read", len(text), maxConfigFile)
	}
	if deeper(text, maxConfigDepth) {
		return nil, fmt.Errorf("is nested deeper than %d levels", maxConfigDepth)
	}
	if format == "json" {
		return parseJSON(text)
	}
	defer func() { // the HCL parser is known to panic on some malformed inputs
		if r := recover(); r != nil {
			tree, err = nil, fmt.Errorf("malformed HCL: %v", r)
		}
	}()
	tree = map[string]any{}
	if err := hcl.Unmarshal(text, &tree); err != nil {
		return nil, fmt.Errorf("malformed HCL: %w", err)
	}
	return tree, nil
}

func parseJSON(text []byte) (map[string]any, error) {
	if len(bytes.TrimSpace(text)) == 0 {
		return map[string]any{}, nil // as an empty HCL file
	}
	dec := json.NewDecoder(bytes.NewReader(text))
	dec.UseNumber()
	var tree map[string]any
	if err := dec.Decode(&tree); err != nil {
		at := dec.InputOffset()
		if s := (*json.SyntaxError)(nil); errors.As(err, &s) {
			at = s.Offset
		}
		line := 1 + bytes.Count(text[:min(int(at), len(text))], []byte("\n"))
		return nil, fmt.Errorf("malformed JSON, line %d: %w", line, err)
	}
	if _, err := dec.Token(); !errors.Is(err, io.EOF) {
		return nil, fmt.Errorf("malformed JSON: more text after the object")
	}
	return tree, nil
}

// deeper says whether brackets outside of quotes nest deeper than limit.
func deeper(text []byte, limit int) bool {
	depth, quoted := 0, false
	for i := 0; i < len(text); i++ {
		switch c := text[i]; {
		case quoted && c == '\\':
			i++
		case c == '"':
			quoted = !quoted
		case c == '\n':
			quoted = false // neither format lets a string run over the line, except in ${}, which counts as depth too
		case quoted:
			if c == '{' {
				if depth++; depth > limit {
					return true
				}
			} else if c == '}' {
				depth--
			}
		case c == '{' || c == '[':
			if depth++; depth > limit {
				return true
			}
		case c == '}' || c == ']':
			depth--
		}
	}
	return false
}

// decoder puts one parsed source over what earlier sources left in a Config: scalars replace, lists append, maps
// and blocks merge. It goes on after an error, so that all of a source's errors are reported at once.
type decoder struct {
	source  string
	origins map[string]string
	errs    []error
	warns   []Warning
}

func (d *decoder) fail(path, format string, args ...any) {
	d.errs = append(d.errs, fmt.Errorf("%s: %s: %s", d.source, path, fmt.Sprintf(format, args...)))
}

// config decodes a whole source into c.
func (d *decoder) config(c *Config, tree map[string]any) {
	for _, one := range [...]struct{ singular, plural string }{{"service", "services"}, {"check", "checks"}, {"upstream", "upstreams"}} {
		if v, ok := tree[one.singular]; ok { // a singular block is one more element of the list
			tree[one.plural] = append(asList(tree[one.plural]), asList(v)...)
			delete(tree, one.singular)
		}
	}
	for _, old := range sortedKeys(oldTLSKeys) {
		if v, ok := tree[old]; ok {
			now := oldTLSKeys[old]
			d.warns = append(d.warns, Warning{d.source, old, fmt.Sprintf("is the old name of tls.%s.%s", now[0], now[1])})
			d.block(reflect.ValueOf(&c.TLS).Elem(), map[string]any{now[0]: map[string]any{now[1]: v}}, "tls.")
			delete(tree, old)
		}
	}
	d.block(reflect.ValueOf(c).Elem(), tree, "")
}

// block decodes the keys of tree into the struct v.
func (d *decoder) block(v reflect.Value, tree map[string]any, path string) {
	fields := keyFields(v.Type())
	for _, key := range sortedKeys(tree) {
		at := path + key
		i, ok := fields[key]
		if name := snakeCase(key); !ok && name != key {
			// Other agents of this family take field names as the HTTP API spells them too.
			if _, twice := tree[name]; !twice {
				i, ok = fields[name]
				at = path + name
			}
		}
		if ok {
			d.value(v.Field(i), tree[key], at)
			continue
		}
		if reason, ok := ignoredKey(at); ok {
			d.warns = append(d.warns, Warning{d.source, at, reason})
			continue
		}
		if refuse, ok := refusedKeys[at]; ok {
			if text := refuse(tree[key]); text != "" {
				d.fail(at, "%s", text)
			}
			continue
		}
		hint := ""
		if near := nearest(key, fields); near != "" {
			hint = fmt.Sprintf(", did you mean %q?", near)
		}
		d.fail(at, "unknown key%s", hint)
	}
}

var durationType = reflect.TypeFor[time.Duration]()

// value decodes raw into v by the rules of merging.
func (d *decoder) value(v reflect.Value, raw any, at string) {
	if raw == nil {
		return // null: as if the key were not there
	}
	d.origins[at] = d.source
	if v.Type() == durationType {
		d.duration(v, raw, at)
		return
	}
	switch v.Kind() {
	case reflect.String:
		if s, ok := raw.(string); ok {
			v.SetString(s)
		} else {
			d.fail(at, "expected a string, got %s", describe(raw))
		}
	case reflect.Bool:
		if b, ok := asBool(raw); ok {
			v.SetBool(b)
		} else {
			d.fail(at, "expected true or false, got %s", describe(raw))
		}
	case reflect.Int:
		if n, ok := asInt(raw); ok {
			v.SetInt(n)
		} else {
			d.fail(at, "expected a whole number, got %s", describe(raw))
		}
	case reflect.Pointer:
		if v.IsNil() {
			v.Set(reflect.New(v.Type().Elem()))
		}
		d.value(v.Elem(), raw, at)
	case reflect.Struct:
		for _, m := range d.blocks(raw, at) {
			d.block(v, m, at+".")
		}
	case reflect.Slice:
		for i, one := range asList(raw) {
			e := reflect.New(v.Type().Elem()).Elem()
			d.value(e, one, fmt.Sprintf("%s[%d]", at, i))
			v.Set(reflect.Append(v, e))
		}
	case reflect.Map:
		if v.IsNil() {
			v.Set(reflect.MakeMap(v.Type()))
		}
		for _, m := range d.blocks(raw, at) {
			for _, k := range sortedKeys(m) {
				e := reflect.New(v.Type().Elem()).Elem()
				d.value(e, m[k], at+"."+k)
				v.SetMapIndex(reflect.ValueOf(k), e)
			}
		}
	}
}

func (d *decoder) duration(v reflect.Value, raw any, at string) {
	s, ok := raw.(string)
	if !ok {
		d.fail(at, "expected a duration with its unit, such as \"30s\", got %s", describe(raw))
		return
	}
	dur, err := time.ParseDuration(s)
	if err != nil {
		d.fail(at, "expected a duration with its unit, such as \"30s\", got %q", s)
		return
	}
	v.SetInt(int64(dur))
}

// blocks gives the objects that raw stands for: HCL makes a list of every block, JSON may hold one or a list.
func (d *decoder) blocks(raw any, at string) []map[string]any {
	var out []map[string]any
	for _, one := range asList(raw) {
		m, ok := one.(map[string]any)
		if !ok {
			d.fail(at, "expected a block of keys and values, got %s", describe(one))
			continue
		}
		out = append(out, m)
	}
	return out
}

func asList(raw any) []any {
	switch x := raw.(type) {
	case nil:
		return nil
	case []any:
		return x
	case []map[string]any:
		out := make([]any, len(x))
		for i := range x {
			out[i] = x[i]
		}
		return out
	}
	return []any{raw}
}

func asBool(raw any) (b, ok bool) {
	switch x := raw.(type) {
	case bool:
		return x, true
	case string:
		b, err := strconv.ParseBool(x)
		return b, err == nil
	}
	return false, false
}

func asInt(raw any) (int64, bool) {
	switch x := raw.(type) {
	case int:
		return int64(x), true
	case float64:
		return int64(x), x == math.Trunc(x) && math.Abs(x) < 1<<53
	case json.Number:
		n, err := x.Int64()
		return n, err == nil
	case string:
		n, err := strconv.ParseInt(x, 10, 64)
		return n, err == nil
	}
	return 0, false
}

func describe(raw any) string {
	switch x := raw.(type) {
	case string:
		return strconv.Quote(x)
	case []any:
		return "a list"
	case map[string]any, []map[string]any:
		return "a block"
	default:
		return fmt.Sprint(x)
	}
}

// keyFields maps the key of every configurable field of a struct to its number: the `key` tag, or, outside Config
// itself, the snake_case form of its name.
func keyFields(t reflect.Type) map[string]int {
	out := make(map[string]int, t.NumField())
	for i := range t.NumField() {
		f := t.Field(i)
		key := f.Tag.Get("key")
		if key == "" && f.IsExported() && t != reflect.TypeFor[Config]() {
			key = snakeCase(f.Name)
		}
		if key != "" {
			out[key] = i
		}
	}
	return out
}

// snakeCase turns TLSServerName into tls_server_name.
func snakeCase(name string) string {
	var b strings.Builder
	rs := []rune(name)
	for i, r := range rs {
		if i > 0 && unicode.IsUpper(r) && (unicode.IsLower(rs[i-1]) || i+1 < len(rs) && unicode.IsLower(rs[i+1])) {
			b.WriteByte('_')
		}
		b.WriteRune(unicode.ToLower(r))
	}
	return b.String()
}

func sortedKeys[V any](m map[string]V) []string {
	keys := make([]string, 0, len(m))
	for k := range m {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	return keys
}

// nearest finds the known key that a misspelt one most likely means: at most two letters away.
func nearest(key string, fields map[string]int) string {
	best, bestDist := "", 3
	for _, known := range sortedKeys(fields) {
		if dist := editDistance(key, known); dist < bestDist && dist < len(key)-1 {
			best, bestDist = known, dist
		}
	}
	return best
}

func editDistance(a, b string) int {
	if len(a) > 64 || len(b) > 64 {
		return 64
	}
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := 1; i <= len(a); i++ {
		diag := row[0]
		row[0] = i
		for j := 1; j <= len(b); j++ {
			cost := 1
			if a[i-1] == b[j-1] {
				cost = 0
			}
			diag, row[j] = row[j], min(row[j]+1, row[j-1]+1, diag+cost)
		}
	}
	return row[len(b)]
}
