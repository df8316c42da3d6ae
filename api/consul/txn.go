package consul

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"time"

	"github.com/musterhq/muster/api"
	"github.com/musterhq/muster/catalog"
	"github.com/musterhq/muster/kv"
)

// txnOp is one element of the body of txn: an object of one member (contract: consul-http 10).
type txnOp struct {
	KV      *txnKV
	Node    *txnNode
	Service *txnService
	Check   *txnCheck
	Session *txnSession
}

type txnKV struct {
	Verb    string
	Key     string
	Value   []byte
	Flags   uint64
	Index   uint64
	Session string
}

type txnNode struct {
	Verb string
	Node struct {
		ID, Node, Address, Datacenter string
		TaggedAddresses, Meta         map[string]string
		CreateIndex, ModifyIndex      uint64
		PeerName                      string
		Locality                      json.RawMessage
	}
}

type txnService struct {
	Verb    string
	Node    string
	Service registeredService
}

type txnCheck struct {
	Verb  string
	Check registeredCheck
}

type txnSession struct {
	Verb    string
	Session struct{ ID, Name, Node string }
}

// txnResult is one object that a transaction read or wrote.
type txnResult struct {
	KV      json.RawMessage `json:",omitempty"`
	Node    *Node           `json:",omitempty"`
	Service *NodeService    `json:",omitempty"`
	Check   *HealthCheck    `json:",omitempty"`
}

// txnError says why the operation at OpIndex makes the whole transaction fail.
type txnError struct {
	OpIndex int
	What    string
}

// txnAnswer is the answer to a transaction that wrote, or wanted to.
type txnAnswer struct {
	Results []txnResult
	Errors  []txnError
}

// txnReadAnswer is the answer to one that only reads.
type txnReadAnswer struct {
	txnAnswer
	queryMeta
}

// queryMeta is what the answers to reads carry that are not lists. Its Index says nothing.
type queryMeta struct {
	Index                 uint64
	LastContact           time.Duration
	KnownLeader           bool
	ConsistencyLevel      string
	NotModified           bool
	Backend               int
	ResultsFilteredByACLs bool
}

func (a *API) txnRoutes() []api.Route {
	rt := newRoute("/v1/txn", api.Cluster, a.txn, http.MethodPut)
	rt.MaxBody = -1 // readTxn has its own limit and text
	return []api.Route{rt}
}

func (a *API) txn(w http.ResponseWriter, r *http.Request) error {
	q, err := a.parseRead(r)
	if err != nil {
		return err
	}
	ops, err := a.readTxn(r)
	if err != nil {
		return err
	}
	if err := a.checkDatacenter(&q.params); err != nil {
		return err
	}
	x := &transaction{api: a, r: r, ops: ops}
	if errs := x.check(); len(errs) > 0 {
		return x.refuse(w, r, errs)
	}
	if !x.writes() {
		return x.read(w, r, &q)
	}
	results, errs, err := x.commit()
	if err != nil {
		return err
	}
	return writeJSONStatus(w, r, statusOf(errs), txnAnswer{results, errs})
}

func statusOf(errs []txnError) int {
	if len(errs) > 0 {
		return http.StatusConflict
	}
	return http.StatusOK
}

// readTxn reads the body within its limits and drops the empty operations.
func (a *API) readTxn(r *http.Request) ([]txnOp, error) {
	limit := a.cfg.TxnMaxBody
	body, err := io.ReadAll(io.LimitReader(r.Body, limit+1))
	if err != nil {
		return nil, badRequest("reading the request body: %v", err)
	}
	if size := int64(len(body)); size > limit {
		rest, _ := io.Copy(io.Discard, io.LimitReader(r.Body, 4*limit)) // so that the client gets to see the refusal
		return nil, refuse(http.StatusRequestEntityTooLarge, "Request body(%d bytes) too large, max size: %d bytes. "+
			"See https://developer.hashicorp.com/docs/agent/config/config-files#txn_max_req_len.", max(r.ContentLength, size+rest), limit)
	}
	var ops []txnOp
	d := json.NewDecoder(bytes.NewReader(body))
	d.DisallowUnknownFields()
	if err := d.Decode(&ops); err != nil {
		return nil, badRequest("Failed to parse body: %v", err)
	}
	if n := len(ops); n > a.cfg.TxnMaxOps {
		return nil, refuse(http.StatusRequestEntityTooLarge, "Transaction contains too many operations (%d > %d)", n, a.cfg.TxnMaxOps)
	}
	kept := ops[:0]
	for _, o := range ops {
		if o == (txnOp{}) {
			continue
		}
		if k := o.KV; k != nil && int64(len(k.Value)) > a.cfg.KVMaxValue {
			return nil, refuse(http.StatusRequestEntityTooLarge, "Value for key %q is too large (%d > %d bytes)", k.Key, len(k.Value), a.cfg.KVMaxValue)
		}
		kept = append(kept, o)
	}
	return kept, nil
}

