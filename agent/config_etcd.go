package agent

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/musterhq/muster/api/etcd"
)

// EtcdEnvPrefix begins the environment variables of etcd's flags: -initial-cluster is also ETCD_INITIAL_CLUSTER.
const EtcdEnvPrefix = "ETCD_"

// EtcdRelease is the release of etcd whose interface is served.
const EtcdRelease = etcd.Release

// LoadEtcd makes the Config of the binary under the name etcd: Load with etcd's defaults (a single member called
// default on the loopback address, in the directory default.etcd, with the interfaces of etcd only). Flags of Muster
// work beside those of etcd.
func LoadEtcd(args, env []string, usage io.Writer) (Config, []Warning, error) {
	l := newLoader()
	l.etcd.alone = true
	l.change = func(c *Config) {
		c.Server, c.NodeName, c.BindAddr = true, "default", "127.0.0.1"
		c.Ports.HTTP, c.Ports.DNS = -1, -1
		c.Ports.Server, c.Ports.SerfLAN = etcdPeerPort, etcdPeerPort+1
		c.RetryInterval = etcdRetry
	}
	return l.load(args, env, usage)
}

const (
	etcdPeerPort = 2380
	etcdRetry    = time.Second // members are started by hand, one after the other
)

// etcdBool are the flags of etcd that need no value.
var etcdBool = map[string]bool{
	"auto-tls": true, "client-cert-auth": true, "debug": true, "enable-pprof": true, "enable-v2": true, "peer-auto-tls": true,
	"peer-client-cert-auth": true, "pre-vote": true, "strict-reconfig-check": true, "initial-election-tick-advance": true,
	"experimental-initial-corrupt-check": true, "experimental-peer-skip-client-san-verification": true,
}

// etcdUnused are the flags of etcd that are accepted with a warning, and why they have no meaning here.
var etcdUnused = map[string]string{
	"wal-dir": noWAL, "max-snapshots": noFiles, "max-wals": noFiles, "heartbeat-interval": "it follows from the election timeout here",
	"initial-cluster-token": "clusters are told apart by an id that the first leader makes",
	"strict-reconfig-check": "a change that would lose the quorum is always refused", "enable-v2": "version 2 is always served",
	"pre-vote": "always on", "initial-election-tick-advance": noNeedHere, "log-package-levels": "use -log-level", "logger": noNeedHere,
	"log-output": noLogFile, "log-outputs": noLogFile, "discovery-fallback": noNeedHere, "discovery-proxy": noNeedHere, "discovery-srv-name": noNeedHere,
	"proxy-failure-wait": noProxy, "proxy-refresh-interval": noProxy, "proxy-dial-timeout": noProxy, "proxy-write-timeout": noProxy, "proxy-read-timeout": noProxy,
	"auto-compaction-retention": noV3, "auto-compaction-mode": noV3, "quota-backend-bytes": noV3, "backend-batch-limit": noV3, "backend-batch-interval": noV3,
	"backend-bbolt-freelist-type": noV3, "max-txn-ops": noV3, "max-request-bytes": "values up to 10 MiB are taken", "grpc-keepalive-min-time": noV3,
	"grpc-keepalive-interval": noV3, "grpc-keepalive-timeout": noV3, "auth-token": noV3, "bcrypt-cost": noV3, "auth-token-ttl": noV3, "snapshot-catchup-entries": noNeedHere,
	"metrics": "all are served at /metrics", "listen-metrics-urls": "metrics are served at /metrics of the client URLs",
	"peer-client-cert-auth":  "with certificates, both sides are always verified",
	"max-concurrent-streams": noV3, "experimental-warning-apply-duration": noNeedHere, "experimental-initial-corrupt-check": noNeedHere, "experimental-corrupt-check-time": noNeedHere, "experimental-enable-v2v3": noV3,
	"experimental-enable-lease-checkpoint": noV3, "experimental-backend-bbolt-freelist-type": noV3, "experimental-compaction-batch-limit": noV3,
	"experimental-peer-skip-client-san-verification": noNeedHere, "experimental-watch-progress-notify-interval": noV3,
}

