package agent

import (
	"context"
	"encoding/json"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/musterhq/muster/catalog"
	"github.com/musterhq/muster/kv"
	"github.com/musterhq/muster/membership"
)

// whyQuestion is put to agents by gossip: what does your registry know of this name?
type whyQuestion struct {
	Kind, Name string
	All        bool `json:",omitempty"` // everybody is asked: who knows nothing is silent
}

const whyQuestionName = "why"

// whyAnswer is what an agent knows, short enough for one packet.
type whyAnswer struct {
	Items []whyItem `json:"i,omitempty"`
	More  int       `json:"m,omitempty"` // items that did not fit
}

// whyItem is one service or check of an agent's registry.
type whyItem struct {
	Service string `json:"s,omitempty"` // id
	Check   string `json:"c,omitempty"` // id; empty: the service itself
	File    bool   `json:"f,omitempty"` // from a configuration file, otherwise by the HTTP interface
	Path    string `json:"p,omitempty"` // of the file, when it still says so
	Unsent  bool   `json:"u,omitempty"` // the catalog has not acknowledged it
}

// answerWhy answers the question of a leader from the registry.
func (a *Agent) answerWhy(name string, question []byte) []byte {
	var q whyQuestion
	if name != whyQuestionName || json.Unmarshal(question, &q) != nil {
		return nil // of a newer version, or nonsense
	}
	items := a.registry.explain(q)
	if len(items) == 0 && q.All {
		return nil
	}
	for i := range items {
		if items[i].File {
			items[i].Path = a.definedIn(items[i])
		}
	}
	for n := len(items); ; n-- {
		b, err := json.Marshal(whyAnswer{items[:n], len(items) - n})
		if err == nil && len(b) <= membership.MaxQuestion {
			return b
		}
		if n == 0 {
			return nil
		}
	}
}

// explain lists what the registry has of a name: services of that name or id, checks of that id, and, with a service or
// the node itself, the checks of the node.
func (r *Registry) explain(q whyQuestion) []whyItem {
	var out []whyItem
	r.mu.RLock()
	defer r.mu.RUnlock()
	asked := func(kind string) bool { return q.Kind == kind || q.Kind == "any" }
	for id, s := range r.services {
		if !asked("service") || !strings.EqualFold(s.def.Name, q.Name) && id != q.Name {
			continue
		}
		out = append(out, whyItem{Service: id, File: s.source == fromFile, Unsent: !s.sent.Load()})
		for cid, c := range s.checks {
			if c.source != s.source {
				out = append(out, whyItem{Service: id, Check: cid, File: c.source == fromFile})
			}
		}
	}
	withNode := !q.All || len(out) > 0 || asked("node") && strings.EqualFold(q.Name, r.cfg.NodeName)
	for id, c := range r.checks {
		if asked("check") && id == q.Name || withNode && c.def.ServiceID == "" {
			out = append(out, whyItem{Service: c.def.ServiceID, Check: id, File: c.source == fromFile})
		}
	}
	slices.SortFunc(out, func(a, b whyItem) int { return strings.Compare(a.Service+"\x00"+a.Check, b.Service+"\x00"+b.Check) })
	return slices.Compact(out)
}

// definedIn looks for the configuration file that defines a service or check, by reading them again: who asks wants to
// know which file to edit now.
func (a *Agent) definedIn(item whyItem) string {
	var files []string
	for _, path := range a.cfg.ConfigFiles {
		entries, err := os.ReadDir(path)
		if err != nil {
			files = append(files, path) // a file
			continue
		}
		for _, e := range entries {
			if formatOf(e.Name()) != "" {
				files = append(files, filepath.Join(path, e.Name()))
			}
		}
	}
	slices.Reverse(files) // the last one wins
	for _, path := range files {
		l := newLoader()
		c := Config{origins: map[string]string{}}
		l.path(&c, path)
		for _, s := range c.Services {
			if s.ID == item.Service && item.Service != "" || s.ID == "" && s.Name == item.Service && s.Name != "" {
				return path
			}
		}
		for _, def := range c.Checks {
			if item.Check != "" && (def.ID == item.Check || def.ID == "" && def.Name == item.Check) {
				return path
			}
		}
	}
	return ""
}

