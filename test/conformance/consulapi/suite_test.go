// Package consulapi runs the test suite of Consul's official Go client against Muster: the suite looks for a program
// named consul on the PATH, starts agents with it and talks to them. It is a module of its own, because it pins a
// version of the client that the product does not depend on.
//
//	cd test/conformance/consulapi && go test -count=1 .
//
// The client's tests read once what comes a moment later, and wait for fixed times. So one that fails beside others is run
// again, alone, when the rest is through, and the harness says so; when more than a few need it, that is a failure.
//
// The list of what must pass, and of what is left out and why, is tests.txt; a test that is in neither part of the
// list fails, so that a new version of the client is looked at whole.
package consulapi

import (
	"bytes"
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	_ "github.com/hashicorp/consul/api" // the version under test
)

const (
	client    = "github.com/hashicorp/consul/api"
	oneTest   = 2 * time.Minute // limit of a single test of the client
	mostAgain = 4               // tests that may need a second run, alone
)

// list reads tests.txt: a name per line; "name: reason" is left out.
func list(t *testing.T) map[string]string {
	t.Helper()
	text, err := os.ReadFile("tests.txt")
	if err != nil {
		t.Fatal(err)
	}
	out := map[string]string{}
	for n, line := range strings.Split(string(text), "\n") {
		line, _, _ = strings.Cut(line, "#")
		if line = strings.TrimSpace(line); line == "" {
			continue
		}
		name, reason, excluded := strings.Cut(line, ":")
		if reason = strings.TrimSpace(reason); excluded && reason == "" {
			t.Errorf("tests.txt:%d: %s is left out without a reason", n+1, name)
		}
		if _, twice := out[name]; twice {
			t.Errorf("tests.txt:%d: %s is there twice", n+1, name)
		}
		out[name] = reason
	}
	return out
}

// run runs a command and returns what it wrote.
func run(ctx context.Context, dir string, env []string, argv ...string) (string, error) {
	cmd := exec.CommandContext(ctx, argv[0], argv[1:]...)
	cmd.Dir, cmd.Env = dir, append(os.Environ(), env...)
	cmd.WaitDelay = 10 * time.Second
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	err := cmd.Run()
	return out.String(), err
}

func must(t *testing.T, dir string, argv ...string) string {
	t.Helper()
	out, err := run(t.Context(), dir, []string{"CGO_ENABLED=0"}, argv...)
	if err != nil {
		t.Fatalf("%s: %v\n%s", strings.Join(argv, " "), err, out)
	}
	return strings.TrimSpace(out)
}

func TestOfficialClient(t *testing.T) {
	if testing.Short() {
		t.Skip("starts about 200 agents")
	}
	bin := t.TempDir()
	must(t, filepath.Join("..", "..", ".."), "go", "build", "-o", filepath.Join(bin, "consul"), "./cmd/muster")
	suite := filepath.Join(bin, "api.test")
	must(t, ".", "go", "test", "-c", "-o", suite, client)
	home := must(t, ".", "go", "list", "-f", "{{.Dir}}", client) // tests read files beside them

	listed := list(t)
	known := map[string]bool{}
	var names []string
	for name := range strings.FieldsSeq(must(t, home, suite, "-test.list", ".")) {
		if !strings.HasPrefix(name, "Test") {
			continue
		}
		known[name] = true
		reason, ok := listed[name]
		switch {
		case !ok:
			t.Errorf("%s is not in tests.txt", name)
		case reason == "":
			names = append(names, name)
		}
	}
	for name := range listed {
		if !known[name] {
			t.Errorf("%s is in tests.txt and no test of the client", name)
		}
	}

	var mu sync.Mutex
	var again []string
	t.Run("beside others", func(t *testing.T) {
		for _, name := range names {
			t.Run(name, func(t *testing.T) {
				t.Parallel()
				if out, err := one(t, bin, home, suite, name); err != nil {
					t.Logf("FAILED, to be run again alone: %v\n%s", err, out)
					mu.Lock()
					defer mu.Unlock()
					again = append(again, name)
				}
			})
		}
	})
	if len(again) > mostAgain {
		t.Fatalf("%d tests failed, which is no accident: %s; -v shows what they said", len(again), strings.Join(again, ", "))
	}
	for _, name := range again {
		t.Run("alone/"+name, func(t *testing.T) {
			if out, err := one(t, bin, home, suite, name); err != nil {
				t.Fatalf("failed twice: %v\n%s", err, out)
			}
			t.Logf("%s failed beside others and passed alone", name)
		})
	}
}

// one runs one test in a process of its own, since a panic in one must not hide the others, and gives what it wrote.
func one(t *testing.T, bin, home, suite, name string) (string, error) {
	ctx, cancel := context.WithTimeout(t.Context(), oneTest)
	defer cancel()
	// The client's tests make sockets there, whose paths may have some hundred bytes: t.TempDir has the long names of tests in it.
	tmp, err := os.MkdirTemp("", "c")
	if err != nil {
		return "", err
	}
	defer os.RemoveAll(tmp)
	env := []string{"PATH=" + bin + string(os.PathListSeparator) + os.Getenv("PATH"), "TMPDIR=" + tmp}
	out, err := run(ctx, home, env, suite, "-test.run", "^"+name+"$", "-test.v", "-test.count=1")
	switch {
	case err != nil:
		return out, err
	case strings.Contains(out, "--- SKIP: "+name+" "):
		return out, errors.New("it skips itself: leave it out with the reason")
	case !strings.Contains(out, "--- PASS: "+name+" "):
		return out, errors.New("it did not run")
	}
	return out, nil
}
