package consul

import (
	"bytes"
	"sync/atomic"
)

// lineQueue takes log lines and never makes the logger wait.
type lineQueue struct {
	lines chan []byte
	lost  atomic.Int64
}

// Write implements io.Writer.
func (q *lineQueue) Write(b []byte) (int, error) {
	select {
	case q.lines <- bytes.Clone(b):
	default:
		q.lost.Add(1)
	}
	return len(b), nil
}
