package consul_test

import (
	"context"
	"encoding/json"
	"errors"
	"maps"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"time"

	client "github.com/hashicorp/consul/api"

	"github.com/musterhq/muster/api"
	"github.com/musterhq/muster/api/consul"
	"github.com/musterhq/muster/kv"
)

// servers stands for the servers of a cluster.
type servers struct {
	health  consul.AutopilotHealth
	err     error
	removed []string
}

func (s *servers) RaftServers() ([]consul.RaftServer, uint64, error) {
	return []consul.RaftServer{{ID: "i1", Node: "n1", Address: "10.0.0.1:8300", Leader: true, ProtocolVersion: "3", Voter: true, LastIndex: 9}}, 7, s.err
}

func (s *servers) RemovePeer(_ context.Context, id, address string, force bool) error {
	if s.err == nil && (id == "i1" || address == "10.0.0.1:8300") {
		if force {
			id += "!"
		}
		s.removed = append(s.removed, id+address)
		return nil
	}
	if s.err != nil {
		return s.err
	}
	return consul.ErrNoSuchPeer
}

func (s *servers) TransferLeader(_ context.Context, id string) error {
	if s.err == nil && id != "" && id != "i1" {
		return consul.ErrNoSuchPeer
	}
	return s.err
}

func (s *servers) Autopilot() (consul.AutopilotHealth, error) { return s.health, s.err }

// keys is a keyring.
type keys struct {
	have map[string]int
	err  error
}

func (k *keys) Keys() ([]consul.KeyringPool, error) {
	return []consul.KeyringPool{{Datacenter: "dc1", Keys: k.have, PrimaryKeys: map[string]int{}, NumNodes: 3}}, k.err
}
func (k *keys) InstallKey(key string) error { k.have[key] = 3; return k.err }
func (k *keys) UseKey(string) error         { return k.err }
func (k *keys) RemoveKey(key string) error  { delete(k.have, key); return k.err }

func newOperated(t *testing.T, s *servers, k *keys) (*httptest.Server, *client.Operator, func(kv.Txn)) {
	t.Helper()
	store, srv := newServer(t, func(c *consul.Config) { c.Operator, c.Keyring = s, k })
	c, err := client.NewClient(&client.Config{Address: srv.URL})
	if err != nil {
		t.Fatal(err)
	}
	return srv, c.Operator(), func(txn kv.Txn) {
		if res, err := store.Propose(t.Context(), txn); err != nil || res.Code != kv.OK {
			t.Fatal(res.Code, err)
		}
	}
}

func TestOperatorRaft(t *testing.T) {
	s := &servers{}
	srv, _, _ := newOperated(t, s, &keys{})
	want(t, srv, "GET", "/v1/operator/raft/configuration", "", 200,
		`{"Servers":[{"ID":"i1","Node":"n1","Address":"10.0.0.1:8300","Leader":true,"ProtocolVersion":"3","Voter":true,"LastIndex":9}],"Index":7}`)
	want(t, srv, "GET", "/v1/operator/raft/configuration?dc=other", "", 500, "No path to datacenter")
	const peer = "/v1/operator/raft/peer"
	want(t, srv, "DELETE", peer, "", 400, "Must specify either ?id with the server's ID or ?address with IP:port of peer to remove")
	want(t, srv, "DELETE", peer+"?id=i1&address=10.0.0.1:1", "", 400, "Must specify only one of ?id or ?address")
	want(t, srv, "DELETE", peer+"?address=10.0.0.1:1", "", 500, `address "10.0.0.1:1" was not found in the Raft configuration`)
	want(t, srv, "DELETE", peer+"?id=i2", "", 500, `id "i2" was not found in the Raft configuration`)
	want(t, srv, "DELETE", peer+"?id=i1", "", 200, "")
	want(t, srv, "DELETE", peer+"?id=i1&force", "", 200, "")
	want(t, srv, "DELETE", peer+"?address=10.0.0.1:8300", "", 200, "")
	if got := strings.Join(s.removed, " "); got != "i1 i1! 10.0.0.1:8300" {
		t.Errorf("removed %s", got)
	}
	want(t, srv, "POST", "/v1/operator/raft/transfer-leader", "", 200, `{"Success":true}`)
	want(t, srv, "PUT", "/v1/operator/raft/transfer-leader?id=i1", "", 200, `{"Success":true}`)
	want(t, srv, "POST", "/v1/operator/raft/transfer-leader?id=i2", "", 404, "Failed to transfer Leader: "+consul.ErrNoSuchPeer.Error())
	s.err = api.ErrNotLeader
	for target, method := range map[string]string{"raft/peer?id=i1": "DELETE", "raft/transfer-leader": "POST", "autopilot/health": "GET", "autopilot/state": "GET"} {
		if status, h, _ := ask(t, srv, method, "/v1/operator/"+target, ""); status != 503 || h.Get(api.NotLeaderHeader) == "" {
			t.Errorf("%s %s on a follower: %d", method, target, status)
		}
	}
}

