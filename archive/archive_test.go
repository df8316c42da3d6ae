package archive_test

import (
	"bytes"
	"errors"
	"io"
	"math/rand/v2"
	"testing"
	"testing/iotest"

	"github.com/musterhq/muster/archive"
)

func make1(t testing.TB, state []byte) []byte {
	t.Helper()
	var b bytes.Buffer
	err := archive.Write(&b, archive.Meta{ID: "2-7", Index: 7, Term: 2, Program: "muster"}, func(w io.Writer) error {
		_, err := w.Write(state)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func TestRoundTrip(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	for _, n := range []int{0, 1, 511, 512, 100_000} {
		state := make([]byte, n)
		for i := range state {
			state[i] = byte(r.Uint32())
		}
		var out bytes.Buffer
		m, err := archive.Read(bytes.NewReader(make1(t, state)), &out)
		if err != nil || !bytes.Equal(out.Bytes(), state) || m.Index != 7 || m.Term != 2 || m.ID != "2-7" || m.Size != int64(n) || m.Version != 1 {
			t.Errorf("%d bytes: %+v, %v", n, m, err)
		}
	}
}

// TestDamageIsFound cuts an archive everywhere and turns bits over in it. A change that leaves all three members as
// they were (in the time of gzip's header, in padding) is no damage.
func TestDamageIsFound(t *testing.T) {
	state := []byte("the state of a whole cluster, more or less")
	whole := make1(t, state)
	for n := range whole {
		if _, err := archive.Read(bytes.NewReader(whole[:n]), io.Discard); !errors.Is(err, archive.ErrDamaged) {
			t.Fatalf("cut to %d of %d bytes: %v", n, len(whole), err)
		}
	}
	for i := range whole {
		for bit := range 8 {
			bad := bytes.Clone(whole)
			bad[i] ^= 1 << bit
			var out bytes.Buffer
			_, err := archive.Read(bytes.NewReader(bad), &out)
			if err == nil && !bytes.Equal(out.Bytes(), state) {
				t.Fatalf("bit %d of byte %d: the state changed unnoticed", bit, i)
			}
			if err != nil && !errors.Is(err, archive.ErrDamaged) {
				t.Fatalf("bit %d of byte %d: %v", bit, i, err)
			}
		}
	}
}

func TestErrorsOfOthers(t *testing.T) {
	broken := errors.New("broken")
	if _, err := archive.Read(iotest.ErrReader(broken), io.Discard); !errors.Is(err, broken) || errors.Is(err, archive.ErrDamaged) {
		t.Errorf("a broken reader gives %v", err)
	}
	if _, err := archive.Read(bytes.NewReader(make1(t, []byte("x"))), failing{broken}); !errors.Is(err, broken) || errors.Is(err, archive.ErrDamaged) {
		t.Errorf("a full disk gives %v", err)
	}
}

type failing struct{ err error }

func (f failing) Write([]byte) (int, error) { return 0, f.err }

func FuzzRead(f *testing.F) {
	f.Add(make1(f, []byte("state")))
	f.Fuzz(func(t *testing.T, data []byte) {
		if _, err := archive.Read(bytes.NewReader(data), io.Discard); err != nil && !errors.Is(err, archive.ErrDamaged) {
			t.Fatal(err)
		}
	})
}
