package agent

import (
	"encoding/base64"
	"fmt"
	"math"
	"net/netip"
	"net/url"
	"os"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/hashicorp/go-uuid"

	"github.com/musterhq/muster/health"
)

// validator checks a decoded Config, resolves its addresses and fills what depends on other keys. It goes on after
// an error: all are reported at once, each naming where the value came from, the key and what was expected.
type validator struct {
	c     *Config
	host  hostFacts
	files bool
	errs  []error
	warns []Warning
	keys  map[string]bool // keys that have an error already
}

func (v *validator) source(key string) string {
	if at, ok := v.c.origins[key]; ok {
		return at
	}
	if i := strings.IndexByte(key, '['); i >= 0 {
		if at, ok := v.c.origins[key[:i]]; ok {
			return at
		}
	}
	return "default"
}

func (v *validator) bad(key, format string, args ...any) {
	if v.keys == nil {
		v.keys = map[string]bool{}
	}
	v.keys[key] = true
	v.errs = append(v.errs, fmt.Errorf("%s: %s: %s", v.source(key), key, fmt.Sprintf(format, args...)))
}

func (v *validator) failed(key string) bool { return v.keys[key] }

func (v *validator) warn(key, format string, args ...any) {
	v.warns = append(v.warns, Warning{v.source(key), key, fmt.Sprintf(format, args...)})
}

func (v *validator) set(key string) bool { _, ok := v.c.origins[key]; return ok }

func (v *validator) run() {
	v.identity()
	v.role()
	v.addresses()
	v.ports()
	v.tls()
	v.times()
	v.numbers()
	v.words()
	v.upstreams()
	v.definitions()
	for _, key := range sortedKeys(idle) {
		if v.set(key) && (key != "ports.serf_wan" || v.c.Ports.SerfWAN != -1) {
			v.warn(key, "%s", idle[key])
		}
	}
}

var (
	nodeNamePattern   = regexp.MustCompile(`^[A-Za-z0-9._-]{1,128}$`)
	dnsLabelPattern   = regexp.MustCompile(`^[A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?$`)
	datacenterPattern = regexp.MustCompile(`^[a-z0-9_-]{1,63}$`)
	domainPattern     = regexp.MustCompile(`^([A-Za-z0-9_]([A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?\.)+$`)
)

func (v *validator) identity() {
	c := v.c
	if c.NodeName == "" {
		name, err := v.host.hostname()
		if err != nil {
			v.bad("node_name", "not given, and the host name is unknown: %v", err)
		}
		c.NodeName = name
	}
	if !nodeNamePattern.MatchString(c.NodeName) {
		v.bad("node_name", "expected 1 to 128 letters, digits, dashes, underscores or dots, got %q", c.NodeName)
	} else if !dnsLabelPattern.MatchString(c.NodeName) {
		v.warn("node_name", "%q will not be found by DNS: that takes letters, digits and dashes only, 63 at most", c.NodeName)
	}
	if c.NodeID != "" {
		c.NodeID = strings.ToLower(c.NodeID)
		if _, err := uuid.ParseUUID(c.NodeID); err != nil {
			v.bad("node_id", "expected a UUID, got %q", c.NodeID)
		}
	}
	if !datacenterPattern.MatchString(c.Datacenter) {
		v.bad("datacenter", "expected 1 to 63 lowercase letters, digits, dashes or underscores, got %q", c.Datacenter)
	}
	c.Domain = v.domain("domain", c.Domain)
	if c.AltDomain != "" {
		c.AltDomain = v.domain("alt_domain", c.AltDomain)
	}
	if err := checkMeta(c.NodeMeta); err != nil {
		v.bad("node_meta", "%v", err)
	}
	if c.DataDir == "" && !c.DevMode {
		v.bad("data_dir", "expected a directory for the agent's state; only -dev runs without one")
	}
	if info, err := os.Stat(c.DataDir); err == nil && !info.IsDir() {
		v.bad("data_dir", "expected a directory, %q is a file", c.DataDir)
	}
}

