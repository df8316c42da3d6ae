package agent

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"strings"
	"time"

	"github.com/hashicorp/go-hclog"

	"github.com/musterhq/muster/catalog"
	"github.com/musterhq/muster/consensus"
	"github.com/musterhq/muster/kv"
)

// forceNewCluster makes a cluster of this one server out of the data it has, or out of a backup, before the consensus
// starts on it. It does so once: a flag that stays in a unit file must not break the cluster at each start.
func (a *Agent) forceNewCluster(ctx context.Context) error {
	dir := raftDir(a.cfg.DataDir)
	v, err := consensus.Inspect(dir, a.log.Named("consensus"))
	if err != nil {
		return fmt.Errorf("-force-new-cluster: %w", err)
	}
	switch {
	case v.Recovered != "" && v.Recovered == v.ClusterID:
		a.log.Warn("-force-new-cluster is ignored: this data directory was made a cluster of its own already; remove the flag (should it be needed once more, use 'muster recover')", "cluster", v.ClusterID)
		return nil
	case len(v.Servers) == 1 && v.Servers[0].ID == a.id && v.Servers[0].Addr == a.cfg.Advertised():
		a.log.Warn("-force-new-cluster is ignored: this server is the only member of its cluster already; remove the flag", "cluster", v.ClusterID)
		return nil
	}
	if alive := answering(ctx, a.opts.Dial, others(v, a.id)); len(alive) > 0 {
		return fmt.Errorf("-force-new-cluster is refused: other servers of this cluster are running, at %s; stop them first, or leave the flag out and let them elect a leader", strings.Join(alive, ", "))
	}
	st, err := recoverState(dir, a.id, a.cfg.NodeName, a.cfg.Advertised(), newTree(&a.cfg), a.log.Named("consensus"))
	if err != nil {
		return fmt.Errorf("-force-new-cluster: %w", err)
	}
	a.log.Warn("this server is a new cluster of its own now; restart it without -force-new-cluster and let other servers join with empty data directories",
		"cluster", st.ClusterID, "index", st.Index, "members before", len(v.Servers))
	return nil
}

// others are the addresses of the servers of a configuration besides one.
func others(v consensus.Survey, id string) []string {
	var out []string
	for _, s := range v.Servers {
		if s.ID != id {
			out = append(out, s.Addr)
		}
	}
	return out
}

// answering are those of the addresses where something accepts connections.
func answering(ctx context.Context, dial func(context.Context, string, string) (net.Conn, error), addrs []string) []string {
	if dial == nil {
		dial = (&net.Dialer{}).DialContext
	}
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	found := make(chan string, len(addrs))
	for _, addr := range addrs {
		go func() {
			conn, err := dial(ctx, "tcp", addr)
			if err != nil {
				addr = ""
			} else {
				_ = conn.Close()
			}
			found <- addr
		}()
	}
	var out []string
	for range addrs {
		if addr := <-found; addr != "" {
			out = append(out, addr)
		}
	}
	slices.Sort(out)
	return out
}

// recoverState is consensus.Recover with what the catalog and the records of members need.
func recoverState(dir, id, node, addr string, tree *kv.Tree, log hclog.Logger) (consensus.State, error) {
	defer tree.Close()
	return consensus.Recover(consensus.RecoverConfig{
		Dir: dir, ID: id, Addr: addr, Tree: tree, Logger: log,
		Amend: func(s *kv.Snap) ([]kv.Op, error) {
			ops, err := forgetMembers(s)
			if err != nil {
				return nil, err
			}
			// The former servers are gone until they join anew, and so is the former owner of our name: while it
			// counted as alive we could not have it.
			for _, n := range catalog.Nodes(s) {
				_, server := catalog.GetService(s, n.Name, serverService)
				if !strings.EqualFold(n.ID, id) && (server || strings.EqualFold(n.Name, node)) {
					ops = append(ops, catalog.SetLiveness(s, n.Name, false).Ops...)
				}
			}
			return ops, nil
		},
	})
}

