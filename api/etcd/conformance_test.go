package etcd_test

import (
	"path/filepath"
	"strings"
	"testing"

	"github.com/musterhq/muster/kv"
	"github.com/musterhq/muster/test/conformance/etcdreplay"
)

// TestConformance replays what a real etcd answered.
func TestConformance(t *testing.T) {
	files, err := filepath.Glob("../../test/conformance/etcd/*.jsonl")
	if err != nil || len(files) == 0 {
		t.Fatalf("no recordings found: %v", err)
	}
	skip := etcdreplay.Departures()
	skip["cors-default"] = "what browsers are told is the agent's"
	for _, f := range files {
		name := strings.TrimSuffix(filepath.Base(f), ".jsonl")
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			o := kv.Options{}
			if name == "history" {
				o.HistoryEvents = 1000 // what etcd keeps; the recording looks at its edge
			}
			start := func(t *testing.T) string {
				return serve(t, newMemory(t, o), nil)
			}
			etcdreplay.Run(t, start(t), f, etcdreplay.Options{Skip: skip, Fresh: start})
		})
	}
}