// transaction is one request being worked on.
type transaction struct {
	api   *API
	r     *http.Request
	ops   []txnOp
	locks []lockIntent // of the running attempt
	freed []lockIntent // unlocked by the running attempt
}

type lockIntent struct {
	session, key string
	done         func(held bool)
}

// writes says whether the transaction has to go through the log.
func (x *transaction) writes() bool {
	for _, o := range x.ops {
		switch {
		case o.KV != nil:
			if kvWrites[o.KV.Verb] {
				return true
			}
		case o.Node != nil:
			if o.Node.Verb != "get" {
				return true
			}
		case o.Service != nil:
			if o.Service.Verb != "get" {
				return true
			}
		case o.Check != nil:
			if o.Check.Verb != "get" {
				return true
			}
		default:
			return true
		}
	}
	return false
}

// refuse answers a transaction with mistakes in it before anything is read.
func (x *transaction) refuse(w http.ResponseWriter, r *http.Request, errs []txnError) error {
	answer := txnAnswer{Errors: errs}
	if x.writes() {
		return writeJSONStatus(w, r, http.StatusConflict, answer)
	}
	w.Header()["X-Consul-Knownleader"] = headerFalse
	w.Header()["X-Consul-Lastcontact"] = headerZero
	return writeJSONStatus(w, r, http.StatusConflict, txnReadAnswer{answer, queryMeta{}})
}

// read answers a transaction that only reads, out of one state.
func (x *transaction) read(w http.ResponseWriter, r *http.Request, q *read) error {
	s, meta, err := api.Read(r.Context(), x.api.cfg.Store, q.ReadOptions)
	if err != nil {
		return err
	}
	answer := txnReadAnswer{
		txnAnswer: txnAnswer{Results: []txnResult{}},
		queryMeta: queryMeta{Index: 1, LastContact: meta.LastContact, KnownLeader: meta.KnownLeader},
	}
	for i := range x.ops {
		step, err := x.step(s, s, &x.ops[i])
		if err != nil {
			answer.Errors = append(answer.Errors, txnError{i, err.Error()})
		} else if step.show != nil {
			answer.Results = step.show(s, answer.Results)
		}
	}
	if answer.Errors != nil {
		answer.Results = nil
	}
	h := w.Header()
	h["X-Consul-Knownleader"] = []string{strconv.FormatBool(meta.KnownLeader)}
	h["X-Consul-Lastcontact"] = []string{strconv.FormatInt(meta.LastContact.Milliseconds(), 10)}
	return writeJSONStatus(w, r, statusOf(answer.Errors), answer)
}

// shown is where in the Txn the state stands that a result is read from.
type shown struct {
	at   int
	show func(*kv.Snap, []txnResult) []txnResult
}

// commit builds the Txn on the present state and proposes it, and does both again while it is overtaken. It returns
// the results, or why the operations do not hold, all of them.
func (x *transaction) commit() ([]txnResult, []txnError, error) {
	ctx, store := x.r.Context(), x.api.cfg.Store
	for range maxAttempts {
		s, _, err := store.Read(ctx, api.Default)
		if err != nil {
			return nil, nil, err
		}
		txn, shows, errs := x.build(s)
		if len(errs) > 0 {
			x.settle(false)
			return nil, errs, nil
		}
		if err := txn.Check(); err != nil {
			x.settle(false)
			return nil, nil, badRequest("%s", err.Error())
		}
		res, err := store.Propose(ctx, txn)
		x.settle(err != nil || res.Code == kv.OK)
		switch {
		case err != nil:
			return nil, nil, err
		case catalog.Stale(res.Code), res.Code == kv.NotOwner, res.Code == kv.NoSession:
			continue
		case res.Code != kv.OK:
			return nil, nil, codeError(res)
		}
		results := []txnResult{}
		for _, s := range shows {
			results = s.show(res.Ops[s.at].Snap, results)
		}
		return results, nil, nil
	}
	return nil, nil, refuse(http.StatusServiceUnavailable, "the transaction was overtaken by other writes %d times, try again", maxAttempts)
}

