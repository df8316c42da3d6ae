package main

import (
	"context"
	"runtime"
	"testing"
	"time"
)

func TestIdleness(t *testing.T) {
	const mib = 1 << 20
	type look struct {
		after time.Duration
		use   heapUse
		want  bool
	}
	for name, looks := range map[string][]look{
		"a burst, then quiet": {
			{0, heapUse{100 * mib, 40 * mib, 60 * mib}, false},
			{5 * time.Second, heapUse{200 * mib, 40 * mib, 80 * mib}, false}, // 20 MiB a second
			{10 * time.Second, heapUse{201 * mib, 40 * mib, 80 * mib}, true},
			{15 * time.Second, heapUse{202 * mib, 40 * mib, 42 * mib}, false},
		},
		"nothing to gain": {
			{0, heapUse{100 * mib, 400 * mib, 480 * mib}, false},
			{40 * time.Second, heapUse{100 * mib, 400 * mib, 480 * mib}, false},
		},
		"the first look tells nothing of the rate": {
			{0, heapUse{1, 10 * mib, 80 * mib}, false},
			{5 * time.Second, heapUse{2, 10 * mib, 80 * mib}, true},
		},
		"not again at once": {
			{0, heapUse{1, 10 * mib, 80 * mib}, false},
			{5 * time.Second, heapUse{1, 10 * mib, 80 * mib}, true},
			{10 * time.Second, heapUse{1, 10 * mib, 80 * mib}, false},
			{40 * time.Second, heapUse{1, 10 * mib, 80 * mib}, true},
		},
	} {
		t.Run(name, func(t *testing.T) {
			var idle idleness
			begin := time.Now()
			for n, l := range looks {
				if got := idle.worth(begin.Add(l.after), l.use); got != l.want {
					t.Errorf("look %d: %v, want %v", n, got, l.want)
				}
			}
		})
	}
}

// The figures must be there: a name that this Go does not know would panic.
func TestReadHeap(t *testing.T) {
	before := readHeap()
	data := make([][]byte, 64)
	for i := range data {
		data[i] = make([]byte, 1<<20)
	}
	after := readHeap()
	runtime.KeepAlive(data)
	if after.allocated-before.allocated < 64<<20 || after.held < 64<<20 || len(data) != 64 {
		t.Errorf("64 MiB more went from %+v to %+v", before, after)
	}
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	giveBackMemory(ctx)
}
