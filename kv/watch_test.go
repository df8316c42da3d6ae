package kv_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/musterhq/muster/kv"
)

func put(path, value string) kv.Txn {
	return kv.Txn{Ops: []kv.Op{{Kind: kv.OpSet, Path: path, Value: value}}}
}

func soon(t testing.TB) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	t.Cleanup(cancel)
	return ctx
}

// canceled is a context that has ended already: Next returns what is there.
func canceled() (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	return ctx, cancel
}

func mustWatch(t testing.TB, tr *kv.Tree, path string, after uint64, recursive bool) *kv.Watcher {
	t.Helper()
	w, err := tr.Watch(path, after, recursive)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(w.Stop)
	return w
}

func TestWatchHistoryIsBounded(t *testing.T) {
	tr := kv.New(kv.Options{HistoryEvents: 10})
	slow := mustWatch(t, tr, "k/a", 0, true)
	quiet := mustWatch(t, tr, "k/b", 0, true)
	other := mustWatch(t, tr, "m/x", 0, true)
	for i := range 25 {
		tr.Apply(put("k/a/x", fmt.Sprint(i)))
	}
	if got := tr.OldestIndex("k"); got != 16 {
		t.Fatalf("oldest index %d, want 16", got)
	}
	if got := tr.OldestIndex("m"); got != 1 {
		t.Fatalf("oldest index of another root %d, want 1", got)
	}
	if got := tr.OldestIndex("v") + tr.OldestIndex("zz"); got != 0 {
		t.Fatalf("oldest index of no root %d, want 0", got)
	}
	var lost *kv.HistoryError
	if _, err := slow.Next(soon(t)); !errors.As(err, &lost) || !errors.Is(err, kv.ErrHistoryLost) || lost.Oldest != 16 || lost.Wanted != 1 {
		t.Fatalf("a lagging watcher got %v", err)
	}
	if _, err := tr.Watch("k/zzz", 14, false); !errors.As(err, &lost) || lost.Oldest != 16 || lost.Wanted != 15 {
		t.Fatalf("watch before the history got %v", err)
	}
	w := mustWatch(t, tr, "k/a/x", 15, false)
	for want := uint64(16); want <= 25; want++ {
		if ev, err := w.Next(soon(t)); err != nil || ev.Index != want {
			t.Fatalf("got %v, %v; want %d", ev.Index, err, want)
		}
	}
	tr.Apply(put("k/b", "1"), put("m/x/y", "2"))
	if ev, err := quiet.Next(soon(t)); err != nil || ev.Index != 26 {
		t.Fatalf("the watcher of a quiet path got %v, %v", ev, err)
	}
	if ev, err := other.Next(soon(t)); err != nil || ev.Index != 27 {
		t.Fatalf("the watcher of another root got %v, %v", ev, err)
	}
}

// A watcher that falls behind what its topic remembers, but not behind the history, misses nothing.
func TestWatchCatchesUp(t *testing.T) {
	tr := kv.New(kv.Options{})
	w := mustWatch(t, tr, "k/a", 0, true)
	const n = 5000
	for i := range n {
		tr.Apply(put(fmt.Sprintf("k/%c/x", 'a'+i%2), "v"))
	}
	for i := 0; i < n; i += 2 {
		ev, err := w.Next(soon(t))
		if err != nil || ev.Index != uint64(i+1) {
			t.Fatalf("got %d, %v; want %d", ev.Index, err, i+1)
		}
	}
}

func TestWatchFuture(t *testing.T) {
	tr := kv.New(kv.Options{})
	w := mustWatch(t, tr, "k/a", 3, false)
	for range 5 {
		tr.Apply(put("k/a", "v"))
	}
	if w.Start() != 0 {
		t.Fatalf("start %d", w.Start())
	}
	if ev, err := w.Next(soon(t)); err != nil || ev.Index != 4 {
		t.Fatalf("got %v, %v; want 4", ev.Index, err)
	}
	if s := tr.Snap().WithTerm(7); s.Term() != 7 || tr.Snap().Term() != 0 || s.Index() != 5 {
		t.Fatalf("term %d at index %d", s.Term(), s.Index())
	}
}

func TestRefreshIsSilent(t *testing.T) {
	tr := kv.New(kv.Options{})
	tr.Apply(put("k/a", "v"))
	w := mustWatch(t, tr, "k/a", 0, true)
	wait := tr.Snap().Wait("k/a")
	defer wait.Stop()
	res := tr.Apply(kv.Txn{Ops: []kv.Op{{Kind: kv.OpRefresh, Path: "k/a", Expires: 99}}})[0]
	if e := res.Ops[0].Entry; e.Value() != "v" || e.Modified() != 2 || e.Created() != 2 || e.Expires() != 99 || tr.NextExpiry() != 99 {
		t.Fatalf("refreshed to %+v", e)
	}
	select {
	case <-wait.C:
		t.Fatal("a refresh woke a waiter")
	default:
	}
	tr.Apply(put("k/a", "w"))
	<-wait.C
	if ev, err := w.Next(soon(t)); err != nil || ev.Index != 3 || ev.Prev.Expires() != 99 {
		t.Fatalf("got %+v, %v", ev, err)
	}
	if tr.NextExpiry() != 0 {
		t.Fatal("a deadline outlived its entry")
	}
}

