package upstream_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/musterhq/muster/catalog"
	"github.com/musterhq/muster/upstream"
)

// patience is how long a test waits for what must happen, also on a busy machine.
const patience = time.Minute

// loopback is where tests listen, on a free port. Nobody dials from this address, so that a free port stays free.
const loopback = "127.0.42.1:0"

// backend is one instance: it says its name, then echoes.
type backend struct {
	name string
	l    net.Listener
	mu   sync.Mutex
	open map[net.Conn]bool
}

func newBackend(t *testing.T, name string) *backend {
	t.Helper()
	l, err := net.Listen("tcp", loopback)
	if err != nil {
		t.Fatal(err)
	}
	b := &backend{name: name, l: l, open: map[net.Conn]bool{}}
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			b.mu.Lock()
			b.open[c] = true
			b.mu.Unlock()
			go func() {
				defer c.Close()
				fmt.Fprintln(c, name)
				_, _ = io.Copy(c, c)
			}()
		}
	}()
	t.Cleanup(b.kill)
	return b
}

func (b *backend) kill() {
	_ = b.l.Close()
	b.mu.Lock()
	defer b.mu.Unlock()
	for c := range b.open {
		_ = c.Close()
	}
}

func (b *backend) instance(change ...func(*catalog.Instance)) *catalog.Instance {
	i := &catalog.Instance{
		Node:    &catalog.Node{Name: "node-" + b.name, Address: "127.0.42.1"},
		Service: &catalog.Service{ID: b.name, Name: "db", Port: b.l.Addr().(*net.TCPAddr).Port},
		Status:  catalog.Passing,
	}
	for _, f := range change {
		f(i)
	}
	return i
}

// world is what is known, as a test wants it.
type world struct {
	mu      sync.Mutex
	list    []*catalog.Instance
	version int
	stale   bool
	err     error
	asked   atomic.Int64
}

func (w *world) set(list ...*catalog.Instance) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.list, w.err = list, nil
	w.version++
}

func (w *world) find(context.Context, *upstream.Config) (upstream.Known, error) {
	w.asked.Add(1)
	w.mu.Lock()
	defer w.mu.Unlock()
	return upstream.Known{Instances: w.list, Version: w.version, Stale: w.stale}, w.err
}

func start(t *testing.T, w *world, c upstream.Config) (*upstream.Upstreams, string) {
	t.Helper()
	u := upstream.New(upstream.Options{Find: w.find, Here: catalog.Place{Region: "eu", Zone: "a"}})
	t.Cleanup(func() {
		ctx, cancel := context.WithCancel(context.Background())
		cancel()
		if err := u.Close(ctx); err != nil {
			t.Error(err)
		}
	})
	c.Listen = freeAddr(t)
	if err := u.Set([]upstream.Config{c}); err != nil {
		t.Fatal(err)
	}
	return u, c.Listen
}

