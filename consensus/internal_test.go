package consensus

import (
	"errors"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/raft"

	"github.com/musterhq/muster/kv"
)

func (a *acks) answer(id string, term uint64, sent int64, respTerm, match uint64) {
	a.record(raft.ServerID(id), sent,
		&raft.AppendEntriesRequest{Term: term, PrevLogEntry: match}, &raft.AppendEntriesResponse{Term: respTerm, Success: match != 0})
}

func TestAcksCountRequestsSentAfterTheRead(t *testing.T) {
	voters := []string{"b", "c", "d", "e"}
	a := &acks{voters: func() ([]string, bool) { return voters, true }}
	const read = 100 // the moment a read began
	a.answer("b", 7, 90, 7, 5)
	a.answer("c", 7, 95, 7, 5)
	if got := a.quorumSince(7); got != 90 {
		t.Fatalf("three of five confirm since %d, want 90", got)
	}
	// Answers that arrive now but belong to requests sent before the read prove nothing for it.
	a.answer("d", 7, 99, 7, 5)
	a.answer("e", 7, 99, 7, 5)
	if got := a.quorumSince(7); got > read {
		t.Fatalf("old answers count as of %d", got)
	}
	a.answer("b", 7, 101, 7, 6)
	a.answer("c", 7, 101, 8, 0) // has moved on to another term
	if got := a.quorumSince(7); got > read {
		t.Fatalf("a server of a later term counts as of %d", got)
	}
	a.answer("x", 7, 200, 7, 6) // no voter
	if got := a.quorumSince(7); got > read {
		t.Fatal("a server without a vote counts")
	}
	a.answer("d", 7, 102, 7, 6)
	if got := a.quorumSince(7); got != 101 {
		t.Fatalf("confirmed since %d, want 101", got)
	}
	if k, ok := a.of(7, "d"); !ok || k.match != 6 {
		t.Fatalf("%+v", k)
	}
	if got := a.quorumSince(8); got != 0 {
		t.Fatal("evidence of one term used for another")
	}
	a.answer("b", 9, 300, 9, 1)
	a.answer("c", 7, 400, 7, 1) // late, of a term that is over
	if got := a.quorumSince(9); got != 0 {
		t.Fatalf("evidence was carried into a new term: %d", got)
	}
}

func TestClusterClockIsNeverAhead(t *testing.T) {
	var c clusterClock
	if c.lastAlive() != 0 {
		t.Fatal("a fresh clock knows something")
	}
	const leader = int64(1_000_000_000_000) // the leader's wall clock; ours does not matter
	start := mono()
	c.applied(leader)
	if got := c.lastAlive(); got != leader {
		t.Fatalf("%d", got-leader)
	}
	for mono() == start {
		time.Sleep(time.Microsecond)
	}
	c.heartbeat()
	if got, most := c.lastAlive()-leader, mono()-start; got <= 0 || got > most {
		t.Fatalf("estimate moved by %d in %d", got, most)
	}
	before := c.lastAlive()
	c.applied(leader - 5) // older Txns change nothing
	c.keep(before - 1)
	if c.lastAlive() != before {
		t.Fatal("moved backwards")
	}
	c.keep(before + 10)
	if c.lastAlive() != before+10 {
		t.Fatal("the stamp is ignored")
	}
}

func TestUnreadableEntriesChangeNothing(t *testing.T) {
	tree := kv.New(kv.Options{})
	f := &fsm{tree: tree, log: hclog.NewNullLogger(), clock: &clusterClock{}, deadlineChanged: func() {}}
	good := kv.Txn{Ops: []kv.Op{{Kind: kv.OpSet, Path: "k/a", Value: "v"}}}.Marshal()
	res := f.ApplyBatch([]*raft.Log{
		{Type: raft.LogCommand, Data: good},
		{Type: raft.LogCommand, Data: []byte("\xff\xff\xffgarbage")},
		{Type: raft.LogConfiguration, Data: []byte("not ours")},
		{Type: raft.LogCommand},
		{Type: raft.LogCommand, Data: good},
	})
	if len(res) != 5 {
		t.Fatalf("%d responses", len(res))
	}
	for _, i := range []int{0, 4} {
		if r, ok := res[i].(*kv.Result); !ok || r.Code != kv.OK {
			t.Fatalf("response %d: %+v", i, res[i])
		}
	}
	if r, ok := res[1].(*kv.Result); !ok || r.Code == kv.OK {
		t.Fatalf("garbage: %+v", res[1])
	}
	if tree.Snap().Index() != 2 {
		t.Fatalf("index %d after two changes", tree.Snap().Index())
	}
}

