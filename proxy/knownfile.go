package proxy

import (
	"bytes"
	"cmp"
	"crypto/sha256"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"maps"
	"net/http"
	"os"
	"runtime/debug"
	"slices"
	"time"

	"github.com/hashicorp/go-hclog"
	"go.etcd.io/bbolt"
	bolterrors "go.etcd.io/bbolt/errors"
)

// The file holds one record for each answer, below a digest of its key:
//
//	crc32c of the rest, 4 bytes; length of the head, 4 bytes; the head, JSON; the body of the answer
//
// and, under countKey, how many records there are.
const (
	knownBucket    = "answers 1" // the number is the format's
	countKey       = "count"     // the number of records, because a damaged page may hide some without a sign
	knownFileMode  = 0o600
	knownLockWait  = time.Second
	knownHeadLimit = 1 << 20
)

var crcTable = crc32.MakeTable(crc32.Castagnoli)

// knownHead is what a record says of its body.
type knownHead struct {
	Key     string
	Status  int
	Header  http.Header
	Index   uint64    `json:",omitempty"`
	Cluster string    `json:",omitempty"`
	At      time.Time // confirmed
}

func encodeKnown(kn *known) ([]byte, error) {
	a := kn.answer
	head, err := json.Marshal(knownHead{kn.key, a.Status, a.Header, a.Index, a.Cluster, kn.at.UTC()})
	if err != nil {
		return nil, err
	}
	b := make([]byte, 8, 8+len(head)+len(a.Body))
	binary.BigEndian.PutUint32(b[4:], uint32(len(head)))
	b = append(append(b, head...), a.Body...)
	binary.BigEndian.PutUint32(b, crc32.Checksum(b[4:], crcTable))
	return b, nil
}

var errBadRecord = errors.New("record is damaged")

// decodeKnown checks a record and copies what is in it.
func decodeKnown(b []byte) (*known, error) {
	if len(b) < 8 || crc32.Checksum(b[4:], crcTable) != binary.BigEndian.Uint32(b) {
		return nil, fmt.Errorf("%w: its checksum is wrong", errBadRecord)
	}
	n := binary.BigEndian.Uint32(b[4:])
	if n > knownHeadLimit || int(n) > len(b)-8 {
		return nil, fmt.Errorf("%w: its head is longer than itself", errBadRecord)
	}
	var h knownHead
	if err := json.Unmarshal(b[8:8+n], &h); err != nil {
		return nil, fmt.Errorf("%w: %w", errBadRecord, err)
	}
	if h.Key == "" || h.Status < 200 || h.Status > 599 {
		return nil, fmt.Errorf("%w: it has no key or no status", errBadRecord)
	}
	return &known{h.Key, &Answer{h.Status, h.Header, bytes.Clone(b[8+n:]), h.Index, h.Cluster}, h.At}, nil
}

// knownFile writes a Known behind it, a batch at a time.
type knownFile struct {
	k     *Known
	db    *bbolt.DB
	woken chan struct{} // something is dirty
	end   chan struct{}
	ended chan struct{}
}

// openFile takes over what the file holds, and begins to write to it. It never fails: without a file, answers are kept
// in memory.
func (k *Known) openFile() {
	log := k.cfg.Logger
	db, list, err := loadKnown(k.cfg.File)
	if err != nil && !errors.Is(err, bolterrors.ErrTimeout) {
		db, err = renewKnown(k.cfg.File, log, err, len(list))
	}
	// The newest in front, so that the oldest go first where the limits have become smaller.
	slices.SortFunc(list, func(a, b *known) int { return cmp.Or(a.at.Compare(b.at), cmp.Compare(a.key, b.key)) })
	for _, kn := range list {
		if k.entries[kn.key] == nil {
			k.enter(kn)
		}
	}
	k.shrink()
	if err != nil {
		log.Error("last known answers are kept in memory alone", "file", k.cfg.File, "error", err)
		return
	}
	k.file = &knownFile{k: k, db: db, woken: make(chan struct{}, 1), end: make(chan struct{}), ended: make(chan struct{})}
	if n := k.missing(); n > 0 {
		k.file.wake()
	}
	go k.file.run()
}

// renewKnown sets a damaged file aside and begins a new one.
func renewKnown(file string, log hclog.Logger, why error, saved int) (*bbolt.DB, error) {
	aside := file + ".damaged"
	log.Error("the file of last known answers is damaged: it is set aside and a new one is begun", "file", file, "aside", aside, "saved", saved, "error", why)
	if err := os.Rename(file, aside); err != nil {
		return nil, err
	}
	db, _, err := loadKnown(file)
	return db, err
}

// missing marks as dirty what the file does not hold: all of it, when the file is new.
func (k *Known) missing() int {
	_ = k.file.db.View(func(tx *bbolt.Tx) error {
		b := tx.Bucket([]byte(knownBucket))
		for key := range k.entries {
			if b == nil || b.Get(recordKey(key)) == nil {
				k.dirty[key] = struct{}{}
			}
		}
		return nil
	})
	return len(k.dirty)
}

