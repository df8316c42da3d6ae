//go:build e2e

package e2e

import (
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/miekg/dns"
)

// The drills of what was known last: proxies that outlive the servers.

// register puts n instances of a service into the catalog.
func (h *host) register(service string, n int) {
	h.t.Helper()
	for i := range n {
		h.must(http.MethodPut, "/v1/catalog/register", fmt.Sprintf(`{"Node":"%[1]s%[2]d","Address":"10.1.0.%[2]d","Service":{"Service":"%[1]s","Port":80}}`, service, i+1))
	}
}

// resolve asks a host's DNS for a service; the error says what is wrong with the answer.
func (h *host) resolve(service string) error {
	m := new(dns.Msg).SetQuestion(service+".service.consul.", dns.TypeA)
	r, _, err := (&dns.Client{Timeout: 3 * time.Second}).Exchange(m, h.ip+":8600")
	if err != nil {
		return err
	}
	if r.Rcode != dns.RcodeSuccess || len(r.Answer) == 0 {
		return fmt.Errorf("%s, %d answers", dns.RcodeToString[r.Rcode], len(r.Answer))
	}
	return nil
}

// read asks for a path and says whether the answer is marked as what was known last.
func (h *host) read(path string) (body string, stale bool, err error) {
	client := &http.Client{Timeout: 15 * time.Second}
	resp, err := client.Get(h.url(path))
	if err != nil {
		return "", false, err
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err == nil && (resp.StatusCode != http.StatusOK || len(b) < 10) {
		err = fmt.Errorf("%d %.200s", resp.StatusCode, b)
	}
	return string(b), resp.Header.Get("X-Muster-Stale") == "true", err
}

// lookups asks a host for services again and again, by DNS and HTTP, until stop; it returns how many were answered, and
// reports each that was not.
func (h *host) lookups(stop <-chan struct{}, done *sync.WaitGroup, services ...string) *atomic.Int64 {
	var n atomic.Int64
	ask := func(what string, f func() error) {
		done.Go(func() {
			for {
				select {
				case <-stop:
					return
				case <-time.After(5 * time.Millisecond):
				}
				began := time.Now()
				if err := f(); err != nil {
					h.t.Errorf("%s: %s after %v: %v", h.name, what, time.Since(began), err)
				}
				n.Add(1)
			}
		})
	}
	for _, s := range services {
		path := "/v1/health/service/" + s + "?passing"
		ask("DNS "+s, func() error { return h.resolve(s) })
		ask("HTTP "+s, func() error { _, _, err := h.read(path); return err })
	}
	return &n
}

// TestDrillServersAway kills every server for a while under lookups at the proxies, and starts one proxy meanwhile: no lookup of a
// known name fails, what is registered on a machine is accepted, and all of it is in step when the servers return.
func TestDrillServersAway(t *testing.T) {
	c := newCluster(t, 3, 2)
	p, other := c.proxies[0], c.proxies[1]
	c.servers[0].register("web", 3)
	c.servers[0].register("db", 2)
	for _, h := range c.proxies { // known from now on
		for _, s := range []string{"web", "db"} {
			// A follower may learn of the registration a moment later.
			eventually(t, 30*time.Second, h.name+" knows "+s, func() bool { return h.resolve(s) == nil })
			if _, _, err := h.read("/v1/health/service/" + s + "?passing"); err != nil {
				t.Fatal(err)
			}
		}
	}
	last(3 * time.Second) // what is known is written behind
	stop := make(chan struct{})
	var done sync.WaitGroup
	n := p.lookups(stop, &done, "web", "db")
	eventually(t, 30*time.Second, "lookups flow", func() bool { return n.Load() > 100 })
	for _, s := range c.servers {
		s.kill()
	}
	began := time.Now()
	if status, body := p.do(http.MethodPut, "/v1/kv/a", "1"); status != 500 || !strings.HasPrefix(body, "No cluster leader: ") || time.Since(began) > 20*time.Second {
		t.Errorf("a write: %d %s after %v", status, body, time.Since(began))
	}
	p.must(http.MethodPut, "/v1/agent/service/register", `{"Name":"local","Port":1,"Check":{"CheckID":"beat","TTL":"60s"}}`)
	p.must(http.MethodPut, "/v1/agent/check/pass/beat", "")

	other.kill()
	began = time.Now()
	other.start()
	eventually(t, 30*time.Second, "a proxy that starts without servers answers", func() bool {
		_, stale, err := other.read("/v1/health/service/web?passing")
		return err == nil && stale
	})
	first := time.Since(began)
	if err := other.resolve("db"); err != nil {
		t.Errorf("DNS of a proxy that starts without servers: %v", err)
	}
	t.Logf("from the start of a proxy to its first answer without servers: %v", first)
	before := n.Load()
	last(5 * time.Second)
	t.Logf("%d lookups in 5 s without servers", n.Load()-before)
	for _, s := range c.servers {
		s.start()
	}
	eventually(t, 30*time.Second, "the catalog takes writes", func() bool {
		status, _ := c.servers[0].do(http.MethodPut, "/v1/catalog/register", `{"Node":"web9","Address":"10.1.0.9","Service":{"Service":"web","Port":80}}`)
		return status == 200
	})
	for _, h := range c.proxies {
		eventually(t, 30*time.Second, h.name+" tells the truth again", func() bool {
			body, stale, err := h.read("/v1/health/service/web?passing")
			return err == nil && !stale && strings.Contains(body, "web9")
		})
	}
	eventually(t, 30*time.Second, "what was registered meanwhile is in the catalog, and healthy", func() bool {
		body, stale, err := other.read("/v1/health/service/local?passing")
		return err == nil && !stale && strings.Contains(body, `"beat"`)
	})
	close(stop)
	done.Wait()
	t.Logf("%d lookups in all", n.Load())
}

// TestDrillProxyKilledWhileWriting kills a proxy again and again while what it keeps changes: each time it starts with
// whole answers.
func TestDrillProxyKilledWhileWriting(t *testing.T) {
	c := newCluster(t, 1, 1)
	s, p := c.servers[0], c.proxies[0]
	s.register("web", 3)
	stop := make(chan struct{})
	var done sync.WaitGroup
	done.Go(func() {
		for i := 0; ; i++ {
			select {
			case <-stop:
				return
			case <-time.After(10 * time.Millisecond):
			}
			s.do(http.MethodPut, "/v1/catalog/register", fmt.Sprintf(`{"Node":"web1","Address":"10.1.0.1","Service":{"Service":"web","Port":%d,"Meta":{"fill":%q}}}`, 1+i%60000, strings.Repeat("x", 500)))
			for j := range 20 {
				_, _, _ = p.read(fmt.Sprintf("/v1/health/service/web?passing&filter=Service.Port!=%d", j))
			}
		}
	})
	for range 4 {
		last(2500 * time.Millisecond)
		p.kill()
		p.start()
		eventually(t, 30*time.Second, "the proxy answers", func() bool { _, _, err := p.read("/v1/health/service/web?passing"); return err == nil })
	}
	close(stop)
	done.Wait()
	if err := p.resolve("web"); err != nil {
		t.Fatal(err)
	}
	last(3 * time.Second)
	p.kill()
	s.kill()
	p.start()
	eventually(t, 30*time.Second, "the proxy answers without a server", func() bool {
		body, stale, err := p.read("/v1/health/service/web?passing")
		return err == nil && stale && strings.Contains(body, `"web3"`)
	})
	if err := p.resolve("web"); err != nil {
		t.Error(err)
	}
	if strings.Contains(p.log.String(), "damaged") {
		t.Error("the file of last known answers did not survive a kill")
	}
}

// TestDrillDamagedMemory cuts and overwrites the file of last known answers: the proxy starts, says so, and answers.
func TestDrillDamagedMemory(t *testing.T) {
	c := newCluster(t, 1, 1)
	s, p := c.servers[0], c.proxies[0]
	s.register("web", 3)
	file := filepath.Join(p.dir, "last-known.db")
	for name, damage := range map[string]func(b []byte) []byte{
		"cut":      func(b []byte) []byte { return b[:2*4096+100] },
		"nonsense": func(b []byte) []byte { return []byte(strings.Repeat("nonsense", len(b)/8)) },
	} {
		if _, _, err := p.read("/v1/health/service/web?passing"); err != nil {
			t.Fatal(err)
		}
		p.signal(syscall.SIGTERM)
		p.wait(40 * time.Second)
		b, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(file, damage(b), 0o600); err != nil {
			t.Fatal(err)
		}
		p.start()
		c.ready(p)
		if _, err := os.Stat(file + ".damaged"); err != nil || !strings.Contains(p.log.String(), "it is set aside") {
			t.Errorf("%s: nothing was set aside: %v", name, err)
		}
		_ = os.Remove(file + ".damaged")
		if err := p.resolve("web"); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}
