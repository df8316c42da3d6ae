package consul

import (
	"cmp"
	"encoding/json"
	"errors"
	"net/http"
	"slices"

	"github.com/musterhq/muster/api"
	"github.com/musterhq/muster/catalog"
	"github.com/musterhq/muster/kv"
)

func (a *API) catalogRoutes() []api.Route {
	get, put := http.MethodGet, http.MethodPut
	return []api.Route{
		newRoute("/v1/catalog/register", api.Cluster, a.catalogRegister, put),
		newRoute("/v1/catalog/deregister", api.Cluster, a.catalogDeregister, put),
		newRoute("/v1/catalog/datacenters", api.Local, a.catalogDatacenters, get),
		newRoute("/v1/catalog/nodes", api.Cluster, a.catalogNodes, get),
		newRoute("/v1/catalog/services", api.Cluster, a.catalogServices, get),
		newRoute("/v1/catalog/service/", api.Cluster, a.catalogService, get),
		newRoute("/v1/catalog/node/", api.Cluster, a.catalogNode, get),
		newRoute("/v1/catalog/node-services/", api.Cluster, a.catalogNodeServices, get),
		newRoute("/v1/catalog/connect/", api.Cluster, a.noMesh("/v1/catalog/connect/", "Missing service name"), get),
		newRoute("/v1/catalog/gateway-services/", api.Cluster, a.noMesh("/v1/catalog/gateway-services/", "Missing gateway name"), get),
	}
}

// registration is the body of catalog/register (contract: consul-http 8.5). Fields that official clients send
// and that mean nothing to Muster are read and dropped.
type registration struct {
	Datacenter      string
	ID              string
	Node            string
	Address         string
	TaggedAddresses map[string]string
	NodeMeta        map[string]string
	Service         *registeredService
	Check           *registeredCheck
	Checks          []*registeredCheck
	SkipNodeUpdate  bool
	Token           string
	Locality        *catalog.Locality
}

type registeredService struct {
	Kind              string
	ID                string
	Service           string
	Tags              []string
	Meta              map[string]string
	Port              int
	Address           string
	SocketPath        string
	TaggedAddresses   map[string]ServiceAddress
	Weights           *Weights
	EnableTagOverride bool
	Locality          *catalog.Locality

	Ports, Proxy, Connect    json.RawMessage
	CreateIndex, ModifyIndex uint64
	ContentHash, Datacenter  string
	PeerName                 string
}

type registeredCheck struct {
	Node        string
	CheckID     string
	Name        string
	Status      string
	Notes       string
	Output      string
	ServiceID   string
	ServiceName string
	ServiceTags []string
	Type        string
	Interval    string
	Timeout     string
	Definition  checkRecord

	ExposedPort              int
	CreateIndex, ModifyIndex uint64
	PeerName                 string
}

// checkRecord is the Definition of a check registered in the catalog: nobody runs it, it is only kept for whoever
// does (health checks made by an external monitor).
type checkRecord struct {
	Interval                       Duration            `json:",omitzero"`
	Timeout                        Duration            `json:",omitzero"`
	DeregisterCriticalServiceAfter Duration            `json:",omitzero"`
	TTL                            Duration            `json:",omitzero"`
	HTTP                           string              `json:",omitempty"`
	Header                         map[string][]string `json:",omitempty"`
	Method                         string              `json:",omitempty"`
	Body                           string              `json:",omitempty"`
	DisableRedirects               bool                `json:",omitempty"`
	TLSServerName                  string              `json:",omitempty"`
	TLSSkipVerify                  bool                `json:",omitempty"`
	TCP                            string              `json:",omitempty"`
	TCPUseTLS                      bool                `json:",omitempty"`
	UDP                            string              `json:",omitempty"`
	GRPC                           string              `json:",omitempty"`
	GRPCUseTLS                     bool                `json:",omitempty"`
	H2PING                         string              `json:",omitempty"`
	H2PingUseTLS                   bool                `json:",omitempty"`
	OSService                      string              `json:",omitempty"`
	ScriptArgs                     []string            `json:",omitempty"`
	DockerContainerID              string              `json:",omitempty"`
	Shell                          string              `json:",omitempty"`
	AliasNode                      string              `json:",omitempty"`
	AliasService                   string              `json:",omitempty"`
	SessionName                    string              `json:",omitempty"`
}

