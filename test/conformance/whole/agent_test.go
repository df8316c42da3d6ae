package whole

import (
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/musterhq/muster/internal/testcluster"
	"github.com/musterhq/muster/test/conformance/consulreplay"
	"github.com/musterhq/muster/test/conformance/etcdreplay"
)

// recordings lists the files of a dialect.
func recordings(t *testing.T, dialect string) []string {
	t.Helper()
	files, err := filepath.Glob(filepath.Join("..", dialect, "*.jsonl"))
	if err != nil || len(files) == 0 {
		t.Fatalf("no recordings of %s: %v", dialect, err)
	}
	slices.Sort(files)
	return files
}

func family(file string) string { return strings.TrimSuffix(filepath.Base(file), ".jsonl") }

// TestHierarchicalDialect replays what etcd clients see, at a server's own port for them.
func TestHierarchicalDialect(t *testing.T) {
	t.Parallel()
	h := testcluster.Start(t, 0, 0).AddServer(t, "n1", "-bootstrap-expect=1") // the recorded name
	h.WaitReady(t)
	skip := etcdreplay.Departures()
	skip["prefix-without-slash/4"] = "/ is the agent's own and says what is where"
	for _, file := range recordings(t, "etcd") {
		t.Run(family(file), func(t *testing.T) {
			etcdreplay.Run(t, h.EtcdURL(), file, etcdreplay.Options{Skip: skip})
		})
	}
}

// TestFlatDialect replays what Consul clients see, the local agent's endpoints included.
func TestFlatDialect(t *testing.T) {
	t.Parallel()
	h := testcluster.Start(t, 1, 0).Servers[0]
	for _, file := range recordings(t, "consul") {
		t.Run(family(file), func(t *testing.T) {
			if why := notOffered[family(file)]; why != "" {
				t.Skip(why)
			}
			consulreplay.Run(t, strings.TrimSuffix(h.URL("/"), "/"), file, consulreplay.Options{Skip: departures})
		})
	}
}

// notOffered are the families of endpoints that Muster does not have.
var notOffered = map[string]string{
	"event": "user events are not offered",
	"query": "prepared queries are not offered",
	"txn":   "transactions are not offered",
}

// departures are the cases that Muster answers otherwise, with the reason.
var departures = map[string]string{
	"agent-alias-unknown-service": "checks that follow another service are not offered",
	"catalog-unknown-fields":      "asks for prepared queries and transactions too",
	"errors-paths-and-methods":    "asks for prepared queries too",
	"coordinate":                  "network coordinates are not offered",
	// The rest of the case, a query woken by its check, is tested in test/cluster.
	"health-blocking-check-change": "a service and its check, written together, have two indexes one after the other",
}

// TestDeparturesExist keeps the lists from outliving what they name.
func TestDeparturesExist(t *testing.T) {
	t.Parallel()
	known := map[string]bool{}
	for _, file := range recordings(t, "consul") {
		known[family(file)] = true
		cases, err := consulreplay.Load(file)
		if err != nil {
			t.Fatal(err)
		}
		for _, c := range cases {
			known[c.Name] = true
		}
	}
	for _, list := range []map[string]string{notOffered, departures} {
		for name, why := range list {
			if !known[name] || why == "" {
				t.Errorf("%q (%s) names nothing in the recordings, or has no reason", name, why)
			}
		}
	}
}