// explainer explains the records of one snapshot.
type explainer struct {
	agent   *Agent
	snap    *kv.Snap
	now     time.Time
	y       *Why
	members map[string]membership.Member // by lower-case name
	heard   map[string]whyAnswer         // by lower-case name of the agent
}

// askFor is how long agents have for their answers.
const askFor = 2 * time.Second

// ask asks the live agents of these nodes; without any, all agents: one may have a registration that never arrived.
func (e *explainer) ask(ctx context.Context, kind, name string, nodes []string) {
	e.heard = map[string]whyAnswer{}
	var alive []string
	for _, n := range nodes {
		if m, ok := e.members[strings.ToLower(n)]; ok && m.Status == membership.StatusAlive && !slices.Contains(alive, m.Name) {
			alive = append(alive, m.Name)
		}
	}
	if len(nodes) > 0 && len(alive) == 0 {
		return
	}
	question, err := json.Marshal(whyQuestion{kind, name, len(alive) == 0 || len(alive) > membership.MaxNamed})
	if err != nil {
		return
	}
	replies, err := e.agent.pool.Ask(ctx, whyQuestionName, question, alive, askFor)
	if err != nil {
		e.note("agents could not be asked: %v", err)
	}
	for _, r := range replies {
		var ans whyAnswer
		if json.Unmarshal(r.Answer, &ans) == nil {
			e.heard[strings.ToLower(r.Node)] = ans
		}
	}
}

func (e *explainer) note(format string, args ...any) {
	e.y.Notes = append(e.y.Notes, fmt.Sprintf(format, args...))
}

// base fills in what all records have.
func (e *explainer) base(kind, node, id, name string, created, modified uint64) WhyRecord {
	rec := WhyRecord{Kind: kind, Node: node, ID: id, Name: name, CreateIndex: created, ModifyIndex: modified}
	rec.From, rec.To = e.agent.marks.when(modified, e.now)
	return rec
}

func (e *explainer) instance(in *catalog.Instance) WhyRecord {
	s := in.Service
	rec := e.base("service", in.Node.Name, s.ID, s.Name, s.Created, s.Modified)
	host := s.Address
	if host == "" {
		host = in.Node.Address
	}
	rec.Address, rec.Status = net.JoinHostPort(host, strconv.Itoa(s.Port)), in.Status
	if s.ID == serverService && e.isServer(in.Node.Name) {
		rec.leader("because gossip shows the server")
	} else {
		e.owned(&rec, whyItem{Service: s.ID})
	}
	for _, c := range in.Checks {
		rec.Checks = append(rec.Checks, e.check(c))
	}
	return rec
}

func (e *explainer) isServer(node string) bool {
	m, ok := e.members[strings.ToLower(node)]
	return ok && isServer(m)
}

func (r *WhyRecord) leader(because string) {
	r.Writer, r.By = WrittenByLeader, "the leader, "+because
	r.Returns = fmt.Sprintf("yes: the leader writes it again at its next comparison, within %v", reconcileEvery)
}

func (e *explainer) node(n *catalog.Node) WhyRecord {
	rec := e.base("node", n.Name, n.ID, n.Name, n.Created, n.Modified)
	rec.Address = n.Address
	if m, ok := e.members[strings.ToLower(n.Name)]; ok && (n.ID == "" || strings.EqualFold(n.ID, m.ID())) {
		switch m.Status {
		case membership.StatusFailed:
			rec.leader("because gossip showed its agent, which has failed since")
			rec.Returns = "not while its agent is down; with the agent, when it starts again"
		default:
			rec.leader("because gossip shows its agent, and that agent itself")
			rec.Returns = fmt.Sprintf("yes: the leader writes it again within %v, and the agent of the node at its next comparison", reconcileEvery)
		}
	} else {
		rec.catalog()
	}
	for _, c := range catalog.NodeChecks(e.snap, n.Name) {
		if c.ServiceID == "" {
			rec.Checks = append(rec.Checks, e.check(c))
		}
	}
	return rec
}

func (r *WhyRecord) catalog() {
	r.Writer = WrittenByCatalog
	r.By = "a client of the HTTP catalog, a transaction or a restored snapshot: no agent runs under the name of its node"
	r.Returns = "no, unless the client that wrote it writes again"
}

