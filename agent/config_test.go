package agent

import (
	"encoding/json"
	"errors"
	"flag"
	"io"
	"net/netip"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/musterhq/muster/catalog"
)

// machine is a host with the given addresses and the name "web1".
func machine(addrs ...string) hostFacts {
	return hostFacts{
		hostname: func() (string, error) { return "web1", nil },
		addresses: func() (out []netip.Addr, _ error) {
			for _, a := range addrs {
				out = append(out, netip.MustParseAddr(a))
			}
			return out, nil
		},
	}
}

// load runs Load on a machine with one private address. files are name -> text, given by -config-file in the order
// of their names.
func load(t *testing.T, files map[string]string, env []string, args ...string) (Config, []Warning, error) {
	t.Helper()
	dir := t.TempDir()
	var all []string
	for _, name := range sortedKeys(files) {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(files[name]), 0o600); err != nil {
			t.Fatal(err)
		}
		all = append(all, "-config-file", path)
	}
	l := newLoader()
	l.host = machine("127.0.0.1", "10.1.2.3", "192.0.2.7")
	return l.load(append(all, args...), env, io.Discard)
}

func mustLoad(t *testing.T, files map[string]string, env []string, args ...string) Config {
	t.Helper()
	c, _, err := load(t, files, env, args...)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func TestDefaults(t *testing.T) {
	c := mustLoad(t, nil, nil, "-data-dir=/d")
	if c.NodeName != "web1" || c.Datacenter != "dc1" || c.AdvertiseAddr != "10.1.2.3" || c.Server || c.DevMode {
		t.Errorf("got %+v", c)
	}
	want := Ports{HTTP: 8500, HTTPS: -1, Etcd: 2379, DNS: 8600, DNSTLS: -1, Server: 8300, SerfLAN: 8301, SerfWAN: 8302}
	if c.Ports != want {
		t.Errorf("ports %+v", c.Ports)
	}
	if c.LeaveOnTerminate || !c.SkipLeaveOnInterrupt {
		t.Error("an agent leaves by a signal")
	}
	if got := c.HTTPListeners(); !slices.Equal(got, []Listener{{Network: "tcp", Address: "127.0.0.1:8500"}}) {
		t.Errorf("HTTP listeners %v", got)
	}
	if c.HTTPSListeners() != nil {
		t.Error("https is off")
	}
	if want := map[string]string{"lan": "10.1.2.3", "wan": "10.1.2.3", "lan_ipv4": "10.1.2.3", "wan_ipv4": "10.1.2.3"}; !reflect.DeepEqual(c.TaggedAddresses, want) {
		t.Errorf("tagged addresses %v", c.TaggedAddresses)
	}
}

func TestDevMode(t *testing.T) {
	c := mustLoad(t, nil, nil, "-dev")
	if !c.DevMode || !c.Server || !c.Bootstrap || c.DataDir != "" || c.BindAddr != "127.0.0.1" || c.AdvertiseAddr != "127.0.0.1" {
		t.Errorf("got %+v", c)
	}
	if c := mustLoad(t, nil, []string{"MUSTER_DEV=true"}); !c.DevMode {
		t.Error("MUSTER_DEV does nothing")
	}
}

func TestPrecedence(t *testing.T) {
	files := map[string]string{
		"1.hcl":  `data_dir = "/one"  log_level = "warn" ports { http = 1001 dns = 1002 }`,
		"2.json": `{"data_dir": "/two", "ports": {"http": 2001}}`,
	}
	env := []string{"MUSTER_HTTP_PORT=3001", "MUSTER_ETCD_PORT=3002", "MUSTER_LOG_LEVEL="}
	c := mustLoad(t, files, env, "--etcd-port=4002", "-hcl", `ports { server = 5003 }`)
	if c.DataDir != "/two" || c.LogLevel != "warn" {
		t.Errorf("data_dir %q log_level %q", c.DataDir, c.LogLevel)
	}
	if want := (Ports{HTTP: 3001, HTTPS: -1, Etcd: 4002, DNS: 1002, DNSTLS: -1, Server: 5003, SerfLAN: 8301, SerfWAN: 8302}); c.Ports != want {
		t.Errorf("ports %+v, want %+v", c.Ports, want)
	}
}

func TestMerge(t *testing.T) {
	files := map[string]string{
		"1.hcl": `
			data_dir = "/d"
			recursors = ["10.0.0.53"]
			node_meta { a = "1" b = "1" }
			service { name = "web" port = 80 }
			service { name = "db" }
			services = [{ name = "listed" }]
			check { name = "disk" ttl = "30s" }
			dns_config { node_ttl = "5s" service_ttl { "*" = "1s" } }`,
		"2.json": `{"recursors": ["10.0.0.54:5353"], "node_meta": {"b": "2"}, "services": {"name": "one"},
			"check": {"name": "up", "ttl": "10s"}, "dns_config": {"only_passing": true, "service_ttl": {"web": "7s"}}}`,
	}
	c := mustLoad(t, files, []string{"MUSTER_RETRY_JOIN=10.0.0.1, host2"}, "-retry-join=10.0.0.3:9301", "-node-meta", "c:d:e", "-recursor=10.0.0.55")
	if want := []string{"10.0.0.53:53", "10.0.0.54:5353", "10.0.0.55:53"}; !slices.Equal(c.Recursors, want) {
		t.Errorf("recursors %v", c.Recursors)
	}
	if want := []string{"10.0.0.1", "host2", "10.0.0.3:9301"}; !slices.Equal(c.RetryJoin, want) {
		t.Errorf("retry_join %v", c.RetryJoin)
	}
	if want := map[string]string{"a": "1", "b": "2", "c": "d:e"}; !reflect.DeepEqual(c.NodeMeta, want) {
		t.Errorf("node_meta %v", c.NodeMeta)
	}
	var names []string
	for _, s := range c.Services {
		names = append(names, s.Name)
	}
	slices.Sort(names)
	if want := []string{"db", "listed", "one", "web"}; !slices.Equal(names, want) {
		t.Errorf("services %v", names)
	}
	if len(c.Checks) != 2 || c.Checks[0].TTL != 30*time.Second {
		t.Errorf("checks %+v", c.Checks)
	}
	if c.DNS.NodeTTL != 5*time.Second || !c.DNS.OnlyPassing || c.DNS.ServiceTTL["*"] != time.Second || c.DNS.ServiceTTL["web"] != 7*time.Second {
		t.Errorf("dns_config %+v", c.DNS)
	}
}

func TestConfigDir(t *testing.T) {
	dir := t.TempDir()
	for name, text := range map[string]string{
		"20.hcl": `datacenter = "late"`, "10.json": `{"datacenter": "early", "data_dir": "/d"}`, "note.txt": `not read {{{`,
	} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Mkdir(filepath.Join(dir, "deeper.hcl"), 0o700); err != nil {
		t.Fatal(err)
	}
	if c := mustLoad(t, nil, nil, "-config-dir", dir); c.Datacenter != "late" || c.DataDir != "/d" {
		t.Errorf("datacenter %q", c.Datacenter)
	}
	if _, _, err := load(t, nil, nil, "-config-file", filepath.Join(dir, "note.txt")); err == nil || !strings.Contains(err.Error(), "-config-format") {
		t.Errorf("a file of an unknown kind: %v", err)
	}
}

func TestServiceDefinition(t *testing.T) {
	c := mustLoad(t, map[string]string{"s.hcl": `
		data_dir = "/d"
		service {
		  name = "web" id = "web-1" port = 80 tags = ["v1", "v2"] address = "10.9.8.7" enable_tag_override = true
		  meta { k = "v" }
		  weights { passing = 10 warning = 2 }
		  Locality { region = "eu" Zone = "eu-1" }
		  tagged_addresses { wan { address = "198.18.0.53" port = 81 } }
		  checks = [
		    { id = "up" http = "https://127.0.0.1/ok" interval = "10s" header { X-A = ["b", "c"] } failures_before_critical = 3 tls_skip_verify = true },
		    { tcp = "127.0.0.1:80" interval = "5s" timeout = "1s" tcp_use_tls = true deregister_critical_service_after = "10m" },
		  ]
		}`}, nil)
	s := c.Services[0]
	if s.ID != "web-1" || s.Port != 80 || !slices.Equal(s.Tags, []string{"v1", "v2"}) || !s.EnableTagOverride || s.Meta["k"] != "v" ||
		*s.Locality != (catalog.Locality{Region: "eu", Zone: "eu-1"}) ||
		*s.Weights != (catalog.Weights{Passing: 10, Warning: 2}) || s.TaggedAddresses["wan"] != (catalog.Address{Address: "198.18.0.53", Port: 81}) {
		t.Errorf("service %+v", s)
	}
	a, b := s.Checks[0], s.Checks[1]
	if a.ID != "up" || a.Interval != 10*time.Second || !slices.Equal(a.Header["X-A"], []string{"b", "c"}) || a.FailuresBeforeCritical != 3 || !a.TLSSkipVerify {
		t.Errorf("first check %+v", a)
	}
	if b.TCP != "127.0.0.1:80" || !b.TCPUseTLS || b.Timeout != time.Second || b.DeregisterCriticalServiceAfter != 10*time.Minute {
		t.Errorf("second check %+v", b)
	}
}

// TestRefusals gives bad configurations and the parts that their errors must name: source, key and expectation.
func TestRefusals(t *testing.T) {
	key := "MDEyMzQ1Njc4OTAxMjM0NQ==" // 16 bytes
	for _, c := range []struct {
		name, text string
		args       []string
		want       []string
	}{
		{"unknown key", `bogus = 1`, nil, []string{"1.hcl: bogus: unknown key"}},
		{"misspelt key", `data_dri = "/x"`, nil, []string{"1.hcl: data_dri: unknown key, did you mean \"data_dir\"?"}},
		{"unknown key in a block", `ports { htp = 1 }`, nil, []string{"1.hcl: ports.htp: unknown key", `"http"`}},
		{"unknown key in a service", `service { name = "a" prot = 1 }`, nil, []string{"services[0].prot", `"port"`}},
		{"unknown key in a check", `service { name = "a" check { ttl = "1s" bogus = 1 } }`, nil, []string{"services[0].check.bogus: unknown key"}},
		{"wrong type", `data_dir = 7`, nil, []string{"data_dir: expected a string, got 7"}},
		{"number", `ports { http = "x" }`, nil, []string{"ports.http: expected a whole number"}},
		{"fraction", `ports { http = 1.5 }`, nil, []string{"ports.http: expected a whole number"}},
		{"bool", `server = "perhaps"`, nil, []string{"server: expected true or false"}},
		{"block", `ports = 7`, nil, []string{"ports: expected a block"}},
		{"duration without unit", `check_update_interval = 5`, nil, []string{"check_update_interval: expected a duration with its unit"}},
		{"duration", `check_update_interval = "5 m"`, nil, []string{"check_update_interval: expected a duration"}},
		{"several at once", `data_dir = 7  server = 9  zzz = 1`, nil, []string{"data_dir:", "server:", "zzz:"}},
		{"syntax", `data_dir = {`, nil, []string{"1.hcl: malformed HCL"}},
		{"flag", ``, []string{"-http-port=x"}, []string{"flag -http-port: ports.http: expected a whole number"}},
		{"data_dir", `data_dir = ""`, nil, []string{"data_dir: expected a directory"}},
		{"datacenter", `datacenter = "bad dc"`, nil, []string{"1.hcl: datacenter: expected", `"bad dc"`}},
		{"node name", `node_name = "a b"`, nil, []string{"node_name: expected"}},
		{"node id", `node_id = "7"`, nil, []string{"node_id: expected a UUID"}},
		{"node meta", `node_meta { "bad key" = "v" }`, nil, []string{"node_meta: Couldn't load metadata pair ('bad key', 'v'): Key contains invalid characters"}},
		{"reserved meta", `node_meta { consul-x = "v" }`, nil, []string{"reserved"}},
		{"domain", `domain = "a..b"`, nil, []string{"domain: expected a domain name"}},
		{"port range", `ports { http = 70000 }`, nil, []string{"1.hcl: ports.http: expected a port from 1 to 65535, or -1"}},
		{"gossip off", `ports { serf_lan = -1 }`, nil, []string{"1.hcl: ports.serf_lan: expected a port from 1 to 65535"}},
		{"port zero", `ports { dns = 0 }`, nil, []string{"ports.dns: expected a port"}},
		{"port clash", `ports { http = 8600 }`, nil, []string{"ports.http: HTTP address 127.0.0.1:8600 already configured for DNS"}},
		{"clash with any", `client_addr = "0.0.0.0" ports { etcd = 8300 }`, nil, []string{"ports.server", "already configured for etcd"}},
		{"bootstrap", `server = true bootstrap = true bootstrap_expect = 3`, nil, []string{"mutually exclusive"}},
		{"bootstrap of a proxy", `bootstrap_expect = 3`, nil, []string{"bootstrap_expect: is for servers"}},
		{"server and proxy", `server = true`, []string{"-proxy"}, []string{"flag -proxy: proxy: an agent cannot be server and proxy"}},
		{"encrypt length", `encrypt = "AAAA"`, nil, []string{"encrypt: expected a key of 16, 24 or 32 bytes, got 3"}},
		{"encrypt text", `encrypt = "` + key + `!"`, nil, []string{"encrypt: expected a key in base64"}},
		{"bind", `bind_addr = "nowhere"`, nil, []string{"bind_addr: expected an IP address"}},
		{"bind template", `bind_addr = "{{ Nope }}"`, nil, []string{"bind_addr: address template"}},
		{"two binds", `bind_addr = "10.0.0.1 10.0.0.2"`, nil, []string{"bind_addr: expected one IP address, got 2"}},
		{"advertise any", `advertise_addr = "0.0.0.0"`, nil, []string{"advertise_addr: expected an address that others can reach"}},
		{"client", `client_addr = "127.0.0.1 x"`, nil, []string{"client_addr: expected IP addresses separated by spaces"}},
		{"cloud join", `retry_join = ["provider=aws tag=x"]`, nil, []string{"retry_join[0]", "cloud"}},
		{"join port", `retry_join = ["a:b"]`, nil, []string{"retry_join[0]: expected host or host:port"}},
		{"recursor", `recursors = ["a.b"]`, nil, []string{"recursors[0]: expected the address of a DNS server"}},
		{"multiplier", `performance { raft_multiplier = 11 }`, nil, []string{"performance.raft_multiplier: expected a number from 1 to 10"}},
		{"query times", `default_query_time = "700s"`, nil, []string{"default_query_time: expected at most max_query_time"}},
		{"reconnect", `reconnect_timeout = "1h"`, nil, []string{"reconnect_timeout: expected 8h0m0s or more"}},
		{"log level", `log_level = "loud"`, nil, []string{"log_level: expected trace, debug"}},
		{"half a pair", `tls { https { cert_file = "/nope" } }`, nil, []string{"tls.https: expected cert_file and key_file together"}},
		{"missing file", `tls { defaults { ca_file = "/nope" } }`, nil, []string{"tls.https.ca_file", "no such file"}},
		{"verify without ca", `tls { internal_rpc { verify_incoming = true } }`, nil, []string{"tls.internal_rpc.verify_incoming: needs ca_file"}},
		{"access control", `acl { enabled = true }`, nil, []string{"acl: access control is not available"}},
		{"write from", `http_config { allow_write_http_from = ["x"] }`, nil, []string{"allow_write_http_from[0]: expected a network"}},
		{"origin", `cors = ["http://a.example", "page.example"]`, nil, []string{"cors: expected * or an origin", `"page.example"`}},
		{"origin with path", `cors = ["http://a.example/"]`, nil, []string{"cors: expected"}},
		{"no history", `watch_history_events = 0`, nil, []string{"watch_history_events: expected a number from 1"}},
		{"tiny history", `watch_history_bytes = 100`, nil, []string{"watch_history_bytes: expected a number from 65536"}},
		{"service without name", `service { port = 1 }`, nil, []string{"services[0]: Missing service name"}},
		{"two services", `service { name = "a" } service { name = "a" }`, nil, []string{"services[1]: a service with the id \"a\""}},
		{"check without name", `check { ttl = "1s" }`, nil, []string{"checks[0]: Missing check name"}},
		{"check of an unknown service", `check { name = "x" ttl = "1s" service_id = "no" }`, nil, []string{"checks[0]", `"no"`}},
		{"script", `check { name = "x" args = ["true"] interval = "1s" }`, nil, []string{"checks[0]: Scripts are disabled"}},
		{"no kind", `check { name = "x" interval = "1s" }`, nil, []string{"checks[0]: Invalid check:", "TTL must be > 0 for TTL checks"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, _, err := load(t, map[string]string{"1.hcl": c.text}, nil, append([]string{"-data-dir=/d"}, c.args...)...)
			if c.name == "data_dir" {
				_, _, err = load(t, map[string]string{"1.hcl": c.text}, nil)
			}
			if err == nil {
				t.Fatal("accepted")
			}
			for _, part := range c.want {
				if !strings.Contains(err.Error(), part) {
					t.Errorf("error %q does not say %q", err, part)
				}
			}
			if strings.Contains(err.Error(), key) {
				t.Error("the error shows a secret")
			}
		})
	}
}

func TestJSONErrorsNameTheLine(t *testing.T) {
	for text, want := range map[string]string{
		"{\n\"data_dir\": \"/d\",\n!}": "1.json: malformed JSON, line 3",
		"{} {}":                        "1.json: malformed JSON: more text",
	} {
		if _, _, err := load(t, map[string]string{"1.json": text}, nil); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: error %v, want %q", text, err, want)
		}
	}
}

