package catalog

import (
	"cmp"
	"slices"
	"strings"

	"github.com/musterhq/muster/kv"
)

// Queries. Lists are ordered by node name, then id. Names of nodes and services are looked up without regard to
// letter case. Each *Path function gives the path whose kv index and Wait cover the matching query. What the queries
// return is shared and must not be changed.

// NodesPath covers Nodes: it moves when a node record changes, not with what happens on the nodes.
func NodesPath() string { return "v/d" }

// ServicesPath covers Services: it moves when a service appears or vanishes or the union of its tags changes.
func ServicesPath() string { return "v/n" }

// InstancesPath covers Instances and ServiceChecks of one service: it moves exactly when something an Instance of the
// service shows changes, so also with the node's record and the node's own checks.
func InstancesPath(service string) string { return "v/s/" + fold(service) }

// ChecksPath covers ChecksInState. It moves with any change of the catalog.
func ChecksPath() string { return "n" }

// SessionsPath covers Sessions and GetSession.
func SessionsPath() string { return "v/x" }

// InstancesIndex is the index of Instances for a client that waits: that of InstancesPath, and while there are no
// instances that of ServicesPath, which is quieter than the directory of all instances and never behind it for this
// service.
func InstancesIndex(s *kv.Snap, service string) uint64 {
	if e, ok := s.Get(InstancesPath(service)); ok {
		return e.Index()
	}
	return s.IndexOf(ServicesPath())
}

// NodeIndex is the index of all queries about one node: that of NodePath, and while the node is unknown that of
// NodesPath.
func NodeIndex(s *kv.Snap, name string) uint64 {
	if e, ok := s.Get(NodePath(name)); ok {
		return e.Index()
	}
	return s.IndexOf(NodesPath())
}

// Nodes lists all nodes.
func Nodes(s *kv.Snap) []*Node { return records[*Node](s, NodesPath()) }

// GetNode finds a node by its name. NodePath covers it.
func GetNode(s *kv.Snap, name string) (*Node, bool) {
	n, _ := recordAt[*Node](s, NodePath(name))
	return n, n != nil
}

// NodeByID finds a node by its ID (a UUID). NodesPath covers it.
func NodeByID(s *kv.Snap, id string) (*Node, bool) {
	if id == "" {
		return nil, false
	}
	n, _ := recordAt[*Node](s, nodeIDPath(id))
	return n, n != nil
}

// ServicesOf lists the service instances on a node. NodePath covers it.
func ServicesOf(s *kv.Snap, node string) []*Service {
	return records[*Service](s, NodePath(node)+"/s")
}

// GetService finds a service instance by its node and id. ServicePath covers it.
func GetService(s *kv.Snap, node, id string) (*Service, bool) {
	v, _ := recordAt[*Service](s, ServicePath(node, id))
	return v, v != nil
}

// GetCheck finds a check of a node by its id, of the node itself or of one of its services, and its path.
func GetCheck(s *kv.Snap, node, id string) (c *Check, path string, ok bool) {
	c, path = findCheck(s, NodePath(node), id)
	return c, path, c != nil
}

// NodeChecks lists all checks on a node, its own and those of its services, by id. NodePath covers it.
func NodeChecks(s *kv.Snap, node string) []*Check {
	e, ok := s.Get(NodePath(node))
	if !ok {
		return nil
	}
	return appendChecks(nil, e, "any")
}

// appendChecks appends all checks of the node at e in a state, ordered by id.
func appendChecks(list []*Check, e *kv.Entry, state string) []*Check {
	start := len(list)
	add := func(_ *kv.Entry, c *Check) {
		if state == "any" || c.Status == state {
			list = append(list, c)
		}
	}
	eachCheck(e, add)
	if services, ok := e.Child("s"); ok {
		services.Each(func(s *kv.Entry) bool { eachCheck(s, add); return true })
	}
	slices.SortFunc(list[start:], func(a, b *Check) int { return cmp.Compare(a.ID, b.ID) })
	return list
}

// Services gives the union of the tags of all instances, sorted, by service name. The name is spelt as by the first
// instance. ServicesPath covers it.
func Services(s *kv.Snap) map[string][]string {
	dir, ok := s.Get(ServicesPath())
	if !ok {
		return map[string][]string{}
	}
	services := make(map[string][]string, dir.Len())
	dir.Each(func(e *kv.Entry) bool {
		if v, ok := e.Record().(*serviceTags); ok {
			services[v.name] = v.tags
		}
		return true
	})
	return services
}

// Instances lists the instances of a service. InstancesPath covers it.
func Instances(s *kv.Snap, service string) []*Instance {
	return records[*Instance](s, InstancesPath(service))
}

// InstancesAt is Instances by the path that InstancesPath gives.
func InstancesAt(s *kv.Snap, path string) []*Instance { return records[*Instance](s, path) }

// ServiceChecks lists the own checks of a service's instances. InstancesPath covers it.
func ServiceChecks(s *kv.Snap, service string) []*Check {
	var list []*Check
	for _, i := range Instances(s, service) {
		list = append(list, i.OwnChecks()...)
	}
	return list
}

// OwnChecks are those of the Checks that belong to the instance itself, not to its node.
func (i *Instance) OwnChecks() []*Check {
	n := 0
	for n < len(i.Checks) && i.Checks[n].ServiceID == "" {
		n++
	}
	return i.Checks[n:]
}

// HasTags reports whether the service has all of the tags, in any letter case.
func (s *Service) HasTags(tags ...string) bool {
	for _, want := range tags {
		if !slices.ContainsFunc(s.Tags, func(t string) bool { return strings.EqualFold(t, want) }) {
			return false
		}
	}
	return true
}

// PassingOnly gives those of the instances whose node checks and own checks are all passing. It returns list itself
// when that is all of them.
func PassingOnly(list []*Instance) []*Instance {
	return keep(list, func(i *Instance) bool { return i.Status == Passing })
}

// Tagged gives those of the instances whose service has all of the tags, in any letter case. It returns list itself
// when that is all of them.
func Tagged(list []*Instance, tags ...string) []*Instance {
	return keep(list, func(i *Instance) bool { return i.Service.HasTags(tags...) })
}

func keep(list []*Instance, ok func(*Instance) bool) []*Instance {
	for n, i := range list {
		if ok(i) {
			continue
		}
		kept := append(make([]*Instance, 0, len(list)-1), list[:n]...)
		for _, i := range list[n+1:] {
			if ok(i) {
				kept = append(kept, i)
			}
		}
		return kept
	}
	return list
}

// ChecksInState lists all checks with that status; "any" stands for every status. ChecksPath covers it.
func ChecksInState(s *kv.Snap, state string) []*Check {
	dir, ok := s.Get(ChecksPath())
	if !ok {
		return nil
	}
	var list []*Check
	dir.Each(func(node *kv.Entry) bool {
		list = appendChecks(list, node, state)
		return true
	})
	return list
}

// records lists the records of type T directly below a directory.
func records[T any](s *kv.Snap, dir string) []T {
	e, ok := s.Get(dir)
	if !ok {
		return nil
	}
	list := make([]T, 0, e.Len())
	e.Each(func(c *kv.Entry) bool {
		if rec, ok := c.Record().(T); ok {
			list = append(list, rec)
		}
		return true
	})
	return list
}
