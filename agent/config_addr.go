package agent

import (
	"fmt"
	"net"
	"net/netip"
	"net/url"
	"os"
	"slices"
	"strconv"
	"strings"

	"github.com/musterhq/muster/internal/addrtemplate"
)

// hostFacts is what loading asks the machine; tests put their own machine in its place.
type hostFacts struct {
	hostname  func() (string, error)
	addresses func() ([]netip.Addr, error) // of the interfaces that are up
	lookup    func(host string) (string, error)
}

func systemHost() hostFacts {
	return hostFacts{hostname: os.Hostname, addresses: interfaceAddresses, lookup: lookupHost}
}

func interfaceAddresses() ([]netip.Addr, error) {
	ifaces, err := net.Interfaces()
	if err != nil {
		return nil, err
	}
	var out []netip.Addr
	for _, i := range ifaces {
		if i.Flags&net.FlagUp == 0 {
			continue
		}
		addrs, err := i.Addrs()
		if err != nil {
			return nil, err
		}
		for _, a := range addrs {
			if p, err := netip.ParsePrefix(a.String()); err == nil {
				out = append(out, p.Addr().Unmap())
			}
		}
	}
	return out, nil
}

// Listener is where one interface listens. Network is "tcp", "udp" or "unix"; Address host:port or a path. TLS is set
// for an address that was given as an https:// URL.
type Listener struct {
	Network, Address string
	TLS              bool
}

// HTTPListeners, HTTPSListeners, EtcdListeners and DNSListeners give the places of each interface, none when its
// port is off. DNS listens on both networks at each place; the Listener says tcp.
func (c *Config) HTTPListeners() []Listener  { return c.listeners(c.Addresses.HTTP, c.Ports.HTTP) }
func (c *Config) HTTPSListeners() []Listener { return c.listeners(c.Addresses.HTTPS, c.Ports.HTTPS) }
func (c *Config) EtcdListeners() []Listener  { return c.listeners(c.Addresses.Etcd, c.Ports.Etcd) }
func (c *Config) DNSListeners() []Listener   { return c.listeners(c.Addresses.DNS, c.Ports.DNS) }

// DNSTLSListeners are the places of DNS over TLS.
func (c *Config) DNSTLSListeners() []Listener { return c.listeners(c.Addresses.DNS, c.Ports.DNSTLS) }

// ServerListen is host:port of the port between agents; Advertised is what others dial for it.
func (c *Config) ServerListen() string { return joinPort(c.BindAddr, c.Ports.Server) }

// Advertised is the host:port at which others reach the server port.
func (c *Config) Advertised() string { return joinPort(c.AdvertiseAddr, c.Ports.Server) }

func (c *Config) listeners(override string, port int) []Listener {
	if port < 0 {
		return nil
	}
	addrs := override
	if addrs == "" {
		addrs = c.ClientAddr
	}
	var out []Listener
	for _, a := range strings.Fields(addrs) {
		if path, ok := strings.CutPrefix(a, "unix://"); ok {
			out = append(out, Listener{Network: "unix", Address: path})
		} else if u := asURL(a); u != nil {
			out = append(out, Listener{Network: "tcp", Address: u.Host, TLS: u.Scheme == "https"})
		} else {
			out = append(out, Listener{Network: "tcp", Address: joinPort(a, port)})
		}
	}
	return out
}

// asURL parses a place given as a URL with its own port, nil when it is none.
func asURL(place string) *url.URL {
	u, err := url.Parse(place)
	if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Port() == "" {
		return nil
	}
	return u
}

func joinPort(host string, port int) string { return net.JoinHostPort(host, strconv.Itoa(port)) }

// expand evaluates address templates; text without one is returned as it is.
func expand(text string) (string, error) {
	if !strings.Contains(text, "{{") {
		return strings.TrimSpace(text), nil
	}
	out, err := addrtemplate.Expand(text)
	if err != nil {
		return "", fmt.Errorf("address template %q: %w", text, err)
	}
	return strings.TrimSpace(out), nil
}

// addresses resolves every address of the configuration.
func (v *validator) addresses() {
	c := v.c
	c.BindAddr = v.oneIP("bind_addr", c.BindAddr)
	if c.SerfLAN == "" {
		c.SerfLAN = c.BindAddr
	} else {
		c.SerfLAN = v.oneIP("serf_lan", c.SerfLAN)
	}
	c.ClientAddr = v.hosts("client_addr", c.ClientAddr, false)
	c.Addresses.HTTP = v.hosts("addresses.http", c.Addresses.HTTP, true)
	c.Addresses.HTTPS = v.hosts("addresses.https", c.Addresses.HTTPS, true)
	c.Addresses.Etcd = v.hosts("addresses.etcd", c.Addresses.Etcd, true)
	c.Addresses.DNS = v.hosts("addresses.dns", c.Addresses.DNS, false)
	if c.ClientAddr == "" && !v.failed("client_addr") {
		v.bad("client_addr", "expected at least one IP address")
	}
	v.advertise()
	c.RetryJoin = v.joinList("retry_join", c.RetryJoin)
	c.StartJoin = v.joinList("start_join", c.StartJoin)
	for i, r := range c.Recursors {
		c.Recursors[i] = v.recursor(fmt.Sprintf("recursors[%d]", i), r)
	}
}

