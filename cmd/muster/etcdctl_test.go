package main

import (
	"bytes"
	"context"
	"encoding/pem"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/spf13/cobra"
)

// etcdctlLine runs one command line under the name etcdctl.
func etcdctlLine(t *testing.T, stdin string, args ...string) result {
	t.Helper()
	var out, errs bytes.Buffer
	code := personality("/usr/local/bin/etcdctl")(args, strings.NewReader(stdin), &out, &errs)
	return result{code, out.String(), errs.String()}
}

// closed is the URL of a port where nobody listens.
func closed(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return "http://" + l.Addr().String()
}

func noneAnswer(at ...string) string {
	short, long := "Error:  client: etcd cluster is unavailable or misconfigured", ""
	for i, u := range at {
		line := fmt.Sprintf("error #%d: dial tcp %s: connect: connection refused\n", i, strings.TrimPrefix(u, "http://"))
		short, long = short+"; "+line, long+line
	}
	return short + "\n" + long + "\n"
}

func TestPersonality(t *testing.T) {
	for name, want := range map[string]string{
		"etcdctl": "etcdctl version", "/usr/bin/etcdctl": "etcdctl version", "./etcdctl.exe": "etcdctl version",
		"muster": "unknown flag", "etcdctl2": "unknown flag", "": "unknown flag",
	} {
		var out, errs bytes.Buffer
		personality(name)([]string{"--version"}, strings.NewReader(""), &out, &errs)
		if !strings.Contains(out.String()+errs.String(), want) {
			t.Errorf("under the name %q: %q %q, want %q", name, out.String(), errs.String(), want)
		}
	}
	t.Setenv("ETCDCTL_API", "3")
	etcdctlLine(t, "", "get", "k").want(t, 1, `ETCDCTL_API is "3"`)
}

// TestEtcdctlHelp walks the tree of commands: each must explain itself in every way.
func TestEtcdctlHelp(t *testing.T) {
	var walk func(path []string, cmd *cobra.Command)
	seen := 0
	walk = func(path []string, cmd *cobra.Command) {
		seen++
		for _, args := range [][]string{append(slices.Clone(path), "--help"), append(slices.Clone(path), "-h"), append([]string{"help"}, path...)} {
			r := etcdctlLine(t, "", args...)
			if r.code != 0 || !strings.Contains(r.out, "Usage") {
				t.Errorf("etcdctl %s: exit code %d, %q", strings.Join(args, " "), r.code, r.out+r.errs)
			}
		}
		for _, sub := range cmd.Commands() {
			walk(append(slices.Clone(path), sub.Name()), sub)
		}
	}
	walk(nil, newEtcdctlRoot())
	if seen < 35 {
		t.Errorf("the tree has only %d commands", seen)
	}
	for _, args := range []string{"", "member", "user", "help"} {
		etcdctlLine(t, "", strings.Fields(args)...).want(t, 0, "Usage")
	}
	for _, args := range []string{"nope", "member nope", "help nope", "--debug nope"} {
		if r := etcdctlLine(t, "", strings.Fields(args)...); r.code != 3 || r.errs != "No help topic for 'nope'\n" {
			t.Errorf("etcdctl %s: exit code %d, %q", args, r.code, r.errs)
		}
	}
	for args, want := range map[string]string{
		"set -x k v": "flag provided but not defined: -x\n", "set -nope k v": "flag provided but not defined: -nope\n", "get -o": "flag needs an argument: -o\n",
		"set --ttl soon k v": "invalid value \"soon\" for flag -ttl: parse error\n", "--timeout 5 get k": "invalid value \"5\" for flag -timeout: parse error\n",
	} {
		if r := etcdctlLine(t, "", strings.Fields(args)...); r.code != 1 || r.errs != want || !strings.HasPrefix(r.out, "Incorrect Usage: "+want) {
			t.Errorf("etcdctl %s: exit code %d, %q and %q, want %q", args, r.code, r.out, r.errs, want)
		}
	}
	if r := etcdctlLine(t, "", cobra.ShellCompRequestCmd, "upda"); !strings.Contains(r.out, "update\t") || !strings.Contains(r.out, "updatedir\t") {
		t.Errorf("completion of upda gives %q", r.out)
	}
}

