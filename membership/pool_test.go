package membership_test

import (
	"bytes"
	"cmp"
	"context"
	"encoding/base64"
	"errors"
	"maps"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"

	"github.com/musterhq/muster/membership"
)

const patience = time.Minute

// agent is a pool with all events it has given so far.
type agent struct {
	*membership.Pool
	mu     sync.Mutex
	events []membership.Event
}

func config(name, ip string) membership.Config {
	return membership.Config{Name: name, Bind: ip, Dev: true,
		Tags: map[string]string{membership.TagID: "id-" + name, membership.TagDatacenter: "dc1", membership.TagRole: membership.RoleProxy}}
}

func open(t *testing.T, c membership.Config) *agent {
	t.Helper()
	p, err := membership.Open(c)
	if err != nil {
		t.Fatal(err)
	}
	a := &agent{Pool: p}
	t.Cleanup(func() { _ = p.Shutdown() })
	go func() {
		for e := range p.Events() {
			a.mu.Lock()
			a.events = append(a.events, e)
			a.mu.Unlock()
		}
	}()
	return a
}

func (a *agent) join(t *testing.T, others ...*agent) {
	t.Helper()
	for _, o := range others {
		if n, err := a.Join(t.Context(), []string{o.Local().GossipAddr()}); err != nil || n != 1 {
			t.Fatalf("join: %d, %v", n, err)
		}
	}
}

// story is the kinds of the events about one member, in order.
func (a *agent) story(name string) []membership.Kind {
	a.mu.Lock()
	defer a.mu.Unlock()
	var kinds []membership.Kind
	for _, e := range a.events {
		if slices.ContainsFunc(e.Members, func(m membership.Member) bool { return m.Name == name }) {
			kinds = append(kinds, e.Kind)
		}
	}
	return kinds
}

func (a *agent) status(name string) membership.Status {
	for _, m := range a.Members() {
		if m.Name == name {
			return m.Status
		}
	}
	return membership.StatusNone
}

func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(patience); !ok(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("not within %v: %s", patience, what)
		}
	}
}

func (a *agent) sees(t *testing.T, name string, want membership.Status) {
	t.Helper()
	eventually(t, name+" is "+want.String(), func() bool { return a.status(name) == want })
}

func (a *agent) tells(t *testing.T, name string, want ...membership.Kind) {
	t.Helper()
	eventually(t, "events of "+name, func() bool { return len(a.story(name)) >= len(want) })
	if got := a.story(name); !slices.Equal(got, want) {
		t.Errorf("events about %s: %v, want %v", name, got, want)
	}
}

// heard gives the user events.
func (a *agent) heard() []membership.Event {
	a.mu.Lock()
	defer a.mu.Unlock()
	var list []membership.Event
	for _, e := range a.events {
		if e.Kind == membership.User {
			list = append(list, e)
		}
	}
	return list
}

// ends waits for the last event about a member. A graceful leave sends its intent before its end; when a packet is lost
// the end may come first, which is a failure until the intent arrives.
func (a *agent) ends(t *testing.T, name string, want membership.Kind) {
	t.Helper()
	eventually(t, name+" ends with "+want.String(), func() bool {
		story := a.story(name)
		return len(story) > 0 && story[0] == membership.Join && story[len(story)-1] == want
	})
}

