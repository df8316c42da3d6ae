//go:build e2e

package e2e

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
)

// startEtcd runs a live cluster of n members of Debian's etcd with the version 2 interface, and returns it and its client
// URLs. clients are further flags.
func startEtcd(t *testing.T, n int, clients func(h *host) []string) ([]*host, []string) {
	t.Helper()
	etcd := tool(t, "etcd")
	var members []*host
	var initial, urls []string
	for i := range n {
		h := newAgentHost(t, fmt.Sprintf("infra%d", i))
		members = append(members, h)
		initial = append(initial, h.name+"=http://"+h.ip+":2380")
		urls = append(urls, "http://"+h.ip+":2379")
	}
	for i, h := range members {
		args := []string{"--name", h.name, "--data-dir", h.dir, "--enable-v2", "--unsafe-no-fsync", "--listen-peer-urls", "http://" + h.ip + ":2380",
			"--initial-advertise-peer-urls", "http://" + h.ip + ":2380", "--initial-cluster", strings.Join(initial, ",")}
		if clients != nil {
			args = append(args, clients(h)...)
		} else {
			args = append(args, "--listen-client-urls", urls[i], "--advertise-client-urls", urls[i])
		}
		h.runProgram(etcd, args...)
	}
	if clients == nil {
		eventually(t, 30*time.Second, "etcd answers", func() bool {
			status, body := members[n-1].etcdDo(http.MethodGet, "/health", "")
			return status == http.StatusOK && strings.Contains(body, "true")
		})
	}
	return members, urls
}

// etcdDo makes one request at the port of etcd's clients; a connection error is status 0.
func (h *host) etcdDo(method, path, form string) (int, string) {
	return exchange(method, h.etcd()+path, form)
}

func exchange(method, target, form string) (int, string) {
	ctx, cancel := context.WithTimeout(context.Background(), 15*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, method, target, strings.NewReader(form))
	if err != nil {
		return 0, err.Error()
	}
	if form != "" {
		req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return 0, err.Error()
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		return 0, err.Error()
	}
	return resp.StatusCode, string(b)
}

func (h *host) etcdPut(path, form string) {
	h.t.Helper()
	if status, body := h.etcdDo(http.MethodPut, "/v2/keys"+path, form); status/100 != 2 {
		h.t.Fatalf("%s: %s: status %d: %s", h.name, path, status, body)
	}
}

// walk gives all that a cluster shows below some places: values, directories, and moments of expiry.
func (h *host) walk(places ...string) map[string]etcdNode {
	h.t.Helper()
	out := map[string]etcdNode{}
	for _, p := range places {
		status, body := h.etcdDo(http.MethodGet, "/v2/keys"+p+"?recursive=true&quorum=true", "")
		var answer struct{ Node etcdNode }
		if err := json.Unmarshal([]byte(body), &answer); status != http.StatusOK || err != nil {
			h.t.Fatalf("%s: %s: status %d: %.200s %v", h.name, p, status, body, err)
		}
		answer.Node.each(func(n etcdNode) { out[n.Key] = n })
	}
	return out
}

type etcdNode struct {
	Key, Value string
	Dir        bool
	Expiration time.Time
	Nodes      []etcdNode
}

func (n etcdNode) each(f func(etcdNode)) {
	for _, c := range n.Nodes {
		c.each(f)
	}
	n.Nodes = nil
	if n.Key != "" {
		f(n)
	}
}

// sameTree compares two clusters key by key.
func sameTree(t *testing.T, from, to map[string]etcdNode) {
	t.Helper()
	wrong := 0
	for key, a := range from {
		b, ok := to[key]
		drift := b.Expiration.Sub(a.Expiration)
		if !ok || a.Value != b.Value || a.Dir != b.Dir || a.Expiration.IsZero() != b.Expiration.IsZero() || drift < -500*time.Millisecond || drift > 1500*time.Millisecond {
			if wrong++; wrong < 10 {
				t.Errorf("%s: %.100v, the target has %.100v", key, a, b)
			}
		}
	}
	for key := range to {
		if _, ok := from[key]; !ok {
			t.Errorf("%s is in the target only", key)
		}
	}
	if len(from) == 0 {
		t.Error("nothing was compared")
	}
}

func (h *host) etcdIndex() string {
	h.t.Helper()
	resp, err := http.Get("http://" + h.ip + ":2379/v2/keys/?quorum=true")
	if err != nil {
		h.t.Fatal(err)
	}
	defer resp.Body.Close()
	return resp.Header.Get("X-Etcd-Index")
}