func TestAmbiguousBindNamesTheCandidates(t *testing.T) {
	l := newLoader()
	l.host = machine("10.1.2.3", "192.168.7.7", "127.0.0.1", "8.8.8.8")
	_, _, err := l.load([]string{"-data-dir=/d"}, nil, io.Discard)
	if err == nil || !strings.Contains(err.Error(), "10.1.2.3, 192.168.7.7") || strings.Contains(err.Error(), "8.8.8.8") {
		t.Errorf("error %v", err)
	}
	l = newLoader()
	l.host = machine("10.1.2.3", "192.168.7.7")
	if c, _, err := l.load([]string{"-data-dir=/d", "-advertise=192.168.7.7"}, nil, io.Discard); err != nil || c.AdvertiseAddr != "192.168.7.7" {
		t.Errorf("advertise %q, error %v", c.AdvertiseAddr, err)
	}
	l = newLoader()
	l.host = machine("127.0.0.1", "169.254.1.1")
	if _, _, err := l.load([]string{"-data-dir=/d"}, nil, io.Discard); err == nil || !strings.Contains(err.Error(), "bind_addr") {
		t.Errorf("no usable address: %v", err)
	}
}

func TestAddressTemplates(t *testing.T) {
	c := mustLoad(t, nil, nil, "-data-dir=/d", `-bind={{ GetAllInterfaces | include "address" "127.0.0.1" | limit 1 | attr "address" }}`,
		`-client={{ "127.0.0.1" }} ::1`, `-retry-join={{ "10.0.0.1 10.0.0.2" }}`)
	if c.BindAddr != "127.0.0.1" || c.AdvertiseAddr != "127.0.0.1" || c.ClientAddr != "127.0.0.1 ::1" {
		t.Errorf("bind %q, client %q", c.BindAddr, c.ClientAddr)
	}
	if !slices.Equal(c.RetryJoin, []string{"10.0.0.1", "10.0.0.2"}) {
		t.Errorf("retry_join %v", c.RetryJoin)
	}
	if got := c.DNSListeners(); !slices.Equal(got, []Listener{{Network: "tcp", Address: "127.0.0.1:8600"}, {Network: "tcp", Address: "[::1]:8600"}}) {
		t.Errorf("DNS listeners %v", got)
	}
	c = mustLoad(t, map[string]string{"a.hcl": `addresses { http = "unix:///run/muster.sock 127.0.0.2" }`}, nil, "-data-dir=/d")
	if got := c.HTTPListeners(); !slices.Equal(got, []Listener{{Network: "unix", Address: "/run/muster.sock"}, {Network: "tcp", Address: "127.0.0.2:8500"}}) {
		t.Errorf("HTTP listeners %v", got)
	}
}