func TestJoinUpdateLeave(t *testing.T) {
	t.Parallel()
	a, b, c := open(t, config("a", "127.0.0.2")), open(t, config("b", "127.0.0.3")), open(t, config("c", "127.0.0.4"))
	b.join(t, a)
	c.join(t, a)
	for _, x := range []*agent{a, b, c} {
		for _, name := range []string{"a", "b", "c"} {
			x.sees(t, name, membership.StatusAlive)
		}
	}
	if names := a.Members(); names[0].Name != "a" || names[1].Name != "b" || names[2].Name != "c" {
		t.Errorf("members are not ordered: %v", names)
	}
	tags := map[string]string{membership.TagID: "id-b", membership.TagDatacenter: "dc1", membership.TagVersion: "2"}
	if err := b.SetTags(tags); err != nil {
		t.Fatal(err)
	}
	eventually(t, "new tags arrive", func() bool { return c.Members()[1].Version() == "2" })
	if err := b.SetTags(map[string]string{membership.TagID: "other", membership.TagDatacenter: "dc1"}); err == nil {
		t.Error("the id was changed")
	}
	if err := b.Leave(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := b.Shutdown(); err != nil {
		t.Fatal(err)
	}
	for _, x := range []*agent{a, c} {
		x.sees(t, "b", membership.StatusLeft)
		x.ends(t, "b", membership.Leave)
	}
	a.tells(t, "a", membership.Join)
	if _, err := b.Join(t.Context(), []string{a.Local().GossipAddr()}); !errors.Is(err, membership.ErrShutdown) {
		t.Errorf("join after shutdown: %v", err)
	}
}

func TestCrashForceLeaveAndPrune(t *testing.T) {
	t.Parallel()
	a, b, c, d := open(t, config("a", "127.0.1.2")), open(t, config("b", "127.0.1.3")), open(t, config("c", "127.0.1.4")), open(t, config("d", "127.0.1.5"))
	for _, x := range []*agent{b, c, d} {
		x.join(t, a)
	}
	a.sees(t, "d", membership.StatusAlive)
	b.sees(t, "c", membership.StatusAlive)
	b.sees(t, "d", membership.StatusAlive)
	_ = c.Shutdown()
	_ = d.Shutdown()
	for _, x := range []*agent{a, b} {
		x.sees(t, "c", membership.StatusFailed)
		x.sees(t, "d", membership.StatusFailed)
		x.tells(t, "c", membership.Join, membership.Failed)
	}
	if err := a.ForceLeave("nobody", false); !errors.Is(err, membership.ErrNoMember) {
		t.Errorf("unknown member: %v", err)
	}
	if err := a.ForceLeave("b", true); !errors.Is(err, membership.ErrMemberAlive) {
		t.Errorf("live member: %v", err)
	}
	if err := a.ForceLeave("c", false); err != nil {
		t.Fatal(err)
	}
	if err := a.ForceLeave("d", true); err != nil {
		t.Fatal(err)
	}
	for _, x := range []*agent{a, b} {
		x.sees(t, "c", membership.StatusLeft)
		x.sees(t, "d", membership.StatusNone)
		x.tells(t, "c", membership.Join, membership.Failed, membership.Leave)
		x.tells(t, "d", membership.Join, membership.Failed, membership.Leave, membership.Reap)
	}
}

func TestFailedMemberIsReaped(t *testing.T) {
	t.Parallel()
	conf := config("a", "127.0.2.2")
	conf.ReconnectTimeout = 100 * time.Millisecond
	a, b := open(t, conf), open(t, config("b", "127.0.2.3"))
	b.join(t, a)
	a.sees(t, "b", membership.StatusAlive)
	_ = b.Shutdown()
	a.tells(t, "b", membership.Join, membership.Failed, membership.Reap)
	a.sees(t, "b", membership.StatusNone)
}

func TestRestartRejoinsBySnapshot(t *testing.T) {
	t.Parallel()
	a := open(t, config("a", "127.0.3.2"))
	conf := config("b", "127.0.3.3")
	conf.Dir = t.TempDir()
	b := open(t, conf)
	b.join(t, a)
	b.sees(t, "a", membership.StatusAlive)
	eventually(t, "the snapshot knows a", func() bool {
		text, _ := os.ReadFile(filepath.Join(conf.Dir, "local.snapshot"))
		return bytes.Contains(text, []byte("alive: a"))
	})
	b.tells(t, "b", membership.Join) // and nothing of what got the snapshot written
	conf.Port = int(b.Local().Port)
	_ = b.Shutdown()
	a.sees(t, "b", membership.StatusFailed)
	b = open(t, conf) // nobody calls Join
	b.sees(t, "a", membership.StatusAlive)
	a.sees(t, "b", membership.StatusAlive)
	a.tells(t, "b", membership.Join, membership.Failed, membership.Join)
}

func TestMovedAgentComesBackFromANewAddress(t *testing.T) {
	t.Parallel()
	a, b := open(t, config("a", "127.0.4.2")), open(t, config("b", "127.0.4.3"))
	b.join(t, a)
	a.sees(t, "b", membership.StatusAlive)
	// Still alive at its old address: refused, for now.
	moved := open(t, config("b", "127.0.4.4"))
	if _, err := moved.Join(t.Context(), []string{a.Local().GossipAddr()}); !errors.Is(err, membership.ErrOldAddress) {
		t.Errorf("join beside the old self: %v", err)
	}
	_ = b.Shutdown()
	if err := moved.RetryJoin(t.Context(), []string{a.Local().GossipAddr()}, 50*time.Millisecond, 0); err != nil {
		t.Fatal(err)
	}
	eventually(t, "a knows the new address", func() bool {
		m := a.Members()[1]
		return m.Addr == "127.0.4.4" && m.Status == membership.StatusAlive
	})
}

func TestNameConflictIsRefusedAndReported(t *testing.T) {
	t.Parallel()
	a, b := open(t, config("a", "127.0.5.2")), open(t, config("b", "127.0.5.3"))
	b.join(t, a)
	a.sees(t, "b", membership.StatusAlive)
	conf := config("b", "127.0.5.4")
	conf.Tags[membership.TagID] = "another"
	impostor := open(t, conf)
	for _, victim := range []*agent{a, b} {
		n, err := impostor.Join(t.Context(), []string{victim.Local().GossipAddr()})
		if n != 0 || !errors.Is(err, membership.ErrNameConflict) || !strings.Contains(err.Error(), b.Local().GossipAddr()) {
			t.Errorf("join: %d, %v", n, err)
		}
	}
	err := impostor.RetryJoin(t.Context(), []string{a.Local().GossipAddr()}, time.Hour, 0)
	if !errors.Is(err, membership.ErrNameConflict) {
		t.Errorf("retry join: %v", err)
	}
	if got := impostor.Members(); len(got) != 1 {
		t.Errorf("the refused agent took members over: %v", got)
	}
	// The rightful holder learns of it, and nobody was disturbed.
	b.tells(t, "b", membership.Join, membership.Conflict)
	a.tells(t, "b", membership.Join)
	if m := a.Members()[1]; m.Addr != "127.0.5.3" || m.ID() != "id-b" || m.Status != membership.StatusAlive {
		t.Errorf("the holder became %+v", m)
	}
	// Once the holder has failed the name is free.
	_ = b.Shutdown()
	a.sees(t, "b", membership.StatusFailed)
	impostor.join(t, a)
	eventually(t, "the successor is known", func() bool { return a.Members()[1].ID() == "another" })
}

func TestSameAddressWithANewIDIsASuccessor(t *testing.T) {
	t.Parallel()
	a, b := open(t, config("a", "127.0.6.2")), open(t, config("b", "127.0.6.3"))
	b.join(t, a)
	a.sees(t, "b", membership.StatusAlive)
	conf := config("b", "127.0.6.3")
	conf.Port = int(b.Local().Port)
	conf.Tags[membership.TagID] = "reinstalled"
	_ = b.Shutdown()
	b = open(t, conf)
	b.join(t, a)
	eventually(t, "a knows the new id", func() bool { return a.Members()[1].ID() == "reinstalled" })
}

func TestOtherDatacenterIsRefused(t *testing.T) {
	t.Parallel()
	a := open(t, config("a", "127.0.7.2"))
	conf := config("b", "127.0.7.3")
	conf.Tags[membership.TagDatacenter] = "dc2"
	b := open(t, conf)
	for _, pair := range [][2]*agent{{a, b}, {b, a}} {
		if _, err := pair[0].Join(t.Context(), []string{pair[1].Local().GossipAddr()}); !errors.Is(err, membership.ErrDatacenter) {
			t.Errorf("join: %v", err)
		}
		if err := pair[0].RetryJoin(t.Context(), []string{pair[1].Local().GossipAddr()}, time.Hour, 0); !errors.Is(err, membership.ErrDatacenter) {
			t.Errorf("retry join: %v", err)
		}
	}
	if len(a.Members()) != 1 || len(b.Members()) != 1 {
		t.Errorf("members mixed: %v and %v", a.Members(), b.Members())
	}
}

func TestServerWithDataOfAnotherClusterIsRefused(t *testing.T) {
	t.Parallel()
	conf := config("a", "127.0.17.2")
	conf.Tags[membership.TagCluster] = "aaaa"
	a := open(t, conf)
	b := open(t, config("b", "127.0.17.3"))
	b.join(t, a) // holds no data yet: welcome
	tags := maps.Clone(b.Local().Tags)
	tags[membership.TagCluster] = "aaaa"
	if err := b.SetTags(tags); err != nil {
		t.Fatal(err)
	}
	conf = config("c", "127.0.17.4")
	conf.Tags[membership.TagCluster] = "cccc"
	c := open(t, conf)
	for _, other := range []*agent{a, b} {
		if _, err := c.Join(t.Context(), []string{other.Local().GossipAddr()}); !errors.Is(err, membership.ErrCluster) {
			t.Errorf("join: %v", err)
		}
		if _, err := other.Join(t.Context(), []string{c.Local().GossipAddr()}); !errors.Is(err, membership.ErrCluster) {
			t.Errorf("join the other way round: %v", err)
		}
	}
	if len(c.Members()) != 1 || len(a.Members()) != 2 {
		t.Errorf("members mixed: %v and %v", a.Members(), c.Members())
	}
}

func TestRetryJoin(t *testing.T) {
	t.Parallel()
	a := open(t, config("a", "127.0.8.2"))
	self := a.Local().GossipAddr()
	if err := a.RetryJoin(t.Context(), []string{self}, time.Hour, 0); err != nil {
		t.Errorf("a list of only itself: %v", err)
	}
	if _, err := a.Join(t.Context(), nil); err == nil {
		t.Error("join of nothing succeeded")
	}
	if err := a.RetryJoin(t.Context(), []string{self, "127.0.8.3:1"}, time.Millisecond, 3); err == nil || !strings.Contains(err.Error(), "3 attempts") {
		t.Errorf("nobody there: %v", err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Millisecond)
	defer cancel()
	if err := a.RetryJoin(ctx, []string{"127.0.8.3:1"}, time.Millisecond, 0); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("ended context: %v", err)
	}
	// Success only when somebody else answers, though the own address does at once.
	b := open(t, config("b", "127.0.8.4"))
	if err := b.RetryJoin(t.Context(), []string{b.Local().GossipAddr(), self}, 10*time.Millisecond, 0); err != nil {
		t.Fatal(err)
	}
	b.sees(t, "a", membership.StatusAlive)
}

var key1, key2 = base64.StdEncoding.EncodeToString(bytes.Repeat([]byte{1}, 32)), base64.StdEncoding.EncodeToString(bytes.Repeat([]byte{2}, 16))

func TestAllowedNetworks(t *testing.T) {
	t.Parallel()
	within := config("a", "127.0.9.65")
	within.Allowed = []netip.Prefix{netip.MustParsePrefix("127.0.9.66/30")} // 64 to 67
	a := open(t, within)
	open(t, config("b", "127.0.9.66")).join(t, a)
	a.sees(t, "b", membership.StatusAlive)
	stranger := open(t, config("stranger", "127.0.9.70"))
	if _, err := stranger.Join(t.Context(), []string{a.Local().GossipAddr()}); err != nil {
		t.Logf("it is told: %v", err) // it may believe that it has joined; nobody else does
	}
	if got := a.status("stranger"); got != membership.StatusNone {
		t.Errorf("it is known as %v", got)
	}
}

func TestKeysInMemoryOnly(t *testing.T) {
	t.Parallel()
	c := config("a", "127.0.9.80")
	c.EncryptKey, c.Dir, c.NoKeyringFile = key1, t.TempDir(), true
	a := open(t, c)
	if _, err := a.InstallKey(key2); err != nil {
		t.Fatal(err)
	}
	if _, err := a.UseKey(key2); err != nil {
		t.Fatal(err)
	}
	if files, err := filepath.Glob(filepath.Join(c.Dir, "*keyring*")); err != nil || len(files) > 0 {
		t.Errorf("on disk: %v %v", files, err)
	}
	_ = a.Shutdown()
	b := config("b", "127.0.9.81")
	b.EncryptKey = key1
	other := open(t, b)
	open(t, c).join(t, other) // with the first key again
}

func TestEncryption(t *testing.T) {
	t.Parallel()
	var log syncBuffer
	encrypted := func(name, ip, key string) membership.Config {
		c := config(name, ip)
		c.EncryptKey, c.Dir = key, t.TempDir()
		c.Logger = hclog.New(&hclog.LoggerOptions{Level: hclog.Trace, Output: &log})
		return c
	}
	confB := encrypted("b", "127.0.9.3", key1)
	a, b := open(t, encrypted("a", "127.0.9.2", key1)), open(t, confB)
	b.join(t, a)
	a.sees(t, "b", membership.StatusAlive)
	for _, stranger := range []*agent{open(t, encrypted("other", "127.0.9.4", key2)), open(t, config("plain", "127.0.9.5"))} {
		if _, err := stranger.Join(t.Context(), []string{a.Local().GossipAddr()}); err == nil {
			t.Errorf("%s joined without the key", stranger.Local().Name)
		}
		if got := a.status(stranger.Local().Name); got != membership.StatusNone {
			t.Errorf("%s is known as %v", stranger.Local().Name, got)
		}
	}
	// Rotation, which the keyring file survives.
	if _, err := a.InstallKey("AAAA"); err == nil || !strings.Contains(err.Error(), "16, 24 or 32") {
		t.Errorf("bad key: %v", err)
	}
	for _, op := range []func(string) (membership.KeyReport, error){a.InstallKey, a.UseKey} {
		if r, err := op(key2); err != nil || r.Answers != 2 {
			t.Fatalf("key operation: %+v, %v", r, err)
		}
	}
	if r, err := a.RemoveKey(key1); err != nil {
		t.Fatalf("remove: %+v, %v", r, err)
	}
	r, err := b.ListKeys()
	if err != nil || len(r.Keys) != 1 || r.Keys[key2] != 2 || len(r.PrimaryKeys) != 1 || r.PrimaryKeys[key2] != 2 {
		t.Errorf("keys after rotation: %+v, %v", r, err)
	}
	confB.Port = int(b.Local().Port)
	_ = b.Shutdown()
	info, err := os.Stat(filepath.Join(confB.Dir, "local.keyring"))
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("keyring file: %v, %v", info, err)
	}
	b = open(t, confB) // its configuration still names the old key
	b.sees(t, "a", membership.StatusAlive)
	if text := log.String(); strings.Contains(text, key1) || strings.Contains(text, key2) {
		t.Error("a key was logged")
	}
	if a.Stats()["encrypted"] != "true" {
		t.Errorf("stats: %v", a.Stats())
	}
}

