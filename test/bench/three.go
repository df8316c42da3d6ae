//go:build linux

package main

import (
	"context"
	"fmt"
	"strings"
	"time"
)

// three measures clusters of three servers, all on this machine.
func (b *bench) three() error {
	s := b.stage(3, b.kinds...)
	defer s.down()
	var killed []side
	for _, k := range s.kinds {
		killed = append(killed, side{k.name, func() (sample, error) { return killLeader(s.all[k.name]) }})
	}
	writes := func(follower bool) []side {
		var sides []side
		for _, k := range s.kinds {
			sides = append(sides, side{k.name, func() (sample, error) {
				p, err := pick(s.all[k.name], follower)
				if err != nil {
					return sample{}, err
				}
				v, err := b.load(p, p.addr, 64, put("/v2/keys/three"))
				v.cpu = 0 // one of three processes says little
				return v, err
			}})
		}
		return sides
	}
	rows := []row{
		{name: "key writes/s, 3 servers, 64 clients on the leader", format: "%.0f", goal: "≥ 1.5 × etcd", sides: writes(false)},
		{name: "key writes/s, 3 servers, 64 clients on a follower", format: "%.0f", sides: writes(true)},
		{name: "leader killed to next acknowledged write, s", format: "%.2f", goal: "≤ 0.6", sides: killed},
	}
	if !b.wants(rows) {
		return nil
	}
	if err := s.up(); err != nil {
		return err
	}
	return b.measure(rows)
}

// killLeader kills the leader, takes the time until one of the others acknowledges a write that began after that,
// and brings the killed one back.
func killLeader(list []*process) (sample, error) {
	lead, err := leader(list)
	if err != nil {
		return sample{}, err
	}
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	begin := time.Now()
	lead.stop()
	won := make(chan time.Duration, len(list))
	for _, p := range list {
		if p != lead {
			go untilWrite(ctx, p, begin, won)
		}
	}
	var took time.Duration
	select {
	case took = <-won:
	case <-ctx.Done():
		return sample{}, fmt.Errorf("no write within 30 s of the death of %s", lead.addr)
	}
	cancel()
	if err := lead.again(); err != nil {
		return sample{}, err
	}
	for _, p := range list {
		if err := p.firstWrite(30 * time.Second); err != nil {
			return sample{}, err
		}
	}
	pause(3 * time.Second)
	return sample{value: took.Seconds()}, nil
}

// patience is how long one write may take before it is given up and tried anew: a request that was on its way to
// the killed leader may never be answered, and no client has to wait for it.
const patience = 250 * time.Millisecond

// untilWrite tries writes one after the other until one is acknowledged.
func untilWrite(ctx context.Context, p *process, begin time.Time, won chan<- time.Duration) {
	for ctx.Err() == nil {
		try, cancel := context.WithTimeout(ctx, patience)
		err := p.write(try)
		cancel()
		if err == nil {
			won <- time.Since(begin)
			return
		}
		pause(2 * time.Millisecond)
	}
}

// pick chooses the leader, or a server that does not lead.
func pick(list []*process, follower bool) (*process, error) {
	lead, err := leader(list)
	if err != nil || !follower {
		return lead, err
	}
	for _, p := range list {
		if p != lead {
			return p, nil
		}
	}
	return nil, fmt.Errorf("nobody follows")
}

// leader finds the server that says it leads.
func leader(list []*process) (*process, error) {
	for range 100 {
		for _, p := range list {
			if _, body, err := call("GET", "http://"+p.addr+"/v2/stats/self", ""); err == nil && strings.Contains(string(body), `"StateLeader"`) {
				return p, nil
			}
		}
		pause(50 * time.Millisecond)
	}
	return nil, fmt.Errorf("nobody says it leads")
}
