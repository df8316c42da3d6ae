package catalog

import (
	"fmt"
	"strings"

	"github.com/musterhq/muster/kv"
)

// Ids of the checks by which a node or a service is put into maintenance; the id of the service follows the
// prefix.
const (
	NodeMaintenanceCheck     = "_node_maintenance"
	ServiceMaintenancePrefix = "_service_maintenance:"
)

const serviceCheckPrefix = "service:"

// CheckPath is the path of the record of a check: below its service when serviceID is given, else below the node.
func CheckPath(node, serviceID, checkID string) string {
	return checkPath(NodePath(node), serviceID, checkID)
}

func checkPath(nodePath, serviceID, checkID string) string {
	if serviceID != "" {
		return servicePath(nodePath, serviceID) + "/c/" + kv.Escape(checkID)
	}
	return nodeCheckPath(nodePath, checkID)
}

func nodeCheckPath(nodePath, checkID string) string { return nodePath + "/c/" + kv.Escape(checkID) }

// EncodeCheck is the stored form of a check: JSON with the field names of Check, empty fields left out.
func EncodeCheck(c *Check) string {
	e := newEncoder()
	e.str("Node", c.Node)
	e.str("ID", c.ID)
	e.str("Name", c.Name)
	e.str("Status", c.Status)
	e.str("Notes", c.Notes)
	e.str("Output", c.Output)
	e.str("ServiceID", c.ServiceID)
	e.str("ServiceName", c.ServiceName)
	e.strs("ServiceTags", c.ServiceTags)
	e.str("Type", c.Type)
	e.str("Interval", c.Interval)
	e.str("Timeout", c.Timeout)
	e.anyMap("Definition", c.Definition)
	return e.done()
}

func decodeCheck(value string) (*Check, error) {
	c := new(Check)
	d := decoder{s: value}
	for key, ok := d.begin(); ok; key, ok = d.field() {
		switch key {
		case "Node":
			d.str(&c.Node)
		case "ID":
			d.str(&c.ID)
		case "Name":
			d.str(&c.Name)
		case "Status":
			d.str(&c.Status)
		case "Notes":
			d.str(&c.Notes)
		case "Output":
			d.str(&c.Output)
		case "ServiceID":
			d.str(&c.ServiceID)
		case "ServiceName":
			d.str(&c.ServiceName)
		case "ServiceTags":
			d.strs(&c.ServiceTags)
		case "Type":
			d.str(&c.Type)
		case "Interval":
			d.str(&c.Interval)
		case "Timeout":
			d.str(&c.Timeout)
		case "Definition":
			d.anyMap(&c.Definition)
		default:
			d.fail()
		}
	}
	return finish(&d, c)
}

// registerChecks adds the checks of a registration. A check id is unique on its node: a check that is registered
// for another service than before moves. Of several checks with one id in a registration the last one counts.
func (b *builder) registerChecks(r *Registration, svc *Service) error {
	var last map[string]int
	if len(r.Checks) > 1 {
		last = make(map[string]int, len(r.Checks))
		for i, c := range r.Checks {
			last[checkID(c)] = i
		}
	}
	for i, c := range r.Checks {
		if last != nil && last[checkID(c)] != i {
			continue
		}
		if err := b.registerCheck(r.Node.Name, *c, svc); err != nil {
			return err
		}
	}
	return nil
}

func checkID(c *Check) string {
	if c.ID == "" {
		return c.Name
	}
	return c.ID
}

func (b *builder) registerCheck(node string, c Check, svc *Service) error {
	c.ID = checkID(&c)
	if c.ID == "" {
		return &InputError{"Must provide a check ID or a check name"}
	}
	if c.Node == "" {
		c.Node = node
	} else if !strings.EqualFold(c.Node, node) {
		return &InputError{fmt.Sprintf("check node %q does not match node %q", c.Node, node)}
	}
	if c.Status == "" {
		c.Status = Critical
	}
	c.ServiceName, c.ServiceTags = "", nil
	if c.ServiceID != "" {
		if svc == nil || svc.ID != c.ServiceID {
			path := servicePath(b.node, c.ServiceID)
			known, e := recordAt[*Service](b.snap, path)
			if known == nil {
				return &InputError{fmt.Sprintf("Unknown service ID '%s' for check ID '%s'", c.ServiceID, c.ID)}
			}
			b.unchanged(path, e)
			svc = known
		}
		c.ServiceName, c.ServiceTags = svc.Name, svc.Tags
	}
	b.setCheck(&c)
	return nil
}

