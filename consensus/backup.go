package consensus

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/raft"
	"github.com/hashicorp/raft-wal/metadb"

	"github.com/musterhq/muster/kv"
)

// State is a state of the replicated tree that was read from disk.
type State struct {
	ClusterID   string
	RaftIndex   uint64    // of the last log entry in it
	RaftTerm    uint64    // of that entry
	Index       uint64    // of the tree
	Hash        uint64    // of the tree, see kv.Snap.Hash
	Alive       time.Time // the cluster's clock when it was last heard of; zero when unknown
	Uncommitted uint64    // entries at the end that may not have been committed; 0 when the server was running
	Running     bool      // the directory was in use by a server
}

// Backup reads the state in the directory dir of a server (Config.Dir), running or not, into tree, which must be new.
// The directory is not changed.
//
// Of a running server it is the state at an index that was committed after Backup was called, so everything that this
// server had applied by then is in it: files that never change or only grow are copied between two looks at the
// small database that lists them, into a directory below scratch that is removed at the end, and the log is read up
// to an index that the server has noted as committed. Of a stopped server it is all of its log.
//
// Errors: ErrDataDir when there is no data or it is damaged.
func Backup(ctx context.Context, dir, scratch string, tree *kv.Tree, log hclog.Logger) (State, error) {
	id, err := readIdentity(dir)
	if err != nil {
		return State{}, err
	}
	d, err := openDir(dir, id.NodeID)
	if err == nil {
		defer d.close()
		st, _, err := load(d, tree, allEntries, log)
		return st, err
	}
	if !errors.Is(err, ErrInUse) {
		return State{}, err
	}
	st, err := backupRunning(ctx, dir, scratch, id, tree, log)
	st.Running = true
	return st, err
}

// readIdentity tells whose directory it is, without touching it.
func readIdentity(dir string) (id identity, err error) {
	b, err := os.ReadFile(filepath.Join(dir, identityFile))
	if errors.Is(err, os.ErrNotExist) {
		return id, fmt.Errorf("%w: %s holds no data of a server", ErrDataDir, dir)
	}
	if err != nil {
		return id, fmt.Errorf("consensus: data directory: %w", err)
	}
	if err := json.Unmarshal(b, &id); err != nil {
		return id, fmt.Errorf("%w: %s is damaged: %w", ErrDataDir, filepath.Join(dir, identityFile), err)
	}
	return id, nil
}

const (
	copyAttempts = 50
	copyPause    = 20 * time.Millisecond
	stampWait    = 3 * stampEach
)

// backupRunning is Backup of a directory in use.
func backupRunning(ctx context.Context, dir, scratch string, id identity, tree *kv.Tree, log hclog.Logger) (State, error) {
	if err := awaitStamp(ctx, filepath.Join(dir, aliveFile)); err != nil {
		log.Warn("the server has noted nothing as committed for a while, so it may know no leader: the backup ends where it was then", "directory", dir)
	}
	tmp, err := os.MkdirTemp(scratch, ".backup-*")
	if err != nil {
		return State{}, fmt.Errorf("consensus: copy of %s: %w", dir, err)
	}
	defer os.RemoveAll(tmp)
	for attempt := 1; ; attempt++ {
		st, err := copyAndLoad(dir, tmp, id, tree, log)
		if !errors.Is(err, errMoved) || attempt == copyAttempts {
			return st, err
		}
		log.Debug("the log moved on while it was copied, again", "attempt", attempt, "reason", err)
		select {
		case <-ctx.Done():
			return State{}, ctx.Err()
		case <-time.After(copyPause):
		}
	}
}

// awaitStamp waits for the server to write its stamp, which it does once a second while it knows a leader.
func awaitStamp(ctx context.Context, file string) error {
	ctx, cancel := context.WithTimeout(ctx, stampWait)
	defer cancel()
	before, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for {
		now, err := os.ReadFile(file)
		if err != nil || !bytes.Equal(now, before) {
			return err
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-tick.C:
		}
	}
}

// errMoved: files were replaced while they were copied.
var errMoved = errors.New("consensus: the log moved on")

