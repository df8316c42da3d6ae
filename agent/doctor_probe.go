package agent

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"strings"
	"syscall"
	"time"

	"github.com/miekg/dns"

	"github.com/musterhq/muster/internal/doctor"
	"github.com/musterhq/muster/membership"
	"github.com/musterhq/muster/peer"
)

const (
	clockReadings = 3  // of each server; the one with the shortest round trip counts
	gossipProbed  = 64 // members other than servers whose gossip port is tried, chosen anew each time
	syncWrites    = 9  // of syncBytes to the data directory
	syncBytes     = 4096
)

// probeNetwork tries the server port of every server and the gossip port of every member from here.
func (a *Agent) probeNetwork() []probe {
	var servers, others []membership.Member
	for _, m := range a.pool.Members() {
		switch {
		case m.Name == a.cfg.NodeName || m.Status == membership.StatusLeft || m.Status == membership.StatusLeaving:
		case isServer(m):
			servers = append(servers, m)
		default:
			others = append(others, m)
		}
	}
	if len(others) > gossipProbed {
		rand.Shuffle(len(others), func(i, j int) { others[i], others[j] = others[j], others[i] })
		others = others[:gossipProbed]
	}
	var probes []probe
	if len(servers)+len(others) == 0 { // alone: why did joining fail?
		for _, host := range a.cfg.RetryJoin {
			probes = append(probes, func(ctx context.Context) []doctor.Finding { return a.probeJoin(ctx, host) })
		}
	}
	if a.port != nil { // our own server port, at the address that others use
		self := a.pool.Local()
		servers = append(servers, self)
	}
	for _, m := range servers {
		probes = append(probes, func(ctx context.Context) []doctor.Finding { return a.probeServer(ctx, m) })
	}
	for _, m := range append(servers, others...) {
		if m.Name == a.cfg.NodeName {
			continue
		}
		probes = append(probes, func(ctx context.Context) []doctor.Finding { return probeGossipTCP(ctx, m) },
			func(context.Context) []doctor.Finding { return a.probeGossipUDP(m) })
	}
	return probes
}

// probeServer connects to a server port anew, under TLS where that is used, and reads the server's clock there.
func (a *Agent) probeServer(ctx context.Context, m membership.Member) []doctor.Finding {
	addr := m.ServerAddr()
	port := doctor.Finding{Area: doctor.Network, Subject: m.Name + " server port " + addr + "/tcp"}
	d := peer.NewDialer(peer.DialerConfig{TLS: a.dialTLS(), Dial: a.opts.Dial, Few: true})
	defer d.Close()
	ahead, trip, err := a.readClock(ctx, d, addr)
	if err != nil {
		port.Status, port.Text = doctor.Fail, err.Error()
		port.Advice = dialAdvice(err, "a server")
		if m.Status == membership.StatusAlive && errors.Is(err, syscall.ECONNREFUSED) {
			port.Advice = "its gossip lives, its server port does not: is it the port it tells, and does a firewall answer in its place?"
		}
		return []doctor.Finding{port}
	}
	port.Status, port.Text = doctor.OK, "answers in "+trip.Round(10*time.Microsecond).String()
	if a.dialTLS() != nil {
		port.Text += " under TLS"
	}
	if m.ID() == a.id {
		return []doctor.Finding{port}
	}
	return []doctor.Finding{port, doctor.Clock(m.Name, ahead, trip)}
}

// readClock asks a server for its time several times over one connection.
func (a *Agent) readClock(ctx context.Context, d *peer.Dialer, addr string) (ahead, trip time.Duration, err error) {
	for i := range clockReadings {
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, a.scheme()+"://"+addr+clockPath, nil)
		if err != nil {
			return 0, 0, err
		}
		sent := time.Now()
		resp, err := d.Transport().RoundTrip(req)
		received := time.Now()
		if err != nil {
			return 0, 0, err
		}
		var answer clockAnswer
		if resp.StatusCode != http.StatusOK {
			err = fmt.Errorf("status %d: not a server of this version", resp.StatusCode)
		} else {
			err = json.NewDecoder(io.LimitReader(resp.Body, 1<<10)).Decode(&answer)
		}
		resp.Body.Close()
		if err != nil {
			return 0, 0, fmt.Errorf("asking for its time: %w", err)
		}
		if t := received.Sub(sent); i == 0 || t < trip {
			ahead, trip = offset(sent, received, answer.Now), t
		}
	}
	return ahead, trip, nil
}

