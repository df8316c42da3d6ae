package catalog

import (
	"fmt"
	"strings"

	uuid "github.com/hashicorp/go-uuid"

	"github.com/musterhq/muster/kv"
)

// NodePath is the path of a node's record; its services, checks and sessions live below it. Name is taken
// without regard to letter case. Its kv index and Wait cover every query about that one node.
func NodePath(name string) string { return "n/" + fold(name) }

// EncodeNode is the stored form of a node: JSON with the field names of Node, empty fields left out.
func EncodeNode(n *Node) string {
	e := newEncoder()
	e.str("ID", n.ID)
	e.str("Name", n.Name)
	e.str("Address", n.Address)
	e.str("Datacenter", n.Datacenter)
	e.strMap("TaggedAddresses", n.TaggedAddresses)
	e.strMap("Meta", n.Meta)
	e.locality("Locality", n.Locality)
	return e.done()
}

func decodeNode(value string) (*Node, error) {
	n := new(Node)
	d := decoder{s: value}
	for key, ok := d.begin(); ok; key, ok = d.field() {
		switch key {
		case "ID":
			d.str(&n.ID)
		case "Name":
			d.str(&n.Name)
		case "Address":
			d.str(&n.Address)
		case "Datacenter":
			d.str(&n.Datacenter)
		case "TaggedAddresses":
			d.strMap(&n.TaggedAddresses)
		case "Meta":
			d.strMap(&n.Meta)
		case "Locality":
			d.locality(&n.Locality)
		default:
			d.fail()
		}
	}
	return finish(&d, n)
}

// registerNode adds the node's part of a registration.
func (b *builder) registerNode(r *Registration) error {
	n := &r.Node
	if n.Name == "" {
		return &InputError{"Must provide node"}
	}
	if n.Address == "" && !r.SkipNodeUpdate {
		return &InputError{"Must provide address if SkipNodeUpdate is not set"}
	}
	if n.ID != "" {
		if _, err := uuid.ParseUUID(n.ID); err != nil {
			return &InputError{"Bad node ID: " + err.Error()}
		}
	}
	b.node = NodePath(n.Name)
	holder, e := recordAt[*Node](b.snap, b.node)
	if r.SkipNodeUpdate && holder != nil {
		b.cond(kv.Cond{Kind: kv.CondHasValue, Path: b.node})
		return nil
	}
	if n.ID != "" {
		if err := b.claimName(n, holder); err != nil {
			return err
		}
	}
	value := EncodeNode(n)
	same := holder != nil && e.Value() == value
	if same || n.ID != "" {
		// The record there decided: that nothing need be written, or that its ID allows it.
		b.unchanged(b.node, e)
	}
	if !same {
		b.set(b.node, value)
	}
	return nil
}

// claimName decides whether the node with n.ID may have the name n.Name, which holder (nil: nobody) has now, and
// removes the node that had the same ID under another name.
func (b *builder) claimName(n, holder *Node) error {
	known, renamed := NodeByID(b.snap, n.ID)
	renamed = renamed && NodePath(known.Name) != b.node
	if holder != nil && !strings.EqualFold(holder.ID, n.ID) && (holder.ID != "" || renamed) {
		// A living agent keeps its name; one that is not known to live gives it up.
		path := nodeCheckPath(b.node, LivenessCheck)
		check, e := recordAt[*Check](b.snap, path)
		if check != nil && check.Status == Passing {
			which := fmt.Sprintf("%q", n.ID)
			if renamed {
				which += " (" + n.Address + ")"
			}
			return &InputError{fmt.Sprintf("failed inserting node: Error while renaming Node ID: %s: Node name %s is reserved by node %s with name %s (%s)",
				which, n.Name, holder.ID, holder.Name, holder.Address)}
		}
		b.unchanged(path, e)
	}
	if renamed {
		old := NodePath(known.Name)
		_, e := recordAt[*Node](b.snap, old)
		b.unchanged(old, e)
		b.removeTree(old)
	}
	return nil
}
