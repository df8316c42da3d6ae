package catalog

import (
	"strings"

	"github.com/musterhq/muster/kv"
)

// ServicePath is the path of the record of the service instance with that id on a node; its checks are below it.
func ServicePath(node, id string) string { return servicePath(NodePath(node), id) }

func servicePath(nodePath, id string) string { return nodePath + "/s/" + kv.Escape(id) }

// EncodeService is the stored form of a service: JSON with the field names of Service, empty fields left out.
func EncodeService(s *Service) string {
	e := newEncoder()
	e.str("ID", s.ID)
	e.str("Name", s.Name)
	e.str("Kind", s.Kind)
	e.strs("Tags", s.Tags)
	e.str("Address", s.Address)
	e.addrMap("TaggedAddresses", s.TaggedAddresses)
	e.strMap("Meta", s.Meta)
	e.int("Port", s.Port)
	e.str("SocketPath", s.SocketPath)
	e.open("Weights")
	e.int("Passing", s.Weights.Passing)
	e.int("Warning", s.Weights.Warning)
	e.close()
	e.bool("EnableTagOverride", s.EnableTagOverride)
	e.locality("Locality", s.Locality)
	return e.done()
}

func decodeService(value string) (*Service, error) {
	s := new(Service)
	d := decoder{s: value}
	for key, ok := d.begin(); ok; key, ok = d.field() {
		switch key {
		case "ID":
			d.str(&s.ID)
		case "Name":
			d.str(&s.Name)
		case "Kind":
			d.str(&s.Kind)
		case "Tags":
			d.strs(&s.Tags)
		case "Address":
			d.str(&s.Address)
		case "TaggedAddresses":
			d.addrMap(&s.TaggedAddresses)
		case "Meta":
			d.strMap(&s.Meta)
		case "Port":
			d.int(&s.Port)
		case "SocketPath":
			d.str(&s.SocketPath)
		case "Weights":
			d.weights(&s.Weights)
		case "EnableTagOverride":
			d.bool(&s.EnableTagOverride)
		case "Locality":
			d.locality(&s.Locality)
		default:
			d.fail()
		}
	}
	return finish(&d, s)
}

// Register builds the Txn for a registration, checked against s and conditional on what it read there; when the
// Txn fails with a Stale code, build it again from a newer Snap. An identical re-registration gives a Txn with no
// effect. Errors are *InputError, and *GoneError for a Known registration. The registration is not changed.
//
// What is not given stays: registering a node without services keeps the services it has. A node ID that is known
// under another name renames: the old node goes with everything on it. A name whose holder has another ID is
// refused while the holder's LivenessCheck is passing.
func Register(s *kv.Snap, r Registration) (kv.Txn, error) {
	b := builder{snap: s}
	if err := b.registerNode(&r); err != nil {
		return kv.Txn{}, err
	}
	var svc *Service
	if r.Service != nil {
		c := *r.Service
		if err := complete(&c); err != nil {
			return kv.Txn{}, err
		}
		svc = &c
		if err := b.revive(&r, svc.ID); err != nil {
			return kv.Txn{}, err
		}
		b.set(servicePath(b.node, svc.ID), EncodeService(svc))
	}
	if err := b.registerChecks(&r, svc); err != nil {
		return kv.Txn{}, err
	}
	b.dropSessions()
	return b.accepted()
}

// complete validates a service and fills in its defaults.
func complete(s *Service) error {
	if s.Name == "" {
		return &InputError{"Must provide service name (Service.Service) when service ID is provided"}
	}
	if s.ID == "" {
		s.ID = s.Name
	}
	switch strings.Trim(s.Address, "[]") {
	case "0.0.0.0", "::":
		return &InputError{"Invalid service address"}
	}
	if s.Weights == (Weights{}) {
		s.Weights = Weights{Passing: 1, Warning: 1}
	}
	return nil
}

// Deregister builds the Txn that removes a check, a service with its checks, or a node with everything on it:
// checkID wins over serviceID, and both empty means the node. Sessions that depend on a removed check go with it.
// The Txn for something unknown is empty. A service removed from a node whose agent is away leaves a Tombstone. Errors
// are *InputError.
func Deregister(s *kv.Snap, node, serviceID, checkID string) (kv.Txn, error) {
	if node == "" {
		return kv.Txn{}, &InputError{"Must provide node"}
	}
	b := builder{snap: s, node: NodePath(node)}
	switch {
	case checkID != "":
		if c, path := findCheck(s, b.node, checkID); c != nil {
			b.removeTree(path)
			b.lost = append(b.lost, checkID)
		}
	case serviceID != "":
		path := servicePath(b.node, serviceID)
		if svc, e := recordAt[*Service](s, path); e == nil {
			b.confirm(serviceID)
		} else {
			if err := b.bury(svc); err != nil {
				return kv.Txn{}, err
			}
			b.removeTree(path)
			eachCheck(e, func(_ *kv.Entry, c *Check) { b.lost = append(b.lost, c.ID) })
		}
	default:
		if _, ok := s.Get(b.node); ok {
			b.removeTree(b.node)
		}
	}
	b.dropSessions()
	return b.txn, nil
}
