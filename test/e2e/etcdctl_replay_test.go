//go:build e2e

package e2e

import (
	"maps"
	"net/http"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/musterhq/muster/test/conformance/etcdctlreplay"
)

// TestRecordedRunsOfStockEtcdctl replays the recorded runs with the stock command line against the real binary.
func TestRecordedRunsOfStockEtcdctl(t *testing.T) {
	t.Parallel()
	ctl := tool(t, "etcdctl")
	files, err := filepath.Glob("../conformance/etcdctl/*.jsonl")
	if err != nil || len(files) == 0 {
		t.Fatalf("no recordings found: %v", err)
	}
	skip := maps.Clone(etcdctlreplay.Departures())
	skip["backup.jsonl"] = "the stock command reads etcd's own files"
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".jsonl"), func(t *testing.T) {
			t.Parallel()
			etcdctlreplay.Run(t, file, etcdctlreplay.Options{Command: ctl, Debian: true, Skip: skip, Stage: newCtlStage})
		})
	}
}

// ctlStage is one server, which a second one may join.
type ctlStage struct{ first, second *host }

func newCtlStage(t *testing.T, second string) etcdctlreplay.Stage {
	s := &ctlStage{first: newAgentHost(t, "n1", "-server", "-bootstrap-expect=1")}
	s.first.start()
	s.rest(t, s.first)
	if second != "" {
		s.second = newAgentHost(t, second, "-server", "-retry-join="+s.first.ip, "-retry-interval=1s")
	}
	return s
}

// rest waits until the agent h is in the catalog and the index stands still.
func (s *ctlStage) rest(t *testing.T, h *host) {
	t.Helper()
	(&cluster{t: t}).ready(h)
	last, since := "", time.Now()
	eventually(t, 30*time.Second, "the index stands still", func() bool {
		resp, err := http.Get(s.URL() + "/v2/keys/")
		if err != nil {
			return false
		}
		resp.Body.Close()
		if index := resp.Header.Get("X-Etcd-Index"); index != last {
			last, since = index, time.Now()
		}
		return time.Since(since) > 500*time.Millisecond
	})
}

func (s *ctlStage) URL() string     { return "http://" + s.first.ip + ":2379" }
func (s *ctlStage) DataDir() string { return s.first.dir }

func (s *ctlStage) Second() (peer, client string) {
	if s.second == nil {
		return "", ""
	}
	return "http://" + s.second.ip + ":8300", "http://" + s.second.ip + ":2379"
}

func (s *ctlStage) StartSecond(t *testing.T) {
	s.second.start()
	s.rest(t, s.second)
}

func (s *ctlStage) StopSecond(*testing.T) {
	s.second.signal(syscall.SIGTERM)
	s.second.wait(40 * time.Second)
}
