package agent

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/musterhq/muster/api"
	"github.com/musterhq/muster/api/consul"
	"github.com/musterhq/muster/catalog"
	"github.com/musterhq/muster/kv"
	"github.com/musterhq/muster/membership"
)

// Why explains the records of one name: who wrote each, when, what would bring it back, and whether DNS shows it.
type Why struct {
	Name    string
	Server  string      // who explained the records
	Agent   string      // whose DNS was looked at
	Records []WhyRecord // services first, then nodes, then checks; each with what belongs to it
	Notes   []string    // what else is worth knowing: removals, registrations the catalog does not have
}

// Writers of records.
const (
	WrittenByAgent   = "agent"   // the agent of the node, because its HTTP interface was told to
	WrittenByFile    = "file"    // the agent of the node, because a configuration file says so
	WrittenByLeader  = "leader"  // the leader, from gossip
	WrittenByCatalog = "catalog" // somebody, through the HTTP catalog, a transaction or a restored snapshot
	WrittenUnknown   = "unknown" // the agent of the node did not say
)

// WhyRecord explains one record.
type WhyRecord struct {
	Kind                     string // service, node or check
	Node, ID, Name           string
	Address                  string `json:",omitempty"` // host:port of a service, host of a node
	Status, Output           string `json:",omitempty"`
	CreateIndex, ModifyIndex uint64
	From, To                 time.Time   // between which the last change was written; a zero From: before the server's memory begins
	Writer                   string      // one of the constants
	By                       string      // the writer in words
	Returns                  string      // whether the record comes back when it is removed, and by whom
	DNS                      *WhyDNS     `json:",omitempty"` // of services and nodes
	Checks                   []WhyRecord `json:",omitempty"` // that decide about it
}

// WhyDNS says whether DNS answers with an instance or a node, and why.
type WhyDNS struct {
	Shown   bool
	Reasons []string
}

// whyPath is the route on the servers that explains records, askWhyPath the one on every agent that adds its own DNS.
const (
	whyPath    = "/v1/internal/why/"
	askWhyPath = "/v1/agent/why/"
)

// whyRoutes: the leader explains, because it has the newest state; the agent that was asked looks at its own DNS.
func (a *Agent) whyRoutes() []api.Route {
	get := []string{http.MethodGet}
	return []api.Route{
		{Pattern: whyPath, Methods: get, Where: api.Cluster, Handler: http.HandlerFunc(a.serveWhy)},
		{Pattern: askWhyPath, Methods: get, Handler: http.HandlerFunc(a.serveAskWhy)},
	}
}

// whyTarget reads KIND/NAME; KIND is service, node, check, or any for all of them.
func whyTarget(path, prefix string) (kind, name string, err error) {
	kind, name, _ = strings.Cut(strings.TrimPrefix(path, prefix), "/")
	if !slices.Contains([]string{"service", "node", "check", "any"}, kind) || name == "" {
		return "", "", fmt.Errorf("want %sKIND/NAME where KIND is service, node, check or any", prefix)
	}
	return kind, name, nil
}

func (a *Agent) mayRead(r *http.Request, resource, name string) error {
	return consul.Allow(a.opts.Authorizer, r, consul.Access{Resource: resource, Name: name})
}

func writeWhy(w http.ResponseWriter, y *Why) {
	b, err := json.Marshal(y)
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	_, _ = w.Write(b)
}

func (a *Agent) serveWhy(w http.ResponseWriter, r *http.Request) {
	kind, name, err := whyTarget(r.URL.Path, whyPath)
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	snap, _, err := a.store.Read(r.Context(), api.Default)
	if err != nil {
		api.WriteStoreError(w, err)
		return
	}
	found, err := a.findWhy(r, snap, kind, name)
	if err != nil {
		http.Error(w, err.Error(), http.StatusForbidden)
		return
	}
	writeWhy(w, a.explain(r.Context(), snap, found))
}

