package health_test

import (
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/musterhq/muster/health"
)

// told keeps what a Damper passes on.
type told struct {
	mu           sync.Mutex
	last, output string
}

func (t *told) Report(_ string, s health.Status, output string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.last, t.output = s, output
}

func (t *told) now() (status, output string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.last, t.output
}

func (t *told) status() string { s, _ := t.now(); return s }
func (t *told) text() string   { _, o := t.now(); return o }

func TestDamperHoldsAFlappingCheck(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		got := &told{}
		holds := 0
		d := health.NewDamper(health.Damping{Changes: 3, Window: time.Minute, Stable: 20 * time.Second}, health.Passing, got, func() { holds++ })
		defer d.Stop()
		want := func(status string) {
			t.Helper()
			synctest.Wait()
			if now, output := got.now(); now != status || strings.HasPrefix(output, "Flapping") == (holds == 0) && status != health.Passing {
				t.Fatalf("it is %s (%s), want %s", now, output, status)
			}
		}
		for _, s := range []string{health.Critical, health.Passing, health.Critical} { // three changes are allowed
			d.Report("c", s, "raw")
			want(s)
			time.Sleep(5 * time.Second)
		}
		d.Report("c", health.Passing, "raw") // the fourth is not believed
		want(health.Critical)
		if holds != 1 || !strings.Contains(got.text(), "Now passing: raw") {
			t.Fatalf("%d holds, output %q", holds, got.text())
		}
		time.Sleep(15 * time.Second)
		d.Report("c", health.Passing, "still") // the same again does not lengthen it
		want(health.Critical)
		time.Sleep(6 * time.Second)
		want(health.Passing)
		if got.text() != "still" {
			t.Fatalf("output %q", got.text())
		}
		d.Report("c", health.Critical, "raw") // all is forgotten
		if got.status() != health.Critical || got.text() != "raw" {
			t.Fatalf("it is %s: %s", got.status(), got.text())
		}
	})
}

func TestDamperBelievesSlowChanges(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		got := &told{}
		d := health.NewDamper(health.Damping{Changes: 2, Window: 10 * time.Second, Stable: 5 * time.Second}, health.Passing, got, nil)
		defer d.Stop()
		for i := range 20 {
			s := []string{health.Critical, health.Passing}[i%2]
			d.Report("c", s, "")
			if got.status() != s {
				t.Fatalf("change %d: %s", i, got.status())
			}
			time.Sleep(6 * time.Second)
		}
	})
}

func TestDamperHoldsWhileItFlaps(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		got := &told{}
		d := health.NewDamper(health.Damping{Changes: 1, Window: time.Minute, Stable: 5 * time.Second}, health.Passing, got, nil)
		d.Report("c", health.Warning, "")
		for i := range 50 {
			d.Report("c", []string{health.Passing, health.Warning}[i%2], "")
			if got.status() != health.Warning {
				t.Fatalf("change %d: %s", i, got.status())
			}
			time.Sleep(4 * time.Second)
		}
		d.Report("c", health.Critical, "")
		if got.status() != health.Critical {
			t.Fatalf("worse while held: %s", got.status())
		}
		d.Report("c", health.Passing, "")
		d.Stop()
		time.Sleep(time.Minute)
		if got.status() != health.Critical {
			t.Fatal("it reported after Stop")
		}
	})
}
