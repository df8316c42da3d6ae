package etcd

import (
	"encoding/json"
	"net/http"
	"strconv"
	"sync/atomic"
	"time"

	"github.com/musterhq/muster/kv"
)

// counter names an operation of /v2/stats/store.
type counter uint8

const (
	cGet counter = iota
	cSet
	cDelete
	cUpdate
	cCreate
	cCompareSwap
	cCompareDelete
	counterCount
)

// counterNames are in the order of the answer.
var counterNames = [counterCount]string{"gets", "sets", "delete", "update", "create", "compareAndSwap", "compareAndDelete"}

// counters count what this server answered without the tree: reads, watches, and writes that never reached it.
type counters struct {
	gets     [2]atomic.Uint64 // failed, succeeded; by recursive below
	deep     [2]atomic.Uint64
	refused  [counterCount]atomic.Uint64
	watches  atomic.Uint64 // begun
	watchers atomic.Int64  // waiting now
}

func (c *counters) read(p *params, ok bool) {
	to, i := &c.gets, 0
	if p.recursive {
		to = &c.deep
	}
	if ok {
		i = 1
	}
	to[i].Add(1)
}

// tally says what an Action of the tree counts as. Locks of the flat dialect are updates of their keys; so were
// refreshes, which older logs do not tell apart.
var tally = map[kv.Action]counter{
	kv.ActSet: cSet, kv.ActCreate: cCreate, kv.ActUpdate: cUpdate, kv.ActCompareAndSwap: cCompareSwap, kv.ActDelete: cDelete,
	kv.ActCompareAndDelete: cCompareDelete, kv.ActRefresh: cUpdate, kv.ActAcquire: cUpdate, kv.ActRelease: cUpdate,
}

// Count is how often an operation succeeded and failed.
type Count struct {
	Name              string // gets, sets, delete, update, create, compareAndSwap, compareAndDelete
	Succeeded, Failed uint64
}

// Counts are the figures of /v2/stats/store: reads and watches that this server was asked for, and changes of user
// keys by whomever, as far as they reached its tree.
type Counts struct {
	Operations []Count // in the order of the answer
	Recursive  Count   // those of gets that were recursive
	Expired    uint64
	Watches    uint64 // begun
	Watchers   int64  // waiting now
}

// Counts returns the figures since the process began.
func (d *Dialect) Counts() Counts {
	return d.counts(d.stats().Applied)
}

func (d *Dialect) counts(applied kv.Counts) Counts {
	c := &d.count
	out := Counts{
		Operations: make([]Count, counterCount),
		Recursive:  Count{"gets", c.deep[1].Load(), c.deep[0].Load()},
		Expired:    applied.Done[kv.ActExpire], Watches: c.watches.Load(), Watchers: max(c.watchers.Load(), 0),
	}
	for i, name := range counterNames {
		out.Operations[i] = Count{Name: name, Failed: c.refused[i].Load()}
	}
	gets := &out.Operations[cGet]
	gets.Succeeded, gets.Failed = c.gets[1].Load()+out.Recursive.Succeeded, c.gets[0].Load()+out.Recursive.Failed
	for action, i := range tally {
		out.Operations[i].Succeeded += applied.Done[action]
		out.Operations[i].Failed += applied.Refused[action]
	}
	return out
}

func (d *Dialect) stats() Stats {
	if d.cfg.Stats == nil {
		return Stats{}
	}
	return d.cfg.Stats()
}

// onlyGet refuses every method but GET, HEAD included.
func onlyGet(w http.ResponseWriter, r *http.Request) bool {
	if r.Method != http.MethodGet {
		methodNotAllowed(w, "GET")
		return false
	}
	return true
}

func (d *Dialect) sendJSON(w http.ResponseWriter, status int, v any) {
	b, err := json.Marshal(v)
	if err != nil { // a figure that JSON cannot hold, such as NaN
		d.log.Error("answer cannot be encoded", "error", err)
		http.Error(w, "Internal Server Error", http.StatusInternalServerError)
		return
	}
	w.Header()["Content-Type"] = d.json
	send(w, status, b)
}

// message is how members and statistics refuse.
type message struct {
	Message string `json:"message"`
}