const (
	noWAL      = "the log lies in the data directory"
	noFiles    = "old files are removed as soon as nobody needs them"
	noProxy    = "a proxy follows the servers by gossip"
	noV3       = "it belongs to version 3 of the interface"
	noNeedHere = "the matter is settled in another way here"
)

// etcdRefused would change who may reach what, or whom a server joins, if they were quietly ignored.
var etcdRefused = map[string]string{
	"discovery":              "finding members through a discovery service is not available: name them in -initial-cluster",
	"discovery-srv":          "finding members through SRV records is not available: name them in -initial-cluster",
	"auto-tls":               "certificates are not made up at the start: give -cert-file and -key-file",
	"peer-auto-tls":          "certificates are not made up at the start: give -peer-cert-file, -peer-key-file and -peer-trusted-ca-file",
	"client-crl-file":        "revocation lists are not supported",
	"peer-crl-file":          "revocation lists are not supported",
	"client-cert-allowed-cn": "names of client certificates are not restricted",
	"peer-cert-allowed-cn":   "names of peer certificates are not restricted",

	"client-cert-allowed-hostname": "names of client certificates are not restricted",
	"peer-cert-allowed-hostname":   "names of peer certificates are not restricted",
}

// etcdDirect are the flags of etcd whose value means the same under a key of ours.
var etcdDirect = map[string][]string{
	"name": {"node_name"}, "snapshot-count": {"raft_snapshot_threshold"}, "enable-pprof": {"enable_debug"},
	"cert-file": {"tls", "https", "cert_file"}, "key-file": {"tls", "https", "key_file"}, "client-cert-auth": {"tls", "https", "verify_incoming"},
	"peer-cert-file": {"tls", "internal_rpc", "cert_file"}, "peer-key-file": {"tls", "internal_rpc", "key_file"}, "peer-trusted-ca-file": {"tls", "internal_rpc", "ca_file"},
	"peer-ca-file": {"tls", "internal_rpc", "ca_file"}, "cipher-suites": {"tls", "defaults", "tls_cipher_suites"},
}

// etcdTold are the flags of etcd that translate needs a rule for.
var etcdTold = []string{
	"trusted-ca-file", "ca-file", "listen-client-urls", "listen-peer-urls", "initial-advertise-peer-urls", "initial-cluster", "initial-cluster-state",
	"election-timeout", "debug", "host-whitelist",
}

// etcdShared are flags that both have. Their values in ETCD_ variables are read as the flag would be.
var etcdShared = []string{"data-dir", "cors", "proxy", "log-level", "force-new-cluster", "advertise-client-urls"}

// etcdFlags collects what was given in the words of etcd.
type etcdFlags struct {
	alone  bool // the binary was started as etcd
	values map[string]etcdValue
}

type etcdValue struct{ text, source string }

func (e *etcdFlags) set(name, text, source string) {
	if e.values == nil {
		e.values = map[string]etcdValue{}
	}
	e.values[name] = etcdValue{text, source}
}

// etcdNames are all flags of etcd's own, in order.
func etcdNames() []string {
	names := slices.Concat(sortedKeys(etcdUnused), sortedKeys(etcdRefused), sortedKeys(etcdDirect), etcdTold)
	slices.Sort(names)
	return slices.Compact(names)
}

// joinProxyValue turns "--proxy on", which etcd's command line allows, into one argument: our flag needs no value.
func joinProxyValue(args []string) []string {
	var out []string
	for i := 0; i < len(args); i++ {
		a := args[i]
		if (a == "-proxy" || a == "--proxy") && i+1 < len(args) && slices.Contains([]string{"on", "off", "readonly"}, args[i+1]) {
			a += "=" + args[i+1]
			i++
		}
		out = append(out, a)
	}
	return out
}

