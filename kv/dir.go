package kv

import "slices"

// dir is a persistent ordered map from name to child: a B+ tree whose small cases are one slice of exact size.
// A dir whose gen is that of the running edit belongs to it and is changed in place; any other is copied first.
// A nil *dir is the empty map.
type dir struct {
	gen  uint64
	n    int      // entries in it, at all levels
	ents []*Entry // a leaf: children ordered by name
	in   *inner   // or an inner node
}

// inner is the branching part of a dir; it belongs to exactly one dir.
type inner struct {
	kids []*dir
	mins []string // mins[i] <= every name in kids[i] and > every name in kids[i-1]; mins[0] is no bound
}

const maxSlots = 32 // per node: a write into a huge directory copies a few nodes of at most this size

func (in *inner) find(name string) int {
	lo, hi := 1, len(in.mins)
	for lo < hi {
		m := int(uint(lo+hi) >> 1)
		if in.mins[m] <= name {
			lo = m + 1
		} else {
			hi = m
		}
	}
	return lo - 1
}

func search(ents []*Entry, name string) (int, bool) {
	lo, hi := 0, len(ents)
	for lo < hi {
		m := int(uint(lo+hi) >> 1)
		switch s := ents[m].name; {
		case s == name:
			return m, true
		case s < name:
			lo = m + 1
		default:
			hi = m
		}
	}
	return lo, false
}

func (d *dir) get(name string) *Entry {
	if d == nil {
		return nil
	}
	for d.in != nil {
		d = d.in.kids[d.in.find(name)]
	}
	if i, ok := search(d.ents, name); ok {
		return d.ents[i]
	}
	return nil
}

// last is the greatest child with a name < below, nil if there is none.
func (d *dir) last(below string) *Entry {
	if d == nil {
		return nil
	}
	if d.in != nil {
		for i := d.in.find(below); i >= 0; i-- {
			if e := d.in.kids[i].last(below); e != nil {
				return e
			}
		}
		return nil
	}
	if i, _ := search(d.ents, below); i > 0 {
		return d.ents[i-1]
	}
	return nil
}

// ascend calls f for each child with name >= from in ascending order until f returns false.
func (d *dir) ascend(from string, f func(*Entry) bool) bool {
	if d == nil {
		return true
	}
	if d.in != nil {
		for _, k := range d.in.kids[d.in.find(from):] {
			if !k.ascend(from, f) {
				return false
			}
		}
		return true
	}
	i := 0
	if from != "" {
		i, _ = search(d.ents, from)
	}
	for _, e := range d.ents[i:] {
		if !f(e) {
			return false
		}
	}
	return true
}

// own returns a dir of that generation with the same content, with room for that many more slots when copied.
func (d *dir) own(gen uint64, room int) *dir {
	if d.gen == gen {
		return d
	}
	c := &dir{gen: gen, n: d.n}
	if d.in == nil {
		c.ents = append(make([]*Entry, 0, len(d.ents)+room), d.ents...)
	} else {
		c.in = &inner{
			kids: append(make([]*dir, 0, len(d.in.kids)+room), d.in.kids...),
			mins: append(make([]string, 0, len(d.in.mins)+room), d.in.mins...),
		}
	}
	return c
}

// slot finds the place of an existing child, making every dir on the way (*pd first) part of the edit.
// nil when there is no such child; then nothing was copied.
func slot(pd **dir, gen uint64, name string) **Entry {
	if (*pd).get(name) == nil {
		return nil
	}
	for {
		d := (*pd).own(gen, 0)
		*pd = d
		if d.in == nil {
			i, _ := search(d.ents, name)
			return &d.ents[i]
		}
		pd = &d.in.kids[d.in.find(name)]
	}
}

// put adds or replaces a child and returns the new map.
func (d *dir) put(gen uint64, e *Entry) *dir {
	if d == nil {
		return &dir{gen: gen, n: 1, ents: []*Entry{e}}
	}
	if p := slot(&d, gen, e.name); p != nil {
		*p = e
		return d
	}
	d, right := d.insert(gen, e)
	if right == nil {
		return d
	}
	return &dir{gen: gen, n: d.n + right.n, in: &inner{kids: []*dir{d, right}, mins: []string{"", right.min()}}}
}

// min is a lower bound of the names in a dir that was just split off.
func (d *dir) min() string {
	if d.in != nil {
		return d.in.mins[0]
	}
	return d.ents[0].name
}

