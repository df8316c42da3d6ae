package dnsserver

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/miekg/dns"

	"github.com/musterhq/muster/catalog"
)

// cluster answers as servers do: blocking queries, an index, and times when nobody is there.
type cluster struct {
	mu      sync.Mutex
	bodies  map[string]string // by path and filter
	last    map[string]string // what is known while it is down
	index   uint64
	change  chan struct{}
	down    bool
	hang    bool // takes questions and never answers
	asked   map[string]int
	waiting int
}

func newCluster() *cluster {
	return &cluster{bodies: map[string]string{}, index: 1, change: make(chan struct{}), asked: map[string]int{}}
}

func (c *cluster) set(path, body string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.bodies[path] = body
	c.index++
	close(c.change)
	c.change = make(chan struct{})
}

// fail cuts or restores the connection; waiting queries break.
func (c *cluster) fail(down bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.down = down
	close(c.change)
	c.change = make(chan struct{})
}

func (c *cluster) fetch(ctx context.Context, path string, query url.Values) (Fetched, error) {
	key := path
	if f := query.Get("filter"); f != "" {
		key += "?" + f
	}
	c.mu.Lock()
	c.asked[key]++
	c.mu.Unlock()
	after, _ := strconv.ParseUint(query.Get("index"), 10, 64)
	wait, _ := time.ParseDuration(query.Get("wait"))
	timeout := time.After(wait)
	for {
		c.mu.Lock()
		index, change, down, hang := c.index, c.change, c.down, c.hang
		body, ok := c.bodies[key]
		c.mu.Unlock()
		switch {
		case down:
			if old, ok := c.last[key]; ok && after == 0 {
				return Fetched{Body: []byte(old), Index: 1, Stale: true}, nil
			}
			return Fetched{}, errors.New("connection refused")
		case hang:
			<-ctx.Done()
			return Fetched{}, ctx.Err()
		case index > after:
			if !ok {
				body = "[]"
				if strings.HasPrefix(path, "/v1/catalog/node/") {
					body = "null"
				} else if path == "/v1/catalog/services" {
					body = "{}"
				}
			}
			return Fetched{Body: []byte(body), Index: index}, nil
		}
		c.mu.Lock()
		c.waiting++
		c.mu.Unlock()
		expired := false
		select {
		case <-change:
		case <-timeout:
			expired = true
		case <-ctx.Done():
		}
		c.mu.Lock()
		c.waiting--
		c.mu.Unlock()
		if ctx.Err() != nil {
			return Fetched{}, ctx.Err()
		}
		if expired {
			return Fetched{Body: []byte(body), Index: index}, nil
		}
	}
}

func (c *cluster) waiters() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.waiting
}

func (c *cluster) requests(key string) int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.asked[key]
}

const webPath = "/v1/health/service/web"

func instance(node, addr, status string) string {
	return fmt.Sprintf(`{"Node":{"ID":"","Node":%q,"Address":%q,"Datacenter":"dc1","Meta":{"a":"b"}},
		"Service":{"ID":"w","Service":"web","Tags":["v1"],"Address":"","Port":80,"Weights":{"Passing":3,"Warning":1}},
		"Checks":[{"Status":"passing"},{"Status":%q}]}`, node, addr, status)
}

func newFollower(t *testing.T, c *cluster, max int) *FollowSource {
	t.Helper()
	f, err := NewFollowSource(FollowConfig{Fetch: c.fetch, MaxNames: max})
	if err != nil {
		t.Fatal(err)
	}
	return f
}

// addrs of the healthy instances of web, as f knows them.
func addrs(t *testing.T, f *FollowSource) string {
	t.Helper()
	a, err := f.Service(t.Context(), "web")
	if err != nil {
		return err.Error()
	}
	var out []string
	for _, in := range catalog.Choose(a.Instances, "", false) {
		out = append(out, in.Node.Address)
	}
	if a.Stale {
		out = append(out, "stale")
	}
	return strings.Join(out, " ")
}

// use asks for web until it is followed.
func use(t *testing.T, f *FollowSource) {
	t.Helper()
	addrs(t, f)
	time.Sleep(2 * sameUse)
	addrs(t, f)
	synctest.Wait()
}

