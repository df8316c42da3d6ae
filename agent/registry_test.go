package agent

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/musterhq/muster/api/consul"
	"github.com/musterhq/muster/catalog"
)

// fakeCluster is a catalog in memory, of one node.
type fakeCluster struct {
	mu       sync.Mutex
	down     error
	node     *catalog.Node
	services map[string]*catalog.Service
	checks   map[string]*catalog.Check
	writes   int
	gate     chan struct{} // when set, every write waits for one value
	before   func()        // runs at the start of each read
}

func newFakeCluster() *fakeCluster {
	return &fakeCluster{services: map[string]*catalog.Service{}, checks: map[string]*catalog.Check{}}
}

func (f *fakeCluster) Register(ctx context.Context, r catalog.Registration) error {
	if err := f.enter(ctx); err != nil {
		return err
	}
	defer f.mu.Unlock()
	for _, c := range r.Checks {
		if c.ServiceID != "" && f.services[c.ServiceID] == nil && (r.Service == nil || r.Service.ID != c.ServiceID) {
			return fmt.Errorf("unknown service ID %q", c.ServiceID)
		}
	}
	n := r.Node
	f.node = &n
	if r.Service != nil {
		s := *r.Service
		f.services[s.ID] = &s
	}
	for _, c := range r.Checks {
		c := *c
		f.checks[c.ID] = &c
	}
	return nil
}

func (f *fakeCluster) enter(ctx context.Context) error {
	f.mu.Lock()
	gate := f.gate
	f.mu.Unlock()
	if gate != nil {
		select {
		case <-gate:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	f.mu.Lock()
	if f.down != nil {
		defer f.mu.Unlock()
		return f.down
	}
	f.writes++
	return nil
}

func (f *fakeCluster) Deregister(ctx context.Context, node, serviceID, checkID string) error {
	if err := f.enter(ctx); err != nil {
		return err
	}
	defer f.mu.Unlock()
	if checkID != "" {
		delete(f.checks, checkID)
		return nil
	}
	delete(f.services, serviceID)
	for id, c := range f.checks {
		if c.ServiceID == serviceID {
			delete(f.checks, id)
		}
	}
	return nil
}

func (f *fakeCluster) NodeServices(context.Context, string) ([]*catalog.Service, []*catalog.Check, *catalog.Node, error) {
	f.mu.Lock()
	before := f.before
	f.mu.Unlock()
	if before != nil {
		before()
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.down != nil {
		return nil, nil, nil, f.down
	}
	var services []*catalog.Service
	var checks []*catalog.Check
	for _, s := range f.services {
		services = append(services, s)
	}
	for _, c := range f.checks {
		checks = append(checks, c)
	}
	return services, checks, f.node, nil
}

func (f *fakeCluster) Size() int { return 3 }

func (f *fakeCluster) set(do func(f *fakeCluster)) {
	f.mu.Lock()
	defer f.mu.Unlock()
	do(f)
}

// status is that of a check in the catalog, "" when it is not there.
func (f *fakeCluster) status(id string) string {
	f.mu.Lock()
	defer f.mu.Unlock()
	if c := f.checks[id]; c != nil {
		return c.Status
	}
	return ""
}

func (f *fakeCluster) has(service string) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.services[service] != nil
}

func (f *fakeCluster) writeCount() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.writes
}

// local is a Registry with a running Sync.
type localRig struct {
	*Registry
	sync *Sync
	stop func()
}

// openRig starts a registry in dir ("" = memory) against a cluster and waits for its first comparison.
func openRig(t testing.TB, dir string, f *fakeCluster, change ...func(*RegistryConfig, *SyncConfig)) *localRig {
	t.Helper()
	rc := RegistryConfig{Dir: dir, NodeName: "n1"}
	sc := SyncConfig{Cluster: f, Node: func() catalog.Node { return catalog.Node{Name: "n1", Address: "10.0.0.1"} }}
	for _, c := range change {
		c(&rc, &sc)
	}
	r, err := OpenRegistry(rc)
	if err != nil {
		t.Fatal(err)
	}
	sc.Registry = r
	s := NewSync(sc)
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan struct{})
	go func() {
		s.Run(ctx)
		close(ended)
	}()
	rig := &localRig{Registry: r, sync: s}
	var once sync.Once
	rig.stop = func() {
		once.Do(func() {
			cancel()
			<-ended
			if err := r.Close(); err != nil {
				t.Error(err)
			}
		})
	}
	t.Cleanup(rig.stop)
	waitFor(t, "the first comparison", func() bool {
		f.mu.Lock()
		defer f.mu.Unlock()
		if c, ok := sc.Cluster.(*treeCluster); ok {
			_, known := catalog.GetNode(c.tree.Snap(), "n1")
			return known
		}
		return f.node != nil || f.down != nil
	})
	return rig
}

