package catalog

import (
	"errors"
	"slices"
	"strings"

	"github.com/musterhq/muster/kv"
)

// The views. All of them follow from the records below n/ and are kept by Views.Derive:
//
//	v/s/<service>/<node>%,<id> *Instance, for health queries and DNS; "%," is in no escaped name
//	v/n/<service>              *serviceTags, for the list of services
//	v/d/<node>                 *Node, for the list of nodes, undisturbed by what happens below a node
//	v/i/<node id>              *Node, by ID
//	v/x/<session id>           *Session, by id
//	v/q/{i,n,t}/<id or name>   *Query, by id, by name, and templates by name
//	v/c/<node>/<check>         string, id of the service that has the check, unless the check's id says so itself
func instancePath(service, nodeSeg, idSeg string) string {
	return "v/s/" + fold(service) + "/" + nodeSeg + "%," + idSeg
}
func tagsPath(serviceSeg string) string           { return "v/n/" + serviceSeg }
func nodeViewPath(nodeSeg string) string          { return "v/d/" + nodeSeg }
func nodeIDPath(id string) string                 { return "v/i/" + fold(id) }
func sessionViewPath(idSeg string) string         { return "v/x/" + idSeg }
func ownerPath(nodeSeg, checkIDSeg string) string { return "v/c/" + nodeSeg + "/" + checkIDSeg }

// serviceTags is the view of a service as a whole.
type serviceTags struct {
	name string   // as its first instance spells it
	tags []string // of all its instances, sorted
}

// Decode turns a record below n/ or q/ into a *Node, *Service, *Check, *Session, *Tombstone or *Query, according to its path. Their Created
// and Modified are filled in by Derive, which sees the entry. Values elsewhere have no record. An error means that
// the value, or the path, is none of this package's.
func (Views) Decode(path string, value string) (any, error) {
	rest, ok := strings.CutPrefix(path, "n/")
	if !ok {
		if id, ok := strings.CutPrefix(path, "q/"); ok && !strings.Contains(id, "/") {
			return orError(decodeQuery(value))
		}
		return nil, nil
	}
	_, kind, id, sub, check := splitRecord(rest)
	switch {
	case kind == "":
		return orError(decodeNode(value))
	case id == "":
	case kind == "l" && sub == "":
		return orError(decodeSession(value))
	case kind == "l" && sub == "q" && check != "":
		return orError(decodeQuery(value))
	case kind == "g" && sub == "":
		return orError(decodeTombstone(value))
	case kind == "s" && sub == "":
		return orError(decodeService(value))
	case kind == "c" && sub == "", kind == "s" && sub == "c" && check != "":
		return orError(decodeCheck(value))
	}
	return nil, errors.New("no record of the catalog has this path")
}

// orError keeps a nil pointer from becoming a record.
func orError[T any](rec *T, err error) (any, error) {
	if err != nil {
		return nil, err
	}
	return rec, nil
}

// splitRecord splits "<node>/<kind>/<id>/<sub>/<check>"; parts that are not there are empty.
func splitRecord(rest string) (node, kind, id, sub, check string) {
	node, rest, _ = strings.Cut(rest, "/")
	kind, rest, _ = strings.Cut(rest, "/")
	id, rest, _ = strings.Cut(rest, "/")
	sub, check, _ = strings.Cut(rest, "/")
	return
}

// Derive brings the views up to date. It works on exactly the records a change can reach: a service for a change of
// that service or its checks, all services of a node for a change of the node's record or its node-level checks.
// A view entry is written only if something it shows has changed, so that nobody else wakes.
func (Views) Derive(tx kv.ViewTx, changed []string) {
	d := deriver{tx: tx}
	for _, path := range changed {
		d.note(path)
	}
	for i := range d.work {
		d.node(&d.work[i])
	}
	for service, delta := range d.tags {
		d.serviceTags(service, delta)
	}
	queryViews(tx, d.gone, d.come)
}

// deriver is one run of Derive.
type deriver struct {
	tx   kv.ViewTx
	work []nodeWork
	at   map[string]int // place in work by node; nil while there is only one
	tags map[string]*tagDelta

	gone, come []*Query // prepared queries as they were and are
}

