//go:build unix

package child

import (
	"os/exec"
	"syscall"
)

// ownGroup makes the command the head of a process group.
func ownGroup(cmd *exec.Cmd) { cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} }

// signalGroup sends s to everybody in the group of a command that is its head. It fails only when nobody is left.
func signalGroup(cmd *exec.Cmd, s syscall.Signal) { _ = syscall.Kill(-cmd.Process.Pid, s) }
