package health

import (
	"context"
	"fmt"
	"net"

	"golang.org/x/net/http2"
)

// h2Prober opens an HTTP/2 connection and passes when a PING frame is answered.
type h2Prober struct {
	addr string
	dial func(ctx context.Context, addr string) (net.Conn, error)
}

func newH2Prober(s Spec) *h2Prober {
	if !s.H2PingUseTLS {
		return &h2Prober{s.H2PING, dialPlain}
	}
	return &h2Prober{s.H2PING, func(ctx context.Context, addr string) (net.Conn, error) {
		return dialTLS(ctx, s, addr, http2.NextProtoTLS)
	}}
}

func (p *h2Prober) probe(ctx context.Context) (Status, string) {
	conn, err := p.dial(ctx, p.addr)
	if err != nil {
		return Critical, fmt.Sprintf("Failed to dial to %s: %s", p.addr, err)
	}
	defer conn.Close()
	stop := context.AfterFunc(ctx, func() { _ = conn.Close() })
	defer stop()
	if err := h2Ping(conn); err != nil {
		if ctx.Err() != nil {
			err = ctx.Err()
		}
		return Critical, fmt.Sprintf("HTTP2 ping failed: %s", err)
	}
	return Passing, "HTTP2 ping was successful"
}

// maxH2Frames is how many frames a server may send before it answers a ping; a sound one sends three or four.
const maxH2Frames = 64

// h2Ping speaks just enough of HTTP/2 (RFC 9113, 3.4 and 6.7) for one ping.
func h2Ping(conn net.Conn) error {
	if _, err := conn.Write([]byte(http2.ClientPreface)); err != nil {
		return err
	}
	f := http2.NewFramer(conn, conn)
	f.SetMaxReadFrameSize(16 << 10) // the least that every peer must accept, and the most we have allowed
	data := [8]byte{'m', 'u', 's', 't', 'e', 'r'}
	if err := f.WriteSettings(); err != nil {
		return err
	}
	if err := f.WritePing(false, data); err != nil {
		return err
	}
	for range maxH2Frames {
		frame, err := f.ReadFrame()
		if err != nil {
			return err
		}
		switch frame := frame.(type) {
		case *http2.SettingsFrame:
			if !frame.IsAck() {
				err = f.WriteSettingsAck()
			}
		case *http2.PingFrame:
			if frame.IsAck() && frame.Data == data {
				return nil
			}
		case *http2.GoAwayFrame:
			err = fmt.Errorf("the server refused the connection: %s", frame.ErrCode)
		}
		if err != nil {
			return err
		}
	}
	return fmt.Errorf("no answer to the ping among %d frames", maxH2Frames)
}
