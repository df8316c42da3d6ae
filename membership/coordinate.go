package membership

import "github.com/hashicorp/serf/coordinate"

// Coordinate estimates where a live member stands in the network, so that round-trip times between any two members can
// be estimated (Vivaldi; see the library). It is learned from the failure detector's probes, which reach every member in
// turn: in a cluster of n members after some n probe intervals. ok is false until then, for members that are not alive,
// and when the pool was opened without coordinates. The caller must not change it.
func (p *Pool) Coordinate(name string) (c *coordinate.Coordinate, ok bool) {
	if p.noCoordinates {
		return nil, false
	}
	if name == p.guard.name {
		c, err := p.serf.GetCoordinate()
		return c, err == nil
	}
	return p.serf.GetCachedCoordinate(name)
}
