package cluster_test

import (
	"strings"
	"testing"

	"github.com/musterhq/muster/internal/testcluster"
)

// TestFlappingCheckIsHeld flips a check by heartbeats until it is held, and sees it let go.
func TestFlappingCheckIsHeld(t *testing.T) {
	t.Parallel()
	c := testcluster.Start(t, 1, 0, `-hcl=flap_damping { changes = 3 stable = "2s" }`)
	s := c.Servers[0]
	s.Put(t, "/v1/agent/service/register", `{"Name":"web","Port":80,"Check":{"TTL":"60s","Status":"passing"}}`)
	s.Put(t, "/v1/agent/service/register", `{"Name":"calm","Port":80,"Check":{"TTL":"60s","Status":"passing","FlapChanges":-1}}`)
	for range 3 {
		for _, verb := range []string{"fail", "pass"} {
			for _, name := range []string{"web", "calm"} {
				s.Put(t, "/v1/agent/check/"+verb+"/service:"+name, "")
			}
		}
	}
	state := func(name string) (status, output string) {
		var list []struct{ Status, Output string }
		if !s.Get("/v1/health/checks/"+name, &list) || len(list) != 1 {
			return "", ""
		}
		return list[0].Status, list[0].Output
	}
	testcluster.Eventually(t, "the flapping check is held", func() bool {
		status, output := state("web")
		return status == "critical" && strings.HasPrefix(output, "Flapping: ")
	})
	if status, _ := state("calm"); status != "passing" {
		t.Errorf("a check that is not to be damped is %s", status)
	}
	testcluster.Eventually(t, "it is let go", func() bool { status, _ := state("web"); return status == "passing" })
}
