package consul

import (
	"cmp"
	"math/rand/v2"
	"net/http"
	"slices"
	"strconv"
	"strings"

	uuid "github.com/hashicorp/go-uuid"

	"github.com/musterhq/muster/api"
	"github.com/musterhq/muster/catalog"
	"github.com/musterhq/muster/kv"
)

// preparedQuery is a prepared query in requests and answers (contract: consul-http 14).
type preparedQuery struct {
	ID       string
	Name     string
	Session  string
	Token    string
	Template catalog.QueryTemplate
	Service  queryService
	DNS      queryDNS
}

type queryService struct {
	Service        string
	SamenessGroup  string
	Failover       queryFailover
	OnlyPassing    bool
	IgnoreCheckIDs []string
	Near           string
	Tags           []string
	NodeMeta       map[string]string
	ServiceMeta    map[string]string
	Connect        bool
	Peer           string
}

type queryFailover struct {
	NearestN    int
	Datacenters []string
	Targets     []queryTarget
}

type queryTarget struct {
	Peer       string
	Datacenter string
}

type queryDNS struct{ TTL string }

// queryEntry is a query as it is read back.
type queryEntry struct {
	preparedQuery
	CreateIndex uint64
	ModifyIndex uint64
}

// queryResult is the answer of execute.
type queryResult struct {
	Service    string
	Nodes      []*ServiceEntry
	DNS        queryDNS
	Datacenter string
	PeerName   string
	Failovers  int
	queryMeta
}

func (a *API) queryRoutes() []api.Route {
	one := newRoute(pathQuery, api.Cluster, a.queryOne, http.MethodGet, http.MethodPut, http.MethodDelete)
	one.Refuse = refuseQuery(one.Refuse)
	return []api.Route{
		newRoute("/v1/query", api.Cluster, a.queryAll, http.MethodGet, http.MethodPost),
		one,
	}
}

const pathQuery = "/v1/query/"

// refuseQuery answers wrong methods in the way peculiar to this endpoint.
func refuseQuery(usual http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method == http.MethodOptions {
			h := w.Header()
			commonHeaders(h)
			h["Allow"] = []string{"OPTIONS,GET,PUT,DELETE"}
			writeBody(w, r, http.StatusOK, []byte("{}"))
			return
		}
		usual.ServeHTTP(&allowWithout{w}, r)
	})
}

// allowWithout drops OPTIONS from the header Allow.
type allowWithout struct{ http.ResponseWriter }

func (w *allowWithout) WriteHeader(status int) {
	w.Header()["Allow"] = []string{"GET,PUT,DELETE"}
	w.ResponseWriter.WriteHeader(status)
}

func (a *API) queryAll(w http.ResponseWriter, r *http.Request) error {
	if r.Method == http.MethodPost {
		return a.querySave(w, r, "")
	}
	q, err := a.parseRead(r)
	if err != nil {
		return err
	}
	visible := a.visible(r, "query")
	return a.answer(w, r, &q, catalog.QueriesPath(), func(s *kv.Snap) (result, error) {
		list := []*queryEntry{}
		for _, x := range catalog.Queries(s) {
			if visible == nil || visible(x.Name) {
				list = append(list, queryOf(x))
			}
		}
		return result{index: s.IndexOf(catalog.QueriesPath()), value: list}, nil
	})
}

func (a *API) queryOne(w http.ResponseWriter, r *http.Request) error {
	id := rest(r, pathQuery)
	switch r.Method {
	case http.MethodPut:
		return a.querySave(w, r, id)
	case http.MethodDelete:
		return a.queryDelete(w, r, id)
	}
	if name, ok := strings.CutSuffix(id, "/execute"); ok {
		return a.queryExecute(w, r, name)
	}
	if name, ok := strings.CutSuffix(id, "/explain"); ok {
		return a.queryExplain(w, r, name)
	}
	q, err := a.parseRead(r)
	if err != nil {
		return err
	}
	return a.answer(w, r, &q, catalog.QueriesPath(), func(s *kv.Snap) (result, error) {
		res := result{index: s.IndexOf(catalog.QueriesPath())}
		if err := catalog.CheckQueryID(id); err != nil {
			return res, inputError(err, "")
		}
		x, ok := catalog.GetQuery(s, id)
		if !ok || a.allow(r, "query", x.Name, false) != nil {
			return res, errNoQuery
		}
		res.value = []*queryEntry{queryOf(x)}
		return res, nil
	})
}

