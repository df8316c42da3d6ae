package dnsserver

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/miekg/dns"

	"github.com/musterhq/muster/catalog"
)

// bothWays runs a test against packed and composed answers.
func bothWays(t *testing.T, src Source, change func(*Config), test func(t *testing.T, s *Server)) {
	for _, packed := range []bool{true, false} {
		c := contractConfig()
		c.DisableCompression = !packed
		if change != nil {
			change(&c)
		}
		s := start(t, c, src)
		t.Run(fmt.Sprintf("packed=%v", packed), func(t *testing.T) { test(t, s) })
	}
}

// targets are the addresses or ports of the answers, in their order.
func targets(r *dns.Msg) []string {
	var out []string
	for _, rr := range r.Answer {
		switch x := rr.(type) {
		case *dns.A:
			out = append(out, x.A.String())
		case *dns.SRV:
			out = append(out, fmt.Sprint(x.Port))
		}
	}
	return out
}

// The record that clients use, the first, comes up as often as its weight says.
func TestAnswersFollowWeights(t *testing.T) {
	w := newWorld(t)
	for i, weight := range []int{1, 8, 1} {
		w.service("n", "10.0.0.9", catalog.Service{ID: fmt.Sprint(i), Name: "web", Address: fmt.Sprint("10.0.0.", i), Port: i, Weights: catalog.Weights{Passing: weight, Warning: 1}}, "")
	}
	bothWays(t, NewTreeSource(w.tree.Snap), nil, func(t *testing.T, s *Server) {
		for qtype, heavy := range map[uint16]string{dns.TypeA: "10.0.0.1", dns.TypeSRV: "1"} {
			const rounds = 1000
			first, last := 0, 0
			for range rounds {
				got := targets(ask(t, s, "udp", "web.service.consul.", qtype, 0))
				if len(got) != 3 || len(slices.Compact(slices.Sorted(slices.Values(got)))) != 3 {
					t.Fatalf("answers %v", got)
				}
				if got[0] == heavy {
					first++
				}
				if got[2] == heavy {
					last++
				}
			}
			// 800 and 22 are expected; the bounds are ten standard deviations away.
			if first < 670 || first > 920 || last > 80 {
				t.Errorf("%s: the heavy one was first %d times and last %d times of %d", dns.TypeToString[qtype], first, last, rounds)
			}
		}
	})
}

func TestSharedAddressAddsItsWeights(t *testing.T) {
	w := newWorld(t)
	for i := range 4 {
		w.service("n", "10.0.0.9", catalog.Service{ID: fmt.Sprint(i), Name: "web", Port: 80 + i, Weights: catalog.Weights{Passing: 20000, Warning: 1}}, "")
	}
	s := start(t, contractConfig(), NewTreeSource(w.tree.Snap))
	if got := targets(ask(t, s, "udp", "web.service.consul.", dns.TypeA, 0)); !slices.Equal(got, []string{"10.0.0.9"}) {
		t.Errorf("answers %v", got)
	}
}

// Those in the asker's zone come first, then those in its region, each group shuffled.
func TestNearOnesComeFirst(t *testing.T) {
	w := newWorld(t)
	places := []struct {
		meta     map[string]string
		locality *catalog.Locality
	}{
		{nil, nil},
		{map[string]string{"zone": "B", "region": "eu"}, nil},
		{map[string]string{"zone": "a", "region": "us"}, nil}, // another region's zone of that name
		{nil, &catalog.Locality{Region: "EU", Zone: "A"}},
		{map[string]string{"zone": "a", "region": "eu"}, nil},
		{map[string]string{"zone": "a"}, nil},
	}
	for i, p := range places {
		name, addr := fmt.Sprint("n", i), fmt.Sprint("10.0.0.", i)
		w.register(catalog.Registration{
			Node:    catalog.Node{Name: name, Address: addr, Datacenter: "dc1", Meta: p.meta, Locality: p.locality},
			Service: &catalog.Service{ID: "w", Name: "web", Port: i},
		})
	}
	src := NewTreeSource(w.tree.Snap)
	tiers := func(r *dns.Msg) string {
		got := targets(r)
		if len(got) != 6 {
			t.Fatalf("answers %v", got)
		}
		slices.Sort(got[:3])
		slices.Sort(got[4:])
		return strings.Join(got, " ")
	}
	here := func(c *Config) { c.Locality = &catalog.Locality{Region: "eu", Zone: "a"} }
	bothWays(t, src, here, func(t *testing.T, s *Server) {
		seen := map[string]bool{}
		for range 100 {
			r := ask(t, s, "udp", "web.service.consul.", dns.TypeA, 1232)
			seen[strings.Join(targets(r), " ")] = true
			if got := tiers(r); got != "10.0.0.3 10.0.0.4 10.0.0.5 10.0.0.1 10.0.0.0 10.0.0.2" {
				t.Fatalf("A: %v", got)
			}
			if got := tiers(ask(t, s, "udp", "web.service.consul.", dns.TypeSRV, 1232)); got != "3 4 5 1 0 2" {
				t.Fatalf("SRV: %v", got)
			}
		}
		if len(seen) < 6 { // of 12
			t.Errorf("only %d orders in 100 answers", len(seen))
		}
	})
	// What the catalog says of the asker's address counts more than where this machine stands.
	w.register(catalog.Registration{Node: catalog.Node{Name: "asker", Address: "127.0.0.1", Datacenter: "dc1", Meta: map[string]string{"zone": "b", "region": "eu"}}})
	src = NewTreeSource(w.tree.Snap)
	bothWays(t, src, func(c *Config) { here(c); c.Places = src.Place }, func(t *testing.T, s *Server) {
		if got := targets(ask(t, s, "udp", "web.service.consul.", dns.TypeA, 1232)); len(got) != 6 || got[0] != "10.0.0.1" {
			t.Errorf("answers %v", got)
		}
	})
	if _, known := src.Place(netip.MustParseAddr("10.0.0.0")); known {
		t.Error("a node without a zone has a place")
	}
}

func TestStableOrder(t *testing.T) {
	w := newWorld(t)
	w.bulk("web-a", 12)
	w.bulk("other", 12)
	stable := func(c *Config) { c.StableOrder = []string{"web-*", "x"} }
	bothWays(t, NewTreeSource(w.tree.Snap), stable, func(t *testing.T, s *Server) {
		orders := map[string]map[string]bool{"web-a": {}, "other": {}}
		for name, seen := range orders {
			for range 20 {
				seen[strings.Join(targets(ask(t, s, "tcp", name+".service.consul.", dns.TypeSRV, 0)), " ")] = true
				seen[strings.Join(targets(ask(t, s, "tcp", name+".service.consul.", dns.TypeA, 0)), " ")] = true
			}
		}
		if len(orders["web-a"]) != 2 || len(orders["other"]) < 10 {
			t.Errorf("%d orders of the stable service, %d of the other", len(orders["web-a"]), len(orders["other"]))
		}
	})
}