func TestEtcdctlEndpoints(t *testing.T) {
	f := newFake(t, map[string]string{"GET /v2/keys/k": node})
	dead := closed(t)
	for _, name := range []string{"ENDPOINTS", "ENDPOINT", "PEERS"} {
		t.Setenv("ETCDCTL_"+name, "")
	}
	get := func(want int, args ...string) {
		t.Helper()
		etcdctlLine(t, "", append(args, "--no-sync", "get", "k")...).want(t, want)
	}
	get(0, "--endpoints", f.URL)
	get(0, "--endpoint="+f.URL)
	get(0, "-peers", f.URL)
	get(0, "-C", f.URL)
	t.Setenv("ETCDCTL_PEERS", f.URL)
	get(0)
	get(4, "-C", dead)
	t.Setenv("ETCDCTL_ENDPOINT", dead)
	get(4)
	get(4, "-C", f.URL)
	get(0, "--endpoint", f.URL)
	t.Setenv("ETCDCTL_ENDPOINTS", f.URL)
	get(0)
	get(0, "--endpoint", dead, "-C", dead)
	get(4, "--endpoints", dead)
	if r := etcdctlLine(t, "", "--no-sync", "-o", "yaml", "get", "k"); r.code != 0 || r.out != "" || r.errs != "Unsupported output format: yaml\n" {
		t.Errorf("an unknown format: %d %q %q", r.code, r.out, r.errs)
	}
	if r := etcdctlLine(t, "", "--endpoints", "127.0.0.1:1", "get", "k"); r.code != 1 || r.errs != "parse \"127.0.0.1:1\": first path segment in URL cannot contain colon\n" {
		t.Errorf("an endpoint without a scheme: %d %q", r.code, r.errs)
	}
	etcdctlLine(t, "", "--endpoints", "localhost:1", "--no-sync", "get", "k").want(t, 4, `unsupported protocol scheme "localhost"`)
}

// TestEtcdctlFailover holds the rules of which request goes to another endpoint, and how the failure reads.
func TestEtcdctlFailover(t *testing.T) {
	good := newFake(t, map[string]string{
		"GET /v2/keys/k": node, "PUT /v2/keys/k": node,
		"GET /v2/keys/busy": "503|busy", "GET /v2/keys/gone": "502|x", "PUT /v2/keys/busy": "500|x", "GET /v2/keys/html": "404|<html>", "GET /v2/keys/junk": "junk", "GET /v2/keys/empty": "",
	})
	dead := closed(t)
	at := func(endpoints string, args ...string) result {
		return etcdctlLine(t, "", append([]string{"--no-sync", "--endpoints", endpoints}, args...)...)
	}
	for range 8 { // the order is random
		at(dead+","+good.URL, "get", "k").want(t, 0, "v")
		at(dead+","+good.URL, "set", "k", "v").want(t, 0, "v")
	}
	refused, leaderless := noneAnswer(dead), "client: etcd member "+good.URL+" has no leader"
	once := "Error:  dial tcp " + strings.TrimPrefix(dead, "http://") + ": connect: connection refused\n"
	for _, c := range []struct{ at, args, errs string }{
		{dead, "get k", refused}, {dead, "set k v", refused}, {dead, "update k v", refused}, {dead, "ls", refused}, {dead, "watch k", refused}, {dead, "setdir k", refused},
		{dead, "mk k v", once}, {dead, "mk --in-order k v", once}, {dead, "mkdir k", once}, {dead, "rm k", once}, {dead, "rmdir k", once},
		{good.URL, "mk busy v", "Error:  " + leaderless + "\n"},
		{good.URL, "get busy", "Error:  client: etcd cluster is unavailable or misconfigured; error #0: " + leaderless + "\n\nerror #0: " + leaderless + "\n\n"},
		{good.URL, "get html", "Error:  " + errNoJSON.Error() + "\n"}, {good.URL, "get junk", "Error:  " + errNoJSON.Error() + "\n"}, {good.URL, "get empty", "Error:  client: response body is empty\n"},
	} {
		if r := at(c.at, strings.Fields(c.args)...); r.code != 4 || r.errs != c.errs {
			t.Errorf("%s: exit code %d, %q, want %q", c.args, r.code, r.errs, c.errs)
		}
	}
	at(good.URL, "get", "gone").want(t, 4, "returns server error [Bad Gateway]")
}