func waitFor(t testing.TB, what string, ok func() bool) {
	t.Helper()
	deadline := time.Now().Add(time.Minute)
	for !ok() {
		if time.Now().After(deadline) {
			t.Fatalf("waited in vain for %s", what)
		}
		time.Sleep(time.Millisecond)
	}
}

func ttl(id string, d time.Duration) consul.CheckDefinition {
	return consul.CheckDefinition{ID: id, TTL: d}
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func register(t testing.TB, r *localRig, def consul.ServiceDefinition) {
	t.Helper()
	must(t, r.RegisterService(context.Background(), def, false))
}

func checkOf(r *Registry, id string) *catalog.Check {
	for _, c := range r.Checks() {
		if c.ID == id {
			return c
		}
	}
	return nil
}

func TestRegisterReachesTheCatalog(t *testing.T) {
	f := newFakeCluster()
	r := openRig(t, "", f)
	register(t, r, consul.ServiceDefinition{Name: "web", Port: 80, Checks: []consul.CheckDefinition{ttl("", time.Hour), ttl("own", time.Hour)}})
	if !f.has("web") || f.status("service:web:1") != "critical" || f.status("own") != "critical" {
		t.Fatalf("catalog: %v %v", f.services, f.checks)
	}
	must(t, r.Beat("own", "passing", "fine"))
	waitFor(t, "the status", func() bool { return f.status("own") == "passing" })
	writes := f.writeCount()
	for range 100 {
		must(t, r.Beat("own", "passing", "fine"))
	}
	if got := f.writeCount(); got != writes {
		t.Errorf("100 heartbeats made %d writes", got-writes)
	}
	must(t, r.DeregisterService(context.Background(), "web"))
	if f.has("web") || f.status("own") != "" || len(r.Checks()) != 0 {
		t.Error("the service or its checks are still there")
	}
	var le *consul.LocalError
	if err := r.DeregisterService(context.Background(), "web"); !errors.As(err, &le) || le.Status != http.StatusNotFound {
		t.Errorf("unknown service: %v", err)
	}
	if err := r.Beat("own", "passing", ""); !errors.As(err, &le) || le.Status != http.StatusNotFound {
		t.Errorf("unknown check: %v", err)
	}
}

func TestReregisterKeepsChecksAndStatus(t *testing.T) {
	r := openRig(t, "", newFakeCluster())
	register(t, r, consul.ServiceDefinition{Name: "web", Port: 1, Checks: []consul.CheckDefinition{ttl("old", time.Minute)}})
	must(t, r.Beat("old", "passing", "fine"))
	again := ttl("old", time.Hour)
	again.Status = "warning"
	register(t, r, consul.ServiceDefinition{Name: "web", Port: 2, Tags: []string{"t"}, Checks: []consul.CheckDefinition{again, ttl("new", time.Minute)}})
	if c := checkOf(r.Registry, "old"); c == nil || c.Status != "passing" || c.Output != "fine" || !slices.Equal(c.ServiceTags, []string{"t"}) {
		t.Errorf("the old check is %+v", c)
	}
	register(t, r, consul.ServiceDefinition{Name: "web", Port: 3})
	if len(r.Checks()) != 2 {
		t.Errorf("checks after a registration that names none: %v", r.Checks())
	}
	must(t, r.RegisterService(context.Background(), consul.ServiceDefinition{Name: "web", Checks: []consul.CheckDefinition{ttl("only", time.Minute)}}, true))
	if cs := r.Checks(); len(cs) != 1 || cs[0].ID != "only" {
		t.Errorf("checks after replace-existing-checks: %v", cs)
	}
}

func TestCheckIDsBelongToOneService(t *testing.T) {
	r := openRig(t, "", newFakeCluster())
	register(t, r, consul.ServiceDefinition{Name: "a", Checks: []consul.CheckDefinition{ttl("x", time.Minute)}})
	err := r.RegisterService(context.Background(), consul.ServiceDefinition{Name: "b", Checks: []consul.CheckDefinition{ttl("x", time.Minute)}}, false)
	if err == nil || !strings.Contains(err.Error(), `by service "a"`) {
		t.Errorf("error %v", err)
	}
	if _, _, ok := r.Service("b"); ok {
		t.Error("a refused registration left a service behind")
	}
	if err := r.RegisterCheck(context.Background(), consul.CheckDefinition{Name: "x", TTL: time.Minute}); err == nil {
		t.Error("a check of the node took a service's id")
	}
	if err := r.RegisterCheck(context.Background(), consul.CheckDefinition{Name: "y", ServiceID: "none", TTL: time.Minute}); err == nil || err.Error() != `ServiceID "none" does not exist` {
		t.Errorf("error %v", err)
	}
}

func TestRestartChangesNothing(t *testing.T) {
	dir, f := t.TempDir(), newFakeCluster()
	r := openRig(t, dir, f)
	register(t, r, consul.ServiceDefinition{Name: "web", Tags: []string{"a"}, Meta: map[string]string{"k": "v"}, Check: &consul.CheckDefinition{ID: "up", TTL: time.Hour}})
	register(t, r, consul.ServiceDefinition{Name: "gone"})
	must(t, r.RegisterCheck(context.Background(), consul.CheckDefinition{Name: "disk", TTL: time.Hour}))
	must(t, r.RegisterCheck(context.Background(), consul.CheckDefinition{Name: "extra", ServiceID: "web", TTL: time.Hour}))
	must(t, r.Beat("up", "passing", "fine"))
	must(t, r.Beat("disk", "warning", "full"))
	must(t, r.ServiceMaintenance(context.Background(), "web", true, "why"))
	must(t, r.DeregisterService(context.Background(), "gone"))
	waitFor(t, "the statuses", func() bool { return f.status("up") == "passing" && f.status("disk") == "warning" })
	services, checks := r.Services(), r.Checks()
	r.stop()
	if !f.has("web") {
		t.Fatal("a stop deregistered")
	}
	writes := f.writeCount()

	var flap atomic.Bool
	f.set(func(f *fakeCluster) {
		f.before = func() {
			if f.status("up") != "passing" {
				flap.Store(true)
			}
		}
	})
	r = openRig(t, dir, f)
	for i, s := range r.Services() {
		if !sameService(s, services[i]) {
			t.Errorf("service %+v came back as %+v", services[i], s)
		}
	}
	for i, c := range r.Checks() {
		if !sameCheck(c, checks[i], false) {
			t.Errorf("check %+v came back as %+v", checks[i], c)
		}
	}
	if len(r.Services()) != 1 || len(r.Checks()) != 4 {
		t.Errorf("%d services, %d checks", len(r.Services()), len(r.Checks()))
	}
	must(t, r.sync.Full(context.Background()))
	if got := f.writeCount(); got != writes || flap.Load() {
		t.Errorf("a restart made %d writes (flap: %t)", got-writes, flap.Load())
	}
}

// A crash saves nothing at its end: what was acknowledged is there all the same, and a TTL gets a whole new life.
func TestCrashKeepsWhatWasAcknowledged(t *testing.T) {
	dir := t.TempDir()
	f := newFakeCluster()
	r := openRig(t, dir, f)
	for i := range 50 {
		register(t, r, consul.ServiceDefinition{Name: fmt.Sprintf("s%02d", i), Check: &consul.CheckDefinition{TTL: time.Hour}})
	}
	for i := range 25 {
		must(t, r.DeregisterService(context.Background(), fmt.Sprintf("s%02d", i)))
	}
	must(t, r.Beat("service:s30", "passing", "up"))
	// Copy the file as a crash would leave it.
	copyDir := t.TempDir()
	copyFile(t, filepath.Join(dir, RegistryFile), filepath.Join(copyDir, RegistryFile))
	after := openRig(t, copyDir, newFakeCluster())
	if got := after.Services(); len(got) != 25 || got[0].ID != "s25" {
		t.Errorf("%d services came back", len(got))
	}
	if c := checkOf(after.Registry, "service:s30"); c.Status != "passing" || c.Output != "up" {
		t.Errorf("an acknowledged beat came back as %s, %q", c.Status, c.Output)
	}
}

func TestFileServices(t *testing.T) {
	dir, f := t.TempDir(), newFakeCluster()
	file := func(names ...string) func(*RegistryConfig, *SyncConfig) {
		return func(rc *RegistryConfig, _ *SyncConfig) {
			for _, n := range names {
				rc.Services = append(rc.Services, consul.ServiceDefinition{Name: n, Port: 1, Check: &consul.CheckDefinition{TTL: time.Hour}})
			}
			rc.Checks = []consul.CheckDefinition{{Name: "disk", TTL: time.Hour}}
		}
	}
	r := openRig(t, dir, f, file("a", "b"))
	register(t, r, consul.ServiceDefinition{Name: "api"})
	must(t, r.Beat("service:a", "passing", ""))
	if c := checkOf(r.Registry, "disk"); c.Type != "" {
		t.Errorf("type of a stand-alone check of a file: %q", c.Type)
	}
	defs := []consul.ServiceDefinition{
		{Name: "a", Port: 1, Check: &consul.CheckDefinition{TTL: time.Hour}}, // unchanged
		{Name: "c", Port: 3},
		{Name: "api", Port: 9}, // the file takes it over
	}
	must(t, r.Reload(context.Background(), defs, nil))
	waitFor(t, "the reload", func() bool { return !f.has("b") && f.has("c") && f.has("a") && f.status("disk") == "" })
	if c := checkOf(r.Registry, "service:a"); c.Status != "passing" {
		t.Errorf("an unchanged service's check is %s", c.Status)
	}
	if err := r.Reload(context.Background(), []consul.ServiceDefinition{{Name: ""}}, nil); err == nil {
		t.Error("a bad reload was taken")
	}
	if len(r.Services()) != 3 {
		t.Errorf("a refused reload changed the services: %v", r.Services())
	}
	must(t, r.Reload(context.Background(), nil, nil))
	waitFor(t, "their end", func() bool { return !f.has("a") && !f.has("c") && !f.has("api") })
	r.stop()
	// Nothing of it may come back: neither the file's nor the one that the file took over.
	r = openRig(t, dir, f)
	if got := r.Services(); len(got) != 0 {
		t.Errorf("ghosts: %v", got)
	}
}

func TestRegisteredByBoth(t *testing.T) {
	dir, f := t.TempDir(), newFakeCluster()
	r := openRig(t, dir, f)
	register(t, r, consul.ServiceDefinition{Name: "web", Port: 1})
	r.stop()
	r = openRig(t, dir, f, func(rc *RegistryConfig, _ *SyncConfig) {
		rc.Services = []consul.ServiceDefinition{{Name: "web", Port: 2}}
	})
	if s, _, _ := r.Service("web"); s.Port != 2 {
		t.Errorf("port %d: the file should win", s.Port)
	}
}

func TestMaintenance(t *testing.T) {
	f := newFakeCluster()
	r := openRig(t, "", f)
	register(t, r, consul.ServiceDefinition{Name: "web"})
	ctx := context.Background()
	must(t, r.NodeMaintenance(ctx, true, ""))
	must(t, r.ServiceMaintenance(ctx, "web", true, "why"))
	must(t, r.ServiceMaintenance(ctx, "web", true, "why"))
	if f.status("_node_maintenance") != "critical" || f.status("_service_maintenance:web") != "critical" {
		t.Errorf("catalog: %v", f.checks)
	}
	if c := checkOf(r.Registry, "_node_maintenance"); c.Type != "maintenance" || !strings.HasPrefix(c.Notes, "Maintenance mode is enabled for this node,") {
		t.Errorf("check %+v", c)
	}
	must(t, r.RegisterService(ctx, consul.ServiceDefinition{Name: "web"}, true))
	if checkOf(r.Registry, "_service_maintenance:web") == nil {
		t.Error("a new registration ended the maintenance")
	}
	must(t, r.NodeMaintenance(ctx, false, ""))
	must(t, r.NodeMaintenance(ctx, false, ""))
	must(t, r.ServiceMaintenance(ctx, "web", false, ""))
	if len(r.Checks()) != 0 || f.status("_node_maintenance") != "" {
		t.Error("maintenance did not end")
	}
	if err := r.ServiceMaintenance(ctx, "none", true, ""); err == nil {
		t.Error("an unknown service was taken")
	}
}

// Output alone waits; a status goes at once and takes the output with it.
func TestOutputAloneWaits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFakeCluster()
		r := openRig(t, "", f, func(rc *RegistryConfig, sc *SyncConfig) {
			rc.CheckUpdateInterval = 5 * time.Minute
			sc.Interval = time.Hour
		})
		register(t, r, consul.ServiceDefinition{Name: "web", Check: &consul.CheckDefinition{ID: "up", TTL: 24 * time.Hour}})
		must(t, r.Beat("up", "passing", "one"))
		synctest.Wait()
		output := func() string { f.mu.Lock(); defer f.mu.Unlock(); return f.checks["up"].Output }
		must(t, r.Beat("up", "passing", "two"))
		must(t, r.sync.Full(context.Background()))
		if got := output(); got != "one" {
			t.Errorf("output %q went at once", got)
		}
		time.Sleep(5*time.Minute + time.Second)
		synctest.Wait()
		if got := output(); got != "two" {
			t.Errorf("output %q after the interval", got)
		}
		must(t, r.Beat("up", "passing", "three"))
		must(t, r.Beat("up", "warning", "four"))
		synctest.Wait()
		if got := output(); got != "four" || f.status("up") != "warning" {
			t.Errorf("output %q status %q after a change of status", got, f.status("up"))
		}
		r.stop()
	})
}

