package consensus

import (
	"errors"
	"fmt"

	"github.com/hashicorp/raft"
)

// errMalformed answers a request that no server sends: raft takes what it is given for the word of another raft, and
// would end the process over it.
var errMalformed = errors.New("consensus: malformed request")

// malformed says what is wrong with a request of another server, nil for nothing.
func malformed(command any) error {
	switch r := command.(type) {
	case *raft.AppendEntriesRequest:
		next := r.PrevLogEntry
		for _, l := range r.Entries {
			next++
			switch {
			case l == nil:
				return fmt.Errorf("%w: entry %d is missing", errMalformed, next)
			case l.Index != next:
				return fmt.Errorf("%w: entry %d in the place of entry %d", errMalformed, l.Index, next)
			case l.Type > raft.LogConfiguration:
				return fmt.Errorf("%w: entry %d is of the unknown type %d", errMalformed, next, l.Type)
			case l.Type == raft.LogConfiguration && !isConfiguration(l.Data):
				return fmt.Errorf("%w: entry %d holds no configuration", errMalformed, next)
			}
		}
	case *raft.InstallSnapshotRequest:
		if r.SnapshotVersion > 0 && !isConfiguration(r.Configuration) {
			return fmt.Errorf("%w: the snapshot of entry %d comes without a configuration", errMalformed, r.LastLogIndex)
		}
	}
	return nil
}

// isConfiguration says whether raft can decode b, which it tells by a panic only.
func isConfiguration(b []byte) (ok bool) {
	defer func() { ok = recover() == nil }()
	raft.DecodeConfiguration(b)
	return true
}