// migration is a run of muster migrate.
type migration struct {
	*exec.Cmd
	out, errs *logBuffer
}

func startMigration(t *testing.T, args ...string) migration {
	t.Helper()
	m := migration{exec.Command(binary, append([]string{"migrate", "etcd"}, args...)...), &logBuffer{}, &logBuffer{}}
	m.Stdout, m.Stderr = m.out, m.errs
	if err := m.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = m.Process.Kill()
		if t.Failed() {
			t.Logf("--- migration\n%s%s", m.out, tail(m.errs.String(), 30))
		}
	})
	return m
}

// end waits for the exit code.
func (m migration) end(t *testing.T) int {
	t.Helper()
	done := make(chan struct{})
	go func() { _ = m.Wait(); close(done) }()
	select {
	case <-done:
	case <-time.After(60 * time.Second):
		t.Fatalf("the migration goes on\n%s", tail(m.errs.String(), 20))
	}
	return m.ProcessState.ExitCode()
}

// seedEtcd writes the keys that the migration has to bring over: a few thousand, and the odd ones.
func seedEtcd(t *testing.T, members []*host) {
	t.Helper()
	var wg sync.WaitGroup
	for w := range 8 {
		wg.Go(func() {
			for i := w; i < 3000; i += 8 {
				form := url.Values{"value": {fmt.Sprintf("v%d %s", i, strings.Repeat("x", i%200))}}
				if i%10 == 0 {
					form.Set("ttl", fmt.Sprint(900+i))
				}
				members[i%len(members)].etcdPut(fmt.Sprintf("/app/d%d/e%d/k%d", i%40, i%7, i), form.Encode())
			}
		})
	}
	wg.Wait()
	h := members[0]
	for path, form := range map[string]string{
		"/empty/dir": "dir=true", "/lease": "dir=true&ttl=1200", "/novalue": "value=", "/_hidden/a": "value=h", "/app/_secret": "value=s",
		"/" + url.PathEscape("schlüssel ключ 鍵 +%?#"): url.Values{"value": {"wert ü\n\t\"<&>\u2028 \U0001F511"}}.Encode(),
		"/big": "value=" + strings.Repeat("b", 900<<10), "/_coreos.com/fleet": "value=f",
	} {
		h.etcdPut(path, form)
	}
	h.etcdPut("/lease/holder", "value=me&ttl=300")
	for i := range 20 {
		if status, body := h.etcdDo(http.MethodPost, "/v2/keys/queue", fmt.Sprintf("value=job%d", i)); status != http.StatusCreated {
			t.Fatalf("in order: %d %s", status, body)
		}
	}
}

