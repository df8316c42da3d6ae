package agent

import (
	"context"
	"fmt"
	"net/http"
	"net/url"

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
	d.Locality = locality(cfg)
	if d.MaxStale = cfg.DNS.MaxStale; !cfg.DNS.AllowStale || d.MaxStale == 0 {
		d.MaxStale = 1 // as little as there is
	}
	d.Logger, d.Metrics = a.log.Named("dns"), a.metrics
	return d
}

// locality is where this machine stands, as far as its configuration says.
func locality(cfg *Config) *catalog.Locality {
	if cfg.Locality != nil {
		return cfg.Locality
	}
	return &catalog.Locality{Region: cfg.NodeMeta["region"], Zone: cfg.NodeMeta["zone"]}
}

// localView is where DNS and upstreams know instances from: on a server its own tree; on a proxy a view that follows the
// servers for the names in use, so that a lookup is no round trip and the last answer outlives the servers.
type localView struct {
	src    dnsserver.Source
	tree   *dnsserver.TreeSource   // nil on a proxy
	follow *dnsserver.FollowSource // nil on a server
}

func (a *Agent) openView() error {
	if a.tree != nil {
		tree := dnsserver.NewTreeSource(func() *kv.Snap {
			if !a.raft.CaughtUp() {
				return nil // a server that comes new knows nothing, or not everything
			}
			return a.tree.Snap()
		})
		tree.SortNear(a.consul.SortNear)
		tree.Guard(a.guard)
		a.view = localView{src: tree, tree: tree}
		return nil
	}
	follow, err := dnsserver.NewFollowSource(dnsserver.FollowConfig{Fetch: a.fetch, Guard: a.guard, Doubt: a.cfg.Guard.Hold, Logger: a.log.Named("dns")})
	if err != nil {
		return err
	}
	follow.SetMaxStale(a.dnsConfig(&a.cfg).MaxStale)
	a.views.Kept(servicePath, func(path string, body []byte, index uint64) { follow.Remember(path, body, index) })
	a.onStop("view of services", func(context.Context) error { follow.Close(); return nil })
	a.view = localView{src: follow, follow: follow}
	return nil
}

// startDNS opens the DNS listeners.
func (a *Agent) startDNS() error {
	if a.cfg.Ports.DNS < 0 {
		return nil
	}
	conf := a.dnsConfig(&a.cfg)
	if a.view.tree != nil {
		conf.Places, conf.Age = a.view.tree.Place, a.raft.LastContact
	} else {
		conf.Age = a.clusterAge
		go a.keepContact()
	}
	if list := a.cfg.DNSTLSListeners(); len(list) > 0 {
		var err error
		if conf.TLS, err = a.clientTLS(); err != nil {
			return err
		}
		for _, l := range list {
			conf.TLSAddrs = append(conf.TLSAddrs, l.Address)
		}
	}
	d, err := dnsserver.New(conf, a.view.src)
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

// servicePath is where the instances of a service are asked for.
const servicePath = "/v1/health/service/"

// fetch asks the cluster for what a DNS answer is made of, through the same views and with the same memory as the clients of
// this machine.
func (a *Agent) fetch(ctx context.Context, path string, q url.Values) (dnsserver.Fetched, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, a.scheme()+"://cluster"+path+"?"+q.Encode(), nil)
	if err != nil {
		return dnsserver.Fetched{}, err
	}
	req.Header[consul.NodeHeader] = []string{a.cfg.NodeName}
	shared, ok := a.consul.Share(req)
	if !ok {
		return dnsserver.Fetched{}, fmt.Errorf("GET %s?%s cannot be shared", path, req.URL.RawQuery)
	}
	ans, since, err := a.views.Fetch(req, proxy.Any, a.asQuestion(shared))
	if err == nil && shared.Index == 0 && since.IsZero() {
		a.contact.note(ans.Header) // of one that is shared or kept it may be long out of date
	}
	switch {
	case err != nil:
		return dnsserver.Fetched{}, err
	case ans.Status == http.StatusNotFound:
		return dnsserver.Fetched{}, dnsserver.ErrMissing
	case ans.Status != http.StatusOK:
		return dnsserver.Fetched{}, fmt.Errorf("GET %s: status %d: %.200s", path, ans.Status, ans.Body)
	case ans.Index == 0:
		return dnsserver.Fetched{}, fmt.Errorf("GET %s: the answer has no index", path)
	}
	return dnsserver.Fetched{Body: ans.Body, Index: ans.Index, Stale: !since.IsZero(), Since: since}, nil
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
