//go:build !linux && !darwin && !freebsd

package agent

// diskSpace is unknown on this system.
func diskSpace(string) (free, total uint64) { return 0, 0 }
