package agent

import (
	"context"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"time"

	"github.com/musterhq/muster/membership"
)

// restartPath, on the port between agents only, is where an agent tells each server that it stops and will be back, and
// that it is back: restartPath + word + "?node=…".
const restartPath = "/v1/internal/restart/"

// The words.
const (
	restartingWord = "away"
	backWord       = "back"
)

// tellTimeout bounds how long a stop waits for servers to hear of it.
const tellTimeout = 500 * time.Millisecond

// tellRestart tells every live server one of the words. All must know, because any may lead next: a server that stops
// hands leadership over. It does nothing once the agent has left, and nothing is lost but the grace if it fails.
func (a *Agent) tellRestart(ctx context.Context, word string) {
	if a.left.Load() || a.pool == nil || a.dialer == nil || a.cfg.RestartGrace == 0 {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, tellTimeout)
	defer cancel()
	var told sync.WaitGroup
	for _, m := range a.pool.Members() {
		if !isServer(m) || m.ServerAddr() == "" || m.Status != membership.StatusAlive || m.ID() == a.id {
			continue
		}
		told.Go(func() {
			u := a.scheme() + "://" + m.ServerAddr() + restartPath + word + "?node=" + url.QueryEscape(a.cfg.NodeName)
			req, err := http.NewRequestWithContext(ctx, http.MethodPut, u, nil)
			if err != nil {
				return
			}
			resp, err := a.dialer.Transport().RoundTrip(req)
			if err != nil {
				a.log.Debug("a server could not be told of a restart", "server", m.Name, "error", err)
				return
			}
			resp.Body.Close()
		})
	}
	told.Wait()
}

// tellBack ends the grace of a restart, so that a death soon after it is seen as one.
func (a *Agent) tellBack() {
	for len(a.servers()) == 0 {
		if !rest(a.ctx, clusterPoll) {
			return
		}
	}
	a.tellRestart(a.ctx, backWord)
}

// hearRestart is the other side. It is no route: only agents reach this port.
func (a *Agent) hearRestart(w http.ResponseWriter, r *http.Request) {
	node := r.URL.Query().Get("node")
	word := strings.TrimPrefix(r.URL.Path, restartPath)
	switch {
	case r.Method != http.MethodPut || node == "" || len(node) > 128 || a.nodes == nil:
		w.WriteHeader(http.StatusBadRequest)
	case word == restartingWord && a.cfg.RestartGrace > 0:
		a.nodes.announce(node, time.Now(), a.cfg.RestartGrace)
	case word == backWord:
		a.nodes.back(node)
	default:
		w.WriteHeader(http.StatusBadRequest)
	}
}
