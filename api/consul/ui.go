package consul

import (
	"cmp"
	"net/http"
	"slices"
	"strings"

	"github.com/musterhq/muster/api"
	"github.com/musterhq/muster/catalog"
	"github.com/musterhq/muster/kv"
)

// The endpoints that user interfaces and dashboards read (contract: consul-http 19), and those of the mesh that tools
// read to learn that there is none (18).

func (a *API) uiRoutes() []api.Route {
	get := http.MethodGet
	return []api.Route{
		newRoute("/v1/internal/ui/services", api.Cluster, a.uiServices, get),
		newRoute("/v1/internal/ui/nodes", api.Cluster, a.uiNodes, get),
		newRoute(pathUINode, api.Cluster, a.uiNode, get),
		newRoute("/v1/internal/ui/catalog-overview", api.Cluster, a.uiOverview, get),
		newRoute("/v1/internal/ui/exported-services", api.Cluster, a.nothing, get),
		newRoute("/v1/internal/ui/gateway-services-nodes/", api.Cluster, a.nothing, get),
		newRoute("/v1/internal/acl/authorize", api.Local, func(http.ResponseWriter, *http.Request) error { return errNoACL }, http.MethodPost),
		newRoute("/v1/connect/intentions", api.Cluster, a.nothing, get),
		newRoute("/v1/exported-services", api.Cluster, a.nothing, get),
		newRoute("/v1/peerings", api.Cluster, a.nothing, get),
		newRoute(pathConfig, api.Cluster, a.configEntry, get),
	}
}

const (
	pathUINode = "/v1/internal/ui/node/"
	pathConfig = "/v1/config/"
)

// nothing answers a list of what there is none of.
func (a *API) nothing(w http.ResponseWriter, r *http.Request) error {
	q, err := a.parseRead(r)
	if err != nil {
		return err
	}
	return a.answerNothing(w, r, &q)
}

// configEntry answers config/:kind with no entries and config/:kind/:name with none of that name.
func (a *API) configEntry(w http.ResponseWriter, r *http.Request) error {
	kind, name, one := strings.Cut(rest(r, pathConfig), "/")
	if kind == "" {
		return badRequest("Must provide either a kind or both kind and name")
	}
	if one && name != "" {
		return refuse(http.StatusNotFound, "Config entry not found for %q / %q", kind, name)
	}
	return a.nothing(w, r)
}

// uiService is a service in internal/ui/services.
type uiService struct {
	Name            string
	Datacenter      string
	Tags            []string
	Nodes           []string
	ExternalSources []string
	InstanceCount   int
	ChecksPassing   int
	ChecksWarning   int
	ChecksCritical  int

	GatewayConfig        struct{}
	TransparentProxy     bool
	ConnectNative        bool
	ConnectedWithProxy   bool
	ConnectedWithGateway bool
}

// uiNodeInfo is a node in internal/ui/nodes and internal/ui/node.
type uiNodeInfo struct {
	ID              string
	Node            string
	Address         string
	Datacenter      string
	TaggedAddresses map[string]string
	Meta            map[string]string
	Services        []*NodeService
	Checks          []*HealthCheck
}

// tally counts checks by status.
type tally struct{ passing, warning, critical int }

func (t *tally) add(status string) {
	switch status {
	case catalog.Passing:
		t.passing++
	case catalog.Warning:
		t.warning++
	default:
		t.critical++
	}
}

func (a *API) uiServices(w http.ResponseWriter, r *http.Request) error {
	q, err := a.parseRead(r)
	if err != nil {
		return err
	}
	visible := a.visible(r, "service")
	return a.answer(w, r, &q, catalog.ChecksPath(), func(s *kv.Snap) (result, error) {
		res := result{index: s.IndexOf(catalog.ChecksPath())}
		f, err := newFilter[ServiceEntry](q.get("filter"))
		if err != nil {
			return res, err
		}
		list := []*uiService{}
		services := catalog.Services(s)
		for _, name := range sortedKeys(services) {
			if visible != nil && !visible(name) {
				continue
			}
			u := &uiService{Name: name, Datacenter: a.cfg.Datacenter, Tags: services[name]}
			if len(u.Tags) == 0 {
				u.Tags = nil
			}
			var count tally
			counted := map[*catalog.Check]bool{} // instances on one node share its checks
			for _, i := range a.readable(r, catalog.Instances(s, name)) {
				if f != nil && !f.pass(&ServiceEntry{nodeOf(i.Node), nodeServiceOf(i.Service), healthChecksOf(i.Checks)}) {
					continue
				}
				u.InstanceCount++
				if !slices.Contains(u.Nodes, i.Node.Name) {
					u.Nodes = append(u.Nodes, i.Node.Name)
				}
				for _, c := range i.Checks {
					if !counted[c] {
						counted[c] = true
						count.add(c.Status)
					}
				}
				if src := i.Service.Meta["external-source"]; src != "" && !slices.Contains(u.ExternalSources, src) {
					u.ExternalSources = append(u.ExternalSources, src)
				}
			}
			u.ChecksPassing, u.ChecksWarning, u.ChecksCritical = count.passing, count.warning, count.critical
			if u.InstanceCount > 0 {
				list = append(list, u)
			}
		}
		res.value = list
		return res, nil
	})
}

