package agent

import (
	"time"

	"github.com/musterhq/muster/api/consul"
	"github.com/musterhq/muster/catalog"
	"github.com/musterhq/muster/health"
)

// Config is everything an agent can be told, in one struct. Load and LoadPaths fill it: built-in defaults, then the
// defaults of -dev, then configuration files, then MUSTER_… environment variables, then flags, then -hcl fragments.
// A `key` tag is the name in a configuration file, a `flag` tag the name on the command line. After Load every
// address is resolved (no templates left) and every rule of config_validate.go holds.
type Config struct {
	// NodeName is this machine's name in the cluster, unique without regard to case, 1 to 128 characters of letters,
	// digits, dash, underscore and dot. Names that are no DNS label work but cannot be looked up by DNS (a warning).
	// Default: the host name.
	NodeName string `key:"node_name" flag:"node" usage:"name of this node; default the host name"`

	// NodeID is this machine's UUID. Default: the file node-id in the data directory, made at the first start.
	NodeID string `key:"node_id" flag:"node-id" usage:"UUID of this node; default kept in the data directory"`

	// NodeMeta are up to 64 pairs put on the node's catalog record; keys to 128 characters of letters, digits, dash
	// and underscore, values to 512 bytes; keys that begin with "consul-" are reserved. Default: none.
	NodeMeta map[string]string `key:"node_meta" flag:"node-meta" usage:"key:value to put on this node; may be repeated"`

	// Locality says where this machine stands, on its catalog record. Default: none.
	Locality *catalog.Locality `key:"locality"`

	// Datacenter is the name of the cluster this agent belongs to: lower-case letters, digits, dash and underscore,
	// up to 63. Default: dc1.
	Datacenter string `key:"datacenter" flag:"datacenter" usage:"name of the datacenter"`

	// Domain is the DNS suffix answered here, AltDomain a second one. Defaults: "consul." and none.
	Domain    string `key:"domain" flag:"domain" usage:"domain answered by the DNS server"`
	AltDomain string `key:"alt_domain" flag:"alt-domain" usage:"second domain answered by the DNS server"`

	// DataDir is the directory for all state, made when missing. Required unless DevMode. Default: none.
	DataDir string `key:"data_dir" flag:"data-dir" usage:"directory for all state; required unless -dev"`

	// DevMode (only by -dev or MUSTER_DEV) is a single server in memory on the loopback address that serves
	// profiles. Default: false.
	DevMode bool

	// ForceNewCluster (only by -force-new-cluster or MUSTER_FORCE_NEW_CLUSTER) makes a cluster of this server alone out
	// of the data it has, or out of a backup: the way back after the loss of a quorum. Default: false.
	ForceNewCluster bool

	// Server makes this agent a server: a member of the consensus that holds the data. Otherwise it is a proxy.
	// Default: false.
	Server bool `key:"server" flag:"server" usage:"be a server: hold the data and vote"`

	// Proxy says in so many words that this agent is no server; together with Server it is an error. Default: false,
	// and an agent that is not told to be a server is a proxy all the same.
	Proxy bool `key:"proxy" flag:"proxy" usage:"be a proxy (the default): hold no data, forward to the servers"`

	// ProxyReadOnly makes a proxy answer 501 to every request for the cluster that is no GET; what this machine itself
	// registers is not touched. Together with Server it is an error. Default: false.
	ProxyReadOnly bool `key:"proxy_read_only" flag:"proxy-read-only" usage:"as a proxy, answer 501 to clients' writes"`

	// Bootstrap lets this single server elect itself. BootstrapExpect is the number of servers to wait for before
	// the cluster forms itself, once; 0 joins an existing cluster. Servers only; not both. Defaults: false and 0.
	Bootstrap       bool `key:"bootstrap" flag:"bootstrap" usage:"let this one server elect itself"`
	BootstrapExpect int  `key:"bootstrap_expect" flag:"bootstrap-expect" usage:"number of servers to wait for before forming a cluster"`

	// BindAddr is the address of the server port and of gossip. Any-addresses are allowed; then AdvertiseAddr tells
	// what others use. Accepts an address template. Default: 0.0.0.0 (127.0.0.1 with -dev).
	BindAddr string `key:"bind_addr" flag:"bind" usage:"address (or template) for server and gossip ports"`

	// SerfLAN is the address of gossip where it is not BindAddr. SerfLANAllowed are the networks (CIDR) whose agents are taken
	// as members; this agent is in one of them. Against readers there is Encrypt. Defaults: BindAddr, and none: everybody.
	SerfLAN        string   `key:"serf_lan" flag:"serf-lan-bind" usage:"address (or template) of gossip; default -bind"`
	SerfLANAllowed []string `key:"serf_lan_allowed_cidrs" flag:"serf-lan-allowed-cidrs" usage:"network (CIDR) whose agents are taken as members; may be repeated"`

	// AdvertiseAddr is the address others reach this agent at; never an any-address after Load. Accepts a template.
	// Default: BindAddr, or the machine's only private IPv4 address when that is an any-address; with several such
	// addresses the start is refused with their list.
	AdvertiseAddr    string `key:"advertise_addr" flag:"advertise" usage:"address (or template) told to other agents"`
	AdvertiseAddrWAN string `key:"advertise_addr_wan" flag:"advertise-wan" usage:"address told to other datacenters; default -advertise"`

	// ClientAddr is the address, or several separated by spaces, of the client interfaces (HTTP, HTTPS, etcd, DNS).
	// Accepts templates; after Load it is a plain list separated by spaces. Default: 127.0.0.1.
	ClientAddr string `key:"client_addr" flag:"client" usage:"addresses (or template) of the HTTP, etcd and DNS interfaces"`

	// Addresses overrides ClientAddr per interface; http, https and etcd may also name unix:///path. Default: empty.
	Addresses Addresses `key:"addresses"`

	// Ports of all listeners; -1 turns one off.
	Ports Ports `key:"ports"`

	// AdvertiseClientURLs are what clients of the hierarchical dialect are told to reach this server at, in its list
	// of members. Default: the listeners of the etcd interface, with AdvertiseAddr for any-addresses.
	AdvertiseClientURLs []string `key:"advertise_client_urls" flag:"advertise-client-urls" usage:"client URLs told to etcd clients, separated by commas"`

	// TaggedAddresses are further names for this node's address in its catalog record. Defaults after Load: lan, wan
	// and the variants by family, from AdvertiseAddr and AdvertiseAddrWAN.
	TaggedAddresses map[string]string `key:"tagged_addresses"`

	// RetryJoin are hosts (with optional port; names, addresses or templates) to join through, tried until one
	// answers. RetryInterval is the pause between rounds, RetryMax the number of rounds before the agent gives up and
	// exits, 0 for never. Defaults: none, 30s, 0.
	RetryJoin     []string      `key:"retry_join" flag:"retry-join" usage:"host[:port] to join, tried again until it answers; may be repeated"`
	RetryInterval time.Duration `key:"retry_interval" flag:"retry-interval" usage:"pause between rounds of joining"`
	RetryMax      int           `key:"retry_max" flag:"retry-max" usage:"rounds of joining before giving up; 0 = for ever"`

	// StartJoin are hosts to join once at start; failing is an error. Default: none.
	StartJoin []string `key:"start_join" flag:"join" usage:"host[:port] to join once at start; may be repeated"`

	// RejoinAfterLeave makes an agent that left on purpose join its former cluster again at the next start.
	// Default: false.
	RejoinAfterLeave bool `key:"rejoin_after_leave" flag:"rejoin" usage:"join the former cluster even after a leave"`

	// LeaveOnTerminate and SkipLeaveOnInterrupt decide what SIGTERM and SIGINT do. Defaults: false and true, an agent
	// stops without leaving on both: a restart must change nothing in the catalog.
	LeaveOnTerminate     bool `key:"leave_on_terminate"`
	SkipLeaveOnInterrupt bool `key:"skip_leave_on_interrupt"`

	// RestartGrace is how long the node of an agent that stops without leaving stays as it is in the catalog: a restart
	// within it is not seen by anybody. An agent that dies, and a machine that falls silent, get none. The leader's value
	// counts; 0 is none. Default: 30s.
	RestartGrace time.Duration `key:"restart_grace"`

	// ReconnectTimeout is how long a failed member stays known before it is reaped; at least 8h. Default: 72h.
	ReconnectTimeout time.Duration `key:"reconnect_timeout"`

	// PidFile receives the process id and is removed at the end. Default: none.
	PidFile string `key:"pid_file" flag:"pid-file" usage:"file to write the process id to"`

	// Encrypt is the gossip key: base64 of 16, 24 or 32 bytes. A keyring in the data directory wins over it later.
	// EncryptVerifyIncoming and EncryptVerifyOutgoing refuse plain gossip. DisableKeyringFile keeps keys in memory.
	// Defaults: none, true, true, false.
	Encrypt               string `key:"encrypt" flag:"encrypt" secret:"true" usage:"gossip key, base64 of 16, 24 or 32 bytes"`
	EncryptVerifyIncoming bool   `key:"encrypt_verify_incoming"`
	EncryptVerifyOutgoing bool   `key:"encrypt_verify_outgoing"`
	DisableKeyringFile    bool   `key:"disable_keyring_file" flag:"disable-keyring-file" usage:"keep gossip keys in memory only"`

	// Connect makes the cluster show a root certificate to clients that wait for one; there is no service mesh.
	Connect Connect `key:"connect"`

	// TLS of the internal port and of HTTPS.
	TLS TLS `key:"tls"`

	// Recursors are DNS servers (host or host:port, default port 53) for names outside our domains. Default: none.
	Recursors []string `key:"recursors" flag:"recursor" usage:"DNS server for other names; may be repeated"`

	// DNS are the details of the DNS interface.
	DNS DNSConfig `key:"dns_config"`

	// HTTP are the details of the HTTP interfaces.
	HTTP HTTPConfig `key:"http_config"`

	// CORS are the origins ("https://ui.example:8443") whose web pages may call this agent from a browser, "*" for
	// every page; a flag may name several separated by commas. Default: none.
	CORS []string `key:"cors" flag:"cors" usage:"origins whose web pages may call, separated by commas; * = all"`

	// WatchHistoryEvents and WatchHistoryBytes bound what a server remembers of the changes of user keys, for
	// watches into the past; whichever is reached first. All servers should have the same. Defaults: 200,000 events,
	// 16 MiB.
	WatchHistoryEvents int `key:"watch_history_events" flag:"watch-history-events" usage:"changes of keys remembered for watches into the past"`
	WatchHistoryBytes  int `key:"watch_history_bytes" flag:"watch-history-bytes" usage:"bytes those changes may take"`

	// LastKnownGood is what a proxy answers when no server can be reached.
	LastKnownGood LastKnownGood `key:"last_known_good"`

	// SharedViews are the blocking queries and watches that a proxy follows for all clients of its machine.
	SharedViews SharedViews `key:"shared_views"`

	// Limits bound what clients may take.
	Limits Limits `key:"limits"`

	// Performance tunes the consensus.
	Performance Performance `key:"performance"`

	// RaftSnapshotThreshold is the number of log entries, RaftSnapshotInterval the time between looks whether that
	// many have come since the last snapshot; RaftTrailingLogs entries stay in the log after one. Defaults: 16384,
	// 30s, 10240.
	RaftSnapshotThreshold int           `key:"raft_snapshot_threshold"`
	RaftSnapshotInterval  time.Duration `key:"raft_snapshot_interval"`
	RaftTrailingLogs      int           `key:"raft_trailing_logs"`

	// Autopilot is what the leader does about servers that come and die, until an operator says otherwise by request.
	Autopilot Autopilot `key:"autopilot"`

	// MemberReservation is how long a server announced by an etcd client (member add) may take to come before the
	// announcement is forgotten. Default: 1h.
	MemberReservation time.Duration `key:"member_reservation_timeout"`

	// Guard is the mass-removal guard.
	Guard GuardConfig `key:"guard"`

	// GossipLAN tunes the gossip pool.
	GossipLAN GossipConfig `key:"gossip_lan"`

	// DefaultQueryTime is how long a blocking query waits that names no time, MaxQueryTime the most that any may ask
	// for. Defaults: 300s, 600s.
	DefaultQueryTime time.Duration `key:"default_query_time" flag:"default-query-time" usage:"wait of a blocking query that names none"`
	MaxQueryTime     time.Duration `key:"max_query_time" flag:"max-query-time" usage:"longest wait of a blocking query"`

	// DiscoveryMaxStale, when not 0, lets catalog and health reads be answered by any server whose data is at most
	// that old. Default: 0.
	DiscoveryMaxStale time.Duration `key:"discovery_max_stale"`

	// DisableCoordinates ends the estimation of round-trip times, and with it ?near and /v1/coordinate. Default: false.
	DisableCoordinates bool `key:"disable_coordinates"`

	// SessionTTLMin is the shortest TTL a session may ask for. Default: 10s.
	SessionTTLMin time.Duration `key:"session_ttl_min"`

	// CheckUpdateInterval is how long a change of a check's output alone may wait before the catalog learns of it;
	// 0 sends it at once. Status changes never wait. Default: 5m.
	CheckUpdateInterval time.Duration `key:"check_update_interval"`

	// CheckOutputMaxSize is how many bytes of output are kept of a check that names no size. DiscardCheckOutput keeps
	// none at all. Defaults: 4096, false.
	CheckOutputMaxSize int  `key:"check_output_max_size" flag:"check_output_max_size" usage:"bytes of output kept of a check"`
	DiscardCheckOutput bool `key:"discard_check_output"`

	// FlapDamping holds flapping checks of this machine in their worst status. Default: off.
	FlapDamping FlapDamping `key:"flap_damping"`

	// EnableScriptChecks allows checks that run programs, from files and from the HTTP API; EnableLocalScriptChecks
	// from files only. Defaults: false.
	EnableScriptChecks      bool `key:"enable_script_checks" flag:"enable-script-checks" usage:"allow checks that run programs, from files and the API"`
	EnableLocalScriptChecks bool `key:"enable_local_script_checks" flag:"enable-local-script-checks" usage:"allow checks that run programs, from files only"`
	// EnableAgentTLSForChecks lets checks with TLS use the authorities and the certificate of tls.internal_rpc.
	EnableAgentTLSForChecks bool `key:"enable_agent_tls_for_checks"`

	// EnableDebug serves profiles at /debug/pprof/. Default: false (true with -dev).
	EnableDebug bool `key:"enable_debug"`

	// Upstreams are local ports for services that run elsewhere. `upstream` blocks are collected here.
	Upstreams []UpstreamConfig `key:"upstreams"`

	// Watches run a handler for each new state of something. They are started anew by a reload.
	Watches []WatchConfig `key:"watches"`

	// Services and Checks are registered on this machine for as long as the files say so. `service` and `check`
	// blocks are collected here too.
	Services []consul.ServiceDefinition `key:"services"`
	Checks   []consul.CheckDefinition   `key:"checks"`

	// LogLevel is trace, debug, info, warn or error; LogJSON writes one JSON object a line. The log goes to standard
	// error. Defaults: info, false.
	LogLevel string `key:"log_level" flag:"log-level" usage:"trace, debug, info, warn or error"`
	LogJSON  bool   `key:"log_json" flag:"log-json" usage:"log in JSON"`

	// Telemetry says what is done with metrics.
	Telemetry Telemetry `key:"telemetry"`

	// ConfigFiles are the files and directories this Config was read from, in order; a reload reads them again.
	ConfigFiles []string

	origins map[string]string // key path -> where it was set last, for error texts
}

