package dnsserver

import (
	"math/rand/v2"
	"slices"
	"strings"
)

// order says in which order the records of an answer are given: near ones before far ones, and among those by
// chance, the heavier the sooner; or always as the catalog has them.
type order struct {
	weights []uint32 // by record; nil when all are equal
	tiers   []uint32 // where each distance ends, in records; nil when there is only one
	fixed   bool
}

// weighted is how many places at the front are drawn by weight. Clients use the first record or a few; the rest is
// shuffled evenly, which costs less.
const weighted = 8

// arrange sorts groups by distance and makes the order for them. The sort is stable: within a distance they stay as
// the catalog has them.
func arrange(groups []group, fixed bool) order {
	o := order{fixed: fixed}
	slices.SortStableFunc(groups, func(a, b group) int { return int(a.far) - int(b.far) })
	for i := range groups {
		if i > 0 && groups[i].far != groups[i-1].far {
			o.tiers = append(o.tiers, uint32(i))
		}
		if groups[i].weight != groups[0].weight {
			o.weights = make([]uint32, 0, len(groups))
		}
	}
	if o.tiers != nil {
		o.tiers = append(o.tiers, uint32(len(groups)))
	}
	if o.weights != nil {
		for i := range groups {
			o.weights = append(o.weights, uint32(groups[i].weight))
		}
	}
	return o
}

// pick brings the record for position n to that place of perm, whose first n are settled. perm is a permutation of
// all records in which those of each tier stand together in the tier's range; it stays one.
func (o *order) pick(perm []uint32, n int) {
	if o.fixed {
		perm[n] = uint32(n) // nothing was ever moved
		return
	}
	end := len(perm)
	for _, t := range o.tiers {
		if n < int(t) {
			end = int(t)
			break
		}
	}
	j := n
	if o.weights != nil && n < weighted {
		j = o.heavy(perm[n:end]) + n
	} else {
		j += int(rand.Uint32N(uint32(end - n)))
	}
	perm[n], perm[j] = perm[j], perm[n]
}

// heavy draws one of the records by weight. Those of weight 0 come last.
func (o *order) heavy(rest []uint32) int {
	total := uint32(0)
	for _, i := range rest {
		total += o.weights[i]
	}
	if total == 0 {
		return int(rand.Uint32N(uint32(len(rest))))
	}
	at := rand.Uint32N(total)
	for j, i := range rest {
		if w := o.weights[i]; at < w {
			return j
		} else {
			at -= w
		}
	}
	return 0
}

// shuffle puts groups, which were arranged, in the order of one answer.
func (o *order) shuffle(groups []group) {
	perm := make([]uint32, len(groups))
	for i := range perm {
		perm[i] = uint32(i)
	}
	out := make([]group, len(groups))
	for n := range perm {
		o.pick(perm, n)
		out[n] = groups[perm[n]]
	}
	copy(groups, out)
}

// patterns is a list of service names, each exact, "prefix*" or "*".
type patterns []string

func (p patterns) match(service string) bool {
	for _, one := range p {
		if prefix, ok := strings.CutSuffix(one, "*"); one == service || ok && strings.HasPrefix(service, prefix) {
			return true
		}
	}
	return false
}
