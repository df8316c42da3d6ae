package main

import (
	"bytes"
	"encoding/json"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/spf13/cobra"
)

// consul runs one command line under the name consul against the agent at url ("" = the default).
func consul(t *testing.T, url, stdin string, args ...string) result {
	t.Helper()
	if url != "" {
		t.Setenv("CONSUL_HTTP_ADDR", url)
	}
	var out, errs bytes.Buffer
	code := personality("/usr/local/bin/consul")(args, strings.NewReader(stdin), &out, &errs)
	return result{code, out.String(), errs.String()}
}

// is compares everything that was printed.
func (r result) is(t *testing.T, code int, out, errs string) {
	t.Helper()
	if r.code != code || r.out != out || r.errs != errs {
		t.Errorf("exit code %d, want %d\nout:  %q\nwant: %q\nerr:  %q\nwant: %q", r.code, code, r.out, out, r.errs, errs)
	}
}

func TestConsulHelp(t *testing.T) {
	var walk func(path []string, cmd *cobra.Command)
	seen := 0
	walk = func(path []string, cmd *cobra.Command) {
		seen++
		for _, flag := range []string{"-h", "-help", "--help"} {
			r := consul(t, "", "", append(slices.Clone(path), flag)...)
			if r.code != 0 || !strings.Contains(r.out+r.errs, "Usage") {
				t.Errorf("consul %s %s: exit code %d, %q", strings.Join(path, " "), flag, r.code, r.out+r.errs)
			}
		}
		if cmd.Short == "" {
			t.Errorf("consul %s has no short description", strings.Join(path, " "))
		}
		for _, sub := range cmd.Commands() {
			walk(append(slices.Clone(path), sub.Name()), sub)
		}
	}
	walk(nil, newConsulRoot())
	if seen < 50 {
		t.Errorf("the tree has only %d commands", seen)
	}
}

func TestConsulUnknownAndUnavailable(t *testing.T) {
	consul(t, "", "", "nope").want(t, 127, `unknown command "nope"`)
	consul(t, "", "", "kv", "nope").want(t, 127, `unknown command "nope"`)
	if r := consul(t, "", ""); r.code != 127 || !strings.Contains(r.out, "Usage") {
		t.Errorf("no arguments: exit code %d, %q", r.code, r.out)
	}
	if r := consul(t, "", "", "kv"); r.code != 1 || !strings.Contains(r.out, "Usage") {
		t.Errorf("kv alone: exit code %d, %q", r.code, r.out)
	}
	for name := range outOfScope {
		consul(t, "", "", name, "create", "-x").want(t, 1, name+" is not available")
	}
}

func TestConsulVersion(t *testing.T) {
	r := consul(t, "", "", "version")
	if first, _, _ := strings.Cut(r.out, "\n"); r.code != 0 || first != "Consul v1.21.4" {
		t.Errorf("exit code %d, first line %q", r.code, first)
	}
	if v := consul(t, "", "", "-v"); v.out != r.out || v.code != 0 {
		t.Errorf("-v: exit code %d, %q", v.code, v.out)
	}
	var v struct {
		Version string
		RPC     struct{ Default, Min, Max int }
	}
	if err := json.Unmarshal([]byte(consul(t, "", "", "version", "-format=json").out), &v); err != nil || v.Version != "1.21.4" || v.RPC.Max != 3 {
		t.Errorf("version -format=json: %+v, %v", v, err)
	}
}

