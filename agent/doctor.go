package agent

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/netip"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/musterhq/muster/api/consul"
	"github.com/musterhq/muster/internal/certs"
	"github.com/musterhq/muster/internal/doctor"
	"github.com/musterhq/muster/internal/version"
	"github.com/musterhq/muster/membership"
)

const (
	examineTimeout = 4 * time.Second // of a whole examination
	probeTimeout   = 2 * time.Second // of one probe in it
	probesAtOnce   = 32
)

// probe looks at one thing. It ends with ctx.
type probe func(ctx context.Context) []doctor.Finding

// examine implements consul.Config.Doctor. It changes nothing but a temporary file in the data directory.
func (a *Agent) examine(ctx context.Context) any {
	if !a.examining.TryLock() {
		return nil
	}
	defer a.examining.Unlock()
	began := time.Now()
	ctx, cancel := context.WithTimeout(ctx, examineTimeout)
	defer cancel()
	report := &doctor.Report{Node: a.cfg.NodeName, Server: a.raft != nil, Version: version.Version}
	probes := []probe{a.probeCluster, a.probeDisk, a.probeCertificates, a.probeMembers, a.probeAgent}
	probes = append(probes, a.probeListeners()...)
	probes = append(probes, a.probeNetwork()...)
	for _, found := range runProbes(ctx, probes) {
		report.Add(found...)
	}
	report.Sort()
	report.Took = time.Since(began)
	return report
}

// runProbes runs them at once, each with its own time limit. One that does not come back by the end of ctx is not waited
// for: a stalled disk must not take the answer with it.
func runProbes(ctx context.Context, probes []probe) [][]doctor.Finding {
	type outcome struct {
		i     int
		found []doctor.Finding
	}
	results := make(chan outcome, len(probes))
	slots := make(chan struct{}, probesAtOnce)
	for i, p := range probes {
		go func() {
			select {
			case slots <- struct{}{}:
				defer func() { <-slots }()
			case <-ctx.Done():
				return
			}
			ctx, cancel := context.WithTimeout(ctx, probeTimeout)
			defer cancel()
			results <- outcome{i, p(ctx)}
		}()
	}
	out := make([][]doctor.Finding, len(probes))
	for range probes {
		select {
		case r := <-results:
			out[r.i] = r.found
		case <-ctx.Done():
			return append(out, []doctor.Finding{{Area: doctor.Agent, Subject: "examination", Status: doctor.Warn,
				Text: "not everything came back in " + examineTimeout.String(), Advice: "a disk or a network is very slow: look at what is missing here"}})
		}
	}
	return out
}

// probeCluster asks the leader about its servers. Without one, what this agent knows has to do.
func (a *Agent) probeCluster(ctx context.Context) []doctor.Finding {
	q := doctor.Quorum{}
	for _, m := range a.pool.Members() {
		if isServer(m) && m.Status != membership.StatusLeft {
			q.Servers = append(q.Servers, doctor.Server{Name: m.Name, Addr: m.ServerAddr(), Alive: m.Status == membership.StatusAlive})
		}
	}
	health, err := a.askHealth(ctx)
	if err != nil {
		q.Why = err.Error()
		if a.raft != nil {
			st := a.raft.Status()
			if q.Leader = a.serverNames()[st.LeaderID]; q.Leader == "" {
				q.Leader = st.LeaderAddr
			}
		}
		return doctor.Consensus(q)
	}
	known := q.Servers
	q.Judged, q.Servers = true, nil
	for _, s := range health.Servers {
		one := doctor.Server{Name: s.Name, Addr: s.Address, Voter: s.Voter, Leader: s.Leader, Healthy: s.Healthy, Index: s.LastIndex, LastContact: time.Duration(s.LastContact)}
		if one.Name == "" {
			one.Name = s.Address
		}
		if s.Leader {
			q.Leader = one.Name
		}
		one.Alive = slices.ContainsFunc(known, func(k doctor.Server) bool { return k.Addr == s.Address && k.Alive })
		q.Servers = append(q.Servers, one)
	}
	return doctor.Consensus(q)
}

// askHealth reads autopilot's verdicts, which come with status 429 when they are bad.
func (a *Agent) askHealth(ctx context.Context) (*consul.AutopilotHealth, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "/v1/operator/autopilot/health", nil)
	if err != nil {
		return nil, err
	}
	resp, err := a.call(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK && resp.StatusCode != http.StatusTooManyRequests {
		return nil, fmt.Errorf("status %d", resp.StatusCode)
	}
	h := new(consul.AutopilotHealth)
	return h, json.NewDecoder(http.MaxBytesReader(nil, resp.Body, maxBody)).Decode(h)
}

// probeMembers compares what all members say of themselves.
func (a *Agent) probeMembers(context.Context) []doctor.Finding {
	var list []doctor.Member
	for _, m := range a.pool.Members() {
		list = append(list, doctor.Member{Name: m.Name, ID: m.ID(), Version: m.Version(), Status: m.Status.String()})
	}
	return doctor.Members(list)
}

