package proxy

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"
)

// lines is a Resumer for answers of numbered lines: the header "At" says after which number the answer begins, and
// the query after=N asks for what follows N.
type lines struct {
	last  int // delivered
	begun bool
	want  int // complete after so many lines; 0 = never
	got   int
	again atomic.Int32
}

func (l *lines) Again(r *http.Request) {
	l.again.Add(1)
	if l.begun {
		r.URL.RawQuery = fmt.Sprintf("after=%d&%s", l.last, r.URL.RawQuery)
	}
}

func (l *lines) Begin(h http.Header) bool {
	n, err := strconv.Atoi(h.Get("At"))
	l.begun, l.last = err == nil, n
	return l.begun
}

func (l *lines) Take(b []byte) int {
	n := 0
	for !l.Done() {
		end := bytes.IndexByte(b[n:], '\n')
		if end < 0 {
			break
		}
		number, _, _ := strings.Cut(string(b[n:n+end]), " ")
		l.last, _ = strconv.Atoi(number)
		l.got++
		n += end + 1
	}
	return n
}

func (l *lines) Done() bool { return l.want > 0 && l.got >= l.want }

// line makes the record of a number; every 50th is bigger than all buffers.
func line(n int) string {
	if n%50 == 0 {
		return fmt.Sprintf("%d %s\n", n, strings.Repeat("x", 100_000))
	}
	return fmt.Sprintf("%d text\n", n)
}

// emit answers with the lines after the query's number up to to, and a part of the next one.
func emit(w http.ResponseWriter, r *http.Request, to int) {
	after, _ := strconv.Atoi(r.URL.Query().Get("after"))
	w.Header().Set("At", strconv.Itoa(after))
	w.WriteHeader(http.StatusOK)
	w.(http.Flusher).Flush()
	for n := after + 1; n <= to; n++ {
		_, _ = io.WriteString(w, line(n))
	}
	next := line(to + 1)
	_, _ = io.WriteString(w, next[:len(next)/2])
	w.(http.Flusher).Flush()
}

// following serves p with the Resumer that the test keeps.
func following(t *testing.T, p *Proxy, target Target, res *lines) *httptest.Server {
	t.Helper()
	f := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { p.Relay(w, r, target, res) }))
	t.Cleanup(func() { f.CloseClientConnections(); f.Close() })
	return f
}

// wantLines reads an answer and expects exactly the lines 1 to n; with ends, and then its end in good order.
func wantLines(t *testing.T, url string, n int, ends bool) {
	t.Helper()
	resp, err := http.Get(url)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK || resp.Header.Get("At") != "0" {
		t.Fatalf("status %d, header %v; want the head of the first answer", resp.StatusCode, resp.Header)
	}
	br := bufio.NewReader(resp.Body)
	for i := 1; i <= n; i++ {
		s, err := br.ReadString('\n')
		if err != nil || s != line(i) {
			t.Fatalf("record %d: %.40q, error %v", i, s, err)
		}
	}
	if !ends {
		return
	}
	if rest, err := io.ReadAll(br); err != nil || len(rest) > 0 {
		t.Errorf("after the last record: %.40q, error %v; want an orderly end", rest, err)
	}
}

// TestAnswerOutlivesItsServers: each server gives some more records and a part of the next, then breaks off or ends.
func TestAnswerOutlivesItsServers(t *testing.T) {
	for name, end := range map[string]func(){"broken": func() { panic(http.ErrAbortHandler) }, "ended": func() {}} {
		t.Run(name, func(t *testing.T) {
			var to atomic.Int64
			handler := func(w http.ResponseWriter, r *http.Request) {
				n := int(to.Add(37))
				emit(w, r, n)
				if n > 37 && r.Header.Get(HopsHeader) != "1" {
					t.Errorf("hops %q", r.Header.Get(HopsHeader))
				}
				end()
			}
			p := newProxy(t, nil, serve(t, handler).addr(), serve(t, handler).addr(), serve(t, handler).addr())
			res := &lines{want: 200}
			wantLines(t, following(t, p, Any, res).URL+"/?x=1", 200, true)
		})
	}
}

func TestAnswerIsFinishedHere(t *testing.T) {
	b := serve(t, func(w http.ResponseWriter, r *http.Request) {
		emit(w, r, 10)
		panic(http.ErrAbortHandler)
	})
	p := newProxy(t, func(c *Config) {
		c.Self = "here"
		c.Leader = func() string { return c.Servers()[0].Addr }
		c.Local = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			after, _ := strconv.Atoi(r.URL.Query().Get("after"))
			emit(w, r, after+10)
		})
	}, b.addr())
	wantLines(t, following(t, p, Leader, &lines{want: 60}).URL, 60, true)
	if b.hits.Load() != 1 {
		t.Errorf("the broken server was asked %d times, want once", b.hits.Load())
	}
}

func TestLostHistoryEndsTheAnswer(t *testing.T) {
	handler := func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Query().Has("after") {
			http.Error(w, "the history is gone", http.StatusBadRequest)
			return
		}
		emit(w, r, 3)
	}
	p := newProxy(t, nil, serve(t, handler).addr(), serve(t, handler).addr())
	wantLines(t, following(t, p, Any, &lines{}).URL, 3, true)
}

func TestTroubledServerIsAskedAgain(t *testing.T) {
	var n atomic.Int64
	handler := func(w http.ResponseWriter, r *http.Request) {
		if i := n.Add(1); i > 1 && i < 5 {
			http.Error(w, "tree is closed", http.StatusInternalServerError)
			return
		}
		emit(w, r, 5*int(n.Load()))
	}
	p := newProxy(t, nil, serve(t, handler).addr())
	wantLines(t, following(t, p, Any, &lines{want: 25}).URL, 25, true)
}