type syncBuffer struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (b *syncBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.Write(p)
}

func (b *syncBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.String()
}

func TestKeyOperationsNeedEncryption(t *testing.T) {
	t.Parallel()
	a := open(t, config("a", "127.0.10.2"))
	if _, err := a.ListKeys(); !errors.Is(err, membership.ErrNotEncrypted) {
		t.Errorf("list: %v", err)
	}
	if _, err := a.InstallKey(key1); !errors.Is(err, membership.ErrNotEncrypted) {
		t.Errorf("install: %v", err)
	}
}

func TestOpenRefusesBadConfig(t *testing.T) {
	t.Parallel()
	damaged := t.TempDir()
	if err := os.WriteFile(filepath.Join(damaged, "local.keyring"), []byte(`["AAAA`), 0o600); err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		change func(*membership.Config)
		want   string
	}{
		"no name":        {func(c *membership.Config) { c.Name = "" }, "name is empty"},
		"long name":      {func(c *membership.Config) { c.Name = strings.Repeat("x", 129) }, "at most 128"},
		"slash":          {func(c *membership.Config) { c.Name = "a/b" }, `"/"`},
		"bind":           {func(c *membership.Config) { c.Bind = "localhost" }, "not an IP address"},
		"advertise":      {func(c *membership.Config) { c.Advertise = "x" }, "not an IP address"},
		"port":           {func(c *membership.Config) { c.Port = 65536 }, "65535"},
		"advertise port": {func(c *membership.Config) { c.AdvertisePort = 1 }, "advertise address"},
		"key length":     {func(c *membership.Config) { c.EncryptKey = "c2hvcnQ=" }, "has 5 bytes; expected the base64 of 16, 24 or 32 bytes"},
		"key text":       {func(c *membership.Config) { c.EncryptKey = "no base64!" }, "expected the base64 of 16, 24 or 32 bytes"},
		"tags":           {func(c *membership.Config) { c.Tags["x"] = strings.Repeat("x", 600) }, "512 bytes"},
		"keyring":        {func(c *membership.Config) { c.Dir = damaged }, "damaged"},
	} {
		conf := config("a", "127.0.11.2")
		c.change(&conf)
		p, err := membership.Open(conf)
		if err == nil {
			_ = p.Shutdown()
			t.Errorf("%s: opened", name)
			continue
		}
		if !strings.Contains(err.Error(), c.want) || conf.EncryptKey != "" && strings.Contains(err.Error(), conf.EncryptKey) {
			t.Errorf("%s: %q, want it to say %q", name, err, c.want)
		}
	}
}

