package agent_test

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/musterhq/muster/agent"
	"github.com/musterhq/muster/catalog"
	"github.com/musterhq/muster/kv"
)

// archive makes a snapshot file of these members, with checksums of meta.json and state.bin unless given.
func archive(t testing.TB, members map[string]string, order ...string) []byte {
	t.Helper()
	if _, ok := members["SHA256SUMS"]; !ok {
		members = maps.Clone(members)
		for _, name := range []string{"meta.json", "state.bin"} {
			members["SHA256SUMS"] += fmt.Sprintf("%x  %s\n", sha256.Sum256([]byte(members[name])), name)
		}
	}
	if order == nil {
		order = []string{"meta.json", "state.bin", "SHA256SUMS"}
	}
	var b bytes.Buffer
	z := gzip.NewWriter(&b)
	w := tar.NewWriter(z)
	for _, name := range order {
		if err := w.WriteHeader(&tar.Header{Name: name, Mode: 0o600, Size: int64(len(members[name]))}); err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write([]byte(members[name])); err != nil {
			t.Fatal(err)
		}
	}
	if err := errors.Join(w.Close(), z.Close()); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

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

func members(t testing.TB, state string) map[string]string {
	t.Helper()
	meta, err := json.Marshal(agent.SnapshotInfo{Version: 1, ID: "2-9-1", Index: 9, Term: 2, Size: int64(len(state))})
	if err != nil {
		t.Fatal(err)
	}
	return map[string]string{"meta.json": string(meta), "state.bin": state}
}

func TestReadSnapshot(t *testing.T) {
	whole := archive(t, members(t, state(t)))
	count := &agent.SnapshotCount{KeyDepth: 2, KeyPrefix: "app/"}
	info, err := agent.ReadSnapshot(bytes.NewReader(whole), count)
	if err != nil || info.Index != 9 || info.Term != 2 || info.ID != "2-9-1" {
		t.Fatalf("%+v, %v", info, err)
	}
	types := slices.Sorted(maps.Keys(count.Types))
	if !slices.Equal(types, []string{"Check", "KVS", "Node", "Service"}) || count.Types["KVS"].Count != 3 || count.Types["Check"].Count != 2 {
		t.Errorf("types %+v", count.Types)
	}
	if len(count.Keys) != 1 || count.Keys["app/web"].Count != 2 {
		t.Errorf("keys %+v", count.Keys)
	}
	// Another implementation's state: only the frame can be checked.
	count = &agent.SnapshotCount{}
	if _, err := agent.ReadSnapshot(bytes.NewReader(archive(t, members(t, "something else"))), count); err != nil || count.Types != nil {
		t.Errorf("%+v, %v", count, err)
	}
}

func TestDamagedSnapshots(t *testing.T) {
	good := members(t, state(t))
	sums := func(text string) map[string]string {
		m := maps.Clone(good)
		m["SHA256SUMS"] = text
		return m
	}
	meta := maps.Clone(good)
	meta["meta.json"] = `{"Version":1,"Size":5}`
	for name, b := range map[string][]byte{
		"empty":           nil,
		"no gzip":         []byte("hello"),
		"no tar":          gzipped(t, "hello"),
		"no sums":         archive(t, good, "meta.json", "state.bin"),
		"no state":        archive(t, good, "meta.json", "SHA256SUMS"),
		"wrong sums":      archive(t, sums(strings.Repeat("0", 64)+"  meta.json\n"+strings.Repeat("0", 64)+"  state.bin\n")),
		"malformed sums":  archive(t, sums("x")),
		"other member":    archive(t, good, "meta.json", "state.bin", "SHA256SUMS", "more"),
		"wrong size":      archive(t, meta),
		"malformed meta":  archive(t, map[string]string{"meta.json": "[", "state.bin": ""}),
		"malformed state": archive(t, members(t, "MUSTERKV broken")),
	} {
		if _, err := agent.ReadSnapshot(bytes.NewReader(b), &agent.SnapshotCount{}); !errors.Is(err, agent.ErrSnapshotDamaged) {
			t.Errorf("%s: error %v", name, err)
		}
	}
	whole := archive(t, good)
	for n := range whole {
		if _, err := agent.ReadSnapshot(bytes.NewReader(whole[:n]), nil); !errors.Is(err, agent.ErrSnapshotDamaged) {
			t.Fatalf("cut after %d of %d bytes: error %v", n, len(whole), err)
		}
	}
}

func gzipped(t testing.TB, text string) []byte {
	t.Helper()
	var b bytes.Buffer
	z := gzip.NewWriter(&b)
	_, err := z.Write([]byte(text))
	if err := errors.Join(err, z.Close()); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func FuzzReadSnapshot(f *testing.F) {
	f.Add(archive(f, members(f, "state")))
	f.Fuzz(func(t *testing.T, b []byte) {
		if _, err := agent.ReadSnapshot(bytes.NewReader(b), &agent.SnapshotCount{KeyDepth: 1}); err != nil && !errors.Is(err, agent.ErrSnapshotDamaged) {
			t.Errorf("error %v", err)
		}
	})
}
