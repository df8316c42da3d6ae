package agent

import "strings"

const (
	noMesh      = "accepted and unused: there is no service mesh here"
	noWAN       = "accepted and unused: this agent joins no other datacenter"
	noTelemetry = "accepted and unused: metrics are offered at /v1/agent/metrics and /metrics, not pushed"
	noLogFile   = "accepted and unused: the log goes to standard error, for the service manager to keep"
	noUI        = "accepted and unused: whether the UI is there is not configurable"
	noNeed      = "accepted and unused: the matter is settled in another way here"
	notYet      = "accepted and unused: this agent does not have the feature"
)

// ignored are the keys of the dialect's configuration files that this agent accepts, so that existing files load,
// and has no use for. A block covers everything below it. Each use is a Warning with the text.
var ignored = map[string]string{
	"addresses.grpc": noMesh, "addresses.grpc_tls": noMesh,
	"acl_datacenter": noWAN, "audit": notYet, "experiments": noNeed, "ports.proxy_max_port": noMesh, "ports.proxy_min_port": noMesh,
	"advertise_addr_ipv4": noNeed, "advertise_addr_ipv6": noNeed, "advertise_addr_wan_ipv4": noWAN, "advertise_addr_wan_ipv6": noWAN,
	"advertise_reconnect_timeout": notYet, "auto_config": noMesh, "auto_encrypt": noMesh, "auto_reload_config": notYet,
	"autopilot.disable_upgrade_migration": noNeed, "autopilot.redundancy_zone_tag": noNeed, "autopilot.upgrade_version_tag": noNeed,
	"cache": noNeed, "cloud": noMesh, "config_entries": noMesh, "connect.ca_config.provider": noMesh, "connect.ca_provider": noMesh,
	"connect.enable_mesh_gateway_wan_federation": noMesh, "connect.enable_serverless_plugin": noMesh, "connect.test_ca_leaf_root_change_spread": noMesh,
	"disable_anonymous_signature": noNeed, "disable_host_node_id": noNeed,
	"disable_http_unprintable_char_filter": noNeed, "disable_remote_exec": noNeed, "disable_update_check": noNeed,
	"dns_config.cache_max_age": noNeed, "dns_config.prefer_namespace": noNeed, "dns_config.use_cache": noNeed,
	"enable_central_service_config": noMesh, "enable_syslog": noLogFile,
	"gossip_wan": noWAN, "http_config.use_cache": noNeed, "license_path": noNeed,
	"log_file": noLogFile, "log_rotate_bytes": noLogFile, "log_rotate_duration": noLogFile, "log_rotate_max_files": noLogFile,
	"peering": noMesh, "ports.expose_max_port": noMesh, "ports.expose_min_port": noMesh, "ports.grpc": noMesh,
	"ports.grpc_tls": noMesh, "ports.sidecar_max_port": noMesh, "ports.sidecar_min_port": noMesh,
	"primary_datacenter": noWAN, "primary_gateways": noMesh, "primary_gateways_interval": noMesh, "protocol": noNeed,
	"raft_logstore": noNeed, "raft_protocol": noNeed, "reconnect_timeout_wan": noWAN,
	"retry_interval_wan": noWAN, "retry_join_wan": noWAN, "retry_max_wan": noWAN, "rpc": noNeed, "segment": notYet, "segments": notYet,
	"serf_wan": noWAN, "serf_wan_allowed_cidrs": noWAN,
	"server_rejoin_age_max": noNeed, "services.connect": noMesh, "services.proxy": noMesh,
	"start_join_wan": noWAN, "syslog_facility": noLogFile,
	"telemetry.circonus_api_token": noTelemetry, "telemetry.disable_compat_1.9": noTelemetry, "telemetry.disable_per_tenancy_usage_metrics": noTelemetry,
	"telemetry.dogstatsd_addr": noTelemetry, "telemetry.dogstatsd_tags": noTelemetry, "telemetry.enable_host_metrics": noTelemetry,
	"telemetry.retry_failed_connection": noTelemetry, "telemetry.statsd_address": noTelemetry, "telemetry.statsite_address": noTelemetry,
	"tls.grpc": noMesh, "tls_prefer_server_cipher_suites": "accepted and unused: the better of the suites that both sides have is chosen",
	"translate_wan_addrs": noWAN, "ui": noUI, "ui_config": noUI, "ui_content_path": noUI, "ui_dir": noUI,
	"unix_sockets": "accepted and unused: who may use a socket is settled by the directory it is in", "use_streaming_backend": noNeed, "version": noNeed, "xds": noMesh,
}

