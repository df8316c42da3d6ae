package members_test

import (
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/musterhq/muster/internal/testcluster"
)

// member is one entry of /v2/members.
type member struct {
	ID, Name             string
	PeerURLs, ClientURLs []string
}

func memberList(h *testcluster.Host) []member {
	var out struct{ Members []member }
	h.Get("/v2/members", &out)
	return out.Members
}

func memberNamed(h *testcluster.Host, name string) (member, bool) {
	list := memberList(h)
	i := slices.IndexFunc(list, func(m member) bool { return m.Name == name })
	if i < 0 {
		return member{}, false
	}
	return list[i], true
}

// askJSON makes a request with a JSON body.
func askJSON(t *testing.T, h *testcluster.Host, method, path, body string) testcluster.Answer {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, h.URL(path), strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Content-Type", "application/json")
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return testcluster.Answer{Status: resp.StatusCode, Header: resp.Header, Body: string(b)}
}

// announce adds a member and gives its id.
func announce(t *testing.T, h *testcluster.Host, url string) string {
	t.Helper()
	a := askJSON(t, h, http.MethodPost, "/v2/members", `{"peerURLs":["`+url+`"]}`)
	var m member
	if a.Status != http.StatusCreated || json.Unmarshal([]byte(a.Body), &m) != nil || m.ID == "" {
		t.Fatalf("member add %s: %d %s", url, a.Status, a.Body)
	}
	return m.ID
}

// raftServer is one entry of /v1/operator/raft/configuration.
type raftServer struct {
	ID, Node, Address string
	Leader, Voter     bool
}

func configuration(h *testcluster.Host) []raftServer {
	var out struct{ Servers []raftServer }
	h.Get("/v1/operator/raft/configuration", &out)
	return out.Servers
}

func serverNamed(h *testcluster.Host, name string) (raftServer, bool) {
	list := configuration(h)
	i := slices.IndexFunc(list, func(s raftServer) bool { return s.Node == name })
	if i < 0 {
		return raftServer{}, false
	}
	return list[i], true
}

// voterNames are the names of the servers that vote, sorted.
func voterNames(h *testcluster.Host) []string {
	var names []string
	for _, s := range configuration(h) {
		if s.Voter {
			names = append(names, s.Node)
		}
	}
	slices.Sort(names)
	return names
}

const (
	quick    = `-hcl=autopilot { server_stabilization_time = "500ms" }`
	nowhere  = "http://127.0.0.1:1"
	nowhere2 = "http://127.0.0.1:2"
)

// TestAnnouncedServerCostsNothing: an address at which nobody is neither stops a cluster, as an added etcd member does,
// nor stays for ever.
func TestAnnouncedServerCostsNothing(t *testing.T) {
	t.Parallel()
	c := testcluster.Start(t, 1, 1, `-hcl=member_reservation_timeout = "6s"`)
	s, p := c.Servers[0], c.Proxies[0]
	id := announce(t, p, nowhere) // through a proxy: the leader does it
	i := slices.IndexFunc(memberList(s), func(m member) bool { return m.ID == id && m.Name == "" && len(m.ClientURLs) == 0 })
	if list := memberList(s); len(list) != 2 || i < 0 {
		t.Errorf("after the announcement the members are %+v", list)
	}
	if a := askJSON(t, s, http.MethodPost, "/v2/members", `{"peerURLs":["`+nowhere+`"]}`); a.Status != http.StatusConflict {
		t.Errorf("the same address again: %d %s", a.Status, a.Body)
	}
	if a := askJSON(t, p, http.MethodPut, "/v2/members/"+id, `{"peerURLs":["`+nowhere2+`"]}`); a.Status != http.StatusNoContent {
		t.Errorf("update: %d %s", a.Status, a.Body)
	}
	p.Put(t, "/v2/keys/a", "value=1")
	p.Put(t, "/v1/kv/b", "1")
	if n := len(configuration(s)); n != 1 {
		t.Errorf("the consensus has %d servers, want 1", n)
	}
	testcluster.Eventually(t, "the announcement is forgotten", func() bool { return len(memberList(p)) == 1 })
	if a := askJSON(t, s, http.MethodDelete, "/v2/members/"+id, ""); a.Status != http.StatusNotFound {
		t.Errorf("removing what is forgotten: %d %s", a.Status, a.Body)
	}
	only := memberList(s)[0]
	if a := askJSON(t, s, http.MethodDelete, "/v2/members/"+only.ID, ""); a.Status != http.StatusInternalServerError {
		t.Errorf("removing the only member: %d %s", a.Status, a.Body)
	}
	p.Put(t, "/v2/keys/a", "value=2")
}

