package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"
)

// maxAnswer bounds how much of an answer a command reads into memory, in bytes.
const maxAnswer = 256 << 20

// client is the connection of a command to an agent. Commands talk HTTP only.
type client struct {
	addr    string
	timeout time.Duration
	caFile  string
	cert    string
	key     string
	http    *http.Client
	base    string
}

func envOr(name, def string) string {
	if v := os.Getenv(name); v != "" {
		return v
	}
	return def
}

func (c *client) bind(root *cobra.Command) {
	f := root.PersistentFlags()
	f.StringVar(&c.addr, "http-addr", envOr("MUSTER_HTTP_ADDR", "http://127.0.0.1:8500"), "address of the agent's HTTP interface; also MUSTER_HTTP_ADDR, and unix:///path")
	f.DurationVar(&c.timeout, "timeout", 10*time.Second, "how long one request may take; watches have no limit")
	f.StringVar(&c.caFile, "ca-file", os.Getenv("MUSTER_CACERT"), "PEM file of the authority that signed the agent's certificate; also MUSTER_CACERT")
	f.StringVar(&c.cert, "client-cert", os.Getenv("MUSTER_CLIENT_CERT"), "PEM file of the client certificate; also MUSTER_CLIENT_CERT")
	f.StringVar(&c.key, "client-key", os.Getenv("MUSTER_CLIENT_KEY"), "PEM file of the client key; also MUSTER_CLIENT_KEY")
}

// open prepares the HTTP client; it is called once, lazily, so that -h needs no valid settings.
func (c *client) open() error {
	if c.http != nil {
		return nil
	}
	addr := c.addr
	if !strings.Contains(addr, "://") {
		addr = "http://" + addr
	}
	u, err := url.Parse(addr)
	if err != nil {
		return fmt.Errorf("-http-addr %q: %w", c.addr, err)
	}
	tr := &http.Transport{Proxy: http.ProxyFromEnvironment, MaxIdleConnsPerHost: 4}
	switch u.Scheme {
	case "unix":
		path := u.Path
		tr.DialContext = func(ctx context.Context, _, _ string) (net.Conn, error) {
			var d net.Dialer
			return d.DialContext(ctx, "unix", path)
		}
		c.base = "http://localhost"
	case "http", "https":
		if u.Host == "" {
			return fmt.Errorf("-http-addr %q: want host:port or http://host:port", c.addr)
		}
		c.base = u.Scheme + "://" + u.Host
	default:
		return fmt.Errorf("-http-addr %q: scheme must be http, https or unix", c.addr)
	}
	if tr.TLSClientConfig, err = c.tls(); err != nil {
		return err
	}
	c.http = &http.Client{Transport: tr}
	return nil
}

func (c *client) tls() (*tls.Config, error) {
	cfg := &tls.Config{MinVersion: tls.VersionTLS12}
	if c.caFile != "" {
		pem, err := os.ReadFile(c.caFile)
		if err != nil {
			return nil, fmt.Errorf("-ca-file: %w", err)
		}
		cfg.RootCAs = x509.NewCertPool()
		if !cfg.RootCAs.AppendCertsFromPEM(pem) {
			return nil, fmt.Errorf("-ca-file %s: holds no PEM certificate", c.caFile)
		}
	}
	if (c.cert == "") != (c.key == "") {
		return nil, errors.New("-client-cert and -client-key must be given together")
	}
	if c.cert != "" {
		pair, err := tls.LoadX509KeyPair(c.cert, c.key)
		if err != nil {
			return nil, fmt.Errorf("-client-cert %s: %w", c.cert, err)
		}
		cfg.Certificates = []tls.Certificate{pair}
	}
	return cfg, nil
}

// answer is one whole HTTP answer.
type answer struct {
	status int
	header http.Header
	body   []byte
}

// send makes one request and reads the whole answer. A connection failure is an exitError with exitNoAgent.
func (c *client) send(ctx context.Context, method, path string, q url.Values, form url.Values, body io.Reader) (*answer, error) {
	ctx, cancel := context.WithTimeout(ctx, c.timeout)
	defer cancel()
	resp, err := c.stream(ctx, method, path, q, form, body)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer))
	if err != nil {
		return nil, &exitError{exitNoAgent, fmt.Errorf("reading the answer of %s: %w", c.base, err)}
	}
	return &answer{resp.StatusCode, resp.Header, b}, nil
}

// stream makes one request without a time limit of its own and leaves the body to the caller.
func (c *client) stream(ctx context.Context, method, path string, q url.Values, form url.Values, body io.Reader) (*http.Response, error) {
	if err := c.open(); err != nil {
		return nil, err
	}
	if form != nil {
		body = strings.NewReader(form.Encode())
	}
	target := c.base + path
	if len(q) > 0 {
		target += "?" + q.Encode()
	}
	req, err := http.NewRequestWithContext(ctx, method, target, body)
	if err != nil {
		return nil, err
	}
	if form != nil {
		req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	}
	resp, err := c.http.Do(req)
	if err != nil {
		return nil, &exitError{exitNoAgent, fmt.Errorf("no answer from the agent at %s (is it running? see -http-addr): %w", c.base, err)}
	}
	return resp, nil
}

// ok sends a request and returns the body of a 2xx answer; any other status is an exitError with exitServer.
func (c *client) ok(ctx context.Context, method, path string, q url.Values, body io.Reader) ([]byte, error) {
	a, err := c.send(ctx, method, path, q, nil, body)
	if err != nil {
		return nil, err
	}
	if a.status/100 != 2 {
		return nil, &exitError{exitServer, fmt.Errorf("%s %s: status %d: %s", method, path, a.status, strings.TrimSpace(string(a.body)))}
	}
	return a.body, nil
}

// get fetches path and decodes its JSON into v.
func (c *client) get(ctx context.Context, path string, q url.Values, v any) error {
	b, err := c.ok(ctx, http.MethodGet, path, q, nil)
	if err != nil {
		return err
	}
	if err := json.Unmarshal(b, v); err != nil {
		return &exitError{exitServer, fmt.Errorf("GET %s: the answer is not the expected JSON: %w", path, err)}
	}
	return nil
}
