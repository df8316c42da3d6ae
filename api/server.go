package api

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/go-hclog"

	"github.com/musterhq/muster/internal/connlimit"
	"github.com/musterhq/muster/internal/farewell"
)

// Defaults of a Server.
const (
	DefaultReadHeaderTimeout = 10 * time.Second
	DefaultIdleTimeout       = 5 * time.Minute // longer than what usual clients keep an idle connection
	DefaultMaxHeaderBytes    = 64 << 10
)

// ServerConfig configures a Server. Addr and Handler are required.
type ServerConfig struct {
	Addr              string // "host:port", or "unix:///path/of/socket"
	Handler           http.Handler
	TLS               *tls.Config   // nil = plain
	ReadHeaderTimeout time.Duration // 0 = DefaultReadHeaderTimeout
	IdleTimeout       time.Duration // 0 = DefaultIdleTimeout
	MaxHeaderBytes    int           // 0 = DefaultMaxHeaderBytes
	MaxConnsPerClient int           // connections from one address (http_max_conns_per_client), 0 = no limit
	Logger            hclog.Logger
}

// Server is one client listener. It has no write timeout, because a blocking query may be silent for ten minutes.
//
//	s := api.NewServer(api.ServerConfig{Addr: "127.0.0.1:8500", Handler: router})
//	addr, err := s.Listen()
//	go func() { errc <- s.Serve() }()
//	...
//	s.Close(ctx)
type Server struct {
	cfg     ServerConfig
	http    http.Server
	ln      net.Listener
	refused atomic.Uint64 // connections above MaxConnsPerClient
	bye     farewell.Farewell

	stop     sync.Once
	stopping chan struct{} // closed when Close begins
	cancel   context.CancelCauseFunc
}

// NewServer makes a Server that does not listen yet.
func NewServer(c ServerConfig) *Server {
	if c.Logger == nil {
		c.Logger = hclog.NewNullLogger()
	}
	if c.ReadHeaderTimeout == 0 {
		c.ReadHeaderTimeout = DefaultReadHeaderTimeout
	}
	if c.IdleTimeout == 0 {
		c.IdleTimeout = DefaultIdleTimeout
	}
	if c.MaxHeaderBytes == 0 {
		c.MaxHeaderBytes = DefaultMaxHeaderBytes
	}
	stopping := make(chan struct{})
	base, cancel := context.WithCancelCause(WithStopping(context.Background(), stopping))
	s := &Server{cfg: c, cancel: cancel, stopping: stopping}
	s.http = http.Server{
		Handler:           s.bye.Wrap(c.Handler),
		TLSConfig:         c.TLS,
		ReadHeaderTimeout: c.ReadHeaderTimeout,
		IdleTimeout:       c.IdleTimeout,
		MaxHeaderBytes:    c.MaxHeaderBytes,
		BaseContext:       func(net.Listener) context.Context { return base },
		ErrorLog:          c.Logger.StandardLogger(&hclog.StandardLoggerOptions{InferLevels: false, ForceLevel: hclog.Debug}),
	}
	return s
}

// Listen binds the address and returns the one bound (useful with port 0). A stale unix socket is replaced.
func (s *Server) Listen() (net.Addr, error) {
	network, addr := "tcp", s.cfg.Addr
	if path, ok := strings.CutPrefix(addr, "unix://"); ok {
		network, addr = "unix", path
		if fi, err := os.Lstat(path); err == nil && fi.Mode()&os.ModeSocket != 0 {
			if c, err := net.Dial("unix", path); err == nil {
				_ = c.Close()
				return nil, fmt.Errorf("listen on %s: another process is listening there", s.cfg.Addr)
			}
			_ = os.Remove(path)
		}
	}
	ln, err := net.Listen(network, addr)
	if err != nil {
		return nil, fmt.Errorf("listen on %s: %w", s.cfg.Addr, err)
	}
	s.ln = ln
	return ln.Addr(), nil
}

// Serve answers requests until Close; it listens first if Listen was not called. It returns nil after Close.
func (s *Server) Serve() error {
	if s.ln == nil {
		if _, err := s.Listen(); err != nil {
			return err
		}
	}
	ln := net.Listener(lazyListener{s.ln})
	if s.cfg.MaxConnsPerClient > 0 {
		ln = connlimit.New(ln, connlimit.Limits{PerClient: s.cfg.MaxConnsPerClient}, func(c net.Conn) {
			s.refused.Add(1)
			go refuseConn(c)
		})
	}
	var err error
	if s.cfg.TLS != nil {
		err = s.http.ServeTLS(ln, "", "")
	} else {
		err = s.http.Serve(ln)
	}
	if errors.Is(err, http.ErrServerClosed) || s.bye.Leaving() {
		return nil
	}
	return fmt.Errorf("serve on %s: %w", s.cfg.Addr, err)
}

// endless is how long Close waits before it cancels requests: time for writes to be answered, and for streams to
// be the only ones left.
const endless = 500 * time.Millisecond

// Close stops listening, ends blocking queries with what they have, gives other requests half a second before
// their contexts are cancelled (streams never end by themselves), and waits for them until ctx is done; then it
// cuts what is left.
func (s *Server) Close(ctx context.Context) error {
	s.stop.Do(func() { close(s.stopping) })
	t := time.AfterFunc(endless, func() { s.cancel(ErrShutdown) })
	defer t.Stop()
	var err error
	if s.ln != nil {
		err = s.bye.Shutdown(ctx, &s.http, s.ln)
	}
	s.cancel(ErrShutdown)
	if err != nil {
		return fmt.Errorf("stop serving on %s: %w", s.cfg.Addr, err)
	}
	return nil
}

// RefusedConns counts the connections refused by MaxConnsPerClient.
func (s *Server) RefusedConns() uint64 { return s.refused.Load() }
