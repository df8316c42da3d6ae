package kv

// A root is the first segment of a path. This table is the only place that knows them; user keys cannot reach
// any root but "k", because every path is built by prefixing one of these names.
//
//	k/<user key>               user keys, shared by both dialects
//	n/<node>                   node record
//	n/<node>/c/<check>         node-level check
//	n/<node>/s/<id>            service instance
//	n/<node>/s/<id>/c/<check>  its checks
//	n/<node>/l/<session>       session: it dies with its node because it lives inside it
//	q/<id>                     prepared queries
//	a/...                      tokens, policies, roles
//	g/...                      configuration
//	m/format  m/cluster        format version, cluster id
//	m/members/<id>  m/removed/<id>  servers that were announced, servers that were removed for good
//	m/restored                 the last time a backup replaced everything
//	v/s/<service>/<node>/<id>  view: instance joined with its node and checks
//	v/n/<service>              view: tags of a service
//	v/l/<session>/<path>       view, kept by this package: escaped paths of the entries a session holds
type root struct {
	name    string
	records bool // values are records: decoded by the Deriver, which is told of every change
	view    bool // derived: never written by a Txn, never in history, snapshots or Hash
	history int  // default bound of the history in bytes
}

const mib = 1 << 20

var roots = [...]root{
	{name: "k", history: 16 * mib},
	{name: "n", history: mib, records: true},
	{name: "q", history: mib, records: true},
	{name: "a", history: mib, records: true},
	{name: "g", history: mib, records: true},
	{name: "m", history: mib},
	{name: "v", view: true},
}

const (
	userRoot      = 0       // position of the root of user keys
	historyEvents = 200_000 // default bound of every history in Events
)

// Paths this package itself knows.
const (
	clusterPath  = "m/cluster"  // its value is the cluster id written into snapshots
	restoredPath = "m/restored" // its modified index is Snap.Restored
	ownedView    = "v/l/"
	viewRoot     = "v"
)

// rootOf returns the position in roots of the root of path, or -1. All names are one byte long.
func rootOf(path string) int {
	if path == "" || len(path) > 1 && path[1] != '/' {
		return -1
	}
	for i := range roots {
		if roots[i].name[0] == path[0] {
			return i
		}
	}
	return -1
}

// isRoot says whether path names a root itself.
func isRoot(path string) bool { return len(path) <= 1 }

// sessionsAt calls f with the name of each session entry at path, and below it when tree is set, given the entry e
// that stood there.
func sessionsAt(path string, e *Entry, tree bool, f func(session string, s *Entry)) {
	if e == nil || path[0] != 'n' {
		return
	}
	var seg [4]string
	n, rest, more := 0, path, true
	for more {
		if n == len(seg) {
			return
		}
		seg[n], rest, more = cut(rest)
		n++
	}
	switch {
	case n == 4 && seg[2] == "l":
		if e.HasValue() {
			f(seg[3], e)
		}
		return
	case !tree:
		return
	case n == 2:
		e, _ = e.Child("l")
	case n != 3 || seg[2] != "l":
		return
	}
	e.Each(func(s *Entry) bool {
		if s.HasValue() {
			f(s.name, s)
		}
		return true
	})
}

// isSession says whether path is the path of a session entry of that id.
func isSession(path, id string) bool {
	var seg [4]string
	rest, more := path, true
	for i := range seg {
		if !more {
			return false
		}
		seg[i], rest, more = cut(rest)
	}
	return !more && seg[0] == "n" && seg[2] == "l" && seg[3] == Escape(id)
}
