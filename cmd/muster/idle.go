package main

import (
	"context"
	"runtime/debug"
	"runtime/metrics"
	"time"
)

// The garbage collector lets the heap grow to twice of what lives in it before it runs again, and a process that has
// gone quiet keeps that half for minutes. An agent stands beside what its machine is there for, so after a burst it
// collects once and gives the pages back.
const (
	idlePeriod   = 5 * time.Second
	idleRate     = 1 << 20 // bytes allocated per second; a process above it will need the memory again
	idleWaste    = 8 << 20 // bytes worth a collection, or a quarter of what lives if that is more
	idleInterval = 30 * time.Second
)

// heapUse is one look at the heap, in bytes.
type heapUse struct {
	allocated uint64 // since the process started
	live      uint64 // what the last collection found in use
	held      uint64 // what the process has from the system for the heap
}

// idleness decides from looks idlePeriod apart when a collection is worth its cost.
type idleness struct {
	before heapUse
	last   time.Time // of the last collection asked for
}

// worth says whether to collect now: nothing much was allocated since the look before, and much is held for nothing.
func (i *idleness) worth(now time.Time, use heapUse) bool {
	grown := use.allocated - i.before.allocated
	first := i.before == (heapUse{})
	i.before = use
	if first || grown > idleRate*uint64(idlePeriod/time.Second) || now.Sub(i.last) < idleInterval {
		return false
	}
	if use.held <= use.live+max(idleWaste, use.live/4) {
		return false
	}
	i.last = now
	return true
}

// giveBackMemory runs until ctx ends. It concerns the process as a whole, so an agent inside another program has none.
func giveBackMemory(ctx context.Context) {
	tick := time.NewTicker(idlePeriod)
	defer tick.Stop()
	var idle idleness
	for {
		select {
		case <-ctx.Done():
			return
		case now := <-tick.C:
			if idle.worth(now, readHeap()) {
				debug.FreeOSMemory()
			}
		}
	}
}

func readHeap() heapUse {
	s := []metrics.Sample{
		{Name: "/gc/heap/allocs:bytes"}, {Name: "/gc/heap/live:bytes"},
		{Name: "/memory/classes/heap/objects:bytes"}, {Name: "/memory/classes/heap/unused:bytes"}, {Name: "/memory/classes/heap/free:bytes"},
	}
	metrics.Read(s)
	return heapUse{
		allocated: s[0].Value.Uint64(), live: s[1].Value.Uint64(),
		held: s[2].Value.Uint64() + s[3].Value.Uint64() + s[4].Value.Uint64(),
	}
}