var errNoQuery = refuse(http.StatusNotFound, "Query not found")

// querySave creates a query, or changes the one of that id.
func (a *API) querySave(w http.ResponseWriter, r *http.Request, id string) error {
	p, err := parseParams(r.URL.RawQuery)
	if err != nil {
		return err
	}
	var body struct {
		preparedQuery
		CreateIndex, ModifyIndex uint64 // as read back
	}
	if err := decodeBody(r, &body, false); err != nil {
		return err
	}
	if err := a.checkDatacenter(&p); err != nil {
		return err
	}
	x, update := body.record(), id != ""
	switch {
	case update:
		x.ID = id
		if err := catalog.CheckQueryID(id); err != nil {
			return inputError(err, "Prepared Query lookup failed: ")
		}
	case x.ID != "":
		return serverError("ID must be empty when creating a new prepared query")
	default:
		if x.ID, err = uuid.GenerateUUID(); err != nil {
			return err
		}
	}
	if err := cmp.Or(a.allow(r, "query", x.Name, true), inputError(x.Check(), "")); err != nil {
		return err
	}
	res, err := a.write(r.Context(), func(s *kv.Snap) (kv.Txn, error) {
		if _, ok := catalog.GetQuery(s, id); update && !ok {
			return kv.Txn{}, serverError("Cannot modify non-existent prepared query: '%s'", id)
		}
		return catalog.SaveQuery(s, x, update)
	})
	if err == nil {
		err = codeError(res)
	}
	if err != nil {
		return inputError(err, "raft apply failed: ")
	}
	if update {
		writeEmpty(w)
		return nil
	}
	return writeJSON(w, r, struct{ ID string }{x.ID})
}

func (a *API) queryDelete(w http.ResponseWriter, r *http.Request, id string) error {
	p, err := parseParams(r.URL.RawQuery)
	if err != nil {
		return err
	}
	if err := a.checkDatacenter(&p); err != nil {
		return err
	}
	if err := catalog.CheckQueryID(id); err != nil {
		return inputError(err, "Prepared Query lookup failed: ")
	}
	res, err := a.write(r.Context(), func(s *kv.Snap) (kv.Txn, error) {
		if x, ok := catalog.GetQuery(s, id); ok {
			if err := a.allow(r, "query", x.Name, true); err != nil {
				return kv.Txn{}, err
			}
		}
		return catalog.DeleteQuery(s, id)
	})
	if err == nil {
		err = codeError(res)
	}
	if err != nil {
		return inputError(err, "")
	}
	writeEmpty(w)
	return nil
}

// runQuery reads one state and answers with what found makes of the query of that id or name in it.
func (a *API) runQuery(w http.ResponseWriter, r *http.Request, name string, q *read, found func(*kv.Snap, *catalog.Query, queryMeta) (any, error)) error {
	q.MinIndex = 0 // there is nothing to wait for
	return a.answer(w, r, q, catalog.QueriesPath(), func(s *kv.Snap) (result, error) {
		res := result{index: 1}
		x, ok := catalog.FindQuery(s, name)
		if !ok {
			return res, errNoQuery
		}
		var err error
		res.value, err = found(s, x, queryMeta{Index: 1, KnownLeader: true, ConsistencyLevel: q.effective[0]})
		return res, err
	})
}

