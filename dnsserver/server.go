// Package dnsserver answers DNS questions about services and nodes: parse the name, look it up, choose records,
// build them, fit them into a packet.
//
//	c := dnsserver.DefaultConfig()
//	c.Addrs, c.Datacenter = []string{"127.0.0.1:8600"}, "dc1"
//	s, err := dnsserver.New(c, dnsserver.NewTreeSource(tree.Snap))
//	err = s.Start()              // api.service.consul. 0 IN A 10.0.0.7
//	defer s.Close(ctx)
//
// Names and answers follow the DNS interface of Consul 1.21, so that clients made for it work unchanged.
package dnsserver

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/miekg/dns"

	"github.com/musterhq/muster/catalog"
	"github.com/musterhq/muster/internal/connlimit"
)

const (
	maxQuery     = 4096    // bytes of a question over UDP; longer ones are cut and then malformed
	udpBuffer    = 1 << 20 // asked of the kernel, for bursts
	maxRecursing = 1024    // questions waiting for recursors
)

// Server is the DNS server. Start it once; all other methods may be called at any time from any goroutine.
type Server struct {
	src       Source
	log       hclog.Logger
	settings  atomic.Pointer[settings]
	counters  counters
	cookies   cookieSecret
	clients   *clients
	inflight  atomic.Int64
	buffers   sync.Pool // of *[]byte, for answers without records
	recursing chan struct{}

	ctx    context.Context // ends with Close
	cancel context.CancelFunc

	mu       sync.Mutex
	servers  []*dns.Server
	sockets  []*udpSocket
	addrs    []string
	tlsAddrs []string
	finished sync.WaitGroup
}

// New checks c and returns a Server that does nothing until Start.
func New(c Config, src Source) (*Server, error) {
	if src == nil {
		return nil, errors.New("dns: a source is needed")
	}
	st, err := newSettings(c)
	if err != nil {
		return nil, err
	}
	s := &Server{src: src, log: c.Logger, cookies: newCookieSecret(), clients: newClients(), recursing: make(chan struct{}, maxRecursing)}
	if s.log == nil {
		s.log = hclog.NewNullLogger()
	}
	s.buffers.New = func() any { b := make([]byte, 0, 512); return &b }
	s.settings.Store(st)
	s.ctx, s.cancel = context.WithCancel(context.Background())
	return s, nil
}

// Reload takes over what Config says can be reloaded. On an error nothing changes.
func (s *Server) Reload(c Config) error {
	commit, err := s.Prepare(c)
	if err == nil {
		commit()
	}
	return err
}

// Prepare does all of Reload that can fail; commit, which cannot, does the rest.
func (s *Server) Prepare(c Config) (commit func(), err error) {
	old := s.settings.Load().Config
	c.Addrs, c.TLSAddrs, c.TLS = old.Addrs, old.TLSAddrs, old.TLS
	c.Domain, c.AltDomain, c.Datacenter = old.Domain, old.AltDomain, old.Datacenter
	c.MaxInflight, c.MaxConns, c.MaxConnsClient = old.MaxInflight, old.MaxConns, old.MaxConnsClient
	c.Logger, c.Metrics, c.Places, c.Age = old.Logger, old.Metrics, old.Places, old.Age
	st, err := newSettings(c)
	if err != nil {
		return nil, err
	}
	return func() { s.settings.Store(st) }, nil
}

// Healthy gives the instances of a service with which a question would be answered now, before their number is
// limited, and whether instances in warning are left out. Errors are those of the Source.
func (s *Server) Healthy(ctx context.Context, service string) (list []*catalog.Instance, onlyPassing bool, err error) {
	onlyPassing = s.settings.Load().OnlyPassing
	a, err := s.src.Service(ctx, strings.ToLower(service))
	if err != nil {
		return nil, onlyPassing, err
	}
	return catalog.Choose(a.Instances, "", onlyPassing), onlyPassing, nil
}

// Start listens on every address over UDP and TCP and returns when all of them answer, or with the first error and
// nothing left open.
func (s *Server) Start() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.servers) > 0 || s.ctx.Err() != nil {
		return errors.New("dns: the server was started before")
	}
	st := s.settings.Load()
	for _, addr := range st.Addrs {
		pc, ln, err := listen(addr)
		if err != nil {
			s.abandon()
			return err
		}
		s.addrs = append(s.addrs, ln.Addr().String())
		if u, ok := newUDPSocket(handler{s, false}, pc); ok {
			s.sockets = append(s.sockets, u)
			s.finished.Go(u.serve)
		} else {
			s.serve(&dns.Server{PacketConn: pc, Handler: handler{s, false}, UDPSize: maxQuery})
		}
		s.serveConns(st, ln, nil)
	}
	for _, addr := range st.TLSAddrs {
		ln, err := net.Listen("tcp", addr)
		if err != nil {
			s.abandon()
			return listenError("tcp", addr, err)
		}
		s.tlsAddrs = append(s.tlsAddrs, ln.Addr().String())
		s.serveConns(st, ln, st.TLS)
	}
	if st.Metrics != nil {
		s.finished.Go(func() { s.counters.report(s.ctx, st.Metrics) })
	}
	return nil
}