// A name that is asked for once, by however many questions that belong together, costs one request and leaves nothing behind.
func TestNameAskedForOnceIsNotFollowed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster()
		c.set(webPath, "["+instance("n1", "10.0.0.1", "passing")+"]")
		f := newFollower(t, c, 0)
		defer f.Close()
		for i := range 5 {
			for range 3 {
				if got := addrs(t, f); got != fmt.Sprint("10.0.0.", i+1) {
					t.Fatalf("use %d: %s", i, got)
				}
			}
			time.Sleep(2 * sameUse)
			if n := c.requests(webPath); n != i+1 || c.waiters() != 0 || f.Following() {
				t.Fatalf("%d requests after %d uses, %d queries wait", n, i+1, c.waiters())
			}
			c.set(webPath, "["+instance("n1", fmt.Sprint("10.0.0.", i+2), "passing")+"]")
			time.Sleep(10 * time.Minute)
		}
		use(t, f)
		if n := c.waiters(); n != 1 || !f.Following() {
			t.Errorf("%d queries wait for a name in use", n)
		}
	})
}

func TestFollowedNameNeedsNoRoundTrip(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster()
		c.set(webPath, "["+instance("n1", "10.0.0.1", "passing")+"]")
		f := newFollower(t, c, 0)
		defer f.Close()
		if got := addrs(t, f); got != "10.0.0.1" {
			t.Fatalf("first: %s", got)
		}
		use(t, f)
		before := c.requests(webPath)
		one, _ := f.Service(t.Context(), "web")
		for range 100 {
			if again, _ := f.Service(t.Context(), "web"); again != one {
				t.Fatal("nothing changed, yet another pointer")
			}
		}
		if n := c.requests(webPath); n != before {
			t.Errorf("%d more requests", n-before)
		}
		if in := one.Instances[0]; in.Service.Weights.Passing != 3 || in.Service.Port != 80 || in.Service.Tags[0] != "v1" || in.Node.Meta["a"] != "b" {
			t.Errorf("decoded %+v %+v", in.Node, in.Service)
		}
		c.set(webPath, "["+instance("n1", "10.0.0.1", "critical")+","+instance("n2", "10.0.0.2", "warning")+"]")
		synctest.Wait()
		if got := addrs(t, f); got != "10.0.0.2" {
			t.Errorf("after a change: %s", got)
		}
		time.Sleep(3 * time.Minute) // several blocking queries end without news
		if n := c.requests(webPath); n > before+8 {
			t.Errorf("%d requests in three quiet minutes", n-before)
		}
	})
}

func TestUnreachableClusterLeavesLastAnswer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster()
		c.set(webPath, "["+instance("n1", "10.0.0.1", "passing")+"]")
		f := newFollower(t, c, 0)
		defer f.Close()
		use(t, f)
		c.fail(true)
		synctest.Wait()
		for range 20 {
			began := time.Now()
			if got := addrs(t, f); got != "10.0.0.1 stale" || time.Since(began) > 2*time.Second {
				t.Fatalf("down: %s after %s", got, time.Since(began))
			}
			time.Sleep(10 * time.Minute) // idle in between, so the name is not followed any more
		}
		if _, err := f.Service(t.Context(), "other"); !errors.Is(err, ErrUnreachable) {
			t.Errorf("unknown name: %v", err)
		}
		c.fail(false)
		c.set(webPath, "["+instance("n1", "10.0.0.9", "passing")+"]")
		time.Sleep(2 * retryMost)
		if got := addrs(t, f); got != "10.0.0.9" {
			t.Errorf("back again: %s", got)
		}
	})
}

func TestSilentClusterCostsTwoSeconds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster()
		c.hang = true
		f := newFollower(t, c, 0)
		defer f.Close()
		began := time.Now()
		if _, err := f.Service(t.Context(), "web"); !errors.Is(err, ErrUnreachable) || time.Since(began) != 2*time.Second {
			t.Errorf("%v after %s", err, time.Since(began))
		}
	})
}

