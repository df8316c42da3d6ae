package consul

import (
	"cmp"
	"context"
	"encoding/json"
	"math"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/hashicorp/serf/coordinate"

	"github.com/musterhq/muster/api"
	"github.com/musterhq/muster/catalog"
	"github.com/musterhq/muster/kv"
)

// Coordinate is where a node stands in the network (contract: consul-http 13).
type Coordinate struct {
	Node    string
	Segment string
	Coord   *coordinate.Coordinate
}

// coordinateMap is an entry of the answer of coordinate/datacenters.
type coordinateMap struct {
	Datacenter  string
	AreaID      string
	Coordinates []Coordinate
}

// Coordinates of living members come from gossip, which keeps them on every server: they cost no write. Only those
// that somebody else measured, for nodes without an agent, are kept in the tree.
const coordinateRoot = "g/c"

func coordinatePath(node string) string {
	return coordinateRoot + "/" + kv.Escape(strings.ToLower(node))
}

func (a *API) coordinateRoutes() []api.Route {
	get := http.MethodGet
	dcs := newRoute("/v1/coordinate/datacenters", api.Cluster, a.coordinateDatacenters, get)
	dcs.Target = anyServer
	return []api.Route{
		dcs,
		newRoute("/v1/coordinate/nodes", api.Cluster, a.coordinateNodes, get),
		newRoute("/v1/coordinate/node/", api.Cluster, a.coordinateNode, get),
		newRoute("/v1/coordinate/update", api.Cluster, a.coordinateUpdate, http.MethodPut),
	}
}

var errNoCoordinates = refuse(http.StatusUnauthorized, "Coordinate support disabled")

// coordinate finds where a node stands, nil when nobody knows.
func (a *API) coordinate(s *kv.Snap, node string) *coordinate.Coordinate {
	if a.cfg.Coordinate == nil {
		return nil
	}
	if c, ok := a.cfg.Coordinate(node); ok {
		return c
	}
	e, ok := s.Get(coordinatePath(node))
	if !ok {
		return nil
	}
	c := new(coordinate.Coordinate)
	if json.Unmarshal([]byte(e.Value()), c) != nil || !compatible(c) {
		return nil
	}
	return c
}

// compatible says whether distances to c can be computed.
func compatible(c *coordinate.Coordinate) bool {
	return c != nil && len(c.Vec) == int(coordinate.DefaultConfig().Dimensionality) && c.IsValid()
}

// near is the node that ?near= names: itself, the node of the agent that was asked, or the one with the address of
// the client.
func (a *API) near(s *kv.Snap, r *http.Request, name string) string {
	switch name {
	case "_agent":
		return a.nodeOf(r)
	case "_ip":
		host, _, _ := strings.Cut(r.Header.Get("X-Forwarded-For"), ",")
		if host == "" {
			host, _, _ = net.SplitHostPort(r.RemoteAddr)
		}
		for _, n := range catalog.Nodes(s) {
			if n.Address == host {
				return n.Name
			}
		}
		return ""
	}
	return name
}

// sortNear orders list by estimated round-trip time from a node, in place. What cannot be estimated comes last, and
// all that is equal stays in order.
func sortNear[T any](a *API, s *kv.Snap, from string, list []T, node func(T) string) {
	at := a.coordinate(s, from)
	if at == nil {
		return
	}
	known := map[string]float64{}
	distance := func(x T) float64 {
		name := node(x)
		d, ok := known[name]
		if !ok {
			d = math.Inf(1)
			if c := a.coordinate(s, name); c != nil {
				d = at.DistanceTo(c).Seconds()
			}
			known[name] = d
		}
		return d
	}
	slices.SortStableFunc(list, func(x, y T) int { return cmp.Compare(distance(x), distance(y)) })
}

// SortNear orders instances by estimated round-trip time from a node, "_agent" being this one.
func (a *API) SortNear(s *kv.Snap, node string, list []*catalog.Instance) {
	if node == "_agent" {
		node = a.cfg.NodeName
	}
	a.sortInstances(s, node, list)
}

// sortInstances is sortNear with the node itself first, however its own measurements stand.
func (a *API) sortInstances(s *kv.Snap, node string, list []*catalog.Instance) {
	sortNear(a, s, node, list, func(i *catalog.Instance) string { return i.Node.Name })
	slices.SortStableFunc(list, func(i, j *catalog.Instance) int { return cmp.Compare(away(node, i), away(node, j)) })
}

