package catalog

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"time"

	uuid "github.com/hashicorp/go-uuid"

	"github.com/musterhq/muster/kv"
)

// Query is a prepared query: a stored choice among the instances of a service, executed by its id or name, or a
// template of such queries for all names that begin with its own.
type Query struct {
	ID       string
	Name     string // in any letter case unique among queries, and among templates
	Session  string // the session it ends with, "" = it stays
	Token    string
	Template QueryTemplate
	Service  QueryService
	TTL      string // of DNS answers, Go duration text, "" = that of the service

	Created, Modified uint64 `json:"-"`
	template          *template
}

// TemplateByPrefix is the only Type of a template: it stands for every name that begins with the name of the query.
const TemplateByPrefix = "name_prefix_match"

// QueryTemplate makes a Query a template when its Type is set. Regexp takes the name that was asked for apart.
type QueryTemplate struct {
	Type            string
	Regexp          string
	RemoveEmptyTags bool
}

// QueryService says which instances a query finds.
type QueryService struct {
	Service        string
	Failover       QueryFailover
	OnlyPassing    bool              // not those with a warning, either
	IgnoreCheckIDs []string          // checks that do not count
	Near           string            // node from which to sort by distance, "" = by chance
	Tags           []string          // all of them, and none of those that begin with "!"
	NodeMeta       map[string]string // all of them
	ServiceMeta    map[string]string
	SamenessGroup  string
	Connect        bool // only instances of the mesh, of which there are none
	Peer           string
}

// QueryFailover says where else to look when no instance is found. Other datacenters cannot be reached yet.
type QueryFailover struct {
	NearestN    int
	Datacenters []string
	Targets     []QueryTarget
}

// QueryTarget is a place to look in.
type QueryTarget struct{ Peer, Datacenter string }

// QueriesPath covers Queries, GetQuery and FindQuery.
func QueriesPath() string { return "v/q" }

func queryIDPath(id string) string        { return "v/q/i/" + fold(id) }
func queryNamePath(q *Query) string       { return "v/q/" + queryKind(q) + "/" + fold(q.Name) }
func queryPath(id string) string          { return "q/" + kv.Escape(id) }
func boundPath(session, id string) string { return session + "/q/" + kv.Escape(id) }

func queryKind(q *Query) string {
	if q.Template.Type != "" {
		return "t"
	}
	return "n"
}

// Queries lists all prepared queries by id.
func Queries(s *kv.Snap) []*Query { return records[*Query](s, "v/q/i") }

// GetQuery finds a query by its id.
func GetQuery(s *kv.Snap, id string) (*Query, bool) {
	q, _ := recordAt[*Query](s, queryIDPath(id))
	return q, q != nil
}

// FindQuery finds the query to execute for an id or name: that of the id, else of the name, else the template with the
// longest name that begins it, rendered for it.
func FindQuery(s *kv.Snap, idOrName string) (*Query, bool) {
	if q, ok := GetQuery(s, idOrName); ok && q.Template.Type == "" {
		return q, true
	}
	if q, _ := recordAt[*Query](s, queryNamePath(&Query{Name: idOrName})); q != nil && q.Name != "" {
		return q, true
	}
	var best *Query
	for _, q := range records[*Query](s, "v/q/t") {
		if len(idOrName) >= len(q.Name) && strings.EqualFold(idOrName[:len(q.Name)], q.Name) && (best == nil || len(q.Name) > len(best.Name)) {
			best = q
		}
	}
	if best == nil {
		return nil, false
	}
	return best.render(idOrName), true
}

