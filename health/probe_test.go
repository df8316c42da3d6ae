package health_test

import (
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/musterhq/muster/health"
)

// firstReport runs spec until its first report.
func firstReport(t *testing.T, spec health.Spec) report {
	t.Helper()
	rec := &recorder{ch: make(chan report, 16)}
	spec.ID, spec.Interval = "probe", health.MinInterval
	r := start(t, spec, health.State{}, rec)
	defer r.Stop()
	select {
	case rep := <-rec.ch:
		if s := r.State(); s.Status != rep.status || s.Output != rep.output {
			t.Errorf("state %+v differs from the report %+v", s, rep)
		}
		return rep
	case <-time.After(time.Minute):
		t.Fatal("no report")
		return report{}
	}
}

func TestHTTPCheck(t *testing.T) {
	mux := http.NewServeMux()
	mux.HandleFunc("/status/{code}", func(w http.ResponseWriter, r *http.Request) {
		var code int
		_, _ = fmt.Sscan(r.PathValue("code"), &code)
		w.WriteHeader(code)
		_, _ = io.WriteString(w, "body")
	})
	mux.HandleFunc("/redirect", func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, "/status/200", http.StatusFound) })
	mux.HandleFunc("/loop", func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, "/loop", http.StatusFound) })
	mux.HandleFunc("/echo", func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		fmt.Fprintf(w, "%s|%s|%s|%s|%s|%s", r.Method, r.Host, r.UserAgent(), r.Header.Get("Accept"), r.Header["X-Test"], body)
	})
	mux.HandleFunc("/huge", func(w http.ResponseWriter, r *http.Request) {
		for range 8 << 10 { // 8 MiB
			if _, err := w.Write(make([]byte, 1<<10)); err != nil {
				return
			}
		}
	})
	mux.HandleFunc("/long", func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.WriteString(w, strings.Repeat("a", 5000)+"the end")
	})
	release := make(chan struct{})
	mux.HandleFunc("/slow", func(w http.ResponseWriter, r *http.Request) { <-release })
	mux.HandleFunc("/stall", func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.WriteString(w, "part")
		w.(http.Flusher).Flush()
		<-release
	})
	plain, secure := httptest.NewServer(mux), httptest.NewTLSServer(mux)
	t.Cleanup(func() { close(release); plain.Close(); secure.Close() })
	host := strings.TrimPrefix(plain.URL, "http://")

	runKinds(t, map[string]kindCase{

		"200":         {health.Spec{HTTP: plain.URL + "/status/200"}, health.Passing, "HTTP GET " + plain.URL + "/status/200: 200 OK Output: body"},
		"204":         {health.Spec{HTTP: plain.URL + "/status/204"}, health.Passing, "HTTP GET " + plain.URL + "/status/204: 204 No Content Output: "},
		"429":         {health.Spec{HTTP: plain.URL + "/status/429"}, health.Warning, "HTTP GET " + plain.URL + "/status/429: 429 Too Many Requests Output: body"},
		"404":         {health.Spec{HTTP: plain.URL + "/status/404"}, health.Critical, "HTTP GET " + plain.URL + "/status/404: 404 Not Found Output: body"},
		"503":         {health.Spec{HTTP: plain.URL + "/status/503", Method: "HEAD"}, health.Critical, "HTTP HEAD " + plain.URL + "/status/503: 503 Service Unavailable Output: "},
		"redirect":    {health.Spec{HTTP: plain.URL + "/redirect"}, health.Passing, "~200 OK"},
		"no redirect": {health.Spec{HTTP: plain.URL + "/redirect", DisableRedirects: true}, health.Critical, "~302 Found"},
		"loop":        {health.Spec{HTTP: plain.URL + "/loop"}, health.Critical, "~10 redirects"},
		"defaults":    {health.Spec{HTTP: plain.URL + "/echo"}, health.Passing, "~Output: GET|" + host + "|Muster Health Check|text/plain, text/*, */*|[]|"},
		"request": {health.Spec{HTTP: plain.URL + "/echo", Method: "PUT", Body: "hello", Header: http.Header{
			"Host": {"api.internal"}, "User-Agent": {"me"}, "Accept": {"x/y"}, "X-Test": {"1", "2"}}},
			health.Passing, "~Output: PUT|api.internal|me|x/y|[1 2]|hello"},
		"tail":         {health.Spec{HTTP: plain.URL + "/long", OutputMaxSize: 10}, health.Passing, "HTTP GET " + plain.URL + "/long: 200 OK Output: aaathe end"},
		"huge":         {health.Spec{HTTP: plain.URL + "/huge", OutputMaxSize: 2}, health.Passing, "~Output: \x00\x00"},
		"slow":         {health.Spec{HTTP: plain.URL + "/slow", Timeout: 50 * time.Millisecond}, health.Critical, "~deadline exceeded"},
		"stall":        {health.Spec{HTTP: plain.URL + "/stall", Timeout: 300 * time.Millisecond}, health.Passing, "~200 OK Output: part"},
		"refused":      {health.Spec{HTTP: "http://127.0.0.1:1/"}, health.Critical, "~connection refused"},
		"tls":          {health.Spec{HTTP: secure.URL + "/status/200"}, health.Critical, "~certificate"},
		"tls unsafe":   {health.Spec{HTTP: secure.URL + "/status/200", TLSSkipVerify: true}, health.Passing, "~200 OK"},
		"bad url":      {health.Spec{HTTP: "http://user:sec ret@%zz/"}, health.Critical, "~invalid URL"},
		"password":     {health.Spec{HTTP: "http://user:secret@" + host + "/status/200"}, health.Passing, "~HTTP GET http://user:xxxxx@" + host},
		"no scheme":    {health.Spec{HTTP: "nowhere"}, health.Critical, "~unsupported protocol scheme"},
		"tcp":          {health.Spec{TCP: host}, health.Passing, "TCP connect " + host + ": Success"},
		"tcp refused":  {health.Spec{TCP: "127.0.0.1:1"}, health.Critical, "~connection refused"},
		"tcp bad":      {health.Spec{TCP: "127.0.0.1"}, health.Critical, "~missing port"},
		"tcp tls":      {health.Spec{TCP: strings.TrimPrefix(secure.URL, "https://"), TCPUseTLS: true}, health.Critical, "~certificate"},
		"tcp unsafe":   {health.Spec{TCP: strings.TrimPrefix(secure.URL, "https://"), TCPUseTLS: true, TLSSkipVerify: true}, health.Passing, "~Success"},
		"tcp no hello": {health.Spec{TCP: silent(t), TCPUseTLS: true, Timeout: 50 * time.Millisecond}, health.Critical, "~deadline exceeded"},
	})
}

