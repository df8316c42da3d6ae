# Local ports for services that run elsewhere: a program on this machine connects to 127.0.0.1 and finds itself at a
# healthy instance, without DNS, library or side process. Add these blocks to the configuration of any agent.
#
#   muster agent -config-file /etc/muster.d/proxy.hcl -config-file /etc/muster.d/upstream.hcl
#   muster upstreams

# The primary of a PostgreSQL cluster, found by its tag.
upstream {
  name    = "postgres"
  service = "db"
  tag     = "primary"
  listen  = "127.0.0.1:5432"

  # Connections to an instance that is not the primary any more, or not healthy, are ended after this time.
  drain = "5s"
}

# Any instance of an HTTP service; the nearest ones first, those in state "warning" left out.
upstream {
  service      = "api"
  listen       = "127.0.0.1:9000"
  only_passing = true

  connect_timeout = "1s" # for one instance; then another one is tried
  tries           = 3    # different instances for one client
  max_connections = 1000 # clients at a time
  eject_max       = "10s" # longest time an instance is left alone after failures to connect
}

# By a unix socket, with file permissions as the only key.
# upstream {
#   service = "cache"
#   listen  = "unix:///run/muster/cache.sock"
# }