// copyAndLoad copies the directory of a running server and reads the copy up to what was committed before.
func copyAndLoad(dir, tmp string, id identity, tree *kv.Tree, log hclog.Logger) (State, error) {
	if err := errors.Join(os.RemoveAll(tmp), os.MkdirAll(filepath.Join(tmp, logDirName), 0o700)); err != nil {
		return State{}, err
	}
	// The stamp first: what it calls committed is in the files copied after it.
	if err := copyFile(filepath.Join(dir, aliveFile), filepath.Join(tmp, aliveFile)); err != nil {
		return State{}, err
	}
	if err := copyFile(filepath.Join(dir, identityFile), filepath.Join(tmp, identityFile)); err != nil {
		return State{}, err
	}
	err := copySnapshots(dir, tmp)
	if err == nil {
		err = copyLog(filepath.Join(dir, logDirName), filepath.Join(tmp, logDirName))
	}
	if errors.Is(err, os.ErrNotExist) {
		return State{}, fmt.Errorf("%w: %w", errMoved, err)
	}
	if err != nil {
		return State{}, err
	}
	d, err := openDir(tmp, id.NodeID)
	if err != nil {
		return State{}, err
	}
	defer d.close()
	st, _, err := load(d, tree, d.lastCommitted(), log)
	return st, err
}

// copySnapshots copies the finished snapshots.
func copySnapshots(dir, tmp string) error {
	const snapshots, unfinished = "snapshots", ".tmp"
	list, err := os.ReadDir(filepath.Join(dir, snapshots))
	if err != nil {
		return err
	}
	for _, e := range list {
		if !e.IsDir() || strings.HasSuffix(e.Name(), unfinished) {
			continue
		}
		if err := os.CopyFS(filepath.Join(tmp, snapshots, e.Name()), os.DirFS(filepath.Join(dir, snapshots, e.Name()))); err != nil {
			return err
		}
	}
	return nil
}

// copyLog copies the files of the log. Its database lists them, and is a copy-on-write tree under two pages that say
// which root is valid: as long as these stay the same, nothing that is reachable from them has changed, and no file
// of the log was added, sealed or removed. The newest file grows meanwhile; what is half written at its end is found
// by its checksum, as after a crash.
func copyLog(dir, tmp string) error {
	db := filepath.Join(dir, metadb.FileName)
	before, err := rootPages(db)
	if err != nil {
		return err
	}
	if err := copyFile(db, filepath.Join(tmp, metadb.FileName)); err != nil {
		return err
	}
	segments, err := filepath.Glob(filepath.Join(dir, "*.wal"))
	if err != nil {
		return err
	}
	for _, s := range segments {
		if err := copyFile(s, filepath.Join(tmp, filepath.Base(s))); err != nil {
			return err
		}
	}
	after, err := rootPages(db)
	if err != nil {
		return err
	}
	if !bytes.Equal(before, after) {
		return errMoved
	}
	return nil
}

// rootPages reads the first two pages of a database of the log.
func rootPages(file string) ([]byte, error) {
	f, err := os.Open(file)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	b := make([]byte, 2*os.Getpagesize())
	_, err = io.ReadFull(f, b)
	return b, err
}