func TestHTTPCheckUsesNoProxy(t *testing.T) {
	proxy := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}))
	defer proxy.Close()
	t.Setenv("HTTP_PROXY", proxy.URL)
	t.Setenv("http_proxy", proxy.URL)
	// Not a loopback address in the eyes of the proxy rules, and nothing listens there.
	if got := firstReport(t, health.Spec{HTTP: "http://0.0.0.0:1/"}); got.status != health.Critical {
		t.Errorf("the proxy answered for the service: %+v", got)
	}
}

// silent is the address of a server that accepts and says nothing.
func silent(t *testing.T) string {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	return l.Addr().String() // the kernel accepts
}

func TestStopCancelsARunningProbe(t *testing.T) {
	entered, gone := make(chan struct{}, 1), make(chan struct{})
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		entered <- struct{}{}
		<-r.Context().Done()
		close(gone)
	}))
	defer srv.Close()
	rec := &recorder{}
	r := start(t, health.Spec{ID: "p", HTTP: srv.URL, Interval: time.Second, Timeout: time.Hour}, health.State{}, rec)
	<-entered
	r.Stop()
	<-gone
	if got := rec.all(); len(got) != 0 {
		t.Errorf("the cancelled probe reported %v", got)
	}
}

// The real listener lives outside the bubble; only the waiting between probes is fake time.
func TestProbesKeepARandomButSteadyRhythm(t *testing.T) {
	l := silent(t)
	offsets := map[time.Duration]bool{}
	for range 8 {
		synctest.Test(t, func(t *testing.T) {
			rec := &recorder{}
			began := time.Now()
			r := start(t, health.Spec{ID: "p", TCP: l, Interval: 10 * time.Second}, health.State{}, rec)
			time.Sleep(45 * time.Second)
			r.Stop()
			got := rec.all()
			if len(got) < 4 || len(got) > 5 {
				t.Fatalf("%d probes in 45 s of a 10 s interval", len(got))
			}
			if first := got[0].at.Sub(began); first < 0 || first >= 10*time.Second {
				t.Errorf("first probe after %v, want less than the interval", first)
			}
			for i := 1; i < len(got); i++ {
				if d := got[i].at.Sub(got[i-1].at); d != 10*time.Second {
					t.Errorf("probe %d came after %v", i, d)
				}
			}
			offsets[got[0].at.Sub(began)] = true
		})
	}
	if len(offsets) < 2 {
		t.Errorf("every check began after the same time: %v", offsets)
	}
}

