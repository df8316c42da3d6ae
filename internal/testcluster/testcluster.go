// Package testcluster runs whole agents in one test process, each on a loopback address of its own, with the
// verbs that tests of a cluster need.
//
//	c := testcluster.Start(t, 3, 1)         // three servers, one proxy
//	c.Proxies[0].Put(t, "/v1/kv/a", "1")
//	old := c.WaitLeader(t)
//	old.Crash(t)                            // no goodbye, no handover
//	c.WaitLeader(t, old)                    // somebody else
//	old.Start(t)
//	c.WaitSame(t)                           // every replica has the same state
//
// Partition cuts the connections to server ports: consensus and relayed requests. Gossip is not cut, so the machines
// on either side still believe each other alive: what is tested is a server port that cannot be reached, which is
// the case that consensus has to survive.
package testcluster

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/musterhq/muster/agent"
	"github.com/musterhq/muster/api/consul"
)

// Patience is how long the verbs wait for what they promise.
const Patience = time.Minute

// Ports of every host: the defaults of the product, on the host's own address.
const (
	httpPort   = 8500
	etcdPort   = 2379
	dnsPort    = 8600
	serverPort = 8300
)

// Host is one machine: an address, a data directory, and the agent on it while it runs. Its verbs belong to the
// test's goroutine; requests (Do, Get, Put) may be made from any.
type Host struct {
	Name, IP  string
	DataDir   string
	ExtraArgs []string // flags added at each Start
	// Authorizer of the agent; set before Start.
	Authorizer consul.Authorizer

	args    []string
	network *network
	agent   atomic.Pointer[agent.Agent]
	log     *logSink
}

// Cluster is a set of hosts that can reach one another.
type Cluster struct {
	Servers, Proxies []*Host
	args             []string
	network          *network
}

// All lists every host, running or not.
func (c *Cluster) All() []*Host { return append(append([]*Host{}, c.Servers...), c.Proxies...) }

// Start runs servers and proxies and waits until each answers and is in the catalog. Extra arguments go to all,
// also to those added later.
func Start(t testing.TB, servers, proxies int, args ...string) *Cluster {
	t.Helper()
	c := &Cluster{args: args, network: newNetwork()}
	for i := range servers {
		h := c.newHost(t, fmt.Sprintf("s%d", i+1), "-server", "-bootstrap-expect="+strconv.Itoa(servers))
		c.Servers = append(c.Servers, h)
	}
	for i := range proxies {
		c.Proxies = append(c.Proxies, c.newHost(t, fmt.Sprintf("p%d", i+1)))
	}
	for _, h := range c.All() {
		h.join(c)
		h.Start(t)
	}
	c.WaitReady(t)
	return c
}

// AddServer starts one more server, which joins through the others. It does not wait.
func (c *Cluster) AddServer(t testing.TB, name string, args ...string) *Host {
	t.Helper()
	h := c.PlanServer(t, name, args...)
	h.Start(t)
	return h
}

// PlanServer is AddServer without the start: the host has its addresses, and runs once Start is called.
func (c *Cluster) PlanServer(t testing.TB, name string, args ...string) *Host {
	t.Helper()
	h := c.newHost(t, name, append([]string{"-server"}, args...)...)
	h.join(c)
	c.Servers = append(c.Servers, h)
	return h
}

// AddProxy starts one more proxy, which joins through the servers. It does not wait.
func (c *Cluster) AddProxy(t testing.TB, name string, args ...string) *Host {
	t.Helper()
	h := c.newHost(t, name, args...)
	h.join(c)
	c.Proxies = append(c.Proxies, h)
	h.Start(t)
	return h
}

var nextHost atomic.Int64

// newHost reserves an address; processes that run at the same time differ by their id.
func (c *Cluster) newHost(t testing.TB, name string, args ...string) *Host {
	t.Helper()
	n := nextHost.Add(1)
	if n > 254 {
		t.Fatal("one process has loopback addresses for 254 hosts")
	}
	pid := os.Getpid()
	h := &Host{Name: name, IP: fmt.Sprintf("127.%d.%d.%d", 120+pid/250%120, pid%250, n), DataDir: t.TempDir(), network: c.network, log: &logSink{t: t}}
	h.args = []string{
		"-node=" + name, "-bind=" + h.IP, "-client=" + h.IP, "-data-dir=" + h.DataDir, "-log-level=info", "-retry-interval=250ms",
		// Three times the silence after which a leader is replaced: on a busy machine, with all servers in one process and on one disk, a
		// leader would fall in the middle of what a test does.
		`-hcl=performance { leave_drain_time = "100ms" raft_multiplier = 3 }`,
	}
	h.args = append(append(h.args, c.args...), args...)
	t.Cleanup(func() {
		h.Stop(t)
		h.log.end()
	})
	return h
}