func freeAddr(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", loopback)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

// client is a connection that has heard from its instance.
type client struct {
	net.Conn
	r    *bufio.Reader
	name string
}

func dial(addr string) (*client, error) {
	network, path, ok := strings.Cut(addr, "://")
	if !ok {
		network, path = "tcp", addr
	}
	conn, err := net.Dial(network, path)
	if err != nil {
		return nil, err
	}
	_ = conn.SetDeadline(time.Now().Add(patience))
	c := &client{Conn: conn, r: bufio.NewReader(conn)}
	line, err := c.r.ReadString('\n')
	if err != nil {
		_ = conn.Close()
		return nil, err
	}
	c.name = strings.TrimSpace(line)
	return c, nil
}

func (c *client) echo(t *testing.T, text string) {
	t.Helper()
	fmt.Fprintln(c, text)
	if got, err := c.r.ReadString('\n'); err != nil || got != text+"\n" {
		t.Errorf("echo of %q: %q, %v", text, got, err)
	}
}

func mustDial(t *testing.T, addr string) *client {
	t.Helper()
	c, err := dial(addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	return c
}

func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	deadline := time.Now().Add(patience)
	for !ok() {
		if time.Now().After(deadline) {
			t.Fatalf("not within %v: %s", patience, what)
		}
		time.Sleep(5 * time.Millisecond)
	}
}

func names(t *testing.T, addr string, n int) map[string]int {
	t.Helper()
	got := map[string]int{}
	for range n {
		c, err := dial(addr)
		if err != nil {
			got["error"]++
			continue
		}
		got[c.name]++
		_ = c.Close()
	}
	return got
}

func TestCarries(t *testing.T) {
	b := newBackend(t, "one")
	w := &world{}
	w.set(b.instance())
	u, addr := start(t, w, upstream.Config{Service: "db"})
	c := mustDial(t, addr)
	c.echo(t, "hello")

	// More than a piece, and the end of one direction while the other one goes on.
	const size = 3<<20 + 17
	go func() {
		_, _ = io.CopyN(c, zeros{}, size)
		_ = c.Conn.(*net.TCPConn).CloseWrite()
	}()
	if n, err := io.Copy(io.Discard, c.r); err != nil || n != size {
		t.Errorf("%d bytes came back, %v; want %d", n, err, size)
	}
	eventually(t, "the link is gone", func() bool { return u.State()[0].Open == 0 })
	if s := u.State()[0]; s.Total != 1 || s.BytesOut != size+6 || s.BytesIn != size+6+4 || s.Name != "db" {
		t.Errorf("state %+v", s)
	}
}

type zeros struct{}

func (zeros) Read(b []byte) (int, error) { return len(b), nil }

func TestChoice(t *testing.T) {
	a, b, c := newBackend(t, "a"), newBackend(t, "b"), newBackend(t, "c")
	near := func(i *catalog.Instance) { i.Service.Locality = &catalog.Locality{Region: "EU", Zone: "A"} }
	weight := func(n int) func(*catalog.Instance) {
		return func(i *catalog.Instance) { i.Service.Weights = catalog.Weights{Passing: n, Warning: 1} }
	}
	status := func(s catalog.Status) func(*catalog.Instance) { return func(i *catalog.Instance) { i.Status = s } }
	tag := func(i *catalog.Instance) { i.Service.Tags = []string{"primary"} }
	for name, x := range map[string]struct {
		c    upstream.Config
		list []*catalog.Instance
		want string // names in order, each of them must be chosen, no other one
	}{
		"all":          {list: []*catalog.Instance{a.instance(), b.instance(), c.instance()}, want: "abc"},
		"near first":   {list: []*catalog.Instance{a.instance(), b.instance(near), c.instance()}, want: "b"},
		"critical":     {list: []*catalog.Instance{a.instance(status(catalog.Critical)), b.instance(), c.instance(status(catalog.Warning))}, want: "bc"},
		"only passing": {c: upstream.Config{OnlyPassing: true}, list: []*catalog.Instance{b.instance(), c.instance(status(catalog.Warning))}, want: "b"},
		"tag":          {c: upstream.Config{Tag: "Primary"}, list: []*catalog.Instance{a.instance(), b.instance(tag)}, want: "b"},
		"weight 0":     {list: []*catalog.Instance{a.instance(weight(0)), b.instance(weight(5))}, want: "b"},
		"all weight 0": {list: []*catalog.Instance{a.instance(weight(0)), b.instance(weight(0))}, want: "ab"},
		"none healthy": {list: []*catalog.Instance{a.instance(status(catalog.Critical))}, want: ""},
	} {
		t.Run(name, func(t *testing.T) {
			w := &world{}
			w.set(x.list...)
			x.c.Service = "db"
			_, addr := start(t, w, x.c)
			got := names(t, addr, 60)
			for _, n := range []string{"a", "b", "c"} {
				if want := strings.Contains(x.want, n); (got[n] > 0) != want {
					t.Errorf("%s chosen %d times, wanted at all: %v", n, got[n], want)
				}
			}
			if x.want == "" && got["error"] != 60 {
				t.Errorf("without a healthy instance: %v", got)
			}
		})
	}
	t.Run("load", func(t *testing.T) {
		w := &world{}
		w.set(a.instance(weight(3)), b.instance(weight(1)))
		_, addr := start(t, w, upstream.Config{Service: "db"})
		got := map[string]int{}
		for range 80 {
			got[mustDial(t, addr).name]++
		}
		if got["a"] < 50 || got["a"] > 70 {
			t.Errorf("80 kept connections by weight 3 to 1: %v", got)
		}
	})
}

// TestDeadInstance kills an instance of which nobody has said yet that it is dead.
func TestDeadInstance(t *testing.T) {
	a, b := newBackend(t, "a"), newBackend(t, "b")
	w := &world{}
	w.set(a.instance(), b.instance())
	u, addr := start(t, w, upstream.Config{Service: "db", EjectMax: time.Hour})
	a.kill()
	if got := names(t, addr, 100); got["b"] != 100 {
		t.Errorf("with one instance dead: %v", got)
	}
	s := u.State()[0]
	if s.Retries == 0 || s.Retries > 20 || s.Ejections == 0 || s.Instances[0].EjectedUntil == nil || s.Instances[0].Failed == 0 {
		t.Errorf("state %+v", s)
	}
	// The last one is never taken out.
	b.kill()
	if got := names(t, addr, 3); got["error"] != 3 {
		t.Errorf("with all dead: %v", got)
	}
	again, err := net.Listen("tcp", b.l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer again.Close()
	go func() {
		for {
			c, err := again.Accept()
			if err != nil {
				return
			}
			fmt.Fprintln(c, "again")
			_ = c.Close()
		}
	}()
	if got := names(t, addr, 3); got["again"] != 3 {
		t.Errorf("back although ejected for long: %v %+v", got, u.State()[0])
	}
	if s := u.State()[0]; s.Unserved != 3 {
		t.Errorf("%d clients unserved, want 3", s.Unserved)
	}
}

func TestDrain(t *testing.T) {
	a, b := newBackend(t, "a"), newBackend(t, "b")
	w := &world{}
	w.set(a.instance())
	u, addr := start(t, w, upstream.Config{Service: "db", Drain: patience})
	old := mustDial(t, addr)
	w.set(b.instance())
	if c := mustDial(t, addr); c.name != "b" {
		t.Errorf("a new client got %s", c.name)
	}
	old.echo(t, "still there")
	if s := u.State()[0]; len(s.Instances) != 2 || !s.Instances[0].Draining {
		t.Errorf("draining: %+v", s)
	}

	// Its time ends.
	w.set(a.instance())
	u, addr = start(t, w, upstream.Config{Service: "db", Drain: 100 * time.Millisecond})
	old = mustDial(t, addr)
	w.set(b.instance())
	if _, err := old.r.ReadByte(); err == nil {
		t.Error("the old connection was not ended")
	}
	eventually(t, "the drained instance is forgotten", func() bool { return len(u.State()[0].Instances) == 1 })

	// One that comes back in time keeps its clients; without drain nobody loses any.
	u2, addr := start(t, w, upstream.Config{Service: "db", Drain: -1})
	kept := mustDial(t, addr)
	w.set()
	eventually(t, "it drains", func() bool { return u2.State()[0].Instances[0].Draining })
	kept.echo(t, "kept")
	w.set(b.instance())
	eventually(t, "it drains no more", func() bool { return !u2.State()[0].Instances[0].Draining })
	kept.echo(t, "kept")
}

func TestNothingKnown(t *testing.T) {
	a := newBackend(t, "a")
	w := &world{err: errors.New("nobody answers")}
	u, addr := start(t, w, upstream.Config{Service: "db", ConnectTimeout: patience})
	// A client that comes before the first answer waits for it.
	got := make(chan error, 1)
	go func() { _, err := dial(addr); got <- err }()
	eventually(t, "the client asks", func() bool { return w.asked.Load() > 5 })
	w.set(a.instance())
	if err := <-got; err != nil {
		t.Error(err)
	}
	// Later on what was known is used.
	w.mu.Lock()
	w.err = errors.New("nobody answers")
	w.mu.Unlock()
	if got := names(t, addr, 5); got["a"] != 5 {
		t.Errorf("with the servers gone: %v", got)
	}
	eventually(t, "the state is stale", func() bool { s := u.State()[0]; return s.Stale && s.KnownError == "nobody answers" })
}

func TestSet(t *testing.T) {
	a, b := newBackend(t, "a"), newBackend(t, "b")
	w := &world{}
	w.set(a.instance(func(i *catalog.Instance) { i.Service.Tags = []string{"x"} }), b.instance())
	u, addr := start(t, w, upstream.Config{Service: "db", Tag: "x"})
	first := mustDial(t, addr)
	second := freeAddr(t)
	sock := "unix://" + filepath.Join(t.TempDir(), "s")
	if err := u.Set([]upstream.Config{{Service: "db", Listen: addr}, {Service: "db", Listen: second}, {Service: "db", Listen: sock}}); err != nil {
		t.Fatal(err)
	}
	first.echo(t, "undisturbed")
	eventually(t, "the tag is not asked for any more", func() bool { return names(t, addr, 20)["b"] > 0 })
	mustDial(t, sock).echo(t, "by socket")

	// A port that is in use changes nothing.
	if err := u.Set([]upstream.Config{{Name: "bad", Service: "db", Listen: a.l.Addr().String()}, {Service: "db", Listen: freeAddr(t)}}); err == nil || !strings.Contains(err.Error(), `upstream "bad"`) {
		t.Errorf("a port in use: %v", err)
	}
	if got := names(t, second, 3); got["error"] != 0 {
		t.Errorf("after a refused change: %v", got)
	}

	// What is taken out takes no new clients and keeps those it has for a while.
	if err := u.Set([]upstream.Config{{Service: "db", Listen: second}}); err != nil {
		t.Fatal(err)
	}
	if _, err := dial(addr); err == nil {
		t.Error("a port that was taken out took a client")
	}
	first.echo(t, "draining")
	if err := u.Set([]upstream.Config{{Service: "db", Listen: second}, {Service: "db", Listen: addr}}); err != nil {
		t.Errorf("put back while it drains: %v", err)
	}
	if got := names(t, addr, 3); got["error"] != 0 {
		t.Errorf("put back: %v", got)
	}
}

// TestPrepare: what is prepared disturbs nobody, an abort leaves no trace of it, and a close ends what nobody committed.
func TestPrepare(t *testing.T) {
	b := newBackend(t, "a")
	w := &world{}
	w.set(b.instance())
	u, addr := start(t, w, upstream.Config{Service: "db"})
	next := freeAddr(t)
	change := []upstream.Config{{Service: "db", Name: "new", Listen: next}}
	names := func() (out []string) {
		for _, s := range u.State() {
			out = append(out, s.Name+" "+s.Listen)
		}
		return out
	}
	for range 2 { // what was aborted can be opened again
		c, err := u.Prepare(change)
		if err != nil {
			t.Fatal(err)
		}
		if got := names(); len(got) != 1 || got[0] != "db "+addr {
			t.Errorf("prepared: %v", got)
		}
		if c, err := dial(addr); err != nil {
			t.Errorf("a port in use, while a change is prepared: %v", err)
		} else {
			_ = c.Close()
		}
		c.Abort()
		c.Commit() // too late
	}
	if _, err := net.Dial("tcp", next); err == nil {
		t.Error("an aborted port listens")
	}
	if err := u.Set(change); err != nil {
		t.Fatal(err)
	}
	if c, err := dial(next); err != nil {
		t.Errorf("the new port: %v", err)
	} else {
		_ = c.Close()
	}
	if got := names(); len(got) != 1 || got[0] != "new "+next {
		t.Errorf("after the change: %v", got)
	}
	late := freeAddr(t)
	c, err := u.Prepare([]upstream.Config{{Service: "db", Listen: late}})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if err := u.Close(ctx); err != nil {
		t.Fatal(err)
	}
	c.Commit()
	if _, err := net.Dial("tcp", late); err == nil || len(u.State()) != 0 {
		t.Error("a port opens after the close")
	}
	if _, err := u.Prepare(nil); !errors.Is(err, upstream.ErrClosed) {
		t.Errorf("after the close: %v", err)
	}
}

func TestLimit(t *testing.T) {
	a := newBackend(t, "a")
	w := &world{}
	w.set(a.instance())
	u, addr := start(t, w, upstream.Config{Service: "db", MaxConnections: 3})
	for range 3 {
		mustDial(t, addr)
	}
	if c, err := dial(addr); err == nil {
		t.Errorf("a fourth client got %s", c.name)
	}
	if s := u.State()[0]; s.Refused != 1 || s.Open != 3 {
		t.Errorf("state %+v", s)
	}
}

func TestIdle(t *testing.T) {
	a := newBackend(t, "a")
	w := &world{}
	w.set(a.instance())
	u, addr := start(t, w, upstream.Config{Service: "db", IdleTimeout: 2 * time.Second})
	quiet := mustDial(t, addr)
	busy := mustDial(t, addr)
	eventually(t, "the quiet connection is cut", func() bool {
		busy.echo(t, "tick")
		return u.State()[0].Open == 1
	})
	if _, err := quiet.r.ReadByte(); err == nil || errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("the quiet connection: %v, want its end", err)
	}
	busy.echo(t, "still there")
	if s := u.State()[0]; s.BytesOut == 0 {
		t.Error("the bytes of an open connection are not counted")
	}
}

// TestManyLeaveNothing opens many connections at once, with an instance dying amid them, and looks for what they leave.
func TestManyLeaveNothing(t *testing.T) {
	before := runtime.NumGoroutine()
	w := &world{}
	var all []*backend
	var list []*catalog.Instance
	for i := range 3 {
		all = append(all, newBackend(t, fmt.Sprint(i)))
		list = append(list, all[i].instance())
	}
	w.set(list...)
	u := upstream.New(upstream.Options{Find: w.find})
	addr := freeAddr(t)
	if err := u.Set([]upstream.Config{{Service: "db", Listen: addr}}); err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	var failed atomic.Int64
	for i := range 600 {
		if i == 300 {
			all[0].kill()
		}
		wg.Go(func() {
			c, err := dial(addr)
			if err != nil {
				failed.Add(1)
				return
			}
			defer c.Close()
			fmt.Fprintln(c, "x")
			_, _ = c.r.ReadString('\n') // those of the dead instance fail
		})
	}
	wg.Wait()
	// A connection that the dead instance had accepted, but not served, is lost with it.
	if n := failed.Load(); n > 300 {
		t.Errorf("%d of 600 clients got no instance", n)
	}
	if got := names(t, addr, 50); got["error"] != 0 {
		t.Errorf("afterwards: %v", got)
	}
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	if err := u.Close(ctx); err != nil {
		t.Error(err)
	}
	if err := u.Set(nil); !errors.Is(err, upstream.ErrClosed) {
		t.Errorf("after Close: %v", err)
	}
	for _, b := range all {
		b.kill()
	}
	eventually(t, "all goroutines have ended", func() bool { return runtime.NumGoroutine() <= before+3 })
}

func BenchmarkConnect(b *testing.B) {
	l, err := net.Listen("tcp", loopback)
	if err != nil {
		b.Fatal(err)
	}
	defer l.Close()
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() { _, _ = io.Copy(c, c); _ = c.Close() }()
		}
	}()
	w := &world{}
	w.set((&backend{name: "a", l: l}).instance())
	u := upstream.New(upstream.Options{Find: w.find})
	front, err := net.Listen("tcp", loopback)
	if err != nil {
		b.Fatal(err)
	}
	addr := front.Addr().String()
	_ = front.Close()
	if err := u.Set([]upstream.Config{{Service: "db", Listen: addr, Drain: time.Millisecond}}); err != nil {
		b.Fatal(err)
	}
	defer func() {
		ctx, cancel := context.WithCancel(context.Background())
		cancel()
		_ = u.Close(ctx)
	}()
	for name, to := range map[string]string{"direct": l.Addr().String(), "upstream": addr} {
		b.Run("connect/"+name, func(b *testing.B) {
			buf := make([]byte, 1)
			for b.Loop() {
				c, err := net.Dial("tcp", to)
				if err != nil {
					b.Fatal(err)
				}
				_, _ = c.Write(buf)
				if _, err := io.ReadFull(c, buf); err != nil {
					b.Fatal(err)
				}
				_ = c.Close()
			}
		})
		b.Run("carry/"+name, func(b *testing.B) {
			c, err := net.Dial("tcp", to)
			if err != nil {
				b.Fatal(err)
			}
			defer c.Close()
			buf := make([]byte, 256<<10)
			b.SetBytes(int64(len(buf)))
			go func() { _, _ = io.Copy(io.Discard, c) }()
			for b.Loop() {
				if _, err := c.Write(buf); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