// TestMigrateFromLiveEtcd moves a live cluster of three into a Muster of three while clients go on writing, is killed and
// interrupted on the way, and goes on.
func TestMigrateFromLiveEtcd(t *testing.T) {
	ctl := tool(t, "etcdctl")
	members, urls := startEtcd(t, 3, nil)
	c := newCluster(t, 3, 0)
	seedEtcd(t, members)
	to := c.servers
	args := []string{"-from", strings.Join(urls, ","), "-to", to[0].etcd() + "," + to[1].etcd() + "," + to[2].etcd(), "-hidden", "/_hidden", "-hidden", "/app/_secret"}
	copied := func() int {
		status, body := to[0].etcdDo(http.MethodGet, "/v2/keys/app?recursive=true", "")
		if status != http.StatusOK {
			return 0
		}
		return strings.Count(body, `"value"`)
	}

	// Killed, then interrupted, in the middle of the copy.
	m := startMigration(t, append(args, "-rate=800")...)
	eventually(t, 30*time.Second, "some keys are there", func() bool { return copied() > 300 })
	_ = m.Process.Kill()
	m.end(t)
	atKill := copied()
	m = startMigration(t, append(args, "-rate=800")...)
	eventually(t, 30*time.Second, "some more keys are there", func() bool { return copied() > atKill+300 })
	_ = m.Process.Signal(syscall.SIGINT)
	if code := m.end(t); code != 1 || !strings.Contains(m.errs.String(), "interrupted: run the same command again") || !strings.Contains(m.errs.String(), "% ") && !strings.Contains(m.errs.String(), "%,") {
		t.Fatalf("interrupted: exit code %d\n%s", code, m.errs)
	}
	if n := copied(); n >= 3000 || n <= atKill {
		t.Fatalf("%d keys were there at the kill and %d at the interrupt", atKill, n)
	}

	// Resumed, with writers.
	quit := make(chan struct{})
	var writers sync.WaitGroup
	var writes atomic.Int64
	for w := range 4 {
		writers.Go(func() {
			h := members[w%len(members)]
			pace := time.NewTicker(20 * time.Millisecond) // else three clusters on one machine starve each other
			defer pace.Stop()
			for i := 0; ; i++ {
				select {
				case <-quit:
					return
				case <-pace.C:
				}
				key := fmt.Sprintf("/v2/keys/app/d%d", (i*4+w)%40)
				switch i % 6 {
				case 0:
					h.etcdDo(http.MethodDelete, key+"/e1?recursive=true", "")
				case 1:
					h.etcdDo(http.MethodPost, "/v2/keys/queue", fmt.Sprintf("value=live%d-%d", w, i))
				case 2:
					h.etcdDo(http.MethodPut, key+"/live", fmt.Sprintf("value=%d&ttl=600", i))
				case 3:
					h.etcdDo(http.MethodPut, fmt.Sprintf("/v2/keys/app/short%d-%d", w, i), "value=x&ttl=1")
				case 4:
					h.etcdDo(http.MethodPut, "/v2/keys/_hidden/a", fmt.Sprintf("value=%d", i))
				default:
					h.etcdDo(http.MethodPut, fmt.Sprintf("/v2/keys/app/d%d/e2/k%d", i%40, i%40), fmt.Sprintf("value=%d-%d", w, i))
				}
				writes.Add(1)
			}
		})
	}
	m = startMigration(t, append(args, "-follow", "-overwrite", "-delete")...)
	eventually(t, 40*time.Second, "the migration follows", func() bool { return strings.Contains(m.errs.String(), "following: ") && writes.Load() > 500 })
	close(quit)
	writers.Wait()
	eventually(t, 30*time.Second, "the short-lived keys are gone", func() bool {
		_, body := members[0].etcdDo(http.MethodGet, "/v2/keys/app", "")
		return !strings.Contains(body, "/app/short")
	})
	_ = m.Process.Signal(syscall.SIGINT)
	if code := m.end(t); code != 0 || !strings.Contains(m.out.String(), "Result:     equal") {
		t.Fatalf("followed: exit code %d\n%s%s", code, m.out, tail(m.errs.String(), 20))
	}
	t.Logf("%d writes meanwhile\n%s", writes.Load(), m.out)
	places := []string{"/", "/_hidden", "/app/_secret", "/_coreos.com"}
	sameTree(t, members[1].walk(places...), to[2].walk(places...))
	list := func(endpoint string) []string {
		out, errs, code := sh(t, []string{"ETCDCTL_API=2"}, "", ctl, "--endpoints", endpoint, "ls", "--recursive", "-p", "/")
		if code != 0 {
			t.Fatalf("etcdctl ls: %s", errs)
		}
		lines := strings.Split(out, "\n")
		slices.Sort(lines)
		return lines
	}
	if a, b := list(urls[2]), list(to[1].etcd()); !slices.Equal(a, b) || len(a) < 2000 {
		t.Errorf("etcdctl lists %d names at the source and %d at the target", len(a), len(b))
	}

	// Once more it writes nothing; what differs is kept, listed and refused.
	before := to[0].etcdIndex()
	if m = startMigration(t, args...); m.end(t) != 0 || to[0].etcdIndex() != before {
		t.Errorf("repeated, it moved the index from %s to %s\n%s", before, to[0].etcdIndex(), m.out)
	}
	to[0].etcdPut("/big", "value=mine")
	to[0].etcdPut("/theirs", "value=1")
	if m = startMigration(t, args...); m.end(t) != 5 || !strings.Contains(m.out.String(), "/big: another value in the target") || to[0].walk("/big")["/big"].Value != "mine" {
		t.Errorf("another value: %s%s", m.out, m.errs)
	}
	if m = startMigration(t, append(args, "-overwrite", "-delete")...); m.end(t) != 0 {
		t.Errorf("overwritten: %s%s", m.out, m.errs)
	}
	sameTree(t, members[0].walk(places...), to[0].walk(places...))
}