// Ports of the listeners: 1 to 65535, or -1 for off. Every agent needs SerfLAN, and a server Server.
type Ports struct {
	HTTP    int `key:"http" flag:"http-port" usage:"port of the HTTP interface"`                              // 8500
	HTTPS   int `key:"https" flag:"https-port" usage:"port of the HTTPS interface"`                           // -1
	Etcd    int `key:"etcd" flag:"etcd-port" usage:"port of the etcd interface"`                              // 2379
	DNS     int `key:"dns" flag:"dns-port" usage:"port of the DNS interface"`                                 // 8600
	DNSTLS  int `key:"dns_tls" flag:"dns-tls-port" usage:"port of DNS over TLS"`                              // -1
	Server  int `key:"server" flag:"server-port" usage:"port between agents"`                                 // 8300
	SerfLAN int `key:"serf_lan" flag:"serf-lan-port" usage:"port of gossip"`                                  // 8301
	SerfWAN int `key:"serf_wan" flag:"serf-wan-port" usage:"port of gossip between datacenters, kept for it"` // 8302
}

// Addresses overrides Config.ClientAddr for single interfaces; several are separated by spaces.
type Addresses struct {
	HTTP  string `key:"http"`
	HTTPS string `key:"https"`
	Etcd  string `key:"etcd"`
	DNS   string `key:"dns"`
}

