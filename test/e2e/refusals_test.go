//go:build e2e

package e2e

import (
	"encoding/base64"
	"encoding/json"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// refused runs an agent that must end by itself with code 1 and an error that holds all the words.
func refused(t *testing.T, h *host, words ...string) {
	t.Helper()
	if code := h.wait(40 * time.Second); code != 1 {
		t.Errorf("exit code %d, want 1", code)
	}
	for _, w := range words {
		if !strings.Contains(h.log.String(), w) {
			t.Errorf("the error does not say %q:\n%s", w, tail(h.log.String(), 15))
		}
	}
}

func TestBadSettingsAreRefusedAtStart(t *testing.T) {
	cases := []struct {
		name  string
		args  []string
		file  string
		words []string
	}{
		{"unknown key", nil, `{"bogus": 1}`, []string{"bogus", "bad.json"}},
		{"broken hcl", nil, `{`, []string{"bad.json"}},
		{"port out of range", []string{"-http-port=70000"}, "", []string{"70000"}},
		{"bad node name", []string{"-node=a b/c"}, "", []string{"a b/c"}},
		{"bad datacenter", []string{"-datacenter=Bad DC"}, "", []string{"Bad DC"}},
		{"bad duration", nil, `{"retry_interval": "soon"}`, []string{"retry_interval", "soon", "bad.json"}},
		{"bad gossip key", []string{"-encrypt=short"}, "", []string{"encrypt"}},
		{"ports clash", []string{"-http-port=8600", "-dns-port=8600"}, "", []string{"8600"}},
		{"not an address", []string{"-bind=nowhere"}, "", []string{"bind_addr", "nowhere"}},
	}
	for _, x := range cases {
		t.Run(x.name, func(t *testing.T) {
			t.Parallel()
			h := newAgentHost(t, "bad")
			args := x.args
			if x.file != "" {
				f := filepath.Join(t.TempDir(), "bad.json")
				if err := os.WriteFile(f, []byte(x.file), 0o600); err != nil {
					t.Fatal(err)
				}
				args = append(args, "-config-file="+f)
			}
			h.start(args...)
			refused(t, h, x.words...)
		})
	}
}

func TestPortInUseIsNamed(t *testing.T) {
	a := newAgentHost(t, "a", "-server", "-bootstrap-expect=1")
	a.start()
	(&cluster{t: t, servers: []*host{a}}).ready(a)
	b := newAgentHost(t, "b", "-server", "-bootstrap-expect=1")
	b.ip = a.ip
	b.start()
	refused(t, b, a.ip+":8")
}

func TestForeignDataDirectoryIsRefused(t *testing.T) {
	c := newCluster(t, 1, 0)
	first := c.servers[0]
	first.kill()
	id := filepath.Join(first.dir, "node-id")
	if err := os.WriteFile(id, []byte("11111111-2222-3333-4444-555555555555"), 0o600); err != nil {
		t.Fatal(err)
	}
	first.start()
	refused(t, first, first.dir)
}

func TestDataDirectoryOfAnotherClusterIsRefused(t *testing.T) {
	c := newCluster(t, 1, 1)
	other := newCluster(t, 1, 0)
	stray := other.servers[0]
	eventually(t, 30*time.Second, "the data directory knows its cluster", func() bool {
		b, err := os.ReadFile(filepath.Join(stray.dir, "raft", "node.json"))
		return err == nil && strings.Contains(string(b), "cluster_id")
	})
	stray.kill()
	c.servers[0].must(http.MethodPut, "/v1/kv/mine", "1")
	stray.args = append(stray.args, "-node=stray", "-retry-join="+c.servers[0].ip)
	stray.start()
	refused(t, stray, "another cluster")
	var members []struct{ Name string }
	if !c.servers[0].get("/v1/agent/members", &members) || len(members) != 2 {
		t.Errorf("members: %v, want only its own two", members)
	}
}

func TestDataDirectoryOfAnotherVersionIsRefused(t *testing.T) {
	c := newCluster(t, 1, 0)
	s := c.servers[0]
	s.kill()
	file := filepath.Join(s.dir, "raft", "node.json")
	b, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	var id map[string]any
	if err := json.Unmarshal(b, &id); err != nil {
		t.Fatal(err)
	}
	id["format"] = 99
	if b, err = json.Marshal(id); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file, b, 0o600); err != nil {
		t.Fatal(err)
	}
	s.start()
	refused(t, s, s.dir, "99")
}

