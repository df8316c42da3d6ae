package main

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"
)

// maxAnswer bounds how much of an answer a command reads into memory, in bytes.
const maxAnswer = 256 << 20

// client is the connection of a command to an agent. Commands talk HTTP only.
type client struct {
	asConsul   bool // started under the name consul: its words, its environment, its exit codes
	addr       string
	timeout    time.Duration
	token      string
	tokenFile  string
	datacenter string
	stale      bool
	caFile     string
	caPath     string
	cert       string
	key        string
	serverName string
	env        clientEnv
	http       *http.Client
	base       string
}

// clientEnv is what only the environment can say: the variables of Consul, and the same after MUSTER_.
type clientEnv struct {
	prefix            string // CONSUL_ or MUSTER_
	token, tokenFile  string
	auth              string // user:password
	ssl, sslVerify    string // texts of a bool; empty: not set
	namespace, tenant string
}

func envOr(name, def string) string {
	if v := os.Getenv(name); v != "" {
		return v
	}
	return def
}

// bind adds the flags that every command has. The prefix of the environment variables is MUSTER_ or CONSUL_.
func (c *client) bind(root *cobra.Command) {
	prefix, addr := "MUSTER_", "http://127.0.0.1:8500"
	if c.asConsul {
		prefix = "CONSUL_"
	}
	env := func(name string) string { return os.Getenv(prefix + name) }
	c.env = clientEnv{
		prefix: prefix, token: env("HTTP_TOKEN"), tokenFile: env("HTTP_TOKEN_FILE"), auth: env("HTTP_AUTH"),
		ssl: env("HTTP_SSL"), sslVerify: env("HTTP_SSL_VERIFY"), namespace: env("NAMESPACE"), tenant: env("PARTITION"),
	}
	f := root.PersistentFlags()
	str := func(p *string, name, def, variable, usage string) {
		f.StringVar(p, name, envOr(prefix+variable, def), usage+"; also "+prefix+variable)
	}
	str(&c.addr, "http-addr", addr, "HTTP_ADDR", "address of the agent's HTTP interface: host:port, http://, https:// or unix:///path")
	str(&c.caFile, "ca-file", "", "CACERT", "PEM file of the authority that signed the agent's certificate")
	str(&c.caPath, "ca-path", "", "CAPATH", "directory of such files")
	str(&c.cert, "client-cert", "", "CLIENT_CERT", "PEM file of the client certificate")
	str(&c.key, "client-key", "", "CLIENT_KEY", "PEM file of the client key")
	str(&c.serverName, "tls-server-name", "", "TLS_SERVER_NAME", "name expected in the agent's certificate")
	// No default shows a token in the help text.
	f.StringVar(&c.token, "token", "", "access token; also "+prefix+"HTTP_TOKEN")
	f.StringVar(&c.tokenFile, "token-file", "", "file that holds the access token; also "+prefix+"HTTP_TOKEN_FILE")
	f.StringVar(&c.datacenter, "datacenter", "", "datacenter to ask; the agent's own when not given")
	f.BoolVar(&c.stale, "stale", false, "let any server answer, not only the leader")
	f.DurationVar(&c.timeout, "timeout", 10*time.Second, "how long one request may take; watches have no limit")
	if c.asConsul {
		c.timeout = time.Minute
		f.Lookup("timeout").DefValue = c.timeout.String()
		f.Lookup("timeout").Hidden = true
	}
}

// open prepares the HTTP client; it is called once, lazily, so that -h needs no valid settings.
func (c *client) open() error {
	if c.http != nil {
		return nil
	}
	ssl, err := c.envBool("HTTP_SSL", c.env.ssl, false)
	if err != nil {
		return err
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
		if ssl {
			u.Scheme = "https" // asked for in so many words: never fall back to plain text
		}
		c.base = u.Scheme + "://" + u.Host + strings.TrimSuffix(u.EscapedPath(), "/")
	default:
		return fmt.Errorf("-http-addr %q: scheme must be http, https or unix", c.addr)
	}
	if tr.TLSClientConfig, err = c.tls(); err != nil {
		return err
	}
	if err := c.credentials(); err != nil {
		return err
	}
	c.http = &http.Client{Transport: tr}
	return nil
}

func (c *client) envBool(name, text string, def bool) (bool, error) {
	if text == "" {
		return def, nil
	}
	b, err := strconv.ParseBool(text)
	if err != nil {
		return false, fmt.Errorf("%s%s is %q: want true or false", c.env.prefix, name, text)
	}
	return b, nil
}

// credentials settles which token is sent: -token-file, -token, the file of the environment, its token, in that
// order. Tenants of the enterprise edition are refused: ignoring them would read and write somebody else's data.
func (c *client) credentials() error {
	if c.env.namespace != "" || c.env.tenant != "" {
		return fmt.Errorf("%sNAMESPACE or %sPARTITION is set: namespaces and partitions are features of Consul Enterprise that this agent does not have", c.env.prefix, c.env.prefix)
	}
	file := c.tokenFile
	if file == "" && c.token == "" {
		c.token, file = c.env.token, c.env.tokenFile
	}
	if file != "" {
		b, err := os.ReadFile(file)
		if err != nil {
			return fmt.Errorf("token file: %w", err)
		}
		c.token = strings.TrimSpace(string(b))
	}
	return nil
}

