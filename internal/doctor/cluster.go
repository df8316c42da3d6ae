package doctor

import (
	"fmt"
	"slices"
	"strings"
	"time"
)

// Server is one server of the cluster, as far as the agent knows it.
type Server struct {
	Name, Addr  string
	Voter       bool
	Leader      bool
	Alive       bool          // by gossip
	Healthy     bool          // by the leader's judgement
	Index       uint64        // of its log, as the leader knows it; 0: unknown
	LastContact time.Duration // of the leader with it
}

// Quorum is what is known about the servers.
type Quorum struct {
	Servers []Server
	Leader  string // name or address, "" for none
	Judged  bool   // the leader was asked: Voter, Healthy, Index and LastContact are true
	Why     string // why the leader was not asked
}

// Thresholds of replication.
const (
	contactWarn = 200 * time.Millisecond
	lagWarn     = 250 // log entries, as many as may be missing in a healthy server by default
)

// Consensus judges the servers: who leads, how many may be lost, who lags.
func Consensus(q Quorum) []Finding {
	var out []Finding
	add := func(subject string, s Status, text, advice string) {
		out = append(out, Finding{Cluster, subject, s, text, advice})
	}
	if len(q.Servers) == 0 {
		add("servers", Fail, "no server is known", "check retry_join, and that the gossip port (8301, TCP and UDP) of a server can be reached from here")
		return out
	}
	alive := 0
	for _, s := range q.Servers {
		if s.Alive {
			alive++
		}
	}
	names := make([]string, len(q.Servers))
	for i, s := range q.Servers {
		names[i] = s.Name
	}
	slices.Sort(names)
	switch text := fmt.Sprintf("%d of %s alive: %s", alive, plural(len(q.Servers), "server"), strings.Join(names, ", ")); {
	case alive == 0:
		add("servers", Fail, text, "start the servers, or look why they cannot be reached (see network)")
	case alive < len(q.Servers):
		add("servers", Warn, text, "start the others again; one that never comes back is removed by autopilot, or with `muster operator raft remove-peer`")
	default:
		add("servers", OK, text, "")
	}
	if q.Leader == "" {
		add("leader", Fail, "no leader is known here: nothing can be written, and consistent reads fail",
			"a majority of the servers must run and reach each other on their server ports (8300): start the missing ones; if they are lost for good see `muster recover`")
	} else if !q.Judged {
		add("leader", Fail, q.Leader+" should lead, but could not be asked: "+q.Why, "look whether its server port can be reached from here (see network)")
	} else {
		add("leader", OK, q.Leader, "")
	}
	if q.Judged {
		out = append(out, voters(q.Servers)...)
		out = append(out, replication(q.Servers)...)
	}
	return out
}

// voters judges how many may be lost.
func voters(servers []Server) []Finding {
	all, healthy := 0, 0
	for _, s := range servers {
		if s.Voter {
			all++
			if s.Healthy {
				healthy++
			}
		}
	}
	need := all/2 + 1
	f := Finding{Cluster, "quorum", OK, fmt.Sprintf("%d of %s healthy, %d needed: %d more may be lost", healthy, plural(all, "voter"), need, max(0, healthy-need)), ""}
	switch {
	case healthy < need:
		f.Status, f.Text = Fail, fmt.Sprintf("%d of %s healthy, %d needed", healthy, plural(all, "voter"), need)
		f.Advice = "start the missing servers; if they are lost for good see `muster recover`"
	case all == 1:
		f.Status, f.Advice = Warn, "a single server is a single point of failure: run three, or five"
	case healthy == need:
		f.Status, f.Advice = Warn, "the next loss stops all writes: bring a server back, or add one"
	case all%2 == 0:
		f.Status, f.Advice = Warn, "an even number of voters survives no more losses than one voter fewer: add or remove one"
	}
	return []Finding{f}
}

// replication judges each server.
func replication(servers []Server) []Finding {
	var out []Finding
	newest := uint64(0)
	for _, s := range servers {
		newest = max(newest, s.Index)
	}
	for _, s := range servers {
		f := Finding{Cluster, "server " + s.Name, OK, role(s), ""}
		lag := newest - s.Index
		switch {
		case !s.Healthy && !s.Alive:
			f.Status, f.Text, f.Advice = Fail, f.Text+", dead by gossip", "start it again, or look at its log"
		case !s.Healthy:
			f.Status, f.Text, f.Advice = Fail, f.Text+", unhealthy for the leader", "look at its log and its disk, and at the network between it and the leader"
		case s.Leader:
		case s.LastContact > contactWarn:
			f.Status, f.Advice = Warn, "slow answers to the leader: look at its disk, its load and the network between them"
		case lag > lagWarn && s.Index > 0:
			f.Status, f.Advice = Warn, "it follows too slowly: look at its disk and its load"
		}
		if !s.Leader && s.Index > 0 {
			f.Text += fmt.Sprintf(", %d log entries behind, last contact %s ago", lag, ms(s.LastContact))
		}
		out = append(out, f)
	}
	return out
}

func role(s Server) string {
	switch {
	case s.Leader:
		return "leader"
	case s.Voter:
		return "voter"
	}
	return "without a vote"
}

// Member is one agent of the gossip.
type Member struct {
	Name, ID, Version, Status string // Status: alive, failed, …
}

// Members judges what the members say of themselves.
func Members(list []Member) []Finding {
	byID, byVersion := map[string][]string{}, map[string][]string{}
	for _, m := range list {
		if m.Status == "left" {
			continue
		}
		if m.ID != "" {
			byID[m.ID] = append(byID[m.ID], m.Name)
		}
		if m.Status == "alive" {
			byVersion[m.Version] = append(byVersion[m.Version], m.Name)
		}
	}
	var out []Finding
	for id, names := range byID {
		if len(names) > 1 {
			out = append(out, Finding{Versions, "node id " + id, Fail, "used by " + some(names),
				"data directories were copied: stop all but one of them, delete the file node-id in their data directories and start them again"})
		}
	}
	f := Finding{Versions, "programs", OK, "", ""}
	var parts []string
	for v, names := range byVersion {
		if v == "" {
			v = "unknown"
		}
		parts = append(parts, v+" ("+some(names)+")")
	}
	slices.Sort(parts)
	f.Text = strings.Join(parts, "; ")
	if len(byVersion) == 1 {
		for v, names := range byVersion {
			f.Text = fmt.Sprintf("%s everywhere (%s)", v, plural(len(names), "agent"))
		}
	}
	if len(byVersion) > 1 {
		f.Status, f.Advice = Warn, "finish the upgrade: servers first, one at a time, then the others"
	}
	return append(out, f)
}

// some lists a few names.
func some(names []string) string {
	slices.Sort(names)
	const few = 5
	if len(names) > few {
		return fmt.Sprintf("%s and %d more", strings.Join(names[:few], ", "), len(names)-few)
	}
	return strings.Join(names, ", ")
}
