package catalog_test

import (
	"cmp"
	"errors"
	"fmt"
	"math/rand"
	"reflect"
	"slices"
	"sort"
	"strings"
	"testing"

	"github.com/musterhq/muster/catalog"
	"github.com/musterhq/muster/kv"
)

// model is a catalog without a tree, views or indexes: plain maps, and every question answered by looking through
// all of them.
type model struct {
	nodes    map[string]*modelNode // by lower-case name
	sessions map[string]catalog.Session
}

type modelNode struct {
	catalog.Node
	services map[string]catalog.Service
	checks   map[string]catalog.Check // of the node and its services
}

func newModel() *model { return &model{map[string]*modelNode{}, map[string]catalog.Session{}} }

var errRefused = errors.New("refused")

func (m *model) register(r catalog.Registration) error {
	name := strings.ToLower(r.Node.Name)
	for i := range r.Checks {
		c := r.Checks[i]
		if c.ServiceID == "" || r.Service != nil && r.Service.ID == c.ServiceID {
			continue
		}
		if n := m.nodes[name]; n == nil {
			return errRefused
		} else if _, ok := n.services[c.ServiceID]; !ok {
			return errRefused
		}
	}
	holder := m.nodes[name]
	if holder == nil || !r.SkipNodeUpdate {
		var same string
		for k, n := range m.nodes {
			if r.Node.ID != "" && n.ID == r.Node.ID && k != name {
				same = k
			}
		}
		if r.Node.ID != "" && holder != nil && holder.ID != r.Node.ID && (holder.ID != "" || same != "") &&
			holder.checks[catalog.LivenessCheck].Status == catalog.Passing {
			return errRefused
		}
		if same != "" {
			m.removeNode(same)
		}
		if holder == nil {
			holder = &modelNode{services: map[string]catalog.Service{}, checks: map[string]catalog.Check{}}
			m.nodes[name] = holder
		}
		holder.Node = r.Node
	}
	if r.Service != nil {
		s := *r.Service
		s.Weights = catalog.Weights{Passing: 1, Warning: 1}
		holder.services[s.ID] = s
	}
	for _, p := range r.Checks {
		c := *p
		c.Node = r.Node.Name
		if s, ok := holder.services[c.ServiceID]; ok {
			c.ServiceName, c.ServiceTags = s.Name, s.Tags
		}
		m.setCheck(name, c)
	}
	return nil
}

func (m *model) setCheck(node string, c catalog.Check) {
	m.nodes[node].checks[c.ID] = c
	if c.Status == catalog.Critical {
		m.endSessions(node, c.ID)
	}
}

func (m *model) endSessions(node, check string) {
	for id, x := range m.sessions {
		if strings.ToLower(x.Node) == node && slices.Contains(x.NodeChecks, check) {
			delete(m.sessions, id)
		}
	}
}

func (m *model) removeNode(name string) {
	delete(m.nodes, name)
	for id, x := range m.sessions {
		if strings.ToLower(x.Node) == name {
			delete(m.sessions, id)
		}
	}
}

func (m *model) deregister(node, service, check string) {
	node = strings.ToLower(node)
	n := m.nodes[node]
	if n == nil {
		return
	}
	drop := func(id string) {
		delete(n.checks, id)
		m.endSessions(node, id)
	}
	switch {
	case check != "":
		drop(check)
	case service != "":
		delete(n.services, service)
		for id, c := range n.checks {
			if c.ServiceID == service {
				drop(id)
			}
		}
	default:
		m.removeNode(node)
	}
}

func (m *model) createSession(x catalog.Session) error {
	n := m.nodes[strings.ToLower(x.Node)]
	if n == nil {
		return errRefused
	}
	for _, id := range x.NodeChecks {
		if c, ok := n.checks[id]; !ok || c.Status == catalog.Critical {
			return errRefused
		}
	}
	m.sessions[x.ID] = x
	return nil
}

func (m *model) setLiveness(node string, alive bool) {
	n := m.nodes[strings.ToLower(node)]
	if n == nil {
		return
	}
	c := catalog.Check{Node: n.Name, ID: catalog.LivenessCheck, Name: "Serf Health Status", Status: catalog.Passing, Output: "Agent alive and reachable"}
	if !alive {
		c.Status, c.Output = catalog.Critical, "Agent not live or unreachable"
	}
	if had := n.checks[c.ID]; had.Status != c.Status || had.Output != c.Output {
		m.setCheck(strings.ToLower(node), c)
	}
}