func TestAddressInUse(t *testing.T) {
	t.Parallel()
	a := open(t, config("a", "127.0.12.2"))
	conf := config("b", "127.0.12.2")
	conf.Port = int(a.Local().Port)
	if _, err := membership.Open(conf); !errors.Is(err, membership.ErrAddressInUse) || !strings.Contains(err.Error(), a.Local().GossipAddr()) {
		t.Errorf("got %v", err)
	}
	// A failed Open leaves nothing behind, not even its half of the ports.
	_ = a.Shutdown()
	open(t, conf)
}

func TestMemberTags(t *testing.T) {
	m := membership.Member{Addr: "10.0.0.1", Port: 8301, Tags: map[string]string{
		membership.TagID: "u", membership.TagRole: membership.RoleServer, membership.TagDatacenter: "dc1", membership.TagVersion: "1.2",
		membership.TagServerPort: "8300", membership.TagHTTP: "8500", membership.TagCluster: "c", membership.TagExpect: "3"}}
	got := []any{m.ID(), m.Role(), m.Datacenter(), m.Version(), m.ServerAddr(), m.HTTPAddr(), m.Cluster(), m.BootstrapExpect(), m.GossipAddr()}
	want := []any{"u", "server", "dc1", "1.2", "10.0.0.1:8300", "10.0.0.1:8500", "c", 3, "10.0.0.1:8301"}
	if !slices.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
	odd := membership.Member{Addr: "::1", Tags: map[string]string{membership.TagServerPort: "99999", membership.TagHTTP: "[::2]:80", membership.TagExpect: "-1"}}
	if odd.ServerAddr() != "" || odd.HTTPAddr() != "[::2]:80" || odd.BootstrapExpect() != 0 || odd.ID() != "" {
		t.Errorf("odd tags: %q %q %d", odd.ServerAddr(), odd.HTTPAddr(), odd.BootstrapExpect())
	}
}