func TestCriticalServicesAreReaped(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFakeCluster()
		r := openRig(t, "", f)
		def := func(name string) consul.ServiceDefinition {
			return consul.ServiceDefinition{Name: name, Check: &consul.CheckDefinition{ID: name, TTL: time.Hour, DeregisterCriticalServiceAfter: 5 * time.Second}}
		}
		register(t, r, def("failed"))
		register(t, r, def("never-heard"))
		register(t, r, def("recovered"))
		for _, id := range []string{"failed", "recovered"} {
			must(t, r.Beat(id, "passing", ""))
			must(t, r.Beat(id, "critical", ""))
		}
		must(t, r.Beat("recovered", "passing", ""))
		time.Sleep(50 * time.Second)
		synctest.Wait()
		if !f.has("failed") {
			t.Error("reaped before the least of one minute")
		}
		time.Sleep(50 * time.Second)
		synctest.Wait()
		if f.has("failed") || !f.has("never-heard") || !f.has("recovered") {
			t.Errorf("services left: %v", f.services)
		}
		r.stop()
	})
}

func TestTTLExpiry(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFakeCluster()
		r := openRig(t, "", f)
		register(t, r, consul.ServiceDefinition{Name: "web", Check: &consul.CheckDefinition{ID: "up", TTL: 10 * time.Second, Status: "passing"}})
		if f.status("up") != "passing" {
			t.Errorf("the first status is %q", f.status("up"))
		}
		time.Sleep(9 * time.Second)
		must(t, r.Beat("up", "passing", "fine"))
		time.Sleep(9 * time.Second)
		synctest.Wait()
		if f.status("up") != "passing" {
			t.Error("expired in spite of a beat")
		}
		time.Sleep(2 * time.Second)
		synctest.Wait()
		if c := checkOf(r.Registry, "up"); f.status("up") != "critical" || c.Output != "TTL expired (last output before timeout follows): fine" {
			t.Errorf("status %q, check %+v", f.status("up"), c)
		}
		r.stop()
	})
}

