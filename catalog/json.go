package catalog

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"
)

// encoder writes a record as JSON without reflection, in one buffer. Keys of maps are sorted, so that equal records
// have equal bytes and kv.SkipSame can tell. Zero values are left out; empty maps and lists that are not nil are
// kept, because some answers tell them apart.
type encoder struct{ b []byte }

func newEncoder() *encoder {
	e := &encoder{b: make([]byte, 0, 320)}
	e.b = append(e.b, '{')
	return e
}

func (e *encoder) done() string { return string(append(e.b, '}')) }

func (e *encoder) name(name string) {
	e.comma()
	e.b = append(e.b, '"')
	e.b = append(e.b, name...)
	e.b = append(e.b, '"', ':')
}

func (e *encoder) comma() {
	if c := e.b[len(e.b)-1]; c != '{' && c != '[' {
		e.b = append(e.b, ',')
	}
}

func (e *encoder) open(name string) {
	e.name(name)
	e.b = append(e.b, '{')
}

func (e *encoder) close() { e.b = append(e.b, '}') }

func (e *encoder) str(name, v string) {
	if v != "" {
		e.name(name)
		e.b = appendString(e.b, v)
	}
}

func (e *encoder) int(name string, v int) {
	if v != 0 {
		e.name(name)
		e.b = strconv.AppendInt(e.b, int64(v), 10)
	}
}

func (e *encoder) bool(name string, v bool) {
	if v {
		e.name(name)
		e.b = append(e.b, "true"...)
	}
}

func (e *encoder) strs(name string, v []string) {
	if v == nil {
		return
	}
	e.name(name)
	e.b = append(e.b, '[')
	for _, s := range v {
		e.comma()
		e.b = appendString(e.b, s)
	}
	e.b = append(e.b, ']')
}

func (e *encoder) strMap(name string, v map[string]string) {
	if v == nil {
		return
	}
	e.open(name)
	for _, k := range sortedKeys(v) {
		e.key(k)
		e.b = appendString(e.b, v[k])
	}
	e.close()
}

func (e *encoder) addrMap(name string, v map[string]Address) {
	if v == nil {
		return
	}
	e.open(name)
	for _, k := range sortedKeys(v) {
		e.key(k)
		e.b = append(e.b, '{')
		e.str("Address", v[k].Address)
		e.int("Port", v[k].Port)
		e.close()
	}
	e.close()
}

func (e *encoder) locality(name string, l *Locality) {
	if l == nil {
		return
	}
	e.open(name)
	e.str("Region", l.Region)
	e.str("Zone", l.Zone)
	e.close()
}

// anyMap writes a map that came out of JSON. One that cannot be written back is left out.
func (e *encoder) anyMap(name string, v map[string]any) {
	if len(v) == 0 {
		return
	}
	if b, err := json.Marshal(v); err == nil {
		e.name(name)
		e.b = append(e.b, b...)
	}
}

func (e *encoder) key(k string) {
	e.comma()
	e.b = appendString(e.b, k)
	e.b = append(e.b, ':')
}

func sortedKeys[V any](m map[string]V) []string {
	if len(m) == 1 {
		for k := range m {
			return []string{k}
		}
	}
	return slices.Sorted(maps.Keys(m))
}

// appendString appends s as a JSON string; what is not UTF-8 becomes U+FFFD.
func appendString(b []byte, s string) []byte {
	for i := range len(s) {
		if c := s[i]; c < 0x20 || c == '"' || c == '\\' || c >= utf8.RuneSelf {
			return appendQuoted(b, s)
		}
	}
	b = append(b, '"')
	b = append(b, s...)
	return append(b, '"')
}

func appendQuoted(b []byte, s string) []byte {
	const hex = "0123456789abcdef"
	b = append(b, '"')
	for _, r := range s { // yields U+FFFD for bad bytes
		switch {
		case r == '"' || r == '\\':
			b = append(b, '\\', byte(r))
		case r == '\n':
			b = append(b, '\\', 'n')
		case r < 0x20:
			b = append(b, '\\', 'u', '0', '0', hex[r>>4], hex[r&0xf])
		default:
			b = utf8.AppendRune(b, r)
		}
	}
	return append(b, '"')
}

// decoder reads what encoder writes. Its strings are parts of the text it reads, which lives as long as the record
// anyway, so a decoded record costs little more than its struct. It knows only the usual spelling of the known
// fields: whatever else comes (a field of a newer version, null, another order of things) makes it fail, and finish
// leaves the text to encoding/json.
type decoder struct {
	s     string
	i     int
	first bool
	bad   bool
}

// finish returns rec when d has read the whole text into it, else what encoding/json makes of the text.
func finish[T any](d *decoder, rec *T) (*T, error) {
	if d.space(); !d.bad && d.i == len(d.s) {
		return rec, nil
	}
	rec = new(T)
	if err := json.Unmarshal([]byte(d.s), rec); err != nil {
		return nil, fmt.Errorf("decoding %T: %w", rec, err)
	}
	return rec, nil
}

func (d *decoder) fail() { d.bad = true }

func (d *decoder) space() {
	for d.i < len(d.s) && (d.s[d.i] == ' ' || d.s[d.i] == '\n' || d.s[d.i] == '\t' || d.s[d.i] == '\r') {
		d.i++
	}
}

