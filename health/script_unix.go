//go:build unix

package health

import (
	"os/exec"
	"syscall"
)

// ownGroup puts the program into a process group of its own, which is killed as a whole: what a script has started
// must not outlive its timeout.
func ownGroup(cmd *exec.Cmd) {
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
}
