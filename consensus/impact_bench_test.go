package consensus_test

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/musterhq/muster/consensus"
)

// These measure what one thing costs another, in one run, with -benchtime 1x; docs/performance.md has what was seen.

// latencies writes from so many goroutines until ctx ends or each has written n times, and gives how long the writes took, sorted.
func latencies(ctx context.Context, b *testing.B, m *member, writers, n int) []time.Duration {
	var mu sync.Mutex
	var all []time.Duration
	var wg sync.WaitGroup
	for w := range writers {
		wg.Go(func() {
			var own []time.Duration
			for i := 0; i < n && ctx.Err() == nil; i++ {
				begin := time.Now()
				if _, err := m.Propose(context.Background(), set(fmt.Sprintf("hot/%d-%d", w, i%100), "value")); err != nil {
					b.Error(err)
					return
				}
				own = append(own, time.Since(begin))
			}
			mu.Lock()
			defer mu.Unlock()
			all = append(all, own...)
		})
	}
	wg.Wait()
	slices.Sort(all)
	return all
}

func report(b *testing.B, name string, all []time.Duration, took time.Duration) {
	if len(all) == 0 {
		b.Fatal("nothing was written")
	}
	at := func(p float64) float64 { return float64(all[int(float64(len(all)-1)*p)].Microseconds()) }
	b.ReportMetric(at(0.5), name+"-p50-µs")
	b.ReportMetric(at(0.99), name+"-p99-µs")
	b.ReportMetric(at(1), name+"-max-µs")
	if took > 0 {
		b.ReportMetric(float64(len(all))/took.Seconds(), name+"-writes/s")
	}
	b.Logf("%-12s %7d writes, p50 %6.0f p99 %6.0f p99.9 %6.0f max %6.0f µs, %.0f/s", name, len(all), at(0.5), at(0.99), at(0.999), at(1), float64(len(all))/took.Seconds())
}

// fill writes n keys, many at a time; keys is how many different ones.
func fill(b *testing.B, m *member, n, keys int) {
	var wg sync.WaitGroup
	value := strings.Repeat("v", 100)
	for w := range 256 {
		wg.Go(func() {
			for i := w; i < n; i += 256 {
				if _, err := m.Propose(context.Background(), set(fmt.Sprintf("fill/%d", i%keys), value)); err != nil {
					b.Error(err)
					return
				}
			}
		})
	}
	wg.Wait()
}

// BenchmarkAppendByAge: one client on one server, with so many entries behind it.
func BenchmarkAppendByAge(b *testing.B) {
	for b.Loop() {
		c := newCluster(b, 1, onDisk)
		c.timing = consensus.LAN()
		l := c.leader()
		written := 0
		for _, age := range []int{10_000, 100_000, 1_000_000} {
			fill(b, l, age-written, 1000)
			written = age
			begin := time.Now()
			report(b, fmt.Sprint(age), latencies(context.Background(), b, l, 1, 3000), time.Since(begin))
		}
	}
}

// BenchmarkWritesBesideSnapshots: clients on a server with 200,000 keys, without and with snapshots one after the other.
func BenchmarkWritesBesideSnapshots(b *testing.B) {
	for b.Loop() {
		c := newCluster(b, 1, onDisk, tuned(func(c *consensus.Config) { c.SnapshotThreshold, c.SnapshotInterval = 1<<40, time.Hour }))
		l := c.leader()
		fill(b, l, 200_000, 200_000)
		for _, writers := range []int{1, 16} {
			quiet := func(name string) {
				ctx, cancel := context.WithTimeout(context.Background(), 4*time.Second)
				defer cancel()
				begin := time.Now()
				report(b, fmt.Sprintf("%d-%s", writers, name), latencies(ctx, b, l, writers, 1<<30), time.Since(begin))
			}
			quiet("quiet")
			stop := make(chan struct{})
			var wg sync.WaitGroup
			snapshots := 0
			wg.Go(func() {
				for {
					select {
					case <-stop:
						return
					default:
						if err := l.Snapshot(); err != nil {
							b.Error(err)
							return
						}
						snapshots++
					}
				}
			})
			quiet("snapshots")
			close(stop)
			wg.Wait()
			b.Logf("%d snapshots", snapshots)
			quiet("quiet-again")
		}
	}
}

// BenchmarkWritesBesideALaggard: clients on the leader of three with 200,000 keys, while a follower without anything gets a snapshot.
func BenchmarkWritesBesideALaggard(b *testing.B) {
	for b.Loop() {
		c := newCluster(b, 3, onDisk, tuned(func(c *consensus.Config) { c.TrailingLogs = 1000 }), func(c *cluster) { c.timing = consensus.LAN() })
		l := c.leader()
		fill(b, l, 200_000, 200_000)
		if err := l.Snapshot(); err != nil {
			b.Fatal(err)
		}
		f := c.followers()[0]
		measure := func(name string, until func() bool) {
			limit := 4 * time.Second
			if until != nil {
				limit = time.Minute
			}
			ctx, cancel := context.WithTimeout(context.Background(), limit)
			defer cancel()
			begin := time.Now()
			if until != nil {
				go func() {
					defer cancel()
					for ctx.Err() == nil && !until() {
						time.Sleep(5 * time.Millisecond)
					}
					b.Logf("caught up after %v", time.Since(begin).Round(time.Millisecond))
				}()
			}
			report(b, name, latencies(ctx, b, l, 16, 1<<30), time.Since(begin))
		}
		measure("three", nil)
		c.stop(f)
		measure("two", nil)
		fill(b, l, 20_000, 1000)
		if err := l.Snapshot(); err != nil {
			b.Fatal(err)
		}
		f = c.restart(f, b.TempDir())
		measure("catching-up", func() bool { return f.Status().AppliedIndex+500 > l.Status().AppliedIndex })
		measure("three-again", nil)
	}
}
