package doctor_test

import (
	"strings"
	"testing"
	"time"

	"github.com/musterhq/muster/internal/doctor"
)

const ms = time.Millisecond

func TestMachine(t *testing.T) {
	now := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	cert := func(from, until time.Duration) doctor.Finding {
		return doctor.Cert(doctor.Certificate{Stanza: "tls.https", File: "a.pem", Subject: "CN=a", From: now.Add(from), Until: now.Add(until)}, now)
	}
	const day = 24 * time.Hour
	const gib = 1 << 30
	for _, c := range []struct {
		what   string
		got    doctor.Finding
		status doctor.Status
		text   string
	}{
		{"same time", doctor.Clock("s", 5*ms, ms), doctor.OK, "5ms ahead"},
		{"behind", doctor.Clock("s", -150*ms, ms), doctor.Warn, "150ms behind"},
		{"ahead", doctor.Clock("s", 1500*ms, 2*ms), doctor.Fail, "1.5s ahead"},
		{"far behind", doctor.Clock("s", -2*time.Hour, 2*ms), doctor.Fail, "2h0m0s behind"},
		{"hidden by the round trip", doctor.Clock("s", 150*ms, 200*ms), doctor.OK, "within 100ms"},
		{"fast disk", doctor.Sync("/d", []time.Duration{ms, 2 * ms, 90 * ms}), doctor.OK, "median 2ms, longest 90ms of 3"},
		{"slow disk", doctor.Sync("/d", []time.Duration{30 * ms, 21 * ms, ms}), doctor.Warn, "median 21ms"},
		{"one slow write", doctor.Sync("/d", []time.Duration{ms, ms, 101 * ms}), doctor.Warn, "longest 101ms"},
		{"very slow disk", doctor.Sync("/d", []time.Duration{150 * ms, 101 * ms, ms}), doctor.Fail, "median 101ms"},
		{"not measured", doctor.Sync("/d", nil), "", ""},
		{"space", doctor.Space("/d", 20*gib, 100*gib), doctor.OK, "20.0 GiB free of 100.0 GiB (20 %)"},
		{"less than 10 %", doctor.Space("/d", 9*gib, 100*gib), doctor.Warn, "(9 %)"},
		{"less than 1 GiB", doctor.Space("/d", gib/2, 2*gib), doctor.Warn, "512 MiB"},
		{"less than 1 %", doctor.Space("/d", 9*gib, 1000*gib), doctor.Fail, ""},
		{"less than 100 MiB", doctor.Space("/d", 99<<20, gib), doctor.Fail, ""},
		{"unknown space", doctor.Space("/d", 0, 0), "", ""},
		{"no stall", doctor.Stalls(false, 0, 0), doctor.OK, "none"},
		{"stalls", doctor.Stalls(false, 3, 1), doctor.Warn, "3 since the start, leadership given up 1"},
		{"stalled", doctor.Stalls(true, 1, 0), doctor.Fail, "does not come back"},
		{"good", cert(-day, 100*day), doctor.OK, "100 days left"},
		{"soon", cert(-day, 29*day), doctor.Warn, "29 days left"},
		{"urgent", cert(-day, 6*day), doctor.Fail, "6 days left"},
		{"over", cert(-9*day, -time.Hour), doctor.Fail, "expired on 2026-03-01T11:00:00Z"},
		{"to come", cert(time.Hour, 9*day), doctor.Fail, "not valid before 2026-03-01T13:00:00Z"},
		{"own key", doctor.Key("tls.https", "k.pem", 0o640), "", ""},
		{"open key", doctor.Key("tls.https", "k.pem", 0o644), doctor.Warn, "mode 0644"},
		{"few files", doctor.Files(1024), doctor.Warn, "1024"},
		{"files", doctor.Files(65536), doctor.OK, "65536"},
		{"unknown files", doctor.Files(0), "", ""},
	} {
		check(t, c.what, c.got, c.status, c.text)
	}
}

func check(t *testing.T, what string, f doctor.Finding, status doctor.Status, text string) {
	t.Helper()
	if f.Status != status || !strings.Contains(f.Text, text) {
		t.Errorf("%s: %+v, want %s with %q", what, f, status, text)
	}
	if bad := f.Status == doctor.Warn || f.Status == doctor.Fail; bad != (f.Advice != "") {
		t.Errorf("%s: advice %q with status %s", what, f.Advice, f.Status)
	}
}

// find gives the finding about a subject.
func find(t *testing.T, what string, list []doctor.Finding, subject string) doctor.Finding {
	t.Helper()
	for _, f := range list {
		if f.Subject == subject {
			return f
		}
	}
	t.Errorf("%s: nothing is said about %q: %+v", what, subject, list)
	return doctor.Finding{}
}

