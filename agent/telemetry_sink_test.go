package agent

import (
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/go-metrics"
)

// TestQuietSink holds that no count of log entries is lost, and that other figures pass untouched.
func TestQuietSink(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		memory := metrics.NewInmemSink(time.Hour, time.Hour)
		s := &quietSink{FanoutSink: metrics.FanoutSink{memory}}
		for range 100 {
			s.IncrCounterWithLabels([]string{"consul", "raft", "apply"}, 1, nil)
			s.IncrCounterWithLabels([]string{"consul", "sync", "apply"}, 1, nil)
			s.AddSampleWithLabels([]string{"raft", "commitTime"}, 3, nil)
			s.AddSampleWithLabels([]string{"consul", "raft", "other"}, 3, nil)
		}
		time.Sleep(time.Second) // of the bubble's clock
		synctest.Wait()
		s.IncrCounterWithLabels([]string{"consul", "raft", "apply"}, 1, nil)
		time.Sleep(time.Second)
		synctest.Wait()
		data := memory.Data()[0]
		for name, want := range map[string]float64{"consul.raft.apply": 101, "consul.sync.apply": 100} {
			if got := data.Counters[name].Sum; got != want {
				t.Errorf("counter %s is %v, want %v", name, got, want)
			}
		}
		for name, want := range map[string]int{"raft.commitTime": 7, "consul.raft.other": 100} {
			if got := data.Samples[name].Count; got != want {
				t.Errorf("sample %s was kept %d times, want %d", name, got, want)
			}
		}
		if got := data.Samples["raft.commitTime"]; got.Min != 3 || got.Max != 3 {
			t.Errorf("commit times are %v, want 3", got)
		}
	})
}

// TestRuntimeFiguresFromTheStart: whoever asks for metrics right after the start finds those of the process.
func TestRuntimeFiguresFromTheStart(t *testing.T) {
	c := mustLoad(t, nil, nil, "-dev")
	tel, err := newTelemetry(&c)
	if err != nil {
		t.Fatal(err)
	}
	for name := range tel.memory.Data()[0].Gauges {
		if strings.HasSuffix(name, "runtime.alloc_bytes") {
			return
		}
	}
	t.Errorf("gauges %v", tel.memory.Data()[0].Gauges)
}
