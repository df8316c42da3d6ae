//go:build e2e

package e2e

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

var binary string

func TestMain(m *testing.M) { os.Exit(build(m)) }

func build(m *testing.M) int {
	dir, err := os.MkdirTemp("", "muster-e2e")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer os.RemoveAll(dir)
	binary = filepath.Join(dir, "muster")
	args := []string{"build", "-o", binary}
	if os.Getenv("MUSTER_E2E_RACE") != "" {
		args = append(args, "-race")
	}
	cmd := exec.Command("go", append(args, "../../cmd/muster")...)
	cmd.Stderr = os.Stderr
	if err := cmd.Run(); err != nil {
		fmt.Fprintln(os.Stderr, "building the binary:", err)
		return 1
	}
	return m.Run()
}

// hosts hands out loopback addresses, one a machine; tests may run in parallel.
var hosts struct {
	sync.Mutex
	n int
}

func newHost() string {
	hosts.Lock()
	defer hosts.Unlock()
	hosts.n++
	return fmt.Sprintf("127.%d.%d.%d", 60+os.Getpid()%60, hosts.n/250, 1+hosts.n%250)
}

// host is one machine: an address, a data directory and the arguments of its agent.
type host struct {
	t    *testing.T
	name string
	ip   string
	dir  string
	args []string
	cmd  *exec.Cmd
	log  *logBuffer
	done chan struct{}
	err  error
}

// logBuffer collects the output of a process while tests read it.
type logBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *logBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *logBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

func newAgentHost(t *testing.T, name string, args ...string) *host {
	t.Helper()
	h := &host{t: t, name: name, ip: newHost(), dir: t.TempDir(), args: args}
	t.Cleanup(func() {
		h.kill()
		if t.Failed() && h.log != nil {
			t.Logf("--- log of %s (%s)\n%s", h.name, h.ip, tail(h.log.String(), 60))
		}
	})
	return h
}

func tail(s string, n int) string {
	lines := strings.Split(strings.TrimRight(s, "\n"), "\n")
	if len(lines) > n {
		lines = lines[len(lines)-n:]
	}
	return strings.Join(lines, "\n")
}

// start runs the agent and returns at once.
func (h *host) start(extra ...string) {
	h.t.Helper()
	args := append([]string{"agent", "-node", h.name, "-bind", h.ip, "-client", h.ip, "-data-dir", h.dir}, h.args...)
	h.run(append(args, extra...)...)
}

// run starts the binary with exactly these arguments.
func (h *host) run(args ...string) {
	h.t.Helper()
	h.runProgram(binary, args...)
}

func (h *host) runProgram(name string, args ...string) {
	h.t.Helper()
	h.cmd = exec.Command(name, args...)
	if h.log == nil {
		h.log = &logBuffer{}
	}
	h.cmd.Stdout, h.cmd.Stderr = h.log, h.log
	if err := h.cmd.Start(); err != nil {
		h.t.Fatal(err)
	}
	h.done = make(chan struct{})
	go func(cmd *exec.Cmd, done chan struct{}) {
		h.err = cmd.Wait()
		close(done)
	}(h.cmd, h.done)
}

func (h *host) signal(s syscall.Signal) {
	if h.cmd != nil && h.cmd.Process != nil {
		_ = h.cmd.Process.Signal(s)
	}
}

// kill is kill -9.
func (h *host) kill() {
	if h.done == nil {
		return
	}
	h.signal(syscall.SIGKILL)
	<-h.done
}

// wait waits for the process to end and returns its exit code.
func (h *host) wait(limit time.Duration) int {
	h.t.Helper()
	select {
	case <-h.done:
		return h.cmd.ProcessState.ExitCode()
	case <-time.After(limit):
		h.t.Fatalf("%s still runs after %v\n%s", h.name, limit, tail(h.log.String(), 40))
		return -1
	}
}

func (h *host) url(path string) string { return "http://" + h.ip + ":8500" + path }

// do makes one request and returns status and body; a connection error is status 0.
func (h *host) do(method, path, body string) (int, string) {
	ctx, cancel := context.WithTimeout(context.Background(), 15*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, method, h.url(path), strings.NewReader(body))
	if err != nil {
		return 0, err.Error()
	}
	if method != http.MethodGet && strings.HasPrefix(path, "/v2/") {
		req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return 0, err.Error()
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		return 0, err.Error()
	}
	return resp.StatusCode, string(b)
}

