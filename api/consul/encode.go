package consul

import (
	"encoding/base64"
	"slices"
	"strconv"
	"unicode/utf8"

	"github.com/musterhq/muster/catalog"
	"github.com/musterhq/muster/kv"
)

// Encoders of the hot answers. They append what encoding/json makes of the structs in types.go; a test holds the
// two together.

func appendEntry(b []byte, i *catalog.Instance) []byte {
	b = append(b, sep(b)...)
	b = append(b, `{"Node":`...)
	b = appendNode(b, i.Node)
	b = append(b, `,"Service":`...)
	b = appendNodeService(b, i.Service)
	b = append(b, `,"Checks":[`...)
	for _, c := range i.Checks {
		b = append(b, sep(b)...)
		b = appendCheck(b, c)
	}
	return append(b, "]}"...)
}

// sep is the comma before an element of a list that is not the first.
func sep(b []byte) string {
	if n := len(b); n > 0 && b[n-1] == '[' {
		return ""
	}
	return ","
}

func appendNode(b []byte, n *catalog.Node) []byte {
	b = appendField(b, `{"ID":`, n.ID)
	b = appendField(b, `,"Node":`, n.Name)
	b = appendField(b, `,"Address":`, n.Address)
	b = appendField(b, `,"Datacenter":`, n.Datacenter)
	b = appendMap(append(b, `,"TaggedAddresses":`...), n.TaggedAddresses)
	b = appendMap(append(b, `,"Meta":`...), n.Meta)
	b = appendLocality(b, n.Locality)
	b = appendIndexes(b, n.Created, n.Modified)
	return append(b, '}')
}

func appendLocality(b []byte, l *catalog.Locality) []byte {
	if l == nil {
		return b
	}
	b = appendField(b, `,"Locality":{"Region":`, l.Region)
	if l.Zone != "" {
		b = appendField(b, `,"Zone":`, l.Zone)
	}
	return append(b, '}')
}

func appendNodeService(b []byte, s *catalog.Service) []byte {
	b = append(b, '{')
	if s.Kind != "" {
		b = append(appendField(b, `"Kind":`, s.Kind), ',')
	}
	b = appendField(b, `"ID":`, s.ID)
	b = appendField(b, `,"Service":`, s.Name)
	b = appendList(append(b, `,"Tags":`...), s.Tags)
	b = appendField(b, `,"Address":`, s.Address)
	if len(s.TaggedAddresses) > 0 {
		b = appendAddresses(append(b, `,"TaggedAddresses":`...), s.TaggedAddresses)
	}
	b = appendMap(append(b, `,"Meta":`...), s.Meta)
	if s.Port != 0 {
		b = strconv.AppendInt(append(b, `,"Port":`...), int64(s.Port), 10)
	}
	if s.SocketPath != "" {
		b = appendField(b, `,"SocketPath":`, s.SocketPath)
	}
	w := weightsOf(s.Weights)
	b = strconv.AppendInt(append(b, `,"Weights":{"Passing":`...), int64(w.Passing), 10)
	b = strconv.AppendInt(append(b, `,"Warning":`...), int64(w.Warning), 10)
	b = strconv.AppendBool(append(b, `},"EnableTagOverride":`...), s.EnableTagOverride)
	b = appendLocality(b, s.Locality)
	b = append(b, `,"Proxy":{"Mode":"","MeshGateway":{},"Expose":{}},"Connect":{},"PeerName":""`...)
	b = appendIndexes(b, s.Created, s.Modified)
	return append(b, '}')
}

func appendCheck(b []byte, c *catalog.Check) []byte {
	b = appendField(b, `{"Node":`, c.Node)
	b = appendField(b, `,"CheckID":`, c.ID)
	b = appendField(b, `,"Name":`, c.Name)
	b = appendField(b, `,"Status":`, c.Status)
	b = appendField(b, `,"Notes":`, c.Notes)
	b = appendField(b, `,"Output":`, c.Output)
	b = appendField(b, `,"ServiceID":`, c.ServiceID)
	b = appendField(b, `,"ServiceName":`, c.ServiceName)
	b = appendList(append(b, `,"ServiceTags":`...), c.ServiceTags)
	b = appendField(b, `,"Type":`, c.Type)
	b = appendField(b, `,"Interval":`, c.Interval)
	b = appendField(b, `,"Timeout":`, c.Timeout)
	b = append(b, `,"ExposedPort":0,"Definition":`...)
	if def, err := encodeJSON(c.Definition); err == nil && len(c.Definition) > 0 {
		b = append(b, def...)
	} else {
		b = append(b, "{}"...)
	}
	b = appendIndexes(b, c.Created, c.Modified)
	return append(b, '}')
}

