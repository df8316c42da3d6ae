package cluster_test

import (
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/musterhq/muster/internal/testcluster"
)

// oldest is the header that says from where on a watch misses nothing.
const oldest = "X-Muster-Oldest-Index"

// index is the X-Etcd-Index of an answer.
func index(t *testing.T, a testcluster.Answer) uint64 {
	t.Helper()
	n, err := strconv.ParseUint(a.Header.Get("X-Etcd-Index"), 10, 64)
	if err != nil {
		t.Fatalf("no index in %d %v", a.Status, a.Header)
	}
	return n
}

// snapshots makes servers write snapshots all the time and keep next to no log behind them.
const snapshots = `-hcl=raft_snapshot_threshold = 50 raft_snapshot_interval = "1s" raft_trailing_logs = 10`

// TestHistorySurvivesRestartsAndSnapshots: a watch into the past gets the same events after every server was
// restarted, though the log they came by is gone, and at a follower that only has them from a snapshot.
func TestHistorySurvivesRestartsAndSnapshots(t *testing.T) {
	t.Parallel()
	c := testcluster.Start(t, 3, 0, snapshots)
	leader := c.WaitLeader(t)
	var late *testcluster.Host // is away while everything happens
	for _, s := range c.Servers {
		if s != leader {
			late = s
		}
	}
	leader.Put(t, "/v2/keys/d/x", "value=1")
	since := index(t, leader.Put(t, "/v2/keys/d/y", "value=2"))
	c.WaitSame(t)
	late.Stop(t)
	gone := index(t, leader.Do(http.MethodDelete, "/v2/keys/d?recursive=true", ""))
	leader.Put(t, "/v2/keys/d/x", "value=again")
	put := func(path, body string) { // a busy machine may cost the leadership for a moment
		testcluster.Eventually(t, "a write", func() bool { return leader.Do(http.MethodPut, path, body).OK() })
	}
	for i := range 1200 { // more than a history of etcd holds
		put(fmt.Sprintf("/v1/kv/flat/%d", i%7), strconv.Itoa(i))
	}
	for i := range 40 { // more than a file of the log holds: what was read from it before is gone from the disk
		put(fmt.Sprintf("/v1/kv/large/%d", i), strings.Repeat("x", 500<<10))
	}
	check := func(h *testcluster.Host) {
		t.Helper()
		want := fmt.Sprintf(`{"action":"delete","node":{"key":"/d","dir":true,"modifiedIndex":%d,`, gone)
		a := h.Do(http.MethodGet, fmt.Sprintf("/v2/keys/d/x?wait=true&waitIndex=%d", since+1), "")
		if !strings.HasPrefix(a.Body, want) || a.Header.Get(oldest) == "" {
			t.Errorf("%s: the watch of a child gives %d %q, want %s…; oldest %q", h.Name, a.Status, a.Body, want, a.Header.Get(oldest))
		}
		if n, err := strconv.ParseUint(a.Header.Get(oldest), 10, 64); err != nil || n > since {
			t.Errorf("%s: the history begins at %q, later than %d", h.Name, a.Header.Get(oldest), since)
		}
		// What was not in the directory has not seen it go: the first it sees is what happens there next.
		a = h.Do(http.MethodGet, fmt.Sprintf("/v2/keys/d/z?wait=true&waitIndex=%d", since+1), "")
		if !strings.Contains(a.Body, `"key":"/d/z"`) {
			t.Errorf("%s: the watch of a name that was not there gives %q", h.Name, a.Body)
		}
	}
	written, err := strconv.ParseUint(leader.Put(t, "/v2/keys/d/z", "value=new").Header.Get("X-Raft-Index"), 10, 64)
	if err != nil {
		t.Fatal(err)
	}
	check(leader)
	needed := written
	for range 2 { // once the second is there, the log has been cut after the first
		newest := written
		for _, s := range c.Servers {
			if s == late {
				continue
			}
			testcluster.Eventually(t, "a snapshot shortens the log", func() bool {
				leader.Do(http.MethodPut, "/v1/kv/flat/more", "1")
				return snapshotAt(t, s) >= written
			})
			newest = max(newest, snapshotAt(t, s))
		}
		written = newest + 1
	}
	late.Start(t)
	late.WaitReady(t)
	c.WaitSame(t)
	if snapshotAt(t, late) < needed {
		t.Error("the follower needed no snapshot: the test shows nothing")
	}
	check(late)
	for _, s := range c.Servers {
		s.Stop(t)
	}
	for _, s := range c.Servers {
		s.Start(t)
	}
	c.WaitReady(t)
	c.WaitSame(t)
	for _, s := range c.Servers {
		check(s)
	}
}

