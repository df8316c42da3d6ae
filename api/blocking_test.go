package api_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/musterhq/muster/api"
	"github.com/musterhq/muster/api/apitest"
	"github.com/musterhq/muster/kv"
)

func set(t testing.TB, s *apitest.Store, path, value string) uint64 {
	t.Helper()
	op := kv.Op{Kind: kv.OpSet, Path: path, Value: value, Flags: kv.Flat | kv.KeepCreated}
	return s.Must(t, kv.Txn{Ops: []kv.Op{op}}, nil).Index
}

// reader is a query for one key; it counts its evaluations.
func reader(path string, value *string, n *atomic.Int64) func(*kv.Snap) api.Result {
	return func(s *kv.Snap) api.Result {
		n.Add(1)
		e, ok := s.Get(path)
		if !ok {
			*value = ""
			return api.Result{Index: s.IndexOf(path), Print: api.NotFound}
		}
		*value = e.Value()
		return api.Result{Index: e.Modified()}
	}
}

func TestBlockingAnswersAtOnce(t *testing.T) {
	s := apitest.New()
	defer s.Close()
	index := set(t, s, "k/a", "1")
	for _, min := range []uint64{0, index - 1} {
		var got string
		var n atomic.Int64
		_, err := api.Blocking(t.Context(), s, api.BlockingOptions{MinIndex: min, Wait: time.Hour}, "k/a", reader("k/a", &got, &n))
		if err != nil || got != "1" || n.Load() != 1 {
			t.Errorf("after %d: %q, %v, %d evaluations", min, got, err, n.Load())
		}
	}
}

func TestBlockingWaits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := apitest.New()
		defer s.Close()
		index := set(t, s, "k/a", "1")
		start := time.Now()
		var got string
		var n atomic.Int64
		o := api.BlockingOptions{MinIndex: index, Wait: 16 * time.Second}
		if _, err := api.Blocking(t.Context(), s, o, "k/a", reader("k/a", &got, &n)); err != nil || got != "1" {
			t.Fatalf("%q, %v", got, err)
		}
		if took := time.Since(start); took < 16*time.Second || took > 17*time.Second {
			t.Errorf("waited %v, want 16 s and up to a sixteenth more", took)
		}
		// A change ends the wait.
		go func() {
			time.Sleep(time.Second)
			set(t, s, "k/b", "other")
			time.Sleep(time.Second)
			set(t, s, "k/a", "2")
		}()
		start, n = time.Now(), atomic.Int64{}
		if _, err := api.Blocking(t.Context(), s, o, "k/a", reader("k/a", &got, &n)); err != nil || got != "2" {
			t.Fatalf("%q, %v", got, err)
		}
		if took := time.Since(start); took != 2*time.Second || n.Load() != 2 {
			t.Errorf("took %v and %d evaluations", took, n.Load())
		}
	})
}

func TestBlockingForWhatIsMissing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := apitest.New()
		defer s.Close()
		index := set(t, s, "k/d/x", "1")
		go func() {
			time.Sleep(time.Second)
			set(t, s, "k/d/a/below", "not it") // wakes, and the index of the missing key moves
			time.Sleep(time.Second)
			set(t, s, "k/d/a", "here")
		}()
		start := time.Now()
		found := false
		_, err := api.Blocking(t.Context(), s, api.BlockingOptions{MinIndex: index, Wait: time.Minute}, "k/d/a", func(s *kv.Snap) api.Result {
			e, ok := s.Get("k/d/a")
			if found = ok && e.HasValue(); !found {
				return api.Result{Index: s.IndexOf("k/d"), Print: api.NotFound}
			}
			return api.Result{Index: e.Modified()}
		})
		if err != nil || !found || time.Since(start) != 2*time.Second {
			t.Errorf("found %v after %v, %v", found, time.Since(start), err)
		}
	})
}

func TestBlockingEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := apitest.New()
		defer s.Close()
		o := api.BlockingOptions{MinIndex: set(t, s, "k/a", "1"), Wait: time.Hour}
		query := func(s *kv.Snap) api.Result { return api.Result{Index: s.IndexOf("k/a")} }

		ctx, cancel := context.WithCancel(t.Context())
		time.AfterFunc(time.Second, cancel)
		if _, err := api.Blocking(ctx, s, o, "k/a", query); !errors.Is(err, context.Canceled) {
			t.Errorf("client gone: %v", err)
		}
	})
}

func TestBlockingReadsAgainWithTheSameConsistency(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := apitest.New()
		defer s.Close()
		index := set(t, s, "k/a", "1")
		query := func(s *kv.Snap) api.Result { return api.Result{Index: s.IndexOf("k/a")} }
		change := func() {
			time.Sleep(time.Second)
			s.Fail(api.ErrNotLeader)
			s.Apply(kv.Txn{Ops: []kv.Op{{Kind: kv.OpSet, Path: "k/a", Value: "2"}}})
		}
		go change()
		o := api.BlockingOptions{MinIndex: index, Wait: time.Minute}
		if _, err := api.Blocking(t.Context(), s, o, "k/a", query); !errors.Is(err, api.ErrNotLeader) {
			t.Errorf("leadership lost while waiting: %v", err)
		}
		s.Fail(nil)
		go change()
		o.MinIndex, o.Consistency = s.Tree.Snap().IndexOf("k/a"), api.Stale
		if m, err := api.Blocking(t.Context(), s, o, "k/a", query); err != nil || m.KnownLeader {
			t.Errorf("stale: %+v, %v", m, err)
		}
	})
}

