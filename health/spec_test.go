package health_test

import (
	"errors"
	"testing"
	"time"

	"github.com/musterhq/muster/health"
)

func TestValidate(t *testing.T) {
	const s = time.Second
	for _, c := range []struct {
		name string
		spec health.Spec
		want error
		text string
	}{
		{"ttl", health.Spec{TTL: s}, nil, ""},
		{"http", health.Spec{HTTP: "http://h/", Interval: s}, nil, ""},
		{"tcp", health.Spec{TCP: "h:1", Interval: s, Initial: health.Warning}, nil, ""},
		{"thresholds", health.Spec{TTL: s, FailuresBeforeWarning: 2, FailuresBeforeCritical: 2}, nil, ""},
		{"both", health.Spec{TTL: s, Interval: s}, health.ErrIntervalAndTTL, "Interval and TTL cannot both be specified"},
		{"no interval", health.Spec{HTTP: "http://h/"}, health.ErrNoInterval,
			"Interval must be > 0 for Script, HTTP, H2PING, TCP, UDP or OSService checks"},
		{"negative interval", health.Spec{TCP: "h:1", Interval: -s}, health.ErrNoInterval,
			"Interval must be > 0 for Script, HTTP, H2PING, TCP, UDP or OSService checks"},
		{"nothing", health.Spec{}, health.ErrNoTTL, "TTL must be > 0 for TTL checks"},
		{"only interval", health.Spec{Interval: s}, health.ErrNoTTL, "TTL must be > 0 for TTL checks"},
		{"alias", health.Spec{AliasService: "s"}, nil, ""},
		{"alias interval", health.Spec{AliasService: "s", Interval: s}, health.ErrAliasInterval, "Interval cannot be set for Alias checks"},
		{"alias ttl", health.Spec{AliasService: "s", TTL: s}, health.ErrAliasTTL, "TTL must be not be set for Alias checks"},
		{"udp", health.Spec{UDP: "h:1"}, health.ErrNoInterval, health.ErrNoInterval.Text},
		{"script", health.Spec{Args: []string{"a"}}, health.ErrNoInterval, health.ErrNoInterval.Text},
		{"grpc and ttl", health.Spec{GRPC: "h:1", TTL: s}, health.ErrNoInterval, health.ErrNoInterval.Text},
		{"output size", health.Spec{TTL: s, OutputMaxSize: -1}, health.ErrOutputMaxSize, "MaxOutputMaxSize must be positive"},
		{"warning above critical", health.Spec{TTL: s, FailuresBeforeWarning: 3, FailuresBeforeCritical: 2}, health.ErrFailureThresholds,
			"FailuresBeforeWarning can't be higher than FailuresBeforeCritical"},
		{"status", health.Spec{TTL: s, Initial: "good"}, health.ErrBadStatus, "Bad check status"},
	} {
		t.Run(c.name, func(t *testing.T) {
			err := c.spec.Validate()
			if c.want == nil {
				if err != nil {
					t.Fatal(err)
				}
				return
			}
			var invalid *health.InvalidError
			if !errors.Is(err, c.want) || !errors.As(err, &invalid) || invalid.Text != c.text {
				t.Errorf("got %v, want %q", err, c.text)
			}
			if r, err := health.Start(c.spec, health.State{}, &recorder{}); r != nil || !errors.Is(err, c.want) {
				t.Errorf("Start: %v, %v", r, err)
			}
		})
	}
}

func TestKind(t *testing.T) {
	for _, c := range []struct {
		spec health.Spec
		want string
	}{
		{health.Spec{}, ""},
		{health.Spec{TTL: 1}, "ttl"},
		{health.Spec{TCP: "h:1"}, "tcp"},
		{health.Spec{HTTP: "http://h/", TCP: "h:1"}, "http"},
		{health.Spec{GRPC: "h:1", HTTP: "http://h/"}, "grpc"},
		{health.Spec{HTTP: "http://h/", TTL: 1}, "http"},
		{health.Spec{TTL: 1, TCP: "h:1"}, "ttl"},
		{health.Spec{TCP: "h:1", UDP: "h:1"}, "tcp"},
		{health.Spec{UDP: "h:1", AliasNode: "n"}, "udp"},
		{health.Spec{AliasService: "s", Args: []string{"a"}}, "alias"},
		{health.Spec{DockerContainerID: "c", Args: []string{"a"}}, "docker"},
		{health.Spec{DockerContainerID: "c", H2PING: "h:1"}, "h2ping"},
		{health.Spec{Args: []string{"a"}, H2PING: "h:1"}, "script"},
		{health.Spec{H2PING: "h:1", OSService: "s"}, "h2ping"},
		{health.Spec{OSService: "s"}, "os_service"},
	} {
		if got := c.spec.Kind(); got != c.want {
			t.Errorf("Kind of %+v is %q, want %q", c.spec, got, c.want)
		}
	}
}

func TestNormalizeRaisesAndWarns(t *testing.T) {
	s, warnings := health.Spec{ID: "c", Interval: time.Millisecond, DeregisterCriticalServiceAfter: time.Second}.Normalize()
	if s.Interval != time.Second || s.DeregisterCriticalServiceAfter != time.Minute || len(warnings) != 2 {
		t.Errorf("got %v, %v, warnings %q", s.Interval, s.DeregisterCriticalServiceAfter, warnings)
	}
	again, warnings := s.Normalize()
	if len(warnings) != 0 || again.Interval != s.Interval {
		t.Errorf("a normal spec was changed: %q", warnings)
	}
	if s, warnings := (health.Spec{TTL: time.Second}).Normalize(); s.Interval != 0 || len(warnings) != 0 {
		t.Errorf("unset values were raised: %+v %q", s, warnings)
	}
}
