# TLS for an agent: add it to server.hcl or proxy.hcl. `muster tls ca create` and `muster tls cert create` make the files.
# New files are taken over while the agent runs.
#
#   muster agent -config-file /etc/muster.d/server.hcl -config-file /etc/muster.d/tls.hcl

ports {
  https = 8501
}

tls {
  defaults {
    ca_file   = "/etc/muster/consul-agent-ca.pem"
    cert_file = "/etc/muster/agent.pem"
    key_file  = "/etc/muster/agent-key.pem"

    verify_incoming = true # clients of HTTPS need a certificate, too
    verify_outgoing = true
  }

  internal_rpc {
    verify_server_hostname = true # only certificates named server.<datacenter>.<domain> may be servers
  }
}