// The texts are those of the contract (consul-agent 7 and 17).
func TestConsulLayouts(t *testing.T) {
	f := newFake(t, map[string]string{
		"GET /v1/agent/members": `[{"Name":"n1","Addr":"127.0.0.1","Port":18301,"Status":1,"ProtocolCur":2,"Tags":{"role":"consul","dc":"dc1","build":"1.21.4:"}},
			{"Name":"c1","Addr":"127.0.0.1","Port":28301,"Status":3,"ProtocolCur":2,"Tags":{"role":"node","dc":"dc1","build":"1.21.4:"}}]`,
		"GET /v1/operator/raft/configuration": `{"Servers":[{"ID":"id-1","Node":"n1","Address":"127.0.0.1:18300","Leader":true,"ProtocolVersion":"3","Voter":true,"LastIndex":108},
			{"ID":"id-2","Node":"n2","Address":"127.0.0.2:18300","ProtocolVersion":"3","Voter":false,"LastIndex":107}]}`,
		"GET /v1/operator/keyring":                 `[{"WAN":true,"Datacenter":"dc1","Keys":{"K":1},"PrimaryKeys":{"K":1},"NumNodes":1},{"Datacenter":"dc1","Keys":{"K":2,"A":1},"PrimaryKeys":{"K":2},"NumNodes":2}]`,
		"GET /v1/operator/autopilot/configuration": `{"CleanupDeadServers":true,"LastContactThreshold":"200ms","MaxTrailingLogs":250,"MinQuorum":0,"ServerStabilizationTime":"10s","RedundancyZoneTag":"","DisableUpgradeMigration":false,"UpgradeVersionTag":"","CreateIndex":4,"ModifyIndex":5}`,
		"PUT /v1/operator/autopilot/configuration": `true`,
		"GET /v1/operator/autopilot/state":         `429|{"Healthy":false,"FailureTolerance":0,"OptimisticFailureTolerance":0,"Leader":"id-1","Voters":["id-1"],"Servers":{"id-1":{"ID":"id-1","Name":"n1","Address":"127.0.0.1:18300","Version":"1.21.4","Status":"leader","NodeType":"voter","NodeStatus":"alive"}}}`,
		"GET /v1/catalog/nodes":                    `[{"ID":"12345678-aaaa","Node":"b","Address":"10.0.0.2","Datacenter":"dc1","TaggedAddresses":{"wan":"2","lan":"1"},"Meta":{"k":"v"}},{"ID":"","Node":"a","Address":"10.0.0.1","Datacenter":"dc1","TaggedAddresses":null,"Meta":null}]`,
		"GET /v1/catalog/service/web":              `[{"ID":"","Node":"web1","Address":"10.0.0.1","Datacenter":"dc1"},{"ID":"","Node":"web2","Address":"10.0.0.2","Datacenter":"dc1"},{"ID":"","Node":"web2","Address":"10.0.0.2","Datacenter":"dc1"}]`,
		"GET /v1/catalog/service/none":             `[]`,
		"GET /v1/catalog/services":                 `{"web":["v2","v1","prod.eu"],"consul":[]}`,
		"GET /v1/catalog/node/n1":                  `{"Node":{},"Services":{"a":{"Service":"web","Tags":["x"]},"b":{"Service":"web","Tags":["y"]}}}`,
		"GET /v1/catalog/node/nope":                `null`,
		"GET /v1/catalog/datacenters":              `["dc1","dc2"]`,
		"GET /v1/kv/a/b":                           `[{"LockIndex":0,"Key":"a/b","Flags":0,"Value":"djE=","CreateIndex":104,"ModifyIndex":104}]`,
		"GET /v1/kv/a/":                            `[{"LockIndex":0,"Key":"a/b","Flags":0,"Value":"djE=","CreateIndex":104,"ModifyIndex":104},{"LockIndex":1,"Key":"a/c","Flags":7,"Value":null,"Session":"s","CreateIndex":1,"ModifyIndex":2}]`,
		"GET /v1/kv/nope":                          `404|`,
		"GET /v1/kv/":                              `["a/","b"]`,
		"GET /v1/agent/checks":                     `{"_node_maintenance":{"CheckID":"_node_maintenance","Node":"n1","Notes":"x"},"_service_maintenance:w":{"CheckID":"_service_maintenance:w","ServiceID":"w","Notes":"y"},"z":{"CheckID":"z"}}`,
		"PUT /v1/agent/maintenance":                ``,
		"PUT /v1/agent/service/maintenance/web":    ``,
		"PUT /v1/event/fire/deploy":                `{"ID":"ec068fcc"}`,
		"GET /v1/coordinate/nodes":                 `[{"Node":"n1","Segment":"","Coord":{"Vec":[0,0,0,0,0,0,0,0],"Error":1.5,"Adjustment":0,"Height":0.00001}},{"Node":"n2","Segment":"","Coord":{"Vec":[0.003,0.004,0,0,0,0,0,0],"Error":1.5,"Adjustment":0,"Height":0.00001}}]`,
		"GET /v1/coordinate/datacenters":           `[{"Datacenter":"dc2","AreaID":"wan","Coordinates":[{"Node":"x.dc2","Coord":{"Vec":[0,0,0,0,0,0,0,0],"Error":1.5,"Adjustment":0,"Height":0.001}}]}]`,
		"GET /v1/operator/usage":                   `{"Usage":{"dc1":{"Services":2,"ServiceInstances":3,"ConnectServiceInstances":{"mesh-gateway":0},"BillableServiceInstances":2,"Nodes":1}}}`,
		"POST /v1/operator/raft/transfer-leader":   `{"Success":true}`,
		"DELETE /v1/operator/raft/peer":            ``,
		"DELETE /v1/operator/keyring":              ``,
	})
	header := "Node  Address          Status  Type    Build   Protocol  DC   Partition  Segment\n"
	for _, c := range []struct {
		args string
		code int
		out  string
		errs string
	}{
		{"members", 0, header + "c1    127.0.0.1:28301  left    client  1.21.4  2         dc1  default    <default>\nn1    127.0.0.1:18301  alive   server  1.21.4  2         dc1  default    <all>\n", ""},
		{"members -status=^alive$ -detailed", 0, "Node  Address          Status  Tags\nn1    127.0.0.1:18301  alive   build=1.21.4:,dc=dc1,role=consul\n", ""},
		{"members -status=failed", 2, "", ""},
		{"operator raft list-peers", 0, "Node  ID    Address          State     Voter  RaftProtocol  Commit Index  Trails Leader By\n" +
			"n1    id-1  127.0.0.1:18300  leader    true   3             108           -\nn2    id-2  127.0.0.2:18300  follower  false  3             107           1 commit\n", ""},
		{"operator raft remove-peer -id=id-2", 0, "Removed peer with id \"id-2\"\n", ""},
		{"operator raft transfer-leader", 0, "Success\n", ""},
		{"keyring -list", 0, "==> Gathering installed encryption keys...\n\nWAN:\n  K [1/1]\n\ndc1 (LAN):\n  A [1/2]\n  K [2/2]\n", ""},
		{"keyring -list-primary", 0, "==> Gathering installed encryption keys...\n\nWAN:\n  K [1/1]\n\ndc1 (LAN):\n  K [2/2]\n", ""},
		{"keyring -remove=AAAAAAAAAAAAAAAAAAAAAA==", 0, "==> Removing gossip encryption key...\n", ""},
		{"operator autopilot get-config", 0, "CleanupDeadServers = true\nLastContactThreshold = 200ms\nMaxTrailingLogs = 250\nMinQuorum = 0\nServerStabilizationTime = 10s\nRedundancyZoneTag = \"\"\nDisableUpgradeMigration = false\nUpgradeVersionTag = \"\"\n", ""},
		{"operator autopilot set-config -max-trailing-logs=7", 0, "Configuration updated!\n", ""},
		{"catalog nodes", 0, "Node  ID        Address   DC\na               10.0.0.1  dc1\nb     12345678  10.0.0.2  dc1\n", ""},
		{"catalog nodes -detailed", 0, "Node  ID             Address   DC   TaggedAddresses  Meta\na                    10.0.0.1  dc1                   \nb     12345678-aaaa  10.0.0.2  dc1  lan=1, wan=2     k=v\n", ""},
		{"catalog nodes -service=web", 0, "Node  ID  Address   DC\nweb1      10.0.0.1  dc1\nweb2      10.0.0.2  dc1\n", ""},
		{"catalog nodes -service=none", 0, "", "No nodes match the given query - try expanding your search.\n"},
		{"catalog services", 0, "consul\nweb\n", ""},
		{"catalog services -tags", 0, "consul  \nweb     prod.eu,v1,v2\n", ""},
		{"catalog services -node=n1 -tags", 0, "web  x,y\n", ""},
		{"catalog services -node=nope", 0, "", "No services match the given query - try expanding your search.\n"},
		{"catalog datacenters", 0, "dc1\ndc2\n", ""},
		{"kv get a/b", 0, "v1\n", ""},
		{"kv get -base64 /a/b", 0, "djE=\n", ""},
		{"kv get -detailed a/b", 0, "CreateIndex      104\nFlags            0\nKey              a/b\nLockIndex        0\nModifyIndex      104\nSession          -\nValue            v1\n", ""},
		{"kv get -recurse a/", 0, "a/b:v1\na/c:\n", ""},
		{"kv get -keys", 0, "a/\nb\n", ""},
		{"kv get nope", 1, "", "Error! No key exists at: nope\n"},
		{"kv get -recurse nope", 0, "", ""},
		{"kv get", 1, "", "Error! Missing KEY argument\n"},
		{"kv export a/", 0, "[\n\t{\n\t\t\"key\": \"a/b\",\n\t\t\"flags\": 0,\n\t\t\"value\": \"djE=\"\n\t},\n\t{\n\t\t\"key\": \"a/c\",\n\t\t\"flags\": 7,\n\t\t\"value\": \"\"\n\t}\n]\n", ""},
		{"kv export nope", 0, "[]\n", ""},
		{"maint", 0, "Node:\n  Name:   n1\n  Reason: x\n\nService:\n  ID:     w\n  Reason: y\n\n", ""},
		{"maint -enable -reason=x", 0, "Node maintenance is now enabled\n", ""},
		{"maint -disable", 0, "Node maintenance is now disabled\n", ""},
		{"maint -enable -service=web", 0, "Service maintenance is now enabled for \"web\"\n", ""},
		{"event -name=deploy payload", 0, "Event ID: ec068fcc\n", ""},
		{"rtt n1 N2", 0, "Estimated n1 <-> N2 rtt: 5.020 ms (using LAN coordinates)\n", ""},
		{"rtt -wan x.dc2 x.dc2", 0, "Estimated x.dc2 <-> x.dc2 rtt: 2.000 ms (using WAN coordinates)\n", ""},
		{"rtt n1 nope", 1, "", "Error: could not find a coordinate for node \"nope\"\n"},
		{"operator usage instances -billable", 0, "Billable Service Instances Total: 2\nDatacenter  Services  Billable instances  Service instances  Nodes\ndc1         2         2                   3                  1\n", ""},
	} {
		r := consul(t, f.URL, "", strings.Fields(c.args)...)
		if r.code != c.code || r.out != c.out || r.errs != c.errs {
			t.Errorf("consul %s: exit code %d, want %d\nout\n%s\nwant\n%s\nerrors %q, want %q", c.args, r.code, c.code, r.out, c.out, r.errs, c.errs)
		}
	}
	if want := `PUT /v1/operator/autopilot/configuration?cas=5 {"CleanupDeadServers":true,"LastContactThreshold":"200ms","MaxTrailingLogs":7,"MinQuorum":0,"ServerStabilizationTime":"10s","RedundancyZoneTag":"","DisableUpgradeMigration":false,"UpgradeVersionTag":""}`; !slices.Contains(f.asked, want) {
		t.Errorf("set-config did not send %s", want)
	}
	if !slices.Contains(f.asked, "PUT /v1/event/fire/deploy payload") {
		t.Errorf("the payload of the event was not sent: %q", f.asked)
	}
	r := consul(t, f.URL, "", "operator", "autopilot", "state")
	r.want(t, 0, "Healthy:                      false\n", "      Node Status:     alive\n", "Voters:\n   id-1\nServers:\n   id-1\n      Name:            n1\n")
	consul(t, f.URL, "", "operator", "autopilot", "state", "-format=json").want(t, 0, `"Healthy": false`)
}

