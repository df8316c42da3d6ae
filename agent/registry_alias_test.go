package agent

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/musterhq/muster/api/consul"
	"github.com/musterhq/muster/catalog"
	"github.com/musterhq/muster/health"
)

func TestAliasFollowsAServiceOfThisMachine(t *testing.T) {
	f := newFakeCluster()
	r := openRig(t, "", f)
	register(t, r, consul.ServiceDefinition{Name: "front", Check: &consul.CheckDefinition{ID: "alias", AliasService: "back"}})
	is := func(status, output string) {
		t.Helper()
		waitFor(t, status+" "+output, func() bool {
			c := checkOf(r.Registry, "alias")
			return c.Status == status && c.Output == output && f.status("alias") == status
		})
	}
	is("critical", "Service back could not be found on node ")
	register(t, r, consul.ServiceDefinition{Name: "back"})
	is("passing", "All checks passing.")
	must(t, r.RegisterCheck(context.Background(), consul.CheckDefinition{Name: "up", ServiceID: "back", TTL: time.Hour}))
	is("critical", `Aliased check "up" failing: `)
	must(t, r.Beat("up", "warning", "hm"))
	is("warning", `Aliased check "up" failing: hm`)
	must(t, r.Beat("up", "passing", "fine"))
	is("passing", "All checks passing.")
	must(t, r.NodeMaintenance(context.Background(), true, ""))
	is("critical", `Aliased check "Node Maintenance Mode" failing: `)
	must(t, r.NodeMaintenance(context.Background(), false, ""))
	is("passing", "All checks passing.")
	must(t, r.DeregisterService(context.Background(), "back"))
	is("critical", "Service back could not be found on node ")
	must(t, r.DeregisterService(context.Background(), "front"))
	if n := r.aliases.n.Load(); n != 0 || len(r.aliases.m) != 0 {
		t.Errorf("%d watches are left: %v", n, r.aliases.m)
	}
}

// An alias that stands on the node itself must not see itself: it would stay critical for ever.
func TestAliasOfTheNodeIgnoresItself(t *testing.T) {
	r := openRig(t, "", newFakeCluster())
	register(t, r, consul.ServiceDefinition{Name: "web"})
	must(t, r.RegisterCheck(context.Background(), consul.CheckDefinition{Name: "alias", AliasService: "web"}))
	waitFor(t, "passing", func() bool { return checkOf(r.Registry, "alias").Status == "passing" })
}

// fakeNodes answers WatchNode from a channel; it blocks for news as the catalog does.
type fakeNodes chan nodeNews

type nodeNews struct {
	services []*catalog.Service
	checks   []*catalog.Check
	node     *catalog.Node
	err      error
}

func (f fakeNodes) WatchNode(ctx context.Context, node string, index uint64) ([]*catalog.Service, []*catalog.Check, *catalog.Node, uint64, error) {
	select {
	case n := <-f:
		return n.services, n.checks, n.node, index + 1, n.err
	case <-ctx.Done():
		return nil, nil, nil, 0, ctx.Err()
	}
}

func TestAliasFollowsAnotherNode(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		nodes := make(fakeNodes)
		f := newFakeCluster()
		r := openRig(t, "", f, func(rc *RegistryConfig, _ *SyncConfig) { rc.Nodes = nodes })
		register(t, r, consul.ServiceDefinition{Name: "front", Checks: []consul.CheckDefinition{{ID: "alias", AliasNode: "n2", AliasService: "back"}}})
		step := func(n nodeNews, status, output string) {
			t.Helper()
			nodes <- n
			synctest.Wait()
			if c := checkOf(r.Registry, "alias"); c.Status != status || c.Output != output {
				t.Errorf("%+v: %q %q, want %q %q", n, c.Status, c.Output, status, output)
			}
		}
		n2, back := &catalog.Node{Name: "n2"}, []*catalog.Service{{ID: "back", Name: "back"}}
		up := &catalog.Check{ID: "up", Name: "up", ServiceID: "back", Status: "warning", Output: "hm"}
		step(nodeNews{}, "critical", "Service back could not be found on node n2")
		step(nodeNews{node: n2}, "critical", "Service back could not be found on node n2")
		step(nodeNews{node: n2, services: back}, "passing", "All checks passing.")
		step(nodeNews{node: n2, services: back, checks: []*catalog.Check{up, {ID: "o", Name: "o", ServiceID: "other", Status: "critical"}}}, "warning", `Aliased check "up" failing: hm`)
		step(nodeNews{node: n2, services: back, checks: []*catalog.Check{{ID: "serfHealth", Name: "Serf Health Status", Status: "critical", Output: "gone"}}},
			"critical", `Aliased check "Serf Health Status" failing: gone`)
		step(nodeNews{node: n2, services: back}, "passing", "All checks passing.")
		// A cluster that elects a leader says nothing about the service; one that stays away does.
		for range aliasMayFail - 1 {
			step(nodeNews{err: errDown}, "passing", "All checks passing.")
		}
		step(nodeNews{err: errDown}, "critical", "Failure checking aliased node or service: no cluster leader")
		step(nodeNews{node: n2, services: back}, "passing", "All checks passing.")
		r.stop()
	})
}

