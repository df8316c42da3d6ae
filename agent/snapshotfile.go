package agent

import (
	"archive/tar"
	"bufio"
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"hash"
	"io"
	"strings"

	"github.com/musterhq/muster/catalog"
	"github.com/musterhq/muster/kv"
)

// SnapshotInfo is the meta.json of a snapshot file, the answer of GET /v1/snapshot: a gzipped tar of meta.json,
// state.bin and SHA256SUMS (contract: consul-agent 7.3).
type SnapshotInfo struct {
	Version     int
	ID          string
	Index, Term uint64
	Size        int64 // of state.bin, in bytes
}

// SnapshotCount receives what is in the state. The maps stay nil when the state is another implementation's.
type SnapshotCount struct {
	KeyDepth  int    // count keys by their first so many parts; 0: do not
	KeyPrefix string // only keys that begin with it

	Types map[string]SnapshotSum // by kind of record
	Keys  map[string]SnapshotSum // by beginning of the key
}

// SnapshotSum is a number of records and the bytes of their names and values.
type SnapshotSum struct{ Count, Bytes int64 }

// Damage of a snapshot file, for errors.Is.
var ErrSnapshotDamaged = errors.New("the snapshot is damaged or incomplete")

// Limits of the small members, in bytes.
const maxSnapshotMeta = 1 << 20

// ReadSnapshot reads a whole snapshot file and compares all its checksums; with count it also loads the state and
// counts what is in it. Errors wrap ErrSnapshotDamaged, or are those of r.
func ReadSnapshot(r io.Reader, count *SnapshotCount) (info SnapshotInfo, err error) {
	z, err := gzip.NewReader(r)
	if err != nil {
		return info, damaged("it is not compressed: %w", err)
	}
	sums, got := map[string]string{}, map[string]hash.Hash{}
	archive := tar.NewReader(z)
	for {
		head, err := archive.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return info, damaged("%w", err)
		}
		sum := sha256.New()
		body := io.TeeReader(archive, sum)
		switch head.Name {
		case "meta.json":
			err = readJSON(body, &info)
		case "state.bin":
			err = readState(body, info, head.Size, count)
		case "SHA256SUMS":
			sums, err = readSums(body)
		default:
			err = errors.New("unexpected member")
		}
		if err != nil {
			return info, damaged("%s: %w", head.Name, err)
		}
		got[head.Name] = sum
	}
	if _, err := io.Copy(io.Discard, z); err != nil { // the checksum of the compression stands at the end
		return info, damaged("%w", err)
	}
	for _, name := range []string{"meta.json", "state.bin"} {
		if got[name] == nil || sums[name] == "" {
			return info, damaged("%s is missing or has no checksum", name)
		}
		if sum := hex.EncodeToString(got[name].Sum(nil)); sum != sums[name] {
			return info, damaged("the checksum of %s is %s, expected %s", name, sum, sums[name])
		}
	}
	return info, nil
}

func damaged(format string, args ...any) error {
	return fmt.Errorf("%w: %w", ErrSnapshotDamaged, fmt.Errorf(format, args...))
}

func readJSON(r io.Reader, v any) error {
	b, err := io.ReadAll(io.LimitReader(r, maxSnapshotMeta))
	if err != nil {
		return err
	}
	return json.Unmarshal(b, v)
}

func readSums(r io.Reader) (map[string]string, error) {
	b, err := io.ReadAll(io.LimitReader(r, maxSnapshotMeta))
	if err != nil {
		return nil, err
	}
	sums := map[string]string{}
	for line := range strings.Lines(string(b)) {
		sum, name, ok := strings.Cut(strings.TrimSpace(line), "  ")
		if !ok {
			return nil, errors.New("expected lines of a checksum and a name")
		}
		sums[name] = strings.ToLower(sum)
	}
	return sums, nil
}

// stateMagic begins a state that this implementation wrote.
var stateMagic = []byte("MUSTERKV")

func readState(r io.Reader, info SnapshotInfo, size int64, count *SnapshotCount) error {
	if info.Size != 0 && info.Size != size {
		return fmt.Errorf("is %d bytes long, expected %d", size, info.Size)
	}
	buffered := bufio.NewReaderSize(r, 64<<10)
	head, err := buffered.Peek(len(stateMagic))
	if err == nil && count != nil && bytes.Equal(head, stateMagic) {
		tree := kv.New(kv.Options{Deriver: catalog.Views{}})
		defer tree.Close()
		if err := tree.Restore(buffered); err != nil {
			return err
		}
		count.take(tree.Snap())
	}
	_, err = io.Copy(io.Discard, buffered)
	return err
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

// nodeRecord names the record at a path below the root of nodes: node, node/s/id, node/c/id, node/l/id, node/s/id/c/id.
func nodeRecord(rest string) string {
	switch parts := strings.Split(rest, "/"); {
	case len(parts) == 1:
		return "Node"
	case len(parts) > 3 || parts[1] == "c":
		return "Check"
	case parts[1] == "s":
		return "Service"
	case parts[1] == "l":
		return "Session"
	}
	return "Other"
}
