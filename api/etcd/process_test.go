package etcd_test

import (
	"encoding/json"
	"slices"
	"testing"

	"github.com/hashicorp/go-hclog"

	"github.com/musterhq/muster/api"
	"github.com/musterhq/muster/api/etcd"
	"github.com/musterhq/muster/kv"
)

func TestLogLevelIsChanged(t *testing.T) {
	var set []hclog.Level
	u := serve(t, newMemory(t, kv.Options{}), func(c *etcd.Config) { c.SetLogLevel = func(l hclog.Level) { set = append(set, l) } })
	for _, word := range []string{"CRITICAL", "error", "WARNING", "Notice", "INFO", "DEBUG", "TRACE"} {
		want(t, call(t, "PUT", u+"/config/local/log", `{"Level":"`+word+`"}`), 204, "")
	}
	if got := []hclog.Level{hclog.Error, hclog.Error, hclog.Warn, hclog.Info, hclog.Info, hclog.Debug, hclog.Trace}; !slices.Equal(set, got) {
		t.Errorf("set to %v, want %v", set, got)
	}
	for body, message := range map[string]string{"": "Invalid json body", "{": "Invalid json body", `[]`: "Invalid json body", `{"Level":7}`: "Invalid json body",
		`{}`: "Invalid log level ", `{"Level":"\"<"}`: `Invalid log level \"\u003c`} {
		want(t, call(t, "PUT", u+"/config/local/log", body), 400, `{"message":"`+message+`"}`)
	}
	if len(set) != 7 {
		t.Errorf("a refused request set the level: %v", set)
	}
	want(t, call(t, "PUT", serve(t, newMemory(t, kv.Options{}), nil)+"/config/local/log", `{"Level":"INFO"}`), 501, `{"message":"the log level of this server cannot be changed"}`)
}

func TestProcessVariables(t *testing.T) {
	u := serve(t, newMemory(t, kv.Options{}), func(c *etcd.Config) { c.CommandLine, c.FileLimit = []string{"muster", "agent"}, 1024 })
	var vars struct {
		CommandLine []string       `json:"cmdline"`
		Limit       uint64         `json:"file_descriptor_limit"`
		Memory      map[string]any `json:"memstats"`
		Raft        map[string]any `json:"raft.status"`
	}
	a := call(t, "GET", u+"/debug/vars", "")
	if err := json.Unmarshal([]byte(a.body), &vars); err != nil || a.header.Get("Content-Type") != "application/json; charset=utf-8" {
		t.Fatalf("%v: %s", err, a.body)
	}
	if !slices.Equal(vars.CommandLine, []string{"muster", "agent"}) || vars.Limit != 1024 || vars.Memory["HeapAlloc"] == nil ||
		vars.Raft["id"] != "8e9e05c52164694d" || vars.Raft["lead"] != vars.Raft["id"] || vars.Raft["raftState"] != "StateLeader" || vars.Raft["term"] != 2.0 {
		t.Errorf("%+v", vars)
	}
}

// The rates belong to the role; what is counted stays.
func TestTrafficOfTheRole(t *testing.T) {
	m := newMemory(t, kv.Options{})
	u := serve(t, m, func(c *etcd.Config) {
		c.Stats = func() etcd.Stats {
			return etcd.Stats{Sent: etcd.Traffic{Appends: 7, PerSecond: 2.5, BytesPerSecond: 100}, Received: etcd.Traffic{Appends: 3, PerSecond: 1.5, BytesPerSecond: 50}}
		}
	})
	traffic := func() (out map[string]any) {
		t.Helper()
		if err := json.Unmarshal([]byte(call(t, "GET", u+"/v2/stats/self", "").body), &out); err != nil {
			t.Fatal(err)
		}
		return out
	}
	if s := traffic(); s["sendAppendRequestCnt"] != 7.0 || s["recvAppendRequestCnt"] != 3.0 || s["sendPkgRate"] != 2.5 || s["sendBandwidthRate"] != 100.0 || s["recvPkgRate"] != nil || s["recvBandwidthRate"] != nil {
		t.Errorf("leader: %v", s)
	}
	m.failWith(api.ErrNoLeader)
	if s := traffic(); s["state"] != "StateCandidate" || s["sendAppendRequestCnt"] != 7.0 || s["sendPkgRate"] != nil || s["recvPkgRate"] != 1.5 || s["recvBandwidthRate"] != 50.0 {
		t.Errorf("no leader: %v", s)
	}
}
