// Package doctor judges what an agent has measured of itself and its cluster: it holds the thresholds, the words and the
// advice. It measures nothing and talks to nobody, so that every verdict can be tested with the figures given.
//
//	var r doctor.Report
//	r.Add(doctor.Clock("s2", 1500*time.Millisecond, 2*time.Millisecond))
//	r.Worst() // doctor.Fail
package doctor

import (
	"fmt"
	"slices"
	"strings"
	"time"
)

// Status of a finding.
type Status string

// Statuses, best first.
const (
	OK   Status = "ok"
	Warn Status = "warn" // works, but not as it should, or not for long
	Fail Status = "fail" // does not work
)

func (s Status) rank() int { return slices.Index([]Status{OK, Warn, Fail}, s) }

// Areas, in the order in which they are shown.
const (
	Cluster      = "cluster"
	Network      = "network"
	Listeners    = "listeners"
	Time         = "clock"
	Disk         = "disk"
	Certificates = "certificates"
	Versions     = "versions"
	Agent        = "agent"
)

var areas = [...]string{Cluster, Network, Listeners, Time, Disk, Certificates, Versions, Agent}

// Finding is one thing that was looked at.
type Finding struct {
	Area    string
	Subject string // what was looked at, within the area
	Status  Status
	Text    string // what was found
	Advice  string `json:",omitempty"` // what to do; empty when ok
}

// Report is the answer of an agent.
type Report struct {
	Node     string
	Server   bool
	Version  string
	Took     time.Duration // nanoseconds in JSON
	Findings []Finding
}

// Add appends findings; those without a status are none.
func (r *Report) Add(list ...Finding) {
	for _, f := range list {
		if f.Status != "" {
			r.Findings = append(r.Findings, f)
		}
	}
}

// Sort puts the findings in the order of the areas, then of the subjects.
func (r *Report) Sort() {
	slices.SortStableFunc(r.Findings, func(a, b Finding) int {
		if a.Area != b.Area {
			return slices.Index(areas[:], a.Area) - slices.Index(areas[:], b.Area)
		}
		return strings.Compare(a.Subject, b.Subject)
	})
}

// Worst is the worst status of all findings, OK without any.
func (r *Report) Worst() Status {
	worst := OK
	for _, f := range r.Findings {
		if f.Status.rank() > worst.rank() {
			worst = f.Status
		}
	}
	return worst
}

// Count says how many findings have a status.
func (r *Report) Count(s Status) (n int) {
	for _, f := range r.Findings {
		if f.Status == s {
			n++
		}
	}
	return n
}

// ms shows a duration as an operator reads it.
func ms(d time.Duration) string {
	switch {
	case d >= time.Second:
		return d.Round(10 * time.Millisecond).String()
	case d >= time.Millisecond:
		return d.Round(100 * time.Microsecond).String()
	}
	return d.Round(time.Microsecond).String()
}

// plural is "1 server", "2 servers".
func plural(n int, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return fmt.Sprintf("%d %ss", n, what)
}
