package health

import (
	"context"
	"fmt"
	"net"
)

// tcpProber passes when a connection opens and, with TLS, when the handshake succeeds.
type tcpProber struct {
	addr string
	dial func(ctx context.Context, addr string) (net.Conn, error)
}

func newTCPProber(s Spec) *tcpProber {
	if s.TCPUseTLS {
		return &tcpProber{s.TCP, func(ctx context.Context, addr string) (net.Conn, error) { return dialTLS(ctx, s, addr) }}
	}
	return &tcpProber{s.TCP, dialPlain}
}

func dialPlain(ctx context.Context, addr string) (net.Conn, error) {
	return new(net.Dialer).DialContext(ctx, "tcp", addr)
}

func (p *tcpProber) probe(ctx context.Context) (Status, string) {
	conn, err := p.dial(ctx, p.addr)
	if err != nil {
		return Critical, err.Error()
	}
	_ = conn.Close() // the connection was the answer
	return Passing, fmt.Sprintf("TCP connect %s: Success", p.addr)
}