func TestConsulBadArguments(t *testing.T) {
	for _, c := range []struct{ args, text string }{
		{"maint -enable -disable", "only one"},
		{"maint -reason=x", "-reason"},
		{"maint -service=x", "-enable or -disable"},
		{"event", "no event name"},
		{"event -name=x a b", "one payload"},
		{"event -name=x -tag=y", "without service filter"},
		{"event -name=x -node=(", "-node"},
		{"rtt", "one or two"},
		{"rtt -wan a b", "NODE.DATACENTER"},
		{"keyring", "exactly one"},
		{"keyring -list -use=x", "exactly one"},
		{"keyring -install=x", "base64"},
		{"keyring -list -relay-factor=9", "0 to 5"},
		{"keyring -install=AAAAAAAAAAAAAAAAAAAAAA== -local-only", "-local-only"},
		{"lock", "required"},
		{"lock p", "required"},
		{"lock / c", "empty"},
		{"lock -n=0 p c", "-n 0"},
		{"lock -try=-1s p c", "-try"},
		{"lock -monitor-retry=-1 p c", "-monitor-retry"},
		{"watch", "type must be specified"},
		{"watch -type=nosuch", "Unsupported watch type: nosuch"},
		{"watch -type=key", "needs a key"},
		{"watch -type=nodes -key=a", "does not know key"},
		{"watch -type=checks -service=a -state=passing", "not both"},
		{"watch -type=nodes -handler-url=http://h/ cmd", "not both"},
		{"watch -type=nodes -handler-url=http://h/ -handler-header=x", "name=value"},
		{"operator raft remove-peer", "-id and -address"},
		{"operator raft remove-peer -id=a -address=b", "-id and -address"},
		{"snapshot save", "arg"},
		{"snapshot inspect /no/such/file", "no such file"},
		{"snapshot inspect -format=xml f", "pretty or json"},
		{"snapshot inspect -kvdepth=0 f", "-kvdepth"},
		{"snapshot restore /no/such/file", "no such file"},
		{"debug -duration=5s", "==> Capture validation failed: duration must be longer than 10s"},
		{"debug -interval=1s", "interval must be longer than 5s"},
		{"debug -duration=20s -interval=30s", "longer than the interval"},
		{"debug -capture=nope", "unknown target"},
		{"debug -output=" + os.TempDir(), "exists already"},
		{"kv put", "Missing KEY"},
		{"kv put a b c", "Too many arguments"},
		{"kv put a @/no/such/file", "no such file"},
		{"kv put -base64 a ???", "base64"},
		{"kv put -acquire a b", "-session"},
		{"kv put -acquire -release -session=s a b", "one of"},
		{"kv delete -cas a", "-modify-index"},
		{"kv delete -cas -recurse a", "both"},
		{"kv delete -modify-index=4 a", "without -cas"},
		{"kv import", "one argument"},
		{"kv import [", "Cannot unmarshal"},
		{`kv import [{"key":"a","value":"???"}]`, "base64"},
		{`kv import [{"key":"","value":""}]`, "no key"},
		{"services register", "-name"},
		{"services deregister", "-id or"},
		{"services deregister -id=a f.json", "-id or"},
		{"services register -name=a -tagged-address=x", "key=value"},
		{"services register -name=a -tagged-address=x=h:99999", "host:port"},
		{"catalog nodes -node-meta=x", "key=value"},
		{"members -status=(", "-status"},
		{"validate /no/such/file", "Config validation failed"},
		{"members -no-such-flag", "no-such-flag"},
	} {
		consul(t, "127.0.0.1:1", "", strings.Fields(c.args)...).want(t, 1, c.text)
	}
}