// TestMigrateOverTLS copies from a member that asks for certificates, with a certificate and a password.
func TestMigrateOverTLS(t *testing.T) {
	pki := newPKI(t)
	members, _ := startEtcd(t, 1, func(h *host) []string {
		u := "https://" + h.ip + ":2379"
		return []string{"--listen-client-urls", u, "--advertise-client-urls", u, "--client-cert-auth", "--trusted-ca-file", pki.ca,
			"--cert-file", pki.issue("server", h.ip), "--key-file", pki.key("server")}
	})
	ctl := tool(t, "etcdctl")
	client, key := pki.issue("client", "127.0.0.1"), pki.key("client")
	from := "https://" + members[0].ip + ":2379"
	etcdctl := func(args ...string) (string, int) {
		out, errs, code := sh(t, []string{"ETCDCTL_API=2"}, "", append([]string{ctl, "--endpoints", from, "--ca-file", pki.ca, "--cert-file", client, "--key-file", key}, args...)...)
		return out + errs, code
	}
	eventually(t, 30*time.Second, "etcd answers", func() bool { _, code := etcdctl("set", "/a", "1"); return code == 0 })
	for _, args := range [][]string{{"user", "add", "root:s3cret"}, {"auth", "enable"}, {"-u", "root:s3cret", "role", "revoke", "guest", "--path", "/*", "--readwrite"}} {
		if out, code := etcdctl(args...); code != 0 {
			t.Fatalf("etcdctl %v: %s", args, out)
		}
	}
	c := newCluster(t, 1, 0)
	args := []string{"-from", from, "-to", c.servers[0].etcd()}
	if m := startMigration(t, args...); m.end(t) != 2 || !strings.Contains(m.errs.String(), "certificate") {
		t.Errorf("without a certificate: %s", m.errs)
	}
	args = append(args, "-from-ca-file", pki.ca, "-from-cert-file", client, "-from-key-file", key)
	if m := startMigration(t, args...); m.end(t) != 1 || !strings.Contains(m.errs.String(), "110: The request requires user authentication") {
		t.Errorf("without a password: %s", m.errs)
	}
	m := startMigration(t, append(args, "-from-user", "root:s3cret")...)
	if m.end(t) != 0 || strings.Contains(m.out.String()+m.errs.String(), "s3cret") {
		t.Errorf("%s%s", m.out, m.errs)
	}
	if v := c.servers[0].walk("/a")["/a"].Value; v != "1" {
		t.Errorf("the value is %q", v)
	}
}

// TestEtcdFlagsOverTLS runs the agent under the name etcd with etcd's certificate flags, for stock etcdctl.
func TestEtcdFlagsOverTLS(t *testing.T) {
	ctl := tool(t, "etcdctl")
	pki := newPKI(t)
	h := newAgentHost(t, "infra0")
	name := filepath.Join(t.TempDir(), "etcd")
	if err := exec.Command("ln", "-s", binary, name).Run(); err != nil {
		t.Fatal(err)
	}
	u, peer := "https://"+h.ip+":2379", "http://"+h.ip+":2380"
	h.runProgram(name, "--name", h.name, "--data-dir", h.dir, "--listen-client-urls", u+",http://"+h.ip+":4001", "--advertise-client-urls", "https://localhost:2379,"+u,
		"--listen-peer-urls", peer, "--initial-advertise-peer-urls", peer, "--initial-cluster", h.name+"="+peer,
		"--cert-file", pki.issue("server", h.ip), "--key-file", pki.key("server"), "--trusted-ca-file", pki.ca, "--client-cert-auth")
	client, key := pki.issue("client", "127.0.0.1"), pki.key("client")
	run := func(flags []string, args ...string) (string, int) {
		out, errs, code := sh(t, []string{"ETCDCTL_API=2"}, "", slices.Concat([]string{ctl, "--no-sync", "--endpoints", u}, flags, args)...)
		return out + errs, code
	}
	with := []string{"--ca-file", pki.ca, "--cert-file", client, "--key-file", key}
	eventually(t, 30*time.Second, "a key can be set", func() bool { out, code := run(with, "set", "/a", "1"); return code == 0 && out == "1\n" })
	for what, flags := range map[string][]string{"no certificate": {"--ca-file", pki.ca}, "no authority": {"--cert-file", client, "--key-file", key}} {
		if out, code := run(flags, "get", "/a"); code == 0 {
			t.Errorf("%s: %s", what, out)
		}
	}
	if out, code := run(with, "member", "list"); code != 0 || !strings.Contains(out, "name=infra0 peerURLs="+peer+" clientURLs=https://localhost:2379,"+u+" isLeader=true") {
		t.Errorf("member list: exit code %d\n%s", code, out)
	}
	if out, code := run(with, "cluster-health"); code != 0 || !strings.Contains(out, "is healthy: got healthy result from https://") {
		t.Errorf("cluster-health: exit code %d\n%s", code, out)
	}
	status, body := exchange(http.MethodGet, "http://"+h.ip+":4001/v2/keys/a", "")
	if status != http.StatusOK || !strings.Contains(body, `"value":"1"`) {
		t.Errorf("over http: %d %s", status, body)
	}
}
