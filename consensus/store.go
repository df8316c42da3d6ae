package consensus

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"

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
	if segs, _ := filepath.Glob(filepath.Join(logDir, "*.wal")); len(segs) > 0 {
		if _, err := os.Stat(filepath.Join(logDir, metadb.FileName)); errors.Is(err, os.ErrNotExist) { // it would say that a file exists
			return nil, fmt.Errorf("%w: log in %s has no %s; %s", ErrDataDir, logDir, metadb.FileName, damageHelp)
		}
	}
	meta := &metadb.BoltMetaDB{}
	var w *wal.WAL
	err = guardFault("log in "+logDir, func() (err error) {
		w, err = wal.Open(logDir, wal.WithSegmentSize(segmentBytes), wal.WithLogger(log.Named("log")), wal.WithMetaStore(meta))
		return err
	})
	if errors.Is(err, ErrDataDir) {
		return nil, err // a database that faulted holds its lock and cannot be closed
	}
	if err != nil {
		_ = meta.Close()
		return nil, fmt.Errorf("consensus: log in %s: %w", logDir, err)
	}
	// The log leaves its own database open and locked.
	closeAll := func() error { return errors.Join(w.Close(), meta.Close()) }
	return &stores{logs: newLogCache(w), stable: w, snaps: snaps, close: closeAll}, nil
}

// logCache keeps the newest entries in memory, where replication and apply look for them at once. raft has one too,
// which knows no bound in bytes and hides the error of the store behind another.
type logCache struct {
	*wal.WAL
	mu   sync.RWMutex
	ring [logCacheEntries]*raft.Log
}

func newLogCache(w *wal.WAL) *logCache { return &logCache{WAL: w} }

func (c *logCache) GetLog(index uint64, l *raft.Log) error {
	c.mu.RLock()
	e := c.ring[index%logCacheEntries]
	c.mu.RUnlock()
	if e != nil && e.Index == index {
		*l = *e
		return nil
	}
	if err := c.WAL.GetLog(index, l); err != nil {
		return err
	}
	if l.Index != index || (len(l.Extensions) > 0 && !sealed(l)) {
		return fmt.Errorf("%w: entry %d does not match its checksum", wal.ErrCorrupt, index)
	}
	return nil
}

func (c *logCache) StoreLog(l *raft.Log) error { return c.StoreLogs([]*raft.Log{l}) }

func (c *logCache) StoreLogs(ls []*raft.Log) error {
	for _, l := range ls {
		seal(l)
	}
	if err := c.WAL.StoreLogs(ls); err != nil {
		return err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, l := range ls {
		at := l.Index % logCacheEntries
		if c.ring[at] = l; len(l.Data) > logCacheLargest {
			c.ring[at] = nil
		}
	}
	return nil
}

func (c *logCache) DeleteRange(lo, hi uint64) error {
	c.mu.Lock()
	clear(c.ring[:])
	c.mu.Unlock()
	return c.WAL.DeleteRange(lo, hi)
}