// state is everything the queries answer, without indexes.
type state struct {
	Nodes     []catalog.Node
	Services  map[string][]string
	Instances map[string][]instance // by lower-case service name
	Checks    map[string][]catalog.Check
	OnNode    map[string][]catalog.Service
	Sessions  []catalog.Session
	Critical  []catalog.Check
}

type instance struct {
	Node    catalog.Node
	Service catalog.Service
	Checks  []catalog.Check
	Status  string
}

func (m *model) state() state {
	st := state{Services: map[string][]string{}, Instances: map[string][]instance{}, Checks: map[string][]catalog.Check{}, OnNode: map[string][]catalog.Service{}}
	for _, name := range sorted(m.nodes) {
		n := m.nodes[name]
		st.Nodes = append(st.Nodes, n.Node)
		for _, id := range sorted(n.checks) {
			c := n.checks[id]
			st.Checks[name] = append(st.Checks[name], c)
			if c.Status == catalog.Critical {
				st.Critical = append(st.Critical, c)
			}
		}
		for _, id := range sorted(n.services) {
			s := n.services[id]
			st.OnNode[name] = append(st.OnNode[name], s)
			i := instance{Node: n.Node, Service: s, Status: catalog.Passing}
			for _, of := range []string{"", id} {
				for _, cid := range sorted(n.checks) {
					c := n.checks[cid]
					if c.ServiceID != of {
						continue
					}
					i.Checks = append(i.Checks, c)
					if c.Status == catalog.Critical || c.Status == catalog.Warning && i.Status != catalog.Critical {
						i.Status = c.Status
					}
				}
			}
			key := strings.ToLower(s.Name)
			st.Instances[key] = append(st.Instances[key], i)
		}
	}
	for _, list := range st.Instances {
		tags := []string{}
		for _, i := range list {
			tags = append(tags, i.Service.Tags...)
		}
		slices.Sort(tags)
		st.Services[list[0].Service.Name] = slices.Compact(tags)
	}
	for _, x := range m.sessions {
		st.Sessions = append(st.Sessions, x)
	}
	slices.SortFunc(st.Sessions, func(a, b catalog.Session) int {
		return cmp.Or(strings.Compare(strings.ToLower(a.Node), strings.ToLower(b.Node)), strings.Compare(a.ID, b.ID))
	})
	return st
}