// take consumes c, after white space, if it comes next.
func (d *decoder) take(c byte) bool {
	d.space()
	if d.bad || d.i == len(d.s) || d.s[d.i] != c {
		return false
	}
	d.i++
	return true
}

func (d *decoder) expect(c byte) {
	if !d.take(c) {
		d.bad = true
	}
}

// begin enters an object and moves to its first field.
func (d *decoder) begin() (key string, ok bool) {
	d.expect('{')
	d.first = true
	return d.field()
}

// field moves to the next field of the object; ok is false at its end and after a failure.
func (d *decoder) field() (key string, ok bool) {
	if d.take('}') {
		d.first = false
		return "", false
	}
	if !d.first {
		d.expect(',')
	}
	d.first = false
	d.str(&key)
	d.expect(':')
	return key, !d.bad
}

func (d *decoder) str(v *string) {
	d.expect('"')
	if d.bad {
		return
	}
	start, ascii := d.i, true
	for ; d.i < len(d.s); d.i++ {
		switch c := d.s[d.i]; {
		case c == '"':
			*v = d.s[start:d.i]
			d.i++
			d.bad = !ascii && !utf8.ValidString(*v)
			return
		case c == '\\':
			d.escaped(start-1, v)
			return
		case c < 0x20:
			d.bad = true
			return
		case c >= utf8.RuneSelf:
			ascii = false
		}
	}
	d.bad = true
}

// escaped reads the string that begins at start and has an escape in it.
func (d *decoder) escaped(start int, v *string) {
	for ; d.i < len(d.s) && d.s[d.i] != '"'; d.i++ {
		if d.s[d.i] == '\\' {
			d.i++
		}
	}
	if d.i >= len(d.s) {
		d.bad = true
		return
	}
	d.i++
	d.bad = json.Unmarshal([]byte(d.s[start:d.i]), v) != nil
}

func (d *decoder) int(v *int) {
	d.space()
	start := d.i
	for d.i < len(d.s) && (d.s[d.i] == '-' || d.s[d.i] >= '0' && d.s[d.i] <= '9') {
		d.i++
	}
	text := d.s[start:d.i]
	n, err := strconv.Atoi(text)
	if digits := strings.TrimPrefix(text, "-"); err != nil || digits[0] == '0' && len(digits) > 1 {
		d.bad = true
	}
	*v = n
}

func (d *decoder) bool(v *bool) {
	d.space()
	switch rest := d.s[d.i:]; {
	case strings.HasPrefix(rest, "true"):
		*v, d.i = true, d.i+4
	case strings.HasPrefix(rest, "false"):
		*v, d.i = false, d.i+5
	default:
		d.bad = true
	}
}

func (d *decoder) strs(v *[]string) {
	d.expect('[')
	*v = []string{}
	if d.take(']') {
		return
	}
	if !d.bad {
		*v = make([]string, 0, d.count())
	}
	for !d.bad {
		var s string
		d.str(&s)
		*v = append(*v, s)
		if d.take(']') {
			return
		}
		d.expect(',')
	}
}

// count guesses the length of the list just entered, so that it is allocated once and with no room to spare.
func (d *decoder) count() int {
	list, _, _ := strings.Cut(d.s[d.i:], "]")
	return 1 + strings.Count(list, `",`)
}

func (d *decoder) strMap(v *map[string]string) {
	if *v == nil {
		*v = map[string]string{}
	}
	for key, ok := d.begin(); ok; key, ok = d.field() {
		var s string
		d.str(&s)
		(*v)[key] = s
	}
}

func (d *decoder) addrMap(v *map[string]Address) {
	if *v == nil {
		*v = map[string]Address{}
	}
	for key, ok := d.begin(); ok; key, ok = d.field() {
		var a Address
		for key, ok := d.begin(); ok; key, ok = d.field() {
			switch key {
			case "Address":
				d.str(&a.Address)
			case "Port":
				d.int(&a.Port)
			default:
				d.fail()
			}
		}
		(*v)[key] = a
	}
}

func (d *decoder) weights(v *Weights) {
	for key, ok := d.begin(); ok; key, ok = d.field() {
		switch key {
		case "Passing":
			d.int(&v.Passing)
		case "Warning":
			d.int(&v.Warning)
		default:
			d.fail()
		}
	}
}

func (d *decoder) locality(v **Locality) {
	if *v == nil {
		*v = new(Locality)
	}
	l := *v
	for key, ok := d.begin(); ok; key, ok = d.field() {
		switch key {
		case "Region":
			d.str(&l.Region)
		case "Zone":
			d.str(&l.Zone)
		default:
			d.fail()
		}
	}
}

// anyMap finds the end of the object and leaves it to encoding/json.
func (d *decoder) anyMap(v *map[string]any) {
	d.space()
	start, depth := d.i, 0
	for ; d.i < len(d.s); d.i++ {
		switch d.s[d.i] {
		case '"':
			for d.i++; d.i < len(d.s) && d.s[d.i] != '"'; d.i++ {
				if d.s[d.i] == '\\' {
					d.i++
				}
			}
		case '{', '[':
			depth++
		case '}', ']':
			depth--
		}
		if depth == 0 {
			break
		}
	}
	if d.i >= len(d.s) || d.s[d.i] != '}' || json.Unmarshal([]byte(d.s[start:d.i+1]), v) != nil {
		d.bad = true
		return
	}
	d.i++
}