// kind is the Type a definition stands for, in the dialect's order of precedence.
func (d *checkRecord) kind() string {
	switch {
	case d.GRPC != "":
		return "grpc"
	case d.HTTP != "":
		return "http"
	case d.TTL != 0:
		return "ttl"
	case d.TCP != "":
		return "tcp"
	case d.UDP != "":
		return "udp"
	case d.AliasNode != "" || d.AliasService != "":
		return "alias"
	case d.DockerContainerID != "":
		return "docker"
	case len(d.ScriptArgs) > 0:
		return "script"
	case d.H2PING != "":
		return "h2ping"
	case d.OSService != "":
		return "os_service"
	default:
		return ""
	}
}

// fields is the definition as records keep it, nil when nothing is set.
func (d *checkRecord) fields() (map[string]any, error) {
	b, err := json.Marshal(d)
	if err != nil {
		return nil, err
	}
	var m map[string]any
	if err := json.Unmarshal(b, &m); err != nil || len(m) == 0 {
		return nil, err
	}
	return m, nil
}

func (c *registeredCheck) record() (*catalog.Check, error) {
	def, err := c.Definition.fields()
	if err != nil {
		return nil, err
	}
	return &catalog.Check{
		Node: c.Node, ID: c.CheckID, Name: c.Name, Status: c.Status, Notes: c.Notes, Output: c.Output,
		ServiceID: c.ServiceID, ServiceName: c.ServiceName, ServiceTags: c.ServiceTags,
		Type: cmp.Or(c.Type, c.Definition.kind()), Interval: c.Interval, Timeout: c.Timeout, Definition: def,
	}, nil
}

func (s *registeredService) record() *catalog.Service {
	out := &catalog.Service{
		ID: s.ID, Name: s.Service, Kind: s.Kind, Tags: s.Tags, Address: s.Address,
		TaggedAddresses: addressesTo(s.TaggedAddresses), Meta: s.Meta, Port: s.Port, SocketPath: s.SocketPath,
		EnableTagOverride: s.EnableTagOverride, Locality: s.Locality,
	}
	if s.Weights != nil {
		out.Weights = catalog.Weights(*s.Weights)
	}
	return out
}

func (g *registration) record(datacenter string) (catalog.Registration, error) {
	out := catalog.Registration{
		Node: catalog.Node{
			ID: g.ID, Name: g.Node, Address: g.Address, Datacenter: datacenter,
			TaggedAddresses: cloneOrNil(g.TaggedAddresses), Meta: cloneOrNil(g.NodeMeta), Locality: g.Locality,
		},
		SkipNodeUpdate: g.SkipNodeUpdate,
	}
	if g.Service != nil {
		out.Service = g.Service.record()
	}
	checks := g.Checks
	if g.Check != nil {
		checks = append([]*registeredCheck{g.Check}, checks...)
	}
	for _, c := range checks {
		if c == nil {
			continue
		}
		rec, err := c.record()
		if err != nil {
			return out, err
		}
		out.Checks = append(out.Checks, rec)
	}
	return out, nil
}

func (a *API) catalogRegister(w http.ResponseWriter, r *http.Request) error {
	p, err := parseParams(r.URL.RawQuery)
	if err != nil {
		return err
	}
	var body registration
	if err := decodeBody(r, &body, false); err != nil {
		return err
	}
	if err := cmp.Or(a.checkDatacenter(&p), a.ownDatacenter(body.Datacenter), a.allowRegistration(r, &body)); err != nil {
		return err
	}
	reg, err := body.record(a.cfg.Datacenter)
	if err != nil {
		return err
	}
	reg.Known = p.has("known") // Muster's own, sent by agents that repair: see catalog.Registration
	res, err := a.write(r.Context(), func(s *kv.Snap) (kv.Txn, error) { return catalog.Register(s, reg) })
	if err == nil {
		err = codeError(res)
	}
	if gone := (*catalog.GoneError)(nil); errors.As(err, &gone) {
		return refuse(http.StatusConflict, "%s", gone.Error())
	}
	if err != nil {
		return inputError(err, "")
	}
	writeBool(w, r, true)
	return nil
}

func (a *API) allowRegistration(r *http.Request, g *registration) error {
	if err := a.allow(r, "node", g.Node, true); err != nil {
		return err
	}
	if g.Service != nil {
		return a.allow(r, "service", g.Service.Service, true)
	}
	return nil
}

// deregistration is the body of catalog/deregister (contract: consul-http 8.6).
type deregistration struct {
	Datacenter string
	Node       string
	Address    string // of old clients, means nothing
	ServiceID  string
	CheckID    string
	Token      string
}

