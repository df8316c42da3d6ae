package consul_test

import (
	"context"
	"encoding/json"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/musterhq/muster/api"
	"github.com/musterhq/muster/api/apitest"
	"github.com/musterhq/muster/api/consul"
	"github.com/musterhq/muster/catalog"
	"github.com/musterhq/muster/kv"
)

// leader is an API whose leader's job runs on the fake clock of a synctest bubble.
type leader struct {
	t     *testing.T
	store *apitest.Store
	api   *consul.API
	rt    *api.Router
	stop  func()
}

func newLeader(t *testing.T) *leader {
	t.Helper()
	store := apitest.New()
	a := consul.New(consul.Config{Store: store, Datacenter: "dc1", NodeName: nodeName})
	rt, err := api.NewRouter(api.RouterConfig{Routes: a.Routes()})
	if err != nil {
		t.Fatal(err)
	}
	store.Register(t, catalog.Registration{
		Node:   catalog.Node{ID: nodeID, Name: nodeName, Address: nodeAddr, Datacenter: "dc1"},
		Checks: []*catalog.Check{{ID: catalog.LivenessCheck, Name: "Serf Health Status", Status: catalog.Passing}},
	})
	l := &leader{t: t, store: store, api: a, rt: rt}
	l.elect()
	return l
}

// elect starts the leader's job, stop ends it as the loss of leadership does.
func (l *leader) elect() {
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		_ = l.api.Sessions().Run(ctx)
	}()
	l.stop = func() { cancel(); <-ended }
	synctest.Wait()
}

func (l *leader) close() {
	l.stop()
	l.store.Close()
}

func (l *leader) ask(method, target, body string) (int, string) {
	rec := httptest.NewRecorder()
	l.rt.ServeHTTP(rec, httptest.NewRequest(method, target, strings.NewReader(body)))
	return rec.Code, rec.Body.String()
}

func (l *leader) want(method, target, body string, status int, text string) {
	l.t.Helper()
	if s, b := l.ask(method, target, body); s != status || b != text {
		l.t.Errorf("%s %s: %d %q, want %d %q", method, target, s, b, status, text)
	}
}

func (l *leader) session(body string) string {
	l.t.Helper()
	status, b := l.ask("PUT", "/v1/session/create", body)
	var x struct{ ID string }
	if err := json.Unmarshal([]byte(b), &x); err != nil || status != 200 {
		l.t.Fatalf("create session: %d %s", status, b)
	}
	return x.ID
}

func (l *leader) alive(id string) bool {
	_, ok := catalog.GetSession(l.store.Tree.Snap(), id)
	return ok
}

func TestSessionTTL(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLeader(t)
		defer l.close()
		id := l.session(`{"TTL":"10s","LockDelay":"0s"}`)
		forever := l.session(`{}`)
		l.want("PUT", "/v1/kv/lock?acquire="+id, "me", 200, "true")
		for range 3 { // renewals carry it over, without a write
			time.Sleep(9 * time.Second)
			index := l.store.Tree.Snap().Index()
			if status, body := l.ask("PUT", "/v1/session/renew/"+id, ""); status != 200 || !strings.Contains(body, `"TTL":"10s"`) {
				t.Fatalf("renew: %d %s", status, body)
			}
			if now := l.store.Tree.Snap().Index(); now != index {
				t.Error("a renewal was written")
			}
		}
		time.Sleep(10*time.Second - time.Nanosecond)
		synctest.Wait()
		if !l.alive(id) {
			t.Error("ended before its TTL")
		}
		time.Sleep(time.Nanosecond)
		synctest.Wait()
		if l.alive(id) || !l.alive(forever) {
			t.Errorf("after the TTL: %v, session without TTL: %v", l.alive(id), l.alive(forever))
		}
		l.want("PUT", "/v1/session/renew/"+id, "", 404, "Session id '"+id+"' not found")
		l.want("PUT", "/v1/kv/lock?acquire="+forever, "other", 200, "true")
	})
}

func TestSessionTTLStartsAgainUnderANewLeader(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLeader(t)
		defer l.close()
		id := l.session(`{"TTL":"10s"}`)
		time.Sleep(9 * time.Second)
		l.stop()
		time.Sleep(time.Minute) // nobody leads: nothing ends
		l.elect()
		time.Sleep(9 * time.Second)
		synctest.Wait()
		if !l.alive(id) {
			t.Error("the time without a leader was counted")
		}
		time.Sleep(time.Second)
		synctest.Wait()
		if l.alive(id) {
			t.Error("the new leader does not count")
		}
	})
}

func TestSessionExpiryIsTriedAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLeader(t)
		defer l.close()
		id := l.session(`{"TTL":"10s"}`)
		l.store.Fail(api.ErrNoLeader)
		time.Sleep(15 * time.Second)
		l.store.Fail(nil)
		if status, _ := l.ask("PUT", "/v1/session/renew/"+id, ""); status != 404 {
			t.Errorf("an expired session was renewed: %d", status)
		}
		time.Sleep(time.Second)
		synctest.Wait()
		if l.alive(id) {
			t.Error("still there")
		}
	})
}