func (v *validator) domain(key, text string) string {
	if !strings.HasSuffix(text, ".") {
		text += "."
	}
	if !domainPattern.MatchString(text) || len(text) > 200 {
		v.bad(key, "expected a domain name, got %q", text)
	}
	return strings.ToLower(text)
}

func (v *validator) role() {
	c := v.c
	if c.Server && c.Proxy {
		v.bad("proxy", "an agent cannot be server and proxy at once")
	}
	if c.Server && c.ProxyReadOnly {
		v.bad("proxy_read_only", "a server cannot be a read-only proxy")
	}
	if c.BootstrapExpect < 0 {
		v.bad("bootstrap_expect", "expected 0 or more servers, got %d", c.BootstrapExpect)
	}
	if c.DevMode {
		if c.BootstrapExpect > 0 {
			v.bad("bootstrap_expect", "makes no sense with -dev, which is one server")
		}
	} else if c.Bootstrap && c.BootstrapExpect > 0 {
		v.bad("bootstrap_expect", "'bootstrap_expect > 0' and 'bootstrap = true' are mutually exclusive")
	}
	if c.ForceNewCluster && (!c.Server || c.DataDir == "") {
		v.bad("force_new_cluster", "is for a server with a data directory")
	}
	if !c.Server && (c.Bootstrap || c.BootstrapExpect > 0) {
		key := "bootstrap"
		if !c.Bootstrap {
			key = "bootstrap_expect"
		}
		v.bad(key, "is for servers: set server = true or remove it")
	}
	switch n := c.BootstrapExpect; {
	case n == 1 || n == 2:
		v.warn("bootstrap_expect", "a cluster of %d survives the loss of no server", n)
	case n > 0 && n%2 == 0:
		v.warn("bootstrap_expect", "%d servers survive no more losses than %d do", n, n-1)
	}
	if c.Server && c.Ports.Server < 0 {
		v.bad("ports.server", "a server needs this port")
	}
	if c.Ports.SerfLAN < 0 {
		v.bad("ports.serf_lan", "expected a port from 1 to 65535: every agent needs this one")
	}
	if c.Encrypt != "" {
		if key, err := base64.StdEncoding.DecodeString(c.Encrypt); err != nil {
			v.bad("encrypt", "expected a key in base64: %v", err)
		} else if n := len(key); n != 16 && n != 24 && n != 32 {
			v.bad("encrypt", "expected a key of 16, 24 or 32 bytes, got %d", n)
		}
	}
}

// ports checks the ranges, and that no two listeners want the same place.
func (v *validator) ports() {
	c := v.c
	type place struct{ key, name, network, host string }
	taken := map[int][]place{}
	claim := func(port int, p place) {
		for _, other := range taken[port] {
			if other.network == p.network && other.key != p.key && (other.host == p.host || isAny(other.host) || isAny(p.host)) {
				v.bad(p.key, "%s address %s already configured for %s", p.name, joinPort(p.host, port), other.name)
				return
			}
		}
		taken[port] = append(taken[port], p)
	}
	for _, one := range []struct {
		key, name string
		port      int
		hosts     string
		networks  string
	}{
		{"ports.dns", "DNS", c.Ports.DNS, or(c.Addresses.DNS, c.ClientAddr), "tcp udp"},
		{"ports.dns_tls", "DNS over TLS", c.Ports.DNSTLS, or(c.Addresses.DNS, c.ClientAddr), "tcp"},
		{"ports.http", "HTTP", c.Ports.HTTP, or(c.Addresses.HTTP, c.ClientAddr), "tcp"},
		{"ports.https", "HTTPS", c.Ports.HTTPS, or(c.Addresses.HTTPS, c.ClientAddr), "tcp"},
		{"ports.etcd", "etcd", c.Ports.Etcd, or(c.Addresses.Etcd, c.ClientAddr), "tcp"},
		{"ports.server", "server", c.Ports.Server, c.BindAddr, "tcp"},
		{"ports.serf_lan", "LAN gossip", c.Ports.SerfLAN, c.SerfLAN, "tcp udp"},
	} {
		if one.port == -1 {
			continue
		}
		if one.port < 1 || one.port > 65535 {
			v.bad(one.key, "expected a port from 1 to 65535, or -1 for off, got %d", one.port)
			continue
		}
		for _, host := range strings.Fields(one.hosts) {
			if strings.HasPrefix(host, "unix://") {
				continue
			}
			for _, network := range strings.Fields(one.networks) {
				port := one.port
				if u := asURL(host); u != nil {
					if n, err := strconv.Atoi(u.Port()); err == nil {
						port, host = n, u.Hostname()
					}
				}
				claim(port, place{one.key, one.name, network, host})
			}
		}
	}
}

