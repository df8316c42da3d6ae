//go:build !unix

package consensus

import "os"

// lock relies on the log's own lock where the system has no flock.
func lock(*os.File) error { return nil }