// insert adds a child that is not there yet; right is what was split off, if anything.
func (d *dir) insert(gen uint64, e *Entry) (left, right *dir) {
	if d.in == nil {
		return d.insertLeaf(gen, e)
	}
	d = d.own(gen, 0)
	d.n++
	i := d.in.find(e.name)
	kid, split := d.in.kids[i].insert(gen, e)
	d.in.kids[i] = kid
	if split == nil {
		return d, nil
	}
	d.in.kids = slices.Insert(d.in.kids, i+1, split)
	d.in.mins = slices.Insert(d.in.mins, i+1, split.min())
	n := len(d.in.kids)
	if n <= maxSlots {
		return d, nil
	}
	h := n / 2
	if i+2 == n { // growing at the end: leave the left side full
		h = n - 1
	}
	right = &dir{gen: gen, in: &inner{kids: slices.Clone(d.in.kids[h:]), mins: slices.Clone(d.in.mins[h:])}}
	for _, k := range right.in.kids {
		right.n += k.n
	}
	left = &dir{gen: gen, n: d.n - right.n, in: &inner{kids: slices.Clone(d.in.kids[:h]), mins: slices.Clone(d.in.mins[:h])}}
	return left, right
}

func (d *dir) insertLeaf(gen uint64, e *Entry) (left, right *dir) {
	i, _ := search(d.ents, e.name)
	if n := len(d.ents); n < maxSlots {
		d = d.own(gen, 1)
		if cap(d.ents) == n { // grow gently: most directories stay small and slack is paid by every one
			d.ents = append(make([]*Entry, 0, min(n+n/4+1, maxSlots)), d.ents...)
		}
		d.ents = slices.Insert(d.ents, i, e)
		d.n++
		return d, nil
	}
	if i == len(d.ents) { // ascending names: leave the left leaf full
		return d, &dir{gen: gen, n: 1, ents: []*Entry{e}}
	}
	h := len(d.ents) / 2
	right = &dir{gen: gen, n: len(d.ents) - h, ents: slices.Clone(d.ents[h:])}
	left = &dir{gen: gen, n: h, ents: slices.Clone(d.ents[:h])}
	if i <= h {
		left, _ = left.insertLeaf(gen, e)
	} else {
		right, _ = right.insertLeaf(gen, e)
	}
	return left, right
}

// remove takes a child out, if it is there, and returns the new map, nil when empty.
func (d *dir) remove(gen uint64, name string) *dir {
	if d.get(name) == nil {
		return d
	}
	d = d.take(gen, name)
	for d != nil && d.in != nil && len(d.in.kids) == 1 {
		d = d.in.kids[0]
	}
	return d
}

// take removes an existing child and returns nil when nothing is left.
func (d *dir) take(gen uint64, name string) *dir {
	if d.n == 1 {
		return nil
	}
	d = d.own(gen, 0)
	d.n--
	if d.in == nil {
		i, _ := search(d.ents, name)
		d.ents = slices.Delete(d.ents, i, i+1)
		return d
	}
	in := d.in
	i := in.find(name)
	kid := in.kids[i].take(gen, name)
	if kid == nil {
		in.drop(i)
		return d
	}
	in.kids[i] = kid
	if kid.slots() < maxSlots/4 && len(in.kids) > 1 {
		if i+1 == len(in.kids) {
			i--
		}
		if a, b := in.kids[i], in.kids[i+1]; a.slots()+b.slots() <= maxSlots*3/4 {
			in.kids[i] = a.join(gen, b, in.mins[i+1])
			in.drop(i + 1)
		}
	}
	return d
}

func (in *inner) drop(i int) {
	in.kids = slices.Delete(in.kids, i, i+1)
	in.mins = slices.Delete(in.mins, i, i+1)
}

func (d *dir) slots() int {
	if d.in != nil {
		return len(d.in.kids)
	}
	return len(d.ents)
}

// join appends b, whose names are all >= lower, to d; both are of the same level.
func (d *dir) join(gen uint64, b *dir, lower string) *dir {
	d = d.own(gen, b.slots())
	d.n += b.n
	if d.in == nil {
		d.ents = append(d.ents, b.ents...)
		return d
	}
	at := len(d.in.mins)
	d.in.kids = append(d.in.kids, b.in.kids...)
	d.in.mins = append(d.in.mins, b.in.mins...)
	d.in.mins[at] = lower
	return d
}

// newDir makes a dir of children that are in order already, with every node full.
func newDir(gen uint64, ents []*Entry) *dir {
	if len(ents) == 0 {
		return nil
	}
	var level []*dir
	var mins []string
	for part := range slices.Chunk(ents, maxSlots) {
		level = append(level, &dir{gen: gen, n: len(part), ents: slices.Clone(part)})
		mins = append(mins, part[0].name)
	}
	for len(level) > 1 {
		n := 0
		for i := 0; i < len(level); i += maxSlots {
			end := min(i+maxSlots, len(level))
			d := &dir{gen: gen, in: &inner{kids: slices.Clone(level[i:end]), mins: slices.Clone(mins[i:end])}}
			for _, k := range d.in.kids {
				d.n += k.n
			}
			level[n], mins[n] = d, mins[i]
			n++
		}
		level, mins = level[:n], mins[:n]
	}
	return level[0]
}