// stateOf asks the queries; their indexes are checked against the entries and left out.
func stateOf(t *testing.T, s *kv.Snap) state {
	st := state{Services: map[string][]string{}, Instances: map[string][]instance{}, Checks: map[string][]catalog.Check{}, OnNode: map[string][]catalog.Service{}}
	check := func(c *catalog.Check) catalog.Check {
		v := *c
		_, path, ok := catalog.GetCheck(s, v.Node, v.ID)
		e, _ := s.Get(path)
		if !ok || e.Record() != any(c) || v.Created != e.Created() || v.Modified != e.Modified() {
			t.Errorf("check %s of %s: found %v at %q, indexes %d %d", v.ID, v.Node, ok, path, v.Created, v.Modified)
		}
		v.Created, v.Modified = 0, 0
		return v
	}
	checks := func(list []*catalog.Check) (out []catalog.Check) {
		for _, c := range list {
			out = append(out, check(c))
		}
		return out
	}
	service := func(node string, p *catalog.Service) catalog.Service {
		v := *p
		e, _ := s.Get(catalog.ServicePath(node, v.ID))
		if e.Record() != any(p) || v.Created != e.Created() || v.Modified != e.Modified() {
			t.Errorf("service %s on %s: indexes %d %d, entry %d %d", v.ID, node, v.Created, v.Modified, e.Created(), e.Modified())
		}
		v.Created, v.Modified = 0, 0
		return v
	}
	for _, n := range catalog.Nodes(s) {
		v := *n
		e, ok := s.Get(catalog.NodePath(v.Name))
		if byName, found := catalog.GetNode(s, strings.ToUpper(v.Name)); !ok || !found || byName != n || v.Modified != e.Modified() || v.Created != e.Created() {
			t.Errorf("node %s: indexes %d %d", v.Name, v.Created, v.Modified)
		}
		if byID, found := catalog.NodeByID(s, v.ID); v.ID != "" && (!found || byID != n) {
			t.Errorf("node %s is not found by its ID %s", v.Name, v.ID)
		}
		v.Created, v.Modified = 0, 0
		st.Nodes = append(st.Nodes, v)
		key := strings.ToLower(v.Name)
		if c := checks(catalog.NodeChecks(s, v.Name)); c != nil {
			st.Checks[key] = c
		}
		for _, sv := range catalog.ServicesOf(s, v.Name) {
			st.OnNode[key] = append(st.OnNode[key], service(v.Name, sv))
		}
	}
	for name, tags := range catalog.Services(s) {
		st.Services[name] = append([]string{}, tags...)
		key := strings.ToLower(name)
		for _, i := range catalog.Instances(s, strings.ToUpper(name)) {
			n, _ := catalog.GetNode(s, i.Node.Name)
			if n != i.Node {
				t.Errorf("instance of %s shows another node record than %s has", name, i.Node.Name)
			}
			v := instance{Node: *i.Node, Service: service(i.Node.Name, i.Service), Checks: checks(i.Checks), Status: i.Status}
			v.Node.Created, v.Node.Modified = 0, 0
			st.Instances[key] = append(st.Instances[key], v)
		}
	}
	for _, x := range catalog.Sessions(s) {
		v := *x
		path, _ := catalog.SessionPath(s, v.ID)
		if e, ok := s.Get(path); !ok || e.Record() != any(x) || v.Created != e.Created() || v.Modified != e.Modified() {
			t.Errorf("session %s: path %q, indexes %d %d", v.ID, path, v.Created, v.Modified)
		}
		v.Created, v.Modified = 0, 0
		st.Sessions = append(st.Sessions, v)
	}
	st.Critical = checks(catalog.ChecksInState(s, catalog.Critical))
	return st
}

func sorted[V any](m map[string]V) []string {
	keys := make([]string, 0, len(m))
	for k := range m {
		keys = append(keys, k)
	}
	sort.Strings(keys)
	return keys
}

// shown is what a client sees of each path it can wait for, indexes included.
func shown(s *kv.Snap) map[string]any {
	m := map[string]any{catalog.NodesPath(): deref(catalog.Nodes(s)), catalog.ServicesPath(): catalog.Services(s), catalog.SessionsPath(): deref(catalog.Sessions(s))}
	for _, name := range modelServices {
		var list []any
		for _, i := range catalog.Instances(s, name) {
			list = append(list, *i.Node, *i.Service, deref(i.Checks))
		}
		m[catalog.InstancesPath(name)] = list
	}
	for _, name := range modelNodes {
		n, _ := catalog.GetNode(s, name)
		if n == nil {
			n = new(catalog.Node)
		}
		m[catalog.NodePath(name)] = []any{*n, deref(catalog.ServicesOf(s, name)), deref(catalog.NodeChecks(s, name)), deref(catalog.NodeSessions(s, name))}
	}
	return m
}

func deref[T any](list []*T) []T {
	out := make([]T, 0, len(list))
	for _, p := range list {
		out = append(out, *p)
	}
	return out
}

var (
	modelNodes    = []string{"a", "B", "b/%2f", "Ünï"}
	modelServices = []string{"web", "Web", "db", "x/y%"}
	modelIDs      = []string{"web", "web:1", "db", "i/j"}
	modelStatus   = []string{catalog.Passing, catalog.Passing, catalog.Warning, catalog.Critical}
)

func pick[T any](r *rand.Rand, list []T) T { return list[r.Intn(len(list))] }

