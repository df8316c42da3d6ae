package consensus_test

import (
	"context"
	"fmt"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/musterhq/muster/consensus"
)

// onBenchDisk puts data directories below MUSTER_BENCH_DIR, which should lie on a real disk.
func onBenchDisk(b *testing.B) func(*cluster) {
	return func(c *cluster) {
		c.timing = consensus.LAN()
		c.tune = func(cfg *consensus.Config) {
			dir, err := os.MkdirTemp(os.Getenv("MUSTER_BENCH_DIR"), "bench")
			if err != nil {
				b.Fatal(err)
			}
			b.Cleanup(func() { _ = os.RemoveAll(dir) })
			cfg.Dir = dir
		}
	}
}

// BenchmarkPropose writes small keys with real fsyncs; compare with BenchmarkDisk of the same run.
func BenchmarkPropose(b *testing.B) {
	for _, size := range []int{1, 3} {
		for _, clients := range []int{1, 64} {
			b.Run(fmt.Sprintf("servers=%d/clients=%d", size, clients), func(b *testing.B) {
				c := newCluster(b, size, onBenchDisk(b))
				l := c.leader()
				var next atomic.Int64
				var wg sync.WaitGroup
				val := string(make([]byte, 100))
				b.ResetTimer()
				for range clients {
					wg.Go(func() {
						for {
							i := next.Add(1)
							if i > int64(b.N) {
								return
							}
							if _, err := l.Propose(context.Background(), set(fmt.Sprintf("key-%d", i%10000), val)); err != nil {
								b.Error(err)
								return
							}
						}
					})
				}
				wg.Wait()
			})
		}
	}
}

// BenchmarkRead reads on the leader with one reader per processor.
func BenchmarkRead(b *testing.B) {
	for _, size := range []int{1, 3} {
		for name, how := range map[string]consensus.Consistency{"default": consensus.Default, "consistent": consensus.Consistent} {
			b.Run(fmt.Sprintf("servers=%d/%s", size, name), func(b *testing.B) {
				c := newCluster(b, size, func(c *cluster) { c.timing = consensus.LAN() })
				c.write("a", "1")
				l := c.leader()
				b.ReportAllocs()
				b.ResetTimer()
				b.RunParallel(func(pb *testing.PB) {
					for pb.Next() {
						if _, _, err := l.Read(context.Background(), how); err != nil {
							b.Error(err)
							return
						}
					}
				})
			})
		}
	}
}

// BenchmarkStart measures a fresh single server from Open to its first acknowledged write.
func BenchmarkStart(b *testing.B) {
	for b.Loop() {
		c := newCluster(b, 1, onBenchDisk(b))
		m := c.members[0]
		if err := m.WaitLeader(context.Background()); err != nil {
			b.Fatal(err)
		}
		if _, err := m.Propose(context.Background(), set("a", "1")); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkFailover measures, with default timing, the time from the loss of the leader to the next acknowledged
// write: when its process dies (its port refuses), when its machine falls silent, when its disk stalls.
func BenchmarkFailover(b *testing.B) {
	for _, how := range []string{"killed", "silent", "stalled"} {
		b.Run(how, func(b *testing.B) {
			var took []time.Duration
			for range b.N {
				disks := map[string]*disk{}
				onDisk := onBenchDisk(b)
				c := newCluster(b, 3, withDisks(disks), func(c *cluster) {
					slow := c.tune
					onDisk(c)
					fast := c.tune
					c.tune = func(cfg *consensus.Config) { fast(cfg); slow(cfg) }
				})
				heal := func() {}
				c.write("a", "1")
				l := c.leader()
				start := time.Now()
				switch how {
				case "killed":
					c.kill(l)
				case "silent":
					c.net.isolate(l.cfg.Addr, true)
				case "stalled":
					heal = disks[l.cfg.ID].stall()
				}
				c.write("b", "2")
				took = append(took, time.Since(start))
				heal()
				for _, m := range c.members {
					c.stop(m)
				}
			}
			slices.Sort(took)
			b.ReportMetric(float64(took[len(took)/2].Milliseconds()), "median-ms")
			b.ReportMetric(float64(took[len(took)-1].Milliseconds()), "worst-ms")
		})
	}
}

// BenchmarkRestart measures a single server that fell with 200,000 keys, from Open to its first acknowledged write.
func BenchmarkRestart(b *testing.B) {
	c := newCluster(b, 1, onBenchDisk(b))
	m := c.leader()
	var wg sync.WaitGroup
	var next atomic.Int64
	val := string(make([]byte, 100))
	for range 64 {
		wg.Go(func() {
			for i := next.Add(1); i <= 200_000; i = next.Add(1) {
				if _, err := m.Propose(context.Background(), set(fmt.Sprintf("dir%d/key-%d", i%100, i), val)); err != nil {
					b.Error(err)
					return
				}
			}
		})
	}
	wg.Wait()
	c.tune = nil
	for b.Loop() {
		b.StopTimer()
		dir := c.crash(m)
		c.net.isolate(m.cfg.Addr, false)
		b.StartTimer()
		m = c.start(m.cfg.ID, loopback, dir)
		if err := m.WaitLeader(context.Background()); err != nil {
			b.Fatal(err)
		}
		if _, err := m.Propose(context.Background(), set("a", "1")); err != nil {
			b.Fatal(err)
		}
	}
	c.members = []*member{m}
}
