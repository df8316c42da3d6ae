package dnsserver

import (
	"crypto/tls"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"strings"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/go-metrics"
	"github.com/miekg/dns"

	"github.com/musterhq/muster/catalog"
)

// Config of a Server. Start from DefaultConfig: several zero values mean something other than the default.
// Reload takes everything except Addrs, TLSAddrs, TLS, Domain, AltDomain, Datacenter, Places, Age, Logger, Metrics and the limits of listeners.
type Config struct {
	Addrs      []string    // host:port, each served over UDP and TCP
	TLSAddrs   []string    // host:port, each served over TLS (RFC 7858)
	TLS        *tls.Config // needed with TLSAddrs
	Domain     string      // zone, default "consul."
	AltDomain  string      // second zone, "" = none
	Datacenter string      // own datacenter; others do not exist

	NodeTTL    time.Duration            // whole seconds
	ServiceTTL map[string]time.Duration // by exact name, "prefix*", or "*"; no match: 0 (default "*": 1 s)
	SOA        SOA

	UDPAnswerLimit     int      // most answers over UDP without EDNS, at most 8 count; 0 means 3
	ARecordLimit       int      // most A and AAAA answers, 0 = no limit; never sets TC
	EnableTruncate     bool     // set TC on answers cut to fit UDP
	StableOrder        []string // services (exact, "prefix*", "*") whose records are never shuffled
	OnlyPassing        bool     // leave out instances in warning
	NodeMetaTXT        bool     // add node metadata to the additional section
	DisableCompression bool

	// Locality is where this machine stands. Instances in the asker's zone come first, then those in its region. The
	// asker stands where Places (in lower case) says its address is, or where this machine does.
	Locality *catalog.Locality
	Places   func(asker netip.Addr) (catalog.Locality, bool)

	// Age is how long ago the cluster confirmed what the Source knows, negative when it never did; nil: the Source alone says
	// what is stale. From 5 s on all answers are marked as stale. Answers older than MaxStale are not given; less than 5 s count as 5 s, 0 is no limit.
	Age      func() time.Duration
	MaxStale time.Duration

	Recursors       []string      // IP[:port] of resolvers for names outside the zones; none: REFUSED
	RandomRecursor  bool          // ask them in random order, not in the one given
	RecursorTimeout time.Duration // for each, 0 means 2 s

	LookupTimeout  time.Duration // for the Source, 0 means 5 s
	MaxInflight    int           // UDP queries worked on at one time, 0 means 10,000; more are dropped
	ClientRate     int           // UDP queries a second of one address (IPv6: /64) but loopback, 0 = no limit; more are dropped
	MaxConns       int           // TCP connections, 0 means 1,024; more are closed at once
	MaxConnsClient int           // TCP connections of one address, 0 means 128

	Logger  hclog.Logger
	Metrics *metrics.Metrics
}

// SOA is the variable part of the zone's SOA record, in seconds.
type SOA struct{ Refresh, Retry, Expire, MinTTL uint32 }

// DefaultConfig is the documented default of everything but addresses and datacenter.
func DefaultConfig() Config {
	return Config{
		Domain:         "consul.",
		NodeTTL:        time.Second,
		ServiceTTL:     map[string]time.Duration{"*": time.Second},
		SOA:            SOA{Refresh: 3600, Retry: 600, Expire: 86400, MinTTL: 1},
		UDPAnswerLimit: 3, EnableTruncate: true, NodeMetaTXT: true,
		RecursorTimeout: 2 * time.Second, LookupTimeout: 5 * time.Second,
		MaxInflight: 10000, ClientRate: 10000, MaxConns: 1024, MaxConnsClient: 128,
	}
}

// settings is a checked Config in the form the handlers use. It is replaced as a whole by Reload.
type settings struct {
	Config
	zones     zones
	nodeTTL   uint32
	ttls      ttlTable
	stable    patterns
	here      catalog.Place
	recursors []string
	cache     *cache
}

