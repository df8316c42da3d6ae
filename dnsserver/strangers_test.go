package dnsserver

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"testing/synctest"
	"time"
)

// A storm of names that nobody registered costs the cluster a constant trickle, and hides nobody who exists.
func TestStormOfUnknownNamesStaysHere(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster()
		c.set(webPath, "["+instance("n1", "10.0.0.1", "passing")+"]")
		c.set("/v1/catalog/services", `{"consul":[],"Web":["a"]}`)
		c.set("/v1/catalog/nodes", `[{"Node":"N1"}]`)
		c.set("/v1/catalog/node/n1", `{"Node":{"Node":"N1","Address":"10.0.0.1"}}`)
		f := newFollower(t, c, 0)
		defer f.Close()
		total := func() (n int) {
			c.mu.Lock()
			defer c.mu.Unlock()
			for _, k := range c.asked {
				n += k
			}
			return n
		}
		ctx := context.Background()
		storm := func(round int) {
			for i := range 5000 {
				if a, err := f.Service(ctx, fmt.Sprintf("no%d-%d", round, i)); err != nil || len(a.Instances) != 0 {
					t.Fatalf("made-up service: %+v, %v", a, err)
				}
				if n, _, err := f.Node(ctx, fmt.Sprintf("no%d-%d", round, i)); err != nil || n != nil {
					t.Fatalf("made-up node: %+v, %v", n, err)
				}
			}
		}
		storm(0)
		if n := total(); n > 2*newNamesBurst+10 {
			t.Errorf("10,000 made-up names cost %d requests", n)
		}
		// In the middle of it, who exists is found.
		if got := addrs(t, f); got != "10.0.0.1" {
			t.Errorf("web: %q", got)
		}
		if n, _, err := f.Node(ctx, "n1"); err != nil || n == nil || n.Address != "10.0.0.1" {
			t.Errorf("n1: %+v, %v", n, err)
		}
		before := total() // each name that is asked about is asked once, and then followed for a while
		for round := range 10 {
			time.Sleep(time.Second)
			storm(1 + round)
		}
		if n := total() - before; n > 2*10*newNames+20 {
			t.Errorf("ten seconds of a storm cost %d requests", n)
		}
		// Who comes is found at once.
		c.set("/v1/health/service/late", "["+instance("n1", "10.0.0.2", "passing")+"]")
		c.set("/v1/catalog/services", `{"consul":[],"web":["a"],"late":[]}`)
		synctest.Wait()
		if a, err := f.Service(ctx, "late"); err != nil || len(a.Instances) != 1 {
			t.Errorf("late: %+v, %v", a, err)
		}
		// Nobody can be asked: unknown is not the same as absent, and it does not take long to say so.
		c.fail(true)
		synctest.Wait()
		for f.newcomers.Allow() {
		}
		began := time.Now()
		if _, err := f.Service(ctx, "unknown"); !errors.Is(err, ErrUnreachable) || time.Since(began) > 0 {
			t.Errorf("unreachable: %v after %v", err, time.Since(began))
		}
		if got := addrs(t, f); got != "10.0.0.1 stale" {
			t.Errorf("web while unreachable: %q", got)
		}
	})
}
