package agent

import (
	"context"
	"errors"
	"io"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/musterhq/muster/api"
	"github.com/musterhq/muster/membership"
	"github.com/musterhq/muster/proxy"
)

// unreachableFor is how long a proxy that has found no server lists none to clients of the hierarchical dialect.
const unreachableFor = 5 * time.Second

// relayFailed answers a request that could not be relayed, in the words of its dialect.
func (a *Agent) relayFailed(w http.ResponseWriter, r *http.Request, status int, err error) {
	if strings.HasPrefix(r.URL.Path, "/v2/") && a.etcd != nil {
		var unknown *proxy.UnknownOutcomeError
		switch {
		case a.raft == nil && errors.Is(err, proxy.ErrNoServer):
			tried := a.clientURLs()
			a.unreachable.Store(time.Now().UnixNano())
			a.etcd.FailUnreachable(w, tried)
			return
		case errors.Is(err, proxy.ErrNoLeader) && a.etcd.FailRelay(w, r, context.DeadlineExceeded):
			return // it waited for one as long as it may
		case errors.As(err, &unknown) && a.etcd.FailRelay(w, r, api.ErrUnknownOutcome):
			return
		}
	}
	text := err.Error()
	w.Header()["Content-Type"] = []string{"text/plain; charset=utf-8"}
	w.Header()["Content-Length"] = []string{strconv.Itoa(len(text))}
	w.WriteHeader(status)
	_, _ = io.WriteString(w, text)
}

// clientURLs are the URLs of the live servers' interfaces for clients of the hierarchical dialect; none for a moment
// after no server could be reached.
func (a *Agent) clientURLs() (urls []string) {
	if time.Since(time.Unix(0, a.unreachable.Load())) < unreachableFor {
		return nil
	}
	for _, m := range a.pool.Members() {
		if u := m.Tags[tagEtcd]; u != "" && isServer(m) && m.Status == membership.StatusAlive {
			urls = append(urls, strings.Split(u, ",")...)
		}
	}
	return urls
}
