package agent

import (
	"context"
	"crypto/tls"
	"fmt"
	"net"
	"net/http"
	"net/http/pprof"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/musterhq/muster/api"
)

// startHTTP opens the client listeners: 8500 and 2379 serve the same routes, so that either dialect's clients
// find everything where they look for it.
func (a *Agent) startHTTP() error {
	handler := api.CORS(a.cfg.CORS, a.guarded(a.handler.Load())) // here and not in the routes: a relayed answer has the headers once
	open := func(list []Listener, tlsConfig *tls.Config) error {
		for _, l := range list {
			addr, secure := l.Address, tlsConfig
			if l.TLS {
				var err error
				if secure, err = a.clientTLS("h2", "http/1.1"); err != nil {
					return err
				}
			}
			if l.Network == "unix" {
				addr = "unix://" + addr
			}
			s := api.NewServer(api.ServerConfig{
				Addr: addr, Handler: handler, TLS: secure, MaxHeaderBytes: a.cfg.HTTP.MaxHeaderBytes,
				MaxConnsPerClient: a.cfg.Limits.HTTPMaxConnsPerClient, Logger: a.log.Named("http"),
			})
			if _, err := s.Listen(); err != nil {
				return err
			}
			a.onStop("HTTP "+addr, s.Close)
			go func() {
				if err := s.Serve(); err != nil {
					a.fail(err)
				}
			}()
		}
		return nil
	}
	if err := open(a.cfg.HTTPListeners(), nil); err != nil {
		return err
	}
	if err := open(a.cfg.EtcdListeners(), nil); err != nil {
		return err
	}
	if len(a.cfg.HTTPSListeners()) == 0 {
		return nil
	}
	tlsConfig, err := a.clientTLS("h2", "http/1.1")
	if err != nil {
		return err
	}
	return open(a.cfg.HTTPSListeners(), tlsConfig)
}

// localRoutes are the rows that belong to no dialect.
func (a *Agent) localRoutes() []api.Route {
	get := []string{http.MethodGet, http.MethodHead}
	rows := []api.Route{{Pattern: "/metrics", Methods: get, Handler: a.demanding("agent", a.prom), Refuse: optionsOr("GET, HEAD")}, a.removalRoute(), a.dnsOverHTTPS()}
	if !a.cfg.EnableDebug {
		return rows
	}
	profile := func(h http.HandlerFunc) http.Handler { return a.demanding("operator", h) }
	return append(rows,
		api.Route{Pattern: "/debug/pprof/", Methods: get, Handler: profile(pprof.Index)},
		api.Route{Pattern: "/debug/pprof/cmdline", Methods: get, Handler: profile(pprof.Cmdline)},
		api.Route{Pattern: "/debug/pprof/profile", Methods: get, Handler: profile(pprof.Profile)},
		api.Route{Pattern: "/debug/pprof/symbol", Methods: append(get, http.MethodPost), Handler: profile(pprof.Symbol)},
		api.Route{Pattern: "/debug/pprof/trace", Methods: get, Handler: profile(pprof.Trace)},
	)
}

// demanding asks for the right to read a resource of this agent before it serves.
func (a *Agent) demanding(resource string, next http.Handler) http.Handler {
	if a.opts.Authorizer == nil {
		return next
	}
	name := ""
	if resource == "agent" {
		name = a.cfg.NodeName
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if err := a.mayRead(r, resource, name); err != nil {
			http.Error(w, err.Error(), http.StatusForbidden)
			return
		}
		next.ServeHTTP(w, r)
	})
}

// optionsOr answers OPTIONS with 200, as the hierarchical dialect does on every path, and other methods with 405.
func optionsOr(allow string) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method == http.MethodOptions {
			return
		}
		w.Header().Set("Allow", allow)
		http.Error(w, "Method Not Allowed", http.StatusMethodNotAllowed)
	})
}

