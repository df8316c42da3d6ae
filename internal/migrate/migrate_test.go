package migrate_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/musterhq/muster/internal/migrate"
	"github.com/musterhq/muster/internal/testcluster"
)

// side is one cluster of a migration.
type side struct {
	*testcluster.Host
	client *migrate.Client
}

func newSide(t *testing.T, args ...string) side {
	t.Helper()
	h := testcluster.Start(t, 1, 0, args...).Servers[0]
	c, err := migrate.NewClient([]string{h.EtcdURL()}, nil)
	if err != nil {
		t.Fatal(err)
	}
	return side{h, c}
}

func (s side) set(t *testing.T, key, form string) {
	t.Helper()
	s.Put(t, "/v2/keys"+key, form)
}

// tree is everything visible: directories end in a slash; keys that expire are marked.
func (s side) tree(t *testing.T) map[string]string {
	t.Helper()
	type node struct {
		Key, Value string
		Dir        bool
		TTL        int
		Nodes      []node
	}
	out := map[string]string{}
	var walk func(n node)
	walk = func(n node) {
		if n.Dir && n.Key != "" {
			out[n.Key+"/"] = fmt.Sprint(n.TTL > 0)
		} else if n.Key != "" {
			out[n.Key] = n.Value + fmt.Sprint(n.TTL > 0)
		}
		for _, c := range n.Nodes {
			walk(c)
		}
	}
	for _, p := range []string{"/", "/_hid", "/app/_h"} {
		a := s.Do(http.MethodGet, "/v2/keys"+p+"?recursive=true&quorum=true", "")
		var answer struct{ Node node }
		if a.OK() && json.Unmarshal([]byte(a.Body), &answer) == nil {
			walk(answer.Node)
		}
	}
	return out
}

func (s side) hasShort(t *testing.T) bool {
	for k := range s.tree(t) {
		if strings.HasPrefix(k, "/short") {
			return true
		}
	}
	return false
}

func same(t *testing.T, from, to side) {
	t.Helper()
	a, b := from.tree(t), to.tree(t)
	for k, v := range a {
		if b[k] != v {
			t.Errorf("%s is %q, the target has %q", k, v, b[k])
		}
	}
	for k := range b {
		if _, ok := a[k]; !ok {
			t.Errorf("%s is in the target only", k)
		}
	}
}

func run(t *testing.T, o migrate.Options) migrate.Report {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	rep, err := migrate.Run(ctx, o)
	if err != nil || !rep.Verified && !o.DryRun {
		t.Fatalf("%v %+v", err, rep)
	}
	return rep
}

// differ runs what has to end with differences.
func differ(t *testing.T, o migrate.Options) migrate.Report {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	rep, err := migrate.Run(ctx, o)
	if !errors.Is(err, migrate.ErrDifferent) {
		t.Fatalf("%v %+v", err, rep)
	}
	return rep
}

