package etcd

import (
	"strconv"
	"time"
	"unicode/utf8"

	"github.com/musterhq/muster/kv"
)

// The encoder appends JSON by hand because reads and writes of single keys are the hottest path of the dialect.
// Fields come in the fixed order key, value, dir, expiration, ttl, nodes, modifiedIndex, createdIndex; empty ones
// are left out.

// appendString appends s as a JSON string, escaped the way encoding/json escapes by default: <, >, & and the
// separators U+2028 and U+2029 too, and bytes that are no UTF-8 replaced. A fuzz test compares the two.
func appendString[S string | []byte](b []byte, s S) []byte {
	b = append(b, '"')
	start := 0
	for i := 0; i < len(s); {
		c := s[i]
		if c < utf8.RuneSelf {
			if c >= ' ' && c != '"' && c != '\\' && c != '<' && c != '>' && c != '&' {
				i++
				continue
			}
			b = append(b, s[start:i]...)
			b = appendEscape(b, c)
			i++
			start = i
			continue
		}
		r, n := utf8.DecodeRuneInString(string(s[i:min(i+utf8.UTFMax, len(s))]))
		switch {
		case r == utf8.RuneError && n == 1:
			b = append(b, s[start:i]...)
			b = append(b, `\ufffd`...)
		case r == '\u2028' || r == '\u2029':
			b = append(b, s[start:i]...)
			b = append(b, `\u202`...)
			b = append(b, hex[r&0xf])
		default:
			i += n
			continue
		}
		i += n
		start = i
	}
	b = append(b, s[start:]...)
	return append(b, '"')
}

const hex = "0123456789abcdef"

func appendEscape(b []byte, c byte) []byte {
	switch c {
	case '"', '\\':
		return append(b, '\\', c)
	case '\b':
		return append(b, '\\', 'b')
	case '\f':
		return append(b, '\\', 'f')
	case '\n':
		return append(b, '\\', 'n')
	case '\r':
		return append(b, '\\', 'r')
	case '\t':
		return append(b, '\\', 't')
	}
	return append(b, '\\', 'u', '0', '0', hex[c>>4], hex[c&0xf])
}

// appendKey appends the key member of a node; the root has none.
func appendKey[S string | []byte](b []byte, key S) []byte {
	if len(key) == 1 {
		return b
	}
	b = append(b, `"key":`...)
	b = appendString(b, key)
	return append(b, ',')
}

// appendLife appends expiration and ttl. ttl is the number of seconds left, rounded up, and missing when it has
// run out.
func appendLife(b []byte, expires, now int64) []byte {
	if expires == 0 {
		return b
	}
	b = append(b, `"expiration":"`...)
	b = time.Unix(0, expires).UTC().AppendFormat(b, time.RFC3339Nano)
	b = append(b, `",`...)
	if left := expires - now; left > 0 {
		secs := left / int64(time.Second)
		if left%int64(time.Second) != 0 {
			secs++
		}
		b = append(b, `"ttl":`...)
		b = strconv.AppendInt(b, secs, 10)
		b = append(b, ',')
	}
	return b
}

func appendIndexes(b []byte, modified, created uint64) []byte {
	if modified != 0 {
		b = append(b, `"modifiedIndex":`...)
		b = strconv.AppendUint(b, modified, 10)
		b = append(b, ',')
	}
	if created != 0 {
		b = append(b, `"createdIndex":`...)
		b = strconv.AppendUint(b, created, 10)
		b = append(b, ',')
	}
	return b
}

// closeObject turns the comma after the last member into the end of the object.
func closeObject(b []byte) []byte {
	if n := len(b) - 1; b[n] == ',' {
		b[n] = '}'
		return b
	}
	return append(b, '}')
}

// appendNode appends a node without children, as events show it. modified is given because an update of a
// directory shows an index that is not the stored one.
func appendNode[S string | []byte](b []byte, key S, e *kv.Entry, modified uint64, now int64) []byte {
	b = append(b, '{')
	b = appendKey(b, key)
	if e.IsDir() {
		b = append(b, `"dir":true,`...)
	} else {
		b = append(b, `"value":`...)
		b = appendString(b, e.Value())
		b = append(b, ',')
	}
	b = appendLife(b, e.Expires(), now)
	b = appendIndexes(b, modified, e.Created())
	return closeObject(b)
}

