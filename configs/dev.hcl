# A configuration to try Muster out:
#
#   muster agent -dev -config-file configs/dev.hcl
#   dig @127.0.0.1 -p 8600 web.service.consul SRV
#   curl http://127.0.0.1:8500/v1/health/service/api
#
# -dev runs one server in memory on 127.0.0.1. Nothing is kept when it stops.

# web reports its own health: PUT /v1/agent/check/pass/web-alive at least once an hour keeps it passing. It begins
# as passing, so that it is found at once.
service {
  name = "web"
  port = 8080
  tags = ["v1"]
  meta = { owner = "you" }

  check {
    id     = "web-alive"
    name   = "web reports that it is alive"
    ttl    = "1h"
    status = "passing"
  }
}

# api is probed by the agent; here the agent's own HTTP interface stands for the service.
service {
  name    = "api"
  address = "127.0.0.1"
  port    = 8500

  check {
    id       = "api-http"
    name     = "api answers"
    http     = "http://127.0.0.1:8500/v1/status/leader"
    interval = "10s"
    timeout  = "2s"
  }
}
