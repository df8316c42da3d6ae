# A server: one of three (or five) that hold the data and elect a leader among them. Install the same file on each
# of them; only addresses differ, and those come from the machine itself.
#
#   muster agent -config-file /etc/muster.d/server.hcl

server     = true
datacenter = "dc1"
data_dir   = "/var/lib/muster"

# The cluster forms itself, once, when this many servers have found each other. All of them must agree.
bootstrap_expect = 3

# Where others reach this machine. Name the interface or the address when there are several private ones; a template
# is resolved at start.
# bind_addr = "{{ GetInterfaceIP \"eth0\" }}"

# Any members to find the others by, tried again until one answers. This machine's own address may be among them.
retry_join = ["10.0.0.1", "10.0.0.2", "10.0.0.3"]

# HTTP (8500), the etcd interface (2379) and DNS (8600) answer on the loopback address only. Add this machine's
# address to serve others: there is no access control yet, so keep these ports inside your network.
client_addr = "127.0.0.1"

# ports {
#   http   = 8500
#   etcd   = 2379
#   dns    = 8600
#   server = 8300    # between agents: forwarded requests and consensus
#   serf_lan = 8301  # gossip, TCP and UDP
# }

# Encrypt gossip: the same key on all members, made by `head -c 32 /dev/urandom | base64`.
# encrypt = "<base64 of 32 random bytes>"

# Encrypt and authenticate the port between agents.
# tls {
#   defaults {
#     ca_file         = "/etc/muster.d/ca.pem"
#     cert_file       = "/etc/muster.d/server.pem"
#     key_file        = "/etc/muster.d/server-key.pem"
#     verify_incoming = true
#     verify_outgoing = true
#   }
#   internal_rpc { verify_server_hostname = true }
# }

# DNS: who asks for anything else is sent on to these.
# recursors = ["10.0.0.53"]

dns_config {
  # How long resolvers may keep an answer. Longer is cheaper, shorter follows changes sooner.
  node_ttl    = "5s"
  service_ttl = { "*" = "1s" }
}

# How many changes of keys are remembered for etcd watches that begin in the past, and how many bytes they may take.
# watch_history_events = 200000
# watch_history_bytes  = 16777216

# Web pages that may call this agent from a browser. None by default.
# cors = ["https://ui.example:8443"]

log_level = "info"
