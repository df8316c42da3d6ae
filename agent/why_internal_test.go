package agent

import (
	"testing"
	"time"
)

func TestMarks(t *testing.T) {
	var m marks
	base := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	at := func(s int) time.Time { return base.Add(time.Duration(s) * time.Second) }
	now := at(100)
	if from, to := m.when(5, now); !from.IsZero() || !to.Equal(now) {
		t.Errorf("without marks: %v, %v", from, to)
	}
	m.note(10, at(0))
	m.note(10, at(1)) // nothing was written
	m.note(12, at(5))
	m.note(20, at(6))
	for _, c := range []struct {
		index    uint64
		from, to time.Time
	}{
		{3, time.Time{}, at(0)}, {10, time.Time{}, at(0)}, {11, at(0), at(5)}, {12, at(0), at(5)}, {13, at(5), at(6)}, {20, at(5), at(6)}, {21, at(6), now},
	} {
		if from, to := m.when(c.index, now); !from.Equal(c.from) || !to.Equal(c.to) {
			t.Errorf("index %d: %v to %v, want %v to %v", c.index, from, to, c.from, c.to)
		}
	}
	m.note(4, at(7)) // another tree
	if from, to := m.when(4, now); !from.IsZero() || !to.Equal(at(7)) {
		t.Errorf("after another tree: %v, %v", from, to)
	}
	for i := range 2 * maxMarks {
		m.note(uint64(10+i), at(10+i))
	}
	last := 2*maxMarks - 1
	if len(m.list) > maxMarks {
		t.Errorf("%d marks are kept", len(m.list))
	}
	if from, to := m.when(uint64(10+last), at(10+last)); !from.Equal(at(10+last-1)) || !to.Equal(at(10+last)) {
		t.Errorf("the newest: %v, %v", from, to)
	}
}
