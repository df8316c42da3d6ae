package health

import (
	"context"
	"crypto/tls"
	"net"
	"net/http"
	"net/url"
	"os"
	"strings"
	"sync"
)

// Host is what the checks of one machine share: how they reach its Docker and its systemd, and the transports of
// their requests, one for each way of TLS instead of one for each check. The zero value is ready and suits most
// machines. Safe for concurrent use; its fields must not change once a check was started with it.
type Host struct {
	Docker    string // address of the Docker daemon: unix:///path or tcp://host:port; "" = DOCKER_HOST, else the usual socket
	Systemctl string // the program; "" = systemctl, where systemd runs

	// TLS gives what the TLS of every check begins with, its authorities and its own certificate, asked for each
	// attempt: the same value for as long as it says the same. nil, or a nil value = the system's authorities and no
	// certificate.
	TLS func() *tls.Config

	mu         sync.Mutex
	transports map[transportKey]transport
}

// defaultDocker is where the daemon listens unless it was told otherwise.
const defaultDocker = "unix:///var/run/docker.sock"

// runsSystemd is there when the machine was booted by systemd (see sd_booted(3)).
const runsSystemd = "/run/systemd/system"

type transportKey struct {
	serverName string
	skipVerify bool
	h2         bool // HTTP/2 only, in the clear unless tls
	tls        bool
}

// transport is what requests of one kind share, and the TLS it was made for.
type transport struct {
	*http.Transport
	base *tls.Config
}

// requests carries the requests of one check by the transport of the moment.
type requests struct {
	host *Host
	key  transportKey
}

// requests gives what carries the requests of a check; h2 asks for HTTP/2 and nothing else.
func (h *Host) requests(s Spec, h2 bool) requests {
	return requests{h, transportKey{s.TLSServerName, s.TLSSkipVerify, h2, h2 && s.GRPCUseTLS}}
}

// RoundTrip implements http.RoundTripper.
func (r requests) RoundTrip(req *http.Request) (*http.Response, error) {
	return r.host.transport(r.key).RoundTrip(req)
}

// transport gives the transport for a key, a new one when the host's TLS has changed.
//
// Connections are not kept: a reused one proves only that an old process lives, and a service that accepts nothing
// new would look healthy. Sharing saves memory, not connections. No proxy of the environment may answer in the
// service's place.
func (h *Host) transport(key transportKey) *http.Transport {
	base := h.baseTLS()
	h.mu.Lock()
	defer h.mu.Unlock()
	if t, ok := h.transports[key]; ok && t.base == base {
		return t.Transport
	}
	t := &http.Transport{DisableKeepAlives: true, MaxResponseHeaderBytes: maxHeaderBytes, TLSClientConfig: tlsConfig(base, key.serverName, key.skipVerify)}
	if key.h2 {
		t.Protocols = new(http.Protocols)
		t.Protocols.SetHTTP2(key.tls)
		t.Protocols.SetUnencryptedHTTP2(!key.tls)
	}
	if h.transports == nil {
		h.transports = map[transportKey]transport{}
	}
	h.transports[key] = transport{t, base}
	return t
}

func (h *Host) baseTLS() *tls.Config {
	if h.TLS == nil {
		return nil
	}
	return h.TLS()
}

// tlsConfig is the TLS of one check.
func tlsConfig(base *tls.Config, serverName string, skipVerify bool) *tls.Config {
	c := new(tls.Config)
	if base != nil {
		c = base.Clone()
	}
	c.ServerName, c.InsecureSkipVerify = serverName, skipVerify
	return c
}

// dialTLS opens a connection with TLS for a check, which may name the protocols to offer.
func dialTLS(ctx context.Context, s Spec, addr string, protocols ...string) (net.Conn, error) {
	c := tlsConfig(s.Host.baseTLS(), s.TLSServerName, s.TLSSkipVerify)
	c.NextProtos = protocols
	return (&tls.Dialer{Config: c}).DialContext(ctx, "tcp", addr)
}

func (h *Host) systemctl() string {
	if h != nil && h.Systemctl != "" {
		return h.Systemctl
	}
	return "systemctl"
}

// hasSystemd says whether units can be asked for.
func (h *Host) hasSystemd() bool {
	if h != nil && h.Systemctl != "" {
		return true
	}
	_, err := os.Stat(runsSystemd)
	return err == nil
}

// docker is a client for the daemon and the base of its URLs.
func (h *Host) docker() (*http.Client, string, error) {
	addr := h.Docker
	if addr == "" {
		addr = os.Getenv("DOCKER_HOST")
	}
	if addr == "" {
		addr = defaultDocker
	}
	u, err := url.Parse(addr)
	if err != nil {
		return nil, "", &InvalidError{"the address of Docker must be unix:///path or tcp://host:port"}
	}
	t := &http.Transport{DisableKeepAlives: true, MaxResponseHeaderBytes: maxHeaderBytes}
	switch u.Scheme {
	case "tcp", "http":
		return &http.Client{Transport: t}, "http://" + u.Host, nil
	case "unix":
		path := strings.TrimPrefix(addr, "unix://")
		t.DialContext = func(ctx context.Context, _, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "unix", path)
		}
		return &http.Client{Transport: t}, "http://docker", nil
	}
	return nil, "", &InvalidError{"the address of Docker must be unix:///path or tcp://host:port"}
}