func TestLockDelay(t *testing.T) {
	// ways in which a session with a lock delay of 5 s stops holding a key
	for name, c := range map[string]struct {
		end     func(l *leader, id string)
		delayed bool
	}{
		"destroyed": {func(l *leader, id string) { l.want("PUT", "/v1/session/destroy/"+id, "", 200, "true") }, true},
		"check fails": {func(l *leader, _ string) {
			l.want("PUT", "/v1/catalog/register", `{"Node":"n1","SkipNodeUpdate":true,"Check":{"CheckID":"serfHealth","Status":"critical"}}`, 200, "true")
			l.want("PUT", "/v1/catalog/register", `{"Node":"n1","SkipNodeUpdate":true,"Check":{"CheckID":"serfHealth","Status":"passing"}}`, 200, "true")
		}, true},
		"written by another server": {func(l *leader, id string) { l.store.Apply(catalog.DestroySession(l.store.Tree.Snap(), id)) }, true},
		"released": {func(l *leader, id string) {
			l.want("PUT", "/v1/kv/lock?release="+id, "", 200, "true")
			l.want("PUT", "/v1/session/destroy/"+id, "", 200, "true")
		}, false},
		"deleted": {func(l *leader, id string) {
			l.want("DELETE", "/v1/kv/lock", "", 200, "true")
			l.want("PUT", "/v1/session/destroy/"+id, "", 200, "true")
		}, false},
	} {
		for _, before := range []string{"in one term", "over an election"} {
			t.Run(name+" "+before, func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					l := newLeader(t)
					defer l.close()
					id := l.session(`{"LockDelay":"5s"}`)
					l.want("PUT", "/v1/kv/lock?acquire="+id, "a", 200, "true")
					if before == "over an election" {
						l.stop()
						l.elect()
					}
					c.end(l, id)
					other := l.session(`{"LockDelay":"0s"}`)
					first := "true"
					if c.delayed {
						first = "false"
					}
					l.want("PUT", "/v1/kv/lock?acquire="+other, "b", 200, first)
					if c.delayed {
						l.want("PUT", "/v1/kv/lock", "plain writes go on", 200, "true")
						time.Sleep(5*time.Second - time.Nanosecond)
						l.want("PUT", "/v1/kv/lock?acquire="+other, "b", 200, "false")
						time.Sleep(2 * time.Nanosecond)
						l.want("PUT", "/v1/kv/lock?acquire="+other, "b", 200, "true")
					}
				})
			})
		}
	}
}

func TestLockDelayOfADeletedKey(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLeader(t)
		defer l.close()
		id := l.session(`{"LockDelay":"5s","Behavior":"delete"}`)
		l.want("PUT", "/v1/kv/lock?acquire="+id, "a", 200, "true")
		l.want("PUT", "/v1/session/destroy/"+id, "", 200, "true")
		l.want("GET", "/v1/kv/lock", "", 404, "")
		other := l.session(`{"LockDelay":"0s"}`)
		l.want("PUT", "/v1/kv/lock?acquire="+other, "b", 200, "false")
		time.Sleep(5*time.Second + 1)
		l.want("PUT", "/v1/kv/lock?acquire="+other, "b", 200, "true")
	})
}

// A key that somebody deleted under its holder is nobody's when the session ends, whatever the session's behavior.
func TestNoLockDelayAfterADelete(t *testing.T) {
	for _, del := range []string{"/v1/kv/dir/lock", "/v1/kv/dir/?recurse"} {
		for _, behavior := range []string{"release", "delete"} {
			synctest.Test(t, func(t *testing.T) {
				l := newLeader(t)
				defer l.close()
				id := l.session(`{"LockDelay":"15s","Behavior":"` + behavior + `"}`)
				l.want("PUT", "/v1/kv/dir/lock?acquire="+id, "a", 200, "true")
				l.want("DELETE", del, "", 200, "true")
				l.want("PUT", "/v1/session/destroy/"+id, "", 200, "true")
				other := l.session(`{"LockDelay":"0s"}`)
				l.want("PUT", "/v1/kv/dir/lock?acquire="+other, "b", 200, "true")
			})
		}
	}
}

// A lock that is taken and lost at once is delayed all the same, however the leader's job is scheduled.
func TestLockDelayIsNeverMissed(t *testing.T) {
	_, srv := newServer(t)
	for range 50 {
		_, _, body := ask(t, srv, "PUT", "/v1/session/create", `{"LockDelay":"30s"}`)
		var a, b struct{ ID string }
		_ = json.Unmarshal([]byte(body), &a)
		_, _, body = ask(t, srv, "PUT", "/v1/session/create", `{"LockDelay":"0s"}`)
		_ = json.Unmarshal([]byte(body), &b)
		key := "/v1/kv/locks/" + a.ID
		want(t, srv, "PUT", key+"?acquire="+a.ID, "a", 200, "true")
		want(t, srv, "PUT", "/v1/session/destroy/"+a.ID, "", 200, "true")
		want(t, srv, "PUT", key+"?acquire="+b.ID, "b", 200, "false")
	}
}

