//go:build e2e

package e2e

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"os"
	"runtime"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/musterhq/muster/test/drill"
)

// lost is an address of the data link that no machine has.
const lost = "02:00:00:00:00:01"

// drop loses everything that machine from sends to machine to, without a word, and nothing else: from believes that to has a network
// card that nobody has.
func (l *lab) drop(from, to int) {
	l.ip("-n", l.ns(from), "neigh", "replace", l.addr(to), "lladdr", lost, "nud", "permanent", "dev", "eth0")
}

// mend undoes all drops.
func (l *lab) mend(machines int) {
	for from := 1; from <= machines; from++ {
		for to := 1; to <= machines; to++ {
			if from != to {
				_, _, _ = sh(l.t, nil, "", "ip", "-n", l.ns(from), "neigh", "del", l.addr(to), "dev", "eth0") // most are not there
			}
		}
	}
}

// client makes requests on machine i, as a program there does: each connection is made by a thread that has entered the machine's
// network.
func (l *lab) client(i int) *http.Client {
	return &http.Client{Timeout: 15 * time.Second, Transport: &http.Transport{
		MaxIdleConnsPerHost: 32,
		DialContext: func(ctx context.Context, network, addr string) (net.Conn, error) {
			// The thread is not given back: it ends with the goroutine, so that no other code runs in that network.
			type made struct {
				c   net.Conn
				err error
			}
			done := make(chan made, 1)
			go func() {
				runtime.LockOSThread()
				f, err := os.Open("/run/netns/" + l.ns(i))
				if err == nil {
					defer f.Close()
					err = unix.Setns(int(f.Fd()), unix.CLONE_NEWNET)
				}
				if err != nil {
					done <- made{nil, err}
					return
				}
				var d net.Dialer
				c, err := d.DialContext(ctx, network, addr)
				done <- made{c, err}
			}()
			m := <-done
			return m.c, m.err
		},
	}}
}

// get asks the agent on machine i.
func get(c *http.Client, path string) (int, string) {
	resp, err := c.Get("http://127.0.0.1:8500" + path)
	if err != nil {
		return 0, err.Error()
	}
	defer resp.Body.Close()
	var b strings.Builder
	buf := make([]byte, 64<<10)
	for {
		n, err := resp.Body.Read(buf)
		b.Write(buf[:n])
		if err != nil {
			return resp.StatusCode, b.String()
		}
	}
}

// shape is a partition of three servers by their roles when it begins.
type shape struct {
	name string
	cut  [][2]int // from, to: 0 the leader, 1 and 2 the followers
	// works are the roles at which clients must be able to write all the time, by whoever leads then.
	works []int
	// stays: the leader need not, and must not, change.
	stays bool
}

func both(a, b int) [][2]int { return [][2]int{{a, b}, {b, a}} }

func cuts(lists ...[][2]int) (all [][2]int) {
	for _, l := range lists {
		all = append(all, l...)
	}
	return all
}

var shapes = []shape{
	{name: "the leader alone", cut: cuts(both(0, 1), both(0, 2)), works: []int{1, 2}},
	{name: "a follower alone", cut: cuts(both(1, 0), both(1, 2)), works: []int{0, 2}, stays: true},
	{name: "everybody alone", cut: cuts(both(0, 1), both(0, 2), both(1, 2))},
	{name: "a chain with the leader in the middle", cut: both(1, 2), works: []int{0, 1, 2}, stays: true},
	{name: "a chain with the leader at the end", cut: both(0, 2), works: []int{0, 1}},
	{name: "the leader is not heard by one", cut: [][2]int{{0, 2}}, works: []int{0, 1}},
	{name: "the leader does not hear one", cut: [][2]int{{2, 0}}, works: []int{0, 1}},
	{name: "the leader is heard by nobody", cut: [][2]int{{0, 1}, {0, 2}}, works: []int{1, 2}},
	{name: "the leader hears nobody", cut: [][2]int{{1, 0}, {2, 0}}, works: []int{1, 2}},
	{name: "a follower is heard by nobody", cut: [][2]int{{1, 0}, {1, 2}}, works: []int{0, 2}, stays: true},
	{name: "a ring in which each hears one", cut: [][2]int{{0, 1}, {1, 2}, {2, 0}}},
}

