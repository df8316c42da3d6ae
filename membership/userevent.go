package membership

import "fmt"

// MaxUserEvent is the most bytes the name and the payload of a user event may have together: an event travels in one
// gossip packet. (The library's own limit is lower.)
const MaxUserEvent = 1024

// Fire tells every live member, this one included, of something that is no matter of membership: they get an Event of
// Kind User. Delivery is best effort: a member that misses a few rounds of gossip gets it by the next full exchange,
// one that joins later never. Events of all members are ordered by a logical clock. The error says that name and
// payload are too long, or that gossip is over.
func (p *Pool) Fire(name string, payload []byte) error {
	if n := len(name) + len(payload); n > MaxUserEvent {
		return fmt.Errorf("membership: user event of %d bytes, at most %d are allowed", n, MaxUserEvent)
	}
	if err := p.serf.UserEvent(name, payload, false); err != nil {
		return fmt.Errorf("membership: user event: %w", err)
	}
	return nil
}
