package etcd_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/musterhq/muster/api/etcd"
	"github.com/musterhq/muster/kv"
)

// Requests are written "METHOD /path?query form".
func send(t *testing.T, base, request string) answer {
	t.Helper()
	method, rest, _ := strings.Cut(request, " ")
	path, form, _ := strings.Cut(rest, " ")
	return call(t, method, base+"/v2/keys"+path, form)
}

// watched are the rules by which an event reaches a watch, one row for each case of each rule.
var watched = []struct {
	rule    string
	before  []string // requests
	watch   string   // path, with ?recursive=true
	during  []string
	want    []string // "action key", in order
	expires bool     // during ends when the last wanted event is there
}{
	{rule: "plain: all that happens to exactly that key", watch: "/a/k",
		during: []string{"PUT /a/k value=1", "PUT /a/k?prevExist=true value=2", "PUT /a/k?prevValue=2 value=3", "DELETE /a/k", "PUT /a/k?prevExist=false value=4", "DELETE /a/k?prevValue=4"},
		want:   []string{"set /a/k", "update /a/k", "compareAndSwap /a/k", "delete /a/k", "create /a/k", "compareAndDelete /a/k"}},
	{rule: "plain: an update to the same value", before: []string{"PUT /k value=1"}, watch: "/k",
		during: []string{"PUT /k value=1", "PUT /k?prevExist=true value=1"}, want: []string{"set /k", "update /k"}},
	{rule: "plain: not children", before: []string{"PUT /d/x value=1"}, watch: "/d",
		during: []string{"PUT /d/x value=2", "PUT /d/y/z value=1", "POST /d value=1", "DELETE /d/x"}},
	{rule: "plain: not a name that begins alike", watch: "/d", during: []string{"PUT /dd value=1", "PUT /d2/x value=1"}},
	{rule: "plain: a directory made, changed and removed", watch: "/d",
		during: []string{"PUT /d dir=true", "PUT /d?prevExist=true ttl=100", "DELETE /d?dir=true", "PUT /d?prevExist=false dir=true"},
		want:   []string{"set /d", "update /d", "delete /d", "create /d"}},
	{rule: "plain: the deletion of a directory above", before: []string{"PUT /d/x/y value=1", "PUT /d/z value=1"}, watch: "/d/x/y",
		during: []string{"DELETE /d?recursive=true"}, want: []string{"delete /d"}},
	{rule: "plain: of a directory above, itself a directory", before: []string{"PUT /d/x/y value=1"}, watch: "/d/x",
		during: []string{"DELETE /d?recursive=true"}, want: []string{"delete /d"}},
	{rule: "plain: not if it did not exist then", before: []string{"PUT /d/x value=1"}, watch: "/d/none", during: []string{"DELETE /d?recursive=true"}},
	{rule: "plain: not if it had gone before", before: []string{"PUT /d/x value=1"}, watch: "/d/x",
		during: []string{"DELETE /d/x", "DELETE /d?recursive=true"}, want: []string{"delete /d/x"}},
	{rule: "plain: not of a directory that begins alike", before: []string{"PUT /dir/x value=1", "PUT /directory/x value=1"}, watch: "/directory/x",
		during: []string{"DELETE /dir?recursive=true"}},
	{rule: "plain: the expiry of a directory above", before: []string{"PUT /d/x value=1"}, watch: "/d/x",
		during: []string{"PUT /d?prevExist=true ttl=0"}, want: []string{"expire /d"}, expires: true},
	{rule: "plain: its own expiry", watch: "/k", during: []string{"PUT /k value=1&ttl=0"}, want: []string{"set /k", "expire /k"}, expires: true},
	{rule: "plain: a key that becomes a directory", before: []string{"PUT /k value=1"}, watch: "/k", during: []string{"PUT /k dir=true"}, want: []string{"set /k"}},
	{rule: "plain: parents made on the way are silent", watch: "/p", during: []string{"PUT /p/q/r value=1"}},
	{rule: "plain: no failed write", before: []string{"PUT /k value=1"}, watch: "/k",
		during: []string{"PUT /k?prevValue=2 value=3", "PUT /k?prevExist=false value=3", "DELETE /k?prevIndex=1", "PUT /k/x value=1"}},
	{rule: "plain: no refresh", before: []string{"PUT /k value=1"}, watch: "/k",
		during: []string{"PUT /k refresh=true&ttl=100", "PUT /k?prevExist=true refresh=true&ttl=100", "PUT /k?prevValue=1 refresh=true&ttl=100"}},
	{rule: "plain: hidden by its own name", watch: "/d/_h", during: []string{"PUT /d/_h value=1", "DELETE /d/_h"}, want: []string{"set /d/_h", "delete /d/_h"}},
	{rule: "plain: below a hidden directory", before: []string{"PUT /_d/x value=1"}, watch: "/_d/x",
		during: []string{"PUT /_d/x value=2", "DELETE /_d?recursive=true"}, want: []string{"set /_d/x", "delete /_d"}},
	{rule: "recursive: itself and all below", watch: "/d?recursive=true",
		during: []string{"PUT /d dir=true", "PUT /d/x value=1", "PUT /d/y/z value=1", "POST /d/q value=1", "DELETE /d/y?recursive=true", "DELETE /d/x"},
		want:   []string{"set /d", "set /d/x", "set /d/y/z", "create /d/q/*", "delete /d/y", "delete /d/x"}},
	{rule: "recursive: nothing beside", before: []string{"PUT /d/x value=1"}, watch: "/d?recursive=true", during: []string{"PUT /dd/x value=1", "PUT /e value=1", "PUT /_d value=1"}},
	{rule: "recursive: the deletion of a directory above", before: []string{"PUT /a/d/x value=1"}, watch: "/a/d?recursive=true",
		during: []string{"DELETE /a?recursive=true"}, want: []string{"delete /a"}},
	{rule: "recursive: not of one above in which it was not", before: []string{"PUT /a/x value=1"}, watch: "/a/d?recursive=true", during: []string{"DELETE /a?recursive=true"}},
	{rule: "recursive: the expiry of a directory below, once, whatever was in it", before: []string{"PUT /d/e/x value=1&ttl=100", "PUT /d/e/y value=1"}, watch: "/d?recursive=true",
		during: []string{"PUT /d/e?prevExist=true ttl=0"}, want: []string{"update /d/e", "expire /d/e"}, expires: true},
	{rule: "recursive: no hidden key", watch: "/d?recursive=true", during: []string{"PUT /d/_h value=1", "PUT /d/x/_h value=1", "DELETE /d/_h"}},
	{rule: "recursive: nothing below a hidden directory", watch: "/d?recursive=true",
		during: []string{"PUT /d/_h/x value=1", "PUT /d/x/_h/y/z value=1", "DELETE /d/_h?recursive=true", "PUT /d/x/y_ value=1"}, want: []string{"set /d/x/y_"}},
	{rule: "recursive: from a hidden directory on", watch: "/d/_h?recursive=true",
		during: []string{"PUT /d/_h/x value=1", "PUT /d/_h/_y value=1", "PUT /d/_h/z/_y/a value=1"}, want: []string{"set /d/_h/x"}},
	{rule: "recursive: below a hidden directory", watch: "/_d/e?recursive=true", during: []string{"PUT /_d/e/x value=1", "PUT /_d/e/_x value=1"}, want: []string{"set /_d/e/x"}},
	{rule: "root, recursive: all that is not hidden", watch: "/?recursive=true",
		during: []string{"PUT /x value=1", "PUT /_x value=1", "PUT /d/_x value=1", "POST / value=1", "DELETE /x"}, want: []string{"set /x", "create /*", "delete /x"}},
}