// TLS holds certificates; InternalRPC and HTTPS inherit from Defaults whatever they do not set themselves.
type TLS struct {
	Defaults    TLSConfig `key:"defaults"`
	InternalRPC TLSConfig `key:"internal_rpc"`
	HTTPS       TLSConfig `key:"https"`
}

// TLSConfig is one set of certificates. CAFile and CAPath (a directory) name PEM files of trusted authorities,
// CertFile and KeyFile our own pair. VerifyIncoming wants a certificate from clients, VerifyOutgoing checks the
// server's, VerifyServerHostname also its name server.<dc>.<domain>. MinVersion is TLSv1_2 (default) or TLSv1_3. CipherSuites
// names what TLS 1.2 may use, separated by commas; default: the safe suites of Go.
type TLSConfig struct {
	CAFile               string `key:"ca_file"`
	CAPath               string `key:"ca_path"`
	CertFile             string `key:"cert_file"`
	KeyFile              string `key:"key_file"`
	VerifyIncoming       bool   `key:"verify_incoming"`
	VerifyOutgoing       bool   `key:"verify_outgoing"`
	VerifyServerHostname bool   `key:"verify_server_hostname"`
	MinVersion           string `key:"tls_min_version"`
	CipherSuites         string `key:"tls_cipher_suites"`

	suites      []uint16 // what CipherSuites names; nil: those of package crypto/tls
	acceptPlain bool     // verify_incoming = false was said: connections without TLS are taken, too
	dialPlain   bool     // verify_outgoing = false was said: connections are opened without TLS
}

