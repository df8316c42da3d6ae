package api

import (
	"io"
	"net"
	"strconv"
	"time"
)

// tooManyConns is the answer to a connection above the limit, written without reading a request.
const tooManyConns = "Your IP is issuing too many concurrent connections, please rate limit your calls\n"

// refuseConn answers 429, whoever asks for what. It reads for a moment before it closes, because closing with unread data would reset
// the connection and lose the answer.
func refuseConn(c net.Conn) {
	defer func() { _ = c.Close() }()
	_ = c.SetDeadline(time.Now().Add(500 * time.Millisecond))
	_, err := io.WriteString(c, "HTTP/1.1 429 Too Many Requests\r\nContent-Type: text/plain; charset=utf-8\r\nConnection: close\r\nContent-Length: "+
		strconv.Itoa(len(tooManyConns))+"\r\n\r\n"+tooManyConns)
	if err != nil {
		return
	}
	if l, ok := c.(*lazyConn); ok {
		c = l.Conn
	}
	if t, ok := c.(interface{ CloseWrite() error }); ok {
		_ = t.CloseWrite()
	}
	_, _ = io.CopyN(io.Discard, c, 64<<10)
}
