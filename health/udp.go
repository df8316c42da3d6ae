package health

import (
	"context"
	"fmt"
	"net"
)

// udpProber sends an empty datagram. UDP answers to nothing by itself, so any answer and silence until the timeout
// pass; a machine that says that nobody listens (ICMP) fails the check.
type udpProber struct{ addr string }

func (p udpProber) probe(ctx context.Context) (Status, string) {
	conn, err := new(net.Dialer).DialContext(ctx, "udp", p.addr)
	if err != nil {
		return Critical, err.Error()
	}
	defer conn.Close()
	stop := context.AfterFunc(ctx, func() { _ = conn.Close() })
	defer stop()
	if _, err := conn.Write(nil); err != nil {
		return Critical, err.Error()
	}
	var answer [1]byte // the rest of a datagram is dropped
	if _, err := conn.Read(answer[:]); err != nil && ctx.Err() == nil {
		return Critical, err.Error()
	}
	return Passing, fmt.Sprintf("UDP connect %s: Success", p.addr)
}
