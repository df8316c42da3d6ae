//go:build !linux

package peer

import "syscall"

// boundSilence is for Linux only; elsewhere the kernel's own patience holds.
func boundSilence(_, _ string, _ syscall.RawConn) error { return nil }
