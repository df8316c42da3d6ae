package agent

import (
	"os"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// Every key that a file may set is explained: by its full name, by the flag it has, or, in the blocks that have a table or an
// example of their own, by its name there.
func TestEveryKeyIsDocumented(t *testing.T) {
	var doc strings.Builder
	for _, f := range []string{"configuration.md", "keys.md", "upstream.md", "cli.md"} {
		b, err := os.ReadFile("../docs/" + f)
		must(t, err)
		doc.Write(b)
	}
	text := doc.String()
	blocks := []string{"services", "checks", "upstreams", "last_known_good", "shared_views", "flap_damping", "dns_config"}
	n := 0
	var walk func(path string, typ reflect.Type)
	walk = func(path string, typ reflect.Type) {
		for i := range typ.NumField() {
			f := typ.Field(i)
			name := f.Tag.Get("key")
			if name == "" {
				continue
			}
			key := strings.TrimPrefix(path+"."+name, ".")
			inner := f.Type
			for inner.Kind() == reflect.Slice || inner.Kind() == reflect.Pointer {
				inner = inner.Elem()
			}
			if inner.Kind() == reflect.Struct {
				walk(key, inner)
				continue
			}
			n++
			block, _, _ := strings.Cut(key, ".")
			_, unused := ignoredKey(key)
			flag := f.Tag.Get("flag")
			switch {
			case unused, strings.Contains(text, "`"+key+"`") || strings.HasPrefix(key, "watches.http_handler_config."), flag != "" && strings.Contains(text, "`-"+flag+"`"):
			case slices.Contains(blocks, block) && regexp.MustCompile(`\b`+name+`\b`).MatchString(text):
			default:
				t.Errorf("%s is not documented", key)
			}
		}
	}
	walk("", reflect.TypeFor[Config]())
	if n < 150 {
		t.Errorf("looked at %d keys only", n)
	}
}
