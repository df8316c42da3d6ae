package health_test

import (
	"errors"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/musterhq/muster/health"
)

// recorder keeps every report with the time of its arrival.
type recorder struct {
	mu  sync.Mutex
	got []report
	ch  chan report // when set, reports are also sent here
}

type report struct {
	id, status, output string
	at                 time.Time
}

func (r *recorder) Report(id string, s health.Status, output string) {
	rep := report{id, s, output, time.Now()}
	r.mu.Lock()
	r.got = append(r.got, rep)
	r.mu.Unlock()
	if r.ch != nil {
		r.ch <- rep
	}
}

func (r *recorder) all() []report {
	r.mu.Lock()
	defer r.mu.Unlock()
	return append([]report(nil), r.got...)
}

func (r *recorder) last(t *testing.T) report {
	t.Helper()
	all := r.all()
	if len(all) == 0 {
		t.Fatal("no report")
	}
	return all[len(all)-1]
}

func start(t *testing.T, s health.Spec, last health.State, to health.Reporter) *health.Runner {
	t.Helper()
	r, err := health.Start(s, last, to)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func ttlSpec(ttl time.Duration) health.Spec { return health.Spec{ID: "beat", TTL: ttl} }

func TestTTLExpiresOnceWithTheLastOutput(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		rec := &recorder{}
		r := start(t, ttlSpec(10*time.Second), health.State{}, rec)
		defer r.Stop()
		if err := r.Beat(health.Passing, "fine"); err != nil {
			t.Fatal(err)
		}
		began := time.Now()
		time.Sleep(time.Minute)
		got := rec.all()
		if len(got) != 2 {
			t.Fatalf("reports %v, want the beat and one expiry", got)
		}
		e := got[1]
		if e.status != health.Critical || e.output != "TTL expired (last output before timeout follows): fine" {
			t.Errorf("expiry reported as %+v", e)
		}
		if d := e.at.Sub(began); d != 10*time.Second {
			t.Errorf("expired after %v, want 10s", d)
		}
		if s := r.State(); s.Status != health.Critical || !s.Expires.IsZero() {
			t.Errorf("state after expiry %+v, want critical without an expiry", s)
		}
	})
}

func TestTTLNeverBeatenExpiresWithoutQuoting(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		rec := &recorder{}
		r := start(t, health.Spec{ID: "beat", TTL: time.Second, Initial: health.Passing}, health.State{}, rec)
		defer r.Stop()
		if s := r.State().Status; s != health.Passing {
			t.Errorf("initial status %q, want passing", s)
		}
		time.Sleep(2 * time.Second)
		if got := rec.last(t); got.status != health.Critical || got.output != "TTL expired" {
			t.Errorf("got %+v", got)
		}
	})
}

func TestTTLBeatsKeepItAliveAndReportOnlyChanges(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		rec := &recorder{}
		r := start(t, ttlSpec(3*time.Second), health.State{}, rec)
		defer r.Stop()
		for range 20 {
			if err := r.Beat(health.Passing, "ok"); err != nil {
				t.Fatal(err)
			}
			time.Sleep(2 * time.Second)
		}
		if got := rec.all(); len(got) != 1 {
			t.Fatalf("%d reports for unchanged beats, want 1: %v", len(got), got)
		}
		_ = r.Beat(health.Passing, "other output")
		_ = r.Beat(health.Warning, "other output")
		got := rec.all()
		if len(got) != 3 || got[1].output != "other output" || got[2].status != health.Warning {
			t.Errorf("changes reported as %v", got)
		}
	})
}

