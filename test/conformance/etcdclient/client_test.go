// Package etcdclient runs the official Go client of etcd's v2 interface (go.etcd.io/etcd/client/v2) against a cluster
// of three servers and a proxy: on the leader, on a follower, on the proxy, and with a list of all. It is a module of
// its own, because it pins what the product does not depend on.
//
//	cd test/conformance/etcdclient && go test -count=1 .
package etcdclient

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"go.etcd.io/etcd/client/v2"
)

const limit = 2 * time.Minute

// agent is one running agent.
type agent struct {
	ip  string
	cmd *exec.Cmd
	log *bytes.Buffer
}

func (a *agent) url() string { return "http://" + a.ip + ":2379" }

func (a *agent) kill() {
	_ = a.cmd.Process.Kill()
	_ = a.cmd.Wait()
}

// eventually polls until ok says so.
func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for deadline := time.Now().Add(limit); !ok(); <-tick.C {
		if time.Now().After(deadline) {
			t.Fatalf("not within %v: %s", limit, what)
		}
	}
}

// cluster starts three servers and a proxy on 127.93.n.x; the proxy comes last.
func cluster(t *testing.T, n int) []*agent {
	t.Helper()
	bin := filepath.Join(t.TempDir(), "muster")
	build := exec.Command("go", "build", "-o", bin, "./cmd/muster")
	build.Dir = filepath.Join("..", "..", "..")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	var all []*agent
	for i := range 4 {
		a := &agent{ip: fmt.Sprintf("127.93.%d.%d", n, i+1), log: &bytes.Buffer{}}
		args := []string{"agent", "-node", fmt.Sprint("n", i+1), "-bind", a.ip, "-client", a.ip, "-data-dir", t.TempDir(), "-retry-interval=1s",
			"-hcl=performance { raft_multiplier = 3 }"} // the client repeats what a falling leader leaves open, and no condition holds twice
		for j := range 3 {
			args = append(args, fmt.Sprintf("-retry-join=127.93.%d.%d", n, j+1))
		}
		if i < 3 {
			args = append(args, "-server", "-bootstrap-expect=3")
		}
		a.cmd = exec.Command(bin, args...)
		a.cmd.Stdout, a.cmd.Stderr = a.log, a.log
		if err := a.cmd.Start(); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			a.kill()
			if t.Failed() {
				t.Logf("--- %s\n%s", a.ip, a.log)
			}
		})
		all = append(all, a)
	}
	for i, a := range all {
		eventually(t, a.ip+" is up", func() bool {
			resp, err := http.Get(fmt.Sprintf("http://%s:8500/v1/catalog/node/n%d", a.ip, i+1))
			if err != nil {
				return false
			}
			defer resp.Body.Close()
			b, err := io.ReadAll(resp.Body)
			return err == nil && resp.StatusCode == http.StatusOK && len(b) > 10
		})
	}
	return all
}

func dial(t *testing.T, urls ...string) client.Client {
	t.Helper()
	c, err := client.New(client.Config{Endpoints: urls, Transport: client.DefaultTransport, HeaderTimeoutPerRequest: 30 * time.Second})
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// code is the number of an error of the interface, 0 for any other.
func code(err error) int {
	var e client.Error
	if errors.As(err, &e) {
		return e.Code
	}
	return 0
}

func TestClient(t *testing.T) {
	all := cluster(t, 1)
	leader, err := client.NewMembersAPI(dial(t, all[3].url())).Leader(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	var follower string
	for _, a := range all[:3] {
		if a.url() != leader.ClientURLs[0] {
			follower = a.url()
		}
	}
	every := []string{all[0].url(), all[1].url(), all[2].url(), all[3].url()}
	for name, urls := range map[string][]string{"leader": leader.ClientURLs, "follower": {follower}, "proxy": {all[3].url()}, "all": every} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			kapi := client.NewKeysAPI(dial(t, urls...))
			t.Run("keys", func(t *testing.T) { keys(t, kapi, "/"+name) })
			t.Run("directories", func(t *testing.T) { directories(t, kapi, "/"+name+"-dir") })
			t.Run("watch", func(t *testing.T) { watch(t, kapi, "/"+name+"-watch") })
		})
	}
}