func TestSessionsOfTheRelayingNode(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLeader(t)
		defer l.close()
		l.store.Register(t, catalog.Registration{
			Node:   catalog.Node{Name: "proxy1", Address: "10.0.0.9", Datacenter: "dc1"},
			Checks: []*catalog.Check{{ID: catalog.LivenessCheck, Status: catalog.Passing}},
		})
		r := httptest.NewRequest("PUT", "/v1/session/create", nil)
		r.Header.Set(consul.NodeHeader, "proxy1")
		rec := httptest.NewRecorder()
		l.rt.ServeHTTP(rec, r)
		if got := catalog.NodeSessions(l.store.Tree.Snap(), "proxy1"); len(got) != 1 {
			t.Errorf("%d: %s", rec.Code, rec.Body)
		}
		// The node dies with everything on it.
		l.want("PUT", "/v1/catalog/deregister", `{"Node":"proxy1"}`, 200, "true")
		l.want("GET", "/v1/session/list", "", 200, "[]")
	})
}

func TestWaitForASession(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLeader(t)
		defer l.close()
		id := l.session(`{}`)
		got := make(chan string, 1)
		go func() {
			_, body := l.ask("GET", "/v1/session/info/"+id+"?wait=1m&index=999999", "")
			got <- body
		}()
		synctest.Wait()
		start := time.Now()
		<-got
		if took := time.Since(start); took < time.Minute {
			t.Errorf("an index of the future was answered after %v", took)
		}
		index := l.store.Tree.Snap().IndexOf(catalog.SessionsPath())
		go func() {
			_, body := l.ask("GET", "/v1/session/info/"+id+"?wait=1m&index="+jsonNumber(index), "")
			got <- body
		}()
		synctest.Wait()
		l.session(`{}`) // another one
		l.store.Must(t, kv.Txn{Ops: []kv.Op{{Kind: kv.OpSet, Path: "k/x", Value: "1"}}}, nil)
		synctest.Wait()
		select {
		case body := <-got:
			t.Fatalf("another session ended the wait: %s", body)
		default:
		}
		l.want("PUT", "/v1/session/destroy/"+id, "", 200, "true")
		synctest.Wait()
		select {
		case body := <-got:
			if body != "[]" {
				t.Errorf("after the end: %s", body)
			}
		default:
			t.Error("the end of the session was not seen")
		}
	})
}

func jsonNumber(n uint64) string {
	b, _ := json.Marshal(n)
	return string(b)
}

// An agent that has just started can be asked for a session on its own node before the leader has written that node's
// records; for another node, and in the end, the refusal tells what is missing.
func TestSessionWaitsForTheNodeOfItsAgent(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := apitest.New()
		defer store.Close()
		rt := routerOf(t, consul.New(consul.Config{Store: store, Datacenter: "dc1", NodeName: nodeName}).Routes())
		create := func(body string) (int, string, time.Duration) {
			rec, began := httptest.NewRecorder(), time.Now()
			rt.ServeHTTP(rec, httptest.NewRequest("PUT", "/v1/session/create", strings.NewReader(body)))
			return rec.Code, rec.Body.String(), time.Since(began)
		}
		const missing = "apply failed: Missing node registration"
		if status, body, waited := create(`{"Node":"other"}`); status != 500 || body != missing || waited != 0 {
			t.Errorf("another node: %d %s after %s", status, body, waited)
		}
		if status, body, waited := create(`{"NodeChecks":[]}`); status != 500 || body != missing || waited != 0 {
			t.Errorf("without the check: %d %s after %s", status, body, waited)
		}
		if status, body, waited := create(""); status != 500 || body != missing || waited < time.Second || waited > 10*time.Second {
			t.Errorf("a node that does not come: %d %s after %s", status, body, waited)
		}
		done := make(chan int)
		go func() {
			status, _, _ := create("")
			done <- status
		}()
		synctest.Wait()
		store.Register(t, catalog.Registration{Node: catalog.Node{Name: nodeName, Address: nodeAddr, Datacenter: "dc1"}})
		synctest.Wait()
		select {
		case status := <-done:
			t.Fatalf("did not wait for the check: %d", status)
		default:
		}
		store.Register(t, catalog.Registration{Node: catalog.Node{Name: nodeName}, SkipNodeUpdate: true, Checks: []*catalog.Check{{ID: catalog.LivenessCheck, Status: catalog.Passing}}})
		if status := <-done; status != 200 {
			t.Errorf("a node that came: %d", status)
		}
	})
}