func (a *API) catalogDeregister(w http.ResponseWriter, r *http.Request) error {
	p, err := parseParams(r.URL.RawQuery)
	if err != nil {
		return err
	}
	var body deregistration
	if err := decodeBody(r, &body, false); err != nil {
		return err
	}
	if err := cmp.Or(a.checkDatacenter(&p), a.ownDatacenter(body.Datacenter)); err != nil {
		return err
	}
	if body.Node == "" {
		return serverError("Must provide node")
	}
	if err := a.allow(r, "node", body.Node, true); err != nil {
		return err
	}
	res, err := a.write(r.Context(), func(s *kv.Snap) (kv.Txn, error) {
		return catalog.Deregister(s, body.Node, body.ServiceID, body.CheckID)
	})
	if err == nil {
		err = codeError(res)
	}
	if err != nil {
		return inputError(err, "")
	}
	writeBool(w, r, true)
	return nil
}

func (a *API) catalogDatacenters(w http.ResponseWriter, r *http.Request) error {
	q, err := a.parseRead(r)
	if err != nil {
		return err
	}
	a.markCached(w, r, &q)
	return writeJSON(w, r, []string{a.cfg.Datacenter})
}

func (a *API) catalogNodes(w http.ResponseWriter, r *http.Request) error {
	q, err := a.parseRead(r)
	if err != nil {
		return err
	}
	meta, visible := q.nodeMeta(), a.visible(r, "node")
	path := catalog.NodesPath()
	return a.answer(w, r, &q, path, func(s *kv.Snap) (result, error) {
		res := result{index: s.IndexOf(path)}
		f, err := newFilter[Node](q.get("filter"))
		if err != nil {
			return res, err
		}
		list := []*Node{}
		for _, n := range catalog.Nodes(s) {
			if w := nodeOf(n); meta.match(n.Meta) && f.pass(w) && (visible == nil || visible(n.Name)) {
				list = append(list, w)
			}
		}
		nearFirst(a, s, r, &q, list, func(n *Node) string { return n.Node })
		res.value = list
		return res, nil
	})
}

func (a *API) catalogServices(w http.ResponseWriter, r *http.Request) error {
	q, err := a.parseRead(r)
	if err != nil {
		return err
	}
	visible := a.visible(r, "service")
	if q.has("filter") || q.has("node-meta") {
		return a.filteredServices(w, r, &q, visible)
	}
	path := catalog.ServicesPath()
	return a.answer(w, r, &q, path, func(s *kv.Snap) (result, error) {
		res := result{index: s.IndexOf(path)}
		services := catalog.Services(s)
		for name, tags := range services {
			if visible != nil && !visible(name) {
				delete(services, name)
			} else if tags == nil {
				services[name] = []string{}
			}
		}
		res.value = services
		return res, nil
	})
}

// filteredServices builds the list from the instances that match. The index is that of the whole catalog, so
// the query keeps waiting while the list stays the same.
func (a *API) filteredServices(w http.ResponseWriter, r *http.Request, q *read, visible func(string) bool) error {
	path, meta := catalog.ChecksPath(), q.nodeMeta()
	return a.answer(w, r, q, path, func(s *kv.Snap) (result, error) {
		res := result{index: s.IndexOf(path)}
		f, err := newFilter[ServiceNode](q.get("filter"))
		if err != nil {
			return res, err
		}
		services := map[string][]string{}
		for _, n := range catalog.Nodes(s) {
			if !meta.match(n.Meta) {
				continue
			}
			for _, v := range catalog.ServicesOf(s, n.Name) {
				if !f.pass(serviceNodeOf(n, v)) || visible != nil && !visible(v.Name) {
					continue
				}
				services[v.Name] = append(orEmpty(services[v.Name]), v.Tags...)
			}
		}
		for name, tags := range services {
			slices.Sort(tags)
			services[name] = slices.Compact(tags)
		}
		res.value, res.print = services, printServices(services)
		return res, nil
	})
}

func printServices(services map[string][]string) uint64 {
	names := make([]string, 0, len(services))
	for name := range services {
		names = append(names, name)
	}
	slices.Sort(names)
	p := newPrinter()
	for _, name := range names {
		p.add(name, uint64(len(services[name])))
		for _, t := range services[name] {
			p.add(t, 0)
		}
	}
	return p.sum()
}

