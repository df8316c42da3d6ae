package dnsserver

import (
	"hash/maphash"
	"net/netip"
	"sync"
	"time"
)

// clients bounds how many questions over UDP each client may ask a second. Addresses that fall into one slot share
// what is allowed; a storm of forged addresses takes no memory.
type clients struct {
	seed  maphash.Seed
	slots [8192]clientSlot
}

type clientSlot struct {
	mu     sync.Mutex
	tokens float64
	last   time.Time
}

func newClients() *clients { return &clients{seed: maphash.MakeSeed()} }

// allow takes one question of addr, of rate a second with a burst of one second's worth. The loopback address is
// never limited: a resolver on this machine asks for everybody.
func (c *clients) allow(addr netip.Addr, rate int) bool {
	if rate <= 0 || !addr.IsValid() || addr.IsLoopback() {
		return true
	}
	if addr.Is6() { // whoever has one address of a network has them all
		p, _ := addr.WithZone("").Prefix(64)
		addr = p.Addr()
	}
	b := addr.As16()
	s := &c.slots[maphash.Bytes(c.seed, b[:])%uint64(len(c.slots))]
	now := time.Now()
	s.mu.Lock()
	defer s.mu.Unlock()
	most := float64(rate)
	if s.last.IsZero() {
		s.tokens = most
	} else {
		s.tokens = min(most, s.tokens+now.Sub(s.last).Seconds()*most)
	}
	s.last = now
	if s.tokens < 1 {
		return false
	}
	s.tokens--
	return true
}