func TestOperatorAutopilotConfiguration(t *testing.T) {
	srv, op, propose := newOperated(t, &servers{}, &keys{})
	const path = "/v1/operator/autopilot/configuration"
	want(t, srv, "GET", path, "", 200, `{"CleanupDeadServers":true,"LastContactThreshold":"200ms","MaxTrailingLogs":250,"MinQuorum":0,`+
		`"ServerStabilizationTime":"10s","RedundancyZoneTag":"","DisableUpgradeMigration":false,"UpgradeVersionTag":"","CreateIndex":0,"ModifyIndex":0}`)
	seed, err := consul.WriteAutopilot(consul.DefaultAutopilot(), true, false)
	if err != nil {
		t.Fatal(err)
	}
	propose(seed)
	before, err := op.AutopilotGetConfiguration(nil)
	if err != nil || before.ModifyIndex == 0 || before.CreateIndex != before.ModifyIndex {
		t.Fatal(before, err)
	}
	for body, text := range map[string]string{
		`{`:                                "Error parsing autopilot config: unexpected EOF",
		`{"Nope":1}`:                       `Error parsing autopilot config: json: unknown field "Nope"`,
		`{"LastContactThreshold":"-1s"}`:   "Error parsing autopilot config: durations must not be negative",
		`{"MinQuorum":-1}`:                 "Error parsing autopilot config: json: cannot unmarshal number -1 into Go struct field AutopilotConfig.MinQuorum of type uint",
		`{"ServerStabilizationTime":"10"}`: `Error parsing autopilot config: time: missing unit in duration "10"`,
	} {
		want(t, srv, "PUT", path, body, 400, text)
	}
	want(t, srv, "PUT", path+"?cas=x", `{}`, 400, `Error parsing cas value: strconv.ParseUint: parsing "x": invalid syntax`)
	want(t, srv, "PUT", path+"?cas=1", `{"MinQuorum":3}`, 200, "false")
	now, err := op.AutopilotGetConfiguration(nil)
	if err != nil || now.ModifyIndex != before.ModifyIndex || now.MinQuorum != 0 {
		t.Errorf("refusals changed the settings to %+v (%v)", now, err)
	}
	before.MinQuorum, before.LastContactThreshold, before.UpgradeVersionTag = 3, client.NewReadableDuration(time.Second), "kept"
	if ok, err := op.AutopilotCASConfiguration(before, nil); !ok || err != nil {
		t.Error(ok, err)
	}
	now, err = op.AutopilotGetConfiguration(nil)
	if err != nil || now.MinQuorum != 3 || now.LastContactThreshold.String() != "1s" || now.UpgradeVersionTag != "kept" || now.CreateIndex != before.CreateIndex || now.ModifyIndex <= before.ModifyIndex {
		t.Errorf("the settings are %+v (%v)", now, err)
	}
}