func or(a, b string) string {
	if a != "" {
		return a
	}
	return b
}

func isAny(host string) bool {
	ip, err := netip.ParseAddr(host)
	return err == nil && ip.IsUnspecified()
}

// tls lets the stanzas inherit from defaults and checks that the certificates asked for are there.
func (v *validator) tls() {
	c := v.c
	d := &c.TLS.Defaults
	v.protocol("tls.defaults", d)
	for _, one := range []struct {
		key string
		t   *TLSConfig
	}{{"tls.internal_rpc", &c.TLS.InternalRPC}, {"tls.https", &c.TLS.HTTPS}} {
		inherit := func(key string, copyDefault func()) {
			if !v.set(one.key + "." + key) {
				copyDefault()
			}
		}
		inherit("ca_file", func() { one.t.CAFile = d.CAFile })
		inherit("ca_path", func() { one.t.CAPath = d.CAPath })
		inherit("cert_file", func() { one.t.CertFile = d.CertFile })
		inherit("key_file", func() { one.t.KeyFile = d.KeyFile })
		inherit("verify_incoming", func() { one.t.VerifyIncoming = d.VerifyIncoming })
		inherit("verify_outgoing", func() { one.t.VerifyOutgoing = d.VerifyOutgoing })
		inherit("verify_server_hostname", func() { one.t.VerifyServerHostname = d.VerifyServerHostname })
		inherit("tls_min_version", func() { one.t.MinVersion = d.MinVersion })
		inherit("tls_cipher_suites", func() { one.t.CipherSuites, one.t.suites = d.CipherSuites, d.suites })
		v.protocol(one.key, one.t)
		v.stanza(one.key, one.t)
	}
	if t := &c.TLS.InternalRPC; t.CertFile != "" {
		// With a certificate both sides are verified unless the opposite is said, which is for the time of a change.
		said := func(key string) bool { return v.set("tls.internal_rpc."+key) || v.set("tls.defaults."+key) }
		if t.acceptPlain = said("verify_incoming") && !t.VerifyIncoming; t.acceptPlain && c.Server {
			v.warn("tls.internal_rpc.verify_incoming", "false: servers take connections without TLS and without a certificate, too")
		}
		if t.dialPlain = said("verify_outgoing") && !t.VerifyOutgoing && !t.VerifyServerHostname; t.dialPlain {
			v.warn("tls.internal_rpc.verify_outgoing", "false: connections to servers are opened without TLS")
		}
	}
	if t := &c.TLS.InternalRPC; t.CertFile == "" && (t.VerifyOutgoing || t.VerifyServerHostname) {
		v.bad("tls.internal_rpc.verify_outgoing", "needs cert_file and key_file: agents know each other by certificates, and without them connections have no TLS")
	}
	for _, key := range []string{"tls.https.verify_outgoing", "tls.https.verify_server_hostname"} {
		if v.set(key) {
			v.warn(key, "accepted and unused: the stanza is about a listener")
		}
	}
	for _, l := range c.EtcdListeners() {
		if l.TLS && c.TLS.HTTPS.CertFile == "" {
			v.bad("addresses.etcd", "https://%s needs a certificate: set cert_file and key_file in tls.defaults or tls.https", l.Address)
		}
	}
	if c.Ports.DNSTLS > 0 && c.TLS.HTTPS.CertFile == "" {
		v.bad("ports.dns_tls", "needs a certificate: set cert_file and key_file in tls.defaults or tls.https")
	}
	if c.Ports.HTTPS > 0 && c.TLS.HTTPS.CertFile == "" {
		v.warn("ports.https", "HTTPS is off: it needs cert_file and key_file in tls.defaults or tls.https")
		c.Ports.HTTPS = -1
	}
}