func TestLogCache(t *testing.T) {
	s, err := openStores(prepared(t), hclog.NewNullLogger())
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = s.close() }()
	entry := func(i uint64, term uint64, size int) *raft.Log {
		return &raft.Log{Index: i, Term: term, Data: make([]byte, size), AppendedAt: time.Now()}
	}
	for i := uint64(1); i <= logCacheEntries+10; i++ {
		if err := s.logs.StoreLog(entry(i, 1, 10)); err != nil {
			t.Fatal(err)
		}
		if i == 5 {
			i++
			if err := s.logs.StoreLog(entry(i, 1, logCacheLargest+1)); err != nil {
				t.Fatal(err)
			}
		}
	}
	check := func(i, term uint64, size int) {
		t.Helper()
		var l raft.Log
		if err := s.logs.GetLog(i, &l); err != nil || l.Index != i || l.Term != term || len(l.Data) != size {
			t.Fatalf("entry %d: %+v %v", i, l, err)
		}
	}
	check(1, 1, 10) // no longer cached
	check(6, 1, logCacheLargest+1)
	check(logCacheEntries+10, 1, 10)
	// A suffix replaced by another leader's must not come back from the cache.
	if err := s.logs.DeleteRange(1000, logCacheEntries+10); err != nil {
		t.Fatal(err)
	}
	if err := s.logs.GetLog(1000, &raft.Log{}); !errors.Is(err, raft.ErrLogNotFound) {
		t.Fatalf("deleted entry: %v", err)
	}
	if err := s.logs.StoreLog(entry(1000, 2, 3)); err != nil {
		t.Fatal(err)
	}
	check(1000, 2, 3)
}

func prepared(t *testing.T) string {
	d, err := openDir(t.TempDir(), "x")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(d.close)
	return d.dir
}

func TestStampNeverForgetsACommit(t *testing.T) {
	d, err := openDir(t.TempDir(), "x")
	if err != nil {
		t.Fatal(err)
	}
	defer d.close()
	for _, c := range []struct{ at, index, want int64 }{{5, 100, 100}, {6, 0, 100}, {7, 101, 101}} {
		if err := d.stamp(c.at, uint64(c.index)); err != nil {
			t.Fatal(err)
		}
		if at, got := d.lastStamp(), d.lastCommitted(); at != c.at || got != uint64(c.want) {
			t.Errorf("after %+v: time %d, index %d", c, at, got)
		}
	}
}

func TestTrafficIsMeasuredOverTheLastMessages(t *testing.T) {
	var s traffic
	if got := s.read(0); got != (Traffic{}) {
		t.Fatalf("nothing sent: %+v", got)
	}
	at := int64(0)
	for range 1000 { // long ago, much faster
		at += int64(time.Microsecond)
		s.add(at, 1)
	}
	for range rateWindow {
		at += int64(10 * time.Millisecond)
		s.add(at, 500)
	}
	got := s.read(at + int64(time.Second))
	if got.Appends != 1000+rateWindow || got.PerSecond < 100 || got.PerSecond > 101 || got.BytesPerSecond < 50_000 || got.BytesPerSecond > 50_500 {
		t.Fatalf("%+v", got)
	}
	if got := s.read(at + int64(time.Second) + 1); got.PerSecond != 0 || got.BytesPerSecond != 0 || got.Appends != 1200 {
		t.Fatalf("after a second of silence: %+v", got)
	}
}

func TestFollowerAddsUp(t *testing.T) {
	var p follower
	for _, ms := range []int{2, 4, 4, 4, 5, 5, 7, 9} {
		p.add(time.Duration(ms)*time.Millisecond, true)
	}
	p.add(time.Hour, false)
	got := p.read("x")
	want := Follower{ID: "x", Current: 9 * time.Millisecond, Average: 5 * time.Millisecond, Deviation: 2 * time.Millisecond,
		Least: 2 * time.Millisecond, Longest: 9 * time.Millisecond, Succeeded: 8, Failed: 1}
	if got != want {
		t.Fatalf("%+v, want %+v", got, want)
	}
}
