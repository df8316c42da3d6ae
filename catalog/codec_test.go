package catalog_test

import (
	"encoding/json"
	"reflect"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/musterhq/muster/catalog"
)

// decode is Views.Decode for a record of the type of like.
func decode(like any, value string) (any, error) {
	path := map[reflect.Type]string{
		reflect.TypeFor[*catalog.Node]():    "n/x",
		reflect.TypeFor[*catalog.Service](): "n/x/s/i",
		reflect.TypeFor[*catalog.Check]():   "n/x/s/i/c/j",
		reflect.TypeFor[*catalog.Session](): "n/x/l/k",
	}[reflect.TypeOf(like)]
	return catalog.Views{}.Decode(path, value)
}

func encode(t *testing.T, rec any) string {
	switch r := rec.(type) {
	case *catalog.Node:
		return catalog.EncodeNode(r)
	case *catalog.Service:
		return catalog.EncodeService(r)
	case *catalog.Check:
		return catalog.EncodeCheck(r)
	}
	b, err := json.Marshal(rec)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// valid is a copy of a record with every string as JSON can carry it.
func valid(t *testing.T, rec any) any {
	b, err := json.Marshal(rec)
	if err != nil {
		t.Fatal(err)
	}
	out := reflect.New(reflect.TypeOf(rec).Elem()).Interface()
	if err := json.Unmarshal(b, out); err != nil {
		t.Fatal(err)
	}
	return out
}

// checkCodec compares the two directions of the codec with encoding/json.
func checkCodec(t *testing.T, rec any) {
	t.Helper()
	want := valid(t, rec)
	text := encode(t, rec)
	if !utf8.ValidString(text) {
		t.Errorf("encoding is not UTF-8: %q", text)
	}
	std := reflect.New(reflect.TypeOf(rec).Elem()).Interface()
	if err := json.Unmarshal([]byte(text), std); err != nil {
		t.Fatalf("encoding/json cannot read %s: %v", text, err)
	}
	if !reflect.DeepEqual(std, want) {
		t.Errorf("encoding/json reads %s\n got %+v\nwant %+v", text, std, want)
	}
	got, err := decode(rec, text)
	if err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("Decode(%s)\n got %+v, %v\nwant %+v", text, got, err, want)
	}
	b, _ := json.Marshal(rec)
	if got, err := decode(rec, string(b)); err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("Decode(%s)\n got %+v, %v\nwant %+v", b, got, err, want)
	}
	if again := encode(t, rec); again != text {
		t.Errorf("encoding twice gives %s and %s", text, again)
	}
}

// someRecords makes one record of each type whose strings come from a text.
func someRecords(text string, n int) []any {
	words := strings.Split(text, "|")
	word := func() string {
		w := words[0]
		words = append(words[1:], w)
		return w
	}
	list := func() []string {
		switch n % 4 {
		case 0:
			return nil
		case 1:
			return []string{}
		}
		return []string{word(), word(), word()}[:n%4]
	}
	dict := func() map[string]string {
		l := list()
		if l == nil {
			return nil
		}
		m := map[string]string{}
		for _, k := range l {
			m[k] = word()
		}
		return m
	}
	addrs := func() map[string]catalog.Address {
		var m map[string]catalog.Address
		for _, k := range list() {
			if m == nil {
				m = map[string]catalog.Address{}
			}
			m[k] = catalog.Address{Address: word(), Port: n * 3}
		}
		return m
	}
	var def map[string]any
	if n%3 == 0 {
		def = map[string]any{"HTTP": word(), "Header": map[string]any{word(): []any{word(), "x]}"}}, "N": float64(n), "B": n%2 == 0, "Nil": nil}
	}
	return []any{
		&catalog.Node{ID: word(), Name: word(), Address: word(), Datacenter: word(), TaggedAddresses: dict(), Meta: dict()},
		&catalog.Service{ID: word(), Name: word(), Kind: word(), Tags: list(), Address: word(), TaggedAddresses: addrs(), Meta: dict(), Port: n,
			SocketPath: word(), Weights: catalog.Weights{Passing: n, Warning: -n}, EnableTagOverride: n%2 == 0, Locality: &catalog.Locality{Region: word(), Zone: word()}},
		&catalog.Check{Node: word(), ID: word(), Name: word(), Status: word(), Notes: word(), Output: word(), ServiceID: word(), ServiceName: word(),
			ServiceTags: list(), Type: word(), Interval: word(), Timeout: word(), Definition: def},
		&catalog.Session{ID: word(), Name: word(), Node: word(), LockDelay: int64(n) << 30, Behavior: word(), TTL: word(), NodeChecks: list(),
			ServiceChecks: []catalog.ServiceCheckRef{{ID: word(), Namespace: word()}}},
	}
}

