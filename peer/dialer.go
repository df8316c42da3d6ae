package peer

import (
	"bufio"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"time"

	"github.com/hashicorp/go-metrics"
)

// DialerConfig of a Dialer. The zero value dials plain with the defaults.
type DialerConfig struct {
	TLS     *TLS          // nil: plain
	Timeout time.Duration // to connect and to finish the TLS handshake, for relayed requests
	Metrics *metrics.Metrics
	// Dial replaces the TCP dial when set (tests cut the network here).
	Dial func(ctx context.Context, network, addr string) (net.Conn, error)
	// Few says that few dial the same servers, as servers do among themselves. Their short requests then go over
	// HTTP/1.1, with a connection each: a relayed write costs much less so. Crowds share connections by HTTP/2.
	Few bool
	// MaxConns bounds the connections of HTTP/1.1 to one server; 0 means DefaultDialConns. More requests than that wait
	// for one another.
	MaxConns int
}

// Dialer is the client side: raft streams, and pooled connections for relayed requests. Safe for
// concurrent use.
type Dialer struct {
	cfg         DialerConfig
	short, long *http.Transport
	waiting     held // connections that Drop breaks
}

// NewDialer makes a Dialer. Nothing is dialed before the first use.
func NewDialer(cfg DialerConfig) *Dialer {
	cfg.Timeout = orDefault(cfg.Timeout, DefaultDialTimeout)
	cfg.MaxConns = orDefault(cfg.MaxConns, DefaultDialConns)
	if cfg.Dial == nil {
		cfg.Dial = (&net.Dialer{KeepAliveConfig: keepAlive, Control: boundSilence}).DialContext
	}
	d := &Dialer{cfg: cfg}
	d.long = d.newPool(&d.waiting, "h2")
	if cfg.Few {
		d.short = d.newPool(&d.waiting, "http/1.1")
	} else {
		d.short = d.newPool(nil, "h2")
	}
	return d
}

// newPool makes one set of connections that speak proto; they are noted in h unless that is nil. HTTP/2 takes as a rule
// one per server, HTTP/1.1 one per request under way.
func (d *Dialer) newPool(h *held, proto string) *http.Transport {
	var protocols http.Protocols
	most := 0 // no limit: HTTP/2 opens further ones only as it needs them
	switch {
	case proto != "h2":
		protocols.SetHTTP1(true)
		most = d.cfg.MaxConns
	case d.cfg.TLS != nil:
		protocols.SetHTTP2(true)
	default:
		protocols.SetUnencryptedHTTP2(true)
	}
	dial := func(ctx context.Context, _, addr string) (net.Conn, error) {
		ctx, cancel := context.WithTimeout(ctx, d.cfg.Timeout)
		defer cancel()
		return d.connect(ctx, addr, proto, h)
	}
	return &http.Transport{
		Protocols:          &protocols,
		DialContext:        dial,
		DialTLSContext:     dial,
		DisableCompression: true, // bodies pass through as they are
		// Well before the server closes it: a write on a connection that is being closed has an unknown outcome.
		IdleConnTimeout:     DefaultIdleTimeout / 2,
		MaxIdleConnsPerHost: d.cfg.MaxConns,
		MaxConnsPerHost:     most,
		HTTP2: &http.HTTP2Config{
			SendPingTimeout: pingAfter,
			PingTimeout:     pingTimeout,
		},
	}
}

// DialError says that a connection was never established: refused, unreachable, timed out, or turned down in the
// TLS handshake. No request can have run there.
type DialError struct {
	Addr string
	Err  error
}

func (e *DialError) Error() string { return fmt.Sprintf("peer: connect to %s: %v", e.Addr, e.Err) }
func (e *DialError) Unwrap() error { return e.Err }

// IsRefused says whether err proves that the request never reached the server, so that asking another one is
// safe even for a write.
func IsRefused(err error) bool {
	var d *DialError
	return errors.As(err, &d)
}

// IsRefused is the function of the same name, at hand where a Dialer is passed as an interface.
func (d *Dialer) IsRefused(err error) bool { return IsRefused(err) }

