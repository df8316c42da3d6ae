package catalog

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	"github.com/musterhq/muster/kv"
)

// Behaviors of a session when it ends.
const (
	BehaviorRelease = "release" // its keys stay, unlocked
	BehaviorDelete  = "delete"  // its keys go
)

func sessionPath(nodePath, id string) string { return nodePath + "/l/" + kv.Escape(id) }

// CreateSession builds the Txn that creates x, whose ID the caller has set to a new UUID. The node and all checks
// must exist and no check may be critical; the Txn holds only as long as that is so. Which checks a session has by
// default is the caller's decision. Errors are *InputError.
func CreateSession(s *kv.Snap, x Session) (kv.Txn, error) {
	b := builder{snap: s, node: NodePath(x.Node)}
	if x.ID == "" {
		return kv.Txn{}, &InputError{"Missing session ID"}
	}
	if x.Behavior == "" {
		x.Behavior = BehaviorRelease
	}
	if x.Behavior != BehaviorRelease && x.Behavior != BehaviorDelete {
		return kv.Txn{}, &InputError{fmt.Sprintf("Invalid Behavior setting '%s'", x.Behavior)}
	}
	if n, _ := recordAt[*Node](s, b.node); x.Node == "" || n == nil {
		return kv.Txn{}, &InputError{"Missing node registration"}
	}
	if _, ok := GetSession(s, x.ID); ok {
		return kv.Txn{}, &InputError{fmt.Sprintf("Session '%s' exists already", x.ID)}
	}
	b.cond(kv.Cond{Kind: kv.CondHasValue, Path: b.node})
	for _, id := range x.checkIDs() {
		c, path := findCheck(s, b.node, id)
		if c == nil {
			return kv.Txn{}, &InputError{fmt.Sprintf("Missing check '%s' registration", id)}
		}
		if c.Status == Critical {
			return kv.Txn{}, &InputError{fmt.Sprintf("Check '%s' is in critical state", id)}
		}
		b.cond(kv.Cond{Kind: kv.CondIndex, Path: path, Index: c.Modified})
	}
	value, err := json.Marshal(&x)
	if err != nil {
		return kv.Txn{}, fmt.Errorf("encoding session %s: %w", x.ID, err)
	}
	path := sessionPath(b.node, x.ID)
	b.cond(kv.Cond{Kind: kv.CondAbsent, Path: path, Flat: true})
	b.set(path, string(value))
	if x.Behavior == BehaviorDelete {
		b.txn.Ops[len(b.txn.Ops)-1].UserFlags = kv.SessionDeletes
	}
	return b.accepted()
}

func decodeSession(value string) (*Session, error) {
	x := new(Session)
	if err := json.Unmarshal([]byte(value), x); err != nil {
		return nil, err
	}
	return x, nil
}

// DestroySession builds the Txn that ends a session; the Txn is empty when there is none of that id. The keys the
// session holds are released or deleted by kv when it is applied.
func DestroySession(s *kv.Snap, id string) kv.Txn {
	b := builder{snap: s}
	if path, ok := SessionPath(s, id); ok {
		b.removeTree(path)
	}
	return b.txn
}

// checkIDs are the ids of all checks the session depends on.
func (x *Session) checkIDs() []string {
	ids := slices.Clone(x.NodeChecks)
	for _, ref := range x.ServiceChecks {
		ids = append(ids, ref.ID)
	}
	return ids
}

func (x *Session) dependsOn(checks []string) bool {
	for _, id := range x.NodeChecks {
		if slices.Contains(checks, id) {
			return true
		}
	}
	for _, ref := range x.ServiceChecks {
		if slices.Contains(checks, ref.ID) {
			return true
		}
	}
	return false
}

// dropSessions ends the sessions of the node that depend on a lost check. The Txn then holds only while the node
// has the same sessions, so a session created meanwhile cannot outlive the check it was built on.
func (b *builder) dropSessions() {
	if len(b.lost) == 0 {
		return
	}
	path := b.node + "/l"
	dir, ok := b.snap.Get(path)
	if !ok {
		b.cond(kv.Cond{Kind: kv.CondAbsent, Path: path})
		return
	}
	b.cond(kv.Cond{Kind: kv.CondBelow, Path: path, Index: dir.Index()})
	var ended []string
	dir.Each(func(e *kv.Entry) bool {
		if x := record[*Session](e); x != nil && x.dependsOn(b.lost) {
			ended = append(ended, sessionPath(b.node, x.ID))
		}
		return true
	})
	if len(ended) == dir.Len() {
		// The usual end of a node: one operation, however many sessions.
		ended = []string{path}
	}
	for _, path := range ended {
		b.removeTree(path)
	}
}

// GetSession finds a session by its id.
func GetSession(s *kv.Snap, id string) (*Session, bool) {
	x, _ := recordAt[*Session](s, sessionViewPath(kv.Escape(id)))
	return x, x != nil
}

// SessionPath is the path of a session's record, as kv.Op.OwnerPath wants it.
func SessionPath(s *kv.Snap, id string) (string, bool) {
	x, ok := GetSession(s, id)
	if !ok {
		return "", false
	}
	return sessionPath(NodePath(x.Node), id), true
}

// Sessions lists all sessions. SessionsPath covers it.
func Sessions(s *kv.Snap) []*Session {
	list := records[*Session](s, SessionsPath())
	slices.SortStableFunc(list, func(a, b *Session) int {
		return strings.Compare(strings.ToLower(a.Node), strings.ToLower(b.Node))
	})
	return list
}

// NodeSessions lists the sessions of one node. NodePath covers it.
func NodeSessions(s *kv.Snap, node string) []*Session {
	return records[*Session](s, NodePath(node)+"/l")
}