func FuzzCodec(f *testing.F) {
	f.Add("web|10.0.0.1|a \"quoted\" \\ name|line\nbreak\ttab\x00\x7f|ünï<>&\u2028|\xff\xfe||],{}", 7)
	f.Add("", 0)
	f.Add("a", 1)
	f.Add("a|b|c|\",|]", 18)
	f.Fuzz(func(t *testing.T, text string, n int) {
		for _, rec := range someRecords(text, n&0xffff) {
			checkCodec(t, rec)
		}
	})
}

// FuzzDecode feeds anything to Decode and wants what encoding/json makes of it.
func FuzzDecode(f *testing.F) {
	for _, seed := range []string{
		``, `{}`, `null`, `[]`, `{"ID":"a"}`, ` { "ID" : "a" , "Name":"b" } `, `{"ID":"a",}`, `{,"ID":"a"}`, `{"ID":"a"}x`, `{"ID":null}`, `{"id":"a"}`,
		`{"Future":{"x":[1,2,{"y":"}"}]},"Name":"n"}`, `{"Port":01}`, `{"Port":-0}`, `{"Port":1.5}`, `{"Port":99999999999999999999}`, `{"Port":-}`,
		`{"Tags":["a","b\",",null]}`, `{"Tags":[]}`, `{"Tags":["a",]}`, `{"Tags":[`, `{"Meta":{"a":"b"},"Meta":{"c":"d"}}`, `{"Weights":{"Passing":1}}`,
		`{"EnableTagOverride":tru}`, `{"Definition":{"a":{"b":["]"]}}}`, `{"Definition":{"a":}}`, `{"Definition":7}`, `{"Output":"a\u0041\ud800"}`,
		`{"Output":"\`, `{"Locality":{"Region":"a"},"Locality":{"Zone":"b"}}`, `{"Locality":{}}`, `{"Locality":null}`, `{"TaggedAddresses":{"lan":{"Address":"a","Port":1,"X":2}}}`, "{\"Output\":\"\xff\"}", `{"ServiceTags":["x"],"ServiceTags":null}`,
	} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, value string) {
		for _, rec := range []any{new(catalog.Node), new(catalog.Service), new(catalog.Check), new(catalog.Session)} {
			got, err := decode(rec, value)
			wantErr := json.Unmarshal([]byte(value), rec)
			if (err == nil) != (wantErr == nil) {
				t.Fatalf("Decode(%q) as %T: %v; encoding/json: %v", value, rec, err, wantErr)
			}
			if err == nil && !reflect.DeepEqual(got, rec) {
				t.Fatalf("Decode(%q)\n got %+v\nwant %+v", value, got, rec)
			}
		}
	})
}

func TestDecodeKnowsRecordsByPath(t *testing.T) {
	for path, want := range map[string]string{
		"n/web":          "*catalog.Node",
		"n/web/c/x":      "*catalog.Check",
		"n/web/s/x":      "*catalog.Service",
		"n/web/s/x/c/y":  "*catalog.Check",
		"n/web/l/x":      "*catalog.Session",
		"q/1":            "*catalog.Query",
		"n/web/l/x/q/y":  "*catalog.Query",
		"g/anything/{}":  "<nil>",
		"n/web/z/x":      "error",
		"n/web/s":        "error",
		"n/web/s/x/c":    "error",
		"n/web/s/x/z/y":  "error",
		"n/web/c/x/deep": "error",
	} {
		rec, err := catalog.Views{}.Decode(path, "{}")
		got := "<nil>"
		if err != nil {
			got = "error"
		} else if rec != nil {
			got = reflect.TypeOf(rec).String()
		}
		if got != want {
			t.Errorf("Decode(%q): %s, want %s", path, got, want)
		}
	}
}
