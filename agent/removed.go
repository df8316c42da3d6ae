package agent

import (
	"encoding/json"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/musterhq/muster/api"
	"github.com/musterhq/muster/consensus"
	"github.com/musterhq/muster/membership"
)

const (
	// removalPoll is how often a server looks whether it was removed for good; without a leader it also asks others.
	removalPoll = time.Second
	// removalGrace is how long a removed server waits for the consensus to let it go before it ends all the same.
	removalGrace = 5 * time.Second
	// removalPathPrefix answers whether the server of a UUID was removed, {"removed":true}.
	removalPathPrefix = "/v1/internal/removed/"
)

// watchRemoval ends this server when the cluster has removed it for good. It learns of that from its own tree, or,
// when it was away, from the others: the leader no longer sends it anything.
func (a *Agent) watchRemoval() {
	var known time.Time
	for rest(a.ctx, removalPoll) {
		switch removed := a.removedHere(a.id) || a.othersSayRemoved(); {
		case !removed:
			known = time.Time{}
		case known.IsZero():
			known = time.Now()
		}
		if !known.IsZero() && (!a.inConsensus() || time.Since(known) > removalGrace) {
			go a.retire()
			return
		}
	}
}

// removedHere says what this server's tree knows.
func (a *Agent) removedHere(id string) bool {
	return readMembers(a.tree.Snap()).removedServer(id, a.raft.ClusterID())
}

// inConsensus says whether this server is part of the newest configuration it has.
func (a *Agent) inConsensus() bool {
	servers, err := a.raft.Servers()
	return err == nil && slices.ContainsFunc(servers, func(s consensus.Server) bool { return s.ID == a.id })
}

// othersSayRemoved asks the live servers, while no leader sends this one anything.
func (a *Agent) othersSayRemoved() bool {
	if id, _ := a.raft.Leader(); id != "" {
		return false
	}
	for _, m := range a.pool.Members() {
		if !isServer(m) || m.ID() == a.id || m.Status != membership.StatusAlive {
			continue
		}
		var answer removalAnswer
		if a.askServer(a.ctx, m.ServerAddr(), removalPathPrefix+url.PathEscape(a.id), &answer) == nil && answer.Removed {
			return true
		}
	}
	return false
}

// retire ends a server that was removed for good, in peace: it leaves the gossip, so that nobody waits for it.
func (a *Agent) retire() {
	a.log.Error("this server was removed from the cluster for good and stops; to make the machine a server again, start it with an empty data directory", "id", a.id)
	if err := a.Leave(true); err != nil {
		a.log.Warn("leaving did not go smoothly", "error", err)
	}
	a.Stop()
}

type removalAnswer struct {
	Removed bool `json:"removed"`
}

// removalRoute lets a server ask whether it was removed. Any server may answer: a removal is never taken back.
func (a *Agent) removalRoute() api.Route {
	return api.Route{
		Pattern: removalPathPrefix, Methods: []string{http.MethodGet}, Where: api.Cluster,
		Target: func(*http.Request) api.Target { return api.Any },
		Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			b, err := json.Marshal(removalAnswer{a.removedHere(strings.TrimPrefix(r.URL.Path, removalPathPrefix))})
			if err != nil {
				http.Error(w, err.Error(), http.StatusInternalServerError)
				return
			}
			w.Header()["Content-Type"] = []string{"application/json"}
			_, _ = w.Write(b)
		}),
	}
}
