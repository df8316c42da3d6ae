package etcdreplay

import (
	"fmt"
	"maps"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

func recordings(t *testing.T) []string {
	t.Helper()
	files, err := filepath.Glob("../etcd/*.jsonl")
	if err != nil || len(files) == 0 {
		t.Fatalf("no recordings found: %v", err)
	}
	return files
}

// TestAgainstURL replays against the server named by MUSTER_CONFORMANCE_URL. With MUSTER_CONFORMANCE_STRICT set nothing
// is left out, otherwise what an agent as it is shipped answers otherwise.
func TestAgainstURL(t *testing.T) {
	base := os.Getenv("MUSTER_CONFORMANCE_URL")
	if base == "" {
		t.Skip("MUSTER_CONFORMANCE_URL is not set")
	}
	skip := Departures()
	maps.Copy(skip, Defaults())
	if os.Getenv("MUSTER_CONFORMANCE_STRICT") != "" {
		skip = nil
	}
	for _, f := range recordings(t) {
		t.Run(strings.TrimSuffix(filepath.Base(f), ".jsonl"), func(t *testing.T) {
			Run(t, base, f, Options{Skip: skip})
		})
	}
}

// TestDeparturesExist keeps the list from outliving what it names.
func TestDeparturesExist(t *testing.T) {
	known := make(map[string]bool)
	for _, f := range recordings(t) {
		known[filepath.Base(f)] = true
		cases, err := Load(f)
		if err != nil {
			t.Fatal(err)
		}
		for _, steps := range cases {
			known[steps[0].Case] = true
			for _, s := range steps {
				known[fmt.Sprintf("%s/%d", s.Case, s.Step)] = true
			}
		}
	}
	all := Departures()
	maps.Copy(all, Defaults())
	for name, why := range all {
		if !known[name] || why == "" {
			t.Errorf("%q (%s) names nothing in the recordings, or has no reason", name, why)
		}
	}
}

// TestAgainstEtcd proves the replayer itself: the real server must pass every recording.
func TestAgainstEtcd(t *testing.T) {
	bin, err := exec.LookPath("etcd")
	if err != nil {
		t.Skip("etcd is not installed")
	}
	if testing.Short() {
		t.Skip("starts one etcd per recording")
	}
	if out, err := exec.Command(bin, "--version").Output(); err != nil || !strings.Contains(string(out), "etcd Version: 3.4.") {
		t.Skipf("etcd is not of the 3.4 line (%v): %.60s", err, out)
	}
	for _, f := range recordings(t) {
		t.Run(strings.TrimSuffix(filepath.Base(f), ".jsonl"), func(t *testing.T) {
			t.Parallel()
			start := func(t *testing.T) string { return startEtcd(t, bin) }
			stage := func(t *testing.T, second string) Stage { return newEtcdStage(t, bin, second) }
			Run(t, start(t), f, Options{Fresh: start, Destructive: true, Stage: stage})
		})
	}
}

func startEtcd(t *testing.T, bin string) string {
	t.Helper()
	client, peer := "http://"+freeAddr(t), "http://"+freeAddr(t)
	runEtcd(t, bin, "n1", client, peer, "n1="+peer, "new")
	waitUp(t, client)
	return client
}

// runEtcd starts a member and gives what stops it.
func runEtcd(t *testing.T, bin, name, client, peer, initial, state string) (stop func()) {
	t.Helper()
	return runProgram(t, bin, "--name", name, "--enable-v2=true", "--data-dir", t.TempDir(), "--unsafe-no-fsync",
		"--listen-client-urls", client, "--advertise-client-urls", client,
		"--listen-peer-urls", peer, "--initial-advertise-peer-urls", peer, "--initial-cluster", initial, "--initial-cluster-state", state)
}

func runProgram(t *testing.T, bin string, args ...string) (stop func()) {
	t.Helper()
	cmd := exec.Command(bin, args...)
	var log strings.Builder
	cmd.Stdout, cmd.Stderr = &log, &log
	cmd.Env = []string{"PATH=" + os.Getenv("PATH")}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() { done <- cmd.Wait() }()
	stop = sync.OnceFunc(func() {
		_ = cmd.Process.Signal(syscall.SIGTERM)
		select {
		case <-done:
		case <-time.After(5 * time.Second):
			_ = cmd.Process.Kill()
			<-done
		}
		if t.Failed() {
			t.Logf("%v:\n%s", args, log.String())
		}
	})
	t.Cleanup(stop)
	return stop
}

func waitUp(t *testing.T, client string) {
	t.Helper()
	deadline := time.Now().Add(30 * time.Second)
	for !up(client) {
		if time.Now().After(deadline) {
			t.Fatal("etcd did not come up")
		}
		<-time.After(30 * time.Millisecond)
	}
}

// etcdStage is one real etcd, and addresses for more.
type etcdStage struct {
	bin, client, peer, second, secondClient, secondPeer string
	stop                                                func()
}

func newEtcdStage(t *testing.T, bin, second string) *etcdStage {
	t.Helper()
	s := &etcdStage{bin: bin, second: second, client: "http://" + freeAddr(t), peer: "http://" + freeAddr(t)}
	s.secondClient, s.secondPeer = "http://"+freeAddr(t), "http://"+freeAddr(t)
	s.stop = runEtcd(t, bin, "n1", s.client, s.peer, "n1="+s.peer, "new")
	waitUp(t, s.client)
	return s
}

func (s *etcdStage) URL() string              { return s.client }
func (s *etcdStage) Second() (string, string) { return s.secondPeer, s.secondClient }
func (s *etcdStage) StopFirst(*testing.T)     { s.stop() }

func (s *etcdStage) StartSecond(t *testing.T) {
	runEtcd(t, s.bin, s.second, s.secondClient, s.secondPeer, "n1="+s.peer+","+s.second+"="+s.secondPeer, "existing")
	waitUp(t, s.secondClient)
}

func (s *etcdStage) StartProxy(t *testing.T, mode string) string {
	url := "http://" + freeAddr(t)
	runProgram(t, s.bin, "--name", "proxy", "--enable-v2=true", "--data-dir", t.TempDir(), "--proxy", mode, "--listen-client-urls", url, "--initial-cluster", "n1="+s.peer)
	waitUp(t, url)
	return url
}

// up says whether the server leads and its cluster has agreed on a version, after which its index stands still.
func up(client string) bool {
	resp, err := http.Get(client + "/v2/members/leader")
	if err != nil {
		return false
	}
	resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return false
	}
	resp, err = http.Get(client + "/version")
	if err != nil {
		return false
	}
	defer resp.Body.Close()
	b := make([]byte, 200)
	n, _ := resp.Body.Read(b)
	return !strings.Contains(string(b[:n]), "not_decided")
}

