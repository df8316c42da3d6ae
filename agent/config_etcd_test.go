package agent

import (
	"errors"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

// loadEtcd loads as the binary does under the name etcd.
func loadEtcd(t *testing.T, env []string, args ...string) (Config, []Warning, error) {
	t.Helper()
	return LoadEtcd(args, env, io.Discard)
}

func TestEtcdDefaults(t *testing.T) {
	c, warns, err := loadEtcd(t, nil)
	if err != nil || len(warns) != 0 {
		t.Fatal(err, warns)
	}
	if c.NodeName != "default" || c.DataDir != "default.etcd" || !c.Server || !c.Bootstrap || c.BindAddr != "127.0.0.1" {
		t.Errorf("got %+v", c)
	}
	want := Ports{HTTP: -1, HTTPS: -1, Etcd: 2379, DNS: -1, DNSTLS: -1, Server: 2380, SerfLAN: 2381, SerfWAN: 8302}
	if c.Ports != want {
		t.Errorf("ports %+v", c.Ports)
	}
	if c, _, err = loadEtcd(t, nil, "--name", "m1", "-http-port=8500"); err != nil || c.DataDir != "m1.etcd" || c.Ports.HTTP != 8500 {
		t.Errorf("%q %d %v", c.DataDir, c.Ports.HTTP, err)
	}
	if c, _, err = loadEtcd(t, nil, "--initial-cluster-state=existing"); err != nil || c.Bootstrap || c.BootstrapExpect != 0 {
		t.Errorf("an existing cluster is formed anew: %+v %v", c, err)
	}
}

// TestEtcdMember is the command line of etcd's clustering guide, by flags and by variables, under both names.
func TestEtcdMember(t *testing.T) {
	args := []string{
		"--name", "infra1", "--data-dir", "/d", "--initial-advertise-peer-urls", "http://10.0.1.10:2380", "--listen-peer-urls", "http://10.0.1.10:2380",
		"--listen-client-urls", "http://10.0.1.10:2379,http://localhost:4001", "--advertise-client-urls", "http://10.0.1.10:2379",
		"--initial-cluster-token", "etcd-cluster-1", "--initial-cluster", "infra0=http://10.0.1.11:2380,infra1=http://10.0.1.10:2380,infra2=http://10.0.1.12:2390",
		"--initial-cluster-state", "new", "--snapshot-count", "5000", "--heartbeat-interval=100", "--election-timeout", "2500", "--debug",
	}
	var env []string
	for i := 0; i < len(args); i++ {
		name, value, ok := strings.Cut(strings.TrimPrefix(args[i], "--"), "=")
		if !ok && name != "debug" {
			i++
			value = args[i]
		} else if name == "debug" {
			value = "true"
		}
		env = append(env, "ETCD_"+strings.ToUpper(strings.ReplaceAll(name, "-", "_"))+"="+value)
	}
	for how, load := range map[string]func() (Config, []Warning, error){
		"etcd, flags":     func() (Config, []Warning, error) { return loadEtcd(t, nil, args...) },
		"etcd, variables": func() (Config, []Warning, error) { return loadEtcd(t, env) },
		"agent, flags":    func() (Config, []Warning, error) { return Load(args, nil, io.Discard) },
		"agent, both":     func() (Config, []Warning, error) { return Load(args[:4], env, io.Discard) },
	} {
		c, warns, err := load()
		if err != nil {
			t.Fatalf("%s: %v", how, err)
		}
		if c.NodeName != "infra1" || c.DataDir != "/d" || !c.Server || c.Bootstrap || c.BootstrapExpect != 3 || c.BindAddr != "10.0.1.10" || c.AdvertiseAddr != "10.0.1.10" ||
			c.Ports.Server != 2380 || c.Ports.SerfLAN != 2381 || c.RaftSnapshotThreshold != 5000 || c.Performance.RaftMultiplier != 3 || c.LogLevel != "debug" || c.RetryInterval != time.Second {
			t.Errorf("%s: %+v", how, c)
		}
		if !slices.Equal(c.RetryJoin, []string{"10.0.1.11:2381", "10.0.1.12:2391"}) || !slices.Equal(c.AdvertiseClientURLs, []string{"http://10.0.1.10:2379"}) {
			t.Errorf("%s: joins %v, advertises %v", how, c.RetryJoin, c.AdvertiseClientURLs)
		}
		if got := c.EtcdListeners(); !slices.Equal(got, []Listener{{Network: "tcp", Address: "10.0.1.10:2379"}, {Network: "tcp", Address: "127.0.0.1:4001"}}) {
			t.Errorf("%s: listens at %v", how, got)
		}
		var keys []string
		for _, w := range warns {
			keys = append(keys, w.Key)
		}
		if !slices.Equal(keys, []string{"heartbeat-interval", "initial-cluster-token"}) {
			t.Errorf("%s: warnings for %v", how, warns)
		}
	}
	if c, _, err := Load([]string{"--name=x", "-node=y", "-data-dir=/d", "-bind=10.1.1.1"}, []string{"ETCD_NAME=z"}, io.Discard); err != nil || c.NodeName != "y" || c.Server {
		t.Errorf("our own flag lost to etcd's: %q server %v, %v", c.NodeName, c.Server, err)
	}
	if c, _, err := Load([]string{"-data-dir=/d", "-bind=10.1.1.1"}, []string{"ETCD_PORT=tcp://10.0.0.1:2379", "ETCD_SERVICE_HOST=x"}, io.Discard); err != nil || c.Server {
		t.Errorf("variables that are not etcd's: %v", err)
	}
}

func TestEtcdProxy(t *testing.T) {
	for _, how := range []string{"on", "readonly"} {
		c, _, err := loadEtcd(t, nil, "--proxy", how, "--listen-client-urls", "http://127.0.0.1:8080", "--initial-cluster", "a=http://10.0.0.1:2380,b=http://db.example:2380")
		if err != nil || c.Server || !c.Proxy || c.Bootstrap || c.BootstrapExpect != 0 || c.ProxyReadOnly != (how == "readonly") || !slices.Equal(c.RetryJoin, []string{"10.0.0.1:2381", "db.example:2381"}) {
			t.Errorf("%s: %+v %v", how, c, err)
		}
	}
	if c, _, err := loadEtcd(t, nil, "--proxy", "off"); err != nil || !c.Server {
		t.Errorf("off: %v", err)
	}
	if c, _, err := loadEtcd(t, []string{"ETCD_PROXY=on", "ETCD_INITIAL_CLUSTER=a=http://10.0.0.1:2380"}); err != nil || c.Server {
		t.Errorf("by variable: %v", err)
	}
}

func TestEtcdTLS(t *testing.T) {
	dir := t.TempDir()
	file := func(name string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte("pem"), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	c, _, err := loadEtcd(t, nil, "--listen-client-urls=https://127.0.0.1:2379,http://127.0.0.1:2378", "--cert-file", file("c"), "--key-file", file("k"), "--client-cert-auth", "--trusted-ca-file", file("ca"),
		"--listen-peer-urls=https://127.0.0.1:2380", "--peer-cert-file", file("pc"), "--peer-key-file", file("pk"), "--peer-trusted-ca-file", file("pca"), "--peer-client-cert-auth", "--cors", "http://a.example,http://b.example")
	if err != nil {
		t.Fatal(err)
	}
	if got := c.EtcdListeners(); !slices.Equal(got, []Listener{{Network: "tcp", Address: "127.0.0.1:2379", TLS: true}, {Network: "tcp", Address: "127.0.0.1:2378"}}) {
		t.Errorf("listeners %v", got)
	}
	if h, p := c.TLS.HTTPS, c.TLS.InternalRPC; h.CertFile == "" || h.KeyFile == "" || h.CAFile == "" || !h.VerifyIncoming || p.CertFile == "" || p.KeyFile == "" || p.CAFile == "" {
		t.Errorf("TLS %+v", c.TLS)
	}
	if !slices.Equal(c.CORS, []string{"http://a.example", "http://b.example"}) {
		t.Errorf("cors %v", c.CORS)
	}
}

func TestEtcdRefusals(t *testing.T) {
	for want, args := range map[string][]string{
		"initial-cluster: expected name=url":                   {"--initial-cluster", "http://10.0.0.1:2380"},
		`the name of this member, "default", is not among a`:   {"--initial-cluster", "a=http://10.0.0.1:2380"},
		"listen-client-urls: expected URLs":                    {"--listen-client-urls", "127.0.0.1:2379"},
		"listen-client-urls: expected a port":                  {"--listen-client-urls", "http://127.0.0.1"},
		"listen-client-urls: expected an IP address":           {"--listen-client-urls", "http://db.example:2379"},
		"needs a certificate":                                  {"--listen-client-urls", "https://127.0.0.1:2379"},
		"needs -peer-cert-file":                                {"--listen-peer-urls", "https://127.0.0.1:2380"},
		"gossip uses the next one":                             {"--listen-peer-urls", "http://127.0.0.1:65535"},
		"must be one of -listen-peer-urls":                     {"--listen-peer-urls", "http://127.0.0.1:2380", "--initial-advertise-peer-urls", "http://127.0.0.1:2390"},
		"discovery service is not available":                   {"--discovery", "https://discovery.example/abc"},
		"certificates are not made up":                         {"--auto-tls"},
		"names of client certificates are not restricted":      {"--client-cert-allowed-hostname", "db.example"},
		"initial-cluster-state: expected new or existing":      {"--initial-cluster-state", "old"},
		"election-timeout: expected milliseconds":              {"--election-timeout", "5s"},
		"proxy: expected on, readonly or off":                  {"--initial-cluster-state=new"}, // with ETCD_PROXY below
		"flag provided but not defined: -no-such":              {"--no-such"},
		"advertise_client_urls[0]: expected a URL":             {"--advertise-client-urls", "10.0.0.1:2379"},
		"force_new_cluster: is for a server with a data":       {"--force-new-cluster", "--proxy", "on", "--initial-cluster", "a=http://10.0.0.1:2380"},
		"server address 127.0.0.1:2380 already configured for": {"--listen-client-urls", "http://127.0.0.1:2380"},
		"raft_snapshot_threshold: expected a whole number":     {"--snapshot-count", "many"},
		"tls.https.verify_incoming: needs ca_file or ca_path,": {"--client-cert-auth", "--cert-file=/dev/null", "--key-file=/dev/null"},
	} {
		var env []string
		if strings.HasPrefix(want, "proxy:") {
			env = []string{"ETCD_PROXY=perhaps"}
		}
		_, _, err := loadEtcd(t, env, args...)
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v: %v, want %q", args, err, want)
		}
	}
	_, _, err := loadEtcd(t, []string{"ETCD_NONSENSE=1", "ETCD_WAL_DIR=/w", "ETCD_FORCE_NEW_CLUSTER=perhaps"})
	if err == nil || errors.Is(err, os.ErrNotExist) {
		t.Errorf("force-new-cluster=perhaps: %v", err)
	}
	_, warns, err := loadEtcd(t, []string{"ETCD_NONSENSE=1", "ETCD_WAL_DIR=/w", "ETCD_ENABLE_V2=true"})
	if err != nil || len(warns) != 2 || warns[0].Key != "ETCD_NONSENSE" || warns[1].Key != "wal-dir" {
		t.Errorf("warnings %v, %v", warns, err)
	}
}

// TestEtcdFlagsAreDocumented holds the table of flags against the flags that are understood.
func TestEtcdFlagsAreDocumented(t *testing.T) {
	page, err := os.ReadFile("../docs/migrating-from-etcd.md")
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range append(etcdNames(), etcdShared...) {
		if !strings.Contains(string(page), "`"+name+"`") && !strings.Contains(string(page), "`"+name+"=") {
			t.Errorf("docs/migrating-from-etcd.md does not name %s", name)
		}
	}
}