// Check refuses a query that can never be executed. The errors are *InputError.
func (q *Query) Check() error {
	bad := func(format string, args ...any) error {
		return &InputError{"Invalid prepared query: " + fmt.Sprintf(format, args...)}
	}
	switch {
	case q.Name == "" && q.Session == "" && q.Template.Type == "":
		return bad("Must be bound to a session")
	case q.Token == RedactedToken:
		return bad("Bad Token '%s', it looks like a query definition with a redacted token was submitted", RedactedToken)
	case q.Service.Service == "":
		return bad("Must provide a Service name to query")
	case q.Service.Failover.NearestN < 0:
		return bad("Bad NearestN '%d', must be >= 0", q.Service.Failover.NearestN)
	case len(q.Service.Failover.Targets) > 0 && (q.Service.Failover.NearestN > 0 || len(q.Service.Failover.Datacenters) > 0):
		return bad("Targets cannot be populated with NearestN or Datacenters")
	}
	if q.TTL != "" {
		ttl, err := time.ParseDuration(q.TTL)
		if err != nil {
			return bad("Bad DNS TTL '%s': %v", q.TTL, err)
		}
		if ttl < 0 {
			return bad("DNS TTL '%d', must be >=0", int64(ttl))
		}
	}
	return nil
}

// RedactedToken stands in answers for a token that the client may not see.
const RedactedToken = "<hidden>"

// QueryTTL is the TTL of DNS answers; ok is false when the query has none of its own.
func (q *Query) QueryTTL() (ttl time.Duration, ok bool) {
	ttl, err := time.ParseDuration(q.TTL)
	return ttl, q.TTL != "" && err == nil
}

// SaveQuery builds the Txn that creates the query q, or changes the one of its id when update is set. The name must
// be free and the session alive; the Txn holds only as long as that is so. Errors are *InputError.
func SaveQuery(s *kv.Snap, q Query, update bool) (kv.Txn, error) {
	b := builder{snap: s}
	old, known := GetQuery(s, q.ID)
	switch {
	case update && !known:
		return kv.Txn{}, unknownQuery(q.ID)
	case !update && known:
		return kv.Txn{}, &InputError{fmt.Sprintf("query '%s' exists already", q.ID)}
	}
	if err := q.Check(); err != nil {
		return kv.Txn{}, err
	}
	if _, err := newTemplate(&q); err != nil {
		return kv.Txn{}, &InputError{"failed compiling template: " + err.Error()}
	}
	path := queryPath(q.ID)
	if q.Session != "" {
		session, ok := SessionPath(s, q.Session)
		if !ok {
			return kv.Txn{}, &InputError{fmt.Sprintf("invalid session %q", q.Session)}
		}
		b.cond(kv.Cond{Kind: kv.CondHasValue, Path: session})
		path = boundPath(session, q.ID)
	}
	if q.Name != "" || q.Template.Type != "" {
		name := queryNamePath(&q)
		if holder, _ := recordAt[*Query](s, name); holder != nil && holder.ID != q.ID {
			return kv.Txn{}, &InputError{fmt.Sprintf("name '%s' aliases an existing query name", q.Name)}
		}
		b.cond(kv.Cond{Kind: kv.CondBelow, Path: name, Index: s.IndexOf(name)})
	}
	b.cond(kv.Cond{Kind: kv.CondBelow, Path: queryIDPath(q.ID), Index: s.IndexOf(queryIDPath(q.ID))})
	if known {
		if was := storedAt(s, old); was != path {
			b.removeTree(was)
		}
	}
	value, err := json.Marshal(&q)
	if err != nil {
		return kv.Txn{}, fmt.Errorf("encoding query %s: %w", q.ID, err)
	}
	b.set(path, string(value))
	return b.accepted()
}

// DeleteQuery builds the Txn that removes a query. Errors are *InputError.
func DeleteQuery(s *kv.Snap, id string) (kv.Txn, error) {
	b := builder{snap: s}
	q, ok := GetQuery(s, id)
	if !ok {
		return kv.Txn{}, unknownQuery(id)
	}
	b.removeTree(storedAt(s, q))
	return b.txn, nil
}

// CheckQueryID refuses what is not the id of any query.
func CheckQueryID(id string) error {
	if len(id) != 36 {
		return &InputError{"failed prepared query lookup: index error: UUID must be 36 characters"}
	}
	if _, err := uuid.ParseUUID(id); err != nil {
		return &InputError{"failed prepared query lookup: index error: " + err.Error()}
	}
	return nil
}