func randomRegistration(r *rand.Rand) catalog.Registration {
	n := catalog.Node{Name: pick(r, modelNodes), Address: fmt.Sprintf("10.0.0.%d", r.Intn(2))}
	if r.Intn(3) == 0 {
		n.Name = strings.ToUpper(n.Name)
	}
	if r.Intn(2) == 0 {
		n.ID = uuid(r.Intn(4))
	}
	out := catalog.Registration{Node: n, SkipNodeUpdate: r.Intn(2) == 0}
	if r.Intn(2) == 0 {
		tags := []string{"t1", "t2", "t3"}[:r.Intn(4)]
		out.Service = &catalog.Service{ID: pick(r, modelIDs), Name: pick(r, modelServices), Tags: slices.Clone(tags), Port: 80 + r.Intn(2)}
	}
	for range r.Intn(3) {
		c := &catalog.Check{ID: pick(r, []string{"c1", "service:web", "service:web:1", "service:db", catalog.LivenessCheck}), Status: pick(r, modelStatus)}
		if c.ID != catalog.LivenessCheck && r.Intn(3) > 0 {
			c.ServiceID = pick(r, modelIDs)
		}
		if len(out.Checks) == 0 || out.Checks[0].ID != c.ID {
			out.Checks = append(out.Checks, c)
		}
	}
	return out
}

// TestModel runs random histories against the model, and wants after each step: the same answers, and that exactly
// those paths moved and woke whose answers have changed; and now and then the same answers from a restored tree.
func TestModel(t *testing.T) {
	for seed := range int64(8) {
		r := rand.New(rand.NewSource(seed))
		w, m := newWorld(t), newModel()
		session := 0
		for step := range 150 {
			what, txn, err, want := "", kv.Txn{}, error(nil), error(nil)
			switch k := r.Intn(20); {
			case k < 11:
				x := randomRegistration(r)
				what = fmt.Sprintf("register %+v %+v %+v skip=%v", x.Node, x.Service, deref(x.Checks), x.SkipNodeUpdate)
				txn, err = catalog.Register(w.snap(), x)
				want = m.register(x)
			case k < 15:
				node, service, check := pick(r, modelNodes), "", ""
				if r.Intn(3) > 0 {
					service = pick(r, modelIDs)
				}
				if r.Intn(3) == 0 {
					check = pick(r, []string{"c1", "service:web", "service:web:1", "service:db", catalog.LivenessCheck})
				}
				what = fmt.Sprintf("deregister %q %q %q", node, service, check)
				txn, err = catalog.Deregister(w.snap(), node, service, check)
				m.deregister(node, service, check)
			case k < 17:
				node, alive := pick(r, modelNodes), r.Intn(2) == 0
				what = fmt.Sprintf("liveness %s %v", node, alive)
				txn = catalog.SetLiveness(w.snap(), node, alive)
				m.setLiveness(node, alive)
			case k < 19:
				x := catalog.Session{ID: fmt.Sprint("s", session), Node: pick(r, modelNodes), Behavior: "release", NodeChecks: []string{}}
				for _, id := range []string{"c1", "service:web", catalog.LivenessCheck} {
					if r.Intn(4) == 0 {
						x.NodeChecks = append(x.NodeChecks, id)
					}
				}
				session++
				what = fmt.Sprintf("session %+v", x)
				txn, err = catalog.CreateSession(w.snap(), x)
				want = m.createSession(x)
			default:
				id := fmt.Sprint("s", r.Intn(session+1))
				what = "destroy " + id
				txn = catalog.DestroySession(w.snap(), id)
				delete(m.sessions, id)
			}
			if (err == nil) != (want == nil) {
				t.Fatalf("seed %d step %d: %s: error %v, the model says %v", seed, step, what, err, want)
			}
			if err != nil {
				continue
			}
			stepMatches(t, w, m, txn)
			if step%10 == 9 {
				compare(t, "restored: ", stateOf(t, w.restored().snap()), m.state())
			}
			if t.Failed() {
				t.Fatalf("seed %d step %d: %s", seed, step, what)
			}
		}
	}
}

func stepMatches(t *testing.T, w *world, m *model, txn kv.Txn) {
	before, was := w.snap(), shown(w.snap())
	paths := sorted(was)
	woken := w.waits(func() { w.apply(txn) }, paths...)
	s := w.snap()
	now := shown(s)
	for i, p := range paths {
		changed := !reflect.DeepEqual(was[p], now[p])
		if woken[i] != changed {
			t.Errorf("%s: woken %v, changed %v", p, woken[i], changed)
		}
		if _, ok := s.Get(p); ok && (s.IndexOf(p) > before.IndexOf(p)) != changed {
			t.Errorf("%s: index %d to %d, changed %v", p, before.IndexOf(p), s.IndexOf(p), changed)
		}
	}
	for _, name := range modelServices {
		p := catalog.InstancesPath(name)
		a, b := catalog.InstancesIndex(before, name), catalog.InstancesIndex(s, name)
		if b < a || b == a && !reflect.DeepEqual(was[p], now[p]) {
			t.Errorf("InstancesIndex(%s) goes from %d to %d", name, a, b)
		}
	}
	for _, name := range modelNodes {
		p := catalog.NodePath(name)
		a, b := catalog.NodeIndex(before, name), catalog.NodeIndex(s, name)
		if b < a || b == a && !reflect.DeepEqual(was[p], now[p]) {
			t.Errorf("NodeIndex(%s) goes from %d to %d", name, a, b)
		}
	}
	compare(t, "", stateOf(t, s), m.state())
}