// snapshotAt is the index of the log up to which the newest snapshot on the disk of a host goes, 0 without any.
func snapshotAt(t *testing.T, h *testcluster.Host) (newest uint64) {
	t.Helper()
	found, err := filepath.Glob(filepath.Join(h.DataDir, "raft", "snapshots", "*", "meta.json"))
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range found {
		if strings.Contains(f, ".tmp") {
			continue
		}
		var meta struct{ Index uint64 }
		if b, err := os.ReadFile(f); err == nil && json.Unmarshal(b, &meta) == nil {
			newest = max(newest, meta.Index)
		}
	}
	return newest
}

// TestStatsAreTrue: statistics tell of real traffic, and count writes wherever they are applied.
func TestStatsAreTrue(t *testing.T) {
	t.Parallel()
	c := testcluster.Start(t, 3, 0)
	leader := c.WaitLeader(t)
	type counts map[string]uint64
	before := map[string]counts{}
	c.WaitSame(t)
	for _, s := range c.Servers {
		var n counts
		if !s.Get("/v2/stats/store", &n) {
			t.Fatalf("%s has no statistics", s.Name)
		}
		before[s.Name] = n
	}
	leader.Put(t, "/v2/keys/a", "value=1")
	leader.Put(t, "/v2/keys/a", "value=2&ttl=100")
	leader.Do(http.MethodPut, "/v2/keys/a?prevExist=false", "value=3")
	leader.Do(http.MethodPost, "/v2/keys/q", "value=4")
	leader.Do(http.MethodPut, "/v2/keys/a?prevValue=2", "value=5&ttl=100")
	asked := leader // plain reads are answered where they are asked, whoever leads
	asked.Do(http.MethodGet, "/v2/keys/a", "")
	asked.Do(http.MethodGet, "/v2/keys/none?recursive=true", "")
	leader.Do(http.MethodPut, "/v2/keys/a?prevExist=true", "refresh=true&ttl=1")
	testcluster.Eventually(t, "the key to expire", func() bool { return asked.Do(http.MethodGet, "/v2/keys/a", "").Status == 404 })
	c.WaitSame(t)
	for _, s := range c.Servers {
		var n counts
		s.Get("/v2/stats/store", &n)
		want := counts{"setsSuccess": 2, "createFail": 1, "createSuccess": 1, "compareAndSwapSuccess": 1, "updateSuccess": 1, "expireCount": 1, "deleteSuccess": 0}
		for name, want := range want {
			if got := n[name] - before[s.Name][name]; got != want {
				t.Errorf("%s counts %d as %s, want %d", s.Name, got, name, want)
			}
		}
		if reads := n["getsSuccess"] != 0 && n["getsFail"] != 0; reads != (s == asked) {
			t.Errorf("%s counts reads: %v, asked was %s", s.Name, n, asked.Name)
		}
	}
	var bad string
	defer func() {
		if t.Failed() {
			t.Log(bad)
		}
	}()
	testcluster.Eventually(t, "the servers tell the same of each other", func() bool {
		bad = wrongStats(c)
		return bad == ""
	})
}