// TestAnnouncedServerComesAndIsRemoved follows a server from its announcement to the end that it makes by itself.
func TestAnnouncedServerComesAndIsRemoved(t *testing.T) {
	t.Parallel()
	c := testcluster.Start(t, 1, 0)
	s1, s2 := c.Servers[0], c.PlanServer(t, "s2")
	id := announce(t, s1, "http://"+s2.ServerAddr())
	s2.Start(t)
	s2.WaitReady(t)
	for _, h := range c.Servers {
		testcluster.Eventually(t, h.Name+" lists the new server under its announced id", func() bool {
			m, ok := memberNamed(h, "s2")
			return ok && m.ID == id && len(m.ClientURLs) == 1 && len(memberList(h)) == 2
		})
	}
	var self struct{ ID string }
	testcluster.Eventually(t, "the new server calls itself what the members call it", func() bool {
		return s2.Get("/v2/stats/self", &self) && self.ID == id
	})
	testcluster.Eventually(t, "the second server votes", func() bool { return len(voterNames(s1)) == 2 })

	// An address at which somebody else, or nobody, answers is listed and not used.
	for _, url := range []string{nowhere, "http://" + s1.ServerAddr()} {
		a := askJSON(t, s2, http.MethodPut, "/v2/members/"+id, `{"peerURLs":["`+url+`"]}`)
		if taken := url != nowhere; taken != (a.Status == http.StatusConflict) || !taken && a.Status != http.StatusNoContent {
			t.Errorf("update to %s: %d %s", url, a.Status, a.Body)
		}
	}
	testcluster.Eventually(t, "the member has the new address", func() bool {
		m, _ := memberNamed(s1, "s2")
		return slices.Equal(m.PeerURLs, []string{nowhere})
	})
	if s, _ := serverNamed(s1, "s2"); s.Address != s2.ServerAddr() {
		t.Errorf("after the update the consensus uses %s", s.Address)
	}
	s2.Put(t, "/v2/keys/a", "value=1")

	gone := s2.Agent()
	testcluster.Eventually(t, "the server is removed", func() bool {
		return askJSON(t, s1, http.MethodDelete, "/v2/members/"+id, "").Status == http.StatusNoContent
	})
	<-gone.Done()
	if err := gone.Err(); err != nil {
		t.Errorf("the removed server ended with %v", err)
	}
	for range 2 {
		if a := askJSON(t, s1, http.MethodDelete, "/v2/members/"+id, ""); a.Status != http.StatusGone {
			t.Errorf("removing it again: %d %s", a.Status, a.Body)
		}
	}
	s1.Put(t, "/v2/keys/a", "value=2")

	s2.Start(t) // with its data: it must not come back
	again := s2.Agent()
	<-again.Done()
	if list := memberList(s1); again.Err() != nil || len(list) != 1 || len(configuration(s1)) != 1 {
		t.Errorf("the removed server came back: %v, members %+v", again.Err(), list)
	}
}