func TestIdleNamesAreNotFollowed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster()
		c.set(webPath, "["+instance("n1", "10.0.0.1", "passing")+"]")
		f := newFollower(t, c, 0)
		defer f.Close()
		for range 2 {
			use(t, f)
			if _, err := f.Service(t.Context(), "missing"); err != nil {
				t.Fatal(err)
			}
		}
		synctest.Wait()
		if n := c.waiters(); n != 2 {
			t.Fatalf("%d queries wait", n)
		}
		time.Sleep(2 * time.Minute)
		synctest.Wait()
		if n := c.waiters(); n != 1 {
			t.Errorf("%d queries wait after the missing name has become idle", n)
		}
		time.Sleep(6 * time.Minute)
		synctest.Wait()
		if n := c.waiters(); n != 0 {
			t.Errorf("%d queries wait after all have become idle", n)
		}
		c.set(webPath, "["+instance("n1", "10.0.0.2", "passing")+"]")
		if got := addrs(t, f); got != "10.0.0.2" {
			t.Errorf("asked again: %s", got)
		}
	})
}

func TestInventedNamesPushOutEachOther(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster()
		c.set(webPath, "["+instance("n1", "10.0.0.1", "passing")+"]")
		f := newFollower(t, c, 16)
		defer f.Close()
		use(t, f)
		for i := range 200 {
			if a, err := f.Service(t.Context(), fmt.Sprint("invented", i)); err != nil || len(a.Instances) != 0 {
				t.Fatalf("%v %v", a, err)
			}
		}
		synctest.Wait()
		if len(f.items) > 16 || c.waiters() > 16 {
			t.Errorf("%d names, %d queries", len(f.items), c.waiters())
		}
		before := c.requests(webPath)
		if got := addrs(t, f); got != "10.0.0.1" || c.requests(webPath) != before {
			t.Errorf("the name in use was pushed out: %s", got)
		}
	})
}

func TestNodesAndReverse(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster()
		c.set("/v1/catalog/node/n1", `{"Node":{"Node":"n1","Address":"10.0.0.1","Meta":{"k":"v"}},"Services":{}}`)
		c.set(`/v1/catalog/nodes?Address == "10.0.0.1"`, `[{"Node":"n1","Address":"10.0.0.1"}]`)
		c.set(webPath, `[{"Node":{"Node":"n1","Address":"10.0.0.1"},"Service":{"Service":"web","Address":"10.1.1.1"},"Checks":[]}]`)
		c.set("/v1/health/service/consul", `[{"Node":{"Node":"s1","Address":"10.9.0.1"},"Service":{"Service":"consul"},"Checks":[]}]`)
		f := newFollower(t, c, 0)
		defer f.Close()
		if n, _, err := f.Node(t.Context(), "n1"); err != nil || n.Address != "10.0.0.1" || n.Meta["k"] != "v" {
			t.Errorf("%+v %v", n, err)
		}
		if n, _, err := f.Node(t.Context(), "nope"); err != nil || n != nil {
			t.Errorf("%+v %v", n, err)
		}
		if n, err := f.Servers(t.Context()); err != nil || len(n) != 1 || n[0].Name != "s1" {
			t.Errorf("%+v %v", n, err)
		}
		addrs(t, f)
		for addr, want := range map[string]Owner{"10.0.0.1": {Node: "n1"}, "10.1.1.1": {Service: "web"}, "10.2.2.2": {}} {
			if o, err := f.Reverse(t.Context(), netip.MustParseAddr(addr)); err != nil || o != want {
				t.Errorf("%s: %+v %v", addr, o, err)
			}
		}
	})
}

func TestNonsenseFromTheClusterIsAFailure(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster()
		c.set(webPath, "["+instance("n1", "10.0.0.1", "passing")+"]")
		f := newFollower(t, c, 0)
		defer f.Close()
		use(t, f)
		c.set(webPath, `{"not":"a list"`)
		synctest.Wait()
		if got := addrs(t, f); got != "10.0.0.1 stale" {
			t.Errorf("got %s", got)
		}
	})
}

func TestServerOverFollowSource(t *testing.T) {
	c := newCluster()
	c.set(webPath, "["+instance("n1", "10.0.0.1", "passing")+"]")
	f := newFollower(t, c, 0)
	defer f.Close()
	s := start(t, contractConfig(), f)
	check := func(want uint64) {
		t.Helper()
		for range 3 {
			if got := text(ask(t, s, "udp", "web.service.consul.", dns.TypeSRV, 0).Answer); len(got) != 1 || got[0] != "web.service.consul. 7 IN SRV 1 3 80 n1.node.dc1.consul." {
				t.Fatalf("%q", got)
			}
		}
		if n := s.counters.stale.Load(); n != want {
			t.Errorf("%d stale answers, want %d", n, want)
		}
	}
	check(0)
	c.fail(true)
	deadline := time.Now().Add(patience)
	for {
		if a, err := f.Service(t.Context(), "web"); err == nil && a.Stale {
			break
		}
		if time.Now().After(deadline) {
			t.Fatal("never stale")
		}
		time.Sleep(time.Millisecond)
	}
	check(3)
	if r := ask(t, s, "udp", "other.service.consul.", dns.TypeA, 0); r.Rcode != dns.RcodeServerFailure {
		t.Errorf("%v", r)
	}
}

