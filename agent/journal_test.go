package agent

import (
	"bytes"
	"context"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"

	"github.com/musterhq/muster/api/consul"
)

func readJournal(t testing.TB, path string) (*journal, map[opKey]string) {
	t.Helper()
	got := map[opKey]string{}
	j, err := openJournal(path, hclog.NewNullLogger(), func(k opKey, v []byte) { got[k] = string(v) })
	must(t, err)
	t.Cleanup(func() { _ = j.close() })
	return j, got
}

// closeNow closes before the end of the test; the second close does no harm.
func closeNow(t testing.TB, j *journal) { t.Helper(); must(t, j.close()) }

func same(t testing.TB, what string, got, want map[opKey]string) {
	t.Helper()
	if !maps.Equal(got, want) {
		t.Fatalf("%s: %d values, want %d:\n%.600v\n%.600v", what, len(got), len(want), got, want)
	}
}

func TestJournalKeepsWhatAMapWould(t *testing.T) {
	path := filepath.Join(t.TempDir(), "j")
	j, model := readJournal(t, path)
	rnd := rand.New(rand.NewPCG(1, 2))
	for i := range 400 {
		batch := map[opKey][]byte{}
		for range 1 + rnd.IntN(4) {
			k := opKey{[]string{"a", "bb"}[rnd.IntN(2)], fmt.Sprint(rnd.IntN(40))}
			if rnd.IntN(4) == 0 {
				batch[k] = nil
				delete(model, k)
			} else {
				v := bytes.Repeat([]byte{byte(i)}, rnd.IntN(40<<10))
				batch[k] = v
				model[k] = string(v)
			}
		}
		must(t, j.append(batch))
		if i%50 == 49 {
			closeNow(t, j)
			var got map[opKey]string
			j, got = readJournal(t, path)
			same(t, "reopened", got, model)
		}
	}
	info, err := os.Stat(path)
	must(t, err)
	if limit := 2*j.live + journalSlack + 4*journalAhead; info.Size() > limit {
		t.Errorf("the file has %d bytes for %d that live: it was not written anew", info.Size(), j.live)
	}
}

// A crash may leave any part of the last write on the disk. What was acknowledged before it is there.
func TestJournalCutAnywhere(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "j")
	j, _ := readJournal(t, path)
	key := func(i int) opKey { return opKey{"s", fmt.Sprint("key", i)} }
	var ends []int64
	for i := range 5 {
		must(t, j.append(map[opKey][]byte{key(i): []byte("value"), {"s", "counter"}: {byte('0' + i)}}))
		ends = append(ends, j.size)
	}
	closeNow(t, j)
	whole, err := os.ReadFile(path)
	must(t, err)
	for cut := ends[2]; cut <= ends[4]; cut++ {
		for _, zeros := range []int{0, 300} {
			file := filepath.Join(dir, "cut")
			must(t, os.WriteFile(file, append(bytes.Clone(whole[:cut]), make([]byte, zeros)...), 0o600))
			n := 3
			for n < 5 && ends[n] <= cut {
				n++
			}
			j, got := readJournal(t, file)
			want := map[opKey]string{{"s", "counter"}: string(rune('0' + n - 1))}
			for i := range n {
				want[key(i)] = "value"
			}
			same(t, fmt.Sprintf("cut at %d", cut), got, want)
			must(t, j.append(map[opKey][]byte{{"s", "after"}: []byte("x")}))
			closeNow(t, j)
			j, got = readJournal(t, file)
			want[opKey{"s", "after"}] = "x"
			same(t, fmt.Sprintf("cut at %d and written on", cut), got, want)
			closeNow(t, j)
		}
	}
}

// Damage in the middle costs the record it hits, not those behind it.
func TestJournalDamagedInTheMiddle(t *testing.T) {
	path := filepath.Join(t.TempDir(), "j")
	j, _ := readJournal(t, path)
	var starts []int64
	for i := range 3 {
		starts = append(starts, j.size)
		must(t, j.append(map[opKey][]byte{{"s", fmt.Sprint(i)}: []byte("value")}))
	}
	starts = append(starts, j.size)
	closeNow(t, j)
	whole, err := os.ReadFile(path)
	must(t, err)
	for at := starts[1]; at < starts[2]; at++ {
		bad := bytes.Clone(whole)
		bad[at] ^= 0x40
		must(t, os.WriteFile(path, bad, 0o600))
		j, got := readJournal(t, path)
		same(t, fmt.Sprintf("damaged at %d", at), got, map[opKey]string{{"s", "0"}: "value", {"s", "2"}: "value"})
		closeNow(t, j)
	}
}

func TestJournalOfAnotherFormatIsRefused(t *testing.T) {
	path := filepath.Join(t.TempDir(), "j")
	for _, text := range []string{"muster registry 99\n", "something else"} {
		must(t, os.WriteFile(path, []byte(text), 0o600))
		if j, err := openJournal(path, hclog.NewNullLogger(), nil); err == nil {
			t.Errorf("%q was accepted", text)
			_ = j.close()
		}
		if left, _ := os.ReadFile(path); string(left) != text {
			t.Errorf("a refused file was changed to %q", left)
		}
	}
}