func TestEtcdctlSync(t *testing.T) {
	good := newFake(t, map[string]string{"GET /v2/keys/k": node})
	dead := closed(t)
	members := func(urls ...string) *fake {
		return newFake(t, map[string]string{"GET /v2/members": `{"members":[{"id":"1","name":"a","clientURLs":["` + strings.Join(urls, `","`) + `"]},{"id":"2","name":"","clientURLs":[]}]}`, "GET /v2/keys/k": "404|{}"})
	}
	first := members(good.URL)
	r := etcdctlLine(t, "", "--debug", "--endpoints", first.URL, "get", "k")
	want := "start to sync cluster using endpoints(" + first.URL + ")\ncURL Command: curl -X GET " + first.URL + "/v2/members\ngot endpoints(" + good.URL +
		") after sync\nCluster-Endpoints: " + good.URL + "\ncURL Command: curl -X GET " + good.URL + "/v2/keys/k?quorum=false&recursive=false&sorted=false\n"
	if r.code != 0 || r.errs != want {
		t.Errorf("exit code %d, %q, want %q", r.code, r.errs, want)
	}
	if r := etcdctlLine(t, "", "--endpoints", dead, "get", "k"); r.code != 2 || r.errs != noneAnswer(dead) {
		t.Errorf("nobody to sync with: %d %q", r.code, r.errs)
	}
	none := newFake(t, map[string]string{"GET /v2/members": `{"members":[]}`})
	etcdctlLine(t, "", "--endpoints", none.URL, "get", "k").want(t, 4, "Try '--no-sync'", "Error:  client: no endpoints available\n")
	// Who does not know the question is taken as given.
	etcdctlLine(t, "", "--endpoints", good.URL, "get", "k").want(t, 0, "v")
}

func TestEtcdctlTimeouts(t *testing.T) {
	slow := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() }))
	t.Cleanup(slow.Close)
	late := "client: endpoint " + slow.URL + " exceeded header timeout"
	etcdctlLine(t, "", "--timeout", "50ms", "--no-sync", "--endpoints", slow.URL, "get", "k").want(t, 4, "error #0: "+late)
	etcdctlLine(t, "", "--timeout", "50ms", "--no-sync", "--endpoints", slow.URL, "rm", "k").want(t, 4, "Error:  "+late+"\n")
	etcdctlLine(t, "", "--total-timeout", "50ms", "--no-sync", "--endpoints", slow.URL, "get", "k").want(t, 4, "Error:  context deadline exceeded\n")
	etcdctlLine(t, "", "--total-timeout", "50ms", "--endpoints", slow.URL, "get", "k").want(t, 2, "Error:  context deadline exceeded\n")
}

// TestEtcdctlBadFlags: each refusal in etcdctl's own words, and nothing is asked of the server.
func TestEtcdctlBadFlags(t *testing.T) {
	asked := atomic.Int32{}
	s := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { asked.Add(1) }))
	t.Cleanup(s.Close)
	for _, c := range []struct {
		args string
		code int
		errs string
	}{
		{"get /a --quorum=", 1, `invalid boolean value "" for -quorum: parse error` + "\n"},
		{"--no-sync=yes get /a", 1, `invalid boolean value "yes" for -no-sync: parse error` + "\n"},
		{"set --ttl=1.5 /a v", 1, `invalid value "1.5" for flag -ttl: parse error` + "\n"},
		{"set --ttl 99999999999999999999 /a v", 1, `invalid value "99999999999999999999" for flag -ttl: value out of range` + "\n"},
		{"rm --with-index=99999999999999999999 /a", 1, `invalid value "99999999999999999999" for flag -with-index: value out of range` + "\n"},
		{"get ---a /a", 1, "bad flag syntax: ---a\n"},
		{"get -z /a", 1, "flag provided but not defined: -z\n"},
		{"get --z /a", 1, "flag provided but not defined: -z\n"},
		{"nope --ttl 5", 3, "No help topic for 'nope'\n"},
		{"member nope --ttl 5", 3, "No help topic for 'nope'\n"},
		{"--total-timeout 0 get /a", 2, "Error:  context deadline exceeded\n"},
		{"--total-timeout=-1s set /a v", 2, "Error:  context deadline exceeded\n"},
	} {
		r := etcdctlLine(t, "", append([]string{"--endpoints", s.URL}, strings.Fields(c.args)...)...)
		if r.code != c.code || r.errs != c.errs {
			t.Errorf("etcdctl %s: exit code %d, %q, want %d, %q", c.args, r.code, r.errs, c.code, c.errs)
		}
	}
	if n := asked.Load(); n > 0 {
		t.Errorf("%d requests", n)
	}
	if r := etcdctlLine(t, "", ""); r.code != 0 || !strings.Contains(r.out, "Usage") {
		t.Errorf("an empty command: exit code %d, %q", r.code, r.out)
	}
}