// must makes a request that has to succeed.
func (h *host) must(method, path, body string) string {
	h.t.Helper()
	status, answer := h.do(method, path, body)
	if status/100 != 2 {
		h.t.Fatalf("%s: %s %s: status %d: %s", h.name, method, path, status, answer)
	}
	return answer
}

// get decodes a JSON answer and reports whether there was one.
func (h *host) get(path string, v any) bool {
	status, body := h.do(http.MethodGet, path, "")
	return status == http.StatusOK && json.Unmarshal([]byte(body), v) == nil
}

// eventually polls until ok says so; the interval is short because figures hang on it.
func eventually(t *testing.T, limit time.Duration, what string, ok func() bool) {
	t.Helper()
	deadline := time.Now().Add(limit)
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for !ok() {
		if time.Now().After(deadline) {
			t.Fatalf("not within %v: %s", limit, what)
		}
		<-tick.C
	}
}

// tool finds a program; in CI its absence is a failure.
func tool(t *testing.T, name string) string {
	t.Helper()
	path, err := exec.LookPath(name)
	if err != nil {
		if os.Getenv("CI") != "" {
			t.Fatalf("%s is not installed", name)
		}
		t.Skipf("%s is not installed", name)
	}
	return path
}

// sh runs a command and returns its standard output, standard error and exit code.
func sh(t *testing.T, env []string, stdin string, argv ...string) (string, string, int) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	cmd := exec.CommandContext(ctx, argv[0], argv[1:]...)
	cmd.Env = append(os.Environ(), env...)
	cmd.Stdin = strings.NewReader(stdin)
	var out, errb bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errb
	err := cmd.Run()
	if err != nil && cmd.ProcessState == nil {
		t.Fatalf("%v: %v", argv, err)
	}
	return out.String(), errb.String(), cmd.ProcessState.ExitCode()
}

// cluster is N servers and M proxies, started and led.
type cluster struct {
	t       *testing.T
	servers []*host
	proxies []*host
}

func (c *cluster) all() []*host { return append(append([]*host{}, c.servers...), c.proxies...) }

func newCluster(t *testing.T, servers, proxies int, args ...string) *cluster {
	t.Helper()
	c := &cluster{t: t}
	for i := range servers {
		c.servers = append(c.servers, newAgentHost(t, fmt.Sprintf("s%d", i+1), args...))
	}
	for i := range proxies {
		c.proxies = append(c.proxies, newAgentHost(t, fmt.Sprintf("p%d", i+1), args...))
	}
	join := make([]string, 0, servers)
	for _, s := range c.servers {
		join = append(join, "-retry-join="+s.ip)
	}
	for _, s := range c.servers {
		s.args = append(s.args, append(join, "-server", fmt.Sprintf("-bootstrap-expect=%d", servers), "-retry-interval=1s")...)
		s.start()
	}
	for _, p := range c.proxies {
		p.args = append(p.args, append(join, "-retry-interval=1s")...)
		p.start()
	}
	c.ready(c.all()...)
	return c
}

// ready waits until each of the hosts can read what the leader wrote and knows its own node.
func (c *cluster) ready(hs ...*host) {
	c.t.Helper()
	for _, h := range hs {
		eventually(c.t, 30*time.Second, h.name+" answers and is in the catalog", func() bool {
			var node struct{ Node *struct{ Node string } }
			return h.get("/v1/catalog/node/"+h.name, &node) && node.Node != nil
		})
	}
}

// leader finds the server that leads, by asking the one given.
func (c *cluster) leader() *host {
	c.t.Helper()
	var found *host
	eventually(c.t, 30*time.Second, "the cluster has a leader", func() bool {
		for _, s := range c.servers {
			var addr string
			if s.get("/v1/status/leader", &addr) && addr != "" {
				for _, h := range c.servers {
					if strings.HasPrefix(addr, h.ip+":") {
						found = h
						return true
					}
				}
			}
		}
		return false
	})
	return found
}
