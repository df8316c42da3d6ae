package kv_test

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/musterhq/muster/kv"
)

// TestLargeDirectory grows and shrinks one directory through all shapes of its tree, and checks that old states
// stay as they were.
func TestLargeDirectory(t *testing.T) {
	for _, c := range []struct {
		name string
		pick func(r *rand.Rand, i, n int) int
	}{
		{"ascending", func(_ *rand.Rand, i, _ int) int { return i }},
		{"descending", func(_ *rand.Rand, i, n int) int { return n - i }},
		{"random", func(r *rand.Rand, _, n int) int { return r.IntN(n) }},
	} {
		t.Run(c.name, func(t *testing.T) {
			const n = 6000
			r := rand.New(rand.NewPCG(1, 2))
			tr := kv.New(kv.Options{})
			want := map[string]bool{}
			type state struct {
				s    *kv.Snap
				keys []string
			}
			var states []state
			step := func(i int, del bool) {
				var batch []kv.Txn
				for j := range 1 + i%3 {
					p := fmt.Sprintf("k/d/%05d", c.pick(r, i+j, n))
					op := kv.Op{Kind: kv.OpSet, Path: p, Value: p}
					if del {
						op.Kind = kv.OpDelete
					}
					want[p] = !del
					if del {
						delete(want, p)
					}
					batch = append(batch, kv.Txn{Ops: []kv.Op{op}})
				}
				tr.Apply(batch...)
				if i%997 == 0 {
					states = append(states, state{tr.Snap(), sorted(want)})
				}
			}
			for i := range n {
				step(i, false)
			}
			// A restored directory has another shape and must serve the same way.
			again := kv.New(kv.Options{})
			if err := again.Restore(bytes.NewReader(snapshot(t, tr))); err != nil || again.Snap().Hash() != tr.Snap().Hash() {
				t.Fatalf("restore: %v", err)
			}
			for p := range want {
				if e, ok := again.Snap().Get(p); !ok || e.Value() != p {
					t.Fatalf("%q is not found after a restore", p)
				}
			}
			tr = again
			for i := range n {
				step(i, true)
			}
			states = append(states, state{tr.Snap(), sorted(want)})
			for _, st := range states {
				var got []string
				st.s.Walk("k/", func(p string, e *kv.Entry) bool {
					if e.Value() != p {
						t.Fatalf("%q holds %q", p, e.Value())
					}
					got = append(got, p)
					return true
				})
				if !slices.Equal(got, st.keys) {
					t.Fatalf("index %d: %d keys, want %d", st.s.Index(), len(got), len(st.keys))
				}
				if d, ok := st.s.Get("k/d"); ok && d.Len() != len(st.keys) {
					t.Fatalf("Len %d, want %d", d.Len(), len(st.keys))
				}
				for _, p := range st.keys {
					if _, ok := st.s.Get(p); !ok {
						t.Fatalf("%q is not found", p)
					}
				}
				if len(st.keys) > 0 {
					from := st.keys[len(st.keys)/2]
					first := ""
					st.s.Walk(from[:len(from)-2], func(p string, _ *kv.Entry) bool { first = p; return false })
					i, _ := slices.BinarySearch(st.keys, from[:len(from)-2])
					if first != st.keys[i] {
						t.Fatalf("Walk begins at %q, want %q", first, st.keys[i])
					}
				}
			}
		})
	}
}

func sorted(m map[string]bool) (keys []string) {
	for k := range m {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	return keys
}
