package proxy

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"
	"go.etcd.io/bbolt"
)

func answerOf(body string, index uint64) *Answer {
	return &Answer{Status: 200, Header: http.Header{"X-Consul-Index": {fmt.Sprint(index)}}, Body: []byte(body), Index: index, Cluster: "c1"}
}

func openKnown(t *testing.T, c KnownConfig) (*Known, *bytes.Buffer) {
	t.Helper()
	var log bytes.Buffer
	c.Logger = hclog.New(&hclog.LoggerOptions{Output: &log})
	if c.Flush == 0 {
		c.Flush = time.Millisecond
	}
	return OpenKnown(c), &log
}

// keysOf is what a Known holds, for comparison.
func keysOf(k *Known) string {
	var b strings.Builder
	k.mu.Lock()
	defer k.mu.Unlock()
	for i := range 1000 {
		if e := k.entries[fmt.Sprint("- /k", i)]; e != nil {
			fmt.Fprintf(&b, "%d ", i)
		}
	}
	return b.String()
}

func TestTheLeastUsedMakeRoom(t *testing.T) {
	k, _ := openKnown(t, KnownConfig{MaxEntries: 16})
	for i := range 12 {
		k.put(fmt.Sprint("- /k", i), answerOf("[1]", 1), false)
	}
	for i := 100; i < 200; i++ { // names that somebody makes up
		k.put(fmt.Sprint("- /k", i), answerOf("[]", 1), false)
	}
	if got := keysOf(k); got != "0 1 2 3 4 5 6 7 8 9 10 11 198 199 " {
		t.Errorf("%s", got)
	}
	k.get("- /k0")
	for i := 20; i < 28; i++ {
		k.put(fmt.Sprint("- /k", i), answerOf("[1]", 1), false)
	}
	if got := keysOf(k); got != "0 5 6 7 8 9 10 11 20 21 22 23 24 25 26 27 " {
		t.Errorf("%s", got)
	}
	k, _ = openKnown(t, KnownConfig{MaxBytes: 100_000})
	for i := range 100 {
		k.put(fmt.Sprint("- /k", i), answerOf(strings.Repeat("x", 9000), 1), false)
	}
	if n, bytes := k.Size(); n != 10 || bytes > 100_000 {
		t.Errorf("%d answers of %d bytes", n, bytes)
	}
	k.put("- /k99", answerOf(strings.Repeat("x", 50_000), 2), false)
	if a, _ := k.get("- /k99"); a != nil {
		t.Error("an answer that would push out most others was kept, or its forerunner")
	}
	for i := range 100 {
		k.forget(fmt.Sprint("- /k", i))
	}
	if n, bytes := k.Size(); n != 0 || bytes != 0 || k.recent.Len()+k.hollow.Len() != 0 {
		t.Errorf("all forgotten: %d answers of %d bytes", n, bytes)
	}
}

func TestMaxAge(t *testing.T) {
	k, _ := openKnown(t, KnownConfig{MaxAge: time.Hour})
	k.put("- /k1", answerOf("[1]", 1), false)
	if a, _ := k.get("- /k1"); a == nil {
		t.Error("not known")
	}
	k.entries["- /k1"].Value.(*known).at = time.Now().Add(-2 * time.Hour)
	if a, _ := k.get("- /k1"); a != nil {
		t.Error("too old, and still given")
	}
}

func TestKnownOutlivesARestart(t *testing.T) {
	file := filepath.Join(t.TempDir(), "known.db")
	k, _ := openKnown(t, KnownConfig{File: file})
	for i := range 50 {
		k.put(fmt.Sprint("- /k", i), answerOf(strings.Repeat("x", i*100), uint64(i)), false)
	}
	k.forget("- /k3")
	if err := k.Close(); err != nil {
		t.Fatal(err)
	}
	if st, err := os.Stat(file); err != nil || st.Mode().Perm() != 0o600 {
		t.Errorf("%v %v", st.Mode(), err)
	}
	k, log := openKnown(t, KnownConfig{File: file, MaxEntries: 20})
	if n, _ := k.Size(); n != 20 || log.Len() > 0 {
		t.Errorf("%d answers; %s", n, log)
	}
	a, at := k.get("- /k49")
	if a == nil || len(a.Body) != 4900 || a.Index != 49 || a.Cluster != "c1" || a.Header.Get("X-Consul-Index") != "49" || time.Since(at) > time.Minute {
		t.Errorf("%+v %v", a, at)
	}
	if a, _ := k.get("- /k3"); a != nil {
		t.Error("a forgotten answer is back")
	}
	if err := k.Close(); err != nil {
		t.Fatal(err)
	}
}

