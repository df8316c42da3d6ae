package agent

import (
	"fmt"
	"io"
	"strings"

	"github.com/musterhq/muster/internal/version"
)

// banner tells a person who started the agent by hand where it answers and what to try next.
func (a *Agent) banner(w io.Writer) {
	role := "proxy"
	switch {
	case a.cfg.DevMode:
		role = "single server in memory: all data is gone when it ends"
	case a.cfg.Server:
		role = "server"
	}
	fmt.Fprintf(w, "==> Muster v%s is running: %s\n\n", version.Version, role)
	line := func(what string, list []string) {
		if len(list) > 0 {
			fmt.Fprintf(w, "    %-12s %s\n", what, strings.Join(list, ", "))
		}
	}
	line("node", []string{a.cfg.NodeName + " (" + a.id + ")"})
	line("datacenter", []string{a.cfg.Datacenter})
	line("HTTP", addrs(a.cfg.HTTPListeners()))
	line("HTTPS", addrs(a.cfg.HTTPSListeners()))
	line("etcd v2", addrs(a.cfg.EtcdListeners()))
	line("DNS", addrs(a.cfg.DNSListeners()))
	line("DNS/TLS", addrs(a.cfg.DNSTLSListeners()))
	if a.cfg.Server {
		line("servers", []string{a.cfg.Advertised()})
	}
	line("gossip", []string{fmt.Sprintf("%s:%d", a.cfg.AdvertiseAddr, a.cfg.Ports.SerfLAN)})
	if a.cfg.DevMode {
		a.tryNext(w)
	}
	fmt.Fprintln(w)
}

// tryNext shows commands that work as they stand.
func (a *Agent) tryNext(w io.Writer) {
	fmt.Fprint(w, "\n    Try in another terminal:\n\n")
	if l := a.cfg.HTTPListeners(); len(l) > 0 {
		fmt.Fprintf(w, "      curl -X PUT -d '{\"Name\":\"web\",\"Port\":8080}' http://%s/v1/agent/service/register\n", l[0].Address)
	}
	if l := a.cfg.DNSListeners(); len(l) > 0 {
		host, port, _ := strings.Cut(l[0].Address, ":")
		fmt.Fprintf(w, "      dig @%s -p %s web.service.%s SRV +short\n", host, port, strings.TrimSuffix(a.cfg.Domain, "."))
	}
	if l := a.cfg.EtcdListeners(); len(l) > 0 {
		fmt.Fprintf(w, "      ETCDCTL_API=2 etcdctl --endpoints http://%s set /greeting hello\n", l[0].Address)
	}
}

func addrs(list []Listener) []string {
	out := make([]string, 0, len(list))
	for _, l := range list {
		out = append(out, l.Address)
	}
	return out
}
