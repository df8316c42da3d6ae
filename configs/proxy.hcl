# A proxy: the agent of every machine that runs services. It holds no data and no vote. Services on the machine
# register with it, it checks their health, and it answers every HTTP and DNS question by asking the servers.
#
#   muster agent -config-file /etc/muster.d/proxy.hcl

proxy      = true
datacenter = "dc1"
data_dir   = "/var/lib/muster" # the registrations of this machine's services survive a restart here

# Any members of the cluster; one that answers is enough.
retry_join = ["10.0.0.1", "10.0.0.2", "10.0.0.3"]

# The key of the servers, if they encrypt gossip.
# encrypt = "<the same base64 key>"

# Notes about this machine, kept in its catalog record and usable as filters (?node-meta=rack:r1).
node_meta {
  rack = "r1"
}

# Services may be defined here (or in any file of a -config-dir), or register themselves by HTTP. What a file
# defines lives as long as the file says so: change it and run `muster reload`.
service {
  name = "web"
  port = 80
  tags = ["v1"]

  checks = [
    {
      id       = "web-http"
      name     = "web answers"
      http     = "http://127.0.0.1:80/"
      interval = "10s"
      timeout  = "2s"

      failures_before_critical = 3 # one lost packet is no outage
    },
    {
      id       = "web-port"
      name     = "the port is open"
      tcp      = "127.0.0.1:80"
      interval = "5s"
    }
  ]
}

log_level = "info"
