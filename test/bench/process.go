package main

import (
	"bytes"
	"context"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// process is one running peer.
type process struct {
	cmd  *exec.Cmd
	addr string // host:port for clients
	log  *bytes.Buffer
}

func start(addr string, argv ...string) (*process, error) {
	p := &process{cmd: exec.Command(argv[0], argv[1:]...), addr: addr, log: &bytes.Buffer{}}
	p.cmd.Stdout, p.cmd.Stderr = p.log, p.log
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	return p, p.cmd.Start()
}

func (p *process) stop() {
	_ = p.cmd.Process.Kill()
	_ = p.cmd.Wait()
}

// firstWrite waits until a write is acknowledged.
func (p *process) firstWrite(limit time.Duration) error {
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	defer cancel()
	for ctx.Err() == nil {
		req, err := http.NewRequestWithContext(ctx, http.MethodPut, "http://"+p.addr+"/v2/keys/first", strings.NewReader("value=x"))
		if err != nil {
			return err
		}
		req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
		resp, err := http.DefaultClient.Do(req)
		if err == nil {
			resp.Body.Close()
			if resp.StatusCode/100 == 2 {
				return nil
			}
		}
		t := time.NewTimer(2 * time.Millisecond)
		<-t.C
	}
	return fmt.Errorf("no write within %v:\n%s", limit, p.log)
}

// resident is the resident memory in MiB.
func (p *process) resident() float64 {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", p.cmd.Process.Pid))
	if err != nil {
		return 0
	}
	for _, line := range strings.Split(string(b), "\n") {
		if rest, ok := strings.CutPrefix(line, "VmRSS:"); ok {
			kb, _ := strconv.ParseFloat(strings.Fields(rest)[0], 64)
			return kb / 1024
		}
	}
	return 0
}

// peerKind starts one or three members of a system, each on a loopback address.
type peerKind struct {
	name  string
	start func(dir string, n int) ([]*process, error)
}

func muster(binary string) peerKind {
	return peerKind{"muster", func(dir string, n int) ([]*process, error) {
		var out []*process
		for i := range n {
			ip := fmt.Sprintf("127.51.0.%d", i+1)
			argv := []string{binary, "agent", "-server", fmt.Sprintf("-bootstrap-expect=%d", n), fmt.Sprintf("-node=s%d", i+1), "-bind=" + ip, "-client=" + ip,
				"-data-dir=" + filepath.Join(dir, strconv.Itoa(i)), "-retry-interval=250ms", "-log-level=warn"}
			for j := range n {
				argv = append(argv, fmt.Sprintf("-retry-join=127.51.0.%d", j+1))
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

func etcd(binary string) peerKind {
	return peerKind{"etcd", func(dir string, n int) ([]*process, error) {
		var cluster []string
		for i := range n {
			cluster = append(cluster, fmt.Sprintf("e%d=http://127.52.0.%d:2380", i+1, i+1))
		}
		var out []*process
		for i := range n {
			peer, client := fmt.Sprintf("http://127.52.0.%d:2380", i+1), fmt.Sprintf("http://127.52.0.%d:2379", i+1)
			p, err := start(fmt.Sprintf("127.52.0.%d:2379", i+1), binary, "--enable-v2=true", fmt.Sprintf("--name=e%d", i+1), "--data-dir="+filepath.Join(dir, "e"+strconv.Itoa(i)),
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
