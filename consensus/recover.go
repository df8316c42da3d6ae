package consensus

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strconv"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/raft"

	"github.com/musterhq/muster/kv"
)

// Survey is what a directory of a stopped server says about itself. Of several survivors the one with the highest
// LastTerm, then the highest LastIndex, has the most: the same rule by which servers elect a leader.
type Survey struct {
	Dir           string
	NodeID        string
	ClusterID     string
	Term          uint64 // newest term this server has heard of
	LastTerm      uint64 // of the last entry of the log or the snapshot
	LastIndex     uint64 // raft index of that entry
	Committed     uint64 // raft index known to have been committed; 0 = unknown
	SnapshotIndex uint64 // raft index of the newest snapshot; 0 = none
	Alive         time.Time
	Servers       []Server // the newest configuration; empty in a backup
	Recovered     string   // id of the cluster that Recover has made of this directory; "" = never
}

// Better says whether s has more than o.
func (s Survey) Better(o Survey) bool {
	if s.LastTerm != o.LastTerm {
		return s.LastTerm > o.LastTerm
	}
	return s.LastIndex > o.LastIndex
}

// Voters are the voting servers of the newest configuration.
func (s Survey) Voters() []Server {
	return slices.DeleteFunc(slices.Clone(s.Servers), func(x Server) bool { return !x.Voter })
}

// Inspect reads the directory of a stopped server and checks that it is whole. It changes nothing. Errors:
// ErrDataDir (damaged, without data, or in use).
func Inspect(dir string, log hclog.Logger) (Survey, error) {
	id, err := readIdentity(dir)
	if err != nil {
		return Survey{}, err
	}
	d, err := openDir(dir, id.NodeID)
	if err != nil {
		return Survey{}, err
	}
	defer d.close()
	s, err := openStores(dir, log)
	if err != nil {
		return Survey{}, err
	}
	defer s.close()
	return s.survey(d)
}

func (s *stores) survey(d *dataDir) (Survey, error) {
	v := Survey{Dir: d.dir, NodeID: d.id.NodeID, ClusterID: d.id.ClusterID, Committed: d.lastCommitted(), Recovered: d.id.Recovered}
	if t := d.lastStamp(); t != 0 {
		v.Alive = time.Unix(0, t)
	}
	if err := s.checkStart(d.dir, v.Committed); err != nil {
		return v, err
	}
	var err error
	if v.Term, err = s.stable.GetUint64(currentTermKey); err != nil {
		return v, fmt.Errorf("consensus: term in %s: %w", d.dir, err)
	}
	snaps, err := s.snaps.List()
	if err != nil {
		return v, fmt.Errorf("consensus: snapshots in %s: %w", d.dir, err)
	}
	var conf raft.Configuration
	if len(snaps) > 0 {
		conf = snaps[0].Configuration
		v.SnapshotIndex, v.LastIndex, v.LastTerm = snaps[0].Index, snaps[0].Index, snaps[0].Term
	}
	first, err := s.logs.FirstIndex()
	if err != nil {
		return v, fmt.Errorf("consensus: log in %s: %w", d.dir, err)
	}
	last, err := s.logs.LastIndex()
	if err != nil {
		return v, fmt.Errorf("consensus: log in %s: %w", d.dir, err)
	}
	for i := max(first, v.SnapshotIndex+1); first > 0 && i <= last; i++ {
		var l raft.Log
		if err := s.logs.GetLog(i, &l); err != nil {
			return v, fmt.Errorf("%w: log in %s is damaged at entry %d: %w", ErrDataDir, d.dir, i, err)
		}
		if l.Type == raft.LogConfiguration {
			conf = raft.DecodeConfiguration(l.Data)
		}
		v.LastIndex, v.LastTerm = l.Index, l.Term
	}
	if v.LastIndex == 0 {
		return v, fmt.Errorf("%w: %s holds no data yet: this server was never part of a cluster", ErrDataDir, d.dir)
	}
	for _, m := range conf.Servers {
		v.Servers = append(v.Servers, Server{ID: string(m.ID), Addr: string(m.Address), Voter: m.Suffrage == raft.Voter})
	}
	return v, nil
}

