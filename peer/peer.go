// Package peer is the one port on which servers (and agents that relay to servers) talk to each other. It
// carries two kinds of traffic on the same TCP port, plain or under mutual TLS:
//
//   - relayed requests: ordinary HTTP over HTTP/2 (prior knowledge on a plain port, ALPN "h2" under TLS), handed
//     to the Handler of the Server;
//   - raft streams: HTTP/1.1 requests for RaftPath with "Upgrade: muster-raft", answered 101 and then used as raw
//     byte streams, offered as a raft stream layer.
//
// A server listens, a client dials:
//
//	srv, err := peer.Listen(peer.Config{Bind: "10.0.0.1:8300", Handler: relayed, Logger: log})
//	layer := srv.RaftLayer(dialer)               // Accept, Close, Addr, Dial: what raft needs
//
//	dialer := peer.NewDialer(peer.DialerConfig{})
//	req, _ := http.NewRequestWithContext(ctx, "GET", "http://10.0.0.1:8300/v1/kv/a", nil)
//	resp, err := dialer.Transport().RoundTrip(req)
//	if peer.IsRefused(err) { /* nothing ran there: another server may be asked */ }
package peer

import (
	"net"
	"time"

	"github.com/hashicorp/go-metrics"
)

// RaftPath is the path of the HTTP/1.1 Upgrade requests that become raft streams.
const RaftPath = "/v1/internal/raft"

// raftProtocol is the token of the Upgrade header. The number changes when the framing of the stream does.
const raftProtocol = "muster-raft"

// Defaults of the limits; each may be set in Config or DialerConfig.
const (
	DefaultHeaderTimeout  = 10 * time.Second // TLS handshake and request header
	DefaultIdleTimeout    = 3 * time.Minute  // kept-alive connection without a request
	DefaultMaxHeaderBytes = 1 << 20
	DefaultMaxConns       = 16384
	DefaultMaxStreams     = 16384 // requests at once on one HTTP/2 connection: long polls share it
	DefaultDialTimeout    = 2 * time.Second
	DefaultDialConns      = 256 // HTTP/1.1 connections to one server
	defaultRaftBacklog    = 64
	pingAfter             = 15 * time.Second // silence on an HTTP/2 connection before it is pinged
	pingTimeout           = 5 * time.Second
)

// keepAlive finds the peers whose machine vanished without a word.
var keepAlive = net.KeepAliveConfig{Enable: true, Idle: 15 * time.Second, Interval: 5 * time.Second, Count: 3}

// count adds one to a counter; a nil sink counts nothing.
func count(m *metrics.Metrics, name ...string) {
	if m != nil {
		m.IncrCounter(name, 1)
	}
}

func orDefault[T comparable](v, def T) T {
	var zero T
	if v == zero {
		return def
	}
	return v
}
