package agent

import (
	"context"
	"sort"
	"sync"
	"time"
)

// marks remember when the index of the tree was where, so that the index of a record tells when it was written. The
// tree itself keeps no times: that would cost every entry eight bytes for a question that is asked rarely. A mark is
// made once a second while something is written, so a time is known to the second; it is known since this server
// started, and for the last maxMarks seconds in which there were writes.
type marks struct {
	mu   sync.Mutex
	list []mark // by index and time; the first is the state at the beginning
}

type mark struct {
	index uint64
	at    time.Time
}

// maxMarks are kept: 18 hours of writing without a pause, 2 MiB.
const maxMarks = 1 << 16

// markEvery is the time between two marks.
const markEvery = time.Second

// note says that the index is index now.
func (m *marks) note(index uint64, now time.Time) {
	m.mu.Lock()
	defer m.mu.Unlock()
	n := len(m.list)
	if n > 0 && m.list[n-1].index == index {
		return
	}
	if n > 0 && m.list[n-1].index > index {
		m.list = m.list[:0] // another tree than before: nothing is known of its past
	}
	if len(m.list) >= maxMarks {
		m.list = append(m.list[:0], m.list[maxMarks/4:]...)
	}
	m.list = append(m.list, mark{index, now})
}

// when gives the time between which an index was reached. A zero from: before the marks begin.
func (m *marks) when(index uint64, now time.Time) (from, to time.Time) {
	m.mu.Lock()
	defer m.mu.Unlock()
	i := sort.Search(len(m.list), func(i int) bool { return m.list[i].index >= index })
	to = now
	if i < len(m.list) {
		to = m.list[i].at
	}
	if i > 0 {
		from = m.list[i-1].at
	}
	return from, to
}

// follow makes marks until ctx ends.
func (m *marks) follow(ctx context.Context, index func() uint64) {
	for {
		m.note(index(), time.Now())
		if !rest(ctx, markEvery) {
			return
		}
	}
}