// TestUpdatedAddressIsUsedWhenItAnswers: the consensus follows a member update to an address at which that very server
// can be reached.
func TestUpdatedAddressIsUsedWhenItAnswers(t *testing.T) {
	t.Parallel()
	c := testcluster.Start(t, 1, 0)
	s1, port := c.Servers[0], freePort(t)
	s2 := c.PlanServer(t, "s2")
	// It listens on all addresses, so another one leads to it too.
	s2.ExtraArgs = []string{"-bind=0.0.0.0", "-advertise=" + s2.IP, "-server-port=" + port, "-serf-lan-port=" + freePort(t), "-retry-join=" + s1.IP + ":8301"}
	s2.Start(t)
	s2.WaitReady(t)
	testcluster.Eventually(t, "the second server votes", func() bool { return len(voterNames(s1)) == 2 })
	m, _ := memberNamed(s1, "s2")
	other := "127.0.0.1:" + port
	if a := askJSON(t, s1, http.MethodPut, "/v2/members/"+m.ID, `{"peerURLs":["http://`+other+`"]}`); a.Status != http.StatusNoContent {
		t.Fatalf("update: %d %s", a.Status, a.Body)
	}
	testcluster.Eventually(t, "the consensus reaches the server at the new address", func() bool {
		s, _ := serverNamed(s1, "s2")
		return s.Address == other && s.Voter
	})
	s1.Put(t, "/v1/kv/a", "1")
	c.WaitSame(t)
	if now, _ := memberNamed(s1, "s2"); now.ID != m.ID || !slices.Equal(now.PeerURLs, []string{"http://" + other}) {
		t.Errorf("the member is now %+v", now)
	}
}

// freePort is a port that is free on all addresses, below those that the kernel gives to outgoing connections.
func freePort(t *testing.T) string {
	t.Helper()
	for range 100 {
		port := strconv.Itoa(20_000 + rand.IntN(10_000))
		l, err := net.Listen("tcp", ":"+port)
		if err != nil {
			continue
		}
		_ = l.Close()
		u, err := net.ListenPacket("udp", ":"+port)
		if err != nil {
			continue
		}
		_ = u.Close()
		return port
	}
	t.Fatal("no port is free")
	return ""
}

// TestServerAnnouncedByName: the announcement may name the host.
func TestServerAnnouncedByName(t *testing.T) {
	t.Parallel()
	c := testcluster.Start(t, 1, 0)
	port := freePort(t)
	s2 := c.PlanServer(t, "s2", "-bind=127.0.0.1", "-server-port="+port, "-serf-lan-port="+freePort(t), "-retry-join="+c.Servers[0].IP+":8301")
	id := announce(t, c.Servers[0], "http://localhost:"+port)
	s2.Start(t)
	s2.WaitReady(t)
	testcluster.Eventually(t, "the new server has the announced id", func() bool {
		m, ok := memberNamed(s2, "s2")
		return ok && m.ID == id && len(memberList(c.Servers[0])) == 2
	})
}

// TestNewServerLearnsFirst: a fourth server has no vote before it has been healthy for a while.
func TestNewServerLearnsFirst(t *testing.T) {
	t.Parallel()
	c := testcluster.Start(t, 3, 0, `-hcl=autopilot { server_stabilization_time = "5s" }`)
	leader := c.WaitLeader(t)
	s4 := c.AddServer(t, "s4")
	testcluster.Eventually(t, "the new server learns", func() bool {
		s, ok := serverNamed(leader, "s4")
		if s.Voter {
			t.Fatal("the new server had a vote before it was seen learning")
		}
		return ok
	})
	testcluster.Eventually(t, "the new server votes", func() bool { return len(voterNames(leader)) == 4 })
	var health struct {
		Healthy          bool
		FailureTolerance int
		Servers          []struct{ Name, SerfStatus string }
	}
	testcluster.Eventually(t, "all four are healthy", func() bool {
		return s4.Get("/v1/operator/autopilot/health", &health) && health.Healthy && len(health.Servers) == 4 && health.FailureTolerance == 1
	})
	c.WaitSame(t)
}