func TestMaxStaleAsksTheLeader(t *testing.T) {
	s := apitest.New()
	defer s.Close()
	s.SetLastContact(5 * time.Second)
	o := api.ReadOptions{Consistency: api.Stale, MaxStale: 10 * time.Second}
	if _, m, err := api.Read(t.Context(), s, o); err != nil || m.LastContact != 5*time.Second {
		t.Errorf("fresh enough: %+v, %v", m, err)
	}
	o.MaxStale = time.Second
	if _, m, err := api.Read(t.Context(), s, o); err != nil || m.LastContact != 0 {
		t.Errorf("too old: %+v, %v", m, err)
	}
}

func TestBodyCacheEncodesOnce(t *testing.T) {
	c := api.NewBodyCache(0)
	key := api.BodyKey{Kind: "k", Name: "web"}
	var encoded atomic.Int64
	encode := func(index uint64) func() ([]byte, error) {
		return func() ([]byte, error) {
			encoded.Add(1)
			return fmt.Appendf(nil, "at %d", index), nil
		}
	}
	for index := uint64(1); index <= 3; index++ {
		var wg sync.WaitGroup
		for range 50 {
			wg.Go(func() {
				b, err := c.Get(key, index, encode(index))
				if err != nil || string(b.Bytes) != fmt.Sprintf("at %d", index) || b.Index != index {
					t.Errorf("%q, %v", b.Bytes, err)
				}
			})
		}
		wg.Wait()
		if n := encoded.Load(); n != int64(index) {
			t.Fatalf("encoded %d times for %d changes", n, index)
		}
	}
	if b, err := c.Get(key, 2, encode(2)); err != nil || string(b.Bytes) != "at 2" {
		t.Errorf("older index: %q, %v", b.Bytes, err)
	}
	if c.Lookup(key, 3) == nil || c.Lookup(key, 2) != nil {
		t.Error("an older answer replaced a newer one")
	}
	boom := errors.New("boom")
	if _, err := c.Get(key, 9, func() ([]byte, error) { return nil, boom }); !errors.Is(err, boom) {
		t.Errorf("error: %v", err)
	}
	if b, err := c.Get(key, 9, encode(9)); err != nil || string(b.Bytes) != "at 9" {
		t.Errorf("after an error: %v, %v", b, err)
	}
}

func TestBodyCacheIsBounded(t *testing.T) {
	const limit = 100 << 10
	c := api.NewBodyCache(limit)
	body := bytes.Repeat([]byte("x"), 1000)
	kept := func(n int) (kept int) {
		for i := range n {
			if c.Lookup(api.BodyKey{Name: fmt.Sprint(i)}, 1) != nil {
				kept++
			}
		}
		return kept
	}
	for i := range 1000 {
		if _, err := c.Get(api.BodyKey{Name: fmt.Sprint(i)}, 1, func() ([]byte, error) { return body, nil }); err != nil {
			t.Fatal(err)
		}
		if i%100 == 0 && c.Lookup(api.BodyKey{Name: fmt.Sprint(i)}, 1) == nil {
			t.Fatal("a fresh body was not kept")
		}
	}
	if n := kept(1000); n < limit/2000 || n > limit/1000 {
		t.Errorf("%d bodies of 1000 bytes kept under a limit of %d", n, limit)
	}
}

// TestBlockingOnAServerThatIsBehind: the client has seen "gone", this server has not yet. That what it first finds comes
// back later is a change to the client.
func TestBlockingOnAServerThatIsBehind(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := apitest.New()
		defer s.Close()
		index := set(t, s, "k/d/a", "1")
		go func() {
			time.Sleep(time.Second)
			s.Apply(kv.Txn{Ops: []kv.Op{{Kind: kv.OpDelete, Path: "k/d/a"}}}) // what the client has seen
			time.Sleep(time.Second)
			set(t, s, "k/d/a", "1")
		}()
		start := time.Now()
		_, err := api.Blocking(t.Context(), s, api.BlockingOptions{MinIndex: index + 1, Wait: time.Minute}, "k/d", func(s *kv.Snap) api.Result {
			if e, ok := s.Get("k/d/a"); ok && e.HasValue() {
				return api.Result{Index: s.IndexOf("k/d"), Print: 7}
			}
			return api.Result{Index: s.IndexOf("k/d"), Print: api.NotFound}
		})
		if err != nil || time.Since(start) != 2*time.Second {
			t.Errorf("after %v, %v", time.Since(start), err)
		}
	})
}
