// Package testcluster runs whole agents in one test process, each on a loopback address of its own, with the
// verbs that tests of a cluster need.
//
//	c := testcluster.Start(t, 3, 1)     // three servers, one proxy
//	c.Proxies[0].Put(t, "/v1/kv/a", "1")
//	c.Leader(t).Crash(t)
//	c.WaitLeader(t)
package testcluster

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/musterhq/muster/agent"
)

// Patience is how long the verbs wait for what they promise.
const Patience = 30 * time.Second

// Host is one machine: an address, a data directory, and the agent on it while it runs.
type Host struct {
	Name  string
	IP    string
	args  []string
	ports ports
	agent *agent.Agent
	log   *logSink
}

type ports struct{ http, etcd, dns, server, serf int }

// Cluster is a set of hosts.
type Cluster struct {
	Servers, Proxies []*Host
}

// All lists every host.
func (c *Cluster) All() []*Host { return append(append([]*Host{}, c.Servers...), c.Proxies...) }

var nextHost atomic.Int64

// newHost reserves an address; processes of one machine differ by their id.
func newHost(t testing.TB, name string, args ...string) *Host {
	t.Helper()
	n := nextHost.Add(1)
	h := &Host{Name: name, IP: fmt.Sprintf("127.%d.%d.%d", 120+os.Getpid()%120, n/250, 1+n%250), log: &logSink{t: t}}
	h.ports = ports{8500, 2379, 8600, 8300, 8301}
	h.args = append([]string{"-node=" + name, "-bind=" + h.IP, "-client=" + h.IP, "-data-dir=" + t.TempDir(), "-log-level=info"}, args...)
	t.Cleanup(func() {
		h.Stop(t)
		h.log.end()
	})
	return h
}

// Start runs servers and proxies and waits until each answers and is in the catalog. Extra arguments go to all.
func Start(t testing.TB, servers, proxies int, args ...string) *Cluster {
	t.Helper()
	c := &Cluster{}
	var join []string
	for i := range servers {
		h := newHost(t, fmt.Sprintf("s%d", i+1), args...)
		c.Servers = append(c.Servers, h)
		join = append(join, "-retry-join="+h.IP)
	}
	for i := range proxies {
		c.Proxies = append(c.Proxies, newHost(t, fmt.Sprintf("p%d", i+1), args...))
	}
	for _, h := range c.All() {
		h.args = append(append(h.args, "-retry-interval=250ms"), join...)
	}
	for _, h := range c.Servers {
		h.args = append(h.args, "-server", "-bootstrap-expect="+strconv.Itoa(servers))
	}
	for _, h := range c.All() {
		h.Start(t)
	}
	c.WaitReady(t)
	return c
}

// Start starts the agent of a host with its data directory.
func (h *Host) Start(t testing.TB, extra ...string) {
	t.Helper()
	cfg, _, err := agent.Load(append(append([]string{}, h.args...), extra...), nil, io.Discard)
	if err != nil {
		t.Fatalf("%s: %v", h.Name, err)
	}
	a, err := agent.Start(context.Background(), cfg, agent.Options{Log: h.log, Reload: func() (agent.Config, []agent.Warning, error) {
		return agent.Load(h.args, nil, io.Discard)
	}})
	if err != nil {
		t.Fatalf("%s: %v", h.Name, err)
	}
	h.agent = a
}

// Stop stops the agent without leaving.
func (h *Host) Stop(testing.TB) {
	if h.agent != nil {
		h.agent.Stop()
		h.agent = nil
	}
}

// Agent is the running agent, nil while stopped.
func (h *Host) Agent() *agent.Agent { return h.agent }

// URL of a path on the host's HTTP interface.
func (h *Host) URL(path string) string {
	return "http://" + net.JoinHostPort(h.IP, strconv.Itoa(h.ports.http)) + path
}

// DNS is the address of the host's DNS interface.
func (h *Host) DNS() string { return net.JoinHostPort(h.IP, strconv.Itoa(h.ports.dns)) }

// Do makes one request; a failed connection is status 0.
func (h *Host) Do(method, path, body string) (int, string) {
	ctx, cancel := context.WithTimeout(context.Background(), Patience)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, method, h.URL(path), strings.NewReader(body))
	if err != nil {
		return 0, err.Error()
	}
	if strings.HasPrefix(path, "/v2/") && method != http.MethodGet {
		req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return 0, err.Error()
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		return 0, err.Error()
	}
	return resp.StatusCode, string(b)
}

// Put must succeed.
func (h *Host) Put(t testing.TB, path, body string) string {
	t.Helper()
	status, answer := h.Do(http.MethodPut, path, body)
	if status/100 != 2 {
		t.Fatalf("%s: PUT %s: status %d: %s", h.Name, path, status, answer)
	}
	return answer
}

// Get decodes the JSON of a 200 answer and says whether there was one.
func (h *Host) Get(path string, v any) bool {
	status, body := h.Do(http.MethodGet, path, "")
	return status == http.StatusOK && json.Unmarshal([]byte(body), v) == nil
}

// Eventually polls until ok says so.
func Eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	deadline := time.Now().Add(Patience)
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for !ok() {
		if time.Now().After(deadline) {
			t.Fatalf("not within %v: %s", Patience, what)
		}
		<-tick.C
	}
}

// WaitReady waits until each running host knows itself in the catalog.
func (c *Cluster) WaitReady(t testing.TB) {
	t.Helper()
	for _, h := range c.All() {
		if h.agent == nil {
			continue
		}
		Eventually(t, h.Name+" answers and is in the catalog", func() bool {
			var n struct{ Node *struct{ Node string } }
			return h.Get("/v1/catalog/node/"+h.Name, &n) && n.Node != nil
		})
	}
}

// Leader waits for a leader and returns its host.
func (c *Cluster) Leader(t testing.TB) *Host {
	t.Helper()
	var found *Host
	Eventually(t, "the cluster has a leader", func() bool {
		for _, s := range c.Servers {
			var addr string
			if s.agent == nil || !s.Get("/v1/status/leader", &addr) {
				continue
			}
			for _, h := range c.Servers {
				if h.agent != nil && strings.HasPrefix(addr, h.IP+":") {
					found = h
					return true
				}
			}
		}
		return false
	})
	return found
}

// logSink gives the log of an agent to the test, so that only failing tests speak.
type logSink struct {
	t    testing.TB
	over atomic.Bool
}

func (l *logSink) end() { l.over.Store(true) }

func (l *logSink) Write(p []byte) (int, error) {
	if !l.over.Load() {
		l.t.Log(strings.TrimRight(string(p), "\n"))
	}
	return len(p), nil
}
