package cluster_test

import (
	"encoding/json"
	"testing"
	"time"

	"github.com/musterhq/muster/internal/testcluster"
)

// session creates a session and returns its id.
func session(t *testing.T, h *testcluster.Host, body string) string {
	t.Helper()
	var x struct{ ID string }
	if err := json.Unmarshal([]byte(h.Put(t, "/v1/session/create", body).Body), &x); err != nil {
		t.Fatal(err)
	}
	return x.ID
}

type lockState struct {
	LockIndex uint64
	Session   string
}

func lockOf(h *testcluster.Host, key string) lockState {
	var list []lockState
	if !h.Get("/v1/kv/"+key, &list) || len(list) != 1 {
		return lockState{}
	}
	return list[0]
}

// TestSessionsOutliveTheLeader kills the leader under two locks. The session that is renewed keeps its lock for several
// TTLs, without a write; the other ends, and the next holder gets a higher LockIndex.
func TestSessionsOutliveTheLeader(t *testing.T) {
	t.Parallel()
	c := testcluster.Start(t, 3, 1, "-hcl", `session_ttl_min = "500ms" performance { rpc_hold_timeout = "40s" }`) // for elections that are tried again
	p := c.Proxies[0]
	p.WaitReady(t)
	const ttl = 5 * time.Second
	kept := session(t, p, `{"TTL":"5s","LockDelay":"0s"}`)
	lost := session(t, p, `{"TTL":"5s","LockDelay":"0s"}`)
	for key, id := range map[string]string{"lock/kept": kept, "lock/lost": lost} {
		if a := p.Put(t, "/v1/kv/"+key+"?acquire="+id, "x"); a.Body != "true" {
			t.Fatal(a)
		}
	}
	old := c.WaitLeader(t)
	old.Crash(t)
	renew := func() {
		t.Helper()
		if a := p.Do("PUT", "/v1/session/renew/"+kept, ""); !a.OK() {
			t.Fatalf("renew: %d %s", a.Status, a.Body)
		}
	}
	renew()
	crashed := time.Now()
	c.WaitLeader(t, old)
	testcluster.Eventually(t, "the session that is not renewed ends", func() bool {
		renew()
		return lockOf(p, "lock/lost").Session == ""
	})
	if early := time.Since(crashed); early < ttl/2 {
		t.Errorf("it ended %v after the leader", early)
	}
	now := c.WaitLeader(t, old)
	testcluster.Eventually(t, "the dead server is marked", func() bool { return liveness(p, old.Name) == "critical" })
	before, _, _ := now.Agent().StateHash()
	for end := time.Now().Add(ttl + ttl/2); time.Now().Before(end); {
		renew()
	}
	if after, _, _ := now.Agent().StateHash(); after != before {
		t.Errorf("renewals moved the index from %d to %d", before, after)
	}
	if l := lockOf(p, "lock/kept"); l != (lockState{1, kept}) {
		t.Errorf("the renewed lock is %+v", l)
	}
	next := session(t, p, `{}`)
	if a := p.Put(t, "/v1/kv/lock/lost?acquire="+next, "y"); a.Body != "true" {
		t.Errorf("without a delay the lock is free at once: %s", a.Body)
	}
	if l := lockOf(p, "lock/lost"); l != (lockState{2, next}) {
		t.Errorf("the next holder has %+v", l)
	}
	// A lock whose session had a delay is not free after it, however the session ends.
	p.Put(t, "/v1/session/destroy/"+next, "")
	if a := p.Put(t, "/v1/kv/lock/lost?acquire="+kept, "z"); a.Body != "false" {
		t.Errorf("the delay of the session was not kept: %s", a.Body)
	}
}
