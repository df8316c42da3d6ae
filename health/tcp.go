package health

import (
	"context"
	"crypto/tls"
	"fmt"
	"net"
)

// tcpProber passes when a connection opens and, with TLS, when the handshake succeeds.
type tcpProber struct {
	addr string
	dial func(ctx context.Context, network, addr string) (net.Conn, error)
}

func newTCPProber(s Spec) *tcpProber {
	if s.TCPUseTLS {
		return &tcpProber{s.TCP, (&tls.Dialer{Config: tlsConfig(s)}).DialContext}
	}
	return &tcpProber{s.TCP, (&net.Dialer{}).DialContext}
}

func (p *tcpProber) probe(ctx context.Context) (Status, string) {
	conn, err := p.dial(ctx, "tcp", p.addr)
	if err != nil {
		return Critical, err.Error()
	}
	_ = conn.Close() // the connection was the answer
	return Passing, fmt.Sprintf("TCP connect %s: Success", p.addr)
}