// RecoverConfig says what Recover shall make of a directory.
type RecoverConfig struct {
	Dir  string // of a stopped server, or one that WriteBackup made
	ID   string // of this server: the directory's own
	Addr string // "host:port" where other servers will reach it
	Tree *kv.Tree
	// Amend gives further changes of the state, for what knows of members above this package; it may be nil.
	Amend  func(*kv.Snap) ([]kv.Op, error)
	Logger hclog.Logger
}

// Recover makes a cluster of one server out of a directory: its data with all keys, indexes, deadlines and history,
// this server as its only member, and a new cluster id, so that servers of the former cluster that come back are kept
// apart. Everything in the log is taken for committed: what only other servers had is lost, and what was never
// acknowledged may appear. After a crash in between, the directory is as before or done.
//
// Errors: ErrDataDir (no data, damaged, in use, another node's).
func Recover(c RecoverConfig) (State, error) {
	if c.Logger == nil {
		c.Logger = hclog.NewNullLogger()
	}
	if _, err := readIdentity(c.Dir); err != nil {
		return State{}, err
	}
	d, err := openDir(c.Dir, c.ID)
	if err != nil {
		return State{}, err
	}
	defer d.close()
	st, _, err := load(d, c.Tree, allEntries, c.Logger)
	if err != nil {
		return st, err
	}
	cluster := newClusterID()
	if err := amend(c.Tree, cluster, c.Amend); err != nil {
		return st, err
	}
	// While the directory names no cluster, either snapshot fits it.
	d.id.ClusterID, d.id.Recovered = "", ""
	if err := d.save(); err != nil {
		return st, err
	}
	if err := replaceLog(d.dir, c, st); err != nil {
		return st, err
	}
	d.id.ClusterID, d.id.Recovered = cluster, cluster
	st.ClusterID = cluster
	return st, d.save()
}

// replaceLog puts the state into a snapshot with this server as the only member and clears the log.
func replaceLog(dir string, c RecoverConfig, st State) error {
	s, err := openStores(dir, c.Logger)
	if err != nil {
		return err
	}
	defer s.close()
	self := raft.Configuration{Servers: []raft.Server{{ID: raft.ServerID(c.ID), Address: raft.ServerAddress(c.Addr), Suffrage: raft.Voter}}}
	if err := s.writeSnapshot(c.Tree.Snap(), st, self); err != nil {
		return err
	}
	first, err := s.logs.FirstIndex()
	if err != nil || first == 0 {
		return err
	}
	last, err := s.logs.LastIndex()
	if err != nil {
		return err
	}
	if err := s.logs.DeleteRange(first, last); err != nil {
		return fmt.Errorf("consensus: clear the log in %s: %w", dir, err)
	}
	return nil
}

// newClusterID makes an id of 16 digits.
func newClusterID() string { return strconv.FormatUint(rand.Uint64()|1<<63, 16) }

// amend gives the state its new cluster id ("" takes it away) and the caller's changes.
func amend(tree *kv.Tree, cluster string, more func(*kv.Snap) ([]kv.Op, error)) error {
	op := kv.Op{Kind: kv.OpDelete, Action: kv.ActDelete, Path: clusterPath}
	if cluster != "" {
		op = kv.Op{Kind: kv.OpSet, Action: kv.ActSet, Path: clusterPath, Value: cluster}
	}
	ops := []kv.Op{op}
	if more != nil {
		extra, err := more(tree.Snap())
		if err != nil {
			return err
		}
		ops = append(ops, extra...)
	}
	res := tree.Apply(kv.Txn{Now: tree.LastNow(), Ops: ops})
	if res[0].Code != kv.OK {
		return fmt.Errorf("consensus: changing the state was refused with code %d", res[0].Code)
	}
	return nil
}

// Strip takes the id of its cluster out of a state that is to become a backup, and makes the changes of more.
func Strip(tree *kv.Tree, more func(*kv.Snap) ([]kv.Op, error)) error { return amend(tree, "", more) }