// TestDrillPartition parts three servers in every shape, asymmetric ones too, under reads and writes at each.
func TestDrillPartition(t *testing.T) {
	const (
		hold      = 2500 * time.Millisecond // how long each partition lasts at least
		elections = 4                       // how many terms it may cost
	)
	l := newLab(t, 3)
	clients := make([]*http.Client, 4)
	agents := []drill.Agent{}
	for i := 1; i <= 3; i++ {
		l.agent(i, "-server", "-bootstrap-expect=3")
		clients[i] = l.client(i)
		agents = append(agents, drill.Agent{Base: "http://127.0.0.1:8500", Client: clients[i]})
	}
	stats := func(i int) map[string]string {
		var self struct{ Stats map[string]map[string]string }
		status, body := get(clients[i], "/v1/agent/self")
		if status != http.StatusOK || !decode(body, &self) {
			return nil
		}
		return self.Stats["raft"]
	}
	term := func() (highest int) {
		for i := 1; i <= 3; i++ {
			n, err := strconv.Atoi(stats(i)["term"])
			if err == nil {
				highest = max(highest, n)
			}
		}
		return highest
	}
	leader := func() int {
		found := 0
		eventually(t, 30*time.Second, "all three agree who leads", func() bool {
			found = 0
			said := ""
			for i := 1; i <= 3; i++ {
				status, addr := get(clients[i], "/v1/status/leader")
				if status != http.StatusOK || said != "" && addr != said || len(addr) < 5 {
					return false
				}
				said = addr
				if strings.Contains(addr, l.addr(i)+":") {
					found = i
				}
			}
			return found > 0
		})
		return found
	}
	leader()
	load := drill.RunRegisters(2, agents...)
	for i := range agents {
		load.More(t, i, 20, fmt.Sprintf("machine %d answers", i+1))
	}
	for _, s := range shapes {
		at := leader()
		role := [3]int{at, at%3 + 1, (at+1)%3 + 1}
		before := term()
		for _, c := range s.cut {
			l.drop(role[c[0]], role[c[1]])
		}
		begin := time.Now()
		for _, w := range s.works {
			load.More(t, role[w]-1, 20, fmt.Sprintf("%s: machine %d reads and writes", s.name, role[w]))
		}
		back := time.Since(begin)
		// Reads that want what there is are answered everywhere, whoever is cut off.
		for i := 1; i <= 3; i++ {
			if status, _ := get(clients[i], "/v1/catalog/services?stale"); status != http.StatusOK {
				t.Errorf("%s: machine %d answers a stale read with status %d", s.name, i, status)
			}
		}
		last(max(0, hold-time.Since(begin)))
		// Two may say that they lead, in different terms, for a lease at most; after the hold there is one at most.
		leads := 0
		for i := 1; i <= 3; i++ {
			if stats(i)["state"] == "Leader" {
				leads++
			}
		}
		during := term()
		l.mend(3)
		healed := time.Now()
		after := leader()
		for i := range agents {
			load.More(t, i, 20, fmt.Sprintf("%s: machine %d answers when the network is whole", s.name, i+1))
		}
		t.Logf("%-40s writes at machines %v after %4d ms, %d elections while parted, %d in all, whole again %d ms after the network", s.name, s.works, back.Milliseconds(), during-before, term()-before, time.Since(healed).Milliseconds())
		switch {
		case leads > 1:
			t.Errorf("%s: %d servers lead", s.name, leads)
		case len(s.works) > 0 && leads != 1:
			t.Errorf("%s: %d servers lead", s.name, leads)
		case s.stays && after != at:
			t.Errorf("%s: the leader changed", s.name)
		}
		if n := term() - before; n > elections {
			t.Errorf("%s: %d elections, want %d at most", s.name, n, elections)
		}
	}
	load.Verify(t)
}
