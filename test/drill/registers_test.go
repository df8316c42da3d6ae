package drill

import (
	"math"
	"testing"

	"github.com/anishathalye/porcupine"
)

// The judge must tell right from wrong, or every drill would pass.
func TestRegisterModel(t *testing.T) {
	op := func(in registerIn, out registerOut, call, back int64) porcupine.Operation {
		in.key = "k"
		return porcupine.Operation{Input: in, Output: out, Call: call, Return: back}
	}
	write := func(v string, call, back int64) porcupine.Operation {
		return op(registerIn{op: 'w', new: v}, registerOut{swapped: true}, call, back)
	}
	read := func(v string, call, back int64) porcupine.Operation {
		return op(registerIn{op: 'r'}, registerOut{value: v}, call, back)
	}
	swap := func(from, to string, ok, unknown bool, call, back int64) porcupine.Operation {
		return op(registerIn{op: 'c', old: from, new: to}, registerOut{swapped: ok, unknown: unknown}, call, back)
	}
	for _, c := range []struct {
		name    string
		history []porcupine.Operation
		want    bool
	}{
		{"read of what was written", []porcupine.Operation{write("a", 0, 1), read("a", 2, 3)}, true},
		{"stale read", []porcupine.Operation{write("a", 0, 1), write("b", 2, 3), read("a", 4, 5)}, false},
		{"read beside a write", []porcupine.Operation{write("a", 0, 1), write("b", 2, 5), read("a", 3, 4)}, true},
		{"acknowledged write lost", []porcupine.Operation{write("a", 0, 1), read("", 2, 3)}, false},
		{"swap won", []porcupine.Operation{write("a", 0, 1), swap("a", "b", true, false, 2, 3), read("b", 4, 5)}, true},
		{"swap won twice", []porcupine.Operation{write("a", 0, 1), swap("a", "b", true, false, 2, 5), swap("a", "c", true, false, 3, 6)}, false},
		{"swap refused without reason", []porcupine.Operation{write("a", 0, 1), swap("a", "b", false, false, 2, 3)}, false},
		{"unknown swap seen later", []porcupine.Operation{write("a", 0, 1), swap("a", "b", false, true, 2, math.MaxInt64), read("a", 3, 4), read("b", 5, 6)}, true},
		{"unknown swap undone", []porcupine.Operation{write("a", 0, 1), swap("a", "b", false, true, 2, math.MaxInt64), read("b", 3, 4), read("a", 5, 6)}, false},
	} {
		if got := porcupine.CheckOperations(register, c.history); got != c.want {
			t.Errorf("%s: linearizable %v, want %v", c.name, got, c.want)
		}
	}
}
