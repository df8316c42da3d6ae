// Package etcdctlreplay replays recorded runs of etcdctl, for version 2 of the interface, with a command in its place
// and reports every difference in output and exit code. The recordings are the .jsonl files in ../etcdctl;
// ../etcdctl/README.md describes their format.
//
//	etcdctlreplay.Run(t, "../etcdctl/kv.jsonl", etcdctlreplay.Options{
//		Command: "/usr/bin/etcdctl",
//		Stage:   func(t *testing.T, second string) etcdctlreplay.Stage { return newStage(t, second) },
//	})
//
// Between cases every visible key is deleted: only servers on loopback addresses are accepted.
package etcdctlreplay

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"testing"

	"github.com/musterhq/muster/test/conformance/etcdreplay"
)

// Options of a Run.
type Options struct {
	// Command is the program to run in the place of etcdctl.
	Command string
	// Before are arguments put before the recorded ones.
	Before []string
	// Env names a variable that gets the URL of the first server, as ETCDCTL_ENDPOINTS does; "" for none.
	Env string
	// Debian says that Command is Debian's etcdctl, which departs from the recordings in marked cases.
	Debian bool
	// Skip says why a recording ("file.jsonl"), a case ("name") is left out, or why one step ("name/3") is run but not
	// compared.
	Skip map[string]string
	// Stage starts the servers of a case; second is the name that the second server will have, if there is one.
	Stage func(t *testing.T, second string) Stage
}

// Stage are the servers of a case. The first is running and fresh when Options.Stage returns.
type Stage interface {
	// URL is where clients reach the first server.
	URL() string
	// DataDir is its data directory.
	DataDir() string
	// Second is where the other servers and where clients reach the second server.
	Second() (peer, client string)
	// StartSecond starts the second server, which has been announced, and waits until it serves.
	StartSecond(t *testing.T)
	// StopSecond stops it.
	StopSecond(t *testing.T)
}

// Step is one line of a recording.
type Step struct {
	Case          string            `json:"case"`
	Step          int               `json:"step"`
	Base          int64             `json:"base"`
	Argv          []string          `json:"argv"`
	Stdin         string            `json:"stdin"`
	Stdout        *string           `json:"stdout"`
	Stderr        *string           `json:"stderr"`
	Exit          *int              `json:"exit"`
	Env           map[string]string `json:"env"`
	NoEndpointEnv bool              `json:"no_endpoint_env"`
	Background    string            `json:"background"`
	Await         string            `json:"await"`
	Signal        string            `json:"signal"`
	SignalAfterMS int               `json:"signal_after_ms"`
	SleepMS       int               `json:"sleep_ms"`
	TimeoutMS     int               `json:"timeout_ms"`
	OnlyExit      bool              `json:"only_exit"`
	IgnoreStderr  bool              `json:"ignore_stderr"`
	SortLines     bool              `json:"sort_lines"`
	Masks         [][2]string       `json:"masks"`
	StartSecond   string            `json:"start_second"`
	Started       bool              `json:"started"`
	StopSecond    bool              `json:"stop_second"`
	Stopped       bool              `json:"stopped"`
	ListDir       string            `json:"list_dir"`
	Nonempty      bool              `json:"nonempty"`
	Fresh         bool              `json:"fresh"`
	Destructive   bool              `json:"destructive"`
	NeedsSpawn    bool              `json:"needs_spawn"`
	Quirk         bool              `json:"quirk"`
	DebianDiffers bool              `json:"debian_differs"`
}

// Load reads a recording and groups its steps by case, in order. A field that it does not know is an error: it would
// be a part of the recording that is not replayed.
func Load(file string) ([][]Step, error) {
	b, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	var cases [][]Step
	lines := bufio.NewScanner(bytes.NewReader(b))
	lines.Buffer(nil, 16<<20)
	for n := 1; lines.Scan(); n++ {
		if len(bytes.TrimSpace(lines.Bytes())) == 0 {
			continue
		}
		var s Step
		d := json.NewDecoder(bytes.NewReader(lines.Bytes()))
		d.DisallowUnknownFields()
		if err := d.Decode(&s); err != nil {
			return nil, fmt.Errorf("%s:%d: %w", file, n, err)
		}
		if s.Case == "" || !s.does() {
			return nil, fmt.Errorf("%s:%d: a step needs a case and something to do", file, n)
		}
		if len(cases) == 0 || cases[len(cases)-1][0].Case != s.Case {
			cases = append(cases, nil)
		}
		cases[len(cases)-1] = append(cases[len(cases)-1], s)
	}
	return cases, lines.Err()
}

func (s *Step) does() bool {
	return s.Argv != nil || s.Await != "" || s.StartSecond != "" || s.StopSecond || s.ListDir != ""
}

// Run replays every case of a recording as a subtest. Cases share one server, except those that need their own, which
// run beside the others: most of the time is spent waiting.
func Run(t *testing.T, file string, o Options) {
	t.Helper()
	if why := o.Skip[filepath.Base(file)]; why != "" {
		t.Skip(why)
	}
	cases, err := Load(file)
	if err != nil {
		t.Fatal(err)
	}
	var beside sync.WaitGroup
	defer beside.Wait()
	var shared Stage
	for _, steps := range cases {
		if steps[0].Fresh || steps[0].NeedsSpawn {
			beside.Go(func() {
				t.Run(steps[0].Case, func(t *testing.T) {
					o.skip(t, &steps[0])
					runCase(t, o.Stage(t, secondName(steps)), steps, &o)
				})
			})
			continue
		}
		if shared == nil {
			shared = o.Stage(t, "")
		}
		t.Run(steps[0].Case, func(t *testing.T) {
			o.skip(t, &steps[0])
			runCase(t, shared, steps, &o)
		})
	}
}

// skip leaves a case out, if there is a reason.
func (o *Options) skip(t *testing.T, first *Step) {
	t.Helper()
	switch {
	case o.Skip[first.Case] != "":
		t.Skip(o.Skip[first.Case])
	case o.Debian && first.DebianDiffers:
		t.Skip("Debian's flag library loses the -- of exec-watch when no other flag is given")
	}
}

// secondName is the name of the second server of a case; "" if it has none.
func secondName(steps []Step) string {
	for _, s := range steps {
		if s.StartSecond != "" {
			return s.StartSecond
		}
	}
	return ""
}

func runCase(t *testing.T, stage Stage, steps []Step, o *Options) {
	recorded := steps[0].Base
	base, names, err := etcdreplay.Prepare(stage.URL(), recorded)
	if err != nil {
		t.Fatal(err)
	}
	r := &run{t: t, stage: stage, o: o, names: names, dir: t.TempDir(), running: make(map[string]*process)}
	defer r.close()
	for i := range steps {
		s := &steps[i]
		argv := shift(s.Argv, recorded, base)
		got, err := r.step(s, argv)
		if err != nil {
			t.Errorf("step %d %q: %v", s.Step, s.Argv, err)
			continue
		}
		if got == nil || o.Skip[fmt.Sprintf("%s/%d", s.Case, s.Step)] != "" {
			continue
		}
		if d := etcdreplay.Diff(s.comparable(s.recorded(), recorded, nil), s.comparable(got, base, r.placeholders())); d != "" {
			t.Errorf("step %d %q: %s", s.Step, s.Argv, d)
		}
	}
}
