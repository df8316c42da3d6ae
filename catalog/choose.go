package catalog

import "strings"

// Place is where an instance or whoever asks for one stands; both parts may be unknown. Names are in lower case.
type Place struct{ Region, Zone string }

// metaZone and metaRegion are the node metadata that say where a node stands, unless its record has a locality.
const (
	metaZone   = "zone"
	metaRegion = "region"
)

// PlaceOf is the place that a locality names or, without one, node metadata.
func PlaceOf(l *Locality, meta map[string]string) Place {
	if l != nil {
		return Place{strings.ToLower(l.Region), strings.ToLower(l.Zone)}
	}
	return Place{strings.ToLower(meta[metaRegion]), strings.ToLower(meta[metaZone])}
}

// Place is where the instance stands.
func (i *Instance) Place() Place {
	if i.Service.Locality != nil {
		return PlaceOf(i.Service.Locality, nil)
	}
	return PlaceOf(i.Node.Locality, i.Node.Meta)
}

// Distance from one place to another: 0 the same zone, 1 the same region, 2 elsewhere or unknown. Zones of two
// regions may have one name.
func (p Place) Distance(q Place) uint8 {
	switch {
	case p.Zone != "" && p.Zone == q.Zone && (p.Region == q.Region || p.Region == "" || q.Region == ""):
		return 0
	case p.Region != "" && p.Region == q.Region:
		return 1
	}
	return 2
}

// Weight is the instance's share of the clients beside the others, in its present status: 0 to 65535, 1 when nothing
// is said.
func (i *Instance) Weight() uint16 {
	w := i.Service.Weights
	n := w.Passing
	switch {
	case w == Weights{}:
		return 1
	case i.Status == Warning:
		n = w.Warning
	}
	return uint16(min(max(n, 0), 65535))
}

// Address is where the instance is reached, an IP address or a host name: its own address, or that of its node.
func (i *Instance) Address() string {
	if i.Service.Address != "" {
		return i.Service.Address
	}
	return i.Node.Address
}

// Choose returns the instances that a client may be given: healthy, and with the tag if one is asked for.
func Choose(list []*Instance, tag string, onlyPassing bool) []*Instance {
	var out []*Instance
	for _, i := range list {
		if i == nil || i.Node == nil || i.Service == nil {
			continue
		}
		if i.Status != Passing && (i.Status != Warning || onlyPassing) {
			continue
		}
		if tag == "" || hasTag(i.Service.Tags, tag) {
			out = append(out, i)
		}
	}
	return out
}

func hasTag(tags []string, tag string) bool {
	for _, t := range tags {
		if strings.EqualFold(t, tag) {
			return true
		}
	}
	return false
}
