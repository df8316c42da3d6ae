package watch

import (
	"bytes"
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"time"

	"github.com/musterhq/muster/internal/child"
)

// Command is a handler that runs a command for each state: the JSON and a newline on its standard input, the index
// in CONSUL_INDEX.
type Command struct {
	Args     []string
	Shell    bool
	Out, Err io.Writer
	Grace    time.Duration // between SIGTERM and SIGKILL when ctx ends; 0 = 5 s
}

// Handle runs the command and waits for its end.
func (c *Command) Handle(ctx context.Context, index uint64, data []byte) error {
	p, err := child.Start(child.Spec{
		Args: c.Args, Shell: c.Shell, Env: []string{"CONSUL_INDEX=" + strconv.FormatUint(index, 10)},
		In: bytes.NewReader(append(data[:len(data):len(data)], '\n')), Out: c.Out, Err: c.Err,
	})
	if err != nil {
		return err
	}
	select {
	case err := <-p.Done():
		return err
	case <-ctx.Done():
		grace := c.Grace
		if grace == 0 {
			grace = 5 * time.Second
		}
		_ = p.Stop(grace) // it was told to end: how it did is no news
		return ErrStop
	}
}

// HTTP is a handler that sends each state to a URL, with the index in X-Consul-Index.
type HTTP struct {
	URL           string
	Method        string // empty: POST
	Header        http.Header
	Timeout       time.Duration // 0: 10 s
	TLSSkipVerify bool
}

// Handle makes one request; an answer other than 2xx is an error.
func (h *HTTP) Handle(ctx context.Context, index uint64, data []byte) error {
	timeout, method := h.Timeout, h.Method
	if timeout == 0 {
		timeout = 10 * time.Second
	}
	if method == "" {
		method = http.MethodPost
	}
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, method, h.URL, bytes.NewReader(data))
	if err != nil {
		return err
	}
	for name, values := range h.Header {
		req.Header[http.CanonicalHeaderKey(name)] = values
	}
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set("X-Consul-Index", strconv.FormatUint(index, 10))
	tr := &http.Transport{Proxy: http.ProxyFromEnvironment, DisableKeepAlives: true}
	if h.TLSSkipVerify {
		tr.TLSClientConfig = &tls.Config{InsecureSkipVerify: true}
	}
	resp, err := (&http.Client{Transport: tr}).Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, 4096))
	if err != nil {
		return err
	}
	if resp.StatusCode/100 != 2 {
		return fmt.Errorf("%s answered status %d: %s", h.URL, resp.StatusCode, bytes.TrimSpace(body))
	}
	return nil
}
