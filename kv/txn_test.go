package kv_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"math/rand/v2"
	"reflect"
	"strings"
	"testing"

	"github.com/musterhq/muster/kv"
)

func TestEscape(t *testing.T) {
	for _, s := range []string{"", "a", "/", "%", "%2F", "a/b%25//", "\x00é"} {
		e := kv.Escape(s)
		if got, err := kv.Unescape(e); err != nil || got != s || strings.Contains(e, "/") {
			t.Errorf("%q -> %q -> %q, %v", s, e, got, err)
		}
	}
	for _, s := range []string{"%", "%2", "%2f", "%41", "a/b", "%25%"} {
		if got, err := kv.Unescape(s); err == nil {
			t.Errorf("Unescape(%q) = %q", s, got)
		}
	}
}

func TestCheck(t *testing.T) {
	long := strings.Repeat("x", kv.MaxPath)
	many := make([]kv.Op, kv.MaxOps+1)
	for i := range many {
		many[i] = kv.Op{Kind: kv.OpSet, Path: "k/a"}
	}
	tr := kv.New(kv.Options{Deriver: services{}})
	tr.Apply(put("k/a", "v"))
	hash := tr.Snap().Hash()
	for name, x := range map[string]kv.Txn{
		"no kind":        {Ops: []kv.Op{{Path: "k/a"}}},
		"unknown kind":   {Ops: []kv.Op{{Kind: 99, Path: "k/a"}}},
		"unknown cond":   {Conds: []kv.Cond{{Kind: 99, Path: "k/a"}}},
		"unknown flag":   {Ops: []kv.Op{{Kind: kv.OpSet, Path: "k/a", Flags: 1 << 15}}},
		"empty path":     {Ops: []kv.Op{{Kind: kv.OpSet}}},
		"unknown root":   {Ops: []kv.Op{{Kind: kv.OpSet, Path: "z/a"}}},
		"long root":      {Ops: []kv.Op{{Kind: kv.OpSet, Path: "kk/a"}}},
		"view":           {Ops: []kv.Op{{Kind: kv.OpSet, Path: "v/s/a"}}},
		"view condition": {Conds: []kv.Cond{{Kind: kv.CondExists, Path: "v/s/a"}}},
		"long path":      {Ops: []kv.Op{{Kind: kv.OpSet, Path: "k/" + long}}},
		"long in order":  {Ops: []kv.Op{{Kind: kv.OpCreateInOrder, Path: "k/" + long[:len(long)-10]}}},
		"big value":      {Ops: []kv.Op{{Kind: kv.OpSet, Path: "k/a", Value: strings.Repeat("x", kv.MaxValue+1)}}},
		"many":           {Ops: many},
		"backwards":      {Ops: []kv.Op{{Kind: kv.OpExtendExpiry, Extend: -1}}},
		"deadline":       {Ops: []kv.Op{{Kind: kv.OpSet, Path: "k/a", Expires: -1}}},
	} {
		var bad *kv.TxnError
		if err := x.Check(); !errors.As(err, &bad) || bad.Code != kv.BadTxn || bad.Error() == "" {
			t.Errorf("%s: Check gives %v", name, err)
		}
		if res := tr.Apply(x)[0]; res.Code != kv.BadTxn || res.Fail == nil || res.Index != 1 {
			t.Errorf("%s: Apply gives %+v", name, res)
		}
	}
	res := tr.Apply(kv.Txn{Ops: []kv.Op{{Kind: kv.OpSet, Path: "k/b"}, {Kind: kv.OpSet, Path: "n/w1", Value: "bad"}}})[0]
	if res.Code != kv.BadTxn || res.Fail.Op != 1 || res.Fail.Path != "n/w1" {
		t.Errorf("a bad record gives %+v", res)
	}
	if tr.Snap().Hash() != hash {
		t.Error("a refused Txn changed something")
	}
	if _, err := tr.Watch("k/a", 0, true); err != nil {
		t.Error(err)
	}
}

func TestUnmarshalRefuses(t *testing.T) {
	for _, c := range []struct {
		name string
		data []byte
		code kv.Code
	}{
		{"field of the future", binary.AppendUvarint([]byte{3 << 1, 1, 99<<1&0x7f | 0x80, 1}, 5), kv.BadVersion},
		{"field before its operation", []byte{4<<1 | 1, 1, 'k'}, kv.BadVersion},
		{"cut off tag", []byte{0x80}, kv.BadTxn},
		{"cut off number", []byte{3 << 1}, kv.BadTxn},
		{"cut off text", []byte{3 << 1, 1, 4<<1 | 1, 200}, kv.BadTxn},
		{"too many", bytes.Repeat([]byte{3 << 1, 1}, kv.MaxOps+1), kv.BadTxn},
	} {
		var bad *kv.TxnError
		if _, err := kv.UnmarshalTxn(c.data); !errors.As(err, &bad) || bad.Code != c.code {
			t.Errorf("%s: %v, want code %v", c.name, err, c.code)
		}
	}
}

func TestMarshalKeepsAll(t *testing.T) {
	x := kv.Txn{
		Now:   -5,
		Conds: []kv.Cond{{Kind: kv.CondValue, Path: "k/a", Value: "v", Index: 1 << 63, Owner: "o", Flat: true}, {Kind: 200}},
		Ops: []kv.Op{{Kind: kv.OpSet, Action: 255, Flags: 1<<16 - 1, Path: "k/\x00", Value: "é", UserFlags: 1<<64 - 1, Expires: 1<<63 - 1,
			Owner: "o", OwnerPath: "p", Cutoff: -1 << 63, Extend: 3}, {Kind: 255}},
	}
	if got, err := kv.UnmarshalTxn(x.Marshal()); err != nil || !reflect.DeepEqual(got, x) {
		t.Fatalf("%+v, %v", got, err)
	}
}

func FuzzUnmarshalTxn(f *testing.F) {
	r := rand.New(rand.NewPCG(3, 4))
	for range 20 {
		f.Add(randomTxn(r, 10).Marshal())
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		x, err := kv.UnmarshalTxn(data)
		if err != nil {
			return
		}
		y, err := kv.UnmarshalTxn(x.Marshal())
		if err != nil || !reflect.DeepEqual(x, y) {
			t.Fatalf("%+v became %+v, %v", x, y, err)
		}
		tr := kv.New(kv.Options{Deriver: services{}})
		tr.Apply(put("k/a", "v"), put("n/w1/l/s1", ""), x, x)
		dumpTree(tr.Snap(), "k", dump{})
		tr.Snap().Hash()
	})
}

// FuzzProgram holds random programs against the model, the fuzzer choosing the seed and so the way.
func FuzzProgram(f *testing.F) {
	f.Add(uint64(1000))
	f.Fuzz(func(t *testing.T, seed uint64) { runModel(t, seed, 25) })
}
