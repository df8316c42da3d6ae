package consul

import (
	"fmt"
	"strings"

	"github.com/musterhq/muster/catalog"
	"github.com/musterhq/muster/kv"
)

// kvWrites and kvReads are the verbs of operations on keys.
var (
	kvWrites = map[string]bool{"set": true, "cas": true, "lock": true, "unlock": true, "delete": true, "delete-tree": true, "delete-cas": true}
	kvReads  = map[string]bool{"get": true, "get-or-empty": true, "get-tree": true, "check-index": true, "check-session": true, "check-not-exists": true}
)

// kv evaluates an operation on a key.
func (x *transaction) kv(base, s *kv.Snap, o *txnKV) (step, error) {
	path := kvRoot + o.Key
	e, _ := s.Get(path)
	if e != nil && !e.HasValue() {
		e = nil
	}
	is := kv.Cond{Kind: kv.CondIndex, Path: path} // the key is what it is now
	if e != nil {
		is.Index = e.Modified()
	}
	op := kv.Op{Kind: kv.OpSet, Action: kv.ActSet, Flags: flatWrite, Path: path, Value: string(o.Value), UserFlags: o.Flags}
	t := step{show: showKey(o.Key, false)}
	switch o.Verb {
	case "get":
		if e == nil {
			return t, fmt.Errorf("key %q doesn't exist", o.Key)
		}
		t.txn.Conds, t.show = []kv.Cond{is}, showKey(o.Key, true)
	case "get-or-empty":
		t.show = showKey(o.Key, true)
	case "get-tree":
		t.show = showTree(o.Key, x.api.visible(x.r, "key"))
	case "check-index":
		if e == nil {
			return t, fmt.Errorf("key %q doesn't exist", o.Key)
		}
		if e.Modified() != o.Index {
			return t, fmt.Errorf("failed index check for key %q, current modify index %d != %d", o.Key, e.Modified(), o.Index)
		}
		t.txn.Conds = []kv.Cond{is}
	case "check-session":
		if e == nil {
			return t, fmt.Errorf("failed to check session for key %q: key doesn't exist", o.Key)
		}
		if e.Owner() != o.Session {
			return t, fmt.Errorf("failed session check for key %q, current session %q != %q", o.Key, e.Owner(), o.Session)
		}
		t.txn.Conds = []kv.Cond{is}
	case "check-not-exists":
		if e != nil {
			return t, fmt.Errorf("key %q exists", o.Key)
		}
		t.txn.Conds, t.show = []kv.Cond{is}, nil
	case "set":
		t.txn.Ops = []kv.Op{op}
	case "cas":
		if o.Index != is.Index {
			return t, fmt.Errorf("failed to set key %q, index is stale", o.Key)
		}
		op.Action = kv.ActCompareAndSwap
		t.txn = kv.Txn{Conds: []kv.Cond{is}, Ops: []kv.Op{op}}
	case "lock":
		return x.lock(base, s, o, op, is)
	case "unlock":
		op.Kind, op.Action, op.Owner = kv.OpRelease, kv.ActRelease, o.Session
		t.txn, t.refused = kv.Txn{Ops: []kv.Op{op}}, fmt.Sprintf("failed to unlock key %q, lock isn't held, or is held by another session", o.Key)
		x.freed = append(x.freed, lockIntent{session: o.Session, key: o.Key})
	case "delete":
		t = step{txn: deleteKeys(kv.OpDelete, path)}
	case "delete-tree":
		t = step{txn: deleteKeys(kv.OpDeletePrefix, path)}
	case "delete-cas":
		if e != nil && o.Index != is.Index {
			return t, fmt.Errorf("failed to delete key %q, index is stale", o.Key)
		}
		t = step{txn: deleteKeys(kv.OpDelete, path)}
		t.txn.Conds = []kv.Cond{is}
	}
	return t, nil
}

func deleteKeys(kind kv.OpKind, path string) kv.Txn {
	return kv.Txn{Ops: []kv.Op{{Kind: kind, Action: kv.ActDelete, Flags: kv.Flat, Path: path}}}
}

// lock evaluates the verb lock. The key must be as it was seen, as in acquire, so that a lock delay that begins
// meanwhile is not missed.
func (x *transaction) lock(base, s *kv.Snap, o *txnKV, op kv.Op, is kv.Cond) (step, error) {
	if o.Session == "" {
		return step{}, fmt.Errorf("missing session")
	}
	owner, ok := catalog.SessionPath(s, o.Session)
	if !ok {
		return step{}, fmt.Errorf("invalid session %q", o.Session)
	}
	held := fmt.Sprintf("failed to lock key %q, lock is already held", o.Key)
	if x.api.sessions.delayed(x.r.Context(), base, o.Key) {
		return step{}, fmt.Errorf("%s", held)
	}
	op.Kind, op.Action, op.Owner, op.OwnerPath = kv.OpAcquire, kv.ActAcquire, o.Session, owner
	x.locks = append(x.locks, lockIntent{o.Session, o.Key, x.api.sessions.intend(o.Session, o.Key)})
	return step{txn: kv.Txn{Conds: []kv.Cond{is}, Ops: []kv.Op{op}}, show: showKey(o.Key, false), refused: held}, nil
}

// showKey shows a key, without its value unless it was asked for; a missing key is shown empty.
func showKey(key string, value bool) func(*kv.Snap, []txnResult) []txnResult {
	return func(s *kv.Snap, list []txnResult) []txnResult {
		e, ok := s.Get(kvRoot + key)
		if !ok || !e.HasValue() {
			e = new(kv.Entry)
		}
		return append(list, txnResult{KV: appendKey(nil, key, e, value)})
	}
}