// TestNothingIsWrittenWhenNothingChanges: the same answers again and again cost no transaction.
func TestNothingIsWrittenWhenNothingChanges(t *testing.T) {
	k, _ := openKnown(t, KnownConfig{File: filepath.Join(t.TempDir(), "known.db"), Flush: time.Nanosecond})
	defer k.Close()
	writes := func() int {
		n := 0
		if err := k.file.db.View(func(tx *bbolt.Tx) error { n = tx.ID(); return nil }); err != nil {
			t.Fatal(err)
		}
		return n
	}
	k.put("- /a", answerOf("[1]", 1), false)
	k.put("- /v2", answerOf("[1]", 1), true)
	waitFor(t, "the first write", func() bool { return writes() > 1 && len(k.file.woken) == 0 })
	if err := k.file.flush(); err != nil {
		t.Fatal(err)
	}
	before := writes()
	for i := range 100 {
		k.put("- /a", answerOf("[1]", 1), false)
		k.put("- /v2", answerOf("[1]", uint64(i)), true)
	}
	if err := k.file.flush(); err != nil || len(k.file.woken) > 0 || writes() != before {
		t.Errorf("%d writes for the same answers, %d wanted", writes()-before, len(k.file.woken))
	}
	k.put("- /a", answerOf("[2]", 2), false)
	waitFor(t, "a change is written", func() bool { return writes() > before })
}

// TestDamagedFile: whatever a file looks like, the start goes on; what cannot be used is set aside and reported, and a
// new file serves from then on.
func TestDamagedFile(t *testing.T) {
	dir := t.TempDir()
	good := filepath.Join(dir, "good.db")
	k, _ := openKnown(t, KnownConfig{File: good})
	for i := range 100 {
		k.put(fmt.Sprint("- /k", i), answerOf(strings.Repeat("x", 700), uint64(i)), false)
	}
	if err := k.Close(); err != nil {
		t.Fatal(err)
	}
	whole, err := os.ReadFile(good)
	if err != nil {
		t.Fatal(err)
	}
	rnd := rand.New(rand.NewPCG(1, 2))
	for i := range 24 {
		b := bytes.Clone(whole)
		what, head := "", false // head: one of the two heads of the file is hit, and the other one is of the transaction before
		switch i % 4 {
		case 0:
			n := rnd.IntN(len(b))
			b, what = b[:n], fmt.Sprintf("cut at %d", n)
		case 1:
			at, n := rnd.IntN(len(b)), 1+rnd.IntN(5000)
			for j := at; j < min(at+n, len(b)); j++ {
				b[j] = byte(rnd.Uint32())
			}
			what, head = fmt.Sprintf("%d bytes of nonsense at %d", n, at), at < 8192
		case 2:
			page := rnd.IntN(len(b) / 4096)
			clear(b[page*4096 : (page+1)*4096])
			what, head = fmt.Sprintf("page %d is empty", page), page < 2
		case 3:
			at := rnd.IntN(len(b))
			b[at] ^= 1 << rnd.IntN(8)
			what, head = fmt.Sprintf("a bit at %d", at), at < 8192
		}
		file := filepath.Join(dir, fmt.Sprint("bad", i))
		if err := os.WriteFile(file, b, 0o600); err != nil {
			t.Fatal(err)
		}
		k, log := openKnown(t, KnownConfig{File: file})
		n, _ := k.Size()
		_, aside := os.Stat(file + ".damaged")
		if n < 100 && aside != nil && len(b) > 0 && !head {
			t.Errorf("%s: %d of 100 answers, and nobody is told: %s", what, n, log)
		}
		if aside == nil && !strings.Contains(log.String(), "set aside") {
			t.Errorf("%s: %s", what, log)
		}
		for key, e := range k.entries {
			if a := e.Value.(*known).answer; string(a.Body) != strings.Repeat("x", 700) || key != fmt.Sprint("- /k", a.Index) {
				t.Errorf("%s: %s is not what was kept", what, key)
			}
		}
		k.put("- /new", answerOf("[1]", 1), false)
		if err := k.Close(); err != nil {
			t.Errorf("%s: %v", what, err)
		}
		k, log = openKnown(t, KnownConfig{File: file})
		if a, _ := k.get("- /new"); a == nil {
			t.Errorf("%s: the new file does not keep: %s", what, log)
		}
		if again, _ := k.Size(); again != n+1 {
			t.Errorf("%s: %d answers after a second start, %d before", what, again, n)
		}
		if err := k.Close(); err != nil {
			t.Errorf("%s: %v", what, err)
		}
	}
}

// TestFileInUse: a second agent on the same directory keeps its answers in memory, and takes nothing away.
func TestFileInUse(t *testing.T) {
	file := filepath.Join(t.TempDir(), "known.db")
	k, _ := openKnown(t, KnownConfig{File: file})
	defer k.Close()
	second, log := openKnown(t, KnownConfig{File: file})
	defer second.Close()
	second.put("- /k1", answerOf("[1]", 1), false)
	if a, _ := second.get("- /k1"); a == nil || !strings.Contains(log.String(), "in memory alone") {
		t.Errorf("%+v %s", a, log)
	}
	if _, err := os.Stat(file + ".damaged"); err == nil {
		t.Error("a file in use was set aside")
	}
}

func FuzzDecodeKnown(f *testing.F) {
	b, err := encodeKnown(&known{"- /a", answerOf("[1]", 7), time.Unix(1, 0)})
	if err != nil {
		f.Fatal(err)
	}
	f.Add(b)
	f.Add(b[:9])
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, b []byte) {
		if kn, err := decodeKnown(b); err == nil {
			if _, err := encodeKnown(kn); err != nil {
				t.Error(err)
			}
		}
	})
}