// TestLosingTheQuorumIsRefused: with one of three dead, nobody takes another one out.
func TestLosingTheQuorumIsRefused(t *testing.T) {
	t.Parallel()
	c := testcluster.Start(t, 3, 0)
	leader := c.WaitLeader(t)
	var others []*testcluster.Host
	for _, s := range c.Servers {
		if s != leader {
			others = append(others, s)
		}
	}
	dead, alive := others[0], others[1]
	m, _ := memberNamed(leader, alive.Name)
	s, _ := serverNamed(leader, alive.Name)
	dead.Crash(t)
	refused := func(method, path, text string) {
		t.Helper()
		a := askJSON(t, alive, method, path, "")
		if a.Status != http.StatusInternalServerError || !strings.Contains(a.Body, text) {
			t.Errorf("%s %s: %d %s, want a refusal that says %q", method, path, a.Status, a.Body, text)
		}
	}
	refused(http.MethodDelete, "/v2/members/"+m.ID, "1 of 2 voters are alive and 2 are needed; ?force removes it nevertheless")
	refused(http.MethodDelete, "/v1/operator/raft/peer?id="+s.ID, "1 of 2 voters are alive and 2 are needed")
	refused(http.MethodPut, "/v1/agent/leave", "1 of 2 voters are alive and 2 are needed")
	if n := len(voterNames(leader)); n != 3 {
		t.Errorf("%d voters are left, want 3", n)
	}
	alive.Put(t, "/v1/kv/still", "here")
	// The dead one may go: two of two remain.
	d, _ := memberNamed(leader, dead.Name)
	if a := askJSON(t, alive, http.MethodDelete, "/v2/members/"+d.ID, ""); a.Status != http.StatusNoContent {
		t.Errorf("removing the dead server: %d %s", a.Status, a.Body)
	}
	testcluster.Eventually(t, "two voters remain", func() bool { return len(voterNames(leader)) == 2 })
	forced := leader.Agent()
	if a := leader.Do(http.MethodPut, "/v1/agent/leave?force", ""); a.Status != http.StatusOK {
		t.Errorf("forced leave: %d %s", a.Status, a.Body)
	}
	<-forced.Done()
	testcluster.Eventually(t, "the last server leads alone", func() bool { return slices.Equal(voterNames(alive), []string{alive.Name}) })
	alive.Put(t, "/v1/kv/still", "there")
}

// TestDeadServerIsReplaced: a dead server keeps its place until another one has a vote, and only then goes.
func TestDeadServerIsReplaced(t *testing.T) {
	t.Parallel()
	c := testcluster.Start(t, 3, 0, quick)
	leader := c.WaitLeader(t)
	i := slices.IndexFunc(c.Servers, func(h *testcluster.Host) bool { return h != leader })
	dead := c.Servers[i]
	id, _ := serverNamed(leader, dead.Name)
	dead.Crash(t)
	var state struct {
		Servers map[string]struct{ NodeStatus string }
	}
	testcluster.Eventually(t, "the leader calls the dead server failed", func() bool {
		return leader.Get("/v1/operator/autopilot/state", &state) && state.Servers[id.ID].NodeStatus == "failed"
	})
	if n := len(voterNames(leader)); n != 3 {
		t.Errorf("%d voters with one dead and nobody to replace it, want 3", n)
	}
	c.AddServer(t, "s4")
	var want []string
	for _, s := range c.Servers {
		if s != dead {
			want = append(want, s.Name)
		}
	}
	slices.Sort(want)
	testcluster.Eventually(t, "the new server has replaced the dead one", func() bool {
		now := voterNames(leader)
		if n := len(now); n > 0 && n < 3 {
			t.Fatalf("the dead server was removed before another one could replace it: %v vote", now)
		}
		return slices.Equal(now, want)
	})
	leader.Put(t, "/v1/kv/a", "1")

	dead.Start(t) // it was not removed for good
	testcluster.Eventually(t, "the dead server is back and votes", func() bool { return len(voterNames(leader)) == 4 })
}

// TestStoppedLeaderHandsOver: while a leader stops as operators stop it, no write through another agent fails.
func TestStoppedLeaderHandsOver(t *testing.T) {
	t.Parallel()
	c := testcluster.Start(t, 3, 1, `-hcl=performance { raft_multiplier = 5 }`) // no write may meet a leader that falls by itself
	old, p := c.WaitLeader(t), c.Proxies[0]
	var written, slowest atomic.Int64
	quit := make(chan struct{})
	var wg sync.WaitGroup
	for n := range 4 {
		wg.Go(func() {
			for i := 0; ; i++ {
				select {
				case <-quit:
					return
				default:
				}
				begin := time.Now()
				if a := p.Do(http.MethodPut, fmt.Sprintf("/v1/kv/w/%d/%d", n, i), "v"); !a.OK() {
					t.Errorf("write %d of writer %d: %d %s", i, n, a.Status, a.Body)
					return
				}
				written.Add(1)
				took := time.Since(begin).Nanoseconds()
				for old := slowest.Load(); took > old && !slowest.CompareAndSwap(old, took); old = slowest.Load() {
				}
			}
		})
	}
	more := func() {
		n := written.Load() + 100
		testcluster.Eventually(t, "writes flow", func() bool { return written.Load() >= n || t.Failed() })
	}
	more()
	old.Stop(t)
	more()
	close(quit)
	wg.Wait()
	t.Logf("the slowest of %d writes took %v", written.Load(), time.Duration(slowest.Load()))
	if next := c.WaitLeader(t, old); next == old {
		t.Error("the stopped server leads")
	}
}

