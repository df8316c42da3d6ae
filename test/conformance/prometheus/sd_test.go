// Package prometheus runs the service discovery of Prometheus (consul_sd_configs), as its newest release has it,
// against an agent. Debian's Prometheus is built without it. It is a module of its own, because it pins versions
// that the product does not depend on.
//
//	cd test/conformance/prometheus && go test -count=1 .
package prometheus

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"os/exec"
	"path/filepath"
	"sort"
	"strings"
	"testing"
	"time"

	client "github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/discovery"
	"github.com/prometheus/prometheus/discovery/consul"
	"github.com/prometheus/prometheus/discovery/targetgroup"
)

const (
	host  = "127.91.0.1"
	limit = 2 * time.Minute
)

// put makes one request that has to succeed.
func put(t *testing.T, path, body string) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPut, "http://"+host+":8500"+path, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if b, _ := io.ReadAll(resp.Body); resp.StatusCode != http.StatusOK {
		t.Fatalf("PUT %s: %s: %s", path, resp.Status, b)
	}
}

// agent builds and starts an agent and waits until it has a leader.
func agent(t *testing.T) {
	t.Helper()
	bin := filepath.Join(t.TempDir(), "muster")
	build := exec.Command("go", "build", "-o", bin, "./cmd/muster")
	build.Dir = filepath.Join("..", "..", "..")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	cmd := exec.Command(bin, "agent", "-dev", "-node", "n1", "-bind", host, "-client", host)
	var log bytes.Buffer
	cmd.Stdout, cmd.Stderr = &log, &log
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		if t.Failed() {
			t.Log(log.String())
		}
	})
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for deadline := time.Now().Add(limit); ; <-tick.C {
		resp, err := http.Get("http://" + host + ":8500/v1/catalog/node/n1")
		if err == nil {
			b, _ := io.ReadAll(resp.Body)
			_ = resp.Body.Close()
			if resp.StatusCode == http.StatusOK && len(b) > 10 {
				return
			}
		}
		if time.Now().After(deadline) {
			t.Fatal("the agent does not come up")
		}
	}
}

// follow keeps the targets as Prometheus would: the newest group of each source replaces the one before.
type follow struct {
	groups map[string]*targetgroup.Group
	ch     chan []*targetgroup.Group
}

func (f *follow) targets() string {
	var out []string
	for _, g := range f.groups {
		for _, target := range g.Targets {
			l := g.Labels.Merge(target)
			out = append(out, fmt.Sprintf("%s %s %s zone=%s %s", l["__meta_consul_service"], l[model.AddressLabel], l["__meta_consul_tags"],
				l["__meta_consul_service_metadata_zone"], l["__meta_consul_health"]))
		}
	}
	sort.Strings(out)
	return strings.Join(out, "\n")
}

func (f *follow) until(t *testing.T, want string) {
	t.Helper()
	timeout := time.After(limit)
	for f.targets() != want {
		select {
		case groups := <-f.ch:
			for _, g := range groups {
				f.groups[g.Source] = g
			}
		case <-timeout:
			t.Fatalf("targets:\n%s\nwant:\n%s", f.targets(), want)
		}
	}
}

func TestDiscovery(t *testing.T) {
	agent(t)
	put(t, "/v1/agent/service/register", `{"Name":"web","ID":"web1","Port":80,"Tags":["metrics","v1"],"Meta":{"zone":"a"},"Check":{"TTL":"10m","Status":"passing"}}`)
	put(t, "/v1/agent/service/register", `{"Name":"other","Port":1}`)

	conf := consul.DefaultSDConfig
	conf.Server, conf.ServiceTags, conf.RefreshInterval = host+":8500", []string{"metrics"}, model.Duration(100*time.Millisecond)
	reg := client.NewRegistry()
	m := conf.NewDiscovererMetrics(reg, discovery.NewRefreshMetrics(reg))
	d, err := conf.NewDiscoverer(discovery.DiscovererOptions{Logger: slog.New(slog.DiscardHandler), Metrics: m, SetName: "muster"})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	f := &follow{groups: map[string]*targetgroup.Group{}, ch: make(chan []*targetgroup.Group)}
	go d.Run(ctx, f.ch)

	web1 := "web " + host + ":80 ,metrics,v1, zone=a passing"
	f.until(t, web1)
	put(t, "/v1/agent/service/register", `{"Name":"web","ID":"web2","Address":"10.0.0.9","Port":81,"Tags":["metrics"]}`)
	f.until(t, "web 10.0.0.9:81 ,metrics, zone= passing\n"+web1)
	put(t, "/v1/agent/check/fail/service:web1", "")
	f.until(t, "web 10.0.0.9:81 ,metrics, zone= passing\n"+strings.Replace(web1, "passing", "critical", 1))
	put(t, "/v1/agent/service/deregister/web1", "")
	f.until(t, "web 10.0.0.9:81 ,metrics, zone= passing")
	put(t, "/v1/agent/service/deregister/web2", "")
	f.until(t, "")
}
