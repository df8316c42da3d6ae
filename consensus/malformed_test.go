package consensus_test

import (
	"net"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/raft"

	"github.com/musterhq/muster/peer"
)

// stranger is a stream layer that only dials.
type stranger struct{ *peer.Dialer }

func (s stranger) Dial(addr raft.ServerAddress, timeout time.Duration) (net.Conn, error) {
	return s.Raft(string(addr), timeout)
}
func (stranger) Accept() (net.Conn, error) { return nil, net.ErrClosed }
func (stranger) Addr() net.Addr            { return &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1)} }
func (stranger) Close() error              { return nil }

// TestMalformedRequestsAreRefused sends a server what no server sends, as somebody who leads a later term: each would
// end the process, and none may change anything.
func TestMalformedRequestsAreRefused(t *testing.T) {
	c := newCluster(t, 1, onDisk)
	c.write("a", "1")
	m := c.leader()
	d := peer.NewDialer(peer.DialerConfig{})
	t.Cleanup(d.Close)
	trans := raft.NewNetworkTransportWithConfig(&raft.NetworkTransportConfig{Stream: stranger{d}, Timeout: 5 * time.Second})
	t.Cleanup(func() { _ = trans.Close() })
	from := raft.RPCHeader{ProtocolVersion: raft.ProtocolVersionMax, ID: []byte("x"), Addr: []byte("127.0.0.1:1")}
	target := raft.ServerAddress(m.cfg.Addr)

	for name, entries := range map[string][]*raft.Log{
		"a missing entry":              {nil},
		"an unknown type":              {{Index: 1, Term: 1000, Type: raft.LogConfiguration + 1}},
		"no configuration":             {{Index: 1, Term: 1000, Type: raft.LogConfiguration, Data: []byte("nonsense")}},
		"an empty configuration entry": {{Index: 1, Term: 1000, Type: raft.LogConfiguration}},
		"a gap":                        {{Index: 1, Term: 1000}, {Index: 3, Term: 1000}},
		"an end of all indexes":        {{Index: 1<<64 - 1, Term: 1000}},
	} {
		t.Run(name, func(t *testing.T) {
			args := &raft.AppendEntriesRequest{RPCHeader: from, Term: 1000, Entries: entries, LeaderCommitIndex: 3}
			if err := trans.AppendEntries("x", target, args, &raft.AppendEntriesResponse{}); err == nil {
				t.Error("it was taken")
			}
		})
	}
	t.Run("a snapshot without a configuration", func(t *testing.T) {
		args := &raft.InstallSnapshotRequest{RPCHeader: from, SnapshotVersion: 1, Term: 1000, LastLogIndex: 5, LastLogTerm: 5, Configuration: []byte("nonsense"), Size: 3}
		if err := trans.InstallSnapshot("x", target, args, &raft.InstallSnapshotResponse{}, strings.NewReader("abc")); err == nil {
			t.Error("it was taken")
		}
	})
	if c.leader() != m {
		t.Error("it does not lead any more")
	}
	c.write("a", "2")
}
