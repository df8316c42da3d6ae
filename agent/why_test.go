package agent_test

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/musterhq/muster/agent"
	"github.com/musterhq/muster/internal/testcluster"
)

// why asks one agent and gives its records by kind, node and id.
func why(t *testing.T, h *testcluster.Host, what string) (map[string]agent.WhyRecord, []string) {
	t.Helper()
	a := h.Do("GET", "/v1/agent/why/"+what, "")
	var y agent.Why
	if err := json.Unmarshal([]byte(a.Body), &y); err != nil || a.Status != 200 {
		t.Fatalf("why %s: %d %s", what, a.Status, a.Body)
	}
	out := map[string]agent.WhyRecord{}
	for _, r := range y.Records {
		out[r.Kind+" "+r.Node+" "+r.ID] = r
		for _, c := range r.Checks {
			out[r.Kind+" "+r.Node+" "+r.ID+" "+c.ID] = c
		}
	}
	return out, y.Notes
}

func TestWhy(t *testing.T) {
	c := testcluster.Start(t, 1, 1)
	c.WaitReady(t)
	s, p := c.Servers[0], c.Proxies[0]
	file := filepath.Join(t.TempDir(), "web.hcl")
	if err := os.WriteFile(file, []byte(`service { name = "web" id = "filed" port = 1 check { ttl = "1h" status = "passing" } }`), 0o600); err != nil {
		t.Fatal(err)
	}
	p.Stop(t)
	p.ExtraArgs = append(p.ExtraArgs, "-config-file", file)
	p.Start(t)
	p.WaitReady(t)
	p.Put(t, "/v1/agent/service/register", `{"Name":"web","ID":"api","Port":2,"Check":{"TTL":"1h","Status":"warning"}}`)
	p.Put(t, "/v1/agent/service/register", `{"Name":"web","ID":"sick","Port":3,"Check":{"TTL":"1h"}}`)
	s.Put(t, "/v1/catalog/register", `{"Node":"ext","Address":"10.9.9.9","Service":{"Service":"web","ID":"outside"}}`)
	var got map[string]agent.WhyRecord
	type explanation struct {
		writer, by string
		shown      bool
		reason     string
	}
	wants := map[string]explanation{
		"service " + p.Name + " filed": {agent.WrittenByFile, file, true, "all its checks are passing"},
		"service " + p.Name + " api":   {agent.WrittenByAgent, "HTTP interface", true, "check service:api is warning, which does not hide"},
		"service " + p.Name + " sick":  {agent.WrittenByAgent, p.Name, false, "check service:sick is critical"},
		"service ext outside":          {agent.WrittenByCatalog, "no agent runs under the name", true, "nothing checks it"},
		"service " + s.Name + " alien": {agent.WrittenByCatalog, "does not know it", true, "all its checks are passing"},
	}
	alien := "service " + s.Name + " alien"
	var wrong []string
	defer func() {
		if t.Failed() {
			t.Logf("not explained as wanted at last: %s", strings.Join(wrong, "\n"))
		}
	}()
	testcluster.Eventually(t, "all instances are explained, and the proxy's DNS follows", func() bool {
		got, _ = why(t, p, "service/web")
		if _, ok := got[alien]; !ok {
			// The agent it is foreign to removes it with its next full comparison, and the first ones come soon after the start.
			s.Put(t, "/v1/catalog/register", `{"Node":"`+s.Name+`","Address":"`+s.IP+`","Service":{"Service":"web","ID":"alien"}}`)
		}
		wrong = nil
		for key, want := range wants {
			r := got[key]
			if r.Writer != want.writer || !strings.Contains(r.By, want.by) || r.DNS == nil || r.DNS.Shown != want.shown || !strings.Contains(strings.Join(r.DNS.Reasons, "; "), want.reason) || r.ModifyIndex == 0 || r.To.IsZero() || r.Returns == "" {
				wrong = append(wrong, fmt.Sprintf("%s: %+v, DNS %+v", key, r, r.DNS))
			}
		}
		return len(wrong) == 0
	})
	if live := got["service "+p.Name+" api serfHealth"]; live.Writer != agent.WrittenByLeader || live.Status != "passing" {
		t.Errorf("liveness: %+v", live)
	}
	if ttl := got["service "+p.Name+" filed service:filed"]; ttl.Writer != agent.WrittenByFile {
		t.Errorf("a check of a file: %+v", ttl)
	}

	// An id, a node, a check, and nothing.
	if got, _ := why(t, s, "any/sick"); len(got) == 0 || got["service "+p.Name+" sick"].Name != "web" {
		t.Errorf("by id: %+v", got)
	}
	p.Put(t, "/v1/agent/maintenance?enable=true&reason=disk+swap", "")
	testcluster.Eventually(t, "the node is in maintenance", func() bool {
		got, _ = why(t, s, "service/web")
		r := got["service "+p.Name+" filed"]
		return r.DNS != nil && !r.DNS.Shown && strings.Contains(fmt.Sprint(r.DNS.Reasons), "is in maintenance: disk swap")
	})
	got, _ = why(t, s, "node/"+p.Name)
	if n := got["node "+p.Name+" "+got["node "+p.Name].ID]; len(got) < 3 {
		t.Errorf("a node with its checks: %+v of %+v", n, got)
	}
	got, _ = why(t, s, "check/service:api")
	if r := got["check "+p.Name+" service:api"]; r.Writer != agent.WrittenByAgent || r.Status != "warning" {
		t.Errorf("a check: %+v", got)
	}
	if got, notes := why(t, s, "any/nothing-has-this-name"); len(got)+len(notes) != 0 {
		t.Errorf("explained %+v, %q", got, notes)
	}

	// A dead agent says nothing, and what is removed meanwhile is told.
	p.Crash(t)
	testcluster.Eventually(t, "the proxy counts as failed", func() bool {
		got, _ = why(t, s, "service/web")
		return got["service "+p.Name+" api"].Writer == agent.WrittenUnknown && got["service "+p.Name+" api serfHealth"].Status == "critical"
	})
	if r := got["service "+p.Name+" api"]; r.DNS.Shown || !strings.Contains(fmt.Sprint(r.DNS.Reasons), "is not reachable") || !strings.Contains(r.By, "did not answer") {
		t.Errorf("a service of a dead agent: %+v, DNS %+v", r, r.DNS)
	}
	s.Put(t, "/v1/catalog/deregister", `{"Node":"`+p.Name+`","ServiceID":"api"}`)
	if _, notes := why(t, s, "service/web"); !strings.Contains(strings.Join(notes, "\n"), "service api of node "+p.Name+" was removed") {
		t.Errorf("notes %q", notes)
	}
	for _, path := range []string{"/v1/agent/why/", "/v1/agent/why/web", "/v1/agent/why/key/x", "/v1/internal/why/service/"} {
		if a := s.Do("GET", path, ""); a.Status != 400 {
			t.Errorf("GET %s: %d %s", path, a.Status, a.Body)
		}
	}
}
