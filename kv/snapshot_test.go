package kv_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"hash/crc32"
	"io"
	"strings"
	"testing"

	"github.com/musterhq/muster/kv"
)

func sampleTree(o kv.Options, value string) *kv.Tree {
	tr := kv.New(o)
	tr.Apply(
		put("m/cluster", "c1"),
		put("k/a/b", value),
		kv.Txn{Ops: []kv.Op{{Kind: kv.OpSet, Flags: kv.Flat, Path: "k/f//x/", Value: "flat", UserFlags: 7}}, Now: 55},
		kv.Txn{Ops: []kv.Op{{Kind: kv.OpSet, Path: "k/ttl", Value: "v", Expires: 99}}},
		kv.Txn{Ops: []kv.Op{{Kind: kv.OpSet, Flags: kv.Dir, Path: "k/empty"}}},
		put("n/w1", "node"), put("n/w1/l/s1", "session"), put("n/w1/s/api", "1"),
		kv.Txn{Ops: []kv.Op{{Kind: kv.OpAcquire, Path: "k/lock", Owner: "s1", OwnerPath: "n/w1/l/s1"}}},
		kv.Txn{Ops: []kv.Op{{Kind: kv.OpDeleteTree, Path: "k/a", Action: kv.ActDelete}}},
		kv.Txn{Ops: []kv.Op{{Kind: kv.OpRefresh, Path: "k/ttl", Expires: 98}}},
	)
	return tr
}

func TestSnapshotHeader(t *testing.T) {
	tr := sampleTree(kv.Options{Version: "1.2.3"}, "v")
	h, err := kv.ReadHeader(bytes.NewReader(snapshot(t, tr)))
	if want := (kv.Header{Format: 1, Cluster: "c1", Index: tr.Snap().Index(), Version: "1.2.3", Now: 55}); err != nil || h != want {
		t.Fatalf("%+v, %v; want %+v", h, err, want)
	}
}

// Every damaged or shortened snapshot is refused, with a reason, and changes nothing.
func TestRestoreRefusesDamage(t *testing.T) {
	tr := kv.New(kv.Options{Deriver: services{}})
	tr.Apply(put("k/kept", "v"))
	before := tr.Snap()
	small := kv.New(kv.Options{})
	small.Apply(put("k/a/b", "v"), put("n/w/l/s1", ""), put("k/a/c", "w"), kv.Txn{Ops: []kv.Op{{Kind: kv.OpDeleteTree, Path: "k/a"}}})
	good := snapshot(t, small)
	refused := func(what string, data []byte) {
		t.Helper()
		err := tr.Restore(bytes.NewReader(data))
		var bad *kv.SnapshotError
		if !errors.As(err, &bad) {
			t.Fatalf("%s: error %v", what, err)
		}
		if tr.Snap() != before {
			t.Fatalf("%s: the tree was changed", what)
		}
	}
	for i := range good {
		refused("cut off", good[:i])
		for _, x := range []byte{1, 0x80, 0xff} {
			bad := bytes.Clone(good)
			bad[i] ^= x
			refused("damaged", bad)
		}
	}
	refused("longer", append(bytes.Clone(good), 0))
	newer := bytes.Clone(good)
	newer[8] = 2
	if err := tr.Restore(bytes.NewReader(newer)); err == nil || !strings.Contains(err.Error(), "format 2") {
		t.Errorf("a newer format: %v", err)
	}
	fails := errors.New("disk on fire")
	if err := tr.Restore(io.MultiReader(bytes.NewReader(good[:30]), failing{fails})); !errors.Is(err, fails) {
		t.Errorf("a failing reader: %v", err)
	}
	badRecord := kv.New(kv.Options{})
	badRecord.Apply(put("n/w1", "bad"))
	refused("bad record", snapshot(t, badRecord))
	if err := tr.Restore(bytes.NewReader(good)); err != nil {
		t.Fatal(err)
	}
}

type failing struct{ err error }

func (f failing) Read([]byte) (int, error) { return 0, f.err }

func TestWriteToFails(t *testing.T) {
	full := errors.New("disk full")
	if _, err := sampleTree(kv.Options{}, "v").Snap().WriteTo(fullDisk{full}); !errors.Is(err, full) {
		t.Fatalf("error %v", err)
	}
}

type fullDisk struct{ err error }

func (f fullDisk) Write([]byte) (int, error) { return 0, f.err }

// History survives a restart: a watcher goes on where it was, also for what is no longer in the tree.
func TestHistorySurvivesRestore(t *testing.T) {
	tr := sampleTree(kv.Options{}, strings.Repeat("long", 20_000))
	r := kv.New(kv.Options{})
	if err := r.Restore(bytes.NewReader(snapshot(t, tr))); err != nil {
		t.Fatal(err)
	}
	w := mustWatch(t, r, "k/a/b", 1, false)
	ev, err := w.Next(soon(t))
	if err != nil || ev.Index != 2 || len(ev.Entry.Value()) != 80_000 {
		t.Fatalf("first %+v, %v", ev, err)
	}
	ev, err = w.Next(soon(t))
	if b, ok := ev.Prev.Lookup("b"); err != nil || ev.Path != "k/a" || !ok || len(b.Value()) != 80_000 {
		t.Fatalf("second %+v, %v", ev, err)
	}
	if got := r.OldestIndex("k"); got != 1 {
		t.Fatalf("oldest index %d", got)
	}
}

// FuzzRestore feeds snapshots with a right checksum, so that the checks behind it are reached.
func FuzzRestore(f *testing.F) {
	for _, tr := range []*kv.Tree{kv.New(kv.Options{}), sampleTree(kv.Options{}, "v")} {
		var b bytes.Buffer
		if _, err := tr.Snap().WriteTo(&b); err != nil {
			f.Fatal(err)
		}
		f.Add(b.Bytes()[:b.Len()-4])
	}
	small := kv.New(kv.Options{})
	small.Apply(put("k/a/b", "v"), put("n/w/l/s1", ""), put("k/a/c", "w"), kv.Txn{Ops: []kv.Op{{Kind: kv.OpDeleteTree, Path: "k/a"}}})
	var b bytes.Buffer
	if _, err := small.Snap().WriteTo(&b); err != nil {
		f.Fatal(err)
	}
	f.Add(b.Bytes()[:b.Len()-4])
	f.Fuzz(func(t *testing.T, data []byte) {
		data = binary.LittleEndian.AppendUint32(bytes.Clone(data), crc32.Checksum(data, crc32.MakeTable(crc32.Castagnoli)))
		tr := kv.New(kv.Options{Deriver: services{}})
		if tr.Restore(bytes.NewReader(data)) != nil {
			return
		}
		// What is accepted must be usable and writable again.
		again := kv.New(kv.Options{Deriver: services{}})
		if err := again.Restore(bytes.NewReader(snapshot(t, tr))); err != nil || again.Snap().Hash() != tr.Snap().Hash() {
			t.Fatalf("an accepted snapshot does not survive: %v", err)
		}
		for _, x := range []*kv.Tree{tr, again} {
			x.Apply(put("k/a/b", "v"), put("n/w/s/x", "1"), kv.Txn{Ops: []kv.Op{{Kind: kv.OpExpire, Cutoff: 1 << 62}}},
				kv.Txn{Ops: []kv.Op{{Kind: kv.OpDeletePrefix, Path: "k/"}, {Kind: kv.OpDeleteTree, Path: "n/w"}}})
			dumpTree(x.Snap(), "k", dump{})
		}
		if again.Snap().Hash() != tr.Snap().Hash() {
			t.Fatal("restored trees go different ways")
		}
	})
}