func TestUserEvents(t *testing.T) {
	a, b := open(t, config("a", "127.0.1.81")), open(t, config("b", "127.0.1.82"))
	b.join(t, a)
	if err := a.Fire("hello", bytes.Repeat([]byte("x"), membership.MaxUserEvent)); err == nil {
		t.Error("an event that is too large was sent")
	}
	for i := range 3 {
		if err := a.Fire("hello", []byte{byte(i)}); err != nil {
			t.Fatal(err)
		}
	}
	for _, at := range []*agent{a, b} {
		eventually(t, "all agents hear all", func() bool { return len(at.heard()) == 3 })
		list := at.heard() // the order in which they come is that of the packets
		slices.SortFunc(list, func(a, b membership.Event) int { return cmp.Compare(a.LTime, b.LTime) })
		for i, e := range list {
			if e.Name != "hello" || !bytes.Equal(e.Payload, []byte{byte(i)}) {
				t.Errorf("event %d is %+v", i, e)
			}
		}
	}
}

func TestQuestions(t *testing.T) {
	a, b, c := open(t, config("a", "127.17.9.1")), open(t, config("b", "127.17.9.2")), open(t, config("c", "127.17.9.3"))
	b.join(t, a)
	c.join(t, a)
	for _, x := range []*agent{a, b, c} {
		for _, name := range []string{"a", "b", "c"} {
			x.sees(t, name, membership.StatusAlive)
		}
	}
	for _, x := range []*agent{a, b} { // c does not answer
		name := x.Local().Name
		x.Respond(func(question string, text []byte) []byte {
			if string(text) == "silence" {
				return nil
			}
			return []byte(question + " " + string(text) + " " + name)
		})
	}
	ask := func(text string, wait time.Duration, nodes ...string) []string {
		t.Helper()
		list, err := a.Ask(t.Context(), "q", []byte(text), nodes, wait)
		if err != nil {
			t.Fatal(err)
		}
		var out []string
		for _, r := range list {
			out = append(out, r.Node+": "+string(r.Answer))
		}
		slices.Sort(out)
		return out
	}
	// With names the answers end the wait; without, the time does.
	if got := ask("x", time.Minute, "a", "b"); !slices.Equal(got, []string{"a: q x a", "b: q x b"}) {
		t.Errorf("answers %q", got)
	}
	if got := ask("x", time.Minute, "b"); !slices.Equal(got, []string{"b: q x b"}) {
		t.Errorf("answers %q", got)
	}
	if got := ask("x", time.Second); !slices.Equal(got, []string{"a: q x a", "b: q x b"}) {
		t.Errorf("answers %q", got)
	}
	if got := ask("silence", 200*time.Millisecond, "a", "b"); len(got) != 0 {
		t.Errorf("answers %q", got)
	}
	if _, err := a.Ask(t.Context(), "q", make([]byte, membership.MaxQuestion), nil, time.Second); err == nil {
		t.Error("a question that is too long is no error")
	}
}