// TestAutopilotSettings: the configuration seeds them, requests change them, restarts keep them.
func TestAutopilotSettings(t *testing.T) {
	t.Parallel()
	c := testcluster.Start(t, 1, 1, `-hcl=autopilot { min_quorum = 5, server_stabilization_time = "3s" }`)
	s, p := c.Servers[0], c.Proxies[0]
	var got struct {
		CleanupDeadServers                            bool
		LastContactThreshold, ServerStabilizationTime string
		MinQuorum                                     int
		ModifyIndex                                   uint64
	}
	const path = "/v1/operator/autopilot/configuration"
	testcluster.Eventually(t, "the configuration has seeded the settings", func() bool {
		return p.Get(path, &got) && got.ModifyIndex > 0
	})
	if !got.CleanupDeadServers || got.MinQuorum != 5 || got.ServerStabilizationTime != "3s" || got.LastContactThreshold != "200ms" {
		t.Errorf("the settings begin as %+v", got)
	}
	if a := p.Put(t, fmt.Sprintf("%s?cas=%d", path, got.ModifyIndex-1), `{"CleanupDeadServers":false}`); a.Body != "false" {
		t.Errorf("a change of what is long gone: %s", a.Body)
	}
	if a := p.Put(t, fmt.Sprintf("%s?cas=%d", path, got.ModifyIndex), `{"CleanupDeadServers":false,"LastContactThreshold":"1s"}`); a.Body != "true" {
		t.Errorf("a change: %s", a.Body)
	}
	s.Stop(t)
	s.Start(t)
	testcluster.Eventually(t, "the settings are kept", func() bool {
		return p.Get(path, &got) && !got.CleanupDeadServers && got.LastContactThreshold == "1s" && got.MinQuorum == 0
	})
}

// TestGossipKeysAreExchanged rotates the key of the gossip by request.
func TestGossipKeysAreExchanged(t *testing.T) {
	t.Parallel()
	const first, second = "d8wu8CSUrqgtjVsvcBPmhQ==", "qxycTi/SsePj/TZzCBmNXw=="
	c := testcluster.Start(t, 1, 1, "-encrypt="+first)
	s, p := c.Servers[0], c.Proxies[0]
	var met []struct{ Name string }
	testcluster.Eventually(t, "both agents have met", func() bool { return p.Get("/v1/agent/members", &met) && len(met) == 2 })
	steps := []struct {
		method, key string
		h           *testcluster.Host
	}{{http.MethodPost, second, p}, {http.MethodPut, second, s}, {http.MethodDelete, first, p}}
	for _, step := range steps {
		testcluster.Eventually(t, step.method+" "+step.key+" has reached all", func() bool { // who answers too late is asked again
			return askJSON(t, step.h, step.method, "/v1/operator/keyring", `{"Key":"`+step.key+`"}`).Status == http.StatusOK
		})
	}
	var rings []struct {
		WAN               bool
		Keys, PrimaryKeys map[string]int
		NumNodes          int
	}
	if !p.Get("/v1/operator/keyring", &rings) || len(rings) != 2 {
		t.Fatalf("the keyring is %+v", rings)
	}
	for _, r := range rings {
		n := 2
		if r.WAN {
			n = 1
		}
		if len(r.Keys) != 1 || r.Keys[second] != n || r.PrimaryKeys[second] != n || r.NumNodes != n {
			t.Errorf("after the exchange the keyring is %+v", r)
		}
	}
}