func (a *API) queryExecute(w http.ResponseWriter, r *http.Request, name string) error {
	q, err := a.parseRead(r)
	if err != nil {
		return err
	}
	limit := 0
	if v := q.get("limit"); v != "" {
		if limit, err = strconv.Atoi(v); err != nil {
			return serverError("Bad limit: %v", err)
		}
	}
	return a.runQuery(w, r, name, &q, func(s *kv.Snap, x *catalog.Query, meta queryMeta) (any, error) {
		if a.allow(r, "service", x.Service.Service, false) != nil {
			x = &catalog.Query{ID: x.ID, Name: x.Name, TTL: x.TTL}
		}
		judged := a.judge(s, x.Service.Service)
		setGuardHeader(w.Header(), judged.Hold)
		list := slices.Clone(x.SelectFrom(a.readable(r, judged.Instances)))
		if q.has("connect") && q.get("connect") != "false" {
			list = nil // there is no mesh
		}
		rand.Shuffle(len(list), func(i, j int) { list[i], list[j] = list[j], list[i] })
		if from := cmp.Or(q.get("near"), x.Service.Near); from != "" {
			a.sortInstances(s, a.near(s, r, from), list)
		}
		if limit > 0 && len(list) > limit {
			list = list[:limit]
		}
		out := queryResult{
			Service: x.Service.Service, Nodes: make([]*ServiceEntry, 0, len(list)), DNS: queryDNS{x.TTL}, Datacenter: a.cfg.Datacenter, queryMeta: meta,
		}
		for _, i := range list {
			e := &ServiceEntry{Node: nodeOf(i.Node), Service: bareService(i.Service), Checks: []*HealthCheck{}}
			for _, c := range i.Checks {
				e.Checks = append(e.Checks, bareCheck(c))
			}
			out.Nodes = append(out.Nodes, e)
		}
		return &out, nil
	})
}

// away is 0 for an instance on the node itself, else 1.
func away(node string, i *catalog.Instance) int {
	if strings.EqualFold(node, i.Node.Name) {
		return 0
	}
	return 1
}

func (a *API) queryExplain(w http.ResponseWriter, r *http.Request, name string) error {
	q, err := a.parseRead(r)
	if err != nil {
		return err
	}
	return a.runQuery(w, r, name, &q, func(_ *kv.Snap, x *catalog.Query, meta queryMeta) (any, error) {
		if a.allow(r, "query", x.Name, false) != nil {
			return nil, errNoQuery
		}
		return &struct {
			Query *queryEntry
			queryMeta
		}{queryOf(x), meta}, nil
	})
}

func (p *preparedQuery) record() catalog.Query {
	s := &p.Service
	q := catalog.Query{
		ID: p.ID, Name: p.Name, Session: p.Session, Token: p.Token, Template: p.Template, TTL: p.DNS.TTL,
		Service: catalog.QueryService{
			Service: s.Service, SamenessGroup: s.SamenessGroup, OnlyPassing: s.OnlyPassing, IgnoreCheckIDs: s.IgnoreCheckIDs, Near: s.Near,
			Tags: s.Tags, NodeMeta: s.NodeMeta, ServiceMeta: s.ServiceMeta, Connect: s.Connect, Peer: s.Peer,
			Failover: catalog.QueryFailover{NearestN: s.Failover.NearestN, Datacenters: s.Failover.Datacenters},
		},
	}
	for _, t := range s.Failover.Targets {
		q.Service.Failover.Targets = append(q.Service.Failover.Targets, catalog.QueryTarget(t))
	}
	return q
}

func queryOf(q *catalog.Query) *queryEntry {
	s := &q.Service
	e := &queryEntry{CreateIndex: q.Created, ModifyIndex: q.Modified, preparedQuery: preparedQuery{
		ID: q.ID, Name: q.Name, Session: q.Session, Token: q.Token, Template: q.Template, DNS: queryDNS{q.TTL},
		Service: queryService{
			Service: s.Service, SamenessGroup: s.SamenessGroup, OnlyPassing: s.OnlyPassing, IgnoreCheckIDs: s.IgnoreCheckIDs, Near: s.Near,
			Tags: s.Tags, NodeMeta: s.NodeMeta, ServiceMeta: s.ServiceMeta, Connect: s.Connect, Peer: s.Peer,
			Failover: queryFailover{NearestN: s.Failover.NearestN, Datacenters: s.Failover.Datacenters},
		},
	}}
	for _, t := range s.Failover.Targets {
		e.Service.Failover.Targets = append(e.Service.Failover.Targets, queryTarget(t))
	}
	return e
}