// serveAskWhy asks the leader, who knows what the token may read, and adds what this agent's DNS says.
func (a *Agent) serveAskWhy(w http.ResponseWriter, r *http.Request) {
	kind, name, err := whyTarget(r.URL.Path, askWhyPath)
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	y, err := a.askWhy(r.Context(), kind, name, consul.Token(r))
	if err != nil {
		var refused whyRefused
		if errors.As(err, &refused) {
			http.Error(w, err.Error(), http.StatusForbidden)
			return
		}
		http.Error(w, "asking the leader: "+err.Error(), http.StatusInternalServerError)
		return
	}
	y.Agent = a.cfg.NodeName
	for i := range y.Records {
		switch rec := &y.Records[i]; rec.Kind {
		case "service":
			rec.DNS = a.whyInDNS(r.Context(), rec)
		case "node":
			rec.DNS = &WhyDNS{Shown: a.dns != nil, Reasons: []string{"the name of a node is answered as long as its record exists, whatever its checks say"}}
			if a.dns == nil {
				rec.DNS.Reasons = []string{"this agent serves no DNS"}
			}
		}
	}
	writeWhy(w, y)
}

// whyRefused is the leader's word for what the token of the request may not do.
type whyRefused string

func (e whyRefused) Error() string { return string(e) }

func (a *Agent) askWhy(ctx context.Context, kind, name, token string) (*Why, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, whyPath+kind+"/"+url.PathEscape(name), http.NoBody)
	if err != nil {
		return nil, err
	}
	if token != "" {
		req.Header.Set("X-Consul-Token", token)
	}
	resp, err := a.call(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, 64<<20))
	if err != nil {
		return nil, err
	}
	switch text := strings.TrimSpace(string(body)); resp.StatusCode {
	case http.StatusOK:
	case http.StatusForbidden:
		return nil, whyRefused(text)
	default:
		return nil, errors.New(text)
	}
	y := new(Why)
	return y, json.Unmarshal(body, y)
}

// whyInDNS compares what this agent's DNS would answer this moment with what the checks demand.
func (a *Agent) whyInDNS(ctx context.Context, rec *WhyRecord) *WhyDNS {
	if a.dns == nil {
		return &WhyDNS{Reasons: []string{"this agent serves no DNS"}}
	}
	shown, onlyPassing, err := a.dns.Healthy(ctx, rec.Name)
	if err != nil {
		return &WhyDNS{Reasons: []string{"this agent's DNS knows nothing of the service: " + err.Error()}}
	}
	out := &WhyDNS{Shown: slices.ContainsFunc(shown, func(in *catalog.Instance) bool {
		return strings.EqualFold(in.Node.Name, rec.Node) && in.Service.ID == rec.ID
	})}
	demanded := true
	for _, c := range rec.Checks {
		switch {
		case c.Status == catalog.Passing:
		case c.Status == catalog.Critical:
			demanded = false
			out.Reasons = append(out.Reasons, whyCritical(c))
		case onlyPassing:
			demanded = false
			out.Reasons = append(out.Reasons, fmt.Sprintf("check %s is %s, and only_passing is set", c.ID, c.Status))
		default:
			out.Reasons = append(out.Reasons, fmt.Sprintf("check %s is %s, which does not hide an instance", c.ID, c.Status))
		}
	}
	if len(rec.Checks) == 0 {
		out.Reasons = append(out.Reasons, "nothing checks it")
	} else if len(out.Reasons) == 0 {
		out.Reasons = append(out.Reasons, "all its checks are passing")
	}
	if h := a.heldService(rec.Name); h != nil && out.Shown && !demanded {
		out.Reasons = append(out.Reasons, "the mass-removal guard does not believe it: "+h.String())
	} else if demanded != out.Shown {
		out.Reasons = append(out.Reasons, "this agent's DNS has not caught up with the servers yet, or cannot reach them")
	}
	return out
}

// whyCritical puts a critical check into words.
func whyCritical(c WhyRecord) string {
	switch {
	case c.ID == catalog.LivenessCheck:
		return "the agent of node " + c.Node + " is not reachable (" + catalog.LivenessCheck + " is critical)"
	case c.ID == nodeMaintenanceID:
		return "node " + c.Node + " is in maintenance: " + c.Output
	case strings.HasPrefix(c.ID, serviceMaintenanceID):
		return "the service is in maintenance: " + c.Output
	}
	return strings.TrimSuffix(fmt.Sprintf("check %s is critical: %s", c.ID, firstLine(c.Output)), ": ")
}