func TestUnusedKeysWarn(t *testing.T) {
	c, warns, err := load(t, map[string]string{"1.hcl": `
		data_dir = "/d"
		raft_protocol = 3
		telemetry { statsd_address = "x" metrics_prefix = "m" circonus_api_app = "y" }
		ui_config { enabled = true }
		acl { enabled = false }
		service { name = "a" proxy { local_service_port = 1 } }
		ca_file = "` + os.Args[0] + `"`}, nil, "-ui", "-data-dir=/d", "-node=a_b")
	if err != nil {
		t.Fatal(err)
	}
	var keys []string
	for _, w := range warns {
		keys = append(keys, w.Key)
		if w.Source == "" || w.Text == "" {
			t.Errorf("warning %+v", w)
		}
	}
	for _, want := range []string{"raft_protocol", "telemetry.statsd_address", "telemetry.circonus_api_app", "ui_config", "services[0].proxy", "ca_file", "ui", "node_name"} {
		if !slices.Contains(keys, want) {
			t.Errorf("no warning about %s in %v", want, keys)
		}
	}
	if c.Telemetry.MetricsPrefix != "m" || c.TLS.HTTPS.CAFile != os.Args[0] || c.TLS.InternalRPC.CAFile != os.Args[0] {
		t.Errorf("telemetry %+v, tls %+v", c.Telemetry, c.TLS)
	}
}