// probeCertificates reads the files of the configuration as they are now, whatever the agent holds in memory.
func (a *Agent) probeCertificates(context.Context) []doctor.Finding {
	var out []doctor.Finding
	seen := map[certs.Files]bool{}
	followed := map[string]certs.Files{}
	for _, k := range a.keepers() { // a reload may have named others
		followed[k.stanza] = k.Files()
	}
	for _, s := range []struct {
		name string
		*TLSConfig
	}{{"tls.internal_rpc", &a.cfg.TLS.InternalRPC}, {"tls.https", &a.cfg.TLS.HTTPS}} {
		files, ok := followed[s.name]
		if !ok {
			files = s.files()
		}
		if files == (certs.Files{}) || seen[files] {
			continue
		}
		seen[files] = true
		out = append(out, examineCertificates(s.name, files, time.Now())...)
	}
	return out
}

// examineCertificates judges the files of one stanza.
func examineCertificates(stanza string, files certs.Files, now time.Time) []doctor.Finding {
	l, err := certs.Load(files)
	if err != nil {
		return []doctor.Finding{{Area: doctor.Certificates, Subject: stanza, Status: doctor.Fail, Text: err.Error(),
			Advice: "the agent goes on with what it has read before, and would not start again: mend the files"}}
	}
	var out []doctor.Finding
	for _, e := range l.Expiries {
		out = append(out, doctor.Cert(doctor.Certificate{Stanza: stanza, File: e.File, Subject: e.Subject, From: e.NotBefore, Until: e.NotAfter}, now))
	}
	if info, err := os.Stat(files.Key); err == nil && files.Key != "" {
		if f := doctor.Key(stanza, files.Key, uint32(info.Mode().Perm())); f.Status != "" {
			out = append(out, f)
		}
	}
	return out
}

// probeAgent looks at what this agent knows of itself.
func (a *Agent) probeAgent(context.Context) []doctor.Finding {
	out := []doctor.Finding{doctor.Files(fileLimit())}
	add := func(subject string, s doctor.Status, text, advice string) {
		out = append(out, doctor.Finding{Area: doctor.Agent, Subject: subject, Status: s, Text: text, Advice: advice})
	}
	switch n, failed := a.sync.failedUnits(), a.sync.failures.Load(); {
	case failed > 0:
		add("catalog", doctor.Warn, fmt.Sprintf("the comparison of what is registered here with the catalog has failed %d times in a row", failed), "look at the leader (see cluster), then at this agent's log")
	case n > 0:
		add("catalog", doctor.Warn, fmt.Sprintf("%d services or checks of this machine could not be written", n), "look at this agent's log; it tries again by itself")
	default:
		add("catalog", doctor.OK, "what is registered here is in the catalog", "")
	}
	if a.views != nil {
		if since := a.views.Outage(); !since.IsZero() {
			add("servers", doctor.Fail, "no server can be reached since "+since.UTC().Format(time.RFC3339)+": what was known last is answered", "see network and cluster")
		}
	}
	if a.guard != nil {
		if holds := a.guard.Holds(); len(holds) > 0 {
			var names []string
			for _, h := range holds {
				names = append(names, h.String())
			}
			add("guard", doctor.Warn, strings.Join(names, "; "), "look at those services; if they are really gone say so with `muster guard release`")
		}
	}
	for _, u := range a.upstreams.State() {
		switch {
		case len(u.Instances) == 0 && u.KnownError != "":
			add("upstream "+u.Name, doctor.Fail, "no instance: "+u.KnownError, "look at the service with `muster health`")
		case len(u.Instances) == 0:
			add("upstream "+u.Name, doctor.Fail, "no healthy instance", "look at the service with `muster health`")
		}
	}
	return append(out, a.judgeEncryption()...)
}

// judgeEncryption warns of plain traffic that leaves the machine.
func (a *Agent) judgeEncryption() []doctor.Finding {
	if ip, err := netip.ParseAddr(a.cfg.AdvertiseAddr); err == nil && ip.IsLoopback() {
		return nil
	}
	var out []doctor.Finding
	warn := func(subject, text, advice string) {
		out = append(out, doctor.Finding{Area: doctor.Agent, Subject: subject, Status: doctor.Warn, Text: text, Advice: advice})
	}
	if !a.pool.Encrypted() {
		warn("gossip", "not encrypted: whoever reaches the gossip port can join and read", "make a key with `muster keygen` and set encrypt on every agent")
	}
	if a.dialTLS() == nil {
		warn("server port", "without TLS: whoever reaches it can read and write everything", "set tls.internal_rpc, see `muster tls`")
	}
	return out
}

// clockPath, on the port between agents only, is where a server tells its time.
const clockPath = "/v1/internal/clock"

// clockAnswer is the answer there.
type clockAnswer struct {
	Now int64 // unix nanoseconds
}

func tellClock(w http.ResponseWriter) {
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(clockAnswer{time.Now().UnixNano()})
}

// offset is by how much the other side's clock is ahead, given that it was read in the middle of the round trip.
func offset(sent, received time.Time, other int64) time.Duration {
	return time.Duration(other - sent.Add(received.Sub(sent)/2).UnixNano())
}