func firstLine(s string) string {
	s, _, _ = strings.Cut(strings.TrimSpace(s), "\n")
	return s
}

// whyFound is what the catalog has of a name.
type whyFound struct {
	kind, name string
	instances  []*catalog.Instance
	node       *catalog.Node // or nil
	checks     []*catalog.Check
}

// findWhy finds the records of a name that the request may read. An instance is on a node, and a check belongs to a node
// and perhaps to a service. Without any record that may be read it takes the right on the name itself to learn that.
func (a *Agent) findWhy(r *http.Request, snap *kv.Snap, kind, name string) (*whyFound, error) {
	f := &whyFound{kind: kind, name: name}
	wants := func(k string) bool { return kind == k || kind == "any" }
	hidden := func(node, service string) bool {
		return a.mayRead(r, "node", node) != nil || service != "" && a.mayRead(r, "service", service) != nil
	}
	if wants("service") {
		f.instances = slices.DeleteFunc(slices.Clone(whyInstances(snap, name)), func(in *catalog.Instance) bool {
			return hidden(in.Node.Name, in.Service.Name)
		})
	}
	if n, ok := catalog.GetNode(snap, name); ok && wants("node") && !hidden(n.Name, "") {
		f.node = n
	}
	if wants("check") {
		for _, n := range catalog.Nodes(snap) {
			if c, _, ok := catalog.GetCheck(snap, n.Name, name); ok && !hidden(c.Node, c.ServiceName) {
				f.checks = append(f.checks, c)
			}
		}
	}
	if len(f.nodes()) > 0 {
		return f, nil
	}
	if wants("service") {
		if err := a.mayRead(r, "service", name); err != nil {
			return nil, err
		}
	}
	if kind == "service" {
		return f, nil
	}
	return f, a.mayRead(r, "node", name)
}

// nodes are those that the records are on; a node may be there more than once.
func (f *whyFound) nodes() []string {
	var names []string
	for _, in := range f.instances {
		names = append(names, in.Node.Name)
	}
	for _, c := range f.checks {
		names = append(names, c.Node)
	}
	if f.node != nil {
		names = append(names, f.node.Name)
	}
	return names
}

// explain explains each of the records found.
func (a *Agent) explain(ctx context.Context, snap *kv.Snap, f *whyFound) *Why {
	y := &Why{Name: f.name, Server: a.cfg.NodeName}
	e := &explainer{agent: a, snap: snap, now: time.Now(), y: y, members: map[string]membership.Member{}}
	for _, m := range a.pool.Members() {
		e.members[strings.ToLower(m.Name)] = m
	}
	nodes := f.nodes()
	e.ask(ctx, f.kind, f.name, nodes)
	for _, in := range f.instances {
		y.Records = append(y.Records, e.instance(in))
	}
	if f.node != nil {
		y.Records = append(y.Records, e.node(f.node))
	}
	for _, c := range f.checks {
		y.Records = append(y.Records, e.check(c))
	}
	e.notes(f.kind, f.name)
	for _, u := range a.nodes.state().Unknown {
		if slices.ContainsFunc(nodes, func(n string) bool { return strings.EqualFold(n, u.Node) }) {
			e.note("nobody knows whether node %s is alive: %s since %s; it counts as alive until %s", u.Node, u.Why, u.Since.UTC().Format(time.RFC3339), u.Until.UTC().Format(time.RFC3339))
		}
	}
	return y
}

// whyInstances gives the instances of a service, or when there is no such service those with that id.
func whyInstances(snap *kv.Snap, name string) []*catalog.Instance {
	if list := catalog.Instances(snap, name); len(list) > 0 {
		return list
	}
	var out []*catalog.Instance
	for _, n := range catalog.Nodes(snap) {
		s, ok := catalog.GetService(snap, n.Name, name)
		if !ok {
			continue
		}
		for _, in := range catalog.Instances(snap, s.Name) {
			if in.Service.ID == s.ID && in.Node.Name == n.Name {
				out = append(out, in)
			}
		}
	}
	return out
}