// A server of a former cluster that has died, and that others still count as alive for a moment, ends nobody's attempts to join them.
func TestDeadServerOfAFormerClusterIsWaitedOut(t *testing.T) {
	t.Parallel()
	conf := config("old", "127.0.17.12")
	conf.Tags[membership.TagCluster] = "aaaa"
	old := open(t, conf)
	p := open(t, config("p", "127.0.17.13"))
	p.join(t, old)
	conf = config("new", "127.0.17.14")
	conf.Tags[membership.TagCluster] = "bbbb"
	fresh := open(t, conf)
	if err := fresh.RetryJoin(t.Context(), []string{p.Local().GossipAddr()}, 50*time.Millisecond, 0); !errors.Is(err, membership.ErrCluster) {
		t.Fatalf("with the old server alive: %v", err)
	}
	if err := old.Shutdown(); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	if err := fresh.RetryJoin(ctx, []string{p.Local().GossipAddr()}, 50*time.Millisecond, 0); err != nil {
		t.Fatalf("after its death: %v", err)
	}
}

// A server that was recovered comes back at its address while others still count its former self, of the former cluster, as alive.
func TestRecoveredServerJoinsThoseWhoKnewIt(t *testing.T) {
	t.Parallel()
	conf := config("s", "127.0.17.22")
	conf.Tags[membership.TagCluster] = "aaaa"
	old := open(t, conf)
	p := open(t, config("p", "127.0.17.23"))
	p.join(t, old)
	conf.Port = int(old.Local().Port)
	if err := old.Shutdown(); err != nil {
		t.Fatal(err)
	}
	conf.Tags = maps.Clone(conf.Tags)
	conf.Tags[membership.TagCluster] = "bbbb"
	recovered := open(t, conf)
	if err := recovered.RetryJoin(t.Context(), []string{p.Local().GossipAddr()}, 50*time.Millisecond, 0); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the other side sees the new cluster", func() bool {
		return slices.ContainsFunc(p.Members(), func(m membership.Member) bool {
			return m.Name == "s" && m.Tags[membership.TagCluster] == "bbbb" && m.Status == membership.StatusAlive
		})
	})
}
