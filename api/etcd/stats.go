package etcd

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"strconv"
	"sync/atomic"
	"time"

	"github.com/musterhq/muster/api"
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

// counters count what this server did since it started.
type counters struct {
	success, fail [counterCount]atomic.Uint64
	watchers      atomic.Int64
}

func (c *counters) add(k counter, ok bool) {
	if ok {
		c.success[k].Add(1)
	} else {
		c.fail[k].Add(1)
	}
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
	for i, name := range counterNames {
		add(name+"Success", d.count.success[i].Load())
		add(name+"Fail", d.count.fail[i].Load())
	}
	add("expireCount", d.stats().Expired)
	add("watchers", uint64(max(d.count.watchers.Load(), 0)))
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
		Taken  uint64     `json:"recvAppendRequestCnt"`
		Sent   uint64     `json:"sendAppendRequestCnt"`
	}
	st, s := d.store.Status(), d.stats()
	members := d.cfg.Members()
	out.Name, out.ID, out.Start = d.cfg.Name, hexID(d.self(members)), d.started.UTC()
	out.State = "StateFollower"
	switch st.State {
	case "leader":
		out.State = "StateLeader"
	case "candidate":
		out.State = "StateCandidate"
	}
	if l := leaderOf(members); l != nil {
		since := s.LeaderSince
		if since.IsZero() {
			since = d.started
		}
		out.Leader = leaderInfo{Leader: hexID(l.ID), Uptime: d.store.Now().Sub(since).String(), Start: since.UTC()}
	}
	out.Taken, out.Sent = s.AppendsTaken, s.AppendsSent
	d.sendJSON(w, http.StatusOK, &out)
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

func (d *Dialect) serveVersion(w http.ResponseWriter, r *http.Request) {
	if onlyGet(w, r) {
		w.Header()["Content-Type"] = d.json
		_, _ = fmt.Fprintf(w, `{"etcdserver":%q,"etcdcluster":%q}`, d.cfg.ServerVersion, clusterRelease)
	}
}

// serveHealth says "true" when this server knows a leader; the leader itself also has to prove within a second
// that a quorum follows it.
func (d *Dialect) serveHealth(w http.ResponseWriter, r *http.Request) {
	if !onlyGet(w, r) {
		return
	}
	st := d.store.Status()
	healthy := st.LeaderID != ""
	if healthy && st.State == "leader" {
		ctx, cancel := context.WithTimeout(r.Context(), time.Second)
		defer cancel()
		_, _, err := d.store.Read(ctx, api.Consistent)
		healthy = err == nil
	}
	w.Header()["Content-Type"] = d.text
	if healthy {
		send(w, http.StatusOK, []byte(`{"health":"true"}`))
		return
	}
	send(w, http.StatusServiceUnavailable, []byte(`{"health":"false"}`+"\n"))
}