// nodeWork is what has to be looked at on one node. Names in it are path segments.
type nodeWork struct {
	seg, path   string
	all         bool // the node's record and every service and session
	services    []string
	sessions    []string
	allSessions bool

	prev, cur  *kv.Entry // nil: not there
	record     *Node
	nodeChecks []*Check
}

// tagDelta is what changed among the instances of one service.
type tagDelta struct{ added, removed []string }

// note files a changed path under its node.
func (d *deriver) note(path string) {
	if path == "" || path == "n" {
		d.noteAll()
		return
	}
	rest, ok := strings.CutPrefix(path, "n/")
	if !ok {
		if path[0] == 'q' {
			d.noteQuery(path)
		}
		return
	}
	node, kind, id, _, _ := splitRecord(rest)
	w := d.forNode(node)
	switch {
	case kind == "s" && id != "":
		if n := len(w.services); n == 0 || w.services[n-1] != id {
			w.services = append(w.services, id)
		}
	case kind == "l" && id != "":
		w.sessions = append(w.sessions, id)
	case kind == "l":
		w.allSessions = true
	case kind == "g": // tombstones show nowhere
	default:
		w.all = true
	}
}

// noteAll files every node there is or was.
func (d *deriver) noteAll() {
	for _, get := range []func(string) (*kv.Entry, bool){d.tx.Prev, d.tx.Get} {
		if e, ok := get("n"); ok {
			e.Each(func(node *kv.Entry) bool {
				d.forNode(node.Name()).all = true
				return true
			})
		}
	}
}

func (d *deriver) forNode(seg string) *nodeWork {
	if len(d.work) == 1 && d.work[0].seg == seg {
		return &d.work[0]
	}
	if len(d.work) > 0 {
		if d.at == nil {
			d.at = map[string]int{d.work[0].seg: 0}
		}
		if i, ok := d.at[seg]; ok {
			return &d.work[i]
		}
		d.at[seg] = len(d.work)
	}
	d.work = append(d.work, nodeWork{seg: seg, path: "n/" + seg})
	return &d.work[len(d.work)-1]
}

func (d *deriver) node(w *nodeWork) {
	w.prev, _ = d.tx.Prev(w.path)
	w.cur, _ = d.tx.Get(w.path)
	if w.cur != nil {
		w.record = fillNode(w.cur)
		w.nodeChecks = fillChecks(w.cur, nil)
	}
	services, sessions := w.services, w.sessions
	if w.all {
		d.nodeViews(w)
		services, w.allSessions = childNames(w, "s"), true
	} else if len(services) > 1 {
		slices.Sort(services)
		services = slices.Compact(services)
	}
	for _, id := range services {
		d.service(w, id)
	}
	if w.allSessions {
		sessions = childNames(w, "l")
	}
	for _, id := range sessions {
		d.session(w, id)
		was, _ := child(w.prev, "l", id).Child("q")
		is, _ := child(w.cur, "l", id).Child("q")
		d.noteQueries(was, is)
	}
}

// childNames are the names below a directory of the node, before and after the change.
func childNames(w *nodeWork, dir string) []string {
	var names []string
	for _, e := range []*kv.Entry{w.prev, w.cur} {
		if e == nil {
			continue
		}
		if sub, ok := e.Child(dir); ok {
			names = slices.Grow(names, sub.Len())
			sub.Each(func(c *kv.Entry) bool { names = append(names, c.Name()); return true })
		}
	}
	slices.Sort(names)
	return slices.Compact(names)
}

func (d *deriver) nodeViews(w *nodeWork) {
	var old *Node
	if e, ok := d.tx.Get(nodeViewPath(w.seg)); ok {
		old, _ = e.Record().(*Node)
	}
	if old == w.record {
		return
	}
	if old != nil && old.ID != "" && (w.record == nil || !strings.EqualFold(w.record.ID, old.ID)) {
		// A rename may have put another node here in the same Txn: that one stays.
		if e, ok := d.tx.Get(nodeIDPath(old.ID)); ok && e.Record() == any(old) {
			d.tx.DeleteView(nodeIDPath(old.ID))
		}
	}
	if w.record == nil {
		d.tx.DeleteView(nodeViewPath(w.seg))
		return
	}
	d.tx.SetView(nodeViewPath(w.seg), w.record)
	if w.record.ID != "" {
		d.tx.SetView(nodeIDPath(w.record.ID), w.record)
	}
}

