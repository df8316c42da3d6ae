package dnsserver

import (
	"context"
	"encoding/binary"
	"errors"
	"net"
	"os"
	"sync"
	"time"

	"github.com/miekg/dns"
	"golang.org/x/net/ipv4"
	"golang.org/x/net/ipv6"
)

// batch is how many questions are read, and answers written, by one system call.
const batch = 32

// udpSocket serves one address over UDP. Questions that a packed set answers are answered by the goroutine that
// reads them, for a goroutine and a system call each would cost more than the answer; all others get a goroutine.
type udpSocket struct {
	h    handler
	conn net.PacketConn
	many batches
	// everywhere: the socket is that of all addresses of the machine, and answers leave from the one that was asked.
	everywhere bool

	out     []ipv4.Message // answers of the present batch; of the reading goroutine alone
	queued  int
	pending sync.WaitGroup // questions with a goroutine
	ended   chan struct{}
}

// batches are what ipv4.PacketConn and ipv6.PacketConn have in common. Without such system calls they move one packet at
// a time.
type batches interface {
	ReadBatch(ms []ipv4.Message, flags int) (int, error)
	WriteBatch(ms []ipv4.Message, flags int) (int, error)
}

// newUDPSocket takes over conn. It reports false where the system cannot say which of the machine's addresses a question
// came to: package dns finds another way, or none.
func newUDPSocket(h handler, conn net.PacketConn) (*udpSocket, bool) {
	addr := addrOf(conn.LocalAddr())
	p4, p6 := ipv4.NewPacketConn(conn), ipv6.NewPacketConn(conn)
	if !addr.IsUnspecified() {
		if addr.Is4() {
			return makeUDPSocket(h, conn, p4), true
		}
		return makeUDPSocket(h, conn, p6), true
	}
	// That of all addresses takes both families where the system can.
	if p6.SetControlMessage(ipv6.FlagDst, true) != nil {
		return nil, false
	}
	u := makeUDPSocket(h, conn, p6)
	u.everywhere = true
	return u, true
}

func makeUDPSocket(h handler, conn net.PacketConn, many batches) *udpSocket {
	u := &udpSocket{h: h, conn: conn, many: many, out: make([]ipv4.Message, batch), ended: make(chan struct{})}
	for i := range u.out {
		u.out[i].Buffers = make([][]byte, 1)
	}
	return u
}

// serve answers until stop.
func (u *udpSocket) serve() {
	defer close(u.ended)
	in := make([]ipv4.Message, batch)
	for i := range in {
		in[i].Buffers = [][]byte{make([]byte, maxQuery)}
		if u.everywhere {
			in[i].OOB = ipv6.NewControlMessage(ipv6.FlagDst)
		}
	}
	for {
		n, err := u.many.ReadBatch(in, 0)
		switch {
		case errors.Is(err, os.ErrDeadlineExceeded), errors.Is(err, net.ErrClosed):
			return
		case err != nil:
			u.h.s.log.Error("dns: reading from a socket", "address", u.conn.LocalAddr().String(), "error", err)
			pause(u.h.s.ctx, 10*time.Millisecond)
			continue
		}
		for i := range in[:n] {
			u.answer(in[i].Buffers[0][:in[i].N], in[i].Addr, u.leave(in[i].OOB[:in[i].NN]))
		}
		u.flush()
	}
}

// leave makes of what the system says of a packet's arrival what it has to be told for the answer to leave from the same
// address; nil when it need not be told.
func (u *udpSocket) leave(arrived []byte) []byte {
	var cm ipv6.ControlMessage
	if !u.everywhere || cm.Parse(arrived) != nil || cm.Dst == nil {
		return nil
	}
	if v4 := cm.Dst.To4(); v4 != nil {
		return (&ipv4.ControlMessage{Src: v4}).Marshal()
	}
	return (&ipv6.ControlMessage{Src: cm.Dst}).Marshal()
}

// answer deals with one packet as package dns does: what is no question is ignored, what cannot be read is refused by a
// header alone.
func (u *udpSocket) answer(packet []byte, from net.Addr, leave []byte) {
	if len(packet) < 12 || from == nil {
		return
	}
	word := func(i int) uint16 { return binary.BigEndian.Uint16(packet[i:]) }
	h := dns.Header{Id: word(0), Bits: word(2), Qdcount: word(4), Ancount: word(6), Nscount: word(8), Arcount: word(10)}
	w, req := &udpWriter{socket: u, to: from, leave: leave, inBatch: true}, new(dns.Msg)
	action := dns.DefaultMsgAcceptFunc(h)
	if action == dns.MsgIgnore {
		return
	}
	if action == dns.MsgAccept && req.Unpack(packet) == nil {
		u.h.ServeDNS(w, req)
		return
	}
	no := dns.Msg{MsgHdr: dns.MsgHdr{Id: h.Id, Response: true, Opcode: int(h.Bits>>11) & 0xF, RecursionDesired: h.Bits&(1<<8) != 0, Rcode: dns.RcodeFormatError}}
	if action == dns.MsgRejectNotImplemented {
		no.Rcode = dns.RcodeNotImplemented
	}
	u.h.s.counters.refused.Add(1)
	_ = w.WriteMsg(&no)
}

// flush sends the answers of the batch. One that cannot be sent holds up no other.
func (u *udpSocket) flush() {
	for from := 0; from < u.queued; {
		n, err := u.many.WriteBatch(u.out[from:u.queued], 0)
		if err != nil {
			u.h.s.counters.writeFailed.Add(1)
			n = max(n, 0) + 1
		}
		from += n
	}
	u.queued = 0
}

// stop ends the reading, waits for what is being answered until ctx ends, and closes the socket.
func (u *udpSocket) stop(ctx context.Context) error {
	_ = u.conn.SetReadDeadline(time.Unix(1, 0))
	defer u.conn.Close()
	finished := make(chan struct{})
	go func() {
		<-u.ended
		u.pending.Wait()
		close(finished)
	}()
	select {
	case <-finished:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// udpWriter takes the answer to one packet: in the batch, or, for the goroutine of a question, on its own.
type udpWriter struct {
	socket  *udpSocket
	to      net.Addr
	leave   []byte // see udpSocket.leave
	inBatch bool
}

// later is the writer for a goroutine of the question.
func (w *udpWriter) later() *udpWriter { return &udpWriter{socket: w.socket, to: w.to, leave: w.leave} }

// Write keeps a copy: the caller uses b again.
func (w *udpWriter) Write(b []byte) (int, error) {
	u := w.socket
	if !w.inBatch {
		if w.leave == nil {
			return u.conn.WriteTo(b, w.to)
		}
		_, err := u.many.WriteBatch([]ipv4.Message{{Buffers: [][]byte{b}, OOB: w.leave, Addr: w.to}}, 0)
		return len(b), err
	}
	if u.queued == len(u.out) {
		u.flush()
	}
	m := &u.out[u.queued]
	m.Buffers[0], m.Addr, m.OOB = append(m.Buffers[0][:0], b...), w.to, w.leave
	u.queued++
	return len(b), nil
}

func (w *udpWriter) WriteMsg(m *dns.Msg) error {
	b, err := m.Pack()
	if err == nil {
		_, err = w.Write(b)
	}
	return err
}

func (w *udpWriter) LocalAddr() net.Addr  { return w.socket.conn.LocalAddr() }
func (w *udpWriter) RemoteAddr() net.Addr { return w.to }
func (w *udpWriter) Close() error         { return nil }
func (w *udpWriter) TsigStatus() error    { return nil }
func (w *udpWriter) TsigTimersOnly(bool)  {}
func (w *udpWriter) Hijack()              {}