func TestOperatorAutopilotHealth(t *testing.T) {
	since := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	s := &servers{health: consul.AutopilotHealth{Healthy: true, FailureTolerance: 0, OptimisticFailureTolerance: 1, Servers: []consul.ServerHealth{
		{ID: "i1", Name: "n1", Address: "10.0.0.1:8300", SerfStatus: "alive", Version: "1", Leader: true, LastTerm: 2, LastIndex: 9, Healthy: true, Voter: true, StableSince: since, Meta: map[string]string{"k": "v"}},
		{ID: "i2", Name: "n2", Address: "10.0.0.2:8300", SerfStatus: "alive", Version: "1", LastContact: consul.Duration(20 * time.Millisecond), LastTerm: 2, LastIndex: 9, Healthy: true, StableSince: since},
	}}}
	srv, op, _ := newOperated(t, s, &keys{})
	want(t, srv, "GET", "/v1/operator/autopilot/health", "", 200, `{"Healthy":true,"FailureTolerance":0,"Servers":[`+
		`{"ID":"i1","Name":"n1","Address":"10.0.0.1:8300","SerfStatus":"alive","Version":"1","Leader":true,"LastContact":"0s","LastTerm":2,"LastIndex":9,"Healthy":true,"Voter":true,"StableSince":"2026-01-02T03:04:05Z"},`+
		`{"ID":"i2","Name":"n2","Address":"10.0.0.2:8300","SerfStatus":"alive","Version":"1","Leader":false,"LastContact":"20ms","LastTerm":2,"LastIndex":9,"Healthy":true,"Voter":false,"StableSince":"2026-01-02T03:04:05Z"}]}`)
	state, err := op.AutopilotState(nil)
	if err != nil {
		t.Fatal(err)
	}
	if one := state.Servers["i1"]; state.Leader != "i1" || !slices.Equal(state.Voters, []string{"i1"}) || one.Status != client.AutopilotServerLeader || one.Meta["k"] != "v" {
		t.Errorf("the state is %+v", state)
	}
	if two := state.Servers["i2"]; two.Status != client.AutopilotServerNonVoter || two.NodeType != client.AutopilotTypeVoter || state.OptimisticFailureTolerance != 1 {
		t.Errorf("the learner is %+v", two)
	}
	s.health.Healthy, s.health.Servers = false, s.health.Servers[:1]
	if status, _, body := ask(t, srv, "GET", "/v1/operator/autopilot/health", ""); status != 429 || !strings.Contains(body, `"Healthy":false,"FailureTolerance":0,"Servers":[{"ID":"i1"`) {
		t.Errorf("unhealthy: %d %s", status, body)
	}
}

func TestOperatorKeyring(t *testing.T) {
	k := &keys{have: map[string]int{"first": 3}}
	srv, op, _ := newOperated(t, &servers{}, k)
	if err := errors.Join(op.KeyringInstall("second", nil), op.KeyringUse("second", nil), op.KeyringRemove("first", nil)); err != nil {
		t.Fatal(err)
	}
	want(t, srv, "GET", "/v1/operator/keyring?relay-factor=5&local-only=true", "", 200, `[{"WAN":false,"Datacenter":"dc1","Segment":"","Keys":{"second":3},"PrimaryKeys":{},"NumNodes":3}]`)
	for target, status := range map[string]int{"GET ?relay-factor=6": 400, "GET ?relay-factor=x": 400, "GET ?local-only=maybe": 400, "PUT ?local-only": 400, "POST ": 400} {
		method, query, _ := strings.Cut(target, " ")
		if got, _, body := ask(t, srv, method, "/v1/operator/keyring"+query, `{`); got != status {
			t.Errorf("%s: %d %s", target, got, body)
		}
	}
	k.err = consul.ErrKeyringEmpty
	if got, _, body := ask(t, srv, "GET", "/v1/operator/keyring", ""); got != 500 || !strings.Contains(body, "Keyring is empty (encryption not enabled)") {
		t.Errorf("without encryption: %d %s", got, body)
	}
}

func TestOperatorUsage(t *testing.T) {
	srv, _, _ := newOperated(t, &servers{}, &keys{})
	for _, s := range []string{`{"ID":"a1","Service":"a"}`, `{"ID":"a2","Service":"a"}`, `{"Service":"b"}`, `{"Service":"consul"}`} {
		want(t, srv, "PUT", "/v1/catalog/register", `{"Node":"n1","Address":"10.0.0.1","Service":`+s+`}`, 200, "true")
	}
	want(t, srv, "PUT", "/v1/catalog/register", `{"Node":"n2","Address":"10.0.0.2","Service":{"Service":"a"}}`, 200, "true")
	var out struct {
		Usage map[string]struct {
			Nodes, Services, ServiceInstances, BillableServiceInstances int
			ConnectServiceInstances                                     map[string]int
		}
		Index       uint64
		KnownLeader bool
	}
	_, _, body := ask(t, srv, "GET", "/v1/operator/usage?global", "")
	if err := json.Unmarshal([]byte(body), &out); err != nil {
		t.Fatal(err)
	}
	u := out.Usage["dc1"]
	if u.Nodes != 2 || u.Services != 3 || u.ServiceInstances != 5 || u.BillableServiceInstances != 4 || out.Index == 0 || !out.KnownLeader {
		t.Errorf("usage is %+v", out)
	}
	if kinds := slices.Sorted(maps.Keys(u.ConnectServiceInstances)); len(kinds) != 6 || kinds[1] != "connect-native" {
		t.Errorf("the kinds of a mesh are %v", kinds)
	}
}