// The questions of a socket are read one after the other: one that has to ask a silent cluster, for a name that was answered before
// and is not followed, holds up no other.
func TestKnownNamesDoNotWaitForOthers(t *testing.T) {
	c := newCluster()
	c.set(webPath, "["+instance("n1", "10.0.0.1", "passing")+"]")
	c.set("/v1/health/service/db", `[{"Node":{"Node":"n1","Address":"10.0.0.1"},"Service":{"Service":"db","Address":"10.1.1.1"},"Checks":[]}]`)
	f, err := NewFollowSource(FollowConfig{Fetch: c.fetch, First: time.Hour})
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	conf := contractConfig()
	conf.LookupTimeout = time.Hour
	s := start(t, conf, f)
	eventually := func(what string, ok func() bool) {
		t.Helper()
		for deadline := time.Now().Add(patience); !ok(); time.Sleep(time.Millisecond) {
			if time.Now().After(deadline) {
				t.Fatal(what)
			}
		}
	}
	ask(t, s, "udp", "web.service.consul.", dns.TypeA, 0)
	eventually("web is followed after one question", func() bool { return !f.Following() })
	eventually("db is not followed", func() bool {
		ask(t, s, "udp", "db.service.consul.", dns.TypeA, 0)
		return c.waiters() == 1
	})
	c.mu.Lock()
	c.hang = true
	before := c.asked[webPath]
	c.mu.Unlock()

	conn, err := dns.Dial("udp", s.Addrs()[0])
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if err := conn.WriteMsg(new(dns.Msg).SetQuestion("web.service.consul.", dns.TypeA)); err != nil {
		t.Fatal(err)
	}
	eventually("nobody asks for web", func() bool { return c.requests(webPath) > before })
	if r := ask(t, s, "udp", "db.service.consul.", dns.TypeA, 0); len(r.Answer) != 1 {
		t.Errorf("%v", r)
	}
}

func TestClosedFollowerKeepsAnswering(t *testing.T) {
	c := newCluster()
	c.set(webPath, "["+instance("n1", "10.0.0.1", "passing")+"]")
	f := newFollower(t, c, 0)
	addrs(t, f)
	f.Close()
	f.Close()
	if got := addrs(t, f); !strings.HasPrefix(got, "10.0.0.1") {
		t.Errorf("got %s", got)
	}
	if _, err := f.Service(t.Context(), "other"); !errors.Is(err, ErrUnreachable) {
		t.Errorf("%v", err)
	}
}

func FuzzDecode(f *testing.F) {
	f.Add([]byte("[" + instance("n", "1.2.3.4", "passing") + "]"))
	f.Add([]byte(`{"Node":{"Node":"n1"}}`))
	f.Add([]byte("null"))
	f.Fuzz(func(t *testing.T, b []byte) {
		if v, err := decodeService(b, 1); err == nil {
			catalog.Choose(v.answer.Instances, "x", false)
		}
		_, _ = decodeNode(b, 1)
		_, _ = decodeOwner(b, 1)
	})
}