// wrongStats says what is wrong with what the servers tell about the present leadership.
func wrongStats(c *testcluster.Cluster) string {
	type selfStats struct {
		Name, ID, State string
		LeaderInfo      struct{ Leader, Uptime string }
		StartTime       time.Time
		Received        uint64  `json:"recvAppendRequestCnt"`
		Sent            uint64  `json:"sendAppendRequestCnt"`
		RecvPkgRate     float64 `json:"recvPkgRate"`
		SendPkgRate     float64 `json:"sendPkgRate"`
	}
	var lead struct {
		Leader    string
		Followers map[string]struct {
			Latency struct{ Current, Average, StandardDeviation, Minimum, Maximum float64 }
			Counts  struct{ Fail, Success uint64 }
		}
	}
	leaders := 0
	for _, s := range c.Servers {
		if s.Get("/v2/stats/leader", &lead) {
			leaders++
		} else if a := s.Do(http.MethodGet, "/v2/stats/leader", ""); a.Status != 403 || a.Body != `{"message":"not current leader"}` {
			return fmt.Sprintf("%s: %d %s", s.Name, a.Status, a.Body)
		}
	}
	if leaders != 1 || len(lead.Followers) != 2 {
		return fmt.Sprintf("%d leaders, %+v", leaders, lead)
	}
	for id, f := range lead.Followers {
		if l := f.Latency; f.Counts.Success == 0 || l.Minimum <= 0 || l.Minimum > l.Average || l.Average > l.Maximum || l.Maximum > 60_000 || l.Current <= 0 {
			return fmt.Sprintf("follower %s: %+v", id, f)
		}
	}
	for _, s := range c.Servers {
		var self selfStats
		if !s.Get("/v2/stats/self", &self) || self.Name != s.Name || self.LeaderInfo.Leader != lead.Leader || self.StartTime.IsZero() {
			return fmt.Sprintf("%s: %+v", s.Name, self)
		}
		if up, err := time.ParseDuration(self.LeaderInfo.Uptime); err != nil || up <= 0 || up > time.Since(self.StartTime)+time.Minute {
			return fmt.Sprintf("%s: the leader is up for %q", s.Name, self.LeaderInfo.Uptime)
		}
		_, follows := lead.Followers[self.ID]
		leads := self.ID == lead.Leader && self.State == "StateLeader" && self.Sent > 0 && self.SendPkgRate > 0 && self.RecvPkgRate == 0
		if !leads && !(follows && self.State == "StateFollower" && self.Received > 0 && self.RecvPkgRate > 0 && self.SendPkgRate == 0) {
			return fmt.Sprintf("%s: %+v", s.Name, self)
		}
	}
	return ""
}