func TestNameCollisionIsRefused(t *testing.T) {
	c := newCluster(t, 1, 1)
	p := newAgentHost(t, "p1", "-retry-join="+c.servers[0].ip, "-retry-interval=1s", "-retry-max=3")
	p.start()
	eventually(t, 30*time.Second, "the second p1 says that its name is taken", func() bool {
		return strings.Contains(p.log.String(), "name") && strings.Contains(p.log.String(), "p1") && strings.Contains(strings.ToLower(p.log.String()), "conflict")
	})
	var node struct{ Node struct{ Address string } }
	if !c.servers[0].get("/v1/catalog/node/p1", &node) || node.Node.Address != c.proxies[0].ip {
		t.Errorf("the first p1 was disturbed: %+v", node)
	}
}

func TestBadRequestsChangeNothing(t *testing.T) {
	c := newCluster(t, 1, 0)
	s := c.servers[0]
	index := func() string {
		resp, err := http.Get(s.url("/v1/kv/none"))
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		return resp.Header.Get("X-Consul-Index")
	}
	eventually(t, 30*time.Second, "the agent has settled", func() bool {
		before := index()
		time.Sleep(300 * time.Millisecond) // nothing to wait for: this is the settling itself
		return before == index()
	})
	before := index()
	big := strings.Repeat("x", 600<<10)
	cases := []struct {
		method, path, body string
		status             int
	}{
		{"PUT", "/v1/catalog/register", `{`, 400},
		{"PUT", "/v1/catalog/register", `{"Bogus":1}`, 400},
		{"PUT", "/v1/catalog/register", `{"Address":"1.2.3.4"}`, 500},
		{"PUT", "/v1/agent/service/register", `{"Name":""}`, 400},
		{"PUT", "/v1/agent/service/register", `{"Name":"x","Port":"80"}`, 400},
		{"PUT", "/v1/agent/service/register", `{"Name":"x","Check":{"TTL":"soon"}}`, 400},
		{"PUT", "/v1/agent/check/pass/none", ``, 404},
		{"PUT", "/v1/kv/", ``, 400},
		{"PUT", "/v1/kv/a?cas=x", `v`, 500},
		{"PUT", "/v1/kv/big", big, 413},
		{"GET", "/v1/kv/a?index=x", ``, 400},
		{"GET", "/v1/kv/a?index=1&wait=soon", ``, 400},
		{"GET", "/v1/nosuch", ``, 404},
		{"POST", "/v1/kv/a", `v`, 405},
		{"PUT", "/v2/keys/a?ttl=soon", ``, 400},
		{"PUT", "/v2/keys/a?prevExist=maybe", ``, 400},
		{"GET", "/v2/keys/a?waitIndex=x", ``, 400},
		{"PUT", "/v2/keys/", `value=x`, 400},
		{"PATCH", "/v2/keys/a", ``, 405},
	}
	for _, x := range cases {
		if status, body := s.do(x.method, x.path, x.body); status != x.status {
			t.Errorf("%s %s: status %d (%s), want %d", x.method, x.path, status, strings.TrimSpace(body), x.status)
		}
	}
	if after := index(); after != before {
		t.Errorf("refused requests moved the index from %s to %s", before, after)
	}
	if strings.Contains(s.log.String(), "panic") {
		t.Error("something panicked")
	}
}

func TestEncryptedClusterRefusesStrangers(t *testing.T) {
	key := base64.StdEncoding.EncodeToString([]byte("0123456789abcdef0123456789abcdef"))
	c := newCluster(t, 1, 1, "-encrypt="+key)
	stranger := newAgentHost(t, "stranger", "-retry-join="+c.servers[0].ip, "-retry-interval=1s")
	stranger.start()
	eventually(t, 30*time.Second, "the stranger fails to join", func() bool {
		return strings.Contains(stranger.log.String(), "join")
	})
	var members []struct{ Name string }
	if !c.servers[0].get("/v1/agent/members", &members) || len(members) != 2 {
		t.Errorf("members: %v, want the two with the key", members)
	}
	if strings.Contains(c.servers[0].log.String(), key) {
		t.Error("the gossip key is in the log")
	}
}
