package kv_test

import (
	"bytes"
	"errors"
	"testing"

	"github.com/musterhq/muster/kv"
)

// TestReplacement puts a backup of one tree in place of another and looks at what clients of the other see.
func TestReplacement(t *testing.T) {
	opt := kv.Options{Deriver: services{}}
	old := kv.New(opt)
	old.Apply(put("k/a", "backup"), put("k/dir/b", "1"), put("n/w1/s/id", "svc"), put("m/cluster", "other"))
	kept, _ := old.Snap().Get("k/a")
	var backup, again bytes.Buffer
	for _, b := range []*bytes.Buffer{&backup, &again} {
		if err := old.Snap().WriteBare(b); err != nil {
			t.Fatal(err)
		}
	}
	if !bytes.Equal(backup.Bytes(), again.Bytes()) {
		t.Fatal("a bare snapshot differs the second time")
	}

	live := kv.New(opt)
	live.Apply(put("m/cluster", "mine"))
	for range 20 {
		live.Apply(put("k/a", "live"), put("k/gone", "x"))
	}
	before := live.Snap()
	next, err := before.Replacement(bytes.NewReader(backup.Bytes()), 1000)
	if err != nil {
		t.Fatal(err)
	}
	if live.Snap() != before || before.Hash() != live.Snap().Hash() {
		t.Fatal("preparing a replacement changed the tree")
	}
	var stream bytes.Buffer
	if err := next.WriteBare(&stream); err != nil {
		t.Fatal(err)
	}
	waits := map[string]*kv.Waiter{}
	for _, p := range []string{"", "k/a", "k/gone", "k/never", "v/s/svc"} {
		waits[p] = before.Wait(p)
	}
	w, _ := live.Watch("k/a", 0, false)
	other := kv.New(opt)
	for _, tr := range []*kv.Tree{live, other} {
		if err := tr.Restore(bytes.NewReader(stream.Bytes())); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := w.Next(t.Context()); !errors.Is(err, kv.ErrRestored) {
		t.Errorf("a watcher gets %v", err)
	}
	for p, w := range waits {
		select {
		case <-w.C:
		default:
			t.Errorf("nobody woke the waiter of %q", p)
		}
	}
	s := live.Snap()
	if s.Hash() != other.Snap().Hash() || s.Hash() != next.Hash() {
		t.Error("replicas differ")
	}
	want := before.Index() + 1000
	if s.Index() != want || s.Restored() != want || other.Snap().Restored() != want {
		t.Errorf("index %d, restored at %d, want %d", s.Index(), s.Restored(), want)
	}
	for _, p := range []string{"k", "k/a", "k/dir", "k/gone", "n/w1/s", "v/s/svc", "v/s/none", "m"} {
		if got := s.IndexOf(p); got < want {
			t.Errorf("the index of %q went back to %d", p, got)
		}
	}
	if e, ok := s.Get("k/a"); !ok || e.Value() != "backup" || e.Modified() != kept.Modified() {
		t.Error("k/a is not what it was in the backup")
	}
	if _, ok := s.Get("k/gone"); ok {
		t.Error("a key that the backup does not have survived")
	}
	if e, ok := s.Get("m/cluster"); !ok || e.Value() != "mine" {
		t.Error("the cluster has taken the identity of another")
	}
	if _, ok := s.Get("v/s/svc/w1/id"); !ok {
		t.Error("the views were not derived")
	}
	var hist *kv.HistoryError
	if _, err := live.Watch("k/a", 2, false); err != nil && !errors.As(err, &hist) {
		t.Error(err)
	}
	if res := live.Apply(put("k/a", "after"))[0]; res.Code != kv.OK || res.Index != want+1 {
		t.Errorf("%+v", res)
	}
	if _, err := before.Replacement(bytes.NewReader(backup.Bytes()[:backup.Len()-1]), 1); err == nil {
		t.Error("a cut backup is accepted")
	}
}
