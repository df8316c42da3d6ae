package agent

import (
	"bufio"
	"bytes"
	"io"
	"strings"

	"github.com/musterhq/muster/catalog"
	"github.com/musterhq/muster/kv"
)

// SnapshotCount receives what is in the state of a snapshot. The maps stay nil when it is another implementation's.
type SnapshotCount struct {
	KeyDepth  int    // count keys by their first so many parts; 0: do not
	KeyPrefix string // only keys that begin with it

	Types map[string]SnapshotSum // by kind of record
	Keys  map[string]SnapshotSum // by beginning of the key
}

// SnapshotSum is a number of records and the bytes of their names and values.
type SnapshotSum struct{ Count, Bytes int64 }

// stateMagic begins a state that this implementation wrote.
var stateMagic = []byte("MUSTERKV")

// CountSnapshot loads the state of a snapshot (state.bin of package archive) from r and counts what is in it. Errors
// are *kv.SnapshotError, or those of r.
func CountSnapshot(r io.Reader, count *SnapshotCount) error {
	buffered := bufio.NewReaderSize(r, 64<<10)
	head, err := buffered.Peek(len(stateMagic))
	if err != nil || !bytes.Equal(head, stateMagic) {
		_, err = io.Copy(io.Discard, buffered)
		return err
	}
	tree := kv.New(kv.Options{Deriver: catalog.Views{}})
	defer tree.Close()
	if err := tree.Restore(buffered); err != nil {
		return err
	}
	count.take(tree.Snap())
	return nil
}

// recordTypes are the names of records by their root; below nodes the segments tell.
var recordTypes = map[string]string{"k": "KVS", "q": "PreparedQuery", "a": "ACL", "g": "Configuration", "m": "Members"}

func (c *SnapshotCount) take(s *kv.Snap) {
	c.Types = map[string]SnapshotSum{}
	if c.KeyDepth > 0 {
		c.Keys = map[string]SnapshotSum{}
	}
	s.Walk("", func(path string, e *kv.Entry) bool {
		root, rest, _ := strings.Cut(path, "/")
		name := recordTypes[root]
		switch {
		case root == "v":
			return true
		case root == "n":
			name = nodeRecord(rest)
		case name == "":
			name = root
		}
		size := int64(len(path) + len(e.Value()))
		add(c.Types, name, size)
		if root == "k" && c.Keys != nil && strings.HasPrefix(rest, c.KeyPrefix) {
			parts := strings.SplitAfterN(rest, "/", c.KeyDepth+1)
			add(c.Keys, strings.TrimSuffix(strings.Join(parts[:min(len(parts), c.KeyDepth)], ""), "/"), size)
		}
		return true
	})
}

func add(m map[string]SnapshotSum, name string, size int64) {
	s := m[name]
	m[name] = SnapshotSum{s.Count + 1, s.Bytes + size}
}

// nodeRecord names the record at a path below the root of nodes: node, node/s/id, node/c/id, node/l/id, node/g/id, node/s/id/c/id.
func nodeRecord(rest string) string {
	switch parts := strings.Split(rest, "/"); {
	case len(parts) == 1:
		return "Node"
	case len(parts) > 3 || parts[1] == "c":
		return "Check"
	case parts[1] == "s":
		return "Service"
	case parts[1] == "g":
		return "Tombstone"
	case parts[1] == "l":
		return "Session"
	}
	return "Other"
}