func TestAnswerEndsWhenNobodyIsLeft(t *testing.T) {
	b := serve(t, func(w http.ResponseWriter, r *http.Request) { emit(w, r, 3) })
	p := newProxy(t, func(c *Config) { c.ResumeHold = 50 * time.Millisecond }, b.addr())
	f := following(t, p, Any, &lines{})
	resp, err := http.Get(f.URL)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	got := make([]byte, len(line(1)+line(2)+line(3)))
	if _, err := io.ReadFull(resp.Body, got); err != nil || string(got) != line(1)+line(2)+line(3) { // the server dies after them
		t.Fatalf("%q, %v; want three records", got, err)
	}
	b.CloseClientConnections()
	b.Close()
	if rest, err := io.ReadAll(resp.Body); err != nil || len(rest) > 0 {
		t.Errorf("after the records: %q, %v; want an orderly end", rest, err)
	}
}

// TestWaitingRequestMovesOn: before there is a head, each further server gets what is left of the request.
func TestWaitingRequestMovesOn(t *testing.T) {
	broken := func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) }
	res := &lines{}
	good := serve(t, func(w http.ResponseWriter, r *http.Request) { fmt.Fprint(w, "answer") })
	p := newProxy(t, nil, good.addr(), serve(t, broken).addr(), serve(t, broken).addr())
	p.picker.random = func() float64 { return 0 } // from the last to the first
	f := following(t, p, Any, res)
	if code, body, _ := call(t, "GET", f.URL+"/?index=1", ""); code != 200 || body != "answer" {
		t.Errorf("%d %q", code, body)
	}
	if n := res.again.Load(); n != 2 {
		t.Errorf("asked again %d times after two broken servers", n)
	}
}

func TestClientOfAnEndlessAnswerGoes(t *testing.T) {
	gone := make(chan struct{})
	b := serve(t, func(w http.ResponseWriter, r *http.Request) {
		emit(w, r, 1)
		<-r.Context().Done()
		close(gone)
	})
	f := following(t, newProxy(t, nil, b.addr()), Any, &lines{})
	wantLines(t, f.URL, 1, false)
	select {
	case <-gone:
	case <-time.After(patience):
		t.Error("the server still holds the request of a client that went away")
	}
}

// TestStoppingAgentAcknowledgesNothing: a request that is taken away from its handler, because the agent stops, must
// not look like a success: the write it carries may never have run.
func TestStoppingAgentAcknowledgesNothing(t *testing.T) {
	arrived := make(chan struct{}, 1)
	b := serve(t, func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body) // or net/http would not notice that the client goes
		arrived <- struct{}{}
		<-r.Context().Done()
	})
	base, stop := context.WithCancel(t.Context())
	p := newProxy(t, nil, b.addr())
	f := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { p.Relay(w, r, Leader, nil) }))
	f.Config.BaseContext = func(net.Listener) context.Context { return base }
	f.Start()
	t.Cleanup(func() { f.CloseClientConnections(); f.Close() })
	go func() {
		<-arrived
		stop()
	}()
	resp, err := http.Post(f.URL, "text/plain", strings.NewReader("x"))
	if err == nil {
		resp.Body.Close()
		t.Errorf("the write was answered with %s", resp.Status)
	}
}

// TestStoppingAgentSendsRelayedRequestsBack: a request that waits here for a leader, and was relayed here, has not run:
// the agent before us is told so and can ask elsewhere.
func TestStoppingAgentSendsRelayedRequestsBack(t *testing.T) {
	var asked atomic.Bool
	b := serve(t, func(w http.ResponseWriter, r *http.Request) {
		asked.Store(true)
		w.Header().Set(NotLeaderHeader, "1")
		w.WriteHeader(http.StatusServiceUnavailable)
	})
	base, stop := context.WithCancel(t.Context())
	p := newProxy(t, nil, b.addr())
	p.picker.random = func() float64 { // of the pause after the first refusal
		if asked.Load() {
			stop()
		}
		return 0
	}
	f := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { p.Relay(w, r, Leader, nil) }))
	f.Config.BaseContext = func(net.Listener) context.Context { return base }
	f.Start()
	t.Cleanup(func() { f.CloseClientConnections(); f.Close() })
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPut, f.URL+"/k", strings.NewReader("v"))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set(HopsHeader, "1")
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	if resp.StatusCode != http.StatusServiceUnavailable || resp.Header.Get(NotLeaderHeader) == "" {
		t.Errorf("the relaying agent is answered with %s, want the proof that nothing ran", resp.Status)
	}
}

// TestServerThatGivesUpIsNotTheAnswer: 499 is what a stopping server says of requests it drops.
func TestServerThatGivesUpIsNotTheAnswer(t *testing.T) {
	stopping := serve(t, func(w http.ResponseWriter, r *http.Request) { w.WriteHeader(statusCancelled) })
	good := serve(t, echo)
	p := newProxy(t, nil, good.addr(), stopping.addr())
	p.picker.random = func() float64 { return 0 } // from the last to the first
	f := front(t, p, Leader)
	if code, body, _ := call(t, "GET", f.URL+"/k", ""); code != http.StatusOK {
		t.Errorf("a read is answered with %d %q", code, body)
	}
	p = newProxy(t, nil, stopping.addr())
	f = front(t, p, Leader)
	if code, body, _ := call(t, "PUT", f.URL+"/k", "v"); code != http.StatusBadGateway || !strings.Contains(body, "unknown") {
		t.Errorf("a write is answered with %d %q, want 502 and that its outcome is unknown", code, body)
	}
}