func TestThresholds(t *testing.T) {
	const ok, warn, bad = 200, 429, 500
	for name, c := range map[string]struct {
		spec    health.Spec
		last    health.State
		answers []int
		want    string // the status after each answer, by its first letter
	}{
		"none":           {health.Spec{}, health.State{}, []int{ok, bad, warn, ok}, "pcwp"},
		"success":        {health.Spec{SuccessBeforePassing: 3}, health.State{}, []int{ok, ok, bad, ok, ok, ok}, "cccccp"},
		"warning counts": {health.Spec{SuccessBeforePassing: 2}, health.State{}, []int{warn, ok}, "cp"},
		"critical":       {health.Spec{FailuresBeforeCritical: 3}, health.State{}, []int{ok, bad, bad, ok, bad, bad, bad}, "ppppppc"},
		"warning first":  {health.Spec{FailuresBeforeWarning: 2, FailuresBeforeCritical: 3}, health.State{}, []int{ok, bad, bad, bad, bad}, "ppwcc"},
		"initial":        {health.Spec{Initial: health.Passing, FailuresBeforeCritical: 2}, health.State{}, []int{bad, bad}, "pc"},
		"restored":       {health.Spec{FailuresBeforeCritical: 2}, health.State{Status: health.Warning}, []int{bad, bad}, "wc"},
	} {
		t.Run(name, func(t *testing.T) {
			var served atomic.Int32
			srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				n := int(served.Add(1))
				w.WriteHeader(c.answers[min(n, len(c.answers))-1])
			}))
			defer srv.Close()
			synctest.Test(t, func(t *testing.T) {
				spec := c.spec
				spec.ID, spec.HTTP, spec.Interval = "p", srv.URL, 2*time.Second
				began := time.Now()
				rec := &recorder{}
				r := start(t, spec, c.last, rec)
				defer r.Stop()
				got := ""
				for i := range c.answers {
					// Look just before the next interval begins: exactly one more probe has run.
					time.Sleep(time.Until(began.Add(time.Duration(i+1)*2*time.Second - 1)))
					synctest.Wait()
					if n := int(served.Load()); n != i+1 {
						t.Fatalf("%d probes in %d intervals", n, i+1)
					}
					got += r.State().Status[:1]
				}
				if got != c.want {
					t.Errorf("statuses %q, want %q", got, c.want)
				}
				if all := rec.all(); len(all) > 0 && all[len(all)-1].status[:1] != got[len(got)-1:] {
					t.Errorf("last report %+v differs from the status", all[len(all)-1])
				}
			})
		})
	}
}