// TestWhichEventsMatch holds each rule live, for a watch that begins in the past, and for one that begins in the past
// on a server that has the past from a snapshot.
func TestWhichEventsMatch(t *testing.T) {
	for _, c := range watched {
		t.Run(c.rule, func(t *testing.T) {
			t.Parallel()
			m := newMemory(t, kv.Options{})
			u := serve(t, m, nil)
			for _, r := range c.before {
				if a := send(t, u, r); a.status/100 != 2 {
					t.Fatalf("%s: %d %s", r, a.status, a.body)
				}
			}
			path, mode, _ := strings.Cut(c.watch, "?")
			url := "/v2/keys" + path + "?wait=true&stream=true&" + mode
			since := m.tree.Snap().Index() + 1
			live := watch(t, u+url)
			for _, r := range c.during {
				send(t, u, r)
			}
			if c.expires {
				waitFor(t, func() bool {
					return m.tree.NextExpiry() == 0 || m.tree.NextExpiry() > time.Now().Add(time.Second).UnixNano()
				})
			}
			last := m.tree.Snap().Index()
			// Something that the watch must see, so that what came before is known to be all.
			end := path
			if end == "/" {
				end = "/end"
			}
			send(t, u, "DELETE "+end+"?recursive=true")
			if a := send(t, u, "PUT "+end+" value=end"); a.status/100 != 2 {
				t.Fatalf("%d %s", a.status, a.body)
			}
			past := "&waitIndex=" + strconv.FormatUint(since, 10)
			restored := newMemory(t, kv.Options{})
			var b bytes.Buffer
			if _, err := m.tree.Snap().WriteTo(&b); err != nil {
				t.Fatal(err)
			}
			if err := restored.tree.Restore(&b); err != nil {
				t.Fatal(err)
			}
			for how, p := range map[string]*poll{
				"live": live, "from the past": watch(t, u+url+past), "from the past after a restore": watch(t, serve(t, restored, nil)+url+past),
			} {
				if got := p.until(t, last); fmt.Sprint(got) != fmt.Sprint(c.want) {
					t.Errorf("%s: %q, want %q", how, got, c.want)
				}
			}
		})
	}
}

