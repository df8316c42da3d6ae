package agent

import (
	"sync/atomic"
	"time"

	"github.com/hashicorp/go-metrics"
)

// quietSink makes cheap what the raft library reports for every single log entry: at full load these reports took
// more of the processor than applying the entries. The rest passes through. It may be used from any goroutine.
//
//   - raft.apply, a counter, is added up and passed on once a second: no count is lost.
//   - raft.commitTime, a sample, is passed on once in sampleEvery times: quantiles and means stay what
//     they are, the number of samples does not.
type quietSink struct {
	metrics.FanoutSink
	applied atomic.Int64
	commits atomic.Uint64
}

// sampleEvery is how many commit times there are for one that is kept.
const sampleEvery = 16

// IncrCounterWithLabels implements metrics.MetricSink.
func (s *quietSink) IncrCounterWithLabels(key []string, val float32, labels []metrics.Label) {
	if val != 1 || len(labels) != 0 || !raftKey(key, "apply") {
		s.FanoutSink.IncrCounterWithLabels(key, val, labels)
		return
	}
	if s.applied.Add(1) == 1 {
		time.AfterFunc(time.Second, func() { s.FanoutSink.IncrCounterWithLabels(key, float32(s.applied.Swap(0)), nil) })
	}
}

// AddSampleWithLabels implements metrics.MetricSink.
func (s *quietSink) AddSampleWithLabels(key []string, val float32, labels []metrics.Label) {
	if raftKey(key, "commitTime") && s.commits.Add(1)%sampleEvery != 1 {
		return
	}
	s.FanoutSink.AddSampleWithLabels(key, val, labels)
}

// raftKey tells a key of the raft library, whatever prefix stands before it.
func raftKey(key []string, name string) bool {
	n := len(key)
	return n >= 2 && n <= 3 && key[n-1] == name && key[n-2] == "raft"
}