// oneIP resolves an address that must be exactly one IP.
func (v *validator) oneIP(key, text string) string {
	out, err := expand(text)
	if err != nil {
		v.bad(key, "%v", err)
		return text
	}
	if n := len(strings.Fields(out)); n > 1 {
		v.bad(key, "expected one IP address, got %d: %s", n, strings.Join(strings.Fields(out), ", "))
	} else if _, err := netip.ParseAddr(out); err != nil {
		v.bad(key, "expected an IP address, got %q", out)
	}
	return out
}

// hosts resolves a list of IP addresses separated by spaces, and paths of sockets where they are allowed.
func (v *validator) hosts(key, text string, sockets bool) string {
	out, err := expand(text)
	if err != nil {
		v.bad(key, "%v", err)
		return text
	}
	list := strings.Fields(out)
	for _, a := range list {
		if path, ok := strings.CutPrefix(a, "unix://"); ok && sockets && path != "" {
			continue
		}
		if u := asURL(a); u != nil && key == "addresses.etcd" {
			a = u.Hostname()
		}
		if _, err := netip.ParseAddr(a); err != nil {
			v.bad(key, "expected IP addresses separated by spaces, got %q", a)
		}
	}
	return strings.Join(list, " ")
}

// advertise decides what others are told, and fills the tagged addresses.
func (v *validator) advertise() {
	c := v.c
	bind, err := netip.ParseAddr(c.BindAddr)
	if err != nil {
		return // already reported
	}
	switch {
	case c.AdvertiseAddr != "":
		c.AdvertiseAddr = v.oneIP("advertise_addr", c.AdvertiseAddr)
		if ip, err := netip.ParseAddr(c.AdvertiseAddr); err == nil && ip.IsUnspecified() {
			v.bad("advertise_addr", "expected an address that others can reach, got %q", c.AdvertiseAddr)
		}
	case bind.IsUnspecified():
		c.AdvertiseAddr = v.onlyAddress(bind)
	default:
		c.AdvertiseAddr = c.BindAddr
	}
	if c.AdvertiseAddrWAN == "" {
		c.AdvertiseAddrWAN = c.AdvertiseAddr
	} else {
		c.AdvertiseAddrWAN = v.oneIP("advertise_addr_wan", c.AdvertiseAddrWAN)
	}
	tags := map[string]string{}
	for name, addr := range map[string]string{"lan": c.AdvertiseAddr, "wan": c.AdvertiseAddrWAN} {
		ip, err := netip.ParseAddr(addr)
		if err != nil {
			return
		}
		family := "_ipv4"
		if ip.Is6() {
			family = "_ipv6"
		}
		tags[name], tags[name+family] = addr, addr
	}
	for name, addr := range c.TaggedAddresses {
		tags[name] = addr
	}
	c.TaggedAddresses = tags
}

// onlyAddress finds the one address an agent bound to everything can advertise without being told.
func (v *validator) onlyAddress(bind netip.Addr) string {
	all, err := v.host.addresses()
	if err != nil {
		v.bad("bind_addr", "cannot list this machine's addresses: %v", err)
		return ""
	}
	var private, public []string
	for _, ip := range all {
		switch {
		case ip.Is4() != bind.Is4() || ip.IsLoopback() || ip.IsLinkLocalUnicast() || ip.IsMulticast():
		case ip.IsPrivate():
			private = append(private, ip.String())
		default:
			public = append(public, ip.String())
		}
	}
	kind, candidates := "private", private
	if len(private) == 0 {
		kind, candidates = "public", public
	}
	slices.Sort(candidates)
	candidates = slices.Compact(candidates)
	switch len(candidates) {
	case 1:
		return candidates[0]
	case 0:
		v.bad("bind_addr", "%s stands for every address, and this machine has none but loopback ones: name the one to use with bind_addr or advertise_addr", bind)
	default:
		v.bad("bind_addr", "%s stands for several %s addresses (%s): name the one to use with bind_addr or advertise_addr",
			bind, kind, strings.Join(candidates, ", "))
	}
	return ""
}

// joinList resolves hosts to join; a template may give several.
func (v *validator) joinList(key string, list []string) []string {
	var out []string
	for i, text := range list {
		at := fmt.Sprintf("%s[%d]", key, i)
		if strings.HasPrefix(text, "provider=") {
			v.bad(at, "finding servers through a cloud provider is not available: expected a host, an address or an address template")
			continue
		}
		hosts, err := expand(text)
		if err != nil {
			v.bad(at, "%v", err)
			continue
		}
		for _, h := range strings.Fields(hosts) {
			if host, port, err := net.SplitHostPort(h); err == nil {
				if n, err := strconv.Atoi(port); err != nil || n < 1 || n > 65535 || host == "" {
					v.bad(at, "expected host or host:port, got %q", h)
				}
			}
			out = append(out, h)
		}
	}
	return out
}

// recursor resolves one upstream DNS server to host:port.
func (v *validator) recursor(key, text string) string {
	out, err := expand(text)
	if err != nil {
		v.bad(key, "%v", err)
		return text
	}
	host, port, err := net.SplitHostPort(out)
	if err != nil {
		host, port = strings.Trim(out, "[]"), "53"
	}
	n, err := strconv.Atoi(port)
	if _, ipErr := netip.ParseAddr(host); ipErr != nil || err != nil || n < 1 || n > 65535 {
		v.bad(key, "expected the address of a DNS server, ip or ip:port, got %q", text)
		return text
	}
	return net.JoinHostPort(host, port)
}
