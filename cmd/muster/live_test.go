package main

import (
	"bytes"
	"encoding/json"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/musterhq/muster/internal/testcluster"
)

// syncBuffer is written by a command while the test reads it.
type syncBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (s *syncBuffer) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.Write(p)
}

func (s *syncBuffer) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.String()
}

// background runs a command line of consul beside the test.
type background struct {
	out, errs syncBuffer
	code      int
	done      chan struct{}
}

func start(args ...string) *background {
	b := &background{done: make(chan struct{})}
	go func() {
		defer close(b.done)
		b.code = runConsul(args, strings.NewReader(""), &b.out, &b.errs)
	}()
	return b
}

func (b *background) wait(t *testing.T) int {
	t.Helper()
	select {
	case <-b.done:
	case <-time.After(testcluster.Patience):
		t.Fatalf("the command still runs; out %q, errors %q", b.out.String(), b.errs.String())
	}
	return b.code
}

func exists(path string) func() bool {
	return func() bool { _, err := os.Stat(path); return err == nil }
}

// TestLive runs commands against a real agent.
func TestLive(t *testing.T) {
	c := testcluster.Start(t, 1, 0)
	c.WaitReady(t)
	s := c.Servers[0]
	t.Setenv("CONSUL_HTTP_ADDR", s.URL(""))
	t.Run("kv", func(t *testing.T) { liveKV(t) })
	t.Run("lock", func(t *testing.T) { liveLock(t, s) })
	t.Run("lost lock", func(t *testing.T) { liveLostLock(t, s) })
	t.Run("semaphore", func(t *testing.T) { liveSemaphore(t, s) })
	t.Run("watch", func(t *testing.T) { liveWatch(t, s) })
	t.Run("watch sends to a URL", func(t *testing.T) { liveWatchURL(t) })
	t.Run("services", func(t *testing.T) { liveServices(t) })
	t.Run("aliases", func(t *testing.T) { liveAliases(t, s) })
	t.Run("snapshot", func(t *testing.T) { liveSnapshot(t, s) })
}

func liveKV(t *testing.T) {
	consul(t, "", "", "kv", "put", "-flags=7", "x/a", "-v").is(t, 0, "Success! Data written to: x/a\n", "")
	consul(t, "", "piped", "kv", "put", "x/b", "-").is(t, 0, "Success! Data written to: x/b\n", "")
	consul(t, "", "", "kv", "put", "x/with space?", "").is(t, 0, "Success! Data written to: x/with space?\n", "")
	consul(t, "", "", "kv", "get", "x/a").is(t, 0, "-v\n", "")
	consul(t, "", "", "kv", "get", "x/b").is(t, 0, "piped\n", "")
	consul(t, "", "", "kv", "get", "-keys", "x/").is(t, 0, "x/a\nx/b\nx/with space?\n", "")
	consul(t, "", "", "kv", "put", "-cas", "x/a", "2").is(t, 1, "", "Error! Did not write to x/a: CAS failed\n")
	consul(t, "", "", "kv", "delete", "-cas", "-modify-index=1", "x/a").is(t, 1, "", "Error! Did not delete key x/a: CAS failed\n")
	dump := consul(t, "", "", "kv", "export", "x/")
	dump.want(t, 0, `"flags": 7`)
	consul(t, "", "", "kv", "delete", "-recurse", "x/").is(t, 0, "Success! Deleted keys with prefix: x/\n", "")
	consul(t, "", dump.out, "kv", "import", "-").is(t, 0, "Imported: x/a\nImported: x/b\nImported: x/with space?\n", "")
	if again := consul(t, "", "", "kv", "export", "x/"); again.out != dump.out {
		t.Errorf("exported after the import:\n%s\nbefore:\n%s", again.out, dump.out)
	}
	consul(t, "", "", "kv", "delete", "x/a").is(t, 0, "Success! Deleted key: x/a\n", "")
}

// value reads one key.
func value(s *testcluster.Host, key string) (p flatPair, ok bool) {
	var all []flatPair
	if !s.Get("/v1/kv/"+key, &all) || len(all) == 0 {
		return p, false
	}
	return all[0], true
}

