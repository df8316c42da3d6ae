package consensus_test

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/musterhq/muster/consensus"
)

// TestDamageIsRefused harms a copy of a stopped server's directory: a server must not go on without what it has
// acknowledged.
func TestDamageIsRefused(t *testing.T) {
	c := newCluster(t, 1, onDisk)
	for i := range 50 {
		c.write(fmt.Sprintf("k%d", i), fmt.Sprintf("value-%d-of-many", i))
	}
	m := c.members[0]
	c.stop(m)
	segs, err := filepath.Glob(filepath.Join(m.cfg.Dir, "log", "*.wal"))
	if err != nil || len(segs) != 1 {
		t.Fatalf("segments %v: %v", segs, err)
	}
	seg := filepath.Join("log", filepath.Base(segs[0]))
	for name, harm := range map[string]func(*testing.T, string){
		"a byte of a value in the middle": edit(seg, func(b []byte) []byte { b[bytes.Index(b, []byte("value-20"))] ^= 1; return b }),
		"the end cut off":                 edit(seg, func(b []byte) []byte { return b[:bytes.Index(b, []byte("value-40"))] }),
		"an empty file":                   edit(seg, func([]byte) []byte { return nil }),
		"a removed file": func(t *testing.T, dir string) {
			if err := os.Remove(filepath.Join(dir, seg)); err != nil {
				t.Fatal(err)
			}
		},
		"no database of the log": func(t *testing.T, dir string) {
			if err := os.Remove(filepath.Join(dir, "log", "wal-meta.db")); err != nil {
				t.Fatal(err)
			}
		},
		"half of the database of the log": edit(filepath.Join("log", "wal-meta.db"), func(b []byte) []byte { return b[:8<<10] }),
	} {
		t.Run(name, func(t *testing.T) { c.refuses(t, m, harm) })
	}
}

// TestDamagedSnapshotIsRefused harms the newest snapshot of a copy of a stopped server's directory. The older one and the
// log do not make up for it: there is a hole between them, or nothing after the older one.
func TestDamagedSnapshotIsRefused(t *testing.T) {
	for name, trailing := range map[string]uint64{"a hole before the log": 5, "only the older snapshot": 0} {
		t.Run(name, func(t *testing.T) {
			c := newCluster(t, 1, onDisk, tuned(func(c *consensus.Config) { c.TrailingLogs = max(1, trailing) }))
			m := c.members[0]
			for round := range 2 {
				for i := range 20 {
					c.write(fmt.Sprintf("k%d", i), fmt.Sprintf("round-%d", round))
				}
				if err := m.Snapshot(); err != nil {
					t.Fatal(err)
				}
			}
			c.stop(m)
			if trailing == 0 {
				// As a follower's that got its state as a snapshot: no log at all.
				if err := consensus.EmptyLog(m.cfg.Dir); err != nil {
					t.Fatal(err)
				}
			}
			snaps, err := filepath.Glob(filepath.Join(m.cfg.Dir, "snapshots", "*"))
			if err != nil || len(snaps) != 2 {
				t.Fatalf("snapshots %v: %v", snaps, err)
			}
			newest := filepath.Join("snapshots", filepath.Base(slices.Max(snaps)))
			for name, harm := range map[string]func(*testing.T, string){
				"a byte of the state":    edit(filepath.Join(newest, "state.bin"), func(b []byte) []byte { b[len(b)/2] ^= 1; return b }),
				"the state cut off":      edit(filepath.Join(newest, "state.bin"), func(b []byte) []byte { return b[:len(b)/2] }),
				"garbage in meta.json":   edit(filepath.Join(newest, "meta.json"), func([]byte) []byte { return []byte("nonsense") }),
				"the snapshot is away":   func(t *testing.T, dir string) { removeAll(t, filepath.Join(dir, newest)) },
				"all snapshots are away": func(t *testing.T, dir string) { removeAll(t, filepath.Join(dir, "snapshots")) },
			} {
				t.Run(name, func(t *testing.T) { c.refuses(t, m, harm) })
			}
			// The older one may be lost.
			dir := t.TempDir()
			copyDir(t, m.cfg.Dir, dir)
			removeAll(t, filepath.Join(dir, "snapshots", filepath.Base(slices.Min(snaps))))
			n, err := c.open(m.cfg.ID, loopback, dir)
			if err != nil {
				t.Fatal(err)
			}
			c.stop(n)
		})
	}
}

// refuses demands that a copy of the directory of m does not start once it was harmed.
func (c *cluster) refuses(t *testing.T, m *member, harm func(t *testing.T, dir string)) {
	t.Helper()
	dir := t.TempDir()
	copyDir(t, m.cfg.Dir, dir)
	harm(t, dir)
	n, err := c.open(m.cfg.ID, loopback, dir)
	if err == nil {
		c.stop(n)
		t.Fatal("it started as if nothing were missing")
	}
	if !errors.Is(err, consensus.ErrDataDir) {
		t.Errorf("error %v", err)
	}
}

// edit changes a file below a directory.
func edit(name string, f func(b []byte) []byte) func(t *testing.T, dir string) {
	return func(t *testing.T, dir string) {
		b, err := os.ReadFile(filepath.Join(dir, name))
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, name), f(b), 0o600); err != nil {
			t.Fatal(err)
		}
	}
}

func removeAll(t *testing.T, path string) {
	t.Helper()
	if err := os.RemoveAll(path); err != nil {
		t.Fatal(err)
	}
}