func (a *API) catalogService(w http.ResponseWriter, r *http.Request) error {
	q, err := a.parseRead(r)
	if err != nil {
		return err
	}
	name := rest(r, "/v1/catalog/service/")
	if name == "" {
		return badRequest("Missing service name")
	}
	if a.allow(r, "service", name, false) != nil {
		return a.answerNothing(w, r, &q)
	}
	tags, meta := q.all("tag"), q.nodeMeta()
	path := catalog.InstancesPath(name)
	return a.answer(w, r, &q, path, func(s *kv.Snap) (result, error) {
		res := result{index: s.IndexOf(path)}
		f, err := newFilter[ServiceNode](q.get("filter"))
		if err != nil {
			return res, err
		}
		instances := catalog.Instances(s, name)
		if len(instances) == 0 {
			res.print, res.value = api.NotFound, bodyEmptyJSON
			return res, nil
		}
		seen := a.readable(r, instances)
		list := func() []*ServiceNode {
			list := []*ServiceNode{}
			for _, i := range seen {
				if w := serviceNodeOf(i.Node, i.Service); hasTags(i.Service.Tags, tags) && meta.match(i.Node.Meta) && f.pass(w) {
					list = append(list, w)
				}
			}
			return list
		}
		if q.has("near") { // distances change without an index
			sorted := list()
			nearFirst(a, s, r, &q, sorted, func(n *ServiceNode) string { return n.Node })
			res.value = sorted
			return res, nil
		}
		if len(seen) < len(instances) {
			res.value = list()
			return res, nil
		}
		res.body, err = a.bodies.Get(api.BodyKey{Kind: "catalog/service", Name: path, Params: q.shaping()}, res.index, func() ([]byte, error) {
			return encodeJSON(list())
		})
		return res, err
	})
}

// nodeWithServices is the answer of catalog/node; the pointer makes an unknown node null.
type nodeWithServices struct {
	Node     *Node
	Services map[string]*NodeService
}

// nodeWithList is the answer of catalog/node-services, whose parts are null for an unknown node.
type nodeWithList struct {
	Node     *Node
	Services []*NodeService
}

func (a *API) catalogNode(w http.ResponseWriter, r *http.Request) error {
	return a.nodeQuery(w, r, "/v1/catalog/node/", func(n *Node, list []*NodeService) any {
		if n == nil {
			return nil
		}
		m := make(map[string]*NodeService, len(list))
		for _, s := range list {
			m[s.ID] = s
		}
		return &nodeWithServices{n, m}
	})
}

func (a *API) catalogNodeServices(w http.ResponseWriter, r *http.Request) error {
	return a.nodeQuery(w, r, "/v1/catalog/node-services/", func(n *Node, list []*NodeService) any {
		return &nodeWithList{n, list}
	})
}

// nodeQuery reads a node with the services that pass the filter and answers in the shape given.
func (a *API) nodeQuery(w http.ResponseWriter, r *http.Request, prefix string, shape func(*Node, []*NodeService) any) error {
	q, err := a.parseRead(r)
	if err != nil {
		return err
	}
	name := rest(r, prefix)
	if name == "" {
		return badRequest("Missing node name")
	}
	denied := a.allow(r, "node", name, false) != nil
	path, visible := catalog.NodePath(name), a.visible(r, "service")
	return a.answer(w, r, &q, path, func(s *kv.Snap) (result, error) {
		res := result{index: s.IndexOf(path)}
		f, err := newFilter[NodeService](q.get("filter"))
		if err != nil {
			return res, err
		}
		n, ok := catalog.GetNode(s, name)
		if !ok || denied {
			res.print, res.value = api.NotFound, shape(nil, nil)
			return res, nil
		}
		var list []*NodeService
		for _, v := range catalog.ServicesOf(s, name) {
			if w := nodeServiceOf(v); f.pass(w) && (visible == nil || visible(v.Name)) {
				list = append(list, w)
			}
		}
		res.value = shape(nodeOf(n), list)
		return res, nil
	})
}

// bodyEmptyJSON is an empty list that encodes as [].
var bodyEmptyJSON = []string{}

// answerNothing is the empty list in place of what the request may not see, or what cannot exist.
func (a *API) answerNothing(w http.ResponseWriter, r *http.Request, q *read) error {
	// Nothing will ever appear: wait at a path that never changes.
	return a.answer(w, r, q, catalog.InstancesPath(""), func(s *kv.Snap) (result, error) {
		return result{index: s.IndexOf(catalog.ServicesPath()), print: api.NotFound, value: bodyEmptyJSON}, nil
	})
}

// noMesh answers the endpoints of the service mesh, which always find nothing.
func (a *API) noMesh(prefix, missing string) handlerFunc {
	return func(w http.ResponseWriter, r *http.Request) error {
		q, err := a.parseRead(r)
		if err != nil {
			return err
		}
		if rest(r, prefix) == "" {
			return badRequest("%s", missing)
		}
		return a.answerNothing(w, r, &q)
	}
}

// shaping is the part of a query that decides what is in its answer, in a canonical form; "" for a plain query.
func (q *read) shaping() string {
	out := ""
	for i := 0; i < q.n; i++ {
		switch p := q.at(i); p.key {
		case "tag", "node-meta", "filter", "passing":
			out += p.key + "=" + p.value + "\x00"
		}
	}
	return out
}