// keys goes through every condition of every write.
func keys(t *testing.T, k client.KeysAPI, dir string) {
	ctx, key := t.Context(), dir+"/key"
	must := func(r *client.Response, err error) *client.Response {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return r
	}
	refused := func(want int, _ *client.Response, err error) {
		t.Helper()
		if code(err) != want {
			t.Errorf("error %v, want code %d", err, want)
		}
	}
	r, err := k.Get(ctx, key, nil)
	refused(client.ErrorCodeKeyNotFound, r, err)
	created := must(k.Create(ctx, key, "one"))
	if created.Action != "create" || created.Node.Value != "one" || created.Index == 0 || created.ClusterID == "" {
		t.Errorf("create: %+v", created)
	}
	r, err = k.Create(ctx, key, "two")
	refused(client.ErrorCodeNodeExist, r, err)
	r, err = k.Update(ctx, key+"x", "v")
	refused(client.ErrorCodeKeyNotFound, r, err)
	updated := must(k.Update(ctx, key, "two"))
	if updated.PrevNode.Value != "one" || updated.Node.CreatedIndex != created.Node.CreatedIndex {
		t.Errorf("update: %+v", updated)
	}
	if got := must(k.Get(ctx, key, &client.GetOptions{Quorum: true})); got.Node.Value != "two" {
		t.Errorf("quorum read: %+v", got.Node)
	}
	if got := must(k.Get(ctx, key, nil)); got.Node.Value != "two" {
		t.Errorf("a read right after the write: %+v", got.Node)
	}
	r, err = k.Set(ctx, key, "three", &client.SetOptions{PrevValue: "one"})
	refused(client.ErrorCodeTestFailed, r, err)
	r, err = k.Set(ctx, key, "three", &client.SetOptions{PrevIndex: created.Node.ModifiedIndex})
	refused(client.ErrorCodeTestFailed, r, err)
	must(k.Set(ctx, key, "three", &client.SetOptions{PrevValue: "two"}))
	swapped := must(k.Set(ctx, key, "four", &client.SetOptions{PrevExist: client.PrevExist, TTL: time.Minute}))
	if swapped.Node.TTL > 60 || swapped.Node.TTL < 30 || swapped.Node.Expiration == nil {
		t.Errorf("lifetime: %+v", swapped.Node)
	}
	refreshed := must(k.Set(ctx, key, "", &client.SetOptions{PrevExist: client.PrevExist, TTL: 2 * time.Minute, Refresh: true}))
	if refreshed.Node.Value != "four" || refreshed.Node.TTL > 120 || refreshed.Node.TTL < 90 {
		t.Errorf("refresh: %+v", refreshed.Node)
	}
	if quiet := must(k.Set(ctx, key, "five", &client.SetOptions{NoValueOnSuccess: true})); quiet.Node != nil {
		t.Errorf("noValueOnSuccess: %+v", quiet.Node)
	}
	if text := "ü \"<&>\" \u2028 \n"; must(k.Set(ctx, key, text, nil)).Node.Value != text || must(k.Get(ctx, key, nil)).Node.Value != text {
		t.Error("the value does not come back as it was")
	}
	r, err = k.Delete(ctx, key, &client.DeleteOptions{PrevValue: "no"})
	refused(client.ErrorCodeTestFailed, r, err)
	r, err = k.Delete(ctx, dir, nil)
	refused(client.ErrorCodeNotFile, r, err)
	last := must(k.Get(ctx, key, nil)).Node.ModifiedIndex
	if gone := must(k.Delete(ctx, key, &client.DeleteOptions{PrevIndex: last})); gone.Action != "compareAndDelete" {
		t.Errorf("delete: %+v", gone)
	}
	r, err = k.Set(ctx, "/", "v", nil)
	refused(client.ErrorCodeRootROnly, r, err)
}

func directories(t *testing.T, k client.KeysAPI, dir string) {
	ctx := t.Context()
	if _, err := k.Set(ctx, dir, "", &client.SetOptions{Dir: true, TTL: time.Minute}); err != nil {
		t.Fatal(err)
	}
	var names []string
	for range 5 {
		r, err := k.CreateInOrder(ctx, dir+"/queue", "job", &client.CreateInOrderOptions{TTL: time.Minute})
		if err != nil {
			t.Fatal(err)
		}
		names = append(names, r.Node.Key)
	}
	r, err := k.Get(ctx, dir, &client.GetOptions{Recursive: true, Sort: true, Quorum: true})
	if err != nil || !r.Node.Dir || len(r.Node.Nodes) != 1 || len(r.Node.Nodes[0].Nodes) != 5 {
		t.Fatalf("listing: %+v, %v", r, err)
	}
	for i, n := range r.Node.Nodes[0].Nodes {
		if n.Key != names[i] {
			t.Errorf("place %d holds %s, want %s", i, n.Key, names[i])
		}
	}
	if _, err := k.Delete(ctx, dir, &client.DeleteOptions{Dir: true}); code(err) != client.ErrorCodeDirNotEmpty {
		t.Errorf("removal of a full directory: %v", err)
	}
	if _, err := k.Get(ctx, names[0]+"/below", nil); code(err) != client.ErrorCodeNotDir {
		t.Errorf("a key below a key: %v", err)
	}
	if _, err := k.Delete(ctx, dir, &client.DeleteOptions{Recursive: true}); err != nil {
		t.Error(err)
	}
	// A directory that runs out takes its children along, with one event.
	w := k.Watcher(dir, &client.WatcherOptions{Recursive: true, AfterIndex: r.Index})
	if _, err := w.Next(ctx); err != nil { // the removal
		t.Fatal(err)
	}
	if _, err := k.Set(ctx, dir, "", &client.SetOptions{Dir: true, TTL: 5 * time.Second}); err != nil {
		t.Fatal(err)
	}
	if _, err := k.Set(ctx, dir+"/child", "v", nil); err != nil {
		t.Fatal(err)
	}
	var actions []string
	for range 3 {
		ev, err := w.Next(ctx)
		if err != nil {
			t.Fatal(err)
		}
		actions = append(actions, ev.Action+" "+strings.TrimPrefix(ev.Node.Key, dir))
	}
	if got := strings.Join(actions, ", "); got != "set , set /child, expire " {
		t.Errorf("events: %s", got)
	}
}

