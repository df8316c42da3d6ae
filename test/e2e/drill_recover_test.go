//go:build e2e

package e2e

import (
	"fmt"
	"net/http"
	"os"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"
)

// TestDrillRecover destroys the data of a majority, of three servers and of five, and brings the cluster back with what is left.
func TestDrillRecover(t *testing.T) {
	for _, c := range []struct{ servers, lost int }{{3, 2}, {5, 3}} {
		t.Run(fmt.Sprintf("%d of %d lost", c.lost, c.servers), func(t *testing.T) { recoverFrom(t, c.servers, c.lost) })
	}
}

func recoverFrom(t *testing.T, servers, lost int) {
	c := newCluster(t, servers, 1)
	p := c.proxies[0]
	p.must(http.MethodPut, "/v1/agent/service/register", `{"Name":"kept","Port":80}`)
	w := startWriters(c.leader(), 2)
	eventually(t, 30*time.Second, "writes flow", func() bool { return w.count() > 100 })
	// One of those that will survive falls behind: the other one is the better. A server that is alone is the best.
	survivors := c.servers[lost:]
	leader := c.leader()
	behind := ""
	for _, s := range survivors[1:] {
		if s != leader && behind == "" {
			s.kill()
			behind = s.dir
		}
	}
	before := w.count()
	eventually(t, 30*time.Second, "writes go on", func() bool { return w.count() > before+100 })
	acked := w.stop()
	last(1500 * time.Millisecond) // nothing is under way: the survivors in step have everything, and know that it counts
	for _, s := range c.servers {
		s.kill()
	}
	for _, s := range c.servers[:lost] {
		if err := os.RemoveAll(s.dir); err != nil {
			t.Fatal(err)
		}
	}

	// What is left cannot write, and says so; it shows what it has.
	alone := survivors[0]
	alone.start()
	eventually(t, 30*time.Second, "the survivor answers stale reads", func() bool {
		return len(missingStale(alone, acked)) == 0
	})
	if status, body := alone.do(http.MethodPut, "/v1/kv/a", "v"); status == http.StatusOK {
		t.Errorf("a server without a quorum writes: %s", body)
	}
	args := []string{binary, "recover"}
	for _, s := range survivors {
		args = append(args, "-data-dir", s.dir)
	}
	if out, errs, code := sh(t, nil, "", args...); code == 0 || !strings.Contains(out+errs, "stop it first") {
		t.Errorf("recover beside a running agent: status %d\n%s%s", code, out, errs)
	}
	alone.kill()

	out, errs, code := sh(t, nil, "", args...)
	t.Logf("\n%s%s", out, errs)
	if code != 0 || !strings.Contains(out, "Nothing was changed") || !strings.Contains(out, "Last term") || !strings.Contains(out, "Last entry") || !strings.Contains(out, "Lost is what was acknowledged") {
		t.Fatalf("the dry run: status %d", code)
	}
	best := regexp.MustCompile(`(?m)^\* +(\S+)`).FindStringSubmatch(out)
	if best == nil || best[1] == behind {
		t.Fatalf("the dry run names %v as the best; behind is %s", best, behind)
	}
	if again, _, _ := sh(t, nil, "", args...); again != out {
		t.Errorf("the dry run changed something:\n%s", again)
	}
	out, errs, code = sh(t, nil, "", append(args, "-apply")...)
	if code != 0 || !strings.Contains(out, "is a cluster of its own now") {
		t.Fatalf("applied: status %d\n%s%s", code, out, errs)
	}

	var chosen *host
	for _, s := range survivors {
		if s.dir == best[1] {
			chosen = s
		}
	}
	chosen.start()
	eventually(t, 30*time.Second, "the recovered server writes", func() bool {
		status, _ := chosen.do(http.MethodPut, "/v1/kv/after", "v")
		return status == http.StatusOK
	})
	if lost := missing(chosen, acked); len(lost) > 0 {
		t.Errorf("%d of %d acknowledged keys are lost, although the survivor had them", len(lost), len(acked))
	}
	// The others join with empty directories. One that comes with its old data is kept apart, whatever it believes.
	for _, s := range c.servers {
		if s == chosen {
			continue
		}
		if behind != "" && s.dir == behind {
			continue
		}
		if err := os.RemoveAll(s.dir); err != nil {
			t.Fatal(err)
		}
		if err := os.MkdirAll(s.dir, 0o700); err != nil {
			t.Fatal(err)
		}
		s.args = dropArg(s.args, "-bootstrap-expect")
		s.start()
		c.ready(s)
	}
	want := servers
	if behind != "" {
		want--
		for _, s := range c.servers {
			if s.dir == behind {
				s.start()
				last(time.Second)
				if status, body := s.do(http.MethodPut, "/v1/kv/split", "brain"); status == http.StatusOK && missing(s, map[string]bool{"crash/none": true})[0] == "no answer" {
					t.Errorf("a server of the old cluster takes writes of its own: %s", body)
				}
				s.signal(syscall.SIGTERM)
				s.wait(40 * time.Second)
			}
		}
	}
	eventually(t, 60*time.Second, "every server votes", func() bool {
		var conf struct{ Servers []struct{ Voter bool } }
		if !chosen.get("/v1/operator/raft/configuration", &conf) || len(conf.Servers) != want {
			return false
		}
		for _, s := range conf.Servers {
			if !s.Voter {
				return false
			}
		}
		return true
	})
	eventually(t, 30*time.Second, "the proxy's service is there again", func() bool { return httpCount(p, "kept") == 1 })
	if lost := missing(p, acked); len(lost) > 0 {
		t.Errorf("%d acknowledged keys are lost at the proxy", len(lost))
	}
}

// missingStale are the acknowledged keys that a server does not show without asking anybody.
func missingStale(h *host, acked map[string]bool) []string {
	var keys []string
	if !h.get("/v1/kv/crash/?keys&stale", &keys) {
		return []string{"no answer"}
	}
	return lacking(keys, acked)
}
