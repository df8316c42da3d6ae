package kv_test

import (
	"fmt"
	"testing"

	"github.com/musterhq/muster/kv"
)

// TestInOrderAfterCopiedKeys creates keys in order in directories whose keys came from a tree with a higher index.
func TestInOrderAfterCopiedKeys(t *testing.T) {
	for name, c := range map[string]struct {
		there []string
		want  uint64 // 0: the index
	}{
		"nothing":                {},
		"lower":                  {there: []string{"00000000000000000001"}},
		"higher":                 {there: []string{"00000000000000005000", "00000000000000000007"}, want: 5001},
		"higher, beside others":  {there: []string{"00000000000000005000", "-", "zebra", "1", "98765"}, want: 5001},
		"other names of digits":  {there: []string{"0", "007", "000000000000000050001"}},
		"hexadecimal":            {there: []string{"0000000000000000beef"}},
		"as high as names reach": {there: []string{"18446744073709551615"}},
		"the last with a zero":   {there: []string{"09999999999999999999"}, want: 10000000000000000000},
	} {
		t.Run(name, func(t *testing.T) {
			tr := kv.New(kv.Options{})
			for _, n := range c.there {
				place(t, tr, "k/q/"+n)
			}
			for i := range 100 { // more than one node of the directory
				place(t, tr, fmt.Sprintf("k/q/zz%d", i))
			}
			want := c.want
			if want == 0 {
				want = tr.Snap().Index() + 1
			}
			res := tr.Apply(kv.Txn{Ops: []kv.Op{{Kind: kv.OpCreateInOrder, Path: "k/q", Action: kv.ActCreate}}})
			if res[0].Code != kv.OK {
				t.Fatalf("%+v", res[0])
			}
			if got := res[0].Ops[0].Event.Path; got != fmt.Sprintf("k/q/%020d", want) {
				t.Errorf("created %s, want number %d", got, want)
			}
		})
	}
}

func place(t *testing.T, tr *kv.Tree, path string) {
	t.Helper()
	if res := tr.Apply(kv.Txn{Ops: []kv.Op{{Kind: kv.OpSet, Path: path, Action: kv.ActSet}}}); res[0].Code != kv.OK {
		t.Fatalf("%s: %+v", path, res[0])
	}
}
