package kv_test

import (
	"context"
	"fmt"
	"io"
	"runtime"
	"strings"
	"sync"
	"testing"

	"github.com/musterhq/muster/kv"
)

var hundred = strings.Repeat("x", 100)

func key(i int) string { return fmt.Sprintf("k/bench/key-%08d", i) }

// filled is a tree of n keys of 100 bytes in one directory, written in a scattered order.
func filled(n int) *kv.Tree {
	t := kv.New(kv.Options{})
	for i := range n {
		set(t, key(i*7919%n), hundred)
	}
	return t
}

// set writes like a replica does: through the codec, so that the tree holds strings of its own.
func set(t *kv.Tree, path, value string) kv.Result {
	x, err := kv.UnmarshalTxn(kv.Txn{Ops: []kv.Op{{Kind: kv.OpSet, Path: path, Value: value}}}.Marshal())
	if err != nil {
		panic(err)
	}
	return t.Apply(x)[0]
}

func BenchmarkGet(b *testing.B) {
	t := filled(200_000)
	keys := make([]string, 1024)
	for i := range keys {
		keys[i] = key(i * 191)
	}
	b.ReportAllocs()
	for i := 0; b.Loop(); i++ {
		if _, ok := t.Snap().Get(keys[i&1023]); !ok {
			b.Fatal("missing")
		}
	}
}

func BenchmarkApply(b *testing.B) {
	for _, n := range []int{1000, 20_000, 200_000} {
		for _, batch := range []int{1, 64} {
			b.Run(fmt.Sprintf("keys=%d/batch=%d", n, batch), func(b *testing.B) {
				t := filled(n)
				txns := make([]kv.Txn, batch)
				b.ReportAllocs()
				i := 0
				for b.Loop() {
					for j := range txns {
						txns[j] = kv.Txn{Ops: []kv.Op{{Kind: kv.OpSet, Path: key(i * 7919 % n), Value: hundred}}}
						i++
					}
					t.Apply(txns...)
				}
				b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(i), "ns/set")
			})
		}
	}
}

func BenchmarkUnmarshal(b *testing.B) {
	data := kv.Txn{Ops: []kv.Op{{Kind: kv.OpSet, Path: key(1), Value: hundred}}, Now: 1 << 60}.Marshal()
	b.ReportAllocs()
	for b.Loop() {
		if _, err := kv.UnmarshalTxn(data); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkMemory reports the live bytes per key of 100 bytes, all told, with and without what the history of
// writing them keeps.
func BenchmarkMemory(b *testing.B) {
	const n = 200_000
	for _, history := range []int{1, 16 << 20} {
		b.Run(fmt.Sprintf("history=%d", history), func(b *testing.B) {
			for b.Loop() {
				before := live()
				t := kv.New(kv.Options{HistoryBytes: history})
				for i := range n {
					set(t, key(i*7919%n), hundred)
				}
				b.ReportMetric(float64(live()-before)/n, "bytes/key")
				runtime.KeepAlive(t)
			}
		})
	}
}

func live() uint64 {
	runtime.GC()
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.HeapAlloc
}

// BenchmarkWatchers is one change of a key with 5,000 watchers until the last has its Event.
func BenchmarkWatchers(b *testing.B) {
	t := filled(1000)
	const n = 5000
	ctx, cancel := context.WithCancel(context.Background())
	var got, ended sync.WaitGroup
	for range n {
		w, err := t.Watch(key(1), 0, false)
		if err != nil {
			b.Fatal(err)
		}
		ended.Add(1)
		go func() {
			defer ended.Done()
			defer w.Stop()
			for {
				if _, err := w.Next(ctx); err != nil {
					return
				}
				got.Done()
			}
		}()
	}
	b.ReportAllocs()
	for b.Loop() {
		got.Add(n)
		set(t, key(1), "v")
		got.Wait()
	}
	cancel()
	ended.Wait()
}

// BenchmarkWaiters is one change of a key with 5,000 waiters until all have read again and wait again.
func BenchmarkWaiters(b *testing.B) {
	t := filled(1000)
	const n = 5000
	var got sync.WaitGroup
	done := make(chan struct{})
	got.Add(n)
	for range n {
		go func() {
			for {
				s := t.Snap()
				s.Get(key(1))
				w := s.Wait(key(1))
				got.Done()
				select {
				case <-w.C:
				case <-done:
				}
				w.Stop()
				select {
				case <-done:
					return
				default:
				}
			}
		}()
	}
	got.Wait()
	b.ReportAllocs()
	for b.Loop() {
		got.Add(n)
		set(t, key(1), "v")
		got.Wait()
	}
	close(done)
}

func BenchmarkWriteTo(b *testing.B) {
	s := filled(200_000).Snap()
	for b.Loop() {
		n, err := s.WriteTo(io.Discard)
		if err != nil {
			b.Fatal(err)
		}
		b.SetBytes(n)
	}
}

func BenchmarkRestore(b *testing.B) {
	t := filled(200_000)
	data := new(strings.Builder)
	if _, err := t.Snap().WriteTo(data); err != nil {
		b.Fatal(err)
	}
	for b.Loop() {
		if err := t.Restore(strings.NewReader(data.String())); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkWalk(b *testing.B) {
	s := filled(200_000).Snap()
	for b.Loop() {
		n := 0
		s.Walk("k/bench/key-0000", func(string, *kv.Entry) bool { n++; return true })
	}
}

// BenchmarkExtendExpiry is what a new leader costs when so many keys have a deadline.
func BenchmarkExtendExpiry(b *testing.B) {
	const n = 20_000
	t := kv.New(kv.Options{})
	for i := range n {
		t.Apply(kv.Txn{Ops: []kv.Op{{Kind: kv.OpSet, Path: key(i * 7919 % n), Value: hundred, Expires: 1 << 60}}})
	}
	for b.Loop() {
		t.Apply(kv.Txn{Ops: []kv.Op{{Kind: kv.OpExtendExpiry, Extend: 1}}})
	}
}
