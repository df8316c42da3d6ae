// Package health runs health checks: TTL, HTTP and TCP, on a schedule that is spread so that checks do not beat
// in step. It reports to an interface and knows no cluster.
package health

import (
	"net/http"
	"time"
)

// Status of a check.
type Status = string

// Statuses.
const (
	Passing  Status = "passing"
	Warning  Status = "warning"
	Critical Status = "critical"
)

// Spec describes one check. Exactly one kind is set: TTL, HTTP or TCP.
type Spec struct {
	ID, Name, Notes, ServiceID     string
	Initial                        Status // "" = critical
	TTL                            time.Duration
	HTTP, Method, Body             string
	Header                         http.Header
	DisableRedirects               bool
	TCP                            string // host:port
	TCPUseTLS                      bool
	TLSServerName                  string
	TLSSkipVerify                  bool
	Interval, Timeout              time.Duration
	SuccessBeforePassing           int
	FailuresBeforeWarning          int
	FailuresBeforeCritical         int
	OutputMaxSize                  int
	DeregisterCriticalServiceAfter time.Duration
}

// Reporter takes results. Report is called from the runner's goroutine, also for unchanged results.
type Reporter interface {
	Report(id string, s Status, output string)
}
