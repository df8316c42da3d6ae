package agent

import (
	"context"
	"net/http"
	"path/filepath"
	"strings"

	"github.com/musterhq/muster/api"
	"github.com/musterhq/muster/proxy"
)

// KnownFile is the name, in the data directory, of the file of last known answers.
const KnownFile = "last-known.db"

// openViews opens, on a proxy, what its clients share and what outlives the servers.
func (a *Agent) openViews() error {
	if a.raft != nil {
		return nil
	}
	c := a.cfg.LastKnownGood
	var known *proxy.Known
	if c.Enabled {
		file := ""
		if a.cfg.DataDir != "" {
			file = filepath.Join(a.cfg.DataDir, KnownFile)
		}
		known = proxy.OpenKnown(proxy.KnownConfig{
			File: file, MaxEntries: c.MaxEntries, MaxBytes: int64(c.MaxBytes), MaxAge: c.MaxAge, Logger: a.log.Named("last-known"),
		})
		a.onStop("last known answers", func(context.Context) error { return known.Close() })
	}
	views := a.cfg.SharedViews.MaxViews
	if views == 0 {
		views = -1
	}
	var err error
	a.views, err = proxy.NewViews(proxy.ViewsConfig{
		Proxy: a.relay, Known: known, MaxViews: views, MaxBytes: int64(a.cfg.SharedViews.MaxBytes), Linger: a.cfg.SharedViews.Linger,
		Logger: a.log.Named("views"),
	})
	if err != nil {
		return err
	}
	a.onStop("shared views", func(context.Context) error { a.views.Close(); return nil })
	return nil
}

// question says how a read of a client is shared and kept; false when it is neither.
func (a *Agent) question(row *api.Route, r *http.Request) (proxy.Question, bool) {
	if row.Share == nil {
		return proxy.Question{}, false
	}
	s, ok := row.Share(r)
	if !ok {
		return proxy.Question{}, false
	}
	return a.asQuestion(s), true
}

// asQuestion is what a dialect says of a read, in the words of the relay.
func (a *Agent) asQuestion(s api.Shared) proxy.Question {
	keys := s.Key != "" && a.keepsKey(s.Key)
	var watch *proxy.Watch
	if s.Watch != nil {
		watch = &proxy.Watch{From: s.Watch.From, Stream: s.Watch.Stream, Event: s.Watch.Event, Now: a.seen.index.Load()}
	}
	return proxy.Question{
		Watch: watch,
		Name:  s.Name, Loose: s.Loose, Index: s.Index, Wait: s.Wait, IndexHeader: s.IndexHeader, Wide: s.Wide, Ask: s.Ask,
		Keep: s.Keep || keys, Absent: keys,
	}
}

// keepsKey says whether reads of a key are kept. Of a key that is kept its absence is kept as well: else one that was
// removed would come back when the servers are gone.
func (a *Agent) keepsKey(key string) bool {
	key = strings.TrimPrefix(key, "/")
	for _, p := range a.cfg.LastKnownGood.KVPrefixes {
		if strings.HasPrefix(key, strings.TrimPrefix(p, "/")) {
			return true
		}
	}
	return false
}
