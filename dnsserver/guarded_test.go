package dnsserver

import (
	"bytes"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/musterhq/muster/guard"
)

// guardedFollower follows with a guard.
func guardedFollower(t *testing.T, c *cluster) (*FollowSource, *guard.Services) {
	t.Helper()
	g := guard.New(guard.Config{Rules: guard.DefaultRules()})
	g.Begin()
	f, err := NewFollowSource(FollowConfig{Fetch: c.fetch, Guard: g})
	if err != nil {
		t.Fatal(err)
	}
	return f, g
}

// setMany makes web have n instances, of which the first bad are critical.
func (c *cluster) setMany(n, bad int) {
	list := make([]string, n)
	for i := range list {
		status := "passing"
		if i < bad {
			status = "critical"
		}
		list[i] = instance(fmt.Sprint("n", i), fmt.Sprint("10.0.0.", i), status)
	}
	c.set(webPath, "["+strings.Join(list, ",")+"]")
}

func count(t *testing.T, f *FollowSource) int {
	t.Helper()
	synctest.Wait()
	return len(strings.Fields(strings.TrimSuffix(addrs(t, f), " stale")))
}

func TestFollowerHoldsUntilTheTimeIsOver(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster()
		c.setMany(10, 0)
		f, g := guardedFollower(t, c)
		defer f.Close()
		use(t, f)
		if n := count(t, f); n != 10 {
			t.Fatalf("%d of 10", n)
		}
		c.setMany(10, 8)
		if n := count(t, f); n != 10 {
			t.Fatalf("%d of 10 while it is held", n)
		}
		one, _ := f.Service(t.Context(), "web")
		if two, _ := f.Service(t.Context(), "web"); one != two {
			t.Error("nothing has changed, and the pointer has")
		}
		time.Sleep(guard.DefaultRules().Hold)
		g.Expire()
		if n := count(t, f); n != 2 {
			t.Fatalf("%d of 10 after the time", n)
		}
		c.setMany(4, 0)
		if n := count(t, f); n != 4 {
			t.Fatalf("%d after most were removed, want 4", n)
		}
	})
}

func TestFollowerHoldsWhatItRemembersFromBefore(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster()
		c.setMany(10, 0)
		f, _ := guardedFollower(t, c)
		count(t, f)
		var saved bytes.Buffer
		body, err := c.fetch(t.Context(), webPath, nil)
		if err != nil {
			t.Fatal(err)
		}
		saved.Write(body.Body)
		f.Close()

		c.setMany(10, 8)
		f, g := guardedFollower(t, c)
		defer f.Close()
		f.Remember(webPath, saved.Bytes(), 1)
		if n := count(t, f); n != 10 || len(g.Holds()) != 1 {
			t.Fatalf("%d of 10, holds %v", n, g.Holds())
		}
	})
}

// TestFollowerDoubtsAServerThatLostItsData: its index is lower than what was known.
func TestFollowerDoubtsAServerThatLostItsData(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster()
		c.index = 100
		c.setMany(2, 0)
		f, _ := guardedFollower(t, c)
		defer f.Close()
		use(t, f)
		if n := count(t, f); n != 2 {
			t.Fatalf("%d of 2", n)
		}
		c.mu.Lock()
		c.index = 3
		delete(c.bodies, webPath)
		c.mu.Unlock()
		c.fail(true)
		synctest.Wait()
		c.fail(false)
		time.Sleep(time.Minute)
		if n := count(t, f); n != 2 {
			t.Fatalf("%d of 2 from a server that lost its data", n)
		}
		time.Sleep(5 * time.Minute)
		if n := count(t, f); n != 0 && addrs(t, f) != "" {
			t.Fatalf("%q after the time for doubt", addrs(t, f))
		}
	})
}

// TestFollowerBelievesAtAWord: nobody waits for the next attempt once an operator has said that it is true.
func TestFollowerBelievesAtAWord(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster()
		c.index = 100
		c.setMany(2, 0)
		f, g := guardedFollower(t, c)
		defer f.Close()
		use(t, f)
		count(t, f)
		c.mu.Lock()
		c.index = 3
		c.mu.Unlock()
		c.setMany(1, 0)
		c.fail(true)
		synctest.Wait()
		c.fail(false)
		time.Sleep(time.Minute)
		if n := count(t, f); n != 2 {
			t.Fatalf("%d of 2 from a server that lost its data", n)
		}
		g.Release("")
		if n := count(t, f); n != 1 {
			t.Errorf("%d of 1 after the word", n)
		}
	})
}
