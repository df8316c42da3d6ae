package consensus

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"runtime/debug"

	"github.com/hashicorp/raft"
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// sumOf is the checksum of an entry: CRC-32C over index, term, type and data. The log store has checksums too, but
// looks at them only at its unfinished end.
func sumOf(l *raft.Log) uint32 {
	var head [17]byte
	binary.BigEndian.PutUint64(head[:], l.Index)
	binary.BigEndian.PutUint64(head[8:], l.Term)
	head[16] = byte(l.Type)
	return crc32.Update(crc32.Checksum(head[:], castagnoli), castagnoli, l.Data)
}

// sealed says whether l carries its checksum.
func sealed(l *raft.Log) bool {
	return len(l.Extensions) == 4 && binary.BigEndian.Uint32(l.Extensions) == sumOf(l)
}

// seal puts the checksum of l into it. An entry that came from the leader has it already.
func seal(l *raft.Log) {
	if !sealed(l) {
		l.Extensions = binary.BigEndian.AppendUint32(nil, sumOf(l))
	}
}

// damageHelp ends each refusal of a damaged directory.
const damageHelp = "the other servers have the data: stop this server, remove the directory and let it join anew; a single server needs a backup"

// checkIntact reads what a start needs of the log and refuses a directory that has lost or damaged entries: a server
// that went on without them would deny what it has acknowledged. committed is an index known to have been on
// disk, 0 when none is.
func (s *stores) checkIntact(dir string, committed uint64) error {
	first, err := s.logs.FirstIndex()
	if err != nil {
		return fmt.Errorf("consensus: log in %s: %w", dir, err)
	}
	last, err := s.logs.LastIndex()
	if err != nil {
		return fmt.Errorf("consensus: log in %s: %w", dir, err)
	}
	snaps, err := s.snaps.List()
	if err != nil {
		return fmt.Errorf("consensus: snapshots in %s: %w", dir, err)
	}
	end := last
	for _, m := range snaps {
		end = max(end, m.Index)
	}
	if end < committed {
		return fmt.Errorf("%w: %s ends at entry %d, but entry %d was there once: a file was cut, removed or damaged; %s (to go on without the lost entries, delete the file %s)",
			ErrDataDir, dir, end, committed, damageHelp, aliveFile)
	}
	if first == 0 {
		return nil
	}
	for i := first; i <= last; i++ {
		var l raft.Log
		if err := s.logs.GetLog(i, &l); err != nil {
			return fmt.Errorf("%w: log in %s is damaged at entry %d: %w; %s", ErrDataDir, dir, i, err, damageHelp)
		}
	}
	return nil
}

// checkStart is checkIntact for a directory in which raft is about to start: the newest snapshot that is sound has to
// reach the beginning of the log and, with it, all that was committed. raft itself passes over a damaged snapshot to an
// older one; it panics over the hole behind that, and where there is no log it goes on with the old state.
func (s *stores) checkStart(dir string, committed uint64) error {
	if err := s.checkIntact(dir, committed); err != nil {
		return err
	}
	base, damage, err := s.soundSnapshot(dir)
	if err != nil {
		return err
	}
	first, err := s.logs.FirstIndex()
	if err != nil {
		return fmt.Errorf("consensus: log in %s: %w", dir, err)
	}
	last, err := s.logs.LastIndex()
	if err != nil {
		return fmt.Errorf("consensus: log in %s: %w", dir, err)
	}
	if damage == nil {
		damage = errors.New("a snapshot was removed, or its meta.json damaged")
	}
	switch {
	case first > base+1:
		return fmt.Errorf("%w: the log in %s begins at entry %d, but the newest sound snapshot ends at entry %d: %w; %s", ErrDataDir, dir, first, base, damage, damageHelp)
	case max(base, last) < committed:
		return fmt.Errorf("%w: what is sound in %s ends at entry %d, but entry %d was there once: %w; %s (to go on without the lost entries, delete the file %s)",
			ErrDataDir, dir, max(base, last), committed, damage, damageHelp, aliveFile)
	}
	return nil
}

// soundSnapshot gives the last entry in the newest snapshot whose content has its checksum, 0 when there is none, and
// what is wrong with those that are newer, nil for nothing.
func (s *stores) soundSnapshot(dir string) (index uint64, damage, err error) {
	snaps, err := s.snaps.List()
	if err != nil {
		return 0, nil, fmt.Errorf("consensus: snapshots in %s: %w", dir, err)
	}
	var bad []error
	for _, m := range snaps {
		_, r, err := s.snaps.Open(m.ID)
		if err == nil {
			return m.Index, errors.Join(bad...), r.Close()
		}
		bad = append(bad, fmt.Errorf("snapshot %s is damaged: %w", m.ID, err))
	}
	return 0, errors.Join(bad...), nil
}

// guardFault runs f and makes an error of a fault in memory mapped from a file that is shorter than it says.
func guardFault(what string, f func() error) (err error) {
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	defer func() {
		if recover() != nil { // its text would only say that some address cannot be read
			err = fmt.Errorf("%w: %s is damaged: a file is shorter than its content says; %s", ErrDataDir, what, damageHelp)
		}
	}()
	return f()
}
