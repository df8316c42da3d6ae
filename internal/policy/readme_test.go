package policy

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"
)

// commands returns the shell commands of the first indented or fenced block of the README.
func commands(t *testing.T) []string {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(root(t), "README.md"))
	if err != nil {
		t.Fatal(err)
	}
	block := regexp.MustCompile("(?s)```(?:sh|console)?\n(.*?)```").FindSubmatch(b)
	if block == nil {
		t.Fatal("README.md has no fenced block with the commands to try")
	}
	var out []string
	for _, line := range strings.Split(string(block[1]), "\n") {
		line, _, _ = strings.Cut(line, "#")
		if line = strings.TrimSpace(line); line != "" {
			out = append(out, line)
		}
	}
	return out
}

func TestReadmeShowsTheTwoCommands(t *testing.T) {
	got := commands(t)
	want := []string{"go run ./cmd/muster agent -dev", "go test ./..."}
	if len(got) < 2 || got[0] != want[0] || got[1] != want[1] {
		t.Fatalf("the README's first commands are %q, want %q", got, want)
	}
}

// TestReadmeFirstCommandRuns runs the first command as written, with the ports moved by environment so that
// it can run beside another agent, and waits for the first answered write.
func TestReadmeFirstCommandRuns(t *testing.T) {
	args := strings.Fields(commands(t)[0])
	ports := freePorts(t, 6)
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, args[0], args[1:]...)
	cmd.Dir = root(t)
	cmd.Env = append(os.Environ(),
		fmt.Sprintf("MUSTER_HTTP_PORT=%d", ports[0]), fmt.Sprintf("MUSTER_ETCD_PORT=%d", ports[1]), fmt.Sprintf("MUSTER_DNS_PORT=%d", ports[2]),
		fmt.Sprintf("MUSTER_SERVER_PORT=%d", ports[3]), fmt.Sprintf("MUSTER_SERF_LAN_PORT=%d", ports[4]), fmt.Sprintf("MUSTER_SERF_WAN_PORT=%d", ports[5]))
	out := &strings.Builder{}
	cmd.Stdout, cmd.Stderr = out, out
	// The agent is a child of the go command; as in a terminal, an interrupt goes to both of them.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGINT) }
	cmd.WaitDelay = 10 * time.Second
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() { done <- cmd.Wait() }()
	if err := firstWrite(ctx, fmt.Sprintf("http://127.0.0.1:%d/v1/kv/readme", ports[0]), done); err != nil {
		cancel()
		t.Fatalf("%s: %v", commands(t)[0], err)
	}
	cancel()
	<-done
	if err := syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL); !errors.Is(err, syscall.ESRCH) {
		t.Errorf("after an interrupt something of it still ran: %v", err)
	}
	for _, want := range []string{fmt.Sprint(ports[0]), fmt.Sprint(ports[1]), fmt.Sprint(ports[2])} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("the start-up banner does not name port %s:\n%s", want, out)
		}
	}
}

func firstWrite(ctx context.Context, url string, done <-chan error) error {
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for {
		req, err := http.NewRequestWithContext(ctx, http.MethodPut, url, strings.NewReader("v"))
		if err != nil {
			return err
		}
		if resp, err := http.DefaultClient.Do(req); err == nil {
			resp.Body.Close()
			if resp.StatusCode == http.StatusOK {
				return nil
			}
		}
		select {
		case err := <-done:
			return fmt.Errorf("it ended: %w", err)
		case <-ctx.Done():
			return ctx.Err()
		case <-tick.C:
		}
	}
}

func freePorts(t *testing.T, n int) []int {
	t.Helper()
	var ports []int
	for range n {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		ports = append(ports, l.Addr().(*net.TCPAddr).Port)
	}
	return ports
}