// removed says whether an action takes the node away.
func removed(a kv.Action) bool {
	return a == kv.ActDelete || a == kv.ActCompareAndDelete || a == kv.ActExpire
}

// appendEvent appends a whole answer for an event: action, node and, where there was one, prevNode.
func appendEvent(b []byte, action string, ev *kv.Event, now int64) []byte {
	b = append(b, `{"action":"`...)
	b = append(b, action...)
	b = append(b, `","node":`...)
	key := keyOf(ev.Path)
	switch {
	case removed(ev.Action) && ev.Prev != nil:
		b = append(b, '{')
		b = appendKey(b, key)
		if ev.Prev.IsDir() {
			b = append(b, `"dir":true,`...)
		}
		b = appendIndexes(b, ev.Index, ev.Prev.Created())
		b = closeObject(b)
	case ev.Entry != nil:
		b = appendNode(b, key, ev.Entry, ev.Index, now)
	default:
		b = append(b, "null"...)
	}
	if ev.Prev != nil {
		b = append(b, `,"prevNode":`...)
		b = appendNode(b, key, ev.Prev, ev.Prev.Modified(), now)
	}
	return append(b, '}', '\n')
}

// actionOf names the action of an event that some other request, perhaps of the other dialect, has made. Taking or
// giving up a lock on a key writes its value and keeps its created index: that is an update here.
func actionOf(ev *kv.Event) string {
	switch ev.Action {
	case kv.ActCreate:
		return "create"
	case kv.ActUpdate:
		return "update"
	case kv.ActCompareAndSwap:
		return "compareAndSwap"
	case kv.ActDelete:
		return "delete"
	case kv.ActCompareAndDelete:
		return "compareAndDelete"
	case kv.ActExpire:
		return "expire"
	case kv.ActAcquire, kv.ActRelease:
		if ev.Prev != nil {
			return "update"
		}
	}
	return "set"
}

// lister appends a directory with its children.
type lister struct {
	b         []byte
	key       []byte // key of the node being written
	now       int64
	recursive bool
}

// appendGet appends the answer of a read.
func appendGet(b []byte, key string, e *kv.Entry, recursive bool, now int64) []byte {
	b = append(b, `{"action":"get","node":`...)
	switch {
	case e == nil: // the root of an empty tree
		b = append(b, `{"dir":true}`...)
	case e.IsDir() || key == "/":
		l := lister{b: b, now: now, recursive: recursive}
		if key == "/" {
			l.root(e)
		} else {
			l.key = append(l.key, key...)
			l.node(e, true)
		}
		b = l.b
	default:
		b = appendNode(b, key, e, e.Modified(), now)
	}
	return append(b, '}', '\n')
}

// root appends the directory that has neither key nor indexes.
func (l *lister) root(e *kv.Entry) {
	l.b = append(l.b, `{"dir":true,`...)
	l.children(e)
	l.b = closeObject(l.b)
}

// node appends e, whose key is in l.key, with its children when list is set. Entry.Each gives them in byte order,
// which is the order of the full keys too, so every answer is sorted.
func (l *lister) node(e *kv.Entry, list bool) {
	if !e.IsDir() {
		l.b = appendNode(l.b, l.key, e, e.Modified(), l.now)
		return
	}
	l.b = append(l.b, '{')
	l.b = appendKey(l.b, l.key)
	l.b = append(l.b, `"dir":true,`...)
	l.b = appendLife(l.b, e.Expires(), l.now)
	if list {
		l.children(e)
	}
	l.b = appendIndexes(l.b, e.Modified(), e.Created())
	l.b = closeObject(l.b)
}

// children appends the nodes member, or nothing when no child is visible.
func (l *lister) children(e *kv.Entry) {
	n := len(l.key)
	found := false
	e.Each(func(c *kv.Entry) bool {
		name := c.Name()
		if hiddenName(name) {
			return true
		}
		if found {
			l.b = append(l.b, ',')
		} else {
			l.b = append(l.b, `"nodes":[`...)
			found = true
		}
		l.key = append(append(l.key[:n], '/'), name...)
		l.node(c, l.recursive)
		return true
	})
	l.key = l.key[:n]
	if found {
		l.b = append(l.b, ']', ',')
	}
}

// hiddenName says whether a node of that name is left out of listings.
func hiddenName(name string) bool { return name != "" && name[0] == '_' }
