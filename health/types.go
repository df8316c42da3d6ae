// Package health runs health checks (TTL, HTTP, TCP, UDP, gRPC, HTTP/2 ping, programs, programs in containers, units
// of the operating system, aliases of other checks) on a schedule that is spread so that checks do not beat in step.
// It reports to an interface and knows no cluster.
//
//	spec := health.Spec{ID: "web", HTTP: "http://127.0.0.1/ok", Interval: 10 * time.Second}
//	spec, warnings := spec.Normalize()   // raises what is too low, and says so
//	if err := spec.Validate(); err != nil { ... }
//	r, err := health.Start(spec, health.State{}, reporter)
//	...
//	saved := r.State()                   // survives a restart through Start's second argument
//	r.Stop()
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

// Limits and defaults of a Spec.
const (
	MinInterval           = time.Second      // shorter intervals are raised to this
	MinDeregisterAfter    = time.Minute      // shorter DeregisterCriticalServiceAfter are raised to this
	DefaultTimeout        = 10 * time.Second // of one probe
	DefaultProgramTimeout = 30 * time.Second // of one run of a program: script, docker, os_service
	DefaultOutputMaxSize  = 4096             // bytes
)

// Spec describes one check. As a rule exactly one kind is set; Kind says which one runs otherwise.
type Spec struct {
	ID, Name, Notes, ServiceID     string
	Initial                        Status // "" = critical
	TTL                            time.Duration
	HTTP, Method, Body             string
	Header                         http.Header
	DisableRedirects               bool
	TCP                            string // host:port
	TCPUseTLS                      bool
	UDP                            string // host:port
	GRPC                           string // host:port or host:port/service
	GRPCUseTLS                     bool
	H2PING                         string // host:port
	H2PingUseTLS                   bool
	Args                           []string // a program and its arguments
	DockerContainerID, Shell       string   // Args run in this container, in this shell if one is named
	OSService                      string   // a systemd unit
	AliasNode, AliasService        string   // what Aliased follows
	TLSServerName                  string
	TLSSkipVerify                  bool
	Interval, Timeout              time.Duration // Timeout 0 = DefaultTimeout or DefaultProgramTimeout
	SuccessBeforePassing           int           // consecutive successes needed, 0 and 1 = the first
	FailuresBeforeWarning          int           // 0 = FailuresBeforeCritical
	FailuresBeforeCritical         int           // consecutive failures needed, 0 and 1 = the first
	OutputMaxSize                  int           // bytes of output kept, 0 = DefaultOutputMaxSize
	DeregisterCriticalServiceAfter time.Duration

	Aliased Aliased // required by Start for alias checks
	Host    *Host   // what checks of one machine share; nil: nothing
}

// Reporter takes results. Calls for one check never overlap and follow the order of its changes.
//
// Probed kinds report from the runner's goroutine, every decided result, also unchanged ones. A TTL check reports
// its expiry from a timer and a changed beat from Beat's caller, before Beat returns, so that whoever beats reads
// its own write. Therefore never call Beat or Stop while holding a lock that Report takes, nor from Report itself;
// calling State from Report is fine.
type Reporter interface {
	Report(id string, s Status, output string)
}

// State is what survives a restart.
type State struct {
	Status  Status
	Output  string
	Expires time.Time // TTL checks: when it would have expired, zero when it already has
}
