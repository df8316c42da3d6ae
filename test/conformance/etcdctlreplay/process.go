package etcdctlreplay

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"
)

// run is the state of one case.
type run struct {
	t       *testing.T
	stage   Stage
	o       *Options
	names   map[string]string // placeholder -> what the live servers have there
	dir     string
	running map[string]*process
}

// output is what a command did.
type output struct {
	stdout, stderr string
	exit           int
}

// timedOut stands for the exit code of a command that had to be killed.
const timedOut = -1000

// process is a running command.
type process struct {
	cmd         *exec.Cmd
	out, errout bytes.Buffer
	done        chan struct{}
}

func (p *process) wait(limit time.Duration) *output {
	timer := time.NewTimer(limit)
	defer timer.Stop()
	code := timedOut
	select {
	case <-p.done:
		code = p.cmd.ProcessState.ExitCode()
	case <-timer.C:
		p.kill()
	}
	return &output{p.out.String(), p.errout.String(), code}
}

func (p *process) kill() {
	_ = p.cmd.Process.Kill()
	<-p.done
}

func (r *run) close() {
	for _, p := range r.running {
		p.kill()
	}
}

func milliseconds(n, byDefault int) time.Duration {
	if n == 0 {
		n = byDefault
	}
	return time.Duration(n) * time.Millisecond
}

// step does what a step says. The output is nil when there is none to compare.
func (r *run) step(s *Step, argv []string) (*output, error) {
	if s.SleepMS > 0 {
		<-time.After(milliseconds(s.SleepMS, 0)) // part of the recording: a time to live runs out
	}
	switch {
	case s.Await != "":
		return r.await(s)
	case s.StartSecond != "":
		r.stage.StartSecond(r.t)
		return nil, nil
	case s.StopSecond:
		r.stage.StopSecond(r.t)
		return nil, nil
	case s.ListDir != "":
		if n, err := files(r.fill(s.ListDir)); err != nil || (n > 0) != s.Nonempty {
			return nil, fmt.Errorf("%s holds %d files, %w", s.ListDir, n, err)
		}
		return nil, nil
	}
	before := r.watchers()
	p, err := r.start(s, argv)
	if err != nil {
		return nil, err
	}
	if s.Background != "" {
		r.running[s.Background] = p
		return nil, r.settle(p, before)
	}
	return p.wait(milliseconds(s.TimeoutMS, 15000)), nil
}

func (r *run) await(s *Step) (*output, error) {
	p := r.running[s.Await]
	if p == nil {
		return nil, fmt.Errorf("nothing runs under the name %s", s.Await)
	}
	delete(r.running, s.Await)
	if s.Signal != "" {
		if s.Signal != "SIGINT" {
			return nil, fmt.Errorf("signal %s is not known", s.Signal)
		}
		<-time.After(milliseconds(s.SignalAfterMS, 300)) // part of the recording: the command shows what has come
		if err := p.cmd.Process.Signal(syscall.SIGINT); err != nil {
			return nil, err
		}
	}
	return p.wait(milliseconds(s.TimeoutMS, 5000)), nil
}

func (r *run) start(s *Step, argv []string) (*process, error) {
	filled := slices.Clone(r.o.Before)
	for _, a := range argv {
		filled = append(filled, r.fill(a))
	}
	p := &process{cmd: exec.Command(r.o.Command, filled...), done: make(chan struct{})}
	p.cmd.Dir, p.cmd.Stdin, p.cmd.Stdout, p.cmd.Stderr = r.dir, strings.NewReader(s.Stdin), &p.out, &p.errout
	p.cmd.Env = slices.DeleteFunc(os.Environ(), func(v string) bool { return strings.HasPrefix(v, "ETCD") })
	p.cmd.Env = append(p.cmd.Env, "ETCDCTL_API=2")
	if !s.NoEndpointEnv {
		p.cmd.Env = append(p.cmd.Env, "ETCDCTL_ENDPOINTS="+r.stage.URL())
	}
	if r.o.Env != "" {
		p.cmd.Env = append(p.cmd.Env, r.o.Env+"="+r.stage.URL())
	}
	for k, v := range s.Env {
		p.cmd.Env = append(p.cmd.Env, k+"="+r.fill(v))
	}
	if err := p.cmd.Start(); err != nil {
		return nil, err
	}
	go func() {
		_ = p.cmd.Wait() // the exit code is in ProcessState
		close(p.done)
	}()
	return p, nil
}

// watchers is how many watches the first server has open.
func (r *run) watchers() int {
	var stats struct {
		Watchers int `json:"watchers"`
	}
	resp, err := http.Get(r.stage.URL() + "/v2/stats/store")
	if err != nil {
		return 0
	}
	defer resp.Body.Close()
	_ = json.NewDecoder(resp.Body).Decode(&stats)
	return stats.Watchers
}

// settle waits until a command in the background has its watch.
func (r *run) settle(p *process, before int) error {
	deadline := time.After(10 * time.Second)
	for r.watchers() <= before {
		select {
		case <-p.done:
			return nil // its output tells why
		case <-deadline:
			return errors.New("the server never saw the watch of the command")
		case <-time.After(10 * time.Millisecond):
		}
	}
	return nil
}

// files counts the files below dir.
func files(dir string) (n int, err error) {
	err = filepath.WalkDir(dir, func(_ string, e fs.DirEntry, err error) error {
		if err == nil && !e.IsDir() {
			n++
		}
		return err
	})
	return n, err
}

// fill puts what the live servers have in the place of the placeholders.
func (r *run) fill(s string) string {
	for name, v := range r.known() {
		s = strings.ReplaceAll(s, name, v)
	}
	return s
}

// known are the placeholders and their values. The id of the second server is known once it is announced.
func (r *run) known() map[string]string {
	peer, client := r.stage.Second()
	r.names["{{TMP}}"], r.names["{{DATA}}"] = r.dir, r.stage.DataDir()
	r.names["{{SECOND_PEER}}"], r.names["{{SECOND_ENDPOINT}}"] = peer, client
	if peer != "" && r.names["{{SECOND_ID}}"] == "" {
		var list struct {
			Members []struct {
				ID       string   `json:"id"`
				PeerURLs []string `json:"peerURLs"`
			} `json:"members"`
		}
		if resp, err := http.Get(r.stage.URL() + "/v2/members"); err == nil {
			defer resp.Body.Close()
			_ = json.NewDecoder(resp.Body).Decode(&list)
		}
		for _, m := range list.Members {
			if slices.Contains(m.PeerURLs, peer) {
				r.names["{{SECOND_ID}}"] = m.ID
			}
		}
	}
	return r.names
}

// placeholders replaces what differs between servers by the placeholders, long values first. Short ones are left
// alone: they would match by accident.
func (r *run) placeholders() *strings.Replacer {
	known := r.known()
	names := make([]string, 0, len(known))
	for name, v := range known {
		if len(v) > 3 && name != "{{DATA}}" {
			names = append(names, name)
		}
	}
	slices.SortFunc(names, func(a, b string) int { return len(known[b]) - len(known[a]) })
	var pairs []string
	for _, name := range names {
		pairs = append(pairs, known[name], name)
	}
	return strings.NewReplacer(pairs...)
}