// etcdEnvironment reads the ETCD_ variables of flags that the command line has not set.
func (l *loader) etcdEnvironment(env []string) error {
	names := map[string]string{}
	for _, name := range append(etcdNames(), etcdShared...) {
		names[EtcdEnvPrefix+strings.ToUpper(strings.ReplaceAll(name, "-", "_"))] = name
	}
	var errs []error
	for _, kv := range env {
		variable, text, ok := strings.Cut(kv, "=")
		if !ok || text == "" || !strings.HasPrefix(variable, EtcdEnvPrefix) {
			continue
		}
		name, known := names[variable]
		if _, given := l.etcd.values[name]; given {
			continue
		}
		switch {
		case !known && l.etcd.alone:
			l.warns = append(l.warns, Warning{"environment", variable, "is no variable that is known here"})
		case !known:
		case name == "force-new-cluster":
			on, err := strconv.ParseBool(text)
			if err != nil {
				errs = append(errs, fmt.Errorf("environment %s: expected true or false, got %q", variable, text))
			}
			l.force = l.force || on
		default:
			l.etcd.set(name, text, "environment "+variable)
		}
	}
	return errors.Join(errs...)
}

// etcdSources gives the settings in our words, one tree for each flag of etcd, for the decoder.
func (l *loader) etcdSources() []etcdSource {
	t := etcdTranslation{loader: l}
	for _, name := range sortedKeys(l.etcd.values) {
		v := l.etcd.values[name]
		if why, ok := etcdRefused[name]; ok {
			if on, err := strconv.ParseBool(v.text); err != nil || on {
				t.fail(v, name, "%s", why)
			}
			continue
		}
		if why, ok := etcdUnused[name]; ok {
			if on, err := strconv.ParseBool(v.text); err != nil || on != (name == "enable-v2" || name == "strict-reconfig-check" || name == "peer-client-cert-auth") {
				l.warns = append(l.warns, Warning{v.source, name, "accepted and unused: " + why})
			}
			continue
		}
		if path, ok := etcdDirect[name]; ok {
			t.put(v, path, v.text)
			continue
		}
		t.one(name, v)
	}
	t.cluster()
	return t.out
}

// etcdSource is what one flag says, as a parsed configuration file would.
type etcdSource struct {
	name string
	tree map[string]any
}

type etcdTranslation struct {
	*loader
	out []etcdSource
}

func (t *etcdTranslation) put(v etcdValue, path []string, value any) {
	for i := len(path) - 1; i >= 0; i-- {
		value = map[string]any{path[i]: value}
	}
	t.out = append(t.out, etcdSource{v.source, value.(map[string]any)})
}

func (t *etcdTranslation) fail(v etcdValue, name, format string, args ...any) {
	t.errs = append(t.errs, fmt.Errorf("%s: %s: %s", v.source, name, fmt.Sprintf(format, args...)))
}

// one translates a flag that stands for itself.
func (t *etcdTranslation) one(name string, v etcdValue) {
	switch name {
	case "data-dir", "log-level", "advertise-client-urls", "cors":
		t.put(v, []string{strings.ReplaceAll(name, "-", "_")}, v.text)
	case "host-whitelist":
		for host := range strings.SplitSeq(v.text, ",") {
			if host = strings.TrimSpace(host); host != "" {
				t.put(v, []string{"http_config", "allowed_hosts"}, host)
			}
		}
	case "trusted-ca-file", "ca-file": // either turns verification on
		t.put(v, []string{"tls", "https", "ca_file"}, v.text)
		t.put(v, []string{"tls", "https", "verify_incoming"}, true)
	case "debug":
		if on, err := strconv.ParseBool(v.text); err != nil {
			t.fail(v, name, "expected true or false, got %q", v.text)
		} else if on {
			t.put(v, []string{"log_level"}, "debug")
		}
	case "election-timeout":
		n, err := strconv.Atoi(v.text)
		if err != nil || n < 1 || n > 50000 {
			t.fail(v, name, "expected milliseconds from 1 to 50000, got %q", v.text)
			return
		}
		t.put(v, []string{"performance", "raft_multiplier"}, min((n+999)/1000, 10))
	case "listen-client-urls":
		t.clients(v)
	case "listen-peer-urls":
		t.peers(v)
	case "initial-advertise-peer-urls":
		t.advertised(v)
	case "proxy":
		t.proxy(v)
	case "initial-cluster-state":
		if v.text != "new" && v.text != "existing" {
			t.fail(v, name, "expected new or existing, got %q", v.text)
		}
	}
}

