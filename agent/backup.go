package agent

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/go-uuid"

	"github.com/musterhq/muster/archive"
	"github.com/musterhq/muster/catalog"
	"github.com/musterhq/muster/consensus"
	"github.com/musterhq/muster/internal/version"
	"github.com/musterhq/muster/kv"
)

// raftDir is where the replicated data lies in a data directory.
func raftDir(dataDir string) string { return filepath.Join(dataDir, "raft") }

// BackupInfo describes the state in a backup.
type BackupInfo struct {
	ClusterID   string // of the cluster it was taken of; the backup itself belongs to none
	RaftIndex   uint64 // log entry; 0 when it came over the network
	Index       uint64 // of the tree: X-Etcd-Index and X-Consul-Index
	Hash        uint64 // of the tree, equal on all servers at that index
	Keys        int    // user keys
	Running     bool   // the server was running
	Uncommitted uint64 // entries at the end of a stopped server's log that may not have been committed
	NodeID      string // of the server that will run on the backup
}

// Backup makes backupDir, which must not exist or be empty, a data directory from which a new cluster can be started
// with -force-new-cluster: all data of the server whose data directory is dataDir, without its members, under a new
// node id. The server may be running: the state is then one that its cluster really had, with everything in it that
// the server had applied when Backup was called. What goes on is told on log.
//
// Errors: consensus.ErrDataDir (no data, damaged), or what the file system says. After an error backupDir is as before.
func Backup(ctx context.Context, dataDir, backupDir string, log io.Writer) (BackupInfo, error) {
	if _, err := os.Stat(raftDir(dataDir)); errors.Is(err, os.ErrNotExist) {
		return BackupInfo{}, fmt.Errorf("%s is not the data directory of a server: there is no %s", dataDir, raftDir(dataDir))
	}
	logger := newLogger(&Config{LogLevel: "warn"}, log)
	return writeBackup(backupDir, logger, func(staging string, tree *kv.Tree) (consensus.State, error) {
		return consensus.Backup(ctx, raftDir(dataDir), staging, tree, logger)
	})
}

// BackupArchive is Backup of what GET /v1/snapshot of a running agent gives. at is when that agent said so by its own
// clock: from then on the times to live stand still.
func BackupArchive(r io.Reader, at time.Time, backupDir string, log io.Writer) (BackupInfo, error) {
	return writeBackup(backupDir, newLogger(&Config{LogLevel: "warn"}, log), func(staging string, tree *kv.Tree) (consensus.State, error) {
		f, err := os.CreateTemp(staging, ".archive-*")
		if err != nil {
			return consensus.State{}, err
		}
		defer os.Remove(f.Name())
		defer f.Close()
		m, err := archive.Read(r, f)
		if err == nil {
			_, err = f.Seek(0, io.SeekStart)
		}
		if err == nil {
			err = tree.Restore(f)
		}
		if err != nil {
			return consensus.State{}, err
		}
		s := tree.Snap()
		return consensus.State{ClusterID: m.Cluster, RaftIndex: max(m.Index, 1), RaftTerm: max(m.Term, 1), Index: s.Index(), Hash: s.Hash(), Alive: at, Running: true}, nil
	})
}

// writeBackup makes the directory beside its final place, which it takes only when it is whole and on disk.
func writeBackup(dir string, log hclog.Logger, read func(staging string, tree *kv.Tree) (consensus.State, error)) (info BackupInfo, err error) {
	dir = filepath.Clean(dir)
	if list, err := os.ReadDir(dir); err == nil && len(list) > 0 {
		return info, fmt.Errorf("the backup directory %s is not empty", dir)
	} else if err != nil && !errors.Is(err, os.ErrNotExist) {
		return info, fmt.Errorf("backup directory: %w", err)
	}
	if err := os.MkdirAll(filepath.Dir(dir), 0o700); err != nil {
		return info, fmt.Errorf("backup directory: %w", err)
	}
	staging, err := os.MkdirTemp(filepath.Dir(dir), "."+filepath.Base(dir)+".unfinished-*")
	if err != nil {
		return info, fmt.Errorf("backup directory: %w", err)
	}
	defer os.RemoveAll(staging)
	tree := newTree(&Config{})
	defer tree.Close()
	st, err := read(staging, tree)
	if err != nil {
		return info, err
	}
	info = BackupInfo{ClusterID: st.ClusterID, RaftIndex: st.RaftIndex, Index: st.Index, Hash: st.Hash, Running: st.Running, Uncommitted: st.Uncommitted}
	tree.Snap().Walk("k", func(path string, _ *kv.Entry) bool {
		if path != "k" {
			info.Keys++
		}
		return true
	})
	if info.NodeID, err = uuid.GenerateUUID(); err != nil {
		return info, err
	}
	if err := consensus.Strip(tree, forgetMembers); err != nil {
		return info, err
	}
	if err := consensus.WriteBackup(raftDir(staging), info.NodeID, st, tree.Snap(), log); err != nil {
		return info, err
	}
	if err := writeFile(filepath.Join(staging, nodeIDFile), []byte(info.NodeID+"\n")); err != nil {
		return info, err
	}
	if err := os.Rename(staging, dir); err != nil {
		return info, fmt.Errorf("backup directory: %w", err)
	}
	return info, syncPath(filepath.Dir(dir))
}

// syncPath makes a rename in a directory last.
func syncPath(dir string) error {
	f, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(f.Sync(), f.Close())
}

// newTree makes the replicated tree as a server has it.
func newTree(cfg *Config) *kv.Tree {
	return kv.New(kv.Options{
		Deriver: catalog.Views{}, Version: version.Version, HistoryEvents: cfg.WatchHistoryEvents, HistoryBytes: cfg.WatchHistoryBytes,
	})
}

// forgetMembers removes what the tree knows of servers that have no part in a new cluster.
func forgetMembers(*kv.Snap) ([]kv.Op, error) {
	var ops []kv.Op
	for _, path := range []string{membersPath, removedPath} {
		ops = append(ops, kv.Op{Kind: kv.OpDeleteTree, Action: kv.ActDelete, Path: path})
	}
	return ops, nil
}
