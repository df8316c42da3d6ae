package etcd

import (
	"net/http"
	"net/http/httptest"
	"testing"

	"github.com/musterhq/muster/api"
)

func event(index string) string {
	return `{"action":"set","node":{"key":"/a","value":"\n\"modifiedIndex\":99","modifiedIndex":` + index + `,"createdIndex":3},"prevNode":{"key":"/a","value":"","modifiedIndex":2,"createdIndex":2}}` + "\n"
}

func TestOnlyWatchesAreResumed(t *testing.T) {
	for query, want := range map[string]bool{
		"wait=true": true, "wait=true&stream=true&recursive=true&waitIndex=7": true, "w%61it=1": true,
		"": false, "wait=false": false, "wait=true&quorum=true": false, "wait=perhaps": false, "wait=true&waitIndex=x": false, "recursive=true": false, "wait=%zz": false,
	} {
		got := resumeWatch(httptest.NewRequest(http.MethodGet, "/v2/keys/a?"+query, nil)) != nil
		if got != want {
			t.Errorf("%q is resumed: %v, want %v", query, got, want)
		}
	}
	if resumeWatch(httptest.NewRequest(http.MethodPut, "/v2/keys/a?wait=true", nil)) != nil {
		t.Error("a write is resumed")
	}
}

// again asks res for the next request and returns its query and the header that says where the answer began.
func again(res api.Resumer, query string) (string, string) {
	r := httptest.NewRequest(http.MethodGet, "/v2/keys/a?"+query, nil)
	res.Again(r)
	return r.URL.RawQuery, r.Header.Get(api.ResumeHeader)
}

func TestWatchGoesOnAfterItsLastEvent(t *testing.T) {
	head := http.Header{"X-Etcd-Index": {"40"}}
	for _, c := range []struct{ query, begun, after string }{
		{"wait=true&stream=true", "waitIndex=41&wait=true&stream=true", "waitIndex=52&wait=true&stream=true"},
		{"wait=true&stream=true&waitIndex=7", "waitIndex=7&wait=true&stream=true&waitIndex=7", "waitIndex=52&wait=true&stream=true&waitIndex=7"},
		{"wait=true&stream=true&waitIndex=70", "waitIndex=70&wait=true&stream=true&waitIndex=70", "waitIndex=52&wait=true&stream=true&waitIndex=70"},
	} {
		res := resumeWatch(httptest.NewRequest(http.MethodGet, "/v2/keys/a?"+c.query, nil))
		if q, since := again(res, c.query); q != c.query || since != "" {
			t.Errorf("%s before its head: asked again as %s, since %q; want it unchanged", c.query, q, since)
		}
		if !res.Begin(head) {
			t.Fatal("the head was not accepted")
		}
		if q, since := again(res, c.query); q != c.begun || since != "40" {
			t.Errorf("%s after its head: asked again as %s, since %q; want %s since 40", c.query, q, since, c.begun)
		}
		two := event("50") + event("51")
		part := event("52")[:60]
		if n := res.Take([]byte(two + part)); n != len(two) {
			t.Errorf("took %d bytes of two events and a part, want %d", n, len(two))
		}
		if n := res.Take([]byte(part)); n != 0 || res.Index() != 51 || res.Done() {
			t.Errorf("took %d bytes of a part, index %d, done %v; want none, 51, not done", n, res.Index(), res.Done())
		}
		if q, _ := again(res, c.query); q != c.after {
			t.Errorf("%s after event 51: asked again as %s, want %s", c.query, q, c.after)
		}
	}
}

func TestLongPollIsDoneAfterOneEvent(t *testing.T) {
	res := resumeWatch(httptest.NewRequest(http.MethodGet, "/v2/keys/a?wait=true", nil))
	if !res.Begin(http.Header{"X-Etcd-Index": {"40"}}) {
		t.Fatal("the head was not accepted")
	}
	one := event("50")
	if n := res.Take([]byte(one + one)); n != len(one) || !res.Done() {
		t.Errorf("took %d bytes, done %v; want one event of %d and done", n, res.Done(), len(one))
	}
	if resumeWatch(httptest.NewRequest(http.MethodGet, "/v2/keys/a?wait=true", nil)).Begin(http.Header{}) {
		t.Error("a head without an index was accepted")
	}
}