// urls parses a comma list of http and https URLs with a port.
func (t *etcdTranslation) urls(v etcdValue, name, list string) (out []*url.URL) {
	for _, text := range strings.Split(list, ",") {
		u, err := url.Parse(strings.TrimSpace(text))
		if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Hostname() == "" || u.Path != "" {
			t.fail(v, name, "expected URLs such as http://10.0.0.1:2379, got %q", text)
			return nil
		}
		if n, err := strconv.Atoi(u.Port()); err != nil || n < 1 || n > 65535 {
			t.fail(v, name, "expected a port from 1 to 65535 in %q", text)
			return nil
		}
		out = append(out, u)
	}
	return out
}

// listenIP is the address of a URL to listen at: an IP address or localhost, as with etcd.
func (t *etcdTranslation) listenIP(v etcdValue, name string, u *url.URL) string {
	if u.Hostname() == "localhost" {
		return "127.0.0.1"
	}
	if _, err := netip.ParseAddr(u.Hostname()); err != nil {
		t.fail(v, name, "expected an IP address or localhost in %q", u)
	}
	return u.Hostname()
}

func (t *etcdTranslation) clients(v etcdValue) {
	const name = "listen-client-urls"
	var places []string
	for _, u := range t.urls(v, name, v.text) {
		places = append(places, u.Scheme+"://"+net.JoinHostPort(t.listenIP(v, name, u), u.Port()))
	}
	t.put(v, []string{"addresses", "etcd"}, strings.Join(places, " "))
}

// peers sets the port between servers, and that of gossip, which is the next one.
func (t *etcdTranslation) peers(v etcdValue) {
	const name = "listen-peer-urls"
	list := t.urls(v, name, v.text)
	if len(list) == 0 {
		return
	}
	if len(list) > 1 {
		t.warns = append(t.warns, Warning{v.source, name, fmt.Sprintf("one address is listened at, the first: %s", list[0])})
	}
	t.put(v, []string{"bind_addr"}, t.listenIP(v, name, list[0]))
	t.peerPort(v, name, list[0])
}

func (t *etcdTranslation) peerPort(v etcdValue, name string, u *url.URL) {
	n, err := strconv.Atoi(u.Port())
	if err != nil || n > 65534 {
		t.fail(v, name, "expected a port below 65535 in %q: gossip uses the next one", u)
		return
	}
	t.put(v, []string{"ports", "server"}, n)
	t.put(v, []string{"ports", "serf_lan"}, n+1)
	if _, ok := t.etcd.values["peer-cert-file"]; !ok && u.Scheme == "https" {
		t.fail(v, name, "%q needs -peer-cert-file, -peer-key-file and -peer-trusted-ca-file", u)
	}
}

func (t *etcdTranslation) advertised(v etcdValue) {
	const name = "initial-advertise-peer-urls"
	list := t.urls(v, name, v.text)
	if len(list) == 0 {
		return
	}
	u := list[0]
	if listen, ok := t.etcd.values["listen-peer-urls"]; !ok {
		t.peerPort(v, name, u)
	} else if !strings.Contains(listen.text, ":"+u.Port()) {
		t.fail(v, name, "the port of %q must be one of -listen-peer-urls", u)
	}
	ip, err := t.host.lookup(u.Hostname())
	if err != nil {
		t.fail(v, name, "the address of %s: %v", u.Hostname(), err)
		return
	}
	t.put(v, []string{"advertise_addr"}, ip)
}