// join makes h join through the servers of c.
func (h *Host) join(c *Cluster) {
	for _, s := range c.Servers {
		if s != h {
			h.args = append(h.args, "-retry-join="+s.IP)
		}
	}
}

// load reads the configuration of h.
func (h *Host) load() (agent.Config, []agent.Warning, error) {
	return agent.Load(append(slices.Clone(h.args), h.ExtraArgs...), nil, io.Discard)
}

// Start starts the agent of a host with its data directory.
func (h *Host) Start(t testing.TB) {
	t.Helper()
	cfg, _, err := h.load()
	if err != nil {
		t.Fatalf("%s: %v", h.Name, err)
	}
	a, err := agent.Start(context.Background(), cfg, agent.Options{Log: h.log, Reload: h.load, Dial: h.network.dialer(h.IP), Authorizer: h.Authorizer})
	if err != nil {
		t.Fatalf("%s: %v", h.Name, err)
	}
	h.agent.Store(a)
}

// Stop stops the agent without leaving, as an operator's signal does: a leader hands over first.
func (h *Host) Stop(testing.TB) {
	if a := h.agent.Swap(nil); a != nil {
		a.Stop()
	}
}

// Leave leaves the cluster for good and stops the agent.
func (h *Host) Leave(t testing.TB) {
	t.Helper()
	if a := h.agent.Swap(nil); a != nil {
		if err := a.Leave(false); err != nil {
			t.Errorf("%s leaves: %v", h.Name, err)
		}
		a.Stop()
	}
}

// Crash ends the agent as if its process died: its connections break first, so that no word of goodbye and no
// handover gets out. Its data directory is what it had written so far.
func (h *Host) Crash(testing.TB) {
	a := h.agent.Swap(nil)
	if a == nil {
		return
	}
	defer h.network.cut(func(a, b string) bool { return a == h.IP || b == h.IP })()
	a.Kill()
}

// Agent is the running agent, nil while stopped.
func (h *Host) Agent() *agent.Agent { return h.agent.Load() }

// Running says whether the agent runs.
func (h *Host) Running() bool { return h.agent.Load() != nil }

// Partition cuts these hosts off from all others, in both directions, until heal is called. See the package comment.
func (c *Cluster) Partition(hosts ...*Host) (heal func()) {
	inside := func(ip string) bool {
		return slices.ContainsFunc(hosts, func(h *Host) bool { return h.IP == ip })
	}
	return c.network.cut(func(a, b string) bool { return inside(a) != inside(b) })
}

// WaitReady waits until each running host knows itself in the catalog.
func (c *Cluster) WaitReady(t testing.TB) {
	t.Helper()
	for _, h := range c.All() {
		if h.Running() {
			h.WaitReady(t)
		}
	}
}

// WaitReady waits until the host answers and finds itself in the catalog.
func (h *Host) WaitReady(t testing.TB) {
	t.Helper()
	Eventually(t, h.Name+" answers and is in the catalog", func() bool {
		var n struct{ Node *struct{ Node string } }
		return h.Get("/v1/catalog/node/"+h.Name, &n) && n.Node != nil
	})
}

// WaitLeader waits until a running server other than the excluded ones leads, in the view of a majority of the
// servers, and returns its host.
func (c *Cluster) WaitLeader(t testing.TB, except ...*Host) *Host {
	t.Helper()
	var found *Host
	Eventually(t, "the cluster has a leader", func() bool {
		votes := map[*Host]int{}
		for _, s := range c.Servers {
			var addr string
			if !s.Running() || slices.Contains(except, s) || !s.Get("/v1/status/leader", &addr) {
				continue
			}
			for _, h := range c.Servers {
				if h.Running() && !slices.Contains(except, h) && addr == h.ServerAddr() {
					if votes[h]++; votes[h] > len(c.Servers)/2 || votes[h] == len(c.Servers)-len(except) {
						found = h
						return true
					}
				}
			}
		}
		return false
	})
	return found
}

