package api

import (
	"fmt"
	"net/http"
	"strings"
)

// Where says on which agents a Route runs.
type Where uint8

// Places.
const (
	Local   Where = iota // runs on the agent that was asked
	Cluster              // needs the replicated tree: relayed by agents that do not hold it
)

// Target says which server a relayed request needs.
type Target uint8

// Targets.
const (
	Leader Target = iota
	Any           // any server will do (stale reads)
)

// Route is one row of the table of routes. Dialects return their rows, the agent composes one table from them
// and wraps the Handler of Cluster routes with the relay.
type Route struct {
	Pattern string                     // an exact path, or a prefix when it ends in "/" (which also matches itself without the slash)
	Methods []string                   // methods that reach Handler; empty = all
	Where   Where                      //
	Target  func(*http.Request) Target // for Cluster routes: which server; nil = Leader
	// Resume tells a relay how a request that waits goes on when the server that holds it dies; nil, or an answer of
	// nil, for requests that do not wait.
	Resume func(*http.Request) Resumer
	// Share tells an agent without data how a read can be shared with other clients and kept; nil, or false, when it
	// cannot be.
	Share   func(*http.Request) (Shared, bool)
	Here    func(*http.Request) bool // for Cluster routes: this request is for the agent that was asked, whatever it is; nil = none
	Handler http.Handler             //
	Refuse  http.Handler             // answers the methods that are not in Methods; nil = plain 405 with Allow
	MaxBody int64                    // largest request body in bytes; 0 = the Router's, negative = Handler limits it itself
}

// TargetOf tells which server the request needs.
func (r *Route) TargetOf(req *http.Request) Target {
	if r.Target == nil {
		return Leader
	}
	return r.Target(req)
}

// table finds the Route of a path: the exact one, else the longest prefix. It is a tree of path segments, so
// the cost depends on the depth of the patterns and not on the length of the path or the number of routes.
type table struct {
	root segment
}

type segment struct {
	below         map[string]*segment
	exact, prefix *entry
}

// entry is a Route with what the Router counts about it.
type entry struct {
	Route
	counters
}

func (t *table) add(e *entry) error {
	p := e.Pattern
	if !strings.HasPrefix(p, "/") {
		return fmt.Errorf("route pattern %q does not begin with a slash", p)
	}
	if e.Handler == nil {
		return fmt.Errorf("route %q has no handler", p)
	}
	prefix := strings.HasSuffix(p, "/")
	s := &t.root
	for rest := strings.Trim(p, "/"); rest != ""; {
		var name string
		name, rest, _ = strings.Cut(rest, "/")
		next := s.below[name]
		if next == nil {
			next = &segment{}
			if s.below == nil {
				s.below = make(map[string]*segment)
			}
			s.below[name] = next
		}
		s = next
	}
	at := &s.exact
	if prefix {
		at = &s.prefix
	}
	if *at != nil {
		return fmt.Errorf("route %q is there twice", p)
	}
	*at = e
	return nil
}

// find returns nil when nothing matches.
func (t *table) find(path string) *entry {
	if path == "" || path[0] != '/' {
		return nil
	}
	s := &t.root
	best := s.prefix
	rest := path[1:]
	for rest != "" {
		name := rest
		i := strings.IndexByte(rest, '/')
		if i >= 0 {
			name = rest[:i]
		}
		next := s.below[name]
		if next == nil {
			return best
		}
		s = next
		if i < 0 { // the path ends here without a slash
			if s.exact != nil {
				return s.exact
			}
			if s.prefix != nil {
				return s.prefix
			}
			return best
		}
		if s.prefix != nil {
			best = s.prefix
		}
		rest = rest[i+1:]
	}
	return best
}