func TestCopy(t *testing.T) {
	t.Parallel()
	from, to := newSide(t), newSide(t)
	from.set(t, "/a", "value=1")
	from.set(t, "/empty", "dir=true")
	from.set(t, "/dying", "dir=true&ttl=600")
	from.set(t, "/dying/k", "value=x")
	from.set(t, "/ttl", "value=x&ttl=300")
	from.set(t, "/_hid/k", "value=h")
	from.set(t, "/app/_h", "value=h")
	odd := "/odd/" + url.PathEscape(`ä b%2F+?#&"'`)
	from.set(t, odd, url.Values{"value": {"line\n\x00\u2028 ü"}}.Encode())
	for i := range 200 {
		from.set(t, fmt.Sprintf("/many/d%d/k%d", i%7, i), "value="+strings.Repeat("v", i))
	}
	dry := differ(t, migrate.Options{From: from.client, To: to.client, DryRun: true})
	if dry.Written != 206 || dry.Keys != 206 || len(to.tree(t)) != 0 {
		t.Errorf("a dry run: %+v, the target holds %v", dry, to.tree(t))
	}
	rep := run(t, migrate.Options{From: from.client, To: to.client})
	same(t, from, to)
	if rep.Written != 206 || rep.Expiring != 1 || rep.Extra != 0 || rep.LargestDrift > 2*time.Second {
		t.Errorf("report %+v", rep)
	}
	if again := run(t, migrate.Options{From: from.client, To: to.client}); again.Written+again.MadeDirs+again.Deleted != 0 {
		t.Errorf("repeated, it wrote %+v", again)
	}

	// Differences of every kind, and what only the target has.
	from.set(t, "/a", "value=2")
	from.set(t, "/ttl", "value=x")
	from.set(t, "/dying", "dir=true&prevExist=true&ttl=6000")
	from.set(t, "/turned/k", "value=was+a+key")
	to.set(t, "/turned", "value=key")
	to.set(t, "/only", "value=there")
	to.set(t, "/onlydir/k", "value=there")
	// Values of the target are kept unless told otherwise; a time to live is no value.
	rep = differ(t, migrate.Options{From: from.client, To: to.client})
	if rep.Kept != 2 || rep.Different != 2 || rep.Written != 1 || rep.MadeDirs != 1 || rep.Deleted != 0 || !slices.ContainsFunc(rep.Differences, func(s string) bool { return strings.HasPrefix(s, "/a: another value") }) {
		t.Errorf("without -overwrite: %+v", rep)
	}
	if rep := run(t, migrate.Options{From: from.client, To: to.client, Overwrite: true}); rep.Extra != 2 || rep.Deleted != 0 || rep.Written != 2 || rep.MadeDirs != 1 {
		t.Errorf("with -overwrite: %+v", rep)
	}
	if rep := differ(t, migrate.Options{From: from.client, To: to.client, Delete: true, DryRun: true}); rep.Deleted != 2 || rep.Different != 2 {
		t.Errorf("with -delete -dry-run: %+v", rep)
	}
	if rep := run(t, migrate.Options{From: from.client, To: to.client, Delete: true, Prefixes: []string{"/many", "/onlydir/../a"}}); rep.Extra != 0 || rep.Deleted != 0 {
		t.Errorf("with -delete elsewhere: %+v", rep)
	}
	if rep := run(t, migrate.Options{From: from.client, To: to.client, Delete: true}); rep.Extra != 0 || rep.Deleted != 2 {
		t.Errorf("with -delete: %+v", rep)
	}
	same(t, from, to)

	// A key where the target has a directory: it takes both words.
	to.set(t, "/clash/k", "value=x")
	from.set(t, "/clash", "value=key")
	if rep := differ(t, migrate.Options{From: from.client, To: to.client, Overwrite: true}); rep.Verified || rep.Different != 1 || rep.Kept != 1 {
		t.Errorf("a clash: %+v", rep)
	}
	run(t, migrate.Options{From: from.client, To: to.client, Delete: true, Overwrite: true})
	same(t, from, to)
	if rep := run(t, migrate.Options{From: from.client, To: to.client, Prefixes: []string{"/many/d1", "/a"}}); rep.Keys != 30 || rep.Dirs != 1 {
		t.Errorf("by prefix: %+v", rep)
	}
}

// TestFollow copies while clients go on writing, deleting and refreshing, until they stop.
func TestFollow(t *testing.T) {
	t.Parallel()
	from, to := newSide(t), newSide(t)
	for i := range 300 {
		from.set(t, fmt.Sprintf("/k%d/x", i), "value=0")
	}
	var wg sync.WaitGroup
	quit := make(chan struct{})
	var writes atomic.Int64
	for w := range 4 {
		wg.Go(func() {
			for i := 0; ; i++ {
				select {
				case <-quit:
					return
				default:
				}
				key := fmt.Sprintf("/v2/keys/k%d", (i*4+w)%300)
				switch i % 7 {
				case 3:
					from.Do(http.MethodDelete, key+"?recursive=true", "")
				case 4:
					from.Do(http.MethodPut, key+"/y/z", "value=deep&ttl=100")
				case 5:
					from.Do(http.MethodPut, "/v2/keys/short"+fmt.Sprint(i), "value=x&ttl=1")
				case 6:
					from.Do(http.MethodPut, "/v2/keys/refreshed", "refresh=true&prevExist=true&ttl=500")
					from.Do(http.MethodPut, "/v2/keys/refreshed", "value=x&ttl=200")
				default:
					from.Do(http.MethodPut, key+"/x", fmt.Sprintf("value=%d", i))
				}
				writes.Add(1)
			}
		})
	}
	stop := make(chan struct{})
	done := make(chan error, 1)
	var caught atomic.Bool
	var rep migrate.Report
	go func() {
		var err error
		rep, err = migrate.Run(t.Context(), migrate.Options{From: from.client, To: to.client, Follow: stop, Progress: func(r migrate.Report) { caught.Store(r.CaughtUp) }})
		done <- err
	}()
	testcluster.Eventually(t, "it catches up under load", func() bool { return caught.Load() && writes.Load() > 500 })
	close(quit)
	wg.Wait()
	close(stop)
	if err := <-done; err != nil || !rep.Verified || rep.Events == 0 {
		t.Fatalf("%v %+v", err, rep)
	}
	// Keys of a second that ran out between the comparison and now are followed no more.
	testcluster.Eventually(t, "short-lived keys run out at both", func() bool { return !from.hasShort(t) && !to.hasShort(t) })
	same(t, from, to)
	t.Logf("%d writes, %+v", writes.Load(), rep)
}

