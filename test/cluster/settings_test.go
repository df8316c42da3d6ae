package cluster_test

import (
	"net/http"
	"os"
	"path/filepath"
	"testing"

	"github.com/musterhq/muster/internal/testcluster"
)

// TestSettingsTakeEffect looks at settings whose effect is seen from outside alone: addresses by purpose, gossip keys in memory,
// the address of gossip, and names by which clients may call.
func TestSettingsTakeEffect(t *testing.T) {
	t.Parallel()
	key := "-encrypt=cg8StVXbQJ0gPvMd9o7yrg=="
	c := testcluster.Start(t, 1, 0, key, "-disable-keyring-file", "-serf-lan-allowed-cidrs=127.0.0.0/8",
		`-hcl=tagged_addresses { rack = "r7" } http_config { allowed_hosts = ["muster.example"] }`, "-advertise-wan=198.51.100.7")
	p := c.AddProxy(t, "p1")
	p.WaitReady(t)
	for _, h := range c.All() {
		testcluster.Eventually(t, h.Name+" has its addresses in the catalog", func() bool {
			var node struct {
				Node struct{ TaggedAddresses map[string]string }
			}
			if !c.Servers[0].Get("/v1/catalog/node/"+h.Name, &node) {
				return false
			}
			tags := node.Node.TaggedAddresses
			return tags["lan"] == h.IP && tags["wan"] == "198.51.100.7" && tags["wan_ipv4"] == "198.51.100.7" && tags["rack"] == "r7"
		})
		if _, err := os.Stat(filepath.Join(h.DataDir, "serf", "local.keyring")); !os.IsNotExist(err) {
			t.Errorf("%s: the keyring is on disk: %v", h.Name, err)
		}
		for host, want := range map[string]int{"muster.example": http.StatusOK, "evil.example": http.StatusMisdirectedRequest, h.IP + ":8500": http.StatusOK} {
			req, err := http.NewRequest(http.MethodGet, h.URL("/v1/agent/self"), nil)
			if err != nil {
				t.Fatal(err)
			}
			req.Host = host
			resp, err := http.DefaultClient.Do(req)
			if err != nil {
				t.Fatal(err)
			}
			resp.Body.Close()
			if resp.StatusCode != want {
				t.Errorf("%s called as %s: %d, want %d", h.Name, host, resp.StatusCode, want)
			}
		}
	}
}