// protocol checks what a stanza itself says about versions and suites.
func (v *validator) protocol(key string, t *TLSConfig) {
	if at := key + ".tls_min_version"; v.set(at) && t.MinVersion != "TLSv1_2" && t.MinVersion != "TLSv1_3" {
		v.bad(at, "expected TLSv1_2 or TLSv1_3, got %q", t.MinVersion)
	}
	at := key + ".tls_cipher_suites"
	if !v.set(at) {
		return
	}
	var err error
	if t.suites, err = cipherSuites(t.CipherSuites); err != nil {
		v.bad(at, "%v", err)
	} else if len(t.suites) > 0 && t.MinVersion == "TLSv1_3" {
		v.warn(at, "changes nothing under tls_min_version TLSv1_3, whose suites are not configurable")
	}
}

func (v *validator) stanza(key string, t *TLSConfig) {
	if (t.CertFile == "") != (t.KeyFile == "") {
		v.bad(key, "expected cert_file and key_file together")
	}
	if t.VerifyIncoming && t.CAFile == "" && t.CAPath == "" {
		v.bad(key+".verify_incoming", "needs ca_file or ca_path, to know whom to trust")
	}
	if t.VerifyIncoming && t.CertFile == "" {
		v.bad(key+".verify_incoming", "needs cert_file and key_file")
	}
	if (t.VerifyOutgoing || t.VerifyServerHostname) && t.CAFile == "" && t.CAPath == "" {
		v.bad(key+".verify_outgoing", "needs ca_file or ca_path, to know whom to trust")
	}
	for name, path := range map[string]string{"ca_file": t.CAFile, "ca_path": t.CAPath, "cert_file": t.CertFile, "key_file": t.KeyFile} {
		if path == "" {
			continue
		}
		if _, err := os.Stat(path); err != nil {
			v.bad(key+"."+name, "%v", err)
		}
	}
}

