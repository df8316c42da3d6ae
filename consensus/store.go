package consensus

import (
	"errors"
	"fmt"
	"path/filepath"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/raft"
	wal "github.com/hashicorp/raft-wal"
	"github.com/hashicorp/raft-wal/metadb"
)

// segmentBytes is the size of one preallocated file of the log.
const segmentBytes = 16 << 20

// stores is what raft keeps on disk.
type stores struct {
	logs   raft.LogStore
	stable raft.StableStore
	snaps  raft.SnapshotStore
	close  func() error
}

// openStores opens what is kept below dir, or stores in memory when dir is empty. dir and dir/log exist.
func openStores(dir string, log hclog.Logger) (*stores, error) {
	if dir == "" {
		mem := raft.NewInmemStore()
		return &stores{logs: mem, stable: mem, snaps: raft.NewInmemSnapshotStore(), close: func() error { return nil }}, nil
	}
	snaps, err := raft.NewFileSnapshotStoreWithLogger(dir, snapshotsKept, log.Named("snapshot"))
	if err != nil {
		return nil, fmt.Errorf("consensus: snapshots in %s: %w", dir, err)
	}
	logDir := filepath.Join(dir, logDirName)
	meta := &metadb.BoltMetaDB{}
	w, err := wal.Open(logDir, wal.WithSegmentSize(segmentBytes), wal.WithLogger(log.Named("log")), wal.WithMetaStore(meta))
	if err != nil {
		_ = meta.Close()
		return nil, fmt.Errorf("consensus: log in %s: %w", logDir, err)
	}
	// The log leaves its own database open and locked.
	closeAll := func() error { return errors.Join(w.Close(), meta.Close()) }
	cached, err := raft.NewLogCache(logCacheEntries, w)
	if err != nil {
		return nil, errors.Join(err, closeAll())
	}
	return &stores{logs: cached, stable: w, snaps: snaps, close: closeAll}, nil
}