// TestNamesThatClientsOfEtcdMeet: what monitoring asks for is there on a server under the names of etcd, beside ours.
func TestNamesThatClientsOfEtcdMeet(t *testing.T) {
	t.Parallel()
	c := testcluster.Start(t, 1, 1)
	s, p := c.Servers[0], c.Proxies[0]
	s.Put(t, "/v2/keys/a", "value=1")
	text := s.Do(http.MethodGet, "/metrics", "").Body
	for _, line := range []string{
		"etcd_server_has_leader 1", "etcd_server_is_leader 1", "etcd_server_leader_changes_seen_total 1", "etcd_server_proposals_committed_total ",
		"etcd_server_proposals_applied_total ", "etcd_server_proposals_pending ", "etcd_server_proposals_failed_total 0",
		`etcd_debugging_store_reads_total{action="get"} `, `etcd_debugging_store_writes_total{action="set"} 1`, "etcd_debugging_store_expires_total 0",
		"etcd_debugging_store_watch_requests_total 0", "etcd_debugging_store_watchers 0", "process_open_fds ", "go_goroutines ", "consul_",
	} {
		if !strings.Contains(text, "\n"+line) {
			t.Errorf("/metrics of a server has no line %q", line)
		}
	}
	if text := p.Do(http.MethodGet, "/metrics", "").Body; strings.Contains(text, "etcd_server_") || !strings.Contains(text, "go_goroutines") {
		t.Error("a proxy tells of a consensus that it has no part in")
	}
	for _, h := range c.All() {
		for _, one := range []struct {
			method, path, body string
			status             int
			answer, allow      string
		}{
			{"GET", "/v2/auth/enable", "", 200, `{"enabled":false}`, ""},
			{"DELETE", "/v2/auth/enable", "", 409, `{"message":"auth: already disabled"}`, ""},
			{"PUT", "/v2/auth/enable", "", 501, "", ""},
			{"GET", "/v2/auth/users", "", 501, "", ""},
			{"PUT", "/v2/auth/users", "", 405, "Method Not Allowed\n", "GET"},
			{"PUT", "/v2/auth/roles/r", `{"role":"r"}`, 501, "", ""},
			{"POST", "/v2/auth/roles/r", "", 405, "Method Not Allowed\n", "GET,PUT,DELETE"},
			{"GET", "/v2/auth", "", 404, "404 page not found\n", ""},
			{"PUT", "/config/local/log", `{"Level":"WARNING"}`, 204, "", ""},
			{"PUT", "/config/local/log", `{"Level":"info"}`, 204, "", ""},
			{"PUT", "/config/local/log", `Level=DEBUG`, 400, `{"message":"Invalid json body"}`, ""},
			{"PUT", "/config/local/log", `{"Level":"LOUD"}`, 400, `{"message":"Invalid log level LOUD"}`, ""},
			{"GET", "/config/local/log", "", 405, "Method Not Allowed\n", "PUT"},
			{"POST", "/debug/vars", "", 405, "Method Not Allowed\n", "GET"},
			{"GET", "/health?exclude=ALARM", "", 200, `{"health":"true"}`, ""},
			{"POST", "/v2/machines", "", 405, "Method Not Allowed\n", "GET,HEAD"},
			{"HEAD", "/v2/machines", "", 200, "", ""},
			{"HEAD", "/v2/members", "", 405, "", "GET,POST,DELETE,PUT"},
			{"HEAD", "/version", "", 405, "", "GET"},
			{"PATCH", "/v2/keys/a", "", 405, "Method Not Allowed\n", "HEAD,GET,PUT,POST,DELETE"},
			{"GET", "/v2/machines/", "", 404, "404 page not found\n", ""},
			{"GET", "/version/", "", 404, "404 page not found\n", ""},
			{"GET", "/health/", "", 404, "404 page not found\n", ""},
			{"GET", "/v2/stats", "", 404, "404 page not found\n", ""},
			{"GET", "/config/local", "", 404, "404 page not found\n", ""},
			{"GET", "/v2/", "", 404, "404 page not found\n", ""},
			{"OPTIONS", "/v2/keys/a", "", 200, "", ""},
			{"OPTIONS", "/v2/members/x", "", 200, "", ""},
			{"OPTIONS", "/anything/at/all", "", 200, "", ""},
			{"OPTIONS", "/metrics", "", 200, "", ""},
			{"OPTIONS", "/", "", 200, "", ""},
		} {
			a := h.Do(one.method, one.path, one.body)
			if a.Status != one.status || one.answer != "" && a.Body != one.answer || a.Header.Get("Allow") != one.allow || one.status == 501 && !strings.Contains(a.Body, `{"message":"`) {
				t.Errorf("%s: %s %s: %d %q, Allow %q; want %d %q, Allow %q", h.Name, one.method, one.path, a.Status, a.Body, a.Header.Get("Allow"), one.status, one.answer, one.allow)
			}
			if origin := a.Header.Get("Access-Control-Allow-Origin"); origin != "" {
				t.Errorf("%s: %s %s: open to the pages of %q", h.Name, one.method, one.path, origin)
			}
		}
		var vars struct {
			CommandLine []string `json:"cmdline"`
			Limit       uint64   `json:"file_descriptor_limit"`
			Memory      struct{ HeapAlloc uint64 }
			Raft        struct{ ID, Lead, RaftState string } `json:"raft.status"`
		}
		a := h.Do(http.MethodGet, "/debug/vars", "")
		if err := json.Unmarshal([]byte(strings.Replace(a.Body, `"memstats"`, `"Memory"`, 1)), &vars); err != nil || len(vars.CommandLine) == 0 || vars.Limit == 0 || vars.Memory.HeapAlloc == 0 {
			t.Errorf("%s: /debug/vars: %v, %.300s", h.Name, err, a.Body)
		}
		if h == s && (vars.Raft.RaftState != "StateLeader" || vars.Raft.ID != vars.Raft.Lead || vars.Raft.ID == "") {
			t.Errorf("%s: raft.status %+v", h.Name, vars.Raft)
		}
	}
}

// TestOldestIndexThroughProxy: clients behind a proxy learn how far back they may go, too.
func TestOldestIndexThroughProxy(t *testing.T) {
	t.Parallel()
	c := testcluster.Start(t, 1, 1, "-watch-history-events=10")
	p := c.Proxies[0]
	var last uint64
	for i := range 30 {
		last = index(t, p.Put(t, "/v2/keys/a", "value="+strconv.Itoa(i)))
	}
	lost := p.Do(http.MethodGet, "/v2/keys/a?wait=true&waitIndex=5", "")
	first, err := strconv.ParseUint(lost.Header.Get(oldest), 10, 64)
	if err != nil || lost.Status != 400 || first < last-15 || first > last || !strings.Contains(lost.Body, fmt.Sprintf("[%d/5]", first)) {
		t.Fatalf("%d %s, oldest %q", lost.Status, lost.Body, lost.Header.Get(oldest))
	}
	a := p.Do(http.MethodGet, fmt.Sprintf("/v2/keys/a?wait=true&waitIndex=%d", first), "")
	if !strings.Contains(a.Body, fmt.Sprintf(`"modifiedIndex":%d,`, first)) || a.Header.Get(oldest) != strconv.FormatUint(first, 10) {
		t.Fatalf("from %d on: %d %s, oldest %q", first, a.Status, a.Body, a.Header.Get(oldest))
	}
}