// until reads a stream to the first event above that index, and names the events before it.
func (p *poll) until(t *testing.T, last uint64) (got []string) {
	t.Helper()
	for {
		var ev struct {
			Action string
			Node   struct {
				Key           string
				ModifiedIndex uint64
			}
		}
		line := p.next(t)
		if err := json.Unmarshal([]byte(line), &ev); err != nil {
			t.Fatalf("%q: %v", line, err)
		}
		if ev.Node.ModifiedIndex > last {
			return got
		}
		if i := strings.LastIndexByte(ev.Node.Key, '/'); len(ev.Node.Key)-i == 21 { // named in order
			ev.Node.Key = ev.Node.Key[:i+1] + "*"
		}
		got = append(got, ev.Action+" "+ev.Node.Key)
	}
}

func waitFor(t *testing.T, ok func() bool) {
	t.Helper()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for deadline := time.Now().Add(time.Minute); !ok(); <-tick.C {
		if time.Now().After(deadline) {
			t.Fatal("what is waited for did not come within a minute")
		}
	}
}

// A long poll begins at once, ends with its one event, and can be asked again without a gap; the root itself never
// changes.
func TestLongPoll(t *testing.T) {
	u := serve(t, newMemory(t, kv.Options{}), nil)
	root := watch(t, u+"/v2/keys/?wait=true")
	p := watch(t, u+"/v2/keys/a/b?wait=true") // no part of it is there
	if p.resp.StatusCode != 200 || p.resp.Header.Get("X-Etcd-Index") != "3" || p.resp.Header.Get(etcd.OldestHeader) != "1" {
		t.Fatalf("%d %v", p.resp.StatusCode, p.resp.Header)
	}
	for i := range 5 {
		call(t, "PUT", u+"/v2/keys/a/b", "value="+strconv.Itoa(i))
	}
	for i := range 5 {
		if s := p.next(t); !strings.Contains(s, fmt.Sprintf(`"value":"%d"`, i)) {
			t.Fatalf("event %d is %q", i, s)
		}
		if s := p.next(t); s != "" {
			t.Fatalf("after its event came %q", s)
		}
		p = watch(t, u+"/v2/keys/a/b?wait=true&waitIndex="+strconv.Itoa(5+i))
	}
	future := watch(t, u+"/v2/keys/a/b?wait=true&waitIndex=12")
	for range 4 { // 9 to 12
		call(t, "PUT", u+"/v2/keys/a/b", "value=later")
	}
	if s := future.next(t); !strings.Contains(s, `"modifiedIndex":12,`) {
		t.Errorf("a watch of a later index got %q", s)
	}
	plainRead := call(t, "GET", u+"/v2/keys/a/b?wait=true&quorum=true", "")
	if !strings.HasPrefix(plainRead.body, `{"action":"get"`) || plainRead.header.Get(etcd.OldestHeader) != "" {
		t.Errorf("wait with quorum is a read: %s", plainRead.body)
	}
	got := make(chan string, 1)
	go func() {
		s, _ := root.lines.ReadString('\n')
		got <- s
	}()
	root.cancel()
	if s := <-got; s != "" {
		t.Errorf("a plain watch of the root got %q", s)
	}
}

// A search of the history finds hidden keys, as long polls rely on; a refresh takes a place there and shows nowhere.
func TestPastOfHiddenAndRefreshed(t *testing.T) {
	m := newMemory(t, kv.Options{HistoryEvents: 3})
	u := serve(t, m, nil)
	send(t, u, "PUT /d/_h value=1") // 4
	if s := watch(t, u+"/v2/keys/d?wait=true&recursive=true&waitIndex=4").next(t); !strings.HasPrefix(s, `{"action":"set","node":{"key":"/d/_h"`) {
		t.Errorf("%q", s)
	}
	for range 3 { // 5 to 7
		send(t, u, "PUT /d/_h?prevExist=true refresh=true&ttl=100")
	}
	a := call(t, http.MethodGet, u+"/v2/keys/d/_h?wait=true&waitIndex=4", "")
	want(t, a, 400, `{"errorCode":401,"message":"The event in requested index is outdated and cleared",`+
		`"cause":"the requested history has been cleared [5/4]","index":7}`+"\n")
	if a.header.Get(etcd.OldestHeader) != "5" {
		t.Errorf("oldest %q", a.header.Get(etcd.OldestHeader))
	}
	p := watch(t, u+"/v2/keys/d/_h?wait=true&waitIndex=6") // 5 goes with the next event
	send(t, u, "PUT /d/_h value=2")                        // 8
	if s := p.next(t); !strings.Contains(s, `"modifiedIndex":8,`) {
		t.Errorf("a refresh was seen: %q", s)
	}
}