// serveConns serves connections, plain or over TLS.
func (s *Server) serveConns(st *settings, ln net.Listener, secure *tls.Config) {
	ln = peerListener{connlimit.New(ln, connlimit.Limits{Total: st.MaxConns, PerClient: st.MaxConnsClient}, func(c net.Conn) {
		s.counters.connsRefused.Add(1)
		_ = c.Close()
	})}
	if secure != nil {
		ln = tls.NewListener(ln, secure)
	}
	s.serve(&dns.Server{
		Listener: ln, Handler: handler{s, true}, MaxTCPQueries: -1,
		ReadTimeout: tcpTimeout, IdleTimeout: func() time.Duration { return tcpIdle },
		DecorateReader: func(r dns.Reader) dns.Reader { return patientReader{r} },
	})
}

// serve runs d and returns once it can be shut down.
func (s *Server) serve(d *dns.Server) {
	started := make(chan struct{})
	d.NotifyStartedFunc = func() { close(started) }
	s.servers = append(s.servers, d)
	s.finished.Go(func() {
		if err := d.ActivateAndServe(); err != nil && s.ctx.Err() == nil {
			s.log.Error("dns listener stopped", "error", err)
		}
	})
	<-started
}

// abandon undoes a Start that failed half way.
func (s *Server) abandon() {
	for _, d := range s.servers {
		_ = d.Shutdown()
	}
	for _, u := range s.sockets {
		_ = u.stop(context.Background())
	}
	s.servers, s.sockets, s.addrs, s.tlsAddrs = nil, nil, nil, nil
}

// Addrs are the addresses listened on, in the order of Config.Addrs, with real port numbers.
func (s *Server) Addrs() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return append([]string(nil), s.addrs...)
}

// TLSAddrs are the addresses listened on for TLS, as Addrs.
func (s *Server) TLSAddrs() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return append([]string(nil), s.tlsAddrs...)
}

// Close stops listening, lets questions being answered finish until ctx ends, and returns ctx's error if some did
// not.
func (s *Server) Close(ctx context.Context) error {
	s.mu.Lock()
	servers, sockets := s.servers, s.sockets
	s.servers, s.sockets = nil, nil
	s.mu.Unlock()
	var errs []error
	for _, d := range servers {
		if err := d.ShutdownContext(ctx); err != nil && ctx.Err() != nil {
			errs = append(errs, fmt.Errorf("dns: stop: %w", err))
		}
	}
	for _, u := range sockets {
		if err := u.stop(ctx); err != nil {
			errs = append(errs, fmt.Errorf("dns: stop: %w", err))
		}
	}
	s.cancel()
	s.finished.Wait()
	return errors.Join(errs...)
}

// listen opens addr for UDP and TCP. With port 0 both get the same port.
func listen(addr string) (net.PacketConn, net.Listener, error) {
	host, port, err := net.SplitHostPort(addr)
	if err != nil {
		return nil, nil, fmt.Errorf("dns: address %q is not host:port: %w", addr, err)
	}
	for try := 0; ; try++ {
		ln, err := net.Listen("tcp", addr)
		if err != nil {
			return nil, nil, listenError("tcp", addr, err)
		}
		real := net.JoinHostPort(host, strconv.Itoa(ln.Addr().(*net.TCPAddr).Port))
		pc, err := net.ListenPacket("udp", real)
		if err == nil {
			if u, ok := pc.(*net.UDPConn); ok {
				_ = u.SetReadBuffer(udpBuffer) // best effort: the kernel may allow less
			}
			return pc, ln, nil
		}
		_ = ln.Close()
		if port != "0" || try == 10 {
			return nil, nil, listenError("udp", real, err)
		}
	}
}

func listenError(network, addr string, err error) error {
	switch {
	case errors.Is(err, syscall.EADDRINUSE):
		return fmt.Errorf("dns: cannot listen on %s %s: the port is in use by another program; stop it or choose another dns port: %w", network, addr, err)
	case errors.Is(err, syscall.EACCES):
		return fmt.Errorf("dns: cannot listen on %s %s: ports below 1024 need a privilege (CAP_NET_BIND_SERVICE): %w", network, addr, err)
	}
	return fmt.Errorf("dns: cannot listen on %s %s: %w", network, addr, err)
}
