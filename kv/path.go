package kv

import (
	"fmt"
	"strings"
)

// cut splits the first segment off a path. more says whether anything (even an empty segment) follows.
func cut(path string) (segment, rest string, more bool) {
	if i := strings.IndexByte(path, '/'); i >= 0 {
		return path[:i], path[i+1:], true
	}
	return path, "", false
}

// lastSegment returns what follows the last slash.
func lastSegment(path string) string { return path[strings.LastIndexByte(path, '/')+1:] }

// keepName returns the last segment in memory that an Entry may hold for good: it shares the memory of the path
// unless that would pin a path much longer than the name.
func keepName(path string) string {
	name := lastSegment(path)
	if len(path) > 48 && len(path) > 2*len(name) {
		return strings.Clone(name)
	}
	return name
}

// Escape makes any string one path segment by writing "%" as "%25" and "/" as "%2F".
func Escape(s string) string {
	if strings.IndexByte(s, '/') < 0 && strings.IndexByte(s, '%') < 0 {
		return s
	}
	return strings.ReplaceAll(strings.ReplaceAll(s, "%", "%25"), "/", "%2F")
}

// Unescape is the inverse of Escape. It refuses everything that Escape does not produce.
func Unescape(s string) (string, error) {
	if strings.IndexByte(s, '/') >= 0 {
		return "", fmt.Errorf("kv: segment %q holds a slash", s)
	}
	if strings.IndexByte(s, '%') < 0 {
		return s, nil
	}
	var b strings.Builder
	b.Grow(len(s))
	for i := 0; i < len(s); i++ {
		if s[i] != '%' {
			b.WriteByte(s[i])
			continue
		}
		switch {
		case strings.HasPrefix(s[i:], "%25"):
			b.WriteByte('%')
		case strings.HasPrefix(s[i:], "%2F"):
			b.WriteByte('/')
		default:
			return "", fmt.Errorf("kv: segment %q: want %%25 or %%2F at byte %d", s, i)
		}
		i += 2
	}
	return b.String(), nil
}
