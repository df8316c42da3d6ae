//go:build linux || darwin || freebsd

package agent

import "syscall"

// diskSpace gives the bytes free for us, and all bytes, of the file system that holds dir; 0, 0 if that cannot be told.
func diskSpace(dir string) (free, total uint64) {
	var st syscall.Statfs_t
	if err := syscall.Statfs(dir, &st); err != nil {
		return 0, 0
	}
	return uint64(st.Bavail) * uint64(st.Bsize), uint64(st.Blocks) * uint64(st.Bsize) //nolint:unconvert // other types on other systems
}