// build evaluates the operations in order, each on what the ones before it leave.
func (x *transaction) build(s *kv.Snap) (txn kv.Txn, shows []shown, errs []txnError) {
	d := s.Draft()
	for i := range x.ops {
		step, err := x.step(s, d.Snap(), &x.ops[i])
		if err == nil {
			_, res := d.Step(step.txn)
			err = step.failure(res)
		}
		if err != nil {
			errs = append(errs, txnError{i, err.Error()})
			continue
		}
		if step.show != nil {
			at, _ := d.Step(kv.Txn{Ops: []kv.Op{{Kind: kv.OpSnap}}})
			shows = append(shows, shown{at, step.show})
		}
	}
	return d.Txn(), shows, errs
}

// settle tells the keeper of lock delays how the attempt ended.
func (x *transaction) settle(held bool) {
	for _, l := range x.locks {
		l.done(held)
	}
	if held {
		for _, l := range x.freed {
			x.api.sessions.released(l.session, l.key)
		}
	}
	x.locks, x.freed = nil, nil
}

// step is what one operation means in the state it meets.
type step struct {
	txn     kv.Txn
	show    func(*kv.Snap, []txnResult) []txnResult // nil: the operation has no result
	refused string                                  // what to say when the tree refuses the Txn
}

func (t *step) failure(res kv.Result) error {
	switch {
	case res.Code == kv.OK:
		return nil
	case t.refused != "":
		return errors.New(t.refused)
	default:
		return codeError(res)
	}
}

// step evaluates one operation on the state s, which the operations before it have left of base.
func (x *transaction) step(base, s *kv.Snap, o *txnOp) (step, error) {
	switch {
	case o.KV != nil:
		return x.kv(base, s, o.KV)
	case o.Node != nil:
		return x.node(s, o.Node)
	case o.Service != nil:
		return x.service(s, o.Service)
	case o.Check != nil:
		return x.checkVerb(s, o.Check)
	default:
		return step{txn: catalog.DestroySession(s, o.Session.Session.ID)}, nil
	}
}

// check finds the mistakes that need no state: unknown verbs, missing names, what the token does not allow.
func (x *transaction) check() (errs []txnError) {
	for i := range x.ops {
		if err := x.checkOp(&x.ops[i]); err != nil {
			errs = append(errs, txnError{i, err.Error()})
		}
	}
	return errs
}

func (x *transaction) checkOp(o *txnOp) error {
	a, r := x.api, x.r
	switch {
	case o.KV != nil:
		known, writes := kvWrites[o.KV.Verb], kvWrites[o.KV.Verb]
		known = known || kvReads[o.KV.Verb]
		switch {
		case !known:
			return fmt.Errorf("unknown KV operation: %s", o.KV.Verb)
		case o.KV.Key == "" && o.KV.Verb != "get-tree" && o.KV.Verb != "delete-tree":
			return serverError("Must provide key")
		case o.KV.Verb == "delete-tree":
			return a.allow(r, "key-prefix", o.KV.Key, true)
		case o.KV.Verb == "get-tree":
			return nil // what may not be read is left out
		}
		return a.allow(r, "key", o.KV.Key, writes)
	case o.Node != nil:
		return x.checkRecord("node", o.Node.Verb, "node", o.Node.Node.Node, "")
	case o.Service != nil:
		v := &o.Service.Service
		if v.ID != "" && v.Service == "" && o.Service.Verb != "get" {
			return serverError("Must provide service name (Service.Service) when service ID is provided")
		}
		if v.ID == "" {
			v.ID = v.Service
		}
		return x.checkRecord("service", o.Service.Verb, "service", v.Service, o.Service.Node)
	case o.Check != nil:
		c := &o.Check.Check
		if c.CheckID == "" {
			c.CheckID = c.Name
		}
		return x.checkRecord("check", o.Check.Verb, "node", c.Node, c.Node)
	}
	if o.Session.Verb != "delete" {
		return fmt.Errorf("unknown session operation: %s", o.Session.Verb)
	}
	return a.allowSession(r, o.Session.Session.ID)
}

// checkRecord checks the verb, the name of the node and the permission of an operation on the catalog.
func (x *transaction) checkRecord(kind, verb, resource, name, node string) error {
	switch verb {
	case "get", "set", "cas", "delete", "delete-cas":
	default:
		return fmt.Errorf("unknown %s operation: %s", kind, verb)
	}
	if kind == "node" {
		node = name
	}
	if node == "" {
		return serverError("Must provide node")
	}
	return x.api.allow(x.r, resource, name, verb != "get")
}