// times checks the durations: key, value, least, most (0: no limit).
func (v *validator) times() {
	c := v.c
	const day = 24 * time.Hour
	for _, one := range []struct {
		key            string
		d, least, most time.Duration
	}{
		{"retry_interval", c.RetryInterval, time.Millisecond, day},
		{"reconnect_timeout", c.ReconnectTimeout, 8 * time.Hour, 0},
		{"default_query_time", c.DefaultQueryTime, time.Second, day},
		{"max_query_time", c.MaxQueryTime, time.Second, day},
		{"discovery_max_stale", c.DiscoveryMaxStale, 0, 0},
		{"last_known_good.max_age", c.LastKnownGood.MaxAge, 0, 0},
		{"shared_views.linger", c.SharedViews.Linger, time.Millisecond, time.Hour},
		{"session_ttl_min", c.SessionTTLMin, time.Millisecond, day},
		{"check_update_interval", c.CheckUpdateInterval, 0, day},
		{"raft_snapshot_interval", c.RaftSnapshotInterval, time.Second, day},
		{"autopilot.last_contact_threshold", c.Autopilot.LastContactThreshold, time.Millisecond, time.Hour},
		{"autopilot.server_stabilization_time", c.Autopilot.ServerStabilizationTime, 0, day},
		{"member_reservation_timeout", c.MemberReservation, time.Millisecond, 365 * day},
		{"flap_damping.window", c.FlapDamping.Window, time.Second, day},
		{"flap_damping.stable", c.FlapDamping.Stable, time.Second, day},
		{"restart_grace", c.RestartGrace, 0, time.Hour},
		{"guard.window", c.Guard.Window, time.Second, time.Hour},
		{"guard.hold", c.Guard.Hold, time.Second, day},
		{"performance.leave_drain_time", c.Performance.LeaveDrainTime, 0, time.Hour},
		{"performance.rpc_hold_timeout", c.Performance.RPCHoldTimeout, 0, time.Hour},
		{"limits.https_handshake_timeout", c.Limits.HTTPSHandshakeTimeout, time.Millisecond, time.Hour},
		{"limits.rpc_handshake_timeout", c.Limits.RPCHandshakeTimeout, time.Millisecond, time.Hour},
		{"limits.rpc_client_timeout", c.Limits.RPCClientTimeout, time.Millisecond, day},
		{"dns_config.max_stale", c.DNS.MaxStale, 0, 0},
		{"dns_config.node_ttl", c.DNS.NodeTTL, 0, 365 * day},
		{"dns_config.recursor_timeout", c.DNS.RecursorTimeout, time.Millisecond, time.Minute},
		{"gossip_lan.gossip_interval", c.GossipLAN.GossipInterval, time.Millisecond, time.Minute},
		{"gossip_lan.probe_interval", c.GossipLAN.ProbeInterval, time.Millisecond, time.Hour},
		{"gossip_lan.probe_timeout", c.GossipLAN.ProbeTimeout, time.Millisecond, time.Hour},
		{"telemetry.prometheus_retention_time", c.Telemetry.PrometheusRetention, 0, 0},
	} {
		v.duration(one.key, one.d, one.least, one.most)
	}
	for _, name := range sortedKeys(c.DNS.ServiceTTL) {
		v.duration("dns_config.service_ttl."+name, c.DNS.ServiceTTL[name], 0, 365*day)
	}
	if c.DefaultQueryTime > c.MaxQueryTime {
		v.bad("default_query_time", "expected at most max_query_time (%s), got %s", c.MaxQueryTime, c.DefaultQueryTime)
	}
}

func (v *validator) duration(key string, d, least, most time.Duration) {
	switch {
	case d < least:
		v.bad(key, "expected %s or more, got %s", least, d)
	case most > 0 && d > most:
		v.bad(key, "expected %s or less, got %s", most, d)
	}
}