// TestEtcdctlEmptyFlag: a one-letter flag with "=" and nothing behind it has the empty value.
func TestEtcdctlEmptyFlag(t *testing.T) {
	f := newFake(t, map[string]string{"GET /v2/keys/k": node})
	for _, o := range []string{"--o=", "-o=", "--output="} {
		if r := etcdctlLine(t, "", "--no-sync", "--endpoints", f.URL, o, "get", "k"); r.code != 0 || r.errs != "Unsupported output format: \n" {
			t.Errorf("%s: exit code %d, %q", o, r.code, r.errs)
		}
	}
	for _, o := range []string{"--o=json", "-o=json", "-output=json"} {
		etcdctlLine(t, "", "--no-sync", "--endpoints", f.URL, o, "get", "k").want(t, 0, `{"action":"get"`)
	}
}

func TestEtcdctlCredentialsAndTLS(t *testing.T) {
	var auth atomic.Value
	auth.Store("")
	s := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		user, password, _ := r.BasicAuth()
		auth.Store(user + "/" + password)
		fmt.Fprint(w, node)
	}))
	t.Cleanup(s.Close)
	ca := filepath.Join(t.TempDir(), "ca.pem")
	if err := os.WriteFile(ca, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: s.Certificate().Raw}), 0o600); err != nil {
		t.Fatal(err)
	}
	get := func(stdin string, args ...string) result {
		return etcdctlLine(t, stdin, append([]string{"--no-sync", "--endpoints", s.URL}, append(args, "get", "k")...)...)
	}
	get("", "--ca-file", ca, "-u", "me:a:b").want(t, 0, "v")
	if auth.Load() != "me/a:b" {
		t.Errorf("sent %v", auth.Load())
	}
	if r := get("secret\nmore", "--ca-file", ca, "--username", "me"); r.out != "Password: \nv\n" || auth.Load() != "me/secret" {
		t.Errorf("asking for a password: %q, sent %v", r.out, auth.Load())
	}
	t.Setenv("ETCDCTL_USERNAME", "env:x")
	t.Setenv("ETCDCTL_CA_FILE", ca)
	get("").want(t, 0, "v")
	if auth.Load() != "env/x" {
		t.Errorf("sent %v", auth.Load())
	}
	t.Setenv("ETCDCTL_CA_FILE", "")
	get("").want(t, 4, "error #0: x509: certificate signed by unknown authority")
	none := filepath.Join(t.TempDir(), "none")
	for _, c := range []struct{ args, errs string }{
		{"--ca-file " + none, "open " + none + ": no such file or directory\n"},
		{"--cert-file " + none + " --key-file " + none, "open " + none + ": no such file or directory\n"},
		{"--cert-file x", "KeyFile and CertFile must both be present[key: , cert: x]\n"},
	} {
		if r := get("", strings.Fields(c.args)...); r.code != 1 || r.errs != c.errs {
			t.Errorf("%s: exit code %d, %q, want %q", c.args, r.code, r.errs, c.errs)
		}
	}
}

