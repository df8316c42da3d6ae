package peer

import "syscall"

// tcpUserTimeout is TCP_USER_TIMEOUT (RFC 5482, tcp(7)): milliseconds that sent data may go unacknowledged.
const tcpUserTimeout = 0x12

// boundSilence makes a connection over which nothing arrives end as soon as a probe would end it. Without it a
// request sent to a machine that vanished is repeated by the kernel for a quarter of an hour.
func boundSilence(_, _ string, c syscall.RawConn) error {
	var err error
	cerr := c.Control(func(fd uintptr) {
		err = syscall.SetsockoptInt(int(fd), syscall.IPPROTO_TCP, tcpUserTimeout, int((pingAfter + pingTimeout).Milliseconds()))
	})
	if cerr != nil {
		return cerr
	}
	return err
}
