package agent

import (
	"strings"
	"testing"
	"time"
)

func TestUpstreamConfig(t *testing.T) {
	c := mustLoad(t, map[string]string{
		"a.hcl":  `upstream { service = "db" listen = "127.0.0.1:5432" tag = "primary" drain = "5s" }  upstream { service = "api" listen = "[::1]:80" }`,
		"b.json": `{"upstreams": [{"query": "near-db", "listen": "unix:///run/db.sock", "connect_timeout": "1s", "max_connections": 7}]}`,
	}, nil, "-dev")
	list := upstreamConfigs(&c)
	if len(list) != 3 || list[0].Tag != "primary" || list[0].Drain != 5*time.Second || list[1].Listen != "[::1]:80" || list[2].Query != "near-db" || list[2].MaxConnections != 7 {
		t.Errorf("%+v", list)
	}
	for block, want := range map[string]string{
		`upstream { listen = "127.0.0.1:1" }`:                                                               "upstreams[0]: expected service or query, and not both",
		`upstream { service = "a" query = "b" listen = "127.0.0.1:1" }`:                                     "expected service or query, and not both",
		`upstream { service = "a" }`:                                                                        "listen: expected an IP address and a port",
		`upstream { service = "a" listen = "localhost:80" }`:                                                "listen: expected an IP address and a port",
		`upstream { service = "a" listen = "127.0.0.1:0" }`:                                                 "listen: expected an IP address and a port",
		`upstream { service = "a" listen = "unix://x.sock" }`:                                               "an absolute path after unix://",
		`upstream { service = "a" listen = "127.0.0.1:1" datacenter = "dc2" }`:                              `datacenter "dc2" is not this agent's, "dc1"`,
		`upstream { query = "a" tag = "x" listen = "127.0.0.1:1" }`:                                         "names its own tags",
		`upstream { service = "a" listen = "127.0.0.1:1" tries = 1000 }`:                                    "tries: expected 1 to 100, got 1000",
		`upstream { service = "a" listen = "127.0.0.1:1" nonsense = 1 }`:                                    "nonsense",
		`upstream { service = "a" listen = "127.0.0.1:1" }  upstream { service = "b" listen="127.0.0.1:1"}`: "upstreams[1]: listens at 127.0.0.1:1, as upstreams[0] does",
	} {
		if _, _, err := load(t, map[string]string{"a.hcl": block}, nil, "-dev"); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", block, err, want)
		}
	}
	_, warns, err := load(t, map[string]string{"a.hcl": `upstream { service = "a" listen = "0.0.0.0:80" }`}, nil, "-dev")
	if err != nil || len(warns) != 1 || !strings.Contains(warns[0].String(), "reachable from other machines") {
		t.Errorf("%v, warnings %v", err, warns)
	}
}
