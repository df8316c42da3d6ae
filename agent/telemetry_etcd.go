package agent

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/musterhq/muster/api/etcd"
)

// etcdStats is what the statistics of the hierarchical dialect tell of this server's consensus and tree.
func (a *Agent) etcdStats() etcd.Stats {
	if a.raft == nil {
		return etcd.Stats{}
	}
	f := a.raft.Figures()
	s := etcd.Stats{LeaderSince: f.LeaderSince, Sent: etcd.Traffic(f.Sent), Received: etcd.Traffic(f.Received), Applied: a.tree.Counts()}
	members := readMembers(a.tree.Snap())
	for _, p := range f.Followers {
		s.Followers = append(s.Followers, etcd.Peer{
			ID: members.idOf(p.ID, p.Addr), Current: millis(p.Current), Average: millis(p.Average), Deviation: millis(p.Deviation),
			Minimum: millis(p.Least), Maximum: millis(p.Longest), SuccessfulAppends: p.Succeeded, FailedAppends: p.Failed,
		})
	}
	return s
}

func millis(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }

// etcdCollector shows the figures of a server under the names that dashboards and alerts for etcd ask for. Each scrape
// reads them where they are kept; nothing is counted twice for it.
type etcdCollector struct{ *Agent }

// Figures under the names of etcd. What is a number that only grows is a counter, the rest gauges.
var (
	etcdHasLeader = desc("etcd_server_has_leader", "Whether a leader is known: 1 yes, 0 no.")
	etcdIsLeader  = desc("etcd_server_is_leader", "Whether this server leads: 1 yes, 0 no.")
	etcdChanges   = desc("etcd_server_leader_changes_seen_total", "Leaders this server has seen come.")
	etcdCommitted = desc("etcd_server_proposals_committed_total", "Index of the last entry of the log that is committed.")
	etcdApplied   = desc("etcd_server_proposals_applied_total", "Index of the last entry of the log that is applied.")
	etcdPending   = desc("etcd_server_proposals_pending", "Proposals under way.")
	etcdFailed    = desc("etcd_server_proposals_failed_total", "Proposals whose outcome is unknown.")
	etcdReads     = desc("etcd_debugging_store_reads_total", "Reads of keys asked for here that succeeded.", "action")
	etcdReadsFail = desc("etcd_debugging_store_reads_failed_total", "Reads of keys asked for here that failed.", "action")
	etcdWrites    = desc("etcd_debugging_store_writes_total", "Changes of keys applied here.", "action")
	etcdWriteFail = desc("etcd_debugging_store_writes_failed_total", "Changes of keys that were refused.", "action")
	etcdExpires   = desc("etcd_debugging_store_expires_total", "Keys whose time to live ran out.")
	etcdWatches   = desc("etcd_debugging_store_watch_requests_total", "Watches asked for here.")
	etcdWatchers  = desc("etcd_debugging_store_watchers", "Watches waiting here.")
)

func desc(name, help string, labels ...string) *prometheus.Desc {
	return prometheus.NewDesc(name, help, labels, nil)
}

// Describe implements prometheus.Collector.
func (c *etcdCollector) Describe(out chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{
		etcdHasLeader, etcdIsLeader, etcdChanges, etcdCommitted, etcdApplied, etcdPending, etcdFailed,
		etcdReads, etcdReadsFail, etcdWrites, etcdWriteFail, etcdExpires, etcdWatches, etcdWatchers,
	} {
		out <- d
	}
}

// Collect implements prometheus.Collector.
func (c *etcdCollector) Collect(out chan<- prometheus.Metric) {
	gauge := func(d *prometheus.Desc, v float64) { out <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, v) }
	count := func(d *prometheus.Desc, v uint64, labels ...string) {
		out <- prometheus.MustNewConstMetric(d, prometheus.CounterValue, float64(v), labels...)
	}
	st, f := c.raft.Status(), c.raft.Figures()
	gauge(etcdHasLeader, oneIf(st.LeaderID != ""))
	gauge(etcdIsLeader, oneIf(c.raft.IsLeader()))
	count(etcdChanges, f.LeaderChanges)
	count(etcdCommitted, st.CommitIndex)
	count(etcdApplied, st.AppliedIndex)
	gauge(etcdPending, float64(f.Pending))
	count(etcdFailed, f.Failed)

	n := c.etcd.Counts()
	for i, o := range n.Operations {
		if i > 0 {
			count(etcdWrites, o.Succeeded, etcdActions[i])
			count(etcdWriteFail, o.Failed, etcdActions[i])
			continue
		}
		count(etcdReads, o.Succeeded-n.Recursive.Succeeded, "get")
		count(etcdReads, n.Recursive.Succeeded, "getRecursive")
		count(etcdReadsFail, o.Failed-n.Recursive.Failed, "get")
		count(etcdReadsFail, n.Recursive.Failed, "getRecursive")
	}
	count(etcdExpires, n.Expired)
	count(etcdWatches, n.Watches)
	gauge(etcdWatchers, float64(n.Watchers))
}

// etcdActions are the labels of the operations, in the order of etcd.Counts.
var etcdActions = [...]string{"get", "set", "delete", "update", "create", "compareAndSwap", "compareAndDelete"}

func oneIf(b bool) float64 {
	if b {
		return 1
	}
	return 0
}
