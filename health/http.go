package health

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
)

// Limits of what an HTTP check takes from a service, which may be broken or hostile.
const (
	maxBodyRead    = 1 << 20  // bytes; the rest of a longer body is not read
	maxHeaderBytes = 64 << 10 // bytes
)

// UserAgent is what HTTP checks call themselves unless the check sets its own.
const UserAgent = "Muster Health Check"

// httpProber judges the status code: 2xx passing, 429 warning, all else critical.
type httpProber struct {
	client *http.Client
	method string
	url    string
	shown  string // url without its password
	body   string
	header http.Header
	max    int
}

func newHTTPProber(s Spec) *httpProber {
	p := &httpProber{method: s.Method, url: s.HTTP, shown: s.HTTP, body: s.Body, header: s.Header.Clone(), max: s.OutputMaxSize}
	if p.method == "" {
		p.method = http.MethodGet
	}
	if u, err := url.Parse(s.HTTP); err == nil && u.User != nil {
		p.shown = u.Redacted()
	}
	if p.header == nil {
		p.header = http.Header{}
	}
	if p.header.Get("User-Agent") == "" {
		p.header.Set("User-Agent", UserAgent)
	}
	if p.header.Get("Accept") == "" {
		p.header.Set("Accept", "text/plain, text/*, */*")
	}
	p.client = &http.Client{Transport: s.Host.requests(s, false)}
	if s.DisableRedirects {
		p.client.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	}
	return p
}

func (p *httpProber) probe(ctx context.Context) (Status, string) {
	var body io.Reader
	if p.body != "" {
		body = strings.NewReader(p.body)
	}
	req, err := http.NewRequestWithContext(ctx, p.method, p.url, body)
	if err != nil {
		// The parser's error quotes the whole URL, which may hold a password.
		if bad := (*url.Error)(nil); errors.As(err, &bad) {
			err = bad.Err
		}
		return Critical, "invalid URL: " + err.Error()
	}
	req.Header = p.header.Clone()
	if host := p.header.Get("Host"); host != "" {
		req.Host = host // net/http ignores a Host among the headers
	}
	resp, err := p.client.Do(req)
	if err != nil {
		return Critical, err.Error()
	}
	defer resp.Body.Close()
	// The status line has decided; a body that breaks off only shortens the output.
	end := tail{max: p.max}
	_, _ = io.Copy(&end, io.LimitReader(resp.Body, maxBodyRead))
	output := fmt.Sprintf("HTTP %s %s: %s Output: %s", p.method, p.shown, resp.Status, end.buf)
	switch {
	case resp.StatusCode >= 200 && resp.StatusCode <= 299:
		return Passing, output
	case resp.StatusCode == http.StatusTooManyRequests:
		return Warning, output
	}
	return Critical, output
}

// tail keeps the last max bytes written to it and counts them all.
type tail struct {
	max   int
	buf   []byte
	total int64
}

func (t *tail) Write(p []byte) (int, error) {
	n := len(p)
	t.total += int64(n)
	if n > t.max {
		p = p[n-t.max:]
	}
	if over := len(t.buf) + len(p) - t.max; over > 0 {
		t.buf = t.buf[:copy(t.buf, t.buf[over:])]
	}
	t.buf = append(t.buf, p...)
	return n, nil
}

// text is what was kept; when something was cut it says so, as the contract has it for programs.
func (t *tail) text() string {
	if t.total <= int64(t.max) {
		return string(t.buf)
	}
	return fmt.Sprintf("Captured %d of %d bytes\n...\n%s", t.max, t.total, t.buf)
}