// numbers checks the whole numbers.
func (v *validator) numbers() {
	c := v.c
	const big = math.MaxInt32
	for _, one := range []struct {
		key            string
		n, least, most int
	}{
		{"retry_max", c.RetryMax, 0, big},
		{"performance.raft_multiplier", c.Performance.RaftMultiplier, 1, 10},
		{"raft_snapshot_threshold", c.RaftSnapshotThreshold, 1, big},
		{"autopilot.max_trailing_logs", c.Autopilot.MaxTrailingLogs, 0, big},
		{"autopilot.min_quorum", c.Autopilot.MinQuorum, 0, 1000},
		{"flap_damping.changes", c.FlapDamping.Changes, 0, 1000},
		{"guard.min_instances", c.Guard.MinInstances, 2, big},
		{"guard.max_percent", c.Guard.MaxPercent, 1, 99},
		{"raft_trailing_logs", c.RaftTrailingLogs, 1, big},
		{"last_known_good.max_entries", c.LastKnownGood.MaxEntries, 1, 1_000_000},
		{"last_known_good.max_bytes", c.LastKnownGood.MaxBytes, 64 << 10, big},
		{"shared_views.max_views", c.SharedViews.MaxViews, 0, 1_000_000},
		{"shared_views.max_bytes", c.SharedViews.MaxBytes, 64 << 10, big},
		{"watch_history_events", c.WatchHistoryEvents, 1, 100_000_000},
		{"watch_history_bytes", c.WatchHistoryBytes, 64 << 10, big},
		{"check_output_max_size", c.CheckOutputMaxSize, 1, 1 << 20},
		{"http_config.max_header_bytes", c.HTTP.MaxHeaderBytes, 0, 64 << 20},
		{"limits.http_max_conns_per_client", c.Limits.HTTPMaxConnsPerClient, 0, big},
		{"limits.kv_max_value_size", c.Limits.KVMaxValueSize, 1, 64 << 20},
		{"limits.txn_max_req_len", c.Limits.TxnMaxReqLen, 1, 64 << 20},
		{"limits.txn_max_ops", c.Limits.TxnMaxOps, 1, 4096},
		{"limits.rpc_max_burst", c.Limits.RPCMaxBurst, 1, big},
		{"dns_config.udp_answer_limit", c.DNS.UDPAnswerLimit, 1, 1000},
		{"dns_config.a_record_limit", c.DNS.ARecordLimit, 0, 65535},
		{"dns_config.udp_client_rate", c.DNS.UDPClientRate, 0, 1 << 30},
		{"dns_config.soa.refresh", c.DNS.SOA.Refresh, 0, big},
		{"dns_config.soa.retry", c.DNS.SOA.Retry, 0, big},
		{"dns_config.soa.expire", c.DNS.SOA.Expire, 0, big},
		{"dns_config.soa.min_ttl", c.DNS.SOA.MinTTL, 0, big},
		{"gossip_lan.gossip_nodes", c.GossipLAN.GossipNodes, 1, 100},
		{"gossip_lan.suspicion_mult", c.GossipLAN.SuspicionMult, 1, 100},
		{"gossip_lan.retransmit_mult", c.GossipLAN.RetransmitMult, 1, 100},
	} {
		if one.n < one.least || one.n > one.most {
			v.bad(one.key, "expected a number from %d to %d, got %d", one.least, one.most, one.n)
		}
	}
	if n := c.Limits.RPCMaxConnsPerClient; n != 0 && (n < 16 || n > math.MaxInt32) {
		v.bad("limits.rpc_max_conns_per_client", "expected connections from 16 (what servers need of one another) to %d, or 0 for any number, got %d", math.MaxInt32, n)
	}
	for key, n := range map[string]int{
		"limits.rpc_rate": c.Limits.RPCRate, "limits.request_limits.read_rate": c.Limits.RequestLimits.ReadRate, "limits.request_limits.write_rate": c.Limits.RequestLimits.WriteRate,
	} {
		if n != -1 && (n < 1 || n > maxRate) {
			v.bad(key, "expected requests a second from 1 to %d, or -1 for any number, got %d", maxRate, n)
		}
	}
}

// maxRate bounds rates, in requests a second: more than any machine answers.
const maxRate = 100_000_000

// maxClientURLs bounds the client URLs of one server: gossip carries them to everybody.
const maxClientURLs = 200