// The empty path stands for everything, views included.
func TestWaitForAnything(t *testing.T) {
	tr := kv.New(kv.Options{Deriver: services{}})
	for _, p := range []string{"k/a", "n/w/s/api"} {
		s := tr.Snap()
		any, view := s.Wait(""), s.Wait("v/s/1/w")
		tr.Apply(put(p, "1"))
		<-any.C
		late := s.Wait("")
		<-late.C
		if p[0] == 'n' {
			<-view.C
		}
		any.Stop()
		late.Stop()
		view.Stop()
	}
	if n := kv.Waiting(tr); n != 0 {
		t.Errorf("%d places are still waited on", n)
	}
}

func TestStopCloseRestore(t *testing.T) {
	tr := kv.New(kv.Options{})
	var snap bytes.Buffer
	if _, err := tr.Snap().WriteTo(&snap); err != nil {
		t.Fatal(err)
	}
	ends := func(how string, end func(w *kv.Watcher), want error) {
		w := mustWatch(t, tr, "k/a", 0, true)
		wait := tr.Snap().Wait("k/b")
		defer wait.Stop()
		got := make(chan error, 1)
		go func() {
			_, err := w.Next(context.Background())
			got <- err
		}()
		end(w)
		select {
		case err := <-got:
			if !errors.Is(err, want) {
				t.Errorf("%s: %v, want %v", how, err, want)
			}
		case <-time.After(time.Minute):
			t.Fatalf("%s did not end the watcher", how)
		}
		if _, err := w.Next(context.Background()); !errors.Is(err, want) {
			t.Errorf("%s, again: %v", how, err)
		}
		if how != "stop" {
			<-wait.C
		}
	}
	ends("stop", func(w *kv.Watcher) { w.Stop(); w.Stop() }, kv.ErrClosed)
	old := tr.Snap()
	ends("restore", func(*kv.Watcher) {
		if err := tr.Restore(&snap); err != nil {
			t.Error(err)
		}
	}, kv.ErrRestored)
	w := old.Wait("k/never")
	<-w.C // a state from before a restore is always out of date
	w.Stop()
	ends("close", func(*kv.Watcher) { tr.Close() }, kv.ErrClosed)
	if _, err := tr.Watch("k/a", 0, false); !errors.Is(err, kv.ErrClosed) {
		t.Errorf("watch after close: %v", err)
	}
	if n, m := kv.Waiting(tr), tr.Watchers(); n != 0 || m != 2 { // those of this test stop at its end
		t.Errorf("%d places are still waited on, %d watchers", n, m)
	}
	for _, p := range []string{"", "zz", "v/s", "kk/a"} {
		var bad *kv.TxnError
		if _, err := tr.Watch(p, 0, true); !errors.As(err, &bad) {
			t.Errorf("watch on %q: %v", p, err)
		}
	}
}

// TestConcurrent lets readers, watchers and waiters run beside a writer: watchers miss nothing, a state read after
// an Event is at least as new, no wake-up is lost.
func TestConcurrent(t *testing.T) {
	tr := kv.New(kv.Options{Deriver: services{}})
	const n, keys = 3000, 7
	var wg sync.WaitGroup
	ctx := soon(t)
	for i := range keys {
		path := fmt.Sprintf("k/d%d/x", i)
		w := mustWatch(t, tr, path, 0, i%2 == 0)
		wg.Add(2)
		go func() {
			defer wg.Done()
			for j := i; j < n; j += keys {
				ev, err := w.Next(ctx)
				if err != nil || ev.Entry.Value() != fmt.Sprint(j) {
					t.Errorf("watch %q: %+v, %v; want %d", path, ev, err, j)
					return
				}
				if s := tr.Snap(); s.Index() < ev.Index || s.IndexOf(path) < ev.Index {
					t.Errorf("read index %d after event %d", s.Index(), ev.Index)
				}
			}
		}()
		go func() { // blocking reads until the last value
			defer wg.Done()
			for {
				s := tr.Snap()
				if e, ok := s.Get(path); ok && e.Value() == fmt.Sprint(n-1-(n-1-i)%keys) {
					return
				}
				w := s.Wait(path)
				select {
				case <-w.C:
				case <-ctx.Done():
					t.Errorf("lost wake-up on %q", path)
					w.Stop()
					return
				}
				w.Stop()
			}
		}()
	}
	wg.Add(1)
	go func() {
		defer wg.Done()
		for tr.Snap().Index() < n {
			s := tr.Snap()
			if h := s.Hash(); h != s.Hash() {
				t.Error("a state changed while it was read")
			}
			if _, err := s.WriteTo(new(bytes.Buffer)); err != nil {
				t.Error(err)
			}
			tr.OldestIndex("k")
			tr.NextExpiry()
		}
	}()
	for i := 0; i < n; {
		var batch []kv.Txn
		for range 1 + i%5 {
			if i < n {
				batch = append(batch, put(fmt.Sprintf("k/d%d/x", i%keys), fmt.Sprint(i)))
				i++
			}
		}
		tr.Apply(batch...)
	}
	wg.Wait()
}
