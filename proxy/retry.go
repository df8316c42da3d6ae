package proxy

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/musterhq/muster/peer"
)

// Between two rounds over the servers a request waits this long, plus up to as much again by chance.
const pause = 50 * time.Millisecond

// maxBreaks is how many connections one read may break. A request that brings servers down must not visit them all.
const maxBreaks = 3

// errSelf: this agent is the leader; the request must run here.
var errSelf = errors.New("this agent is the leader")

// statusCancelled is what a server answers when the request was taken from it: its client has gone, or the server
// stops. The client is still here, so it was the server.
const statusCancelled = 499

var errCancelled = errors.New("the server stopped while the request was under way")

// verdict is what one attempt at one server means for the request.
type verdict uint8

const (
	deliver   verdict = iota // an answer for the client, whatever its status
	elsewhere                // the server spoke and proved that it ran nothing: it does not lead
	dead                     // the connection was never established: ask another server, leave this one alone
	broken                   // a read without an answer: the same, a few times
	unknown                  // it may have run: final
	gone                     // the client gave up
)

// judge holds all rules about trying again. A request goes to another server only on proof that nothing ran: the
// connection was never established, or the server said that it is not the leader. Reads change nothing, so for
// them a broken connection is no obstacle either, as long as the client has not seen a byte of an answer; a
// broken answer is not judged here, its head is with the client already.
func judge(ctx context.Context, method string, resp *http.Response, err error, isRefused func(error) bool) verdict {
	switch {
	case err == nil && notLeader(resp):
		return elsewhere
	case err == nil:
		return deliver
	case ctx.Err() != nil:
		return gone
	case isRefused(err):
		return dead
	case method == http.MethodGet || method == http.MethodHead:
		return broken
	}
	return unknown
}

// notLeader recognises a server's explicit refusal. The header alone is not enough: a relaying server passes
// headers of others through.
func notLeader(resp *http.Response) bool {
	return (resp.StatusCode == http.StatusServiceUnavailable || resp.StatusCode == http.StatusLoopDetected) &&
		resp.Header.Get(NotLeaderHeader) != ""
}

// round is what has happened since the last pause of one request.
type round struct {
	tried   []string // servers asked, each at most once
	store   [8]string
	hint    string // leader as named by a server that does not lead
	reached bool   // a server answered
	last    error  // of the last dead server
}

func (ro *round) reset() { *ro = round{}; ro.tried = ro.store[:0] }

func (ro *round) has(addr string) bool {
	for _, t := range ro.tried {
		if t == addr {
			return true
		}
	}
	return false
}

// asking is one client request on its way to servers.
type asking struct {
	client *http.Request // what the client sent, once in is a changed copy of it
	in     *http.Request // as it is to be asked now
	header http.Header   // of in, as it goes out
	hops   int
	body   []byte
	target Target
	res    Resumer // nil for what does not wait
}

// again prepares the request for another attempt.
func (a *asking) again() {
	if a.res == nil {
		return
	}
	if a.client == nil {
		a.client = a.in
	}
	r := *a.client
	u := *a.client.URL
	r.URL, r.Header = &u, a.client.Header.Clone()
	a.res.Again(&r)
	a.in, a.header = &r, outHeader(&r, a.hops)
}

// settled is how long an attempt must have waited at its server for its failure to begin a new story: rounds, breaks
// and the time to find a leader count from then.
const settled = time.Second

// silent is how long a client must have waited in vain, before it gave up, for the server to be left alone. A server that hangs breaks no
// connection, and the next client would wait for it just as long.
const silent = time.Second

// do asks server after server until one delivers. It goes round and round with short pauses: as long as Hold
// while some server is there but none leads, as long as DownHold while all are unreachable.
func (p *Proxy) do(a *asking) (*http.Response, string, error) {
	ctx, t := a.in.Context(), a.target
	out := ctx
	if a.res != nil || long(a.in) {
		out = peer.Long(ctx)
	}
	var began time.Time // of the first failure; a request that succeeds at once needs no clock
	var ro round
	ro.reset()
	breaks := 0
	for {
		if ctx.Err() != nil {
			return nil, "", fmt.Errorf("%w: %w", errNotSent, ctx.Err())
		}
		addr, ok := p.picker.pick(t, &ro)
		if ok && addr == p.cfg.Self && addr != "" {
			return nil, "", errSelf
		}
		if !ok {
			if began.IsZero() {
				began = p.picker.now()
			}
			if err := p.wait(ctx, began, a, &ro); err != nil {
				p.count("exhausted")
				if ctx.Err() == nil {
					p.outage.began(t, p.picker.now())
				}
				return nil, "", err
			}
			ro.reset()
			continue
		}
		asked := p.picker.now()
		resp, err := p.cfg.Transport.RoundTrip(p.outRequest(out, a.in, a.header, a.body, addr))
		if err == nil && resp.StatusCode == statusCancelled {
			discard(resp)
			resp, err = nil, errCancelled
		}
		v := judge(ctx, a.in.Method, resp, err, p.cfg.IsRefused)
		if v == deliver {
			p.picker.good(addr, t, resp.Header.Get(LeaderHeader))
			if resp.StatusCode < http.StatusInternalServerError {
				p.outage.over(t)
			}
			return resp, addr, nil
		}
		if a.res != nil && p.picker.now().Sub(asked) > settled {
			began, breaks = time.Time{}, 0
			ro.reset()
		}
		if began.IsZero() {
			began = p.picker.now()
		}
		p.count("retry")
		if v == broken {
			if breaks++; breaks < maxBreaks {
				v = dead
			}
		}
		switch v {
		case elsewhere:
			ro.reached = true
			ro.hint = resp.Header.Get(LeaderHeader)
			p.picker.notLeader(addr)
			discard(resp)
		case dead:
			ro.last = err
			p.picker.bad(addr)
		case gone:
			hung := a.res == nil && !long(a.in) || errors.Is(ctx.Err(), context.DeadlineExceeded) // what waits may be silent
			if hung && p.picker.now().Sub(asked) >= silent {
				p.picker.bad(addr)
			}
			return nil, "", ctx.Err()
		default:
			p.picker.bad(addr)
			return nil, "", &UnknownOutcomeError{Server: addr, Err: err}
		}
		ro.tried = append(ro.tried, addr)
		a.again()
	}
}

