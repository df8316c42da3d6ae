package agent_test

import (
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/musterhq/muster/agent"
	"github.com/musterhq/muster/catalog"
	"github.com/musterhq/muster/kv"
)

// state is a small tree as the servers save it.
func state(t testing.TB) string {
	t.Helper()
	tree := kv.New(kv.Options{Deriver: catalog.Views{}})
	defer tree.Close()
	for _, op := range []kv.Op{
		{Kind: kv.OpSet, Flags: kv.Flat, Path: "k/app/web/port", Value: "80"}, {Kind: kv.OpSet, Flags: kv.Flat, Path: "k/app/web/host", Value: "h"}, {Kind: kv.OpSet, Flags: kv.Flat, Path: "k/other", Value: "x"},
		{Kind: kv.OpSet, Flags: kv.Flat, Path: "n/n1", Value: `{"Node":"n1","Address":"10.0.0.1"}`}, {Kind: kv.OpSet, Flags: kv.Flat, Path: "n/n1/s/web", Value: `{"ID":"web","Service":"web"}`},
		{Kind: kv.OpSet, Flags: kv.Flat, Path: "n/n1/s/web/c/up", Value: `{"CheckID":"up","Status":"passing"}`}, {Kind: kv.OpSet, Flags: kv.Flat, Path: "n/n1/c/serfHealth", Value: `{"CheckID":"serfHealth","Status":"passing"}`},
	} {
		if r := tree.Apply(kv.Txn{Ops: []kv.Op{op}}); r[0].Code != kv.OK {
			t.Fatalf("%s: %+v", op.Path, r[0])
		}
	}
	var b strings.Builder
	if _, err := tree.Snap().WriteTo(&b); err != nil {
		t.Fatal(err)
	}
	return b.String()
}

func TestCountSnapshot(t *testing.T) {
	whole := state(t)
	count := &agent.SnapshotCount{KeyDepth: 2, KeyPrefix: "app/"}
	if err := agent.CountSnapshot(strings.NewReader(whole), count); err != nil {
		t.Fatal(err)
	}
	types := slices.Sorted(maps.Keys(count.Types))
	if !slices.Equal(types, []string{"Check", "KVS", "Node", "Service"}) || count.Types["KVS"].Count != 3 || count.Types["Check"].Count != 2 {
		t.Errorf("types %+v", count.Types)
	}
	if len(count.Keys) != 1 || count.Keys["app/web"].Count != 2 {
		t.Errorf("keys %+v", count.Keys)
	}
	for n := len("MUSTERKV"); n < len(whole); n++ {
		if err := agent.CountSnapshot(strings.NewReader(whole[:n]), &agent.SnapshotCount{}); err == nil {
			t.Fatalf("a state cut after %d of %d bytes is no error", n, len(whole))
		}
	}
	// Another implementation's state cannot be read, and is no error.
	count = &agent.SnapshotCount{}
	if err := agent.CountSnapshot(strings.NewReader("something else"), count); err != nil || count.Types != nil {
		t.Errorf("%+v, %v", count, err)
	}
}