// DNSConfig are the keys of dns_config. Durations are times to live; ServiceTTL is by service name, "*" for the
// rest, and a trailing "*" matches by prefix. UDPAnswerLimit is the most A or AAAA answers in one UDP reply
// (default 3), ARecordLimit the most in any (0 = all). MaxStale is how old an answer of a server may be (default
// 87600h), AllowStale lets any server answer (default true).
type DNSConfig struct {
	AllowStale         bool                     `key:"allow_stale"`
	MaxStale           time.Duration            `key:"max_stale"`
	NodeTTL            time.Duration            `key:"node_ttl"`    // 1s
	ServiceTTL         map[string]time.Duration `key:"service_ttl"` // by name, "prefix*" or "*" (1s)
	OnlyPassing        bool                     `key:"only_passing"`
	StableOrder        []string                 `key:"stable_order"` // services, "prefix*" or "*", whose records keep their order
	EnableTruncate     bool                     `key:"enable_truncate"`
	UDPAnswerLimit     int                      `key:"udp_answer_limit"`
	ARecordLimit       int                      `key:"a_record_limit"`
	UDPClientRate      int                      `key:"udp_client_rate"` // questions a second of one address over UDP (10000, 0 = no limit)
	DisableCompression bool                     `key:"disable_compression"`
	RecursorTimeout    time.Duration            `key:"recursor_timeout"`  // 2s
	RecursorStrategy   string                   `key:"recursor_strategy"` // sequential (default) or random
	NodeMetaTXT        bool                     `key:"enable_additional_node_meta_txt"`
	SOA                SOA                      `key:"soa"`
}