// TestUnusedKeysAreDocumented holds the list of keys and flags that do nothing against what is accepted.
func TestUnusedKeysAreDocumented(t *testing.T) {
	page, err := os.ReadFile("../docs/configuration.md")
	if err != nil {
		t.Fatal(err)
	}
	for _, key := range slices.Concat(sortedKeys(ignored), sortedKeys(idle), sortedKeys(ignoredFlags)) {
		if !strings.Contains(string(page), "`"+key+"`") && !strings.Contains(string(page), "`-"+key+"`") {
			t.Errorf("docs/configuration.md does not name %s", key)
		}
	}
}

func TestIgnoredForGoodReason(t *testing.T) {
	for text, want := range map[string]string{
		`read_replica = true`:                                              "read_replica: a server without a vote is not available",
		`serf_lan_allowed_cidrs = ["10.0.0.0/8", "x"]`:                     `serf_lan_allowed_cidrs[1]: expected a network such as 10.0.0.0/8, got "x"`,
		`serf_lan_allowed_cidrs = ["10.0.0.0/8"]`:                          "expected a network with this agent's own address 127.0.0.1 in it",
		`serf_lan = "x"`:                                                   `serf_lan: expected an IP address, got "x"`,
		`serf_lan = "127.0.0.2" serf_lan_allowed_cidrs = ["127.0.0.0/30"]`: "",
		`limits { rpc_max_conns_per_client = 7 }`:                          "limits.rpc_max_conns_per_client: expected connections from 16",
		`limits { rpc_rate = 0 }`:                                          "limits.rpc_rate: expected requests a second from 1",
		`limits { request_limits { mode = "on" } }`:                        `limits.request_limits.mode: expected disabled, permissive or enforcing, got "on"`,
		`limits { request_limits { write_rate = -2 } }`:                    "limits.request_limits.write_rate: expected requests a second",
		`read_replica = false ports { serf_wan = -1 }`:                     "",
	} {
		_, warns, err := load(t, map[string]string{"a.hcl": text}, nil, "-dev", "-node=a")
		if (err == nil) != (want == "") || err != nil && !strings.Contains(err.Error(), want) || len(warns) != 0 {
			t.Errorf("%s: %v, warnings %v, want %q", text, err, warns, want)
		}
	}
	_, warns, err := load(t, map[string]string{"a.hcl": `ports { serf_wan = 9 } limits { https_handshake_timeout = "7s" }`}, nil, "-dev", "-node=a")
	if err != nil || len(warns) != 2 {
		t.Errorf("%v, warnings %v", err, warns)
	}
}

