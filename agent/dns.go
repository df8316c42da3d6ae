package agent

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"github.com/musterhq/muster/api"
	"github.com/musterhq/muster/api/consul"
	"github.com/musterhq/muster/catalog"
	"github.com/musterhq/muster/dnsserver"
	"github.com/musterhq/muster/kv"
	"github.com/musterhq/muster/proxy"
)

// dnsConfig translates the settings for the DNS server.
func (a *Agent) dnsConfig(cfg *Config) dnsserver.Config {
	d := dnsserver.DefaultConfig()
	for _, l := range cfg.DNSListeners() {
		d.Addrs = append(d.Addrs, l.Address)
	}
	d.Domain, d.AltDomain, d.Datacenter = cfg.Domain, cfg.AltDomain, cfg.Datacenter
	d.NodeTTL, d.ServiceTTL = cfg.DNS.NodeTTL, cfg.DNS.ServiceTTL
	d.SOA = dnsserver.SOA{Refresh: uint32(cfg.DNS.SOA.Refresh), Retry: uint32(cfg.DNS.SOA.Retry), Expire: uint32(cfg.DNS.SOA.Expire), MinTTL: uint32(cfg.DNS.SOA.MinTTL)}
	d.UDPAnswerLimit, d.ARecordLimit = cfg.DNS.UDPAnswerLimit, cfg.DNS.ARecordLimit
	d.EnableTruncate, d.OnlyPassing = cfg.DNS.EnableTruncate, cfg.DNS.OnlyPassing
	d.NodeMetaTXT, d.DisableCompression = cfg.DNS.NodeMetaTXT, cfg.DNS.DisableCompression
	d.Recursors, d.RecursorTimeout = cfg.Recursors, cfg.DNS.RecursorTimeout
	d.RandomRecursor = cfg.DNS.RecursorStrategy == "random"
	d.StableOrder, d.ClientRate = cfg.DNS.StableOrder, cfg.DNS.UDPClientRate
	if d.Locality = cfg.Locality; d.Locality == nil {
		d.Locality = &catalog.Locality{Region: cfg.NodeMeta["region"], Zone: cfg.NodeMeta["zone"]}
	}
	d.Logger, d.Metrics = a.log.Named("dns"), a.metrics
	return d
}

// startDNS opens the DNS listeners. A server answers from its own tree; a proxy from a view that follows the
// servers for the names in use, so that a lookup is no round trip and the last answer outlives the servers.
func (a *Agent) startDNS() error {
	if a.cfg.Ports.DNS < 0 {
		return nil
	}
	var src dnsserver.Source
	conf := a.dnsConfig(&a.cfg)
	if a.tree != nil {
		tree := dnsserver.NewTreeSource(func() *kv.Snap {
			if !a.raft.HasState() {
				return nil // a server that never was in a cluster knows nothing
			}
			return a.tree.Snap()
		})
		tree.SortNear(a.consul.SortNear)
		src, conf.Places = tree, tree.Place
	} else {
		follow, err := dnsserver.NewFollowSource(dnsserver.FollowConfig{Fetch: a.fetch, Logger: a.log.Named("dns")})
		if err != nil {
			return err
		}
		a.keepView(follow)
		src = follow
	}
	if list := a.cfg.DNSTLSListeners(); len(list) > 0 {
		var err error
		if conf.TLS, err = clientTLS(a.cfg.TLS.HTTPS); err != nil {
			return err
		}
		for _, l := range list {
			conf.TLSAddrs = append(conf.TLSAddrs, l.Address)
		}
	}
	d, err := dnsserver.New(conf, src)
	if err != nil {
		return err
	}
	if err := d.Start(); err != nil {
		return err
	}
	a.dns = d
	a.overHTTPS.Store(d)
	a.onStop("DNS", d.Close)
	return nil
}

// viewEvery is how often the DNS view of a proxy is saved.
const viewEvery = time.Minute

// keepView makes the DNS view of a proxy outlive a restart, so that names are answered at once even when every
// server is down.
func (a *Agent) keepView(view *dnsserver.FollowSource) {
	if a.cfg.DataDir == "" {
		a.onStop("DNS view", func(context.Context) error { view.Close(); return nil })
		return
	}
	file := filepath.Join(a.cfg.DataDir, "dns-view")
	if f, err := os.Open(file); err == nil {
		if err := view.Load(f); err != nil {
			a.log.Warn("the saved DNS view cannot be used, starting without it", "file", file, "error", err)
		}
		f.Close()
	}
	save := func() error {
		var b bytes.Buffer
		if err := view.Save(&b); err != nil {
			return err
		}
		return writeFile(file, b.Bytes())
	}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		for rest(a.ctx, viewEvery) {
			if err := save(); err != nil {
				a.log.Warn("saving the DNS view", "error", err)
			}
		}
	}()
	a.onStop("DNS view", func(context.Context) error {
		<-ended
		err := save()
		view.Close()
		return err
	})
}

// fetch asks the cluster for a JSON document and the index that comes with it.
func (a *Agent) fetch(ctx context.Context, path string, q url.Values) (io.ReadCloser, uint64, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, a.scheme()+"://cluster"+path+"?"+q.Encode(), nil)
	if err != nil {
		return nil, 0, err
	}
	req.Header[consul.NodeHeader] = []string{a.cfg.NodeName}
	resp, err := a.relay.RoundTrip(req, proxy.Any)
	if err != nil {
		return nil, 0, err
	}
	if resp.StatusCode == http.StatusNotFound {
		resp.Body.Close()
		return nil, 0, dnsserver.ErrMissing
	}
	if resp.StatusCode != http.StatusOK {
		b, _ := io.ReadAll(io.LimitReader(resp.Body, 200))
		resp.Body.Close()
		return nil, 0, fmt.Errorf("GET %s: status %d: %s", path, resp.StatusCode, b)
	}
	index, err := strconv.ParseUint(resp.Header.Get("X-Consul-Index"), 10, 64)
	if err != nil {
		resp.Body.Close()
		return nil, 0, fmt.Errorf("GET %s: the answer has no index", path)
	}
	return resp.Body, index, nil
}

// dnsOverHTTPS is the route of DNS over HTTPS.
func (a *Agent) dnsOverHTTPS() api.Route {
	return api.Route{Pattern: dnsserver.HTTPPath, Methods: []string{http.MethodGet, http.MethodPost}, Refuse: optionsOr("GET, POST"), MaxBody: 1 << 16,
		Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if d := a.overHTTPS.Load(); d != nil {
				d.ServeHTTP(w, r)
				return
			}
			http.NotFound(w, r)
		})}
}
