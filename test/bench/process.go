//go:build linux

package main

import (
	"bytes"
	"context"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// process is one running server.
type process struct {
	cmd  *exec.Cmd
	argv []string
	addr string // host:port of the hierarchical dialect
	log  *bytes.Buffer
}

func start(addr string, argv ...string) (*process, error) {
	// Somebody else's server on this address would be measured in place of ours.
	if conn, err := net.DialTimeout("tcp", addr, time.Second); err == nil {
		_ = conn.Close()
		return nil, fmt.Errorf("something listens on %s already", addr)
	}
	p := &process{argv: argv, addr: addr}
	return p, p.again()
}

// again starts the process with the same arguments, after stop.
func (p *process) again() error {
	p.log = &bytes.Buffer{}
	p.cmd = exec.Command(p.argv[0], p.argv[1:]...)
	p.cmd.Stdout, p.cmd.Stderr = p.log, p.log
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	return p.cmd.Start()
}

// stop kills the process as a failure would.
func (p *process) stop() {
	_ = p.cmd.Process.Kill()
	_ = p.cmd.Wait()
}

// flat is the address of the flat dialect's port on the same server.
func (p *process) flat() string {
	ip, _, _ := strings.Cut(p.addr, ":")
	return ip + ":8500"
}

// firstWrite waits until a write is acknowledged.
func (p *process) firstWrite(limit time.Duration) error {
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	defer cancel()
	for ctx.Err() == nil {
		if p.write(ctx) == nil {
			return nil
		}
		pause(2 * time.Millisecond)
	}
	return fmt.Errorf("no write within %v:\n%s", limit, p.log)
}

// write tries one write.
func (p *process) write(ctx context.Context) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodPut, "http://"+p.addr+"/v2/keys/first", strings.NewReader("value="+strings.Repeat("v", 100)))
	if err != nil {
		return err
	}
	req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode/100 != 2 {
		return fmt.Errorf("status %d", resp.StatusCode)
	}
	return nil
}

// tick is the unit of CPU time in /proc: USER_HZ is 100 on every Linux that Go runs on.
const tick = 10 * time.Millisecond

// cpu is the CPU time used so far, in user and in system mode.
func (p *process) cpu() time.Duration {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", p.cmd.Process.Pid))
	if err != nil {
		return 0
	}
	f := strings.Fields(string(b[bytes.LastIndexByte(b, ')')+1:])) // the name before may hold spaces
	user, _ := strconv.ParseInt(f[11], 10, 64)
	system, _ := strconv.ParseInt(f[12], 10, 64)
	return time.Duration(user+system) * tick
}

// resident is the resident memory in MiB.
func (p *process) resident() (sample, error) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", p.cmd.Process.Pid))
	if err != nil {
		return sample{}, err
	}
	for _, line := range strings.Split(string(b), "\n") {
		if rest, ok := strings.CutPrefix(line, "VmRSS:"); ok {
			kb, err := strconv.ParseFloat(strings.Fields(rest)[0], 64)
			return sample{value: kb / 1024}, err
		}
	}
	return sample{}, fmt.Errorf("no VmRSS in the status of process %d", p.cmd.Process.Pid)
}

// peerKind starts members of a system, each on a loopback address.
type peerKind struct {
	name  string
	start func(dir string, n int) ([]*process, error)
}

// muster runs an executable of Muster on addresses net.1 and following, with default settings.
func muster(name, binary, net string) peerKind {
	return peerKind{name, func(dir string, n int) ([]*process, error) {
		var out []*process
		for i := range n {
			ip := fmt.Sprintf("%s.%d", net, i+1)
			argv := []string{binary, "agent", "-server", fmt.Sprintf("-bootstrap-expect=%d", n), fmt.Sprintf("-node=s%d", i+1), "-bind=" + ip, "-client=" + ip,
				"-data-dir=" + filepath.Join(dir, strconv.Itoa(i)), "-retry-interval=250ms", "-log-level=warn"}
			if os.Getenv("BENCH_DEBUG") != "" {
				argv = append(argv, "-hcl=enable_debug = true")
			}
			for j := range n {
				argv = append(argv, fmt.Sprintf("-retry-join=%s.%d", net, j+1))
			}
			p, err := start(ip+":2379", argv...)
			if err != nil {
				return out, err
			}
			out = append(out, p)
		}
		return out, nil
	}}
}

func etcd(binary, net string) peerKind {
	return peerKind{"etcd", func(dir string, n int) ([]*process, error) {
		var cluster []string
		for i := range n {
			cluster = append(cluster, fmt.Sprintf("e%d=http://%s.%d:2380", i+1, net, i+1))
		}
		var out []*process
		for i := range n {
			ip := fmt.Sprintf("%s.%d", net, i+1)
			peer, client := "http://"+ip+":2380", "http://"+ip+":2379"
			p, err := start(ip+":2379", binary, "--enable-v2=true", fmt.Sprintf("--name=e%d", i+1), "--data-dir="+filepath.Join(dir, "e"+strconv.Itoa(i)),
				"--listen-peer-urls="+peer, "--initial-advertise-peer-urls="+peer, "--listen-client-urls="+client, "--advertise-client-urls="+client,
				"--initial-cluster="+strings.Join(cluster, ","), "--log-level=error")
			if err != nil {
				return out, err
			}
			out = append(out, p)
		}
		return out, nil
	}}
}