func (e *explainer) check(c *catalog.Check) WhyRecord {
	rec := e.base("check", c.Node, c.ID, c.Name, c.Created, c.Modified)
	rec.Status, rec.Output = c.Status, c.Output
	switch {
	case c.ID == catalog.LivenessCheck:
		rec.leader("from what gossip and its own connection to the agent tell")
	case c.ID == nodeMaintenanceID, strings.HasPrefix(c.ID, serviceMaintenanceID):
		rec.Output = c.Notes
		e.owned(&rec, whyItem{Service: c.ServiceID, Check: c.ID})
		if rec.Writer == WrittenByAgent {
			rec.By = "the agent of node " + c.Node + ", put into maintenance by its HTTP interface"
			rec.Returns = "yes, by that agent, until maintenance is ended there (muster maint -disable)"
		}
	default:
		e.owned(&rec, whyItem{Service: c.ServiceID, Check: c.ID})
	}
	return rec
}

// owned says who wrote a service or check of a node: its agent, when one runs and knows it.
func (e *explainer) owned(rec *WhyRecord, want whyItem) {
	m, ok := e.members[strings.ToLower(rec.Node)]
	n, known := catalog.GetNode(e.snap, rec.Node)
	if !ok || known && n.ID != "" && !strings.EqualFold(n.ID, m.ID()) {
		rec.catalog()
		return
	}
	ans, answered := e.heard[strings.ToLower(rec.Node)]
	if !answered {
		rec.Writer = WrittenUnknown
		rec.By = fmt.Sprintf("presumably the agent of node %s, which is %s and did not answer", rec.Node, m.Status)
		rec.Returns = "if that agent still has it when it runs again; a service that is removed while its agent is away stays removed"
		return
	}
	item, found := ans.find(want)
	switch {
	case !found && ans.More > 0:
		rec.Writer, rec.By = WrittenUnknown, fmt.Sprintf("presumably the agent of node %s, whose answer had no room for it", rec.Node)
	case !found:
		rec.Writer = WrittenByCatalog
		rec.By = "a client of the HTTP catalog, a transaction or a restored snapshot: the agent of the node does not know it"
		rec.Returns = "no: the agent of the node removes what it does not know at its next comparison"
	case item.File:
		rec.Writer = WrittenByFile
		rec.By = fmt.Sprintf("the agent of node %s, from its configuration", rec.Node)
		if item.Path != "" {
			rec.By = fmt.Sprintf("the agent of node %s, from %s", rec.Node, item.Path)
		}
		rec.Returns = "yes: that agent writes it again at its next comparison and at every start, until the file says otherwise and is reloaded"
	default:
		rec.Writer = WrittenByAgent
		rec.By = fmt.Sprintf("the agent of node %s, registered by its HTTP interface", rec.Node)
		rec.Returns = "yes: that agent writes it again at its next comparison, until it is deregistered there"
	}
}

// find looks for a service or check. A check that is not named came with its service.
func (w whyAnswer) find(want whyItem) (whyItem, bool) {
	var service *whyItem
	for i, item := range w.Items {
		if item.Service == want.Service && item.Check == want.Check {
			return item, true
		}
		if item.Service == want.Service && item.Check == "" {
			service = &w.Items[i]
		}
	}
	if service != nil && want.Service != "" {
		return *service, true
	}
	return whyItem{}, false
}

// notes tells what the records themselves do not: what was removed for good, and what never arrived.
func (e *explainer) notes(kind, name string) {
	if kind == "check" {
		return
	}
	for _, n := range catalog.Nodes(e.snap) {
		for _, t := range catalog.Tombstones(e.snap, n.Name) {
			if strings.EqualFold(t.Name, name) || t.ID == name || kind != "service" && strings.EqualFold(n.Name, name) {
				e.note("service %s of node %s was removed at index %d while its agent was away: the agent will not bring it back, only a new registration does", t.ID, n.Name, t.Index)
			}
		}
	}
	for _, node := range sortedKeys(e.heard) {
		for _, item := range e.heard[node].Items {
			if item.Check != "" {
				continue
			}
			if _, ok := catalog.GetService(e.snap, node, item.Service); !ok {
				e.note("the agent of node %s has service %s registered, but the catalog does not: its last attempts to send it failed (its log tells why) or are under way", node, item.Service)
			}
		}
	}
}
