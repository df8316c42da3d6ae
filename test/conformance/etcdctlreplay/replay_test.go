package etcdctlreplay

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/musterhq/muster/internal/testcluster"
	"github.com/musterhq/muster/test/conformance/etcdreplay"
)

// muster is our binary, and etcdctl the same under that name.
var muster, etcdctl string

func TestMain(m *testing.M) { os.Exit(build(m)) }

func build(m *testing.M) int {
	dir, err := os.MkdirTemp("", "muster-etcdctl")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer os.RemoveAll(dir)
	muster = filepath.Join(dir, "muster")
	cmd := exec.Command("go", "build", "-o", muster, "../../../cmd/muster")
	cmd.Stderr = os.Stderr
	etcdctl = filepath.Join(dir, "etcdctl")
	if err := cmd.Run(); err != nil {
		fmt.Fprintln(os.Stderr, "building the binary:", err)
		return 1
	}
	if err := os.Symlink(muster, etcdctl); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return m.Run()
}

func recordings(t *testing.T) []string {
	t.Helper()
	files, err := filepath.Glob("../etcdctl/*.jsonl")
	if err != nil || len(files) == 0 {
		t.Fatalf("no recordings found: %v", err)
	}
	return files
}

// replayAll replays the recordings side by side, however few tests may run in parallel: they wait more than they work.
func replayAll(t *testing.T, files []string, o Options) {
	var all sync.WaitGroup
	for _, f := range files {
		all.Go(func() {
			t.Run(strings.TrimSuffix(filepath.Base(f), ".jsonl"), func(t *testing.T) { Run(t, f, o) })
		})
	}
	all.Wait()
}

// TestAgainstMuster replays with our binary under the name etcdctl against our servers.
func TestAgainstMuster(t *testing.T) {
	t.Parallel()
	replayAll(t, recordings(t), Options{Command: etcdctl, Skip: Departures(), Stage: newStage})
}

// TestOwnCommands replays with muster's own commands, which give the same where they take the same arguments.
func TestOwnCommands(t *testing.T) {
	t.Parallel()
	o := Options{Command: muster, Env: "MUSTER_HTTP_ADDR", Stage: newStage, Skip: map[string]string{
		"unsupported-format":           "an unknown format is refused, and nothing is done",
		"member-remove-errors/3":       "the hint names the command that was typed",
		"member-add-start-list-remove": "it is slow, and shows the same under the name etcdctl",
		"backup/1":                     "a key command stands under kv",
	}}
	replayAll(t, []string{"../etcdctl/member.jsonl", "../etcdctl/backup.jsonl"}, o)
	o.Before = []string{"kv"}
	replayAll(t, []string{"../etcdctl/kv.jsonl", "../etcdctl/dirs.jsonl", "../etcdctl/formats.jsonl", "../etcdctl/watch.jsonl"}, o)
}

// stage is a cluster of one, which a second server may join.
type stage struct{ first, second *testcluster.Host }

func newStage(t *testing.T, second string) Stage {
	t.Helper()
	c := testcluster.Start(t, 0, 0)
	s := &stage{first: c.AddServer(t, "n1", "-bootstrap-expect=1")}
	s.first.WaitReady(t)
	settle(t, s.first)
	if second != "" {
		s.second = c.PlanServer(t, second)
	}
	return s
}

// settle waits until the agent has written all it has to say about itself: the recordings count every step of the index.
func settle(t *testing.T, h *testcluster.Host) {
	t.Helper()
	var last uint64
	same := 0
	testcluster.Eventually(t, "the cluster comes to rest", func() bool {
		index, _, _ := h.Agent().StateHash()
		if same++; index != last {
			same = 0
		}
		last = index
		return same >= 30
	})
}

func (s *stage) URL() string     { return s.first.EtcdURL() }
func (s *stage) DataDir() string { return s.first.DataDir }

func (s *stage) Second() (peer, client string) {
	if s.second == nil {
		return "", ""
	}
	return "http://" + s.second.ServerAddr(), s.second.EtcdURL()
}

func (s *stage) StartSecond(t *testing.T) {
	s.second.Start(t)
	s.second.WaitReady(t)
	settle(t, s.first)
}

func (s *stage) StopSecond(t *testing.T) { s.second.Stop(t) }

// TestDeparturesExist keeps the list from outliving what it names.
func TestDeparturesExist(t *testing.T) {
	t.Parallel()
	known := make(map[string]bool)
	for _, f := range recordings(t) {
		known[filepath.Base(f)] = true
		cases, err := Load(f)
		if err != nil {
			t.Fatal(err)
		}
		for _, steps := range cases {
			for _, s := range steps {
				known[s.Case], known[fmt.Sprintf("%s/%d", s.Case, s.Step)] = true, true
			}
		}
	}
	for name, why := range Departures() {
		if !known[name] || why == "" {
			t.Errorf("%q (%s) names nothing in the recordings, or has no reason", name, why)
		}
	}
}

// TestDifferencesAreSeen makes sure that wrong output cannot pass.
func TestDifferencesAreSeen(t *testing.T) {
	t.Parallel()
	step := &Step{Masks: [][2]string{{"version: \\S+", "version: <v>"}}}
	recorded := &output{"Index: 12\n{\"modifiedIndex\":12,\"expiration\":\"2020\"}\nversion: 1\nETCD_INITIAL_CLUSTER=\"a=1,b=2\"\n", "Error:  101: Compare failed ([11 != 12]) [12]\n", 4}
	same := output{"Index: 102\n{\"expiration\":\"2021\", \"modifiedIndex\":102}\nversion: 2\nETCD_INITIAL_CLUSTER=\"b=2,a=1\"\n", "Error:  101: Compare failed ([101 != 102]) [102]\n", 4}
	diff := func(change func(*output)) string {
		live := same
		change(&live)
		return etcdreplay.Diff(step.comparable(recorded, 10, nil), step.comparable(&live, 100, strings.NewReplacer()))
	}
	if d := diff(func(*output) {}); d != "" {
		t.Fatalf("what is the same differs: %s", d)
	}
	replace := func(old, with string) func(*output) {
		return func(o *output) {
			o.stdout, o.stderr = strings.Replace(o.stdout, old, with, 1), strings.Replace(o.stderr, old, with, 1)
		}
	}
	for name, change := range map[string]func(*output){
		"index": replace("Index: 102", "Index: 103"), "JSON index": replace(":102}", ":103}"), "error index": replace("[102]", "[103]"),
		"cause": replace("[101 != ", "[100 != "), "spaces": replace("Error:  ", "Error: "), "missing line": replace("version: 2\n", ""),
		"cluster": replace("a=1", "a=3"), "more": replace("version", "\nversion"), "exit code": func(o *output) { o.exit = 1 },
		"killed": func(o *output) { o.exit = timedOut }, "swapped": func(o *output) { o.stdout, o.stderr = o.stderr, o.stdout },
	} {
		if diff(change) == "" {
			t.Errorf("%s: the difference is not seen", name)
		}
	}
}

func TestShift(t *testing.T) {
	t.Parallel()
	got := shift([]string{"set", "/q/00000000000000000039", "39", "--swap-with-index", "39", "--after-index", "5"}, 38, 138)
	want := []string{"set", "/q/00000000000000000139", "39", "--swap-with-index", "139", "--after-index", "5"}
	if strings.Join(got, " ") != strings.Join(want, " ") {
		t.Errorf("got %q, want %q", got, want)
	}
}
