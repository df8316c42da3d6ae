package agent

import (
	"testing"
	"time"

	"github.com/musterhq/muster/kv"
)

// TestMemberIDs holds the formula of the ids that clients know, and who gets which.
func TestMemberIDs(t *testing.T) {
	// From the contract: the salt of a first member is the name of its cluster, that of a later one the time.
	if id := saltedID([]string{"http://localhost:2380"}, "etcd-cluster"); id != 0x8e9e05c52164694d {
		t.Errorf("the id of the documented member is %x", id)
	}
	at := time.Unix(1700000000, 5)
	if a, b := announcedID([]string{"http://b:1", "http://a:1"}, at), announcedID([]string{"http://a:1", "http://b:1"}, at.Add(time.Millisecond)); a != b || a == announcedID([]string{"http://a:1", "http://b:1"}, at.Add(time.Second)) {
		t.Errorf("ids depend on more, or on less, than the set of URLs and the second: %x %x", a, b)
	}

	tree := kv.New(kv.Options{})
	defer tree.Close()
	put := func(path, value string) {
		if res := tree.Apply(kv.Txn{Ops: []kv.Op{{Kind: kv.OpSet, Path: path, Value: value}}})[0]; res.Code != kv.OK {
			t.Fatal(path, res.Code)
		}
	}
	put("m/members/a", `{"peerURLs":["http://10.0.0.1:8300","http://10.0.1.1:8300"]}`)
	put("m/members/b", `{"peerURLs":["http://10.0.0.2:8300"],"node":"u2","addr":"10.0.0.2:8300"}`)
	put("m/members/c", `not JSON`)
	put("m/members/nohex", `{"peerURLs":["http://10.0.0.3:8300"]}`)
	put("m/removed/d", `{"node":"u4","cluster":"c1","at":"2026-01-02T03:04:05Z"}`)
	put("m/removed/e", `{"cluster":"c1","at":"2026-01-02T03:04:05Z"}`)
	m := readMembers(tree.Snap())
	for _, c := range []struct {
		node, addr string
		want       uint64
		why        string
	}{
		{"u1", "10.0.0.1:8300", 0xa, "announced by its address"},
		{"u1", "10.0.1.1:8300", 0xa, "announced by its other address"},
		{"u2", "10.9.9.9:8300", 0xb, "it has the id wherever it is"},
		{"u3", "10.0.0.2:8300", memberID("u3"), "the address belongs to another server's record"},
		{"u3", "10.0.0.3:8300", memberID("u3"), "a record that cannot be read names nobody"},
	} {
		if got := m.idOf(c.node, c.addr); got != c.want {
			t.Errorf("server %s at %s is %x, want %x: %s", c.node, c.addr, got, c.want, c.why)
		}
	}
	if !m.removedServer("u4", "c1") || m.removedServer("u4", "c2") || m.removedServer("u1", "c1") || m.removedServer("", "c1") {
		t.Error("the wrong servers are removed")
	}
}
