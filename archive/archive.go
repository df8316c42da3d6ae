// Package archive is the file in which a snapshot of the whole cluster travels: a gzipped tar of a description, the
// state and the checksums of both, as operators and their tools know it. It knows nothing of the state itself.
//
//	err := archive.Write(w, archive.Meta{ID: "2-113", Index: 113, Term: 2}, snap.WriteBare)
//	meta, err := archive.Read(r, file) // an error: nothing in file may be used
package archive

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
	"time"
)

// Names of the members, in the order in which they are written.
const (
	metaName  = "meta.json"
	stateName = "state.bin"
	sumsName  = "SHA256SUMS"
)

// maxSmall bounds the members that are read into memory, in bytes.
const maxSmall = 64 << 10

// Meta describes a snapshot.
type Meta struct {
	Version int    // of this description: 1
	ID      string // names the snapshot, for people
	Index   uint64 // of the state
	Term    uint64 // of the consensus in which it was read
	Size    int64  // of the state in bytes
	Program string // and version that wrote it
	Cluster string // whose state it is
}

// ErrDamaged says that an archive is not whole, is changed, or is none.
var ErrDamaged = errors.New("damaged snapshot archive")

// Write writes an archive. state writes the state; it is called twice, first to measure it, and must write the same
// bytes both times, so that nothing is kept in memory or on disk. Meta's Version and Size are set here.
func Write(w io.Writer, m Meta, state func(io.Writer) error) error {
	sum, size := sha256.New(), new(counter)
	if err := state(io.MultiWriter(sum, size)); err != nil {
		return err
	}
	m.Version, m.Size = 1, int64(*size)
	meta, err := json.Marshal(m)
	if err != nil {
		return err
	}
	metaSum := sha256.Sum256(meta)
	sums := fmt.Sprintf("%x  %s\n%x  %s\n", metaSum, metaName, sum.Sum(nil), stateName)

	z := gzip.NewWriter(w)
	t := tar.NewWriter(z)
	now := time.Now()
	begin := func(name string, size int64) error {
		return t.WriteHeader(&tar.Header{Name: name, Mode: 0o600, Size: size, ModTime: now, Format: tar.FormatPAX})
	}
	if err := begin(metaName, int64(len(meta))); err != nil {
		return err
	}
	if _, err := t.Write(meta); err != nil {
		return err
	}
	if err := begin(stateName, m.Size); err != nil {
		return err
	}
	if err := state(t); err != nil {
		return err
	}
	if err := begin(sumsName, int64(len(sums))); err != nil {
		return err
	}
	if _, err := io.WriteString(t, sums); err != nil {
		return err
	}
	if err := t.Close(); err != nil {
		return err
	}
	return z.Close()
}

// counter counts what is written to it.
type counter int64

func (c *counter) Write(b []byte) (int, error) {
	*c += counter(len(b))
	return len(b), nil
}

// Read reads an archive to its end, hands the state to state and checks everything. Errors: ErrDamaged with what is
// wrong, or those of r and state.
func Read(r io.Reader, state io.Writer) (m Meta, err error) {
	src := &source{r: r}
	m, err = read(src, state)
	switch {
	case err == nil, errors.Is(err, ErrDamaged):
	case src.err != nil:
		err = src.err // the archive is innocent
	case errors.Is(err, errState):
	default:
		err = fmt.Errorf("%w: %w", ErrDamaged, err)
	}
	return m, err
}

// errState marks the errors of the writer that takes the state.
var errState = errors.New("writing the state")

// source remembers the error of a reader.
type source struct {
	r   io.Reader
	err error
}

func (s *source) Read(b []byte) (int, error) {
	n, err := s.r.Read(b)
	if err != nil && !errors.Is(err, io.EOF) {
		s.err = err
	}
	return n, err
}

func read(r io.Reader, state io.Writer) (m Meta, err error) {
	z, err := gzip.NewReader(bufio.NewReader(r))
	if err != nil {
		return m, err
	}
	t := tar.NewReader(z)
	sums := map[string]hash.Hash{}
	var list []byte
	for {
		h, err := t.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return m, err
		}
		if _, again := sums[h.Name]; again || h.Name == sumsName && list != nil {
			return m, fmt.Errorf("%w: %s is there twice", ErrDamaged, h.Name)
		}
		sum := sha256.New()
		switch h.Name {
		case metaName:
			b, err := small(t, h)
			if err != nil {
				return m, err
			}
			sum.Write(b)
			if err := json.Unmarshal(b, &m); err != nil {
				return m, fmt.Errorf("%s: %w", metaName, err)
			}
			if m.Version != 1 {
				return m, fmt.Errorf("%w: %s has version %d, want 1", ErrDamaged, metaName, m.Version)
			}
		case stateName:
			if _, err := io.Copy(&sink{state}, io.TeeReader(t, sum)); err != nil {
				return m, err
			}
		case sumsName:
			if list, err = small(t, h); err != nil {
				return m, err
			}
			continue
		default:
			return m, fmt.Errorf("%w: unexpected member %.80q", ErrDamaged, h.Name)
		}
		sums[h.Name] = sum
	}
	if _, err := io.Copy(io.Discard, z); err != nil { // to the checksum of gzip
		return m, err
	}
	return m, check(sums, list)
}

// sink marks errors as those of the writer.
type sink struct{ w io.Writer }

func (s *sink) Write(b []byte) (int, error) {
	n, err := s.w.Write(b)
	if err != nil {
		err = fmt.Errorf("%w: %w", errState, err)
	}
	return n, err
}

func small(r io.Reader, h *tar.Header) ([]byte, error) {
	if h.Size > maxSmall {
		return nil, fmt.Errorf("%w: %s has %d bytes, at most %d are expected", ErrDamaged, h.Name, h.Size, maxSmall)
	}
	return io.ReadAll(r)
}

// check compares what was found with the list of checksums.
func check(found map[string]hash.Hash, list []byte) error {
	listed := map[string]bool{}
	for line := range bytes.Lines(list) {
		hexSum, name, ok := strings.Cut(strings.TrimSuffix(string(line), "\n"), "  ")
		if !ok {
			return fmt.Errorf("%w: a line of %s is not a checksum and a name: %.80q", ErrDamaged, sumsName, line)
		}
		sum := found[name]
		if sum == nil {
			return fmt.Errorf("%w: %.80q is missing", ErrDamaged, name)
		}
		if want, err := hex.DecodeString(hexSum); err != nil || !bytes.Equal(want, sum.Sum(nil)) {
			return fmt.Errorf("%w: %s does not match its checksum", ErrDamaged, name)
		}
		listed[name] = true
	}
	for _, name := range []string{metaName, stateName} {
		if !listed[name] {
			return fmt.Errorf("%w: no checksum of %s: the archive is cut", ErrDamaged, name)
		}
	}
	return nil
}