func TestAliasOfAWholeNode(t *testing.T) {
	a := remoteAlias{node: "n2"}
	checks := []*catalog.Check{{ID: "svc", Name: "svc", ServiceID: "web", Status: "critical"}, {ID: "disk", Name: "disk", Status: "warning", Output: "full"}}
	if status, output := a.judge(nil, checks, &catalog.Node{Name: "n2"}); status != "warning" || output != `Aliased check "disk" failing: full` {
		t.Errorf("got %q %q", status, output)
	}
	if status, _ := a.judge(nil, nil, nil); status != "critical" {
		t.Errorf("an unknown node is %q", status)
	}
}

// Every kind runs from a registration to the catalog.
func TestScriptsFollowTheirSwitches(t *testing.T) {
	dir := t.TempDir()
	def := consul.CheckDefinition{Name: "prog", Args: []string{"/bin/sh", "-c", "echo fine"}, Interval: time.Second}
	file := def
	file.ID, file.Name = "file", "file"
	f := newFakeCluster()
	r := openRig(t, dir, f, func(rc *RegistryConfig, _ *SyncConfig) { rc.EnableScriptChecks = true })
	must(t, r.RegisterCheck(context.Background(), def))
	waitFor(t, "the program's result", func() bool { return f.status("prog") == "passing" && checkOf(r.Registry, "prog").Output == "fine\n" })
	r.stop()

	// Forbidden meanwhile: it must not run, and must not make its service look well either.
	r = openRig(t, dir, newFakeCluster(), func(rc *RegistryConfig, _ *SyncConfig) {
		rc.EnableLocalScriptChecks, rc.Checks = true, []consul.CheckDefinition{file}
	})
	if c := checkOf(r.Registry, "prog"); c == nil || c.Status != "critical" || !strings.Contains(c.Output, "does not run: Scripts are disabled") {
		t.Errorf("a forbidden program: %+v", c)
	}
	var refused *consul.LocalError
	if err := r.RegisterCheck(context.Background(), def); !errors.As(err, &refused) || refused.Status != 500 {
		t.Errorf("from the interface: %v", err)
	}
	waitFor(t, "the file's program", func() bool { return checkOf(r.Registry, "file").Status == "passing" })
	r.stop()

	r = openRig(t, dir, newFakeCluster(), func(rc *RegistryConfig, _ *SyncConfig) { rc.EnableScriptChecks = true })
	waitFor(t, "the program to run again", func() bool { return checkOf(r.Registry, "prog").Status == "passing" })
}

func TestOSServiceReachesTheCatalog(t *testing.T) {
	program := filepath.Join(t.TempDir(), "systemctl")
	must(t, os.WriteFile(program, []byte("#!/bin/sh\necho active\n"), 0o755))
	r := openRig(t, "", newFakeCluster(), func(rc *RegistryConfig, _ *SyncConfig) { rc.Host = &health.Host{Systemctl: program} })
	must(t, r.RegisterCheck(context.Background(), consul.CheckDefinition{Name: "unit", OSService: "a.service", Interval: time.Second}))
	waitFor(t, "passing", func() bool { return checkOf(r.Registry, "unit").Status == "passing" })
	if c := checkOf(r.Registry, "unit"); c.Type != "os_service" || c.Output != "Unit a.service: active" {
		t.Errorf("check %+v", c)
	}
}
