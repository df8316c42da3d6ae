package main

import (
	"encoding/json"
	"io"
	"log"
	"strings"
	"testing"

	"github.com/musterhq/muster/agent"
	"github.com/musterhq/muster/internal/testcluster"
)

// What a library prints by the log package becomes a line of the agent's log.
func TestLibrariesLogLikeTheAgent(t *testing.T) {
	h := testcluster.Start(t, 0, 0).PlanServer(t, "alone")
	args := []string{"-dev", "-log-json", "-bind=" + h.IP, "-client=" + h.IP}
	load := func() (agent.Config, []agent.Warning, error) {
		return agent.LoadFrom(nil, args, nil, io.Discard)
	}
	var errs syncBuffer
	err := runLoaded(load, io.Discard, &errs, func(a *agent.Agent) {
		log.Print("Unsolicited response")
		a.Stop()
	})
	if err != nil {
		t.Fatalf("%v\n%s", err, errs.String())
	}
	for line := range strings.Lines(errs.String()) {
		var x map[string]any
		if json.Unmarshal([]byte(line), &x) == nil && x["@message"] == "Unsolicited response" {
			if x["@module"] != "agent.library" || x["@level"] != "info" {
				t.Errorf("logged as %s", line)
			}
			return
		}
	}
	t.Errorf("not in the log:\n%s", errs.String())
}
