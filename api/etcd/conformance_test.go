package etcd_test

import (
	"path/filepath"
	"strings"
	"testing"

	"github.com/musterhq/muster/api/etcd"
	"github.com/musterhq/muster/kv"
	"github.com/musterhq/muster/test/conformance/etcdreplay"
)

// departures are the cases (or "case/step") of the recordings that this dialect answers otherwise, with the reason.
// Everything that is not here must be as recorded.
var departures = map[string]string{

	"stream-from-history-gives-one-old-event-then-stops/6": "a stream from the past goes on instead of falling silent for ever",
	// members: servers join by gossip
	"update-member":             "the address of a server is not changed by request",
	"add-member-to-single-node": "servers are not added by request",
	// misc: not part of this dialect
	"debug-vars":     "internals of the process are served by the agent",
	"cors-default/4": "paths outside this dialect are the agent's",
}

// later are whole recordings of what this package does not do.
var later = map[string]string{
	"auth":    "users and roles of the v2 interface are not offered",
	"cluster": "starts servers of its own",
}

func TestConformance(t *testing.T) {
	files, err := filepath.Glob("../../test/conformance/etcd/*.jsonl")
	if err != nil || len(files) == 0 {
		t.Fatalf("no recordings found: %v", err)
	}
	for _, f := range files {
		name := strings.TrimSuffix(filepath.Base(f), ".jsonl")
		if later[name] != "" {
			continue
		}
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			o := kv.Options{}
			if name == "history" {
				o.HistoryEvents = 1000 // what etcd keeps; the recording looks at its edge
			}
			start := func(t *testing.T) string {
				return serve(t, newMemory(t, o), func(c *etcd.Config) { c.CORS = []string{"*"} })
			}
			etcdreplay.Run(t, start(t), f, etcdreplay.Options{Skip: departures, Fresh: start})
		})
	}
}