// appendKV appends one key of /v1/kv.
func appendKV(b []byte, key string, e *kv.Entry) []byte { return appendKey(b, key, e, true) }

// appendKey is appendKV with the value left out, as null, unless it is wanted.
func appendKey(b []byte, key string, e *kv.Entry, value bool) []byte {
	b = strconv.AppendUint(append(b, `{"LockIndex":`...), e.LockIndex(), 10)
	b = appendField(b, `,"Key":`, key)
	b = strconv.AppendUint(append(b, `,"Flags":`...), e.UserFlags(), 10)
	b = append(b, `,"Value":`...)
	if v := e.Value(); v == "" || !value {
		b = append(b, "null"...)
	} else {
		b = append(b, '"')
		b = appendBase64(b, v)
		b = append(b, '"')
	}
	if o := e.Owner(); o != "" {
		b = appendField(b, `,"Session":`, o)
	}
	b = appendIndexes(b, e.Created(), e.Modified())
	return append(b, '}')
}

// appendBase64 is base64.StdEncoding.AppendEncode for a string, without a copy of it.
func appendBase64(b []byte, s string) []byte {
	n := base64.StdEncoding.EncodedLen(len(s))
	b = slices.Grow(b, n)
	var chunk [96]byte // a multiple of three: chunks join without padding
	for len(s) > len(chunk) {
		copy(chunk[:], s)
		b = base64.StdEncoding.AppendEncode(b, chunk[:])
		s = s[len(chunk):]
	}
	return base64.StdEncoding.AppendEncode(b, chunk[:copy(chunk[:], s)])
}

func appendIndexes(b []byte, created, modified uint64) []byte {
	b = strconv.AppendUint(append(b, `,"CreateIndex":`...), created, 10)
	return strconv.AppendUint(append(b, `,"ModifyIndex":`...), modified, 10)
}

func appendField(b []byte, name, value string) []byte {
	return appendString(append(b, name...), value)
}

func appendList(b []byte, list []string) []byte {
	b = append(b, '[')
	for i, s := range list {
		if i > 0 {
			b = append(b, ',')
		}
		b = appendString(b, s)
	}
	return append(b, ']')
}

func appendMap(b []byte, m map[string]string) []byte {
	if m == nil {
		return append(b, "null"...)
	}
	b = append(b, '{')
	for i, k := range sortedKeys(m) {
		if i > 0 {
			b = append(b, ',')
		}
		b = append(appendString(b, k), ':')
		b = appendString(b, m[k])
	}
	return append(b, '}')
}

func appendAddresses(b []byte, m map[string]catalog.Address) []byte {
	b = append(b, '{')
	for i, k := range sortedKeys(m) {
		if i > 0 {
			b = append(b, ',')
		}
		b = append(appendString(b, k), ':')
		b = appendField(b, `{"Address":`, m[k].Address)
		b = strconv.AppendInt(append(b, `,"Port":`...), int64(m[k].Port), 10)
		b = append(b, '}')
	}
	return append(b, '}')
}

func sortedKeys[V any](m map[string]V) []string {
	keys := make([]string, 0, len(m))
	for k := range m {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	return keys
}

// appendString appends s as a JSON string as encoding/json does without escaping HTML: invalid UTF-8 becomes
// U+FFFD, and U+2028 and U+2029 are escaped.
func appendString(b []byte, s string) []byte {
	const hex = "0123456789abcdef"
	b = append(b, '"')
	start := 0
	for i := 0; i < len(s); {
		c := s[i]
		if c >= 0x20 && c != '"' && c != '\\' && c < utf8.RuneSelf {
			i++
			continue
		}
		if c < utf8.RuneSelf {
			b = append(b, s[start:i]...)
			switch c {
			case '"', '\\':
				b = append(b, '\\', c)
			case '\b':
				b = append(b, `\b`...)
			case '\f':
				b = append(b, `\f`...)
			case '\n':
				b = append(b, `\n`...)
			case '\r':
				b = append(b, `\r`...)
			case '\t':
				b = append(b, `\t`...)
			default:
				b = append(b, '\\', 'u', '0', '0', hex[c>>4], hex[c&0xf])
			}
			i++
			start = i
			continue
		}
		r, size := utf8.DecodeRuneInString(s[i:])
		switch {
		case r == utf8.RuneError && size == 1:
			b = append(append(b, s[start:i]...), `\ufffd`...)
			start = i + size
		case r == 0x2028 || r == 0x2029:
			b = append(append(b, s[start:i]...), `\u202`...)
			b = append(b, hex[r&0xf])
			start = i + size
		}
		i += size
	}
	return append(append(b, s[start:]...), '"')
}