func TestEtcdctlDiscovery(t *testing.T) {
	e := &etcdctl{lookupSRV: func(_ context.Context, service, proto, name string) (string, []*net.SRV, error) {
		if proto != "tcp" || name != "example.com" {
			return "", nil, fmt.Errorf("asked for %s %s", proto, name)
		}
		return "", []*net.SRV{{Target: service + ".example.com.", Port: 2379}}, nil
	}}
	cmd := &cobra.Command{}
	var errs bytes.Buffer
	cmd.SetErr(&errs)
	cmd.SetContext(t.Context())
	t.Setenv("ETCDCTL_ENDPOINTS", "http://ignored:1")
	e.srv = "example.com"
	list, err := e.addresses(cmd)
	if want := []string{"https://etcd-client-ssl.example.com:2379"}; err != nil || !slices.Equal(list, want) || !strings.Contains(errs.String(), `"http://etcd-client.example.com:2379"`) {
		t.Errorf("got %q, %v, %q", list, err, errs.String())
	}
	t.Setenv("ETCDCTL_INSECURE_DISCOVERY", "true")
	if list, err = e.addresses(cmd); err != nil || len(list) != 2 || list[1] != "http://etcd-client.example.com:2379" {
		t.Errorf("got %q, %v", list, err)
	}
	e.srv = ""
	t.Setenv("ETCDCTL_DISCOVERY_SRV", "other.example.com")
	if list, err = e.addresses(cmd); err == nil {
		t.Errorf("a domain without records gives %q", list)
	}
	if want := "dns lookup errors: asked for tcp other.example.com and asked for tcp other.example.com"; err == nil || err.Error() != want {
		t.Errorf("a domain without records gives %v, want %s", err, want)
	}
}

func TestMemberCommands(t *testing.T) {
	list := `{"members":[{"id":"a1","name":"n1","peerURLs":["http://p:1","http://p:2"],"clientURLs":["http://c:1"]},{"id":"b2","name":"","peerURLs":["http://p:3"],"clientURLs":[]}]}`
	f := newFake(t, map[string]string{
		"GET /v2/members": list, "GET /v2/members/leader": `{"id":"a1"}`, "POST /v2/members": `201|{"id":"b2","peerURLs":["http://p:3"]}`,
		"DELETE /v2/members/a1": "500|Internal Server Error", "DELETE /v2/members/b2": "204|", "PUT /v2/members/a1": "204|", "PUT /v2/members/zz": `404|{"message":"No such member: zz"}`,
	})
	for _, c := range []struct {
		args      string
		code      int
		out, errs string
	}{
		{"list", 0, "a1: name=n1 peerURLs=http://p:1,http://p:2 clientURLs=http://c:1 isLeader=true\nb2[unstarted]: peerURLs=http://p:3\n", ""},
		{"add n2 http://p:3", 0, "Added member named n2 with ID b2 to cluster\n\nETCD_NAME=\"n2\"\nETCD_INITIAL_CLUSTER=\"n1=http://p:1,n1=http://p:2,n2=http://p:3\"\nETCD_INITIAL_CLUSTER_STATE=\"existing\"\n", ""},
		{"add n2", 1, "", "Provide a name and a single member peerURL\n"},
		{"add n2 p:3", 1, "", "URL scheme must be http, https, unix, or unixs: p:3\n"},
		{"add n2 http://p", 1, "", "URL address does not have the form \"host:port\": http://p\n"},
		{"add n2 http://p:1/x", 1, "", "URL must not contain a path: http://p:1/x\n"},
		{"remove b2", 0, "Removed member b2 from cluster\n", ""},
		{"remove zz", 1, "", "Couldn't find a member in the cluster with an ID of zz.\n"},
		{"update a1 http://p:9,https://q:1", 0, "Updated member with ID a1 in cluster\n", ""},
		{"update zz http://p:9", 1, "", "No such member: zz\n"},
		{"update a1 ,", 1, "", "URL scheme must be http, https, unix, or unixs: \n"},
	} {
		args := append([]string{"member"}, strings.Fields(c.args)...)
		for name, r := range map[string]result{
			"muster":  muster(t, f.URL, "", args...),
			"etcdctl": etcdctlLine(t, "", append([]string{"--no-sync", "--endpoints", f.URL}, args...)...),
		} {
			if r.code != c.code || r.out != c.out || r.errs != c.errs {
				t.Errorf("%s member %s: exit code %d, %q, %q", name, c.args, r.code, r.out, r.errs)
			}
		}
	}
	if want := `PUT /v2/members/a1 {"peerURLs":["http://p:9","https://q:1"]}`; !slices.Contains(f.asked, want) {
		t.Errorf("never asked %s", want)
	}
	muster(t, f.URL, "", "member", "remove", "n1").want(t, 1, "muster member remove a1")
	muster(t, f.URL, "", "member", "remove", "a1").want(t, exitServer, "500", "Internal Server Error")
	muster(t, f.URL, "", "member", "remove", "-force", "b2").want(t, 0, "Removed member b2")
	if want := "DELETE /v2/members/b2?force=1"; !slices.Contains(f.asked, want) {
		t.Errorf("never asked %q of %q", want, f.asked)
	}
	if r := etcdctlLine(t, "", "--no-sync", "--endpoints", f.URL, "member", "remove", "--force", "b2"); r.code == 0 {
		t.Error("etcdctl has no such flag")
	}
	muster(t, closed(t), "", "member", "list").want(t, exitNoAgent, "is it running?")
}