// connect dials and, under TLS, shakes hands; every error is a *DialError.
func (d *Dialer) connect(ctx context.Context, addr, proto string, h *held) (net.Conn, error) {
	c, err := d.cfg.Dial(ctx, "tcp", addr)
	if err != nil {
		count(d.cfg.Metrics, "peer", "dial", "failed")
		return nil, &DialError{Addr: addr, Err: err}
	}
	if h != nil {
		c = h.add(addr, c)
	}
	if d.cfg.TLS == nil {
		return c, nil
	}
	tc := tls.Client(c, d.cfg.TLS.clientConfig(proto))
	err = tc.HandshakeContext(ctx)
	if got := tc.ConnectionState().NegotiatedProtocol; err == nil && got != proto {
		err = fmt.Errorf("the server chose protocol %q, want %q", got, proto)
	}
	if err != nil {
		_ = c.Close()
		count(d.cfg.Metrics, "peer", "dial", "failed")
		return nil, &DialError{Addr: addr, Err: err}
	}
	return tc, nil
}

// Raft opens a raft stream to the server at addr ("host:port") within timeout. An error is a *DialError when no
// connection came about; otherwise the other side answered something else than a raft stream.
func (d *Dialer) Raft(addr string, timeout time.Duration) (net.Conn, error) {
	if timeout <= 0 {
		timeout = d.cfg.Timeout
	}
	deadline := time.Now().Add(timeout)
	ctx, cancel := context.WithDeadline(context.Background(), deadline)
	defer cancel()
	c, err := d.connect(ctx, addr, "http/1.1", nil)
	if err != nil {
		return nil, err
	}
	stream, err := upgrade(c, addr, deadline)
	if err != nil {
		_ = c.Close()
		return nil, fmt.Errorf("peer: raft stream to %s: %w", addr, err)
	}
	return stream, nil
}

// upgrade asks for the raft stream on a fresh connection.
func upgrade(c net.Conn, addr string, deadline time.Time) (net.Conn, error) {
	_ = c.SetDeadline(deadline)
	_, err := io.WriteString(c, "GET "+RaftPath+" HTTP/1.1\r\nHost: "+addr+"\r\nConnection: Upgrade\r\nUpgrade: "+raftProtocol+"\r\n\r\n")
	if err != nil {
		return nil, err
	}
	// The limit holds for the header alone: what is read beyond it stays in the buffer and is handed on.
	limited := &io.LimitedReader{R: c, N: 64 << 10}
	br := bufio.NewReader(limited)
	resp, err := http.ReadResponse(br, nil)
	if err != nil {
		return nil, fmt.Errorf("answer is not HTTP (plain and TLS mixed up?): %w", err)
	}
	if resp.StatusCode != http.StatusSwitchingProtocols || !headerHas(resp.Header, "Upgrade", raftProtocol) {
		return nil, fmt.Errorf("answered %q in place of 101 Switching Protocols to %s", resp.Status, raftProtocol)
	}
	if err := c.SetDeadline(time.Time{}); err != nil {
		return nil, err
	}
	return withBuffered(c, br), nil
}

type longKey struct{}

// Long marks a request's context as a long poll or a stream: it then travels on connections of its own, so that
// short requests, writes above all, never queue behind its data.
func Long(ctx context.Context) context.Context { return context.WithValue(ctx, longKey{}, true) }

// Transport returns the RoundTripper for relayed requests. The URL names the server's address as host; its scheme
// is set to fit the Dialer. Bodies stream both ways. It is the caller's to bound a request by its context.
func (d *Dialer) Transport() http.RoundTripper { return (*relayTransport)(d) }

type relayTransport Dialer

func (t *relayTransport) RoundTrip(r *http.Request) (*http.Response, error) {
	scheme := "http"
	if t.cfg.TLS != nil {
		scheme = "https"
	}
	if r.URL.Scheme != scheme {
		u := *r.URL
		u.Scheme = scheme
		r2 := *r
		r2.URL = &u
		r = &r2
	}
	if long, _ := r.Context().Value(longKey{}).(bool); long {
		return t.long.RoundTrip(r)
	}
	return t.short.RoundTrip(r)
}

// Close drops idle connections. Running requests go on.
func (d *Dialer) Close() {
	d.short.CloseIdleConnections()
	d.long.CloseIdleConnections()
}