func (d *Dialect) serveStatsStore(w http.ResponseWriter, r *http.Request) {
	if !onlyGet(w, r) {
		return
	}
	b := []byte{'{'}
	add := func(name string, n uint64) {
		b = append(append(append(b, '"'), name...), '"', ':')
		b = append(strconv.AppendUint(b, n, 10), ',')
	}
	c := d.Counts()
	for _, o := range c.Operations {
		add(o.Name+"Success", o.Succeeded)
		add(o.Name+"Fail", o.Failed)
	}
	add("expireCount", c.Expired)
	add("watchers", uint64(c.Watchers))
	w.Header()["Content-Type"] = d.json
	send(w, http.StatusOK, closeObject(b))
}

func (d *Dialect) serveStatsSelf(w http.ResponseWriter, r *http.Request) {
	if !onlyGet(w, r) {
		return
	}
	type leaderInfo struct {
		Leader string    `json:"leader"`
		Uptime string    `json:"uptime"`
		Start  time.Time `json:"startTime"`
	}
	var out struct {
		Name   string     `json:"name"`
		ID     string     `json:"id"`
		State  string     `json:"state"`
		Start  time.Time  `json:"startTime"`
		Leader leaderInfo `json:"leaderInfo"`

		Received      uint64  `json:"recvAppendRequestCnt"`
		ReceivedRate  float64 `json:"recvPkgRate,omitempty"`
		ReceivedBytes float64 `json:"recvBandwidthRate,omitempty"`
		Sent          uint64  `json:"sendAppendRequestCnt"`
		SentRate      float64 `json:"sendPkgRate,omitempty"`
		SentBytes     float64 `json:"sendBandwidthRate,omitempty"`
	}
	st, s := d.store.Status(), d.stats()
	members := d.cfg.Members()
	out.Name, out.ID, out.Start = d.cfg.Name, hexID(d.self(members)), d.started.UTC()
	out.State = stateName(st.State)
	if l := leaderOf(members); l != nil {
		since := s.LeaderSince
		if since.IsZero() {
			since = d.started
		}
		out.Leader = leaderInfo{Leader: hexID(l.ID), Uptime: d.store.Now().Sub(since).String(), Start: since.UTC()}
	}
	out.Received, out.Sent = s.Received.Appends, s.Sent.Appends
	if st.State == "leader" {
		out.SentRate, out.SentBytes = s.Sent.PerSecond, s.Sent.BytesPerSecond
	} else {
		out.ReceivedRate, out.ReceivedBytes = s.Received.PerSecond, s.Received.BytesPerSecond
	}
	d.sendJSON(w, http.StatusOK, &out)
}

// stateName is what clients of this dialect call the state of a server.
func stateName(state string) string {
	switch state {
	case "leader":
		return "StateLeader"
	case "candidate":
		return "StateCandidate"
	}
	return "StateFollower"
}

// self is the member id of this server, 0 if it is in no list.
func (d *Dialect) self(members []Member) uint64 {
	if d.cfg.ID != nil {
		return d.cfg.ID()
	}
	for i := range members {
		if members[i].Name == d.cfg.Name {
			return members[i].ID
		}
	}
	return 0
}

func (d *Dialect) serveStatsLeader(w http.ResponseWriter, r *http.Request) {
	if !onlyGet(w, r) {
		return
	}
	if st := d.store.Status(); st.State != "leader" {
		d.sendJSON(w, http.StatusForbidden, message{"not current leader"})
		return
	}
	type latency struct {
		Current   float64 `json:"current"`
		Average   float64 `json:"average"`
		Deviation float64 `json:"standardDeviation"`
		Minimum   float64 `json:"minimum"`
		Maximum   float64 `json:"maximum"`
	}
	type follower struct {
		Latency latency `json:"latency"`
		Counts  struct {
			Fail    uint64 `json:"fail"`
			Success uint64 `json:"success"`
		} `json:"counts"`
	}
	var out struct {
		Leader    string              `json:"leader"`
		Followers map[string]follower `json:"followers"`
	}
	out.Leader = hexID(d.self(d.cfg.Members()))
	out.Followers = make(map[string]follower)
	for _, p := range d.stats().Followers {
		f := follower{Latency: latency{p.Current, p.Average, p.Deviation, p.Minimum, p.Maximum}}
		f.Counts.Fail, f.Counts.Success = p.FailedAppends, p.SuccessfulAppends
		out.Followers[hexID(p.ID)] = f
	}
	d.sendJSON(w, http.StatusOK, &out)
}
