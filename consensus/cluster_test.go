package consensus_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"

	"github.com/musterhq/muster/consensus"
	"github.com/musterhq/muster/kv"
	"github.com/musterhq/muster/peer"
)

// network decides which addresses may talk to which. Connections of a pair that is cut are closed.
type network struct {
	mu    sync.Mutex
	cut   map[string]bool // addresses that are cut off from everyone
	dead  map[string]bool // of these, the ones whose process is gone: their port refuses, which is no silence
	conns map[*wire]struct{}
}

type wire struct {
	net.Conn
	from, to string
	n        *network
}

func (w *wire) Close() error {
	w.n.mu.Lock()
	delete(w.n.conns, w)
	w.n.mu.Unlock()
	return w.Conn.Close()
}

var errCut = errors.New("network is cut")

func (n *network) dialer(from string) *peer.Dialer {
	return peer.NewDialer(peer.DialerConfig{Dial: func(ctx context.Context, network, addr string) (net.Conn, error) {
		n.mu.Lock()
		cut := n.isCut(from, addr)
		n.mu.Unlock()
		if cut {
			return nil, errCut
		}
		c, err := (&net.Dialer{}).DialContext(ctx, network, addr)
		if err != nil {
			return nil, err
		}
		w := &wire{Conn: c, from: from, to: addr, n: n}
		n.mu.Lock()
		defer n.mu.Unlock()
		if n.isCut(from, addr) { // while we dialed: nobody else would close this connection
			_ = c.Close()
			return nil, errCut
		}
		n.conns[w] = struct{}{}
		return w, nil
	}})
}

// isCut says whether from cannot reach to; mu is held.
func (n *network) isCut(from, to string) bool { return n.cut[from] || n.cut[to] && !n.dead[to] }

func (n *network) isolate(addr string, cut bool) {
	n.mu.Lock()
	n.cut[addr] = cut
	var shut []*wire
	if cut {
		for w := range n.conns {
			if w.from == addr || w.to == addr {
				shut = append(shut, w)
			}
		}
	}
	n.mu.Unlock()
	for _, w := range shut {
		_ = w.Close()
	}
}

// member is one server of a test cluster.
type member struct {
	*consensus.Node
	tree *kv.Tree
	srv  *peer.Server
	cfg  consensus.Config
	down bool
}

type cluster struct {
	t       testing.TB
	net     *network
	members []*member
	timing  consensus.Timing
	disk    bool
	tune    func(*consensus.Config)
}

// patience is how long a test waits for what must happen: on a busy machine, all of this takes as long as it takes.
const patience = time.Minute

// loopback is where servers listen, on a free port. Nobody dials from this address, so that the port of a server that is down
// stays its own.
const loopback = "127.0.40.1:0"

// fast is a timing for tests that wait for a silent leader to be replaced: elections within a fraction of a second. On a busy machine
// leadership may change at any moment.
func fast() consensus.Timing {
	return consensus.Timing{Heartbeat: 150 * time.Millisecond, Election: 150 * time.Millisecond, Lease: 120 * time.Millisecond, Commit: 5 * time.Millisecond}
}

// steady lets whoever leads keep the lead, also on a busy machine.
func steady(c *cluster) {
	c.timing = consensus.Timing{Heartbeat: 2 * time.Second, Election: 2 * time.Second, Lease: 1600 * time.Millisecond, Commit: 5 * time.Millisecond}
}

// newCluster starts size servers; the first of them stands for election at once.
func newCluster(t testing.TB, size int, opts ...func(*cluster)) *cluster {
	t.Helper()
	c := &cluster{t: t, net: &network{cut: map[string]bool{}, dead: map[string]bool{}, conns: map[*wire]struct{}{}}, timing: fast()}
	for _, o := range opts {
		o(c)
	}
	var servers []consensus.Server
	for i := range size {
		m := c.start(fmt.Sprintf("node-%d", i), loopback, "")
		c.members = append(c.members, m)
		servers = append(servers, consensus.Server{ID: m.cfg.ID, Addr: m.cfg.Addr, Voter: true})
	}
	if err := c.members[0].Bootstrap(servers); err != nil {
		t.Fatal(err)
	}
	c.members[0].Campaign()
	t.Cleanup(func() {
		for _, m := range c.members {
			c.stop(m)
		}
	})
	return c
}

