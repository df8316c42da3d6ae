package health

import (
	"fmt"
	"time"
)

// InvalidError is a refusal of a Spec or a Status; Text is for the client, in the words of the check contract.
type InvalidError struct{ Text string }

func (e *InvalidError) Error() string { return e.Text }

// Reasons why a Spec is refused.
var (
	ErrIntervalAndTTL    = &InvalidError{"Interval and TTL cannot both be specified"}
	ErrNoInterval        = &InvalidError{"Interval must be > 0 for Script, HTTP, H2PING, TCP, UDP or OSService checks"}
	ErrAliasInterval     = &InvalidError{"Interval cannot be set for Alias checks"}
	ErrAliasTTL          = &InvalidError{"TTL must be not be set for Alias checks"}
	ErrNoTTL             = &InvalidError{"TTL must be > 0 for TTL checks"}
	ErrOutputMaxSize     = &InvalidError{"MaxOutputMaxSize must be positive"}
	ErrFailureThresholds = &InvalidError{"FailuresBeforeWarning can't be higher than FailuresBeforeCritical"}
	ErrBadStatus         = &InvalidError{"Bad check status"}
	ErrOSServiceName     = &InvalidError{"OSService must be the name of a unit: letters, digits and any of :-_.\\@, not beginning with a dash"}
	ErrNoSystemd         = &InvalidError{"OSService checks are not implemented on this machine: it does not run systemd"}
)

// Validate refuses a Spec that cannot run, in the words of the contract, without any prefix. The error is one of
// the Err values above. ErrBadStatus is the answer to an unknown Initial status; clients get it without a prefix.
func (s Spec) Validate() error {
	alias := s.AliasNode != "" || s.AliasService != ""
	active := s.GRPC != "" || s.HTTP != "" || s.TCP != "" || s.UDP != "" || len(s.Args) > 0 || s.H2PING != "" || s.OSService != ""
	switch {
	case s.Interval > 0 && s.TTL > 0:
		return ErrIntervalAndTTL
	case active && s.Interval <= 0:
		return ErrNoInterval
	case alias && s.Interval > 0:
		return ErrAliasInterval
	case alias && s.TTL > 0:
		return ErrAliasTTL
	case !active && !alias && s.TTL <= 0:
		return ErrNoTTL
	case s.OutputMaxSize < 0:
		return ErrOutputMaxSize
	case s.FailuresBeforeWarning > s.FailuresBeforeCritical:
		return ErrFailureThresholds
	case s.Initial != "" && !known(s.Initial):
		return ErrBadStatus
	}
	if s.Kind() == "os_service" {
		return validOSService(s)
	}
	return nil
}

// Kind names the kind of check, "" for none. When several are set the first of this order decides: grpc, http, ttl,
// tcp, udp, alias, docker, script, h2ping, os_service.
func (s Spec) Kind() string {
	switch {
	case s.GRPC != "":
		return "grpc"
	case s.HTTP != "":
		return "http"
	case s.TTL > 0:
		return "ttl"
	case s.TCP != "":
		return "tcp"
	case s.UDP != "":
		return "udp"
	case s.AliasNode != "" || s.AliasService != "":
		return "alias"
	case s.DockerContainerID != "" && len(s.Args) > 0:
		return "docker"
	case len(s.Args) > 0:
		return "script"
	case s.H2PING != "":
		return "h2ping"
	case s.OSService != "":
		return "os_service"
	}
	return ""
}

// Normalize raises values below their minimum and returns one warning for each it raised. Zero values stay zero
// (they mean "not set"). Start applies the same minimum of the interval, silently.
func (s Spec) Normalize() (Spec, []string) {
	var warnings []string
	raise := func(name string, v *time.Duration, least time.Duration) {
		if *v > 0 && *v < least {
			warnings = append(warnings, fmt.Sprintf("check %q: %s %v is below the minimum and was raised to %v", s.ID, name, *v, least))
			*v = least
		}
	}
	raise("Interval", &s.Interval, MinInterval)
	raise("DeregisterCriticalServiceAfter", &s.DeregisterCriticalServiceAfter, MinDeregisterAfter)
	return s, warnings
}

// prepared fills the defaults, so that the runners need not know them.
func (s Spec) prepared() Spec {
	s, _ = s.Normalize()
	if s.Timeout <= 0 {
		s.Timeout = DefaultTimeout
		switch s.Kind() {
		case "script", "docker", "os_service":
			s.Timeout = DefaultProgramTimeout
		}
	}
	if s.OutputMaxSize == 0 {
		s.OutputMaxSize = DefaultOutputMaxSize
	}
	if s.FailuresBeforeWarning <= 0 {
		s.FailuresBeforeWarning = s.FailuresBeforeCritical
	}
	if s.Initial == "" {
		s.Initial = Critical
	}
	if s.Host == nil {
		s.Host = new(Host)
	}
	return s
}

func known(s Status) bool { return s == Passing || s == Warning || s == Critical }
