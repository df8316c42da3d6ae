package proxy

import (
	"sync"
	"sync/atomic"
	"time"
)

const (
	asideFirst = 500 * time.Millisecond // a failed server is left alone this long, doubled with each failure ...
	asideMost  = 8 * time.Second        // ... up to this, give or take a quarter by chance
	rotateMin  = 2 * time.Minute        // the preferred server is chosen anew after one to two times this
)

// picker chooses the server to ask. It keeps one preferred server, so that connections and caches stay warm, and
// chooses another by chance now and then, so that load spreads again after servers came back.
type picker struct {
	cfg    *Config
	now    func() time.Time
	random func() float64 // [0, 1)

	preferred atomic.Pointer[choice]
	leader    atomic.Pointer[string] // learned from answers; nil when unknown

	mu      sync.Mutex
	aside   map[string]failure
	nAside  atomic.Int32 // len(aside), to skip the lock in good times
	maxKeep int
}

// choice is the preferred server and when to think again.
type choice struct {
	addr  string
	until time.Time
}

// failure is a server being left alone.
type failure struct {
	until time.Time
	count int
}

func (k *picker) init(cfg *Config, now func() time.Time, random func() float64) {
	k.cfg, k.now, k.random = cfg, now, random
	k.aside = make(map[string]failure)
	k.maxKeep = 256
}

// pick returns the next server for a request that has been through ro, or false when this round is over.
//
// A server has raft to tell it who leads and asks nobody else but whom that leader names. Any other agent asks
// whom a server just named, whom it learned of, whom it is told of, and then anybody: a follower relays the request
// or names the leader.
func (k *picker) pick(t Target, ro *round) (string, bool) {
	if t == Any {
		return k.any(ro)
	}
	told := k.cfg.Leader()
	if k.cfg.Self != "" {
		switch {
		case told == k.cfg.Self && k.cfg.Local != nil:
			return told, true
		case told != "" && told != k.cfg.Self && !ro.has(told):
			return told, true
		case k.usable(ro.hint, ro) && k.known(ro.hint):
			return ro.hint, true
		}
		return "", false
	}
	if k.usable(ro.hint, ro) && k.known(ro.hint) {
		return ro.hint, true
	}
	if l := k.leader.Load(); l != nil && k.usable(*l, ro) {
		return *l, true
	}
	if k.usable(told, ro) {
		return told, true
	}
	return k.any(ro)
}

func (k *picker) usable(addr string, ro *round) bool {
	return addr != "" && addr != k.cfg.Self && !ro.has(addr) && !k.isAside(addr)
}

// any prefers the preferred, then healthy servers, and takes those that failed lately or are said to be unhealthy
// only when nobody else has answered in this round.
func (k *picker) any(ro *round) (string, bool) {
	servers := k.cfg.Servers()
	if c := k.preferred.Load(); c != nil && !ro.has(c.addr) && k.now().Before(c.until) && !k.isAside(c.addr) {
		for i := range servers {
			if servers[i].Addr == c.addr && servers[i].Healthy {
				return c.addr, true
			}
		}
	}
	var good, poor string
	var nGood, nPoor int
	for i := range servers {
		s := &servers[i]
		if s.Addr == "" || s.Addr == k.cfg.Self || ro.has(s.Addr) {
			continue
		}
		// One pass chooses evenly among those seen so far.
		if s.Healthy && !k.isAside(s.Addr) {
			if nGood++; int(k.random()*float64(nGood)) == 0 {
				good = s.Addr
			}
		} else if nPoor++; int(k.random()*float64(nPoor)) == 0 {
			poor = s.Addr
		}
	}
	switch {
	case good != "":
		return good, true
	case poor != "" && !ro.reached:
		return poor, true
	}
	return "", false
}

// known says whether addr is a server of ours: an address named by somebody else is only then asked.
func (k *picker) known(addr string) bool {
	for _, s := range k.cfg.Servers() {
		if s.Addr == addr {
			return true
		}
	}
	return false
}

// good notes an answer: addr stays preferred, and leader, if named and known, is remembered.
func (k *picker) good(addr string, t Target, leader string) {
	if k.nAside.Load() > 0 {
		k.mu.Lock()
		delete(k.aside, addr)
		k.nAside.Store(int32(len(k.aside)))
		k.mu.Unlock()
	}
	if t == Any {
		if c := k.preferred.Load(); c == nil || c.addr != addr || !k.now().Before(c.until) {
			until := k.now().Add(rotateMin + time.Duration(k.random()*float64(rotateMin)))
			k.preferred.Store(&choice{addr, until})
		}
	}
	if t == Leader && leader == "" {
		leader = addr // a follower that relays always names the leader
	}
	if leader != "" {
		if l := k.leader.Load(); (l == nil || *l != leader) && k.known(leader) {
			k.leader.Store(&leader)
		}
	}
}

// bad puts addr aside.
func (k *picker) bad(addr string) {
	k.notLeader(addr)
	now := k.now()
	k.mu.Lock()
	defer k.mu.Unlock()
	if len(k.aside) >= k.maxKeep { // servers come and go by address; never keep those that are over
		for a, f := range k.aside {
			if now.After(f.until.Add(asideMost)) {
				delete(k.aside, a)
			}
		}
	}
	f := k.aside[addr]
	if now.Before(f.until) {
		return // many requests fail together; that is one failure
	}
	d := min(asideFirst<<min(f.count, 10), asideMost)
	d += time.Duration((k.random() - 0.5) / 2 * float64(d))
	k.aside[addr] = failure{until: now.Add(d), count: f.count + 1}
	k.nAside.Store(int32(len(k.aside)))
}

// Suspect says that a server is thought to be dead by those who know: requests go elsewhere for a while, also those for the leader if it
// was the one. Safe for concurrent use.
func (p *Proxy) Suspect(addr string) { p.picker.bad(addr) }

// notLeader forgets addr as the learned leader.
func (k *picker) notLeader(addr string) {
	if l := k.leader.Load(); l != nil && *l == addr {
		k.leader.CompareAndSwap(l, nil)
	}
}

func (k *picker) isAside(addr string) bool {
	if k.nAside.Load() == 0 {
		return false
	}
	now := k.now()
	k.mu.Lock()
	defer k.mu.Unlock()
	return now.Before(k.aside[addr].until)
}