func recordKey(key string) []byte {
	sum := sha256.Sum256([]byte(key))
	return sum[:]
}

var errTruncated = errors.New("file is shorter than it says")

// loadKnown opens a file and reads all of it. A damaged file makes bbolt panic, or fault where the file is shorter
// than it says; both are errors here, and what was read before is returned with them.
func loadKnown(path string) (db *bbolt.DB, list []*known, err error) {
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	opened := db
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("file cannot be read: %v", p)
		}
		if err != nil && opened != nil {
			_ = opened.Close()
			db = nil
		}
	}()
	if db, err = bbolt.Open(path, knownFileMode, &bbolt.Options{Timeout: knownLockWait}); err != nil {
		return nil, nil, err
	}
	opened = db
	err = db.View(func(tx *bbolt.Tx) error {
		if st, err := os.Stat(path); err != nil || st.Size() < tx.Size() {
			return errors.Join(err, errTruncated)
		}
		b := tx.Bucket([]byte(knownBucket))
		if b == nil {
			return nil
		}
		var bad error
		records, counted := uint64(0), uint64(0)
		err := b.ForEach(func(key, value []byte) error {
			if string(key) == countKey {
				counted, _ = binary.Uvarint(value)
				return nil
			}
			records++
			kn, err := decodeKnown(value)
			if err == nil && !bytes.Equal(key, recordKey(kn.key)) {
				err = fmt.Errorf("%w: it stands in another's place", errBadRecord)
			}
			if err != nil {
				bad = err
				return nil
			}
			list = append(list, kn)
			return nil
		})
		if bad == nil && records != counted {
			bad = fmt.Errorf("%w: there are %d records, %d were written", errBadRecord, records, counted)
		}
		return errors.Join(err, bad)
	})
	return db, list, err
}

// wake sees to a write, soon. A nil file has nothing to write.
func (f *knownFile) wake() {
	if f == nil {
		return
	}
	select {
	case f.woken <- struct{}{}:
	default:
	}
}

// run writes changes in batches until the end.
func (f *knownFile) run() {
	defer close(f.ended)
	for {
		select {
		case <-f.woken:
		case <-f.end:
			return
		}
		select {
		case <-time.After(f.k.cfg.Flush):
		case <-f.end:
			return
		}
		if err := f.flush(); err != nil {
			f.k.cfg.Logger.Error("writing last known answers; they are kept in memory", "file", f.k.cfg.File, "error", err)
			if errors.Is(err, errPanicked) {
				f.renew(err)
			}
		}
	}
}

var errPanicked = errors.New("file cannot be written")

// renew begins a new file with all that is known, because the present one is damaged inside.
func (f *knownFile) renew(why error) {
	k := f.k
	saved, _ := k.Size()
	db, err := renewKnown(k.cfg.File, k.cfg.Logger, why, saved)
	if err != nil {
		k.cfg.Logger.Error("no new file of last known answers", "error", err)
		return
	}
	f.db = db // the old one is not closed: it may be locked for ever
	k.mu.Lock()
	defer k.mu.Unlock()
	for key := range k.entries {
		k.dirty[key] = struct{}{}
	}
	f.wake()
}

// flush writes what has changed since the last one, in one transaction.
func (f *knownFile) flush() (err error) {
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("%w: %v", errPanicked, p)
		}
	}()
	k := f.k
	k.mu.Lock()
	dirty := k.dirty
	batch := make(map[string]known, len(dirty))
	for key := range dirty {
		if e := k.entries[key]; e != nil {
			batch[key] = *e.Value.(*known)
		}
	}
	k.dirty = map[string]struct{}{}
	k.mu.Unlock()
	if len(dirty) == 0 {
		return nil
	}
	defer func() {
		if err == nil {
			return
		}
		k.mu.Lock() // another time
		defer k.mu.Unlock()
		maps.Copy(k.dirty, dirty)
	}()
	return f.db.Update(func(tx *bbolt.Tx) error {
		b, err := tx.CreateBucketIfNotExists([]byte(knownBucket))
		if err != nil {
			return err
		}
		records, _ := binary.Uvarint(b.Get([]byte(countKey)))
		for key := range dirty {
			kn, ok := batch[key]
			switch there := b.Get(recordKey(key)) != nil; {
			case ok && !there:
				records++
			case !ok && there:
				records--
			}
			if !ok {
				if err := b.Delete(recordKey(key)); err != nil {
					return err
				}
				continue
			}
			value, err := encodeKnown(&kn)
			if err != nil {
				return err
			}
			if err := b.Put(recordKey(key), value); err != nil {
				return err
			}
		}
		return b.Put([]byte(countKey), binary.AppendUvarint(nil, records))
	})
}

// Close writes what is waiting and closes the file.
func (k *Known) Close() error {
	if k.file == nil {
		return nil
	}
	close(k.file.end)
	<-k.file.ended
	return errors.Join(k.file.flush(), k.file.db.Close())
}