func TestTTLComesBackAfterExpiry(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		rec := &recorder{}
		r := start(t, ttlSpec(time.Second), health.State{}, rec)
		defer r.Stop()
		time.Sleep(5 * time.Second)
		_ = r.Beat(health.Critical, "")  // the same status as the expiry, yet it replaces its text
		_ = r.Beat(health.Passing, "up") //
		time.Sleep(900 * time.Millisecond)
		if s := r.State(); s.Status != health.Passing {
			t.Fatalf("status %q before the TTL is over", s.Status)
		}
		time.Sleep(200 * time.Millisecond)
		got := rec.all()
		want := []string{"TTL expired", "", "up", "TTL expired (last output before timeout follows): up"}
		if len(got) != len(want) {
			t.Fatalf("got %v", got)
		}
		for i, w := range want {
			if got[i].output != w {
				t.Errorf("report %d has output %q, want %q", i, got[i].output, w)
			}
		}
	})
}

func TestTTLRestoreKeepsStatusAndRemainingTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		first := start(t, ttlSpec(10*time.Second), health.State{}, &recorder{})
		_ = first.Beat(health.Passing, "alive")
		time.Sleep(4 * time.Second)
		saved := first.State()
		first.Stop()
		time.Sleep(2 * time.Second) // the agent is down

		rec := &recorder{}
		r := start(t, ttlSpec(10*time.Second), saved, rec)
		defer r.Stop()
		if s := r.State(); s.Status != health.Passing || s.Output != "alive" || !s.Expires.Equal(saved.Expires) {
			t.Errorf("restored %+v, saved %+v", s, saved)
		}
		time.Sleep(3999 * time.Millisecond)
		if got := rec.all(); len(got) != 0 {
			t.Errorf("restore reported %v before the saved expiry", got)
		}
		time.Sleep(2 * time.Millisecond)
		if got := rec.last(t); got.output != "TTL expired (last output before timeout follows): alive" {
			t.Errorf("got %+v", got)
		}
	})
}

func TestTTLRestoreAfterItsTimeIsCriticalAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		saved := health.State{Status: health.Passing, Output: "alive", Expires: time.Now().Add(-time.Second)}
		rec := &recorder{}
		r := start(t, ttlSpec(10*time.Second), saved, rec)
		defer r.Stop()
		if s := r.State(); s.Status != health.Critical {
			t.Errorf("status %q in the first moment, want critical", s.Status)
		}
		synctest.Wait()
		if got := rec.last(t); got.status != health.Critical || got.output != "TTL expired (last output before timeout follows): alive" {
			t.Errorf("got %+v", got)
		}
	})
}

func TestTTLRestoreOfAnExpiredCheckQuotesOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		first := start(t, ttlSpec(time.Second), health.State{}, &recorder{})
		_ = first.Beat(health.Passing, "alive")
		time.Sleep(2 * time.Second)
		saved := first.State()
		first.Stop()
		rec := &recorder{}
		r := start(t, ttlSpec(time.Second), saved, rec)
		defer r.Stop()
		time.Sleep(time.Minute)
		if s := r.State(); s.Status != health.Critical || s.Output != saved.Output {
			t.Errorf("state %+v, want %+v", s, saved)
		}
	})
}

func TestTTLRestoreIsNeverLongerThanTheTTL(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		saved := health.State{Status: health.Passing, Expires: time.Now().Add(time.Hour)}
		rec := &recorder{}
		r := start(t, ttlSpec(5*time.Second), saved, rec)
		defer r.Stop()
		time.Sleep(6 * time.Second)
		if got := rec.last(t); got.status != health.Critical {
			t.Errorf("got %+v", got)
		}
	})
}

func TestTTLOutputIsCut(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		rec := &recorder{}
		r := start(t, health.Spec{ID: "beat", TTL: time.Minute, OutputMaxSize: 8}, health.State{}, rec)
		defer r.Stop()
		_ = r.Beat(health.Passing, "0123456789abcdef")
		_ = r.Beat(health.Passing, "0123456789abcdef")
		_ = r.Beat(health.Passing, "01234567")
		got := rec.all()
		if len(got) != 2 {
			t.Fatalf("got %v, want two reports", got)
		}
		if got[0].output != "01234567 ... (captured 8 of 16 bytes)" || got[1].output != "01234567" {
			t.Errorf("outputs %q, %q", got[0].output, got[1].output)
		}
	})
}

