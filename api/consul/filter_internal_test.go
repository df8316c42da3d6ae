package consul

import (
	"strings"
	"testing"
)

// What the parser knows and this dialect does not is refused in words for people, not with the name of a Go type.
func TestFilterOfAnUnknownKind(t *testing.T) {
	for _, expr := range []string{"any Tags as t { t == x }", "all Tags as t { t == x }"} {
		_, err := newFilter[struct {
			Name string
			Tags []string
		}](expr)
		if err == nil || strings.Contains(err.Error(), "grammar") || !strings.Contains(err.Error(), "any or all") {
			t.Errorf("%s: error %v", expr, err)
		}
	}
}