// nearFirst is sortNear for a query with ?near.
func nearFirst[T any](a *API, s *kv.Snap, r *http.Request, q *read, list []T, node func(T) string) {
	if name := q.get("near"); name != "" {
		sortNear(a, s, a.near(s, r, name), list, node)
	}
}

func (a *API) coordinateDatacenters(w http.ResponseWriter, r *http.Request) error {
	if a.cfg.Coordinate == nil {
		return errNoCoordinates
	}
	s, _, err := a.cfg.Store.Read(r.Context(), api.Stale)
	if err != nil {
		return err
	}
	m := coordinateMap{Datacenter: a.cfg.Datacenter, AreaID: "wan", Coordinates: []Coordinate{}}
	for _, i := range catalog.Instances(s, serverService) {
		if c := a.coordinate(s, i.Node.Name); c != nil {
			m.Coordinates = append(m.Coordinates, Coordinate{Node: i.Node.Name, Coord: c})
		}
	}
	return writeJSON(w, r, []coordinateMap{m})
}

// coordinatesOf lists where the nodes stand that are known.
func (a *API) coordinatesOf(s *kv.Snap, nodes []*catalog.Node, visible func(string) bool) []*Coordinate {
	list := []*Coordinate{}
	for _, n := range nodes {
		if c := a.coordinate(s, n.Name); c != nil && (visible == nil || visible(n.Name)) {
			list = append(list, &Coordinate{Node: n.Name, Coord: c})
		}
	}
	return list
}

// coordinateNodes lists all coordinates. A blocking query waits for a change of the list of nodes or of what is kept
// in the tree: coordinates of members drift all the time.
func (a *API) coordinateNodes(w http.ResponseWriter, r *http.Request) error {
	if a.cfg.Coordinate == nil {
		return errNoCoordinates
	}
	q, err := a.parseRead(r)
	if err != nil {
		return err
	}
	visible := a.visible(r, "node")
	return a.answer(w, r, &q, "", func(s *kv.Snap) (result, error) {
		res := result{index: max(s.IndexOf(catalog.NodesPath()), s.IndexOf(coordinateRoot))}
		f, err := newFilter[Coordinate](q.get("filter"))
		if err != nil {
			return res, err
		}
		list := a.coordinatesOf(s, catalog.Nodes(s), visible)
		res.value = slices.DeleteFunc(list, func(c *Coordinate) bool { return !f.pass(c) })
		return res, nil
	})
}

func (a *API) coordinateNode(w http.ResponseWriter, r *http.Request) error {
	if a.cfg.Coordinate == nil {
		return errNoCoordinates
	}
	q, err := a.parseRead(r)
	if err != nil {
		return err
	}
	name := rest(r, "/v1/coordinate/node/")
	if name == "" {
		return badRequest("Missing node name")
	}
	visible := a.visible(r, "node")
	path := catalog.NodePath(name)
	return a.answer(w, r, &q, path, func(s *kv.Snap) (result, error) {
		res := result{index: s.IndexOf(path)}
		var nodes []*catalog.Node
		if n, ok := catalog.GetNode(s, name); ok {
			nodes = append(nodes, n)
		}
		list := a.coordinatesOf(s, nodes, visible)
		if len(list) == 0 {
			return res, refuse(http.StatusNotFound, "")
		}
		res.value = list
		return res, nil
	})
}

// coordinateUpdate takes a coordinate that somebody else measured for a node without an agent.
func (a *API) coordinateUpdate(w http.ResponseWriter, r *http.Request) error {
	if a.cfg.Coordinate == nil {
		return errNoCoordinates
	}
	p, err := parseParams(r.URL.RawQuery)
	if err != nil {
		return err
	}
	var body struct {
		Datacenter string
		Coordinate
	}
	if err := decodeBody(r, &body, false); err != nil {
		return err
	}
	if err := cmp.Or(a.checkDatacenter(&p), a.ownDatacenter(body.Datacenter)); err != nil {
		return err
	}
	if !compatible(body.Coord) {
		return serverError("incompatible coordinate")
	}
	if err := a.allow(r, "node", body.Node, true); err != nil {
		return err
	}
	if _, _, err := a.cfg.Store.Read(r.Context(), api.Default); err != nil {
		return err // only the leader keeps them
	}
	a.updates.add(body.Node, body.Coord)
	writeEmpty(w)
	return nil
}