// service brings the instance of one service of the node up to date.
func (d *deriver) service(w *nodeWork, id string) {
	prev, cur := child(w.prev, "s", id), child(w.cur, "s", id)
	var old, now *Instance
	var oldPath, newPath string
	was := record[*Service](prev)
	if was != nil {
		oldPath = instancePath(was.Name, w.seg, id)
		if e, ok := d.tx.Get(oldPath); ok {
			old = record[*Instance](e)
		}
	}
	s := fillService(cur)
	own := fillChecks(cur, s)
	if s != nil && w.record != nil {
		now = &Instance{Node: w.record, Service: s, Checks: joinChecks(w.nodeChecks, own)}
		now.Status = worst(now.Checks)
		if newPath = oldPath; was == nil || was.Name != s.Name {
			newPath = instancePath(s.Name, w.seg, id)
		}
	}
	if prev != cur {
		d.checkOwners(w, prev, cur)
	}
	if old != nil && oldPath != newPath {
		d.tx.DeleteView(oldPath)
	}
	if now != nil && !(oldPath == newPath && sameInstance(old, now)) {
		d.tx.SetView(newPath, now)
	}
	d.noteTags(old, now)
}

func joinChecks(node, own []*Check) []*Check {
	if len(own) == 0 {
		return node // shared by all instances of the node
	}
	if len(node) == 0 {
		return own
	}
	all := make([]*Check, 0, len(node)+len(own))
	return append(append(all, node...), own...)
}

// sameInstance reports whether two instances show the same records.
func sameInstance(a, b *Instance) bool {
	return a != nil && a.Node == b.Node && a.Service == b.Service && slices.Equal(a.Checks, b.Checks)
}

// noteTags records how the tags of a service change when one of its instances changes from old to now.
func (d *deriver) noteTags(old, now *Instance) {
	if old != nil && now != nil && old.Service == now.Service {
		return
	}
	if old != nil {
		delta := d.delta(old.Service.Name)
		delta.removed = append(delta.removed, old.Service.Tags...)
	}
	if now != nil {
		delta := d.delta(now.Service.Name)
		delta.added = append(delta.added, now.Service.Tags...)
	}
}

func (d *deriver) delta(service string) *tagDelta {
	seg := fold(service)
	delta := d.tags[seg]
	if delta == nil {
		if d.tags == nil {
			d.tags = make(map[string]*tagDelta)
		}
		delta = new(tagDelta)
		d.tags[seg] = delta
	}
	return delta
}

// serviceTags brings the view of a service as a whole up to date. It looks through the instances only when a tag
// has gone from one of them, and then only until it finds another that has the tag.
func (d *deriver) serviceTags(seg string, delta *tagDelta) {
	path := tagsPath(seg)
	var old *serviceTags
	if e, ok := d.tx.Get(path); ok {
		old, _ = e.Record().(*serviceTags)
	}
	instances, ok := d.tx.Get("v/s/" + seg)
	if !ok || instances.Len() == 0 {
		if old != nil {
			d.tx.DeleteView(path)
		}
		return
	}
	var name string
	eachInstance(instances, func(i *Instance) bool { name = i.Service.Name; return false })
	tags := delta.added
	if old != nil {
		tags = delta.apply(old.tags, instances)
	} else {
		slices.Sort(tags)
		tags = slices.Compact(tags)
	}
	if old == nil || name != old.name || !slices.Equal(tags, old.tags) {
		d.tx.SetView(path, &serviceTags{name: name, tags: slices.Clip(tags)})
	}
}

// apply is the union of tags after the change; instances is the view directory of the service. It returns tags
// itself when nothing changes.
func (delta *tagDelta) apply(tags []string, instances *kv.Entry) []string {
	var fresh []string
	for _, t := range delta.added {
		if _, ok := slices.BinarySearch(tags, t); !ok {
			fresh = append(fresh, t)
		}
	}
	gone := make(map[string]bool)
	for _, t := range delta.removed {
		if !slices.Contains(delta.added, t) {
			gone[t] = true
		}
	}
	if len(gone) > 0 {
		eachInstance(instances, func(i *Instance) bool {
			for _, t := range i.Service.Tags {
				delete(gone, t)
			}
			return len(gone) > 0
		})
	}
	if len(fresh) == 0 && len(gone) == 0 {
		return tags
	}
	union := make([]string, 0, len(tags)+len(fresh))
	for _, t := range tags {
		if !gone[t] {
			union = append(union, t)
		}
	}
	union = append(union, fresh...)
	slices.Sort(union)
	return slices.Compact(union)
}