func (c *client) tls() (*tls.Config, error) {
	verify, err := c.envBool("HTTP_SSL_VERIFY", c.env.sslVerify, true)
	if err != nil {
		return nil, err
	}
	cfg := &tls.Config{MinVersion: tls.VersionTLS12, ServerName: c.serverName, InsecureSkipVerify: !verify}
	files := []string{}
	if c.caPath != "" {
		entries, err := os.ReadDir(c.caPath)
		if err != nil {
			return nil, fmt.Errorf("-ca-path: %w", err)
		}
		for _, e := range entries {
			files = append(files, filepath.Join(c.caPath, e.Name()))
		}
	}
	if c.caFile != "" {
		files = []string{c.caFile}
	}
	for _, name := range files {
		pem, err := os.ReadFile(name)
		if err != nil {
			return nil, fmt.Errorf("-ca-file: %w", err)
		}
		if cfg.RootCAs == nil {
			cfg.RootCAs = x509.NewCertPool()
		}
		if !cfg.RootCAs.AppendCertsFromPEM(pem) {
			return nil, fmt.Errorf("-ca-file %s: holds no PEM certificate", name)
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

// statusError is an answer whose status is not 2xx.
type statusError struct {
	method, path string
	status       int
	body         string
	asConsul     bool
}

func (e *statusError) Error() string {
	if e.asConsul {
		return fmt.Sprintf("Unexpected response code: %d (%s)", e.status, e.body)
	}
	return fmt.Sprintf("%s %s: status %d: %s", e.method, e.path, e.status, e.body)
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
	if strings.HasPrefix(path, "/v1/") {
		q = c.common(q)
	}
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
	if c.token != "" {
		req.Header.Set("X-Consul-Token", c.token)
	}
	if user, password, ok := strings.Cut(c.env.auth, ":"); ok || user != "" {
		req.SetBasicAuth(user, password)
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
		return nil, c.refused(method, path, a.status, a.body)
	}
	return a.body, nil
}

// refused makes the error of an answer other than 2xx.
func (c *client) refused(method, path string, status int, body []byte) error {
	return &exitError{exitServer, &statusError{method, path, status, strings.TrimSpace(string(body)), c.asConsul}}
}

// hasStatus says whether err is an answer with this status.
func hasStatus(err error, status int) bool {
	var se *statusError
	return errors.As(err, &se) && se.status == status
}

// common adds the parameters that flags of every command set.
func (c *client) common(q url.Values) url.Values {
	if c.datacenter == "" && !c.stale {
		return q
	}
	q = maps.Clone(q)
	if q == nil {
		q = url.Values{}
	}
	if c.datacenter != "" {
		q.Set("dc", c.datacenter)
	}
	if c.stale {
		q.Set("stale", "")
	}
	return q
}

// put sends v as JSON (nil: no body) and returns the body of the answer.
func (c *client) put(ctx context.Context, path string, q url.Values, v any) ([]byte, error) {
	return c.sendJSON(ctx, http.MethodPut, path, q, v)
}

func (c *client) sendJSON(ctx context.Context, method, path string, q url.Values, v any) ([]byte, error) {
	var body io.Reader
	if v != nil {
		b, err := json.Marshal(v)
		if err != nil {
			return nil, err
		}
		body = bytes.NewReader(b)
	}
	return c.ok(ctx, method, path, q, body)
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

// block makes a blocking query: it answers when the index has passed index, or after wait, with v decoded and the
// new index. A missing key (404) is no error: found is false.
func (c *client) block(ctx context.Context, path string, q url.Values, index uint64, wait time.Duration, v any) (newIndex uint64, found bool, err error) {
	q = maps.Clone(q)
	if q == nil {
		q = url.Values{}
	}
	if index > 0 {
		q.Set("index", strconv.FormatUint(index, 10))
		q.Set("wait", wait.String())
	}
	// The server adds up to a sixteenth of the wait.
	ctx, cancel := context.WithTimeout(ctx, wait+wait/16+c.timeout)
	defer cancel()
	resp, err := c.stream(ctx, http.MethodGet, path, q, nil, nil)
	if err != nil {
		return 0, false, err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer))
	if err != nil {
		return 0, false, &exitError{exitNoAgent, fmt.Errorf("reading the answer of %s: %w", c.base, err)}
	}
	if text := resp.Header.Get("X-Consul-Index"); text != "" {
		if newIndex, err = strconv.ParseUint(text, 10, 64); err != nil {
			return 0, false, &exitError{exitServer, fmt.Errorf("GET %s: X-Consul-Index: %w", path, err)}
		}
	}
	if newIndex < index {
		newIndex = 0 // it went back: begin again
	}
	switch {
	case resp.StatusCode == http.StatusNotFound && len(body) == 0:
		return newIndex, false, nil
	case resp.StatusCode/100 != 2:
		return 0, false, c.refused(http.MethodGet, path, resp.StatusCode, body)
	}
	if err := json.Unmarshal(body, v); err != nil {
		return 0, false, &exitError{exitServer, fmt.Errorf("GET %s: the answer is not the expected JSON: %w", path, err)}
	}
	return newIndex, true, nil
}

// rest waits, and says whether it could.
func rest(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}
