package etcdctlreplay

import (
	"cmp"
	"encoding/json"
	"net"
	"net/http"
	"os"
	"os/exec"
	"sync"
	"syscall"
	"testing"
	"time"
)

// TestAgainstEtcd proves the replayer, and our command line, with a real server: MUSTER_CONFORMANCE_ETCD names a binary
// of etcd 3.4. MUSTER_CONFORMANCE_ETCDCTL names a command to use in the place of ours, such as Debian's etcdctl.
func TestAgainstEtcd(t *testing.T) {
	binary := os.Getenv("MUSTER_CONFORMANCE_ETCD")
	if binary == "" {
		t.Skip("MUSTER_CONFORMANCE_ETCD is not set")
	}
	theirs := os.Getenv("MUSTER_CONFORMANCE_ETCDCTL")
	skip := map[string]string{}
	if theirs == "" {
		skip["backup"] = "our command line reads the files of our servers"
	}
	replayAll(t, recordings(t), Options{Command: cmp.Or(theirs, etcdctl), Debian: theirs != "", Skip: skip, Stage: func(t *testing.T, second string) Stage {
		e := &etcdStage{binary: binary, second: second, data: t.TempDir(), peer: freeURL(t), client: freeURL(t)}
		if second != "" {
			e.secondPeer, e.secondClient = freeURL(t), freeURL(t)
		}
		e.start(t, "n1", e.data, e.client, e.peer, "n1="+e.peer, "new")
		return e
	}})
}

// etcdStage is one real etcd, and addresses for another.
type etcdStage struct {
	binary, second, data                   string
	client, peer, secondClient, secondPeer string
	stopSecond                             func()
}

func (e *etcdStage) URL() string              { return e.client }
func (e *etcdStage) DataDir() string          { return e.data }
func (e *etcdStage) Second() (string, string) { return e.secondPeer, e.secondClient }
func (e *etcdStage) StopSecond(*testing.T)    { e.stopSecond() }

func (e *etcdStage) StartSecond(t *testing.T) {
	e.stopSecond = e.start(t, e.second, t.TempDir(), e.secondClient, e.secondPeer, "n1="+e.peer+","+e.second+"="+e.secondPeer, "existing")
}

// start runs a member until it serves, and gives what stops it.
func (e *etcdStage) start(t *testing.T, name, data, client, peer, initial, state string) (stop func()) {
	t.Helper()
	cmd := exec.Command(e.binary, "--name", name, "--enable-v2=true", "--data-dir", data, "--unsafe-no-fsync",
		"--listen-client-urls", client, "--advertise-client-urls", client,
		"--listen-peer-urls", peer, "--initial-advertise-peer-urls", peer, "--initial-cluster", initial, "--initial-cluster-state", state)
	cmd.Env = []string{"PATH=" + os.Getenv("PATH")}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	stop = sync.OnceFunc(func() {
		_ = cmd.Process.Signal(syscall.SIGTERM)
		_ = cmd.Wait()
	})
	t.Cleanup(stop)
	deadline := time.Now().Add(30 * time.Second)
	for !serves(client) {
		if time.Now().After(deadline) {
			t.Fatal("etcd did not come up")
		}
		<-time.After(30 * time.Millisecond)
	}
	return stop
}

// serves says whether the cluster has a leader and has agreed on a version, after which its index stands still.
func serves(client string) bool {
	resp, err := http.Get(client + "/v2/members/leader")
	if err != nil {
		return false
	}
	resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return false
	}
	if resp, err = http.Get(client + "/version"); err != nil {
		return false
	}
	defer resp.Body.Close()
	var v struct {
		Cluster string `json:"etcdcluster"`
	}
	return json.NewDecoder(resp.Body).Decode(&v) == nil && v.Cluster != "not_decided"
}

func freeURL(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return "http://" + l.Addr().String()
}