func liveLock(t *testing.T, s *testcluster.Host) {
	dir := t.TempDir()
	running, goOn := filepath.Join(dir, "running"), filepath.Join(dir, "go")
	first := start("lock", "-verbose", "lk", "touch "+running+"; while [ ! -e "+goOn+" ]; do sleep 0.05; done; echo $CONSUL_LOCK_HELD; exit 3")
	testcluster.Eventually(t, "the command runs", exists(running))
	p, ok := value(s, "lk/.lock")
	if !ok || p.Flags != 3304740253564472344 || p.Session == "" || p.Value != nil {
		t.Errorf("the key of the lock is %+v", p)
	}
	consul(t, "", "", "lock", "-try=200ms", "lk", "echo two").want(t, 1, "timeout during lock acquisition")
	second := start("lock", "-child-exit-code", "-name=mine", "lk", "echo second")
	if err := os.WriteFile(goOn, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if code := first.wait(t); code != 0 || !strings.Contains(first.out.String(), "true\nChild terminated, releasing lock\nCleanup ") || first.errs.String() != "Error running handler: exit status 3\n" {
		t.Errorf("the first ended with %d: %q, %q", code, first.out.String(), first.errs.String())
	}
	if code := second.wait(t); code != 0 || second.out.String() != "second\n" {
		t.Errorf("the second ended with %d: %q, %q", code, second.out.String(), second.errs.String())
	}
	if _, ok := value(s, "lk/.lock"); ok {
		t.Error("the key was not removed")
	}
	var sessions []any
	if !s.Get("/v1/session/list", &sessions) || len(sessions) != 0 {
		t.Errorf("sessions are left: %v", sessions)
	}
	consul(t, "", "", "lock", "-child-exit-code", "lk", "exit 3").is(t, 2, "", "Error running handler: exit status 3\n")
	consul(t, "", "", "lock", "-shell=false", "lk", "/bin/echo", "-n", "a b").is(t, 0, "a b", "")
	consul(t, "", "", "lock", "-shell=false", "lk", "/no/such/program").want(t, 0)
	consul(t, "", "given", "lock", "-pass-stdin", "lk", "cat").is(t, 0, "given", "")
	s.Put(t, "/v1/kv/used/.lock", "something else")
	consul(t, "", "", "lock", "used", "true").want(t, 1, "is no lock")
}

func liveLostLock(t *testing.T, s *testcluster.Host) {
	dir := t.TempDir()
	running, told := filepath.Join(dir, "running"), filepath.Join(dir, "told")
	b := start("lock", "lost", "trap 'touch "+told+"; exit 0' TERM; touch "+running+"; while true; do sleep 0.05; done")
	testcluster.Eventually(t, "the command runs", exists(running))
	p, ok := value(s, "lost/.lock")
	if !ok {
		t.Fatal("there is no key")
	}
	s.Put(t, "/v1/session/destroy/"+p.Session, "")
	if code := b.wait(t); code != 1 || !strings.Contains(b.errs.String(), "Lock lost, killing child") {
		t.Errorf("ended with %d: %q", code, b.errs.String())
	}
	if !exists(told)() {
		t.Error("the command was not told to end")
	}
}

func liveSemaphore(t *testing.T, s *testcluster.Host) {
	dir := t.TempDir()
	goOn := filepath.Join(dir, "go")
	var both []*background
	for _, name := range []string{"a", "b"} {
		both = append(both, start("lock", "-n=2", "sem", "touch "+filepath.Join(dir, name)+"; while [ ! -e "+goOn+" ]; do sleep 0.05; done"))
		testcluster.Eventually(t, "a holder runs", exists(filepath.Join(dir, name)))
	}
	p, ok := value(s, "sem/.lock")
	var h holders
	if err := json.Unmarshal(p.Value, &h); !ok || err != nil || p.Flags != 16210313421097356768 || h.Limit != 2 || len(h.Holders) != 2 {
		t.Errorf("the key of the semaphore is %+v: %s", p, p.Value)
	}
	consul(t, "", "", "lock", "-n=2", "-try=200ms", "sem", "true").want(t, 1, "timeout during lock acquisition")
	consul(t, "", "", "lock", "-n=3", "sem", "true").want(t, 1, "semaphore limit conflict (lock: 2, local: 3)")
	// A holder that is gone without a word makes room.
	for id := range h.Holders {
		s.Put(t, "/v1/session/destroy/"+id, "")
		break
	}
	consul(t, "", "", "lock", "-n=2", "sem", "echo third").want(t, 0, "third")
	if err := os.WriteFile(goOn, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if codes := both[0].wait(t) + both[1].wait(t); codes != 1 {
		t.Errorf("one of the two should have lost its place: %q, %q", both[0].errs.String(), both[1].errs.String())
	}
	if list := consul(t, "", "", "kv", "get", "-keys", "-recurse", "sem/"); list.out != "" {
		t.Errorf("keys are left: %q", list.out)
	}
}

func liveWatch(t *testing.T, s *testcluster.Host) {
	consul(t, "", "", "watch", "-type=key", "-key=w/none").is(t, 0, "null\n", "")
	consul(t, "", "", "watch", "-type=services").is(t, 0, "{\n    \"consul\": []\n}\n", "")
	consul(t, "", "", "watch", "-type=event", "-name=none").is(t, 0, "[]\n", "")
	consul(t, "", "", "watch", "-type=checks", "-state=critical").is(t, 0, "[]\n", "")
	consul(t, "", "", "watch", "-type=service", "-service=consul", "-passingonly=true", "-tag=none").is(t, 0, "[]\n", "")
	consul(t, "", "", "watch", "-type=nodes", "-filter=nonsense").want(t, 1, "Unexpected response code: 500")

	file := filepath.Join(t.TempDir(), "states")
	got := func() []string {
		b, err := os.ReadFile(file)
		if err != nil {
			return nil
		}
		return strings.Split(strings.TrimRight(string(b), "\n"), "\n")
	}
	// The handler ends the watch at the third state by failing.
	b := start("watch", "-type=keyprefix", "-prefix=w/", "cat >>"+file+"; echo $CONSUL_INDEX; test $(wc -l <"+file+") -lt 3")
	testcluster.Eventually(t, "the first state", func() bool { return len(got()) == 1 })
	s.Put(t, "/v1/kv/elsewhere", "1")
	s.Put(t, "/v1/kv/w/a", "1")
	testcluster.Eventually(t, "the second state", func() bool { return len(got()) == 2 })
	s.Put(t, "/v1/kv/w/a", "2")
	if code := b.wait(t); code != 1 || !strings.Contains(b.errs.String(), "executing handler: exit status 1") {
		t.Errorf("ended with %d: %q", code, b.errs.String())
	}
	states := got()
	if states[0] != "null" || !strings.Contains(states[1], `"Key":"w/a"`) || !strings.Contains(states[1], `"Session":""`) || !strings.Contains(states[2], `"Value":"Mg=="`) {
		t.Errorf("states %q", states)
	}
	if n := len(strings.Fields(b.out.String())); n != 3 {
		t.Errorf("the output of the handler is %q", b.out.String())
	}
}

func liveWatchURL(t *testing.T) {
	type got struct{ method, index, extra, body string }
	states := make(chan got, 4)
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err != nil {
			t.Error(err)
		}
		states <- got{r.Method, r.Header.Get("X-Consul-Index"), r.Header.Get("X-Extra"), string(body)}
		http.Error(w, "enough", http.StatusTeapot)
	}))
	defer srv.Close()
	b := start("watch", "-type=key", "-key=u", "-handler-url="+srv.URL, "-handler-header=x-extra=1")
	if code := b.wait(t); code != 1 || !strings.Contains(b.errs.String(), "status 418: enough") {
		t.Errorf("ended with %d: %q", code, b.errs.String())
	}
	if g := <-states; g.method != "POST" || g.index == "" || g.extra != "1" || g.body != "null" {
		t.Errorf("sent %+v", g)
	}
}