// watch follows a directory while it is written; each event comes once, in order.
func watch(t *testing.T, k client.KeysAPI, dir string) {
	ctx, cancel := context.WithTimeout(t.Context(), limit)
	defer cancel()
	first, err := k.Set(ctx, dir+"/first", "v", nil)
	if err != nil {
		t.Fatal(err)
	}
	const n = 200
	var wg sync.WaitGroup
	for range 3 {
		wg.Go(func() {
			w := k.Watcher(dir, &client.WatcherOptions{Recursive: true, AfterIndex: first.Node.ModifiedIndex})
			for i := range n {
				ev, err := w.Next(ctx)
				if err != nil || ev.Node.Value != fmt.Sprint(i) {
					t.Errorf("event %d: %+v, %v", i, ev, err)
					return
				}
			}
		})
	}
	for i := range n {
		if _, err := k.Set(ctx, dir+"/key", fmt.Sprint(i), nil); err != nil {
			t.Fatal(err)
		}
	}
	wg.Wait()
}

// TestSyncAndMembers: a client that knows only the proxy learns the servers, and goes on with them when the proxy and
// a server die; the list of members can be changed.
func TestSyncAndMembers(t *testing.T) {
	all := cluster(t, 2)
	proxy := all[3]
	c := dial(t, proxy.url())
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	if err := c.Sync(ctx); err != nil {
		t.Fatal(err)
	}
	if got := len(c.Endpoints()); got != 3 {
		t.Fatalf("endpoints after Sync: %v", c.Endpoints())
	}
	go func() {
		if err := c.AutoSync(ctx, 200*time.Millisecond); err != nil && ctx.Err() == nil {
			t.Error(err)
		}
	}()
	m := client.NewMembersAPI(c)
	var list []client.Member
	var err error
	eventually(t, "the members are listed", func() bool {
		list, err = m.List(ctx)
		return err == nil && len(list) == 3 && list[0].ID != "" && len(list[0].PeerURLs) == 1 && len(list[0].ClientURLs) == 1
	})
	var added *client.Member
	eventually(t, "a member can be added", func() bool { // not before all servers have been connected for some seconds
		added, err = m.Add(ctx, "http://127.93.2.99:8300")
		return err == nil
	})
	eventually(t, "the new member is listed", func() bool { // any server answers, each from what it has been told
		list, err = m.List(ctx)
		return err == nil && len(list) == 4
	})
	if _, err := m.Add(ctx, "http://127.93.2.99:8300"); err == nil {
		t.Error("the same URL was added twice")
	}
	if err := m.Update(ctx, added.ID, []string{"http://127.93.2.98:8300"}); err != nil {
		t.Error(err)
	}
	if err := m.Remove(ctx, added.ID); err != nil {
		t.Error(err)
	}
	if err := m.Remove(ctx, added.ID); err != nil { // "gone" is what was wanted
		t.Error(err)
	}
	if err := m.Remove(ctx, "123"); err == nil {
		t.Error("a member that never was is removed")
	}
	v, err := c.GetVersion(ctx)
	if err != nil || !strings.HasPrefix(v.Server, "3.4.") {
		t.Errorf("version: %+v, %v", v, err)
	}

	k := client.NewKeysAPI(c)
	if _, err := k.Set(ctx, "/kept", "v", nil); err != nil {
		t.Fatal(err)
	}
	proxy.kill()
	leader, err := m.Leader(ctx)
	if err != nil {
		t.Fatal(err)
	}
	for _, a := range all[:3] {
		if a.url() == leader.ClientURLs[0] {
			a.kill()
		}
	}
	eventually(t, "the client writes without the proxy and the leader", func() bool {
		_, err := k.Set(ctx, "/after", "v", nil)
		return err == nil
	})
	if r, err := k.Get(ctx, "/kept", &client.GetOptions{Quorum: true}); err != nil || r.Node.Value != "v" {
		t.Errorf("what was written before: %+v, %v", r, err)
	}
}
