package agent

import (
	"context"
	"encoding/json"
	"sync"
	"time"

	"github.com/musterhq/muster/api/consul"
	"github.com/musterhq/muster/membership"
)

// keptEvents are kept of the user events for this agent.
const keptEvents = 256

// userEventName marks the user events of the dialect among all that gossip may carry.
const userEventName = "event"

// userEvents are the events that gossip brought and that are for this agent. Nothing of them is replicated or kept
// over a restart.
type userEvents struct {
	agent *Agent

	mu      sync.Mutex
	list    []*consul.UserEvent // at most keptEvents, oldest first
	changed chan struct{}       // closed by the next one
	sent    map[string]chan struct{}
}

func newUserEvents(a *Agent) *userEvents {
	return &userEvents{agent: a, changed: make(chan struct{}), sent: map[string]chan struct{}{}}
}

// Events implements consul.LocalEvents.
func (u *userEvents) Events() ([]*consul.UserEvent, <-chan struct{}) {
	u.mu.Lock()
	defer u.mu.Unlock()
	return u.list, u.changed
}

// ownEvent is how long Fire waits for its event to come back to this agent.
const ownEvent = 2 * time.Second

// Fire implements consul.LocalEvents.
func (u *userEvents) Fire(ctx context.Context, e *consul.UserEvent) error {
	payload, err := json.Marshal(e)
	if err != nil {
		return err
	}
	back := make(chan struct{})
	u.mu.Lock()
	u.sent[e.ID] = back
	u.mu.Unlock()
	defer func() {
		u.mu.Lock()
		delete(u.sent, e.ID)
		u.mu.Unlock()
	}()
	if err := u.agent.pool.Fire(userEventName, payload); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, ownEvent)
	defer cancel()
	select {
	case <-back:
	case <-ctx.Done(): // it is on its way all the same
	}
	return nil
}

// receive takes what gossip brought. What cannot be read comes from a stranger and is dropped.
func (u *userEvents) receive(ev membership.Event) {
	var e consul.UserEvent
	if ev.Name != userEventName || json.Unmarshal(ev.Payload, &e) != nil {
		u.agent.log.Debug("dropping a user event that is not understood", "name", ev.Name)
		return
	}
	e.LTime = ev.LTime
	mine := e.ForAgent(u.agent.cfg.NodeName, func(yield func(string, []string) bool) {
		for _, s := range u.agent.registry.Services() {
			if !yield(s.Name, s.Tags) {
				return
			}
		}
	})
	u.agent.log.Debug("user event", "name", e.Name, "id", e.ID, "for this agent", mine)
	u.mu.Lock()
	defer u.mu.Unlock()
	if mine {
		// Readers hold the old list: it is never changed.
		list := make([]*consul.UserEvent, 0, keptEvents)
		list = append(list, u.list[max(0, len(u.list)-keptEvents+1):]...)
		u.list = append(list, &e)
		close(u.changed)
		u.changed = make(chan struct{})
	}
	if back := u.sent[e.ID]; back != nil {
		close(back)
		delete(u.sent, e.ID)
	}
}