// SOA are the numbers of our SOA records, in seconds.
type SOA struct {
	Refresh int `key:"refresh"` // 3600
	Retry   int `key:"retry"`   // 600
	Expire  int `key:"expire"`  // 86400
	MinTTL  int `key:"min_ttl"` // 1: how long "no such name" may be kept
}

// HTTPConfig are the keys of http_config. BlockEndpoints are path prefixes answered with 403, AllowWriteHTTPFrom
// the networks (CIDR) whose clients may write (empty: all), AllowedHosts the names by which clients without TLS may call this
// agent (empty or "*": any; addresses and localhost always), ResponseHeaders are put on every answer, MaxHeaderBytes
// bounds a request's header (0: 1 MiB).
type HTTPConfig struct {
	BlockEndpoints     []string          `key:"block_endpoints"`
	AllowWriteHTTPFrom []string          `key:"allow_write_http_from" flag:"allow-write-http-from" usage:"network (CIDR) that may write; may be repeated"`
	AllowedHosts       []string          `key:"allowed_hosts"`
	ResponseHeaders    map[string]string `key:"response_headers"`
	MaxHeaderBytes     int               `key:"max_header_bytes"`
}

// Limits: HTTPMaxConnsPerClient and RPCMaxConnsPerClient are connections from one address (defaults 200 and 1024, 0 =
// no limit), KVMaxValueSize and TxnMaxReqLen are bytes (512 KiB each), TxnMaxOps are operations of one
// transaction (128). RPCRate is how many requests of its clients a proxy relays in a second (-1, the default, for any
// number), RPCMaxBurst how many at once (1000). The others are times (5s, 5s, 60s).
type Limits struct {
	HTTPMaxConnsPerClient int           `key:"http_max_conns_per_client"`
	HTTPSHandshakeTimeout time.Duration `key:"https_handshake_timeout"`
	RPCHandshakeTimeout   time.Duration `key:"rpc_handshake_timeout"`
	RPCClientTimeout      time.Duration `key:"rpc_client_timeout"`
	RPCMaxConnsPerClient  int           `key:"rpc_max_conns_per_client"`
	KVMaxValueSize        int           `key:"kv_max_value_size"`
	TxnMaxReqLen          int           `key:"txn_max_req_len"`
	TxnMaxOps             int           `key:"txn_max_ops"`
	RPCRate               int           `key:"rpc_rate"`
	RPCMaxBurst           int           `key:"rpc_max_burst"`
	RequestLimits         RequestLimits `key:"request_limits"`
}

