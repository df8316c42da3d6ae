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
	ErrNoTTL             = &InvalidError{"TTL must be > 0 for TTL checks"}
	ErrOutputMaxSize     = &InvalidError{"MaxOutputMaxSize must be positive"}
	ErrFailureThresholds = &InvalidError{"FailuresBeforeWarning can't be higher than FailuresBeforeCritical"}
	ErrBadStatus         = &InvalidError{"Bad check status"}
)

// Validate refuses a Spec that cannot run, in the words of the contract, without any prefix. The error is one of
// the Err values above. ErrBadStatus is the answer to an unknown Initial status; clients get it without a prefix.
func (s Spec) Validate() error {
	probed := s.HTTP != "" || s.TCP != ""
	switch {
	case s.Interval > 0 && s.TTL > 0:
		return ErrIntervalAndTTL
	case probed && s.Interval <= 0:
		return ErrNoInterval
	case !probed && s.TTL <= 0:
		return ErrNoTTL
	case s.OutputMaxSize < 0:
		return ErrOutputMaxSize
	case s.FailuresBeforeWarning > s.FailuresBeforeCritical:
		return ErrFailureThresholds
	case s.Initial != "" && !known(s.Initial):
		return ErrBadStatus
	}
	return nil
}

// Kind is "ttl", "http" or "tcp", "" for none. When several are set the first of http, ttl, tcp decides.
func (s Spec) Kind() string {
	switch {
	case s.HTTP != "":
		return "http"
	case s.TTL > 0:
		return "ttl"
	case s.TCP != "":
		return "tcp"
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
	return s
}

func known(s Status) bool { return s == Passing || s == Warning || s == Critical }