// wait pauses between rounds, or says why there is no other round.
func (p *Proxy) wait(ctx context.Context, began time.Time, a *asking, ro *round) error {
	t, limit := a.target, p.cfg.Hold
	// A server knows from its own raft whether there is a leader; for it silence of others proves nothing.
	down := !ro.reached && (p.cfg.Self == "" || t == Any)
	if down {
		limit = p.cfg.DownHold
	}
	d := pause + time.Duration(p.picker.random()*float64(pause))
	if p.picker.now().Sub(began)+d > limit {
		return p.giveUp(a, ro, down)
	}
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("%w: %w", errNotSent, ctx.Err())
	}
}

// errNotSent: the request was cancelled between two attempts, of which the earlier are proven not to have run.
var errNotSent = errors.New("cancelled before it was sent")

// giveUp words the error after the last round: what could not be done, whom was asked, and since when nobody answers.
func (p *Proxy) giveUp(a *asking, ro *round, down bool) error {
	t := a.target
	if !down && t == Leader {
		return ErrNoLeader
	}
	if len(ro.tried) == 0 && ro.last == nil {
		ro.last = errNoneKnown
	}
	since := p.outage.start()
	if since.IsZero() {
		since = p.picker.now()
	}
	err := fmt.Errorf("%w for %s %s (tried %s; none has answered since %s; last: %w)", ErrNoServer,
		a.in.Method, a.in.URL.Path, cmp.Or(strings.Join(ro.tried, ", "), "none"), since.UTC().Format(time.RFC3339), ro.cause())
	if t == Leader {
		return fmt.Errorf("%w: %w", ErrNoLeader, err)
	}
	return err
}

var errNoneKnown = errors.New("no server is known, or all have failed a moment ago")

func (ro *round) cause() error {
	if ro.last == nil {
		return ErrNoLeader
	}
	return ro.last
}

// outRequest is the client's request addressed to addr. The path goes out as the client wrote it, byte for byte:
// in the flat dialect "a%2Fb", "a//b" and "a/b" have always been told apart by somebody.
func (p *Proxy) outRequest(ctx context.Context, in *http.Request, header http.Header, body []byte, addr string) *http.Request {
	u := &url.URL{
		Scheme: "http", Host: addr,
		Path: in.URL.Path, RawPath: in.URL.RawPath, RawQuery: in.URL.RawQuery, ForceQuery: in.URL.ForceQuery,
	}
	if raw := u.RawPath; raw != "" && !strings.HasPrefix(raw, "//") && u.EscapedPath() != raw {
		// Path with bytes that should have been escaped; net/url would do that now.
		u.Opaque = raw
	}
	out := &http.Request{
		Method: in.Method, URL: u, Header: header, Host: in.Host,
		Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1,
	}
	if out.Host == "" {
		out.Host = addr
	}
	if len(body) > 0 {
		out.ContentLength = int64(len(body))
		out.Body = io.NopCloser(bytes.NewReader(body))
		// With GetBody the transport may replay on its own proof that nothing was sent (a kept connection that the
		// server had closed); it never does so for a write that may have arrived.
		out.GetBody = func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(body)), nil }
	} else if in.Method != http.MethodGet && in.Method != http.MethodHead {
		out.Body = http.NoBody
	}
	return out.WithContext(ctx)
}

// long recognises what may wait for a change, in either dialect; such requests travel on connections of their own.
func long(r *http.Request) bool {
	if r.Method != http.MethodGet || r.URL.RawQuery == "" {
		return false
	}
	for _, name := range []string{"wait", "index", "stream", "hash"} {
		if strings.Contains(r.URL.RawQuery, name) {
			return true
		}
	}
	return false
}

// discard frees the connection of an answer nobody will see.
func discard(resp *http.Response) {
	_, _ = io.CopyN(io.Discard, resp.Body, 4<<10)
	_ = resp.Body.Close()
}