// WaitSame waits until all running servers are at one index with the same state there, and returns that index.
// Entries that change nothing but the clock of the tree do not move the index, so two servers may differ for a moment.
func (c *Cluster) WaitSame(t testing.TB) uint64 {
	t.Helper()
	var at uint64
	Eventually(t, "all servers are at one index, with the same state", func() bool {
		var hash uint64
		at = 0
		for _, s := range c.Servers {
			a := s.Agent()
			if a == nil {
				continue
			}
			i, h, ok := a.StateHash()
			if !ok {
				t.Fatalf("%s holds no state", s.Name)
			}
			if at == 0 {
				at, hash = i, h
			}
			if at != i || hash != h {
				return false
			}
		}
		return at > 0
	})
	return at
}

// URL of a path on the host's HTTP interface.
func (h *Host) URL(path string) string { return "http://" + h.at(httpPort) + path }

// EtcdURL is the base of the host's interface for clients of the hierarchical dialect.
func (h *Host) EtcdURL() string { return "http://" + h.at(etcdPort) }

// DNS is the address of the host's DNS interface.
func (h *Host) DNS() string { return h.at(dnsPort) }

// ServerAddr is the address of the host's port between agents.
func (h *Host) ServerAddr() string { return h.at(serverPort) }

func (h *Host) at(port int) string { return net.JoinHostPort(h.IP, strconv.Itoa(port)) }

// Answer is one whole HTTP answer. Status 0: there was none, and Body says why.
type Answer struct {
	Status int
	Header http.Header
	Body   string
}

// OK says whether the status is 2xx.
func (a Answer) OK() bool { return a.Status/100 == 2 }

// Index is the X-Consul-Index of the answer, 0 when there is none.
func (a Answer) Index() uint64 {
	n, err := strconv.ParseUint(a.Header.Get("X-Consul-Index"), 10, 64)
	if err != nil {
		return 0
	}
	return n
}

// Do makes one request.
func (h *Host) Do(method, path, body string) Answer {
	ctx, cancel := context.WithTimeout(context.Background(), Patience)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, method, h.URL(path), strings.NewReader(body))
	if err != nil {
		return Answer{Body: err.Error()}
	}
	if strings.HasPrefix(path, "/v2/") && body != "" {
		req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return Answer{Body: err.Error()}
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		return Answer{Body: err.Error()}
	}
	return Answer{resp.StatusCode, resp.Header, string(b)}
}

// Put must succeed. On a machine that is busy enough a leader falls by itself, and what a write came to is unknown then: it is
// made again, as a client does, and the test's log says so. What must succeed at once takes Do.
func (h *Host) Put(t testing.TB, path, body string) Answer {
	t.Helper()
	a := h.Do(http.MethodPut, path, body)
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	for deadline := time.Now().Add(Patience); a.Status == http.StatusInternalServerError && time.Now().Before(deadline); <-tick.C {
		t.Logf("%s: PUT %s is made again: status %d: %s", h.Name, path, a.Status, a.Body)
		a = h.Do(http.MethodPut, path, body)
	}
	if !a.OK() {
		t.Fatalf("%s: PUT %s: status %d: %s", h.Name, path, a.Status, a.Body)
	}
	return a
}

// Get decodes the JSON of a 200 answer and says whether there was one.
func (h *Host) Get(path string, v any) bool {
	a := h.Do(http.MethodGet, path, "")
	return a.Status == http.StatusOK && json.Unmarshal([]byte(a.Body), v) == nil
}

// Eventually polls until ok says so, and fails the test after Patience.
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

// Main runs the tests of a package that do nothing but wait for clusters: three at once, whatever the number of processors, unless the
// flag -parallel says otherwise.
//
//	func TestMain(m *testing.M) { os.Exit(testcluster.Main(m)) }
func Main(m *testing.M) int {
	flag.Parse()
	given := false
	flag.Visit(func(f *flag.Flag) { given = given || f.Name == "test.parallel" })
	if f := flag.Lookup("test.parallel"); f != nil && !given {
		if err := f.Value.Set("3"); err != nil {
			panic(err)
		}
	}
	return m.Run()
}