// checkOwners keeps the view of which service has a check up to date for the checks of one service, whose entries
// before and after the change are prev and cur.
func (d *deriver) checkOwners(w *nodeWork, prev, cur *kv.Entry) {
	eachCheck(prev, func(e *kv.Entry, c *Check) {
		if selfNamed(c.ID, c.ServiceID) || child(cur, "c", e.Name()) != nil {
			return
		}
		path := ownerPath(w.seg, e.Name())
		// The check may have moved to another service in the same Txn.
		if v, ok := d.tx.Get(path); ok && v.Record() == any(c.ServiceID) {
			d.tx.DeleteView(path)
		}
	})
	eachCheck(cur, func(e *kv.Entry, c *Check) {
		if selfNamed(c.ID, c.ServiceID) {
			return
		}
		path := ownerPath(w.seg, e.Name())
		if v, ok := d.tx.Get(path); !ok || v.Record() != any(c.ServiceID) {
			d.tx.SetView(path, c.ServiceID)
		}
	})
}

func (d *deriver) session(w *nodeWork, id string) {
	path := sessionViewPath(id)
	var old *Session
	if e, ok := d.tx.Get(path); ok {
		old, _ = e.Record().(*Session)
	}
	now := fillSession(child(w.cur, "l", id))
	switch {
	case now == nil && old != nil && NodePath(old.Node) == w.path:
		d.tx.DeleteView(path)
	case now != nil && now != old:
		d.tx.SetView(path, now)
	}
}

// child is the entry <dir>/<name> below e, or nil.
func child(e *kv.Entry, dir, name string) *kv.Entry {
	if e == nil {
		return nil
	}
	sub, ok := e.Child(dir)
	if !ok {
		return nil
	}
	c, ok := sub.Child(name)
	if !ok {
		return nil
	}
	return c
}

func record[T any](e *kv.Entry) (rec T) {
	if e != nil {
		rec, _ = e.Record().(T)
	}
	return rec
}

// The fill functions give the record of an entry with the indexes of the entry in it. Decode cannot know them. A
// record is written to only once, in the Apply that decoded it, before anybody else can see it.

func fillNode(e *kv.Entry) *Node {
	n := record[*Node](e)
	if n != nil && n.Modified == 0 {
		n.Created, n.Modified = e.Created(), e.Modified()
	}
	return n
}

func fillService(e *kv.Entry) *Service {
	s := record[*Service](e)
	if s != nil && s.Modified == 0 {
		s.Created, s.Modified = e.Created(), e.Modified()
	}
	return s
}

func fillSession(e *kv.Entry) *Session {
	x := record[*Session](e)
	if x != nil && x.Modified == 0 {
		x.Created, x.Modified = e.Created(), e.Modified()
	}
	return x
}

// fillChecks lists the checks in the directory "c" of e in the order of their ids. S is the service they belong to:
// nearly always they carry its tags, which then need to be in memory only once.
func fillChecks(e *kv.Entry, s *Service) []*Check {
	var list []*Check
	eachCheck(e, func(ce *kv.Entry, c *Check) {
		if c.Modified == 0 {
			c.Created, c.Modified = ce.Created(), ce.Modified()
			if s != nil && len(s.Tags) > 0 && slices.Equal(c.ServiceTags, s.Tags) {
				c.ServiceTags = s.Tags
			}
		}
		list = append(list, c)
	})
	return list
}

func eachCheck(e *kv.Entry, f func(*kv.Entry, *Check)) {
	if e == nil {
		return
	}
	dir, ok := e.Child("c")
	if !ok {
		return
	}
	dir.Each(func(ce *kv.Entry) bool {
		if c := record[*Check](ce); c != nil {
			f(ce, c)
		}
		return true
	})
}

// eachInstance visits the instances in the view directory of one service until f returns false.
func eachInstance(dir *kv.Entry, f func(*Instance) bool) {
	dir.Each(func(e *kv.Entry) bool {
		i := record[*Instance](e)
		return i == nil || f(i)
	})
}