// Survivor is what the data directory of a stopped server says about itself.
type Survivor struct {
	DataDir string
	consensus.Survey
}

// ReadSurvivor reads the data directory of a stopped server. It changes nothing. Errors wrap consensus.ErrDataDir.
func ReadSurvivor(dataDir string, log io.Writer) (Survivor, error) {
	v, err := consensus.Inspect(raftDir(dataDir), newLogger(&Config{LogLevel: "warn"}, log))
	if errors.Is(err, consensus.ErrInUse) {
		return Survivor{}, fmt.Errorf("%s belongs to a running agent, stop it first: %w", dataDir, err)
	}
	return Survivor{dataDir, v}, err
}

// BestSurvivor gives the position of the survivor that has the most, and why recovering from it would be wrong, nil
// when nothing speaks against it. Errors: the survivors are of different clusters or one is a backup.
func BestSurvivor(all []Survivor) (best int, objection, err error) {
	for i, s := range all {
		for _, o := range all[:i] {
			if s.ClusterID != o.ClusterID && s.ClusterID != "" && o.ClusterID != "" {
				return 0, nil, fmt.Errorf("%s belongs to cluster %s, %s to cluster %s: compare servers of one cluster only", o.DataDir, o.ClusterID, s.DataDir, s.ClusterID)
			}
			if s.NodeID == o.NodeID {
				return 0, nil, fmt.Errorf("%s and %s are of the same server %s", o.DataDir, s.DataDir, s.NodeID)
			}
		}
		if len(s.Servers) == 0 {
			return 0, nil, fmt.Errorf("%s is a backup: start an agent on it with -force-new-cluster", s.DataDir)
		}
		if s.Better(all[best].Survey) {
			best = i
		}
	}
	voters := all[best].Voters()
	have := 0
	for _, s := range all {
		if slices.ContainsFunc(voters, func(v consensus.Server) bool { return v.ID == s.NodeID }) {
			have++
		}
	}
	switch need := len(voters)/2 + 1; {
	case len(voters) == 1 && have == 1:
		objection = errors.New("it is the only voting server of its cluster: start it, it needs no one else")
	case have >= need:
		objection = fmt.Errorf("%d of %d voting servers are here, which is a quorum: start them, and they elect a leader by themselves without losing anything", have, len(voters))
	case !slices.ContainsFunc(voters, func(v consensus.Server) bool { return v.ID == all[best].NodeID }):
		objection = errors.New("it had no vote, so the voting servers may have acknowledged what it never received")
	}
	return best, objection, nil
}

// RecoverSurvivor makes a cluster of its own of a survivor that no longer has a quorum. addr is the host:port of its
// server port, "" for the one it had. With force servers of the former cluster that answer are no objection.
func RecoverSurvivor(ctx context.Context, s Survivor, addr string, force bool, log io.Writer) (clusterID string, err error) {
	for _, m := range s.Servers {
		if m.ID == s.NodeID && addr == "" {
			addr = m.Addr
		}
	}
	if _, _, err := net.SplitHostPort(addr); err != nil {
		return "", fmt.Errorf("address of the server port %q: want host:port: %w", addr, err)
	}
	if alive := answering(ctx, nil, others(s.Survey, s.NodeID)); len(alive) > 0 && !force {
		return "", fmt.Errorf("other servers of this cluster are running, at %s: stop them first", strings.Join(alive, ", "))
	}
	st, err := recoverState(raftDir(s.DataDir), s.NodeID, "", addr, newTree(&Config{}), newLogger(&Config{LogLevel: "warn"}, log))
	return st.ClusterID, err
}

// AwaitLeader returns when this agent knows a leader, or with an error when ctx or the agent ends first.
func (a *Agent) AwaitLeader(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer context.AfterFunc(a.ctx, cancel)()
	defer cancel()
	for {
		if addr, err := a.leaderAddr(ctx); err == nil && addr != "" {
			return nil
		}
		if !rest(ctx, leaderPause) {
			return context.Cause(ctx)
		}
	}
}