func TestExpiredStaysExpiredOverARestart(t *testing.T) {
	dir, f := t.TempDir(), newFakeCluster()
	r := openRig(t, dir, f)
	register(t, r, consul.ServiceDefinition{Name: "web", Check: &consul.CheckDefinition{ID: "up", TTL: 20 * time.Millisecond}})
	must(t, r.Beat("up", "passing", "fine"))
	waitFor(t, "the expiry", func() bool { return strings.HasPrefix(checkOf(r.Registry, "up").Output, "TTL expired") })
	r.stop()
	r = openRig(t, dir, f)
	if c := checkOf(r.Registry, "up"); c.Status != "critical" || strings.Count(c.Output, "TTL expired") != 1 {
		t.Errorf("check %+v", c)
	}
}

func TestDataDirIsLocked(t *testing.T) {
	dir := t.TempDir()
	openRig(t, dir, newFakeCluster())
	if _, err := OpenRegistry(RegistryConfig{Dir: dir, NodeName: "n2"}); err == nil || !strings.Contains(err.Error(), "in use by another process") {
		t.Errorf("error %v", err)
	}
}

// Registering, beating and removing the same few services from many sides must neither race nor leave anything that
// the catalog and the registry see differently.
func TestConcurrentUse(t *testing.T) {
	f := newFakeCluster()
	r := openRig(t, t.TempDir(), f)
	var wg sync.WaitGroup
	for w := range 8 {
		wg.Go(func() {
			for i := range 60 {
				id := fmt.Sprintf("s%d", (w+i)%5)
				switch i % 4 {
				case 0, 1:
					if err := r.RegisterService(context.Background(), consul.ServiceDefinition{Name: id, Port: w*100 + i, Check: &consul.CheckDefinition{TTL: time.Hour}}, i%2 == 0); err != nil {
						t.Error(err)
					}
				case 2:
					_ = r.Beat("service:"+id, []string{"passing", "warning", "critical"}[i%3], "") // may be gone
				case 3:
					_ = r.DeregisterService(context.Background(), id) // may be gone
				}
				r.Checks()
				r.ServiceChecks(id)
			}
		})
	}
	wg.Wait()
	must(t, r.sync.Full(context.Background()))
	waitFor(t, "agreement", func() bool {
		f.mu.Lock()
		defer f.mu.Unlock()
		if len(f.services) != len(r.Services()) || len(f.checks) != len(r.Checks()) {
			return false
		}
		for _, c := range r.Checks() {
			if there := f.checks[c.ID]; there == nil || !sameCheck(c, there, false) {
				return false
			}
		}
		for _, s := range r.Services() {
			if !sameService(s, f.services[s.ID]) {
				return false
			}
		}
		return true
	})
}
