//go:build e2e

package e2e

import (
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"sort"
	"strings"
	"sync"
	"testing"
	"time"
)

// writer writes keys of its own to a host and remembers which were acknowledged.
type writer struct {
	mu    sync.Mutex
	acked map[string]bool
	quit  chan struct{}
	wg    sync.WaitGroup
}

func startWriters(h *host, n int) *writer {
	w := &writer{acked: map[string]bool{}, quit: make(chan struct{})}
	for c := range n {
		w.wg.Add(1)
		go func() {
			defer w.wg.Done()
			for i := 0; ; i++ {
				select {
				case <-w.quit:
					return
				default:
				}
				key := fmt.Sprintf("crash/%d-%d", c, i)
				if status, _ := h.do(http.MethodPut, "/v1/kv/"+key, strings.Repeat("v", 100)); status == http.StatusOK {
					w.mu.Lock()
					w.acked[key] = true
					w.mu.Unlock()
				} else {
					time.Sleep(5 * time.Millisecond) // nobody listens: do not spin
				}
			}
		}()
	}
	return w
}

func (w *writer) count() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return len(w.acked)
}

func (w *writer) stop() map[string]bool {
	close(w.quit)
	w.wg.Wait()
	return w.acked
}

// missing are the acknowledged keys that the host does not have.
func missing(h *host, acked map[string]bool) []string {
	var keys []string
	if !h.get("/v1/kv/crash/?keys", &keys) {
		return []string{"no answer"}
	}
	return lacking(keys, acked)
}

func lacking(keys []string, acked map[string]bool) []string {
	have := make(map[string]bool, len(keys))
	for _, k := range keys {
		have[k] = true
	}
	var lost []string
	for k := range acked {
		if !have[k] {
			lost = append(lost, k)
		}
	}
	return lost
}

func TestKillNineAgainAndAgain(t *testing.T) {
	c := newCluster(t, 1, 0)
	s := c.servers[0]
	w := startWriters(s, 4)
	for range 12 {
		before := w.count()
		eventually(t, 30*time.Second, "writes are acknowledged", func() bool { return w.count() > before+20+rand.IntN(200) })
		s.kill()
		s.start()
	}
	eventually(t, 30*time.Second, "it answers after the last restart", func() bool {
		status, _ := s.do(http.MethodPut, "/v1/kv/last", "v")
		return status == http.StatusOK
	})
	acked := w.stop()
	if lost := missing(s, acked); len(lost) > 0 {
		t.Errorf("%d of %d acknowledged keys are lost, such as %v", len(lost), len(acked), lost[:min(3, len(lost))])
	}
	if strings.Contains(s.log.String(), "panic") {
		t.Error("something panicked")
	}
	t.Logf("%d acknowledged writes through 12 kills", len(acked))
}

// logFiles lists the files of the replicated log, oldest first.
func logFiles(t *testing.T, h *host) []string {
	t.Helper()
	list, err := filepath.Glob(filepath.Join(h.dir, "raft", "log", "*.wal"))
	if err != nil || len(list) == 0 {
		t.Fatalf("no log files: %v", err)
	}
	sort.Strings(list)
	return list
}

// end is the offset behind the last byte of a file that is not zero: segments are preallocated.
func end(t *testing.T, file string) int64 {
	t.Helper()
	b, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	n := len(b)
	for n > 0 && b[n-1] == 0 {
		n--
	}
	return int64(n)
}