func (t *etcdTranslation) proxy(v etcdValue) {
	switch v.text {
	case "off":
	case "on", "readonly":
		t.put(v, []string{"server"}, false)
		t.put(v, []string{"proxy"}, true)
		if v.text == "readonly" {
			t.put(v, []string{"proxy_read_only"}, true)
		}
	default:
		t.fail(v, "proxy", "expected on, readonly or off, got %q", v.text)
	}
}

// asProxy says whether etcd's proxy flag is on.
func (e *etcdFlags) asProxy() bool {
	p := e.values["proxy"].text
	return p == "on" || p == "readonly"
}

// cluster translates what several flags say together: who the servers are, and whether they form a cluster.
func (t *etcdTranslation) cluster() {
	const name = "initial-cluster"
	v, given := t.etcd.values[name]
	if !given {
		if !t.etcd.alone && !t.etcd.asProxy() && (t.etcd.has("listen-peer-urls") || t.etcd.has("initial-advertise-peer-urls")) {
			t.put(etcdValue{source: "flags of etcd"}, []string{"server"}, true)
		}
		return
	}
	own := t.etcd.values["name"].text
	if own == "" && t.etcd.alone {
		own = "default"
	}
	members := map[string]bool{}
	for _, pair := range strings.Split(v.text, ",") {
		member, text, ok := strings.Cut(strings.TrimSpace(pair), "=")
		if !ok || member == "" {
			t.fail(v, name, "expected name=url,name=url, got %q", pair)
			return
		}
		members[member] = true
		for _, u := range t.urls(v, name, text) {
			n, err := strconv.Atoi(u.Port())
			if err == nil && (member != own || t.etcd.asProxy()) {
				t.put(v, []string{"retry_join"}, net.JoinHostPort(u.Hostname(), strconv.Itoa(n+1)))
			}
		}
	}
	t.put(v, []string{"retry_interval"}, etcdRetry.String())
	if t.etcd.asProxy() {
		return
	}
	if !members[own] {
		t.fail(v, name, "the name of this member, %q, is not among %s", own, strings.Join(sortedKeys(members), ", "))
		return
	}
	t.put(v, []string{"server"}, true)
	switch {
	case t.etcd.values["initial-cluster-state"].text == "existing":
	case len(members) == 1:
		t.put(v, []string{"bootstrap"}, true)
	default:
		t.put(v, []string{"bootstrap_expect"}, len(members))
	}
}

func (e *etcdFlags) has(name string) bool { _, ok := e.values[name]; return ok }

// finishEtcd fills what etcd derives from the name and from the absence of a cluster.
func (l *loader) finishEtcd(c *Config) {
	if !l.etcd.alone {
		return
	}
	if c.DataDir == "" && !c.DevMode {
		c.DataDir = c.NodeName + ".etcd"
	}
	existing := l.etcd.values["initial-cluster-state"].text == "existing"
	if c.Server && !c.DevMode && c.BootstrapExpect == 0 && !l.etcd.has("initial-cluster") && !existing && len(c.RetryJoin)+len(c.StartJoin) == 0 {
		c.Bootstrap = true
	}
}

// lookupHost gives the address of a name, IPv4 first.
func lookupHost(host string) (string, error) {
	if ip, err := netip.ParseAddr(host); err == nil {
		return ip.String(), nil
	}
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	ips, err := net.DefaultResolver.LookupNetIP(ctx, "ip", host)
	if err != nil {
		return "", err
	}
	slices.SortStableFunc(ips, func(a, b netip.Addr) int { return a.Unmap().BitLen() - b.Unmap().BitLen() })
	return ips[0].Unmap().String(), nil
}