// guarded puts what http_config demands around the routes: blocked endpoints, networks that may write, headers
// on every answer. Without any of them the routes are served as they are.
func (a *Agent) guarded(next http.Handler) http.Handler {
	c := a.cfg.HTTP
	if len(c.BlockEndpoints) == 0 && len(c.AllowWriteHTTPFrom) == 0 && len(c.ResponseHeaders) == 0 && len(c.AllowedHosts) == 0 {
		return next
	}
	writers := prefixes(c.AllowWriteHTTPFrom)
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.TLS == nil && fromNetwork(r) && !mayCall(c.AllowedHosts, r.Host) {
			a.metrics.IncrCounter([]string{"http", "refused", "host"}, 1)
			http.Error(w, "Host is not allowed by agent configuration (http_config.allowed_hosts)", http.StatusMisdirectedRequest)
			return
		}
		for k, v := range c.ResponseHeaders {
			w.Header().Set(k, v)
		}
		for _, p := range c.BlockEndpoints {
			if strings.HasPrefix(r.URL.Path, p) {
				a.metrics.IncrCounter([]string{"http", "refused", "blocked"}, 1)
				http.Error(w, "Endpoint is blocked by agent configuration", http.StatusForbidden)
				return
			}
		}
		if r.Method != http.MethodGet && r.Method != http.MethodHead && r.Method != http.MethodOptions && !mayWrite(writers, r.RemoteAddr) {
			a.metrics.IncrCounter([]string{"http", "refused", "write"}, 1)
			http.Error(w, "Access is restricted", http.StatusForbidden)
			return
		}
		next.ServeHTTP(w, r)
	})
}

// fromNetwork is false for a unix socket, which no web page reaches.
func fromNetwork(r *http.Request) bool {
	_, err := netip.ParseAddrPort(r.RemoteAddr)
	return err == nil
}

// mayCall says whether clients may call this agent by the name in a Host header. A web page whose name was made to lead here (DNS
// rebinding) comes with its own; addresses and localhost cannot be made to.
func mayCall(allowed []string, host string) bool {
	if len(allowed) == 0 || slices.Contains(allowed, "*") {
		return true
	}
	name := host
	if h, _, err := net.SplitHostPort(host); err == nil {
		name = h
	}
	name = strings.TrimSuffix(strings.ToLower(name), ".")
	if _, err := netip.ParseAddr(strings.Trim(name, "[]")); err == nil || name == "localhost" {
		return true
	}
	return slices.ContainsFunc(allowed, func(a string) bool { return strings.ToLower(a) == name })
}

// prefixes are networks in the form that the configuration was checked for; others are left out.
func prefixes(list []string) []netip.Prefix {
	var out []netip.Prefix
	for _, text := range list {
		if p, err := netip.ParsePrefix(text); err == nil {
			out = append(out, p)
		}
	}
	return out
}

// mayWrite says whether a client at remote (host:port) is in one of the networks; no networks means everybody.
func mayWrite(writers []netip.Prefix, remote string) bool {
	if len(writers) == 0 {
		return true
	}
	ap, err := netip.ParseAddrPort(remote)
	if err != nil {
		return true // a unix socket: reachable from this machine only, guarded by its file mode
	}
	for _, p := range writers {
		if p.Contains(ap.Addr().Unmap()) {
			return true
		}
	}
	return false
}

// writePid writes the process id, and removes it at the end.
func (a *Agent) writePid() error {
	file := a.cfg.PidFile
	if file == "" {
		return nil
	}
	if info, err := os.Stat(file); err == nil && !info.Mode().IsRegular() { // it would be replaced, and removed at the end
		return fmt.Errorf("pid_file: %s is no regular file", file)
	}
	if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
		return fmt.Errorf("pid_file: %w", err)
	}
	if err := writeFile(file, []byte(strconv.Itoa(os.Getpid())+"\n")); err != nil {
		return fmt.Errorf("pid_file: %w", err)
	}
	a.onStop("pid file", func(context.Context) error { return os.Remove(file) })
	return nil
}