func TestMayCall(t *testing.T) {
	for host, want := range map[string]bool{
		"muster.example": true, "MUSTER.example.:8500": true, "evil.example": false, "evil.example:8500": false, "": false,
		"localhost:8500": true, "127.0.0.1:8500": true, "[::1]:8500": true, "[::1]": true, "10.0.0.1": true, "a.muster.example": false,
	} {
		if got := mayCall([]string{"Muster.Example"}, host); got != want {
			t.Errorf("%q: %v", host, got)
		}
		if !mayCall(nil, host) || !mayCall([]string{"*"}, host) {
			t.Errorf("%q is refused although everybody may", host)
		}
	}
	if c, _, err := loadEtcd(t, nil, "--host-whitelist=a.example, b.example"); err != nil || !slices.Equal(c.HTTP.AllowedHosts, []string{"a.example", "b.example"}) {
		t.Errorf("as etcd has it: %v %v", c.HTTP.AllowedHosts, err)
	}
}

func TestTLSInherits(t *testing.T) {
	file := os.Args[0] // any file that is there
	c := mustLoad(t, map[string]string{"1.hcl": `
		data_dir = "/d"
		tls {
		  defaults { ca_file = "` + file + `" cert_file = "` + file + `" key_file = "` + file + `" verify_incoming = true verify_outgoing = true }
		  https { verify_incoming = false }
		  internal_rpc { verify_server_hostname = true tls_min_version = "TLSv1_3" }
		}
		ports { https = 8501 }`}, nil)
	if h := c.TLS.HTTPS; h.VerifyIncoming || h.CertFile != file || h.MinVersion != "TLSv1_2" {
		t.Errorf("https %+v", h)
	}
	if r := c.TLS.InternalRPC; !r.VerifyIncoming || !r.VerifyOutgoing || !r.VerifyServerHostname || r.MinVersion != "TLSv1_3" {
		t.Errorf("internal_rpc %+v", r)
	}
}