// CoordinateUpdates gathers coordinates on the leader and writes them together, so that they cost at most one entry of
// the log a second, however many are sent, and none for those that have hardly moved.
type CoordinateUpdates struct {
	store api.Store

	mu      sync.Mutex
	pending map[string]*coordinate.Coordinate // by node in lower case; at most maxUpdates
	some    chan struct{}                     // has one place: there are updates
}

const (
	updatePause = time.Second
	maxUpdates  = 4096 // as many as an operation of kv may have, with room
	// stillThere is how far a coordinate may move before it is worth a write.
	stillThere = time.Millisecond
)

func newCoordinateUpdates(store api.Store) *CoordinateUpdates {
	return &CoordinateUpdates{store: store, pending: map[string]*coordinate.Coordinate{}, some: make(chan struct{}, 1)}
}

func (u *CoordinateUpdates) add(node string, c *coordinate.Coordinate) {
	u.mu.Lock()
	defer u.mu.Unlock()
	node = strings.ToLower(node)
	if _, ok := u.pending[node]; !ok && len(u.pending) >= maxUpdates {
		return // it comes again
	}
	u.pending[node] = c
	select {
	case u.some <- struct{}{}:
	default:
	}
}

// Run writes what comes in until ctx is done. It must be a job of the leader.
func (u *CoordinateUpdates) Run(ctx context.Context) error {
	for {
		select {
		case <-u.some:
		case <-ctx.Done():
			return ctx.Err()
		}
		select {
		case <-time.After(updatePause):
		case <-ctx.Done():
			return ctx.Err()
		}
		u.mu.Lock()
		batch := u.pending
		u.pending = map[string]*coordinate.Coordinate{}
		u.mu.Unlock()
		res, err := proposeBuilt(ctx, u.store, func(s *kv.Snap) (kv.Txn, error) { return updateCoordinates(s, batch) })
		if err == nil {
			err = codeError(res)
		}
		if err != nil {
			return err // leadership is over, or about to be
		}
	}
}

// updateCoordinates builds the Txn that keeps those coordinates of nodes in the catalog that have moved, and removes
// those of nodes that are gone.
func updateCoordinates(s *kv.Snap, batch map[string]*coordinate.Coordinate) (txn kv.Txn, err error) {
	if dir, ok := s.Get(coordinateRoot); ok {
		dir.Each(func(e *kv.Entry) bool {
			name, err := kv.Unescape(e.Name())
			if _, known := catalog.GetNode(s, name); err != nil || !known {
				txn.Ops = append(txn.Ops, kv.Op{Kind: kv.OpDelete, Action: kv.ActDelete, Flags: kv.Flat, Path: coordinateRoot + "/" + e.Name()})
			}
			return len(txn.Ops) < maxUpdates
		})
	}
	for _, node := range sortedKeys(batch) {
		if _, known := catalog.GetNode(s, node); !known {
			continue
		}
		path, c := coordinatePath(node), batch[node]
		if e, ok := s.Get(path); ok {
			was := new(coordinate.Coordinate)
			if json.Unmarshal([]byte(e.Value()), was) == nil && compatible(was) && moved(was, c) < stillThere {
				continue
			}
		}
		value, err := json.Marshal(c)
		if err != nil {
			return txn, err
		}
		txn.Ops = append(txn.Ops, kv.Op{Kind: kv.OpSet, Action: kv.ActSet, Flags: kv.Flat | kv.KeepCreated | kv.SkipSame, Path: path, Value: string(value)})
	}
	return txn, nil
}

// moved is how far two coordinates of one node are apart, without the height, which is its own distance to the network.
func moved(a, b *coordinate.Coordinate) time.Duration {
	sum := 0.0
	for i := range a.Vec {
		sum += (a.Vec[i] - b.Vec[i]) * (a.Vec[i] - b.Vec[i])
	}
	d := math.Sqrt(sum) + math.Abs(a.Height-b.Height) + math.Abs(a.Adjustment-b.Adjustment)
	return time.Duration(d * float64(time.Second))
}
