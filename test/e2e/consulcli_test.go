//go:build e2e

package e2e

import (
	"archive/tar"
	"bufio"
	"compress/gzip"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// consulLink is the binary under the name consul.
func consulLink(t *testing.T) string {
	t.Helper()
	link := filepath.Join(t.TempDir(), "consul")
	if err := os.Symlink(binary, link); err != nil {
		t.Fatal(err)
	}
	return link
}

// command is a running command line.
type command struct {
	*exec.Cmd
	out, errs logBuffer
	done      chan struct{}
}

func startCommand(t *testing.T, env []string, name string, args ...string) *command {
	t.Helper()
	c := &command{Cmd: exec.Command(name, args...), done: make(chan struct{})}
	c.Env = append(os.Environ(), env...)
	c.Stdout, c.Stderr = &c.out, &c.errs
	c.WaitDelay = time.Second // a child of a killed command may hold its output open
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	go func() { defer close(c.done); _ = c.Wait() }()
	t.Cleanup(func() { _ = c.Process.Kill(); <-c.done })
	return c
}

// end sends a signal and gives the exit code.
func (c *command) end(t *testing.T, s syscall.Signal, limit time.Duration) int {
	t.Helper()
	if err := c.Process.Signal(s); err != nil {
		t.Fatal(err)
	}
	select {
	case <-c.done:
	case <-time.After(limit):
		t.Fatalf("%v still runs after the signal; out %q, errors %q", c.Args, c.out.String(), c.errs.String())
	}
	return c.ProcessState.ExitCode()
}

func there(path string) func() bool {
	return func() bool { _, err := os.Stat(path); return err == nil }
}

// TestConsulCommandLine runs the long-lived verbs as processes, and ends them as operators do.
func TestConsulCommandLine(t *testing.T) {
	consul := consulLink(t)
	h := newAgentHost(t, "n1")
	h.runProgram(consul, "agent", "-dev", "-node", "n1", "-bind", h.ip, "-client", h.ip)
	env := []string{"CONSUL_HTTP_ADDR=" + h.ip + ":8500"}
	// A session needs the node's liveness check.
	eventually(t, 30*time.Second, "the agent leads and knows itself", func() bool {
		_, body := h.do("GET", "/v1/health/node/n1", "")
		return strings.Contains(body, "serfHealth")
	})
	dir := t.TempDir()

	t.Run("lock", func(t *testing.T) {
		running, told := filepath.Join(dir, "running"), filepath.Join(dir, "told")
		child := "trap 'touch " + told + "; exit 0' TERM INT; touch " + running + "; while :; do sleep 0.05; done"
		c := startCommand(t, env, consul, "lock", "-verbose", "lk", child)
		eventually(t, 30*time.Second, "the child runs", there(running))
		if code := c.end(t, syscall.SIGINT, 10*time.Second); code != 0 || !strings.Contains(c.out.String(), "Shutdown triggered, killing child\nCleanup succeeded\n") {
			t.Errorf("interrupted lock: %d, %q, %q", code, c.out.String(), c.errs.String())
		}
		if !there(told)() {
			t.Error("the child was not told")
		}
		if status, _ := h.do("GET", "/v1/kv/lk/.lock", ""); status != 404 {
			t.Errorf("the key of the lock is still there: %d", status)
		}
		// A holder that waits can be interrupted too.
		holder := startCommand(t, env, consul, "lock", "busy", "sleep 600")
		eventually(t, 30*time.Second, "the lock is held", func() bool { _, body := h.do("GET", "/v1/kv/busy/.lock", ""); return strings.Contains(body, "Session") })
		waiter := startCommand(t, env, consul, "lock", "-verbose", "busy", "true")
		eventually(t, 30*time.Second, "the second one waits", func() bool { return strings.Contains(waiter.out.String(), "Attempting") })
		if code := waiter.end(t, syscall.SIGTERM, 10*time.Second); code != 1 {
			t.Errorf("interrupted while waiting: %d, %q", code, waiter.errs.String())
		}
		if code := holder.end(t, syscall.SIGTERM, 10*time.Second); code != 0 {
			t.Errorf("interrupted holder: %d, %q", code, holder.errs.String())
		}
	})
	t.Run("watch", func(t *testing.T) {
		seen := filepath.Join(dir, "seen")
		c := startCommand(t, env, consul, "watch", "-type=key", "-key=w", "cat >>"+seen)
		has := func(text string) func() bool {
			return func() bool { b, err := os.ReadFile(seen); return err == nil && strings.Contains(string(b), text) }
		}
		eventually(t, 30*time.Second, "the first state", has("null\n"))
		h.must("PUT", "/v1/kv/w", "x")
		eventually(t, 30*time.Second, "the change", has(`"Value":"eA=="`))
		if code := c.end(t, syscall.SIGINT, 10*time.Second); code != 0 {
			t.Errorf("interrupted watch: %d, %q", code, c.errs.String())
		}
	})
	t.Run("monitor", func(t *testing.T) {
		c := startCommand(t, env, consul, "monitor", "-log-level=debug")
		eventually(t, 30*time.Second, "log lines", func() bool {
			_, _ = h.do("PUT", "/v1/agent/reload", "") // writes a line
			return strings.Contains(c.out.String(), "[INFO]")
		})
		if code := c.end(t, syscall.SIGINT, 10*time.Second); code != 0 {
			t.Errorf("interrupted monitor: %d, %q", code, c.errs.String())
		}
		if _, errs, code := sh(t, env, "", consul, "monitor", "-log-level=nope"); code != 1 || !strings.Contains(errs, "Unknown log level: nope") {
			t.Errorf("bad level: %d, %q", code, errs)
		}
	})
	t.Run("snapshot", func(t *testing.T) {
		file := filepath.Join(dir, "s.snap")
		h.must("PUT", "/v1/kv/snap", "before")
		if out, errs, code := sh(t, env, "", consul, "snapshot", "save", file); code != 0 || !strings.HasPrefix(out, "Saved and verified snapshot to index ") {
			t.Fatalf("save: %d, %q, %q", code, out, errs)
		}
		h.must("PUT", "/v1/kv/snap", "after")
		if out, _, code := sh(t, nil, "", consul, "snapshot", "inspect", file); code != 0 || !strings.Contains(out, " KVS ") {
			t.Errorf("inspect: %d, %q", code, out)
		}
		if out, errs, code := sh(t, env, "", consul, "snapshot", "restore", file); code != 0 || out != "Restored snapshot\n" {
			t.Errorf("restore: %d, %q, %q", code, out, errs)
		}
		if body := h.must("GET", "/v1/kv/snap?raw", ""); body != "before" {
			t.Errorf("after the restore the key is %q", body)
		}
	})
	t.Run("debug", func(t *testing.T) {
		out := filepath.Join(dir, "bundle")
		c := startCommand(t, env, consul, "debug", "-duration=60s", "-interval=5s", "-output="+out)
		eventually(t, 30*time.Second, "the first sample", func() bool { return strings.Contains(c.out.String(), "Capture interval 1 done") })
		if code := c.end(t, syscall.SIGINT, 20*time.Second); code != 0 {
			t.Fatalf("interrupted debug: %d, %q, %q", code, c.out.String(), c.errs.String())
		}
		names := bundle(t, out+".tar.gz")
		for _, want := range []string{"bundle/agent.json", "bundle/members.json", "bundle/host.json", "bundle/consul.log", "bundle/index.json"} {
			if !names[want] {
				t.Errorf("the bundle lacks %s: %v", want, names)
			}
		}
		samples := 0
		for name := range names {
			if strings.HasSuffix(name, "/metrics.json") || strings.HasSuffix(name, "/heap.prof") || strings.HasSuffix(name, "/goroutine.prof") {
				samples++
			}
		}
		if samples < 3 {
			t.Errorf("the bundle lacks samples: %v", names)
		}
		left, err := filepath.Glob(filepath.Join(dir, ".debug-*"))
		if err != nil || len(left) > 0 {
			t.Errorf("files left: %q, %v", left, err)
		}
	})
	t.Run("the agent goes away", func(t *testing.T) {
		c := startCommand(t, env, consul, "monitor")
		eventually(t, 30*time.Second, "monitor is connected", func() bool {
			_, _ = h.do("PUT", "/v1/agent/reload", "")
			return c.out.String() != ""
		})
		h.kill()
		select {
		case <-c.done:
		case <-time.After(20 * time.Second):
			t.Fatal("monitor still runs")
		}
		if code := c.ProcessState.ExitCode(); code != 1 || !strings.Contains(c.errs.String(), "stopped or crashed") {
			t.Errorf("monitor: %d, %q", code, c.errs.String())
		}
	})
}

// bundle lists the files of an archive.
func bundle(t *testing.T, path string) map[string]bool {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	z, err := gzip.NewReader(bufio.NewReader(f))
	if err != nil {
		t.Fatal(err)
	}
	names := map[string]bool{}
	for r := tar.NewReader(z); ; {
		head, err := r.Next()
		if errors.Is(err, io.EOF) {
			return names
		}
		if err != nil {
			t.Fatal(err)
		}
		names[head.Name] = true
	}
}
