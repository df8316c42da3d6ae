package agent

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"os"
	"path/filepath"

	"github.com/hashicorp/go-hclog"
)

// journal keeps a map of keys to values in a file to which every change is appended, so that a change costs one write
// and one sync of its own size, however much is kept. When most of the file is outdated it is written anew.
//
// The file is journalHeader, then records: recordMagic, the length and the CRC-32C of the payload (both 32 bits, big
// endian), the payload: one batch of operations that took effect together. After the last record there are zeros,
// written ahead of use, because a sync is quicker when the file does not grow. Not safe for concurrent use.
type journal struct {
	f         *os.File
	lockFile  *os.File
	path      string
	log       hclog.Logger
	size      int64 // where the next record goes
	allocated int64
	at        map[opKey]span // the present value of each key
	live      int64          // bytes that a new file would take, about
	broken    bool           // a write failed: nobody knows what is on the disk
}

// span is where a value is.
type span struct {
	offset int64
	length int
}

const (
	journalHeader = "muster registry " + registryFormat + "\n"
	recordMagic   = "\xf5mr\x01" // in no text of a record: it is not UTF-8, so nobody can register something that looks like one
	recordHead    = len(recordMagic) + 8
	journalAhead  = 256 << 10 // bytes written ahead
	journalSlack  = 8 << 20   // outdated bytes that are always tolerated
	journalChunk  = 1 << 20   // bytes of a record of a file that is written anew
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// openJournal opens or makes the file and gives each present value to f, in no order. What can be read is kept, and the
// rest is told. A record that a crash cut off at the end was never acknowledged, but it looks like a damaged one that was.
func openJournal(path string, log hclog.Logger, f func(k opKey, value []byte)) (*journal, error) {
	j := &journal{path: path, log: log, at: map[opKey]span{}}
	var err error
	_, err = os.Lstat(path + ".lock")
	ran := err == nil
	// The lock has a file of its own, because the journal is replaced by a rename.
	if j.lockFile, err = os.OpenFile(path+".lock", os.O_CREATE|os.O_RDWR, 0o600); err != nil {
		return nil, err
	}
	if err := lockFile(j.lockFile); err != nil {
		return nil, errors.Join(fmt.Errorf("%s is in use by another process", path), j.lockFile.Close())
	}
	if err := j.open(ran, f); err != nil {
		return nil, errors.Join(err, j.close())
	}
	return j, nil
}

// open reads the file; ran says that an agent has used the directory before.
func (j *journal) open(ran bool, f func(k opKey, value []byte)) error {
	var err error
	if j.f, err = os.OpenFile(j.path, os.O_CREATE|os.O_RDWR, 0o600); err != nil {
		return err
	}
	data, err := io.ReadAll(j.f)
	if err != nil {
		return err
	}
	if len(bytes.Trim(data, "\x00")) == 0 {
		if ran { // a crash in the first milliseconds of the first start leaves this, too
			j.log.Warn("the file of saved registrations is missing or blank: what was registered here before is lost", "file", j.path)
		}
		return j.rewrite()
	}
	if head, _, _ := bytes.Cut(data, []byte("\n")); string(head)+"\n" != journalHeader {
		return fmt.Errorf("%s: its format is %.40q, this version reads %q", j.path, head, journalHeader)
	}
	damaged := j.scan(data)
	for k, s := range j.at {
		f(k, data[s.offset:s.offset+int64(s.length)])
	}
	j.allocated = int64(len(data))
	if damaged {
		return j.rewrite() // or the damage would be told at every start
	}
	return nil
}

// scan finds the records and fills the map; it reports whether it left anything out.
func (j *journal) scan(data []byte) (damaged bool) {
	j.size = int64(len(journalHeader))
	for {
		rest := data[j.size:]
		payload, ok := soundRecord(rest)
		if ok {
			ok = j.note(payload, j.size+int64(recordHead))
		}
		if ok {
			j.size += int64(recordHead + len(payload))
			continue
		}
		next := nextRecord(rest)
		if next < 0 {
			if tail := bytes.TrimRight(rest, "\x00"); len(tail) > 0 {
				j.log.Warn("the end of the saved registrations cannot be read and is dropped: a crash cut it off, or the file is damaged",
					"file", j.path, "offset", j.size, "bytes", len(tail))
				damaged = true
			}
			return damaged
		}
		j.log.Error("damaged part of the saved registrations is skipped", "file", j.path, "offset", j.size, "bytes", next)
		j.size, damaged = j.size+int64(next), true
	}
}

// soundRecord gives the payload of the record at the beginning of data.
func soundRecord(data []byte) ([]byte, bool) {
	if len(data) < recordHead || string(data[:len(recordMagic)]) != recordMagic {
		return nil, false
	}
	length, sum := binary.BigEndian.Uint32(data[4:]), binary.BigEndian.Uint32(data[8:])
	if uint64(length) > uint64(len(data)-recordHead) {
		return nil, false
	}
	payload := data[recordHead : recordHead+int(length)]
	return payload, crc32.Checksum(payload, castagnoli) == sum
}

// nextRecord finds a sound record after the beginning of data, -1 when there is none.
func nextRecord(data []byte) int {
	for from := 1; from < len(data); {
		i := bytes.Index(data[from:], []byte(recordMagic))
		if i < 0 {
			return -1
		}
		if _, ok := soundRecord(data[from+i:]); ok {
			return from + i
		}
		from += i + 1
	}
	return -1
}

// note applies the operations of a record whose payload is at offset. A payload with a right sum and wrong contents is
// no record of ours; nothing of it is applied.
func (j *journal) note(payload []byte, offset int64) bool {
	ops, ok := decodeOps(payload)
	if !ok {
		return false
	}
	for _, o := range ops {
		j.forget(o.key)
		if !o.gone {
			j.at[o.key] = span{offset + int64(o.at), o.length}
			j.live += footprint(o.key, o.length)
		}
	}
	return true
}

func (j *journal) forget(k opKey) {
	if s, ok := j.at[k]; ok {
		j.live -= footprint(k, s.length)
		delete(j.at, k)
	}
}

func footprint(k opKey, length int) int64 { return int64(len(k.bucket) + len(k.key) + length + 8) }

// append makes a batch durable; nil values delete. When it fails nothing of the batch will be there after a restart,
// or all of it.
func (j *journal) append(batch map[opKey][]byte) error {
	if j.broken || j.size > 2*j.live+journalSlack {
		if err := j.rewrite(); err != nil {
			return err
		}
	}
	payload := make([]byte, 0, 1024)
	for k, v := range batch {
		payload = appendOp(payload, k, v)
	}
	if err := j.write(payload); err != nil {
		j.broken = true
		return err
	}
	if err := j.sync(); err != nil {
		j.broken = true // what the disk has now is unknown, and syncing again would not tell (fsync(2))
		return err
	}
	j.note(payload, j.size+int64(recordHead))
	j.size += int64(recordHead + len(payload))
	return nil
}

// write puts a record at the end, without a sync.
func (j *journal) write(payload []byte) error {
	record := make([]byte, 0, recordHead+len(payload))
	record = append(record, recordMagic...)
	record = binary.BigEndian.AppendUint32(record, uint32(len(payload)))
	record = binary.BigEndian.AppendUint32(record, crc32.Checksum(payload, castagnoli))
	record = append(record, payload...)
	if end := j.size + int64(len(record)); end > j.allocated {
		if _, err := j.f.WriteAt(make([]byte, journalAhead), end); err != nil {
			return err
		}
		j.allocated = end + journalAhead
	}
	_, err := j.f.WriteAt(record, j.size)
	return err
}

func (j *journal) sync() error { return syncData(j.f) }

// rewrite puts a file with the present values only in the place of the old one.
func (j *journal) rewrite() (err error) {
	f, err := os.OpenFile(j.path+".new", os.O_CREATE|os.O_TRUNC|os.O_RDWR, 0o600)
	if err != nil {
		return err
	}
	next := &journal{f: f, path: j.path, at: make(map[opKey]span, len(j.at)), size: int64(len(journalHeader))}
	defer func() {
		if err != nil {
			err = errors.Join(err, f.Close())
		}
	}()
	if _, err := f.WriteAt([]byte(journalHeader), 0); err != nil {
		return err
	}
	if err := next.copyFrom(j); err != nil {
		return err
	}
	if err := f.Sync(); err != nil {
		return err
	}
	if err := os.Rename(j.path+".new", j.path); err != nil {
		return err
	}
	if err := syncDir(filepath.Dir(j.path)); err != nil {
		return err
	}
	_ = j.f.Close() // replaced
	j.f, j.size, j.allocated, j.at, j.live, j.broken = f, next.size, next.allocated, next.at, next.live, false
	return nil
}

func (j *journal) copyFrom(old *journal) error {
	var payload []byte
	flush := func() error {
		if len(payload) == 0 {
			return nil
		}
		if err := j.write(payload); err != nil {
			return err
		}
		j.note(payload, j.size+int64(recordHead))
		j.size += int64(recordHead + len(payload))
		payload = payload[:0]
		return nil
	}
	for k, s := range old.at {
		value := make([]byte, s.length)
		if _, err := old.f.ReadAt(value, s.offset); err != nil {
			return err
		}
		if payload = appendOp(payload, k, value); len(payload) > journalChunk {
			if err := flush(); err != nil {
				return err
			}
		}
	}
	return flush()
}

// close gives the file and its lock up.
func (j *journal) close() error {
	var err error
	if j.f != nil {
		err = j.f.Close()
	}
	return errors.Join(err, j.lockFile.Close())
}

// appendOp writes one operation: bucket and key as texts, then a byte: 0 for a deletion, 1 for a value, which follows.
func appendOp(b []byte, k opKey, value []byte) []byte {
	b = append(binary.AppendUvarint(b, uint64(len(k.bucket))), k.bucket...)
	b = append(binary.AppendUvarint(b, uint64(len(k.key))), k.key...)
	if value == nil {
		return append(b, 0)
	}
	b = append(b, 1)
	return append(binary.AppendUvarint(b, uint64(len(value))), value...)
}

// journalOp is an operation as read: where in the payload its value is.
type journalOp struct {
	key        opKey
	gone       bool
	at, length int
}

func decodeOps(payload []byte) ([]journalOp, bool) {
	var ops []journalOp
	pos := 0
	text := func() (start, length int, ok bool) {
		n, used := binary.Uvarint(payload[pos:])
		if used <= 0 || n > uint64(len(payload)-pos-used) {
			return 0, 0, false
		}
		start = pos + used
		pos = start + int(n)
		return start, int(n), true
	}
	for pos < len(payload) {
		b, bn, ok1 := text()
		if !ok1 {
			return nil, false
		}
		k, kn, ok2 := text()
		if !ok2 || pos >= len(payload) {
			return nil, false
		}
		o := journalOp{key: opKey{string(payload[b : b+bn]), string(payload[k : k+kn])}, gone: payload[pos] == 0}
		pos++
		if !o.gone {
			var ok bool
			if o.at, o.length, ok = text(); !ok {
				return nil, false
			}
		}
		ops = append(ops, o)
	}
	return ops, true
}

// syncDir makes a rename durable.
func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}
