package consensus

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// Names below the data directory.
const (
	identityFile = "node.json"
	lockFile     = "lock"
	aliveFile    = "alive"
	logDirName   = "log"
)

// dirFormat is the version of the layout of the data directory.
const dirFormat = 1

// identity says whose a data directory is. It is the content of node.json.
type identity struct {
	Format    int    `json:"format"`
	NodeID    string `json:"node_id"`
	ClusterID string `json:"cluster_id,omitempty"` // once known
	Recovered string `json:"recovered,omitempty"`  // the cluster that Recover made of this directory
}

// dataDir is an opened, locked data directory; the zero value with dir "" stands for memory.
type dataDir struct {
	dir   string
	lock  *os.File
	alive *os.File
	id    identity
}

// openDir creates or checks dir and takes it for this process.
func openDir(dir, nodeID string) (_ *dataDir, err error) {
	d := &dataDir{dir: dir, id: identity{Format: dirFormat, NodeID: nodeID}}
	if dir == "" {
		return d, nil
	}
	if err := os.MkdirAll(filepath.Join(dir, logDirName), 0o700); err != nil {
		return nil, fmt.Errorf("consensus: data directory: %w", err)
	}
	defer func() {
		if err != nil {
			d.close()
		}
	}()
	if d.lock, err = os.OpenFile(filepath.Join(dir, lockFile), os.O_RDWR|os.O_CREATE, 0o600); err != nil {
		return nil, fmt.Errorf("consensus: data directory: %w", err)
	}
	if err := lock(d.lock); err != nil {
		return nil, fmt.Errorf("%w: %s is %w: %w", ErrDataDir, dir, ErrInUse, err)
	}
	if err := d.check(); err != nil {
		return nil, err
	}
	if d.alive, err = os.OpenFile(filepath.Join(dir, aliveFile), os.O_RDWR|os.O_CREATE, 0o600); err != nil {
		return nil, fmt.Errorf("consensus: data directory: %w", err)
	}
	return d, nil
}

// check compares node.json with what is expected, and writes it into a fresh directory.
func (d *dataDir) check() error {
	file := filepath.Join(d.dir, identityFile)
	b, err := os.ReadFile(file)
	if errors.Is(err, os.ErrNotExist) {
		// A log without node.json is no fresh directory.
		if names, err := os.ReadDir(filepath.Join(d.dir, logDirName)); err != nil || len(names) > 0 {
			return fmt.Errorf("%w: %s holds a log but no %s", ErrDataDir, d.dir, identityFile)
		}
		return d.save()
	}
	if err != nil {
		return fmt.Errorf("consensus: data directory: %w", err)
	}
	var found identity
	if err := json.Unmarshal(b, &found); err != nil {
		return fmt.Errorf("%w: %s is damaged: %w", ErrDataDir, file, err)
	}
	switch {
	case found.Format != dirFormat:
		return fmt.Errorf("%w: %s has format %d, this program reads format %d", ErrDataDir, d.dir, found.Format, dirFormat)
	case found.NodeID != d.id.NodeID:
		return fmt.Errorf("%w: %s belongs to node %q, this is node %q", ErrDataDir, d.dir, found.NodeID, d.id.NodeID)
	}
	d.id = found
	return nil
}

// setCluster remembers the cluster id; another one than before is refused.
func (d *dataDir) setCluster(id string) error {
	switch d.id.ClusterID {
	case id:
		return nil
	case "":
		d.id.ClusterID = id
		return d.save()
	default:
		return fmt.Errorf("%w: %s belongs to cluster %s, the log to cluster %s", ErrDataDir, d.dir, d.id.ClusterID, id)
	}
}

// save writes node.json so that after a crash either the old or the new one is there.
func (d *dataDir) save() error {
	if d.dir == "" {
		return nil
	}
	b, err := json.MarshalIndent(d.id, "", "\t")
	if err != nil {
		return err
	}
	tmp := filepath.Join(d.dir, identityFile+".tmp")
	f, err := os.OpenFile(tmp, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return fmt.Errorf("consensus: data directory: %w", err)
	}
	_, err = f.Write(append(b, '\n'))
	if err == nil {
		err = f.Sync()
	}
	err = errors.Join(err, f.Close())
	if err == nil {
		err = os.Rename(tmp, filepath.Join(d.dir, identityFile))
	}
	if err == nil {
		err = syncDir(d.dir)
	}
	if err != nil {
		return fmt.Errorf("consensus: write %s: %w", identityFile, err)
	}
	return nil
}

func syncDir(dir string) error {
	f, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(f.Sync(), f.Close())
}

// The alive stamp is two lines of fixed length, so that each write replaces the whole.
const stampDigits = 20

// stamp notes that the cluster was alive at t (unix nanoseconds by the leader's clock), and that the log held
// everything up to the raft index committed. It is not synced: a stamp lost in a crash only makes the next leader
// extend deadlines by more, and the log is always ahead of it.
func (d *dataDir) stamp(t int64, committed uint64) error {
	if d.alive == nil {
		return nil
	}
	// A server that has just started has not applied its log again yet.
	committed = max(committed, d.lastCommitted())
	_, err := d.alive.WriteAt(fmt.Appendf(nil, "%0*d\n%0*d\n", stampDigits, t, stampDigits, committed), 0)
	return err
}

// lastStamp is the time of the newest stamp, 0 if there is none.
func (d *dataDir) lastStamp() int64 { return d.stamped(0) }

// lastCommitted is the raft index of the newest stamp, 0 if there is none.
func (d *dataDir) lastCommitted() uint64 { return uint64(max(d.stamped(1), 0)) }

// stamped reads one line of the stamp.
func (d *dataDir) stamped(line int64) int64 {
	if d.alive == nil {
		return 0
	}
	var b [stampDigits + 1]byte
	if _, err := d.alive.ReadAt(b[:], line*int64(len(b))); err != nil {
		return 0
	}
	n, err := strconv.ParseInt(strings.TrimRight(string(b[:]), "\n"), 10, 64)
	if err != nil {
		return 0
	}
	return n
}

func (d *dataDir) close() {
	for _, f := range []*os.File{d.alive, d.lock} {
		if f != nil {
			_ = f.Close()
		}
	}
}