func (a *API) uiInfo(s *kv.Snap, n *catalog.Node, visible func(string) bool) *uiNodeInfo {
	u := &uiNodeInfo{
		ID: n.ID, Node: n.Name, Address: n.Address, Datacenter: n.Datacenter, TaggedAddresses: n.TaggedAddresses, Meta: n.Meta,
		Services: []*NodeService{}, Checks: []*HealthCheck{},
	}
	for _, v := range catalog.ServicesOf(s, n.Name) {
		if visible == nil || visible(v.Name) {
			u.Services = append(u.Services, bareService(v))
		}
	}
	for _, c := range catalog.NodeChecks(s, n.Name) {
		if visible == nil || c.ServiceName == "" || visible(c.ServiceName) {
			u.Checks = append(u.Checks, bareCheck(c))
		}
	}
	return u
}

func (a *API) uiNodes(w http.ResponseWriter, r *http.Request) error {
	q, err := a.parseRead(r)
	if err != nil {
		return err
	}
	nodes, services := a.visible(r, "node"), a.visible(r, "service")
	return a.answer(w, r, &q, catalog.ChecksPath(), func(s *kv.Snap) (result, error) {
		res := result{index: s.IndexOf(catalog.ChecksPath())}
		f, err := newFilter[uiNodeInfo](q.get("filter"))
		if err != nil {
			return res, err
		}
		list := []*uiNodeInfo{}
		for _, n := range catalog.Nodes(s) {
			if nodes != nil && !nodes(n.Name) {
				continue
			}
			if u := a.uiInfo(s, n, services); f.pass(u) {
				list = append(list, u)
			}
		}
		res.value = list
		return res, nil
	})
}

func (a *API) uiNode(w http.ResponseWriter, r *http.Request) error {
	q, err := a.parseRead(r)
	if err != nil {
		return err
	}
	name := rest(r, pathUINode)
	if name == "" {
		return badRequest("Missing node name")
	}
	denied, services := a.allow(r, "node", name, false) != nil, a.visible(r, "service")
	path := catalog.NodePath(name)
	return a.answer(w, r, &q, path, func(s *kv.Snap) (result, error) {
		res := result{index: s.IndexOf(path)}
		n, ok := catalog.GetNode(s, name)
		if !ok || denied {
			return res, refuse(http.StatusNotFound, "")
		}
		res.value = a.uiInfo(s, n, services)
		return res, nil
	})
}

// uiSummary counts the health of things of one name.
type uiSummary struct {
	Name     string `json:",omitempty"`
	Total    int
	Passing  int
	Warning  int
	Critical int
}

func (u *uiSummary) add(status string) {
	t := tally{u.Passing, u.Warning, u.Critical}
	t.add(status)
	u.Total++
	u.Passing, u.Warning, u.Critical = t.passing, t.warning, t.critical
}

// uiOverview counts nodes, instances by service, and checks by name.
func (a *API) uiOverview(w http.ResponseWriter, r *http.Request) error {
	q, err := a.parseRead(r)
	if err != nil {
		return err
	}
	nodeSeen, serviceSeen, checkSeen := a.visible(r, "node"), a.visible(r, "service"), visibleChecks(a.cfg.Authorizer, r)
	return a.answer(w, r, &q, catalog.ChecksPath(), func(s *kv.Snap) (result, error) {
		res := result{index: s.IndexOf(catalog.ChecksPath())}
		nodes := &uiSummary{}
		services, checks := map[string]*uiSummary{}, map[string]*uiSummary{}
		add := func(m map[string]*uiSummary, name, status string) {
			if m[name] == nil {
				m[name] = &uiSummary{Name: name}
			}
			m[name].add(status)
		}
		for _, n := range catalog.Nodes(s) {
			if nodeSeen != nil && !nodeSeen(n.Name) {
				continue
			}
			all := catalog.NodeChecks(s, n.Name)
			nodes.add(worstOf(slices.DeleteFunc(slices.Clone(all), func(c *catalog.Check) bool { return c.ServiceID != "" })))
			for _, c := range all {
				if checkSeen(c) {
					add(checks, c.Name, c.Status)
				}
			}
		}
		for name := range catalog.Services(s) {
			if serviceSeen == nil || serviceSeen(name) {
				for _, i := range a.readable(r, catalog.Instances(s, name)) {
					add(services, name, i.Status)
				}
			}
		}
		res.value = struct{ Nodes, Services, Checks []*uiSummary }{[]*uiSummary{nodes}, byName(services), byName(checks)}
		return res, nil
	})
}

func byName(m map[string]*uiSummary) []*uiSummary {
	list := make([]*uiSummary, 0, len(m))
	for _, u := range m {
		list = append(list, u)
	}
	slices.SortFunc(list, func(a, b *uiSummary) int { return cmp.Compare(a.Name, b.Name) })
	return list
}

// worstOf is the aggregate of checks; maintenance counts as critical.
func worstOf(checks []*catalog.Check) string {
	status := catalog.Aggregate(checks)
	if status == catalog.Maintenance {
		return catalog.Critical
	}
	return status
}