// TestEveryFlagHasItsVariable sets every flag by its variable, and checks that it arrives as the flag does.
func TestEveryFlagHasItsVariable(t *testing.T) {
	fs := newLoader().flags(io.Discard)
	known := map[string]bool{}
	fs.VisitAll(func(f *flag.Flag) { known[f.Name] = true })
	for _, name := range strings.Fields(`advertise advertise-wan allow-write-http-from alt-domain bind bootstrap bootstrap-expect
		check_output_max_size client config-dir config-file config-format data-dir datacenter default-query-time dev
		disable-keyring-file dns-port domain enable-local-script-checks enable-script-checks encrypt etcd-port hcl http-port
		https-port join log-file log-json log-level max-query-time node node-id node-meta pid-file proxy recursor rejoin
		retry-interval retry-join retry-max serf-lan-port serf-wan-port server server-port syslog ui`) {
		if !known[name] {
			t.Errorf("flag -%s is missing", name)
		}
	}
	samples := map[reflect.Kind]string{reflect.String: "x", reflect.Bool: "true", reflect.Int: "7", reflect.Slice: "x", reflect.Map: "k:v"}
	for _, f := range flagFields() {
		sample := samples[f.kind.Kind()]
		if f.kind == durationType {
			sample = "7s"
		}
		if sample == "" {
			t.Fatalf("flag -%s has the kind %s", f.name, f.kind)
		}
		byFlag, byEnv := newLoader(), newLoader()
		if err := byFlag.flags(io.Discard).Parse([]string{"-" + f.name + "=" + sample}); err != nil {
			t.Fatal(err)
		}
		if err := byEnv.environment([]string{EnvName(f.name) + "=" + sample}, fs); err != nil {
			t.Fatal(err)
		}
		if len(byEnv.given) != 1 || len(byFlag.given) != 1 || byEnv.given[0].text != byFlag.given[0].text || byEnv.given[0].key != byFlag.given[0].key {
			t.Errorf("-%s gives %+v, %s gives %+v", f.name, byFlag.given, EnvName(f.name), byEnv.given)
		}
		if f.usage == "" {
			t.Errorf("-%s has no usage", f.name)
		}
	}
}

