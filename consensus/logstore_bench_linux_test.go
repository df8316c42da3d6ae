package consensus

import (
	"fmt"
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/raft"
	wal "github.com/hashicorp/raft-wal"
)

// benchDir is a directory on the disk that MUSTER_BENCH_DIR names (a temporary directory may be no disk at all).
func benchDir(b *testing.B) string {
	b.Helper()
	root := os.Getenv("MUSTER_BENCH_DIR")
	if root == "" {
		return b.TempDir()
	}
	dir, err := os.MkdirTemp(root, "bench")
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { _ = os.RemoveAll(dir) })
	return dir
}

func written() (n int64) {
	var buf [4096]byte
	f, err := os.Open("/proc/self/io")
	if err != nil {
		return 0
	}
	defer func() { _ = f.Close() }()
	k, _ := f.Read(buf[:])
	var rest string
	for _, line := range splitLines(string(buf[:k])) {
		if c, _ := fmt.Sscanf(line, "write_bytes: %d%s", &n, &rest); c >= 1 {
			return n
		}
	}
	return 0
}

func splitLines(s string) (out []string) {
	for i := 0; i < len(s); {
		j := i
		for j < len(s) && s[j] != '\n' {
			j++
		}
		out = append(out, s[i:j])
		i = j + 1
	}
	return out
}

// BenchmarkDisk is the floor: one write of 200 bytes and one fdatasync, appended to a growing file and written
// over a preallocated one.
func BenchmarkDisk(b *testing.B) {
	for _, prepared := range []bool{false, true} {
		b.Run(fmt.Sprintf("preallocated=%v", prepared), func(b *testing.B) {
			f, err := os.OpenFile(filepath.Join(benchDir(b), "f"), os.O_RDWR|os.O_CREATE, 0o600)
			if err != nil {
				b.Fatal(err)
			}
			if prepared {
				_, _ = f.Write(make([]byte, 64<<20))
				_ = f.Sync()
			}
			rec := make([]byte, 200)
			b.ResetTimer()
			w := written()
			for i := 0; i < b.N; i++ {
				_, _ = f.WriteAt(rec, int64(i)*200%(63<<20))
				if err := syscall.Fdatasync(int(f.Fd())); err != nil {
					b.Fatal(err)
				}
			}
			b.ReportMetric(float64(written()-w)/float64(b.N), "disk-B/op")
			_ = f.Close()
		})
	}
}

type benchStore interface {
	raft.LogStore
	Close() error
}

var candidates = map[string]func(dir string) (benchStore, error){
	"bbolt": func(dir string) (benchStore, error) { return openBolt(dir) },
	"raft-wal": func(dir string) (benchStore, error) {
		return wal.Open(dir, wal.WithLogger(hclog.NewNullLogger()))
	},
}

// BenchmarkLogStore appends to each candidate, fresh and after MUSTER_BENCH_HISTORY earlier entries of which the
// head was cut as raft does it (10,000 entries kept).
func BenchmarkLogStore(b *testing.B) {
	history := 0
	if s := os.Getenv("MUSTER_BENCH_HISTORY"); s != "" {
		_, _ = fmt.Sscan(s, &history)
	}
	for name, open := range candidates {
		for _, batch := range []int{1, 64} {
			b.Run(fmt.Sprintf("%s/batch=%d/history=%d", name, batch, history), func(b *testing.B) {
				s, err := open(benchDir(b))
				if err != nil {
					b.Fatal(err)
				}
				defer func() { _ = s.Close() }()
				next := uint64(1)
				store := func(n int) {
					ls := make([]*raft.Log, n)
					for i := range ls {
						ls[i] = &raft.Log{Index: next, Term: 1, Data: make([]byte, 200), AppendedAt: time.Now()}
						next++
					}
					if err := s.StoreLogs(ls); err != nil {
						b.Fatal(err)
					}
				}
				cut := uint64(1)
				for next < uint64(history) {
					store(256)
					if next-cut > 20000 {
						if err := s.DeleteRange(cut, next-10000); err != nil {
							b.Fatal(err)
						}
						cut = next - 10000 + 1
					}
				}
				b.ResetTimer()
				w := written()
				for i := 0; i < b.N; i++ {
					store(batch)
				}
				b.ReportMetric(float64(written()-w)/float64(b.N), "disk-B/op")
			})
		}
	}
}