// RequestLimits: how many requests of clients a server works on in a second, whichever agent they came through, -1 (the
// default) for any number. Mode is disabled (the default), enforcing, which refuses what is above them, or permissive,
// which only counts and logs it. Ten seconds' worth may come at once.
type RequestLimits struct {
	Mode      string `key:"mode"`
	ReadRate  int    `key:"read_rate"`
	WriteRate int    `key:"write_rate"`
}

// LastKnownGood: a proxy keeps its last good answers about the catalog and health, and about the keys below KVPrefixes
// ("config/", in either dialect; default none), in memory and in the data directory: up to MaxEntries of them (default
// 10000) and MaxBytes (64 MiB), those that nobody asked for longest going first. MaxAge is how long an answer is good
// after a server has confirmed it; 0, the default, for ever. Enabled (default true) false keeps nothing.
type LastKnownGood struct {
	Enabled    bool          `key:"enabled"`
	KVPrefixes []string      `key:"kv_prefixes"`
	MaxAge     time.Duration `key:"max_age"`
	MaxEntries int           `key:"max_entries"`
	MaxBytes   int           `key:"max_bytes"`
}

// SharedViews: a proxy follows up to MaxViews questions (default 4096, 0 shares nothing) whose answers take up to MaxBytes (64
// MiB); whatever is asked beyond is relayed for each client. Linger is how long a view outlives its last client (10s).
type SharedViews struct {
	MaxViews int           `key:"max_views"`
	MaxBytes int           `key:"max_bytes"`
	Linger   time.Duration `key:"linger"`
}