func TestTornTailOfTheLogIsCutOff(t *testing.T) {
	c := newCluster(t, 1, 0)
	s := c.servers[0]
	for i := range 20 {
		s.must(http.MethodPut, fmt.Sprintf("/v1/kv/torn/%d", i), "v")
	}
	s.kill()
	list := logFiles(t, s)
	newest := list[len(list)-1]
	f, err := os.OpenFile(newest, os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	// The write that was under way when the power went: half a frame behind the last whole one.
	if _, err := f.WriteAt([]byte{1, 0, 0, 0, 200, 0, 0, 0, 7, 7, 7, 7}, (end(t, newest)+7)&^7); err != nil {
		t.Fatal(err)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	s.start()
	c.ready(s)
	var keys []string
	if !s.get("/v1/kv/torn/?keys", &keys) || len(keys) != 20 {
		t.Errorf("%d keys after a torn write, want 20", len(keys))
	}
	s.must(http.MethodPut, "/v1/kv/after", "v")
}

func TestDamagedLogIsRefusedAloud(t *testing.T) {
	c := newCluster(t, 1, 0)
	s := c.servers[0]
	for i := range 50 {
		s.must(http.MethodPut, fmt.Sprintf("/v1/kv/dmg/%d", i), strings.Repeat("v", 200))
	}
	s.kill()
	file := logFiles(t, s)[0]
	b, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	b[end(t, file)/2] ^= 0xff
	if err := os.WriteFile(file, b, 0o600); err != nil {
		t.Fatal(err)
	}
	s.start()
	deadline := time.After(20 * time.Second)
	for {
		select {
		case <-s.done:
			if strings.Contains(s.log.String(), "panic:") || strings.Contains(s.log.String(), "goroutine ") {
				t.Errorf("it panicked:\n%s", tail(s.log.String(), 20))
			}
			return
		case <-deadline:
			t.Fatalf("it runs on a damaged log without a word:\n%s", tail(s.log.String(), 20))
		default:
		}
		var keys []string
		if s.get("/v1/kv/dmg/?keys", &keys) && len(keys) < 50 {
			t.Fatalf("it serves %d of 50 acknowledged keys from a damaged log", len(keys))
		} else if len(keys) == 50 {
			return // what was damaged is not needed any more
		}
		time.Sleep(50 * time.Millisecond)
	}
}

// TestNonsenseOnEveryPort throws random bytes and broken requests at each port; the agent must go on as before.
func TestNonsenseOnEveryPort(t *testing.T) {
	c := newCluster(t, 1, 1)
	s := c.servers[0]
	goroutines := func() int {
		var self struct{ Stats map[string]map[string]string }
		n := -1
		if s.get("/v1/agent/self", &self) {
			_, _ = fmt.Sscan(self.Stats["runtime"]["goroutines"], &n)
		}
		return n
	}
	before := goroutines()
	r := rand.New(rand.NewPCG(1, 2))
	junk := func() []byte {
		b := make([]byte, 1+r.IntN(2000))
		for i := range b {
			b[i] = byte(r.Uint32())
		}
		return b
	}
	starts := []string{"", "GET ", "GET / HTTP/1.1\r\n", "PUT /v2/keys/x HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nfff\r\nabc", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
		"GET /v1/internal/raft HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: muster-raft\r\n\r\n", "H", "\x16\x03\x01"}
	for _, port := range []string{"8500", "2379", "8600", "8300", "8301"} {
		for i := range 40 {
			conn, err := net.DialTimeout("tcp", s.ip+":"+port, 2*time.Second)
			if err != nil {
				t.Fatalf("port %s after %d connections: %v", port, i, err)
			}
			_, _ = io.WriteString(conn, starts[i%len(starts)])
			_, _ = conn.Write(junk())
			conn.Close()
		}
	}
	for _, port := range []string{"8600", "8301"} {
		conn, err := net.Dial("udp", s.ip+":"+port)
		if err != nil {
			t.Fatal(err)
		}
		for range 200 {
			_, _ = conn.Write(junk())
		}
		conn.Close()
	}
	paths := []string{"/v1/kv/%00", "/v1/kv/%ff%fe", "/v2/keys/%ff", "/v2/keys/" + strings.Repeat("a/", 5000), "/v1/kv/" + strings.Repeat("k", 60000),
		"/v1/kv/a?index=18446744073709551615&wait=1ms", "/v1/kv/a?index=-1", "/v1/kv/a?index=1&wait=-1s", "/v1/health/service/a?passing=perhaps", "/v1/health/service/a?index=99999999999999999999",
		"/v2/keys/a?waitIndex=18446744073709551616", "/v2/keys/a?ttl=99999999999999999999", "/v2/keys/a?recursive=1&sorted=2", "/v1/catalog/service/", "/v1/agent/health/service/id/", "/v1/session/info/x"}
	for _, p := range paths {
		for _, method := range []string{"GET", "PUT", "DELETE", "POST", "BREW"} {
			for _, body := range []string{"", "{", `{"Name":[]}`, `[1,2]`, "\xff\xfe", strings.Repeat("[", 20000)} {
				if status, answer := s.do(method, p, body); status == 0 && len(p) < 5000 {
					t.Errorf("%s %.60s: no answer: %s", method, p, answer)
				}
			}
		}
	}
	for _, p := range []string{"/v1/agent/service/register", "/v1/agent/check/register", "/v1/catalog/register", "/v1/catalog/deregister", "/v1/session/create", "/v1/agent/check/update/x"} {
		for _, body := range []string{"", "{", "null", "[]", "3", `"x"`, `{"Name":1}`, `{"Name":"a","Checks":[null]}`, `{"Check":{"TTL":-5}}`, `{"Node":"x","Address":"1","Service":{"Weights":{"Passing":-1}}}`, strings.Repeat(`{"a":`, 20000)} {
			if status, answer := s.do(http.MethodPut, p, body); status == 0 {
				t.Errorf("PUT %s with %.30q: no answer: %s", p, body, answer)
			}
		}
	}
	if log := s.log.String(); strings.Contains(log, "panic") {
		t.Errorf("something panicked:\n%s", tail(log, 30))
	}
	if n := digCount(t, s, "consul.service.consul"); n != 1 {
		t.Errorf("DNS gives %d servers afterwards", n)
	}
	s.must(http.MethodPut, "/v1/kv/still", "here")
	http.DefaultClient.CloseIdleConnections()
	eventually(t, 40*time.Second, "the goroutines of the nonsense end", func() bool { return goroutines() < before+20 })
	var metrics map[string]any
	if status, body := s.do(http.MethodGet, "/v1/agent/metrics", ""); status != http.StatusOK || json.Unmarshal([]byte(body), &metrics) != nil {
		t.Errorf("metrics afterwards: status %d", status)
	}
}