func TestConsensus(t *testing.T) {
	// servers makes voters; the first leads, and the last sick ones are unhealthy and dead.
	servers := func(n, sick int) (list []doctor.Server) {
		for i := range n {
			name := "s" + string(rune('1'+i))
			well := i < n-sick
			list = append(list, doctor.Server{Name: name, Addr: name + ":8300", Voter: true, Leader: i == 0, Alive: well, Healthy: well, Index: 1000, LastContact: 10 * ms})
		}
		return list
	}
	slow, behind, learner := servers(3, 0), servers(3, 0), servers(3, 0)
	slow[1].LastContact = 300 * ms
	behind[2].Index = 700
	learner[2].Voter = false
	for _, c := range []struct {
		what    string
		q       doctor.Quorum
		subject string
		status  doctor.Status
		text    string
	}{
		{"nobody", doctor.Quorum{}, "servers", doctor.Fail, "no server is known"},
		{"healthy", doctor.Quorum{Servers: servers(3, 0), Leader: "s1", Judged: true}, "quorum", doctor.OK, "3 of 3 voters healthy, 2 needed: 1 more may be lost"},
		{"healthy", doctor.Quorum{Servers: servers(3, 0), Leader: "s1", Judged: true}, "server s2", doctor.OK, "0 log entries behind"},
		{"one dead", doctor.Quorum{Servers: servers(3, 1), Leader: "s1", Judged: true}, "quorum", doctor.Warn, "0 more may be lost"},
		{"one dead", doctor.Quorum{Servers: servers(3, 1), Leader: "s1", Judged: true}, "server s3", doctor.Fail, "dead by gossip"},
		{"one dead", doctor.Quorum{Servers: servers(3, 1), Leader: "s1", Judged: true}, "servers", doctor.Warn, "2 of 3 servers alive"},
		{"too few", doctor.Quorum{Servers: servers(3, 2), Leader: "s1", Judged: true}, "quorum", doctor.Fail, "1 of 3 voters healthy, 2 needed"},
		{"alone", doctor.Quorum{Servers: servers(1, 0), Leader: "s1", Judged: true}, "quorum", doctor.Warn, "1 of 1 voter"},
		{"even", doctor.Quorum{Servers: servers(4, 0), Leader: "s1", Judged: true}, "quorum", doctor.Warn, "4 of 4"},
		{"five", doctor.Quorum{Servers: servers(5, 1), Leader: "s1", Judged: true}, "quorum", doctor.OK, "1 more may be lost"},
		{"no leader", doctor.Quorum{Servers: servers(3, 1)}, "leader", doctor.Fail, "no leader is known"},
		{"silent leader", doctor.Quorum{Servers: servers(3, 0), Leader: "s1", Why: "no route"}, "leader", doctor.Fail, "no route"},
		{"all dead", doctor.Quorum{Servers: servers(3, 3)}, "servers", doctor.Fail, "0 of 3 servers alive: s1, s2, s3"},
		{"slow", doctor.Quorum{Servers: slow, Leader: "s1", Judged: true}, "server s2", doctor.Warn, "last contact 300ms ago"},
		{"behind", doctor.Quorum{Servers: behind, Leader: "s1", Judged: true}, "server s3", doctor.Warn, "300 log entries behind"},
		{"learner", doctor.Quorum{Servers: learner, Leader: "s1", Judged: true}, "server s3", doctor.OK, "without a vote"},
	} {
		check(t, c.what, find(t, c.what, doctor.Consensus(c.q), c.subject), c.status, c.text)
	}
}

func TestMembers(t *testing.T) {
	same := doctor.Members([]doctor.Member{{"a", "1", "1.0", "alive"}, {"b", "2", "1.0", "alive"}, {"c", "3", "0.9", "failed"}, {"d", "1", "0.9", "left"}})
	if len(same) != 1 {
		t.Errorf("who is dead or gone counts: %+v", same)
	}
	check(t, "one version", same[0], doctor.OK, "1.0 everywhere (2 agents)")
	mixed := doctor.Members([]doctor.Member{{"a", "1", "1.0", "alive"}, {"b", "2", "1.1", "alive"}, {"c", "1", "1.1", "alive"}})
	check(t, "skew", find(t, "skew", mixed, "programs"), doctor.Warn, "1.0 (a); 1.1 (b, c)")
	check(t, "twin", find(t, "twin", mixed, "node id 1"), doctor.Fail, "a, c")
}

func TestReport(t *testing.T) {
	var r doctor.Report
	if r.Worst() != doctor.OK {
		t.Error("nothing found is not ok")
	}
	r.Add(doctor.Files(1024), doctor.Files(0), doctor.Clock("b", 0, ms), doctor.Clock("a", 0, ms))
	if r.Worst() != doctor.Warn || len(r.Findings) != 3 || r.Count(doctor.OK) != 2 {
		t.Errorf("%+v", r)
	}
	r.Add(doctor.Stalls(true, 1, 0))
	r.Sort()
	if f := r.Findings; r.Worst() != doctor.Fail || f[0].Subject != "a" || f[1].Subject != "b" || f[2].Area != doctor.Disk || f[3].Area != doctor.Agent {
		t.Errorf("%+v", f)
	}
}