// TestEveryFieldHasAKey keeps the struct and the files together.
func TestEveryFieldHasAKey(t *testing.T) {
	for i := range reflect.TypeFor[Config]().NumField() {
		f := reflect.TypeFor[Config]().Field(i)
		if f.Tag.Get("key") == "" && f.IsExported() && f.Name != "DevMode" && f.Name != "ForceNewCluster" && f.Name != "ConfigFiles" {
			t.Errorf("Config.%s has no key", f.Name)
		}
	}
	for key := range ignored {
		if _, ok := keyFields(reflect.TypeFor[Config]())[key]; ok {
			t.Errorf("%s is both used and ignored", key)
		}
	}
}

func TestHelp(t *testing.T) {
	var b strings.Builder
	_, _, err := Load([]string{"-h"}, nil, &b)
	if !errors.Is(err, flag.ErrHelp) || !strings.Contains(b.String(), "-bootstrap-expect") || !strings.Contains(b.String(), "MUSTER_BOOTSTRAP_EXPECT") {
		t.Errorf("error %v, usage %q", err, b.String())
	}
	if _, _, err := Load([]string{"-dev", "extra"}, nil, io.Discard); err == nil || !strings.Contains(err.Error(), `"extra"`) {
		t.Errorf("an argument: %v", err)
	}
}

func TestRedacted(t *testing.T) {
	key := "MDEyMzQ1Njc4OTAxMjM0NQ=="
	c := mustLoad(t, map[string]string{"1.hcl": `data_dir = "/d" service { name = "a" token = "sesame" check { http = "http://a" interval = "1s" header { Authorization = ["sesame"] } } }`}, nil, "-encrypt="+key)
	m := c.Redacted()
	b, err := encodeForTest(m)
	if err != nil {
		t.Fatal(err)
	}
	if strings.Contains(b, key) || strings.Contains(b, "sesame") {
		t.Errorf("a secret shows in %s", b)
	}
	if m["Encrypt"] != "hidden" || m["CheckUpdateInterval"] != "5m0s" || m["Ports"].(map[string]any)["HTTP"] != 8500 {
		t.Errorf("redacted %v", m)
	}
}

