package api_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/go-metrics"

	"github.com/musterhq/muster/api"
)

func text(s string) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { _, _ = io.WriteString(w, s+" "+r.URL.Path) })
}

func mustRouter(t testing.TB, c api.RouterConfig) *api.Router {
	t.Helper()
	rt, err := api.NewRouter(c)
	if err != nil {
		t.Fatal(err)
	}
	return rt
}

func TestRouterFindsTheLongestPattern(t *testing.T) {
	var routes []api.Route
	for _, p := range []string{"/v1/kv/", "/v1/agent/service/", "/v1/agent/service/register", "/v2/keys/", "/version", "/ui/"} {
		routes = append(routes, api.Route{Pattern: p, Handler: text(p)})
	}
	rt := mustRouter(t, api.RouterConfig{Routes: routes, NotFound: text("none")})
	for path, want := range map[string]string{
		"/v1/kv/a":                              "/v1/kv/",
		"/v1/kv/":                               "/v1/kv/",
		"/v1/kv":                                "/v1/kv/",
		"/v1/kv//a//b/":                         "/v1/kv/",
		"/v1/kv/%2Fa":                           "/v1/kv/",
		"/v1/kv/a/../../agent":                  "/v1/kv/",
		"/v1/kvs":                               "none",
		"/v1":                                   "none",
		"/":                                     "none",
		"//v1/kv/a":                             "none",
		"/v1/agent/service/register":            "/v1/agent/service/register",
		"/v1/agent/service/register/":           "/v1/agent/service/",
		"/v1/agent/service/x":                   "/v1/agent/service/",
		"/v1/agent":                             "none",
		"/version":                              "/version",
		"/version/":                             "none",
		"/v2/keys":                              "/v2/keys/",
		"/v2/keys/" + strings.Repeat("d/", 500): "/v2/keys/",
	} {
		rec := httptest.NewRecorder()
		rt.ServeHTTP(rec, httptest.NewRequest("GET", path, nil))
		if got, _, _ := strings.Cut(rec.Body.String(), " "); got != want {
			t.Errorf("%.60s went to %q, want %q", path, got, want)
		}
	}
}

func TestRouterRefusesBadTables(t *testing.T) {
	for name, routes := range map[string][]api.Route{
		"no slash":   {{Pattern: "v1", Handler: text("")}},
		"no handler": {{Pattern: "/v1"}},
		"twice":      {{Pattern: "/v1/", Handler: text("")}, {Pattern: "/v1/", Handler: text("")}},
	} {
		if _, err := api.NewRouter(api.RouterConfig{Routes: routes}); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}

func TestRouterChecksMethods(t *testing.T) {
	rt := mustRouter(t, api.RouterConfig{Routes: []api.Route{
		{Pattern: "/plain", Methods: []string{"GET", "PUT"}, Handler: text("ok")},
		{Pattern: "/own", Methods: []string{"GET"}, Handler: text("ok"), Refuse: text("own refusal")},
		{Pattern: "/all", Handler: text("ok")},
	}})
	rec := httptest.NewRecorder()
	rt.ServeHTTP(rec, httptest.NewRequest("POST", "/plain", nil))
	if rec.Code != http.StatusMethodNotAllowed || rec.Header().Get("Allow") != "GET, PUT" {
		t.Errorf("POST /plain: %d, Allow %q", rec.Code, rec.Header().Get("Allow"))
	}
	rec = httptest.NewRecorder()
	rt.ServeHTTP(rec, httptest.NewRequest("POST", "/own", nil))
	if !strings.HasPrefix(rec.Body.String(), "own refusal") {
		t.Errorf("POST /own: %q", rec.Body)
	}
	rec = httptest.NewRecorder()
	rt.ServeHTTP(rec, httptest.NewRequest("BREW", "/all", nil))
	if !strings.HasPrefix(rec.Body.String(), "ok") {
		t.Errorf("BREW /all: %q", rec.Body)
	}
}

func TestRouterLimitsBodies(t *testing.T) {
	read := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		b, err := io.ReadAll(r.Body)
		var big *http.MaxBytesError
		if errors.As(err, &big) {
			http.Error(w, "too large", http.StatusRequestEntityTooLarge)
			return
		}
		fmt.Fprint(w, len(b))
	})
	rt := mustRouter(t, api.RouterConfig{MaxBody: 10, Routes: []api.Route{
		{Pattern: "/std", Handler: read}, {Pattern: "/own", Handler: read, MaxBody: 20}, {Pattern: "/free", Handler: read, MaxBody: -1},
	}})
	srv := httptest.NewServer(rt)
	defer srv.Close()
	for _, c := range []struct {
		path    string
		size    int
		chunked bool
		want    int
	}{
		{"/std", 10, false, 200}, {"/std", 11, false, 413}, {"/std", 10, true, 200}, {"/std", 11, true, 413},
		{"/own", 20, false, 200}, {"/own", 21, true, 413}, {"/free", 5000, true, 200}, {"/free", 5000, false, 200},
	} {
		var body io.Reader = strings.NewReader(strings.Repeat("x", c.size))
		if c.chunked {
			body = struct{ io.Reader }{body}
		}
		res, err := http.Post(srv.URL+c.path, "", body)
		if err != nil {
			t.Fatal(err)
		}
		_ = res.Body.Close()
		if res.StatusCode != c.want {
			t.Errorf("%s with %d bytes (chunked %v): %d, want %d", c.path, c.size, c.chunked, res.StatusCode, c.want)
		}
	}
}