func liveServices(t *testing.T) {
	file := filepath.Join(t.TempDir(), "web.hcl")
	if err := os.WriteFile(file, []byte(`services = [{ name = "web" port = 80 tags = ["v1"] check { ttl = "30s" } }, { name = "db" id = "db1" }]`), 0o600); err != nil {
		t.Fatal(err)
	}
	consul(t, "", "", "services", "register", file).is(t, 0, "Registered service: web\nRegistered service: db\n", "")
	testcluster.Eventually(t, "both are in the catalog", func() bool {
		return consul(t, "", "", "catalog", "services").out == "consul\ndb\nweb\n"
	})
	consul(t, "", "", "maint", "-enable", "-service=db1", "-reason=moving").want(t, 0, `for "db1"`)
	consul(t, "", "", "maint").is(t, 0, "Service:\n  ID:     db1\n  Reason: moving\n\n", "")
	consul(t, "", "", "maint", "-enable", "-service=nope").want(t, 1, "404")
	consul(t, "", "", "services", "deregister", file).is(t, 0, "Deregistered service: web\nDeregistered service: db1\n", "")
	consul(t, "", "", "services", "deregister", "-id=web").want(t, 1, "Unexpected response code: 404")
}

func liveSnapshot(t *testing.T, s *testcluster.Host) {
	dir := t.TempDir()
	file := filepath.Join(dir, "s.snap")
	s.Put(t, "/v1/kv/snap/a/b", "before")
	save := consul(t, "", "", "snapshot", "save", file)
	save.want(t, 0, "Saved and verified snapshot to index ")
	consul(t, "", "", "snapshot", "save", "-append-filename=dc,node,status", file).want(t, 0)
	if _, err := os.Stat(filepath.Join(dir, "s-dc1-"+s.Name+"-leader.snap")); err != nil {
		t.Error(err)
	}
	consul(t, "", "", "snapshot", "inspect", file).want(t, 0, " Version      1\n", " KVS ", " Node ", " Total ")
	consul(t, "", "", "snapshot", "inspect", "-kvdetails", "-kvdepth=1", "-kvfilter=snap", file).want(t, 0, " Key Name      Count      Size\n", " snap          1          ")
	var js struct {
		Meta  struct{ Index uint64 }
		Stats []struct{ Name string }
	}
	r := consul(t, "", "", "snapshot", "inspect", "-format=json", file)
	if err := json.Unmarshal([]byte(r.out), &js); err != nil || js.Meta.Index == 0 || len(js.Stats) == 0 {
		t.Errorf("inspect -format=json: %v in %q", err, r.out)
	}
	s.Put(t, "/v1/kv/snap/a/b", "after")
	whole, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	bad := filepath.Join(dir, "bad.snap")
	if err := os.WriteFile(bad, whole[:len(whole)-30], 0o600); err != nil {
		t.Fatal(err)
	}
	consul(t, "", "", "snapshot", "restore", bad).want(t, 1, "bad.snap", "damaged")
	consul(t, "", "", "snapshot", "inspect", bad).want(t, 1, "damaged")
	consul(t, "", "", "kv", "get", "snap/a/b").is(t, 0, "after\n", "")
	consul(t, "", "", "snapshot", "restore", file).is(t, 0, "Restored snapshot\n", "")
	consul(t, "", "", "kv", "get", "snap/a/b").is(t, 0, "before\n", "")
	left, err := filepath.Glob(filepath.Join(dir, "*.tmp*"))
	if err != nil || len(left) > 0 {
		t.Errorf("files left: %q, %v", left, err)
	}
	consul(t, "", "", "snapshot", "save", filepath.Join(dir, "none", "f")).want(t, 1, "no such file")

	// What is no file stays what it is: a device would be gone for everybody.
	l, err := net.Listen("unix", filepath.Join(dir, "device"))
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	consul(t, "", "", "snapshot", "save", filepath.Join(dir, "device")).want(t, 1, "device is no file that a snapshot could replace")
	if info, err := os.Stat(filepath.Join(dir, "device")); err != nil || info.Mode()&os.ModeSocket == 0 {
		t.Errorf("replaced: %v, %v", info, err)
	}
	link := filepath.Join(dir, "link")
	if err := os.Symlink(file, link); err != nil {
		t.Skip("no links here: ", err)
	}
	consul(t, "", "", "snapshot", "save", link).want(t, 0)
	if to, err := os.Readlink(link); err != nil || to != file {
		t.Errorf("the link leads to %q, %v", to, err)
	}
}

func liveAliases(t *testing.T, s *testcluster.Host) {
	muster(t, s.URL(""), "", "kv", "set", "/al/a", "1").want(t, 0)
	if r := consul(t, "", "", "kv", "get", "al/a"); r.out != "1\n" {
		t.Errorf("what muster kv set wrote is %q", r.out)
	}
	t.Setenv("MUSTER_HTTP_ADDR", s.URL(""))
	var out, errs bytes.Buffer
	if code := run([]string{"kv", "put", "-flags=3", "al/a", "-5"}, strings.NewReader(""), &out, &errs); code != 0 || out.String() != "Success! Data written to: al/a\n" {
		t.Errorf("muster kv put: %d, %q, %q", code, out.String(), errs.String())
	}
	muster(t, "", "", "kv", "get", "/al/a").want(t, 0, "-5")
	dump := muster(t, "", "", "kv", "export", "al/")
	dump.want(t, 0, `"flags": 3`)
	muster(t, "", "", "kv", "delete", "-recurse", "al/").want(t, 0, "Success!")
	muster(t, "", dump.out, "kv", "import", "-").want(t, 0, "Imported: al/a")
	muster(t, "", "", "why", "service", "consul").want(t, 0, "by          the leader", "in DNS      yes")
}