// compare names the part in which two states differ.
func compare(t *testing.T, what string, got, want state) {
	g, w := reflect.ValueOf(got), reflect.ValueOf(want)
	for i := range g.NumField() {
		if !reflect.DeepEqual(g.Field(i).Interface(), w.Field(i).Interface()) {
			t.Errorf("%s%s\n got %+v\nwant %+v", what, g.Type().Field(i).Name, g.Field(i), w.Field(i))
		}
	}
}

// randomRecord is a value for a path.
func randomRecord(r *rand.Rand, seg []string) string {
	switch id := seg[len(seg)-1]; {
	case len(seg) == 2:
		return fmt.Sprintf(`{"ID":"id-%s","Name":%q,"Address":"%d"}`, id, id, r.Intn(2))
	case len(seg) == 6:
		return fmt.Sprintf(`{"ID":%q,"ServiceID":%q,"Status":%q}`, id, seg[3], pick(r, modelStatus))
	case seg[2] == "c":
		return fmt.Sprintf(`{"ID":%q,"Status":%q}`, id, pick(r, modelStatus))
	case seg[2] == "l":
		return fmt.Sprintf(`{"ID":%q,"Node":%q}`, id, seg[1])
	default:
		return fmt.Sprintf(`{"ID":%q,"Name":%q,"Tags":%s}`, id, pick(r, []string{"Web", "web", "db"}), pick(r, []string{`["a","b"]`, `["b","c"]`, `null`}))
	}
}

// TestDeriveEqualsRebuild applies random Txns, among them ones no builder makes, and wants the views to be those that a
// restored tree derives from the records at once.
func TestDeriveEqualsRebuild(t *testing.T) {
	views := func(w *world) map[string]string {
		m := map[string]string{}
		w.snap().Walk("v/", func(path string, e *kv.Entry) bool {
			m[path] = fmt.Sprintf("%+v", e.Record())
			if i, ok := e.Record().(*catalog.Instance); ok {
				m[path] = fmt.Sprintf("%+v %+v %+v %s", *i.Node, *i.Service, deref(i.Checks), i.Status)
			}
			return true
		})
		for name, tags := range catalog.Services(w.snap()) {
			m["v/n/"+strings.ToLower(name)] = name + fmt.Sprint(tags)
		}
		return m
	}
	for seed := range int64(8) {
		r := rand.New(rand.NewSource(seed))
		w := newWorld(t)
		for range 60 {
			var txn kv.Txn
			for range 1 + r.Intn(4) {
				n := fmt.Sprint("n/", r.Intn(2))
				s := fmt.Sprint(n, "/s/", r.Intn(3))
				path := pick(r, []string{n, n + "/c/x", s, s, s + "/c/x" + s[len(s)-1:], n + "/l/" + n[2:]})
				op := kv.Op{Kind: kv.OpSet, Flags: kv.Flat | kv.KeepCreated, Path: path}
				op.Value = randomRecord(r, strings.Split(path, "/"))
				switch r.Intn(9) {
				case 0:
					op = kv.Op{Kind: kv.OpDelete, Path: path}
				case 1:
					op = kv.Op{Kind: kv.OpDeleteTree, Path: pick(r, []string{path, s, n, n + "/s", n + "/c", n + "/l"})}
				case 2:
					op = kv.Op{Kind: kv.OpDeletePrefix, Path: path}
				}
				txn.Ops = append(txn.Ops, op)
			}
			w.apply(txn)
			got, want := views(w), views(w.restored())
			if !reflect.DeepEqual(got, want) {
				t.Fatalf("seed %d: after %+v\n got %v\nwant %v", seed, txn.Ops, got, want)
			}
		}
	}
}