func TestBeatErrors(t *testing.T) {
	rec := &recorder{}
	r := start(t, ttlSpec(time.Minute), health.State{}, rec)
	if err := r.Beat("fine", ""); !errors.Is(err, health.ErrBadStatus) {
		t.Errorf("unknown status: %v", err)
	}
	r.Stop()
	r.Stop()
	if err := r.Beat(health.Passing, ""); !errors.Is(err, health.ErrStopped) {
		t.Errorf("after Stop: %v", err)
	}
	if got := rec.all(); len(got) != 0 {
		t.Errorf("refused beats reported %v", got)
	}
	probe := start(t, health.Spec{ID: "p", TCP: "127.0.0.1:1", Interval: time.Hour}, health.State{}, rec)
	defer probe.Stop()
	if err := probe.Beat(health.Passing, ""); !errors.Is(err, health.ErrNotTTL) {
		t.Errorf("beat of a TCP check: %v", err)
	}
}

// slow is a Reporter that is still busy when the test calls Stop.
type slow struct {
	entered  chan struct{}
	release  chan struct{}
	finished atomic.Bool
}

func (s *slow) Report(string, health.Status, string) {
	close(s.entered)
	<-s.release
	s.finished.Store(true)
}

func TestStopWaitsForTheReportUnderWay(t *testing.T) {
	for _, spec := range []health.Spec{
		ttlSpec(time.Millisecond),
		{ID: "tcp", TCP: "127.0.0.1:1", Interval: time.Second},
	} {
		t.Run(spec.Kind(), func(t *testing.T) {
			t.Parallel()
			s := &slow{entered: make(chan struct{}), release: make(chan struct{})}
			r := start(t, spec, health.State{}, s)
			<-s.entered
			time.AfterFunc(20*time.Millisecond, func() { close(s.release) })
			r.Stop()
			if !s.finished.Load() {
				t.Error("Stop returned while a report was running")
			}
		})
	}
}

func TestConcurrentBeatsReportInOrder(t *testing.T) {
	rec := &recorder{}
	r := start(t, ttlSpec(time.Minute), health.State{}, rec)
	defer r.Stop()
	var wg sync.WaitGroup
	for i := range 8 {
		wg.Go(func() {
			for range 200 {
				_ = r.Beat([]health.Status{health.Passing, health.Warning, health.Critical}[i%3], "")
			}
		})
	}
	wg.Wait()
	got := rec.all()
	for i := 1; i < len(got); i++ {
		if got[i].status == got[i-1].status {
			t.Fatalf("report %d repeats %q: a change was reported twice or out of order", i, got[i].status)
		}
	}
	if s := r.State().Status; s != rec.last(t).status {
		t.Errorf("state %q differs from the last report %q", s, rec.last(t).status)
	}
}

func TestBeatAllocatesNothing(t *testing.T) {
	r := start(t, health.Spec{ID: "beat", TTL: time.Minute, OutputMaxSize: 16}, health.State{}, &recorder{})
	defer r.Stop()
	for _, output := range []string{"", "ok", strings.Repeat("x", 4096)} {
		_ = r.Beat(health.Passing, output)
		if n := testing.AllocsPerRun(100, func() { _ = r.Beat(health.Passing, output) }); n != 0 {
			t.Errorf("beat with %d bytes of output: %v allocations", len(output), n)
		}
	}
}

func BenchmarkBeat(b *testing.B) {
	r, err := health.Start(ttlSpec(time.Minute), health.State{}, &recorder{})
	if err != nil {
		b.Fatal(err)
	}
	defer r.Stop()
	_ = r.Beat(health.Passing, "ok")
	b.ReportAllocs()
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			_ = r.Beat(health.Passing, "ok")
		}
	})
}