// setCheck writes a complete check, wherever on the node it was before.
func (b *builder) setCheck(c *Check) {
	path := checkPath(b.node, c.ServiceID, c.ID)
	if known, old := findCheck(b.snap, b.node, c.ID); known != nil && old != path {
		b.removeTree(old)
	}
	b.set(path, EncodeCheck(c))
	if c.Status == Critical {
		b.lost = append(b.lost, c.ID)
	}
}

// SetLiveness builds the Txn by which the leader marks a node's agent alive or failed: status and output of its
// LivenessCheck; sessions that depend on it go in the same Txn when it turns critical. The Txn is empty when
// nothing changes and when the node is unknown.
func SetLiveness(s *kv.Snap, node string, alive bool) kv.Txn {
	if !alive {
		return setLiveness(s, node, Critical, "Agent not live or unreachable")
	}
	return setLiveness(s, node, Passing, "Agent alive and reachable")
}

// UnknownLiveness begins the output of the LivenessCheck of a node of which nobody knows whether it lives.
const UnknownLiveness = "Agent liveness unknown: "

// SetLivenessUnknown builds the Txn by which the leader says that it does not know whether a node's agent is alive, and
// why. Clients know no such status: it counts as alive, and the output says the truth.
func SetLivenessUnknown(s *kv.Snap, node, why string) kv.Txn {
	return setLiveness(s, node, Passing, UnknownLiveness+why)
}

func setLiveness(s *kv.Snap, node string, status Status, output string) kv.Txn {
	b := builder{snap: s, node: NodePath(node)}
	n, _ := recordAt[*Node](s, b.node)
	if n == nil {
		return kv.Txn{}
	}
	c := Check{Node: n.Name, ID: LivenessCheck, Name: "Serf Health Status", Status: status, Output: output}
	if known, _ := recordAt[*Check](s, nodeCheckPath(b.node, LivenessCheck)); known != nil && known.Status == c.Status && known.Output == c.Output {
		return kv.Txn{}
	}
	b.cond(kv.Cond{Kind: kv.CondHasValue, Path: b.node})
	b.setCheck(&c)
	b.dropSessions()
	return b.txn
}

// findCheck finds a check of a node by its id, wherever it is, with its path.
func findCheck(s *kv.Snap, nodePath, id string) (*Check, string) {
	at := func(serviceID string) (*Check, string) {
		path := checkPath(nodePath, serviceID, id)
		c, _ := recordAt[*Check](s, path)
		return c, path
	}
	if c, path := at(""); c != nil {
		return c, path
	}
	if e, ok := s.Get(ownerPath(nodePath[len("n/"):], kv.Escape(id))); ok {
		if service, ok := e.Record().(string); ok {
			return at(service)
		}
	}
	// The rest are the checks that selfNamed keeps out of the view.
	if service, ok := strings.CutPrefix(id, ServiceMaintenancePrefix); ok && service != "" {
		return at(service)
	}
	if service, ok := strings.CutPrefix(id, serviceCheckPrefix); ok && service != "" {
		if c, path := at(service); c != nil {
			return c, path
		}
		if i := strings.LastIndexByte(service, ':'); i > 0 && digits(service[i+1:]) {
			return at(service[:i])
		}
	}
	return nil, ""
}

// selfNamed says whether the id of a check names its service in one of the customary ways, so that findCheck needs
// no view entry to find it. Nearly all checks are named so, which keeps that view, and its memory, small.
func selfNamed(checkID, serviceID string) bool {
	if rest, ok := strings.CutPrefix(checkID, ServiceMaintenancePrefix); ok {
		return rest == serviceID
	}
	rest, ok := strings.CutPrefix(checkID, serviceCheckPrefix)
	if !ok {
		return false
	}
	if rest == serviceID {
		return true
	}
	i := strings.LastIndexByte(rest, ':')
	return i > 0 && rest[:i] == serviceID && digits(rest[i+1:])
}

func digits(s string) bool {
	for i := range len(s) {
		if s[i] < '0' || s[i] > '9' {
			return false
		}
	}
	return s != ""
}

// Aggregate is the status that stands for all checks: Maintenance when one of them is a maintenance check, else
// the worst status; Passing when there are none. A status of a foreign name counts as Warning: not good enough for
// those who want passing instances only, not bad enough to hide an instance from the others.
func Aggregate(checks []*Check) Status {
	for _, c := range checks {
		if c.ID == NodeMaintenanceCheck || strings.HasPrefix(c.ID, ServiceMaintenancePrefix) {
			return Maintenance
		}
	}
	return worst(checks)
}

// worst is Aggregate without Maintenance.
func worst(checks []*Check) Status {
	w := Passing
	for _, c := range checks {
		switch c.Status {
		case Passing:
		case Critical:
			return Critical
		default:
			w = Warning
		}
	}
	return w
}
