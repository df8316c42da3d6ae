package main

import (
	"crypto/tls"
	"os"
	"strings"
	"testing"
)

func TestTLSCommands(t *testing.T) {
	t.Chdir(t.TempDir())
	muster(t, "", "", "tls", "ca", "create").want(t, 0, "==> Saved consul-agent-ca.pem\n==> Saved consul-agent-ca-key.pem\n")
	muster(t, "", "", "tls", "ca", "create").want(t, 1, "exists")
	muster(t, "", "", "tls", "cert", "create", "-server", "-node", "n1", "-additional-ipaddress", "10.0.0.1").want(t, 0, "==> Using consul-agent-ca.pem and consul-agent-ca-key.pem\n==> Saved dc1-server-consul-0.pem\n==> Saved dc1-server-consul-0-key.pem\n")
	muster(t, "", "", "tls", "cert", "create", "-server").want(t, 0, "dc1-server-consul-1.pem")
	muster(t, "", "", "tls", "cert", "create", "-client", "-dc", "dc2", "-additional-dnsname", "web.example").want(t, 0, "dc2-client-consul-0.pem")
	muster(t, "", "", "tls", "cert", "create", "-cli").want(t, 0, "dc1-cli-consul-0.pem")
	for name, want := range map[string]string{
		"dc1-server-consul-0": "n1.server.dc1.consul server.dc1.consul localhost [127.0.0.1 10.0.0.1]",
		"dc2-client-consul-0": "web.example client.dc2.consul localhost [127.0.0.1]",
		"dc1-cli-consul-0":    "cli.dc1.consul []",
	} {
		pair, err := tls.LoadX509KeyPair(name+".pem", name+"-key.pem")
		if err != nil {
			t.Fatal(err)
		}
		ips := make([]string, 0, 2)
		for _, ip := range pair.Leaf.IPAddresses {
			ips = append(ips, ip.String())
		}
		if got := strings.Join(pair.Leaf.DNSNames, " ") + " [" + strings.Join(ips, " ") + "]"; got != want {
			t.Errorf("%s is for %s, want %s", name, got, want)
		}
		if st, err := os.Stat(name + "-key.pem"); err != nil || st.Mode().Perm() != 0o600 {
			t.Errorf("the key of %s: %v %v", name, st.Mode(), err)
		}
	}
	for want, args := range map[string]string{
		"one of -server, -client and -cli": "tls cert create",
		"is needed":                        "tls cert create -server -cli",
		"-node goes with -server":          "tls cert create -cli -node x",
		"no IP address":                    "tls cert create -cli -additional-ipaddress x",
		"tls ca create makes one":          "tls cert create -cli -ca none.pem",
		"longer than its authority":        "tls cert create -cli -days 10000",
		"-days must be positive":           "tls ca create -days 0",
		"needs -name-constraint":           "tls ca create -domain y -additional-name-constraint x",
		"part of a file's name":            "tls ca create -domain a/b",
		"unknown command":                  "tls nonsense",
	} {
		muster(t, "", "", strings.Fields(args)...).want(t, map[bool]int{true: exitUnknown, false: 1}[want == "unknown command"], want)
	}
}
