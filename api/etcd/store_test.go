package etcd_test

import (
	"context"
	"net/http"
	"net/http/httptest"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/musterhq/muster/api"
	"github.com/musterhq/muster/api/etcd"
	"github.com/musterhq/muster/kv"
)

// memory is a Store on a tree in memory: a cluster of one that always leads, unless a test says otherwise.
type memory struct {
	mu   sync.Mutex
	tree *kv.Tree
	stop chan struct{}
	done chan struct{}
	err  error // what Propose and consistent reads answer instead
}

// newMemory starts a store whose expired keys are swept like a leader does it, and whose index stands at 3 as in
// a new cluster.
func newMemory(t testing.TB, o kv.Options) *memory {
	m := &memory{tree: kv.New(o), stop: make(chan struct{}), done: make(chan struct{})}
	for _, p := range []string{"m/format", "m/members/1", "m/members/2"} {
		m.apply(kv.Txn{Ops: []kv.Op{{Kind: kv.OpSet, Path: p, Value: "{}"}}})
	}
	go m.sweep()
	t.Cleanup(func() {
		close(m.stop)
		<-m.done
		m.tree.Close()
	})
	return m
}

func (m *memory) sweep() {
	defer close(m.done)
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	for {
		select {
		case <-m.stop:
			return
		case now := <-tick.C:
			if next := m.tree.NextExpiry(); next != 0 && next <= now.UnixNano() {
				m.apply(kv.Txn{Ops: []kv.Op{{Kind: kv.OpExpire, Action: kv.ActExpire, Cutoff: now.UnixNano()}}})
			}
		}
	}
}

func (m *memory) apply(t kv.Txn) kv.Result {
	m.mu.Lock()
	defer m.mu.Unlock()
	t.Now = time.Now().UnixNano()
	return m.tree.Apply(t)[0]
}

func (m *memory) failWith(err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.err = err
}

func (m *memory) failing() error {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.err
}

func (m *memory) Propose(ctx context.Context, t kv.Txn) (kv.Result, error) {
	if err := m.failing(); err != nil {
		return kv.Result{}, err
	}
	if err := t.Check(); err != nil {
		return kv.Result{}, err
	}
	return m.apply(t), ctx.Err()
}

func (m *memory) Read(_ context.Context, c api.Consistency) (*kv.Snap, api.ReadMeta, error) {
	if c != api.Stale {
		if err := m.failing(); err != nil {
			return nil, api.ReadMeta{}, err
		}
	}
	return m.tree.Snap(), api.ReadMeta{KnownLeader: true}, nil
}

func (m *memory) Watch(path string, after uint64, recursive bool) (*kv.Watcher, error) {
	return m.tree.Watch(path, after, recursive)
}

func (m *memory) OldestIndex(root string) uint64 { return m.tree.OldestIndex(root) }

func (m *memory) Status() api.Status {
	i := m.tree.Snap().Index()
	s := api.Status{ClusterID: 0xcdf818194e3a8c32, ID: "node", LeaderID: "node", LeaderAddr: "127.0.0.1:8300", State: "leader",
		Term: 2, Applied: i + 1, Commit: i + 1, Last: i + 1}
	if m.failing() != nil {
		s.LeaderID, s.LeaderAddr, s.State = "", "", "candidate"
	}
	return s
}

func (m *memory) Now() time.Time { return time.Now() }

// mux routes like the agent does: longest prefix, and a prefix matches itself without its slash. OPTIONS is for the
// handlers, everything unknown is 404.
func mux(routes []api.Route) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		for _, route := range routes {
			p, prefix := route.Pattern, route.Pattern[len(route.Pattern)-1] == '/'
			if r.URL.Path == p || prefix && (r.URL.Path == p[:len(p)-1] || len(r.URL.Path) > len(p) && r.URL.Path[:len(p)] == p) {
				route.Handler.ServeHTTP(w, r)
				return
			}
		}
		http.NotFound(w, r)
	})
}

// serve starts a server with the dialect over m.
func serve(t testing.TB, m *memory, change func(*etcd.Config)) string {
	t.Helper()
	srv := httptest.NewUnstartedServer(nil)
	url := "http://" + srv.Listener.Addr().String()
	list := &fakeMembers{list: []etcd.Member{{ID: 0x8e9e05c52164694d, Name: "n1", PeerURLs: []string{"http://127.0.0.1:8300"}, ClientURLs: []string{url}}}}
	all := func() []etcd.Member {
		now := list.all()
		now[0].Leader = m.failing() == nil
		return now
	}
	c := etcd.Config{Store: m, Name: "n1", Timeout: 2 * time.Second, Members: all, Membership: list}
	c.Stats = func() etcd.Stats { return etcd.Stats{Applied: m.tree.Counts()} }
	if change != nil {
		change(&c)
	}
	d, err := etcd.New(c)
	if err != nil {
		t.Fatal(err)
	}
	srv.Config.Handler = mux(d.Routes())
	srv.Start()
	t.Cleanup(func() {
		srv.CloseClientConnections()
		srv.Close()
	})
	return url
}

// fakeMembers stands for the servers of a cluster.
type fakeMembers struct {
	mu      sync.Mutex
	list    []etcd.Member
	removed map[uint64]bool
	err     error // what every change fails with
	vital   bool  // none can be removed unless forced
}

func (m *fakeMembers) all() []etcd.Member {
	m.mu.Lock()
	defer m.mu.Unlock()
	return slices.Clone(m.list)
}

func (m *fakeMembers) taken(id uint64, urls []string) bool {
	return slices.ContainsFunc(m.list, func(o etcd.Member) bool {
		return o.ID != id && slices.ContainsFunc(urls, func(u string) bool { return slices.Contains(o.PeerURLs, u) })
	})
}

func (m *fakeMembers) find(id uint64) (int, error) {
	i := slices.IndexFunc(m.list, func(o etcd.Member) bool { return o.ID == id })
	switch {
	case m.err != nil:
		return 0, m.err
	case m.removed[id]:
		return 0, etcd.ErrMemberRemoved
	case i < 0:
		return 0, etcd.ErrNoMember
	}
	return i, nil
}

func (m *fakeMembers) Add(_ context.Context, urls []string) (etcd.Member, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.err != nil {
		return etcd.Member{}, m.err
	}
	if m.taken(0, urls) {
		return etcd.Member{}, etcd.ErrPeerURL
	}
	added := etcd.Member{ID: 0xadd0 + uint64(len(m.list)), PeerURLs: urls}
	m.list = append(m.list, added)
	return added, nil
}

func (m *fakeMembers) Update(_ context.Context, id uint64, urls []string) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	i, err := m.find(id)
	if err == nil && m.taken(id, urls) {
		err = etcd.ErrPeerURL
	}
	if err == nil {
		m.list[i].PeerURLs = urls
	}
	return err
}

func (m *fakeMembers) Remove(_ context.Context, id uint64, force bool) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	i, err := m.find(id)
	if err == nil && m.vital && !force {
		return &etcd.RefusedError{Reason: "it is needed"}
	}
	if err == nil {
		m.list, m.removed = slices.Delete(m.list, i, i+1), map[uint64]bool{id: true}
	}
	return err
}