func TestInterruptedAndResumed(t *testing.T) {
	t.Parallel()
	from, to := newSide(t), newSide(t)
	for i := range 300 {
		from.set(t, fmt.Sprintf("/d%d/k", i), "value=x")
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan migrate.Report, 1)
	go func() {
		rep, err := migrate.Run(ctx, migrate.Options{From: from.client, To: to.client, Rate: 100})
		if !errors.Is(err, context.Canceled) {
			t.Errorf("interrupted: %v", err)
		}
		done <- rep
	}()
	testcluster.Eventually(t, "something has been copied", func() bool { return len(to.tree(t)) > 20 })
	cancel()
	first := <-done
	if first.Written == 0 || first.Written >= 300 {
		t.Fatalf("interrupted after %d keys", first.Written)
	}
	second := run(t, migrate.Options{From: from.client, To: to.client})
	// A write under way at the interrupt may have been made without being counted.
	if n := first.Written + second.Written; n > 300 || n < 300-8 {
		t.Errorf("%d and %d keys written, 300 were missing", first.Written, second.Written)
	}
	same(t, from, to)
}

// TestRefreshedWhileFollowing: a refresh makes no event, and still the key does not run out in the target.
func TestRefreshedWhileFollowing(t *testing.T) {
	t.Parallel()
	from, to := newSide(t), newSide(t)
	from.set(t, "/lease", "value=x&ttl=5")
	stop := make(chan struct{})
	done := make(chan error, 1)
	go func() {
		_, err := migrate.Run(t.Context(), migrate.Options{From: from.client, To: to.client, Follow: stop, Recompare: 100 * time.Millisecond})
		done <- err
	}()
	testcluster.Eventually(t, "copied", func() bool { return to.tree(t)["/lease"] != "" })
	from.set(t, "/lease", "refresh=true&prevExist=true&ttl=900")
	testcluster.Eventually(t, "the new time arrives", func() bool {
		a := to.Do(http.MethodGet, "/v2/keys/lease", "")
		var answer struct{ Node struct{ TTL int } }
		return json.Unmarshal([]byte(a.Body), &answer) == nil && answer.Node.TTL > 800
	})
	close(stop)
	if err := <-done; err != nil {
		t.Error(err)
	}
}

// TestShortHistory makes the source forget what happened during the copy: everything is compared again.
func TestShortHistory(t *testing.T) {
	t.Parallel()
	from, to := newSide(t), newSide(t)
	from.set(t, "/a", "value=1")
	var cleared atomic.Int64
	forget := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Query().Get("wait") == "true" && cleared.Add(1) == 1 {
			from.set(t, "/b", "value=2")
			w.WriteHeader(http.StatusBadRequest)
			fmt.Fprint(w, `{"errorCode":401,"message":"The event in requested index is outdated and cleared","cause":"x","index":9}`)
			return
		}
		req, err := http.NewRequestWithContext(r.Context(), r.Method, from.EtcdURL()+r.URL.RequestURI(), http.NoBody)
		if err != nil {
			t.Error(err)
			return
		}
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			return // the other side went away
		}
		defer resp.Body.Close()
		for k, v := range resp.Header {
			w.Header()[k] = v
		}
		w.WriteHeader(resp.StatusCode)
		_ = http.NewResponseController(w).Flush()
		buf := make([]byte, 32<<10)
		for {
			n, err := resp.Body.Read(buf)
			_, _ = w.Write(buf[:n])
			if err != nil {
				return
			}
		}
	}))
	defer forget.Close()
	c, err := migrate.NewClient([]string{forget.URL}, nil)
	if err != nil {
		t.Fatal(err)
	}
	stop := make(chan struct{})
	var once sync.Once
	run(t, migrate.Options{From: c, To: to.client, Follow: stop, Progress: func(r migrate.Report) {
		if r.Lost > 0 && r.Passes > 1 {
			once.Do(func() { close(stop) })
		}
	}})
	same(t, from, to)
}

func TestRefusals(t *testing.T) {
	t.Parallel()
	s := newSide(t)
	if _, err := migrate.Run(t.Context(), migrate.Options{From: s.client, To: s.client}); !errors.Is(err, migrate.ErrSame) {
		t.Errorf("onto itself: %v", err)
	}
	nobody, err := migrate.NewClient([]string{"http://user:secret@127.0.0.1:1"}, nil)
	if err != nil {
		t.Fatal(err)
	}
	var away *migrate.UnreachableError
	if _, err := migrate.Run(t.Context(), migrate.Options{From: nobody, To: s.client}); !errors.As(err, &away) || strings.Contains(err.Error(), "secret") {
		t.Errorf("nobody there: %v", err)
	}
	for _, o := range []migrate.Options{{Prefixes: []string{"/nowhere"}}, {Hidden: []string{"/_nowhere"}}} {
		o.From, o.To = newSide(t).client, s.client
		if rep, err := migrate.Run(t.Context(), o); err == nil || errors.Is(err, migrate.ErrDifferent) || rep.Passes > 0 {
			t.Errorf("what the source does not have: %v %+v", err, rep)
		}
	}
	for _, bad := range [][]string{nil, {""}, {"127.0.0.1:2379"}, {"ftp://x"}} {
		if _, err := migrate.NewClient(bad, nil); err == nil {
			t.Errorf("endpoints %q were taken", bad)
		}
	}
}
