package consensus

import (
	"testing"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/raft"
)

// TestSuffixReplacedByAnotherLeaderSurvivesARestart: entries that a new leader replaces are cut off the log, and what
// is left, with what came after, is there after a restart. The log store of 0.4.0 forgot where its entries were.
func TestSuffixReplacedByAnotherLeaderSurvivesARestart(t *testing.T) {
	dir := prepared(t)
	s, err := openStores(dir, hclog.NewNullLogger())
	if err != nil {
		t.Fatal(err)
	}
	for i := uint64(1); i <= 100; i++ {
		if err := s.logs.StoreLog(&raft.Log{Index: i, Term: 1, Data: []byte("data")}); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.close(); err != nil {
		t.Fatal(err)
	}
	for round := range uint64(3) {
		s, err := openStores(dir, hclog.NewNullLogger())
		if err != nil {
			t.Fatal(err)
		}
		last, err := s.logs.LastIndex()
		if err != nil {
			t.Fatal(err)
		}
		if err := s.logs.DeleteRange(last-4, last); err != nil {
			t.Fatal(err)
		}
		for i := last - 4; i <= last+10; i++ {
			if err := s.logs.StoreLog(&raft.Log{Index: i, Term: 2 + round, Data: []byte("data")}); err != nil {
				t.Fatal(err)
			}
		}
		if err := s.close(); err != nil {
			t.Fatal(err)
		}
		if s, err = openStores(dir, hclog.NewNullLogger()); err != nil {
			t.Fatal(err)
		}
		if err := s.checkIntact(dir, last+10); err != nil {
			t.Errorf("round %d: %v", round, err)
		}
		if err := s.close(); err != nil {
			t.Fatal(err)
		}
	}
}
