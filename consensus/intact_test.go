package consensus_test

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
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
	edit := func(name string, f func(b []byte) []byte) func(t *testing.T, dir string) {
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
	for name, harm := range map[string]func(*testing.T, string){
		"a byte of a value in the middle": edit(seg, func(b []byte) []byte { b[bytes.Index(b, []byte("value-20"))] ^= 1; return b }),
		"the end cut off":                 edit(seg, func(b []byte) []byte { return b[:bytes.Index(b, []byte("value-40"))] }),
		"an empty file":                   edit(seg, func([]byte) []byte { return nil }),
		"a removed file": func(t *testing.T, dir string) {
			if err := os.Remove(filepath.Join(dir, seg)); err != nil {
				t.Fatal(err)
			}
		},
		"half of the database of the log": edit(filepath.Join("log", "wal-meta.db"), func(b []byte) []byte { return b[:8<<10] }),
	} {
		t.Run(name, func(t *testing.T) {
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
		})
	}
}
