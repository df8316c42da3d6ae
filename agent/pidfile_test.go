package agent_test

import (
	"context"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/musterhq/muster/agent"
	"github.com/musterhq/muster/internal/testcluster"
)

// The pid file is written, replaced and removed; a device or a socket in its place is not.
func TestPidFile(t *testing.T) {
	h, dir := testcluster.Start(t, 0, 0).PlanServer(t, "alone"), t.TempDir()
	start := func(file string) (*agent.Agent, error) {
		cfg, _, err := agent.Load([]string{"-dev", "-bind=" + h.IP, "-client=" + h.IP, "-pid-file=" + file}, nil, io.Discard)
		if err != nil {
			t.Fatal(err)
		}
		return agent.Start(context.Background(), cfg, agent.Options{})
	}
	file := filepath.Join(dir, "pid")
	a, err := start(file)
	if err != nil {
		t.Fatal(err)
	}
	if b, err := os.ReadFile(file); err != nil || len(strings.TrimSpace(string(b))) == 0 {
		t.Errorf("%q, %v", b, err)
	}
	a.Stop()
	if _, err := os.Stat(file); !os.IsNotExist(err) {
		t.Errorf("left behind: %v", err)
	}
	l, err := net.Listen("unix", file)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if a, err := start(file); err == nil || !strings.Contains(err.Error(), "pid_file: "+file+" is no regular file") {
		t.Errorf("over a socket: %v", err)
		if a != nil {
			a.Stop()
		}
	}
	if info, err := os.Stat(file); err != nil || info.Mode()&os.ModeSocket == 0 {
		t.Errorf("replaced: %v, %v", info, err)
	}
}
