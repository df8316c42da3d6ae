package proxy

import (
	"context"
	"errors"
	"io"
	"net/http"
	"time"
)

// Resumer is what a relay must know of a request that waits for a change, so that it survives the server that
// holds it. The dialect gives it; nothing here knows what the bytes mean. It belongs to one request.
type Resumer interface {
	// Again turns r, a fresh copy of the client's request, into what must be asked now: all of it before Begin, the
	// missing rest after it.
	Again(r *http.Request)
	// Begin is told the header of the answer (status 200) that the client is about to see. False: whatever follows
	// this header cannot be had from another server.
	Begin(h http.Header) bool
	// Take says how many bytes of b, from its start, are whole records: those go to the client next, and the rest
	// is shown again with what follows.
	Take(b []byte) int
	// Done says that nothing is missing.
	Done() bool
}

const (
	resumeBuffer  = 2 << 10          // a watch waits most of its life, so its buffer is small and grows with its records
	resumeMaxWait = time.Second      // longest pause between two attempts to find a server, give or take by chance
	resumeWrite   = 30 * time.Second // how long a client may take to accept what has come before it is given up
)

// errStop: nothing more is to be had, so the client's answer ends, in good order.
var errStop = errors.New("the answer ends here")

// follow streams an answer that is longer than the life of its server. When that goes, orderly or not, the rest is
// asked of another, and the client sees one unbroken answer of whole records. If nobody has the rest, or nobody is
// found within ResumeHold, the answer ends in good order: the client asks again, and is told the truth then.
func (p *Proxy) follow(w http.ResponseWriter, a *asking, resp *http.Response, from string) {
	a.target = Any // what is asked from here on names the index it begins at, so any server can wait for it
	s := &segments{w: w, rc: http.NewResponseController(w), res: a.res}
	defer s.close()
	if s.rc.Flush() != nil {
		_ = resp.Body.Close()
		return
	}
	err := s.copy(resp.Body)
	lost := p.picker.now()
	for tries := 0; err == nil && !a.res.Done() && a.in.Context().Err() == nil; tries++ {
		if from != "" {
			p.picker.bad(from)
		}
		if p.picker.now().Sub(lost) > p.cfg.ResumeHold || p.rest(a.in.Context(), tries) != nil {
			return
		}
		a.again()
		began := p.picker.now()
		from, err = p.resume(a, s)
		if now := p.picker.now(); s.status == http.StatusOK && (s.brought || now.Sub(began) > settled) {
			lost, tries = now, -1
		}
	}
}

// rest pauses before an attempt to go on. The first one is made at once, but not quite: all watches of a server that
// died come at the same time.
func (p *Proxy) rest(ctx context.Context, tries int) error {
	d := min(pause<<min(tries, 10), resumeMaxWait)
	if tries == 0 {
		d = pause / 2
	}
	d = d/2 + time.Duration(p.picker.random()*float64(d))
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// resume asks for the rest, here when this agent is a server itself, and passes on what comes until that ends too.
// It names the server to leave alone, if one failed. An error means that there is no use in going on.
func (p *Proxy) resume(a *asking, s *segments) (from string, err error) {
	s.begin()
	if p.cfg.Local != nil {
		p.cfg.Local.ServeHTTP(s, localRequest(a.in, a.hops, a.body))
		return "", s.err
	}
	resp, from, err := p.do(a)
	if err != nil {
		return "", nil // nobody there: another pause, another try
	}
	if s.WriteHeader(resp.StatusCode); s.status != http.StatusOK {
		discard(resp)
		return from, s.err
	}
	p.count("resumed")
	return from, s.copy(resp.Body)
}

// segments is the client's answer as the servers write it, one after the other. As a ResponseWriter it takes what
// this server writes itself.
type segments struct {
	w       http.ResponseWriter
	rc      *http.ResponseController
	res     Resumer
	header  http.Header // of a segment written here; the client has had its own
	status  int         // of the present segment
	brought bool        // the present segment brought a record
	held    []byte      // the beginning of a record
	err     error
}

// begin forgets what a server left unfinished.
func (s *segments) begin() {
	s.header, s.status, s.brought, s.held, s.err = make(http.Header), 0, false, s.held[:0], nil
}

// Header implements http.ResponseWriter.
func (s *segments) Header() http.Header { return s.header }

// WriteHeader implements http.ResponseWriter: only 200 continues an answer. A server that is failing may be asked
// again later; anything else says that the rest is not to be had.
func (s *segments) WriteHeader(status int) {
	if s.status != 0 {
		return
	}
	s.status = status
	if status != http.StatusOK && !failing(status) {
		s.err = errStop
	}
}

// Write implements http.ResponseWriter.
func (s *segments) Write(b []byte) (int, error) {
	s.WriteHeader(http.StatusOK)
	if s.status == http.StatusOK && s.err == nil {
		s.held = append(s.held, b...)
		s.held = s.held[:copy(s.held, s.held[s.pass(s.held):])]
	}
	return len(b), s.err
}

// Flush implements http.Flusher; whole records are flushed as they are written.
func (s *segments) Flush() {}

// pass gives the whole records at the start of b to the client and says how many bytes those were.
func (s *segments) pass(b []byte) int {
	n := s.res.Take(b)
	if n == 0 || s.err != nil {
		return n
	}
	_ = s.rc.SetWriteDeadline(time.Now().Add(resumeWrite))
	if _, s.err = s.w.Write(b[:n]); s.err == nil {
		s.err = s.rc.Flush()
	}
	s.brought = true
	return n
}

// copy passes the records of a body on until it ends, in whatever way. The error is that of the client.
func (s *segments) copy(body io.ReadCloser) error {
	defer body.Close()
	buf := make([]byte, resumeBuffer)
	have := 0
	for {
		n, err := body.Read(buf[have:])
		have += n
		if n > 0 {
			passed := s.pass(buf[:have])
			if s.err != nil {
				return s.err
			}
			have = copy(buf, buf[passed:have])
			if have == len(buf) {
				buf = append(buf, make([]byte, len(buf))...)
			}
		}
		if err != nil || s.res.Done() {
			return nil
		}
	}
}

// close leaves the connection as it was found.
func (s *segments) close() { _ = s.rc.SetWriteDeadline(time.Time{}) }