// TestExamples loads every commented example as the documentation says.
func TestExamples(t *testing.T) {
	c := mustLoad(t, nil, nil, "-dev", "-config-file", "../configs/dev.hcl")
	if len(c.Services) != 2 || c.Services[0].Check.Status != "passing" {
		t.Errorf("dev.hcl: %+v", c.Services)
	}
	for _, name := range []string{"server.hcl", "proxy.hcl", "upstream.hcl"} {
		l := newLoader()
		l.host = machine("10.0.0.1")
		l.paths = []string{"../configs/" + name}
		if name == "upstream.hcl" { // an addition to another file
			l.paths = []string{"../configs/proxy.hcl", "../configs/upstream.hcl"}
		}
		c, warns, err := l.finish(nil)
		if err != nil || len(warns) > 0 {
			t.Errorf("%s: %v, warnings %v", name, err, warns)
		}
		if c.Server != (name == "server.hcl") {
			t.Errorf("%s: server is %t", name, c.Server)
		}
	}
	unit, err := os.ReadFile("../configs/muster.service")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(unit)) {
		if exec, ok := strings.CutPrefix(strings.TrimSpace(line), "ExecStart="); ok {
			dir := t.TempDir()
			args := strings.Fields(strings.ReplaceAll(exec, "/etc/muster.d", dir))
			mustLoad(t, nil, nil, append(args[2:], "-data-dir=/d")...)
			return
		}
	}
	t.Error("muster.service has no ExecStart")
}

func FuzzConfig(f *testing.F) {
	for _, s := range []string{
		`data_dir = "/d" service { name = "a" check { ttl = "1s" } }`, `{"ports":{"http":1}}`, `a = [{b=[{}]}]`, `x = <<E
text
E`, `node_meta { a = 1 }`, `services = [1, "a", {}]`, `tls { https = [] }`, `{"service":[null]}`, `dns_config { service_ttl = { a = "1s" } }`,
	} {
		f.Add(s, "hcl")
		f.Add(s, "json")
	}
	f.Fuzz(func(t *testing.T, text, format string) {
		if format != "json" {
			format = "hcl"
		}
		tree, err := parseConfig([]byte(text), format)
		if err != nil {
			return
		}
		c := Defaults()
		c.origins = map[string]string{}
		d := decoder{source: "fuzz", origins: c.origins}
		d.config(&c, tree)
		v := validator{c: &c, host: machine("10.0.0.1")}
		v.run()
		c.Redacted()
	})
}

func encodeForTest(v any) (string, error) {
	b, err := json.Marshal(v)
	return string(b), err
}

func TestOriginsAndHistory(t *testing.T) {
	c, _, err := load(t, map[string]string{"1.hcl": `cors = ["https://a.example"] watch_history_events = 1000`}, []string{"MUSTER_WATCH_HISTORY_BYTES=1048576"}, "-data-dir=/d", "-cors=http://b.example:8080, *")
	if err != nil || !slices.Equal(c.CORS, []string{"https://a.example", "http://b.example:8080", "*"}) || c.WatchHistoryEvents != 1000 || c.WatchHistoryBytes != 1<<20 {
		t.Fatalf("%v %d %d, %v", c.CORS, c.WatchHistoryEvents, c.WatchHistoryBytes, err)
	}
	if d := Defaults(); len(d.CORS) != 0 || d.WatchHistoryEvents <= 1000 {
		t.Fatalf("defaults %v, %d events", d.CORS, d.WatchHistoryEvents)
	}
}

func TestCommandLineWithoutSecrets(t *testing.T) {
	got := withoutSecrets([]string{
		"muster", "agent", "-encrypt=a2V5", "--encrypt", "a2V5", "-node", "n1", "-hcl", `encrypt = "a2V5"`, "--hcl=x", "-retry-join=provider=x secret_access_key=a2V5",
		"-retry-join", "provider=x api_key=a2V5", "-server", "-acl-token=a2V5", "-data-dir=/d", "-hcl",
	})
	want := []string{
		"muster", "agent", "-encrypt=hidden", "--encrypt", "hidden", "-node", "n1", "-hcl", "hidden", "--hcl=hidden", "-retry-join=hidden",
		"-retry-join", "hidden", "-server", "-acl-token=hidden", "-data-dir=/d", "-hcl",
	}
	if !slices.Equal(got, want) {
		t.Fatalf("%q\nwant %q", got, want)
	}
}
