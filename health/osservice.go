package health

import (
	"context"
	"errors"
	"fmt"
	"os/exec"
	"strings"
	"time"
)

// osServiceProber asks systemd for the state of a unit. It runs systemctl, the one interface that every systemd has
// and that needs neither a bus library nor a right: active and reloading pass, activating and deactivating warn,
// everything else is critical.
type osServiceProber struct {
	systemctl string
	unit      string
	limit     time.Duration // of one probe
}

// validOSService refuses what could be an option or a pattern for systemctl, and machines without systemd.
func validOSService(s Spec) error {
	name := s.OSService
	good := func(r rune) bool {
		return r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || strings.ContainsRune(`:-_.\@`, r)
	}
	if strings.HasPrefix(name, "-") || strings.ContainsFunc(name, func(r rune) bool { return !good(r) }) {
		return ErrOSServiceName
	}
	if !s.Host.hasSystemd() {
		return ErrNoSystemd
	}
	return nil
}

func (p osServiceProber) probe(ctx context.Context) (Status, string) {
	out := &tail{max: DefaultOutputMaxSize}
	cmd := exec.CommandContext(ctx, p.systemctl, "is-active", "--", p.unit)
	cmd.Stdout, cmd.Stderr = out, out
	cmd.WaitDelay = pipeDelay
	ownGroup(cmd)
	err := cmd.Run()
	if errors.Is(ctx.Err(), context.DeadlineExceeded) {
		return Critical, timedOut(p.limit)
	}
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) && !errors.Is(err, exec.ErrWaitDelay) {
		return Critical, err.Error()
	}
	state := strings.TrimSpace(string(out.buf))
	text := fmt.Sprintf("Unit %s: %s", p.unit, state)
	switch state {
	case "active", "reloading":
		return Passing, text
	case "activating", "deactivating":
		return Warning, text
	}
	return Critical, text
}
