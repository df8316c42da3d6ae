package consul

import (
	"encoding/json"
	"net/http"
	"strconv"

	"github.com/musterhq/muster/api"
	"github.com/musterhq/muster/catalog"
	"github.com/musterhq/muster/kv"
)

func (a *API) healthRoutes() []api.Route {
	get := http.MethodGet
	return []api.Route{
		newRoute("/v1/health/service/", api.Cluster, a.healthService, get),
		newRoute("/v1/health/checks/", api.Cluster, a.healthChecks, get),
		newRoute("/v1/health/node/", api.Cluster, a.healthNode, get),
		newRoute("/v1/health/state/", api.Cluster, a.healthState, get),
		newRoute("/v1/health/connect/", api.Cluster, a.noMesh("/v1/health/connect/", "Missing service name"), get),
		newRoute("/v1/health/ingress/", api.Cluster, a.noMesh("/v1/health/ingress/", "Missing service name"), get),
	}
}

// parsePassing reads ?passing, which may be empty or a bool.
func (q *read) parsePassing() (bool, error) {
	s, ok := q.lookup("passing")
	if !ok || s == "" {
		return ok, nil
	}
	v, err := strconv.ParseBool(s)
	if err != nil {
		return false, badRequest("Invalid value for ?passing")
	}
	return v, nil
}

// healthService is the hottest read of the product: a plain query costs a look at the index of the service and
// a copy of bytes encoded once per change.
func (a *API) healthService(w http.ResponseWriter, r *http.Request) error {
	q, err := a.parseRead(r)
	if err != nil {
		return err
	}
	name := rest(r, "/v1/health/service/")
	if name == "" {
		return badRequest("Missing service name")
	}
	passing, err := q.parsePassing()
	if err != nil {
		return err
	}
	if a.allow(r, "service", name, false) != nil {
		return a.answerNothing(w, r, &q)
	}
	path := catalog.InstancesPath(name)
	key := api.BodyKey{Kind: "health/service", Name: path, Params: q.shaping()}
	if passing && a.cfg.Guard != nil {
		return a.guardedHealth(w, r, &q, key)
	}
	return a.answer(w, r, &q, path, func(s *kv.Snap) (result, error) {
		res := result{index: max(s.IndexOf(path), 1)}
		if q.has("near") { // distances change without an index
			return a.healthNear(s, r, &q, catalog.Instances(s, name), passing, res)
		}
		if res.body = a.lookup(key, res.index); res.body != nil {
			return res, nil
		}
		return a.encodeHealth(r, &q, key, catalog.Instances(s, name), passing, res)
	})
}

func (a *API) encodeHealth(r *http.Request, q *read, key api.BodyKey, instances []*catalog.Instance, passing bool, res result) (result, error) {
	f, err := newFilter[ServiceEntry](q.get("filter"))
	if err != nil {
		return res, err
	}
	if len(instances) == 0 {
		res.print, res.value = api.NotFound, bodyEmptyJSON
		return res, nil
	}
	if seen := a.readable(r, instances); len(seen) < len(instances) {
		res.value = json.RawMessage(encodeEntries(selectHealthy(seen, q, f, passing)))
		return res, nil
	}
	res.body, err = a.bodies.Get(key, res.index, func() ([]byte, error) {
		return encodeEntries(selectHealthy(instances, q, f, passing)), nil
	})
	return res, err
}

// healthNear is encodeHealth in order of distance, which is not kept.
func (a *API) healthNear(s *kv.Snap, r *http.Request, q *read, instances []*catalog.Instance, passing bool, res result) (result, error) {
	f, err := newFilter[ServiceEntry](q.get("filter"))
	if err != nil {
		return res, err
	}
	if len(instances) == 0 {
		res.print = api.NotFound
	}
	list := selectHealthy(a.readable(r, instances), q, f, passing)
	nearFirst(a, s, r, q, list, func(i *catalog.Instance) string { return i.Node.Name })
	res.value = json.RawMessage(encodeEntries(list))
	return res, nil
}

// selectHealthy gives those of the instances that the query wants, in a list of their own.
func selectHealthy(instances []*catalog.Instance, q *read, f *filter[ServiceEntry], passing bool) []*catalog.Instance {
	tags, meta := q.all("tag"), q.nodeMeta()
	list := make([]*catalog.Instance, 0, len(instances))
	for _, i := range instances {
		if passing && i.Status != catalog.Passing || !hasTags(i.Service.Tags, tags) || !meta.match(i.Node.Meta) {
			continue
		}
		if f != nil && !f.pass(&ServiceEntry{nodeOf(i.Node), nodeServiceOf(i.Service), healthChecksOf(i.Checks)}) {
			continue
		}
		list = append(list, i)
	}
	return list
}

func encodeEntries(list []*catalog.Instance) []byte {
	b := append(make([]byte, 0, 1024*len(list)), '[')
	for _, i := range list {
		b = appendEntry(b, i)
	}
	return append(b, ']')
}

func (a *API) healthChecks(w http.ResponseWriter, r *http.Request) error {
	name := rest(r, "/v1/health/checks/")
	if name == "" {
		return badRequest("Missing service name")
	}
	path := catalog.InstancesPath(name)
	return a.checkList(w, r, path, true, func(s *kv.Snap) ([]*catalog.Check, bool) {
		return catalog.ServiceChecks(s, name), false
	})
}

func (a *API) healthNode(w http.ResponseWriter, r *http.Request) error {
	name := rest(r, "/v1/health/node/")
	if name == "" {
		return badRequest("Missing node name")
	}
	return a.checkList(w, r, catalog.NodePath(name), false, func(s *kv.Snap) ([]*catalog.Check, bool) {
		return catalog.NodeChecks(s, name), false
	})
}

func (a *API) healthState(w http.ResponseWriter, r *http.Request) error {
	state := rest(r, "/v1/health/state/")
	if state == "" {
		return badRequest("Missing check state")
	}
	return a.checkList(w, r, catalog.ChecksPath(), true, func(s *kv.Snap) ([]*catalog.Check, bool) {
		return catalog.ChecksInState(s, state), true
	})
}

// checkList answers with the checks that list finds and that pass the filter, and ?node-meta where it counts.
// When list says that the index also moves for other changes, the query waits until the list itself differs.
func (a *API) checkList(w http.ResponseWriter, r *http.Request, path string, byMeta bool, list func(*kv.Snap) ([]*catalog.Check, bool)) error {
	q, err := a.parseRead(r)
	if err != nil {
		return err
	}
	var meta nodeMeta
	if byMeta {
		meta = q.nodeMeta()
	}
	visible := visibleChecks(a.cfg.Authorizer, r)
	return a.answer(w, r, &q, path, func(s *kv.Snap) (result, error) {
		res := result{index: s.IndexOf(path)}
		f, err := newFilter[HealthCheck](q.get("filter"))
		if err != nil {
			return res, err
		}
		checks, coarse := list(s)
		p := newPrinter()
		out := []*HealthCheck{}
		for _, c := range checks {
			if len(meta) > 0 {
				if n, ok := catalog.GetNode(s, c.Node); !ok || !meta.match(n.Meta) {
					continue
				}
			}
			if v := healthCheckOf(c); f.pass(v) && visible(c) {
				out = append(out, v)
				p.add(c.Node+"\x00"+c.ID, c.Modified)
			}
		}
		if byMeta { // the same routes
			nearFirst(a, s, r, &q, out, func(c *HealthCheck) string { return c.Node })
		}
		if res.value = out; coarse {
			res.print = p.sum()
		}
		return res, nil
	})
}
