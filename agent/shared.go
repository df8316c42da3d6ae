package agent

import (
	"context"
	"net/http"
	"path/filepath"
	"strconv"
	"strings"
	"time"

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
	var judge proxy.Judge
	if a.cfg.Guard.Enabled {
		judge = a.judgeView
	}
	a.views, err = proxy.NewViews(proxy.ViewsConfig{
		Judge: judge,
		Proxy: a.relay, Known: known, MaxViews: views, MaxBytes: int64(a.cfg.SharedViews.MaxBytes), Linger: a.cfg.SharedViews.Linger,
		Logger: a.log.Named("views"),
	})
	if err != nil {
		return err
	}
	a.onStop("shared views", func(context.Context) error { a.views.Close(); return nil })
	go a.reportViews()
	return nil
}

// viewsEvery is how often the figures of the views become metrics.
const viewsEvery = 5 * time.Second

// reportViews counts in steps, because the metrics library costs more than most of what is counted.
func (a *Agent) reportViews() {
	var old proxy.ViewsStats
	outage := false
	for {
		s := a.views.Stats()
		for name, n := range map[string]float32{
			"views": float32(s.Views), "view_bytes": float32(s.ViewBytes), "waiters": float32(s.Waiters),
			"last_known.entries": float32(s.Entries), "last_known.bytes": float32(s.EntryBytes),
		} {
			a.metrics.SetGauge(metricKey(name), n)
		}
		for name, n := range map[string]int64{
			"shared": s.Hits - old.Hits, "upstream": s.Upstream - old.Upstream, "unshared": s.Relayed - old.Relayed, "last_known.served": s.Served - old.Served,
		} {
			if n > 0 {
				a.metrics.IncrCounter(metricKey(name), float32(n))
			}
		}
		old = s
		switch since := a.views.Outage(); {
		case !since.IsZero() && !outage:
			outage = true
			a.log.Error("no server answers: what was known last is given, writes are refused", "since", since.UTC().Format(time.RFC3339), "answers", s.Entries)
		case since.IsZero() && outage:
			outage = false
			a.log.Info("servers answer again")
		}
		if !rest(a.ctx, viewsEvery) {
			return
		}
	}
}

func metricKey(name string) []string {
	return append([]string{"proxy"}, strings.Split(name, ".")...)
}

// viewsInfo is what agent/self tells of the views.
func (a *Agent) viewsInfo() map[string]string {
	s := a.views.Stats()
	out := map[string]string{
		"views": strconv.Itoa(s.Views), "waiters": strconv.Itoa(s.Waiters), "shared": strconv.FormatInt(s.Hits, 10),
		"upstream": strconv.FormatInt(s.Upstream, 10), "unshared": strconv.FormatInt(s.Relayed, 10),
		"last_known_entries": strconv.Itoa(s.Entries), "last_known_bytes": strconv.FormatInt(s.EntryBytes, 10), "last_known_served": strconv.FormatInt(s.Served, 10),
		"no_server_since": "",
	}
	if since := a.views.Outage(); !since.IsZero() {
		out["no_server_since"] = since.UTC().Format(time.RFC3339)
	}
	return out
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
