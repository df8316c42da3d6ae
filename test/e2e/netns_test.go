//go:build e2e

package e2e

import (
	"fmt"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"
)

// lab is a set of machines in network namespaces on one switch, so that a cable can be pulled.
type lab struct {
	t      *testing.T
	prefix string
}

// newLab makes n machines with the addresses 10.99.0.1 and up. The switch is a namespace of its own: nothing of
// the host's network is touched.
func newLab(t *testing.T, n int) *lab {
	t.Helper()
	ip := tool(t, "ip")
	l := &lab{t: t, prefix: fmt.Sprintf("mu%d", os.Getpid())}
	if _, errs, code := sh(t, nil, "", ip, "netns", "add", l.ns(0)); code != 0 {
		if os.Getenv("CI") != "" {
			t.Fatalf("network namespaces cannot be made: %s", errs)
		}
		t.Skipf("network namespaces cannot be made: %s", errs)
	}
	t.Cleanup(func() {
		for i := range n + 1 {
			_ = exec.Command(ip, "netns", "del", l.ns(i)).Run() // one that was never made is no loss
		}
	})
	l.ip("-n", l.ns(0), "link", "add", "br0", "type", "bridge")
	l.ip("-n", l.ns(0), "link", "set", "br0", "up")
	for i := 1; i <= n; i++ {
		l.ip("netns", "add", l.ns(i))
		l.ip("-n", l.ns(0), "link", "add", fmt.Sprintf("port%d", i), "type", "veth", "peer", "name", "eth0", "netns", l.ns(i))
		l.ip("-n", l.ns(0), "link", "set", fmt.Sprintf("port%d", i), "master", "br0", "up")
		l.ip("-n", l.ns(i), "addr", "add", l.addr(i)+"/24", "dev", "eth0")
		l.ip("-n", l.ns(i), "link", "set", "eth0", "up")
		l.ip("-n", l.ns(i), "link", "set", "lo", "up")
	}
	return l
}

func (l *lab) ns(i int) string   { return fmt.Sprintf("%s-%d", l.prefix, i) }
func (l *lab) addr(i int) string { return fmt.Sprintf("10.99.0.%d", i) }
func (l *lab) plug(i int)        { l.ip("-n", l.ns(0), "link", "set", fmt.Sprintf("port%d", i), "up") }
func (l *lab) unplug(i int)      { l.ip("-n", l.ns(0), "link", "set", fmt.Sprintf("port%d", i), "down") }
func (l *lab) ip(args ...string) {
	l.t.Helper()
	if _, errs, code := sh(l.t, nil, "", append([]string{"ip"}, args...)...); code != 0 {
		l.t.Fatalf("ip %s: %s", strings.Join(args, " "), errs)
	}
}

// muster runs a command of the binary on machine i.
func (l *lab) muster(i int, args ...string) (string, int) {
	return l.patient(i, 5*time.Second, args...)
}

// patient is muster with another limit.
func (l *lab) patient(i int, limit time.Duration, args ...string) (string, int) {
	out, errs, code := sh(l.t, nil, "", append([]string{"ip", "netns", "exec", l.ns(i), binary, "-timeout=" + limit.String()}, args...)...)
	return out + errs, code
}

// agent starts an agent on machine i, with the default ports and addresses of a real machine.
func (l *lab) agent(i int, args ...string) *host {
	h := newAgentHost(l.t, fmt.Sprintf("m%d", i))
	argv := append([]string{"netns", "exec", l.ns(i), binary, "agent", "-node=" + h.name, "-bind=" + l.addr(i), "-data-dir=" + h.dir, "-retry-interval=500ms"}, args...)
	for j := 1; j <= 3; j++ {
		argv = append(argv, "-retry-join="+l.addr(j))
	}
	h.runProgram("ip", argv...)
	return h
}

