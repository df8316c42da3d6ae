package child

import (
	"bufio"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// gone waits until no process has the id.
func gone(t *testing.T, pid int) {
	t.Helper()
	deadline := time.Now().Add(time.Minute)
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for syscall.Kill(pid, 0) == nil {
		// A killed orphan stays until its new parent collects it.
		if b, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(pid), "stat")); err == nil && strings.Contains(string(b), ") Z ") {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("process %d still runs", pid)
		}
		<-tick.C
	}
}

// start runs a shell command that prints one line when it is ready, and gives that line.
func start(t *testing.T, text string) (*Process, string) {
	t.Helper()
	r, w := io.Pipe()
	p, err := Start(Spec{Args: []string{text}, Shell: true, Env: []string{"SHELL_TEST=1"}, Out: w, Err: os.Stderr})
	if err != nil {
		t.Fatal(err)
	}
	line, err := bufio.NewReader(r).ReadString('\n')
	if err != nil {
		t.Fatal(err)
	}
	go func() { _, _ = io.Copy(io.Discard, r) }()
	return p, strings.TrimSpace(line)
}

func TestStopReachesGrandchildren(t *testing.T) {
	p, line := start(t, "sleep 600 & echo $!; wait")
	pid, err := strconv.Atoi(line)
	if err != nil {
		t.Fatal(err)
	}
	if err := p.Stop(10 * time.Second); err == nil {
		t.Error("a command that was ended is no error")
	}
	gone(t, pid)
}

func TestStopInsists(t *testing.T) {
	p, _ := start(t, "trap '' TERM; echo ready; while true; do sleep 1; done")
	if err := p.Stop(50 * time.Millisecond); err == nil {
		t.Error("a command that was killed is no error")
	}
}

func TestGrandchildrenDoNotHoldTheResult(t *testing.T) {
	p, line := start(t, "sleep 600 & echo $!; exit 0")
	pid, err := strconv.Atoi(line)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = syscall.Kill(pid, syscall.SIGKILL) }()
	select {
	case err := <-p.Done():
		if err != nil {
			t.Error(err)
		}
	case <-time.After(time.Minute):
		t.Error("no result while a grandchild keeps the output open")
	}
}

func TestNothingToRun(t *testing.T) {
	if _, err := Start(Spec{}); err == nil {
		t.Error("nothing was started without an error")
	}
}
