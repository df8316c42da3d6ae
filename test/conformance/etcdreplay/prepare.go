package etcdreplay

// Prepare deletes every visible key of the server at base, a URL on a loopback address, and raises its index to
// atLeast. It returns the index, and what the server has in the place of the placeholders of a recording.
func Prepare(base string, atLeast int64) (index int64, names map[string]string, err error) {
	g, err := newTarget(base)
	if err != nil {
		return 0, nil, err
	}
	if err := g.prepare(atLeast); err != nil {
		return 0, nil, err
	}
	index, err = g.index()
	return index, g.substitutes(), err
}

// Relative writes an index relative to base: "+3". One below base, and what is no number, stays.
func Relative(s string, base int64) string { return rel(s, base) }

// RelativeText makes the indexes inside keys and causes relative.
func RelativeText(s string, base int64) string { return normalText(s, base) }

// Diff describes the first difference between two values as decoded from JSON; "" if there is none.
func Diff(want, got any) string { return firstDiff(want, got, "") }