// TestPartitionOfTheLeader pulls the cable of the leader: the majority goes on with a new one, the old leader
// refuses what it can no longer promise, and nothing acknowledged is lost when the cable is back.
func TestPartitionOfTheLeader(t *testing.T) {
	l := newLab(t, 4)
	for i := 1; i <= 3; i++ {
		l.agent(i, "-server", "-bootstrap-expect=3")
	}
	l.agent(4)
	write := func(i int, key, value string) bool {
		_, code := l.muster(i, "kv", "set", key, value)
		return code == 0
	}
	for i := 1; i <= 4; i++ {
		eventually(t, 30*time.Second, fmt.Sprintf("machine %d writes", i), func() bool { return write(i, fmt.Sprintf("/up/%d", i), "v") })
	}
	if out, code := l.muster(4, "services", "register", "-name=cable", "-port=1"); code != 0 {
		t.Fatal(out)
	}
	leader := 0
	eventually(t, 30*time.Second, "somebody leads", func() bool {
		for i := 1; i <= 3; i++ {
			if out, _ := l.muster(i, "info"); strings.Contains(out, "\tleader = true") {
				leader = i
				return true
			}
		}
		return false
	})
	other := leader%3 + 1

	l.unplug(leader)
	begin := time.Now()
	eventually(t, 30*time.Second, "the majority writes again", func() bool { return write(other, "/cut", "majority") })
	t.Logf("cable of the leader pulled to the next acknowledged write (by a command with a 5s limit): %v", time.Since(begin).Round(time.Millisecond))
	eventually(t, 30*time.Second, "the proxy writes again", func() bool { return write(4, "/cut-proxy", "v") })
	// What cannot be promised is held for some time in the hope of a leader; a second shows that it is not promised.
	if _, code := l.patient(leader, time.Second, "kv", "set", "/cut", "minority"); code == 0 {
		t.Error("the leader without a majority acknowledged a write")
	}
	if out, code := l.patient(leader, time.Second, "kv", "get", "-quorum", "/cut"); code == 0 {
		t.Errorf("the leader without a majority answered a quorum read: %s", out)
	}
	if out, code := l.muster(leader, "kv", "get", "/up/1"); code != 0 || out != "v\n" {
		t.Errorf("a local read on the cut server: exit %d, %q", code, out)
	}

	l.plug(leader)
	eventually(t, 30*time.Second, "the old leader has what the majority wrote", func() bool {
		out, _ := l.muster(leader, "kv", "get", "/cut")
		return out == "majority\n"
	})
	for i := 1; i <= 4; i++ {
		eventually(t, 30*time.Second, fmt.Sprintf("machine %d sees the service of the proxy healthy", i), func() bool {
			_, code := l.muster(i, "health", "cable", "-passing")
			return code == 0
		})
	}
}

// TestUnpluggedMachineLeavesTheAnswers pulls the cable of a proxy: silence, not a refused connection.
func TestUnpluggedMachineLeavesTheAnswers(t *testing.T) {
	l := newLab(t, 2)
	l.agent(1, "-server", "-bootstrap-expect=1")
	l.agent(2)
	eventually(t, 30*time.Second, "the proxy registers", func() bool {
		_, code := l.muster(2, "services", "register", "-name=silent", "-port=1")
		return code == 0
	})
	healthy := func() bool {
		_, code := l.muster(1, "health", "silent", "-passing")
		return code == 0
	}
	eventually(t, 30*time.Second, "the service is healthy", healthy)
	l.unplug(2)
	begin := time.Now()
	eventually(t, 60*time.Second, "the service leaves the answers", func() bool { return !healthy() })
	t.Logf("cable of a machine pulled to its service out of the answers: %v", time.Since(begin).Round(100*time.Millisecond))
	l.plug(2)
	eventually(t, 60*time.Second, "the service is back", healthy)
}

// TestWatchOutlivesAPulledCable pulls the cable of the server that holds a proxy's watch: silence, which only gossip or a probe
// of the connection can tell from a watch without events. The client gets all events in one answer.
func TestWatchOutlivesAPulledCable(t *testing.T) {
	curl := tool(t, "curl")
	l := newLab(t, 4)
	for i := 1; i <= 3; i++ {
		l.agent(i, "-server", "-bootstrap-expect=3")
	}
	l.agent(4)
	written := 0
	write := func(i int) {
		t.Helper()
		eventually(t, 30*time.Second, fmt.Sprintf("machine %d writes", i), func() bool {
			_, code := l.muster(i, "kv", "set", "/cable/key", fmt.Sprint(written))
			return code == 0
		})
		written++
	}
	for i := 1; i <= 4; i++ {
		eventually(t, 30*time.Second, fmt.Sprintf("machine %d writes", i), func() bool {
			_, code := l.muster(i, "kv", "set", "/up", "v")
			return code == 0
		})
	}
	in := func(i int, url string) []string {
		return []string{"ip", "netns", "exec", l.ns(i), curl, "-sN", "http://127.0.0.1:2379" + url}
	}
	out := background(t, nil, in(4, "/v2/keys/cable?wait=true&recursive=true&stream=true")...)
	holder := 0
	eventually(t, 30*time.Second, "a server holds the watch", func() bool {
		for i := 1; i <= 3; i++ {
			if stats, _, _ := sh(t, nil, "", in(i, "/v2/stats/store")...); strings.Contains(stats, `"watchers":1`) {
				holder = i
				return true
			}
		}
		return false
	})
	seen := func() int { return strings.Count(out.String(), "\n") }
	write(4)
	write(4)
	eventually(t, 30*time.Second, "the watch shows two events", func() bool { return seen() == 2 })

	l.unplug(holder)
	begin := time.Now()
	for range 5 {
		write(holder%3 + 1)
	}
	eventually(t, 60*time.Second, "the watch goes on at another server", func() bool { return seen() == written })
	t.Logf("cable of the watch's server pulled to its next events: %v", time.Since(begin).Round(100*time.Millisecond))
	write(holder%3 + 1)
	eventually(t, 30*time.Second, "the watch shows what comes then", func() bool { return seen() == written })
	for i, line := range strings.Split(strings.TrimSpace(out.String()), "\n") {
		if !strings.Contains(line, fmt.Sprintf(`"node":{"key":"/cable/key","value":"%d"`, i)) {
			t.Errorf("event %d: %s", i, line)
		}
	}
}