// TestConsulUnreachable: every command that needs an agent says that there is none.
func TestConsulUnreachable(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	closed := l.Addr().String()
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	for _, args := range []string{
		"members", "join 127.0.0.1", "leave", "force-leave x", "info", "reload", "kv get a", "kv put a b", "kv delete a", "kv export", "catalog nodes",
		"catalog services", "catalog datacenters", "services register -name=a", "services deregister -id=a", "event -name=x", "maint", "maint -enable",
		"monitor", "operator raft list-peers", "operator raft transfer-leader", "operator autopilot get-config", "operator autopilot state",
		"operator autopilot set-config", "operator usage instances", "keyring -list", "rtt a b", "rtt a", "snapshot save " + filepath.Join(t.TempDir(), "f"), "debug",
		"lock p true", "watch -type=nodes",
	} {
		consul(t, closed, "", strings.Fields(args)...).want(t, 1, "is it running?")
	}
}

func TestConsulEnvironment(t *testing.T) {
	var got *http.Request
	h := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		got = r
		_, _ = w.Write([]byte("[]"))
	})
	plain, secure := httptest.NewServer(h), httptest.NewUnstartedServer(h)
	secure.Config.ErrorLog = log.New(io.Discard, "", 0) // of the refused handshake
	secure.StartTLS()
	defer plain.Close()
	defer secure.Close()
	dir := t.TempDir()
	file := filepath.Join(dir, "token")
	if err := os.WriteFile(file, []byte("from-file\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	addr := strings.TrimPrefix(plain.URL, "http://")
	run := func(args ...string) {
		t.Helper()
		got = nil
		consul(t, "", "", append([]string{"catalog", "datacenters"}, args...)...).want(t, 0)
	}
	t.Setenv("CONSUL_HTTP_ADDR", addr+"/proxied/")
	run()
	if got.URL.String() != "/proxied/v1/catalog/datacenters" {
		t.Errorf("asked %s", got.URL)
	}
	t.Setenv("CONSUL_HTTP_ADDR", "127.0.0.1:1") // a flag wins
	run("-http-addr="+addr, "-datacenter", "dc2", "--stale", "-token", "t")
	if got.URL.RawQuery != "dc=dc2&stale=" || got.Header.Get("X-Consul-Token") != "t" {
		t.Errorf("asked %s with %v", got.URL, got.Header)
	}
	t.Setenv("CONSUL_HTTP_ADDR", addr)
	t.Setenv("CONSUL_HTTP_TOKEN", "from-env")
	t.Setenv("CONSUL_HTTP_AUTH", "me:pass")
	run()
	if user, pass, _ := got.BasicAuth(); got.Header.Get("X-Consul-Token") != "from-env" || user != "me" || pass != "pass" {
		t.Errorf("headers %v", got.Header)
	}
	t.Setenv("CONSUL_HTTP_TOKEN_FILE", file)
	run()
	if got.Header.Get("X-Consul-Token") != "from-file" {
		t.Errorf("headers %v", got.Header)
	}
	run("-token=flag")
	if got.Header.Get("X-Consul-Token") != "flag" {
		t.Errorf("headers %v", got.Header)
	}
	run("-token=flag", "-token-file="+file)
	if got.Header.Get("X-Consul-Token") != "from-file" {
		t.Errorf("headers %v", got.Header)
	}
	consul(t, "", "", "members", "-token-file=/no/such").want(t, 1, "token file")
	if r := consul(t, "", "", "members", "-h"); strings.Contains(r.out, "from-env") {
		t.Error("the help shows the token")
	}

	t.Setenv("CONSUL_HTTP_ADDR", strings.TrimPrefix(secure.URL, "https://"))
	t.Setenv("CONSUL_HTTP_SSL", "true")
	consul(t, "", "", "catalog", "datacenters").want(t, 1, "certificate")
	t.Setenv("CONSUL_HTTP_SSL_VERIFY", "false")
	run()
	t.Setenv("CONSUL_HTTP_SSL", "perhaps")
	consul(t, "", "", "members").want(t, 1, "CONSUL_HTTP_SSL", "true or false")
	t.Setenv("CONSUL_HTTP_SSL", "")
	t.Setenv("CONSUL_NAMESPACE", "default")
	consul(t, "", "", "members").want(t, 1, "CONSUL_NAMESPACE", "Enterprise")
}

func TestFlagsEndAtTheFirstArgument(t *testing.T) {
	for _, c := range []struct {
		root       *cobra.Command
		args, want string
	}{
		{newConsulRoot(), "lock -n 2 -verbose prefix cmd -name 3", "lock -n 2 --verbose prefix cmd -name 3"},
		{newConsulRoot(), "lock -try=5s prefix -try", "lock --try=5s prefix -try"},
		{newConsulRoot(), "kv put -flags 7 key -value", "kv put --flags 7 key -value"},
		{newConsulRoot(), "kv get -keys key -recurse", "kv get --keys key -recurse"},
		{newConsulRoot(), "-http-addr x members -wan", "--http-addr x members --wan"},
		{newConsulRoot(), "members -- -wan", "members -- -wan"},
		{newRoot(), "watch -type key -key k cmd -key", "watch --type key --key k cmd -key"},
		{newRoot(), "kv set key value -ttl 5", "kv set key value --ttl 5"},
		{newRoot(), "services register -name x -port 5", "services register --name x --port 5"},
	} {
		if got := strings.Join(normalize(c.root, strings.Fields(c.args)), " "); got != c.want {
			t.Errorf("%s %s becomes %q, want %q", c.root.Name(), c.args, got, c.want)
		}
	}
}

func TestConsulKVImport(t *testing.T) {
	f := newFake(t, map[string]string{"PUT /v1/kv/a/b": "true", "PUT /v1/kv/p/a/b": "true", "PUT /v1/kv/c": "false"})
	text := `[{"key":"a/b","flags":7,"value":"djE="}]`
	consul(t, f.URL, text, "kv", "import", "-").is(t, 0, "Imported: a/b\n", "")
	if got := f.last(); got != "PUT /v1/kv/a/b?flags=7 v1" {
		t.Errorf("asked %q", got)
	}
	path := filepath.Join(t.TempDir(), "f")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	consul(t, f.URL, "", "kv", "import", "-prefix=p", "@"+path).is(t, 0, "Imported: p/a/b\n", "")
	consul(t, f.URL, "", "kv", "import", path).is(t, 0, "Imported: a/b\n", "")
	consul(t, f.URL, "", "kv", "import", text).is(t, 0, "Imported: a/b\n", "")
	f.asked = nil
	consul(t, f.URL, "", "kv", "import", `[{"key":"a/b","value":"djE="},{"key":"b","value":"?"}]`).want(t, 1, `"b" is not base64`)
	if len(f.asked) > 0 {
		t.Errorf("a bad import wrote %q", f.asked)
	}
	consul(t, f.URL, "", "kv", "import", `[{"key":"c","value":""}]`).want(t, 1, "Failed writing data for key c")
}

// The file has every key that the test harness of the official Go client writes.
func TestConsulValidate(t *testing.T) {
	r := consul(t, "", "", "validate", "testdata/consul-sdk.json")
	r.want(t, 0, "Configuration is valid!\n")
	for _, key := range []string{"peering", "ports.grpc_tls", "segments", "audit", "acl_datacenter"} {
		if !strings.Contains(r.errs, key+": accepted and unused") {
			t.Errorf("no warning of %s: %s", key, r.errs)
		}
	}
	path := filepath.Join(t.TempDir(), "c.json")
	if err := os.WriteFile(path, []byte(`{"data_dir":"/x","acl_default_policy":"deny"}`), 0o600); err != nil {
		t.Fatal(err)
	}
	consul(t, "", "", "validate", path).want(t, 1, "acl_default_policy", "acl block")
}
