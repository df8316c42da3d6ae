// Package child runs commands on behalf of somebody else, in process groups of their own, so that what a shell
// started ends with it. A lock ends its command when the lock is lost, a watch when it is interrupted:
//
//	p, err := child.Start(child.Spec{Args: []string{"make", "deploy"}, Shell: true, Out: os.Stdout, Err: os.Stderr})
//	...
//	select {
//	case err = <-p.Done():
//	case <-lost:
//		err = p.Stop(5 * time.Second)
//	}
package child

import (
	"errors"
	"io"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"time"
)

// Spec says what to run.
type Spec struct {
	Args  []string  // program and arguments
	Shell bool      // join Args by spaces and let $SHELL (or /bin/sh) run the text
	Env   []string  // added to our own environment, as NAME=value
	In    io.Reader // nil: empty
	Out   io.Writer // nil: dropped
	Err   io.Writer // nil: dropped
}

// outputDelay is how long grandchildren may keep the output open after the command itself ended.
const outputDelay = time.Second

// Process is a running command. Its methods may be called from any goroutine.
type Process struct {
	cmd   *exec.Cmd
	group bool // the command is the head of a group
	done  chan error
}

// Start starts the command. Errors are those of os/exec.
func Start(s Spec) (*Process, error) {
	if len(s.Args) == 0 {
		return nil, errors.New("no command to run")
	}
	var cmd *exec.Cmd
	if s.Shell {
		shell := os.Getenv("SHELL")
		if shell == "" {
			shell = "/bin/sh"
		}
		cmd = exec.Command(shell, "-c", strings.Join(s.Args, " "))
	} else {
		cmd = exec.Command(s.Args[0], s.Args[1:]...)
	}
	cmd.Env = append(os.Environ(), s.Env...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = s.In, s.Out, s.Err
	// A process that reads our terminal has to stay in our group, or the kernel stops it at the first read.
	group := s.In != io.Reader(os.Stdin)
	if group {
		ownGroup(cmd)
	}
	cmd.WaitDelay = outputDelay
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	p := &Process{cmd, group, make(chan error, 1)}
	go func() {
		err := cmd.Wait()
		if errors.Is(err, exec.ErrWaitDelay) {
			err = nil
		}
		p.done <- err
	}()
	return p, nil
}

// Done receives the result of the command, once: nil for exit code 0.
func (p *Process) Done() <-chan error { return p.done }

// Signal sends s to the command and to what it started.
func (p *Process) Signal(s syscall.Signal) {
	if p.group {
		signalGroup(p.cmd, s)
		return
	}
	_ = p.cmd.Process.Signal(s)
}

// Stop asks the command to end (SIGTERM), ends it after grace (SIGKILL), and gives its result.
func (p *Process) Stop(grace time.Duration) error {
	p.Signal(syscall.SIGTERM)
	t := time.NewTimer(grace)
	defer t.Stop()
	select {
	case err := <-p.done:
		return err
	case <-t.C:
	}
	p.Signal(syscall.SIGKILL)
	return <-p.done
}
