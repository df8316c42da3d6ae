//go:build unix

package consensus

import (
	"os"
	"syscall"
)

// lock takes f for this process until it is closed; it does not wait.
func lock(f *os.File) error { return syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB) }