func onDisk(c *cluster) { c.disk = true }

func tuned(f func(*consensus.Config)) func(*cluster) { return func(c *cluster) { c.tune = f } }

// start opens a node; dir "" makes a fresh directory when the cluster is on disk.
func (c *cluster) start(id, bind, dir string) *member {
	c.t.Helper()
	m, err := c.open(id, bind, dir)
	if err != nil {
		c.t.Fatal(err)
	}
	return m
}

func (c *cluster) open(id, bind, dir string) (*member, error) {
	srv, err := peer.Listen(peer.Config{Bind: bind})
	if err != nil {
		return nil, err
	}
	if dir == "" && c.disk {
		dir = c.t.TempDir()
	}
	addr := srv.Addr().String()
	m := &member{tree: kv.New(kv.Options{}), srv: srv}
	m.cfg = consensus.Config{ID: id, Addr: addr, Dir: dir, Tree: m.tree, Layer: srv.RaftLayer(c.net.dialer(addr)), Timing: c.timing}
	if os.Getenv("MUSTER_TEST_LOG") != "" {
		m.cfg.Logger = hclog.New(&hclog.LoggerOptions{Name: id, Level: hclog.Debug})
	}
	if c.tune != nil {
		c.tune(&m.cfg)
	}
	if m.Node, err = consensus.Open(m.cfg); err != nil {
		_ = srv.Close(context.Background())
	}
	return m, err
}

func (c *cluster) stop(m *member) {
	if m.down {
		return
	}
	m.down = true
	ctx, cancel := context.WithTimeout(context.Background(), 200*time.Millisecond)
	defer cancel()
	if err := m.Close(ctx); err != nil {
		c.t.Errorf("close %s: %v", m.cfg.ID, err)
	}
	_ = m.srv.Close(ctx)
}

// kill breaks all connections of a member and closes its port, as the end of its process does.
func (c *cluster) kill(m *member) {
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	_ = m.srv.Close(ctx)
	c.net.mu.Lock()
	c.net.dead[m.cfg.Addr] = true
	c.net.mu.Unlock()
	c.net.isolate(m.cfg.Addr, true)
}

// crash lets a node fall without a goodbye: its port closes, its connections break, and what its directory holds at
// that moment is what a later start finds. It returns a copy of that directory.
func (c *cluster) crash(m *member) (dir string) {
	c.t.Helper()
	c.net.isolate(m.cfg.Addr, true)
	if m.cfg.Dir != "" {
		for dir == "" {
			to := filepath.Join(c.t.TempDir(), "copy")
			switch err := tryCopy(m.cfg.Dir, to); {
			case err == nil:
				dir = to
			case !errors.Is(err, fs.ErrNotExist): // the server is at work still, and has removed a file meanwhile
				c.t.Fatal(err)
			}
		}
	}
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	_ = m.srv.Close(ctx)
	_ = m.Close(ctx) // nobody hears of it any more
	m.down = true
	return dir
}

func copyDir(t testing.TB, from, to string) {
	t.Helper()
	if err := tryCopy(from, to); err != nil {
		t.Fatal(err)
	}
}

func tryCopy(from, to string) error {
	return filepath.WalkDir(from, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, _ := filepath.Rel(from, path)
		if d.IsDir() {
			return os.MkdirAll(filepath.Join(to, rel), 0o700)
		}
		in, err := os.Open(path)
		if err != nil {
			return err
		}
		defer func() { _ = in.Close() }()
		out, err := os.OpenFile(filepath.Join(to, rel), os.O_CREATE|os.O_WRONLY, 0o600)
		if err != nil {
			return err
		}
		if _, err := io.Copy(out, in); err != nil {
			return err
		}
		return out.Close()
	})
}

