package agent

import (
	"os"
	"syscall"
)

// syncData makes what was written durable; the times of the file may stay behind.
func syncData(f *os.File) error {
	for {
		if err := syscall.Fdatasync(int(f.Fd())); err != syscall.EINTR {
			return err
		}
	}
}

// lockFile takes f for this process until it is closed; it does not wait.
func lockFile(f *os.File) error { return syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB) }