func TestClusterHealth(t *testing.T) {
	well := newFake(t, map[string]string{"GET /health": `{"health":"true"}`})
	new := newFake(t, map[string]string{"GET /health": `{"health":true}`})
	ill := newFake(t, map[string]string{"GET /health": `503|{"health":"false"}`})
	dead := closed(t)
	for _, c := range []struct {
		code int
		out  string
		urls []string // of each member, joined by a blank
	}{
		{0, "member 0 is healthy: got healthy result from " + new.URL + "\ncluster is healthy\n", []string{new.URL}},
		{5, "member 0 is healthy: got healthy result from " + well.URL + "\nmember 1 is unhealthy: got unhealthy result from " + ill.URL + "\ncluster is degraded\n", []string{well.URL, ill.URL}},
		{5, "failed to check the health of member 0 on " + dead + `: Get "` + dead + `/health": dial tcp ` + strings.TrimPrefix(dead, "http://") + ": connect: connection refused\n" +
			"member 0 is unreachable: [" + dead + "] are all unreachable\nmember 1 is unreachable: no available published client urls\ncluster is unavailable\n", []string{dead, ""}},
	} {
		var members []string
		for i, u := range c.urls {
			if u != "" {
				u = `"` + u + `"`
			}
			members = append(members, fmt.Sprintf(`{"id":"%d","clientURLs":[%s]}`, i, u))
		}
		f := newFake(t, map[string]string{"GET /v2/members": `{"members":[` + strings.Join(members, ",") + `]}`})
		if r := muster(t, f.URL, "", "cluster-health"); r.code != c.code || r.out != c.out {
			t.Errorf("exit code %d, want %d, %q, want %q", r.code, c.code, r.out, c.out)
		}
	}
	r := etcdctlLine(t, "", "--endpoints", dead, "cluster-health")
	if r.code != 4 || r.out != "cluster may be unhealthy: failed to list members\n" || r.errs != noneAnswer(dead) {
		t.Errorf("nobody there: %d %q %q", r.code, r.out, r.errs)
	}
}

// TestEtcdctlWatchEndsWithItsServer: scripts start a watch again themselves, as they do with etcdctl.
func TestEtcdctlWatchEndsWithItsServer(t *testing.T) {
	base, _ := events(t)
	r := etcdctlLine(t, "", "--no-sync", "--endpoints", base, "watch", "-f", "k", "-after-index", "99")
	if r.code != 4 || r.out != "v100\nv101\nv102\nv103\n" || !strings.HasPrefix(r.errs, "Error:  401: ") {
		t.Errorf("exit code %d, %q, %q", r.code, r.out, r.errs)
	}
	start := time.Now()
	etcdctlLine(t, "", "--no-sync", "--endpoints", base, "exec-watch", "-after-index", "99", "k", "--", "/no/such/command").want(t, 1, "/no/such/command")
	if time.Since(start) > time.Minute {
		t.Error("a command that cannot start is no reason to wait")
	}
}