// words checks the texts that must be one of a few, or have a form.
func (v *validator) words() {
	c := v.c
	switch c.LogLevel = strings.ToLower(c.LogLevel); c.LogLevel {
	case "trace", "debug", "info", "warn", "error":
	case "err":
		c.LogLevel = "error"
	default:
		v.bad("log_level", "expected trace, debug, info, warn or error, got %q", c.LogLevel)
	}
	if s := c.Limits.RequestLimits.Mode; s != limitsDisabled && s != limitsPermissive && s != limitsEnforcing {
		v.bad("limits.request_limits.mode", "expected disabled, permissive or enforcing, got %q", s)
	}
	if s := c.DNS.RecursorStrategy; s != "sequential" && s != "random" {
		v.bad("dns_config.recursor_strategy", "expected sequential or random, got %q", s)
	}
	for key, list := range map[string][]string{"http_config.allow_write_http_from": c.HTTP.AllowWriteHTTPFrom, "serf_lan_allowed_cidrs": c.SerfLANAllowed} {
		for i, cidr := range list {
			if _, err := netip.ParsePrefix(cidr); err != nil {
				v.bad(fmt.Sprintf("%s[%d]", key, i), "expected a network such as 10.0.0.0/8, got %q", cidr)
			}
		}
	}
	if own, err := netip.ParseAddr(c.AdvertiseAddr); err == nil && len(c.SerfLANAllowed) > 0 && !slices.ContainsFunc(prefixes(c.SerfLANAllowed), func(p netip.Prefix) bool { return p.Contains(own) }) {
		v.bad("serf_lan_allowed_cidrs", "expected a network with this agent's own address %s in it", own)
	}
	v.origins()
	c.AdvertiseClientURLs = strings.FieldsFunc(strings.Join(c.AdvertiseClientURLs, ","), func(r rune) bool { return r == ',' || r == ' ' })
	for i, u := range c.AdvertiseClientURLs {
		if asURL(u) == nil {
			v.bad(fmt.Sprintf("advertise_client_urls[%d]", i), "expected a URL such as http://10.0.0.1:2379, got %q", u)
		}
	}
	if n := len(strings.Join(c.AdvertiseClientURLs, ",")); n > maxClientURLs {
		v.bad("advertise_client_urls", "expected %d characters or less, got %d", maxClientURLs, n)
	}
	for i, p := range c.HTTP.BlockEndpoints {
		if !strings.HasPrefix(p, "/") {
			v.bad(fmt.Sprintf("http_config.block_endpoints[%d]", i), "expected a path that begins with a slash, got %q", p)
		}
	}
	for i, f := range c.Telemetry.PrefixFilter {
		if len(f) < 2 || f[0] != '+' && f[0] != '-' {
			v.bad(fmt.Sprintf("telemetry.prefix_filter[%d]", i), "expected + or - and a prefix, got %q", f)
		}
	}
}

// origins splits the lists given as one text, and checks each as what a browser would send.
func (v *validator) origins() {
	c := v.c
	c.CORS = strings.FieldsFunc(strings.Join(c.CORS, ","), func(r rune) bool { return r == ',' || r == ' ' })
	for _, o := range c.CORS {
		u, err := url.Parse(o)
		if o != "*" && (err != nil || u.Host == "" || u.Scheme+"://"+u.Host != o) {
			v.bad("cors", "expected * or an origin such as https://ui.example:8443, got %q", o)
		}
	}
}

// upstreams checks the local ports.
func (v *validator) upstreams() {
	seen := map[string]int{}
	for i := range v.c.Upstreams {
		c, key := &v.c.Upstreams[i], fmt.Sprintf("upstreams[%d]", i)
		if err := c.check(v.c.Datacenter); err != nil {
			v.bad(key, "%v", err)
			continue
		}
		if j, twice := seen[c.Listen]; twice {
			v.bad(key, "listens at %s, as upstreams[%d] does", c.Listen, j)
		}
		seen[c.Listen] = i
		if !c.local() {
			v.warn(key, "%s is reachable from other machines: whoever can connect reaches the service as this machine does", c.Listen)
		}
	}
}

// definitions checks services and checks with the registry's own rules.
func (v *validator) definitions() {
	for i := range v.c.Watches {
		if err := v.c.Watches[i].check(v.c.Datacenter); err != nil {
			v.bad(fmt.Sprintf("watches[%d]", i), "%v", err)
		}
	}
	may := rules{v.c.EnableScriptChecks || v.c.EnableLocalScriptChecks, new(health.Host)}
	seen := map[string]bool{}
	for i := range v.c.Services {
		key := fmt.Sprintf("services[%d]", i)
		s, err := normaliseService(v.c.Services[i], may)
		if err != nil {
			v.bad(key, "%v", err)
			continue
		}
		if seen[s.ID] {
			v.bad(key, "a service with the id %q is defined already", s.ID)
		}
		seen[s.ID] = true
	}
	for i := range v.c.Checks {
		key := fmt.Sprintf("checks[%d]", i)
		def := v.c.Checks[i]
		if _, err := normaliseCheck(def, may); err != nil {
			v.bad(key, "%v", err)
		} else if def.ServiceID != "" && !seen[def.ServiceID] {
			v.bad(key, "no service with the id %q is defined in the configuration", def.ServiceID)
		}
	}
}