func showTree(prefix string, visible func(string) bool) func(*kv.Snap, []txnResult) []txnResult {
	return func(s *kv.Snap, list []txnResult) []txnResult {
		walkPrefix(s, prefix, visible, func(key string, e *kv.Entry) {
			list = append(list, txnResult{KV: appendKey(nil, key, e, true)})
		})
		return list
	}
}

// record evaluates what the verbs on nodes, services and checks have in common: get shows it, cas and delete-cas
// want it to be at an index, which is 0 when it is not there.
func record(verb, what string, at, index uint64, set func() (kv.Txn, error), remove func() (kv.Txn, error)) (t kv.Txn, err error) {
	switch verb {
	case "get":
		if at == 0 {
			return t, fmt.Errorf("%s doesn't exist", what)
		}
		return t, nil
	case "cas":
		if at != index {
			return t, fmt.Errorf("failed to set %s, index is stale", what)
		}
		return set()
	case "set":
		return set()
	case "delete-cas":
		if at == 0 {
			return t, nil
		}
		if at != index {
			return t, fmt.Errorf("failed to delete %s, index is stale", what)
		}
		return remove()
	}
	return remove()
}

// pinned makes a Txn depend on the record at path being the one of that index; 0 = none.
func pinned(t kv.Txn, path string, index uint64) kv.Txn {
	t.Conds = append(t.Conds, kv.Cond{Kind: kv.CondIndex, Path: path, Index: index})
	return t
}

func shows(verb string) bool { return !strings.HasPrefix(verb, "delete") }

func (x *transaction) node(s *kv.Snap, o *txnNode) (step, error) {
	n, at := &o.Node, uint64(0)
	if have, ok := catalog.GetNode(s, n.Node); ok {
		at = have.Modified
	}
	txn, err := record(o.Verb, fmt.Sprintf("node %q", n.Node), at, n.ModifyIndex,
		func() (kv.Txn, error) {
			return catalog.Register(s, catalog.Registration{Node: catalog.Node{
				ID: n.ID, Name: n.Node, Address: n.Address, Datacenter: x.api.cfg.Datacenter,
				TaggedAddresses: cloneOrNil(n.TaggedAddresses), Meta: cloneOrNil(n.Meta),
			}})
		},
		func() (kv.Txn, error) { return catalog.Deregister(s, n.Node, "", "") })
	t := step{txn: pinned(txn, catalog.NodePath(n.Node), at)}
	if shows(o.Verb) {
		t.show = func(s *kv.Snap, list []txnResult) []txnResult {
			if n, ok := catalog.GetNode(s, n.Node); ok {
				list = append(list, txnResult{Node: nodeOf(n)})
			}
			return list
		}
	}
	return t, err
}

func (x *transaction) service(s *kv.Snap, o *txnService) (step, error) {
	v, at := &o.Service, uint64(0)
	if have, ok := catalog.GetService(s, o.Node, v.ID); ok {
		at = have.Modified
	}
	txn, err := record(o.Verb, fmt.Sprintf("service %q on node %q", v.ID, o.Node), at, v.ModifyIndex,
		func() (kv.Txn, error) {
			if _, ok := catalog.GetNode(s, o.Node); !ok {
				return kv.Txn{}, errMissingNode
			}
			return catalog.Register(s, catalog.Registration{Node: catalog.Node{Name: o.Node}, Service: v.record(), SkipNodeUpdate: true})
		},
		func() (kv.Txn, error) { return catalog.Deregister(s, o.Node, v.ID, "") })
	t := step{txn: pinned(txn, catalog.ServicePath(o.Node, v.ID), at)}
	if shows(o.Verb) {
		t.show = func(s *kv.Snap, list []txnResult) []txnResult {
			if v, ok := catalog.GetService(s, o.Node, v.ID); ok {
				list = append(list, txnResult{Service: bareService(v)})
			}
			return list
		}
	}
	return t, err
}

func (x *transaction) checkVerb(s *kv.Snap, o *txnCheck) (step, error) {
	c, at, path := &o.Check, uint64(0), catalog.CheckPath(o.Check.Node, o.Check.ServiceID, o.Check.CheckID)
	if have, p, ok := catalog.GetCheck(s, c.Node, c.CheckID); ok {
		at, path = have.Modified, p
	}
	txn, err := record(o.Verb, fmt.Sprintf("check %q on node %q", c.CheckID, c.Node), at, c.ModifyIndex,
		func() (kv.Txn, error) {
			if _, ok := catalog.GetNode(s, c.Node); !ok {
				return kv.Txn{}, errMissingNode
			}
			rec, err := c.record()
			if err != nil {
				return kv.Txn{}, err
			}
			return catalog.Register(s, catalog.Registration{Node: catalog.Node{Name: c.Node}, Checks: []*catalog.Check{rec}, SkipNodeUpdate: true})
		},
		func() (kv.Txn, error) { return catalog.Deregister(s, c.Node, "", c.CheckID) })
	t := step{txn: pinned(txn, path, at)}
	if shows(o.Verb) {
		t.show = func(s *kv.Snap, list []txnResult) []txnResult {
			if c, _, ok := catalog.GetCheck(s, c.Node, c.CheckID); ok {
				list = append(list, txnResult{Check: bareCheck(c)})
			}
			return list
		}
	}
	return t, err
}

// errMissingNode refuses a record on a node that is not registered.
var errMissingNode = serverError("Missing node registration")

// bareService is nodeServiceOf with null for no tags, as it is inside other answers than lists of the catalog.
func bareService(v *catalog.Service) *NodeService {
	out := nodeServiceOf(v)
	if len(v.Tags) == 0 {
		out.Tags = nil
	}
	return out
}

func bareCheck(c *catalog.Check) *HealthCheck {
	out := healthCheckOf(c)
	if len(c.ServiceTags) == 0 {
		out.ServiceTags = nil
	}
	return out
}