func newSettings(c Config) (*settings, error) {
	if c.Domain == "" {
		c.Domain = "consul."
	}
	if c.UDPAnswerLimit == 0 {
		c.UDPAnswerLimit = 3
	}
	setDuration(&c.RecursorTimeout, 2*time.Second)
	setDuration(&c.LookupTimeout, 5*time.Second)
	setInt(&c.MaxInflight, 10000)
	setInt(&c.MaxConns, 1024)
	setInt(&c.MaxConnsClient, 128)
	if c.UDPAnswerLimit < 0 || c.ClientRate < 0 || c.ARecordLimit < 0 || c.MaxInflight < 0 || c.MaxConns < 0 || c.MaxConnsClient < 0 {
		return nil, errors.New("dns: limits must not be negative")
	}
	if c.MaxStale > 0 {
		c.MaxStale = max(c.MaxStale, unconfirmed)
	}
	if len(c.TLSAddrs) > 0 && c.TLS == nil {
		return nil, errors.New("dns: addresses for TLS are given, and no certificate")
	}
	st := &settings{Config: c, cache: newCache()}
	for _, d := range []string{c.Domain, c.AltDomain} {
		if d == "" {
			continue
		}
		d = dns.CanonicalName(d)
		if d == "." || !validName(d) {
			return nil, fmt.Errorf("dns: domain %q is not a domain name", d)
		}
		st.zones.domains = append(st.zones.domains, d)
	}
	if c.Datacenter == "" || !validName(c.Datacenter+".") || strings.Contains(c.Datacenter, ".") {
		return nil, fmt.Errorf("dns: datacenter %q is not one label of a domain name", c.Datacenter)
	}
	st.zones.dc = strings.ToLower(c.Datacenter)
	var err error
	if st.nodeTTL, err = ttlSeconds("node", c.NodeTTL); err != nil {
		return nil, err
	}
	if st.ttls, err = newTTLTable(c.ServiceTTL); err != nil {
		return nil, err
	}
	for _, p := range c.StableOrder {
		st.stable = append(st.stable, strings.ToLower(p))
	}
	st.here = catalog.PlaceOf(c.Locality, nil)
	st.recursors, err = recursorAddrs(c.Recursors, c.Addrs)
	return st, err
}

// unconfirmed is from which age on answers are called stale. An election takes less.
const unconfirmed = 5 * time.Second

// age says whether what the Source knows has not been confirmed for a while, and whether for too long.
func (st *settings) age() (stale, tooOld bool) {
	if st.Age == nil {
		return false, false
	}
	age := st.Age()
	return age < 0 || age > unconfirmed, st.MaxStale > 0 && (age < 0 || age > st.MaxStale)
}

// place is where the asker at addr stands.
func (st *settings) place(addr net.Addr) catalog.Place {
	if l, known := st.Places(addrOf(addr)); known {
		return catalog.Place(l)
	}
	return st.here
}

func setDuration(d *time.Duration, def time.Duration) {
	if *d <= 0 {
		*d = def
	}
}

func setInt(n *int, def int) {
	if *n == 0 {
		*n = def
	}
}

// recursorAddrs completes addresses with port 53 and refuses those that are this server, which would ask itself.
func recursorAddrs(list, own []string) ([]string, error) {
	var out []string
	for _, r := range list {
		host, port, err := net.SplitHostPort(r)
		if err != nil {
			host, port = strings.Trim(r, "[]"), "53"
		}
		if net.ParseIP(host) == nil {
			return nil, fmt.Errorf("dns: recursor %q is not an IP address with an optional port", r)
		}
		addr := net.JoinHostPort(host, port)
		for _, o := range own {
			if o == addr {
				return nil, fmt.Errorf("dns: recursor %q is this server itself", r)
			}
		}
		out = append(out, addr)
	}
	return out, nil
}

// order is the sequence in which to ask the recursors.
func (st *settings) order() []string {
	if !st.RandomRecursor || len(st.recursors) < 2 {
		return st.recursors
	}
	out := append([]string(nil), st.recursors...)
	rand.Shuffle(len(out), func(i, j int) { out[i], out[j] = out[j], out[i] })
	return out
}

// ttlTable finds the TTL of a service: its own, that of the longest matching prefix, or that of "*".
type ttlTable struct {
	exact  map[string]uint32
	prefix map[string]uint32 // "" is "*"
}

func newTTLTable(m map[string]time.Duration) (ttlTable, error) {
	t := ttlTable{exact: map[string]uint32{}, prefix: map[string]uint32{}}
	for name, d := range m {
		ttl, err := ttlSeconds("service "+name, d)
		if err != nil {
			return t, err
		}
		name = strings.ToLower(name)
		if p, ok := strings.CutSuffix(name, "*"); ok {
			t.prefix[p] = ttl
		} else {
			t.exact[name] = ttl
		}
	}
	return t, nil
}

func (t ttlTable) of(service string) uint32 {
	if ttl, ok := t.exact[service]; ok {
		return ttl
	}
	for n := len(service); n >= 0 && len(t.prefix) > 0; n-- {
		if ttl, ok := t.prefix[service[:n]]; ok {
			return ttl
		}
	}
	return 0
}

func ttlSeconds(what string, d time.Duration) (uint32, error) {
	if s := d / time.Second; s >= 0 && s <= 1<<31-1 {
		return uint32(s), nil
	}
	return 0, fmt.Errorf("dns: ttl %s of %s is not between 0 and 2^31-1 seconds", d, what)
}