// idle are the keys that are read and checked like any other, because their values must make sense when they begin
// to matter, but that change nothing yet. Each use is a Warning with the text.
var idle = map[string]string{
	"limits.https_handshake_timeout": "accepted and unused: the limit of a request's header covers the handshake",
	"limits.rpc_client_timeout":      noNeed,
	"ports.serf_wan":                 noWAN,
}

// ignoredKey looks a key path up in ignored; indexes of list elements do not count.
func ignoredKey(path string) (text string, ok bool) {
	if strings.Contains(path, "[") {
		var b strings.Builder
		for part := range strings.SplitSeq(path, "[") {
			if _, after, found := strings.Cut(part, "]"); found {
				part = after
			}
			b.WriteString(part)
		}
		path = b.String()
	}
	if strings.HasPrefix(path, "telemetry.circonus_") {
		return noTelemetry, true
	}
	text, ok = ignored[path]
	return text, ok
}

// refusedKeys would change what is safe if they were quietly ignored: the function gives the error, or "" when the
// value asks for nothing that is missing.
var refusedKeys = map[string]func(raw any) string{
	"read_replica": func(raw any) string {
		if on, _ := asBool(raw); on {
			return "a server without a vote is not available: every server votes once it has caught up. Use a proxy, or leave it out"
		}
		return ""
	},
	"acl_default_policy": func(raw any) string {
		if raw == "deny" {
			return "access control is switched on in the acl block: acl { default_policy = \"deny\" }"
		}
		return ""
	},
	"acl": func(raw any) string {
		for _, one := range asList(raw) {
			block, _ := one.(map[string]any)
			if on, _ := asBool(block["enabled"]); on {
				return "access control is not available: remove the block or set enabled = false, and protect the ports instead"
			}
		}
		return ""
	},
}

// oldTLSKeys are top-level keys of older files and where they live now.
var oldTLSKeys = map[string][2]string{
	"ca_file": {"defaults", "ca_file"}, "ca_path": {"defaults", "ca_path"}, "cert_file": {"defaults", "cert_file"},
	"key_file": {"defaults", "key_file"}, "tls_min_version": {"defaults", "tls_min_version"}, "tls_cipher_suites": {"defaults", "tls_cipher_suites"},
	"verify_incoming": {"defaults", "verify_incoming"}, "verify_outgoing": {"defaults", "verify_outgoing"},
	"verify_incoming_rpc": {"internal_rpc", "verify_incoming"}, "verify_incoming_https": {"https", "verify_incoming"},
	"verify_server_hostname": {"internal_rpc", "verify_server_hostname"},
}

// ignoredFlags are flags of the dialect's agent that are accepted with a warning; true: the flag takes no value.
var ignoredFlags = map[string]bool{
	"auto-reload-config": true, "disable-host-node-id": true, "syslog": true, "ui": true,
	"grpc-port": false, "grpc-tls-port": false, "join-wan": false, "log-file": false, "log-rotate-bytes": false,
	"log-rotate-duration": false, "log-rotate-max-files": false, "primary-gateway": false, "protocol": false,
	"raft-protocol": false, "retry-interval-wan": false, "retry-join-wan": false, "retry-max-wan": false,
	"serf-wan-allowed-cidrs": false, "serf-wan-bind": false,
	"ui-content-path": false, "ui-dir": false,
}