// dialAdvice says what an error of a connection means.
func dialAdvice(err error, what string) string {
	var certificate *tls.CertificateVerificationError
	var timeout net.Error
	switch {
	case errors.Is(err, syscall.ECONNREFUSED):
		return "nothing listens there: is the agent running?"
	case errors.As(err, &certificate):
		return "the certificates do not fit: look at ca_file on both sides, and at certificates"
	case errors.As(err, &timeout) && timeout.Timeout(), errors.Is(err, context.DeadlineExceeded):
		return "no answer at all: look for a firewall or a route that swallows packets, and whether the machine is up"
	}
	return "look whether " + what + " of this cluster runs there, with TLS like this agent"
}

// probeGossipTCP connects to a gossip port.
func probeGossipTCP(ctx context.Context, m membership.Member) []doctor.Finding {
	f := doctor.Finding{Area: doctor.Network, Subject: m.Name + " gossip port " + m.GossipAddr() + "/tcp", Status: doctor.OK, Text: "connects"}
	switch membership.Probe(ctx, m.GossipAddr()) {
	case membership.Dead:
		f.Status, f.Text, f.Advice = doctor.Fail, "refused", "nothing listens there: is the agent running?"
	case membership.Silent:
		f.Status, f.Text, f.Advice = doctor.Fail, "no answer", "look for a firewall that swallows TCP, and whether the machine is up"
	}
	return []doctor.Finding{f}
}

// probeJoin connects to a place that retry_join names.
func (a *Agent) probeJoin(ctx context.Context, host string) []doctor.Finding {
	if _, _, err := net.SplitHostPort(host); err != nil {
		host = joinPort(strings.Trim(host, "[]"), a.cfg.Ports.SerfLAN)
	}
	f := doctor.Finding{Area: doctor.Network, Subject: "retry_join " + host + "/tcp", Status: doctor.OK, Text: "connects"}
	conn, err := new(net.Dialer).DialContext(ctx, "tcp", host)
	if err != nil {
		f.Status, f.Text, f.Advice = doctor.Fail, err.Error(), dialAdvice(err, "an agent")
		return []doctor.Finding{f}
	}
	_ = conn.Close()
	return []doctor.Finding{f}
}

// probeGossipUDP sends a packet to a gossip port.
func (a *Agent) probeGossipUDP(m membership.Member) []doctor.Finding {
	f := doctor.Finding{Area: doctor.Network, Subject: m.Name + " gossip port " + m.GossipAddr() + "/udp", Status: doctor.OK}
	trip, err := a.pool.Ping(m)
	switch {
	case err == nil:
		f.Text = "answers in " + trip.Round(10*time.Microsecond).String() + ", " + m.Status.String()
	case m.Status == membership.StatusAlive:
		f.Status, f.Text, f.Advice = doctor.Warn, "no answer, although alive by gossip", "UDP does not get through in both directions: open the gossip port for it, or deaths are found late and wrongly"
	default:
		f.Status, f.Text, f.Advice = doctor.Fail, "no answer, "+m.Status.String()+" by gossip", "start the agent; one that never comes back goes with `muster force-leave`"
	}
	return []doctor.Finding{f}
}

// probeListeners uses this agent's own interfaces as a client on this machine does.
func (a *Agent) probeListeners() []probe {
	var probes []probe
	add := func(name string, list []Listener, secure bool) {
		for _, l := range list {
			probes = append(probes, func(ctx context.Context) []doctor.Finding {
				return []doctor.Finding{listener(name, l.Address, "", probeHTTP(ctx, l, secure || l.TLS))}
			})
		}
	}
	add("http", a.cfg.HTTPListeners(), false)
	add("https", a.cfg.HTTPSListeners(), true)
	add("etcd", a.cfg.EtcdListeners(), false)
	for _, l := range a.cfg.DNSListeners() {
		for _, network := range []string{"udp", "tcp"} {
			probes = append(probes, func(ctx context.Context) []doctor.Finding {
				return []doctor.Finding{listener("dns", l.Address, "/"+network, a.probeDNS(ctx, network, here(l.Address)))}
			})
		}
	}
	for _, l := range a.cfg.DNSTLSListeners() {
		probes = append(probes, func(ctx context.Context) []doctor.Finding {
			return []doctor.Finding{listener("dns_tls", l.Address, "", probeHTTP(ctx, l, true))}
		})
	}
	return probes
}

