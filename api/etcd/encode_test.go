package etcd

import (
	"encoding/json"
	"net/http"
	"net/url"
	"testing"
)

// FuzzString: strings are escaped exactly as encoding/json does it.
func FuzzString(f *testing.F) {
	for _, s := range []string{"", "plain", "<a href=\"x\">&amp;</a>", "\x00\x1f\b\f\n\r\t\\", "é世界\u2028\u2029\u202a", "\xff\xc3(", "\xed\xa0\x80", "a\xe2\x80"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		want, err := json.Marshal(s)
		if err != nil {
			t.Fatal(err)
		}
		if got := appendString(nil, s); string(got) != string(want) {
			t.Errorf("%q: %s, want %s", s, got, want)
		}
		if got := appendString(nil, []byte(s)); string(got) != string(want) {
			t.Errorf("%q as bytes: %s, want %s", s, got, want)
		}
	})
}

// FuzzForm: the parser that makes no map agrees with net/url on values, on which of several counts, and on errors.
func FuzzForm(f *testing.F) {
	for _, s := range []string{"", "value=a+b%2Bc", "value=1&value=2", "ttl=&ttl=5", "recursive=%zz", "a=1;recursive=bad",
		"prev%45xist=true", "&&=&x", "value", "value=%", "dir=true&value=%e4%bd%a0&%zz=1", "a;b&%zz", "%zz&a;b"} {
		f.Add(s)
	}
	names := []string{"value", "prevValue", "prevIndex", "waitIndex", "ttl", "prevExist", "recursive", "sorted", "wait", "dir",
		"quorum", "stream", "noValueOnSuccess", "refresh"}
	if len(names) != pCount {
		f.Fatalf("%d names for %d parameters", len(names), pCount)
	}
	f.Fuzz(func(t *testing.T, s string) {
		want, wantErr := url.ParseQuery(s)
		var got form
		err := got.parse(s)
		if (err == nil) != (wantErr == nil) || err != nil && err.Error() != wantErr.Error() {
			t.Fatalf("%q: error %v, want %v", s, err, wantErr)
		}
		for _, name := range names {
			i := place(name)
			vs, given := want[name]
			if given != got.given[i] || given && vs[0] != got.values[i] {
				t.Errorf("%q: %s is %q (given %v), want %q", s, name, got.values[i], got.given[i], vs)
			}
		}
		for _, method := range []string{http.MethodGet, http.MethodPut, http.MethodPost, http.MethodDelete} {
			var p params
			if f, ok := got.check(method, &p); !ok {
				if status, _ := describe(f.code); status != http.StatusBadRequest || f.cause == "" || f.index != 0 {
					t.Errorf("%q: refused with %+v", s, f)
				}
			}
		}
	})
}

func TestUnclean(t *testing.T) {
	for p, want := range map[string]bool{
		"/v2/keys": false, "/v2/keys/": false, "/v2/keys/a": false, "/v2/keys/a/": false, "/v2/keys/.a/..b/c..": false, "/v2/keys/...": false,
		"/v2/keys//": true, "/v2/keys//a": true, "/v2/keys/a//b": true, "/v2/keys/./a": true, "/v2/keys/a/.": true, "/v2/keys/..": true,
		"/v2/keys/a/../b": true, "/v2/keys/a/./": true, "//v2/keys": true,
	} {
		if unclean(p) != want {
			t.Errorf("unclean(%q) = %v", p, !want)
		}
	}
}
