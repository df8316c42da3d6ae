package consensus

import (
	"io"
	"time"
)

const (
	// paceBytes is how much of a snapshot is written between two rests, longestRest how long one is at most.
	paceBytes   = 128 << 10
	longestRest = 50 * time.Millisecond
)

// paced rests after every paceBytes for as long as they took, so that a snapshot leaves half of a core, and of the
// disk, to the writes beside it.
type paced struct {
	io.Writer
	since   time.Time
	written int
}

func (p *paced) Write(b []byte) (int, error) {
	n, err := p.Writer.Write(b)
	if p.written += n; p.written >= paceBytes {
		rest := time.NewTimer(min(time.Since(p.since), longestRest))
		<-rest.C
		p.since, p.written = time.Now(), 0
	}
	return n, err
}