// restart starts a crashed node again on the copy of its directory, at its old address.
func (c *cluster) restart(m *member, dir string) *member {
	c.t.Helper()
	c.net.isolate(m.cfg.Addr, false)
	fresh := c.start(m.cfg.ID, m.cfg.Addr, dir)
	membersMu.Lock()
	defer membersMu.Unlock()
	for i := range c.members {
		if c.members[i] == m {
			c.members[i] = fresh
		}
	}
	return fresh
}

// leader waits until a live member leads and is ready, and the cluster has its name: from then on nobody writes but the test.
func (c *cluster) leader() *member {
	c.t.Helper()
	var found *member
	defer func() {
		for _, m := range c.members {
			if found == nil {
				c.t.Logf("%s: down %v, cut %v, %+v", m.cfg.ID, m.down, c.isCut(m), m.Status())
			}
		}
	}()
	within(c.t, "a leader", func() bool {
		for _, m := range c.members {
			if !m.down && m.Status().Ready && m.IsLeader() && m.ClusterID() != "" && !c.isCut(m) {
				found = m
				return true
			}
		}
		return false
	})
	return found
}

func (c *cluster) isCut(m *member) bool {
	c.net.mu.Lock()
	defer c.net.mu.Unlock()
	return c.net.cut[m.cfg.Addr]
}

// propose writes through whoever leads, trying again where that is safe for what sets a value, and returns the index.
func (c *cluster) propose(txn kv.Txn) uint64 {
	c.t.Helper()
	var idx uint64
	within(c.t, "a write", func() bool {
		res, err := c.leader().Propose(ctxFor(c.t, patience), txn)
		idx = res.Index
		if errors.Is(err, consensus.ErrNotLeader) || errors.Is(err, consensus.ErrUnknownOutcome) {
			return false // setting the same value twice does no harm here
		}
		if err != nil || res.Code != kv.OK {
			c.t.Fatalf("write %s: %v %v", txn.Ops[0].Path, res.Code, err)
		}
		return true
	})
	return idx
}

// write sets a key, by propose.
func (c *cluster) write(key, value string) uint64 {
	c.t.Helper()
	return c.propose(set(key, value))
}

func (c *cluster) followers() (out []*member) {
	l := c.leader()
	for _, m := range c.members {
		if m != l && !m.down {
			out = append(out, m)
		}
	}
	return out
}

// converge waits until all live members have the same index and compares their hashes.
func (c *cluster) converge() {
	c.t.Helper()
	l := c.leader()
	for _, m := range c.members {
		if m.down {
			continue
		}
		within(c.t, m.cfg.ID+" to catch up", func() bool {
			a, b := l.tree.Snap(), m.tree.Snap()
			return a.Index() == b.Index() && m.Status().AppliedIndex == l.Status().AppliedIndex
		})
		if a, b := l.tree.Snap(), m.tree.Snap(); a.Index() == b.Index() && a.Hash() != b.Hash() {
			c.t.Errorf("%s and %s differ at index %d", l.cfg.ID, m.cfg.ID, a.Index())
		}
	}
}

func set(key, value string) kv.Txn {
	return kv.Txn{Ops: []kv.Op{{Kind: kv.OpSet, Path: "k/" + key, Value: value}}}
}

func value(s *kv.Snap, key string) string {
	if e, ok := s.Get("k/" + key); ok {
		return e.Value()
	}
	return ""
}

func ctxFor(t testing.TB, d time.Duration) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), d)
	t.Cleanup(cancel)
	return ctx
}

func within(t testing.TB, what string, f func() bool) {
	t.Helper()
	for deadline := time.Now().Add(patience); !f(); time.Sleep(2 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("waited %v in vain for %s", patience, what)
		}
	}
}
