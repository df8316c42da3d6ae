package consensus

import (
	"encoding/binary"
	"errors"
	"path/filepath"

	"github.com/hashicorp/raft"
	wal "github.com/hashicorp/raft-wal"
	"go.etcd.io/bbolt"
)

// boltStore is the losing candidate for the log store, kept beside the benchmark that decided (see DESIGN.md): a
// raft.LogStore on bbolt without a synced freelist.
type boltStore struct {
	db    *bbolt.DB
	codec wal.BinaryCodec
}

var logsBucket = []byte("logs")

func openBolt(dir string) (*boltStore, error) {
	db, err := bbolt.Open(filepath.Join(dir, "raft.db"), 0o600, &bbolt.Options{NoFreelistSync: true, FreelistType: bbolt.FreelistMapType})
	if err != nil {
		return nil, err
	}
	err = db.Update(func(tx *bbolt.Tx) error {
		_, err := tx.CreateBucketIfNotExists(logsBucket)
		return err
	})
	return &boltStore{db: db}, err
}

func (s *boltStore) FirstIndex() (i uint64, err error) {
	err = s.db.View(func(tx *bbolt.Tx) error {
		if k, _ := tx.Bucket(logsBucket).Cursor().First(); k != nil {
			i = binary.BigEndian.Uint64(k)
		}
		return nil
	})
	return i, err
}

func (s *boltStore) LastIndex() (i uint64, err error) {
	err = s.db.View(func(tx *bbolt.Tx) error {
		if k, _ := tx.Bucket(logsBucket).Cursor().Last(); k != nil {
			i = binary.BigEndian.Uint64(k)
		}
		return nil
	})
	return i, err
}

func (s *boltStore) GetLog(i uint64, l *raft.Log) error {
	return s.db.View(func(tx *bbolt.Tx) error {
		v := tx.Bucket(logsBucket).Get(binary.BigEndian.AppendUint64(nil, i))
		if v == nil {
			return raft.ErrLogNotFound
		}
		return s.codec.Decode(v, l)
	})
}

type appender []byte

func (a *appender) Write(p []byte) (int, error) { *a = append(*a, p...); return len(p), nil }

func (s *boltStore) StoreLog(l *raft.Log) error { return s.StoreLogs([]*raft.Log{l}) }

func (s *boltStore) StoreLogs(ls []*raft.Log) error {
	return s.db.Update(func(tx *bbolt.Tx) error {
		b := tx.Bucket(logsBucket)
		b.FillPercent = 1 // appended in order
		for _, l := range ls {
			var v appender
			if err := s.codec.Encode(l, &v); err != nil {
				return err
			}
			if err := b.Put(binary.BigEndian.AppendUint64(nil, l.Index), v); err != nil {
				return err
			}
		}
		return nil
	})
}

func (s *boltStore) DeleteRange(lo, hi uint64) error {
	return s.db.Update(func(tx *bbolt.Tx) error {
		c := tx.Bucket(logsBucket).Cursor()
		for k, _ := c.Seek(binary.BigEndian.AppendUint64(nil, lo)); k != nil && binary.BigEndian.Uint64(k) <= hi; k, _ = c.Next() {
			if err := c.Delete(); err != nil {
				return err
			}
		}
		return nil
	})
}

func (s *boltStore) Close() error { return errors.Join(s.db.Close()) }