func listener(name, addr, network string, err error) doctor.Finding {
	f := doctor.Finding{Area: doctor.Listeners, Subject: name + " " + addr + network, Status: doctor.OK, Text: "answers"}
	if bad, ok := errors.AsType[*dnsError](err); ok {
		f.Status, f.Text, f.Advice = doctor.Warn, bad.Error(), "the listener works, what stands behind it does not: see cluster and network"
	} else if err != nil {
		f.Status, f.Text = doctor.Fail, err.Error()
		f.Advice = "look at this agent's log, its limit of connections and the rules of this machine's firewall"
	}
	return f
}

// here is an address at which this machine reaches what listens on addr.
func here(addr string) string {
	host, port, err := net.SplitHostPort(addr)
	if err != nil || !isAny(host) {
		return addr
	}
	if ip := net.ParseIP(host); ip != nil && ip.To4() == nil {
		return net.JoinHostPort("::1", port)
	}
	return net.JoinHostPort("127.0.0.1", port)
}

// probeHTTP makes a request, or under TLS a handshake: what certificate a client needs for more is not ours to have.
func probeHTTP(ctx context.Context, l Listener, secure bool) error {
	addr := l.Address
	if l.Network == "tcp" {
		addr = here(addr)
	}
	conn, err := new(net.Dialer).DialContext(ctx, l.Network, addr)
	if err != nil {
		return err
	}
	defer conn.Close()
	if secure {
		// Who it is does not matter: the files are examined on their own.
		return tls.Client(conn, &tls.Config{InsecureSkipVerify: true, MinVersion: tls.VersionTLS12}).HandshakeContext(ctx)
	}
	transport := &http.Transport{
		DisableKeepAlives: true,
		DialContext:       func(context.Context, string, string) (net.Conn, error) { return conn, nil },
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://agent/", nil)
	if err != nil {
		return err
	}
	resp, err := transport.RoundTrip(req)
	if err != nil {
		return err
	}
	return resp.Body.Close()
}

// dnsError is an answer that is an error.
type dnsError struct {
	name  string
	rcode int
}

func (e *dnsError) Error() string {
	return "the question for the SOA record of " + e.name + " is answered with " + dns.RcodeToString[e.rcode]
}

// probeDNS asks for the SOA record of our domain.
func (a *Agent) probeDNS(ctx context.Context, network, addr string) error {
	q := new(dns.Msg)
	q.SetQuestion(dns.Fqdn(a.cfg.Domain), dns.TypeSOA)
	answer, _, err := (&dns.Client{Net: network, Timeout: probeTimeout}).ExchangeContext(ctx, q, addr)
	switch {
	case err != nil:
		return err
	case answer.Rcode != dns.RcodeSuccess:
		return &dnsError{a.cfg.Domain, answer.Rcode}
	}
	return nil
}

// probeDisk measures the disk of the data directory.
func (a *Agent) probeDisk(ctx context.Context) []doctor.Finding {
	var out []doctor.Finding
	if a.raft != nil {
		f := a.raft.Figures()
		out = append(out, doctor.Stalls(f.DiskStalled, f.DiskStalls, f.GaveUp))
		if f.DiskStalled {
			return out // one more write would hang, too
		}
	}
	if a.cfg.DataDir == "" {
		return out
	}
	free, total := diskSpace(a.cfg.DataDir)
	out = append(out, doctor.Space(a.cfg.DataDir, free, total))
	took := make(chan []doctor.Finding, 1)
	go func() { // a write that stalls cannot be interrupted
		d, err := measureSync(ctx, a.cfg.DataDir)
		if err != nil {
			took <- []doctor.Finding{{Area: doctor.Disk, Subject: "fsync in " + a.cfg.DataDir, Status: doctor.Fail, Text: err.Error(), Advice: "the agent must be able to write to its data directory"}}
			return
		}
		took <- []doctor.Finding{doctor.Sync(a.cfg.DataDir, d)}
	}()
	select {
	case f := <-took:
		return append(out, f...)
	case <-ctx.Done():
		return append(out, doctor.Sync(a.cfg.DataDir, []time.Duration{probeTimeout}))
	}
}

// measureSync writes to a file of its own in dir until ctx ends or enough is known, and removes the file.
func measureSync(ctx context.Context, dir string) ([]time.Duration, error) {
	f, err := os.CreateTemp(dir, ".doctor-*")
	if err != nil {
		return nil, err
	}
	defer os.Remove(f.Name())
	defer f.Close()
	var took []time.Duration
	block := make([]byte, syncBytes)
	for range syncWrites {
		began := time.Now()
		if _, err := f.Write(block); err != nil {
			return nil, err
		}
		if err := f.Sync(); err != nil {
			return nil, err
		}
		took = append(took, time.Since(began))
		if ctx.Err() != nil {
			break
		}
	}
	return took, nil
}