func unknownQuery(id string) error {
	return &InputError{fmt.Sprintf("Cannot modify non-existent prepared query: '%s'", id)}
}

// storedAt is the path of a query's record: inside its session if it has one, so that it ends with it.
func storedAt(s *kv.Snap, q *Query) string {
	if q.Session != "" {
		if session, ok := SessionPath(s, q.Session); ok {
			return boundPath(session, q.ID)
		}
	}
	return queryPath(q.ID)
}

func decodeQuery(value string) (*Query, error) {
	q := new(Query)
	if err := json.Unmarshal([]byte(value), q); err != nil {
		return nil, err
	}
	// A template that does not compile here was refused before it was proposed; it renders as it is.
	q.template, _ = newTemplate(q)
	return q, nil
}

// Select gives the instances that a query finds, in the order of the catalog.
func (q *Query) Select(s *kv.Snap) []*Instance {
	return q.SelectFrom(Instances(s, q.Service.Service))
}

// SelectFrom gives those of the instances of the query's service that it finds.
func (q *Query) SelectFrom(list []*Instance) []*Instance {
	if q.Service.Connect {
		return nil
	}
	return keep(list, q.match)
}

func (q *Query) match(i *Instance) bool {
	status := i.Status
	if len(q.Service.IgnoreCheckIDs) > 0 {
		status = worst(slices.DeleteFunc(slices.Clone(i.Checks), func(c *Check) bool { return slices.Contains(q.Service.IgnoreCheckIDs, c.ID) }))
	}
	if status == Critical || q.Service.OnlyPassing && status != Passing {
		return false
	}
	for _, t := range q.Service.Tags {
		if name, not := strings.CutPrefix(t, "!"); i.Service.HasTags(name) == not {
			return false
		}
	}
	return hasAll(i.Node.Meta, q.Service.NodeMeta) && hasAll(i.Service.Meta, q.Service.ServiceMeta)
}

func hasAll(have, want map[string]string) bool {
	for k, v := range want {
		if got, ok := have[k]; !ok || got != v {
			return false
		}
	}
	return true
}

// queryViews brings the views of queries up to date: gone and come are records that stood and stand in the tree.
func queryViews(tx kv.ViewTx, gone, come []*Query) {
	for _, q := range gone {
		for _, path := range []string{queryIDPath(q.ID), queryNamePath(q)} {
			if e, ok := tx.Get(path); ok && e.Record() == any(q) {
				tx.DeleteView(path)
			}
		}
	}
	for _, q := range come {
		tx.SetView(queryIDPath(q.ID), q)
		if q.Name != "" || q.Template.Type != "" {
			tx.SetView(queryNamePath(q), q)
		}
	}
}

// noteQuery files what changed at the path of a query's record.
func (d *deriver) noteQuery(path string) {
	prev, _ := d.tx.Prev(path)
	cur, _ := d.tx.Get(path)
	d.queryChange(prev, cur)
}

// noteQueries files what changed among the queries below two states of a directory.
func (d *deriver) noteQueries(prev, cur *kv.Entry) {
	for _, e := range []*kv.Entry{prev, cur} {
		e.Each(func(c *kv.Entry) bool {
			was, _ := prev.Child(c.Name())
			is, _ := cur.Child(c.Name())
			if e == prev || was == nil { // each name once
				d.queryChange(was, is)
			}
			return true
		})
	}
}

func (d *deriver) queryChange(prev, cur *kv.Entry) {
	if prev == cur {
		return
	}
	if prev != nil {
		if q := record[*Query](prev); q != nil {
			d.gone = append(d.gone, q)
		}
	}
	if cur != nil {
		if q := record[*Query](cur); q != nil {
			q.Created, q.Modified = cur.Created(), cur.Modified()
			d.come = append(d.come, q)
		}
	}
}