// Performance: RaftMultiplier 1 to 10 stretches the consensus' times (default 1: fast failover on ordinary
// machines), LeaveDrainTime is the pause between saying goodbye and closing (5s), RPCHoldTimeout how long a request
// waits for a leader (7s).
type Performance struct {
	RaftMultiplier int           `key:"raft_multiplier"`
	LeaveDrainTime time.Duration `key:"leave_drain_time"`
	RPCHoldTimeout time.Duration `key:"rpc_hold_timeout"`
}

// FlapDamping: a check that changes its status more than Changes times within Window is held in the worst one until
// nothing has changed for Stable. Changes 0 (default) is off; the others default to 1m and 30s. A check may say
// otherwise with flap_changes, flap_window and flap_stable.
type FlapDamping struct {
	Changes int           `key:"changes"`
	Window  time.Duration `key:"window"`
	Stable  time.Duration `key:"stable"`
}

func (f FlapDamping) rules() health.Damping { return health.Damping(f) }

// Connect is the service mesh, of which only the root certificate exists (false).
type Connect struct {
	Enabled  bool     `key:"enabled"`
	CAConfig CAConfig `key:"ca_config"`
}

// CAConfig names the trust domain of the root certificate; default: the cluster's id.
type CAConfig struct {
	ClusterID string `key:"cluster_id"`
}

// Autopilot: CleanupDeadServers lets the leader remove servers that failed (default true). A server is healthy whose
// last answer is no older than LastContactThreshold (200ms, never less than a heartbeat's patience) and that is at most
// MaxTrailingLogs entries behind (250). ServerStabilizationTime is how long a new server has to be healthy before it
// votes, and a dead one gone before it is removed (10s); a cluster of fewer than three voters does not wait for the
// former. MinQuorum is the number of voters that a removal of the dead must leave (0: three).
type Autopilot struct {
	CleanupDeadServers      bool          `key:"cleanup_dead_servers"`
	LastContactThreshold    time.Duration `key:"last_contact_threshold"`
	MaxTrailingLogs         int           `key:"max_trailing_logs"`
	MinQuorum               int           `key:"min_quorum"`
	ServerStabilizationTime time.Duration `key:"server_stabilization_time"`
}

// GossipConfig tunes memberlist; the numbers are multipliers of log(n) or counts.
type GossipConfig struct {
	GossipInterval time.Duration `key:"gossip_interval"` // 100ms
	GossipNodes    int           `key:"gossip_nodes"`    // 3
	ProbeInterval  time.Duration `key:"probe_interval"`  // 500ms
	ProbeTimeout   time.Duration `key:"probe_timeout"`   // 250ms
	SuspicionMult  int           `key:"suspicion_mult"`  // 4
	RetransmitMult int           `key:"retransmit_mult"` // 4
}

// Telemetry: metrics are always kept in memory for /v1/agent/metrics. MetricsPrefix stands before every name
// (default "consul", so that dashboards fit), DisableHostname (default true) leaves the host name out of gauges, PrometheusRetention
// is how long the Prometheus form keeps a silent metric (0 turns that form off for /v1/agent/metrics), PrefixFilter
// are names with + or - before them and FilterDefault what happens to all others.
type Telemetry struct {
	MetricsPrefix       string        `key:"metrics_prefix"`
	DisableHostname     bool          `key:"disable_hostname"`
	PrometheusRetention time.Duration `key:"prometheus_retention_time"`
	PrefixFilter        []string      `key:"prefix_filter"`
	FilterDefault       bool          `key:"filter_default"`
}

