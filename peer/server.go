package peer

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"sync"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/go-metrics"

	"github.com/musterhq/muster/internal/connlimit"
	"github.com/musterhq/muster/internal/farewell"
)

// Config of a Server. Only Bind (or Listener) is needed; zero limits mean the defaults above.
type Config struct {
	Bind     string       // "ip:port" to listen on
	Listener net.Listener // used instead of Bind when set; the Server closes it
	TLS      *TLS         // nil: plain
	Handler  http.Handler // relayed requests; nil answers 503
	// Base is what the contexts of relayed requests are derived from; nil: context.Background().
	Base    context.Context
	Logger  hclog.Logger
	Metrics *metrics.Metrics

	HeaderTimeout  time.Duration // for the TLS handshake, and again for the request header
	IdleTimeout    time.Duration // of a connection without a request
	MaxHeaderBytes int
	MaxConns       int // open connections; one more is closed at once
	// MaxConnsPerClient are those of one address, which a client that has gone wrong or means harm can take; 0: as many
	// as there are. A server dials another up to DialerConfig.MaxConns times and a few more.
	MaxConnsPerClient int
	MaxStreams        int // requests at once per HTTP/2 connection
}

// Server is the listening side. All methods are safe for concurrent use.
type Server struct {
	cfg   Config
	ln    *connlimit.Listener
	http  *http.Server
	raft  acceptor
	bye   farewell.Farewell
	done  chan struct{} // closed when the accept loop has ended
	once  sync.Once
	cause error // what ended the accept loop, valid after done
}

// Listen opens the port and serves it until Close.
func Listen(cfg Config) (*Server, error) {
	cfg.HeaderTimeout = orDefault(cfg.HeaderTimeout, DefaultHeaderTimeout)
	cfg.IdleTimeout = orDefault(cfg.IdleTimeout, DefaultIdleTimeout)
	cfg.MaxHeaderBytes = orDefault(cfg.MaxHeaderBytes, DefaultMaxHeaderBytes)
	cfg.MaxConns = orDefault(cfg.MaxConns, DefaultMaxConns)
	cfg.MaxStreams = orDefault(cfg.MaxStreams, DefaultMaxStreams)
	if cfg.Logger == nil {
		cfg.Logger = hclog.NewNullLogger()
	}
	ln := cfg.Listener
	if ln == nil {
		lc := net.ListenConfig{KeepAliveConfig: keepAlive}
		var err error
		if ln, err = lc.Listen(context.Background(), "tcp", cfg.Bind); err != nil {
			return nil, fmt.Errorf("peer: listen on server port: %w", err)
		}
	}

	s := &Server{cfg: cfg, done: make(chan struct{})}
	s.raft.init(defaultRaftBacklog)
	s.ln = connlimit.New(ln, connlimit.Limits{Total: cfg.MaxConns, PerClient: cfg.MaxConnsPerClient}, func(c net.Conn) {
		count(cfg.Metrics, "peer", "conn", "refused")
		_ = c.Close()
	})
	var protocols http.Protocols
	protocols.SetHTTP1(true)
	protocols.SetHTTP2(cfg.TLS != nil)
	protocols.SetUnencryptedHTTP2(cfg.TLS == nil || cfg.TLS.spec.AcceptPlain)
	if cfg.Base == nil {
		cfg.Base = context.Background()
	}
	s.http = &http.Server{
		BaseContext:       func(net.Listener) context.Context { return cfg.Base },
		Handler:           s.bye.Wrap(http.HandlerFunc(s.serveHTTP)),
		Protocols:         &protocols,
		ReadHeaderTimeout: cfg.HeaderTimeout, // net/http bounds the TLS handshake by it too
		IdleTimeout:       cfg.IdleTimeout,
		MaxHeaderBytes:    cfg.MaxHeaderBytes,
		// Noise from scanners and half-open peers is for whoever debugs, not for the operator's log.
		ErrorLog: cfg.Logger.StandardLogger(&hclog.StandardLoggerOptions{ForceLevel: hclog.Debug}),
		HTTP2: &http.HTTP2Config{
			MaxConcurrentStreams: cfg.MaxStreams,
			SendPingTimeout:      pingAfter,
			PingTimeout:          pingTimeout,
		},
	}
	if cfg.TLS != nil {
		s.http.TLSConfig = cfg.TLS.serverConfig()
	}
	go s.serve()
	return s, nil
}

func (s *Server) serve() {
	defer close(s.done)
	switch {
	case s.cfg.TLS == nil:
		s.cause = s.http.Serve(s.ln)
	case s.cfg.TLS.spec.AcceptPlain:
		s.cause = s.http.Serve(newEither(s.ln, s.http.TLSConfig, s.cfg.HeaderTimeout))
	default:
		s.cause = s.http.ServeTLS(s.ln, "", "")
	}
	if !errors.Is(s.cause, http.ErrServerClosed) && !s.bye.Leaving() {
		s.cfg.Logger.Error("server port stopped accepting", "error", s.cause)
		s.raft.close()
	}
}

func (s *Server) serveHTTP(w http.ResponseWriter, r *http.Request) {
	switch {
	case r.URL.Path == RaftPath:
		s.serveRaft(w, r)
	case s.cfg.Handler == nil:
		http.Error(w, "this server relays nothing yet", http.StatusServiceUnavailable)
	default:
		s.cfg.Handler.ServeHTTP(w, r)
	}
}

// Addr is the address that is really bound (useful with port 0).
func (s *Server) Addr() net.Addr { return s.ln.Addr() }

// Conns is how many connections are open, raft streams included.
func (s *Server) Conns() int { return s.ln.Open() }

// Close stops accepting, ends the raft streams, and waits for requests that run or are on their way until ctx is done;
// then it cuts them. The returned error is ctx's when requests had to be cut. Further calls do nothing.
func (s *Server) Close(ctx context.Context) error {
	var err error
	s.once.Do(func() {
		s.raft.close()
		err = s.bye.Shutdown(ctx, s.http, s.ln)
		<-s.done
	})
	return err
}