func freeAddr(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

// TestDifferencesAreSeen makes sure that a wrong answer cannot pass.
func TestDifferencesAreSeen(t *testing.T) {
	step := &Step{Base: 10, Mask: []string{"/node/ttl"}}
	recorded := `{"status":200,"headers":{"X-Etcd-Index":12,"X-Raft-Term":"*"},"body":{"action":"set","node":{"key":"/a/00000000000000000012","ttl":3,"modifiedIndex":12,"nodes":[{"key":"/x"},{"key":"/y"}]}}}`
	same := `{"status":200,"headers":{"X-Etcd-Index":102,"X-Raft-Term":"*"},"body":{"action":"set","node":{"key":"/a/00000000000000000102","ttl":2,"modifiedIndex":102,"nodes":[{"key":"/y"},{"key":"/x"}]}}}`
	diff := func(live string) string {
		want, err := decode([]byte(recorded))
		if err != nil {
			t.Fatal(err)
		}
		got, err := decode([]byte(live))
		if err != nil {
			t.Fatal(err)
		}
		return firstDiff(normal(want, step, 10, nil), normal(got, step, 100, strings.NewReplacer()), "")
	}
	if d := diff(same); d != "" {
		t.Fatalf("equal answers differ: %s", d)
	}
	for from, to := range map[string]string{
		`"status":200`:                 `"status":201`,
		`"X-Etcd-Index":102`:           `"X-Etcd-Index":103`,
		`,"X-Raft-Term":"*"`:           ``,
		`"modifiedIndex":102`:          `"modifiedIndex":12`,
		`00000000000000000102"`:        `00000000000000000101"`,
		`"ttl":2`:                      `"ttl":"2"`,
		`"ttl":2,`:                     ``,
		`"action":"set"`:               `"action":"set","more":1`,
		`{"key":"/x"}`:                 `{"key":"/z"}`,
		`,{"key":"/x"}`:                ``,
		`"headers":{"X-Etcd-Index":10`: `"headers":{"Allow":"GET","X-Etcd-Index":10`,
	} {
		bad := strings.Replace(same, from, to, 1)
		if bad == same {
			t.Fatalf("%q is not in the answer", from)
		}
		if diff(bad) == "" {
			t.Errorf("%s instead of %s was not seen", to, from)
		}
	}
}

func TestOnlyLoopback(t *testing.T) {
	for _, u := range []string{"http://192.0.2.1:2379", "http://example.com", "http://"} {
		if _, err := newTarget(u); err == nil {
			t.Errorf("%s was accepted", u)
		}
	}
	if _, err := newTarget(fmt.Sprintf("http://%s", net.JoinHostPort("::1", "2379"))); err != nil {
		t.Error(err)
	}
}
