package catalog

import (
	"encoding/json"
	"fmt"

	"github.com/musterhq/muster/kv"
)

// Tombstone says that a service was removed from the catalog while its node's agent was known to be away. The agent
// may come back and still have the service; it must not bring it back. See Registration.Known.
//
// It is made when a service is removed from a node whose LivenessCheck is critical. It ends when somebody registers the
// service anew, when its living owner confirms the removal, and with the node.
type Tombstone struct {
	ID, Name string // of the service
	Index    uint64 `json:"-"` // of the removal
}

// GoneError refuses a Known registration of a service that has a Tombstone.
type GoneError struct{ Node, ServiceID string }

func (e *GoneError) Error() string {
	return fmt.Sprintf("service %q of node %q was removed while its agent was away: only a new registration brings it back", e.ServiceID, e.Node)
}

func tombstonesPath(nodePath string) string    { return nodePath + "/g" }
func tombstonePath(nodePath, id string) string { return tombstonesPath(nodePath) + "/" + kv.Escape(id) }

func decodeTombstone(value string) (*Tombstone, error) {
	t := new(Tombstone)
	if err := json.Unmarshal([]byte(value), t); err != nil {
		return nil, err
	}
	return t, nil
}

// Tombstones gives those of a node, ordered by the id of the service.
func Tombstones(s *kv.Snap, node string) []Tombstone {
	var out []Tombstone
	if e, ok := s.Get(tombstonesPath(NodePath(node))); ok {
		e.Each(func(c *kv.Entry) bool {
			if t, ok := c.Record().(*Tombstone); ok {
				out = append(out, Tombstone{t.ID, t.Name, c.Modified()})
			}
			return true
		})
	}
	return out
}

// liveness is the LivenessCheck of the node the Txn is about, nil when it has none.
func (b *builder) liveness() (*Check, *kv.Entry, string) {
	path := nodeCheckPath(b.node, LivenessCheck)
	c, e := recordAt[*Check](b.snap, path)
	return c, e, path
}

// bury notes the removal of a service whose agent is away, on the condition that it still is.
func (b *builder) bury(svc *Service) error {
	live, e, path := b.liveness()
	if svc == nil || live == nil || live.Status != Critical {
		return nil
	}
	value, err := json.Marshal(Tombstone{ID: svc.ID, Name: svc.Name})
	if err != nil {
		return err
	}
	b.unchanged(path, e)
	b.set(tombstonePath(b.node, svc.ID), string(value))
	return nil
}

// confirm ends the tombstone of a service that is not there, when the agent that is told to have it is back.
func (b *builder) confirm(id string) {
	path := tombstonePath(b.node, id)
	if _, ok := b.snap.Get(path); !ok {
		return
	}
	if live, _, _ := b.liveness(); live == nil || live.Status != Critical {
		b.removeTree(path)
	}
}

// revive ends the tombstone of a service that is registered anew, or refuses one that is merely Known.
func (b *builder) revive(r *Registration, id string) error {
	path := tombstonePath(b.node, id)
	_, there := b.snap.Get(path)
	switch {
	case there && r.Known:
		return &GoneError{r.Node.Name, id}
	case there:
		b.removeTree(path)
	case r.Known:
		b.unchanged(path, nil)
	}
	return nil
}
