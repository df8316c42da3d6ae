//go:build !unix

package agent

// fileLimit is 0: this system has no such limit.
func fileLimit() uint64 { return 0 }
