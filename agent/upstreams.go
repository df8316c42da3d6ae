package agent

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"path/filepath"
	"strings"
	"time"

	"github.com/musterhq/muster/catalog"
	"github.com/musterhq/muster/upstream"
)

// UpstreamConfig is one `upstream`: a local port that is connected to a healthy instance of a service. Service (or Query)
// and Listen are needed; the rest is as in upstream.Config.
type UpstreamConfig struct {
	Name        string `key:"name"`    // in logs, metrics and lists; default the service
	Service     string `key:"service"` // or
	Query       string `key:"query"`   // a prepared query
	Datacenter  string `key:"datacenter"`
	Tag         string `key:"tag"`
	OnlyPassing bool   `key:"only_passing"`
	Listen      string `key:"listen"` // 127.0.0.1:5432 or unix:///run/db.sock

	ConnectTimeout time.Duration `key:"connect_timeout"` // 2s
	Tries          int           `key:"tries"`           // 3
	MaxConnections int           `key:"max_connections"` // 4096
	Drain          time.Duration `key:"drain"`           // 30s; -1s: never
	IdleTimeout    time.Duration `key:"idle_timeout"`    // 0: never
	EjectMax       time.Duration `key:"eject_max"`       // 30s
}

// check says what is wrong with the upstream.
func (c *UpstreamConfig) check(datacenter string) error {
	switch {
	case (c.Service == "") == (c.Query == ""):
		return errors.New("expected service or query, and not both")
	case c.Query != "" && c.Tag != "":
		return errors.New("a prepared query names its own tags: no tag expected")
	case c.Datacenter != "" && c.Datacenter != datacenter:
		return fmt.Errorf("datacenter %q is not this agent's, %q", c.Datacenter, datacenter)
	case c.Tries < 0 || c.Tries > 100:
		return fmt.Errorf("tries: expected 1 to 100, got %d", c.Tries)
	case c.MaxConnections < 0 || c.MaxConnections > 1_000_000:
		return fmt.Errorf("max_connections: expected 1 to 1000000, got %d", c.MaxConnections)
	case c.ConnectTimeout < 0 || c.ConnectTimeout > time.Minute:
		return fmt.Errorf("connect_timeout: expected up to 1m, got %s", c.ConnectTimeout)
	case c.IdleTimeout < 0:
		return fmt.Errorf("idle_timeout: expected 0 for never or a time, got %s", c.IdleTimeout)
	case c.EjectMax < 0 || c.EjectMax > time.Hour:
		return fmt.Errorf("eject_max: expected up to 1h, got %s", c.EjectMax)
	}
	if path, ok := strings.CutPrefix(c.Listen, "unix://"); ok {
		if !filepath.IsAbs(path) {
			return fmt.Errorf("listen: expected an absolute path after unix://, got %q", c.Listen)
		}
		return nil
	}
	at, err := netip.ParseAddrPort(c.Listen)
	if err != nil || at.Port() == 0 {
		return fmt.Errorf("listen: expected an IP address and a port such as 127.0.0.1:5432, or unix:///path, got %q", c.Listen)
	}
	return nil
}

// local says whether only this machine reaches the port.
func (c *UpstreamConfig) local() bool {
	at, err := netip.ParseAddrPort(c.Listen)
	return err != nil || at.Addr().IsLoopback()
}

// upstreamConfigs are the local ports of a configuration.
func upstreamConfigs(cfg *Config) []upstream.Config {
	out := make([]upstream.Config, 0, len(cfg.Upstreams))
	for i := range cfg.Upstreams {
		c := &cfg.Upstreams[i]
		out = append(out, upstream.Config{
			Name: c.Name, Service: c.Service, Query: c.Query, Tag: c.Tag, OnlyPassing: c.OnlyPassing || cfg.DNS.OnlyPassing, Listen: c.Listen,
			ConnectTimeout: c.ConnectTimeout, Tries: c.Tries, MaxConnections: c.MaxConnections, Drain: c.Drain, IdleTimeout: c.IdleTimeout, EjectMax: c.EjectMax,
		})
	}
	return out
}

// upstreamDrain is how long a stop waits for the clients of local ports before it cuts them.
const upstreamDrain = time.Second

// openUpstreams opens the local ports, which know instances from the same view as DNS.
func (a *Agent) openUpstreams() error {
	a.upstreams = upstream.New(upstream.Options{Find: a.findInstances, Here: catalog.PlaceOf(locality(&a.cfg), nil), Logger: a.log.Named("upstream"), Metrics: a.metrics})
	a.onStop("upstreams", func(ctx context.Context) error {
		ctx, cancel := context.WithTimeout(ctx, upstreamDrain)
		defer cancel()
		return a.upstreams.Close(ctx)
	})
	return a.upstreams.Set(upstreamConfigs(&a.cfg))
}

// findInstances implements upstream.Find.
func (a *Agent) findInstances(ctx context.Context, c *upstream.Config) (upstream.Known, error) {
	if c.Query != "" {
		q, err := a.view.src.Query(ctx, strings.ToLower(c.Query), netip.AddrFrom4([4]byte{127, 0, 0, 1}))
		switch {
		case err != nil:
			return upstream.Known{}, err
		case q == nil:
			return upstream.Known{}, fmt.Errorf("there is no prepared query %q", c.Query)
		}
		return upstream.Known{Instances: q.Instances, Stale: q.Stale}, nil
	}
	ans, err := a.view.src.Service(ctx, strings.ToLower(c.Service))
	if err != nil {
		return upstream.Known{}, err
	}
	return upstream.Known{Instances: ans.Instances, Version: ans, Stale: ans.Stale}, nil
}
