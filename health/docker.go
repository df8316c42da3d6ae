package health

import (
	"bytes"
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"time"
)

// dockerProber runs a program in a container by three requests to the daemon's HTTP API: create the exec, start it and
// read its output to the end, ask for its exit code. The code means what it means for a script.
//
// The API has no way to end an exec: a program that outlives its timeout is left to the container.
type dockerProber struct {
	client    *http.Client
	base      string
	container string
	command   []string
	max       int
	limit     time.Duration // of one probe
	err       error         // the address of the daemon is malformed
}

// maxDockerAnswer bounds an answer of the daemon other than the program's output, in bytes.
const maxDockerAnswer = 256 << 10

func newDockerProber(s Spec) *dockerProber {
	p := &dockerProber{container: s.DockerContainerID, command: s.Args, max: s.OutputMaxSize, limit: s.Timeout}
	if s.Shell != "" {
		p.command = append([]string{s.Shell, "-c"}, s.Args...)
	}
	p.client, p.base, p.err = s.Host.docker()
	return p
}

func (p *dockerProber) probe(ctx context.Context) (Status, string) {
	if p.err != nil {
		return Critical, p.err.Error()
	}
	code, out, err := p.run(ctx)
	switch {
	case errors.Is(ctx.Err(), context.DeadlineExceeded):
		return Critical, timedOut(p.limit)
	case err != nil:
		return Critical, fmt.Sprintf("Docker: %v", err)
	}
	return exitStatus(code), out.text()
}

func (p *dockerProber) run(ctx context.Context) (int, *tail, error) {
	var exec struct{ ID string }
	create := map[string]any{"AttachStdout": true, "AttachStderr": true, "Cmd": p.command}
	if err := p.call(ctx, http.MethodPost, "/containers/"+url.PathEscape(p.container)+"/exec", create, decodeTo(&exec)); err != nil {
		return 0, nil, err
	}
	id := url.PathEscape(exec.ID)
	out := &tail{max: p.max}
	start := map[string]any{"Detach": false, "Tty": false}
	if err := p.call(ctx, http.MethodPost, "/exec/"+id+"/start", start, func(r io.Reader) error { return demultiplex(out, r) }); err != nil {
		return 0, nil, err
	}
	var state struct {
		Running  bool
		ExitCode *int
	}
	if err := p.call(ctx, http.MethodGet, "/exec/"+id+"/json", nil, decodeTo(&state)); err != nil {
		return 0, nil, err
	}
	if state.Running || state.ExitCode == nil {
		return 0, nil, errors.New("the program closed its output but still runs")
	}
	return *state.ExitCode, out, nil
}

func (p *dockerProber) call(ctx context.Context, method, path string, in any, read func(io.Reader) error) error {
	var body io.Reader
	if in != nil {
		b, err := json.Marshal(in)
		if err != nil {
			return err
		}
		body = bytes.NewReader(b)
	}
	req, err := http.NewRequestWithContext(ctx, method, p.base+path, body)
	if err != nil {
		return err
	}
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set("User-Agent", UserAgent)
	res, err := p.client.Do(req)
	if err != nil {
		if ue := (*url.Error)(nil); errors.As(err, &ue) {
			err = ue.Err
		}
		return err
	}
	defer res.Body.Close()
	if res.StatusCode < 200 || res.StatusCode > 299 {
		var refused struct{ Message string }
		_ = json.NewDecoder(io.LimitReader(res.Body, maxDockerAnswer)).Decode(&refused) // the status says enough
		return fmt.Errorf("%s: %.512s", res.Status, refused.Message)
	}
	return read(res.Body)
}

func decodeTo(v any) func(io.Reader) error {
	return func(r io.Reader) error { return json.NewDecoder(io.LimitReader(r, maxDockerAnswer)).Decode(v) }
}

// demultiplex reads the daemon's stream without a terminal: frames of stdout and stderr, each with a header of one
// byte for the stream, three of nothing and a length of four (Docker Engine API, "attach to a container").
func demultiplex(w io.Writer, r io.Reader) error {
	var header [8]byte
	for {
		switch _, err := io.ReadFull(r, header[:]); {
		case errors.Is(err, io.EOF):
			return nil
		case err != nil:
			return fmt.Errorf("the output broke off: %w", err)
		}
		if header[0] > 2 || header[1] != 0 || header[2] != 0 || header[3] != 0 {
			return errors.New("the output is not in the daemon's format")
		}
		if _, err := io.CopyN(w, r, int64(binary.BigEndian.Uint32(header[4:]))); err != nil {
			return fmt.Errorf("the output broke off: %w", err)
		}
	}
}