func TestRestartWhileTheClusterIsDown(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster()
		c.last = map[string]string{
			webPath:               "[" + instance("n1", "10.0.0.1", "passing") + "]",
			"/v1/catalog/node/n1": `{"Node":{"Node":"n1","Address":"10.0.0.1","Meta":{"k":"v"}},"Services":{}}`,
		}
		c.fail(true)
		f := newFollower(t, c, 0)
		defer f.Close()
		f.Remember("/v1/health/service/db", []byte(`[{"Node":{"Node":"n1","Address":"10.0.0.1"},"Service":{"Service":"db","Address":"10.1.1.1"},"Checks":[]}]`), 7)
		if o, err := f.Reverse(t.Context(), netip.MustParseAddr("10.1.1.1")); err == nil && o.Service != "db" {
			t.Errorf("whose address: %+v %v", o, err)
		}
		began := time.Now()
		if got := addrs(t, f); got != "10.0.0.1 stale" || time.Since(began) > time.Second {
			t.Errorf("%s after %s", got, time.Since(began))
		}
		if n, stale, err := f.Node(t.Context(), "n1"); err != nil || !stale || n.Meta["k"] != "v" {
			t.Errorf("%+v %v %v", n, stale, err)
		}
		c.fail(false)
		c.set(webPath, "["+instance("n1", "10.0.0.1", "passing")+"]")
		time.Sleep(2 * retryMost)
		if got := addrs(t, f); got != "10.0.0.1" {
			t.Errorf("servers are back: %s", got)
		}
	})
}

func TestRememberLeavesOutNonsense(t *testing.T) {
	f := newFollower(t, newCluster(), 0)
	defer f.Close()
	for path, body := range map[string]string{
		"": "[]", "/v1/health/service/": "[]", "/v1/catalog/nodes": "[]", "/v1/health/service/a?x=1": "[]", "/v1/health/service/%zz": "[]",
		"/v1/health/service/a": "7", "/v1/health/service/d": "[]",
	} {
		f.Remember(path, []byte(body), 1)
	}
	if len(f.items) != 0 {
		t.Errorf("%d names were taken", len(f.items))
	}
}

func TestStaleEndsWithoutAChange(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster()
		c.set(webPath, "["+instance("n1", "10.0.0.1", "passing")+"]")
		f := newFollower(t, c, 0)
		defer f.Close()
		use(t, f)
		c.fail(true)
		time.Sleep(time.Second)
		if got := addrs(t, f); got != "10.0.0.1 stale" {
			t.Fatalf("down: %s", got)
		}
		c.fail(false)
		time.Sleep(2 * retryMost) // far less than one blocking query
		if got := addrs(t, f); got != "10.0.0.1" {
			t.Errorf("back again, nothing changed: %s", got)
		}
	})
}

// When the cluster is known to be away, nobody waits for what is known anyway.
func TestKnownAnswersDoNotWaitForADeadCluster(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster()
		c.set(webPath, "["+instance("n1", "10.0.0.1", "passing")+"]")
		f := newFollower(t, c, 0)
		defer f.Close()
		use(t, f)
		time.Sleep(10 * time.Minute) // nobody asks: web is no longer followed
		c.mu.Lock()
		c.hang = true // now every question would take its time
		c.mu.Unlock()
		began := time.Now()
		if got := addrs(t, f); got != "10.0.0.1 stale" || time.Since(began) != 2*time.Second {
			t.Errorf("the first to notice: %s after %s", got, time.Since(began))
		}
		time.Sleep(20 * time.Minute)
		began = time.Now()
		if got := addrs(t, f); got != "10.0.0.1 stale" || time.Since(began) != 0 {
			t.Errorf("the next: %s after %s", got, time.Since(began))
		}
		c.mu.Lock()
		c.hang = false
		c.mu.Unlock()
		time.Sleep(time.Minute)
		if got := addrs(t, f); got != "10.0.0.1" {
			t.Errorf("back again: %s", got)
		}
	})
}

// What was known last is answered for as long as it may be.
func TestMaxStale(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster()
		c.set(webPath, "["+instance("n1", "10.0.0.1", "passing")+"]")
		f := newFollower(t, c, 0)
		defer f.Close()
		f.SetMaxStale(time.Minute)
		use(t, f)
		c.fail(true)
		time.Sleep(50 * time.Second)
		if got := addrs(t, f); got != "10.0.0.1 stale" {
			t.Errorf("within the limit: %s", got)
		}
		time.Sleep(11 * time.Second)
		if _, err := f.Service(t.Context(), "web"); !errors.Is(err, ErrUnreachable) {
			t.Errorf("beyond the limit: %v", err)
		}
		f.SetMaxStale(0)
		if got := addrs(t, f); got != "10.0.0.1 stale" {
			t.Errorf("without a limit: %s", got)
		}
		c.fail(false)
		time.Sleep(2 * retryMost)
		f.SetMaxStale(1)
		if got := addrs(t, f); got != "10.0.0.1" {
			t.Errorf("servers are back: %s", got)
		}
	})
}