func copyFile(from, to string) error {
	src, err := os.Open(from)
	if err != nil {
		return err
	}
	defer src.Close()
	dst, err := os.OpenFile(to, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	_, err = io.Copy(dst, src)
	return errors.Join(err, dst.Close())
}

// allEntries as the end of load means all there are.
const allEntries = ^uint64(0)

// load reads the state of an opened directory up to the log entry end (inclusive), and its newest configuration.
func load(d *dataDir, tree *kv.Tree, end uint64, log hclog.Logger) (State, raft.Configuration, error) {
	st := State{ClusterID: d.id.ClusterID}
	if t := d.lastStamp(); t != 0 {
		st.Alive = time.Unix(0, t)
	}
	s, err := openStores(d.dir, log)
	if err != nil {
		return st, raft.Configuration{}, err
	}
	defer s.close()
	machine := &fsm{tree: tree, log: log, clock: new(clusterClock), deadlineChanged: func() {}}
	conf, err := s.replay(d, machine, end, &st)
	if err != nil {
		return st, conf, err
	}
	snap := tree.Snap()
	st.Index, st.Hash = snap.Index(), snap.Hash()
	if e, ok := snap.Get(clusterPath); ok {
		st.ClusterID = e.Value()
	}
	return st, conf, nil
}

// replay brings machine to the log entry end, or to the last there is.
func (s *stores) replay(d *dataDir, machine *fsm, end uint64, st *State) (conf raft.Configuration, err error) {
	committed := d.lastCommitted()
	if err := s.checkIntact(d.dir, min(committed, end)); err != nil {
		return conf, err
	}
	meta, err := s.restoreNewest(d.dir, machine, end)
	if err != nil {
		return conf, err
	}
	conf, st.RaftIndex, st.RaftTerm = meta.Configuration, meta.Index, meta.Term
	first, err := s.logs.FirstIndex()
	if err != nil {
		return conf, fmt.Errorf("consensus: log in %s: %w", d.dir, err)
	}
	last, err := s.logs.LastIndex()
	if err != nil {
		return conf, fmt.Errorf("consensus: log in %s: %w", d.dir, err)
	}
	last = min(last, end)
	if first > meta.Index+1 && last > meta.Index {
		return conf, fmt.Errorf("%w: the log in %s begins at entry %d, its snapshot ends at %d", errMoved, d.dir, first, meta.Index)
	}
	batch := make([]*raft.Log, 0, maxBatch)
	for i := meta.Index + 1; i <= last; i++ {
		l := new(raft.Log)
		if err := s.logs.GetLog(i, l); err != nil {
			return conf, fmt.Errorf("%w: log in %s is damaged at entry %d: %w", ErrDataDir, d.dir, i, err)
		}
		if l.Type == raft.LogConfiguration {
			conf = raft.DecodeConfiguration(l.Data)
		}
		if batch = append(batch, l); len(batch) == cap(batch) || i == last {
			machine.ApplyBatch(batch)
			batch = batch[:0]
		}
		st.RaftIndex, st.RaftTerm = l.Index, l.Term
	}
	if end == allEntries && committed > 0 && st.RaftIndex > committed {
		st.Uncommitted = st.RaftIndex - committed
	}
	if st.RaftIndex == 0 {
		return conf, fmt.Errorf("%w: %s holds no data yet: this server was never part of a cluster", ErrDataDir, d.dir)
	}
	return conf, nil
}

// restoreNewest loads the newest snapshot that is whole and not beyond end. Without any it gives the zero meta.
func (s *stores) restoreNewest(dir string, machine *fsm, end uint64) (raft.SnapshotMeta, error) {
	list, err := s.snaps.List()
	if err != nil {
		return raft.SnapshotMeta{}, fmt.Errorf("consensus: snapshots in %s: %w", dir, err)
	}
	var errs []error
	for _, m := range list {
		if m.Index > end {
			continue
		}
		_, r, err := s.snaps.Open(m.ID)
		if err == nil {
			err = errors.Join(machine.Restore(r), r.Close())
		}
		if err == nil {
			return *m, nil
		}
		errs = append(errs, fmt.Errorf("snapshot %s: %w", m.ID, err))
	}
	if len(errs) > 0 {
		return raft.SnapshotMeta{}, fmt.Errorf("%w: no snapshot in %s is usable: %w", ErrDataDir, dir, errors.Join(errs...))
	}
	return raft.SnapshotMeta{}, nil
}

// WriteBackup makes of a state the directory dir of a new server with the id nodeID, without members: Recover makes a
// cluster of it, and until then Open refuses it. The cluster id of snap must be gone already. dir must not exist or
// be empty.
func WriteBackup(dir, nodeID string, st State, snap *kv.Snap, log hclog.Logger) error {
	d, err := openDir(dir, nodeID)
	if err != nil {
		return err
	}
	defer d.close()
	s, err := openStores(dir, log)
	if err != nil {
		return err
	}
	defer s.close()
	if err := s.stable.SetUint64(currentTermKey, st.RaftTerm); err != nil {
		return fmt.Errorf("consensus: write backup: %w", err)
	}
	if err := s.writeSnapshot(snap, st, raft.Configuration{}); err != nil {
		return err
	}
	if st.Alive.IsZero() {
		return nil
	}
	return errors.Join(d.stamp(st.Alive.UnixNano(), st.RaftIndex), d.alive.Sync())
}

// checkMembers refuses a directory that WriteBackup made and Recover has not seen.
func (s *stores) checkMembers() error {
	list, err := s.snaps.List()
	if err != nil {
		return fmt.Errorf("consensus: snapshots: %w", err)
	}
	if len(list) > 0 && len(list[0].Configuration.Servers) == 0 {
		return ErrBackup
	}
	return nil
}

// currentTermKey is where raft keeps its term in the stable store.
var currentTermKey = []byte("CurrentTerm")

// writeSnapshot adds a snapshot of a tree to the store.
func (s *stores) writeSnapshot(snap *kv.Snap, st State, conf raft.Configuration) error {
	sink, err := s.snaps.Create(raft.SnapshotVersionMax, st.RaftIndex, st.RaftTerm, conf, st.RaftIndex, peerNames{})
	if err != nil {
		return fmt.Errorf("consensus: write snapshot: %w", err)
	}
	return (&fsmSnapshot{snap: snap, persisted: func(int64) {}}).Persist(sink)
}

// peerNames is the one thing a store of snapshots asks of a transport.
type peerNames struct{ raft.Transport }

// EncodePeer gives the form in which old versions of raft kept the members beside the configuration.
func (peerNames) EncodePeer(_ raft.ServerID, addr raft.ServerAddress) []byte { return []byte(addr) }
