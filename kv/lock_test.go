package kv_test

import (
	"fmt"
	"testing"

	"github.com/musterhq/muster/kv"
)

func acquire(path, session string) kv.Txn {
	return kv.Txn{Ops: []kv.Op{{Kind: kv.OpAcquire, Action: kv.ActAcquire, Path: path, Value: "by " + session, Owner: session, OwnerPath: "n/w1/l/" + session}}}
}

func TestLocks(t *testing.T) {
	tr := kv.New(kv.Options{})
	get := func(p string) string {
		e, ok := tr.Snap().Get(p)
		if !ok {
			return "none"
		}
		return fmt.Sprint(e.Value(), ",", e.Owner(), ",", e.LockIndex())
	}
	for i, c := range []struct {
		x    kv.Txn
		code kv.Code
		want string
	}{
		{acquire("k/l", "s1"), kv.NoSession, "none"},
		{put("n/w1/l/s1", "{}"), kv.OK, "none"},
		{kv.Txn{Ops: []kv.Op{{Kind: kv.OpSet, Path: "n/w1/l/s2", UserFlags: kv.SessionDeletes}}}, kv.OK, "none"},
		{acquire("k/l", "s1"), kv.OK, "by s1,s1,1"},
		{acquire("k/l", "s1"), kv.OK, "by s1,s1,1"},
		{acquire("k/l", "s2"), kv.NotOwner, "by s1,s1,1"},
		{kv.Txn{Ops: []kv.Op{{Kind: kv.OpRelease, Path: "k/l", Owner: "s2"}}}, kv.NotOwner, "by s1,s1,1"},
		{kv.Txn{Ops: []kv.Op{{Kind: kv.OpSet, Path: "k/l", Value: "p", Flags: kv.Flat | kv.KeepLock}}}, kv.OK, "p,s1,0"},
		{kv.Txn{Ops: []kv.Op{{Kind: kv.OpRelease, Path: "k/l", Owner: "s1", Value: "r"}}}, kv.OK, "r,,0"},
		{kv.Txn{Ops: []kv.Op{{Kind: kv.OpRelease, Path: "k/l", Owner: ""}}}, kv.NotOwner, "r,,0"},
		{acquire("k/l", "s2"), kv.OK, "by s2,s2,1"},
		{put("k/l", "h"), kv.OK, "h,,0"},
		{acquire("k/l", "s1"), kv.OK, "by s1,s1,1"},
		{acquire("k/m", "s2"), kv.OK, "by s1,s1,1"},
	} {
		if res := tr.Apply(c.x)[0]; res.Code != c.code || get("k/l") != c.want {
			t.Fatalf("step %d: code %v, lock %q; want %v, %q", i, res.Code, get("k/l"), c.code, c.want)
		}
	}
	w := mustWatch(t, tr, "k", 0, true)
	before := tr.Snap().Index()
	wait := tr.Snap().Wait("v/l/s1")
	defer wait.Stop()
	tr.Apply(kv.Txn{Ops: []kv.Op{{Kind: kv.OpDeleteTree, Path: "n/w1", Action: kv.ActDelete}}})
	if get("k/l") != "by s1,,1" || get("k/m") != "none" || get("v/l") != "none" {
		t.Fatal("the end of the node did not free its locks: ", get("k/l"), get("k/m"), get("v/l"))
	}
	<-wait.C
	for i, want := range []string{"k/l", "k/m"} {
		ev, err := w.Next(soon(t))
		if err != nil || ev.Path != want || ev.Index != before+2+uint64(i) || ev.Action != []kv.Action{kv.ActRelease, kv.ActDelete}[i] {
			t.Fatalf("%+v, %v", ev, err)
		}
	}
}

// An expired session frees its locks in the Txn that expires it; a failing Txn leaves deadlines and locks alone.
func TestSessionExpires(t *testing.T) {
	tr := kv.New(kv.Options{})
	tr.Apply(kv.Txn{Ops: []kv.Op{{Kind: kv.OpSet, Path: "n/w1/l/s1", Expires: 50}}}, acquire("k/l", "s1"))
	hash := tr.Snap().Hash()
	res := tr.Apply(kv.Txn{Ops: []kv.Op{{Kind: kv.OpExpire, Cutoff: 60}, {Kind: kv.OpSet, Path: "k"}}})[0]
	if res.Code != kv.RootOnly || tr.Snap().Hash() != hash || tr.NextExpiry() != 50 {
		t.Fatalf("%+v, next expiry %d", res, tr.NextExpiry())
	}
	res = tr.Apply(kv.Txn{Ops: []kv.Op{{Kind: kv.OpExpire, Action: kv.ActExpire, Cutoff: 60}}})[0]
	if e, _ := tr.Snap().Get("k/l"); res.Code != kv.OK || res.Index != 4 || res.Ops[0].Count != 1 || e.Owner() != "" || tr.NextExpiry() != 0 {
		t.Fatalf("%+v", res)
	}
}

// Refreshing deadlines for ever costs no memory for ever.
func TestDeadlinesAreForgotten(t *testing.T) {
	tr := kv.New(kv.Options{})
	for i := range 20_000 {
		tr.Apply(kv.Txn{Ops: []kv.Op{{Kind: kv.OpSet, Path: "k/a", Expires: int64(1 + i)}}})
	}
	if n := kv.Deadlines(tr); n > 3000 {
		t.Fatalf("%d deadlines are kept for one entry", n)
	}
	if tr.NextExpiry() != 20_000 {
		t.Fatal(tr.NextExpiry())
	}
}