// After a write that failed nobody knows what is on the disk: the next one makes a new file.
func TestJournalAfterAFailedWrite(t *testing.T) {
	path := filepath.Join(t.TempDir(), "j")
	j, _ := readJournal(t, path)
	must(t, j.append(map[opKey][]byte{{"s", "a"}: []byte("1")}))
	readOnly, err := os.Open(path)
	must(t, err)
	writable := j.f
	defer writable.Close()
	j.f = readOnly
	if err := j.append(map[opKey][]byte{{"s", "b"}: []byte("2")}); err == nil {
		t.Fatal("a failed write was acknowledged")
	}
	must(t, j.append(map[opKey][]byte{{"s", "c"}: []byte("3")}))
	closeNow(t, j)
	_, got := readJournal(t, path)
	same(t, "after the failure", got, map[opKey]string{{"s", "a"}: "1", {"s", "c"}: "3"})
}

func FuzzJournal(f *testing.F) {
	payload := appendOp(appendOp(nil, opKey{"s", "k"}, []byte("value")), opKey{"s", "gone"}, nil)
	f.Add(payload)
	f.Add([]byte(recordMagic + "\x00\x00\x00\x01\x00\x00\x00\x00x"))
	f.Fuzz(func(t *testing.T, data []byte) {
		ops, ok := decodeOps(data)
		for _, o := range ops {
			if o.at < 0 || o.length < 0 || o.at+o.length > len(data) {
				t.Fatalf("operation %+v of %d bytes", o, len(data))
			}
		}
		_ = ok
		path := filepath.Join(t.TempDir(), "j")
		must(t, os.WriteFile(path, append([]byte(journalHeader), data...), 0o600))
		j, before := readJournal(t, path)
		must(t, j.append(map[opKey][]byte{{"x", "new"}: []byte("1")}))
		closeNow(t, j)
		_, after := readJournal(t, path)
		before[opKey{"x", "new"}] = "1"
		same(t, "written on", after, before)
	})
}

// BenchmarkRegisterSaved is the cost of one registration that is saved, without a cluster, at growing numbers of services.
func BenchmarkRegisterSaved(b *testing.B) {
	for _, n := range []int{10, 10000} {
		b.Run(fmt.Sprint(n, " present"), func(b *testing.B) { benchRegister(b, n) })
	}
}

func benchRegister(b *testing.B, present int) {
	r, err := OpenRegistry(RegistryConfig{Dir: b.TempDir(), NodeName: "n1"})
	must(b, err)
	defer func() { must(b, r.Close()) }()
	def := func(i, port int) consul.ServiceDefinition {
		return consul.ServiceDefinition{Name: fmt.Sprint("svc-", i), Port: port, Check: &consul.CheckDefinition{TTL: time.Hour, Status: "passing"}}
	}
	var wg sync.WaitGroup
	for c := range 64 {
		wg.Go(func() {
			for i := c; i < present; i += 64 {
				if err := r.RegisterService(context.Background(), def(i, 1), false); err != nil {
					b.Error(err)
				}
			}
		})
	}
	wg.Wait()
	var next atomic.Int64
	b.SetParallelism(32)
	b.ReportAllocs()
	b.ResetTimer()
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			i := int(next.Add(1))
			if err := r.RegisterService(context.Background(), def(i%present, 2+i%60000), false); err != nil {
				b.Error(err)
			}
		}
	})
}

// Registrations are never lost without a word: an agent that begins with fewer than were saved says so, once.
func TestJournalTellsWhatIsLost(t *testing.T) {
	var end int64 // of the records
	for name, harm := range map[string]func(path string, b []byte) error{
		"nothing":            func(string, []byte) error { return nil },
		"removed":            func(path string, _ []byte) error { return os.Remove(path) },
		"empty":              func(path string, _ []byte) error { return os.WriteFile(path, nil, 0o600) },
		"zeros":              func(path string, b []byte) error { return os.WriteFile(path, make([]byte, len(b)), 0o600) },
		"last record broken": func(path string, b []byte) error { b[end-1] ^= 1; return os.WriteFile(path, b, 0o600) },
		"last record cut":    func(path string, b []byte) error { return os.WriteFile(path, b[:end-3], 0o600) },
	} {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "j")
			var told bytes.Buffer
			open := func() (*journal, int) {
				told.Reset()
				n := 0
				j, err := openJournal(path, hclog.New(&hclog.LoggerOptions{Output: &told}), func(opKey, []byte) { n++ })
				must(t, err)
				return j, n
			}
			j, _ := open()
			if told.Len() > 0 {
				t.Errorf("the first start says %s", &told)
			}
			for i := range 2 {
				must(t, j.append(map[opKey][]byte{{"s", fmt.Sprint(i)}: []byte("value")}))
			}
			end = j.size
			must(t, j.close())
			b, err := os.ReadFile(path)
			must(t, err)
			must(t, harm(path, b))
			j, n := open()
			must(t, j.close())
			if lost := n < 2; lost != (name != "nothing") || lost != bytes.Contains(told.Bytes(), []byte("file="+path)) {
				t.Errorf("%d of 2 values are there, and the start says %q", n, &told)
			}
			j, _ = open()
			must(t, j.close())
			if told.Len() > 0 {
				t.Errorf("told again: %s", &told)
			}
		})
	}
}