// Defaults gives the built-in configuration: what holds when nobody says otherwise.
func Defaults() Config {
	return Config{
		Datacenter: "dc1", Domain: "consul.", BindAddr: "0.0.0.0", ClientAddr: "127.0.0.1",
		Ports:         Ports{HTTP: 8500, HTTPS: -1, Etcd: 2379, DNS: 8600, DNSTLS: -1, Server: 8300, SerfLAN: 8301, SerfWAN: 8302},
		RetryInterval: 30 * time.Second, ReconnectTimeout: 72 * time.Hour, RestartGrace: 30 * time.Second, FlapDamping: FlapDamping{Window: health.DefaultDampWindow, Stable: health.DefaultDampStable},
		EncryptVerifyIncoming: true, EncryptVerifyOutgoing: true,
		TLS: TLS{Defaults: TLSConfig{MinVersion: "TLSv1_2"}},
		DNS: DNSConfig{
			AllowStale: true, MaxStale: 87600 * time.Hour, EnableTruncate: true, UDPAnswerLimit: 3, UDPClientRate: 10000,
			NodeTTL: time.Second, ServiceTTL: map[string]time.Duration{"*": time.Second},
			RecursorTimeout: 2 * time.Second, RecursorStrategy: "sequential", NodeMetaTXT: true,
			SOA: SOA{Refresh: 3600, Retry: 600, Expire: 86400, MinTTL: 1},
		},
		Limits: Limits{
			HTTPMaxConnsPerClient: 200, HTTPSHandshakeTimeout: 5 * time.Second, RPCHandshakeTimeout: 5 * time.Second,
			RPCClientTimeout: time.Minute, RPCMaxConnsPerClient: 1024, KVMaxValueSize: 512 << 10, TxnMaxReqLen: 512 << 10, TxnMaxOps: 128,
			RPCRate: -1, RPCMaxBurst: 1000, RequestLimits: RequestLimits{Mode: limitsDisabled, ReadRate: -1, WriteRate: -1},
		},
		Performance:           Performance{RaftMultiplier: 1, LeaveDrainTime: 5 * time.Second, RPCHoldTimeout: 7 * time.Second},
		RaftSnapshotThreshold: 16384, RaftSnapshotInterval: 30 * time.Second, RaftTrailingLogs: 10240,
		Autopilot:         Autopilot{CleanupDeadServers: true, LastContactThreshold: 200 * time.Millisecond, MaxTrailingLogs: 250, ServerStabilizationTime: 10 * time.Second},
		MemberReservation: time.Hour, Guard: defaultGuard(),
		GossipLAN: GossipConfig{
			GossipInterval: 100 * time.Millisecond, GossipNodes: 3, ProbeInterval: 500 * time.Millisecond,
			ProbeTimeout: 250 * time.Millisecond, SuspicionMult: 4, RetransmitMult: 4,
		},
		LastKnownGood:      LastKnownGood{Enabled: true, MaxEntries: 10_000, MaxBytes: 64 << 20},
		SharedViews:        SharedViews{MaxViews: 4096, MaxBytes: 64 << 20, Linger: 10 * time.Second},
		WatchHistoryEvents: 200_000, WatchHistoryBytes: 16 << 20,
		DefaultQueryTime: 300 * time.Second, MaxQueryTime: 600 * time.Second, SessionTTLMin: 10 * time.Second,
		CheckUpdateInterval: 5 * time.Minute, CheckOutputMaxSize: 4096, LogLevel: "info", SkipLeaveOnInterrupt: true,
		Telemetry: Telemetry{MetricsPrefix: "consul", DisableHostname: true, FilterDefault: true},
	}
}

// DevDefaults gives what -dev starts from: one server in memory on the loopback address that leads at once.
func DevDefaults() Config {
	c := Defaults()
	c.DevMode, c.Server, c.Bootstrap, c.EnableDebug = true, true, true, true
	c.BindAddr = "127.0.0.1"
	c.Performance.LeaveDrainTime = 0
	c.GossipLAN.GossipInterval, c.GossipLAN.ProbeInterval = 100*time.Millisecond, 100*time.Millisecond
	c.GossipLAN.ProbeTimeout, c.GossipLAN.SuspicionMult = 100*time.Millisecond, 3
	return c
}