func TestRouterSurvivesPanics(t *testing.T) {
	var out bytes.Buffer
	rt := mustRouter(t, api.RouterConfig{
		Logger: hclog.New(&hclog.LoggerOptions{Output: &out}),
		Routes: []api.Route{
			{Pattern: "/early", Handler: http.HandlerFunc(func(http.ResponseWriter, *http.Request) { panic("boom") })},
			{Pattern: "/late", Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
				_, _ = w.Write(make([]byte, 10000))
				panic("boom")
			})},
		},
	})
	srv := httptest.NewServer(rt)
	defer srv.Close()
	res, err := http.Get(srv.URL + "/early?token=secret")
	if err != nil {
		t.Fatal(err)
	}
	_ = res.Body.Close()
	if res.StatusCode != 500 {
		t.Errorf("panic before the answer: %d", res.StatusCode)
	}
	if res, err = http.Get(srv.URL + "/late"); err == nil {
		_, err = io.ReadAll(res.Body)
		_ = res.Body.Close()
	}
	if err == nil {
		t.Error("half an answer looked like a whole one")
	}
	if rt.Panics() != 2 || !strings.Contains(out.String(), "boom") {
		t.Errorf("%d panics counted, log %q", rt.Panics(), out.String())
	}
	if strings.Contains(out.String(), "secret") {
		t.Error("a token was logged")
	}
}

func TestRouterCountsAndReports(t *testing.T) {
	sink := metrics.NewInmemSink(time.Hour, 2*time.Hour)
	conf := metrics.DefaultConfig("muster")
	conf.EnableRuntimeMetrics, conf.EnableHostname = false, false
	m, err := metrics.New(conf, sink)
	if err != nil {
		t.Fatal(err)
	}
	rt := mustRouter(t, api.RouterConfig{Metrics: m, Routes: []api.Route{
		{Pattern: "/x/", Methods: []string{"GET"}, Handler: text("ok")},
	}})
	for range 3 {
		rt.ServeHTTP(httptest.NewRecorder(), httptest.NewRequest("GET", "/x/1", nil))
	}
	rt.ServeHTTP(httptest.NewRecorder(), httptest.NewRequest("PUT", "/x/1", nil))
	rt.ServeHTTP(httptest.NewRecorder(), httptest.NewRequest("GET", "/nope", nil))
	stats := map[string]api.RouteStats{}
	for _, s := range rt.Stats() {
		stats[s.Pattern] = s
	}
	if s := stats["/x/"]; s.ByClass != [5]uint64{0, 3, 0, 1, 0} || s.InFlight != 0 {
		t.Errorf("/x/: %+v", s)
	}
	if s := stats["not_found"]; s.ByClass[3] != 1 {
		t.Errorf("not found: %+v", s)
	}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan struct{})
	go func() { defer close(ended); rt.Run(ctx) }()
	want := "muster.http.requests;route=/x/;class=2xx"
	for deadline := time.Now().Add(time.Minute); ; {
		found := false
		for _, iv := range sink.Data() {
			iv.RLock()
			c, ok := iv.Counters[want]
			found = found || ok && c.Sum == 3
			iv.RUnlock()
		}
		if found {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("%s never arrived", want)
		}
		time.Sleep(20 * time.Millisecond)
	}
	cancel()
	<-ended
}

func TestStoreErrors(t *testing.T) {
	for _, c := range []struct {
		err    error
		status int
		mark   string
	}{
		{api.ErrNotLeader, 503, "1"}, {fmt.Errorf("wrapped: %w", api.ErrNotLeader), 503, "1"},
		{api.ErrNoLeader, 500, ""}, {api.ErrUnknownOutcome, 500, ""}, {context.DeadlineExceeded, 500, ""},
	} {
		rec := httptest.NewRecorder()
		if !api.WriteStoreError(rec, c.err) || rec.Code != c.status || rec.Header().Get(api.NotLeaderHeader) != c.mark {
			t.Errorf("%v: %d, mark %q", c.err, rec.Code, rec.Header().Get(api.NotLeaderHeader))
		}
	}
	if rec := httptest.NewRecorder(); api.WriteStoreError(rec, errors.New("other")) || rec.Body.Len() > 0 {
		t.Error("a foreign error was answered")
	}
}
