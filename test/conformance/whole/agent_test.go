package whole

import (
	"maps"
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

// server starts a cluster of one, with the recorded name.
func server(t *testing.T, args ...string) *testcluster.Host {
	t.Helper()
	_, s := single(t, args...)
	settle(t, s)
	return s
}

// proxy starts a server and a proxy beside it.
func proxy(t *testing.T, args ...string) *testcluster.Host {
	t.Helper()
	c, s := single(t, args...)
	p := c.AddProxy(t, "p1")
	p.WaitReady(t)
	settle(t, s)
	return p
}

// settle waits until the agents have written all they have to say about themselves: the recordings count every step
// of the index.
func settle(t *testing.T, s *testcluster.Host) {
	t.Helper()
	var last uint64
	same := 0
	testcluster.Eventually(t, "the cluster comes to rest", func() bool {
		index, _, _ := s.Agent().StateHash()
		if same++; index != last {
			same = 0
		}
		last = index
		return same >= 30
	})
}

func single(t *testing.T, args ...string) (*testcluster.Cluster, *testcluster.Host) {
	t.Helper()
	c := testcluster.Start(t, 0, 0, args...)
	s := c.AddServer(t, "n1", "-bootstrap-expect=1")
	s.WaitReady(t)
	return c, s
}

// with adds to a list of cases to skip.
func with(list, more map[string]string) map[string]string {
	all := maps.Clone(list)
	maps.Copy(all, more)
	return all
}

// TestHierarchicalDialect replays what etcd clients see, at their own port of a server and of a proxy. Every run has
// a cluster of its own, because replaying deletes all keys.
func TestHierarchicalDialect(t *testing.T) {
	t.Parallel()
	replay := func(at func(*testing.T, ...string) *testcluster.Host, behind bool, more map[string]string) func(*testing.T) {
		return func(t *testing.T) {
			t.Parallel()
			h, skip := at(t, etcdreplay.Likeness()...), with(etcdreplay.Departures(), more)
			for _, file := range recordings(t, "etcd") {
				t.Run(family(file), func(t *testing.T) {
					etcdreplay.Run(t, h.EtcdURL(), file, etcdreplay.Options{Skip: skip, Behind: behind})
				})
			}
		}
	}
	const root = "/ is the agent's own and says what is where"
	t.Run("server", replay(server, false, map[string]string{"prefix-without-slash/4": root}))
	t.Run("proxy", replay(proxy, true, map[string]string{"prefix-without-slash/4": root}))
}

// TestMembersComeAndGo replays the cases that start and stop servers, and proxies in front of them.
func TestMembersComeAndGo(t *testing.T) {
	t.Parallel()
	etcdreplay.Run(t, "", filepath.Join("..", "etcd", "cluster.jsonl"), etcdreplay.Options{
		Skip: etcdreplay.Departures(), Destructive: true,
		Stage: func(t *testing.T, second string) etcdreplay.Stage { return newStage(t, second) },
		Loose: map[string]string{
			"member-add-join-remove": "a server that comes is also written into the catalog",
			"proxy-readwrite":        "a proxy that comes is also written into the catalog",
			"proxy-members-down":     "a proxy that comes is also written into the catalog",
		},
	})
}

// stage is a cluster of one, which a second server and a proxy may join.
type stage struct {
	c             *testcluster.Cluster
	first, second *testcluster.Host
}

func newStage(t *testing.T, second string) *stage {
	t.Helper()
	c, s := single(t)
	settle(t, s)
	return &stage{c, s, c.PlanServer(t, second)}
}

func (s *stage) URL() string { return s.first.EtcdURL() }
func (s *stage) Second() (string, string) {
	return "http://" + s.second.ServerAddr(), s.second.EtcdURL()
}
func (s *stage) StopFirst(t *testing.T) { s.first.Stop(t) }

func (s *stage) StartSecond(t *testing.T) {
	s.second.Start(t)
	s.second.WaitReady(t)
}

func (s *stage) StartProxy(t *testing.T, _ string) string {
	p := s.c.AddProxy(t, "proxy")
	p.WaitReady(t)
	return p.EtcdURL()
}

// TestFlatDialect replays what Consul clients see, the local agent's endpoints included, at a server and at a proxy.
func TestFlatDialect(t *testing.T) {
	t.Parallel()
	replay := func(at func(*testing.T, ...string) *testcluster.Host, more map[string]string) func(*testing.T) {
		return func(t *testing.T) {
			t.Parallel()
			h, skip := at(t), with(departures, more)
			for _, file := range recordings(t, "consul") {
				t.Run(family(file), func(t *testing.T) {
					consulreplay.Run(t, strings.TrimSuffix(h.URL("/"), "/"), file, consulreplay.Options{Skip: skip})
				})
			}
		}
	}
	t.Run("server", replay(server, nil))
	t.Run("proxy", replay(proxy, map[string]string{
		"agent-misc":        "recorded in a cluster of one member",
		"health-node-agent": "recorded in a cluster of one member",
		"coordinate":        "the servers are listed, not the proxy that was asked",
	}))
}

// departures are the cases that Muster answers otherwise, with the reason. There is none.
var departures = map[string]string{}

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
	for name, why := range departures {
		if !known[name] || why == "" {
			t.Errorf("%q (%s) names nothing in the recordings, or has no reason", name, why)
		}
	}
}
